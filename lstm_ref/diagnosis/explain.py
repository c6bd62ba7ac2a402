"""Explain: a verdict with failing gradients in, the same verdict with the wrong term named; silent where nothing decides.

First one edge with one gain, then the bank of mutants, then pairs of edges: the first kind that explains every gradient
of every probe to rounding. Several explanations that the answers cannot tell apart are given together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..candidates.contract import Candidate
from ..judgement import tolerances as tol
from ..judgement.judge import computed_in
from ..judgement.verdict import FAIL, Verdict
from . import gains, mutants, regions
from .gains import Fit
from .heat import Heat, heat
from .localise import Location, localise
from .probe import SIZES, SMALL, Probe, probes
from .regions import Region


@dataclass(frozen=True)
class Explanation:
    """What is wrong: `fits` (edges and their gains) or `names` (mutants, as (label, words)); `equivalent` ones together.

    `distance` is the largest error of the explanation in tolerances, `failing` the gradients that it explains. `regions` are
    the conditions, which the cases cannot tell apart, outside of which everything is right. Where no term explains the failures,
    fits and names are empty and `location` says where they are first wrong, if small cases show it.
    """

    fits: tuple[Fit, ...]
    names: tuple[tuple[str, str], ...]
    distance: float
    failing: tuple[str, ...]
    location: Location | None = None
    regions: tuple[Region, ...] = ()


def explained(verdict: Verdict, faces: list[Candidate]) -> Verdict:
    """The verdict with `explanation` set, where a single term, a known mistake or a pair of terms explains its failures, and with
    `heat`, where a failing case can be followed through time. `faces` are the candidates as declared; what was judged under
    another declaration is asked under that one."""
    faces, verdict = list(verdict.faces) or faces, replace(verdict, faces=())  # the verdict is a value again, without foreign code
    if verdict.kind != "textbook" or not any(r.chapter == "grad" and r.outcome == FAIL for r in verdict.results):
        return verdict
    for dtype in verdict.dtypes:
        lower = [r for r in verdict.results if r.id == "numerics.effective_precision" and (r.dtype, r.outcome) == (dtype, FAIL)]
        arithmetic = (computed_in(lower[0].worst) if lower and lower[0].worst else "") or dtype
        if arithmetic not in ("float64", "float32"):
            continue
        for face in faces:
            if (told := diagnose(face, tol.PRECISIONS[arithmetic])) is not None:
                return replace(verdict, explanation=told, heat=_followed(verdict, face, dtype))
    wrong = [r.id.split(".")[1] for r in verdict.failures() if r.chapter == "grad" and np.isfinite(r.worst.ratio)]
    return replace(verdict, explanation=Explanation((), (), 0.0, tuple(dict.fromkeys(wrong)))) if wrong else verdict


def _followed(verdict: Verdict, face: Candidate, dtype: str) -> Heat | None:
    failing = (r.where for r in verdict.failures() if r.chapter == "grad" and r.dtype == dtype and r.where is not None)
    return heat(face, tol.PRECISIONS[dtype], next(failing, None))


def diagnose(face: Candidate, precision: tol.Precision) -> Explanation | None:
    """What is wrong with a candidate's gradients, or where; None where nothing is found wrong."""
    if (told := explain(face, precision)) is not None:
        return told
    where, place = regions.find(face, precision), None
    told = explain(face, precision, where[0]) if where else None
    if told is None and (place := localise(face, precision)) is None and not where:
        return None
    told = told or Explanation((), (), 0.0, place.failing if place else (), place)
    return replace(told, regions=where)


def explain(face: Candidate, precision: tol.Precision, region: Region | None = None) -> Explanation | None:
    """The explanation of one candidate's wrong gradients, or None; with a region, of those inside it."""
    if face.kind in ("student", "forward"):
        return None
    region = region or Region("", 0, 0)
    asked = probes(face, precision, tuple(map(region.sizes, SIZES)), region.change)
    failing = tuple(dict.fromkeys(k for p in asked for k in p.failing))
    if not failing:
        return second_bias(face, asked)
    if fits := gains.single(asked):
        fewest = min(len(f.edges[0].members) for f in fits)
        return Explanation(tuple(f for f in fits if len(f.edges[0].members) == fewest), (), fits[0].distance, failing)
    if named := matching(asked):
        return Explanation((), tuple((m.label, m.words) for m, _ in named), named[0][1], failing)
    small = probes(face, precision, (region.sizes(SMALL),), region.change)
    if small and (fits := gains.pairs(small[0], asked)):
        return Explanation(tuple(fits), (), fits[0].distance, failing)
    return None


def second_bias(face: Candidate, asked: list[Probe]) -> Explanation | None:
    """What is wrong with the gradient of the second of two biases, where everything else is right and one factor on all of it
    explains it."""
    found: list[float] = []
    failing: dict[str, None] = {}
    worst = 0.0
    for probe in asked:
        due = {k: probe.truth[k] for k in probe.second}
        size = sum(np.vdot(v, v) for v in due.values())
        gain = float(sum(np.vdot(probe.second[k], due[k]) for k in due) / size) if size else 1.0
        failing |= {k: None for k, seen in probe.second.items() if not np.abs(seen - due[k]).max() <= probe.limits[k]}
        found.append(gain)
        worst = max(worst, *(float(np.abs(seen - gain * due[k]).max()) / probe.limits[k] for k, seen in probe.second.items()), 0.0)
    if not failing or not worst <= 1 or not (wrong := gains.meaning(found, asked)):
        return None
    text = f"the gradient of {face.layout.name('b_h')}, the second of two biases, is {wrong}"
    return Explanation((), (("B:biases", text),), worst, tuple(failing))


def matching(asked: list[Probe]) -> list[tuple[mutants.Mutant, float]]:
    """The mutants whose gradients are the answers, to rounding, in every probe; best first."""
    found = []
    for mutant in mutants.known():
        if mutant.kind == "edge" or (mutant.model and asked[0].head is None):
            continue
        worst = 0.0
        for probe in asked:
            with np.errstate(all="ignore"):
                gradients = mutant.run(probe.trace, probe.cotangents, probe.head)
                worst = max(worst, float(probe.distance({k: v[None] for k, v in gradients.items()})[0]))
            if worst > 1:
                break
        if worst <= 1:
            found.append((mutant, worst))
    return sorted(found, key=lambda pair: pair[1])
