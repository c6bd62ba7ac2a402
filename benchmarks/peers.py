"""Peers: lstm_ref beside other gradient checkers, on the same wrong LSTM gradients ("mutants") and on right ones.

    lstm_ref              one case judged: autodiff, and differences of the candidate's own forward pass; a failing grad.* check
    torch gradcheck       torch.autograd.gradcheck, defaults, every entry of the Jacobian
    torch gradcheck fast  the same with fast_mode=True, one random projection
    jax check_grads       jax.test_util.check_grads, order 1, reverse mode, defaults, in float64: one random direction
    course-notes recipe   CS231n: central differences with h = 1e-5, |a − n| / max(|a|, |n|) at most 1e-7 in every entry

All judge the same function in float64, from the inputs x … b_o to the outputs h and c_T. lstm_ref and the recipe send the
case's random cotangents back through it, gradcheck and check_grads their own; none flow into h_T. No rival knows anything of
earlier cases, but what it compiles is compiled. They take turns, on one thread. lstm_ref knows the textbook's LSTM, which is
where its autodiff comes from; the others know of no function but the one before them.

Wrong gradients are structural (the layer mutants of lstm_ref's bank) and small: one entry off by 1e-3 … 1e-11 of the largest
of its block, whatever the cotangents are; a block times 1 + 1e-6 … 1 + 1e-10; blocks through float32. Mutants take turns over
the cases at which right code, the reference and torch.nn.LSTM, is judged too. A mutant of which no entry is off by more than
1e-14 of the largest of its block is right at its case, and left out for all rivals: those of the flow into h_T, and clips and
regions that begin beyond the case.

Who rejects everything catches everything; so a mutant is "told apart" where it is caught and the reference passes at the very
same case. Percentages are rounded down. Forward passes and ms are those of one case of the reference, the median over cases.
The last lines name every mutant that lstm_ref misses, and all right code that it rejects.

    python benchmarks/peers.py [--quick]       --quick takes a sample of the mutants and fewer cases
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import math
import sys
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import NamedTuple

import numpy as np
from rounds import installed, seconds, table

from lstm_ref.candidates import contract
from lstm_ref.candidates.contract import Candidate
from lstm_ref.candidates.load import load
from lstm_ref.cases import REGIMES, Case, Spec, build
from lstm_ref.diagnosis.mutants import Mutant, bank, right
from lstm_ref.diagnosis.power import as_candidate
from lstm_ref.judgement.judge import Bench, judge
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.judgement.verdict import FAIL
from lstm_ref.reference.forward import forward
from lstm_ref.reference.symbols import BIASES, LAYER_INPUTS, WEIGHTS, Sizes

SEED = 20_111  # of the samples, and of the entries that small mutants change
FLOAT64 = PRECISIONS["float64"]
UNCHANGED = 1e-14  # of the largest entry of a block
SHORT, LONG = Sizes(4, 2, 3, 3), Sizes(30, 2, 2, 2)
STRUCTURAL, SMALL, RIGHT = "structural", "small", "right"
RECIPE_STEP, RECIPE_LIMIT = 1e-5, 1e-7


class Place(NamedTuple):
    """A scale of weights and biases, sizes, how many cases, and how many structural and small mutants at most."""

    weight: float
    sizes: Sizes
    cases: int
    structural: int
    small: int


FULL = (*(Place(w, SHORT, 20, 500, 100) for w in (0.01, 0.5, 3.0)), Place(0.5, LONG, 20, 44, 22))
QUICK = (*(Place(w, SHORT, 3, 20, 12) for w in (0.01, 0.5, 3.0)), Place(0.5, LONG, 1, 3, 2))


class Trial(NamedTuple):
    """What one rival said of one LSTM at one case, what it took, and the seed of the case."""

    place: Place
    rival: str
    kind: str
    name: str
    seed: int
    rejected: bool
    passes: int
    ms: float


# --- rivals: whether they reject a candidate at a case -----------------------------------------------------------------


def by_lstm_ref(candidate: Candidate, instance, case: Case) -> bool:
    found = judge(Bench(candidate, FLOAT64, instance), case, with_differences=True, with_taps=False)
    return any(k.startswith("grad.") and e.outcome == FAIL for k, e in found.evidence.items())


def by_gradcheck(candidate: Candidate, instance, case: Case, fast: bool = False) -> bool:
    import torch

    arrays, _, pullback = as_functions(candidate, instance, case)

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            with torch.enable_grad():  # a candidate may be torch's own
                outputs, ctx.pull = pullback(*(v.detach().numpy() for v in inputs))
            return tuple(map(torch.from_numpy, outputs))

        @staticmethod
        def backward(ctx, s, s_c):
            return tuple(map(torch.from_numpy, ctx.pull(s.numpy(), s_c.numpy())))

    inputs = [torch.from_numpy(v.copy()).requires_grad_() for v in arrays]
    return not torch.autograd.gradcheck(Layer.apply, inputs, raise_exception=False, fast_mode=fast)


def by_fast_gradcheck(candidate: Candidate, instance, case: Case) -> bool:
    return by_gradcheck(candidate, instance, case, fast=True)


def by_check_grads(candidate: Candidate, instance, case: Case) -> bool:
    import jax
    import jax.test_util

    arrays, outputs_of, pullback = as_functions(candidate, instance, case)

    @jax.custom_vjp
    def layer(*inputs):
        return outputs_of(*map(np.asarray, inputs))

    def forward_half(*inputs):
        outputs, pull = pullback(*map(np.asarray, inputs))
        return outputs, jax.tree_util.Partial(pull)  # what is kept for the way back must be a pytree

    layer.defvjp(forward_half, lambda pull, s: pull(*map(np.asarray, s)))
    with jax.enable_x64(True):
        try:
            jax.test_util.check_grads(layer, arrays, order=1, modes=("rev",))
        except AssertionError:
            return True
    return False


def by_recipe(candidate: Candidate, instance, case: Case) -> bool:
    arrays, outputs_of, pullback = as_functions(candidate, instance, case)
    s = case.cotangents["h"], case.cotangents["c_T"]

    def J():
        return sum(map(np.vdot, s, outputs_of(*arrays)))

    good = True
    for v, analytic in zip(arrays, pullback(*arrays)[1](*s), strict=True):
        numeric = np.zeros_like(v)
        for at in np.ndindex(v.shape):
            kept = v[at]
            v[at] = kept + RECIPE_STEP
            above = J()
            v[at] = kept - RECIPE_STEP
            numeric[at] = (above - J()) / (2 * RECIPE_STEP)
            v[at] = kept
        both = np.maximum(np.abs(analytic), np.abs(numeric))
        good &= bool(np.all(np.abs(analytic - numeric) <= RECIPE_LIMIT * both))
    return not good


def as_functions(candidate: Candidate, instance, case: Case) -> tuple[list[np.ndarray], Callable, Callable]:
    """The candidate's own arrays at a case, its outputs h and c_T as a function of them, and its pullback."""
    own = contract.prepare(candidate, case.inputs, FLOAT64.dtype).inputs

    def outputs_of(*arrays):
        outputs = instance.forward(dict(zip(own, arrays, strict=True)))
        return outputs["h"], outputs["c_T"]

    def pullback(*arrays):
        outputs, pull = instance.pullback(dict(zip(own, arrays, strict=True)))

        def gradients(s, s_c):
            found = pull({"h": s, "h_T": np.zeros_like(s_c), "c_T": s_c})
            return tuple(found[k] for k in own)

        return (outputs["h"], outputs["c_T"]), gradients

    return list(own.values()), outputs_of, pullback


