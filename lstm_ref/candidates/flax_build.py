"""flax: how a cell of flax.linen or of flax.nnx is built, with arrays of ours, which are named "array" or "module.array"."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from .flax_variant import with_functions
from .layout import LayoutError


def build(cls, options: dict, D: int, H: int):
    """A cell that is built as `cls(features=H)`, or as `cls(D, H, rngs=…)` if it is one of nnx; dtypes are for those who take them."""
    import flax.linen
    import flax.nnx

    taken = inspect.signature(cls.__init__).parameters
    left = {"dtype", "param_dtype"} - set(taken) if all(p.kind is not p.VAR_KEYWORD for p in taken.values()) else set()
    options = {k: v for k, v in with_functions(options).items() if k not in left}
    if issubclass(cls, flax.linen.Module):
        return cls(features=H, **options)
    return cls(D, H, rngs=flax.nnx.Rngs(0), **options)


def probe(cls, options: dict) -> tuple[tuple[int, int], dict[str, tuple[int, ...]]]:
    """Sizes (D, H) that tell the arrays of a cell apart, and the shape of each there by name. Raises LayoutError."""
    import flax.linen
    import jax

    D, H = sizes = (3, 5)
    try:
        cell = build(cls, options, D, H)
        if not isinstance(cell, flax.linen.Module):
            return sizes, {k: tuple(v.shape) for k, v in _variables(cell).items()}
        made = jax.eval_shape(cell.init, jax.random.PRNGKey(0), (jax.numpy.zeros((1, H)),) * 2, jax.numpy.zeros((1, D)))
    except Exception as error:
        raise LayoutError(f"building it for D, H = 3, 5 or calling it as cell((c, h), x) raised {type(error).__name__}: {error}") from error
    leaves, _ = jax.tree_util.tree_flatten_with_path(made.get("params", {}))
    return sizes, {jax.tree_util.keystr(path, simple=True, separator="."): tuple(v.shape) for path, v in leaves}


def step(cell, weights: dict) -> Callable:
    """A cell with the weights, as a function of (x, h, c) to ((c, h), y)."""
    import flax.linen
    import flax.traverse_util

    if isinstance(cell, flax.linen.Module):
        params = flax.traverse_util.unflatten_dict(weights, sep=".")
        return lambda x, h, c: cell.apply({"params": params}, (c, h), x)
    for name, variable in _variables(cell).items():
        variable.set_value(weights[name])  # in their dtype, not in that of what is there
    return lambda x, h, c: cell((c, h), x)


def _variables(cell) -> dict:
    """The parameters of a cell of nnx by name; where an attribute is called `if_`, the name says `if`, as linen's does."""
    import flax.nnx

    found = {path: v for path, v in flax.nnx.iter_graph(cell) if isinstance(v, flax.nnx.Param)}
    return {".".join("if" if part == "if_" else str(part) for part in path): v for path, v in found.items()}
