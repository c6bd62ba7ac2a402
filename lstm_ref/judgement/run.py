"""Run: the one engine behind every door. Candidates and a profile in, a Verdict out; it never prints.

One stream of cases per dtype: the fixed corners, then what Hypothesis draws from the seed. Each case is judged once and
every check reads its own quantity from that judgement.
"""

from __future__ import annotations

import platform
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..cases import Case, Spec
from ..reference.variant import TEXTBOOK, Variant
from ..truth import variants
from . import tolerances as tol
from .comparison import worst_of
from .judge import Bench, Judged, called, fitted, judge, measure_precision, truth_holds
from .laws import judge_laws
from .manifest import CHECKS, GROUPS, manifest, selected
from .reading import find as find_reading
from .selftest import misjudged
from .sheet import COARSE, Sheet, due, vacuity
from .shrink import SECONDS as SHRINK_SECONDS
from .shrink import shrink
from .state import judge_state
from .student import judge_student
from .verdict import (
    CANNOT_TELL,
    DESELECTED,
    FAIL,
    NOT_PROVIDED,
    NOT_RUN,
    PASS,
    TIMEOUT,
    UNRESOLVED,
    Evidence,
    Result,
    Verdict,
    kind_of,
    merged,
)


@dataclass(frozen=True)
class Profile:
    """How much is judged: drawn cases after the corners, every how many of them also by the laws, the time after which no
    further case is drawn, and the time after which a case is judged by autodiff alone (None: no limit). Differences, laws and
    state checks have spoken by then: the first case has them all."""

    name: str
    draws: int
    laws_every: int
    seconds: float | None = None
    extras: float | None = None


