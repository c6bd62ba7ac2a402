"""Autodiff: the F-equations written once more in JAX, differentiated by JAX, on padded shapes.

Every derived gradient comes from one reverse pass: a tap, a zero array, is added where a quantity is formed, so
∂J/∂tap is that quantity's total derivative. Sizes are padded to a bucket and masked, so that one compiled program
serves every shape that fits; padding is exact, because padded units have zero weights, masked steps carry the state
through, and masked logits are far below every other.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from typing import NamedTuple

import numpy as np

from ..reference.symbols import BIASES, GATES, MODEL_INPUTS, MODEL_INTERMEDIATES, WEIGHTS, Sizes

MASKED_LOGIT = -1e30  # −∞ would give 0·∞ = NaN in the gradient
BUCKETS = (Sizes(8, 4, 8, 8, 8), Sizes(36, 8, 40, 40, 40))
NEAR_ZERO = 0.8  # below it nine levels of the continued fraction err less than rounding does


class Truth(NamedTuple):
    """Forward values by name ("h", "c", "f", …, "y_hat", "J") and gradients by what they are of ("W_f", "c", "x", …)."""

    values: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


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
    T, B, D = inputs["x"].shape
    H, model = inputs["h0"].shape[1], "W_v" in inputs
    n = Sizes(T, B, D, H, inputs["W_v"].shape[0] if model else 1)
    p = padded or bucket(n)
    values, gradients = compiled(p)(*_padded(inputs, cotangents, n, p))
    values = {k: _cut(k, np.asarray(v), n, p) for k, v in values.items()}
    gradients = {k: _cut(k, np.asarray(v), n, p) for k, v in gradients.items()}
    if not model:
        values = {k: v for k, v in values.items() if k not in ("v", "y_hat")}
        gradients = {k: v for k, v in gradients.items() if k not in ("v", "W_v", "b_v")}
    return Truth({**values, "h_T": values["h"][-1], "c_T": values["c"][-1]}, gradients)


@functools.cache
def compiled(p: Sizes):
    """The oracle compiled for padded sizes `p`: padded arrays in, (values, gradients) out, as JAX arrays."""
    import jax

    with _scope(), _persistent_cache():
        options: dict[str, str | bool] | None = (
            {"xla_backend_optimization_level": "0"} if p == BUCKETS[0] else None
        )  # compiles in half the time, runs as fast
        program = jax.jit(_values_and_gradients).lower(*_shapes(p)).compile(compiler_options=options)

    def call(*arrays):
        with _scope():
            return program(*arrays)

    return call


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
        (h_T, c_T), values = jax.lax.scan(step, (inputs["h0"], inputs["c0"]), (inputs["x"], by_step, data["alive"]))
        v = values["h"] @ inputs["W_v"].T + inputs["b_v"] + taps["v"]  # (F:logits)
        log_y_hat = jax.nn.log_softmax(jnp.where(data["classes"], v, MASKED_LOGIT))  # (F:softmax)
        picked = jnp.take_along_axis(log_y_hat, data["y"][..., None], axis=-1)[..., 0]
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


def _shapes(p: Sizes):
    """The padded arguments as shapes and dtypes, for compilation."""
    import jax

    inputs, data = _padded_zeros(p)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (inputs, data))


def _padded_zeros(p: Sizes):
    T, B, D, H, K = p
    inputs = {"x": (T, B, D), "h0": (B, H), "c0": (B, H), "W_v": (K, H), "b_v": (K,)}
    inputs |= dict.fromkeys(WEIGHTS, (H, H + D)) | dict.fromkeys(BIASES, (H,))
    data = {k: np.zeros(s) for k, s in {"w": (T, B), "s": (T, B, H), "s_h": (B, H), "s_c": (B, H)}.items()}
    data |= {"y": np.zeros((T, B), np.int64), "alive": np.zeros(T, bool), "classes": np.zeros(K, bool)}
    return {k: np.zeros(inputs[k]) for k in MODEL_INPUTS}, data


def _padded(inputs: dict, cotangents: dict, n: Sizes, p: Sizes):
    padded, data = _padded_zeros(p)
    for k, target in padded.items():
        if k in WEIGHTS:
            target[: n.H, : n.H] = inputs[k][:, : n.H]
            target[: n.H, p.H : p.H + n.D] = inputs[k][:, n.H :]
        elif k in inputs:
            target[tuple(map(slice, inputs[k].shape))] = inputs[k]
    data["alive"][: n.T], data["classes"][: n.K] = True, True
    data["s"][: n.T, : n.B, : n.H] = cotangents["h"]
    data["s_h"][: n.B, : n.H], data["s_c"][: n.B, : n.H] = cotangents["h_T"], cotangents["c_T"]
    if "W_v" in inputs:
        data["y"][: n.T, : n.B], data["w"][: n.T, : n.B] = inputs["y"], inputs["w"]
    return padded, data


def _cut(name: str, q: np.ndarray, n: Sizes, p: Sizes) -> np.ndarray:
    """The part of a padded quantity that belongs to the case."""
    if name in WEIGHTS or name == "z":
        rows = (slice(n.H),) if name in WEIGHTS else (slice(n.T), slice(n.B))
        return np.concatenate([q[(*rows, slice(n.H))], q[(*rows, slice(p.H, p.H + n.D))]], axis=-1)
    known = {"x": "TBD", "h0": "BH", "c0": "BH", "W_v": "KH", "b_v": "K", "v": "TBK", "y_hat": "TBK", "J": ""}
    axes = known.get(name, "H" if name in BIASES else "TBH")
    return q[tuple(slice(getattr(n, axis)) for axis in axes)]


@contextlib.contextmanager
def _scope():
    """float64 on the CPU for our own calls only; JAX's configuration outside is left as it is."""
    import jax

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


@contextlib.contextmanager
def _persistent_cache():
    """Keep compiled oracles on disk (LSTM_REF_CACHE, else the user's cache folder), and put JAX's settings back."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = os.environ.get("LSTM_REF_CACHE") or pathlib.Path(home) / "lstm-ref"
    wanted = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_enable_compilation_cache": True,
        "jax_raise_persistent_cache_errors": False,
    }
    before = {k: getattr(jax.config, k) for k in wanted}
    try:
        compilation_cache.reset_cache()
        for k, v in wanted.items():
            jax.config.update(k, v)
        yield
    finally:
        for k, v in before.items():
            jax.config.update(k, v)
        compilation_cache.reset_cache()
