"""Variants: the F-equations with every change that `Variant` knows, in JAX, run in one of two ways.

`truth` differentiates them as they are. `noisy` runs the same equations with rounding noise on whatever is stored, in the
forward pass and in the backward pass that autodiff makes of it, so that the condition of a variant's gradients is measured as
the textbook's is. Both are compiled once for a bucket of padded sizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..reference.symbols import Sizes
from ..reference.variant import Place, Variant
from . import autodiff, programs
from .autodiff import MASKED_LOGIT, Truth, bucket, sizes_of

THERE = ("alive", "rows", "features", "units", "classes")  # 1 where T, B, D, H, K are there, 0 where they are padding
FEW_ROWS = 8  # what is asked for without need has no more: programs for more take seconds to compile
FEW_STEPS = 4  # steps of which parameters' gradients are summed at once
HARD = {"hard_sigmoid": 1 / 6, "hard_sigmoid_0.2": 1 / 5}  # slope
SLOPES_OF_STORED = {"sigmoid": lambda s: s * (1 - s), "tanh": lambda s: 1 - s**2}  # the derivative from the value, as kernels have it


def truth(variant: Variant, inputs: dict, cotangents: dict) -> Truth:
    """J's forward values and all its gradients for one case of a variant, in float64: see `autodiff.truth`, which answers
    for the textbook. Intermediates are the textbook's alone."""
    return begun(variant, inputs, cotangents)()


def begun(variant: Variant, inputs: dict, cotangents: dict) -> Callable[[], Truth]:
    """`truth` under way: see `autodiff.begun`."""
    if variant.textbook:
        return autodiff.begun(inputs, cotangents)
    n = sizes_of(inputs)
    p = bucket(n)
    under_way = _compiled(variant, "W_v" in inputs, p)(_padded(variant, inputs, cotangents, n, p))
    outside, inside = variant.axes(p), variant.axes(n)
    return lambda: Truth(*({k: _cut(np.asarray(v), inside[k], outside[k]) for k, v in q.items()} for q in under_way))


def prepare(variant: Variant, model: bool, lanes: int, sizes: set[Sizes]) -> None:
    """Compile what serves cases of these sizes, so that none of them waits for it."""
    for p in sorted(set(map(bucket, sizes))):
        if variant.textbook:
            autodiff.compiled(p)
        else:
            _compiled(variant, model, p), _compiled_noise(variant, model, p, lanes)


class Lane(NamedTuple):
    """One noisy run: the seed of its noise, whether that differs from step to step and row to row (`free`) and from unit to
    unit (`units`), and its sign, 0 for a clean run. As arrays: one entry for each lane."""

    seed: np.ndarray
    free: np.ndarray
    units: np.ndarray
    sign: np.ndarray


class Noise(NamedTuple):
    """The size of the noise on a stored q: eta · max(1, n/kappa) · max(A, m), with A the sum of the magnitudes of the n terms
    of q, and m_gate for m in a gate; with `absolute` of 1, A of a gate is 1, with 2 that of tanh too. `forget_bias`
    is a constant that the candidate adds to a_f."""

    eta: float
    m: float
    m_gate: float
    kappa: float
    absolute: float
    forget_bias: float


def noisy(variant: Variant, inputs: dict, cotangents: dict, noise: Noise, lanes: Lane) -> tuple[dict, float, float]:
    """Every forward value ("h") and gradient ("dW_f") with the lanes on the first axis; the largest number stored in the forward
    pass, and in all of it."""
    n = sizes_of(inputs)
    p = bucket(n)
    run = _compiled_noise(variant, "W_v" in inputs, p, len(lanes.sign))
    given, axes = _padded(variant, inputs, cotangents, n, p), (variant.axes(n), variant.axes(p))
    found, forward_peak, peak = run(given, tuple(np.float64(v) for v in noise), tuple(lanes))
    lane = ((len(lanes.sign),),)
    cut = {k: _cut(np.asarray(v), *(lane + a[k if k in a else k.removeprefix("d")] for a in axes)) for k, v in found.items()}
    return cut, float(np.asarray(forward_peak).max()), float(np.asarray(peak).max())


# Padding, as in `autodiff`: every axis in pieces, each padded for itself.


