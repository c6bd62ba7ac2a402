"""Judge: a printed formula in, its verdict out, under both readings of what flows in.

    alone   what flows into step t is the output layer's gradient of that step alone (P4, whose recursion carries the
            cell's gradient, then computes the truncated one; for a plain RNN: E is the error of the last step alone)
    total   what flows in is the total derivative

Each formula is computed at every step of every drawn sequence and compared with the truth within that sequence's own
tolerance. Where it fits and where not, by place (T = 1, t = 1 < T, 1 < t < T, t = T > 1) and width (H = 1, H > 1), is its verdict.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..judgement import tolerances as tol
from ..judgement.comparison import Block, compare_all
from ..judgement.verdict import FAIL, PASS, ZERO, Evidence
from ..truth.differences import COMPLEX_STEP
from . import drawn
from .printed import CLAIMS, Claim

READINGS = ("alone", "total")
EXACT, LAST, WRONG, UNTOLD = "exact", "last step only", "wrong", "cannot tell"
LOCAL, RULE, HOLDS, FAILS = "exact as a local partial", "not a gradient claim", "holds", "fails"
TRUNCATED = "exact if truncated"
RIGHT = (EXACT, RULE, HOLDS)
CONDITIONS: tuple[tuple[str, str, Callable[[str, str], bool]], ...] = (  # verdict, a place that must be among those that fit, where it fits
    (EXACT, "", lambda place, width: True),
    (LAST, "t = T > 1", lambda place, width: place in ("T = 1", "t = T > 1")),
    ("exact if t = 1", "t = 1 < T", lambda place, width: place in ("T = 1", "t = 1 < T")),
    ("exact if T = 1", "T = 1", lambda place, width: place == "T = 1"),
    ("exact if H = 1", "", lambda place, width: width == "H = 1"),
)
P = tol.PRECISIONS["float64"]


class Look(NamedTuple):
    """One claimed block of one step (from 0; None for the whole), held against the truth."""

    key: str
    t: int | None
    place: str
    width: str
    evidence: Evidence


@dataclass(frozen=True)
class Counterexample:
    """The smallest sequence found on which a claim fails: its arrays, the step, the entry, what is claimed and what is true.

    For a bound, `claimed` is the side that must be the smaller one and `true` the side that must not be exceeded.
    """

    arrays: dict[str, np.ndarray]
    key: str
    t: int | None
    index: tuple[int, ...]
    claimed: float
    true: float


@dataclass(frozen=True)
class Ruling:
    """One claim judged: its verdict by reading, notes, the verdict of its correction, and a counterexample by reading that fails."""

    claim: Claim
    verdicts: dict[str, str]
    notes: tuple[str, ...] = ()
    corrected: str | None = None
    counterexamples: dict[str, Counterexample] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the claim is right however it is read."""
        return all(v in RIGHT for v in self.verdicts.values())


class Bench:
    """The sequences that claims are judged on, built once for each network."""

    def __init__(self, specs: Iterable):
        self.specs = list(specs)
        self._sequences: dict[str, list] = {}
        self._known: dict[tuple, object] = {}

    def sequences(self, network: str) -> list:
        if network not in self._sequences:
            self._sequences[network] = [drawn.NETWORKS[network](drawn.arrays(network, s)) for s in self.specs]
        return self._sequences[network]

    def sequence(self, network: str, arrays: dict):
        """The sequence of these arrays, kept: searches for counterexamples come by the same ones."""
        key = (network, *((k, v.shape, v.tobytes()) for k, v in arrays.items()))
        if key not in self._known:
            self._known[key] = drawn.NETWORKS[network](arrays)
        return self._known[key]


def matching(pattern: str) -> list[Claim]:
    """The claims whose id one of the patterns matches, given with commas. Raises ValueError where none does."""
    patterns = [p.strip() for p in pattern.split(",")]
    found = [claim for claim in CLAIMS if any(fnmatch.fnmatchcase(claim.id, p) for p in patterns)]
    if not found:
        raise ValueError(f"no claim has an id like {pattern!r}; the ids begin with P1., P2., P3. or P4., and `lstm-ref claims` lists them")
    return found


def rulings(claims: Iterable[Claim] = CLAIMS, bench: Bench | None = None) -> list[Ruling]:
    """Judge claims on the sequences of a bench; by default on the fixed stream."""
    bench = bench or Bench(drawn.stream())
    return [ruling(claim, bench) for claim in claims]


