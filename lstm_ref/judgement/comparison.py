"""Comparison: a block of numbers, the truth and its condition in, one piece of evidence out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from . import tolerances as tol
from .tolerances import Condition, Precision
from .verdict import FAIL, PASS, UNRESOLVED, ZERO, Evidence


class Block(NamedTuple):
    """What is compared: a quantity's name for messages, arrays of one shape (never broadcast), the condition, and the
    unit roundoff, which is the dtype's unless it was measured."""

    quantity: str
    seen: np.ndarray
    due: np.ndarray
    condition: Condition
    u: float


def compare(quantity: str, seen: np.ndarray, due: np.ndarray, c: Condition, p: Precision, u: float | None = None) -> Evidence:
    """Judge one block at unit roundoff `u`, the dtype's unless measured."""
    return compare_all([Block(quantity, seen, due, c, p.u if u is None else u)], p)[0]


def compare_all(blocks: list[Block], p: Precision) -> list[Evidence]:
    """Judge blocks, each for itself. What needs every entry is computed for all of them at once.

    In this order: out of range, NaN or infinity, first order lost, an error above tolerance, a tolerance too wide to
    tell anything, pass.
    """
    if not blocks:
        return []
    for b in blocks:
        if b.seen.shape != b.due.shape:
            raise ValueError(f"{b.quantity}: shapes {b.seen.shape} and {b.due.shape} cannot be compared")
    sizes = np.array([b.seen.size for b in blocks])
    starts = np.cumsum(sizes) - sizes
    seen, due, C = (np.concatenate([v.ravel() for v in vs]) for vs in zip(*((b.seen, b.due, b.condition.C) for b in blocks), strict=True))
    limit = tol.KAPPA * np.repeat([b.u for b in blocks], sizes) * C
    with np.errstate(all="ignore"):
        error = np.abs(seen - due)
        ratios = error / limit
        rms = np.sqrt(np.add.reduceat((ratios * tol.KAPPA) ** 2, starts) / sizes) / tol.RMS_LIMIT
    seen_finite, due_finite = (np.logical_and.reduceat(np.isfinite(v), starts) for v in (seen, due))
    nonzero, widest = np.logical_or.reduceat(due, starts), np.maximum.reduceat(limit, starts)
    found = []
    for n, (b, start, size) in enumerate(zip(blocks, starts.tolist(), sizes.tolist(), strict=True)):
        if not b.condition.in_range:
            found.append(Evidence(UNRESOLVED, quantity=b.quantity, rule=f"values come within 1/16 of the largest {p.name}"))
            continue
        if not due_finite[n]:
            found.append(Evidence(UNRESOLVED, quantity=b.quantity, rule="the truth itself is not finite"))
            continue
        if not seen_finite[n]:
            index = tuple(int(k) for k in np.argwhere(~np.isfinite(b.seen))[0])
            rule = f"{b.seen[index]} is not a finite number"
            found.append(Evidence(FAIL, np.inf, b.quantity, index, float(b.seen[index]), float(b.due[index]), rule=rule))
            continue
        if not b.condition.first_order:
            found.append(Evidence(UNRESOLVED, quantity=b.quantity, rule="rounding here is too large to be followed to first order"))
            continue
        entry = int(ratios[start : start + size].argmax())
        at = start + entry
        worst, spread = ratios.item(at), rms.item(n) if size >= tol.RMS_ENTRIES else 0.0
        rule = "|candidate − autodiff| ≤ κ·u·C"
        if spread > 1 >= worst:
            rule = f"rms(error / u·C) ≤ {tol.RMS_LIMIT} over the block, where it is {spread * tol.RMS_LIMIT:.1f}"
        sight = (1 + worst) * widest.item(n) / b.condition.scale  # the candidate's own rounding may hide as much again
        of_entry = (seen.item(at), due.item(at), None, error.item(at), limit.item(at), rule, "", C.item(at), sight)
        values = (b.quantity, index_of(entry, b.seen.shape), *of_entry)
        ratio = worst if worst > 1 else max(worst, spread)
        outcome = PASS if nonzero[n] else ZERO
        if ratio > 1:
            outcome = FAIL
        elif widest[n] >= p.resolution * b.condition.scale:
            outcome = UNRESOLVED
        found.append(Evidence(outcome, ratio, *values))
    return found


def index_of(entry: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where the n-th entry of an array lies; np.unravel_index takes three times as long for it."""
    index: tuple[int, ...] = ()
    for size in reversed(shape):
        entry, k = divmod(entry, size)
        index = (k, *index)
    return index


def compare_along(
    quantity: str,
    seen: np.ndarray,
    direction: np.ndarray,
    slope: float,
    slope_bound: float,
    limit: np.ndarray,
    p: Precision,
    note: str = "",
) -> Evidence:
    """Judge ⟨gradient, direction⟩ against a difference: the tolerance is Σ|d|·tolerance plus the difference's own bound.
    `note` goes into the evidence: how the difference was found."""
    along = float(np.vdot(seen, direction))
    tolerance = float(np.vdot(np.abs(direction), limit)) + slope_bound
    if not math.isfinite(slope) or not math.isfinite(tolerance):
        return Evidence(UNRESOLVED, quantity=quantity, rule="the difference is not finite", note=note)
    error = abs(along - slope)
    ratio = error / tolerance if tolerance else (np.inf if error else 0.0)
    one = np.count_nonzero(direction) == 1
    index = tuple(int(k) for k in np.argwhere(direction)[0]) if one else ()
    rule = "|⟨candidate, direction⟩ − difference| ≤ Σ|d|·κ·u·C + the difference's own bound"
    values: tuple = (quantity, index, along, None, slope, error, tolerance, rule, note)
    if not math.isfinite(along) or ratio > 1:
        return Evidence(FAIL, ratio if math.isfinite(along) else np.inf, *values)
    typical = max(abs(slope), abs(along), math.sqrt(np.vdot(seen, seen) / seen.size))
    if not typical:
        return Evidence(ZERO, ratio, *values)  # no number moves at all
    values += (None, (1 + ratio) * tolerance / typical)
    return Evidence(UNRESOLVED if tolerance >= p.resolution * typical else PASS, ratio, *values)


def looks_like(seen: np.ndarray, due: np.ndarray, lower: np.dtype, u_lower: float) -> bool:
    """Whether a block looks computed in a lower precision: all its values lie in it, or its errors have its size."""
    if not np.any(seen) or not np.isfinite(seen).all():
        return False
    if lies_in(seen, lower):
        return True
    size = np.abs(due)
    typical = np.median(np.abs(seen - due)[size > 0] / (u_lower * size[size > 0])) if size.any() else 0.0
    low, high = tol.LOOK_ALIKE
    return bool(low <= typical <= high)


def lies_in(seen: np.ndarray, lower: np.dtype) -> bool:
    """Whether every number of a block, which is not all zeros, is one of a lower precision."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.any(seen) and np.array_equal(seen.astype(lower).astype(seen.dtype), seen))


def worst_of(pieces: list[Evidence]) -> Evidence:
    """The piece that speaks loudest: a failure before what was unresolved before a pass, then the largest ratio."""
    order = {FAIL: 3, UNRESOLVED: 2, PASS: 1, ZERO: 0}
    return max(pieces, key=lambda e: (order[e.outcome], e.ratio))
