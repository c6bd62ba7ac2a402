"""onnx: what the attributes and the inputs of an LSTM node make of it, as a variant."""

from __future__ import annotations

from typing import Any

from ..reference.variant import Variant
from .onnx_model import OnnxError

DIRECTIONS = {"forward": "forward", "reverse": "reverse", "bidirectional": "both"}
FUNCTIONS = {"tanh": "tanh", "relu": "relu", "softsign": "softsign", "sigmoid": "sigmoid"}
GATE_FUNCTIONS = {"sigmoid": "sigmoid", "hardsigmoid": "hard_sigmoid_0.2"}  # its default slope
KNOWN = ("activations", "clip", "direction", "input_forget", "hidden_size", "layout")


def variant_of(node, given: dict[str, str]) -> Variant:
    """The variant of a node with these inputs. Raises OnnxError, naming what is not known here."""
    from onnx import helper

    seen = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    text: dict[str, Any] = {k: [v.decode() for v in q] if k == "activations" else q for k, q in seen.items()}
    direction = text.get("direction", b"forward").decode()
    functions = [v.lower() for v in text.get("activations", ["Sigmoid", "Tanh", "Tanh"])]
    gate, activation, output = functions[:3]
    odd = [f"{k} = {q!r}" for k, q in text.items() if k not in KNOWN]
    odd += [f"layout = {text['layout']}"] if text.get("layout") else []
    known = gate in GATE_FUNCTIONS and activation in FUNCTIONS and output in FUNCTIONS and functions[3:] in ([], functions[:3])
    odd += [] if known else [f"activations = {text['activations']!r}"]
    if odd:
        raise OnnxError(f"its LSTM node has {', '.join(odd)}, which is not supported; a node without it is due")
    coupled = bool(text.get("input_forget"))
    return Variant(
        peephole="P" in given,
        coupled="f" if coupled else "",
        idle_gate=coupled,
        activation=FUNCTIONS[activation],
        output=FUNCTIONS[output],
        gate=GATE_FUNCTIONS[gate],
        preactivation_clip=float(text.get("clip", 0.0)),
        direction=DIRECTIONS[direction],
        mask="zero" if "sequence_lens" in given else "",
        lengths="sequence_lens" in given,
    )