def _padded(v: Variant, inputs: dict, cotangents: dict, n: Sizes, p: Sizes) -> dict:
    inside, outside = v.axes(n), v.axes(p)
    given = {k: _placed(q, inside[k], outside[k]) for k, q in inputs.items() if k != "lengths"}
    given |= {f"s_{k}": _placed(q, inside[k], outside[k]) for k, q in cotangents.items()}
    if v.lengths:
        mask = np.arange(n.T)[:, None] < inputs["lengths"]
        given["mask"] = _placed(mask, inside["mask"], outside["mask"])
    for key, have, due in zip(THERE, n, p, strict=True):
        given[key] = (np.arange(due) < have).astype(np.float64)
    return given


def _placed(q: np.ndarray, inside, outside) -> np.ndarray:
    """The array in a padded one, piece by piece."""
    if inside == outside:
        return np.asarray(q, np.float64)
    padded = np.zeros(tuple(map(sum, outside)))
    padded[np.ix_(*map(_where, inside, outside))] = q
    return padded


def _cut(q: np.ndarray, inside, outside) -> np.ndarray:
    return q if inside == outside else q[np.ix_(*map(_where, inside, outside))]


def _where(inside: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    """Where along a padded axis the entries of its pieces lie."""
    starts = np.cumsum((0, *outside[:-1]))
    return np.concatenate([start + np.arange(have) for start, have in zip(starts, inside, strict=True)])


# What is compiled.


def _compile(function: Callable, what: tuple, *shapes):
    options = {"xla_backend_optimization_level": "1"}  # a third less to compile
    with autodiff._scope():
        program = programs.compiled(function, what, (__file__, autodiff.__file__), options, *shapes)

    def call(*args):
        with autodiff._scope():
            return program(*args)

    return call


def _given(v: Variant, model: bool, p: Sizes) -> dict:
    """What a program is given, as shapes."""
    import jax

    shapes = v.shapes(p)
    masks = {"mask" if k == "lengths" else k for k in v.data}
    names = {*v.inputs, *masks, *(("W_v", "b_v", "y", "w") if model else ())}
    own = {k: shapes[k] for k in names} | {f"s_{k}": shapes[k] for k in ("h", "h_T", "c_T")}
    own |= {k: (size,) for k, size in zip(THERE, p, strict=True)}
    return {k: jax.ShapeDtypeStruct(s, np.float64) for k, s in own.items()}


@functools.cache
def _compiled(v: Variant, model: bool, p: Sizes):
    with autodiff._scope():
        return _compile(functools.partial(_values_and_gradients, v, model), ("truth", v, model, p), _given(v, model, p))


def _values_and_gradients(v: Variant, model: bool, given: dict):
    import jax
    import jax.numpy as jnp

    names = (*v.inputs, *(("W_v", "b_v") if model else ()))

    def objective(q):
        values = _outputs(v, q, given, _Plain())
        J = sum(jnp.sum(given[f"s_{k}"] * values[k]) for k in ("h", "h_T", "c_T"))
        if model:
            J = J - jnp.sum(given["w"] * _log_y_hat_y(q, given, values["h"]))  # (F:loss)
        return J, values | ({"J": J} if model else {})

    gradients, values = jax.grad(objective, has_aux=True)({k: given[k] for k in names})
    return values, gradients


def _log_y_hat_y(q: dict, data: dict, h):
    """log ŷ of the right class (T, B)."""
    import jax
    import jax.numpy as jnp

    logits = h @ q["W_v"].T + q["b_v"]  # (F:logits)
    log_y_hat = jax.nn.log_softmax(jnp.where(data["classes"] > 0, logits, MASKED_LOGIT))  # (F:softmax)
    return jnp.take_along_axis(log_y_hat, data["y"][..., None].astype(int), axis=-1)[..., 0]


@functools.cache
def _compiled_noise(v: Variant, model: bool, p: Sizes, count: int):
    import jax

    def number(*shape, dtype=np.float64):
        return jax.ShapeDtypeStruct(shape, dtype)

    def run(given, noise, lanes):
        one_lane = functools.partial(_noisy_lane, v, model, given, Noise(*noise))
        return jax.vmap(one_lane)(Lane(*lanes))

    with autodiff._scope():
        lanes = tuple(number(count, dtype=d) for d in (np.uint32, np.uint32, np.uint32, np.float64))
        return _compile(run, ("noise", v, model, p, count), _given(v, model, p), (number(),) * len(Noise._fields), lanes)


def _noisy_lane(v: Variant, model: bool, given: dict, noise: Noise, lane: Lane):
    import jax
    import jax.numpy as jnp

    T, B, _ = given["x"].shape
    states = {k: given[k] for k in ("x", "h0", "c0")}
    recorded: dict = {"values": {}, "uses": {}}

    def forward(states, taps):
        values = _outputs(v, {**given, **states}, given, _Noisy(noise, lane, taps, recorded))
        return values, recorded["values"]

    H, kinds = given["units"].shape[0], ("a", "u") if v.norm else ("a",)
    sums = {f"{kind}_{k}{p.suffix}": H for p in v.places for k in v.gates for kind in kinds}
    sums |= {f"r{p.suffix}": v.projection for p in v.places if v.projection}
    values, pull, kept = jax.vjp(forward, states, {k: jnp.zeros((T, B, units)) for k, units in sums.items()}, has_aux=True)
    forward_peak = jnp.max(jnp.stack([jnp.max(p) for k, p in kept.items() if k[:5] == "peak:"]))
    flowing = {k: given[f"s_{k}"] for k in values}
    found: dict = {}
    largest = [forward_peak]
    if model:
        width = v.directions * (v.projection or given["units"].sum())
        head, flowing["h"], peak = _noisy_head(width, given, values["h"], flowing["h"], _Noisy(noise, lane, {}, recorded))
        found |= head
        forward_peak = jnp.maximum(forward_peak, peak)
    of_states, of_taps = pull(flowing)
    found |= values | {f"d{k}": g for k, g in of_states.items()}
    largest += [jnp.max(jnp.abs(g)) for g in (*of_states.values(), *of_taps.values())]
    last, count = _Noisy(noise, lane, {}, recorded), given["alive"].sum() * given["rows"].sum()
    for key in v.parameters:
        if key not in recorded["uses"]:  # of an idle gate
            found[f"d{key}"] = jnp.zeros_like(given[key])
            continue
        name, value, how = recorded["uses"][key]
        dq, size = (_summed(how, f(of_taps[name]), f(kept[value]) if value else None, given["alive"]) for f in (lambda a: a, jnp.abs))
        found[f"d{key}"] = _noise_on(dq, last.small(f"d{key}", dq, count), size)
        largest.append(jnp.max(size))
    return found, forward_peak, jnp.max(jnp.stack(largest))


def _summed(how: str, da, value, alive):
    """The gradient of what is added to a sum, or multiplied with a value in it: over all rows, and the steps that are there."""
    import jax
    import jax.numpy as jnp

    T, B, H = da.shape
    if how == "sum":
        return jnp.sum(da, (0, 1))
    if how == "times":
        return jnp.einsum("tbh,tbh->h", da, value)
    few = math.gcd(T, FEW_STEPS)

    def add(n, sum_):
        now = [jax.lax.dynamic_slice_in_dim(q, n * few, few).reshape(few * B, -1) for q in (da, value)]
        return sum_ + now[0].T @ now[1]

    pieces = jnp.ceil(alive.sum() / few).astype(int)
    return jax.lax.fori_loop(0, pieces, add, jnp.zeros((H, value.shape[-1])))


def _noisy_head(width, given: dict, h, s, ops: _Noisy):
    """The softmax head with its own noise: forward values and gradients, and what flows in on h, which has `width` units that
    are there. Each quantity is granted what another way to compute it would err by: the log of a rounded ŷ, the largest logit
    subtracted first."""
    import jax.numpy as jnp

    there, w, W = given["classes"] > 0, given["w"], given["W_v"]
    K, count = there.sum(), given["alive"].sum() * given["rows"].sum()

    def stored(name, q, magnitude, n=1):
        return _noise_on(q, ops.small(name, q, n), magnitude)

    v = stored("v", h @ W.T + given["b_v"], jnp.abs(h) @ jnp.abs(W).T + jnp.abs(given["b_v"]), width + 1)
    seen = jnp.where(there, v, MASKED_LOGIT)
    top = seen.max(-1, keepdims=True)
    lse = jnp.log(jnp.sum(jnp.exp(seen - top), -1, keepdims=True)) + top
    lse = stored("lse", lse, jnp.abs(lse) + jnp.abs(top), K)
    log_y_hat = jnp.where(there, stored("log_y_hat", v - lse, jnp.abs(v - lse) + jnp.abs(v - top)), MASKED_LOGIT)
    y_hat = jnp.where(there, stored("y_hat", jnp.exp(log_y_hat), jnp.exp(log_y_hat)), 0.0)
    y = given["y"].astype(int)
    picked = jnp.take_along_axis(log_y_hat, y[..., None], axis=-1)[..., 0]
    of_rounded = jnp.maximum(1.0, ops.noise.m / jnp.maximum(jnp.exp(picked), np.finfo(float).tiny))
    picked = stored("log_y_hat_y", picked, jnp.abs(picked) + of_rounded)
    J = stored("J", -jnp.sum(w * picked)[None], jnp.sum(jnp.abs(w * picked))[None], count)[0]
    right = (jnp.arange(there.shape[0]) == y[..., None]).astype(v.dtype)
    dv = stored("dv", w[..., None] * (y_hat - right), jnp.abs(w[..., None]) * (y_hat + right))
    dW_v = stored("dW_v", jnp.einsum("tbk,tbh->kh", dv, h), jnp.einsum("tbk,tbh->kh", jnp.abs(dv), jnp.abs(h)), count)
    db_v = stored("db_v", dv.sum((0, 1)), jnp.abs(dv).sum((0, 1)), count)
    flowing = stored("dh", dv @ W + s, jnp.abs(dv) @ jnp.abs(W) + jnp.abs(s), K + 1)
    return {"J": J, "dW_v": dW_v, "db_v": db_v}, flowing, jnp.max(jnp.where(there, jnp.abs(v), 0.0))


# The equations. `ops` does what is stored, added and multiplied: plainly, or with noise.


def _outputs(v: Variant, q: dict, data: dict, ops) -> dict:
    """h (T, B, ·), h_T and c_T of all layers and directions."""
    import jax.numpy as jnp

    x = q["x"]
    last: list = []
    for layer in range(v.layers):
        places = [p for p in v.places if p.layer == layer]
        sides = []
        for place, own in zip(places, ops.fork(f"x{layer}", x, len(places)), strict=True):
            k = len(last)
            h0, c0 = (q[s][k] if len(v.places) > 1 else q[s] for s in ("h0", "c0"))
            h, h_T, c_T = _pass_over_time(v, place, q, own, h0, c0, data, ops)
            sides.append(h)
            last.append((h_T, c_T))
        x = jnp.concatenate(sides, axis=-1)
    h_T, c_T = (jnp.stack(s) if len(last) > 1 else s[0] for s in zip(*last, strict=True))
    return {"h": x, "h_T": h_T, "c_T": c_T}


def _pass_over_time(v: Variant, place: Place, q: dict, x, h0, c0, data: dict, ops):
    """One layer in one direction: h at every step, and the last h and c. A step of padding costs nothing."""
    import jax
    import jax.numpy as jnp

    T, suffix = x.shape[0], place.suffix
    own = {k.removesuffix(suffix): q[k] for k in v.parameters if k.endswith(suffix)}
    width = _width(v, place, data)
    steps = {k: data[k] for k in ("alive", "mask", "zone_h", "zone_c", "drop_x", "drop_h", "drop_c_tilde") if k in data}
    once = {k: steps.pop(k) for k in tuple(steps) if v.dropout_once and k[:4] == "drop"}

    def there(state, now):
        x, steps, tools = now
        at = ops.at(tools, suffix)
        state, h_out = _cell(v, own, x, *state, {**steps, **once}, data, width, at)
        return state, (h_out, at.kept)

    def step(state, now):
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(there, state, now)[1])
        return jax.lax.cond(now[1]["alive"] > 0, there, lambda state, now: (state, nothing), state, now)

    (h_T, c_T), (h, kept) = jax.lax.scan(step, (h0, c0), (x, steps, ops.by_step(T, suffix)), reverse=place.reverse)
    ops.keep(kept)
    return h, h_T, c_T


