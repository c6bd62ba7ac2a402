"""Terminal: a verdict as a card, one line per check, and a progress bar while a run is long."""

from __future__ import annotations

import contextlib

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..candidates.layout import Layout
from ..judgement.against import Comparison
from ..judgement.verdict import (
    BLOCKED,
    CANNOT_TELL,
    DESELECTED,
    EXPECTED,
    FAIL,
    NOT_PROVIDED,
    NOT_RUN,
    PASS,
    TIMEOUT,
    UNEXPECTED,
    Result,
    Verdict,
)
from . import against, words
from .bounds import bounded

STYLE = {
    PASS: "green",
    FAIL: "bold red",
    CANNOT_TELL: "yellow",
    TIMEOUT: "yellow",
    NOT_RUN: "yellow",
    EXPECTED: "yellow",
    UNEXPECTED: "bold red",
    BLOCKED: "dim",
    NOT_PROVIDED: "dim",
    DESELECTED: "dim",
}
VERDICT_STYLE = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
HELD_STYLE = {"agree": "bold green", "differ": "bold red", "cannot tell": "bold yellow"}
SHOWN_FAILURES = 3


@contextlib.contextmanager
def progress(console: Console):
    """A bar that appears when standing at a terminal; yields the callback that `run` takes."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} cases"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    if not console.is_terminal:
        yield lambda done, total, what: None
        return
    tasks: dict[str, TaskID] = {}
    with bar:

        def update(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield update


def card(console: Console, v: Verdict, layout: Layout | None, files: dict[tuple[str, str], str]) -> None:
    """Print the verdict: every check, then what failed, then the verdict line."""
    v = bounded(v)
    for dtype in v.dtypes:
        console.print(f"[bold]{escape(v.target)}[/]  {dtype}  ({v.profile}, seed {v.seed})")
        results = [r for r in v.results if r.dtype == dtype]
        width = max([11, *(len(r.outcome) for r in results if r.outcome not in (NOT_PROVIDED, DESELECTED))])
        quiet = [r for r in results if r.outcome in (NOT_PROVIDED, DESELECTED)]
        for r in results:
            if r.outcome not in (NOT_PROVIDED, DESELECTED):
                _line(console, r, width)
        for outcome in (NOT_PROVIDED, DESELECTED):
            if names := [r.id for r in quiet if r.outcome == outcome]:
                console.print(f"  [dim]{outcome}: {_folded(names)}[/]", highlight=False)
        console.print()
    # beside the smallest case: where the same call gives something else each time, nothing that follows can be trusted
    failures = sorted(v.failures(), key=lambda r: (r.counterexample is None or not r.counterexample.primary, r.id != "state.repeat"))
    for r in failures[:SHOWN_FAILURES]:
        console.print(escape(words.failure(r, v.target, layout, files.get((r.id, r.dtype)))), highlight=False, soft_wrap=True)
        console.print()
    if len(failures) > SHOWN_FAILURES:
        rest = ", ".join(r.id for r in failures[SHOWN_FAILURES:])
        console.print(f"also failing: {rest}\n", highlight=False, soft_wrap=True)
    for note in (*v.notes, *v.vacuity, *filter(None, [v.incomplete])):
        console.print(f"note: {escape(note)}", highlight=False, soft_wrap=True)
    if told := words.explanation(v):
        console.print(escape(told) + "\n", highlight=False, soft_wrap=True, style="bold")
    console.print(escape(words.headline(v)), style=VERDICT_STYLE[v.outcome], highlight=False, soft_wrap=True)
    console.print(escape(words.meaning(v)), highlight=False, soft_wrap=True)


def side_by_side(console: Console, other: Verdict, held: list[Comparison]) -> None:
    """Print the verdict line of the candidate that another was held against, and what came of that."""
    other, held = bounded(other), bounded(held)
    console.print()
    console.print(escape(words.headline(other)), style=VERDICT_STYLE[other.outcome], highlight=False, soft_wrap=True)
    console.print(escape(words.meaning(other)), highlight=False, soft_wrap=True)
    for c in held:
        *lines, last = against.text(c).splitlines()
        console.print("\n" + escape("\n".join(lines)), highlight=False, soft_wrap=True)
        console.print(escape(last), style=HELD_STYLE[c.outcome], highlight=False, soft_wrap=True)


def _line(console: Console, r: Result, width: int) -> None:
    worst = ""
    if r.worst is not None and r.outcome in (PASS, FAIL) and (r.worst.tolerance or r.outcome == FAIL):
        worst = f"worst {words.ratio(r.worst.ratio):>7} of tolerance"
        if r.worst.index:
            worst += f" at {words.entry(r.worst)}"
    unresolved = f", {r.unresolved} unresolved" if r.unresolved else ""
    said = r.worst is not None and worst and r.reason == r.worst.rule
    reason = f"  {r.reason}" if r.reason and r.outcome != PASS and not said else ""
    console.print(
        f"  [{STYLE[r.outcome]}]{r.outcome:<{width}}[/] {r.id:<28} {r.cases:>5} cases{unresolved:<15} {escape(worst)}{escape(reason)}",
        highlight=False,
        soft_wrap=True,
    )


def _folded(names: list[str]) -> str:
    """Ids with their last part folded where many share the rest: `inter.*.autodiff`."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        head, _, tail = name.partition(".")
        kinds.setdefault(head + "." + (tail.rpartition(".")[2] if tail.count(".") else ""), []).append(name)
    out = []
    for kind, members in kinds.items():
        head, _, truth = kind.partition(".")
        out.append(f"{head}.*{'.' + truth if truth else ''} ({len(members)})" if len(members) > 3 else ", ".join(members))
    return "; ".join(out)
