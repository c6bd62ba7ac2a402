"""Notebook: a verdict that shows itself as a card where Jupyter displays it, and as its lines where IPython does.

Judgement does not format, so the verdict that `verify` returns is this kind of Verdict: the same value, with a face.
"""

from __future__ import annotations

import dataclasses
from html import escape

from ..judgement.verdict import EXPECTED, FAIL, NOT_RUN, PASS, UNEXPECTED, Verdict
from . import words
from .bounds import bounded

COLOR = {"pass": "#2e8b57", "fail": "#d7423a", "inconclusive": "#b8860b"}  # legible on white and on black
LOUD = (FAIL, UNEXPECTED, "timeout", "cannot tell", EXPECTED, NOT_RUN)
ROWS = 12  # before the rest is folded away
STYLE = """
.lstm-ref-card { border-left: 4px solid var(--lstm-ref-tone); padding: .2em 0 .2em 1em; max-width: 60em }
.lstm-ref-card { overflow-x: auto; text-align: left }
.lstm-ref-card p { margin: .3em 0 }
.lstm-ref-card .verdict { font-weight: bold; color: var(--lstm-ref-tone) }
.lstm-ref-card pre { white-space: pre-wrap; margin: .4em 0; background: transparent; color: inherit }
.lstm-ref-card table { border-collapse: collapse; margin: .4em 0; font-size: inherit; color: inherit }
.lstm-ref-card th, .lstm-ref-card td { text-align: left; padding: .1em .8em .1em 0; font-weight: normal; vertical-align: top }
.lstm-ref-card thead th { opacity: .7 }
""".strip()


class Shown(Verdict):
    """A Verdict, and how a notebook shows it."""

    def _repr_html_(self) -> str:
        return card(self)

    def _repr_pretty_(self, printer, cycle: bool) -> None:
        printer.text(words.headline(self) + "\n" + words.meaning(self) + ("\n" + words.explanation(self) if self.explanation else ""))


def shown(v: Verdict) -> Shown:
    """The same verdict, with a face."""
    return Shown(**{f.name: getattr(v, f.name) for f in dataclasses.fields(v)})


def card(v: Verdict) -> str:
    """A verdict as a piece of HTML: its line, what it means, the diagnosis, then the checks, failures first. Every text is escaped."""
    v = bounded(v)
    loud = sorted((r for r in v.results if r.outcome in LOUD), key=lambda r: LOUD.index(r.outcome))
    rest = [r for r in v.results if r.outcome not in LOUD]
    parts = [f'<p class="verdict">{escape(words.headline(v))}</p>', f"<p>{escape(words.meaning(v))}</p>"]
    parts += [f"<pre>{escape(words.explanation(v))}</pre>"] if v.explanation else []
    parts += [_table(loud[:ROWS])] if loud else []
    parts += [_folded(f"{len(loud) - ROWS} more like these", _table(loud[ROWS:]))] if len(loud) > ROWS else []
    first = next((r for r in loud if r.counterexample is not None and r.counterexample.primary), None)
    parts += [_folded("the smallest case", f"<pre>{escape(words.failure(first, v.target))}</pre>")] if first else []
    parts += [_folded(f"{len(rest)} other checks", _table(rest))] if rest else []
    parts += [f"<p>note: {escape(note)}</p>" for note in (*v.notes, *v.vacuity)]
    tone = COLOR[v.outcome]
    return f'<div class="lstm-ref-card" style="--lstm-ref-tone: {tone}"><style>{STYLE}</style>{"".join(parts)}</div>'


def _table(results) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("check", "dtype", "outcome", "cases", "worst error ÷ tolerance", ""))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, results))}</tbody></table>"


def _row(r) -> str:
    worst = words.ratio(r.worst.ratio) if r.worst is not None and r.worst.ratio and r.outcome in (PASS, FAIL) else ""
    reason = "" if r.worst is not None and r.reason == r.worst.rule else r.reason
    cells = "".join(f"<td>{escape(str(c))}</td>" for c in (r.dtype, r.outcome, r.cases, worst, reason))
    return f'<tr><th scope="row">{escape(r.id)}</th>{cells}</tr>'


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"
