"""Judge: one candidate on one case, once; every check reads its own quantity from what is found here."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .. import cases
from ..candidates import contract, layout
from ..candidates.contract import Answer, Candidate, Finding
from ..cases import Case, Spec
from ..reference.symbols import LAYER_INTERMEDIATES, LAYER_OUTPUTS, WEIGHTS
from ..reference.variant import DATA, plain
from ..truth import autodiff, differences, variants
from . import parts
from . import tolerances as tol
from .comparison import Block, compare, compare_all, compare_along, lies_in, looks_like, worst_of
from .tolerances import Condition, Precision
from .verdict import ANOTHER_FUNCTION, FAIL, PASS, UNRESOLVED, Evidence

INNER = (*LAYER_INTERMEDIATES, "v")
BY_STEP = frozenset((*INNER, "y_hat", *(f"d{k}" for k in INNER)))
ENOUGH = 4  # failures by differences after which a gradient is not differenced again: a fourth says no more
TOGETHER = 2**21  # bytes of inputs that one call of forward_many is given at the most
ENTRY_BY_ENTRY = 2  # blocks of so few entries are differenced entry by entry under complex step
LOWER = {"float64": "float32", "float32": "float16"}  # what a dtype may silently be computed in
HALVES = ("bfloat16", "float16")  # what float64 or float32 may silently be stored in; numbers of the first lie in the second, too
TF32 = (
    "; TF32, in which GPUs form the products of float32 by default, is as coarse: torch.backends.cudnn.allow_tf32 = False and "
    'torch.backends.cuda.matmul.allow_tf32 = False, or jax.config.update("jax_default_matmul_precision", "highest"), turn it off'
)
COMPUTED_IN = re.compile(r"computed in (\w+), though")
CONTRACT = ("call", "time", "keys", "shapes", "dtype", "finite")
BEYOND = "rounding alone may move every difference by as much as the gradient is; autodiff confirms it"
ELSEWHERE = "the forward pass is another function, though not here to more than rounding: its own differences decide"
AWKWARD = {
    "noncontiguous": "right where arrays are contiguous, wrong where not: what is read as flat memory needs a contiguous copy first",
    "readonly": "right where arrays may be written, wrong where they may not",
}
KEPT = Evidence(PASS)  # a promise of the contract
FORWARD = ("h", "c_T", "h_T")


@dataclass
class Bench:
    """What stays the same while one candidate is judged at one dtype, and what is learnt about it on the way: blocks
    that are computed in a lower precision, where its forward pass is complex-safe, what it returns, and how often
    differences have refuted a gradient. Where its forward pass is not the textbook's (`textbook`), conditions are another
    function's, and every entry is granted the largest of all blocks. `absolute` says whose noise is absolute (see
    `tolerances.noisy_run`). `many` is false once its `forward_many` was of no use, `wrong` true once it gave a
    wrong number in plain memory. Of a batch that is too large for memory, truth and condition take so many `rows` at a time.
    `oracle_seconds` is how long truth and conditions took."""

    candidate: Candidate
    precision: Precision
    instance: object
    lower: dict[str, Precision] = field(default_factory=dict)
    complex_safe: dict[tuple[str, str], bool] = field(default_factory=dict)
    output_names: tuple[str, ...] = ("h", "c_T")
    refuted: dict[str, int] = field(default_factory=dict)
    textbook: bool = True
    rows: int | None = None
    absolute: int = tol.NEITHER
    many: bool = True
    wrong: bool = False
    oracle_seconds: float = 0.0

    @contextmanager
    def ours(self) -> Iterator[None]:
        """What runs in it is the time of the oracle, not of the candidate."""
        began = time.monotonic()
        yield
        self.oracle_seconds += time.monotonic() - began

    def case(self, spec: Spec) -> Case:
        """The arrays of a case for this candidate."""
        return cases.build(spec, self.precision.dtype, self.candidate.model, self.candidate.variant)

    @property
    def arithmetic(self) -> Precision:
        """The precision that it computes in: the dtype's, unless all of it is computed in a lower one."""
        return next(iter(self.lower.values())) if {self.candidate.hidden, "J"} & set(self.lower) else self.precision

    def u(self, key: str) -> float:
        """The unit roundoff of a forward value ("h") or a gradient ("dh")."""
        return self.lower[key].u if key in self.lower else self.precision.u