def ruling(claim: Claim, bench: Bench, search: bool = True) -> Ruling:
    """Judge one claim; with `search`, look for the smallest counterexample of every reading that fails."""
    verdicts = {reading: verdict(claim, bench, reading) for reading in READINGS}
    corrected = None
    if claim.corrected is not None:
        corrected = _word(claim, _looks(claim._replace(formula=claim.corrected), bench, "total", "total"))
    failing = [reading for reading, word in verdicts.items() if search and word not in RIGHT]
    found = {reading: counterexample(claim, bench, reading) for reading in failing}
    return Ruling(claim, verdicts, tuple(_notes(claim, bench, verdicts)), corrected, {k: v for k, v in found.items() if v is not None})


def verdict(claim: Claim, bench: Bench, reading: str) -> str:
    """The verdict of a claim under one reading."""
    word = _word(claim, _looks(claim, bench, reading, "total"))
    if _is_partial(claim):
        local = _word(claim, _looks(claim, bench, reading, "local"))
        return word if word == local or local != EXACT else LOCAL
    if word == WRONG and _gradient(claim) and reading == "alone":
        truncated = _word(claim, _looks(claim, bench, reading, "truncated"))
        return TRUNCATED if truncated == EXACT else word
    return word


def _is_partial(claim: Claim) -> bool:
    return claim.due[0].startswith("∂")


def _gradient(claim: Claim) -> bool:
    """Whether the claim is about gradients of an LSTM, which can be truncated."""
    if claim.network == "rnn" or claim.kind != "equation":
        return False
    return all(k[0] == "d" or k[:6] == "step d" for k in claim.due)


def _notes(claim: Claim, bench: Bench, verdicts: dict[str, str]) -> Iterator[str]:
    """What else is to be said, computed as the verdict is: another sign, truncation, other names, the whole and its share."""
    if WRONG in verdicts.values() and claim.kind == "equation":
        turned = claim._replace(formula=lambda s: tuple(-q for q in claim.formula(s)))
        if (word := verdict(turned, bench, "total")) != WRONG:
            yield f"sign: with the other sign, {word}"
    if _gradient(claim) and verdicts["alone"] not in (EXACT, TRUNCATED) and _fits(claim, bench, "alone", "truncated"):
        yield "read with the output layer alone, exact as the truncated gradient"
    if claim.due[0].startswith("step d"):
        whole = claim._replace(due=tuple(k.removeprefix("step ") for k in claim.due))
        yield f"one step's share; taken for the whole gradient: {_word(whole, _looks(whole, bench, 'total', 'total'))}"
    if _is_partial(claim) and LOCAL in verdicts.values():
        yield f"as a total derivative: {_word(claim, _looks(claim, bench, 'total', 'total'))}"
    if claim.network == "squared" and "E_delta" in claim.printed and claim.id != "P2.delta":
        as_it_is, turned_round = (_word(claim, _looks(claim, bench, "printed", "total", sign)) for sign in (1, -1))
        yield f"sign: with the printed E_delta = y − h_t, {as_it_is}" + (f"; turned round, {turned_round}" if as_it_is == WRONG else "")
    if claim.kind == "bound" and verdicts["alone"] == HOLDS:
        ratios: dict[str, float] = {}
        for look in _looks(claim, bench, "alone", "total"):
            ratios[look.place] = max(ratios.get(look.place, 0.0), look.evidence.ratio)
        yield "the left side comes up to " + ", ".join(f"{r:.3g} of the right one where {place}" for place, r in sorted(ratios.items()))
    for aside in claim.asides:
        other = claim._replace(due=aside.due, formula=aside.formula)
        words = {reading: verdict(other, bench, reading) for reading in READINGS}
        yield f"{aside.label}: " + (words["total"] if len(set(words.values())) == 1 else f"{words['alone']} / {words['total']}")


def _fits(claim: Claim, bench: Bench, reading: str, truth: str) -> bool:
    return _word(claim, _looks(claim, bench, reading, truth)) == EXACT


def _looks(claim: Claim, bench: Bench, reading: str, truth: str, sign: int = 1) -> list[Look]:
    found: list[Look] = []
    for sequence in bench.sequences(claim.network):
        found += looks(claim, sequence, reading, truth, sign)
    return found


def looks(claim: Claim, sequence, reading: str, truth: str = "total", sign: int = 1) -> list[Look]:
    """Hold a claim against the truth ("total", "truncated" or "local") on one sequence, step by step and key by key."""
    width = "H = 1" if sequence.H == 1 else "H > 1"
    flow = "truncated" if claim.id[:2] == "P4" and reading == "alone" else reading
    places = sequence.places(claim.at)
    if claim.kind == "bound":
        return [Look("bound", t, place, width, _bound(claim, sequence, flow, t)) for place, t in places]
    where, blocks = [], []
    for place, t in places:
        for key, claimed in zip(claim.due, claim.formula(sequence.step(flow, t)), strict=True):
            if claim.kind == "rule":  # the direction in which it goes as α grows
                claimed = -np.imag(claimed) / COMPLEX_STEP
            where.append((key, t, place, width))
            due, condition = sequence.due(key, t, truth, reading)
            blocks.append(Block(key, sign * np.asarray(claimed), due, condition, P.u))
    return [Look(*at, evidence) for at, evidence in zip(where, compare_all(blocks, P), strict=True)]


