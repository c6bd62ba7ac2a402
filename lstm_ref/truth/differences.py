"""Differences: the derivative of a candidate's own forward along a direction, with a bound on its error.

A ladder. The complex step costs one forward pass and has no cancellation, where the forward pass is complex-safe.
Else the six-point central difference, with the step chosen per direction from |six-point − four-point|. Else
Richardson's extrapolation of central differences at falling steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

COMPLEX_STEP = 1e-20  # small enough that h² vanishes beside 1, large enough never to underflow
STEPS = (2.0**-7, 2.0**-5, 2.0**-9)  # for a unit direction in float64, best first: bounds of 1e-11 at ordinary weights
COARSE_STEPS = (2.0**-5, 2.0**-7)  # for float32 and below; above 2⁻⁵ the bound misses the truth in 4 of 900 directions
KINK_STEPS = tuple(2.0**-n for n in (9, 12, 15, 18, 21, 24, 27))  # where J may have a kink nearby, or bends within a longer step
COARSE_KINK_STEPS = (2.0**-7, 2.0**-9)
RICHARDSON_STEP, RICHARDSON_ROWS = 2.0**-3, 8
SIX_POINT = ((1, 45 / 60), (2, -9 / 60), (3, 1 / 60))
FOUR_POINT = ((1, 8 / 12), (2, -1 / 12))
TWO_POINT = ((1, 1 / 2),)
ROUNDING_GAIN = 2 * sum(abs(weight) for _, weight in SIX_POINT)


class Difference(NamedTuple):
    """The derivative along a direction, a bound on its error, the way it was found, the forward passes it cost, and the step."""

    value: float
    bound: float
    method: str
    passes: int
    step: float = 0.0


def complex_step(J: Callable[[complex], complex]) -> Difference | None:
    """Im J(ih)/h, exact to rounding; None where J is not complex-safe (a non-finite imaginary part)."""
    return of_complex_step(J(1j * COMPLEX_STEP))


def of_complex_step(value: complex) -> Difference | None:
    """The same, of the value of J there."""
    slope = np.imag(value) / COMPLEX_STEP
    return Difference(float(slope), 0.0, "complex step", 1) if np.isfinite(slope) else None


def six_point(
    J: Callable[[float], float],
    rounding: float,
    safety: float,
    scale: float,
    good_enough: float,
    coarse: bool = False,
    tries: int | None = None,
) -> Difference:
    """The six-point central difference of J at 0 along a unit direction.

    `rounding` bounds the rounding error of one value of J, `scale` is the size that the derivative is thought to have.
    The bound on the result is `safety` times |six − four point| plus what rounding adds; since six and four point may
    agree by chance, it is at least what |four − two point| lets one expect of their difference. Other steps are tried
    until the bound is `good_enough`, `tries` of them at most, and none at which rounding alone adds more than the bound found, nor a
    longer one than that at which the bend of J already adds more than rounding.
    """
    best, passes = Difference(np.nan, np.inf, "six-point", 0), 0
    for h in (COARSE_STEPS if coarse else STEPS)[:tries]:
        if rounded(rounding, h) >= best.bound or (0 < best.step < h and best.bound > 2 * rounded(rounding, best.step)):
            continue
        odd = {k: J(k * h) - J(-k * h) for k in (1, 2, 3)}
        passes += 6
        six, four, two = (sum(w * odd[k] for k, w in rule) / h for rule in (SIX_POINT, FOUR_POINT, TWO_POINT))
        size = max(abs(six), scale)
        expected = 0.0 if four == two else (four - two) * (four - two) / size if size else np.inf  # ** raises where it overflows
        bound = safety * max(abs(six - four), expected) + rounded(rounding, h)
        if bound < best.bound:
            best = Difference(float(six), float(bound), "six-point", passes, h)
        if best.bound <= good_enough:
            break
    return best._replace(passes=passes)


def real_steps(
    J: Callable[[float], float], rounding: float, safety: float, scale: float, good_enough: float, enough: float, coarse: bool
) -> Difference:
    """The six-point difference; where its bound is above `enough`, that or the adaptive one, whichever has the smaller bound."""
    found = six_point(J, rounding, safety, scale, good_enough, coarse)
    if found.bound > enough and least_bound(rounding) < found.bound:
        found = min(found, adaptive(J, rounding, safety, coarse), key=lambda d: d.bound)
    return found


def rounded(rounding: float, step: float) -> float:
    """What rounding of J adds to the bound of a six-point difference at a step."""
    return ROUNDING_GAIN * rounding / step


def least_bound(rounding: float) -> float:
    """What rounding alone adds to the bound of every difference, at the least: at the largest step that has a bound."""
    return rounded(rounding, RICHARDSON_STEP / 2)


def near_kinks(J: Callable[[float], float], rounding: float, safety: float, good_enough: float, coarse: bool = False) -> Difference:
    """The six-point central difference of J at 0 where J may have kinks, as hard sigmoids, relus and clips make them.

    A kink within reach of a step moves all the rules by a share of its change of slope, sometimes by nearly the same, so that
    they agree on a wrong value. It also leaves a part in J(h) + J(−h) that no smooth J has: the sixth difference
    Σ = S₃ − 6S₂ + 15S₁ − 20J(0), S_k = J(kh) + J(−kh), vanishes to order h⁶ where J is smooth. The bound is `safety` times
    |six − four| + |four − two| + |Σ|/12h, plus what rounding adds; where J is smooth it falls as h². Where a shorter step has a value
    beyond both bounds, the longer one is dropped: J is chaotic within it.
    """
    best, passes, at_0 = Difference(np.nan, np.inf, "six-point, near kinks", 0), 1, J(0.0)
    found: list[Difference] = []
    for h in COARSE_KINK_STEPS if coarse else KINK_STEPS:
        if rounded(rounding, h) >= best.bound:
            break
        ahead, behind = ([J(sign * k * h) for k in (1, 2, 3)] for sign in (1, -1))
        passes += 6
        six, four, two = (sum(w * (ahead[k - 1] - behind[k - 1]) for k, w in rule) / h for rule in (SIX_POINT, FOUR_POINT, TWO_POINT))
        even = [p + q for p, q in zip(ahead, behind, strict=True)]
        kinked = abs(even[2] - 6 * even[1] + 15 * even[0] - 20 * at_0) / (12 * h)
        bound = safety * (abs(six - four) + abs(four - two) + kinked) + rounded(rounding, h)
        if np.isfinite(bound):
            found = [d for d in found if abs(d.value - six) <= d.bound + bound]
            found.append(Difference(float(six), float(bound), best.method, 0, h))
            best = min(found, key=lambda d: d.bound)
        if best.bound <= good_enough:
            break
    return best._replace(passes=passes)


def adaptive(J: Callable[[float], float], rounding: float, safety: float, coarse: bool = False) -> Difference:
    """Richardson's table over central differences at steps ⅛, 1/16, …: the entry that agrees best with its neighbours."""
    best = Difference(np.nan, np.inf, "adaptive", 0)
    row: list[float] = []
    h = RICHARDSON_STEP
    for n in range(RICHARDSON_ROWS // (2 if coarse else 1)):
        if rounded(rounding, h) >= best.bound:
            break
        new = [(J(h) - J(-h)) / (2 * h)]
        for k, older in enumerate(row):
            new.append(new[k] + (new[k] - older) / (4 ** (k + 1) - 1))
            bound = safety * max(abs(new[-1] - new[-2]), abs(new[-1] - older)) + rounded(rounding, h)
            if bound < best.bound:
                best = Difference(float(new[-1]), float(bound), "adaptive", 2 * (n + 1), h)
        row, h = new, h / 2
    return best._replace(passes=2 * len(row))
