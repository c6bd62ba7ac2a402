"""Student: judge an object with `params`, `loss()` and `gradients()` by differences of its own loss.

Nothing is known of what it computes, so this is a self-consistency verdict: it says whether the gradients belong to
the loss, not whether the loss is that of an LSTM.
"""

from __future__ import annotations

import fnmatch
import statistics
from dataclasses import replace

import numpy as np

from ..candidates.contract import Candidate, ContractError, TimeLimit, time_limit
from ..candidates.student import loss_along
from ..truth import differences
from . import tolerances as tol
from .verdict import CANNOT_TELL, DESELECTED, FAIL, NOT_RUN, PASS, Evidence, Result, Sight

ENTRIES = 64  # blocks of so few entries are differenced entry by entry
DIRECTIONS = 8
SECONDS = 5.0


def judge_student(candidate: Candidate, only: str | None) -> list[Result]:
    """One result per parameter and a few on behaviour; never raises because the candidate is bad."""
    try:
        with time_limit(SECONDS):
            thing = candidate.make()
            before = {k: np.array(v) for k, v in thing.params.items()}
            gradients = dict(thing.gradients())
            again = dict(thing.gradients())
            losses = [float(thing.loss()), float(thing.loss())]
    except (Exception, TimeLimit) as error:
        what = "did not return in time" if isinstance(error, TimeLimit) else f"raised {type(error).__name__}: {error}"
        return [Result("contract.call", "float64", FAIL, 1, failed=1, reason=f"gradients() or loss() {what}")]
    results = [Result("contract.call", "float64", PASS, 1)]
    moved = [k for k in before if not np.array_equal(before[k], thing.params[k], equal_nan=True)]
    results.append(_behaviour("state.inputs_unmutated", f"gradients() changed {', '.join(moved)}" if moved else ""))
    differs = [k for k in gradients if k in again and not np.array_equal(gradients[k], again[k], equal_nan=True)]
    unsteady = f"a second call gives other gradients for {', '.join(differs)}" if differs else ""
    if losses[0] != losses[1]:
        unsteady = f"loss() gives {losses[0]!r} and then {losses[1]!r}"
    results.append(_behaviour("state.repeat", unsteady))
    for name, value in before.items():
        results.append(_parameter(thing, name, value, gradients))
    results = [r if not only or _matches(r.id, only) else Result(r.id, r.dtype, DESELECTED) for r in results]
    if all(r.outcome == DESELECTED for r in results):
        raise ContractError(f"no check matches {only!r}; this candidate's are {', '.join(r.id for r in results)}")
    return results


def _matches(id_: str, only: str) -> bool:
    return any(fnmatch.fnmatchcase(id_, p.strip()) for p in only.split(","))


def _behaviour(id_: str, problem: str) -> Result:
    return Result(id_, "float64", FAIL if problem else PASS, 1, failed=int(bool(problem)), reason=problem)


def _parameter(thing, name: str, value: np.ndarray, gradients: dict) -> Result:
    id_ = f"grad.{name}.differences"
    if name not in gradients:
        return Result(id_, "float64", FAIL, 1, failed=1, reason=f"gradients() has no {name}; it has {', '.join(gradients) or 'nothing'}")
    seen = np.asarray(gradients[name])
    if seen.shape != value.shape:
        return Result(id_, "float64", FAIL, 1, failed=1, reason=f"the gradient of {name} has shape {seen.shape}; {value.shape} is due")
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
    for direction in _directions(seen.shape):
        J = loss_along(thing, name, direction)
        rounding = tol.KAPPA * p.u * abs(J(0.0))
        scale = float(np.linalg.norm(seen)) / np.sqrt(seen.size)
        good_enough = np.sqrt(p.u) * scale
        d = differences.six_point(J, rounding, tol.DIFFERENCE_BOUND, scale, good_enough, coarse)
        if d.bound > p.resolution * scale:
            d = min(d, differences.adaptive(J, rounding, tol.DIFFERENCE_BOUND, coarse), key=lambda q: q.bound)
        along, own = float(np.sum(seen * direction)), tol.KAPPA * tol.KAPPA * p.u * float(np.sum(np.abs(seen * direction)))
        if not abs(along - d.value) <= d.bound + own:
            d = differences.near_kinks(J, rounding, tol.KINK_BOUND, good_enough, coarse)
        limit, error = d.bound + own, abs(along - d.value)
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
    reason = "" if outcome == PASS else worst.rule if outcome == FAIL else "no direction could be resolved"
    seen_by = Sight(min(sights), statistics.median(sights), max(sights), len(sights)) if sights else None
    made = Result(id_, p.name, outcome, sum(counts.values()), counts[CANNOT_TELL], failed=counts[FAIL], worst=worst, reason=reason)
    return replace(made, sight=seen_by, ratios=tuple(sorted(ratios)))


def _directions(shape: tuple[int, ...]):
    size = int(np.prod(shape))
    if size <= ENTRIES:
        for n in range(size):
            direction = np.zeros(size)
            direction[n] = 1
            yield direction.reshape(shape)
        return
    rng = np.random.default_rng(tol.NOISE_SEED)
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(shape)
        yield direction / np.linalg.norm(direction)
