"""onnx: the arrays of the contract as those of an LSTM node, directions stacked, both biases in one, and its outputs back.

Gates i, o, f, c in W (directions, 4H, D) and R (directions, 4H, H), both biases in B (directions, 8H), peepholes i, o, f in P
(directions, 3H).
"""

from __future__ import annotations

import numpy as np

from .layout import Layout
from .onnx_model import Node

NAMES = {"x": "X", "W_x": "W", "W_h": "R", "b_x": "Wb", "b_h": "Rb", "h0": "initial_h", "c0": "initial_c"}
NAMES |= {"h": "Y", "h_T": "Y_h", "c_T": "Y_c", "p": "P", "lengths": "sequence_lens"}
LAYOUT = Layout(order="iofc", packed=True, joint="split", biases=2, names=NAMES)


def given(node: Node, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What goes into a node, by the operator's names."""
    places = [place.suffix for place in node.variant.places]

    def both(key):
        return np.stack([inputs[LAYOUT.name(key, place)] for place in places])

    found = {"X": inputs["X"], "W": both("W_x"), "R": both("W_h")}
    found |= {k: inputs[k] if len(places) > 1 else inputs[k][None] for k in ("initial_h", "initial_c")}
    if "B" in node.names:
        found["B"] = np.concatenate([both("b_x"), both("b_h")], axis=1)
    if "P" in node.names:
        found["P"] = both("p")
    if "sequence_lens" in node.names:
        found["sequence_lens"] = inputs["sequence_lens"].astype(np.int32)
    return found


def returned(node: Node, Y: np.ndarray, Y_h: np.ndarray, Y_c: np.ndarray) -> dict[str, np.ndarray]:
    """What comes out of a node: Y (T, directions, B, H) with directions side by side, states without an axis of one."""
    one = len(node.variant.places) == 1
    Y = np.moveaxis(Y, 1, 2).reshape(Y.shape[0], Y.shape[2], -1)
    return {"Y": Y, "Y_h": Y_h[0] if one else Y_h, "Y_c": Y_c[0] if one else Y_c}
