"""Apart: two mistakes at once, of which one shows in a few gradients alone, so that the other explains all the rest.

What forms a gradient from what went back through time (a sum over the batch, a product with h_t for h_{t-1}) spoils that gradient
and no other. The rest is explained first, by an edge with a gain that people get by mistake or by a mutant; then what is left,
beside that: by one gain on it, or by a mutant that changes nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..reference import backward, rewrite
from ..reference.symbols import GATES
from . import gains, mutants
from .edges import INDEX, Edge, gained_once
from .gains import USUAL
from .mutants import Gradients, Mutant
from .probe import Probe

# gradients that one mistake may spoil alone, the largest sets first, and the equation that forms them
LEAVES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("every dW_k", tuple(f"W_{k}" for k in GATES), "B:weights"),
    ("every db_k", tuple(f"b_{k}" for k in GATES), "B:biases"),
    ("dW_v and db_v", ("W_v", "b_v"), "B:output-layer"),
    ("dx", ("x",), "B:concat"),
    ("dh0", ("h0",), "B:initial"),
    ("dc0", ("c0",), "B:initial"),
    ("dW_v", ("W_v",), "B:output-layer"),
    ("db_v", ("b_v",), "B:output-layer"),
    *((f"dW_{k}", (f"W_{k}",), "B:weights") for k in GATES),
    *((f"db_{k}", (f"b_{k}",), "B:biases") for k in GATES),
)
# … and in one step alone: dh0 and dc0 of what goes from step to step, and of a gate what is its own
_BACK = ("x", "h0", "c0")
FIRST_STEP = (("", ("h0", "c0"), ""), ("", _BACK, ""), *(("", (f"W_{k}", f"b_{k}", *_BACK), "") for k in GATES))
TRIED = 12  # explanations of the rest that are held against the other probes


class Mistake(NamedTuple):
    """The equation that a mistake is in, what it is, and the gradients that it leaves in a probe; the mutant that it is, or the edge
    and what is wrong with it."""

    label: str
    words: str
    run: Callable[[Probe], Gradients]
    mutant: Mutant | None = None
    edge: Edge | None = None
    wrong: str = ""


def pairs(asked: Sequence[Probe], sound: Sequence[Probe] = (), once: Sequence[Probe] = ()) -> list[tuple[str, str, float]]:
    """Two mistakes that explain all answers together: their equations, their words and the distance in tolerances, best first.

    `asked` are probes in which something is wrong, `sound` those in which nothing is; the pair must leave those right. `once` are probes
    of one time step, in which a mistake in what goes from step to step shows in dh0 and dc0 alone, and one in a gate in that gate.
    """
    with np.errstate(all="ignore"):  # some mutants overflow
        return _pairs(asked, LEAVES, asked, sound) or (_pairs(once, FIRST_STEP, asked, sound) if once else [])


def _pairs(shown: Sequence[Probe], leaves, asked: Sequence[Probe], sound: Sequence[Probe]) -> list[tuple[str, str, float]]:
    """The same, where what explains all but a leaf is looked for in the probes `shown`."""
    first = shown[0]
    known, gradients = _mistakes(first)
    off = {k: first.off(k, lanes) for k, lanes in gradients.items()}
    spoils = {k: ~(np.abs(v - first.truth[k]).reshape(len(v), -1).max(1) <= first.limits[k]) for k, v in gradients.items()}
    for name, leaf, label in leaves:
        rest = [k for k in first.answers if k not in leaf]
        if len(rest) == len(first.answers) or not set(rest) & set(first.failing):
            continue
        explains = np.flatnonzero(np.all([off[k] <= 1 for k in rest], axis=0))
        inside = np.flatnonzero(~np.any([spoils[k] for k in rest], axis=0))
        found = []
        for one in [known[n] for n in explains[:TRIED]]:
            if any(_distance(probe, one, rest) > 1 for probe in shown[1:]):
                continue
            for two in filter(None, (_gain(one, name, leaf, label, asked), *(_beside(one, known[n]) for n in inside))):
                if (distance := _worst(two, (*asked, *sound))) <= 1:
                    found.append((f"{one.label} and {two.label}", f"{one.words}, and {two.words}", distance))
        if found:
            return sorted(found, key=lambda f: f[2])
    return []


def _mistakes(probe: Probe) -> tuple[list[Mistake], dict[str, np.ndarray]]:
    """Every mistake that is known by name: an edge or several with a gain, a mutant; and their gradients in a probe, lane by lane."""
    edges = [(edge, wrong) for edge in (*gains.edges_of(probe), *gains.groups_of(probe)) for wrong in USUAL]
    lanes = gains.run(probe, [(edge,) for edge, _ in edges], [(USUAL[wrong](probe.case.spec.sizes),) for _, wrong in edges])
    told = [Mistake(edge.label, f"{edge.words} is {wrong}", _edge_run(edge, wrong), edge=edge, wrong=wrong) for edge, wrong in edges]
    its = [m for m in mutants.known() if m.kind != "edge" and (probe.head is not None or not m.model)]
    ran = [m.run(probe.trace, probe.cotangents, probe.head) for m in its]
    told += [Mistake(m.label, m.words, _mutant_run(m.run), mutant=m) for m in its]
    return told, {k: np.concatenate([lanes[k].real, np.stack([g[k] for g in ran])]) for k in probe.answers}


def _edge_run(edge: Edge, wrong: str, *backward_pass: Callable) -> Callable[[Probe], Gradients]:
    def run(probe: Probe) -> Gradients:
        table = np.ones(len(INDEX))
        table[[INDEX[member] for member in edge.members or (edge.id,)]] = USUAL[wrong](probe.case.spec.sizes)
        return gained_once(probe.trace, table, probe.cotangents, probe.head, *backward_pass)

    return run


def _mutant_run(run: Callable[..., Gradients]) -> Callable[[Probe], Gradients]:
    return lambda probe: run(probe.trace, probe.cotangents, probe.head)


def _distance(probe: Probe, mistake: Mistake, keys) -> float:
    gradients = mistake.run(probe)
    return max((float(probe.off(k, gradients[k][None])[0]) for k in keys if k in probe.answers), default=0.0)


def _worst(mistake: Mistake, probes: Sequence[Probe]) -> float:
    """The largest distance to the answers of all probes, or the first above 1."""
    worst = 0.0
    for probe in probes:
        worst = max(worst, _distance(probe, mistake, probe.answers))
        if worst > 1:
            break
    return worst


def _gain(one: Mistake, name: str, leaf: tuple[str, ...], label: str, asked: Sequence[Probe]) -> Mistake | None:
    """One gain on all that is left, beside the other mistake, where it means something."""
    if not name:
        return None
    fitted = []
    for probe in asked:
        gradients, there = one.run(probe), [k for k in leaf if k in probe.answers]
        size = sum(float(np.vdot(gradients[k], gradients[k])) for k in there)
        fitted.append(sum(float(np.vdot(probe.answers[k], gradients[k])) for k in there) / size if size else 1.0)
    wrong = gains.meaning(fitted, list(asked))
    if not wrong:
        return None

    def run(probe: Probe) -> Gradients:
        return {k: gains.value(wrong, fitted[0], probe) * v if k in leaf else v for k, v in one.run(probe).items()}

    return Mistake(label, f"{name} is {wrong}", run)


def _beside(one: Mistake, two: Mistake) -> Mistake | None:
    """The second mistake made beside the first; None where neither is one of text, or one takes away the place of the other."""
    changes = [m.mutant.change for m in (one, two) if m.mutant is not None and m.mutant.change is not None]
    edges = [m for m in (one, two) if m.edge is not None]
    try:
        if len(changes) == 2:
            for function in {change[0] for change in changes}:
                mutants.changed(function, changes)
            return two._replace(run=_mutant_run(mutants.run_of(*changes)))
        if len(changes) == len(edges) == 1:
            return two._replace(run=_edge_run(edges[0].edge, edges[0].wrong, _hooked(changes[0])))
    except ValueError:
        pass
    return None


@functools.cache
def _hooked(change: mutants.Change) -> Callable:
    """The hooked backward pass with a change made to it. Raises ValueError where it is none of it."""
    if change[0] is not backward.backward:
        raise ValueError("the change is none of the backward pass")
    return rewrite.hooked(backward.backward, source=mutants.changed(backward.backward, [change]))
