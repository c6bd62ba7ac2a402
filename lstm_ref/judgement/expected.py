"""Expected: failures that are known, each pinned to a counterexample and a reason. A verdict in, a verdict out.

A file names them (TOML, read with tomllib):

    [[expected]]
    target = "my_lstm.py:MyLSTM"                   # absent: any target
    check = "grad.b_f.autodiff"
    dtype = "float64"
    reason = "the tail of the tile is not summed"
    counterexample = "lstm-ref.expected/x.json"    # as `check` and `expect update` write them; relative to this file
    region = "H > 16"                              # absent: anywhere. A failure elsewhere is a failure
    until = 2027-01-31                             # absent: without end. After it the failure is one again

The counterexample decides whether the failure is still there, whatever cases a run happens to draw: while it fails, the check
is an expected failure; once it passes, the run fails until the entry is removed.
"""

from __future__ import annotations

import datetime
import difflib
import json
import pathlib
import shlex
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from ..candidates.contract import Candidate
from ..cases import Spec
from . import record
from . import tolerances as tol
from .judge import Bench
from .manifest import CHECKS, manifest
from .regions import condition
from .run import evidence_on, replay
from .verdict import BLOCKED, DESELECTED, EXPECTED, FAIL, NOT_RUN, PASS, UNEXPECTED, Counterexample, Result, Verdict, one_primary

FILE = "lstm-ref.toml"  # the file of `lstm-ref expect` unless it is told another; nothing else reads one unasked
HEAD = "# Expected failures of lstm-ref, written by `lstm-ref expect update` and `prune`: comments are not kept."


class ExpectError(ValueError):
    """A file of expected failures that cannot be used; the text says what was seen and what is due."""


@dataclass(frozen=True)
class Expectation:
    """One entry of the file. `target` is "" for any; `counterexample` is a path from the working directory, or absolute."""

    check: str
    dtype: str
    reason: str
    counterexample: pathlib.Path
    target: str = ""
    region: str = ""
    until: datetime.date | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What can be in a file only once."""
        return self.target, self.check, self.dtype


KEYS = tuple(f.name for f in fields(Expectation))
NEEDED = KEYS[:4]


# --- the file --------------------------------------------------------------------------------------------------------


def read(path: str | pathlib.Path) -> tuple[Expectation, ...]:
    """The entries of a file. Raises ExpectError, with a sentence, for a file that is missing or holds anything that is not
    understood: an unknown key, an unknown check, a counterexample that is not there or of another check."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ExpectError(f"there is no file {path}; `lstm-ref expect update TARGET --expect {path} --reason …` writes one")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExpectError(f"{path} is not TOML: {error}") from None
    entries = found.get("expected", [])
    if set(found) - {"expected"} or not isinstance(entries, list):
        wrong = ", ".join(sorted(set(found) - {"expected"})) or "an `expected` that is no list"
        raise ExpectError(f"{path} has {wrong}; it may hold [[expected]] tables only")
    out = tuple(_entry(e, f"{path}, entry {n}", path.parent) for n, e in enumerate(entries, 1))
    for n, e in enumerate(out, 1):
        if e.key in [other.key for other in out[: n - 1]]:
            raise ExpectError(f"{path}, entry {n}: {e.check} [{e.dtype}] of {e.target or 'any target'} is there twice")
    return out


def _entry(e, where: str, folder: pathlib.Path) -> Expectation:
    if not isinstance(e, dict):
        raise ExpectError(f"{where} is no table; write [[expected]] above its keys")
    if unknown := set(e) - set(KEYS):
        raise ExpectError(f"{where} has the unknown key {', '.join(sorted(unknown))}; the keys are {', '.join(KEYS)}")
    if missing := [k for k in NEEDED if k not in e]:
        raise ExpectError(f"{where} has no {', '.join(missing)}; it must have {', '.join(NEEDED)}")
    for k in set(e) - {"until"}:
        if not isinstance(e[k], str) or not e[k].strip():
            raise ExpectError(f"{where}: {k} is {e[k]!r}; a text is due")
    if "until" in e and type(e["until"]) is not datetime.date:
        raise ExpectError(f"{where}: until is {str(e['until'])!r}; a date is due, such as until = 2027-01-31, without quotes")
    if e["check"] not in CHECKS:
        near = difflib.get_close_matches(e["check"], CHECKS, 1)
        raise ExpectError(
            f"{where}: there is no check {e['check']!r}; {f'{near[0]} is one' if near else '`lstm-ref checks` lists them all'}"
        )
    if e["dtype"] not in tol.PRECISIONS:
        raise ExpectError(f"{where}: the dtype is {e['dtype']!r}; it must be one of {', '.join(tol.PRECISIONS)}")
    try:
        condition(e.get("region", "H > 1"))
        check, dtype, _, _ = record.read(folder / e["counterexample"])
    except ValueError as error:
        raise ExpectError(f"{where}: {error}") from None
    if (check, dtype) != (e["check"], e["dtype"]):
        raise ExpectError(f"{where}: {e['counterexample']} is of {check} [{dtype}]; one of {e['check']} [{e['dtype']}] is due")
    return Expectation(**{**e, "counterexample": folder / e["counterexample"]})


