"""torch: what flows into a backward pass, as tensors, and what is written there."""

from __future__ import annotations

import numpy as np

from .torch_tensors import array, tensor


def as_it_lies(q: np.ndarray):
    """The same, with gaps in memory where the array has some: what flows into a backward pass may lie in any way."""
    if q.flags.c_contiguous:
        return tensor(q)
    wide = np.zeros((*q.shape[:-1], 2 * q.shape[-1] + 1), q.dtype)
    wide[..., :-1:2] = q
    return tensor(wide)[..., :-1:2]


def hand_back(tensors, arrays) -> None:
    """Write what was written into tensors into the arrays that they are copies of: a function that changes what it is given has changed
    what its caller holds."""
    for q, own in zip(tensors, arrays, strict=True):
        if q._version and q.shape == own.shape and own.flags.writeable:
            own[...] = array(q)
