"""Reading: the layout, the variant or the slip under which a candidate's forward pass is an LSTM.

Before a gradient is blamed: the candidate is asked once on two small cases, and every way to read the same arrays (order of
gates, interleaving, [h, x] or [x, h]), every variant that needs no arrays of its own and every common slip is tried against
what it returned. A candidate that declares a variant is read as that, in every layout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..candidates.layout import Layout, decode, effective, encode
from ..reference import objectives
from ..reference.arrays import sigmoid
from ..reference.symbols import GATES, Sizes
from ..reference.variant import FUNCTIONS, TEXTBOOK, Variant, plain
from ..truth import variants
from . import tolerances as tol
from .judge import Bench, Point, fitted

FUNCTION: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "identity": lambda a: a,
    "relu": lambda a: np.maximum(a, 0),
    "softsign": lambda a: a / (1 + np.abs(a)),
    "sigmoid": sigmoid,
}
OUTPUT_WORDS = {"identity": "h = o ⊙ c, without a tanh"}
SIZES = (Sizes(1, 2, 3, 2, 3), Sizes(3, 2, 2, 3, 4))  # one step to sift the readings, three to confirm
SQUARE = (Sizes(1, 2, 3, 4, 4), Sizes(3, 2, 4, 3, 3))  # of a loss: only where K = H may W_v be read the other way round


@dataclass(frozen=True)
class Slip:
    """What may go wrong in a forward pass and is no variant; the default is nothing."""

    bias: float = 1.0  # biases counted so many times
    swapped: bool = False  # h0 and c0 exchanged
    recurrent_transposed: bool = False  # W_hᵀ for W_h in every gate
    gates: tuple[str, ...] = GATES  # the gates whose weights are used for f, i, c, o
    head_transposed: bool = False  # W_vᵀ for W_v


@dataclass(frozen=True)
class Reading:
    """A layout, a variant, a slip and, for a loss, a reduction under which h and c_T, or J, are what the candidate returned."""

    layout: Layout
    variant: Variant = TEXTBOOK
    slip: Slip = Slip()
    reduction: str = "sum"

    def declaration(self, declared: Candidate) -> str:
        """What to write, where the reading differs from what is declared; empty if it does not."""
        fields = _differing(self.layout, declared.layout)
        fields += f" in the layout (in full: layout = dict({_differing(self.layout, Layout())}))" if fields else ""
        loss = f"reduction = {self.reduction!r} in the class" if self.reduction != declared.reduction else ""
        variant = f"variant = dict({self.variant.words}) in the class" if self.variant != declared.variant else ""
        return " and ".join(filter(None, (fields, variant, loss)))

    @property
    def variant_words(self) -> str:
        """The variant in words; empty for the textbook."""
        v = self.variant
        out = [OUTPUT_WORDS[v.output]] if v.output in OUTPUT_WORDS else []
        out += ["time in reverse, from the last step to the first"] if v.direction == "reverse" else []
        out += [f"a hard sigmoid ({'a/6' if v.gate == 'hard_sigmoid' else 'a/5'} + ½, clipped)"] if v.gate != "sigmoid" else []
        out += ["coupled gates, f = 1 − i"] if v.coupled == "f" else ["coupled gates, i = 1 − f"] if v.coupled else []
        return ", ".join(out) or v.words

    @property
    def words(self) -> str:
        """The slip in words; empty where there is none."""
        v = self.slip
        out = ["no bias" if v.bias == 0 else f"biases counted {v.bias:g} times"] if v.bias != 1 else []
        out += ["h0 and c0 exchanged"] if v.swapped else []
        out += ["W_hᵀ for W_h"] if v.recurrent_transposed else []
        out += ["W_v read as (H, K), where it is given as (K, H), in every layout"] if v.head_transposed else []
        return ", ".join(out + [f"W_{used} and b_{used} for gate {k}" for k, used in zip(GATES, v.gates, strict=True) if used != k])


def _differing(layout: Layout, other: Layout) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in vars(layout).items() if v != vars(other)[k])


def find(candidate: Candidate, precision: tol.Precision) -> Reading | None:
    """The simplest reading that fits to rounding, or None. A candidate that fits as declared has its own layout and
    reduction. Batch-first and transposed arrays have other shapes, so the candidate is asked anew for each."""
    if candidate.kind == "student":
        return None
    own = candidate.layout
    for batch_first in (own.batch_first, not own.batch_first):
        for transposed in (own.transposed, not own.transposed):
            turned = replace(candidate, layout=replace(own, batch_first=batch_first, transposed=transposed))
            if found := _find(turned, precision):
                return found
    return None


def _find(candidate: Candidate, precision: tol.Precision) -> Reading | None:
    bench = Bench(candidate, precision, candidate.make())
    answers: list = []
    for sizes in ((*SIZES, SQUARE[0]), SQUARE) if candidate.model else (SIZES,):
        with contextlib.suppress(Finding):
            answers = answers or [_ask(bench, size, n) for n, size in enumerate(sizes)]
    if not answers:
        return None
    declared = candidate.reduction
    reductions = (declared, *(k for k in contract.REDUCTIONS if k != declared)) if candidate.model else (declared,)
    textbook = candidate.variant.textbook
    changes = _changes(candidate.layout.packed, candidate.model) if textbook else ((candidate.variant, Slip()),)
    for variant, slip in changes:
        for layout in _layouts(candidate.layout):
            for reduction in reductions:
                reading = Reading(layout, variant, slip, reduction)
                if all(_fits(bench, reading, *answer) for answer in answers):
                    return reading
    return None


def _ask(bench: Bench, size: Sizes, n: int):
    """A case, what the candidate returned for it, and how far an LSTM may be from that."""
    candidate = bench.candidate
    case = cases.build(fitted(cases.Spec(size, seed=200 + n), candidate), bench.precision.dtype, candidate.model, candidate.variant)
    outputs, _ = contract.start(contract.prepare(candidate, case.inputs, bench.precision.dtype), bench.instance)
    due = ("J",) if candidate.model else (candidate.hidden, "c_T")
    if due[0] not in outputs.arrays:
        raise Finding("contract.keys", f"{due[0]} is missing")
    values = Point(bench, case.inputs, case.cotangents).conditions
    limit = tol.EXPLANATION_NEAR * float(max(tol.tolerance(values[k], bench.precision.u).max() for k in due))
    return case, outputs.arrays, limit


def unread(candidate: Candidate, precision: tol.Precision) -> str:
    """Why nothing can be read of the forward pass as it is declared: what it raises, say. Empty where it answers."""
    bench = Bench(candidate, precision, candidate.make())
    try:
        for n, size in enumerate(SIZES):
            _ask(bench, size, n)
    except Finding as finding:
        return finding.sentence
    return ""


def _layouts(declared: Layout) -> Iterator[Layout]:
    """The declared layout first, then every other way to read arrays of the same shapes."""
    orders = ["".join(p) for p in permutations(declared.order)] if declared.packed else [declared.order]
    joints = ("hx", "xh") if declared.joint != "split" else ("split",)
    interleavings = (False, True) if declared.packed else (False,)
    fields = sorted(product(orders, joints, interleavings, (0.0, 1.0)), key=lambda f: _distance(declared, *f))
    for order, joint, interleaved, forget_bias in fields:
        yield replace(declared, order=order, joint=joint, interleaved=interleaved, forget_bias=forget_bias)


def _distance(declared: Layout, order: str, joint: str, interleaved: bool, forget_bias: float) -> int:
    """In how many fields a reading differs from what is declared."""
    same = (order == declared.order, joint == declared.joint, interleaved == declared.interleaved, forget_bias == declared.forget_bias)
    return 4 - sum(same)


def _changes(packed: bool, model: bool) -> Iterator[tuple[Variant, Slip]]:
    """The textbook first, then one change at a time; with separate arrays, gates may be taken for one another."""
    variants: list[dict[str, Any]] = [{"output": "identity"}, {"gate": "hard_sigmoid_0.2"}, {"gate": "hard_sigmoid"}]
    variants += [{"direction": "reverse"}, *({"activation": f} for f in FUNCTIONS[1:]), *({"output": f} for f in FUNCTIONS[2:])]
    slips: list[dict[str, Any]] = [{"bias": 2.0}, {"bias": 0.5}, {"bias": 0.0}, {"swapped": True}, {"recurrent_transposed": True}]
    slips += [{"head_transposed": True}] if model else []
    yield TEXTBOOK, Slip()
    for one in variants:
        yield Variant(**one), Slip()
    for gate in "fi":
        yield Variant(coupled=gate, idle_gate=True), Slip()
    for one in slips:
        yield TEXTBOOK, Slip(**one)
    for gates in () if packed else permutations(GATES):
        yield TEXTBOOK, Slip(gates=gates)


def _fits(bench: Bench, reading: Reading, case: cases.Case, seen: dict, limit: float) -> bool:
    read, q = _as_read(bench, reading.layout, case), case.inputs
    if bench.candidate.variant.textbook:
        h, c = _forward(read, reading.variant, reading.slip)
        h_T = h[0 if reading.variant.direction == "reverse" else -1]
    else:
        values = variants.truth(reading.variant, read, case.cotangents).values
        h, h_T, c = values["h"], values["h_T"], values["c_T"]
    if case.model:
        turned = reading.slip.head_transposed and case.spec.sizes.K == case.spec.sizes.H
        J = objectives.softmax_forward(h, q["W_v"].T if turned else q["W_v"], q["b_v"], q["y"], q["w"]).J
        declared, read = (contract.REDUCTIONS[k](case.spec.sizes, q["w"]) for k in (bench.candidate.reduction, reading.reduction))
        return bool(np.abs(J * declared / read - seen["J"]) <= limit * max(1.0, declared / read))
    if bench.candidate.hidden == "h_T":
        h = h_T
    near = np.abs(h - seen[bench.candidate.hidden]).max() <= limit
    return bool(near and ("c_T" not in seen or np.abs(c - seen["c_T"]).max() <= limit))


def _as_read(bench: Bench, layout: Layout, case: cases.Case) -> dict:
    """The textbook inputs that somebody with `layout` reads from the arrays that the candidate was given."""
    declared, dtype = bench.candidate.layout, bench.precision.dtype
    given = encode(declared, case.inputs, dtype)
    n = case.spec.sizes
    variant = bench.candidate.variant
    shapes = variant.shapes(n)
    found = decode(layout, {k: v if v.dtype.kind == "i" else v.astype(np.float64) for k, v in given.items()}, shapes)
    inputs = {k: found[k] + found.get(f"{k}.second", 0) for k in (*variant.inputs, *variant.data) if k in found}
    if layout.biases == 0:
        return effective(layout, {**case.inputs, **inputs}, dtype)
    return {k: v + layout.forget_bias if plain(k) == "b_f" else v for k, v in inputs.items()}


def _forward(q: dict, variant: Variant, slip: Slip) -> tuple[np.ndarray, np.ndarray]:
    """h and c_T of a variant without arrays of its own, with a slip; a plain loop, written for switches."""
    H = q["h0"].shape[-1]
    h, c = (q["c0"], q["h0"]) if slip.swapped else (q["h0"], q["c0"])
    W = {k: q[f"W_{used}"] for k, used in zip(GATES, slip.gates, strict=True)}
    if slip.recurrent_transposed:
        W = {k: np.concatenate([w[:, :H].T, w[:, H:]], axis=1) for k, w in W.items()}
    squash = {
        "sigmoid": sigmoid,
        "hard_sigmoid_0.2": lambda a: np.clip(0.2 * a + 0.5, 0, 1),
        "hard_sigmoid": lambda a: np.clip(a / 6 + 0.5, 0, 1),
    }[variant.gate]
    b = {k: slip.bias * q[f"b_{used}"] for k, used in zip(GATES, slip.gates, strict=True)}
    activation, output = FUNCTION[variant.activation], FUNCTION[variant.output]
    out, back = [], -1 if variant.direction == "reverse" else 1
    for x in q["x"][::back]:
        z = np.concatenate([h, x], axis=1)
        a = {k: z @ W[k].T + b[k] for k in GATES}
        i, o = squash(a["i"]), squash(a["o"])
        f = squash(a["f"])
        f, i = (1 - i, i) if variant.coupled == "f" else (f, 1 - f) if variant.coupled else (f, i)
        c = f * c + i * activation(a["c"])
        h = o * output(c)
        out.append(h)
    return np.array(out[::back]), c
