"""JSON: a verdict as plain data, every number finite or a string."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from ..judgement.against import Comparison
from ..judgement.verdict import Result, Verdict
from . import against, words

FORMAT = "lstm-ref report 1"


def as_data(v: Verdict) -> dict:
    """The verdict as JSON-ready data."""
    return {
        "format": FORMAT,
        "target": v.target,
        "outcome": v.outcome,
        "forward": v.forward,
        "gradients": v.gradients,
        "behaviour": v.behaviour,
        "kind": v.kind,
        "profile": v.profile,
        "seed": v.seed,
        "cases": v.cases,
        "seconds": round(v.seconds, 3),
        "versions": v.versions,
        "notes": list(v.notes),
        "explanation": words.explanation(v) or None,
        "results": [_result(r) for r in v.results],
    }


def dumps(v: Verdict, other: Verdict | None = None, held: Sequence[Comparison] = ()) -> str:
    """The verdict as JSON text; under "against" the verdict on another LSTM, and what came of holding the two against each other."""
    data = as_data(v)
    if other is not None:
        data["against"] = {"verdict": as_data(other), "held": [_held(c) for c in held]}
    return json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _held(c: Comparison) -> dict:
    told = {k: getattr(c, k) for k in ("one", "other", "dtype", "outcome", "cases", "skipped")}
    told |= {k: [list(pair) for pair in getattr(c, k)] for k in ("faults", "alone", "lower")}
    return told | {"told": against.outcome(c), "rows": [{k: _plain(q) for k, q in dataclasses.asdict(row).items()} for row in c.rows]}


def _result(r: Result) -> dict:
    plain = {k: getattr(r, k) for k in ("id", "dtype", "outcome", "cases", "unresolved", "zero", "failed", "reason")}
    plain["equations"] = list(r.equations)
    plain["worst"] = None if r.worst is None else {k: _plain(q) for k, q in r.worst._asdict().items()}
    return plain


def _plain(q):
    if isinstance(q, float) and not math.isfinite(q):
        return str(q)
    return list(q) if isinstance(q, tuple) else q
