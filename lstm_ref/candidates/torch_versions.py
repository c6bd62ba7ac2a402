"""torch: numbers written into the parameters of a module, and the versions by which autograd and modules know of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable


def write(own, values) -> None:
    """Write numbers into a tensor where it lies, as an optimiser does: its version counts on, so that what a module keeps of its
    parameters from call to call is told to be out of date."""
    import torch

    if own is not values:
        with torch.no_grad():
            own.copy_(values)


def remembered(own: list, values: list) -> Callable:
    """A context in which tensors have the numbers and the versions that they have now, as the backward pass needs that saved them. The
    versions count on from where they were afterwards, the numbers stay."""
    written = [(q, v, q._version) for q, v in zip(own, values, strict=True) if q is not v]

    @contextlib.contextmanager
    def as_now():
        later = [q._version for q, _, _ in written]
        for q, v, version in written:
            q.data.copy_(v.detach())
            _set_version(q, version)
        try:
            yield
        finally:
            for (q, _, _), version in zip(written, later, strict=True):
                _set_version(q, version)

    return as_now


def _set_version(q, version: int) -> None:
    from torch._C import _autograd

    try:
        _autograd._unsafe_set_version_counter((q,), (version,))
    except TypeError:  # before torch 2.5
        _autograd._unsafe_set_version_counter(q, version)  # type: ignore[arg-type]