def _width(v: Variant, place: Place, data: dict):
    """How many numbers of z_t are there."""
    P = v.projection or data["units"].sum()
    return P + (v.directions * P if place.layer else data["features"].sum())


def _cell(v: Variant, q: dict, x, h_before, c_before, now: dict, data: dict, width, at):
    """The F-equations of one step; what is added to the textbook stands beside the line that it changes."""
    import jax.numpy as jnp

    c_prev, c_f, c_i = at.fork("c_prev", c_before, 3) if v.peephole else (c_before,) * 3
    x = x * now["drop_x"] if "x" in v.dropout else x
    h_prev = h_before * now["drop_h"] if "h" in v.dropout else h_before
    z = jnp.concatenate([h_prev, x], axis=-1)  # (F:concat)
    H = data["units"].sum()
    gates = [k for k in v.gates if k != v.coupled]
    u = at.dot({f"W_{k}": q[f"W_{k}"] for k in gates}, "z", z, width, len(gates) * H)
    if v.norm:
        u = {k: at.times(f"gain_{k}", q, _normed(at, k, at.add(f"u_{k}", u[f"W_{k}"]), data, v.norm_epsilon)) for k in gates}
    else:
        u = {k: u[f"W_{k}"] for k in gates}

    def preactivation(k, *peephole):
        return _clipped(at.add(f"a_{k}", u[k], at.bias(f"b_{k}", q), *peephole), v.preactivation_clip)  # (F:preact)

    def gate(k, c):
        if k == v.coupled:
            return None
        peephole = (at.times(f"p_{k}", q, c),) if f"p_{k}" in v.peepholes else ()
        return at.function(k, v.gate, preactivation(k, *peephole))  # (F:gates)

    f, i = gate("f", c_f), gate("i", c_i)
    if v.coupled:
        given, kept_gate = at.fork("coupled", i if f is None else f, 2)
        f, i = (at.add("f", 1.0, -kept_gate), given) if f is None else (given, at.add("i", 1.0, -kept_gate))
    c_tilde = at.function("c_tilde", v.activation, preactivation("c"))  # (F:gates)
    c_tilde = c_tilde * now["drop_c_tilde"] if "c_tilde" in v.dropout else c_tilde
    c = _clipped(at.add("c", f * c_prev, i * c_tilde), v.clip)  # (F:cell)
    c, c_out, c_o = at.fork("c", c, 3) if v.peephole else (*at.fork("c", c, 2), None)
    o = gate("o", c_o)
    h = at.add("h", o * at.function("tanh_c", v.output, c_out))  # (F:hidden)
    if v.projection:
        h = at.add("r", at.dot({"W_r": q["W_r"]}, "m", h, H, v.projection)["W_r"])
    if v.zoneout:
        h = jnp.where(now["zone_h"] > 0, h_before, h)
        c = jnp.where(now["zone_c"] > 0, c_before, c)
    out = h
    if v.mask:
        seen = now["mask"][:, None] > 0
        kept = (0.0, 0.0) if v.mask == "reset" else (h_before, c_before)
        h, c = jnp.where(seen, h, kept[0]), jnp.where(seen, c, kept[1])
        out = jnp.where(seen, h, 0.0) if v.mask == "zero" else h
    return (h, c), out


