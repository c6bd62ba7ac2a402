"""Explain: a verdict with failing gradients in, the same verdict with the wrong term named; silent where nothing decides.

First one edge with one gain, then the bank of mutants, then a share of the parameters on their gradients, then one factor or a mutant
on the gradients of the weights of x alone, or of h, then a mutant at some steps only, then pairs of edges, then two mistakes of which
one shows in a few gradients alone, or does so in a single time step: the first kind that explains every gradient of every probe to
rounding. Several explanations that the answers cannot tell apart are given together. What explains the wrong gradients and is refuted
by right ones is looked for again where a condition holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..cases import CORNERS, Case, Spec
from ..judgement import tolerances as tol
from ..judgement.judge import Bench, computed_in, fitted, held_in
from ..judgement.verdict import FAIL, Verdict
from ..reference.symbols import WEIGHTS
from . import added, apart, gains, mutants, regions, rounded
from .gains import Fit
from .heat import Heat, heat
from .localise import Location, localise
from .mutants import Gradients
from .probe import SIZES, SMALL, Probe, probes, probes_at, specs
from .regions import Region

FINE = ("float64", "float32")  # rounding to the others is as large as the difference between one term and another
HELD = 24  # failing cases of a run that a region is held against
UNSTEADY = "what a call returns depends on chance, on memory that is not cleared, or on calls before it"
SOMETIMES = "yet there are cases in which that would show and the gradients are right: it is so only under a condition that was not found"


@dataclass(frozen=True)
class Explanation:
    """What is wrong: `fits` (edges and their gains) or `names` (mutants, or two mistakes in one line, as (label, words)); `equivalent`
    ones together.

    `distance` is the largest error of the explanation in tolerances, `failing` the gradients that it explains. `regions` are
    the conditions, which the cases cannot tell apart, outside of which everything is right. Where no term explains the failures,
    fits and names are empty and `location` says where they are first wrong, if small cases show it. `remarks` are sentences beside it.
    """

    fits: tuple[Fit, ...]
    names: tuple[tuple[str, str], ...]
    distance: float
    failing: tuple[str, ...]
    location: Location | None = None
    regions: tuple[Region, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a run saw: the cases on which a gradient failed, the smallest that were made of those, and ordinary cases on which none
    did. `repeats` says whether what failed is due to fail again, `remembers` whether a check of state failed, so that only a new
    instance is asked as the first was. `outputs` are wrong."""

    failing: tuple[Spec, ...] = ()
    smallest: tuple[Case, ...] = ()
    right: tuple[Spec, ...] = ()
    repeats: bool = False
    remembers: bool = False
    outputs: tuple[str, ...] = ()


NOTHING = Seen()


def explained(verdict: Verdict, faces: list[Candidate]) -> Verdict:
    """The verdict with `explanation` set, where a single term, a known mistake or a pair of terms explains its failures, and with
    `heat`, where a failing case can be followed through time. `faces` are the candidates as declared; what was judged under
    another declaration is asked under that one."""
    faces, verdict = list(verdict.faces) or faces, replace(verdict, faces=())  # the verdict is a value again, without foreign code
    if any(r.id == "forward.initial_state" and r.outcome == FAIL for r in verdict.results):
        return verdict  # with the states that it is given it is another function, and its gradients belong to that
    if not any(r.chapter == "grad" and r.outcome == FAIL for r in verdict.results):
        return verdict
    for dtype, face in ((dtype, face) for dtype in verdict.dtypes for face in faces if verdict.kind == "self-consistency"):
        if told := of_another_function(face, tol.PRECISIONS[dtype], _wrong_outputs(verdict, dtype)):
            return replace(verdict, explanation=told)
    if verdict.kind != "textbook":
        return verdict
    for dtype in verdict.dtypes:
        arithmetic = _arithmetic(verdict, dtype)
        for face in faces:
            if arithmetic not in FINE:
                if told := _asked_finely(face, verdict.dtypes, arithmetic):
                    return replace(verdict, explanation=told)
                continue
            seen = _seen(verdict, face, dtype, repeats=arithmetic == dtype and len(faces) == 1)
            told = diagnose(face, tol.PRECISIONS[arithmetic], seen)
            if told is None and arithmetic != dtype and (remark := held_coarsely(face, tol.PRECISIONS[dtype])):
                told = Explanation((), (), 0.0, (), remarks=(remark,))
            if told is not None:
                return replace(verdict, explanation=told, heat=_followed(verdict, face, dtype))
    wrong = [r.id.split(".")[1] for r in verdict.failures() if r.chapter == "grad" and np.isfinite(r.worst.ratio)]
    if not wrong:
        return verdict
    coarse = {_arithmetic(verdict, r.dtype) for r in verdict.failures() if r.chapter == "grad"}
    remarks = () if coarse & {*FINE} else (f"{' and '.join(sorted(coarse))} is too coarse to tell which term is wrong",)
    return replace(verdict, explanation=Explanation((), (), 0.0, tuple(dict.fromkeys(wrong)), remarks=remarks))


