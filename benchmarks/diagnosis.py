"""Diagnosis: how often the right term comes first, and how long that takes, over the bank of mutants.

The bank goes through the plug-in contract at layer level in float64 and float32, with nothing but weight gradients given, in
torch's packed layout, and, with the softmax mutants, as a model with a loss. "Named" is the mutant itself, or an explanation
that cannot be told from it: one that predicts every gradient that is given, to rounding, on a case it was not found on. Pairs
are two random edges with usual gains; two mistakes are a random mutant in the recursion, and another one, or one in what forms
a gradient that nothing else is formed from. Mutants that change nothing that is given there (what flows in on h_T, at model
level) are left out.

    python benchmarks/diagnosis.py [--every N]       only every N-th mutant
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"))

import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np
from rounds import table

from lstm_ref.candidates.layout import Layout, decode, encode
from lstm_ref.candidates.load import plug
from lstm_ref.diagnosis import edges, gains, mutants, power
from lstm_ref.diagnosis.explain import Explanation, diagnose, explain
from lstm_ref.diagnosis.probe import Probe, probes
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.reference.symbols import LAYER_INPUTS, Sizes, shape

PAIRS, SEED = 40, 5
LEAF = ("B:weights", "B:biases", "B:split", "B:initial")
HELD_OUT = (Sizes(6, 4, 3, 5, 4),)
PACKED = Layout(order="ifgo", packed=True, joint="split")


def face_of(mutant: mutants.Mutant):
    return power._candidate(lambda: power.as_candidate(mutant), mutant.model)


def weights_only(mutant: mutants.Mutant):
    silent = ("x_gradient", "h0_gradient", "c0_gradient")
    face = face_of(mutant)
    return replace(face, supports=replace(face.supports, missing=silent))


def packed(mutant: mutants.Mutant):
    """The mutant behind arrays that lie as torch's do."""

    class Packed:
        layout = PACKED

        def pullback(self, inputs):
            n = Sizes(*inputs["x"].shape, inputs["h0"].shape[1])
            textbook = decode(PACKED, inputs, {k: shape(k, n) for k in LAYER_INPUTS})
            outputs, pull = power.as_candidate(mutant).pullback(textbook)

            return outputs, lambda s: encode(PACKED, pull(s), inputs["x"].dtype)

    return plug(Packed)[0]


def named(mutant: mutants.Mutant, found: Explanation | None, asked: list[Probe]) -> bool:
    """Whether an explanation names the mutant, or predicts its gradients where it has not seen them."""
    if found is None:
        return False
    told = [text for _, text in found.names] + [f"edge:{f.edges[0].id}:" for f in found.fits]
    if mutant.words in told or any(mutant.id.startswith(t) for t in told if t.startswith("edge:")):
        return True
    return bool((found.fits or found.names) and all(p.distance(predicted(p, found))[0] <= 1 for p in asked))


def predicted(probe: Probe, found: Explanation) -> dict[str, np.ndarray]:
    """The gradients that the first explanation gives."""
    if found.fits:
        fit, n = found.fits[0], probe.case.spec.sizes
        values = tuple(gains.USUAL[w](n) if w in gains.USUAL else g for w, g in zip(fit.wrong, fit.gains, strict=True))
        return {k: v.real for k, v in gains.run(probe, [fit.edges], [values]).items()}
    mutant = next(m for m in mutants.bank() if (m.label, m.words) == found.names[0])
    return {k: v[None] for k, v in mutant.run(probe.trace, probe.cotangents, probe.head).items()}


def row(words: str, bank: list[mutants.Mutant], face, dtype: str) -> tuple:
    """How many of a bank are named, of those that change what is given, and the seconds that took."""
    p, seconds, right, missed = PRECISIONS[dtype], [], 0, []
    for n, mutant in enumerate(bank):
        print(f"\r{words}: {n} of {len(bank)}", end="", file=sys.stderr, flush=True)
        candidate = face(mutant)
        began = time.perf_counter()
        found = diagnose(candidate, p)
        took = time.perf_counter() - began
        asked = probes(candidate, p, HELD_OUT)
        if found is None and not any(q.failing for q in asked):
            continue
        seconds.append(took)
        good = named(mutant, found, asked)
        right += good
        missed += [] if good else [mutant.id]
    print(file=sys.stderr)
    for id_ in missed:
        print(f"not named, {words}: {id_}")
    return words, dtype, len(seconds), right, 100 * right / len(seconds), median(seconds), max(seconds)


def pairs() -> tuple:
    rng, right, seconds = np.random.default_rng(SEED), 0, []
    for _ in range(PAIRS):
        one, two = (edges.EDGES[k] for k in rng.choice(len(edges.EDGES), 2, replace=False))
        wrong = [gains.PAIR_GAINS[k] for k in rng.integers(0, len(gains.PAIR_GAINS), 2)]

        def spoil(trace, s, head=None, pair=(one, two), wrong=wrong):
            n = type("n", (), {"T": trace.h.shape[0], "B": trace.h.shape[1]})
            gain = np.ones((1, len(edges.INDEX)), complex)
            for edge, w in zip(pair, wrong, strict=True):
                gain[0, edges.INDEX[edge.id]] = gains.USUAL[w](n)
            return {k: v[0].real for k, v in edges.gained(trace, gain, s, head).items()}

        began = time.perf_counter()
        found = explain(face_of(mutants.Mutant("pair", "pair", "", "", spoil)), PRECISIONS["float64"])
        seconds.append(time.perf_counter() - began)
        right += found is not None and any({e.id for e in f.edges} == {one.id, two.id} for f in found.fits)
    return "pairs of edges", "float64", PAIRS, right, 100 * right / PAIRS, median(seconds), max(seconds)


def two_mistakes(words: str, in_leaf: bool) -> tuple:
    changes = [m for m in mutants.bank() if m.change is not None and not m.model]
    first, second = ([m for m in changes if (m.label in LEAF) is leaf] for leaf in (False, in_leaf))
    rng, right, seconds = np.random.default_rng(SEED), 0, []
    while len(seconds) < PAIRS:
        one, two = first[rng.integers(len(first))], second[rng.integers(len(second))]
        try:
            mutants.changed(one.change[0], (one.change, two.change))
        except ValueError:
            continue  # one takes away the other's place
        face = face_of(mutants.Mutant("two", "two", "", "", mutants.run_of(one.change, two.change)))
        began = time.perf_counter()
        found = explain(face, PRECISIONS["float64"])
        seconds.append(time.perf_counter() - began)
        right += found is not None and any(one.words in text and two.words in text for _, text in found.names)
    return words, "float64", PAIRS, right, 100 * right / PAIRS, median(seconds), max(seconds)


def main() -> None:
    every = int(sys.argv[sys.argv.index("--every") + 1]) if "--every" in sys.argv else 1
    bank = list(mutants.bank())[::every]
    layer = [m for m in bank if not m.model]
    rows = [
        row("layer, softmax as a model", bank, face_of, "float64"),
        row("layer, softmax as a model", bank, face_of, "float32"),
        row("weight gradients alone", layer, weights_only, "float64"),
        row("packed as torch's", layer, packed, "float64"),
        row("everything as a model", [replace(m, model=True) for m in bank], face_of, "float64"),
        pairs(),
        two_mistakes("two mistakes, one in what forms a gradient", in_leaf=True),
        two_mistakes("two mistakes in the recursion", in_leaf=False),
    ]
    table(("candidate", "dtype", "wrong", "named", "%", "median s", "max s"), rows)


if __name__ == "__main__":
    main()