def _normed(at, k: str, u, data: dict, epsilon: float):
    """(u − mean) / sqrt(var + ε) over the units that are there."""
    import jax
    import jax.numpy as jnp

    there = data["units"]
    n = there.sum()
    mean = jnp.sum(u * there, -1, keepdims=True) / n
    centred = at.add(f"centred_{k}", u * there, -mean * there)
    scale = at.add(f"scale_{k}", jax.lax.rsqrt(jnp.sum(centred**2, -1, keepdims=True) / n + epsilon))
    return at.add(f"normed_{k}", centred * scale)


def _clipped(q, limit: float):
    import jax.numpy as jnp

    return jnp.where(jnp.abs(q) < limit, q, jnp.sign(q) * limit) if limit else q


def _function(kind: str, a):
    import jax.numpy as jnp

    if kind in HARD:
        s = HARD[kind] * a + 0.5
        return jnp.where(s <= 0, 0.0, jnp.where(s >= 1, 1.0, s))
    return {
        "sigmoid": autodiff._sigmoid,
        "tanh": autodiff._tanh,
        "identity": lambda a: a,
        "relu": lambda a: jnp.where(a > 0, a, 0.0),
        "softsign": lambda a: a / (1 + jnp.abs(a)),
    }[kind](a)


class _Plain:
    """The operations as they are."""

    kept = ()

    def by_step(self, T, suffix):
        return ()

    def at(self, tools, suffix):
        return self

    def keep(self, kept):
        pass

    def fork(self, name, q, n):
        return (q,) * n

    def dot(self, weights, name, z, n, n_back):
        return {k: z @ W.T for k, W in weights.items()}

    def times(self, name, q, value):
        return q[name] * value

    def bias(self, name, q):
        return q[name]

    def add(self, name, *terms):
        return sum(terms[1:], start=terms[0])

    def function(self, name, kind, a):
        return _function(kind, a)