def _arithmetic(verdict: Verdict, dtype: str) -> str:
    """The precision that the candidate was found to compute in where `dtype` goes in and comes out."""
    lower = [r for r in verdict.results if r.id == "numerics.effective_precision" and (r.dtype, r.outcome) == (dtype, FAIL)]
    return (computed_in(lower[0].worst) if lower and lower[0].worst else "") or dtype


def _asked_finely(face: Candidate, asked: tuple[str, ...], coarse: str) -> Explanation | None:
    """What is wrong with a candidate that computes coarsely, as it shows in a finer dtype that it takes and that was not `asked`."""
    for dtype in FINE:
        if dtype in (face.supports.dtypes or FINE) and dtype not in asked:
            told = diagnose(face, tol.PRECISIONS[dtype])
            if told is not None and (told.fits or told.names):
                here = f"this is what it does in {dtype}: {coarse} is too coarse to tell terms apart"
                return replace(told, remarks=(*told.remarks, here))
    return None


def _followed(verdict: Verdict, face: Candidate, dtype: str) -> Heat | None:
    failing = (r.where for r in verdict.failures() if r.chapter == "grad" and r.dtype == dtype and r.where is not None)
    return heat(face, tol.PRECISIONS[dtype], next(failing, None))


def _seen(verdict: Verdict, face: Candidate, dtype: str, repeats: bool) -> Seen:
    failed = [r for r in verdict.failures() if r.dtype == dtype and r.chapter == "grad" and r.id.endswith(".autodiff")]
    failing = dict.fromkeys(spec for r in failed for spec in r.failing)
    shown = {id(c.inputs): Case(c.spec, c.inputs, c.cotangents) for r in failed if (c := r.counterexample) is not None}
    ordinary = [fitted(spec, face) for spec in CORNERS if spec.regime == "ordinary" and spec.memory == "plain"]
    right = tuple(spec for spec in ordinary if spec not in failing)
    remembers = any(r.chapter == "state" and r.dtype == dtype for r in verdict.failures())
    return Seen(tuple(failing)[:HELD], tuple(shown.values()), right, repeats, remembers, _wrong_outputs(verdict, dtype))


def _wrong_outputs(verdict: Verdict, dtype: str) -> tuple[str, ...]:
    return tuple(r.id.split(".")[1] for r in verdict.failures() if r.dtype == dtype and r.chapter == "forward")


def of_the_textbook(face: Candidate, precision: tol.Precision, outputs: tuple[str, ...]) -> Explanation | None:
    """That every gradient is right, where some of the outputs are wrong: differences of its own forward pass refute such gradients."""
    if not outputs:
        return None
    asked = probes(face, precision)
    if not asked or any(p.failing or _as_one(p).failing for p in asked):
        return None
    told = f"every gradient is that of the textbook's function, to rounding; what is wrong is {' and '.join(outputs)}, not they"
    return Explanation((), (), 0.0, (), remarks=(told,))


