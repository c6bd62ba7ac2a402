"""Regions: where a fault shows that shows only somewhere. The one condition, on a size or on the numbers, that separates
cases that fail from cases that pass; cases are made for the question, with everything else ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..cases import Case
from ..judgement import tolerances as tol
from ..judgement.comparison import Block, compare_all
from ..judgement.judge import Bench, Point, fitted
from ..judgement.verdict import FAIL, UNRESOLVED
from ..reference import forward
from ..reference.symbols import BIASES, GATES, WEIGHTS, Sizes

BASE = Sizes(4, 2, 3, 5, 3)
SEEDS = (400, 401, 402)
TRIED = {"T": (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 30), "B": (1, 2, 3, 4, 5, 8), "D": (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)}
TRIED["H"] = TRIED["D"]
LARGE = 20
TILES = (32, 16, 8, 4, 2)
FINE = 1.02  # ratio of the right and the wrong side of a threshold at which the search for it ends
SMALL_A = 0.1  # size of a pre-activation
QUIET = 0.01  # share of its weights that a pre-activation keeps where its bias decides

Change = Callable[[Case], Case]


@dataclass(frozen=True)
class Region:
    """Every case inside fails and every case outside passes. `sizes` and `change` make a case one inside."""

    condition: str
    failed: int
    passed: int
    sizes: Callable[[Sizes], Sizes] = lambda n: n
    change: Change = lambda case: case


def find(face: Candidate, precision: tol.Precision) -> tuple[Region, ...]:
    """The regions that separate; several where the cases cannot tell them apart, none where nothing separates."""
    bench = Bench(face, precision, face.make())
    for search in (_sizes, _signs, _thresholds):
        if found := tuple(search(bench)):
            return found
    return ()


def _case(bench: Bench, sizes: Sizes = BASE, seed: int = SEEDS[0]) -> Case:
    return bench.case(fitted(cases.Spec(sizes, seed=seed), bench.candidate))


def _fails(bench: Bench, case: Case) -> bool | None:
    """Whether a gradient is wrong; None where that cannot be told."""
    candidate, p = bench.candidate, bench.precision
    try:
        _, found = contract.run(contract.prepare(candidate, case.inputs, p.dtype), bench.instance, case.cotangents)
    except Finding:
        return None
    point = Point(bench, case.inputs, case.cotangents)
    names = [k for k in candidate.gradient_names if k in found.arrays]
    blocks = [Block(k, found.arrays[k], point.truth.gradients[k], point.conditions[f"d{k}"], bench.u(f"d{k}")) for k in names]
    outcomes = [e.outcome for e in compare_all(blocks, p)]
    if FAIL in outcomes:
        return True
    return None if 2 * outcomes.count(UNRESOLVED) >= len(outcomes) else False


# --- sizes ---------------------------------------------------------------------------------------------------------


def _sizes(bench: Bench) -> Iterator[Region]:
    for axis, tried in TRIED.items():
        seen: dict[int, bool | None] = {}
        for size in tried:
            _try(bench, axis, size, seen)
        bad, good = ([n for n in seen if seen[n] is answer] for answer in (True, False))
        if not bad or not good:
            continue
        grows, shrinks = max(good) < min(bad), max(bad) < min(good)
        if grows or shrinks:
            low, high = (max(good), min(bad)) if grows else (max(bad), min(good))
            while high - low > 1 and _try(bench, axis, middle := (low + high) // 2, seen) is not None:
                low, high = (middle, high) if seen[middle] is seen[low] else (low, middle)
            condition, inside, outside = (f"{axis} > {low}", high, low) if grows else (f"{axis} < {high}", low, high)
            if _whatever_the_numbers(bench, axis, inside, outside):
                yield Region(condition, _count(seen, True), _count(seen, False), sizes=_within(axis, inside, max if grows else min))
            continue
        for k in TILES:
            if all(n % k == 0 for n in good) and all(n % k for n in bad) and _whatever_the_numbers(bench, axis, bad[-1], good[-1]):
                condition, inside = f"{axis} is not a multiple of {k}", min((n for n in bad if n > k), default=bad[-1])
                yield Region(condition, len(bad), len(good), sizes=_within(axis, inside, lambda value, _: value))
                break


def _try(bench: Bench, axis: str, size: int, seen: dict[int, bool | None]) -> bool | None:
    n = BASE._replace(**{axis: size})
    if size not in seen:
        seen[size] = _fails(bench, _case(bench, n)) if bench.candidate.supports.fit(n) == n else None
    return seen[size]


def _within(axis: str, limit: int, choose: Callable[[int, int], int]) -> Callable[[Sizes], Sizes]:
    few = {"T": 2, "D": 1} if limit > LARGE else {}  # or the search for a term would take too long
    return lambda n: n._replace(**{**few, axis: choose(limit, getattr(n, axis))})


def _whatever_the_numbers(bench: Bench, axis: str, inside: int, outside: int) -> bool:
    """Whether the size decides also where pre-activations are small: more terms make larger sums, so that a fault of
    large numbers looks like one of large sizes."""
    here, there = (_with_a(SMALL_A)(_case(bench, BASE._replace(**{axis: size}))) for size in (inside, outside))
    return _fails(bench, here) is True and _fails(bench, there) is False


def _count(seen: dict, answer: bool) -> int:
    return sum(v is answer for v in seen.values())


# --- signs and zeros -------------------------------------------------------------------------------------------------


def _signs(bench: Bench) -> Iterator[Region]:
    for inside, outside, inwards, outwards in _worlds(bench.candidate.model):
        for condition, here, there in ((inside, inwards, outwards), (outside, outwards, inwards)):
            if all(_fails(bench, here(c)) is True and _fails(bench, there(c)) is False for c in (_case(bench, seed=s) for s in SEEDS)):
                yield Region(condition, len(SEEDS), len(SEEDS), change=here)


def _worlds(model: bool) -> Iterator[tuple[str, str, Change, Change]]:
    """Pairs of opposite conditions, each with the change that brings a case there."""
    yield "c̃ < 0", "c̃ > 0", _biased("c", -1.0), _biased("c", 1.0)
    yield "c < 0", "c > 0", _with_c(-1.0), _with_c(1.0)
    yield "x < 0", "x > 0", _inputs(x=lambda x: -np.abs(x)), _inputs(x=np.abs)
    for k in "fio":
        yield f"{k} < ½", f"{k} > ½", _biased(k, -1.5), _biased(k, 1.5)
    checker = {"x": lambda x: x * (np.indices(x.shape).sum(0) % 2)}
    yield "x holds exact zeros", "x holds no zero", _inputs(**checker), _inputs()
    nothing = {"h0": np.zeros_like, "c0": np.zeros_like}
    yield "h0 and c0 are zero", "h0 and c0 are not zero", _inputs(**nothing), _inputs()
    if model:
        yield "a position has weight 0", "no position has weight 0", _inputs(w=_some_zero), _inputs(w=lambda w: w + (w == 0))


def _some_zero(w: np.ndarray) -> np.ndarray:
    return (w + (w == 0)) * (np.indices(w.shape).sum(0) % 2)


def _inputs(**change) -> Change:
    def changed(case: Case) -> Case:
        return replace(case, inputs={**case.inputs, **{k: f(case.inputs[k]) for k, f in change.items()}})

    return changed


def _biased(gate: str, bias: float) -> Change:
    """The gate's bias decides its sign."""
    return _inputs(**{f"W_{gate}": lambda W: QUIET * W, f"b_{gate}": lambda b: np.full_like(b, bias) + QUIET * b})


