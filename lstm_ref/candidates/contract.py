"""Contract: any plugged-in LSTM as one value, and the only way in which it is ever called.

Foreign code is not trusted. Every call has a time limit, gets fresh arrays in the candidate's layout, and what comes
back is checked for presence, shape and dtype before anything reads it; what is wrong becomes a `Finding`, a sentence
with the id of the check that it belongs to.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..reference.symbols import (
    BIASES,
    HEAD,
    INITIAL,
    LAYER_INPUTS,
    LAYER_INTERMEDIATES,
    LAYER_OUTPUTS,
    MODEL_INPUTS,
    MODEL_INTERMEDIATES,
    Sizes,
    shape,
)
from ..reference.variant import DATA, TEXTBOOK, Variant, bringing, plain
from .layout import PRESETS, Layout, blocks_in, decode, encode, encode_by_time

CALL_SECONDS = 6.0  # a framework's first call compiles; a run in which one call hangs still ends within ten
KEPT_SIZES = 64  # at which a candidate is known what it may return
LONGEST_QUOTE = 300  # characters of what foreign code says
RAISED = re.compile(r"[\w.]*(Error|Exception): ")  # the line at the end of a traceback
PREFIXED = ("d{}", "d_{}", "grad_{}", "{}_grad", "g_{}", "dL_d{}", "dJ_d{}")  # how the gradient of an input may be called
CALLED_AS = {  # how each is called, and with what
    "forward": "forward(inputs), with one dict of arrays",
    "pullback": "pullback(inputs), with one dict of arrays",
    "vjp": "vjp(inputs, cotangents), with two dicts of arrays",
    "forward_many": "forward_many(inputs), with one dict of arrays that have one axis more, in front",
    "loss_many": "loss_many(inputs), with one dict of arrays that have one axis more, in front",
    "loss_and_gradients": "loss_and_gradients(inputs), with one dict of arrays",
    "pull(cotangents)": "pull(cotangents), with one dict of arrays",
}
NUMBERS = "fciub"  # kinds of dtypes that are numbers, in whatever precision
INNER = frozenset((*LAYER_OUTPUTS, *MODEL_INTERMEDIATES))  # what is computed, and not given
# what a loss is divided by, from the sizes and the weights of the positions
REDUCTIONS = {
    "sum": lambda n, w: 1.0,
    "mean": lambda n, w: n.T * n.B,
    "mean over batch": lambda n, w: n.B,
    "mean over time": lambda n, w: n.T,
    "weighted mean": lambda n, w: float(w.sum()),
}


class ContractError(ValueError):
    """The candidate declares something that cannot be understood; the text says what and what is due."""


class Finding(Exception):
    """Something a candidate did that it must not do: `check`, the id it fails, and a sentence."""

    def __init__(self, check: str, sentence: str):
        super().__init__(sentence)
        self.check, self.sentence = check, sentence


class Told(Exception):
    """What foreign code did in a process of its own: a predicate ("raised ValueError: …"), and where (" (my.py:3)")."""

    def __init__(self, what: str, place: str = ""):
        super().__init__(what)
        self.what, self.place = what, place


class Returned(dict):
    """What foreign code returned from a process of its own; `remark`, a predicate, is what it did there and must not do."""

    remark = ""


@dataclass(frozen=True)
class Supports:
    """Declared limits. `sizes` maps a size to a test and a rounding; `states` are the initial states that it takes, which are
    zero otherwise; `missing` holds gradients and outputs not provided."""

    sizes: dict[str, object] = field(default_factory=dict)
    states: tuple[str, ...] = INITIAL
    dtypes: tuple[str, ...] | None = None
    missing: tuple[str, ...] = ()
    call_seconds: float = CALL_SECONDS

    @property
    def initial_state(self) -> bool:
        """Whether it takes all of an initial state, so that a run may go on where another ended."""
        return self.states == INITIAL

    def start(self, wanted: str) -> str:
        """The nearest to an initial state that is wanted: "random", "zero", or only "h0" or "c0" that is not zero."""
        if wanted == "zero" or not self.states:
            return "zero"
        return wanted if self.initial_state else self.states[0]

    def fit(self, n: Sizes) -> Sizes:
        """The nearest sizes that are supported."""
        return n._replace(**{k: _nearest(rule, getattr(n, k)) for k, rule in self.sizes.items()})


def parse_supports(declared: dict | None) -> Supports:
    """`supports = {"B": 1, "H": "multiple of 8", "T": "at most 64", "initial_state": False, "c0": False, "x_gradient": False,
    "h": False, "c_T": False, "dtypes": ["float32"], "call_seconds": 60}` as a value. Raises ContractError, naming the key, for
    anything else."""
    sizes: dict[str, object] = {}
    missing: list[str] = []
    absent: set[str] = set()  # of the initial states
    rest: dict[str, Any] = {}
    for key, value in (declared or {}).items():
        if key in Sizes._fields:
            _nearest(value, 1)
            sizes[key] = value
        elif key.endswith("_gradient") or key in LAYER_OUTPUTS:
            missing += [key] if value is False else []
        elif key == "initial_state" or key in INITIAL:
            absent |= set() if value else {key} & set(INITIAL) or set(INITIAL)
        elif key == "dtypes":
            rest[key] = tuple(str(np.dtype(v)) if v != "bfloat16" else v for v in value)
        elif key == "call_seconds" and isinstance(value, (int, float)) and value > 0:
            rest[key] = float(value)
        elif key == "call_seconds":
            raise ContractError(f"supports has call_seconds {value!r}; seconds that one call may take are due, a number above 0")
        else:
            may = "T B D H K, initial_state, h0, c0, dtypes, call_seconds, h, c_T, h_T and NAME_gradient"
            raise ContractError(f"supports has the key {key!r}; it may hold {may}")
    if {"h", "h_T"} <= set(missing):
        raise ContractError("supports has neither h nor h_T; one that returns the last state alone declares h False and returns h_T")
    return Supports(sizes, tuple(k for k in INITIAL if k not in absent), missing=tuple(missing), **rest)


def _nearest(rule, size: int) -> int:
    words = str(rule).split()
    if isinstance(rule, int) and not isinstance(rule, bool):
        return rule
    if isinstance(rule, (list, tuple)) and rule and all(isinstance(v, int) for v in rule):
        return min(rule, key=lambda v: abs(v - size))
    if len(words) == 3 and words[2].isdigit() and int(words[2]) > 0:
        limit = int(words[2])
        match words[:2]:
            case ["multiple", "of"]:
                return -(-size // limit) * limit
            case ["at", "most"]:
                return min(size, limit)
            case ["at", "least"]:
                return max(size, limit)
    raise ContractError(f"supports has the limit {rule!r}; it may be a number, a list, 'multiple of N', 'at most N' or 'at least N'")


@dataclass(frozen=True)
class Candidate:
    """One LSTM under test. `kind` is the way to its gradients: "pullback", "vjp", "loss_and_gradients" or "forward"
    (no gradients). `make` gives an instance; a new one each time if `factory`. `called` says how, where an adapter calls it,
    and `remark` what seems not to be meant."""

    name: str
    kind: str
    make: Callable[[], Any]
    factory: bool = True
    layout: Layout = field(default_factory=Layout)
    supports: Supports = field(default_factory=Supports)
    reduction: str = "sum"
    taps: bool = False
    variant: Variant = TEXTBOOK
    called: str = ""
    remark: str = ""

    @property
    def model(self) -> bool:
        return self.kind == "loss_and_gradients"

    @cached_property
    def gradient_names(self) -> tuple[str, ...]:
        """The gradients that are due, by what they are of."""
        names = (*self.variant.inputs, *HEAD) if self.model else self.variant.inputs
        absent = {*self.supports.missing, *(f"{k}_gradient" for k in INITIAL if k not in self.supports.states)}
        absent |= {f"{k}_gradient" for k in BIASES} if self.layout.biases == 0 else set()
        return () if self.kind == "forward" else tuple(k for k in names if f"{plain(k)}_gradient" not in absent)

    @cached_property
    def hidden(self) -> str:
        """The output that holds h: all of it, or h_T where only the last is returned."""
        return "h_T" if "h" in self.supports.missing else "h"

    @cached_property
    def outputs_due(self) -> tuple[str, ...]:
        """The outputs that a layer must return."""
        due = (self.hidden, "c_T") if self.variant.h_T_is_last_h else LAYER_OUTPUTS
        return tuple(k for k in due if k not in self.supports.missing)

    @cached_property
    def returns(self) -> dict[Sizes, tuple[Due, Due]]:
        """What it may return at the sizes that it was called with lately: among the outputs, and among the gradients."""
        return {}


class Answer(NamedTuple):
    """What one call gave, in the textbook layout and float64 (or complex128): arrays by name, faults by name, and the
    candidate's own arrays as they came."""

    arrays: dict[str, np.ndarray]
    faults: dict[str, Finding]
    raw: dict[str, np.ndarray]


