"""Autodiff: the F-equations written once more in JAX, differentiated by JAX, on padded shapes.

Every derived gradient comes from one reverse pass: a tap, a zero array, is added where a quantity is formed, so
∂J/∂tap is that quantity's total derivative. Sizes are padded to a bucket and masked, so that one compiled program
serves every shape that fits; padding is exact, because padded units have zero weights, masked steps carry the state
through, and masked logits are far below every other.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..reference.symbols import AXES, GATES, MODEL_INPUTS, MODEL_INTERMEDIATES, WEIGHTS, Sizes, shape
from . import programs

MASKED_LOGIT = -1e30  # −∞ would give 0·∞ = NaN in the gradient
BUCKETS = (Sizes(8, 4, 8, 8, 8), Sizes(36, 8, 40, 40, 40), Sizes(8, 48, 8, 8, 8))
GIVEN = (*MODEL_INPUTS, "s", "s_h", "s_c", "w", "y", "alive", "classes")
FOUND = (*MODEL_INTERMEDIATES, "y_hat", "J", *(f"d{k}" for k in (*MODEL_INPUTS, *MODEL_INTERMEDIATES)))
_AXES_FOUND = tuple(AXES[name.removeprefix("d")] for name in FOUND)
NEAR_ZERO = 0.8  # below it nine levels of the continued fraction err less than rounding does


class Truth(NamedTuple):
    """Forward values by name ("h", "c", "f", …, "y_hat", "J") and gradients by what they are of ("W_f", "c", "x", …)."""

    values: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


def sizes_of(inputs: dict) -> Sizes:
    """The sizes of a case, from its arrays; K is 1 where there is no output layer."""
    T, B, D = inputs["x"].shape
    return Sizes(T, B, D, inputs["c0"].shape[-1], inputs["W_v"].shape[0] if "W_v" in inputs else 1)


def bucket(n: Sizes) -> Sizes:
    """The padded sizes that hold `n`: the smallest bucket, else each size up to the next of 4, 6, 8, 12, 16, 24, …"""
    for b in BUCKETS:
        if all(need <= have for need, have in zip(n, b, strict=True)):
            return b
    return Sizes(*map(_grown, n))


def _grown(need: int) -> int:
    power = 4
    while power < need:
        if need <= power * 3 // 2:
            return power * 3 // 2
        power *= 2
    return power


def truth(inputs: dict, cotangents: dict, padded: Sizes | None = None) -> Truth:
    """J's forward values and all its gradients for one case, in float64.

    J = Σ_t ⟨s_t, h_t⟩ + ⟨s_h, h_T⟩ + ⟨s_c, c_T⟩ − Σ w log ŷ_y, the last only where `inputs` holds `W_v b_v y w`.
    `inputs` and `cotangents` (`h` (T, B, H), `h_T`, `c_T` (B, H)) are in the textbook layout. `padded` overrides the
    bucket; the sizes of the case itself give the unpadded oracle.
    """
    return begun(inputs, cotangents, padded)()


def begun(inputs: dict, cotangents: dict, padded: Sizes | None = None) -> Callable[[], Truth]:
    """`truth` under way: JAX computes on a thread of its own, and what is returned waits for it."""
    n, model = sizes_of(inputs), "W_v" in inputs
    p = padded or bucket(n)
    under_way = compiled(p)(_padded(inputs, cotangents, n, p))

    def arrived() -> Truth:
        found = _cut(np.asarray(under_way), n, p)
        for k in () if model else ("v", "y_hat", "dv", "dW_v", "db_v"):
            del found[k]
        gradients = {k[1:]: found.pop(k) for k in FOUND if k[0] == "d" and k in found}
        return Truth({**found, "h_T": found["h"][-1], "c_T": found["c"][-1]}, gradients)

    return arrived


@functools.cache
def compiled(p: Sizes):
    """The oracle compiled for padded sizes `p`: the arrays `GIVEN` in, those of `FOUND` out, each way as one flat array,
    since JAX takes 15 µs for every argument and every result."""
    import jax

    with _scope():
        options = {"xla_backend_optimization_level": "1"}  # runs as fast as 2 and 3, and compiles in less
        given = jax.ShapeDtypeStruct((_places(GIVEN, p)[-1].end,), np.float64)
        program = programs.compiled(functools.partial(_flat, p), ("textbook", p), (__file__,), options, given)

    def call(flat):
        with _scope():
            return program(flat)

    return call


def _flat(p: Sizes, given):
    import jax.numpy as jnp

    arrays = _views(given, GIVEN, p)
    values, gradients = _values_and_gradients({k: arrays[k] for k in MODEL_INPUTS}, arrays)
    found = values | {f"d{k}": v for k, v in gradients.items()}
    return jnp.concatenate([found[k].ravel() for k in FOUND])


def _values_and_gradients(inputs, data):
    """∂J/∂(inputs and taps), with the forward values on the side; the F-equations, one per line."""
    import jax
    import jax.numpy as jnp

    T, B, D = inputs["x"].shape
    H, K = inputs["h0"].shape[1], inputs["W_v"].shape[0]
    taps = {k: jnp.zeros((T, B, H)) for k in MODEL_INTERMEDIATES} | {"z": jnp.zeros((T, B, H + D)), "v": jnp.zeros((T, B, K))}

    def objective(inputs, taps):
        def step(state, now):
            h_prev, c_prev = state
            x, tap, alive = now
            z = jnp.concatenate([h_prev, x], axis=-1) + tap["z"]  # (F:concat)
            a = {k: z @ inputs[f"W_{k}"].T + inputs[f"b_{k}"] + tap[f"a_{k}"] for k in GATES}  # (F:preact)
            f, i, o = (_sigmoid(a[k]) + tap[k] for k in ("f", "i", "o"))  # (F:gates)
            c_tilde = _tanh(a["c"]) + tap["c_tilde"]  # (F:gates)
            c = f * c_prev + i * c_tilde + tap["c"]  # (F:cell)
            h = o * _tanh(c) + tap["h"]  # (F:hidden)
            h, c = jnp.where(alive, h, h_prev), jnp.where(alive, c, c_prev)
            return (h, c), {"z": z, **{f"a_{k}": a[k] for k in GATES}, "f": f, "i": i, "o": o, "c_tilde": c_tilde, "c": c, "h": h}

        by_step = {k: taps[k] for k in taps if k != "v"}
        (h_T, c_T), values = jax.lax.scan(step, (inputs["h0"], inputs["c0"]), (inputs["x"], by_step, data["alive"] > 0))
        v = values["h"] @ inputs["W_v"].T + inputs["b_v"] + taps["v"]  # (F:logits)
        log_y_hat = jax.nn.log_softmax(jnp.where(data["classes"] > 0, v, MASKED_LOGIT))  # (F:softmax)
        picked = jnp.take_along_axis(log_y_hat, data["y"][..., None].astype(int), axis=-1)[..., 0]
        loss = -jnp.sum(data["w"] * picked)  # (F:loss)
        flow = jnp.sum(data["s"] * values["h"]) + jnp.sum(data["s_h"] * h_T) + jnp.sum(data["s_c"] * c_T)  # (F:loss)
        return loss + flow, {**values, "v": v, "y_hat": jnp.exp(log_y_hat), "J": loss + flow}

    (of_inputs, of_taps), values = jax.grad(objective, argnums=(0, 1), has_aux=True)(inputs, taps)
    return values, {**of_inputs, **of_taps}


def _sigmoid(a):
    """σ(a), so written that its derivative is accurate in both tails too: e^{−|a|} / (1 + e^{−|a|})²."""
    import jax.numpy as jnp

    e = jnp.exp(jnp.where(a < 0, a, -a))
    return jnp.where(a < 0, e, 1) / (1 + e)


def _tanh(a):
    """tanh(a) within 4 u, with the derivative 4 e^{−2|a|} / (1 + e^{−2|a|})²; XLA's own is off by up to 7 u, and 1 − tanh²
    loses all digits in the tail.

    Lambert's continued fraction, nine levels deep, where |a| is small, and (1 − e^{−2|a|}) / (1 + e^{−2|a|}) elsewhere. The
    derivative is given, as JAX's own tanh has it given: through the fraction, tiny cotangents would underflow.
    """
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def tanh(a):
        s = jnp.where(jnp.abs(a) < NEAR_ZERO, a, 0) ** 2
        top = 34459425 + s * (4729725 + s * (135135 + s * (990 + s)))
        bottom = 34459425 + s * (16216200 + s * (945945 + s * (13860 + s * 45)))
        e = jnp.exp(-2 * jnp.abs(a))
        return jnp.where(jnp.abs(a) < NEAR_ZERO, a * top / bottom, jnp.sign(a) * (1 - e) / (1 + e))

    @tanh.defjvp
    def slope(primals, tangents):
        e = jnp.exp(-2 * jnp.abs(primals[0]))
        return tanh(primals[0]), tangents[0] * (4 * e / (1 + e) ** 2)

    return tanh(a)


class _Place(NamedTuple):
    """Where an array lies in a flat one."""

    name: str
    start: int
    end: int
    shape: tuple[int, ...]


@functools.cache
def _places(names: tuple[str, ...], p: Sizes) -> list[_Place]:
    known = {"s": "h", "s_h": "h_T", "s_c": "c_T"}
    places, start = [], 0
    for name in names:
        of = known.get(name, name.removeprefix("d"))
        own = {"alive": (p.T,), "classes": (p.K,)}.get(of) or shape(of, p)
        places.append(_Place(name, start, start := start + math.prod(own), own))
    return places


def _views(flat, names: tuple[str, ...], p: Sizes) -> dict:
    return {k: flat[start:end].reshape(own) for k, start, end, own in _places(names, p)}


def _padded(inputs: dict, cotangents: dict, n: Sizes, p: Sizes) -> np.ndarray:
    flat = np.zeros(_places(GIVEN, p)[-1].end)
    padded = _views(flat, GIVEN, p)
    padded["alive"][: n.T], padded["classes"][: n.K] = 1, 1
    given = {**inputs, "s": cotangents["h"], "s_h": cotangents["h_T"], "s_c": cotangents["c_T"]}
    for k, array in given.items():
        if k in WEIGHTS:
            padded[k][: n.H, : n.H] = array[:, : n.H]
            padded[k][: n.H, p.H : p.H + n.D] = array[:, n.H :]
        else:
            padded[k][tuple(map(slice, array.shape))] = array
    return flat


def _cut(flat: np.ndarray, n: Sizes, p: Sizes) -> dict[str, np.ndarray]:
    """The parts of the padded quantities that belong to the case."""
    found = {}
    for (name, start, end, padded), parts in zip(_places(FOUND, p), _parts(n, p), strict=True):
        q = flat[start:end].reshape(padded)
        found[name] = q[parts[0]] if len(parts) == 1 else np.concatenate([q[part] for part in parts], axis=-1)
    return found


@functools.lru_cache(maxsize=256)
def _parts(n: Sizes, p: Sizes) -> list[list[tuple[slice, ...]]]:
    """Where a case lies in the padded quantities `FOUND`: in one part of each, or in two where h and x are joined."""
    own = {axis: slice(size) for axis, size in n._asdict().items()}
    found = []
    for axes in _AXES_FOUND:
        before = tuple(own[axis] for axis in axes if axis != "Z")
        found.append([(*before, own["H"]), (*before, slice(p.H, p.H + n.D))] if axes[-1:] == "Z" else [before])
    return found


@contextlib.contextmanager
def _scope():
    """float64 on the CPU for our own calls only; JAX's configuration outside is left as it is."""
    import jax

    with jax.enable_x64(True), jax.default_device(programs.cpu()):
        yield
