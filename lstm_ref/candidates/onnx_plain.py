"""onnx: a plain LSTM node of any size, with default attributes, whose weights are inputs of the model."""

from __future__ import annotations

from .onnx_model import INPUTS, OUTPUTS, Node, built

PLAIN = tuple(k for k in INPUTS if k not in ("sequence_lens", "P"))


def plain() -> Node:
    from onnx import helper

    def model(H: int, dtype: str):
        node = helper.make_node("LSTM", [k if k in PLAIN else "" for k in INPUTS[:-1]], OUTPUTS, hidden_size=H)
        opset = helper.make_opsetid("", 14)
        return built([node], dict.fromkeys(PLAIN, dtype), [], opset_imports=[opset], ir_version=8)  # old enough for any onnxruntime

    return Node(model, {k: k for k in PLAIN}, (), {})
