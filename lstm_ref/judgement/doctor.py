"""Doctor: what is understood of a candidate before any gradient of it is judged, as one value.

The candidate is asked for one small case, and twice: what it returns, and which of its keys have a use here. The forward pass is
held against every reading that is known, the precision is measured, and a complex step through it is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Answer, Call, Candidate, Finding, TimeLimit, time_limit
from ..candidates.student import fault, gradient_of, gradients_of, loss_of, still
from ..cases import Case
from ..reference.symbols import LAYER_INPUTS, LAYER_INTERMEDIATES, MODEL_INTERMEDIATES, Sizes
from .judge import Bench, fitted, judge, measure_precision
from .reading import Reading, find
from .run import PRECISION_CORNERS
from .student import SECONDS
from .tolerances import Precision
from .verdict import FAIL

DECLARED, OTHER, UNKNOWN, NO_ANSWER = "as declared", "another reading", "no reading", "no answer"  # of a forward pass
COMPLEX, REAL = "complex step", "six-point"
FIRST = replace(cases.CORNERS[0], sizes=cases.CORNERS[0].sizes._replace(K=6))  # every size another: shapes tell the axes apart
SURE = ("contract.call", "contract.time", "contract.keys", "contract.shapes")  # with these, differences say nothing


class Seen(NamedTuple):
    """One array as the candidate was given or returned it."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Problem(NamedTuple):
    """What will fail, by the id of its check, in a sentence."""

    check: str
    sentence: str


@dataclass(frozen=True)
class Examination:
    """What one case at `sizes` told of a candidate.

    `forward` is one of DECLARED, OTHER, UNKNOWN and NO_ANSWER, or empty for a student; `differences` is how its forward pass
    is differenced, and `why_real` says why not by a complex step. `unchecked` holds pairs of a check and its cause: "factory",
    "taps", "intermediates", "c_T", "h", "initial_state", "model", "gradients" or "student". `unread` are parameters of a student that its
    loss does not depend on.
    """

    candidate: Candidate
    dtype: str
    sizes: Sizes | None = None
    given: tuple[Seen, ...] = ()
    outputs: tuple[Seen, ...] = ()
    gradients: tuple[Seen, ...] = ()
    intermediates: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    forward: str = ""
    reading: Reading | None = None
    differences: str = ""
    why_real: str = ""
    unchecked: tuple[tuple[str, str], ...] = ()
    loss: float | None = None
    unread: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing is missing and everything is as declared."""
        return not self.problems and self.forward in (DECLARED, "")


def examine(face: Candidate, precision: Precision) -> Examination:
    """Ask a candidate for one small case and say what was understood. Never raises because the candidate is bad."""
    if face.kind == "student":
        return _student(face)
    spec = fitted(FIRST, face)
    case = cases.build(spec, precision.dtype, face.model, face.variant)
    call = contract.prepare(face, case.inputs, precision.dtype)
    given = _seen(call.inputs)
    instance = face.make()
    outputs, gradients, problems = _ask(call, instance, case)
    hung = any(p.check == "contract.time" for p in problems)
    unused = () if any(p.check in ("contract.call", "contract.time") for p in problems) else _unused(call, instance, case)
    reading = None if hung else find(face, precision)
    forward, read, answered = NO_ANSWER, face, not any(p.check in SURE for p in problems)
    if reading is not None:
        as_declared = not reading.words and not reading.declaration(face)
        forward = DECLARED if as_declared else OTHER
        read = replace(face, layout=reading.layout, reduction=reading.reduction, variant=reading.variant)
    elif face.layout.name(face.hidden) in outputs or (face.model and not problems):
        forward = UNKNOWN
    bench = Bench(read, precision, instance)
    if answered and (reading is None or not reading.words):
        problems += _precision(bench)
        if reading is None and {face.hidden, "J"} & set(bench.lower):  # no reading fits to a rounding finer than its own
            forward, reading = DECLARED, Reading(face.layout, face.variant, reduction=face.reduction)
    if answered and forward == UNKNOWN:
        problems += _ignored_states(bench, case)
    differences, why = "", ""
    if answered and not any(p.check in SURE for p in problems):
        differences, why = _differences(bench, case, call)
    inner = {face.layout.name(k): k for k in _inner(face)}
    return Examination(
        face,
        precision.name,
        spec.sizes if face.model else spec.sizes._replace(K=1),
        given,
        tuple(s for s in _seen(outputs) if s.name not in inner),
        tuple(s for s in _seen(gradients) if s.name not in inner and s.name != "J"),
        tuple(dict.fromkeys(inner[k] for k in (*outputs, *gradients) if k in inner)),
        unused,
        tuple(dict.fromkeys(problems)),
        forward,
        reading,
        differences,
        why,
        tuple(_unchecked(face, {inner[k] for k in gradients if k in inner}, bool(gradients))),
    )


def _inner(face: Candidate) -> tuple[str, ...]:
    """What may be returned beside outputs and gradients; the gradient of h is one of them, h itself is an output."""
    return tuple(k for k in (MODEL_INTERMEDIATES if face.model else LAYER_INTERMEDIATES) if k != "h")


def _seen(arrays: Mapping[str, Any]) -> tuple[Seen, ...]:
    return tuple(Seen(k, np.shape(v), str(np.asarray(v).dtype)) for k, v in arrays.items())


def _ask(call: Call, instance, case: Case) -> tuple[dict, dict, list[Problem]]:
    """The candidate's own arrays, outputs and gradients, and what is wrong with them."""
    face = call.candidate
    problems: list[Problem] = []
    given = {k: v.tobytes() for k, v in call.inputs.items()}
    answers: list[Answer] = []
    raised: list[Problem] = []
    try:
        outputs, pull = contract.start(call, instance)
        answers.append(outputs)
        if face.kind == "forward" and not all(f"{k}_gradient" in face.supports.missing for k in LAYER_INPUTS):
            raised.append(Problem("contract.keys", "it has forward and nothing that gives gradients"))
        elif face.kind != "forward":
            answers.append(pull(case.cotangents))
    except Finding as finding:
        raised.append(Problem(finding.check, finding.sentence))
    for answer in answers:
        problems += [Problem(f.check, f.sentence) for f in answer.faults.values()]
        problems += _unfit(answer, call.dtype)
    problems += raised
    if changed := [k for k in given if given[k] != call.inputs[k].tobytes()]:
        problems.append(Problem("state.inputs_unmutated", f"{', '.join(changed)} changed during the call; work on a copy"))
    raw = [answer.raw for answer in answers]
    return (raw or [{}])[0], (raw[1] if raw[1:] else {}), problems


