"""Gains: fit an unknown gain on every edge of the backward graph to a candidate's gradients.

One edge at a time by Gauss–Newton, differentiating the gained backward pass by complex step over the gain; then pairs of
edges over the gains that people get by mistake. What fits to rounding in every case, with a gain that means the same in
each, is an explanation; what does not is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..judgement import tolerances as tol
from ..truth.differences import COMPLEX_STEP
from .edges import EDGES, GROUPS, HEAD_EDGES, HEAD_GROUPS, INDEX, Edge, gained
from .probe import Probe

STARTS = (1.0, 0.0, -1.0)
ITERATIONS = 10
USUAL = {
    "missing": lambda n: 0.0,
    "with the wrong sign": lambda n: -1.0,
    "counted twice": lambda n: 2.0,
    "halved": lambda n: 0.5,
    "averaged over the batch": lambda n: 1 / n.B,
    "averaged over time": lambda n: 1 / n.T,
    "averaged over batch and time": lambda n: 1 / (n.T * n.B),
    "summed once per row of the batch": lambda n: float(n.B),
    "summed once per time step": lambda n: float(n.T),
    "summed over batch and time where a mean is due": lambda n: float(n.T * n.B),
}
PAIR_GAINS = ("missing", "with the wrong sign", "counted twice", "halved", "averaged over the batch", "averaged over time")


@dataclass(frozen=True)
class Fit:
    """Edges with what is wrong with each, and the largest distance to the answers in tolerances."""

    edges: tuple[Edge, ...]
    wrong: tuple[str, ...]
    gains: tuple[float, ...]
    distance: float


def edges_of(probe: Probe) -> tuple[Edge, ...]:
    """The edges that exist at the probe's level: what flows in comes from the softmax head at model level."""
    if probe.head is None:
        separate = probe.cotangents["h_T"].any()  # else it flows in with what flows in on the last h_t
        return tuple(e for e in EDGES if separate or e.id != "dh<-s_h")
    flowing_in = ("dh<-s", "dh<-s_h", "dc<-s_c")
    return (*(e for e in EDGES if e.id not in flowing_in), *HEAD_EDGES)


def groups_of(probe: Probe) -> tuple[Edge, ...]:
    if probe.head is None:
        separate = probe.cotangents["h_T"].any()
        return tuple(g for g in GROUPS if separate or "dh<-s_h" not in g.members or g.id == "every gradient")
    everything = Edge("every gradient", "F:loss", "every gradient", ("dv",))
    return (*(g for g in GROUPS if not {"dh<-s", "dh<-s_h"} & set(g.members)), *HEAD_GROUPS, everything)


def run(probe: Probe, edges: Sequence[tuple[Edge, ...]], gains: Sequence[tuple[complex, ...]]) -> dict[str, np.ndarray]:
    """The gained gradients of a probe, one lane for each set of edges with its gains."""
    table = np.ones((len(edges), len(INDEX)), complex)
    for row, (chosen, values) in enumerate(zip(edges, gains, strict=True)):
        for edge, value in zip(chosen, values, strict=True):
            for member in edge.members or (edge.id,):
                table[row, INDEX[member]] = value
    return gained(probe.trace, table, probe.cotangents, probe.head)


def single(probes: list[Probe]) -> list[Fit]:
    """Every edge that explains all answers alone, best first; several if they cannot be told apart."""
    edges = [*edges_of(probes[0]), *groups_of(probes[0])]
    found: dict[str, list[tuple[float, float]]] = {edge.id: [] for edge in edges}
    for probe in probes:
        if not edges:
            break
        gains, distances = _newton(probe, edges)
        for edge, gain, distance in zip(edges, gains, distances, strict=True):
            found[edge.id].append((gain, distance))
        edges = [e for e, d in zip(edges, distances, strict=True) if d <= 1]
    fits = []
    for edge in edges:
        gains = [gain for gain, _ in found[edge.id]]
        if wrong := meaning(gains, probes):
            fits.append(Fit((edge,), (wrong,), tuple(gains[:1]), max(d for _, d in found[edge.id])))
    return sorted(fits, key=lambda f: (len(f.edges[0].members), f.distance))


