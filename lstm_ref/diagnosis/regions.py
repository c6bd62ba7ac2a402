"""Regions: where a fault shows that shows only somewhere. The one condition, on a size or on the numbers, that separates
cases that fail from cases that pass; cases are made for the question, with everything else ordinary. What separates them is then
held against the cases that a run has seen: a condition that one of those contradicts is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from typing import NamedTuple

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..cases import Case
from ..judgement import tolerances as tol
from ..judgement.judge import Bench, Judged, Point, fitted, held_against_autodiff
from ..judgement.regions import TILES, condition
from ..judgement.verdict import FAIL, UNRESOLVED
from ..reference import forward
from ..reference.symbols import BIASES, GATES, WEIGHTS, Sizes
from ..truth import variants

BASE = Sizes(4, 2, 3, 5, 3)
SEEDS = (400, 401, 402)
TRIED = {"T": (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 30), "B": (1, 2, 3, 4, 5, 8, 16, 17, 33)}
TRIED["D"] = TRIED["H"] = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 33)
CLASSES = {"K": (2, 3, 4, 5, 8)}  # of a model
LARGE = 20
FINE = 1.02  # ratio of the right and the wrong side of a threshold at which the search for it ends
BESIDE = 1.03  # how far from a threshold, as a ratio, other cases must agree with it
INNER = ("|da|", "|dc_t|", "|dh_t|")
SMALL_A = 0.1  # size of a pre-activation
QUIET = 0.01  # share of its weights that a pre-activation keeps where its bias decides

Change = Callable[[Case], Case]
Choose = Callable[[int, int], int]


@dataclass(frozen=True)
class Region:
    """Every case inside fails and every case outside passes. `sizes` and `change` make a case one inside, `holds` says whether a
    case may fail by it, `must` whether an ordinary one must."""

    condition: str
    failed: int
    passed: int
    sizes: Callable[[Sizes], Sizes] = lambda n: n
    change: Change = lambda case: case
    holds: Callable[[Case], bool] = lambda case: True
    must: Callable[[Case], bool] = lambda case: False


def find(face: Candidate, precision: tol.Precision, failing: Sequence[Case] = (), right: Sequence[Case] = ()) -> tuple[Region, ...]:
    """The regions that separate; several where the cases cannot tell them apart, none where nothing separates. `failing` are cases
    of a run that fail, `right` ordinary ones that did not."""
    bench = Bench(face, precision, face.make())
    clips = _clips(bench)
    searches = (_sizes, _signs, _thresholds)
    for found in (clips,) if clips is not None else (tuple(search(bench)) for search in searches):
        if standing := tuple(r for r in found if _stands(bench, r, failing, right)):
            return standing
    return ()


def _stands(bench: Bench, region: Region, failing: Sequence[Case], right: Sequence[Case]) -> bool:
    """Whether no case of the run contradicts a region."""
    return all(region.holds(case) for case in failing) and not any(region.must(case) and fails(bench, case) is False for case in right)


def _case(bench: Bench, sizes: Sizes = BASE, seed: int = SEEDS[0]) -> Case:
    return bench.case(fitted(cases.Spec(sizes, seed=seed), bench.candidate))


def fails(bench: Bench, case: Case) -> bool | None:
    """Whether a gradient is wrong, as a run judges it, and is so again when it is asked again; None where that cannot be told, as of
    an array of the wrong shape."""
    found = Judged(case, Point(bench, case.inputs, case.cotangents))
    answer = _asked(bench, case)
    if answer is None or not (outcome := _wrong(bench, found, answer)):
        return None if answer is None else outcome
    again = _asked(bench, case)
    if again is None or not (_same(answer, again) or _wrong(bench, found, again)):
        return None
    return True


def _asked(bench: Bench, case: Case) -> contract.Answer | None:
    try:
        return contract.run(_called(bench, case), bench.instance, case.cotangents)[1]
    except Finding:
        return None


def _same(one: contract.Answer, other: contract.Answer) -> bool:
    return one.arrays.keys() == other.arrays.keys() and all(np.array_equal(one.arrays[k], other.arrays[k]) for k in one.arrays)


def wrong(bench: Bench, case: Case, returned: dict[str, np.ndarray]) -> bool | None:
    """Whether a gradient is wrong where the candidate would return these arrays."""
    found = Judged(case, Point(bench, case.inputs, case.cotangents))
    return _wrong(bench, found, contract.answer(_called(bench, case), returned, "pullback", bench.candidate.gradient_names))


def _called(bench: Bench, case: Case) -> contract.Call:
    return contract.prepare(bench.candidate, case.inputs, bench.precision.dtype, case.spec.memory)


def _wrong(bench: Bench, found: Judged, answer: contract.Answer) -> bool | None:
    due = found.point.truth.gradients
    names = [k for k in answer.arrays if k.removesuffix(".second") in bench.candidate.gradient_names]
    own = {k: k.removesuffix(".second") for k in names}  # of two biases, both are judged
    blocks = [(k, answer.arrays[k], due[own[k]], f"d{own[k]}") for k in names]
    outcomes = [e.outcome for e in held_against_autodiff(found, blocks, bench)]
    if FAIL in outcomes:
        return True
    return None if answer.faults or 2 * outcomes.count(UNRESOLVED) >= len(outcomes) else False


# --- sizes ---------------------------------------------------------------------------------------------------------


def _sizes(bench: Bench) -> Iterator[Region]:
    alone: dict[str, int] = {}
    for axis, tried in (TRIED | CLASSES if bench.candidate.model else TRIED).items():
        seen: dict[int, bool | None] = {}
        for size in tried:
            _try(bench, axis, size, seen)
        bad, good = _split(seen)
        if not bad or not good:
            continue
        if len(bad) == 1 and good[0] < bad[0] < good[-1]:  # its neighbours, and its double, which a tile would share
            for n in (bad[0] - 1, bad[0] + 1, 2 * bad[0]):
                _try(bench, axis, n, seen)
            bad, good = _split(seen)
        grows, shrinks = max(good) < min(bad), max(bad) < min(good)
        if grows or shrinks:
            low, high = (max(good), min(bad)) if grows else (max(bad), min(good))
            while high - low > 1 and _try(bench, axis, middle := (low + high) // 2, seen) is not None:
                low, high = (middle, high) if seen[middle] is seen[low] else (low, middle)
            inside, outside, limit = (high, low, low) if grows else (low, high, high)
            yield from _on_size(bench, f"{axis} {'>' if grows else '<'} {limit}", axis, seen, inside, outside, max if grows else min)
        elif len(bad) == 1:
            alone[axis] = bad[0]
        else:
            for k, (of, words) in product(TILES, ((bad, "is a multiple of"), (good, "is not a multiple of"))):
                if all((n % k == 0) is (n in of) for n in (*bad, *good)):
                    inside = min((n for n in bad if n > k), default=bad[-1])
                    yield from _on_size(bench, f"{axis} {words} {k}", axis, seen, inside, good[-1], _exactly)
                    break
    for one, two in combinations(alone, 2):
        if alone[one] == getattr(BASE, two) and alone[two] == getattr(BASE, one):
            yield from _equal(bench, one, two)
            del alone[one], alone[two]
            break
    for axis, n in alone.items():
        yield from _on_size(bench, f"{axis} = {n}", axis, {n: True, n - 1: False, n + 1: False}, n, n - 1, _exactly)


def _split(seen: dict[int, bool | None]) -> tuple[list[int], list[int]]:
    bad, good = (sorted(n for n in seen if seen[n] is answer) for answer in (True, False))
    return bad, good


def _on_size(bench: Bench, told: str, axis: str, seen: dict, inside: int, outside: int, choose: Choose) -> Iterator[Region]:
    """The region of a condition on one size, if other numbers than those it was found with, large and small, agree."""
    of = condition(told)
    if (n := _agree(bench, [BASE._replace(**{axis: inside})], [BASE._replace(**{axis: outside})])) is not None:
        counts = (_count(seen, True) + n, _count(seen, False) + n)
        yield Region(told, *counts, _within(axis, inside, choose), holds=lambda case: of(case.spec), must=lambda case: of(case.spec))


def _equal(bench: Bench, one: str, two: str) -> Iterator[Region]:
    """The region where two sizes are equal, whatever they are."""

    def same(n: Sizes) -> Sizes:
        return n._replace(**{one: getattr(n, two)})

    def equal(case: Case) -> bool:
        return same(case.spec.sizes) == case.spec.sizes

    def alike(case: Case) -> bool:
        """Equal and not 1, where axes that are taken for one another are the same."""
        return equal(case) and getattr(case.spec.sizes, one) > 1

    inside = [same(BASE), same(BASE._replace(**{two: getattr(BASE, two) + 1}))]
    if (n := _agree(bench, inside, [BASE])) is not None:
        yield Region(f"{one} = {two}", 2 * n, n, same, holds=equal, must=alike)


def _exactly(value: int, _: int) -> int:
    return value


def _try(bench: Bench, axis: str, size: int, seen: dict[int, bool | None]) -> bool | None:
    n = BASE._replace(**{axis: size})
    if size not in seen:
        asked = bench.candidate.supports.fit(n) == n and (n.B <= variants.FEW_ROWS or bench.candidate.variant.textbook)
        seen[size] = fails(bench, _case(bench, n)) if asked else None
    return seen[size]


def _within(axis: str, limit: int, choose: Choose) -> Callable[[Sizes], Sizes]:
    few = {"T": 2, "D": 1} if limit > LARGE else {}  # or the search for a term would take too long
    return lambda n: n._replace(**{**few, axis: choose(limit, getattr(n, axis))})


def _agree(bench: Bench, inside: list[Sizes], outside: list[Sizes]) -> int | None:
    """How many more cases at each of these sizes fail inside and pass outside; None if one does not. Pre-activations are small in
    one of them: more terms make larger sums, so that a fault of large numbers looks like one of large sizes."""
    small = _with_a(SMALL_A)
    for n, due in (*((n, True) for n in inside), *((n, False) for n in outside)):
        if any(fails(bench, case) is not due for case in (small(_case(bench, n)), *(_case(bench, n, s) for s in SEEDS[1:]))):
            return None
    return len(SEEDS)


def _count(seen: dict, answer: bool) -> int:
    return sum(v is answer for v in seen.values())


# --- signs and zeros -------------------------------------------------------------------------------------------------


def _signs(bench: Bench) -> Iterator[Region]:
    for inside, outside in _worlds(bench.candidate):
        for (told, here, holds, must), (_, there, *_) in ((inside, outside), (outside, inside)):
            if all(fails(bench, here(c)) is True and fails(bench, there(c)) is False for c in (_case(bench, seed=s) for s in SEEDS)):
                yield Region(told, len(SEEDS), len(SEEDS), change=here, holds=holds, must=must)


class World(NamedTuple):
    """A condition in words, the change that brings a case there, and whether some number of a case, or all that matter, are there."""

    told: str
    change: Change
    holds: Callable[[Case], bool]
    must: Callable[[Case], bool] = lambda case: False


def _worlds(candidate: Candidate) -> Iterator[tuple[World, World]]:
    """Pairs of opposite conditions."""

    def sign(what: str, less: Change, more: Change, of: Callable[[Case], np.ndarray], zero: str = "0") -> tuple[World, World]:
        some = World(f"{what} < {zero}", less, lambda case: bool((of(case) < 0).any()))
        return some, World(f"{what} > {zero}", more, lambda case: bool((of(case) > 0).any()))

    def exact(word: str, verb: str, nothing: Change, of: Callable[[Case], list[np.ndarray]]) -> tuple[World, World]:
        def some(case: Case) -> bool:
            return any(q.any() for q in of(case))

        def none(case: Case) -> bool:
            return not some(case)

        return World(f"{word} {verb} not zero", _inputs(), some, some), World(f"{word} {verb} zero", nothing, none, none)

    yield sign("c̃", _biased("c", -1.0), _biased("c", 1.0), lambda c: _trace(c).c_tilde)
    yield sign("c", _with_c(-1.0), _with_c(1.0), lambda c: np.append(_trace(c).c, c.inputs["c0"]))
    yield sign("x", _inputs(x=lambda x: -np.abs(x)), _inputs(x=np.abs), lambda c: c.inputs["x"])
    for k in "fio":
        yield sign(k, _biased(k, -1.5), _biased(k, 1.5), _gate(k), "½")
    checker = _inputs(x=lambda x: x * (np.indices(x.shape).sum(0) % 2))
    yield (
        World("x holds exact zeros", checker, lambda c: not c.inputs["x"].all()),
        World("x holds no zero", _inputs(), lambda c: bool(c.inputs["x"].all())),
    )
    for states in (("c0",), ("h0",), ("h0", "c0")):
        nothing = _inputs(**dict.fromkeys(states, np.zeros_like))
        yield exact(" and ".join(states), "are" if states[1:] else "is", nothing, _arrays("inputs", states))
    for k in () if candidate.model else (k for k in ("c_T", "h_T") if k not in candidate.supports.missing):
        yield exact(f"the cotangent of {k}", "is", _without(k), _arrays("cotangents", (k,)))
    if candidate.model:
        yield (
            World("a position has weight 0", _inputs(w=_some_zero), lambda c: not c.inputs["w"].all()),
            World("no position has weight 0", _inputs(w=lambda w: w + (w == 0)), lambda c: bool(c.inputs["w"].all())),
        )


def _trace(case: Case):
    return forward.forward(case.inputs)


def _gate(k: str) -> Callable[[Case], np.ndarray]:
    return lambda case: getattr(_trace(case).a, k)


def _arrays(part: str, names: tuple[str, ...]) -> Callable[[Case], list[np.ndarray]]:
    return lambda case: [getattr(case, part)[k] for k in names]


def _without(flow: str) -> Change:
    return lambda case: replace(case, cotangents={**case.cotangents, flow: np.zeros_like(case.cotangents[flow])})


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


def _clips(bench: Bench) -> tuple[Region, ...] | None:
    """The regions of a clip or a threshold of gradients; None where the size of what flows in decides nothing. Gradients are linear in
    it: where it decides, whatever else makes gradients large only looks as if it did."""

    def largest(case: Case) -> dict[str, float]:
        due = Point(bench, case.inputs, case.cotangents).truth.gradients
        factor = contract.REDUCTIONS[bench.candidate.reduction](case.spec.sizes, case.inputs["w"]) if case.model else 1.0
        own = {k: np.abs(v) / factor for k, v in due.items()}  # as the candidate forms them, where its loss is a mean
        given = {k: own[k] for k in bench.candidate.gradient_names if k in own}
        found = {}
        for what, without in (("all gradients", ()), ("dW, db and dx", ("h0", "c0")), ("dW and db", ("h0", "c0", "x"))):
            those = [v for k, v in given.items() if k not in without]
            found[f"the largest of {what}"] = max((float(q.max()) for q in those), default=0.0)
            found[f"the norm of {what}"] = float(np.sqrt(sum(np.vdot(q, q) for q in those)))
        inner = dict(zip(INNER, ([own[f"a_{k}"] for k in GATES], [own["c"]], [own["h"]]), strict=True))
        return found | {k: max(float(q.max()) for q in qs) for k, qs in (inner | {f"|d{k}|": [v] for k, v in given.items()}).items()}

    case = _case(bench)
    if (found := _switch(bench, _with_flow, (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0))) is None:
        return None
    low, high = (largest(_with_flow(m)(case)) for m in (found.low, found.high))
    others = [(c, largest(c)) for n in (BASE, BASE._replace(T=2, B=4)) for c in (_case(bench, n, seed) for seed in SEEDS[1:])]

    def region(k: str) -> Region:
        def above(case: Case) -> bool:
            return not largest(case)[k] <= low[k]

        def below(case: Case) -> bool:
            return not largest(case)[k] >= high[k]

        holds, must = (above, lambda case: not below(case)) if found.grows else (below, lambda case: not above(case))
        return _beyond(found, k, low[k], high[k], _with_flow, holds, must)

    def agree(k: str) -> bool:
        small, large = ([_with_flow(size / own[k])(c) for c, own in others] for size in (low[k] / BESIDE, high[k] * BESIDE))
        return all(fails(bench, c) is not found.grows for c in small) and all(fails(bench, c) is found.grows for c in large)

    standing = [k for k in low if low[k] and agree(k)]
    standing = [k for k in standing if k[:2] != "|d" or k in INNER] or standing  # of all, before one of them
    if not standing:
        told = f"the gradients are {'large' if found.grows else 'small'}"
        return (Region(told, found.failed, found.passed, change=_with_flow(found.inside)),)
    return tuple(sorted(map(region, standing), key=lambda r: len(r.condition.split()[-1])))  # people clip at round numbers


def _thresholds(bench: Bench) -> Iterator[Region]:
    def largest_a(case: Case) -> float:
        return float(np.abs(_trace(case).a.all).max())

    def largest_c(case: Case) -> float:
        return float(max(np.abs(_trace(case).c).max(), np.abs(case.inputs["c0"]).max()))

    def largest_x(case: Case) -> float:
        return float(np.abs(case.inputs["x"]).max())

    yield from _threshold(bench, "|a|", largest_a, _with_a, (1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 30.0))
    yield from _threshold(bench, "|c|", largest_c, _with_large_c, (0.5, 1.0, 2.0, 4.0, 8.0, 16.0))
    yield from _threshold(bench, "|x|", largest_x, _with_x, (0.1, 1.0, 5.0, 25.0, 125.0))


def _threshold(bench: Bench, what: str, of: Callable[[Case], float], change: Callable[[float], Change], grid: tuple) -> Iterator[Region]:
    found = _switch(bench, change, grid)
    if found is None or not found.grows:
        return  # large sums and shut gates hide small errors: what passes there may be wrong all the same
    low, high = (of(change(m)(_case(bench))) for m in (found.low, found.high))
    yield _beyond(found, what, low, high, change, lambda case: not of(case) <= low)


class Switch(NamedTuple):
    """Where cases begin to fail as a number grows, or end: the last of one kind, the first of the other, how many failed and passed,
    and the number furthest inside."""

    low: float
    high: float
    grows: bool
    failed: int
    passed: int
    inside: float


def _switch(bench: Bench, change: Callable[[float], Change], grid: tuple[float, ...]) -> Switch | None:
    case = _case(bench)
    seen = {m: fails(bench, change(m)(case)) for m in grid}
    grid = tuple(m for m in grid if seen[m] is not None)
    answers = [seen[m] for m in grid]
    if not answers or answers[0] == answers[-1] or sum(a != b for a, b in pairwise(answers)) != 1:
        return None
    low = max(m for m in grid if seen[m] is answers[0])
    high = min(m for m in grid if seen[m] is answers[-1])
    while high > FINE * low:
        middle = float(np.sqrt(low * high))
        seen[middle] = fails(bench, change(middle)(case))
        if seen[middle] is None:
            return None
        low, high = (middle, high) if seen[middle] is answers[0] else (low, middle)
    if _count(seen, True) < 2:
        return None
    return Switch(low, high, bool(answers[-1]), _count(seen, True), _count(seen, False), max(grid) if answers[-1] else min(grid))


def _beyond(found: Switch, what: str, low: float, high: float, change, holds, must=lambda case: False) -> Region:
    told = f"{what} {'>' if found.grows else '<'} {_roundest(low, high):g}"
    return Region(told, found.failed, found.passed, change=change(found.inside), holds=holds, must=must)


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
