"""Sheet: the evidence of many cases, tallied by check, and the results that follow from it."""

from __future__ import annotations

import statistics
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from ..candidates.contract import Candidate
from ..cases import Spec
from ..reference.symbols import Sizes
from ..reference.variant import plain
from .manifest import GROUPS, Check, groups
from .regions import separating
from .verdict import (
    ANOTHER_FUNCTION,
    CANNOT_TELL,
    DESELECTED,
    FAIL,
    NOT_PROVIDED,
    NOT_RUN,
    PASS,
    TIMEOUT,
    UNRESOLVED,
    ZERO,
    Evidence,
    Result,
    Sight,
)

COARSE = ("bfloat16", "float16")  # differences cannot resolve a gradient in them
QUANTILES = 100  # of error ÷ tolerance, kept of each gradient
# without these, there is nothing to check
NEEDED = {"forward.h": {"h"}, "forward.c_T": {"c_T"}, "law.causality": {"h"}, "law.time_split": {"c_T", "h0", "c0"}}
NOTES_ALONE = ("numerics.sigmoid_tail", "numerics.tanh_near_zero")  # these never fail
FORWARD_CHECKS = ("forward.h", "forward.c_T", "forward.J", "forward.h_T")


def _louder(e: Evidence, other: Evidence) -> bool:
    """A failure before a pass before what was not resolved, then the larger share of the tolerance."""
    order = {FAIL: 3, PASS: 2, ZERO: 1, UNRESOLVED: 0}
    return (order[e.outcome], e.ratio) > (order[other.outcome], other.ratio)


@dataclass
class Tally:
    """One check so far."""

    cases: int = 0
    failed: int = 0
    unresolved: int = 0
    zero: int = 0
    needed: int = 0
    needed_unresolved: int = 0
    worst: Evidence | None = None
    where: tuple[Spec, bool] | None = None
    notes: dict[str, None] = field(default_factory=dict)
    sizes: Counter[tuple[Sizes, bool]] = field(default_factory=Counter)  # (sizes, failed?), with how often
    failing: list[Spec] = field(default_factory=list)
    sights: array = field(default_factory=lambda: array("d"))
    ratios: array = field(default_factory=lambda: array("d"))
    last: tuple[Spec | None, bool, bool] = (None, False, False)  # of a group, the case that was added to last, and whether it is resolved

    def add(self, e: Evidence, spec: Spec, model: bool, needed: bool) -> None:
        self.cases += 1
        if e.outcome != UNRESOLVED:
            self.ratios.append(e.ratio)
            self.sizes[spec.sizes, e.outcome == FAIL] += 1
        if e.outcome == PASS and e.sight is not None:
            self.sights.append(e.sight)
        self.failed += e.outcome == FAIL
        self.failing += [spec] if e.outcome == FAIL else []
        self.unresolved += e.outcome == UNRESOLVED
        self.zero += e.outcome == ZERO
        self.needed += needed
        self.needed_unresolved += needed and e.outcome == UNRESOLVED
        if e.note:
            self.notes[e.note] = None
        if self.worst is None or self._simpler_failure(e, spec) or (self.worst.outcome != FAIL and _louder(e, self.worst)):
            self.worst, self.where = e, (spec, model)

    def add_in_group(self, e: Evidence, spec: Spec, model: bool) -> None:
        """One piece of evidence of many on a case, which come one after the other: the case is resolved where one of them is."""
        resolved = e.outcome != UNRESOLVED
        again, before = self.last[0] is spec and self.last[1] == model, self.last[2]
        self.cases += not again
        self.unresolved += (not resolved) if not again else -(resolved and not before)
        self.last = (spec, model, resolved or (again and before))
        self.failing += [spec] if e.outcome == FAIL else []
        if e.outcome == FAIL and (self.worst is None or self.worst.outcome != FAIL or self._simpler_failure(e, spec)):
            self.worst, self.where = e, (spec, model)

    def quantiles(self) -> tuple[float, ...]:
        """Error ÷ tolerance in rising order: of every resolved case, or evenly spaced ones with both ends where they are many."""
        ordered = sorted(self.ratios)
        if len(ordered) <= QUANTILES:
            return tuple(ordered)
        return tuple(ordered[round(n * (len(ordered) - 1) / (QUANTILES - 1))] for n in range(QUANTILES))

    def _simpler_failure(self, e: Evidence, spec: Spec) -> bool:
        """Among failures the smallest case is kept, not the largest error: it is the one to look at."""
        if e.outcome != FAIL or self.worst.outcome != FAIL:
            return False
        return (len(groups(spec)), np.prod(spec.sizes)) < (len(groups(self.where[0])), np.prod(self.where[0].sizes))