TORCH = installed("torch")
RIVALS = {
    "lstm_ref": by_lstm_ref,
    **({"torch gradcheck": by_gradcheck, "torch gradcheck fast": by_fast_gradcheck} if TORCH else {}),
    "jax check_grads": by_check_grads,
    "course-notes recipe": by_recipe,
}


# --- what is judged ------------------------------------------------------------------------------------------------------


def case_at(place: Place, seed: int) -> Case:
    """Standard normal numbers, weights and biases times the place's scale; nothing flows into h_T, which peers do not see."""
    case = build(Spec(place.sizes, seed=seed), FLOAT64.dtype, model=False)
    scale = dict(zip((*WEIGHTS, *BIASES), [place.weight / q for q in REGIMES["ordinary"] for _ in WEIGHTS], strict=True))
    inputs = {k: v * scale.get(k, 1.0) for k, v in case.inputs.items()}
    return Case(case.spec, inputs, case.cotangents | {"h_T": np.zeros_like(case.inputs["h0"])})


def mutants() -> dict[str, list[Mutant]]:
    layer = [m for m in bank() if not m.model]
    rounded = [m for m in layer if m.kind == "precision"]
    return {STRUCTURAL: [m for m in layer if m.kind != "precision"], SMALL: [*rounded, *small_mutants()]}


