"""flax: LSTMCell and OptimizedLSTMCell of flax.linen and of flax.nnx, or a subclass of a user's, scanned over time.

Eight dense layers: kernels (D, H) of x without a bias, `ii if ig io`, and kernels (H, H) of h with one, `hi hf hg ho`. nnx's
optimized cell has two instead, `dense_i` and `dense_h`, with gates i, f, g, o in one array. The carry is (c, h).
"""

from __future__ import annotations

from ..reference.variant import Variant
from . import jax_engine
from .flax_build import build, probe, step
from .flax_variant import variant_of
from .jax_cell import over_time
from .layout import Layout
from .matching import matched

CLASSES = ("LSTMCell", "OptimizedLSTMCell", "nnx.LSTMCell", "nnx.OptimizedLSTMCell")
OPTIONS = ("activation_fn", "gate_fn")
NAMES = {"W_x": "i{gate}.kernel", "W_h": "h{gate}.kernel", "b": "h{gate}.bias"}
PACKED = {"W_x": "dense_i.kernel", "W_h": "dense_h.kernel", "b": "dense_h.bias"}


def find(name: str):
    import flax.linen
    import flax.nnx

    return getattr(flax.nnx, name[4:]) if name.startswith("nnx.") else getattr(flax.linen, name)


def engine():
    return jax_engine


def variant(cls, options: dict, declared: Variant) -> Variant:
    own = any(cls is find(name) for name in CLASSES)
    return variant_of(build(cls, options, 1, 1), declared, own)


def layout(cls, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    import flax.nnx

    packed = issubclass(cls, flax.nnx.OptimizedLSTMCell)
    own = Layout(order="ifgo", packed=packed, joint="split", transposed=True, names=PACKED if packed else NAMES)
    return matched(declared or own, variant, *probe(cls, options), declared is not None)


def supports(cls, options: dict, variant: Variant) -> dict:
    return jax_engine.SIZES


def function(cls, options: dict):
    def lstm(inputs):
        x, h0, c0 = (inputs[k] for k in ("x", "h0", "c0"))
        cell = build(cls, {"param_dtype": x.dtype, "dtype": x.dtype, **options}, x.shape[-1], h0.shape[-1])
        weights = {k: v for k, v in inputs.items() if k not in ("x", "h0", "c0")}
        return over_time(step(cell, weights), x, h0, c0, "((c, h), y)")

    return lstm
