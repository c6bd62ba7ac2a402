"""Variant: what an LSTM does differently from the textbook, as data, and the names and shapes of its arrays.

An array's key is the textbook's where there is one ("W_f", "h0"), a new one where the variant brings an array of its own, and
ends with its place where there is more than one pass over time: "W_f.l0", "W_f.l1.reverse".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from .symbols import GATES, Sizes

GATE_FUNCTIONS = ("sigmoid", "hard_sigmoid", "hard_sigmoid_0.2")  # clip(a/6 + ½, 0, 1) and clip(a/5 + ½, 0, 1)
FUNCTIONS = ("tanh", "identity", "relu", "softsign", "sigmoid")
DIRECTIONS = ("forward", "reverse", "both")
MASKS = ("", "carry", "zero", "reset")
DATA = ("mask", "lengths", "zone_h", "zone_c", "drop_x", "drop_h", "drop_c_tilde")  # inputs without a gradient
ELSEWHERE = {  # what a field is called elsewhere, and here
    "bidirectional": "direction='both' here",
    "go_backwards": "direction='reverse' here",
    "num_layers": "layers here",
    "proj_size": "projection here",
    "peepholes": "peephole here",
    "use_peepholes": "peephole here",
    "layer_norm": "norm here",
    "cell_clip": "clip here",
    "recurrent_activation": "gate here",
    "batch_first": "a field of the layout",
    "bias": "a field of the layout, biases=0",
    "forget_bias": "a field of the layout",
    "unit_forget_bias": "a matter of how weights are drawn, which are given here",
    "return_sequences": "no field: what returns the last state alone declares supports = {'h': False}",
}
DROPPED = ("x", "h", "c_tilde")


class VariantError(ValueError):
    """A variant that says nothing consistent; the text says what was seen and what is due."""


class Place(NamedTuple):
    """One pass over time: a layer and a direction, and what the keys of its arrays end with."""

    layer: int
    reverse: bool
    suffix: str


@dataclass(frozen=True)
class Variant:
    """How the F-equations are changed; the default is the textbook.

    peephole     a_f, a_i += p_f, p_i ⊙ c_{t-1} and a_o += p_o ⊙ c_t, with vectors p (H,)
    coupled      "f": f = 1 − i, "i": i = 1 − f; that gate has no arrays
    idle_gate    the coupled gate has arrays all the same, which are not used and whose gradient is zero
    activation   of a_c, one of FUNCTIONS
    output       of c_t in h_t = o ⊙ output(c_t), one of FUNCTIONS
    gate         of a_f, a_i, a_o, one of GATE_FUNCTIONS
    projection   h_t = W_r (o ⊙ output(c_t)), with W_r (P, H) of P = projection rows; h has P units then
    clip         c_t is clipped to ± this
    preactivation_clip   a_k is clipped to ± this
    norm         a_k = gain_k ⊙ (u − mean(u)) / sqrt(var(u) + norm_epsilon) + b_k with u = W_k z, over the units of one gate
    layers       so many, each on the h of the one before
    direction    "forward", "reverse" (from the last step to the first), or "both", side by side in h
    mask         with an input `mask` (T, B) of ones and zeros; where it is 0, "carry": the state is carried and h_t = h_{t-1};
                 "zero": the state is carried and h_t is returned as 0; "reset": h_t = c_t = 0
    lengths      the mask is given as `lengths` (B,), whole numbers: ones up to there
    zoneout      c_t = zone_c ⊙ c_{t-1} + (1 − zone_c) ⊙ (f ⊙ c_{t-1} + i ⊙ c̃), with inputs zone_c, zone_h (T, B, H) of ones and
                 zeros; h_t alike, with h_t of the textbook
    dropout      which of x, h (the h_{t-1} in z) and c_tilde are multiplied by given masks `drop_x`, `drop_h`, `drop_c_tilde`
    dropout_once one mask for all steps, (B, ·) instead of (T, B, ·)
    """

    peephole: bool = False
    coupled: str = ""
    idle_gate: bool = False
    activation: str = "tanh"
    output: str = "tanh"
    gate: str = "sigmoid"
    projection: int = 0
    clip: float = 0.0
    preactivation_clip: float = 0.0
    norm: bool = False
    norm_epsilon: float = 1e-5  # input value
    layers: int = 1
    direction: str = "forward"
    mask: str = ""
    lengths: bool = False
    zoneout: bool = False
    dropout: tuple[str, ...] = ()
    dropout_once: bool = False

    def __post_init__(self):
        for field, known in (
            ("coupled", ("", "f", "i")),
            ("activation", FUNCTIONS),
            ("output", FUNCTIONS),
            ("gate", GATE_FUNCTIONS),
            ("direction", DIRECTIONS),
            ("mask", MASKS),
        ):
            _one_of(field, getattr(self, field), known)
        for field in ("projection", "layers"):
            value, least = getattr(self, field), 1 if field == "layers" else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise VariantError(f"variant {field} is {value!r}; a whole number from {least} is due")
        for field in ("clip", "preactivation_clip", "norm_epsilon"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise VariantError(f"variant {field} is {value!r}; a number that is not negative is due")
        for field in ("peephole", "idle_gate", "norm", "lengths", "zoneout", "dropout_once"):
            _one_of(field, getattr(self, field), (True, False))
        if not isinstance(self.dropout, tuple) or not set(self.dropout) <= set(DROPPED):
            raise VariantError(f"variant dropout is {self.dropout!r}; it must be a tuple or list of {', '.join(map(repr, DROPPED))}")
        if self.idle_gate and not self.coupled:
            raise VariantError("variant has an idle gate but no coupled one; say which: coupled='f' or 'i'")
        if self.lengths and not self.mask:
            raise VariantError("variant has lengths but no mask; say what happens after the end: mask='carry' or 'zero'")
        if (self.zoneout or self.dropout) and len(self.places) > 1:
            raise VariantError("variant has zoneout or dropout masks and more than one layer or direction; they go with one only")
        if self.zoneout and self.projection:
            raise VariantError("variant has zoneout and a projection; they do not go together here")

    @cached_property
    def textbook(self) -> bool:
        return self == TEXTBOOK

    @cached_property
    def gates(self) -> tuple[str, ...]:
        """The gates that have arrays."""
        return tuple(k for k in GATES if k != self.coupled or self.idle_gate)

    @cached_property
    def peepholes(self) -> tuple[str, ...]:
        return tuple(f"p_{k}" for k in ("f", "i", "o") if k != self.coupled) if self.peephole else ()

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every pass over time: layer by layer, forward before reverse."""
        reverse = {"forward": (False,), "reverse": (True,), "both": (False, True)}[self.direction]
        if self.layers == 1 and len(reverse) == 1:
            return (Place(0, reverse[0], ""),)
        both = len(reverse) > 1
        return tuple(Place(n, r, f".l{n}" + (".reverse" if r and both else "")) for n in range(self.layers) for r in reverse)

    @cached_property
    def directions(self) -> int:
        return 2 if self.direction == "both" else 1

    @cached_property
    def h_T_is_last_h(self) -> bool:
        """Whether h_T is h at the last step, so that nobody need return it."""
        return len(self.places) == 1 and self.direction == "forward" and self.mask != "zero"

    @cached_property
    def causal(self) -> bool:
        """Whether nothing at t depends on what comes later."""
        return self.direction == "forward"

    @cached_property
    def splits_in_time(self) -> bool:
        """Whether T₁ + T₂ steps, the states handed over, are T steps."""
        return self.h_T_is_last_h and not self.lengths

    def axes(self, n: Sizes) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Every array by its key: for each axis the sizes of the pieces that lie along it, in the textbook layout."""
        T, B, D, H = n.T, n.B, n.D, n.H
        P = self.projection or H
        states = ((len(self.places),),) if len(self.places) > 1 else ()
        wide = (P,) * self.directions
        found: dict[str, tuple[tuple[int, ...], ...]] = {"x": ((T,), (B,), (D,)), "h0": (*states, (B,), (P,)), "c0": (*states, (B,), (H,))}
        for place in self.places:
            on_z = ((H,), (P, *(wide if place.layer else (D,))))
            found |= {k + place.suffix: on_z if k[:2] == "W_" else ((H,),) for k in self.kinds}
            found |= {f"W_r{place.suffix}": ((P,), (H,))} if self.projection else {}
        found |= {"W_v": ((n.K,), wide), "b_v": ((n.K,),)}
        found |= {"h": ((T,), (B,), wide), "h_T": found["h0"], "c_T": found["c0"]}
        found |= {"mask": ((T,), (B,)), "lengths": ((B,),), "y": ((T,), (B,)), "w": ((T,), (B,)), "v": ((T,), (B,), (n.K,))}
        steps = () if self.dropout_once else ((T,),)
        found |= {"drop_x": (*steps, (B,), (D,)), "drop_h": (*steps, (B,), (P,)), "drop_c_tilde": (*steps, (B,), (H,))}
        return found | {"zone_h": ((T,), (B,), (H,)), "zone_c": ((T,), (B,), (H,)), "y_hat": found["v"], "J": ()}

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The arrays that are learnt, in the order in which they are drawn."""
        gains = (f"gain_{k}" for k in self.gates if self.norm)
        by_gate = (f"{kind}_{k}" for kind in ("W", "b") for k in self.gates)
        return (*by_gate, *self.peepholes, *gains, *(("W_r",) if self.projection else ()))

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The keys of the arrays that are learnt, in every place."""
        return tuple(k + place.suffix for k in self.kinds for place in self.places)

    @cached_property
    def smooth(self) -> bool:
        """Whether every derivative exists everywhere."""
        return self.gate == "sigmoid" and "relu" not in (self.activation, self.output) and not self.clip and not self.preactivation_clip

    @property
    def words(self) -> str:
        """What to write for it: the fields that are not the textbook's."""
        return ", ".join(f"{k}={v!r}" for k, v in self.declared.items())

    @property
    def declared(self) -> dict[str, Any]:
        """The fields that are not the textbook's."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The keys of everything at layer level that has a gradient."""
        return ("x", "h0", "c0", *self.parameters)

    @cached_property
    def data(self) -> tuple[str, ...]:
        """The keys of the inputs that have none."""
        mask = ("lengths" if self.lengths else "mask",) if self.mask else ()
        return (*mask, *(("zone_h", "zone_c") if self.zoneout else ()), *(f"drop_{k}" for k in self.dropout))

    def shapes(self, n: Sizes) -> dict[str, tuple[int, ...]]:
        """Every array's shape by its key."""
        return {k: tuple(map(sum, axes)) for k, axes in self.axes(n).items()}