def small_mutants() -> list[Mutant]:
    """Right gradients, changed a little in one block."""
    rng = np.random.default_rng(SEED)
    found = []
    for k, size in product(("x", "h0", "c0", "W_f", "W_c", "b_i"), (1e-3, 1e-5, 1e-7, 1e-9, 1e-11)):
        found.append(_changed(f"one entry of d{k} off by {size:g}", k, _one_entry(size, rng.random())))
    for k, size in product(("x", "W_i", "W_o", "b_f"), (1e-6, 1e-8, 1e-10)):
        found.append(_changed(f"d{k} times 1 + {size:g}", k, lambda v, size=size: v * (1 + size)))
    for k in ("c0", "W_i", "W_c", "b_f"):
        found.append(_changed(f"d{k} through float32", k, lambda v: v.astype(np.float32).astype(v.dtype)))
    return found


def _one_entry(size: float, where: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(v):
        wrong = v.copy()
        wrong.flat[int(where * v.size)] += size * np.abs(v).max()
        return wrong

    return change


def _changed(words: str, k: str, change: Callable[[np.ndarray], np.ndarray]) -> Mutant:
    def run(trace, s, head=None):
        gradients = right(trace, s, head)
        return {**gradients, k: change(gradients[k])}

    return Mutant(f"small:{words}", SMALL, "", words, run)


def unchanged(mutant: Mutant, case: Case) -> bool:
    """Whether the mutant's gradients are the right ones at this case, but for rounding."""
    trace = forward(case.inputs)
    due, seen = right(trace, case.cotangents), mutant.run(trace, case.cotangents)
    return all(bool(np.all(np.abs(seen[k] - due[k]) <= UNCHANGED * np.abs(due[k]).max())) for k in LAYER_INPUTS)


# --- trials and rows -----------------------------------------------------------------------------------------------------


class Counted:
    """A layer that counts its forward passes, with or without a backward pass after them."""

    def __init__(self, layer):
        self.layer, self.passes = layer, 0

    def forward(self, inputs):
        self.passes += 1
        return self.layer.forward(inputs)

    def pullback(self, inputs):
        self.passes += 1
        return self.layer.pullback(inputs)


def trials_at(place: Place, pools: dict[str, list[Mutant]]) -> tuple[list[Trial], dict[str, int]]:
    """Every rival on right code and on mutants, and how many mutants of each kind were left out."""
    cases = [case_at(place, seed) for seed in range(place.cases)]
    targets = [load(target)[0] for target in ("ref:", *(("torch:",) if TORCH else ()))]
    for judged in RIVALS.values():
        judged(targets[0], targets[0].make(), cases[0])  # what compiles is compiled here
    work = [(RIGHT, candidate, case) for case in cases for candidate in targets]
    left_out = {}
    for kind, most in ((STRUCTURAL, place.structural), (SMALL, place.small)):
        pairs = [(m, cases[n % len(cases)]) for n, m in enumerate(sample(pools[kind], most))]
        changed = [(m, case) for m, case in pairs if not unchanged(m, case)]
        left_out[kind] = len(pairs) - len(changed)
        work += [(kind, Candidate(m.id, "pullback", lambda m=m: as_candidate(m)), case) for m, case in changed]
    found = []
    for n, (kind, candidate, case) in enumerate(work):
        print(f"\r{described(place)}: {n + 1} of {len(work)}", end="", file=sys.stderr, flush=True)
        found += [trial(place, rival, kind, candidate, case) for rival in RIVALS]
    print(file=sys.stderr)
    return found, left_out


def sample(pool: list[Mutant], most: int) -> list[Mutant]:
    picked = np.random.default_rng(SEED).permutation(len(pool))[:most]
    return [pool[n] for n in sorted(picked)]


def trial(place: Place, rival: str, kind: str, candidate: Candidate, case: Case) -> Trial:
    layer, said = Counted(candidate.make()), []
    taken = seconds(lambda: said.append(RIVALS[rival](candidate, layer, case)))
    return Trial(place, rival, kind, candidate.name, case.spec.seed, said[0], layer.passes, 1e3 * taken)


def row(place: Place | None, rival: str, trials: list[Trial]) -> tuple:
    """One rival at one place, or at all of them."""
    own = [t for t in trials if t.rival == rival and place in (None, t.place)]
    of = {kind: [t.rejected for t in own if t.kind == kind] for kind in (STRUCTURAL, SMALL, RIGHT)}
    reference = [t for t in own if t.name == "ref:"]
    trusted = {(t.place, t.seed) for t in reference if not t.rejected}
    apart = [t.rejected and (t.place, t.seed) in trusted for t in own if t.kind != RIGHT]
    cost = (median(t.passes for t in reference), median(t.ms for t in reference)) if place else (None, None)
    alarms = f"{sum(of[RIGHT])} of {len(of[RIGHT])}"
    return described(place), rival, share(of[STRUCTURAL]), share(of[SMALL]), alarms, share(apart), *cost


def described(place: Place | None) -> str:
    return f"{place.weight:g}, {tuple(place.sizes[:4])}" if place else "all"


def share(said: list[bool]) -> str:
    """A percentage, rounded down, and of how many."""
    return f"{math.floor(1000 * sum(said) / len(said)) / 10:5.1f} % of {len(said)}"


def faults_of_lstm_ref(trials: list[Trial]) -> list[str]:
    lines = []
    for t in trials:
        if t.rival == "lstm_ref" and t.rejected == (t.kind == RIGHT):
            here = [u.rival for u in trials if (u.place, u.name, u.seed) == (t.place, t.name, t.seed) and u.rejected and u != t]
            what = "rejects the right" if t.kind == RIGHT else "misses"
            lines.append(f"lstm_ref {what} {t.name!r} at {described(t.place)}, seed {t.seed}; rejected by: {', '.join(here) or 'none'}")
    return lines


def main() -> None:
    quick, pools = "--quick" in sys.argv[1:], mutants()
    trials: list[Trial] = []
    print(f"{len(pools[STRUCTURAL])} structural and {len(pools[SMALL])} small mutants; samples of them drawn with seed {SEED}")
    for place in QUICK if quick else FULL:
        found, left_out = trials_at(place, pools)
        trials += found
        left = " and ".join(f"{count} {kind}" for kind, count in left_out.items())
        print(f"{described(place)}: {place.cases} cases, seeds from 0; left out, being right there: {left}")
    places = list(dict.fromkeys(t.place for t in trials))
    rows = [row(place, rival, trials) for place in (*places, None) for rival in RIVALS]
    table(
        ("weights, (T, B, D, H)", "judged by", "structural caught", "small caught", "false alarms", "told apart", "forward passes", "ms"),
        rows,
    )
    print("\n".join(faults_of_lstm_ref(trials)) or "lstm_ref misses no mutant and rejects no right code")


if __name__ == "__main__":
    main()