def _unfit(answer: Answer, due: np.dtype) -> Iterable[Problem]:
    for name, array in answer.raw.items():
        if contract.strays(array, due):
            yield Problem("contract.dtype", f"{name} came back as {array.dtype} for {due} inputs")
    if bad := [k for k, v in answer.arrays.items() if not np.isfinite(v).all()]:
        yield Problem("contract.finite", f"{', '.join(bad)} holds NaN or infinity at an ordinary point")


def _unused(call: Call, instance, case: Case) -> tuple[str, ...]:
    """The keys of what the candidate returns that nothing is done with; the candidate is known to answer this call."""
    face = call.candidate
    try:
        if face.model:
            _, gradients = contract.guarded(call, face.kind, instance.loss_and_gradients, call.inputs)
            returned = [gradients]
        else:
            outputs, _ = contract.start(call, instance)
            flows = contract.cotangents_for(call, outputs.arrays, case.cotangents)
            if face.kind == "pullback":
                first, pull = contract.guarded(call, face.kind, instance.pullback, call.inputs)
                returned = [first, contract.guarded(call, face.kind, pull, flows)]
            else:
                returned = [contract.guarded(call, "forward", instance.forward, call.inputs)]
                returned += [contract.guarded(call, "vjp", instance.vjp, call.inputs, flows)] if face.kind == "vjp" else []
    except Finding:
        return ()  # another answer to the same call: state.repeat will say it
    declared = {face.layout.name(k.removesuffix("_gradient")) for k in face.supports.missing}
    return tuple(dict.fromkeys(str(k) for d in returned for k in contract.by_name(d) or () if k not in call.gradients.own or k in declared))


def _precision(bench: Bench) -> list[Problem]:
    specs = [fitted(cases.CORNERS[k], bench.candidate) for k in PRECISION_CORNERS]
    try:
        found = measure_precision(bench, [bench.case(s) for s in specs])
    except Finding as finding:
        return [Problem(finding.check, finding.sentence)]
    return [Problem("numerics.effective_precision", found.rule)] if found.outcome == FAIL else []


