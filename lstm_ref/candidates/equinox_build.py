"""equinox: how a cell is built, to be looked at and to be run, and how its arrays, which are named by their paths, are filled in."""

from __future__ import annotations

from .layout import LayoutError


def probe(cls, options: dict) -> tuple[tuple[int, int], dict[str, tuple[int, ...]]]:
    """Sizes (D, H) that tell the arrays of a cell apart, and the shape of each there by name. Raises LayoutError."""
    sizes = (3, 5)
    try:
        return sizes, {k: v.shape for k, v in _arrays(build(cls, options, *sizes)).items()}
    except Exception as error:
        raise LayoutError(f"building {cls.__name__}{sizes} raised {type(error).__name__}: {error}") from error


def build(cls, options: dict, D: int, H: int):
    import jax

    return cls(D, H, key=jax.random.PRNGKey(0), **options)


def filled(cell, inputs: dict):
    """The cell with the weights among the inputs in the place of its own."""
    import equinox
    import jax

    learnt, rest = equinox.partition(cell, equinox.is_inexact_array)
    structure = jax.tree_util.tree_structure(learnt)
    return equinox.combine(jax.tree_util.tree_unflatten(structure, [inputs[k] for k in _arrays(cell)]), rest)


def _arrays(cell) -> dict:
    """What is learnt in a cell, in order, by the path to it: "weight_ih", or "cell.weight_ih"."""
    import equinox
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(equinox.filter(cell, equinox.is_inexact_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): v for path, v in leaves}
