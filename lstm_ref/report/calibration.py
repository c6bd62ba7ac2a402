"""Calibration: the table of error ÷ (u · condition) of correct LSTMs."""

from __future__ import annotations

from rich.table import Table

from ..judgement import tolerances as tol


def table(rows) -> Table:
    """One line per target, dtype and regime; κ and the limit on the rms stand in the heading."""
    out = Table(title=f"error ÷ (u · condition); tolerances grant κ = {tol.KAPPA}, rms {tol.RMS_LIMIT}")
    for name in ("target", "dtype", "regime"):
        out.add_column(name)
    for name in ("cases", "blocks", "unresolved", "largest", "at", "largest rms", "false alarms"):
        out.add_column(name, justify="right")
    for r in rows:
        figures = (str(r.cases), str(r.blocks), str(r.unresolved), f"{r.largest:.2f}", r.where, f"{r.rms:.2f}", str(r.failed))
        out.add_row(r.target, r.dtype, r.regime, *figures)
    return out