def of_another_function(face: Candidate, precision: tol.Precision, outputs: tuple[str, ...]) -> Explanation | None:
    """Why gradients are not those of a forward pass that is another function: they are the textbook's, or it rounds what it is given."""
    if face.kind in ("student", "forward"):
        return None
    if (told := of_the_textbook(face, precision, outputs)) is not None:
        return told
    finest = next((d for d in FINE if d in (face.supports.dtypes or FINE)), precision.name)
    remark = rounded.remark(face, tol.PRECISIONS[finest])
    return Explanation((), (), 0.0, (), remarks=(remark,)) if remark else None


def diagnose(face: Candidate, precision: tol.Precision, seen: Seen = NOTHING) -> Explanation | None:
    """What is wrong with a candidate's gradients, or where; None where nothing is found wrong."""
    if face.kind in ("student", "forward"):
        return None
    if (told := explain(face, precision, right=seen.right)) is not None:
        return told
    if (told := of_the_textbook(face, precision, seen.outputs)) is not None:
        return told
    bench = Bench(face, precision, face.make())
    if remark := odd_shapes(bench):
        return Explanation((), (), 0.0, (), remarks=(remark,))
    cases = [*(bench.case(spec) for spec in seen.failing), *(case for case in seen.smallest if case.model == face.model)]
    anew = [replace(bench, instance=face.make()) if seen.remembers and face.factory else bench for _ in cases]
    answers = [regions.fails(one, case) for one, case in zip(anew, cases, strict=True)]
    if seen.repeats and 2 * answers.count(False) > len(answers):
        remark = f"{answers.count(False)} of {len(answers)} cases that failed are right when they are asked again: {UNSTEADY}"
        return Explanation((), (), 0.0, (), remarks=(remark,))
    if remark := held_coarsely(face, precision):
        return Explanation((), (), 0.0, (), remarks=(remark,))
    failing = [case for case, answer in zip(cases, answers, strict=True) if answer]
    right = [bench.case(spec) for spec in seen.right if spec.ordinary and spec.cotangents == "all"]
    where, place = regions.find(face, precision, failing, right), None
    told = explain(face, precision, where[0]) if where else None
    if told is None and not where and seen.right and (told := explain(face, precision)) is not None:
        told = replace(told, remarks=(SOMETIMES,))
    if told is None and (place := localise(face, precision)) is None and not where:
        return None
    told = told or Explanation((), (), 0.0, place.failing if place else (), place)
    return replace(told, regions=where)


def explain(face: Candidate, precision: tol.Precision, region: Region | None = None, right: Sequence[Spec] = ()) -> Explanation | None:
    """The explanation of one candidate's wrong gradients, or None; with a region, of those inside it. It must leave those right that
    are so in the cases of `right`."""
    if face.kind in ("student", "forward"):
        return None
    region = region or Region("", 0, 0)
    asked = probes(face, precision, tuple(map(region.sizes, SIZES)), region.change)
    failing = tuple(dict.fromkeys(k for p in asked for k in p.failing))
    sound = [p for p in probes_at(face, precision, right) if not _as_one(p).failing]
    if not failing:
        return second_bias(face, asked, sound)
    if not all(np.isfinite(seen).all() for p in asked for seen in p.answers.values()):
        return None  # no term makes a gradient NaN or infinite in cases like these
    if fits := [f for f in gains.single(asked) if all(gains.fits(f, p) for p in sound)]:
        fewest = min(len(f.edges[0].members) for f in fits)
        return Explanation(tuple(f for f in fits if len(f.edges[0].members) == fewest), (), fits[0].distance, failing)
    if named := matching([*asked, *sound]):
        return Explanation((), tuple((m.label, m.words) for m, _ in named), named[0][1], failing)
    if penalty := added.decay(asked, sound, face.reduction):
        label, text, distance = penalty
        return Explanation((), ((label, text),), distance, failing)
    if told := part_of_weights(face, asked, sound):
        return told
    for condition in mutants.SOME_STEPS:
        if named := matching([*asked, *sound], mutants.at_steps(condition)):
            return Explanation((), tuple((m.label, m.words) for m, _ in named), named[0][1], failing)
    small = probes(face, precision, (region.sizes(SMALL),), region.change)
    if small and (fits := gains.pairs(small[0], [*asked, *sound])):
        return Explanation(tuple(fits), (), fits[0].distance, failing)
    once = probes(face, precision, [region.sizes(size)._replace(T=1) for size in SIZES[:2]], region.change)
    if two := apart.pairs(asked, sound, once):
        return Explanation((), tuple(dict.fromkeys((label, text) for label, text, _ in two)), two[0][2], failing)
    return None


