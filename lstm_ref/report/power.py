"""Power: the mutation score by kind, the survivors, the smallest errors seen; and the kill matrix as CSV."""

from __future__ import annotations

import csv
import io

from rich.console import Console
from rich.table import Table


def show(console: Console, found) -> None:
    """Print the power of one dtype."""
    table = Table(title=f"power of {found.profile}, {found.dtype}: {len(found.kills)} mutants")
    for name in ("kind", "mutants", "killed", "score", "cases to kill: median", "largest"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    kinds = dict.fromkeys(k.mutant.kind for k in found.kills)
    for kind in (*kinds, "all"):
        mine = [k for k in found.kills if kind in (k.mutant.kind, "all")]
        killed = sorted(k.cases for k in mine if k.checks)
        figures = (str(len(mine)), str(len(killed)), f"{len(killed) / len(mine):.1%}")
        table.add_row(kind, *figures, str(killed[len(killed) // 2]) if killed else "–", str(killed[-1]) if killed else "–")
    console.print(table)
    for k in found.kills:
        if not k.checks:
            console.print(f"survives: {k.mutant.id}", highlight=False, markup=False)
    console.print(
        f"false alarms on right gradients: {found.false_alarms} in {found.blocks} blocks of {found.cases} cases\n"
        f"smallest error always caught in 99 % of resolved blocks at weights of 0.01 to 1: {found.entry:.1e} of the block in one entry, "
        f"{found.block:.1e} in every entry",
        highlight=False,
        soft_wrap=True,
    )


def show_curve(console: Console, dtype: str, sights) -> None:
    """Print the smallest error over weight scale and T; a share of resolved blocks stands beside it where it is not all."""
    steps = sorted({s.T for s in sights})
    table = Table(title=f"{dtype}: smallest error always caught in one entry", title_justify="left")
    table.add_column("weights")
    for T in steps:
        table.add_column(f"T = {T}", justify="right")
    for weights in sorted({s.weights for s in sights}):
        row = {s.T: s for s in sights if s.weights == weights}
        table.add_row(
            f"{weights:g}", *(f"{row[T].entry:.1e}" + (f" ({row[T].resolved:.0%})" if row[T].resolved < 1 else "") for T in steps)
        )
    console.print(table)


def matrix(found) -> str:
    """The kill matrix as CSV: one row per mutant, one column per check, 1 where the check fails."""
    checks = sorted({c for k in found.kills for c in (*k.checks, *k.laws)})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["mutant", "kind", "equation", "cases", *checks])
    for k in found.kills:
        caught = {*k.checks, *k.laws}
        writer.writerow([k.mutant.id, k.mutant.kind, k.mutant.label, k.cases, *(int(c in caught) for c in checks)])
    return out.getvalue()