@dataclass
class Point:
    """Textbook inputs and cotangents, with truth and condition computed when first asked for."""

    bench: Bench
    inputs: dict
    cotangents: dict

    def __post_init__(self):
        self.cotangents = contract.flowing(self.bench.candidate, self.cotangents)

    @cached_property
    def seen(self) -> dict:
        """The inputs that the candidate really computes with, in its layout and dtype."""
        return layout.effective(self.bench.candidate.layout, self.inputs, self.bench.precision.dtype)

    @cached_property
    def rows(self) -> int | None:
        """How many rows of the batch are taken at once; None where all are."""
        candidate, rows = self.bench.candidate, self.bench.rows
        if rows is None or candidate.model or not candidate.variant.textbook:
            return None
        return rows if self.inputs["x"].shape[1] > rows else None

    @cached_property
    def under_way(self) -> Callable[[], autodiff.Truth]:
        """The oracle, which computes while the candidate and the noise do."""
        if self.rows is not None:
            return lambda: parts.truth(self.seen, self.cotangents, self.rows)
        with self.bench.ours():
            return variants.begun(self.bench.candidate.variant, self.seen, self.cotangents)

    @cached_property
    def truth(self) -> autodiff.Truth:
        under_way = self.under_way
        with self.bench.ours():
            return under_way()

    @cached_property
    def in_tails(self) -> Point:
        """The same, where σ is as accurate as numbers of size 1 are."""
        return Point(replace(self.bench, absolute=tol.SIGMOID), self.inputs, self.cotangents)

    @cached_property
    def near_zero(self) -> Point:
        """The same, where σ and tanh are as accurate as numbers of size 1 are."""
        return Point(replace(self.bench, absolute=tol.SIGMOID_AND_TANH), self.inputs, self.cotangents)

    @cached_property
    def noisy(self) -> Callable[..., tol.Lanes]:
        """The noisy run of these inputs, as a function of what flows in."""
        candidate, absolute = self.bench.candidate, self.bench.absolute
        with self.bench.ours():
            return tol.noisy(self.seen, self.bench.arithmetic, absolute, candidate.layout.forget_bias, candidate.variant)

    @cached_property
    def lanes(self) -> tol.Lanes:
        noisy = self.noisy
        with self.bench.ours():
            return noisy(self.cotangents, self.seen["w"] if "w" in self.inputs else None)

    @cached_property
    def conditions(self) -> dict[str, Condition]:
        """The condition of every forward value ("h") and gradient ("dW_f")."""
        return self._flushed(self._parts.blocks if self.rows is not None else tol.conditions(self.lanes, self.bench.arithmetic, BY_STEP))

    @cached_property
    def conditions_due(self) -> dict[str, Condition]:
        """The conditions of the gradients that are due alone, where no others were asked for."""
        if "conditions" in self.__dict__ or self.rows is not None:
            return self.conditions
        values = {f"d{k}": self.lanes.values[f"d{k}"] for k in self.bench.candidate.gradient_names}
        return self._flushed(tol.conditions(self.lanes._replace(values=values), self.bench.arithmetic, BY_STEP))

    def _flushed(self, found: dict[str, Condition]) -> dict[str, Condition]:
        lower = self.bench.lower
        return found | {k: tol.flushed(found[k], lower[k]) for k in lower if k in found}

    def flowing(self, cotangents: dict, w: np.ndarray | None = None) -> Point:
        """The same inputs with other cotangents, or other weights of the loss: what is known of the forward pass is known of it."""
        other = Point(self.bench, self.inputs if w is None else {**self.inputs, "w": w}, cotangents)
        if "noisy" in self.__dict__:
            other.__dict__["noisy"] = self.noisy
        return other

    @cached_property
    def _parts(self) -> parts.Conditions:
        own = (self.rows, self.bench.absolute, self.bench.candidate.layout.forget_bias)
        with self.bench.ours():
            return parts.conditions(self.seen, self.cotangents, self.bench.arithmetic, *own)

    @property
    def loss(self) -> tuple[np.ndarray, float]:
        """J in every lane, and Σ|terms| of it."""
        if self.rows is not None:
            return self._parts.J, self._parts.terms
        lanes = self.lanes.values
        return (lanes["J"], float(np.abs(lanes["J"][0]))) if "J" in lanes else parts.loss(lanes, self.cotangents)

    @cached_property
    def rounding_of_J(self) -> float:
        """A bound on the rounding error of one value of J of the candidate's own forward pass."""
        return self.rounding_at(max(self.bench.u(self.bench.candidate.hidden), self.bench.u("J")))

    def rounding_at(self, u: float) -> float:
        """A bound on the rounding error of J that is formed at unit roundoff `u`."""
        J, terms = self.loss
        spread = np.abs(J - J[0]).max() / self.bench.arithmetic.eta
        return float(tol.KAPPA * u * (spread + terms))

    def tolerance(self, of: str) -> np.ndarray:
        """The tolerance of the gradient of `of`, per entry."""
        if not self.bench.textbook:
            widest = max(float(c.C.max()) for k, c in self.conditions.items() if k[0] == "d")
            return np.full_like(self.conditions[f"d{of}"].C, tol.KAPPA * self.bench.u(f"d{of}") * widest)
        condition = self.conditions_due[f"d{of}"] if of in self.bench.candidate.gradient_names else self.conditions[f"d{of}"]
        return tol.tolerance(condition, self.bench.u(f"d{of}"))


# what a failure may still be: a note under a check, where the values of some quantities are small and their noise is absolute
LOOSER: tuple[tuple[str, tuple[str, ...], Callable[[Point], Point], str], ...] = (
    (
        "numerics.sigmoid_tail",
        ("f", "i", "o"),
        lambda point: point.in_tails,
        "σ loses relative accuracy in its tail (as ½(1 + tanh(a/2)) does)",
    ),
    (
        "numerics.tanh_near_zero",
        ("c_tilde", "c"),
        lambda point: point.near_zero,
        "tanh loses relative accuracy near 0 (as 2σ(2a) − 1 does)",
    ),
)


@dataclass
class Judged:
    """One case, judged: evidence by check id, and what the laws and the state checks go on with."""

    case: Case
    point: Point
    evidence: dict[str, Evidence] = field(default_factory=dict)
    gradients: Answer | None = None
    outputs: tuple[str, ...] = ()
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, check: str, evidence: Evidence) -> None:
        known = self.evidence.get(check)
        self.evidence[check] = evidence if known is None else worst_of([known, evidence])

    def fails(self, check: str) -> bool:
        return check in self.evidence and self.evidence[check].outcome == FAIL