def _ignored_states(bench: Bench, case: Case) -> list[Problem]:
    """That its forward pass is the declared one with an initial state of zero, where it is."""
    evidence = judge(bench, case, with_differences=False).evidence
    check = "forward.J" if case.model else "forward.initial_state"
    found = evidence.get(check)
    ignored = found is not None and found.outcome == FAIL and found.rule.endswith(": False}")  # the line that declares it
    return [Problem(check, found.rule)] if found is not None and ignored else []


def _differences(bench: Bench, case: Case, call: Call) -> tuple[str, str]:
    """How the candidate's forward pass is differenced, and why not by a complex step."""
    if bench.candidate.kind == "forward":
        return "", ""
    if bench.precision.name != "float64":
        return REAL, f"a complex step is taken in float64 only, and this is {bench.precision.name}"
    judge(bench, case)
    if bench.complex_safe and all(bench.complex_safe.values()):
        return COMPLEX, ""
    inputs = {k: v if v.dtype.kind == "i" else v.astype(np.complex128) for k, v in call.inputs.items()}
    there = call._replace(inputs=inputs, dtype=np.dtype(np.complex128))
    try:
        contract.start(there, bench.instance) if bench.candidate.model else contract.forward(there, bench.instance)
    except Finding as finding:
        return REAL, finding.sentence
    return REAL, "a complex step finds another slope than a real one"


def _unchecked(face: Candidate, inner: set[str], answered: bool) -> Iterable[tuple[str, str]]:
    """The checks that this candidate gives no hold for, each with its cause."""
    if face.kind == "forward":
        yield "grad.*", "gradients"
    if not face.factory:
        yield "state.two_instances", "factory"
    if face.model:
        yield "state.second_backward, state.interleaved", "model"
        return
    if face.hidden != "h":
        yield "forward.h, law.causality", "h"
    if "c_T" in face.supports.missing:
        yield "law.time_split, forward.c_T", "c_T"
    if not face.supports.initial_state:
        yield "law.time_split" if face.supports.states else "forward.initial_state, law.time_split", "initial_state"
    if answered and not inner:
        yield "inter.*", "intermediates"
    elif inner and not face.taps:
        yield "inter.*.differences", "taps"


def _student(face: Candidate) -> Examination:
    """The same of an object with parameters of its own."""
    blank = Examination(face, "float64", unchecked=(("forward.*, law.*, numerics.*", "student"),))
    try:
        with time_limit(SECONDS):
            thing = face.make()
            params, gradients, value = dict(thing.params), gradients_of(thing), loss_of(thing)
    except Finding as finding:
        return replace(blank, problems=(Problem(finding.check, finding.sentence),))
    except (Exception, TimeLimit) as error:
        what = f"did not return within {SECONDS:g} s" if isinstance(error, TimeLimit) else f"raised {type(error).__name__}: {error}"
        return replace(blank, problems=(Problem("contract.call", f"gradients() or loss() {what}"),))
    problems = []
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}
    for k, v in params.items():
        if told := fault(thing, k):
            problems.append(Problem("contract.call", told))
        elif np.asarray(v).dtype.kind != "f":
            told = f"params[{k!r}] is an array of {np.asarray(v).dtype}; a NumPy array of floating-point numbers is due"
            problems.append(Problem("contract.call", told))
        else:
            arrays[k] = np.asarray(v)
            try:
                found[k] = gradient_of(gradients, k, arrays[k].shape)
            except Finding as finding:
                problems.append(Problem(finding.check, finding.sentence))
    unread: tuple[str, ...] = ()
    try:
        with time_limit(SECONDS):
            unread = tuple(k for k, v in arrays.items() if v.size and still(thing, k))
    except (Exception, TimeLimit) as error:
        told = error.sentence if isinstance(error, Finding) else f"{type(error).__name__}: {error}"
        problems.append(Problem("contract.call", f"loss() gives no number when a parameter moves ({told})"))
    if arrays and len(unread) == len(arrays):
        sentence = "loss() stays the same whatever is written into params, so it reads other arrays"
        problems.append(Problem("contract.call", sentence))
    return replace(
        blank,
        given=_seen(arrays),
        gradients=_seen(found),
        unused=tuple(str(k) for k in gradients if k not in params),
        problems=tuple(problems),
        loss=value,
        unread=unread,
    )
