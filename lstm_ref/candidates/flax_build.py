"""flax: how a cell of flax.linen or of flax.nnx is built with arrays of ours, which are named "module.array"."""

from __future__ import annotations

from collections.abc import Callable


def linen(cls, options: dict, inputs: dict) -> Callable:
    """A cell built as `cls(features=H)`, as a function of (x, h, c) to (h, c); its arrays go with every call."""
    params: dict[str, dict] = {}
    for module, array, value in _arrays(inputs):
        params.setdefault(module, {})[array] = value
    cell = cls(features=inputs["h0"].shape[-1], **options)
    return lambda x, h, c: cell.apply({"params": params}, (c, h), x)[0][::-1]


def nnx(cls, options: dict, inputs: dict) -> Callable:
    """A cell built as `cls(D, H, rngs=…)`, as a function of (x, h, c) to (h, c); its arrays are written into it."""
    import flax.nnx

    cell = cls(inputs["x"].shape[-1], inputs["h0"].shape[-1], rngs=flax.nnx.Rngs(0), **options)
    for module, array, value in _arrays(inputs):
        getattr(getattr(cell, "if_" if module == "if" else module), array)[...] = value
    return lambda x, h, c: cell((c, h), x)[0][::-1]


def _arrays(inputs: dict) -> list[tuple]:
    """The module, the name in it and the value of every array of the cell."""
    return [(*name.split("."), value) for name, value in inputs.items() if "." in name]
