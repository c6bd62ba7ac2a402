"""Session: what the pytest plugin tells of a verdict, from worker to controller and into files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..candidates.contract import Candidate
from ..candidates.place import place
from ..judgement.verdict import Result, Verdict
from . import github, json_report, words
from .bounds import bounded


def properties(r: Result, v: Verdict) -> list[tuple[str, object]]:
    """One check's JUnit properties: what was judged, how, and what came out; no error where none was measured."""
    told = {"target": v.target, "dtype": r.dtype, "check": r.id, "profile": v.profile, "seed": v.seed}
    told |= {"outcome": r.outcome, "reason": r.reason, "cases": r.cases, "failed": r.failed, "unresolved": r.unresolved}
    if r.worst is not None:
        told |= {"worst_ratio": r.worst.ratio, "worst_error": r.worst.error, "worst_tolerance": r.worst.tolerance}
        told |= {"worst_entry": words.entry(r.worst)}
    return [(f"lstm_ref.{k}", value) for k, value in bounded(told).items() if value not in (None, "")]


def told(v: Verdict, faces: list[Candidate], options, due: list) -> dict:
    """A verdict as data that any process can take, with the lines of the terminal's summary and the (target, dtype) that are due."""
    text = words.headline(v) + "\n" + words.meaning(v) + ("\n" + words.explanation(v) if v.explanation else "")
    whole = asked(options)
    return {
        "target": v.target,
        "dtype": v.dtypes[0],
        "lines": bounded(text).splitlines(),
        "due": due,
        "place": place(faces[0], v.target) if options.lstm_github else None,
        "run": json_report.run_data(v, faces[0].layout) if whole else None,
    }


def asked(options) -> bool:
    """Whether any report is asked for."""
    return any((options.lstm_report, options.lstm_html, options.lstm_badge, options.lstm_github))


def write(options, found: Sequence[dict], incomplete: str, ended: bool) -> str:
    """Write the reports that are asked for; with `ended` also GitHub's summary, and return its annotations. Raises ValueError where
    a file cannot be written or an extra is missing."""
    if not asked(options):
        return ""
    document = json_report.document([one["run"] for one in found if one["run"] is not None], incomplete=incomplete)
    if options.lstm_badge:
        _write(options.lstm_badge, github.badge(document))
    if options.lstm_report:
        _write(options.lstm_report, json_report.dumps(document))
    if options.lstm_html:
        from . import html

        _write(options.lstm_html, html.page(document))
    if not (options.lstm_github and ended):
        return ""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            github.append(path, github.summary(document))
        except OSError as error:
            raise ValueError(f"$GITHUB_STEP_SUMMARY is {path}, which cannot be written: {error.strerror}") from None
    return github.errors(document, {one["target"]: tuple(one["place"]) for one in found if one["place"]})


def _write(path: str, text: str) -> None:
    try:
        json_report.write(path, text)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; name a file in a folder that is there") from None
