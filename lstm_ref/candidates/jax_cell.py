"""JAX: a cell, which takes one step at a time, scanned over time."""

from __future__ import annotations

from collections.abc import Callable


def over_time(cell: Callable, x, h, c) -> dict:
    """The outputs of a cell, `cell(x_t, h, c) -> (h, c)`, scanned over x (T, B, D)."""
    import jax

    def step(state, x_t):
        state = cell(x_t, *state)
        return state, state[0]

    (_, c_T), h = jax.lax.scan(step, (h, c), x)
    return {"h": h, "c_T": c_T}
