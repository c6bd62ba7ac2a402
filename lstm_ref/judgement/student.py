"""Student: judge an object with `params`, `loss()` and `gradients()` by differences of its own loss.

Nothing is known of what it computes, so this is a self-consistency verdict: it says whether the gradients belong to
the loss, not whether the loss is that of an LSTM.
"""

from __future__ import annotations

import fnmatch
import statistics
import time
from dataclasses import replace

import numpy as np

from ..candidates import contract, student
from ..candidates.contract import Candidate, ContractError, Finding, TimeLimit, time_limit
from ..truth import differences
from . import tolerances as tol
from .verdict import CANNOT_TELL, DESELECTED, FAIL, NOT_RUN, PASS, Evidence, Result, Sight

ENTRIES = 64  # blocks of so few entries are differenced entry by entry
DIRECTIONS = 8
SECONDS = 5.0
SPENT, PASSES = 20.0, 12  # seconds that all differences may take, about; passes of one direction
FEWEST = 2  # directions, however slow


def judge_student(candidate: Candidate, only: str | None) -> list[Result]:
    """One result per parameter and a few on behaviour; never raises because the candidate is bad."""
    try:
        with time_limit(SECONDS):
            thing = candidate.make()
            faults = {k: told for k in thing.params if (told := student.fault(thing, k))}
            before = {k: np.array(v) for k, v in thing.params.items() if k not in faults}
            answers, losses, moved, shifted = [], [], set(), set()
            for _ in range(2):
                answers.append(student.kept(student.gradients_of(thing)))  # loss() may write into them
                moved |= student.put_back(thing, before)
            seconds = 0.0
            for _ in range(2):
                began = time.monotonic()
                losses.append(student.loss_of(thing))
                seconds = time.monotonic() - began
                shifted |= student.put_back(thing, before)
            gradients, again = answers
    except Finding as finding:
        return [Result("contract.call", "float64", FAIL, 1, failed=1, reason=finding.sentence)]
    except (Exception, TimeLimit) as error:
        what = f"raised {type(error).__name__}: {error}"
        if isinstance(error, TimeLimit):
            what = f"did not return within {SECONDS:g} s, twice each; loss() is called hundreds of times: plug in fewer steps and units"
        return [Result("contract.call", "float64", FAIL, 1, failed=1, reason=f"gradients() or loss() {what}")]
    if not np.isfinite(losses).all():
        return [Result("contract.call", "float64", FAIL, 1, failed=1, reason=f"loss() gives {losses[0]!r}; a finite number is due")]
    changed = {"gradients()": moved, "loss()": shifted}
    calls = [f"{call} changed {', '.join(k for k in before if k in its)}" for call, its in changed.items() if its]
    differs = [k for k in gradients if k in again and not _same(gradients[k], again[k])]
    unsteady = f"a second call gives other gradients for {', '.join(map(str, differs))}" if differs else ""
    judged: dict[str, Result] = {}
    if losses[0] != losses[1]:
        unsteady = f"loss() gives {losses[0]!r} and then {losses[1]!r}"
    else:
        spent = PASSES * len(before) * seconds
        most = max(FEWEST, int(SPENT / spent)) if spent else ENTRIES
        judged = {k: _judged(thing, k, v, gradients, most) for k, v in before.items()}
        judged = {k: _with_power(r, before[k].size, seconds) for k, r in judged.items()}
    if faults:
        wrong = next(iter(faults.values()))
    elif wrong := _unread(thing, list(judged.values())):
        faults = dict.fromkeys(judged, wrong)
    results = [
        _behaviour("contract.call", wrong),
        _behaviour("state.inputs_unmutated", " and ".join(calls)),
        _behaviour("state.repeat", unsteady),
        *(_shown(k, judged, faults, wrong) for k in thing.params),
    ]
    results = [r if not only or _matches(r.id, only) else Result(r.id, r.dtype, DESELECTED) for r in results]
    if all(r.outcome == DESELECTED for r in results):
        raise ContractError(f"no check matches {only!r}; this candidate's are {', '.join(r.id for r in results)}")
    return results