def parse(declared) -> Variant:
    """A Variant from what a candidate declares: nothing, a dict of fields, or a Variant. Raises VariantError."""
    if declared is None:
        return TEXTBOOK
    if isinstance(declared, Variant):
        return declared
    known = [f.name for f in fields(Variant)]
    if not isinstance(declared, dict) or not set(declared) <= set(known):
        wrong = ", ".join(sorted(map(str, set(declared) - set(known)))) if isinstance(declared, dict) else repr(declared)
        told = f"variant has {wrong}; it must be a dict that may hold {', '.join(known)}"
        named = declared if isinstance(declared, dict) else {}
        raise VariantError("; ".join([told, *(f"{k} is {ELSEWHERE[k]}" for k in named if k in ELSEWHERE)]))
    listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in declared.items()}
    return Variant(**listed)


def bringing(name: str) -> dict[str, Any]:
    """The fields of a variant that brings an array of this name, "mask" or "weight_hh_l1"; empty where none is known to."""
    kind = plain(name)
    fields: dict[str, Any] = {"direction": "both"} if re.search(r"[._](reverse|bw|backward)$", name) else {}
    if place := re.search(r"[._]l(\d+)\b|[._]l(\d+)_", name):
        deep = int(place[1] or place[2])
        fields |= {"layers": deep + 1} if deep or not fields else {}
        fields = {"layers": 2} if fields == {"layers": 1} else fields  # of one layer no array has a place in its name
    if kind in ("mask", "lengths"):
        fields |= {"mask": "carry"} | ({"lengths": True} if kind == "lengths" else {})
    elif kind in ("p_f", "p_i", "p_o"):
        fields |= {"peephole": True}
    elif kind in ("zone_h", "zone_c"):
        fields |= {"zoneout": True}
    elif kind.startswith("drop_") and kind in DATA:
        fields |= {"dropout": [kind.removeprefix("drop_")]}
    elif kind in ("gain_f", "gain_i", "gain_c", "gain_o"):
        fields |= {"norm": True}
    return fields


def plain(key: str) -> str:
    """The key without its place: "W_f" for "W_f.l1.reverse"."""
    return key.partition(".")[0]


def _one_of(field: str, value, known: tuple) -> None:
    if not isinstance(value, type(known[0])) or value not in known:
        raise VariantError(f"variant {field} is {value!r}; it must be one of {', '.join(map(repr, known))}")


TEXTBOOK = Variant()
