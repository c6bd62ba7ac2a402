"""JSON: verdicts as one plain document, from which every other report is made. `report.schema.json` says what it holds.

Every number is finite or a string, every text is bounded, and all that differs between two runs with one seed stands under
the keys "times" and "seconds".
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence

from ..candidates.layout import Layout
from ..diagnosis.heat import Heat
from ..judgement.against import Comparison
from ..judgement.manifest import CHECKS
from ..judgement.record import RecordError, as_record
from ..judgement.run import versions
from ..judgement.verdict import FAIL, INCONCLUSIVE, PASS, Evidence, Result, Verdict
from . import against, words
from .bounds import bounded

FORMAT = "lstm-ref report 2"
LARGEST_FILE = 64 * 2**20  # bytes
KEYS = {"format", "complete", "incomplete", "outcome", "runs", "held", "versions", "platform", "times"}
RUN_KEYS = {"target", "outcome", "dtypes", "results", "headline", "meaning"}
RESULT_KEYS = {"id", "dtype", "outcome", "cases"}
HELD_OUTCOME = {"agree": PASS, "differ": FAIL}


class ReportError(ValueError):
    """A file that is no report of ours; the text says what was seen and what is due."""


def run_data(v: Verdict, layout: Layout | None = None, files: Mapping[tuple[str, str], str] | None = None) -> dict:
    """One verdict as JSON-ready data. With the candidate's layout, counterexamples are also given as NumPy code; `files` names the
    files that they were kept in, by (check id, dtype), and then the command that runs them again is given."""
    v = bounded(v)
    primary = {r.dtype: r.id for r in v.results if r.counterexample is not None and r.counterexample.primary}
    return {
        "target": v.target,
        "profile": v.profile,
        "seed": v.seed,
        "dtypes": list(v.dtypes),
        "outcome": v.outcome,
        "incomplete": v.incomplete,
        "forward": v.forward,
        "gradients": v.gradients,
        "behaviour": v.behaviour,
        "kind": v.kind,
        "headline": words.headline(v, timed=False),
        "meaning": words.meaning(v),
        "cases": v.cases,
        "notes": list(v.notes),
        "vacuity": list(v.vacuity),
        "power": {d: _power(v, d) for d in v.dtypes},
        "explanation": _explanation(v),
        "heat": _heat(v.heat),
        "results": [_result(r, v, primary, layout, files or {}) for r in v.results],
        "seconds": round(v.seconds, 3),
    }


def document(
    runs: Sequence[dict],
    held: Iterable[Comparison] = (),
    incomplete: str = "",
    began: datetime.datetime | None = None,
    seconds: float | None = None,
) -> dict:
    """Runs as one document. Its outcome is that of the worst run; where candidates were held against each other, that of the first
    run and of holding them; what is not complete does not pass.
    `incomplete` says why the document is not whole, if no run says it; `began` is when the runs began."""
    beside = [_held(bounded(c)) for c in held]
    outcomes = [run["outcome"] for run in (runs[:1] if beside else runs)] + [HELD_OUTCOME.get(h["outcome"], INCONCLUSIVE) for h in beside]
    why = bounded(incomplete) or next((run["incomplete"] for run in runs if run["incomplete"]), "")
    outcomes += [INCONCLUSIVE] if why else []
    seconds = sum(run["seconds"] for run in runs) if seconds is None else seconds
    began = began or datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return {
        "format": FORMAT,
        "complete": not why,
        "incomplete": why,
        "outcome": FAIL if FAIL in outcomes else PASS if outcomes and set(outcomes) == {PASS} else INCONCLUSIVE,
        "runs": list(runs),
        "held": beside,
        "versions": versions(),
        "platform": {"system": platform.system(), "machine": platform.machine(), "processors": os.cpu_count() or 1},
        "times": {"began": began.astimezone(datetime.UTC).isoformat(timespec="seconds"), "seconds": round(seconds, 3)},
    }


def dumps(document: dict) -> str:
    """A document as JSON text."""
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write(path: str | pathlib.Path, text: str) -> None:
    """Write a report whole or not at all. Raises OSError where it cannot be written."""
    path = pathlib.Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def load(path: str | pathlib.Path) -> dict:
    """The document in a file. Raises ReportError, with a sentence, for anything that is no report of this format."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ReportError(f"there is no file {path}")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ReportError(f"{path} has {size:,} bytes; a report has at most {LARGEST_FILE:,}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON ({type(error).__name__})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        seen = f", and it is {str(found.get('format'))[:60]!r}" if isinstance(found, dict) and "format" in found else ""
        raise ReportError(f"{path} is not a report: its format must be {FORMAT!r}{seen}; write it again with lstm-ref check --report")
    if missing := KEYS - set(found):
        raise ReportError(f"{path} lacks the keys {', '.join(sorted(missing))}")
    _check_list(found["runs"], RUN_KEYS, f"{path}: runs")
    for n, run in enumerate(found["runs"]):
        _check_list(run["results"], RESULT_KEYS, f"{path}: runs[{n}].results")
    return found


