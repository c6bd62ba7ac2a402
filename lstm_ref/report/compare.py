"""Compare: two documents in, what got better or worse between them out, as a value and in words."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..judgement.verdict import BLOCKED, CANNOT_TELL, DESELECTED, EXPECTED, FAIL, NOT_PROVIDED, NOT_RUN, PASS, TIMEOUT, UNEXPECTED
from . import words

GOOD, BAD, KNOWN, UNSEEN, HELD_UP, ABSENT = "good", "bad", "known", "unseen", "held up", "absent"
CLASS = {
    PASS: GOOD,
    UNEXPECTED: GOOD,
    FAIL: BAD,
    EXPECTED: KNOWN,
    CANNOT_TELL: UNSEEN,
    TIMEOUT: UNSEEN,
    NOT_RUN: HELD_UP,
    BLOCKED: HELD_UP,
    NOT_PROVIDED: ABSENT,
}
SEEDS = 4.0  # the worst error of a right LSTM moves by less than this factor between seeds (docs/comparing.md) …
MEASURED = ("forward", "grad", "inter")  # … in these chapters; in laws and repeated calls it says nothing
SHOWN = 40  # changes of one kind


@dataclass(frozen=True)
class Change:
    """One check that is not as it was. `factor` is by how much its worst error, as a share of the tolerance, has grown."""

    target: str
    dtype: str
    id: str
    before: str
    after: str
    told: str = ""
    factor: float | None = None


@dataclass(frozen=True)
class Difference:
    """What two documents differ in. `worse` and `better` are changes of outcome; `errors` are larger or smaller errors of checks
    that pass in both; `other` is neither, such as a check that another failure now keeps from running; `only` are checks that one of
    them has not; `why` says why nothing follows from it all."""

    worse: tuple[Change, ...]
    better: tuple[Change, ...]
    other: tuple[Change, ...]
    errors: tuple[Change, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    warnings: tuple[str, ...]
    common: int
    why: str = ""

    @property
    def outcome(self) -> str:
        """ "incomparable", "worse", "better" or "same"; errors within the tolerance decide nothing."""
        return "incomparable" if self.why else "worse" if self.worse else "better" if self.better else "same"


def compare(a: dict, b: dict) -> Difference:
    """What got better or worse from one document to another: runs of the same targets, or of one target each."""
    before, after = _paired(a, b)
    kinds: dict[str, list[Change]] = {"worse": [], "better": [], "other": [], "errors": []}
    common = [key for key in before if key in after]
    for key in common:
        if (found := _change(key, before[key], after[key])) is not None:
            kinds[found[0]].append(found[1])
    worse, better, other, errors = (tuple(k) for k in kinds.values())
    why = [f"the {n} report is not complete: {doc['incomplete']}" for n, doc in (("first", a), ("second", b)) if not doc["complete"]]
    why += [] if common else ["they have no check in common"]
    only = _alone(before, after), _alone(after, before)
    return Difference(worse, better, other, errors, only, _warnings(a, b), len(common), "; ".join(why))


def _alone(here: dict, there: dict) -> tuple[str, ...]:
    return tuple(f"{key[2]} [{key[1]}]" for key in here if key not in there and _class(here[key]) != ABSENT)


def _warnings(a: dict, b: dict) -> tuple[str, ...]:
    """What else differs: another profile or seed judges other cases, another version may judge otherwise."""
    found = []
    for what in ("profile", "seed"):
        told = [sorted({str(run[what]) for run in doc["runs"]}) for doc in (a, b)]
        if told[0] != told[1]:
            found.append(f"the {what}s differ: {', '.join(told[0])} and {', '.join(told[1])}; cases, and so worst errors, are others")
    before, after = a["versions"], b["versions"]
    moved = [k for k in {**before, **after} if before.get(k) != after.get(k)]
    if moved:
        found.append("versions differ: " + ", ".join(f"{k} {before.get(k, 'none')} → {after.get(k, 'none')}" for k in moved))
    return tuple(found)


def _paired(a: dict, b: dict) -> tuple[dict, dict]:
    """The results of both by (target, dtype, id); where each is of one target, their names do not matter."""
    one = all(len({run["target"] for run in doc["runs"]}) == 1 for doc in (a, b))
    names = [dict.fromkeys(run["target"] for run in doc["runs"]) for doc in (a, b)]
    joint = " → ".join(dict.fromkeys((*names[0], *names[1]))) if one else ""
    before, after = (
        {(joint or run["target"], r["dtype"], r["id"]): r for run in doc["runs"] for r in run["results"] if r["outcome"] != DESELECTED}
        for doc in (a, b)
    )
    return before, after


def _change(key: tuple[str, str, str], one: dict, two: dict) -> tuple[str, Change] | None:
    """How one check has changed: its kind and what there is to say; None if there is nothing."""
    was, now = _class(one), _class(two)
    kind = _kind(was, now)
    if kind is not None:
        return kind, Change(*key, one["outcome"], two["outcome"], words.why(two) if kind == "worse" else "")
    if was == now == BAD and one["failed"] * two["cases"] != two["failed"] * one["cases"]:
        told = f"in {one['failed']} of {one['cases']} cases before, in {two['failed']} of {two['cases']} now"
        return "other", Change(*key, one["outcome"], two["outcome"], told)
    if (
        was == now == GOOD
        and key[2].partition(".")[0] in MEASURED
        and (factor := _factor(one, two)) is not None
        and not 1 / SEEDS <= factor <= SEEDS
    ):
        told = f"worst error {_share(one)} of the tolerance before, {_share(two)} now"
        return "errors", Change(*key, one["outcome"], two["outcome"], told, factor)
    return None


def _class(r: dict) -> str:
    found = CLASS.get(r["outcome"], ABSENT)
    return UNSEEN if found == HELD_UP and not r["reason"].startswith("blocked by ") else found


def _kind(was: str, now: str) -> str | None:
    """What held another check up is that check's change; what was seen for the first time is none unless it fails."""
    if was == now:
        return None
    if now == BAD:
        return "other" if was == HELD_UP else "worse"
    if now == GOOD:
        return "other" if was in (ABSENT, HELD_UP) else "better"
    return "worse" if was == GOOD and now != HELD_UP else "other"


