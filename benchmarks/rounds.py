"""Rounds: what the benchmarks share. Rivals take turns (A B C A B C …), so that noise of the machine meets all alike."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from statistics import median


def installed(package: str) -> bool:
    """Whether a rival can take part; if not, say so in one line."""
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"skipped: {package} is not installed")
    return found


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interleaved(rivals: dict[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of every rival in every round."""
    if warm_up:
        for run in rivals.values():
            run()
    found: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            found[name].append(seconds(run))
    return found


def ratio(above: list[float] | None, below: list[float] | None) -> float | None:
    """The median of the ratios round by round; None where a rival is missing, and one run stands for every round."""
    if not above or not below:
        return None
    rounds = max(len(above), len(below))
    above, below = (t * rounds if len(t) == 1 else t for t in (above, below))
    return median(a / b for a, b in zip(above, below, strict=True))


def table(header: tuple[str, ...], rows: list[tuple]) -> None:
    """Print rows aligned: text to the left, numbers to the right, None as –."""
    text = [[_text(q) for q in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *text, strict=True)]
    left = [all(isinstance(row[n], str) for row in rows) for n in range(len(header))]
    for line in (header, *text):
        print("  ".join(q.ljust(w) if to_left else q.rjust(w) for q, w, to_left in zip(line, widths, left, strict=True)).rstrip())


def _text(q) -> str:
    if isinstance(q, float):
        return f"{q:.3g}" if abs(q) < 100 else f"{q:.0f}"
    return "–" if q is None else str(q)