def _check_list(found, keys: set[str], where: str) -> None:
    if not isinstance(found, list):
        raise ReportError(f"{where} must be a list")
    for n, part in enumerate(found):
        if not isinstance(part, dict) or (missing := keys - set(part)):
            lacking = f" with {', '.join(sorted(missing))}" if isinstance(part, dict) else ""
            raise ReportError(f"{where}[{n}] must be an object{lacking}")


def _held(c: Comparison) -> dict:
    told = {k: getattr(c, k) for k in ("one", "other", "dtype", "outcome", "cases", "skipped")}
    told |= {k: [list(pair) for pair in getattr(c, k)] for k in ("faults", "alone", "lower")}
    rows = [{k: _plain(getattr(row, k)) for k in _names(row) if k != "where"} | {"where": _where(row.where)} for row in c.rows]
    return told | {"told": against.outcome(c), "rows": rows}


def _names(value) -> list[str]:
    return [f.name for f in dataclasses.fields(value)]


def _result(r: Result, v: Verdict, primary: dict[str, str], layout: Layout | None, files: Mapping[tuple[str, str], str]) -> dict:
    c = r.counterexample
    own = c is not None and c.primary
    file = files.get((r.id, r.dtype), "")
    return {
        "id": r.id,
        "dtype": r.dtype,
        "title": CHECKS[r.id].title if r.id in CHECKS else "",
        "outcome": r.outcome,
        "cases": r.cases,
        "unresolved": r.unresolved,
        "zero": r.zero,
        "failed": r.failed,
        "worst": _evidence(r.worst),
        "where": _where(r.where),
        "equations": list(r.equations),
        "reason": r.reason,
        "sight": None if r.sight is None else r.sight._asdict(),
        "ratios": [_plain(float(f"{q:.3g}")) for q in r.ratios],
        "counterexample": _record(r) if own else None,
        "shares": primary.get(r.dtype, "") if c is not None and not own else "",
        "shrunk": _evidence(c.evidence) if c is not None else None,
        "told": words.failure(r, v.target) if r.outcome == FAIL else "",
        "snippet": words.snippet(c, layout) if own and layout is not None else "",
        "replay": f"lstm-ref replay {shlex.quote(file)} --lstm {shlex.quote(v.target)}" if own and file else "",
    }


def _record(r: Result) -> dict | None:
    try:
        return as_record(r.counterexample)
    except RecordError:
        return None  # too large to keep; `where` has its seed


def _evidence(e: Evidence | None) -> dict | None:
    return None if e is None else {k: _plain(q) for k, q in e._asdict().items()}


def _where(spec) -> dict | None:
    if spec is None:
        return None
    return {**{k: _plain(getattr(spec, k)) for k in _names(spec)}, "sizes": spec.sizes._asdict()}


def _power(v: Verdict, dtype: str) -> dict:
    """What this run was able to see at one dtype, gradient by gradient, and what was measured of this judge beforehand."""
    found: dict[str, dict[str, dict]] = {"autodiff": {}, "differences": {}}
    for r in v.results:
        parts = r.id.split(".")
        if r.dtype == dtype and parts[0] == "grad" and parts[-1] in found and r.sight is not None:
            found[parts[-1]][".".join(parts[1:-1])] = r.sight._asdict()
    by = {r.id.rpartition(".")[2]: 0 for r in v.results if r.chapter == "grad"}
    for r in v.results:
        kind = r.id.rpartition(".")[2]
        if r.dtype == dtype and r.chapter == "grad":
            by[kind] = max(by[kind], r.cases - r.unresolved)
    return {
        "cases": by,
        **found,
        "told": words.power(dtype, found, by),
        "published": words.PUBLISHED_POWER.get(dtype, "") if found["autodiff"] else "",
    }


def _explanation(v: Verdict) -> dict | None:
    x = v.explanation
    if x is None:
        return None
    fits = [
        {
            "edges": [{**edge._asdict(), "members": list(edge.members), "wrong": w} for edge, w in zip(f.edges, f.wrong, strict=True)],
            "gains": [_plain(float(g)) for g in f.gains],
            "distance": _plain(float(f.distance)),
        }
        for f in x.fits
    ]
    place = None if x.location is None else {k: _plain(getattr(x.location, k)) for k in _names(x.location)}
    return {
        "told": words.explanation(v),
        "fits": fits,
        "names": [{"equation": label, "words": text} for label, text in x.names],
        "distance": _plain(float(x.distance)),
        "failing": list(x.failing),
        "location": place,
        "regions": [{"condition": r.condition, "failed": r.failed, "passed": r.passed} for r in x.regions],
    }


def _heat(h: Heat | None) -> dict | None:
    if h is None:
        return None
    told = {k: _plain(getattr(h, k)) for k in ("dtype", "missing", "flows")} | {"where": _where(h.where)}
    for name in ("steps", "alone"):
        told[name] = [
            {
                "quantity": r.quantity,
                "gate": r.gate,
                "stage": r.stage,
                "ratios": [None if q is None else _plain(float(f"{q:.3g}")) for q in r.ratios],
            }
            for r in getattr(h, name)
        ]
    return told


def _plain(q):
    if isinstance(q, float) and not math.isfinite(q):
        return str(q)
    if isinstance(q, tuple) and not hasattr(q, "_fields"):
        return [_plain(v) for v in q]
    return q
