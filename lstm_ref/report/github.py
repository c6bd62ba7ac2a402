"""GitHub: a document as annotations, as a summary of the job in Markdown, and as a badge.

Annotations are lines on standard output that GitHub reads; the summary is appended to the file that $GITHUB_STEP_SUMMARY names.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

from ..judgement.verdict import CANNOT_TELL, EXPECTED, FAIL, NOT_RUN, PASS, TIMEOUT, UNEXPECTED
from . import words

MOST_ANNOTATIONS = 10  # as many errors as GitHub shows of one step
LINES = 10  # checks in one annotation
ROWS = 60  # of a table in the summary
LARGEST_SNIPPET = 6000  # characters
LARGEST_SUMMARY = 250_000  # bytes: GitHub shows no step's summary above 1 MiB, and other steps' lines are in it too
MARK = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}
COLOR = {"pass": "brightgreen", "fail": "red", "inconclusive": "yellow"}
LOUD = (FAIL, UNEXPECTED, TIMEOUT, CANNOT_TELL, NOT_RUN, EXPECTED)  # what is shown first, in this order
TROUBLE = (FAIL, UNEXPECTED, TIMEOUT, CANNOT_TELL)
SPECIAL = frozenset("\\`*_{}[]<>()#|~&@:!")


def errors(document: dict, places: Mapping[str, tuple[str, int]] | None = None) -> str:
    """One error for every run that does not pass, at the line where the candidate's gradients are written, if `places` knows it."""
    lines = []
    for run in document["runs"]:
        if run["outcome"] == PASS:
            continue
        told = _explained(run) + _checks(run)
        at = (places or {}).get(run["target"])
        where = {"file": at[0], "line": str(at[1])} if at else {}
        title = f"lstm-ref: {run['outcome']}, {run['target']} {'+'.join(run['dtypes'])}"
        lines.append(_command("error", {**where, "title": title}, "\n".join(told) or run["meaning"]))
    if not document["complete"]:
        lines.insert(0, _command("error", {"title": "lstm-ref: not complete"}, document["incomplete"]))
    for c in document["held"]:
        if c["outcome"] != "agree":
            lines.append(_command("error", {"title": f"lstm-ref: {c['one']} against {c['other']}"}, c["told"]))
    return "".join(f"{line}\n" for line in lines[:MOST_ANNOTATIONS])


def _explained(run: dict) -> list[str]:
    return [run["explanation"]["told"]] if run["explanation"] else []


def _checks(run: dict) -> list[str]:
    found = [r for r in _loudest(run) if r["outcome"] in TROUBLE] or [r for r in _loudest(run) if r["outcome"] == NOT_RUN]
    lines = [f"{r['id']} [{r['dtype']}] {r['outcome']}: {words.why(r)}" for r in found[:LINES]]
    return lines + ([f"… and {len(found) - LINES} more"] if len(found) > LINES else [])


def _loudest(run: dict) -> list[dict]:
    return sorted((r for r in run["results"] if r["outcome"] in LOUD), key=lambda r: LOUD.index(r["outcome"]))


def _command(name: str, properties: dict[str, str], message: str) -> str:
    told = ",".join(f"{k}={_data(v).replace(':', '%3A').replace(',', '%2C')}" for k, v in properties.items())
    return f"::{name} {told}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def summary(document: dict) -> str:
    """The document as Markdown: the verdict first, then why, then every check. Never larger than GitHub shows."""
    parts = []
    if not document["complete"]:
        parts.append(f"⚠️ **This report is not complete**: {plain(document['incomplete'])}")
    for run in document["runs"]:
        parts += _run(run)
    for c in document["held"]:
        parts.append(f"**{plain(c['one'])} against {plain(c['other'])}**: {plain(c['told'])}")
    text, used = [], 0
    for part in parts:
        used += len(part.encode()) + 2
        if used > LARGEST_SUMMARY:
            text.append("… the rest is left out: it is larger than what is shown here; see the JSON report")
            break
        text.append(part)
    return "\n\n".join(text) + "\n"


def _run(run: dict) -> list[str]:
    parts = [f"### {MARK[run['outcome']]} lstm-ref: {plain(run['target'])}", f"**{plain(run['headline'])}**", plain(run["meaning"])]
    parts += ["> " + "<br>".join(map(plain, told.splitlines())) for told in _explained(run)]
    if loud := _loudest(run):
        parts.append(_table(loud))
    for r in run["results"]:
        if r["snippet"] and len(r["snippet"]) <= LARGEST_SNIPPET and r["outcome"] == FAIL:
            again = f"\n\nAgain, with the file that the run kept: {_code(r['replay'])}" if r["replay"] else ""
            parts.append(_folded(f"The smallest case found for {plain(r['id'])}", _fenced(r["snippet"]) + again))
    quiet = [r for r in run["results"] if r["outcome"] not in LOUD]
    if quiet:
        parts.append(_folded(f"{len(quiet)} other checks", _table(quiet, 2 * ROWS)))
    return parts + [f"Note: {plain(note)}" for note in (*run["notes"], *run["vacuity"])]


def _table(results: list[dict], most: int = ROWS) -> str:
    rows = ["| check | dtype | outcome | cases | worst error ÷ tolerance | |", "|---|---|---|--:|--:|---|"]
    for r in results[:most]:
        worst = r["worst"] and r["outcome"] in (PASS, FAIL) and r["worst"]["ratio"]
        told = words.ratio(float(worst)) if worst else ""
        cells = (r["id"], r["dtype"], r["outcome"], str(r["cases"]), told, r["reason"])
        rows.append("| " + " | ".join(map(plain, cells)) + " |")
    return "\n".join(rows) + (f"\n\n… and {len(results) - most} more" if len(results) > most else "")


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _fenced(code: str) -> str:
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}python\n{code}\n{fence}"


def _code(text: str) -> str:
    return f"<code>{plain(text)}</code>"


def plain(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line: what they would read is written as a character's number."""
    return "".join(f"&#{ord(c)};" if c in SPECIAL else c for c in " ".join(text.splitlines()))


def badge(document: dict) -> str:
    """The JSON that shields.io makes a badge of (its "endpoint" form)."""
    results = [r for run in document["runs"] for r in run["results"]]
    counts = {o: sum(r["outcome"] == o for r in results) for o in (PASS, FAIL, EXPECTED, UNEXPECTED)}
    outcome, told = document["outcome"], ""
    if outcome == PASS:
        told = f", {counts[EXPECTED]} {words.counted(EXPECTED, counts[EXPECTED])}" if counts[EXPECTED] else f", {counts[PASS]} checks"
    elif outcome == FAIL:
        told = f", {counts[FAIL] + counts[UNEXPECTED]} of {len(results)} checks"
    message = f"{outcome}{told}" if document["complete"] else f"{outcome}, not complete"
    color = "yellowgreen" if outcome == PASS and counts[EXPECTED] else COLOR[outcome]
    shown = {"schemaVersion": 1, "label": "LSTM gradients", "message": message, "color": color}
    return json.dumps(shown | ({"isError": True} if outcome == FAIL else {}), indent=1) + "\n"


def append(path: str, text: str) -> None:
    """Add a summary to those of the steps before. Raises OSError where it cannot be written."""
    with pathlib.Path(path).open("a", encoding="utf-8") as file:
        file.write(text)