def _with_c(sign: float) -> Change:
    """Cell states of one sign, at every step."""
    return lambda case: _biased("c", sign)(_inputs(c0=lambda c: sign * np.abs(c))(case))


# --- thresholds ------------------------------------------------------------------------------------------------------


def _thresholds(bench: Bench) -> Iterator[Region]:
    def largest_a(case: Case) -> float:
        return float(np.abs(forward.forward(case.inputs).a.all).max())

    def largest_c(case: Case) -> float:
        return float(max(np.abs(forward.forward(case.inputs).c).max(), np.abs(case.inputs["c0"]).max()))

    def largest_x(case: Case) -> float:
        return float(np.abs(case.inputs["x"]).max())

    def largest_gradient(case: Case) -> float:
        return max(float(np.abs(v).max()) for v in Point(bench, case.inputs, case.cotangents).truth.gradients.values())

    yield from _threshold(bench, "|a|", largest_a, _with_a, (1.0, 2.0, 4.0, 8.0, 16.0, 30.0))
    yield from _threshold(bench, "|c|", largest_c, _with_large_c, (0.5, 1.0, 2.0, 4.0, 8.0, 16.0))
    yield from _threshold(bench, "|x|", largest_x, _with_x, (0.1, 1.0, 5.0, 25.0, 125.0))
    scales = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    yield from _threshold(bench, "the largest gradient", largest_gradient, _with_flow, scales)


