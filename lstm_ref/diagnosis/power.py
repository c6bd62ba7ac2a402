"""Power: what the checks catch. Every mutant of the bank through the fixed and drawn cases, and how small an error is seen.

A mutant is killed by the first case in which a gradient fails; the checks that fail there, and the laws that break at an
ordinary point, are its row of the kill matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import cases
from ..candidates import reference as adapter
from ..candidates.contract import Candidate
from ..judgement import tolerances as tol
from ..judgement.comparison import compare
from ..judgement.judge import Bench, Judged, Point, judge
from ..judgement.laws import judge_laws
from ..judgement.run import PROFILES, SEED
from ..judgement.verdict import FAIL, UNRESOLVED
from ..reference import forward, objectives
from ..reference.symbols import BIASES, WEIGHTS, Sizes
from .mutants import Mutant, bank, right

QUANTILE = 0.99  # of resolved blocks in which an error of the stated size is caught in whatever entry it lies
CURVE_WEIGHTS, CURVE_STEPS, CURVE_CASES = (0.01, 0.1, 0.5, 1.0, 3.0), (1, 4, 10, 30, 100), 20
ORDINARY = ("ordinary", "small")  # weights from 0.01 to 1


@dataclass(frozen=True)
class Kill:
    """One mutant: the checks that fail in the first case that kills it (none: it survived), and how many cases that took."""

    mutant: Mutant
    checks: tuple[str, ...]
    laws: tuple[str, ...]
    cases: int


@dataclass(frozen=True)
class Power:
    """The kills at one dtype, false alarms on the right gradients over the same cases, and the smallest error, relative to
    its block, that is caught in any one entry (`entry`) or spread over a whole block (`block`)."""

    dtype: str
    profile: str
    kills: tuple[Kill, ...]
    cases: int
    blocks: int
    false_alarms: int
    entry: float
    block: float


@dataclass
class _Place:
    """One case with its trace and truth, made once for all mutants."""

    case: cases.Case
    point: Point
    trace: object
    head: tuple | None


def power(profile: str, dtype: str, progress: Callable[[int, int, str], None] = lambda done, total, what: None) -> Power:
    """Measure the power of a profile at one dtype. Raises ValueError for an unknown profile or dtype."""
    if profile not in PROFILES or dtype not in tol.PRECISIONS:
        raise ValueError(
            f"the profile is {profile!r} and the dtype {dtype!r}; known are {', '.join(PROFILES)} and {', '.join(tol.PRECISIONS)}"
        )
    p = tol.PRECISIONS[dtype]
    specs = (*cases.CORNERS, *cases.drawn(PROFILES[profile].draws, SEED))
    places: dict[tuple[int, bool], _Place] = {}

    def place(n: int, model: bool) -> _Place:
        if (n, model) not in places:
            places[n, model] = _place(specs[n], p, model)
        return places[n, model]

    alarms = blocks = 0
    entry: list[float] = []
    block: list[float] = []
    for n, spec in enumerate(specs):
        progress(n, len(specs), f"{dtype}: right gradients")
        for model in (False, True):
            here = place(n, model) if n < len(cases.CORNERS) else _place(spec, p, model)
            found = _judged(here, right(here.trace, here.case.cotangents, here.head), p)
            alarms, blocks = alarms + sum(e.outcome == FAIL for e, _ in found.values()), blocks + len(found)
            if spec.ordinary and spec.regime in ORDINARY:
                resolved = [(k, worst) for k, (e, worst) in found.items() if e.outcome != UNRESOLVED]
                scales = here.point.conditions
                entry += [worst / scales[f"d{k}"].scale for k, worst in resolved]
                block += [_spread(here, k, p) for k, _ in resolved if here.point.truth.gradients[k].size >= tol.RMS_ENTRIES]
    kills = []
    mutants = bank()
    for n, mutant in enumerate(mutants):
        progress(n, len(mutants), f"{dtype}: mutants")
        kills.append(_kill(mutant, place, len(specs), p))
    return Power(dtype, profile, tuple(kills), 2 * len(specs), blocks, alarms, _quantile(entry), _quantile(block))


@dataclass(frozen=True)
class Sight:
    """How small an error in one entry is always caught at weights of one scale and one number of steps, relative to the
    block and in `QUANTILE` of the resolved blocks; and the share of blocks that are resolved."""

    weights: float
    T: int
    entry: float
    resolved: float


def curve(dtype: str, progress: Callable[[int, int, str], None] = lambda done, total, what: None) -> list[Sight]:
    """Sight over weight scale and T, at B = 3, D = 5, H = 8, from `CURVE_CASES` cases each; cotangents on every step.

    Raises ValueError for an unknown dtype."""
    if dtype not in tol.PRECISIONS:
        raise ValueError(f"the dtype is {dtype!r}; known are {', '.join(tol.PRECISIONS)}")
    p, out = tol.PRECISIONS[dtype], []
    grid = [(weights, T) for weights in CURVE_WEIGHTS for T in CURVE_STEPS]
    for n, (weights, T) in enumerate(grid):
        progress(n, len(grid), f"{dtype}: weights of {weights:g}, T = {T}")
        seen, blocks = [], 0
        for seed in range(CURVE_CASES):
            here = _place(cases.Spec(Sizes(T, 3, 5, 8), seed=600 + seed), p, model=False, weights=weights)
            found = _judged(here, right(here.trace, here.case.cotangents), p)
            seen += [worst / here.point.conditions[f"d{k}"].scale for k, (e, worst) in found.items() if e.outcome != UNRESOLVED]
            blocks += len(found)
        out.append(Sight(weights, T, _quantile(seen), len(seen) / blocks))
    return out


def _place(spec: cases.Spec, p: tol.Precision, model: bool, weights: float | None = None) -> _Place:
    case = cases.build(spec, p.dtype, model)
    if weights is not None:
        scale = weights / cases.REGIMES[spec.regime][0]
        inputs = {k: (scale * v).astype(p.dtype).astype(float) if k in (*WEIGHTS, *BIASES) else v for k, v in case.inputs.items()}
        case = cases.Case(spec, inputs, case.cotangents)
    bench = Bench(_candidate(adapter.ReferenceModel if model else adapter.ReferenceLayer, model), p, None)
    inputs = {k: v if k == "y" else v.astype(p.dtype) for k, v in case.inputs.items()}
    with np.errstate(all="ignore"):
        trace = forward.forward(inputs)
        head = (objectives.softmax_forward(trace.h, *(inputs[k] for k in ("W_v", "b_v", "y", "w"))), inputs) if model else None
    cotangents = {k: v.astype(p.dtype) for k, v in case.cotangents.items()}
    return _Place(cases.Case(spec, case.inputs, cotangents), Point(bench, case.inputs, case.cotangents), trace, head)


def _candidate(make, model: bool) -> Candidate:
    return Candidate("mutant", "loss_and_gradients" if model else "pullback", make)


def _judged(here: _Place, gradients: dict, p: tol.Precision):
    """Evidence on each gradient, and the largest error that an entry could have without failing."""
    found = {}
    for k, seen in gradients.items():
        due, condition = here.point.truth.gradients[k], here.point.conditions[f"d{k}"]
        seen = seen.astype(np.float64)
        evidence = compare(k, seen, due, condition, p)
        with np.errstate(all="ignore"):
            found[k] = evidence, float(np.max(tol.tolerance(condition, p.u) + np.abs(seen - due)))
    return found


def _spread(here: _Place, k: str, p: tol.Precision) -> float:
    """The smallest error in every entry of a block, relative to its scale, that its rms betrays."""
    condition = here.point.conditions[f"d{k}"]
    return float(tol.RMS_LIMIT * p.u / np.sqrt(np.mean(1 / condition.C**2)) / condition.scale)


def _kill(mutant: Mutant, place, count: int, p: tol.Precision) -> Kill:
    for n in range(count):
        here = place(n, mutant.model)
        with np.errstate(all="ignore"):
            gradients = mutant.run(here.trace, here.case.cotangents, here.head)
        failed = tuple(f"grad.{k}.autodiff" for k, (e, _) in _judged(here, gradients, p).items() if e.outcome == FAIL)
        if failed:
            return Kill(mutant, failed, _laws(mutant, place(0, mutant.model), p), n + 1)
    return Kill(mutant, (), _laws(mutant, place(0, mutant.model), p), count)


def _laws(mutant: Mutant, here: _Place, p: tol.Precision) -> tuple[str, ...]:
    """The laws that the mutant breaks at an ordinary point."""
    candidate = _candidate(lambda: as_candidate(mutant), mutant.model)
    bench = Bench(candidate, p, candidate.make())
    case = cases.build(here.case.spec, p.dtype, mutant.model)
    judged: Judged = judge(bench, case, with_differences=False)
    if judged.gradients is None:
        return ()
    return tuple(k for k, e in judge_laws(bench, judged, lambda k: k != "law.symmetry").items() if e.outcome == FAIL)


def as_candidate(mutant: Mutant):
    """A mutant through the plug-in contract."""
    return (_ModelMutant if mutant.model else _LayerMutant)(mutant)


class _LayerMutant:
    def __init__(self, mutant: Mutant):
        self.mutant = mutant

    def forward(self, inputs):
        trace = forward.forward(inputs)
        return {"h": trace.h, "h_T": trace.h[-1].copy(), "c_T": trace.c[-1].copy()}

    def pullback(self, inputs):
        trace, dtype = forward.forward(inputs), inputs["x"].dtype

        def pull(cotangents):
            return {k: v.astype(dtype) for k, v in self.mutant.run(trace, cotangents).items()}

        return {"h": trace.h, "h_T": trace.h[-1].copy(), "c_T": trace.c[-1].copy()}, pull


class _ModelMutant:
    def __init__(self, mutant: Mutant):
        self.mutant = mutant

    def loss_and_gradients(self, inputs):
        trace, dtype = forward.forward(inputs), inputs["x"].dtype
        head = objectives.softmax_forward(trace.h, *(inputs[k] for k in ("W_v", "b_v", "y", "w")))
        nothing = {"h": np.zeros_like(trace.h), "h_T": np.zeros_like(trace.h0), "c_T": np.zeros_like(trace.h0)}
        found = self.mutant.run(trace, nothing, (head, inputs))
        return head.J, {k: v.astype(dtype) for k, v in found.items()}


def _quantile(values: list[float]) -> float:
    return float(np.quantile(values, QUANTILE)) if values else float("nan")