def fitted(spec: Spec, candidate: Candidate) -> Spec:
    """The spec nearest to this one that the candidate supports."""
    supports = candidate.supports
    spec = replace(spec, sizes=supports.fit(spec.sizes), initial_state=supports.start(spec.initial_state))
    if candidate.model:
        return replace(spec, cotangents="all")
    if "h" in supports.missing:  # what flows into the rest is as much as there is
        return replace(spec, cotangents="all" if spec.cotangents in ("h", "last", *supports.missing) else spec.cotangents, logits=1.0)
    unseen = {k for k in ("h_T", "c_T") if k in supports.missing} - ({"h_T"} if candidate.variant.h_T_is_last_h else set())
    if unseen:
        spec = replace(spec, cotangents="h" if spec.cotangents in ("all", *unseen) else spec.cotangents)
    return replace(spec, logits=1.0)


def judge(bench: Bench, case: Case, with_differences: bool = True, with_taps: bool = True) -> Judged:
    """Run the candidate on a case and hold everything that it gives against autodiff and against differences. Numbers that are wrong in
    awkward memory alone are told as that."""
    with contract.listening():
        found = _judge(bench, case, with_differences, with_taps)
        wrong = _wrong_numbers(found)
        bench.wrong |= bool(wrong) and case.spec.memory == "plain"
        if not wrong or bench.wrong:
            return found
        plain_case = replace(case, spec=replace(case.spec, memory="plain"))
        plainly = _judge(bench, plain_case, with_differences, with_taps)
        if _wrong_numbers(plainly) or any(e.outcome == FAIL for c, e in plainly.evidence.items() if c.startswith("contract.")):
            return found
        plainly.case = case
        plainly.add(f"state.{case.spec.memory}", worst_of(wrong)._replace(rule=AWKWARD[case.spec.memory]))
        return plainly


def _wrong_numbers(found: Judged) -> list[Evidence]:
    return [e for c, e in found.evidence.items() if e.outcome == FAIL and c.startswith(("forward.", "grad.", "inter."))]


def _judge(bench: Bench, case: Case, with_differences: bool, with_taps: bool) -> Judged:
    found = Judged(case, Point(bench, case.inputs, case.cotangents))
    found.point.under_way  # noqa: B018  begins it
    outputs, call = _called(found, bench)
    if outputs is None:
        return found
    forward_right = _judge_forward(found, outputs, bench, call)
    if found.gradients is not None:
        _judge_gradients(found, bench, forward_right)
        if with_differences:
            _judge_differences(found, bench, call, forward_right, with_taps)
    return found


def called(bench: Bench, case: Case) -> Judged:
    """Run the candidate on a case, and judge what it promises of every call; truth and conditions are there when asked for."""
    found = Judged(case, Point(bench, case.inputs, case.cotangents))
    with contract.listening():
        _called(found, bench)
    return found


def _called(found: Judged, bench: Bench) -> tuple[Answer | None, contract.Call]:
    """The outputs, if there are any, and the call that differences go on from."""
    candidate, case = bench.candidate, found.case
    call = contract.prepare(candidate, case.inputs, bench.precision.dtype, case.spec.memory)
    given = contract.snapshot(call.inputs)
    outputs = None
    try:
        outputs, pull = contract.start(call, bench.instance)
        found.gradients = pull(case.cotangents) if candidate.kind != "forward" else Answer({}, {}, {})
    except Finding as finding:
        _blame(found, finding)
    changed = contract.changes(call.inputs, given)
    mutated = Evidence(FAIL, np.inf, ", ".join(changed), rule=f"{', '.join(changed)} changed during the call")
    found.add("state.inputs_unmutated", mutated if changed else Evidence(PASS))
    if changed:  # differences are taken where the gradients were
        call = contract.prepare(candidate, case.inputs, bench.precision.dtype, case.spec.memory)
    if outputs is not None:
        bench.output_names = found.outputs = tuple(k for k in LAYER_OUTPUTS if k in outputs.arrays)
        found.values = {k: outputs.arrays[k] for k in (*found.outputs, *(("J",) if case.model else ()))}
        for answer in filter(None, (outputs, found.gradients)):
            _contract_evidence(found, answer, bench)
    return outputs, call


def _blame(found: Judged, finding: Finding) -> None:
    memory = found.case.spec.memory
    check = f"state.{memory}" if memory != "plain" and finding.check == "contract.call" else finding.check
    found.add(check, Evidence(FAIL, np.inf, rule=finding.sentence))


def _contract_evidence(found: Judged, answer: Answer, bench: Bench) -> None:
    for name in CONTRACT:
        found.evidence.setdefault(f"contract.{name}", KEPT)
    for block, finding in answer.faults.items():
        found.add(finding.check, Evidence(FAIL, np.inf, block, rule=finding.sentence))
    due = bench.precision.dtype
    for name, array in answer.raw.items():
        if contract.strays(array, due):
            sentence = f"{name} came back as {array.dtype} for {due} inputs"
            found.add("contract.dtype", Evidence(FAIL, np.inf, name, rule=sentence))


def _judge_forward(found: Judged, outputs: Answer, bench: Bench, call: contract.Call) -> bool:
    """Whether h and c_T (or the loss) are the textbook's here."""
    point, right = found.point, True
    point.conditions  # noqa: B018  the oracle computes meanwhile
    there = {k: v for k, v in outputs.arrays.items() if point.rows is None or k in point.truth.values}
    blocks = [(name, seen, point.truth.values[name], name) for name, seen in there.items()]
    for name, evidence in zip(there, held_against_autodiff(found, blocks, bench), strict=True):
        found.add(f"forward.{name}", evidence)
        right &= evidence.outcome != FAIL or name not in (*FORWARD, "J")
    if not right and (alone := _forward_alone(bench, found, call)).outcome == FAIL:
        check = f"forward.{alone.quantity}"
        found.evidence[check] = found.evidence.get(check, alone)._replace(rule=alone.rule)
    if bench.candidate.hidden in outputs.faults or "c_T" in outputs.faults:
        right = False
    case = found.case
    if case.inputs["h0"].any() or case.inputs["c0"].any():
        used = _initial_state(found, outputs, bench)
        if not case.model:
            found.add("forward.initial_state", used)
        elif used.outcome == FAIL:
            found.evidence["forward.J"] = found.evidence["forward.J"]._replace(rule=used.rule)
    return right