def _matches(id_: str, only: str) -> bool:
    return any(fnmatch.fnmatchcase(id_, p.strip()) for p in only.split(","))


def _behaviour(id_: str, problem: str) -> Result:
    return Result(id_, "float64", FAIL if problem else PASS, 1, failed=int(bool(problem)), reason=problem)


def _shown(name: str, judged: dict[str, Result], faults: dict[str, str], told: str) -> Result:
    """The result of a parameter, or why there is none; what is `told` of contract.call is not told once more."""
    if name in judged and name not in faults:
        return judged[name]
    by = "state.repeat: what changes from call to call has no derivative"
    if name in faults:
        by = "contract.call" + ("" if faults[name] == told else f": {faults[name]}")
    return Result(f"grad.{name}.differences", "float64", NOT_RUN, reason=f"blocked by {by}")


def _same(one, other) -> bool:
    """Whether two calls gave the same, bit for bit."""
    try:
        arrays = [contract.numbers(q) for q in (one, other)]
    except Exception:  # that it is no array is told where it is judged
        return True
    if any(array.dtype.kind not in contract.NUMBERS for array in arrays):
        return True  # so it is there, of what holds other things than numbers
    return arrays[0].tobytes() == arrays[1].tobytes()


def _unread(thing, judged: list[Result]) -> str:
    """The sentence on an object whose loss no parameter moves, though its gradients say that they do; else empty."""
    wrong = [r for r in judged if r.outcome == FAIL and r.worst is not None and r.worst.difference == 0]
    try:
        unread = bool(wrong) and all(student.still(thing, k) for k, v in thing.params.items() if np.size(v))
    except Finding:
        return ""
    told = "loss() stays the same whatever is written into params, so it reads other arrays"
    return f"{told}; give the very arrays that it reads in params, no copies" if unread else ""


def _with_power(r: Result, entries: int, seconds: float) -> Result:
    """The result, and why it rests on fewer directions than there are entries, where that is for the time that they take."""
    if r.outcome != PASS or r.cases >= min(entries, DIRECTIONS):
        return r
    told = f"loss() takes {seconds:.2g} s, so that gradients are differenced along {r.cases} directions each"
    return replace(r, reason=f"{told}; with fewer steps and units they are along more")


def _judged(thing, name: str, value: np.ndarray, gradients: dict, most: int) -> Result:
    id_ = f"grad.{name}.differences"
    try:
        r = _parameter(thing, name, value, student.gradient_of(gradients, name, value.shape), most)
        unread = r.outcome == FAIL and r.worst is not None and r.worst.difference == 0 and student.still(thing, name)
        return replace(r, reason=f"loss() stays the same whatever is written into {name}") if unread else r
    except Finding as finding:
        if finding.check == "contract.call":  # loss(), and not the gradient
            return Result(id_, "float64", NOT_RUN, reason=f"with {name} moved a little, {finding.sentence}")
        return Result(id_, "float64", FAIL, 1, failed=1, reason=finding.sentence)