def odd_shapes(bench: Bench) -> str:
    """What makes arrays of the wrong shape right: their axes in another order, where all else is right; else nothing."""
    case = bench.case(fitted(CORNERS[0], bench.candidate))
    call = contract.prepare(bench.candidate, case.inputs, bench.precision.dtype)
    try:
        _, answer = contract.run(call, bench.instance, case.cotangents)
    except Finding:
        return ""
    odd = {k: v for k, v in answer.raw.items() if v.shape != call.gradients.own[k]}
    for order in ((1, 0), (1, 0, 2), (0, 2, 1)):
        turned = {k: v.transpose(order) for k, v in odd.items() if v.ndim == len(order)}
        if turned and turned.keys() == odd.keys() and regions.wrong(bench, case, {**answer.raw, **turned}) is False:
            axes = "transposed" if len(order) == 2 else f"with axes {' and '.join(str(n) for n, k in enumerate(order) if n != k)} exchanged"
            return f"the gradient{'s' * (len(odd) > 1)} of {', '.join(odd)} come{'s' * (len(odd) == 1)} back {axes}, and all else is right"
    return ""


def held_coarsely(face: Candidate, precision: tol.Precision) -> str:
    """What makes all errors as small and as changeable as rounding at a lower precision; else nothing."""
    bench = Bench(face, precision, face.make())
    try:
        lower = held_in(bench, [bench.case(spec) for spec in specs(face)])
    except Finding:
        return ""
    known = f"every error is one that rounding to {lower} makes, and is another one where numbers are a few roundings away"
    return f"{known}: something on the way, what is carried from step to step or a buffer, is held in {lower}" if lower else ""


def second_bias(face: Candidate, asked: list[Probe], sound: Sequence[Probe] = ()) -> Explanation | None:
    """What is wrong with the gradient of the second of two biases, where everything else is right: one factor on all of it, or a
    known mistake. It must leave those right that are so in the `sound` probes."""
    found: list[float] = []
    failing: dict[str, None] = {}
    worst = 0.0
    for probe in asked:
        due = {k: probe.truth[k] for k in probe.second}
        size = sum(np.vdot(v, v) for v in due.values())
        gain = float(sum(np.vdot(probe.second[k], due[k]) for k in due) / size) if size else 1.0
        failing |= dict.fromkeys(_as_one(probe).failing)
        found.append(gain)
        worst = max(worst, _off(probe, gain))
    if not failing:
        return None
    name = f"the gradient of {face.layout.name('b_h')}, the second of two biases"
    wrong = gains.meaning(found, asked) if worst <= 1 else ""
    if wrong and all(_off(p, gains.value(wrong, found[0], p)) <= 1 for p in sound):
        return Explanation((), (("B:biases", f"{name}, is {wrong}"),), worst, tuple(failing))
    if named := matching([_as_one(p) for p in (*asked, *sound)]):
        return Explanation((), tuple((m.label, f"{name}: {m.words}") for m, _ in named), named[0][1], tuple(failing))
    return None


