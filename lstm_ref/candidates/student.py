"""Student: an object that keeps its own parameters and data: `params` (name to array), `loss()`, `gradients()`.

Its parameters are perturbed in place and put back, so it can be differenced without knowing what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def is_student(thing) -> bool:
    return all(hasattr(thing, k) for k in ("params", "loss", "gradients")) and isinstance(thing.params, Mapping)


def loss_along(thing, name: str, direction: np.ndarray):
    """J as a function of a step along `direction` in parameter `name`; the parameter is restored after every call."""
    target = thing.params[name]
    kept = target.copy()

    def J(step: float) -> float:
        try:
            target[...] = kept + step * direction
            return float(thing.loss())
        finally:
            target[...] = kept

    return J