def due(faces: Iterable[Candidate]) -> set[str]:
    """What is due from at least one of these candidates: gradients, by the names in their checks, h and c_T."""
    faces = list(faces)
    outputs = {k for face in faces for k in ("h", "c_T") if k not in face.supports.missing}
    return {plain(k) for face in faces for k in face.gradient_names} | outputs


class Sheet:
    """The tallies of one run, and what follows from them: one Result for every check."""

    def __init__(self, checks: dict[str, Check], wanted: set[str], due: set[str]):
        self.checks, self.wanted, self.due, self.judged = checks, wanted, due, 0
        self.read = ("forward.h" if "h" in due else "forward.h_T", "forward.J")  # what says which LSTM it is
        self.extras, self.unasked = 0.0, 0  # seconds of cases with differences, laws or state; cases that went without
        self.oracle_seconds = 0.0  # of these seconds, the oracle's
        self.streamed = False  # whether every case was judged that was to be
        self.always = ("contract", "forward", "grad") if wanted & set(GROUPS) else ("contract", "forward")
        self.reading = ""  # the variant that the forward pass is, where it is none of the textbook
        self.tallies = {id_: Tally() for id_ in checks}
        self.right: set[str] = set()  # checks that passed somewhere
        self.plain: set[str] = set()  # … at an ordinary point, and those that failed at one
        self.plain_failures: set[str] = set()
        self.outside: dict[str, Counter[tuple[tuple[str, ...], bool]]] = {}  # check -> (groups of a case, failed?), with how often

    def add(self, id_: str, e: Evidence, spec: Spec, model: bool, explained: bool = False) -> None:
        """Tally one piece of evidence. A failure that is `explained`, by a declaration under which everything else is judged, says
        nothing about the group of cases that it happens to lie in."""
        if not self.needs(id_):
            return
        needed = self.checks[id_].needed
        self.tallies[id_].add(e, spec, model, needed is not None and needed(spec))
        if explained or id_.partition(".")[0] not in ("forward", "grad"):
            return
        member = groups(spec)
        if e.outcome == PASS:
            self.right.add(id_)
        if not member and spec.ordinary and e.outcome in (PASS, FAIL):
            (self.plain_failures if e.outcome == FAIL else self.plain).add(id_)
        if member:
            self.outside.setdefault(id_, Counter())[member, e.outcome == FAIL] += 1
        for g in member:
            if g in self.tallies:
                self.tallies[g].add_in_group(e, spec, model)

    def needs(self, id_: str) -> bool:
        """Whether a check is tallied: what is wanted, and what may block others, or fail in a group of cases, even where it is not."""
        return id_ in self.wanted or (id_ in self.checks and id_.partition(".")[0] in self.always)

    def guilty_groups(self) -> dict[str, dict[str, int]]:
        """For each group of cases, the checks that fail because of it, with how often.

        A check that passes somewhere, at ordinary points if any were judged, and fails elsewhere is laid at the door of the group that
        holds all of its failures, and of these the one with the largest share of failing cases; of the largest share, if none does.
        """
        guilty: dict[str, dict[str, int]] = {}
        for id_, seen in self.outside.items():
            failing = {member: count for (member, failed), count in seen.items() if failed}
            if not failing or id_ in self.plain_failures or id_ not in self.right:
                continue
            suspects = {g for member in failing for g in member}
            covering = {g for g in suspects if all(g in member for member in failing)} or suspects
            share = {g: _cases_in(g, failing) / _cases_in(g, seen, of=lambda key: key[0]) for g in covering}
            for g in (g for g in covering if share[g] == max(share.values())):
                guilty.setdefault(g, {})[id_] = _cases_in(g, failing)
        return guilty

    def failing_in(self, group: str) -> list[str]:
        return sorted(id_ for id_, seen in self.outside.items() if any(failed and group in member for member, failed in seen))

    def results(self, dtype: str) -> list[Result]:
        return [self._result(c, dtype) for c in self.checks.values()]

    def _result(self, check: Check, dtype: str) -> Result:
        t = self.tallies[check.id]
        spec = t.where[0] if t.where else None
        sight = Sight(min(t.sights), statistics.median(t.sights), max(t.sights), len(t.sights)) if t.sights else None
        counts = (t.cases, t.unresolved, t.zero, t.failed)
        ratios = t.quantiles() if check.id.partition(".")[0] in ("grad", "inter") else ()
        made = Result(check.id, dtype, PASS, *counts, t.worst, spec, check.equations, failing=tuple(t.failing), sight=sight, ratios=ratios)
        if check.id not in self.wanted:
            return replace(made, outcome=DESELECTED)
        if check.id in GROUPS:
            return self._group_result(made)
        if check.id in NOTES_ALONE:
            return replace(made, outcome=PASS, reason=next(iter(t.notes), ""))
        if t.failed and check.id in ("state.readonly", "state.noncontiguous") and self.tallies["contract.call"].failed:
            return replace(made, outcome=NOT_RUN, reason="blocked by contract.call, which fails with plain inputs too")
        if t.failed and self.reading and check.id.startswith("forward.") and check.id not in self.read:
            return replace(made, outcome=NOT_RUN, reason=f"blocked by {self.read[0]}, which says what the forward pass is")
        if t.failed:
            outcome = TIMEOUT if check.id == "contract.time" else FAIL  # slow is not wrong
            found = separating(t.sizes.elements()) if made.chapter in ("contract", "grad", "forward") else None
            return replace(made, outcome=outcome, reason=self._reason(check.id, t, found), region=found[0] if found else "")
        if not t.cases:
            return self._absent(made)
        unseen = t.cases == t.unresolved or (t.needed and t.needed == t.needed_unresolved)
        if unseen and dtype in COARSE and self._too_fine(check.id):
            return replace(made, outcome=NOT_PROVIDED, reason=f"{dtype} is too coarse for it; autodiff judged the same gradients")
        if unseen and check.id.endswith(".autodiff") and (blocked := self._another_function(made)):
            return blocked
        if unseen and ANOTHER_FUNCTION in t.notes:
            return replace(made, outcome=NOT_RUN, reason=f"blocked by {self._broken_forward()}: {ANOTHER_FUNCTION}")
        if check.needed is not None and t.needed and t.needed == t.needed_unresolved:
            return replace(made, outcome=CANNOT_TELL, reason=t.worst.rule or "the tolerance is as large as the gradient")
        if check.needed is not None and t.cases == t.unresolved:
            return replace(made, outcome=CANNOT_TELL, reason="no case resolved it")
        return replace(made, reason=next(iter(t.notes), "") if check.id.startswith("state.") else "")

    def _too_fine(self, id_: str) -> bool:
        """Whether a check takes sums or small differences of gradients that autodiff judged, and so sees less."""
        judged = any(t.cases for k, t in self.tallies.items() if k.startswith("grad.") and k.endswith(".autodiff"))
        return judged and (id_.endswith(".differences") or id_.startswith("law."))

    def _reason(self, id_: str, t: Tally, found: tuple[str, str] | None) -> str:
        """The rule that failed, and the condition on sizes under which it does, where one is found."""
        if id_ in self.read and self.reading:
            return self.reading
        if found is None:
            return t.worst.rule
        condition, line = found
        if id_ == "contract.call":
            return f"{t.worst.rule}; every failing case has {condition}. If that limit is meant, declare supports = {line}"
        return f"{t.worst.rule}; every failing case has {condition}, no passing one does"

    def _group_result(self, made: Result) -> Result:
        if mine := self.guilty_groups().get(made.id):
            through = tuple(sorted(mine))
            told = ", ".join(through[:4]) + (" …" if len(mine) > 4 else "")
            reason = f"{'right at ordinary points, ' if self.plain >= set(mine) else ''}wrong here: {told}"
            return replace(made, outcome=FAIL, failed=max(mine.values()), reason=reason, through=through)
        if failing := self.failing_in(made.id):
            cases = self.outside[failing[0]]
            elsewhere = failing[0] in self.plain_failures or any(failed and made.id not in member for member, failed in cases)
            where = "elsewhere too" if elsewhere else "in every case that was judged"
            return replace(made, outcome=NOT_RUN, reason=f"blocked by {failing[0]}, which fails {where}")
        if self.tallies["contract.time"].failed:
            return replace(made, outcome=NOT_RUN, reason="blocked by contract.time, which ended the run")
        if not made.cases:
            return replace(made, outcome=NOT_PROVIDED, reason="no such case is within the declared limits")
        if made.cases == made.unresolved:
            return replace(made, outcome=CANNOT_TELL, reason="no case resolved it")
        return made

    def _absent(self, made: Result) -> Result:
        """A check that no case spoke for: blocked by a failure before it, or not provided."""
        chapter, name = made.id.split(".")[:2]
        broken = [c for c in self.tallies if c.startswith("contract.") and self.tallies[c].failed]
        if chapter == "contract":
            return replace(made, outcome=NOT_RUN, reason=f"blocked by {broken[0]}") if broken else made
        if (chapter == "grad" and name not in self.due) or not NEEDED.get(made.id, set()) <= self.due:
            return replace(made, outcome=NOT_PROVIDED)
        held = any(t.cases for k, t in self.tallies.items() if k.startswith("grad.") and k.endswith(".autodiff"))
        optional = chapter == "inter" or (chapter == "forward" and name not in ("h", "c_T", "J", "initial_state"))
        optional &= name != "h_T" or "h" in self.due
        if made.id.endswith(".autodiff") and not optional and not held and (blocked := self._another_function(made)):
            return blocked
        if broken and not optional:
            return replace(made, outcome=NOT_RUN, reason=f"blocked by {broken[0]}")
        if chapter == "grad" and name in self.due:
            return replace(made, outcome=NOT_RUN, reason="it is due, and no case judged it")
        return replace(made, outcome=NOT_PROVIDED)

    def _another_function(self, made: Result) -> Result | None:
        """A check by autodiff that said nothing where the forward pass is another function; None where that is none."""
        broken = self._broken_forward()
        reason = f"blocked by {broken}: judged by differences of its own forward pass"
        return replace(made, outcome=NOT_RUN, reason=reason) if broken else None

    def _broken_forward(self) -> str | None:
        return next((k for k in FORWARD_CHECKS if k in self.tallies and self.tallies[k].failed), None)

    def notes(self) -> list[str]:
        """What is worth saying of a run that found no failure: where σ or tanh lost accuracy, what was left alone; else of what was not
        asked for and is broken, since the rest is blocked by it."""
        for k, t in self.tallies.items():
            if t.failed and k.startswith("contract.") and k not in self.wanted:
                return [f"{k}, which is not selected, fails: {t.worst.rule}"]
        if any(t.failed for t in self.tallies.values()):
            return []
        return [note for k in (*NOTES_ALONE, "contract.call") if k in self.tallies for note in list(self.tallies[k].notes)[:1]]


def _cases_in(group: str, counts: dict, of=lambda member: member) -> int:
    """How many cases are in a group, of cases counted by the groups that they are in."""
    return sum(count for key, count in counts.items() if group in of(key))


def vacuity(sheet: Sheet) -> list[str]:
    """What this run could not have seen."""
    notes: list[str] = []
    if any(t.failed for k, t in sheet.tallies.items() if k in ("contract.call", "contract.time")):
        return notes
    for id_, t in sheet.tallies.items():
        if id_.startswith("grad.") and t.cases and t.zero == t.cases:
            notes.append(f"{id_}: the gradient was zero in every case")
    if sheet.wanted == set(sheet.checks):
        for g in GROUPS:
            if g in sheet.tallies and not sheet.tallies[g].cases:
                notes.append(f"no case with {GROUPS[g][0]} was judged")
    return notes