PROFILES = {
    "quick": Profile("quick", 12, 6, seconds=6.0, extras=12.0),
    "dev": Profile("dev", 150, 10, seconds=30.0, extras=60.0),
    "ci": Profile("ci", 1000, 20),
    "nightly": Profile("nightly", 20_000, 20),
}
SEED = 20_261
TRIED = 3  # failures, one after the other, until one fails again when it is to be made smaller: what is explained does not


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run. `verdict` holds what had been judged until then; its `incomplete` says how far that was."""

    def __init__(self, verdict: Verdict):
        super().__init__(verdict.incomplete)
        self.verdict = verdict


DIFFERENCE_CORNERS = (0, 3, 4, 5, 6, 8, 9, 11, 13, 15, 18, 21, 23, 25, 27, 28, 29, 31, 32, 33, 34)  # … by differences
LAW_CORNERS = (0, 5, 8, 9, 11, 23, 26, 31)  # of the fixed cases, these are also judged by the laws
STATE_CORNERS = (0, 9)
PRECISION_CORNERS = (0, 4, 8)


def run(
    target: str,
    faces: list[Candidate],
    profile: str = "quick",
    dtypes: tuple[str, ...] | None = None,
    seed: int | None = None,
    only: str | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Verdict:
    """Judge the candidates of a target and return the Verdict. Never raises because a candidate is bad.

    `dtypes` are "float64", "float32", "bfloat16" or "float16" (default: float64, and what the candidate declares);
    `only` is a comma-separated list of patterns of check ids. Without a seed, nightly draws one and the verdict names it;
    the other profiles have a fixed one. Raises ValueError for an unknown profile, dtype or pattern, and on Ctrl-C Interrupted, a
    KeyboardInterrupt with the verdict on what had been judged.
    """
    if profile not in PROFILES:
        raise ValueError(f"the profile is {profile!r}; it must be one of {', '.join(PROFILES)}")
    if unknown := set(dtypes or ()) - set(tol.PRECISIONS):
        raise ValueError(f"the dtype is {', '.join(sorted(unknown))}; it must be one of {', '.join(tol.PRECISIONS)}")
    declared = next((f.supports.dtypes for f in faces if f.supports.dtypes), None)
    dtypes = dtypes or declared or ("float64",)
    if seed is None:
        seed = secrets.randbits(32) if profile == "nightly" else SEED
    verdicts: list[Verdict] = []
    for n, d in enumerate(dtypes):
        try:
            verdicts.append(_run_one(target, faces, PROFILES[profile], d, seed, only, progress, declared))
        except Interrupted as stop:
            left = [_none_run(stop.verdict, d) for d in dtypes[n + 1 :]]
            raise Interrupted(merged([*verdicts, stop.verdict, *left])) from None
    return merged(verdicts)


def _none_run(interrupted: Verdict, dtype: str) -> Verdict:
    """The verdict at a dtype whose turn never came."""
    results = [Result(r.id, dtype, r.outcome if r.outcome == DESELECTED else NOT_RUN) for r in interrupted.results]
    results = [r if r.outcome == DESELECTED else replace(r, reason=interrupted.incomplete) for r in results]
    return replace(interrupted, results=tuple(results), cases=0, seconds=0.0, notes=(), vacuity=())


def _run_one(target, faces, profile, dtype, seed, only, progress, declared) -> Verdict:
    began = time.monotonic()
    if faces[0].kind == "student":
        try:
            results = judge_student(faces[0], only)
        except KeyboardInterrupt:
            why = "interrupted before the object was judged"
            results = [Result("contract.call", "float64", NOT_RUN, reason=why)]
            raise Interrupted(_verdict(target, profile, seed, results, 0, began, "self-consistency", (), incomplete=why)) from None
        slow = dict.fromkeys(r.reason for r in results if r.outcome == PASS and r.reason)
        return _verdict(target, profile, seed, results, len(results), began, "self-consistency", slow)
    checks = manifest(faces)
    wanted = selected(checks, only)
    sheet = Sheet({c.id: c for c in checks}, wanted, due(faces))
    try:
        return _judge_all(target, faces, profile, dtype, seed, sheet, began, progress, declared)
    except KeyboardInterrupt:
        raise Interrupted(_so_far(target, faces, profile, dtype, seed, sheet, began)) from None


def _so_far(target, faces, profile, dtype, seed, sheet, began) -> Verdict:
    """The verdict of an interrupted run: what failed has failed, and what had not failed yet was not run to its end."""
    total = (len(cases.CORNERS) + profile.draws) * len(faces)
    why = f"interrupted after {sheet.judged} of {total} {dtype} cases"
    if sheet.streamed:
        why = f"interrupted before the failing {dtype} case was made smaller"
    results = sheet.results(dtype)
    if not sheet.streamed:
        kept = (FAIL, DESELECTED, TIMEOUT)
        results = [r if r.outcome in kept else replace(r, outcome=NOT_RUN, reason=why) for r in results]
    notes = (
        ("failures are shown as they were found: none was made smaller, or diagnosed",) if any(r.outcome == FAIL for r in results) else ()
    )
    return _verdict(target, profile, seed, results, sheet.judged, began, "textbook", notes, incomplete=why)


def _judge_all(target, faces, profile, dtype, seed, sheet, began, progress, declared) -> Verdict:
    checks = list(sheet.checks.values())
    if declared and dtype not in declared:
        results = [Result(c.id, dtype, NOT_PROVIDED, reason=f"{dtype} is not among the declared dtypes") for c in checks]
        return _verdict(target, profile, seed, results, 0, began, "textbook", ())
    if problems := misjudged(dtype):
        reason = f"lstm-ref misjudges gradients that it knows: {'; '.join(problems)}"
        results = [Result(c.id, dtype, NOT_RUN, reason=reason) for c in checks]
        return _verdict(target, profile, seed, results, 0, began, "textbook", (reason,))
    benches = [Bench(face, tol.PRECISIONS[dtype], face.make()) for face in faces]
    for bench in benches:
        compile_oracle(bench.candidate)
    hung, total = first_impressions(sheet, benches), len(cases.CORNERS) + profile.draws
    stopped: tuple[str, ...] = ()
    for bench in () if hung else benches:
        read_forward(sheet, bench)
    started = time.monotonic()
    for n, (spec, bench) in enumerate(() if hung else _stream(benches, profile, seed)):
        progress(min(n // len(benches), total), total, dtype)
        if profile.seconds and n >= len(cases.CORNERS) * len(benches) and time.monotonic() - started > profile.seconds:
            stopped = (f"{n} of {total * len(benches)} cases judged: {profile.name} draws no further case after {profile.seconds:g} s",)
            break
        if _judge_one(sheet, bench, spec, n // len(benches), profile):
            break
    progress(total, total, dtype)
    sheet.streamed = True
    results = _accusing_ourselves(sheet.results(dtype), sheet, benches)
    results = _with_counterexamples(target, results, sheet, benches, dtype, profile)
    if sheet.unasked:
        slow = f"{_slow(sheet, benches)} is slow, and {profile.name} spends {profile.extras:g} s on differences, laws and state"
        stopped = (*stopped, f"{sheet.unasked} cases were judged by autodiff alone: {slow}")
    if dtype in COARSE and any(r.outcome == NOT_PROVIDED and "too coarse" in r.reason for r in results):
        stopped = (*stopped, f"{dtype} is too coarse for differences: autodiff alone judged the gradients")
    remarks = dict.fromkeys(b.candidate.remark for b in benches if b.candidate.remark)
    notes = (*remarks, *sheet.notes(), *stopped)
    declared = dict.fromkeys(b.candidate.variant.words for b in benches if not b.candidate.variant.textbook)
    notes = (*(f"judged as a variant of the textbook LSTM: {words}" for words in declared), *notes)
    kind = kind_of(results, all(b.textbook for b in benches), bool(declared))
    verdict = _verdict(target, profile, seed, results, sheet.judged, began, kind, notes, tuple(vacuity(sheet)))
    return replace(verdict, faces=tuple(b.candidate for b in benches))


def _slow(sheet: Sheet, benches: list[Bench]) -> str:
    """What took most of the time of the cases with differences, laws or state."""
    if sheet.oracle_seconds <= sheet.extras / 2:
        return "the candidate"
    return "judging it" if all(b.candidate.variant.textbook for b in benches) else "judging this variant"


def compile_oracle(candidate: Candidate) -> None:
    """Compile the oracle for the fixed cases, so that its time is none of theirs."""
    sizes = {_given(spec, candidate).sizes for spec in cases.CORNERS}
    sizes = sizes if candidate.model else {n._replace(K=1) for n in sizes}
    variants.prepare(candidate.variant, candidate.model, tol.LANES, sizes)


def first_impressions(sheet: Sheet, benches: list[Bench]) -> bool:
    """Measure the effective precision; True if a call ran out of time."""
    for bench in benches:
        specs = [fitted(cases.CORNERS[k], bench.candidate) for k in PRECISION_CORNERS]
        try:
            found = measure_precision(bench, [bench.case(s) for s in specs])
        except Finding as finding:
            sheet.add(finding.check, Evidence(FAIL, np.inf, rule=finding.sentence), specs[0], bench.candidate.model)
            return True
        sheet.add("numerics.effective_precision", found, specs[0], bench.candidate.model)
    return False


def read_forward(sheet: Sheet, bench: Bench) -> None:
    """Where h (or the loss) is not the textbook's, or arrays do not fit: find the layout and the reduction under which it
    is, and judge under those, or the variant that it is."""
    declared, model = bench.candidate, bench.candidate.model
    spec = fitted(cases.CORNERS[0], declared)
    found = judge(bench, bench.case(spec), with_differences=False)
    check = "forward.J" if model else f"forward.{declared.hidden}"
    failed = next((e for k in (check, "contract.call", "contract.shapes") if (e := found.evidence.get(k)) and e.outcome == FAIL), None)
    if failed is None:
        return
    reading = find_reading(declared, bench.precision)
    if reading is None:
        bench.textbook &= check not in found.evidence
        return
    what = "the loss" if model else declared.hidden
    write = reading.declaration(declared)
    if not write and not reading.words:
        return  # the forward pass is as declared: something else failed
    if not reading.words:
        known = f"an LSTM with {reading.variant_words}" if reading.variant_words else "another declaration"
        rule = f"{what} is that of {known}; write {write}. Everything else is judged under that"
        bench.candidate = replace(declared, layout=reading.layout, reduction=reading.reduction, variant=reading.variant)
        compile_oracle(bench.candidate)
    else:
        bench.textbook = model
        rule = sheet.reading = f"{what} is that of an LSTM with {reading.words}" + (f"; and write {write}" if write else "")
    sheet.add(check, failed._replace(rule=rule), spec, model, explained=not reading.words)


def _stream(benches: list[Bench], profile: Profile, seed: int) -> Iterator[tuple[Spec, Bench]]:
    """Every spec once per face, fitted to what the face supports; the fixed corners first."""
    for spec in (*cases.CORNERS, *cases.drawn(profile.draws, seed)):
        for bench in benches:
            yield _given(spec, bench.candidate), bench


def _given(spec: Spec, candidate: Candidate) -> Spec:
    """The spec as near as the candidate supports it; a variant, whose oracle takes seconds to compile for many rows, gets eight at most."""
    rows = spec.sizes.B if candidate.variant.textbook else min(spec.sizes.B, variants.FEW_ROWS)
    return fitted(replace(spec, sizes=spec.sizes._replace(B=rows)), candidate)


def _judge_one(sheet: Sheet, bench: Bench, spec: Spec, n: int, profile: Profile) -> bool:
    """Judge one case into the sheet; True if a call ran out of time."""
    corner = n < len(cases.CORNERS)
    with_laws = n in LAW_CORNERS if corner else n % profile.laws_every == 0
    with_state = n in STATE_CORNERS if corner else with_laws
    with_differences = n in DIFFERENCE_CORNERS if corner else n % 3 == 0
    asked, began = with_differences or with_laws or with_state, time.monotonic()
    if asked and bench.textbook and profile.extras and sheet.extras > profile.extras:
        asked = with_differences = with_laws = with_state = False
        sheet.unasked += 1
    ours = bench.oracle_seconds
    evidence = evidence_of(bench, spec, sheet.needs, with_differences, with_laws, with_state)
    if asked:
        sheet.extras += time.monotonic() - began
        sheet.oracle_seconds += bench.oracle_seconds - ours
    for check, e in evidence.items():
        sheet.add(check, e, spec, bench.candidate.model)
    sheet.judged += 1
    return "contract.time" in evidence and evidence["contract.time"].outcome == FAIL


def evidence_of(bench: Bench, spec: Spec, wanted, with_differences: bool, with_laws: bool, with_state: bool) -> dict[str, Evidence]:
    """Everything that one case says about the checks that are wanted."""
    case = bench.case(spec)
    return evidence_of_case(bench, case, wanted, with_differences, with_laws, with_state)


def evidence_of_case(bench: Bench, case: Case, wanted, with_differences: bool, with_laws: bool, with_state: bool) -> dict[str, Evidence]:
    with contract.listening():
        return {k: v for k, v in _evidence(bench, case, wanted, with_differences, with_laws, with_state).items() if wanted(k)}


def _evidence(bench: Bench, case: Case, wanted, with_differences: bool, with_laws: bool, with_state: bool) -> dict[str, Evidence]:
    judged = judge(bench, case, with_differences and any(wanted(c) for c in CHECKS if c.endswith(".differences")), with_taps=with_laws)
    found = dict(judged.evidence)
    if judged.gradients is None or not judged.gradients.arrays:
        return found
    if with_laws:
        found |= judge_laws(bench, judged, wanted)
    if with_state:
        other = _other(bench, judged)
        if other.gradients is not None:
            found |= judge_state(bench, judged, other, wanted)
        else:  # it broke where the first case did not
            found |= {k: e for k, e in other.evidence.items() if k.startswith("contract.") and e.outcome == FAIL}
    return found


def _other(bench: Bench, judged: Judged) -> Judged:
    """A second case of the same sizes, for checks that run two at once."""
    spec = replace(judged.case.spec, seed=judged.case.spec.seed + 1)
    return called(bench, bench.case(spec))


def _accusing_ourselves(results: list[Result], sheet: Sheet, benches: list[Bench]) -> list[Result]:
    """Take a failure back where autodiff is not the derivative of the oracle's own forward pass: then we are wrong."""
    out = []
    for r in results:
        chapter, name = r.id.split(".")[:2]
        if r.outcome == FAIL and chapter == "grad" and r.id.endswith(".autodiff") and r.worst.index:
            spec, model = sheet.tallies[r.id].where
            bench = next(b for b in benches if b.candidate.model == model)
            case = bench.case(spec)
            known = r.worst.quantity in bench.candidate.gradient_names  # with its place, where there are several
            if not truth_holds(bench, case, r.worst.quantity if known else name, r.worst.index):
                r = replace(
                    r, outcome=CANNOT_TELL, reason="lstm-ref contradicts itself: autodiff is not the difference of its own forward pass"
                )
        out.append(r)
    return out


