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


STEP = "step"  # under which it is kept how a module of one step is called
STEPS = {
    "module(x_t, (h, c))": lambda module: lambda x, h, c: module(x, (h, c)),
    "module(x_t, h, c)": lambda module: module,
}


def stepped(module, taken: dict, x, h, c) -> dict | None:
    """The outputs of a module that takes one step, called over time as it was found to be called; None where it takes none."""
    if STEP not in taken:
        import torch

        if (found := _found(module, *(torch.cat([q, q]) for q in (x[0], h, c)))) is None:  # one row alone may be taken for one step
            return None
        taken[STEP] = found
    how, form = taken[STEP]
    return over_time(STEPS[how](module), x, h, c, form)


def _found(module, x_t, h, c) -> tuple[str, str] | None:
    """How a module is called that takes one step, and the form of what it returns."""
    for how, called in STEPS.items():
        try:
            returned = called(module)(x_t, h, c)
        except Exception:  # it may be meant for another call
            continue
        if _are(returned, h, c):
            return how, "(h, c)"
        if isinstance(returned, (tuple, list)) and len(returned) == 2 and _are([returned[0]], h) and _are(returned[1], h, c):
            return how, "(y, (h, c))"
    return None


def _are(returned, *due) -> bool:
    """Whether these are as many tensors, of the shapes of those that are due."""
    own = isinstance(returned, (tuple, list)) and len(returned) == len(due)
    return own and all(getattr(q, "shape", None) == v.shape for q, v in zip(returned, due, strict=True))
