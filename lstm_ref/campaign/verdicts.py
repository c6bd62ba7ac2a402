"""Verdicts: the rows of a campaign in, the same Verdict as a check's out for each target, the bugs behind the failures, and where
in the space they lie. Nothing is judged again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import cases
from ..diagnosis.edges import Edge
from ..diagnosis.explain import Explanation
from ..diagnosis.gains import Fit
from ..diagnosis.localise import Location
from ..diagnosis.regions import Region
from ..judgement.judge import fitted
from ..judgement.manifest import CHECKS, manifest
from ..judgement.record import parse
from ..judgement.sheet import Sheet, due, vacuity
from ..judgement.verdict import CANNOT_TELL, FAIL, NOT_RUN, PASS, Counterexample, Evidence, Verdict, kind_of
from .store import Store
from .stream import Drawn, Plan, drawn, evidence_from
from .work import CHECK, ERROR, OUTCOMES

IDS = tuple(CHECKS)
OURS = "lstm-ref contradicts itself: autodiff is not the difference of its own forward pass"


@dataclass(frozen=True)
class Group:
    """One bug of a target: the failing cases that it explains, and the smallest of them. `key` tells it from others, `check` is
    what fails first, `record` the counterexample as data, `explanation` the diagnosis; `ours` marks a fault of the harness."""

    target: str
    key: str
    check: str
    dtypes: tuple[str, ...]
    cases: int
    k: int
    record: dict | None = None
    explanation: Explanation | None = None
    ours: bool = False


@dataclass(frozen=True)
class Report:
    """All of a campaign. `space` has, for every axis and every stratum on it, (cases, failing, not run); `unjudged` the reasons why
    cases were not run, with how many; `missing` is how many are not judged yet."""

    verdicts: tuple[Verdict, ...]
    bugs: tuple[Group, ...]
    space: dict[str, dict[str, tuple[int, int, int]]]
    unjudged: dict[str, int]
    failing: int
    judged: int
    missing: int

    @property
    def outcome(self) -> str:
        """A failure before anything that is not judged or not told, that before "pass"."""
        outcomes = [v.outcome for v in self.verdicts]
        if FAIL in outcomes:
            return FAIL
        return PASS if set(outcomes) == {PASS} and not self.unjudged and not self.missing else "inconclusive"


def report(store: Store) -> Report:
    """Everything that the rows say so far."""
    plan = store.plan
    sheets = {(s.target, s.dtype): _sheet(plan, s.target, s.dtype) for s in plan.subjects}
    space: dict[str, dict[str, list[int]]] = {}
    unjudged: Counter[str] = Counter()
    signatures: Counter[tuple[int, str]] = Counter()
    judged = failing = 0
    for k, outcome, _, checks, _, told, signature in store.rows():
        d = drawn(plan, k)
        subject = plan.subjects[d.subject]
        for axis, stratum in _strata(d, subject.name):
            counts = space.setdefault(axis, {}).setdefault(stratum, [0, 0, 0])
            counts[0] += 1
            counts[1] += outcome == FAIL
            counts[2] += outcome in (NOT_RUN, ERROR)
        if outcome in (NOT_RUN, ERROR):
            unjudged[_why(json.loads(told)[outcome])] += 1
            continue
        judged += 1
        telling = {c: evidence_from(e) for c, e in json.loads(told).items()} if told else {}
        sheet, model = sheets[subject.target, subject.dtype], subject.candidate.model
        for n, code, ratio, sight in np.frombuffer(checks, CHECK).tolist():
            check = IDS[n]
            e = telling.get(check) or Evidence(OUTCOMES[code], ratio, sight=None if sight != sight else 10.0**sight)
            sheet.add(check, e, d.spec, model)
        sheet.judged += 1
        if outcome == FAIL:
            failing += 1
            signatures[d.subject, signature] += 1
    _loudest(store, plan, sheets)
    bugs = _bugs(store, plan, signatures)
    missing = store.cases - store.count(f"k < {store.cases}")
    why = incomplete(missing, store.cases, dict(unjudged))
    verdicts = tuple(_verdict(store, plan, t, sheets, bugs, why) for t in dict.fromkeys(s.target for s in plan.subjects))
    told_space = {axis: {name: (c[0], c[1], c[2]) for name, c in strata.items()} for axis, strata in space.items()}
    return Report(verdicts, bugs, told_space, dict(unjudged), failing, judged, missing)


def incomplete(missing: int, cases: int, unjudged: dict[str, int]) -> str:
    """Why a campaign is not whole; empty where every case is judged."""
    parts = [f"{missing} of {cases} cases are not judged yet"] if missing else []
    return "; ".join([*parts, *(f"{n} cases not run: {why}" for why, n in unjudged.items())])


def _sheet(plan: Plan, target: str, dtype: str) -> Sheet:
    """The sheet of a target at a dtype, with the first impressions in it."""
    subjects = [s for s in plan.subjects if (s.target, s.dtype) == (target, dtype)]
    checks = {c.id: c for c in manifest([s.candidate for s in subjects])}
    sheet = Sheet(checks, set(checks), due(s.candidate for s in subjects))
    for s in subjects:
        sheet.reading = s.reading or sheet.reading
        spec = fitted(cases.CORNERS[0], s.candidate)
        for check, told in s.first.items():
            sheet.add(check, evidence_from(told), spec, s.candidate.model, explained=not s.reading)
    return sheet


def _loudest(store: Store, plan: Plan, sheets: dict) -> None:
    """Put the whole evidence of what came nearest to its tolerance where the rows have its ratio only."""
    best: dict[tuple, tuple] = {}
    for n, check, passed, ratio, k, told in store.db.execute("SELECT * FROM loudest"):
        s = plan.subjects[n]
        key = (s.target, s.dtype, check)
        best[key] = max(best.get(key, ((-1, 0.0, 0), 0, "")), ((passed, ratio, -k), k, told))
    for (target, dtype, check), (_, k, told) in best.items():
        tally = sheets[target, dtype].tallies.get(check)
        if tally is not None and tally.worst is not None and tally.worst.outcome != FAIL:
            d = drawn(plan, k)
            tally.worst, tally.where = evidence_from(json.loads(told)), (d.spec, plan.subjects[d.subject].candidate.model)


def _strata(d: Drawn, subject: str):
    """Where a case lies on every axis."""
    n, spec = d.spec.sizes, d.spec
    yield from (("subject", subject), ("regime", spec.regime), ("sizes", d.stratum), ("cotangents", spec.cotangents))
    yield from (("memory", spec.memory), ("initial state", spec.initial_state))
    yield from ((axis, _up_to(getattr(n, axis))) for axis in ("T", "B", "D", "H"))


def _up_to(size: int) -> str:
    """The sizes between two powers of two as one stratum."""
    top = 1 << (size - 1).bit_length()
    return str(top) if top <= 2 else f"{top // 2 + 1}–{top}"


def _why(reason: str) -> str:
    """A reason without its numbers, where it is that a case would not fit."""
    return reason if not reason.startswith("needs ") else "would not fit into the memory that is granted to a case"


def _bugs(store: Store, plan: Plan, signatures: Counter) -> tuple[Group, ...]:
    """The failing cases by bug, most frequent first."""
    columns = "subject, signature, key, name, volume, k, counterexample, explanation, ours"
    known: dict[tuple[int, str], list] = {}
    for row in store.db.execute(f"SELECT {columns} FROM bugs ORDER BY subject, signature, k, key"):
        known.setdefault((row[0], row[1]), []).append(row)
    members: dict[tuple[str, str], list] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for (n, signature), count in signatures.items():
        target = plan.subjects[n].target
        behind = known.get((n, signature)) or _nearest(n, signature, known)
        for key in [row[2] for row in behind] or [signature]:
            counts[target, key] += count
        for row in behind:
            members.setdefault((target, row[2]), []).append(row)
    _fold_memory(counts, members)
    groups = []
    for (target, key), count in counts.most_common():
        rows = sorted(members.get((target, key), ()), key=lambda row: (row[6] is None, row[4], row[5]))
        if not rows:
            groups.append(Group(target, key, key.split()[0], (), count, -1))
            continue
        check, record, ours, k = rows[0][3], rows[0][6], rows[0][8], min(row[5] for row in rows)
        dtypes = tuple(dict.fromkeys(plan.subjects[row[0]].dtype for row in rows))
        told = next((row[7] for row in rows if row[7]), None)
        explanation = explanation_from(told) if told else None
        groups.append(Group(target, key, check, dtypes, count, k, json.loads(record) if record else None, explanation, bool(ours)))
    return tuple(groups)


def _fold_memory(counts: Counter, members: dict) -> None:
    """What is raised with plain inputs too is not laid at the door of read-only or non-contiguous ones."""
    for target, key in list(counts):
        check, _, what = key.partition(" ")
        plainly = (target, f"contract.call {what}")
        if check in ("state.readonly", "state.noncontiguous") and plainly in counts:
            counts[plainly] += counts.pop((target, key))
            members[plainly] += members.pop((target, key))


def _nearest(n: int, signature: str, known: dict) -> list:
    """The bugs of that shrunk signature of a subject that has most in common with another."""
    own = set(signature.split())
    near = [(len(own & set(s.split())) / len(own | set(s.split())), s) for m, s in known if m == n]
    return known[n, max(near)[1]] if near else []


def _verdict(store: Store, plan: Plan, target: str, sheets: dict, bugs: tuple[Group, ...], incomplete: str) -> Verdict:
    own = [s for s in plan.subjects if s.target == target]
    mine = [b for b in bugs if b.target == target]
    results, notes, unseen = [], [], []
    for dtype in dict.fromkeys(s.dtype for s in own):
        sheet = sheets[target, dtype]
        for r in sheet.results(dtype):
            bug = next((b for b in mine if b.check == r.id and dtype in b.dtypes), None)
            if r.outcome == FAIL and bug is not None:
                r = replace(r, outcome=CANNOT_TELL, reason=OURS) if bug.ours else replace(r, counterexample=_counterexample(bug, r))
            results.append(r)
        notes += sheet.notes()
        unseen += vacuity(sheet)
    variants = dict.fromkeys(s.candidate.variant.words for s in own if not s.candidate.variant.textbook)
    notes = [*(f"judged as a variant of the textbook LSTM: {words}" for words in variants), *dict.fromkeys(notes)]
    kind = kind_of(results, all(s.textbook for s in own), bool(variants))
    judged = sum(sheets[target, dtype].judged for dtype in dict.fromkeys(s.dtype for s in own))
    explanation = next((b.explanation for b in mine if b.explanation is not None), None)
    versions = json.loads(store.value("versions"))
    known = (target, "campaign", plan.seed, tuple(results), judged, store.seconds(), kind, tuple(notes), explanation, versions)
    return Verdict(*known, vacuity=tuple(dict.fromkeys(unseen)), incomplete=incomplete)


def _counterexample(bug: Group, r) -> Counterexample | None:
    if bug.record is None:
        return None
    check, dtype, case, variant = parse(bug.record, "the database")
    seen = {k: float(v) if isinstance(v, str) and k != "quantity" else v for k, v in bug.record["seen"].items()}
    e = replace_evidence(r.worst, seen)
    return Counterexample(check, bug.target, dtype, case.spec, case.inputs, case.cotangents, e, variant=variant)


def replace_evidence(worst: Evidence | None, seen: dict) -> Evidence:
    """What was seen on a counterexample, with the rule that decided."""
    found = (worst or Evidence(FAIL))._replace(error=None, tolerance=None)
    return found._replace(**{**seen, "index": tuple(seen["index"])})


def explanation_from(text: str) -> Explanation:
    """The explanation that a worker wrote as JSON."""
    told = json.loads(text)
    fits = tuple(
        Fit(tuple(Edge(e[0], e[1], e[2], tuple(e[3])) for e in f["edges"]), tuple(f["wrong"]), tuple(f["gains"]), told["distance"])
        for f in told["fits"]
    )
    place = told["location"]
    if place is not None:
        lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in place.items()}
        place = Location(**lists)
    regions = tuple(Region(*r) for r in told["regions"])
    return Explanation(fits, tuple(map(tuple, told["names"])), told["distance"], tuple(told["failing"]), place, regions)
