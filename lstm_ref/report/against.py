"""Against: two candidates side by side, one line for each quantity."""

from __future__ import annotations

import numpy as np

from ..judgement.against import AGREE, DIFFER, GRADIENTS, Comparison, Row
from ..reference.symbols import MODEL_INTERMEDIATES
from . import words

WORTH_NAMING = 6  # quantities in the last line


def text(c: Comparison) -> str:
    """The table, what could not be compared, and the outcome in a line."""
    lines = [f"{c.one}  against  {c.other}  {c.dtype}: {c.cases} cases" + (f", {c.skipped} left out" if c.skipped else "")]
    if c.rows:
        lines.append(f"  {'':<24}{'differs in':>12}{'largest':>10}  in units of both tolerances")
    for row in c.rows:
        lines.append(_row(row))
        lines += _numbers(row, c) if row.differ else []
    for name, what in _grouped(c.alone).items():
        lines.append(f"  only {name} returns {', '.join(what)}")
    for name, sentence in (*c.lower, *c.faults):
        lines.append(f"  {name}: {sentence}")
    return "\n".join([*lines, outcome(c)])


def outcome(c: Comparison) -> str:
    """Whether the two agree, in a line."""
    if c.outcome == AGREE:
        rounding = "rounding in that lower precision" if c.lower else "rounding"
        return f"AGREE  {c.one} and {c.other} are equal to {rounding} in {len(c.rows)} quantities"
    if c.outcome == DIFFER:
        names = [_name(row) for row in c.rows if row.differ]
        told = ", ".join(names[:WORTH_NAMING]) + (f" and {len(names) - WORTH_NAMING} more" if names[WORTH_NAMING:] else "")
        return f"DIFFER  {c.one} and {c.other} differ in {told}"
    why = "a call failed" if c.faults else "not every quantity could be resolved" if c.gradients else "no gradient was returned by both"
    return f"CANNOT TELL  whether {c.one} and {c.other} agree: {why}"


def _name(row: Row) -> str:
    return f"{'gradient of ' if row.kind == GRADIENTS else ''}{row.quantity}"


def _row(row: Row) -> str:
    share = f"{row.differ} of {row.cases}"
    unresolved = f", {row.unresolved} unresolved" if row.unresolved else ""
    place = ""
    if row.where is not None:
        entry = f"[{', '.join(map(str, row.index))}] " if row.index else ""
        place = f"at {entry}of {_case(row)}"
    largest = words.ratio(row.ratio) if row.where is not None else "–"
    return f"  {_name(row):<24}{share:>12}{largest:>10}  {place}{unresolved}"


def _case(row: Row) -> str:
    n = row.where.sizes
    sizes = words.sizes(n if row.quantity in ("J", "W_v", "b_v", "v") else n._replace(K=1))
    return f"{sizes}, {row.where.regime}, seed {row.where.seed}"


def _numbers(row: Row, c: Comparison) -> list[str]:
    """The numbers at the worst entry, and which of the two is the nearer to autodiff of the textbook LSTM."""
    wide = max(len(c.one), len(c.other), len("autodiff"))
    lines = [f"      {name:<{wide}}  {q!r}" for name, q in ((c.one, row.ours), (c.other, row.theirs), ("autodiff", row.due))]
    ours, theirs = abs(row.ours - row.due), abs(row.theirs - row.due)
    if np.isfinite([ours, theirs]).all() and ours != theirs:
        lines[2] += f"  (nearer: {c.one if ours < theirs else c.other})"
    return lines


def _grouped(pairs: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    """What each side alone returns, intermediates under that one word."""
    found: dict[str, list[str]] = {}
    for name, what in pairs:
        plain = what.removeprefix("gradient of ")
        inner = plain in MODEL_INTERMEDIATES and what != "h"
        found.setdefault(name, []).append("intermediates" if inner else what)
    return {name: sorted(dict.fromkeys(told)) for name, told in found.items()}