def _newton(probe: Probe, edges: list[Edge]) -> tuple[list[float], list[float]]:
    """The gain of each edge that comes nearest to the answers, all edges and starts at once."""
    lanes = [(e,) for e in edges for _ in STARTS]
    gain = np.array([start for _ in edges for start in STARTS])
    best_gain, best = gain.copy(), np.full(len(lanes), np.inf)
    for _ in range(ITERATIONS):
        out = run(probe, lanes, [(g + COMPLEX_STEP * 1j,) for g in gain])
        distance = probe.distance({k: v.real for k, v in out.items()})
        better = distance < best
        best_gain[better], best[better] = gain[better], distance[better]
        top, bottom = np.zeros(len(lanes)), np.zeros(len(lanes))
        for k, seen in probe.answers.items():
            weight = 1 / probe.limits[k] ** 2
            slope = out[k].imag / COMPLEX_STEP
            axes = tuple(range(1, slope.ndim))
            top += weight * np.sum(slope * (seen - out[k].real), axis=axes)
            bottom += weight * np.sum(slope**2, axis=axes)
        gain = gain + np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    choice = [int(np.argmin(best[n : n + len(STARTS)])) + n for n in range(0, len(lanes), len(STARTS))]
    return [float(best_gain[c]) for c in choice], [float(best[c]) for c in choice]


def meaning(gains: list[float], probes: list[Probe]) -> str:
    """What gains that fit, one per case, mean in all of them; empty if they mean nothing in common."""
    for words, usual in USUAL.items():
        if all(abs(g - usual(p.case.spec.sizes)) <= tol.GAIN_SETTLED for g, p in zip(gains, probes, strict=True)):
            return words
    spread, off = max(gains) - min(gains), gains[0] - 1
    if spread <= tol.GAIN_SETTLED and abs(off) > tol.GAIN_SETTLED:
        return f"multiplied by {gains[0]:.6g}"
    return f"multiplied by 1{off:+.3g}" if spread <= tol.GAIN_NEAR_ONE * abs(off) else ""


def fits(fit: Fit, probe: Probe) -> bool:
    """Whether a fit also explains the answers of a probe that it was not fitted to."""
    values = tuple(value(w, gain, probe) for w, gain in zip(fit.wrong, fit.gains, strict=True))
    return bool(probe.distance(_real(run(probe, [fit.edges], [values])))[0] <= 1)


def value(wrong: str, gain: float, probe: Probe) -> float:
    """What a gain in words is in a probe; `gain` where the words do not depend on sizes."""
    return USUAL[wrong](probe.case.spec.sizes) if wrong in USUAL else gain


def pairs(small: Probe, probes: list[Probe]) -> list[Fit]:
    """Pairs of edges, each with a gain people get by mistake, that explain all answers together."""
    edges = edges_of(small)
    n = small.case.spec.sizes
    lanes, gains, words = [], [], []
    for one, two in combinations(edges, 2):
        for a in PAIR_GAINS:
            for b in PAIR_GAINS:
                lanes.append((one, two))
                gains.append((USUAL[a](n), USUAL[b](n)))
                words.append((a, b))
    fits = []
    near = np.concatenate([small.distance(_real(run(small, lanes[i : i + 4096], gains[i : i + 4096]))) for i in range(0, len(lanes), 4096)])
    for k in np.flatnonzero(near <= 1):
        worst = float(near[k])
        for probe in probes:
            sizes = probe.case.spec.sizes
            worst = max(worst, float(probe.distance(_real(run(probe, [lanes[k]], [tuple(USUAL[w](sizes) for w in words[k])])))[0]))
        if worst <= 1:
            fits.append(Fit(lanes[k], words[k], gains[k], worst))
    return sorted(fits, key=lambda f: f.distance)


def _real(out: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v.real for k, v in out.items()}
