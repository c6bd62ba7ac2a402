"""Expected failures: what `lstm-ref expect` did, in words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..judgement.expected import Expectation
from ..judgement.verdict import EXPECTED, UNEXPECTED, Verdict

SHOWN = 6  # ids in a sentence


def failing(v: Verdict) -> str:
    """Which checks fail, in a sentence."""
    ids = [f"{r.id} [{r.dtype}]" for r in v.failures()]
    return f"{len(ids)} check{'s fail' if len(ids) > 1 else ' fails'}: {', '.join(ids[:SHOWN])}{', …' if len(ids) > SHOWN else ''}"


def updated(v: Verdict, made: Sequence[Expectation], without: Sequence[str], path: str) -> str:
    """What `expect update` found and wrote."""
    lines = [f"pinned      {_entry(e)}" for e in made]
    lines += [f"as it was   {r.id} [{r.dtype}]: {r.reason}" for r in v.results if r.outcome == EXPECTED]
    lines += [f"not pinned  {id_}: no case was found on which it fails again on its own" for id_ in without]
    lines += [f"stale       {r.id} [{r.dtype}]: {r.reason}" for r in v.results if r.outcome == UNEXPECTED]
    if not lines:
        return f"nothing fails: nothing to pin ({v.cases} cases)"
    if made:
        folder = made[0].counterexample.parent
        told = f"{len(made)} counterexample{'s' if len(made) > 1 else ''}"
        lines += [f"reason: {made[0].reason}", f"wrote {path}, and {told} into {folder}: keep both with the code"]
        lines += [f"judge with them: lstm-ref check {shlex.quote(v.target)} --expect {shlex.quote(path)}"]
    return "\n".join(lines)


def pruned(gone: Sequence[Expectation], left: int, target: str, path: str) -> str:
    """What `expect prune` took out."""
    lines = [f"removed  {_entry(e)}: {e.reason}" for e in gone]
    told = f"{left} expected failure{'s' if left != 1 else ''} of {target} left in {path}"
    return "\n".join([*lines, told if gone else f"nothing to remove: {told}"])


def _entry(e: Expectation) -> str:
    where = f", only where {e.region}" if e.region else ""
    return f"{e.check} [{e.dtype}]{where}" + (f", until {e.until.isoformat()}" if e.until else "")
