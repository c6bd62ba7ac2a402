"""JAX: a cell, which takes one step at a time, scanned over time."""

from __future__ import annotations

from collections.abc import Callable

from .contract import Told

FORMS = {"(h, c)": lambda q: (q[0], q), "(y, (h, c))": lambda q: q, "((c, h), y)": lambda q: (q[1], q[0][::-1])}  # of what a step returns


def over_time(cell: Callable, x, h, c, form: str = "(h, c)") -> dict:
    """The outputs of a cell, `cell(x_t, h, c)`, which returns one of FORMS, scanned over x (T, B, D). Raises Told."""
    import jax

    def step(state, x_t):
        y, *state = _read(cell(x_t, *state), form, *state)
        return tuple(state), y

    (_, c_T), h = jax.lax.scan(step, (h, c), x)
    return {"h": h, "c_T": c_T}


def _read(returned, form: str, *before) -> tuple:
    """y, h and c in what a step returned, which are arrays as those `before` are; y may be of another kind, and is h then. Raises Told."""
    try:
        y, (h, c) = FORMS[form](returned)
        read = [_told(h), _told(c)] == [_told(q) for q in before]
    except Exception:  # anything may fail in foreign code
        read = False
    if not read:
        raise Told(f"was given {_told(returned)} by one step of the cell; {form} is due, with h and c each {_told(before[0])}")
    return y if _told(y) == _told(h) else h, h, c


def _told(q) -> str:
    """What came back, in words: "(float64[3, 5], float64[3, 5])"."""
    if isinstance(q, (tuple, list)):
        return f"({', '.join(map(_told, q))})"
    return f"{q.dtype}{list(q.shape)}" if hasattr(q, "shape") and hasattr(q, "dtype") else f"a {type(q).__name__}"
