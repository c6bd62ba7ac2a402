"""Regions: the one condition on sizes that separates the cases that failed from those that passed."""

from __future__ import annotations

from collections.abc import Iterable

from ..reference.symbols import Sizes

TILES = (32, 16, 8, 4, 2)
FEWEST = 3  # cases on each side before a condition is believed


def separating(seen: Iterable[tuple[Sizes, bool]]) -> tuple[str, str] | None:
    """The condition under which a check fails, in words, and the `supports` line that would declare it; None if no
    single size decides. `seen` holds (sizes, failed?)."""
    seen = list(seen)
    failing, passing = [n for n, failed in seen if failed], [n for n, failed in seen if not failed]
    if len(failing) < FEWEST or len(passing) < FEWEST:
        return None
    for axis in ("B", "T", "H", "D", "K"):
        bad, good = {getattr(n, axis) for n in failing}, {getattr(n, axis) for n in passing}
        if min(bad) > max(good):
            limit = max(good)
            return f"{axis} > {limit}", f'{{"{axis}": {1 if limit == 1 else f"{chr(34)}at most {limit}{chr(34)}"}}}'
        if max(bad) < min(good):
            return f"{axis} < {min(good)}", f'{{"{axis}": "at least {min(good)}"}}'
        for k in TILES:
            if all(v % k == 0 for v in good) and all(v % k for v in bad):
                return f"{axis} is not a multiple of {k}", f'{{"{axis}": "multiple of {k}"}}'
    return None