def part_of_weights(face: Candidate, asked: list[Probe], sound: Sequence[Probe] = ()) -> Explanation | None:
    """What is wrong with the gradients of the weights of x alone, or of those of h alone, where everything else is right: one factor
    on all of them, or a known mistake. It must leave those right that are so in the `sound` probes."""
    failing = tuple(dict.fromkeys(k for p in asked for k in p.failing))
    for of in "xh" if set(failing) <= set(WEIGHTS) else ():
        if any(replace(p, answers=_in_part(of, p, p.truth, p.answers)).failing for p in asked):
            continue
        name = f"the gradient of {face.layout.template(f'W_{of}')}" if face.layout.joint == "split" else f"the part of dW_k that is {of}'s"
        gain = [_gain_of_part(p, of) for p in asked]
        if wrong := gains.meaning(gain, asked):
            scaled = [(p, _in_part(of, p, {k: gains.value(wrong, gain[0], p) * p.truth[k] for k in p.truth})) for p in (*asked, *sound)]
            worst = max(float(p.distance({k: v[None] for k, v in g.items()})[0]) for p, g in scaled)
            if worst <= 1:
                return Explanation((), (("B:weights", f"{name} is {wrong}"),), worst, failing)
        if named := matching([*asked, *sound], given=functools.partial(_in_part, of)):
            return Explanation((), tuple((m.label, f"{name}: {m.words}") for m, _ in named), named[0][1], failing)
    return None


def _in_part(of: str, probe: Probe, gradients: Gradients, elsewhere: Gradients | None = None) -> Gradients:
    """The gradients of the weights of x, or of h, from `gradients`, and all else from the truth, or from another set."""
    out, H = dict(elsewhere or probe.truth), probe.case.spec.sizes.H
    for k in WEIGHTS:
        if k in out:
            parts = (gradients[k][:, :H], out[k][:, H:]) if of == "h" else (out[k][:, :H], gradients[k][:, H:])
            out[k] = np.concatenate(parts, axis=1)
    return out


def _gain_of_part(probe: Probe, of: str) -> float:
    """The one factor on the gradients of the weights of x, or of h, that comes nearest to the answers."""
    nothing = {k: np.zeros_like(v) for k, v in probe.truth.items()}
    due, rest = _in_part(of, probe, probe.truth, nothing), _in_part(of, probe, nothing)
    there = [k for k in WEIGHTS if k in probe.answers]
    size = sum(float(np.vdot(due[k], due[k])) for k in there)
    return sum(float(np.vdot(probe.answers[k] - rest[k], due[k])) for k in there) / size if size else 1.0


def _off(probe: Probe, gain: float) -> float:
    """How far the gradient of the second bias is from so many times what is due, in tolerances."""
    return max((float(np.abs(v - gain * probe.truth[k]).max()) / probe.limits[k] for k, v in probe.second.items()), default=0.0)


def _as_one(probe: Probe) -> Probe:
    """The probe as if the second of two biases were the only one."""
    return replace(probe, answers={**probe.answers, **probe.second}, second={})


def matching(
    asked: list[Probe],
    known: tuple[mutants.Mutant, ...] = (),
    given: Callable[[Probe, Gradients], Gradients] = lambda probe, gradients: gradients,
) -> list[tuple[mutants.Mutant, float]]:
    """The mutants whose gradients, or what is `given` of them, are the answers, to rounding, in every probe; best first. All that are
    known, where none are named."""
    found = []
    for mutant in known or mutants.known():
        if mutant.kind == "edge" or (mutant.model and asked[0].head is None):
            continue
        worst = 0.0
        for probe in asked:
            with np.errstate(all="ignore"):
                gradients = given(probe, mutant.run(probe.trace, probe.cotangents, probe.head))
                worst = max(worst, float(probe.distance({k: v[None] for k, v in gradients.items()})[0]))
            if worst > 1:
                break
        if worst <= 1:
            found.append((mutant, worst))
    return sorted(found, key=lambda pair: pair[1])