def _initial_state(found: Judged, outputs: Answer, bench: Bench) -> Evidence:
    h, states = "J" if found.case.model else bench.candidate.hidden, bench.candidate.supports.states
    if not found.fails(f"forward.{h}"):
        return Evidence(PASS)  # the states were used, whatever becomes of them at the end
    seen, there = outputs.arrays[h], tuple(k for k in states if found.point.seen[k].any())
    for ignored in dict.fromkeys((there, *((k,) for k in there))):
        zeros = {k: np.zeros_like(found.point.seen[k]) for k in ignored}
        due = variants.truth(bench.candidate.variant, {**found.point.seen, **zeros}, found.case.cotangents).values[h]
        if compare(h, seen, due, found.point.conditions[h], bench.arithmetic, bench.u(h)).outcome == PASS:
            names = " and ".join(ignored)
            sentence = f"{h} is what it would be with {names} zero: {names} ignored"
            if there == states:  # else the other may be ignored as well
                declared = "initial_state" if len(ignored) > 1 else ignored[0]
                sentence += f'. If that is meant, declare supports = {{"{declared}": False}}'
            return Evidence(FAIL, np.inf, h, rule=sentence)
    return Evidence(PASS)


def _judge_gradients(found: Judged, bench: Bench, forward_right: bool) -> None:
    answer, point = found.gradients, found.point
    for name, fault in answer.faults.items():
        if name not in bench.candidate.gradient_names:
            continue
        for check in (f"grad.{plain(name)}.autodiff", f"grad.{plain(name)}.differences"):
            if fault.check != "contract.keys":
                found.add(check, Evidence(FAIL, np.inf, name, rule=fault.sentence))
    if not forward_right:
        return  # the truth is another function's: only differences of its own forward pass can tell
    checks, blocks = [], []
    for key, seen in answer.arrays.items():
        name = key.removesuffix(".second")
        kind = "inter" if name in BY_STEP else "grad"
        if kind == "grad" and name not in bench.candidate.gradient_names:
            continue  # declared as not provided
        if point.rows is not None and name not in point.truth.gradients:
            continue  # of a case in parts, intermediates are not judged
        told = f"{name} of {bench.candidate.layout.name('b_h')}" if name != key else name
        checks.append(f"{kind}.{plain(name)}.autodiff")
        blocks.append((told, seen, point.truth.gradients[name], f"d{name}"))
    for check, evidence in zip(checks, held_against_autodiff(found, blocks, bench), strict=True):
        if evidence.outcome == FAIL and not bench.textbook and np.isfinite(evidence.ratio):
            evidence = evidence._replace(outcome=UNRESOLVED, rule=ELSEWHERE)
        found.add(check, evidence)


def held_against_autodiff(found: Judged, blocks: list[tuple], bench: Bench) -> list[Evidence]:
    """Compare blocks, each given as its name, what was seen, what is due, and the key of its condition; what fails is
    judged again with the noise of σ absolute, and then with that of tanh too; what passes so is a note, not a failure."""
    conditions = found.point.conditions
    pieces = compare_all([Block(name, seen, due, conditions[key], bench.u(key)) for name, seen, due, key in blocks], bench.arithmetic)
    for n, evidence in enumerate(pieces):
        if evidence.outcome in (FAIL, UNRESOLVED):
            pieces[n] = _second_look(found, blocks[n], evidence, bench)
    return pieces


def _second_look(found: Judged, block: tuple, evidence: Evidence, bench: Bench) -> Evidence:
    (name, seen, due, key), point = block, found.point
    if np.isfinite(due).all() and not np.isfinite(seen).all() and point.conditions[key].in_range:
        found.add("contract.finite", evidence)
    if evidence.outcome != FAIL or not np.isfinite(evidence.ratio):
        return evidence

    def smallest(formed):
        values = (point.conditions[k].clean for k in formed if k in point.conditions)
        return min((float(np.tanh(np.abs(v)).min()) for v in values), default=0.0)  # of c, its tanh

    for check, formed, looser, loses in sorted(LOOSER, key=lambda look: smallest(look[1]) * tol.KAPPA > 1):  # where it is small, first
        if evidence.ratio * smallest(formed) > tol.KAPPA:
            continue  # absolute noise on q is at most 1/q times the relative: that cannot explain this
        again = compare(name, seen, due, looser(point).conditions[key], bench.arithmetic, bench.u(key))
        if again.outcome != FAIL:
            note = f"{loses}: {name} is off by {evidence.ratio:.3g} tolerances"
            found.add(check, Evidence(PASS, 0.0, name, note=note))
            return again
    return evidence