def _threshold(bench: Bench, what: str, statistic, change: Callable[[float], Change], grid: tuple[float, ...]) -> Iterator[Region]:
    case = _case(bench)
    seen = {m: _fails(bench, change(m)(case)) for m in grid}
    grid = tuple(m for m in grid if seen[m] is not None)
    answers = [seen[m] for m in grid]
    if not answers or answers[0] == answers[-1] or sum(a != b for a, b in pairwise(answers)) != 1:
        return
    low = max(m for m in grid if seen[m] is answers[0])
    high = min(m for m in grid if seen[m] is answers[-1])
    while high > FINE * low:
        middle = float(np.sqrt(low * high))
        seen[middle] = _fails(bench, change(middle)(case))
        if seen[middle] is None:
            return
        low, high = (middle, high) if seen[middle] is answers[0] else (low, middle)
    if not answers[-1] and what[0] == "|":
        return  # large sums and shut gates hide small errors: what passes there may be wrong all the same
    near = _roundest(*(statistic(change(m)(case)) for m in (low, high)))
    inside = max(grid) if answers[-1] else min(grid)
    yield Region(f"{what} {'>' if answers[-1] else '<'} {near:g}", _count(seen, True), _count(seen, False), change=change(inside))


def _roundest(low: float, high: float) -> float:
    """The number of fewest digits between two, or their middle to three digits."""
    for digits in range(1, 4):
        value = float(f"{(low + high) / 2:.{digits}g}")
        if low <= value <= high:
            return value
    return float(f"{(low + high) / 2:.3g}")


def _with_a(m: float) -> Change:
    """|a| = m for every gate and unit, with signs that alternate."""

    def changed(case: Case) -> Case:
        weights = {k: QUIET * case.inputs[k] for k in WEIGHTS}
        biases = {k: m * (-1.0) ** (np.arange(len(case.inputs[k])) + n) for n, k in enumerate(BIASES)}
        return replace(case, inputs={**case.inputs, **weights, **biases})

    return changed


def _with_large_c(m: float) -> Change:
    return _inputs(c0=lambda c: m * np.sign(c))


def _with_x(m: float) -> Change:
    """Entries of x up to m, with weights as much smaller."""

    def changed(case: Case) -> Case:
        H, size = case.inputs["h0"].shape[1], float(np.abs(case.inputs["x"]).max())
        weights = {f"W_{k}": case.inputs[f"W_{k}"].copy() for k in GATES}
        for W in weights.values():
            W[:, H:] *= size / m
        return replace(case, inputs={**case.inputs, **weights, "x": case.inputs["x"] * (m / size)})

    return changed


def _with_flow(m: float) -> Change:
    """What flows in, m times as large."""

    def changed(case: Case) -> Case:
        if case.model:
            return _inputs(w=lambda w: m * w)(case)
        return replace(case, cotangents={k: m * v for k, v in case.cotangents.items()})

    return changed
