"""Stream: case k of a campaign, the same whoever runs it.

A `Plan` is plain data, and what is judged in case k follows from it and from k alone: a counter-based generator (Philox) is
started at k. Strata take turns: every block of consecutive cases meets each subject (a candidate at a dtype) in each regime once
for every turn that a stratum of sizes has. Each such cell is judged by differences in every third block and by the laws in every
twentieth.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..candidates.contract import Candidate, Supports
from ..candidates.layout import Layout
from ..cases import COTANGENTS, MEMORY, REGIMES, Spec
from ..judgement.judge import fitted
from ..judgement.tolerances import PRECISIONS
from ..judgement.verdict import Evidence
from ..reference.symbols import Sizes
from ..reference.variant import parse as parse_variant

_TILES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)
# stratum -> the sizes T, B, D, H, K that are drawn from; "small" and "tiles" are those of `check`
STRATA: dict[str, tuple[tuple[int, ...], ...]] = {
    "small": (tuple(range(1, 9)), (1, 2, 3, 4), tuple(range(1, 9)), tuple(range(1, 9)), tuple(range(2, 9))),
    "tiles": (tuple(range(1, 31)), tuple(range(1, 9)), _TILES, _TILES, tuple(range(2, 9))),
    "medium": ((16, 24, 32, 48, 64), (4, 8, 16, 32), (32, 48, 64, 65, 96, 128), (32, 48, 64, 65, 96, 128), (10, 17, 64, 100)),
    "real": ((64, 100, 128, 256, 512), (16, 32, 64, 128, 256), (128, 200, 256, 512, 1000), (128, 200, 256, 512, 1024), (100, 1000)),
}
SIZES = "small:9,tiles:1"  # turns of each stratum
DIFFERENCES_EVERY, LAWS_EVERY = 3, 20  # turns after which a cell is also judged by differences, and by the laws and the state checks
WITHOUT_LAWS = ("real",)  # strata in which a case by the laws, a dozen runs, would take too long


class CampaignError(ValueError):
    """A campaign that cannot be run or read; the text says what was seen and what to do."""


@dataclass(frozen=True)
class Subject:
    """One candidate of a target at one dtype, with what was learnt of it before the first case: plain data, no code.

    `face` is which of the target's candidates it is; `told` describes it under the reading that it is judged by. `lower` (blocks
    computed in a lower precision), `complex_safe`, `textbook` and `reading` are those of a Bench and a Sheet, `first` the evidence
    that the first impressions gave, `misjudged` what the self-test could not tell.
    """

    target: str
    face: int
    dtype: str
    told: dict
    lower: dict[str, str] = field(default_factory=dict)
    complex_safe: tuple[tuple[str, str, bool], ...] = ()
    textbook: bool = True
    reading: str = ""
    first: dict[str, list] = field(default_factory=dict)
    misjudged: tuple[str, ...] = ()

    @functools.cached_property
    def candidate(self) -> Candidate:
        """The candidate as it is described, without a way to call it."""
        return candidate_of(self.told, _nothing)

    @property
    def name(self) -> str:
        """As it is told apart in reports: target, layer or model, dtype."""
        return f"{self.target} ({'model' if self.candidate.model else 'layer'}, {self.dtype})"


@dataclass(frozen=True)
class Plan:
    """What a campaign judges. `sizes` are strata with their turns, `held` sizes that are fixed in every case."""

    subjects: tuple[Subject, ...]
    regimes: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...]
    held: tuple[tuple[str, int], ...]
    seed: int

    @functools.cached_property
    def cells(self) -> tuple[tuple[int, str, str], ...]:
        """(subject, regime, stratum of sizes): what one block of cases consists of."""
        strata = [name for name, turns in self.sizes for _ in range(turns)]
        return tuple((n, regime, s) for n in range(len(self.subjects)) for regime in self.regimes for s in strata)


@dataclass(frozen=True)
class Drawn:
    """Case k: whom it is for, what it is, and by what it is judged beside autodiff."""

    k: int
    subject: int
    stratum: str
    spec: Spec
    with_differences: bool
    with_laws: bool


def drawn(plan: Plan, k: int) -> Drawn:
    """Case k of a plan: a pure function of the two."""
    block, place = divmod(k, len(plan.cells))
    cell = _order(plan.seed, block, len(plan.cells))[place]
    n, regime, stratum = plan.cells[cell]
    rng = _generator(plan.seed, 1, k)
    u = rng.random(12)
    T, B, D, H, K = (of[int(share * len(of))] for of, share in zip(STRATA[stratum], u, strict=False))
    if u[5] < 1 / 4:  # D = H, as in stacked layers
        D = H
    sizes = Sizes(T, B, D, H, K)._replace(**dict(plan.held))
    spec = Spec(
        sizes,
        regime,
        COTANGENTS[int(u[6] * len(COTANGENTS))],
        (1.0, 1.0, 1e3, 1e-3)[int(u[7] * 4)],  # input values
        "zero" if u[8] < 1 / 4 else "random",
        MEMORY[int(u[9] * len(MEMORY))],
        (1.0, 1.0, 1e-3, 30.0)[int(u[10] * 4)],  # input values
        int(rng.integers(2**32)),
    )
    spec = fitted(spec, plan.subjects[n].candidate)
    turn = block + _first_turns(plan.seed, len(plan.cells))[cell]
    return Drawn(k, n, stratum, spec, turn % DIFFERENCES_EVERY == 0, turn % LAWS_EVERY == 0 and stratum not in WITHOUT_LAWS)


@functools.lru_cache(maxsize=64)
def _first_turns(seed: int, size: int) -> tuple[int, ...]:
    """Of every cell, the turn in which block 0 finds it, so that what is due every few turns is due in every block for some."""
    return tuple(_generator(seed, 2, 0).permutation(size).tolist())


@functools.lru_cache(maxsize=64)
def _order(seed: int, block: int, size: int) -> tuple[int, ...]:
    """The cells of a block, shuffled."""
    return tuple(_generator(seed, 0, block).permutation(size).tolist())


def _generator(seed: int, purpose: int, n: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, n, 0]))


def parse_sizes(text: str) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """`small:9,tiles,H=64` as strata with their turns, and sizes held fixed. Raises CampaignError."""
    strata, held = [], []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, colon, turns = part.partition(":")
        axis, equals, size = part.partition("=")
        if equals and axis in Sizes._fields and size.isdigit() and int(size) > 0:
            held.append((axis, int(size)))
        elif name in STRATA and (not colon or (turns.isdigit() and int(turns) > 0)):
            strata.append((name, int(turns) if colon else 1))
        else:
            known = ", ".join(STRATA)
            raise CampaignError(f"--sizes has {part!r}; it may hold {known}, each with its turns as in small:9, and sizes held as in H=64")
    return tuple(strata) or parse_sizes(SIZES)[0], tuple(held)


def parse_regimes(text: str | None) -> tuple[str, ...]:
    """Names of regimes with commas; all of them where nothing is given. Raises CampaignError."""
    names = tuple(filter(None, (p.strip() for p in (text or "").split(",")))) or tuple(REGIMES)
    if unknown := [n for n in names if n not in REGIMES]:
        raise CampaignError(f"--regimes has {unknown[0]!r}; it may hold {', '.join(REGIMES)}")
    return names


def parse_dtypes(text: str | None) -> tuple[str, ...] | None:
    """Names of dtypes with commas; None where nothing is given. Raises CampaignError."""
    names = tuple(filter(None, (p.strip() for p in (text or "").split(","))))
    if unknown := [n for n in names if n not in PRECISIONS]:
        raise CampaignError(f"--dtypes has {unknown[0]!r}; it may hold {', '.join(PRECISIONS)}")
    return names or None


# --- there and back as JSON -----------------------------------------------------------------------------------------------


def described(face: Candidate) -> dict:
    """A candidate as plain data."""
    return {
        "name": face.name,
        "kind": face.kind,
        "factory": face.factory,
        "layout": asdict(face.layout),
        "supports": asdict(face.supports),
        "reduction": face.reduction,
        "taps": face.taps,
        "variant": face.variant.declared,
    }


def candidate_of(told: dict, make) -> Candidate:
    """The candidate that was described; `make` gives its instances."""
    supports: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told["supports"].items()}
    known = (Layout(**told["layout"]), Supports(**supports), told["reduction"], told["taps"], parse_variant(told["variant"]))
    return Candidate(told["name"], told["kind"], make, told["factory"], *known)


def _nothing():
    raise CampaignError("a candidate that is only described cannot be called")


def evidence_as_list(e: Evidence) -> list:
    """Evidence as plain data: its fields in order, numbers as Python's own."""
    plain = [None if q is None else float(q) if isinstance(q, (float, np.floating, int)) else q for q in e]
    return [*plain[:3], [int(n) for n in e.index], *plain[4:]]


def evidence_from(told: list) -> Evidence:
    outcome, ratio, quantity, index, *rest = told
    return Evidence(outcome, ratio, quantity, tuple(index), *rest)


def plan_as_text(plan: Plan) -> str:
    return json.dumps(asdict(plan))


def plan_from(text: str) -> Plan:
    """The plan that a database holds."""
    told = json.loads(text)
    subjects = tuple(
        Subject(**{**s, "complex_safe": tuple(map(tuple, s["complex_safe"])), "misjudged": tuple(s["misjudged"])}) for s in told["subjects"]
    )
    pairs = {k: tuple(map(tuple, told[k])) for k in ("sizes", "held")}
    return Plan(subjects, tuple(told["regimes"]), pairs["sizes"], pairs["held"], told["seed"])