def _with_counterexamples(
    target: str, results: list[Result], sheet: Sheet, benches: list[Bench], dtype: str, profile: Profile
) -> list[Result]:
    """Shrink the first failing case once; every other check that fails on the shrunk case shares it."""
    failing = [r for r in results if r.outcome == FAIL and sheet.tallies[r.id].where]
    if not failing:
        return results
    seconds = SHRINK_SECONDS if profile.seconds else None
    numbers = any(r.chapter == "grad" and np.isfinite(r.worst.ratio) for r in failing)

    def telling(r: Result) -> tuple[bool, int]:
        """A wrong number before one that is not finite: where both are seen, NaN is what the wrong one grows to."""
        return numbers and r.id == "contract.finite", most_telling(r.id)

    for first in sorted(failing, key=telling)[:TRIED]:
        spec, model = sheet.tallies[first.id].where
        bench = next(b for b in benches if b.candidate.model == model)
        found = shrink(target, first.id, bench, spec, partial(evidence_on, bench), seconds)
        if found is not None:
            break
    else:
        return results
    counterexample, evidence = found
    out = []
    for r in results:
        shared = evidence.get(r.id)
        if r.outcome == FAIL and r.id == first.id:
            r = replace(r, counterexample=counterexample)
        elif r.outcome == FAIL and shared is not None and shared.outcome == FAIL:
            r = replace(r, counterexample=replace(counterexample, check=r.id, evidence=shared, primary=False))
        out.append(r)
    return out