class _Term(NamedTuple):
    """A sum in the making: its value, Σ|terms|, their number, and which parameter was multiplied with what in it, a name and a value."""

    value: object
    magnitude: object
    n: int
    uses: tuple = ()


class _Noisy:
    """The operations with noise. What is added up goes with a tap, so that the gradient of every parameter is formed at the
    end, from ∂J/∂tap and from what the parameter was multiplied with, as one sum over all steps and rows."""

    def __init__(self, noise: Noise, lane: Lane, taps: dict, recorded: dict, t=0, suffix=""):
        self.noise, self.lane, self.taps, self.recorded, self.t, self.suffix = noise, lane, taps, recorded, t, suffix
        self.kept: dict = {}

    def by_step(self, T, suffix):
        import jax.numpy as jnp

        return jnp.arange(T, dtype=jnp.uint32), {k: v for k, v in self.taps.items() if k.endswith(suffix)}

    def at(self, tools, suffix):
        return _Noisy(self.noise, self.lane, tools[1], self.recorded, tools[0], suffix)

    def keep(self, kept):
        self.recorded["values"].update(kept)

    def fork(self, name, q, n):
        return _forked(q, self.small("d" + name, q), n) if n > 1 else (q,)

    def dot(self, weights, name, z, n, n_back):
        import jax
        import jax.numpy as jnp

        every = jax.lax.stop_gradient(jnp.concatenate(list(weights.values())))
        u = _product(z, every, self.small(f"d{name}", z, n_back))
        size = jnp.abs(jax.lax.stop_gradient(z)) @ jnp.abs(every).T
        found, start = {}, 0
        for k, W in weights.items():
            part = slice(start, start := start + W.shape[0])
            found[k] = _Term(u[:, part], size[:, part], n, ((k, name, z, "dot"),))
        return found

    def times(self, name, q, value):
        import jax
        import jax.numpy as jnp

        product = jax.lax.stop_gradient(q[name]) * value
        return _Term(product, jnp.abs(product), 1, ((name, name, value, "times"),))

    def bias(self, name, q):
        import jax
        import jax.numpy as jnp

        b = jax.lax.stop_gradient(q[name])
        return _Term(b, jnp.abs(b), 1, ((name, "", None, "sum"),))

    def add(self, name, *terms):
        import jax
        import jax.numpy as jnp

        terms = [t if isinstance(t, _Term) else _Term(t, jnp.abs(t), 1) for t in terms]
        value = sum((t.value for t in terms[1:]), start=terms[0].value)
        magnitude = jax.lax.stop_gradient(sum((t.magnitude for t in terms[1:]), start=terms[0].magnitude))
        if name == "a_f":
            magnitude += 2 * jnp.abs(self.noise.forget_bias)
        uses = [u for t in terms for u in t.uses]
        if uses:
            key = name + self.suffix
            value = value + self.taps[key]
            self.kept |= {of + self.suffix: value for _, of, value, _ in uses if of}
            self.recorded["uses"] |= {k + self.suffix: (key, of and of + self.suffix, how) for k, of, _, how in uses}
        self.kept |= {f"peak:{name}{self.suffix}": jnp.max(magnitude)}
        size = self.xi(name, value.shape, sum(t.n for t in terms)) * jnp.maximum(magnitude, self.noise.m)
        return _stored(value, size, self.small(f"d{name}", value))

    def function(self, name, kind, a):
        import jax.numpy as jnp

        gate = name in ("f", "i", "o")
        value = _function(kind, a)
        of_one = self.noise.absolute >= (1 if gate else 2 if kind == "tanh" else math.inf)
        size = jnp.maximum(jnp.where(of_one, 1.0, jnp.abs(value)), self.noise.m_gate if gate else self.noise.m)
        coming, leaving = self.small(f"d{name}", value), self.xi(name, value.shape) * size
        if kind in SLOPES_OF_STORED:
            return _activated(a, value, leaving, coming, kind)
        return _stored(value, leaving, coming)

    def small(self, name, q, n=1):
        """The noise of a cotangent: how much of its magnitude, and the least magnitude."""
        return self.xi(name, q.shape, n), self.noise.m

    def xi(self, name, shape, n=1):
        """eta · max(1, n/kappa) · ±U[½, 1], the same for the same name, lane and place."""
        import jax.numpy as jnp

        seed = int.from_bytes((name + self.suffix).encode()[-12:], "little") * 2654435761 % 2**32
        size = self.noise.eta * jnp.maximum(1.0, n / self.noise.kappa)
        return size * _signed(shape)(np.uint32(seed), self.lane, jnp.uint32(self.t))


