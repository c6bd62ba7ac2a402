"""Symbols: the names of the quantities of an LSTM, their shapes, and the equations that relate them.

Sizes: T time steps, B batch, D input features, H hidden units, K classes. `dX` is ∂J/∂X and has the shape of X.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

GATES = ("f", "i", "c", "o")
INITIAL = ("h0", "c0")
STATES = ("x", *INITIAL)
WEIGHTS = tuple(f"W_{k}" for k in GATES)
BIASES = tuple(f"b_{k}" for k in GATES)
HEAD = ("W_v", "b_v")
PREACTIVATIONS = tuple(f"a_{k}" for k in GATES)

LAYER_INPUTS = (*STATES, *WEIGHTS, *BIASES)
MODEL_INPUTS = (*LAYER_INPUTS, *HEAD)
LAYER_OUTPUTS = ("h", "h_T", "c_T")
LAYER_INTERMEDIATES = ("h", "c", "o", "f", "i", "c_tilde", "a_f", "a_i", "a_c", "a_o", "z")
MODEL_INTERMEDIATES = ("v", *LAYER_INTERMEDIATES)


class Sizes(NamedTuple):
    """The sizes of one case; K is 1 where there is no output layer."""

    T: int
    B: int
    D: int
    H: int
    K: int = 1


# the axes of every quantity in the textbook layout; Z is that of z = [h, x]
AXES = {
    "x": "TBD",
    **dict.fromkeys(("h0", "c0", "h_T", "c_T"), "BH"),
    **dict.fromkeys(WEIGHTS, "HZ"),
    **dict.fromkeys(BIASES, "H"),
    **dict.fromkeys(("h", "c", "o", "f", "i", "c_tilde", *PREACTIVATIONS), "TBH"),
    "z": "TBZ",
    "W_v": "KH",
    "b_v": "K",
    **dict.fromkeys(("v", "y_hat"), "TBK"),
    **dict.fromkeys(("y", "w"), "TB"),
    "J": "",
}


@functools.lru_cache(maxsize=4096)
def shape(name: str, n: Sizes) -> tuple[int, ...]:
    """The shape of a quantity (or of its gradient) in the textbook layout. Raises KeyError for an unknown name."""
    return tuple(n.H + n.D if axis == "Z" else getattr(n, axis) for axis in AXES[name])


# Every equation once, as a reader would write it; the labels are the ones at the ends of the lines of code.
EQUATIONS = {
    "F:concat": "z_t = [h_{t-1}, x_t]",
    "F:preact": "a_k = W_k z_t + b_k  for k = f, i, c, o",
    "F:gates": "f, i, o = σ(a_f, a_i, a_o);  c̃ = tanh(a_c)",
    "F:cell": "c_t = f ⊙ c_{t-1} + i ⊙ c̃",
    "F:hidden": "h_t = o ⊙ tanh(c_t)",
    "F:logits": "v_t = W_v h_t + b_v",
    "F:softmax": "ŷ_t = softmax(v_t)",
    "F:loss": "J = −Σ w log ŷ_y,  ½Σ‖h − y‖²,  or Σ⟨s_t, h_t⟩ + ⟨s_h, h_T⟩ + ⟨s_c, c_T⟩",
    "B:logits": "dv = w (ŷ − onehot(y))",
    "B:output-layer": "dW_v = Σ dv h_tᵀ,  db_v = Σ dv",
    "B:hidden": "dh_t = W_vᵀ dv_t + s_t + dh_next   (dh_next = s_h at T)",
    "B:output": "do = dh ⊙ tanh(c_t)",
    "B:cell": "dc_t = dh ⊙ o ⊙ (1 − tanh²c_t) + dc_next   (dc_next = s_c at T)",
    "B:gates": "df = dc ⊙ c_{t-1},  di = dc ⊙ c̃,  dc̃ = dc ⊙ i",
    "B:preact": "da_f = df ⊙ f(1−f),  da_i, da_o alike,  da_c = dc̃ ⊙ (1 − c̃²)",
    "B:concat": "dz = Σ_k W_kᵀ da_k",
    "B:split": "[dh_next', dx_t] = dz",
    "B:carry": "dc_next' = dc_t ⊙ f_t",
    "B:weights": "dW_k = Σ_{t,b} da_k z_tᵀ",
    "B:biases": "db_k = Σ_{t,b} da_k",
    "B:initial": "dh0, dc0 = the last dh_next', dc_next'",
}

_THROUGH_TIME = ("B:hidden", "B:cell", "B:carry")
_DC = _THROUGH_TIME[:2]
_GATE = {
    "f": ("B:preact", "B:gates", *_THROUGH_TIME),
    "i": ("B:preact", "B:gates", *_THROUGH_TIME),
    "c": ("B:preact", "B:gates", *_THROUGH_TIME),
    "o": ("B:preact", "B:output", "B:hidden"),
}


def upstream(name: str) -> tuple[str, ...]:
    """Labels of the equations that the gradient of `name` comes out of, nearest first."""
    kind, _, gate = name.partition("_")
    if kind == "W" and gate in GATES:
        return ("B:weights", *_GATE[gate])
    if kind == "b" and gate in GATES:
        return ("B:biases", *_GATE[gate])
    if kind in ("a", "p", "gain") and gate in GATES:
        return _GATE[gate]
    return {
        "W_r": ("B:hidden",),
        "x": ("B:split", "B:concat", "B:preact", "B:gates", "B:output", *_THROUGH_TIME),
        "h0": ("B:initial", "B:split", "B:concat", "B:preact", "B:gates", "B:output", *_THROUGH_TIME),
        "c0": ("B:initial", "B:carry", "B:cell", "B:hidden"),
        "W_v": ("B:output-layer", "B:logits"),
        "b_v": ("B:output-layer", "B:logits"),
        "v": ("B:logits",),
        "h": ("B:hidden", "B:logits", "B:split", "B:concat"),
        "o": ("B:output", "B:hidden"),
        "c": _THROUGH_TIME,
        "f": ("B:gates", *_THROUGH_TIME),
        "i": ("B:gates", *_THROUGH_TIME),
        "c_tilde": ("B:gates", *_THROUGH_TIME),
        "z": ("B:concat", "B:preact", "B:gates", "B:output", *_THROUGH_TIME),
    }[name]


def forward_equations(name: str) -> tuple[str, ...]:
    """Labels of the F-equations that the forward value `name` comes out of, nearest first."""
    chain = ("F:loss", "F:softmax", "F:logits", "F:hidden", "F:cell", "F:gates", "F:preact", "F:concat")
    first = {"J": 0, "y_hat": 1, "v": 2, "h": 3, "h_T": 3, "c": 4, "c_T": 4, "z": 7}
    if name in PREACTIVATIONS:
        return chain[6:]
    return chain[first.get(name, 5) :]