def _judge_differences(found: Judged, bench: Bench, call: contract.Call, forward_right: bool, with_taps: bool) -> None:
    case, point = found.case, found.point
    names = [k for k in bench.candidate.gradient_names if k in found.gradients.arrays]
    with_taps &= point.rows is None
    inner = [k for k in LAYER_INTERMEDIATES if with_taps and bench.candidate.taps and not case.model and k in found.gradients.arrays]
    limits = {k: point.tolerance(k) for k in (*names, *inner)}
    if not forward_right:  # conditions are another function's: grant every entry the largest of all blocks
        widest = max((float(v.max()) for v in limits.values()), default=0.0)
        limits = {k: np.full_like(v, widest) for k, v in limits.items()}
    base = {k: v if v.dtype.kind == "i" else v.astype(np.float64) for k, v in call.inputs.items()}
    apart: Evidence | None = None
    alone = case.model and _loss_alone(bench, found, call)
    moves: Iterable[Move] = _moves(bench, found, call, (*names, *inner), inner)
    known: dict[int, differences.Difference] = {}
    if bench.many and contract.gives_many(bench.candidate, bench.instance):
        moves = list(moves)
        known = _complex_steps(bench, found, call, base, moves)
    for n, move in enumerate(moves):
        k, told, direction = move.k, move.told, move.direction
        kind = "inter" if k in inner else "grad"
        J = _along(call, bench.instance, case, base, move.along, {k: direction} if k in inner else {}, alone)
        try:
            evidence = _one_difference(bench, found, move, J, limits[k], known.get(n))
            if evidence.outcome == FAIL and (apart := apart or _forward_alone(bench, found, call)).outcome == FAIL:
                found.add(f"forward.{apart.quantity}", apart)
                evidence = Evidence(UNRESOLVED, quantity=told, rule=ANOTHER_FUNCTION, note=ANOTHER_FUNCTION)
        except Finding as finding:
            evidence = Evidence(UNRESOLVED, quantity=told, rule=finding.sentence)
        found.add(f"{kind}.{plain(k)}.differences", evidence)
        bench.refuted[k] = bench.refuted.get(k, 0) + (move.part is None and evidence.outcome == FAIL)


def _forward_alone(bench: Bench, found: Judged, call: contract.Call) -> Evidence:
    """Whether `forward`, which is differenced, gives what `pullback` gives, now as before; a failure where it does not."""
    if bench.candidate.kind != "pullback":
        return KEPT
    try:
        alone, again = contract.forward(call, bench.instance).arrays, contract.start(call, bench.instance)[0].arrays
    except Finding:
        return KEPT
    for k in (k for k in found.outputs if k in alone and k in again and k in found.point.conditions):
        told = (found.values[k], found.point.conditions[k], bench.arithmetic, 2 * bench.u(k))
        if compare(k, again[k], *told).outcome == FAIL:
            return KEPT  # it depends on earlier calls
        if (evidence := compare(k, alone[k], *told)).outcome == FAIL:
            rule = f"{k} of forward(inputs), where no gradient is asked for, is another than {k} of pullback(inputs), where one is"
            return evidence._replace(rule=rule)
    return KEPT


class Move(NamedTuple):
    """What is differenced once: the quantity, its name in messages, the gradient, a direction, which of two biases moves, and the
    direction as arrays of the candidate's own (none for an intermediate)."""

    k: str
    told: str
    seen: np.ndarray
    direction: np.ndarray
    part: str | None
    along: dict[str, np.ndarray]


def _moves(bench: Bench, found: Judged, call: contract.Call, names: tuple[str, ...], inner: list[str]) -> Iterator[Move]:
    """What is differenced of each gradient. Two biases have the same one; they are moved together, and then each alone."""
    rng, gradients, layout = np.random.default_rng(found.case.spec.seed), found.gradients.arrays, call.candidate.layout
    for k in names:
        if bench.refuted.get(k, 0) >= ENOUGH:
            continue
        exact = bench.arithmetic.name == "float64" and bench.complex_safe.get((k, found.case.spec.regime), True)
        parts: list[tuple] = [(k, gradients[k], v, None) for v in _directions(gradients[k], rng, exact)]
        if f"{k}.second" in gradients:
            for part, twin in (("b_x", k), ("b_h", f"{k}.second")):
                direction = next(_directions(gradients[k], rng, exact=False))
                parts.append((f"{k} of {layout.name(part)}", gradients[twin], direction, part))
        for told, seen, direction, part in parts:
            along = {} if k in inner else contract.direction(call.candidate, found.case.inputs, k, direction, part)
            yield Move(k, told, seen, direction, part, along)


def _complex_steps(bench: Bench, found: Judged, call: contract.Call, base: dict, moves: list[Move]) -> dict[int, differences.Difference]:
    """The complex steps that are known to be right for this candidate, by number, in one call of its `forward_many` or `loss_many`,
    where that gives what its forward pass gives."""
    regime, dtype, model = found.case.spec.regime, np.dtype(np.complex128), found.case.model
    numbers = [n for n, m in enumerate(moves) if m.along and bench.complex_safe.get((m.k, regime))]
    if not numbers or len(numbers) * sum(v.nbytes for v in base.values()) * 2 > TOGETHER:
        return {}
    together = contract.many(call, base, [moves[n].along for n in numbers], 1j * differences.COMPLEX_STEP, dtype)
    try:
        with np.errstate(all="ignore"):
            J = contract.run_many(together, bench.instance, found.outputs, found.case.cotangents)
        due = found.values["J"] if model else functional(found.values, found.point.cotangents)
        far = np.abs(J.real - due).max()
        apart = (
            "" if far <= found.point.rounding_of_J else f"{_many(model)} gives another J than it is of one set of inputs: off by {far:.3g}"
        )
    except Finding as finding:
        apart = finding.sentence
    if apart:
        _leave_alone(bench, found, apart)
        return {}
    steps = [differences.of_complex_step(value) for value in J]
    return {n: step for n, step in zip(numbers, steps, strict=True) if step is not None}


def _many(model: bool) -> str:
    return "loss_many" if model else "forward_many"


