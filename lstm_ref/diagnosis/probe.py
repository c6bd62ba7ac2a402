"""Probe: a candidate's answers on a few small cases with telling sizes, and how near an explanation comes to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..judgement import tolerances as tol
from ..judgement.judge import Bench, Point, fitted
from ..reference import forward, objectives
from ..reference.symbols import Sizes

# no two sizes of one case are equal, and T, B differ from case to case, so that 1/B, 1/T and ½ can be told apart
SIZES = (Sizes(3, 5, 2, 4, 3), Sizes(4, 3, 5, 2, 6), Sizes(5, 2, 3, 7, 4))
SMALL = Sizes(2, 3, 1, 2, 3)  # for the search over pairs
LARGEST = 2500  # T·H·(H+D): a candidate that takes only larger sizes is not diagnosed, since hundreds of lanes would be slow


@dataclass(frozen=True)
class Probe:
    """One case with what flowed in and what the candidate answered, a plain forward trace, and the scale and tolerance of
    each gradient. Where h_T is no output of the candidate's, its cotangent flowed in on the last h_t. Of two biases, `answers` holds
    the gradient of the first and `second` that of the other."""

    case: cases.Case
    cotangents: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]
    trace: object
    head: tuple | None
    truth: dict[str, np.ndarray]
    limits: dict[str, float]
    second: dict[str, np.ndarray]

    def distance(self, gradients: dict[str, np.ndarray]) -> np.ndarray:
        """The largest error of lanes of gradients against the answers, in tolerances: one number per lane."""
        worst: np.ndarray | float = 0.0
        for k in self.answers:
            worst = np.maximum(worst, self.off(k, gradients[k]))
        return np.asarray(worst)

    def off(self, k: str, lanes: np.ndarray) -> np.ndarray:
        """The same of one gradient."""
        seen, axes = self.answers[k], tuple(range(1, lanes.ndim))
        size = np.maximum(np.abs(lanes).max(axis=axes), np.abs(seen).max(initial=0.0))
        grown = np.maximum(1.0, size / max(float(np.abs(self.truth[k]).max(initial=0.0)), np.finfo(float).tiny))
        worst = np.abs(lanes - seen).max(axis=axes) / (self.limits[k] * grown)
        return np.where(np.isnan(worst), np.inf, worst)

    @property
    def failing(self) -> list[str]:
        """The gradients whose answers are further from the truth than any tolerance explains."""
        return [k for k, seen in self.answers.items() if not np.abs(seen - self.truth[k]).max() <= self.limits[k]]


def probes(candidate: Candidate, precision: tol.Precision, sizes=SIZES, change: Callable = lambda case: case) -> list[Probe]:
    """Ask the candidate, with `change` made to every case; cases in which it misbehaves are left out."""
    return probes_at(candidate, precision, specs(candidate, sizes), change)


def specs(candidate: Candidate, sizes=SIZES) -> list[cases.Spec]:
    """One ordinary case of each of the sizes, as far as the candidate supports them."""
    return [fitted(cases.Spec(size, seed=100 + n), candidate) for n, size in enumerate(sizes)]


def probes_at(candidate: Candidate, precision: tol.Precision, specs, change: Callable = lambda case: case) -> list[Probe]:
    """Ask the candidate at the cases of these specs; what is too large to be diagnosed is left out."""
    bench, out = Bench(candidate, precision, candidate.make()), []
    for spec in specs:
        if spec.sizes.H * (spec.sizes.H + spec.sizes.D) * spec.sizes.T > LARGEST:
            continue
        case = change(cases.build(spec, precision.dtype, candidate.model, candidate.variant))
        try:
            outputs, found = contract.run(contract.prepare(candidate, case.inputs, precision.dtype), bench.instance, case.cotangents)
        except Finding:
            continue
        answers = {k: found.arrays[k] for k in candidate.gradient_names if k in found.arrays}
        point = Point(bench, case.inputs, case.cotangents)
        second = {k: found.arrays[f"{k}.second"] for k in answers if f"{k}.second" in found.arrays}
        limits = {k: tol.EXPLANATION_NEAR * float(point.tolerance(k).max()) for k in answers}
        trace, head = forward.forward(point.seen), None
        if candidate.model:
            head = (objectives.softmax_forward(trace.h, *(point.seen[k] for k in ("W_v", "b_v", "y", "w"))), point.seen)
        out.append(Probe(case, _merged(point.cotangents, outputs.arrays), answers, trace, head, point.truth.gradients, limits, second))
    return out


def _merged(s: dict, outputs: dict) -> dict:
    if "h_T" in outputs:
        return s
    last = (np.arange(len(s["h"])) == len(s["h"]) - 1)[:, None, None]
    return {**s, "h": s["h"] + last * s["h_T"], "h_T": np.zeros_like(s["h_T"])}
