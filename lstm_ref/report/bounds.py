"""Bounds: a value with every text in it short and printable, before any report is made of it.

Names and exception texts are a candidate's own: they may be as long as they like, and hold what moves a terminal's cursor.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..cases import Spec

LONGEST = 2000  # characters of one text
_ROOM = LONGEST - len("… (999,999,999,999 more)")


def text(s: str) -> str:
    """At most 2,000 characters, with what cannot be printed written as its escape; lines and tabs stay."""
    if len(s) <= LONGEST and s.isprintable():
        return s
    shown = [_visible(c) for c in s[:LONGEST]]
    if len(s) <= LONGEST and sum(map(len, shown)) <= LONGEST:
        return "".join(shown)
    kept, used = 0, 0
    while kept < len(shown) and used + len(shown[kept]) <= _ROOM:
        used += len(shown[kept])
        kept += 1
    return f"{''.join(shown[:kept])}… ({len(s) - kept:,} more)"


def _visible(c: str) -> str:
    return c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()


def bounded(value: Any) -> Any:
    """The same value with every text in it bounded: a Verdict, a Comparison, or what they are made of. Arrays stay as they are."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {bounded(k): bounded(v) for k, v in value.items()}
    if isinstance(value, tuple):
        parts = [bounded(v) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [bounded(v) for v in value]
    if isinstance(value, Spec):
        return value  # a thousand of them may fail, and their texts are ours
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        moved = {k: new for k, old in fields.items() if (new := bounded(old)) is not old}
        return dataclasses.replace(value, **moved) if moved else value
    return value