def _leave_alone(bench: Bench, found: Judged, why: str) -> None:
    """Its `forward_many` or `loss_many` is not asked again, and that is told."""
    bench.many = False
    told = f"{why}; it is left alone, and differences are taken with one call at a time"
    found.evidence["contract.call"] = found.evidence["contract.call"]._replace(note=told)


def _one_difference(bench: Bench, found: Judged, move: Move, J, limit, known: differences.Difference | None) -> Evidence:
    """Hold one gradient along one direction against the difference of J there; `known` is the complex step, where it is taken already."""
    (k, told, seen, direction, *_), case = move, found.case
    p, u = bench.arithmetic, bench.u(f"d{k}")
    coarse = u > tol.PRECISIONS["float64"].u
    key = (k, case.spec.regime)

    def judged(d, own=0.0):
        return compare_along(told, seen, direction, d.value, d.bound + own, limit, p, d.method)

    exact, own = None, 0.0
    if p.name == "float64" and not coarse and bench.complex_safe.get(key, True):
        exact, own = known or _complex(J), float(np.vdot(np.abs(direction), limit))  # the complex step rounds as the gradient does
        if known is not None and judged(known, own).outcome == FAIL:
            exact = _complex(J)
            if exact is not None and judged(exact, own).outcome != FAIL and bench.many:
                _leave_alone(bench, found, f"{_many(case.model)} has another derivative than it has of one set of inputs")
        if exact is None:
            bench.complex_safe[key] = False
        elif key in bench.complex_safe and (evidence := judged(exact, own)).outcome != FAIL:
            return evidence
    scale = float(np.linalg.norm(seen)) / np.sqrt(seen.size)
    good_enough = scale * max(np.sqrt(u), p.resolution**2 if coarse else 0.0)
    rounding = found.point.rounding_of_J
    if k in case.inputs:  # rounding of the moved inputs
        rounding += u * float(np.sum(np.abs(seen) * np.abs(case.inputs[k])))
    least = float(np.vdot(np.abs(direction), limit)) + differences.least_bound(rounding)
    confirmed = found.evidence.get(f"grad.{plain(k)}.autodiff", Evidence(UNRESOLVED)).outcome == PASS
    if confirmed and exact is None and least >= max(scale, abs(float(np.vdot(seen, direction)))) > 0:
        return Evidence(UNRESOLVED, quantity=told, rule=BEYOND)

    def real_steps():
        return differences.real_steps(J, rounding, tol.DIFFERENCE_BOUND, scale, good_enough, p.resolution * scale, coarse)

    def near_kinks():
        return differences.near_kinks(J, rounding, tol.KINK_BOUND, good_enough, coarse)

    def by_short_steps(d):
        evidence = judged(d)
        condition = float(np.vdot(np.abs(direction), limit)) / (tol.KAPPA * u)  # how fast the gradient itself may change
        if evidence.outcome == FAIL and condition * d.step > tol.BENT * max(abs(evidence.candidate), abs(d.value)):
            return evidence._replace(outcome=UNRESOLVED, rule="J bends too much within the shortest step of the differences")
        kind = "inter" if k in BY_STEP else "grad"
        confirmed = found.evidence.get(f"{kind}.{plain(k)}.autodiff", evidence).outcome != FAIL
        if evidence.outcome == FAIL and confirmed:
            own_rounding = differences.rounded(found.point.near_zero.rounding_of_J, d.step)
            if evidence.error <= evidence.tolerance + own_rounding:
                return evidence._replace(outcome=UNRESOLVED, rule="J is as flat here as a coarse σ or tanh makes it")
        return evidence

    if exact is None:
        evidence = judged(real_steps())
        return by_short_steps(near_kinks()) if evidence.outcome == FAIL else evidence
    evidence = judged(exact, own)
    if evidence.outcome == FAIL:
        real = real_steps()
    else:  # one step is enough to trust it
        real = differences.six_point(J, rounding, tol.DIFFERENCE_BOUND, scale, good_enough, coarse, tries=1)
    agree = abs(real.value - exact.value) <= real.bound + own
    if not agree:
        real = near_kinks()
        agree = abs(real.value - exact.value) <= real.bound + own and real.bound <= p.resolution * scale
    bench.complex_safe.setdefault(key, agree)
    return evidence if agree and evidence.outcome != FAIL else by_short_steps(real)


def _complex(J) -> differences.Difference | None:
    try:
        with np.errstate(all="ignore"):
            return differences.complex_step(J)
    except Finding:
        return None  # a forward pass that cannot take complex numbers is no failure


def _directions(seen: np.ndarray, rng: np.random.Generator, exact: bool):
    """Every unit vector of a tiny block where a difference costs one pass, else one Gaussian direction of length 1."""
    if exact and seen.size <= ENTRY_BY_ENTRY:
        for n in range(seen.size):
            direction = np.zeros(seen.size)
            direction[n] = 1
            yield direction.reshape(seen.shape)
        return
    direction = rng.standard_normal(seen.shape)
    yield direction / math.sqrt(np.vdot(direction, direction))


def _along(call: contract.Call, instance, case: Case, base: dict, along: dict, taps: dict, alone: bool):
    """J of the candidate's own forward pass, as a function of a real or imaginary step from `base` along a direction: of its arrays, or of
    `taps`. `alone` says that a model gives its loss without gradients."""

    def J(step):
        dtype = np.dtype(np.complex128) if isinstance(step, complex) else call.dtype
        there = contract.moved(call, base, along, step, dtype)
        if call.candidate.model:
            return contract.loss(there, instance)[()] if alone else contract.start(there, instance)[0].arrays["J"][()]
        tapped = {k: (step * v).astype(dtype) for k, v in taps.items()} or None
        return functional(contract.forward(there, instance, tapped).arrays, contract.flowing(call.candidate, case.cotangents))

    return J