@functools.cache
def _signed(shape: tuple[int, ...]) -> Callable:
    """±U[½, 1] of a shape from a seed, a lane and a step; traced once for each shape, since every stored quantity asks for it."""
    import jax
    import jax.numpy as jnp

    def signed(seed, lane, t):
        at = seed + lane.seed + lane.free * t * jnp.uint32(2246822519)
        for axis in range(len(shape)):
            last = axis == len(shape) - 1
            step = jnp.uint32([3266489917, 668265263, 374761393][len(shape) - 1 - axis])
            at = at + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * step * (lane.units if last else lane.free)
        r = _mixed(at).astype(jnp.float64) / 2**32
        return lane.sign * jnp.where(r < 0.5, r - 1, r)

    return jax.jit(signed)


def _mixed(n):
    """An integer hash of 32 bits, twice multiplied and thrice shifted."""
    n = (n ^ (n >> 16)) * np.uint32(0x7FEB352D)
    n = (n ^ (n >> 15)) * np.uint32(0x846CA68B)
    return n ^ (n >> 16)


def _noise_on(q, small, magnitude=None):
    import jax.numpy as jnp

    share, least = small
    return q + share * jnp.maximum(jnp.abs(q) if magnitude is None else magnitude, least)


def _custom(forward: Callable, backward: Callable, static: tuple[int, ...] = ()) -> Callable:
    """A function whose derivative is given: `forward(*args) -> value, kept` and `backward(kept, cotangent) -> cotangent of
    the first argument`; the others have none."""
    import jax

    @functools.partial(jax.custom_vjp, nondiff_argnums=static)
    def function(*args):
        return forward(*args)[0]

    function.defvjp(forward, backward)
    return function


