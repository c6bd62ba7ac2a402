"""flax: how a cell of flax.linen or of flax.nnx is built, with arrays of ours, which are named "module.array"."""

from __future__ import annotations

from collections.abc import Callable

from .flax_variant import with_functions


def build(cls, options: dict, D: int, H: int):
    """A cell that is built as `cls(features=H)`, or as `cls(D, H, rngs=…)` if it is one of nnx."""
    import flax.linen
    import flax.nnx

    options = with_functions(options)
    if issubclass(cls, flax.linen.Module):
        return cls(features=H, **options)
    return cls(D, H, rngs=flax.nnx.Rngs(0), **options)


def step(cell, inputs: dict) -> Callable:
    """A cell with the arrays among the inputs, as a function of (x, h, c) to (h, c)."""
    import flax.linen

    arrays = [(*name.split("."), value) for name, value in inputs.items() if "." in name]
    if isinstance(cell, flax.linen.Module):
        params: dict[str, dict] = {}
        for module, array, value in arrays:
            params.setdefault(module, {})[array] = value
        return lambda x, h, c: cell.apply({"params": params}, (c, h), x)[0][::-1]
    for module, array, value in arrays:
        getattr(getattr(cell, "if_" if module == "if" else module), array)[...] = value
    return lambda x, h, c: cell((c, h), x)[0][::-1]