def _loss_alone(bench: Bench, found: Judged, call: contract.Call) -> bool:
    """Whether a model gives the same loss without gradients, by a method of its own."""
    if not contract.gives_loss(bench.instance):
        return False
    try:
        return bool(abs(contract.loss(call, bench.instance) - found.values["J"]) <= found.point.rounding_of_J)
    except Finding:
        return False


def functional(outputs: dict, s: dict):
    """J = Σ_t ⟨s_t, h_t⟩ + ⟨s_h, h_T⟩ + ⟨s_c, c_T⟩ of a candidate's outputs."""
    if not {"h", "h_T"} & set(outputs) or any(k not in outputs and s[k].any() for k in ("h", "c_T")):
        raise Finding("contract.keys", "h or c_T is missing, so the forward pass cannot be differenced")
    J = np.vdot(s["h_T"], outputs["h_T"] if "h_T" in outputs else outputs["h"][-1])
    J = np.vdot(s["h"], outputs["h"]) + J if "h" in outputs else J
    return J + np.vdot(s["c_T"], outputs["c_T"]) if "c_T" in outputs else J


def measure_precision(bench: Bench, cases: list[Case]) -> Evidence:
    """Find the blocks that the candidate computes in a lower precision than its dtype, and judge them at that from now on.

    A block counts when in every one of these cases it fails at the dtype's own precision, passes at the lower one, and
    looks computed in it, and its errors are other ones where the numbers are a little different; where h or the loss does, every
    block counts. So it does where h is wrong and lies in a half precision in every case. Raises Finding when a call runs out of time.
    """
    p, lower = bench.precision, tol.PRECISIONS.get(LOWER.get(bench.precision.name, ""))
    if lower is None:
        return Evidence(PASS)
    votes: dict[str, list[bool]] = {}
    answers = []
    try:
        found = [_answers(bench, case) for case in cases]
        answers = [blocks for _, blocks in found]
        if p.name == "float32":
            lower = _coarse(bench, found) or _likely_half(_failing(bench, found))
        for case, (point, blocks) in zip(cases, found, strict=True):
            for block in blocks:
                k, seen, due, key = block
                explained = _within(bench, point, block, lower) and not _within(bench, point, block, p)
                P = case.inputs["h0"].shape[-1] if plain(k) in WEIGHTS else 0
                parts = [(seen[:, :P], due[:, :P]), (seen[:, P:], due[:, P:])] if P else [(seen, due)]  # W_h and W_x may be two arrays
                votes.setdefault(key, []).append(explained and any(looks_like(*part, lower.dtype, lower.u) for part in parts))
        rounded = _rounded(bench, cases, answers, {key for key, v in votes.items() if all(v)}, lower.u)
    except Finding as finding:
        if finding.check == "contract.time":
            raise
        return Evidence(PASS)  # contract.call will say it
    bench.lower = {key: lower for key in votes if key in rounded}
    if not bench.lower and (half := _half_of_h(bench, cases, answers)):
        lower, bench.lower = half, {bench.candidate.hidden: half}
    if {bench.candidate.hidden, "J"} & set(bench.lower):
        bench.lower = dict.fromkeys(votes, lower)  # gradients are formed from what the forward pass left
    if not bench.lower:
        return Evidence(PASS)
    of_gradients = {key for key in votes if key[0] == "d"}
    names = "every gradient" if set(bench.lower) == of_gradients else ", ".join(sorted(bench.lower))
    names = "everything" if len(bench.lower) == len(votes) else names
    stored = any(lies_in(seen, lower.dtype) for blocks in answers for _, seen, _, key in blocks if key in bench.lower)
    tf32 = "" if stored or (p.name, lower.name) != ("float32", "float16") else TF32
    sentence = f"{names} is computed in {lower.name}, though {p.name} goes in and comes out; judged as {lower.name} from here on{tf32}"
    return Evidence(FAIL, np.inf, names, rule=sentence)


def _half_of_h(bench: Bench, cases: list[Case], answers: list[list]) -> Precision | None:
    """The half precision that every number of a wrong h lies in, in every case: a mistake of mathematics leaves no such h."""
    found = [(seen, due) for blocks in answers for k, seen, due, _ in blocks if k == bench.candidate.hidden]
    for half in (tol.PRECISIONS[k] for k in HALVES):
        if len(found) == len(cases) and all(lies_in(seen, half.dtype) and not np.array_equal(seen, due) for seen, due in found):
            return half
    return None


def _coarse(bench: Bench, found: list[tuple[Point, list[tuple]]]) -> Precision | None:
    """bfloat16, where all numbers of a block that is wrong lie in it in every case. Errors of its size alone do not tell: many a mistake of
    mathematics makes them."""
    half = tol.PRECISIONS["bfloat16"]
    lies: dict[str, list[bool]] = {}
    for point, blocks in found:
        for block in blocks:
            _, seen, _, key = block
            lies.setdefault(key, []).append(lies_in(seen, half.dtype) and not _within(bench, point, block, bench.precision))
    return half if any(all(v) and len(v) == len(found) for v in lies.values()) else None


def _failing(bench: Bench, found: list[tuple[Point, list[tuple]]]) -> list[tuple[Point, list[tuple]]]:
    """The blocks that have an error too large for the dtype."""
    return [(point, [block for block in blocks if not _within(bench, point, block, bench.precision)]) for point, blocks in found]


