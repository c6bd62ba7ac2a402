"""torch: a cell, which takes one step at a time, called over time."""

from __future__ import annotations

from collections.abc import Callable


def over_time(cell: Callable, x, h, c) -> dict:
    """The outputs of a cell, `cell(x_t, h, c) -> (h, c)`, called for each step of x (T, B, D)."""
    import torch

    steps = []
    for x_t in x:
        h, c = cell(x_t, h, c)
        steps.append(h)
    return {"h": torch.stack(steps), "c_T": c}