def write(path: pathlib.Path, entries: Iterable[Expectation]) -> None:
    """The entries as TOML, counterexamples named relative to the file. Raises ExpectError where it cannot be written."""
    tables = ["\n".join(["[[expected]]", *(f"{k} = {_value(e, k, path.parent)}" for k in _ORDER if getattr(e, k))]) for e in entries]
    try:
        path.write_text("\n\n".join([HEAD, *tables]).rstrip("\n") + "\n", encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise ExpectError(f"{path} cannot be written: {error}") from None


_ORDER = ("target", "check", "dtype", "reason", "counterexample", "region", "until")


def _value(e: Expectation, key: str, folder: pathlib.Path) -> str:
    value = getattr(e, key)
    if key == "until":
        return value.isoformat()
    if key == "counterexample":
        near = value.is_relative_to(folder)
        value = (value.relative_to(folder) if near else value.resolve()).as_posix()
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's strings are TOML's, but for DEL


# --- a verdict held against the entries --------------------------------------------------------------------------------


def due(expected: Iterable[Expectation], target: str, faces: list[Candidate], path: str | pathlib.Path) -> tuple[Expectation, ...]:
    """The entries for a target, those that name it last. Raises ExpectError where it has no such check."""
    mine = sorted((e for e in expected if e.target in ("", target)), key=lambda e: e.target)
    if mine and faces[0].kind == "student":
        raise ExpectError(f"{path}: {target} is an object with its own data, of which no counterexample can be run again")
    there = {c.id for c in manifest(faces)}
    if absent := [e.check for e in mine if e.target and e.check not in there]:
        raise ExpectError(f"{path}: {target} has no check {absent[0]}; remove the entry: {removal(target, path)}")
    return tuple(e for e in mine if e.check in there)


def removal(target: str, path: str | pathlib.Path) -> str:
    """The command that removes the entries that are no longer true."""
    return f"lstm-ref expect prune {shlex.quote(target)}" + (f" --expect {shlex.quote(str(path))}" if str(path) != FILE else "")


def held(
    v: Verdict, faces: list[Candidate], expected: Iterable[Expectation], path: str | pathlib.Path, today: datetime.date | None = None
) -> Verdict:
    """The verdict with what is expected to fail as "expected failure", what is no longer so as "unexpected pass", and what an
    expected failure kept from running as "blocked". Raises ValueError where a counterexample is of another variant."""
    known = {(e.check, e.dtype): e for e in due(expected, v.target, faces, path)}
    if not known:
        return v
    today = today or datetime.date.today()
    results = []
    for r in v.results:
        e = known.get((r.id, r.dtype))
        results.append(_held(r, e, _again(v.target, faces, e), removal(v.target, path), today) if e and r.outcome in (PASS, FAIL) else r)
    return replace(v, results=one_primary(_blocked(results, set(known))))


def _again(target: str, faces: list[Candidate], e: Expectation) -> Result:
    check, dtype, case, variant = record.read(e.counterexample)
    return replay(target, faces, check, dtype, case, variant)


def _held(r: Result, e: Expectation, again: Result, remove: str, today: datetime.date) -> Result:
    if again.outcome != FAIL:
        seen = {PASS: "passes now"}.get(again.outcome, f"is {again.outcome} now")
        if r.outcome == PASS:
            told = f"it passes, and its pinned counterexample {seen}; it was expected to fail: {e.reason}. Remove the entry: {remove}"
            return replace(r, outcome=UNEXPECTED, reason=told)
        told = f"the pinned counterexample of what was expected ({e.reason}) {seen}, so this is another failure"
        return replace(r, reason=f"{told}. Remove the entry: {remove}")
    if e.until and today > e.until:
        told = f"was expected to fail until {e.until.isoformat()}, which is past: {e.reason}"
        return replace(r if r.outcome == FAIL else _on_the_pinned(r, again), reason=told)
    outside = [s for s in r.failing if not condition(e.region)(s)] if e.region and r.outcome == FAIL else []
    if outside:
        told = f"was expected to fail only where {e.region} ({e.reason}); {len(outside)} of {len(r.failing)} failing cases lie elsewhere"
        return replace(r, reason=f"{told}, such as {_sizes(outside[0])}")
    told = e.reason + (f"; only where {e.region}" if e.region else "") + (f"; until {e.until.isoformat()}" if e.until else "")
    told += "; on the pinned counterexample, not on this run's own cases" if r.outcome == PASS else ""
    return replace(r if r.outcome == FAIL else _on_the_pinned(r, again), outcome=EXPECTED, reason=told, counterexample=None)


def _on_the_pinned(r: Result, again: Result) -> Result:
    """A check that passes on a run's own cases and fails on the pinned one: with that case among them."""
    return replace(r, outcome=FAIL, cases=r.cases + 1, failed=1, worst=again.worst, where=again.where, failing=again.failing)


def _sizes(spec: Spec) -> str:
    return ", ".join(f"{k}={n}" for k, n in zip("TBDH", spec.sizes, strict=False)) + f", {spec.regime}"


def _blocked(results: list[Result], known: set[tuple[str, str]]) -> tuple[Result, ...]:
    """What did not run because of an expected failure is not held against the run. Where a call itself fails nothing was judged,
    and that stays without a verdict."""
    awaited = [r for r in results if r.outcome == EXPECTED or (r.outcome == DESELECTED and (r.id, r.dtype) in known)]
    expected = {(r.id, r.dtype) for r in awaited if r.chapter != "contract"}

    def by(r: Result) -> str:
        return r.reason.removeprefix("blocked by ").partition(",")[0].partition(":")[0].strip()

    def blocked(r: Result) -> bool:
        return r.outcome == NOT_RUN and r.reason.startswith("blocked by ") and (by(r), r.dtype) in expected

    return tuple(replace(r, outcome=BLOCKED) if blocked(r) else r for r in results)


# --- updating and pruning --------------------------------------------------------------------------------------------


def fresh(
    v: Verdict, faces: list[Candidate], reason: str, until: datetime.date | None, folder: pathlib.Path
) -> tuple[dict[Expectation, Counterexample], list[str]]:
    """An entry and a counterexample for every check that fails in a verdict, with the files to be in `folder`; and the ids of
    those that have no counterexample that fails again on its own."""
    found, without = {}, []
    for r in v.failures():
        c = next((c for c in _candidates(v.target, faces, r) if _fails_again(v.target, faces, c)), None)
        if c is None:
            without.append(f"{r.id} [{r.dtype}]")
            continue
        file = folder / record.file_name(v.target, r.id, r.dtype)
        found[Expectation(r.id, r.dtype, reason, file, v.target, r.region, until)] = c
    return found, without


def _candidates(target: str, faces: list[Candidate], r: Result):
    """The case that was made small, if it fails this check too; else the smallest case on which it was seen to fail, as it is."""
    if r.counterexample is not None:
        yield r.counterexample
    for face in faces if r.where is not None else ():
        bench = Bench(face, tol.PRECISIONS[r.dtype], face.make())
        case = bench.case(r.where)
        if (e := evidence_on(bench, case, r.id).get(r.id)) is not None:
            what = (r.id, target, r.dtype, case.spec, case.inputs, case.cotangents, e, bench.output_names)
            yield Counterexample(*what, way=face.kind, variant=face.variant)


def _fails_again(target: str, faces: list[Candidate], c: Counterexample) -> bool:
    """Whether a counterexample fails as it will be read back."""
    try:
        check, dtype, case, variant = record.parse(json.loads(record.dump(c)), "the counterexample")
        return replay(target, faces, check, dtype, case, variant).outcome == FAIL
    except ValueError:
        return False


def stale(expected: Iterable[Expectation], target: str, faces: list[Candidate]) -> list[Expectation]:
    """The entries that name a target and are no longer true: their counterexample does not fail, or there is no such check."""
    there = {c.id for c in manifest(faces)}
    mine = [e for e in expected if e.target in ("", target)]
    return [e for e in mine if (e.check in there and _again(target, faces, e).outcome != FAIL) or (e.target and e.check not in there)]


def keep(path: pathlib.Path, known: Iterable[Expectation], made: dict[Expectation, Counterexample]) -> None:
    """Write new entries and their counterexamples; a new entry takes the place of one for the same check."""
    if not made:
        return
    try:
        for e, c in made.items():
            e.counterexample.parent.mkdir(parents=True, exist_ok=True)
            e.counterexample.write_text(record.dump(c), encoding="utf-8")
    except OSError as error:
        raise ExpectError(f"{e.counterexample} cannot be written: {error}") from None
    replaced = {e.key for e in made}
    write(path, [*(e for e in known if e.key not in replaced), *made])


def remove(path: pathlib.Path, known: Iterable[Expectation], gone: Iterable[Expectation]) -> None:
    """Take entries out of the file, and their counterexamples away where they lie in its own folder and nothing else names them."""
    gone = list(gone)
    left = [e for e in known if e not in gone]
    if not gone:
        return
    write(path, left)
    named = {e.counterexample.resolve() for e in left}
    for e in gone:
        if e.counterexample.parent == path.parent / f"{path.stem}.expected" and e.counterexample.resolve() not in named:
            e.counterexample.unlink(missing_ok=True)