def _likely_half(failing: list[tuple[Point, list[tuple]]]) -> Precision:
    """The half precision that the errors of wrong gradients have the size of, most of them. Where the forward pass is wrong too it is
    float16: a table or another coarse σ makes errors of the size of bfloat16's, and no more steady ones."""
    half, sizes = tol.PRECISIONS["float16"], []
    for point, blocks in failing:
        for _, seen, due, key in blocks:
            if key[0] != "d":
                return half
            sizes.append(float(np.sqrt(np.mean(((seen - due) / (half.u * point.conditions[key].C)) ** 2))))
    return tol.PRECISIONS["bfloat16"] if sizes and np.median(sizes) > tol.LIKE_BFLOAT16 else half


def _within(bench: Bench, point: Point, block: tuple, precision: Precision) -> bool:
    """Whether no error of a block is too large for a precision."""
    k, seen, due, key = block
    return compare(k, seen, due, point.conditions[key], bench.precision, precision.u).outcome != FAIL


def computed_in(e: Evidence) -> str:
    """The precision that evidence of `measure_precision` names; empty where it names none."""
    found = COMPUTED_IN.search(e.rule)
    return found[1] if found else ""


def _answers(bench: Bench, case: Case) -> tuple[Point, list[tuple]]:
    """A case, and every block that the candidate gives there: its name, what is seen, what is due, the key of its condition."""
    point = Point(bench, case.inputs, case.cotangents)
    call = contract.prepare(bench.candidate, case.inputs, bench.precision.dtype)
    outputs, gradients = contract.run(call, bench.instance, case.cotangents)
    blocks = [(k, v, point.truth.values[k], k) for k, v in outputs.arrays.items()]
    blocks += [(k, v, point.truth.gradients[k], f"d{k}") for k, v in gradients.arrays.items() if k in point.truth.gradients]
    return point, blocks


def _rounded(bench: Bench, cases: list[Case], answers: list[list], keys: set[str], u: float) -> set[str]:
    """Of these blocks, those whose errors are rounding: near by, where every number is a few roundings away, they are other ones in
    most cases. An error of mathematics is nearly the same there, however small it is."""
    others: dict[str, list[bool]] = {key: [] for key in keys}
    for case, here in zip(cases, answers, strict=True):
        before = {key: seen - due for _, seen, due, key in here if key in keys}
        near = _answers(bench, _moved(case, tol.MOVED * u, bench.precision.dtype))[1] if before else []
        for _, seen, due, key in near:
            if key in before and np.any(before[key]):
                change = np.linalg.norm(seen - due - before[key])
                others[key].append(bool(change > tol.SAME_ERROR * np.linalg.norm(before[key])))
    return {key for key, v in others.items() if 2 * sum(v) > len(v)}


def held_in(bench: Bench, cases: list[Case]) -> str:
    """The lower precision whose rounding all errors in these cases are, though none of what comes back lies in it; empty where
    nothing is wrong, or where none explains it. Raises Finding."""
    if bench.precision.name not in LOWER:
        return ""
    wrong = _failing(bench, [_answers(bench, case) for case in cases])
    keys = {key for _, blocks in wrong for *_, key in blocks}
    first = [tol.PRECISIONS["float32"]] if bench.precision.name == "float64" else []
    for lower in (*first, _likely_half(wrong)):
        if all(_within(bench, point, block, lower) for point, blocks in wrong for block in blocks):
            sized = any(looks_like(seen, due, lower.dtype, lower.u) for _, blocks in wrong for _, seen, due, _ in blocks)
            return lower.name if sized and _rounded(bench, cases, [blocks for _, blocks in wrong], keys, lower.u) == keys else ""
    return ""


def _moved(case: Case, by: float, dtype: np.dtype) -> Case:
    """The case with every number multiplied by 1 plus up to `by`, no less than by half of it."""
    rng = np.random.default_rng(case.spec.seed)

    def moved(k: str, q: np.ndarray) -> np.ndarray:
        still = q.dtype.kind == "i" or k in DATA  # masks are ones and zeros
        return q if still else (q * (1 + by * rng.uniform(0.5, 1, q.shape))).astype(dtype).astype(np.float64)

    inputs, cotangents = ({k: moved(k, v) for k, v in part.items()} for part in (case.inputs, case.cotangents))
    return replace(case, inputs=inputs, cotangents=cotangents)


def truth_holds(bench: Bench, case: Case, name: str, index: tuple[int, ...]) -> bool:
    """Whether autodiff's gradient at one entry is the difference of the oracle's own forward pass there.

    The harness accuses a candidate only where this holds; where it does not, the fault is the harness's.
    """
    point = Point(bench, case.inputs, case.cotangents)
    due = point.truth.gradients[name]
    direction = np.zeros_like(due)
    direction[index] = 1

    def J(step):
        moved = {**point.seen, name: point.seen[name] + step * direction}
        values = variants.truth(bench.candidate.variant, moved, case.cotangents).values
        return float(values["J"] if case.model else functional(values, point.cotangents))

    float64 = tol.PRECISIONS["float64"]
    scale = float(np.abs(due).max())
    rounding, good_enough = point.rounding_at(float64.u), np.sqrt(float64.u) * scale
    own = tol.KAPPA * float64.u * float(point.conditions[f"d{name}"].C[index])
    d = differences.six_point(J, rounding, tol.DIFFERENCE_BOUND, scale, good_enough)
    if abs(d.value - float(due[index])) > d.bound + own:
        d = differences.near_kinks(J, rounding, tol.KINK_BOUND, good_enough)
    return abs(d.value - float(due[index])) <= d.bound + own
