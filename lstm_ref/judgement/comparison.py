"""Comparison: a block of numbers, the truth and its condition in, one piece of evidence out."""

from __future__ import annotations

import numpy as np

from . import tolerances as tol
from .tolerances import Condition, Precision
from .verdict import FAIL, PASS, UNRESOLVED, ZERO, Evidence


def compare(quantity: str, seen: np.ndarray, due: np.ndarray, c: Condition, p: Precision, u: float | None = None) -> Evidence:
    """Judge one block (arrays of one shape; it is never broadcast) at unit roundoff `u`, the dtype's unless measured.

    In this order: out of range, NaN or infinity, first order lost, an error above tolerance, a tolerance too wide to
    tell anything, pass.
    """
    if seen.shape != due.shape:
        raise ValueError(f"{quantity}: shapes {seen.shape} and {due.shape} cannot be compared")
    u = p.u if u is None else u
    if not c.in_range:
        return Evidence(UNRESOLVED, quantity=quantity, rule=f"values come within 1/16 of the largest {p.name}")
    if not np.isfinite(due).all():
        return Evidence(UNRESOLVED, quantity=quantity, rule="the truth itself is not finite")
    if not np.isfinite(seen).all():
        index = tuple(int(k) for k in np.argwhere(~np.isfinite(seen))[0])
        rule = f"{seen[index]} is not a finite number"
        return Evidence(FAIL, np.inf, quantity, index, float(seen[index]), float(due[index]), rule=rule)
    if not c.first_order:
        return Evidence(UNRESOLVED, quantity=quantity, rule="rounding here is too large to be followed to first order")
    error, limit = np.abs(seen - due), tol.tolerance(c, u)
    with np.errstate(over="ignore"):
        ratios = error / limit
    index = tuple(int(k) for k in np.unravel_index(np.argmax(ratios), ratios.shape))
    worst, rms = float(ratios[index]), 0.0
    if error.size >= tol.RMS_ENTRIES:
        with np.errstate(over="ignore"):
            rms = float(np.sqrt(np.mean((ratios * tol.KAPPA) ** 2))) / tol.RMS_LIMIT
    rule = "|candidate − autodiff| ≤ κ·u·C"
    if rms > 1 >= worst:
        rule = f"rms(error / u·C) ≤ {tol.RMS_LIMIT} over the block, where it is {rms * tol.RMS_LIMIT:.1f}"
    values = (quantity, index, float(seen[index]), float(due[index]), None, float(error[index]), float(limit[index]), rule)
    ratio = worst if worst > 1 else max(worst, rms)
    if ratio > 1:
        return Evidence(FAIL, ratio, *values)
    if limit.max() >= p.resolution * c.scale:
        return Evidence(UNRESOLVED, ratio, *values)
    return Evidence(PASS if due.any() else ZERO, ratio, *values)


def compare_along(
    quantity: str, seen: np.ndarray, direction: np.ndarray, slope: float, slope_bound: float, limit: np.ndarray, p: Precision
) -> Evidence:
    """Judge ⟨gradient, direction⟩ against a difference: the tolerance is Σ|d|·tolerance plus the difference's own bound."""
    along = float(np.sum(seen * direction))
    tolerance = float(np.sum(np.abs(direction) * limit)) + slope_bound
    if not np.isfinite(slope) or not np.isfinite(tolerance):
        return Evidence(UNRESOLVED, quantity=quantity, rule="the difference is not finite")
    error = abs(along - slope)
    ratio = error / tolerance if tolerance else (np.inf if error else 0.0)
    one = np.count_nonzero(direction) == 1
    index = tuple(int(k) for k in np.argwhere(direction)[0]) if one else ()
    rule = "|⟨candidate, direction⟩ − difference| ≤ Σ|d|·κ·u·C + the difference's own bound"
    values = (quantity, index, along, None, slope, error, tolerance, rule)
    if not np.isfinite(along) or ratio > 1:
        return Evidence(FAIL, ratio if np.isfinite(along) else np.inf, *values)
    typical = max(abs(slope), abs(along), float(np.linalg.norm(seen)) / np.sqrt(seen.size))
    if tolerance >= p.resolution * typical and (typical > 0 or slope_bound > p.m):
        return Evidence(UNRESOLVED, ratio, *values)
    return Evidence(PASS if typical else ZERO, ratio, *values)


def looks_like(seen: np.ndarray, due: np.ndarray, lower: np.dtype, u_lower: float) -> bool:
    """Whether a block looks computed in a lower precision: all its values lie in it, or its errors have its size."""
    if not np.any(seen) or not np.isfinite(seen).all():
        return False
    with np.errstate(over="ignore"):
        if np.array_equal(seen.astype(lower).astype(seen.dtype), seen):
            return True
    size = np.abs(due)
    typical = np.median(np.abs(seen - due)[size > 0] / (u_lower * size[size > 0])) if size.any() else 0.0
    low, high = tol.LOOK_ALIKE
    return bool(low <= typical <= high)


def worst_of(pieces: list[Evidence]) -> Evidence:
    """The piece that speaks loudest: a failure before what was unresolved before a pass, then the largest ratio."""
    order = {FAIL: 3, UNRESOLVED: 2, PASS: 1, ZERO: 0}
    return max(pieces, key=lambda e: (order[e.outcome], e.ratio))
