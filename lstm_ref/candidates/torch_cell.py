"""torch: a cell, which takes one step at a time, called over time."""

from __future__ import annotations

from collections.abc import Callable


def over_time(cell: Callable, x, h, c, form: str = "(h, c)") -> dict:
    """The outputs of a cell, `cell(x_t, h, c)`, which returns (h, c) or (y, (h, c)), called for each step of x (T, B, D)."""
    import torch

    steps = []
    for x_t in x:
        returned = cell(x_t, h, c)
        y, (h, c) = (returned[0], returned) if form == "(h, c)" else returned
        steps.append(y if y.shape == h.shape else h)
    return {"h": torch.stack(steps), "c_T": c}
