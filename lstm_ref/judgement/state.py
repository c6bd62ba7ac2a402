"""State: whether calls leave traces. The same question asked twice, at once, of two instances, of awkward memory."""

from __future__ import annotations

import contextlib

import numpy as np

from ..candidates import contract
from ..candidates.contract import Answer, Finding
from . import tolerances as tol
from .comparison import worst_of
from .judge import AWKWARD, Bench, Judged
from .laws import _agree
from .verdict import FAIL, PASS, Evidence

ELSEWHERE = "of one instance changed during a call of another"


def judge_state(bench: Bench, judged: Judged, other: Judged, wanted) -> dict[str, Evidence]:
    """Every state check that is wanted, on this case beside another one."""
    found: dict[str, Evidence] = {}
    numbers = [q for one in (judged, other) for q in (*one.values.values(), *one.gradients.arrays.values())]
    if not all(np.isfinite(q).all() for q in numbers):
        return found  # NaN equals nothing, not even itself; contract.finite says it
    for name, check in STATE.items():
        if wanted(f"state.{name}"):
            try:
                evidence = check(bench, judged, other)
            except Finding as finding:
                evidence = Evidence(FAIL, np.inf, rule=finding.sentence)
            if evidence is not None:
                found[f"state.{name}"] = evidence
    return found


def _call(bench: Bench, judged: Judged, memory: str = "plain") -> contract.Call:
    return contract.prepare(bench.candidate, judged.case.inputs, bench.precision.dtype, memory)


def _same(bench: Bench, judged: Judged, answer: Answer, expected: Answer | None = None) -> Evidence:
    """Whether gradients are those of the first judgement of this case, within twice their tolerance."""
    expected = judged.gradients if expected is None else expected
    keys = [k for k in expected.arrays if "." not in k and k in answer.arrays]
    if missing := [k for k in expected.arrays if k not in answer.arrays]:
        return Evidence(FAIL, np.inf, missing[0], rule=f"{', '.join(missing)} came back the first time only")
    if all(np.array_equal(answer.arrays[k], expected.arrays[k]) for k in keys):
        return Evidence(PASS)
    limits = {k: 2 * judged.point.tolerance(k) for k in keys}
    evidence = _agree(bench, {k: answer.arrays[k] for k in keys}, {k: expected.arrays[k] for k in keys}, limits)
    if evidence.outcome == FAIL:
        return evidence
    return evidence._replace(outcome=PASS, note="equal within rounding, not bit for bit")


def _other_outputs(bench: Bench, judged: Judged, answer: Answer) -> Evidence | None:
    """The failure where outputs are not those of the first judgement of this case, within twice their tolerance."""
    if all(np.array_equal(answer.arrays[k], judged.values[k]) for k in judged.values if k in answer.arrays):
        return None
    keys = [k for k in judged.values if k in answer.arrays and k in judged.point.conditions]
    limits = {k: 2 * tol.tolerance(judged.point.conditions[k], bench.u(k)) for k in keys}
    found = _agree(bench, {k: answer.arrays[k] for k in keys}, {k: judged.values[k] for k in keys}, limits)
    if found.outcome != FAIL:
        return None
    sentence = (
        f"the output {found.quantity} of the same call is another one than before: it depends on earlier calls, or is drawn at random"
    )
    advice = "keep no state from one call to the next, and turn dropout off (torch: self.eval() in the constructor)"
    return Evidence(FAIL, np.inf, found.quantity, rule=f"{sentence}; {advice}")


def _repeat(bench: Bench, judged: Judged, other: Judged) -> Evidence:
    outputs, again = contract.run(_call(bench, judged), bench.instance, judged.case.cotangents)
    return _other_outputs(bench, judged, outputs) or _same(bench, judged, again)


def _second_backward(bench: Bench, judged: Judged, other: Judged) -> Evidence | None:
    if bench.candidate.model:
        return None
    _, pull = contract.start(_call(bench, judged), bench.instance)
    first = pull(judged.case.cotangents)
    kept = first._replace(arrays={k: v.copy() for k, v in first.arrays.items()})
    nothing = {k: 0 * v for k, v in judged.case.cotangents.items()}
    pull(nothing)
    return worst_of([_same(bench, judged, kept), _same(bench, judged, pull(judged.case.cotangents))])


def _interleaved(bench: Bench, judged: Judged, other: Judged) -> Evidence | None:
    if bench.candidate.model:
        return None
    return _two(bench, judged, other, bench.instance, bench.instance)


