"""flax: LSTMCell and OptimizedLSTMCell of flax.linen and of flax.nnx, or a subclass of a user's, scanned over time.

Eight dense layers: kernels (D, H) of x without a bias, `ii if ig io`, and kernels (H, H) of h with one, `hi hf hg ho`. nnx's
optimized cell has two instead, `dense_i` and `dense_h`, with gates i, f, g, o in one array. The carry is (c, h).
"""

from __future__ import annotations

from .jax_function import engine, over_time
from .layout import Layout

__all__ = ["CLASSES", "engine", "find", "function", "layout"]
CLASSES = ("LSTMCell", "OptimizedLSTMCell", "nnx.LSTMCell", "nnx.OptimizedLSTMCell")
NAMES = {"W_x": "i{gate}.kernel", "W_h": "h{gate}.kernel", "b": "h{gate}.bias"}
PACKED = {"W_x": "dense_i.kernel", "W_h": "dense_h.kernel", "b": "dense_h.bias"}


def find(name: str):
    """The library's class of this name."""
    import flax.linen
    import flax.nnx

    return getattr(flax.nnx, name[4:]) if name.startswith("nnx.") else getattr(flax.linen, name)


def layout(cls) -> Layout:
    import flax.nnx

    packed = issubclass(cls, flax.nnx.OptimizedLSTMCell)
    return Layout(order="ifgo", packed=packed, joint="split", transposed=True, names=PACKED if packed else NAMES)


def function(cls, options: dict):
    """The LSTM of a class that is built as `cls(features=H)`, or as `cls(D, H, rngs=…)` if it is one of nnx."""
    import flax.linen

    def lstm(inputs):
        x, h0, c0 = (inputs[k] for k in ("x", "h0", "c0"))
        make = _linen if issubclass(cls, flax.linen.Module) else _nnx
        cell = make(cls, {"param_dtype": x.dtype, "dtype": x.dtype, **options}, x.shape[-1], h0.shape[-1], inputs)
        return over_time(cell, x, h0, c0)

    return lstm


def _linen(cls, options: dict, D: int, H: int, inputs: dict):
    params: dict[str, dict] = {}
    for module, array, value in ((*k.split("."), v) for k, v in inputs.items() if "." in k):
        params.setdefault(module, {})[array] = value
    module = cls(features=H, **options)
    return lambda x, h, c: module.apply({"params": params}, (c, h), x)[0][::-1]


def _nnx(cls, options: dict, D: int, H: int, inputs: dict):
    import flax.nnx

    cell = cls(D, H, rngs=flax.nnx.Rngs(0), **options)
    for module, array, value in ((*k.split("."), v) for k, v in inputs.items() if "." in k):
        getattr(getattr(cell, "if_" if module == "if" else module), array)[...] = value
    return lambda x, h, c: cell((c, h), x)[0][::-1]