@functools.cache
def _rules() -> dict[str, Callable]:
    """The noisy operations with their derivatives: JAX is imported when they are first asked for."""
    import jax.numpy as jnp

    def stored(q, size, small):
        return q + size, small

    def stored_back(small, ct):
        return _noise_on(ct, small), None, None

    def product(z, W, small):
        return z @ W.T, (W, small)

    def product_back(kept, ct):
        W, small = kept
        return _noise_on(ct @ W, small, jnp.abs(ct) @ jnp.abs(W)), None, None

    def forked(q, small, n):
        return (q,) * n, small

    def forked_back(n, small, cts):
        return _noise_on(sum(cts[1:], start=cts[0]), small, sum(map(jnp.abs, cts))), None

    def activated(a, value, size, small, kind):
        return value + size, (value + size, small)

    def activated_back(kind, kept, ct):
        s, small = kept
        return _noise_on(ct, small) * SLOPES_OF_STORED[kind](s), None, None, None

    return {
        "stored": _custom(stored, stored_back),
        "product": _custom(product, product_back),
        "forked": _custom(forked, forked_back, (2,)),
        "activated": _custom(activated, activated_back, (4,)),
    }


def _stored(*args):
    return _rules()["stored"](*args)


def _product(*args):
    return _rules()["product"](*args)


def _forked(*args):
    return _rules()["forked"](*args)


def _activated(*args):
    return _rules()["activated"](*args)