def _two_instances(bench: Bench, judged: Judged, other: Judged) -> Evidence | None:
    make = bench.candidate.make
    if not bench.candidate.factory:
        return None
    if bench.candidate.model:
        one, two = make(), make()
        _, first = contract.run(_call(bench, other), two, other.case.cotangents)
        kept = contract.snapshot(first.raw)
        _, answer = contract.run(_call(bench, judged), one, judged.case.cotangents)
        found = worst_of([_overwritten("gradient", kept, ELSEWHERE), _same(bench, judged, answer)])
    else:
        found = _two(bench, judged, other, make(), make())
    if found.outcome != FAIL:
        return found
    alone = [_same(bench, q, contract.run(_call(bench, q), make(), q.case.cotangents)[1]) for q in (judged, other)]
    if all(e.outcome == PASS for e in alone):
        return found  # a new instance that is alone does as the first one did: the two disturb each other
    sentence = (
        "a new instance gives other gradients than one that was called before: it keeps something of earlier calls, or draws at random"
    )
    return Evidence(FAIL, np.inf, next(e.quantity for e in alone if e.outcome == FAIL), rule=sentence)


def _two(bench: Bench, judged: Judged, other: Judged, one, two) -> Evidence:
    """Forward here, forward there, backward here, backward there."""
    outputs, pull = contract.start(_call(bench, judged), one)
    kept = contract.snapshot(outputs.raw)
    other_outputs, other_pull = contract.start(_call(bench, other), two)
    found = [_overwritten("output", kept, ELSEWHERE)]
    if changed := _other_outputs(bench, judged, outputs) or _other_outputs(bench, other, other_outputs):
        return changed
    answer = pull(judged.case.cotangents)
    found.append(_same(bench, judged, answer))
    kept = contract.snapshot(answer.raw)
    found.append(_same(bench, other, other_pull(other.case.cotangents)))
    found.append(_overwritten("gradient", kept, ELSEWHERE))
    return worst_of(found if one is not two else found[1:3])  # one instance that overwrites is told by _aliasing


def _overwritten(what: str, kept: dict, when: str) -> Evidence:
    """Whether arrays that were returned still hold the numbers of their snapshot."""
    changed = [name for name, (array, numbers) in kept.items() if array.tobytes() != numbers]
    return Evidence(FAIL, np.inf, changed[0], rule=f"the {what} {changed[0]} {when}; return a copy") if changed else Evidence(PASS)


def _in_memory(memory: str):
    def check(bench: Bench, judged: Judged, other: Judged) -> Evidence:
        _, answer = contract.run(_call(bench, judged, memory), bench.instance, judged.case.cotangents)
        found = _same(bench, judged, answer)
        return found._replace(rule=AWKWARD[memory]) if found.outcome == FAIL and found.index else found

    return check


def _aliasing(bench: Bench, judged: Judged, other: Judged) -> Evidence:
    """Outputs and gradients that share memory with inputs, or that the next call overwrites, change under the caller's hands."""
    call = _call(bench, judged)
    outputs, pull = contract.start(call, bench.instance)
    gradients = pull(judged.case.cotangents)
    for where, answer in (("output", outputs), ("gradient", gradients)):
        for name, array in answer.raw.items():
            for given, v in call.inputs.items():
                if array.ndim and np.may_share_memory(array, v) and np.shares_memory(array, v):
                    sentence = f"the {where} {name} shares memory with the input {given}; return a copy"
                    return Evidence(FAIL, np.inf, name, rule=sentence)
    kept, flown = contract.snapshot(outputs.raw), contract.snapshot(gradients.raw)
    contract.run(_call(bench, other), bench.instance, other.case.cotangents)
    when = "of one call changed during the next call"
    found = [_overwritten("output", kept, when), _overwritten("gradient", flown, when)]
    with contextlib.suppress(Finding):  # that it cannot be called twice is told by _second_backward
        pull({k: 0 * v for k, v in judged.case.cotangents.items()})
        found.append(_overwritten("gradient", flown, "changed during a second backward pass of the same forward pass"))
    return worst_of(found)


STATE = {
    "repeat": _repeat,
    "second_backward": _second_backward,
    "interleaved": _interleaved,
    "two_instances": _two_instances,
    "readonly": _in_memory("readonly"),
    "noncontiguous": _in_memory("noncontiguous"),
    "aliasing": _aliasing,
}