def evidence_on(bench: Bench, case: Case, check: str) -> dict[str, Evidence]:
    """What one case says, with laws and state judged only where the check asks for them."""
    bench = replace(bench, refuted={})
    chapter = check.partition(".")[0]
    in_chapter = {c for c in CHECKS if c == check or c.partition(".")[0] in ("contract", "forward", "grad", "inter")}
    slow = check.endswith(".differences") or check in GROUPS
    wanted = {c for c in in_chapter if slow or not c.endswith(".differences")} | {check}
    if check == "numerics.effective_precision":
        return {check: measure_precision(replace(bench, lower={}), [case])}
    found = evidence_of_case(bench, case, wanted.__contains__, slow, chapter == "law", chapter == "state")
    if check in GROUPS:
        bad = [e for k, e in found.items() if e.outcome == FAIL and k.partition(".")[0] in ("forward", "grad")]
        found[check] = worst_of(bad) if bad else Evidence(PASS)
    return found


def replay(target: str, faces: list[Candidate], check: str, dtype: str, case: Case, variant: Variant = TEXTBOOK) -> Result:
    """One saved case of a variant again, for one check. Raises ValueError where the target has no candidate of the case's level or
    is of another variant; a target that declares none is taken for any that needs no arrays of its own."""
    face = next((f for f in faces if f.model == case.model and f.kind != "student"), None)
    if face is None:
        raise ValueError(f"the case is one of a {'model' if case.model else 'layer'}, and {target} is none")
    if face.variant != variant and not (face.variant.textbook and variant.inputs == TEXTBOOK.inputs and not variant.data):
        raise ValueError(f"the case is one of the variant ({variant.words}), and {target} declares ({face.variant.words or 'none'})")
    bench = Bench(replace(face, variant=variant), tol.PRECISIONS[dtype], face.make())
    e = evidence_on(bench, case, check).get(check)
    if e is None:
        return Result(check, dtype, NOT_PROVIDED, reason="the candidate gives nothing that this check could judge")
    outcome = {FAIL: FAIL, UNRESOLVED: CANNOT_TELL}.get(e.outcome, PASS)
    reason = e.rule if outcome != PASS else ""
    return Result(
        check, dtype, outcome, 1, failed=int(outcome == FAIL), worst=e, where=case.spec, equations=CHECKS[check].equations, reason=reason
    )


# what comes before what when one failure is shown first: what disturbs calls explains more than what they return
_TELLING = ("contract", "state", "forward", "numerics.effective_precision", "grad", "inter", "law", "sizes", "numerics")


def most_telling(check: str) -> int:
    """The place of a check that fails among those that fail: the first is shown first."""
    return next(n for n, prefix in enumerate(_TELLING) if check.startswith(prefix))


def _verdict(target, profile, seed, results, judged, began, kind, notes, blind=(), incomplete: str = "") -> Verdict:
    told = {"notes": tuple(notes), "versions": versions(), "vacuity": blind, "incomplete": incomplete}
    return Verdict(target, profile.name, seed, tuple(results), judged, time.monotonic() - began, kind, **told)


def versions() -> dict[str, str]:
    """What a verdict rests on: the versions of Python and of the packages that judged."""
    found = {"python": platform.python_version()}
    for name in ("lstm-ref", "numpy", "jax", "hypothesis"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
