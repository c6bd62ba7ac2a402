"""Against: two candidates held against each other on the same weights and cases, as one does when porting an LSTM.

Each side is granted the rounding of its own way to compute: a difference counts in units of the sum of both tolerances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Answer, Candidate, Finding
from ..candidates.layout import effective
from ..cases import Case, Spec
from ..reference.symbols import LAYER_OUTPUTS, MODEL_INPUTS, MODEL_INTERMEDIATES
from ..truth import autodiff
from . import tolerances as tol
from .judge import Bench, Point, fitted, judge, measure_precision
from .run import PRECISION_CORNERS
from .tolerances import Precision
from .verdict import FAIL

AGREE, DIFFER, CANNOT_TELL = "agree", "differ", "cannot tell"
OUTPUTS, GRADIENTS = "outputs", "gradients"
ORDER = (*LAYER_OUTPUTS, "J", *MODEL_INPUTS, *MODEL_INTERMEDIATES)  # of quantities in a table


@dataclass(frozen=True)
class Row:
    """One quantity over all cases: in how many it was compared, could not be told and differs, and its largest difference.

    `ratio` is that in units of both tolerances, at the entry `index` in the case `where`; `ours` and `theirs` are the numbers
    there, `due` is what autodiff of the textbook LSTM says.
    """

    kind: str
    quantity: str
    cases: int = 0
    unresolved: int = 0
    differ: int = 0
    ratio: float = -1.0
    index: tuple[int, ...] = ()
    ours: float = 0.0
    theirs: float = 0.0
    due: float = 0.0
    where: Spec | None = None


@dataclass(frozen=True)
class Comparison:
    """Two candidates at one dtype. `faults` are the first failed call of each side, by its name; `alone` holds what only one side
    returns; `skipped` counts fixed cases that the two do not both support; `lower` says what a side computes in a lower precision
    than its dtype, at which it was then compared."""

    one: str
    other: str
    dtype: str
    rows: tuple[Row, ...]
    cases: int = 0
    skipped: int = 0
    faults: tuple[tuple[str, str], ...] = ()
    alone: tuple[tuple[str, str], ...] = ()
    lower: tuple[tuple[str, str], ...] = ()

    @property
    def outcome(self) -> str:
        if any(row.differ for row in self.rows):
            return DIFFER
        told = all(row.cases > row.unresolved for row in self.rows)
        return AGREE if told and self.gradients and not self.faults else CANNOT_TELL

    @property
    def gradients(self) -> bool:
        """Whether a gradient could be compared at all."""
        return any(row.kind == GRADIENTS for row in self.rows)


def pairs(ours: list[Candidate], theirs: list[Candidate]) -> list[tuple[Candidate, Candidate]]:
    """The faces of two targets that can be held against each other: layer and layer, model and model. Raises ValueError."""
    if any(face.kind == "student" for face in (*ours, *theirs)):
        raise ValueError("an object with data of its own cannot be held against another: the two are not given the same weights")
    found = [(a, b) for a in ours for b in theirs if a.model == b.model]
    if not found:
        levels = ["a model" if faces[0].model else "a layer" for faces in (ours, theirs)]
        raise ValueError(f"{ours[0].name} is {levels[0]} and {theirs[0].name} is {levels[1]}; two of a level are due")
    for a, b in found:
        if a.variant != b.variant:
            told = " and ".join(f"{face.name} is declared as ({face.variant.words or 'the textbook LSTM'})" for face in (a, b))
            raise ValueError(f"{told}; two of one variant are due")
    return found


def hold(one: Candidate, other: Candidate, precision: Precision, progress: Callable[[int, int, str], None] = lambda *_: None) -> Comparison:
    """Run both on every fixed case that both support, and compare what they return. Never raises because one is bad."""
    benches = [Bench(face, precision, face.make()) for face in (one, other)]
    specs, rows = list(_common(one, other)), dict[tuple[str, str], Row]()
    faults: dict[str, str] = {}
    lower: dict[str, str] = {}
    alone: dict[tuple[str, str], None] = {}
    names = (one.name, other.name) if one.name != other.name else (one.name, f"{other.name} (the other)")
    for name, bench in zip(names, benches, strict=True):
        try:
            if sentence := _measure(bench):
                lower[name] = sentence
        except Finding as finding:
            faults[name] = finding.sentence
    hung = bool(faults)
    for n, spec in enumerate(() if hung else specs):
        progress(n, len(specs), precision.name)
        case = _on_the_same(cases.build(spec, precision.dtype, one.model, one.variant), precision, one, other)
        points = [Point(bench, case.inputs, case.cotangents) for bench in benches]
        found = []
        for name, bench in zip(names, benches, strict=True):
            try:
                answers = _ask(bench, case)
            except Finding as finding:
                faults.setdefault(name, finding.sentence)
                hung |= finding.check == "contract.time"
                continue
            for fault in (f for a in answers for f in a.faults.values()):
                faults.setdefault(name, fault.sentence)
            found.append(answers)
        if hung:
            break
        if len(found) == 2:
            for kind, k, left, right in _shared(benches, found):
                row = rows.setdefault((kind, k), Row(kind, k))
                rows[kind, k] = _with(row, spec, points, left, right)
            for kind, name, k in _alone(names, benches, found):
                alone[name, k if kind == OUTPUTS else f"gradient of {k}"] = None
    judged, skipped = max((row.cases for row in rows.values()), default=0), len(cases.CORNERS) - len(specs)
    ordered = sorted(rows.values(), key=lambda row: (row.kind == GRADIENTS, ORDER.index(row.quantity.partition(".")[0])))
    return Comparison(*names, precision.name, tuple(ordered), judged, skipped, tuple(faults.items()), tuple(alone), tuple(lower.items()))


def _common(one: Candidate, other: Candidate) -> Iterator[Spec]:
    """The fixed cases, each as near as both candidates support; those that they do not both support are left out."""
    for corner in dict.fromkeys(fitted(fitted(corner, one), other) for corner in cases.CORNERS):
        if fitted(corner, one) == corner:
            yield corner


def _measure(bench: Bench) -> str:
    """Learn the precision that a candidate computes in, and whether it is the textbook's LSTM, whose conditions are known; a
    sentence where that precision is lower than its dtype."""
    specs = [fitted(cases.CORNERS[k], bench.candidate) for k in PRECISION_CORNERS]
    built = [bench.case(s) for s in specs]
    precision = measure_precision(bench, built)
    check = "forward.J" if bench.candidate.model else f"forward.{bench.candidate.hidden}"
    found = judge(bench, built[0], with_differences=False).evidence.get(check)
    bench.textbook = found is None or found.outcome != FAIL
    return precision.rule if precision.outcome == FAIL else ""


def _on_the_same(case: Case, precision: Precision, *both: Candidate) -> Case:
    """The case with inputs that both candidates can hold: without biases where one has none, say, and with nothing
    flowing into what one does not return."""
    inputs, cotangents = case.inputs, case.cotangents
    for candidate in both:
        inputs = effective(candidate.layout, inputs, precision.dtype)
        cotangents = contract.flowing(candidate, cotangents)
    return replace(case, inputs=inputs, cotangents=cotangents)


def _ask(bench: Bench, case: Case) -> tuple[Answer, Answer]:
    outputs, pull = contract.start(contract.prepare(bench.candidate, case.inputs, bench.precision.dtype, case.spec.memory), bench.instance)
    return outputs, pull(case.cotangents) if bench.candidate.kind != "forward" else Answer({}, {}, {})


def _names(bench: Bench, kind: str, answer: Answer) -> list[str]:
    absent = set(bench.candidate.supports.missing)
    return [k for k in answer.arrays if not {k, f"{k.partition('.')[0]}_gradient"} & absent or (kind == OUTPUTS and k not in absent)]


def _shared(benches: list[Bench], found: list[tuple[Answer, Answer]]):
    """What both return; the second of two biases of one side is held against the only one of the other."""
    for n, kind in enumerate((OUTPUTS, GRADIENTS)):
        left, right = (answers[n].arrays for answers in found)
        names = [_names(bench, kind, answers[n]) for bench, answers in zip(benches, found, strict=True)]
        for k in dict.fromkeys((*names[0], *names[1])):
            plain = k.removesuffix(".second")
            if (k in names[0] or plain in names[0]) and (k in names[1] or plain in names[1]):
                yield kind, k, left.get(k, left.get(plain)), right.get(k, right.get(plain))


def _alone(names: tuple[str, str], benches: list[Bench], found: list[tuple[Answer, Answer]]):
    for n, kind in enumerate((OUTPUTS, GRADIENTS)):
        have = [_names(bench, kind, answers[n]) for bench, answers in zip(benches, found, strict=True)]
        for who in (0, 1):
            yield from ((kind, names[who], k) for k in have[who] if k not in have[1 - who] and not k.endswith(".second"))


def _with(row: Row, spec: Spec, points: list[Point], left: np.ndarray, right: np.ndarray) -> Row:
    """A row with one more case in it."""
    name = row.quantity.removesuffix(".second")
    condition = points[0].conditions[name if row.kind == OUTPUTS else f"d{name}"]
    limit = sum(_tolerance(point, row.kind, name) for point in points)
    row = replace(row, cases=row.cases + 1)
    if not condition.in_range or not condition.first_order or not np.isfinite(limit).all():
        return replace(row, unresolved=row.unresolved + 1)
    with np.errstate(all="ignore"):
        error = np.abs(left - right)
        ratios = np.where(error == 0, 0.0, error / limit)
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    index = tuple(int(k) for k in np.unravel_index(np.argmax(ratios), ratios.shape))
    worst = float(ratios[index])
    if worst <= 1 and np.max(limit) >= points[0].bench.precision.resolution * condition.scale:
        row = replace(row, unresolved=row.unresolved + 1)
    row = replace(row, differ=row.differ + (worst > 1))
    if worst <= row.ratio:
        return row
    due = _due(points[0].truth, row.kind, name)
    return replace(row, ratio=worst, index=index, ours=float(left[index]), theirs=float(right[index]), due=float(due[index]), where=spec)


def _due(truth: autodiff.Truth, kind: str, name: str) -> np.ndarray:
    return (truth.values if kind == OUTPUTS else truth.gradients)[name]


def _tolerance(point: Point, kind: str, name: str) -> np.ndarray:
    if kind == GRADIENTS:
        return point.tolerance(name)
    if point.bench.textbook:
        return tol.tolerance(point.conditions[name], point.bench.u(name))
    widest = max(float(c.C.max()) for k, c in point.conditions.items() if k[0] != "d")  # conditions are another function's
    return np.full_like(point.conditions[name].C, tol.KAPPA * point.bench.u(name) * widest)
