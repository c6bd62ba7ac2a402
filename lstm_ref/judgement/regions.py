"""Regions: the one condition on sizes that separates the cases that failed from those that passed; and conditions read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..cases import Spec
from ..reference.symbols import Sizes
from .manifest import GROUPS

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


_ON_SIZES = re.compile(r"([TBDHK]) (>|<|=|is a multiple of|is not a multiple of) ([1-9][0-9]{0,8})")


def condition(text: str) -> Callable[[Spec], bool]:
    """Whether a case lies where a condition holds: one on a size, as `separating` writes them ("H > 16", "H is not a multiple
    of 8"), "H = 4", "H is a multiple of 8", the id of a group of cases ("numerics.saturation"), or several joined by "and".

    Raises ValueError, with what can be written, for any other text.
    """
    parts = [_part(part.strip()) for part in text.split(" and ")]
    return lambda spec: all(part(spec) for part in parts)


def _part(text: str) -> Callable[[Spec], bool]:
    if text in GROUPS:
        return GROUPS[text][1]
    if (found := _ON_SIZES.fullmatch(text)) is None:
        forms = "a condition on T, B, D, H or K (H > 16, T < 3, B = 1, H is a multiple of 8, H is not a multiple of 8)"
        raise ValueError(f"the region has {text!r}; it must be {forms}, or one of {', '.join(GROUPS)}, joined by 'and'")
    axis, relation, limit = found[1], found[2], int(found[3])
    holds = {
        ">": lambda n: n > limit,
        "<": lambda n: n < limit,
        "=": lambda n: n == limit,
        "is a multiple of": lambda n: n % limit == 0,
        "is not a multiple of": lambda n: n % limit != 0,
    }[relation]
    return lambda spec: holds(getattr(spec.sizes, axis))