def _parameter(thing, name: str, value: np.ndarray, seen: np.ndarray, most: int) -> Result:
    id_ = f"grad.{name}.differences"
    if value.dtype.kind != "f":
        return Result(id_, "float64", NOT_RUN, reason=f"{name} has dtype {value.dtype}; only floating-point parameters can be differenced")
    if not np.isfinite(seen).all():
        return Result(id_, "float64", FAIL, 1, failed=1, reason=f"the gradient of {name} holds NaN or infinity")
    p = tol.PRECISIONS.get(value.dtype.name, tol.PRECISIONS["float64"])
    coarse = p.name != "float64"
    worst: Evidence | None = None
    counts = {PASS: 0, FAIL: 0, CANNOT_TELL: 0}
    sights: list[float] = []
    ratios: list[float] = []
    along_all: list[tuple[float, float, float]] = []  # of every direction: the candidate's, the difference, the tolerance
    for direction in _directions(seen.shape, most):
        J = student.loss_along(thing, name, direction)
        rounding = tol.KAPPA * p.u * abs(J(0.0))
        scale = float(np.linalg.norm(seen)) / np.sqrt(seen.size)
        good_enough = np.sqrt(p.u) * scale
        d = differences.real_steps(J, rounding, tol.DIFFERENCE_BOUND, scale, good_enough, p.resolution * scale, coarse)
        along, own = float(np.sum(seen * direction)), tol.KAPPA * tol.KAPPA * p.u * float(np.sum(np.abs(seen * direction)))
        if not abs(along - d.value) <= d.bound + own:
            d = differences.near_kinks(J, rounding, tol.KINK_BOUND, good_enough, coarse)
        limit, error = d.bound + own, abs(along - d.value)
        along_all.append((along, d.value, limit))
        ratio = error / limit if limit else float(error > 0)
        typical = max(scale, abs(along), abs(d.value))
        outcome = FAIL if not ratio <= 1 else PASS if limit < p.resolution * typical or not limit else CANNOT_TELL
        counts[outcome] += 1
        if outcome == PASS and typical:
            sights.append((1 + ratio) * limit / typical)
        if outcome != CANNOT_TELL:
            ratios.append(ratio)
        index = tuple(int(k) for k in np.argwhere(direction)[0]) if np.count_nonzero(direction) == 1 else ()
        rule = "|⟨candidate, direction⟩ − difference| ≤ the difference's own bound + rounding"
        e = Evidence(outcome, ratio, name, index, along, None, d.value, error, limit, rule, d.method)
        worst = e if worst is None or (e.outcome == FAIL, e.ratio) > (worst.outcome == FAIL, worst.ratio) else worst
    outcome = FAIL if counts[FAIL] else PASS if counts[PASS] else CANNOT_TELL
    reason = ""
    if outcome == CANNOT_TELL:
        reason = "no direction could be resolved" + (f"; differences see little in {p.name}: hold params in float64" if coarse else "")
    elif outcome == FAIL:
        told = _factor(along_all)
        reason = f"all of this gradient {told}" if told else worst.rule
    seen_by = Sight(min(sights), statistics.median(sights), max(sights), len(sights)) if sights else None
    made = Result(id_, p.name, outcome, sum(counts.values()), counts[CANNOT_TELL], failed=counts[FAIL], worst=worst, reason=reason)
    return replace(made, sight=seen_by, ratios=tuple(sorted(ratios)))


def _factor(seen: list[tuple[float, float, float]]) -> str:
    """What a gradient is off by in every direction, in words, where that is one whole number or one over it; else empty."""
    resolved = [q for q in seen if abs(q[1]) > q[2]]
    if len(resolved) < 2:
        return ""  # one number is off by some factor always
    along, value, _ = max(resolved, key=lambda q: abs(q[1]) / q[2])
    found = along / value
    n = round(found) if abs(found) >= 1 else round(1 / found) if found else 0
    factor = n if abs(found) >= 1 else 1 / n if n else 0
    if factor in (0, 1) or any(abs(a - factor * v) > (1 + abs(factor)) * limit for a, v, limit in seen):
        return ""
    if factor == -1:
        return "has the opposite sign"
    return f"is {n} times what it should be: a sum for a mean?" if abs(found) > 1 else f"is 1/{n} of what it should be: a mean for a sum?"


def _directions(shape: tuple[int, ...], most: int):
    """Every unit vector of a small array where `most` allows for that, else Gaussian directions of length 1."""
    size = int(np.prod(shape))
    if size <= min(ENTRIES, most):
        for n in range(size):
            direction = np.zeros(size)
            direction[n] = 1
            yield direction.reshape(shape)
        return
    rng = np.random.default_rng(tol.NOISE_SEED)
    for _ in range(min(DIRECTIONS, most)):
        direction = rng.standard_normal(shape)
        yield direction / np.linalg.norm(direction)