def _factor(one: dict, two: dict) -> float:
    """By how much the worst error has grown; 1 where one of them is none."""
    shares = [float(r["worst"]["ratio"]) if r["worst"] else 0.0 for r in (one, two)]
    return shares[1] / shares[0] if all(0 < s < math.inf for s in shares) else 1.0


def _share(r: dict) -> str:
    return words.ratio(float(r["worst"]["ratio"]))


def text(d: Difference) -> str:
    """The comparison in lines, what got worse first."""
    lines = [f"warning: {w}" for w in d.warnings]
    for kind, found in (("worse", d.worse), ("better", d.better), ("changed", [c for c in d.other if c.told])):
        lines += _shown(f"{kind:<8}{{0.id}} [{{0.dtype}}] {{0.before}} → {{0.after}}", found)
    silent = [c for c in d.other if not c.told]
    for before, after in dict.fromkeys((c.before, c.after) for c in silent):
        ids = [f"{c.id} [{c.dtype}]" for c in silent if (c.before, c.after) == (before, after)]
        lines.append(f"changed {before} → {after}: {', '.join(ids[:SHOWN])}{' …' if len(ids) > SHOWN else ''}")
    for kind, grown in (("larger", True), ("smaller", False)):
        lines += _shown(f"{kind:<8}{{0.id}} [{{0.dtype}}]", [c for c in d.errors if (c.factor > 1) is grown])
    for name, alone in zip(("first", "second"), d.only, strict=True):
        if alone:
            lines.append(f"only in the {name}: {', '.join(alone[:SHOWN])}{' …' if len(alone) > SHOWN else ''}")
    counts = f"{len(d.worse)} worse, {len(d.better)} better of {d.common} checks"
    last = {"same": f"same: no outcome of {d.common} checks has changed", "incomparable": f"incomparable: {d.why}"}
    return "\n".join([*lines, last.get(d.outcome, f"{d.outcome}: {counts}")])


def _shown(form: str, found: Iterable[Change]) -> list[str]:
    found = list(found)
    lines = [form.format(c) + (f": {c.told}" if c.told else "") for c in found[:SHOWN]]
    return lines + ([f"        … and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])


def dumps(d: Difference) -> str:
    """The comparison as JSON."""
    return json.dumps({"outcome": d.outcome, **dataclasses.asdict(d)}, indent=1, ensure_ascii=False) + "\n"
