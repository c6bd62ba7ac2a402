"""Hunt: drive error ÷ tolerance upwards over the knobs of a case, by a small evolution, and report the worst point found.

Parents are the points with the largest ratios so far; a child changes one or two knobs of a parent (sizes, regime, what flows
in, the seed), or takes them from two. A generation is a batch for every worker, so that it runs on any executor. For a right LSTM the
ratio stays under 1: tolerances were derived so.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, fields, replace

import numpy as np

from ..cases import COTANGENTS, MEMORY, REGIMES, Spec
from ..judgement.judge import fitted
from ..judgement.run import evidence_of
from ..judgement.verdict import FAIL, PASS, Evidence
from .drive import SEED, crew, met
from .stream import (
    SIZES,
    STRATA,
    CampaignError,
    Plan,
    drawn,
    evidence_as_list,
    evidence_from,
    parse_dtypes,
    parse_regimes,
    parse_sizes,
    plan_as_text,
)
from .work import INDEX, bench_of, fresh, one_thread, plan_of

PARENTS = 8  # points of each subject that have children
CHILDREN = 8  # in one batch
JUMPS = 0.25  # of the children change their seed alone: rounding is drawn anew
FRESH = 0.15  # of them are new points of the stream


@dataclass(frozen=True)
class Worst:
    """The worst point of one subject: the case, which check came nearest to its tolerance, by how much, and after how many cases."""

    subject: str
    spec: Spec
    check: str
    evidence: Evidence
    cases: int

    @property
    def ratio(self) -> float:
        return self.evidence.ratio


def hunt(
    targets: tuple[str, ...] | list[str],
    cases: int,
    *,
    sizes: str = SIZES,
    dtypes: str | None = None,
    regimes: str | None = None,
    seed: int | None = None,
    executor: futures.Executor | None = None,
    workers: int | None = None,
    isolate: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Worst]:
    """Search `cases` cases for the largest error ÷ tolerance of each candidate of the targets at each dtype, autodiff alone; arguments
    and errors as those of `run`. The same seed and number of workers find the same."""
    if not targets or cases < 1:
        raise CampaignError("a hunt needs a target and at least one case")
    seed = SEED if seed is None else seed
    with crew(executor, workers) as hands:
        subjects = tuple(s for t in targets for s in met(hands, t, parse_dtypes(dtypes), isolate))
        plan = Plan(subjects, parse_regimes(regimes), *parse_sizes(sizes), seed)
        text, rng = plan_as_text(plan), np.random.Generator(np.random.Philox(key=[seed, 2]))
        found: list[list[tuple[float, Spec, str, list]]] = [[] for _ in subjects]
        done = k = 0
        while done < cases:
            asked: list[tuple[int, futures.Future]] = []
            for _ in range(min(hands.workers * len(subjects), -(-(cases - done) // CHILDREN))):
                n = len(asked) % len(subjects)
                specs = []
                for _ in range(CHILDREN):
                    k += 1
                    specs.append(_child(plan, n, found[n], rng, k))
                asked.append((n, hands.pool.submit(ratios, text, n, specs, isolate)))
            for n, future in asked:
                try:
                    found[n] = sorted([*found[n], *future.result()], key=lambda p: -p[0])[:PARENTS]
                except futures.BrokenExecutor:
                    raise CampaignError(f"{subjects[n].target} has taken its worker down; hunt it with --isolate") from None
                done += CHILDREN
            progress(min(done, cases), cases, "hunt")
    return [
        Worst(s.name, p[0][1], p[0][2], evidence_from(p[0][3]), done // len(subjects)) for s, p in zip(subjects, found, strict=True) if p
    ]


def ratios(plan: str, n: int, specs: list[Spec], isolate: bool) -> list[tuple[float, Spec, str, list]]:
    """Judge cases of one subject: for each its largest ratio, itself, the check and its evidence. Runs on a worker."""
    subject, found = plan_of(plan).subjects[n], []
    with one_thread():
        for spec in specs:
            evidence = evidence_of(fresh(bench_of(plan, n, isolate), subject), spec, _by_autodiff, False, False, False)
            told = {c: e for c, e in evidence.items() if e.outcome in (PASS, FAIL)}
            if told:
                check = max(told, key=lambda c: told[c].ratio)
                found.append((float(told[check].ratio), spec, check, evidence_as_list(told[check])))
    return found


def _by_autodiff(check: str) -> bool:
    return check in INDEX and not check.endswith(".differences")


def _child(plan: Plan, n: int, parents: list, rng: np.random.Generator, k: int) -> Spec:
    """A new point for subject n, within what it supports."""
    chance = rng.random()
    if not parents or chance < FRESH:
        spec = drawn(replace(plan, subjects=(plan.subjects[n],)), k).spec
    else:
        one, other = (parents[int(rng.integers(len(parents)))][1] for _ in range(2))
        spec = replace(one, seed=int(rng.integers(2**32)))
        if chance > FRESH + JUMPS:
            for knob in rng.choice([f.name for f in fields(Spec) if f.name != "seed"], 1 + int(rng.integers(2)), replace=False):
                spec = replace(spec, **{str(knob): _turned(plan, str(knob), one, other, rng)})
    return fitted(replace(spec, sizes=spec.sizes._replace(**dict(plan.held))), plan.subjects[n].candidate)


def _turned(plan: Plan, knob: str, one: Spec, other: Spec, rng: np.random.Generator):
    """Another value of a knob: that of the other parent, a near one, or any."""
    if rng.random() < 1 / 4:
        return getattr(other, knob)
    if knob == "sizes":
        axis = ("T", "B", "D", "H", "K")[int(rng.integers(5))]
        strata = [STRATA[name] for name, _ in plan.sizes]
        of = sorted({size for stratum in strata for size in stratum["TBDHK".index(axis)]})
        return one.sizes._replace(**{axis: of[int(rng.integers(len(of)))]})
    values = {
        "regime": plan.regimes or tuple(REGIMES),
        "cotangents": COTANGENTS,
        "cotangent_scale": (1.0, 1e3, 1e-3),  # input values
        "initial_state": ("random", "zero"),
        "memory": MEMORY,
        "logits": (1.0, 1e-3, 30.0, 3.0),  # input values
    }[knob]
    return values[int(rng.integers(len(values)))]
