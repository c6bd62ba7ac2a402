"""Campaign: its verdicts, bugs and where in the space they lie, at the terminal and as JSON; and where a campaign stands."""

from __future__ import annotations

import pathlib

from rich.console import Console
from rich.markup import escape

from ..campaign.hunt import Worst
from ..campaign.store import Progress
from ..campaign.verdicts import Group, Report
from ..judgement.verdict import FAIL
from . import json_report, words
from .terminal import VERDICT_STYLE

SHOWN = 5  # bugs at the terminal, and strata of an axis


def document(report: Report) -> dict:
    """The same document as a check's, with what is a campaign's own under "campaign"."""
    runs = [json_report.run_data(v) for v in report.verdicts]
    told = json_report.document(runs, (), next((v.incomplete for v in report.verdicts), ""))
    told["outcome"] = report.outcome
    bugs = [
        {"target": b.target, "bug": b.key, "check": b.check, "dtypes": list(b.dtypes), "cases": b.cases, "case": b.k, "ours": b.ours}
        | {"told": told_of(b, report), "counterexample": b.record}
        for b in report.bugs
    ]
    space = {
        axis: [{"stratum": s, "cases": n, "failing": bad, "not run": out} for s, (n, bad, out) in _sorted(strata)]
        for axis, strata in report.space.items()
    }
    own = {"failing": report.failing, "judged": report.judged, "bugs": bugs, "space": space, "not run": report.unjudged}
    return told | {"campaign": own}


def told_of(bug: Group, report: Report) -> str:
    """A bug in words: the diagnosis, or what fails first."""
    verdict = next(v for v in report.verdicts if v.target == bug.target)
    if bug.explanation is not None:
        named = words.explanation(_with(verdict, bug.explanation))
        if bug.explanation.fits or bug.explanation.names:
            return named
    result = next((r for r in verdict.results if r.id == bug.check and (not bug.dtypes or r.dtype == bug.dtypes[0])), None)
    if result is None or result.outcome != FAIL:
        return bug.key
    return words.failure(result, bug.target)


def _with(verdict, explanation):
    import dataclasses

    return dataclasses.replace(verdict, explanation=explanation)


def show(console: Console, report: Report, files: dict[str, str]) -> None:
    """Print the verdicts, the bugs with their smallest counterexamples, and where the failures lie. `files` has, by the key of a
    bug, where its counterexample was kept."""

    def line(text: str, style: str = "") -> None:
        console.print(escape(text), highlight=False, soft_wrap=True, style=style)

    if report.bugs:
        line(f"{_count(report.failing, 'failing case')}, {_count(len(report.bugs), 'bug')}\n", "bold")
    for n, bug in enumerate(report.bugs[:SHOWN], 1):
        smallest = f"; the smallest found: {words.sizes(_sizes(bug.record))}" if bug.record else ""
        line(
            f"{n}. {bug.key}  [{bug.target}; {', '.join(bug.dtypes)}]: {_count(bug.cases, 'case')}, the first is case {bug.k}{smallest}",
            "bold",
        )
        line(told_of(bug, report))
        if bug.key in files:
            line(f"  again: lstm-ref replay {files[bug.key]} --lstm {bug.target}")
        line("")
    if len(report.bugs) > SHOWN:
        line(f"and {len(report.bugs) - SHOWN} more bugs\n")
    if report.failing:
        line("share of failing cases:")
        for axis, strata in report.space.items():
            if told := _shares(strata):
                line(f"  {axis:<14} {told}")
        line("")
    for v in report.verdicts:
        for note in v.notes:
            line(f"note: {note}")
        line(words.headline(v), VERDICT_STYLE[v.outcome])
        line(words.meaning(v))
    if report.outcome != FAIL and (why := next((v.incomplete for v in report.verdicts if v.incomplete), "")):
        line(why, "yellow")


def standing(console: Console, path: pathlib.Path, p: Progress) -> None:
    """Print where a campaign stands."""
    share = p.judged / p.cases if p.cases else 1.0
    rows = [f"{path}: {p.judged:,} of {p.cases:,} cases ({share:.1%})"]
    rows.append(f"running: {p.running}" if p.running else "not running" if p.left else "done")
    if p.rate is not None:
        rows.append(f"rate: {p.rate:.3g} cases a second" + (f"; time left: {_time(p.left)}" if p.left else ""))
    rows.append(f"failing: {p.failing:,}" + (f" ({_count(p.bugs, 'bug')})" if p.failing else "") + f"; not run: {p.not_run:,}")
    if not p.running and p.judged < p.cases:
        rows.append(f"go on with: lstm-ref campaign resume --db {path}")
    for row in rows:
        console.print(row, highlight=False, markup=False, soft_wrap=True)


def hunted(console: Console, found: list[Worst]) -> None:
    """Print the worst point that a hunt has found of every subject."""
    for w in found:
        s, e = w.spec, w.evidence
        flows = f"cotangents {s.cotangents} × {s.cotangent_scale:g}, initial state {s.initial_state}, {s.memory}"
        console.print(
            f"{w.subject}: {words.ratio(w.ratio)} of the tolerance at worst, in {w.cases:,} cases",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        where = f"  {w.check} at {words.sizes(s.sizes)}, {s.regime}, {flows}, seed {s.seed}"
        console.print(where, highlight=False, markup=False, soft_wrap=True)
        if e.index:
            told = f"  {words.entry(e)}: candidate {e.candidate!r}, autodiff {e.autodiff!r}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _time(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (s, "s")]
    first = next((n for n, (value, _) in enumerate(parts) if value), 3)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2])


def _sizes(record: dict):
    from ..reference.symbols import Sizes

    return Sizes(**record["sizes"])


def _sorted(strata: dict[str, tuple[int, int, int]]) -> list[tuple[str, tuple[int, int, int]]]:
    """Strata of numbers by number, others by name."""
    return sorted(strata.items(), key=lambda s: (int(s[0].partition("–")[0]) if s[0][0].isdigit() else 0, s[0]))


def _shares(strata: dict[str, tuple[int, int, int]]) -> str:
    """The failing share of every stratum, the largest first; empty where they are all alike."""
    shares = {name: bad / max(n - out, 1) for name, (n, bad, out) in strata.items()}
    if len(strata) < 2 or len(set(shares.values())) < 2:
        return ""
    told = sorted(strata, key=lambda name: -shares[name])
    return ", ".join(f"{name} {shares[name]:.0%} of {strata[name][0]:,}" for name in told[:SHOWN]) + (" …" if len(told) > SHOWN else "")