class Due(NamedTuple):
    """The shapes of what a candidate may return, by textbook names and by its own."""

    textbook: Mapping[str, tuple[int, ...]]
    own: Mapping[str, tuple[int, ...]]


class Call(NamedTuple):
    """The arrays of one call, converted once: what the candidate is given, the shapes of everything by textbook names, of what it may
    return as outputs and as gradients, and how arrays lie in memory, the cotangents to come too."""

    candidate: Candidate
    inputs: dict[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    outputs: Due
    gradients: Due
    dtype: np.dtype
    sizes: Sizes
    memory: str = "plain"


def prepare(candidate: Candidate, inputs: dict, dtype: np.dtype, memory: str = "plain") -> Call:
    """The candidate's own arrays for textbook inputs. `memory` is "plain", "readonly" or "noncontiguous"."""
    T, B, D = inputs["x"].shape
    n = Sizes(T, B, D, inputs["c0"].shape[-1], inputs["W_v"].shape[0] if "W_v" in inputs else 1)
    shapes = _shapes(candidate.variant, candidate.model, n)
    user = {k: placed(v, memory) for k, v in encode(candidate.layout, inputs, dtype).items()}
    if n not in candidate.returns:
        if len(candidate.returns) >= KEPT_SIZES:
            candidate.returns.clear()
        candidate.returns[n] = _to_return(candidate.layout, user, shapes)
    return Call(candidate, user, shapes, *candidate.returns[n], dtype, n, memory)


@functools.lru_cache(maxsize=256)
def _shapes(v: Variant, model: bool, n: Sizes) -> Mapping[str, tuple[int, ...]]:
    """Everything that a candidate is given or may return, by textbook names."""
    if v.textbook:
        names = (*MODEL_INPUTS, *MODEL_INTERMEDIATES) if model else (*LAYER_INPUTS, *LAYER_INTERMEDIATES)
        return MappingProxyType({k: shape(k, n) for k in (*names, *LAYER_OUTPUTS)})
    every = v.shapes(n)
    return MappingProxyType({k: every[k] for k in (*v.inputs, *v.data, *LAYER_OUTPUTS, *(HEAD if model else ()))})


def moved(call: Call, base: dict, along: dict, step: complex, dtype: np.dtype) -> Call:
    """The same call a step along a direction; `base` and `along` are in the candidate's layout, `along` where it is not zero."""
    given = [call.candidate.layout.name(k) for k in call.candidate.variant.data]  # masks stay real
    inputs = {
        k: v.copy() if v.dtype.kind == "i" or k in given else (v + step * along[k] if k in along else v).astype(dtype)
        for k, v in base.items()
    }
    return call._replace(inputs=inputs, dtype=dtype)


def many(call: Call, base: dict, along: list[dict], step: complex, dtype: np.dtype) -> Call:
    """As many calls as there are directions, each a step along its own, as one: every array has one axis more, in front."""
    given = [call.candidate.layout.name(k) for k in call.candidate.variant.data]
    inputs = {k: np.repeat(v[None], len(along), axis=0) for k, v in base.items()}
    inputs = {k: v if v.dtype.kind == "i" or k in given else v.astype(dtype) for k, v in inputs.items()}
    for n, moves in enumerate(along):
        for k, q in moves.items():
            inputs[k][n] += step * q
    return call._replace(inputs=inputs, dtype=dtype)


def direction(candidate: Candidate, inputs: dict, name: str, values: np.ndarray, part: str | None = None) -> dict[str, np.ndarray]:
    """A direction in one textbook input as the candidate's arrays, without those that are zero. Layouts are linear but for
    the forget bias, which is no part of a direction. With `part` ("b_x" or "b_h") only that one of two biases moves."""
    layout = candidate.layout
    if part is not None:
        layout = replace(layout, biases=1, names={**layout.names, "b": layout.template(part)})
    if name in ("W_v", "b_v"):
        return {layout.name(name): values}
    if layout == PRESETS["textbook"] and "." not in name:
        return {name: values}
    zeros = {k: np.zeros(v.shape) for k, v in inputs.items() if k not in ("y", "w", *candidate.variant.data)}
    moved = encode(replace(layout, forget_bias=0.0), {**zeros, name: values}, np.dtype(np.float64))
    return {k: v for k, v in moved.items() if v.any()}


def placed(q: np.ndarray, memory: str) -> np.ndarray:
    """The same numbers, lying in memory as asked."""
    if memory == "noncontiguous" and q.ndim:
        wide = np.empty((*q.shape[:-1], 2 * q.shape[-1]), q.dtype)
        wide[..., ::2] = q
        wide[..., 1::2] = 0
        return wide[..., ::2]
    if memory == "readonly":
        q.setflags(write=False)
    return q


def forward(call: Call, instance, taps: dict | None = None) -> Answer:
    """The candidate's outputs. Raises Finding when it raises, hangs or returns no dict."""
    extra = (encode_by_time(call.candidate.layout, taps, call.dtype),) if taps is not None else ()
    if call.candidate.kind == "pullback" and not callable(getattr(instance, "forward", None)):
        outputs, _ = _pair(guarded(call, "pullback", instance.pullback, call.inputs), "pullback", "(outputs, pull)")
    else:
        outputs = guarded(call, "forward", instance.forward, call.inputs, *extra)
    return answer(call, outputs, "forward", call.candidate.outputs_due, read=LAYER_OUTPUTS)


def gives_many(candidate: Candidate, instance) -> bool:
    """Whether it has a method that runs many sets of inputs at once."""
    return callable(getattr(instance, "loss_many" if candidate.model else "forward_many", None))


def run_many(call: Call, instance, outputs: Collection[str], cotangents: dict) -> np.ndarray:
    """J of each of the calls that `many` made one: the loss of a model, by its `loss_many`, or Σ_t ⟨s_t, h_t⟩ + ⟨s_h, h_T⟩ + ⟨s_c, c_T⟩
    of these `outputs` of a layer, by its `forward_many`. Raises Finding where it returns anything else."""
    n = len(next(iter(call.inputs.values())))
    if call.candidate.model:
        factor = _factor(call._replace(inputs={k: v[0] for k, v in call.inputs.items()}))  # weights do not move
        losses = guarded(call, "loss_many", instance.loss_many, call.inputs)
        return factor * _sets(call, "loss_many", "loss", losses, (n,))
    named = by_name(guarded(call, "forward_many", instance.forward_many, call.inputs)) or {}
    J = np.zeros((), call.dtype)
    for k, s in cotangents_for(call, outputs, cotangents).items():
        J = J + _sets(call, "forward_many", k, named.get(k), (n, *s.shape)).reshape(n, -1) @ s.reshape(-1)
    return J


def _sets(call: Call, where: str, name: str, value, due: tuple[int, ...]) -> np.ndarray:
    try:
        return numbers(value).reshape(due).astype(call.dtype)
    except Exception:  # any conversion may fail in foreign code
        told = f"{where} returned no {name} of shape {due}; one for each of {due[0]} sets of inputs is due"
        raise Finding("contract.call", told) from None


def run(call: Call, instance, cotangents: dict) -> tuple[Answer, Answer]:
    """Outputs and gradients of one case, by whichever way the candidate offers."""
    outputs, pull = start(call, instance)
    return outputs, pull(cotangents)


def start(call: Call, instance) -> tuple[Answer, Callable[[dict], Answer]]:
    """The forward half: outputs, and a function from textbook cotangents to gradients that may be called again."""
    candidate = call.candidate
    if candidate.model:
        return _start_model(call, instance)
    if candidate.kind == "pullback":
        outputs, pull = _pair(guarded(call, "pullback", instance.pullback, call.inputs), "pullback", "(outputs, pull)")
        if by_name(outputs) is None:
            raise Finding("contract.call", f"pullback returned {kind(outputs)} as its first value; a dict of arrays is due")
        if not callable(pull):
            raise Finding(
                "contract.call", f"pullback returned {kind(pull)} as its second value; a function from cotangents to gradients is due"
            )
    else:
        outputs = guarded(call, "forward", instance.forward, call.inputs)

        def pull(cotangents):
            return instance.vjp(call.inputs, cotangents)

    outputs = answer(call, outputs, "forward", candidate.outputs_due)

    def gradients(cotangents: dict) -> Answer:
        user = cotangents_for(call, outputs.arrays, cotangents)
        if call.memory == "noncontiguous":
            user = {k: placed(v, call.memory) for k, v in user.items()}
        where = "vjp" if candidate.kind == "vjp" else "pull(cotangents)"
        before = snapshot(user)
        try:
            found = answer(call, guarded(call, where, pull, user), where, candidate.gradient_names)
        except Finding as finding:
            if finding.check == "contract.call" and "contract.shapes" in {fault.check for fault in outputs.faults.values()}:
                return Answer({}, {}, {})  # it follows from that, which is told
            raise
        if changed := changes(user, before):
            sentence = (
                f"{where} changed the cotangent{'s' if len(changed) > 1 else ''} {', '.join(changed)} that it was given; work on a copy"
            )
            found.faults["cotangents"] = Finding("state.inputs_unmutated", sentence)
        return found

    return outputs, gradients


def snapshot(arrays: dict) -> dict:
    """The arrays of a dict and their numbers, bit by bit, to be compared after foreign code had them."""
    return {k: (v, v.tobytes()) for k, v in arrays.items()}


def changes(arrays: dict, before: dict) -> list[str]:
    """The names under which there is another array than before, none, or other numbers; the dict is put back as it was."""
    changed = [k for k, (v, numbers) in before.items() if arrays.get(k) is not v or v.tobytes() != numbers]
    arrays.update({k: v for k, (v, _) in before.items()})
    return changed


def flowing(candidate: Candidate, cotangents: dict) -> dict[str, np.ndarray]:
    """The cotangents, zero on what is declared as not returned."""
    return {k: 0 * v if k in candidate.supports.missing and k != "h_T" else v for k, v in cotangents.items()}


def cotangents_for(call: Call, outputs: Collection[str], cotangents: dict) -> dict[str, np.ndarray]:
    """Cotangents keyed as the candidate's `outputs` are; s_h goes onto the last h where h_T is no output of its own."""
    s = flowing(call.candidate, cotangents)
    if call.candidate.hidden != "h" and "h" not in outputs:
        del s["h"]
    elif "h_T" not in outputs and call.candidate.variant.h_T_is_last_h:
        s["h"] = s["h"].copy()
        s["h"][-1] = s["h"][-1] + s["h_T"]
    for k in {"h_T", "c_T"} - set(outputs):
        del s[k]
    return encode_by_time(call.candidate.layout, s, call.dtype)


def _start_model(call: Call, instance):
    factor = _factor(call)
    if factor == 0:
        nothing = {k: np.zeros(call.shapes[k]) for k in call.candidate.gradient_names}
        return Answer({"J": np.zeros(())}, {}, {}), lambda cotangents: Answer(nothing, {}, {})
    J, gradients = _pair(
        guarded(call, "loss_and_gradients", instance.loss_and_gradients, call.inputs), "loss_and_gradients", "(J, gradients)"
    )
    value, loss = _value(call, J, "loss_and_gradients")
    found = answer(call, gradients, "loss_and_gradients", call.candidate.gradient_names)
    scaled = found._replace(arrays={k: v * factor for k, v in found.arrays.items()})
    return Answer({"J": value * factor}, {}, {"J": loss}), lambda cotangents: scaled


def loss(call: Call, instance) -> np.ndarray:
    """J of a model by its method `loss(inputs)`, which forms no gradients. Raises Finding where that is none, or gives none."""
    factor = _factor(call)
    if factor == 0:
        return np.zeros(())
    return _value(call, guarded(call, "loss", instance.loss, call.inputs), "loss")[0] * factor


def _factor(call: Call) -> float:
    """What the loss is to be multiplied by to be a sum; 0 for the mean over no position, which is 0/0 where the sum is zero."""
    return REDUCTIONS[call.candidate.reduction](call.sizes, call.inputs[call.candidate.layout.name("w")].real.astype(np.float64))


def _value(call: Call, J, where: str) -> tuple[np.ndarray, np.ndarray]:
    """A loss that came back, as float64 or complex128, and as it came."""
    try:
        loss = one_number(J)
        if np.iscomplexobj(loss) and call.dtype.kind != "c":
            raise TypeError
    except Exception:  # any conversion may fail in foreign code
        raise Finding("contract.call", f"{where} returned {kind(J)} as the loss; one number is due") from None
    return np.array(complex(loss) if np.iscomplexobj(loss) else float(loss)), loss


def answer(call: Call, returned, where: str, due: tuple[str, ...], read: tuple[str, ...] | None = None) -> Answer:
    """The candidate's arrays by name, checked and converted; only those of `read`, if given. Raises Finding if they have no names."""
    named = by_name(returned)
    if named is None:
        raise Finding("contract.call", f"{where} returned {kind(returned)}; a dict of arrays is due")
    layout, (known, shapes) = call.candidate.layout, call.outputs if where == "forward" else call.gradients
    faults: dict[str, Finding] = {}
    if isinstance(returned, Returned) and returned.remark:
        faults["process"] = Finding("contract.call", f"{where} {returned.remark} at {_at(call.sizes)}")
    good: dict[str, np.ndarray] = {}
    raw: dict[str, np.ndarray] = {}
    wanted = shapes if read is None else {layout.name(k) for k in read}
    for name, value in named.items():
        if value is None or name not in shapes or name not in wanted:
            continue  # as if it were not there, a key of the candidate's own, or one that is not asked for
        if type(value) is np.ndarray and value.dtype is call.dtype and value.shape == shapes[name]:  # as nearly always
            raw[name], good[name] = value, value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
            continue
        array, fault = _checked(call, where, name, value, shapes)
        if array is not None and (array.dtype.kind in NUMBERS or array.dtype.name == "bfloat16"):
            raw[name] = array.astype(call.dtype) if bare(value) and call.dtype.kind == "f" else array
        if array is not None and fault is None:
            good[name] = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        elif fault is not None:
            faults |= _faults(call, blocks_in(layout, name, tuple(known)), name, due, fault, name in raw)
    arrays = decode(layout, good, known)
    if missing := [k for k in due if k not in arrays and k not in faults]:
        sentence = _no_output(call, missing, named, good) if where == "forward" else _no_gradient(call, where, missing, named)
        faults |= dict.fromkeys(missing, Finding("contract.keys", sentence))
    elif where != "forward" and (lacking := _second_biases(call, due) - {k for k, v in named.items() if v is not None}):
        declared = f'supports = {{"{layout.name("b_h")}_gradient": False}}'
        sentence = f"{where} returned no gradient of {', '.join(sorted(lacking))}, the second bias; return it, or declare {declared}"
        faults["second bias"] = Finding("contract.keys", sentence)
    return Answer(arrays, faults, raw)


def _checked(call: Call, where: str, name: str, value, shapes: Mapping) -> tuple[np.ndarray | None, Finding | None]:
    """What came back under a name as an array, where it is one, and what is wrong with it, where something is."""
    try:
        array = numbers(value)
    except Exception as error:  # any conversion may fail in foreign code
        return None, Finding("contract.shapes", f"{where} returned a {name} that is no array ({str(error)[:LONGEST_QUOTE]})")
    if array.dtype.kind not in ("fc" if call.dtype.kind == "c" else "f") and array.dtype.name != "bfloat16":
        told = f"{where} returned {name} with dtype {array.dtype}{_odd(array.dtype)}; {call.dtype} is due"
        return array, Finding("contract.dtype", told)
    if array.shape != shapes[name]:
        told = f"{where} returned {name} with shape {array.shape}; {shapes[name]} is due"
        of_h = where == "forward" and name == call.candidate.layout.name("h")
        return array, Finding("contract.shapes", told + (_odd_h(call, array.shape, shapes) if of_h else ""))
    return array, None


def _odd_h(call: Call, shape: tuple[int, ...], shapes: Mapping) -> str:
    """What an h of another shape than is due may be meant as; empty where that is not known."""
    layout = call.candidate.layout
    name, last = layout.name("h"), layout.name("h_T")
    if shape == shapes[last]:
        return f'; if it is the last state alone, return it as {last} and declare supports = {{"h": False}}'
    if call.candidate.variant.directions == 2 and shape == (*shapes[name][:-1], shapes[name][-1] // 2):
        return "; the two directions lie side by side in h: their sum or mean is no h that is known here"
    return ""


def _no_output(call: Call, missing: list[str], named: dict, good: dict) -> str:
    """What to do about outputs that are due and did not come."""
    layout = call.candidate.layout
    needed: tuple[str, ...] = ()  # what cannot be done without
    if "h" in missing and layout.name("h_T") not in good:
        needed = ("h",)
    elif "h" not in missing and call.candidate.hidden == "h_T":
        needed = ("h_T",)
    declared = _declared([k for k in dict.fromkeys(map(plain, missing)) if k not in needed])
    return f"forward returned no output {', '.join(missing)} (keys: {_keys(named)}); return it{declared}"


def _no_gradient(call: Call, where: str, missing: list[str], named: dict) -> str:
    """What to do about gradients that are due and did not come, under the name of the input at least."""
    told = f"{where} returned no gradient of {', '.join(missing)} (keys: {_keys(named)}); "
    if renamed := [k for k in call.inputs if k not in named and any(f.format(k) in named for f in PREFIXED)]:
        return f"{told}gradients are keyed as the inputs are: name them {', '.join(renamed)}"
    return f"{told}return it{_declared([f'{k}_gradient' for k in dict.fromkeys(map(plain, missing))])}"


def _keys(named: dict) -> str:
    return ", ".join(sorted(f"{k}: None" if v is None else str(k) for k, v in named.items())) or "none"


def _declared(absent: list[str]) -> str:
    told = ", ".join(f'"{k}": False' for k in absent)
    return f", or declare supports = {{{told}}}" if told else ""


def _second_biases(call: Call, due: tuple[str, ...]) -> set[str]:
    """The candidate's names of the second of two biases, where their gradients are due: both are parameters."""
    layout = call.candidate.layout
    if layout.biases < 2 or f"{layout.name('b_h')}_gradient" in call.candidate.supports.missing:
        return set()
    suffixes = {k[len("b_c") :] for k in due if plain(k) == "b_c"}
    return {layout.gated(layout.name("b_h", suffix), letter) for suffix in suffixes for letter in layout.order} & set(call.inputs)


def _faults(call: Call, blocks, name: str, due: tuple[str, ...], fault: Finding, numeric: bool) -> dict[str, Finding]:
    """What is wrong with an array that came back, for every textbook block in it; nothing where it is declared as not provided, or
    has the name of something optional and holds no numbers: that is a key of the candidate's own."""
    if all({k, f"{plain(k)}_gradient"} & set(call.candidate.supports.missing) for k in blocks):
        return {}  # what is declared as not provided may be anything
    of_lstm = [k for k in blocks if k not in due and k in INNER]
    if of_lstm and not numeric:
        return {}
    if of_lstm and of_lstm[0] not in LAYER_OUTPUTS:
        fault.sentence += f"; leave {name} out, or rename it if it is no {of_lstm[0]} of an LSTM"
    return dict.fromkeys(blocks, fault)


def by_name(returned) -> dict | None:
    """What foreign code returned as a dict: a dict, another mapping, or a named tuple. None for anything else."""
    if isinstance(returned, dict):
        return returned
    try:
        return dict(returned if isinstance(returned, Mapping) else returned._asdict())
    except Exception:  # anything may fail in foreign code
        return None


def numbers(value) -> np.ndarray:
    """What foreign code returned, as an array. Python's own numbers have no dtype: where all are whole they are floats still."""
    array = np.asarray(value)
    return array.astype(np.float64) if array.dtype.kind in "iu" and not hasattr(value, "dtype") else array


def bare(value) -> bool:
    """Whether these are Python's own numbers, in lists: they have no dtype, and are not of another one than is due."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return type(value) in (float, int)


def one_number(value) -> np.ndarray:
    """A loss that foreign code returned, as an array without axes. Raises an Exception of whatever kind where it is not one number."""
    array = numbers(value)
    if array.size != 1 or array.dtype.kind not in NUMBERS + "V":
        raise TypeError
    return array.reshape(())


def strays(array: np.ndarray, due: np.dtype) -> bool:
    """Whether what came back has another dtype than is due; the order of its bytes is no precision."""
    own = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    return bool(array.ndim) and own != due and own.kind in "fcV"


def _odd(dtype: np.dtype) -> str:
    """What is to be said of a dtype that is none of floats."""
    return ", which cuts off what is added to it" if dtype.kind in "iub" else ", which is none of numbers" if dtype.kind == "O" else ""


def _to_return(layout: Layout, user: dict, shapes: Mapping) -> tuple[Due, Due]:
    """What may be among the outputs, and among the gradients: a gradient under the name of an input is that input's, though an
    intermediate, "c" say, has the same name."""
    inner = {k: due for k, due in shapes.items() if k in INNER}
    outputs = {}
    for key, due in inner.items():
        timed = layout.batch_first and len(due) == 3 and key[-2:] != "_T"
        outputs[layout.name(key)] = (due[1], due[0], *due[2:]) if timed else due
    data = {layout.name(k) for k in (*DATA, "y", "w")} if "W_v" in shapes else {layout.name(k) for k in DATA if k in shapes}
    own = {k: v.shape for k, v in user.items() if k not in data}  # at layer level a weight may have the name of y
    named = {k: due for k, due in shapes.items() if k not in inner or layout.name(k) not in user}
    return Due(inner, outputs), Due(named, {**outputs, **own})


def guarded(call: Call, where: str, function: Callable, *args):
    """Call foreign code: a time limit, its warnings kept to themselves, its exceptions as findings."""
    seconds = call.candidate.supports.call_seconds
    try:
        with warnings.catch_warnings(), np.errstate(), time_limit(seconds):  # what it sets is put back
            warnings.resetwarnings()  # a filter is sought among those there are before it is added
            warnings.simplefilter("ignore")
            if call.dtype.kind == "c":
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
            return function(*args)
    except TimeLimit:
        sentence = f"{where} did not return within {seconds:g} s at {_at(call.sizes)}"
        longer = f'if it is slow and does not hang, declare supports = {{"call_seconds": {10 * seconds:g}}}'
        raise Finding("contract.time", f"{sentence}; {longer}") from None
    except Finding:
        raise  # an adapter has said it in a sentence of its own
    except Told as told:
        raise Finding("contract.call", f"{where} {told.what} at {_at(call.sizes)}{told.place}") from None
    except (Exception, SystemExit) as error:
        at_the_call = traceback.extract_tb(error.__traceback__)[-1].filename == __file__
        hint = f"; it is called as {CALLED_AS[where]}" if isinstance(error, TypeError) and at_the_call and where in CALLED_AS else ""
        hint = hint or _names_sought(call, error, args[-1])
        raise Finding("contract.call", f"{where} raised {in_a_line(error)} at {_at(call.sizes)}{place(error)}{hint}") from None


def _names_sought(call: Call, error: BaseException, given) -> str:
    """What the arrays are called, where one is looked for that is not given: an input, or the cotangent of an output."""
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    outputs = {call.candidate.layout.name(k): k for k in LAYER_OUTPUTS}
    if not isinstance(key, str) or key in call.inputs:
        return ""
    if key in outputs:
        if given is call.inputs or not isinstance(given, dict) or key in given:
            return ""
        last = f": what flows in on {key} is that on the last step of {call.candidate.layout.name('h')}" if outputs[key] == "h_T" else ""
        return f"; it is given the cotangents of what was returned, {', '.join(given)}{last}"
    declared = bringing(key)
    if declared and not declared.keys() <= call.candidate.variant.declared.keys():
        told = str(declared).replace("'", '"')
        return f"; it is given {', '.join(call.inputs)}: {key} is an array of a variant, declare variant = {told}"
    return f"; it is given {', '.join(call.inputs)}: if yours lie in another way or have other names, declare a layout"


class TimeLimit(BaseException):
    """Raised inside foreign code when its time is up; not an Exception, so that its own handlers let it pass."""


class _Here(threading.local):
    """Whether this thread has the handler of the alarm in place."""

    listens = False


_here = _Here()


@contextlib.contextmanager
def listening():
    """Time limits within it find the handler of their alarm in place: to put it there and back costs twice as much as all the rest
    of a limit. Only the main thread of a Unix process can be interrupted; elsewhere there are no limits."""
    if _here.listens or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(signum, frame):
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, ring)
    _here.listens = True
    try:
        yield
    finally:
        _here.listens = False
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def time_limit(seconds: float):
    """Interrupt Python code after `seconds`, where there are limits. Code that does not return to Python is not interrupted."""
    with listening():
        if not _here.listens:
            yield
            return
        remaining, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, remaining)


def gives_loss(instance) -> bool:
    """Whether a model has a method `loss` that takes the inputs and nothing else."""
    try:
        return [p.default for p in inspect.signature(instance.loss).parameters.values()] == [inspect.Parameter.empty]
    except (TypeError, ValueError, AttributeError):
        return False


def accepts_taps(instance) -> bool:
    """Whether `forward` takes taps as a second argument."""
    try:
        return "taps" in inspect.signature(instance.forward).parameters
    except (TypeError, ValueError, AttributeError):
        return False


def _pair(returned, where: str, due: str):
    try:
        first, second = {} if isinstance(returned, (Mapping, str)) else returned  # keys and letters are no pair
    except Exception:  # any iteration may fail in foreign code
        raise Finding("contract.call", f"{where} returned {kind(returned)}; {due} is due") from None
    return first, second


def kind(q) -> str:
    return "None" if q is None else f"a {type(q).__name__}"


def _at(n: Sizes) -> str:
    return f"T={n.T}, B={n.B}, D={n.D}, H={n.H}" + (f", K={n.K}" if n.K > 1 else "")


def in_a_line(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says, without the notes that others have added to it; where it holds
    a traceback of its own, as from another interpreter, the kind and the line at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else ""
    if any(line.startswith("Traceback") for line in lines) and (inner := [line for line in lines if RAISED.match(line)]):
        return inner[-1][:LONGEST_QUOTE]
    return f"{type(error).__name__}: {said[:LONGEST_QUOTE]}" if said else type(error).__name__


def place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(__file__)
    theirs = [f for f in frames if not f.filename.startswith("<") and os.path.dirname(f.filename) != ours]
    return f" ({theirs[-1].filename.rsplit('/', 1)[-1]}:{theirs[-1].lineno})" if theirs else ""
