"""Calibration: the tables of error ÷ (u · condition) of correct LSTMs."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group
from rich.table import Table

from ..judgement import tolerances as tol


def tables(rows) -> Group:
    """One table per target and dtype, one line per regime, and a line of totals."""
    parts: list[Table | str] = [f"error ÷ (u · condition); tolerances grant κ = {tol.KAPPA}, rms {tol.RMS_LIMIT}", ""]
    for (target, dtype), group in groupby(rows, key=lambda r: (r.target, r.dtype)):
        out = Table(title=f"{target}, {dtype}", title_justify="left")
        out.add_column("regime")
        for name in ("cases", "blocks", "unresolved", "largest", "at", "rms", "alarms"):
            out.add_column(name, justify="right")
        for r in group:
            figures = (r.cases, r.blocks, r.unresolved, f"{r.largest:.2f}", r.where, f"{r.rms:.2f}", r.failed)
            out.add_row(r.regime, *map(str, figures))
        parts.append(out)
    cases, blocks, unresolved, failed = (sum(c) for c in zip(*((r.cases, r.blocks, r.unresolved, r.failed) for r in rows), strict=True))
    parts.append(f"{cases} cases, {blocks} blocks ({unresolved} unresolved): {failed} false alarms")
    return Group(*parts)