def _bound(claim: Claim, sequence, reading: str, t: int) -> Evidence:
    """Whether left ≤ right, entry by entry, within what noise does to both sides; `ratio` is the largest left ÷ right."""
    left, right = (np.atleast_1d(q).astype(float) for q in claim.formula(sequence.step(reading, t)))
    spoken = (left != 0) & (right != np.inf)  # where the claim is silent it says 0 ≤ or ≤ ∞
    if not spoken.any():
        return Evidence(ZERO)
    over, limit = left - right, np.zeros(left.shape)
    if not (over[spoken] <= 0).all():
        lanes = [claim.formula(s) for s in sequence.noisy_steps(reading, t)]
        sides = {n: np.array([np.atleast_1d(sides[n])[spoken] for sides in lanes]) for n in (0, 1)}
        conditions = tol.conditions(tol.Lanes({str(n): v for n, v in sides.items()}, 0.0, 0.0), P, frozenset())
        limit[spoken] = sum(tol.tolerance(c, P.u) for c in conditions.values())
    at = int(np.argmax(np.where(spoken, over - limit, -np.inf)))
    outcome = PASS if (over <= limit)[spoken].all() else FAIL  # NaN fails
    values = (float(left[at]), float(right[at]), None, float(over[at]), float(limit[at]), "left ≤ right + κ·u·C")
    with np.errstate(divide="ignore"):
        reached = float(np.max(left[spoken] / right[spoken]))
    return Evidence(outcome, reached, "bound", (at,) if left.size > 1 else (), *values)


def _word(claim: Claim, found: list[Look]) -> str:
    """The verdict that looks add up to; where keys differ, each word with its keys."""
    if claim.kind == "bound":
        outcomes = {look.evidence.outcome for look in found}
        return FAILS if FAIL in outcomes else HOLDS if PASS in outcomes else UNTOLD
    words: dict[str, list[str]] = {}
    for key in dict.fromkeys(claim.due):
        words.setdefault(_fit([look for look in found if look.key == key]), []).append(key.removeprefix("step "))
    if claim.kind == "rule":
        return RULE if set(words) == {EXACT} else WRONG
    return next(iter(words)) if len(words) == 1 else "; ".join(f"{word} ({', '.join(keys)})" for word, keys in words.items())


def _fit(found: list[Look]) -> str:
    cells: dict[tuple[str, str], set[str]] = {}
    for look in found:
        cells.setdefault((look.place, look.width), set()).add(look.evidence.outcome)
    if any(not outcomes & {PASS, FAIL} for outcomes in cells.values()):
        return UNTOLD
    fits = {cell for cell, outcomes in cells.items() if FAIL not in outcomes}
    for word, place, where in CONDITIONS:
        if fits and fits == {cell for cell in cells if where(*cell)} and (not place or place in {p for p, _ in fits}):
            return word
    return "exact if " + " or ".join(sorted(f"{place} and {width}" for place, width in fits)) if fits else WRONG


def fits_at(word: str, place: str, width: str) -> bool | None:
    """Whether a verdict says that the claim fits at a place and width; None where it says nothing of it."""
    return next((where(place, width) for name, _, where in CONDITIONS if name == word), False if word == WRONG else None)


def counterexample(claim: Claim, bench: Bench, reading: str) -> Counterexample | None:
    """The smallest sequence of short numbers on which a claim fails under a reading; None if none was found."""
    for arrays in drawn.plain(claim.network):
        found = failure(claim, bench, reading, arrays)
        if found is not None:
            break
    else:
        return None
    for name, index, value in drawn.simpler(arrays):
        if np.all(arrays[name][index] == value) or (value and arrays[name][index] == 0):
            continue
        changed = arrays[name].copy()
        changed[index] = value
        if (smaller := failure(claim, bench, reading, {**arrays, name: changed})) is not None:
            arrays, found = {**arrays, name: changed}, smaller
    return found


def failure(claim: Claim, bench: Bench, reading: str, arrays: dict) -> Counterexample | None:
    """Where a claim fails on one sequence, at its largest error; None where it does not."""
    sequence = bench.sequence(claim.network, arrays)
    failing = [look for look in looks(claim, sequence, reading) if look.evidence.outcome == FAIL]
    if not failing:
        return None
    worst = max(failing, key=lambda look: abs(look.evidence.candidate - look.evidence.autodiff))
    e = worst.evidence
    return Counterexample(arrays, worst.key, worst.t, e.index, e.candidate, e.autodiff)
