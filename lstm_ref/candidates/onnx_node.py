"""onnx: a model with one LSTM node, run forward by onnxruntime or by ONNX' own reference evaluator.

What its attributes change is the variant that it is judged as. What is judged is the node and what computes its weights: x, h0
and c0 go in at the node, the weights where the model keeps its own, and Y, Y_h and Y_c come from the node. What else the model
does before and after is not looked at.
"""

from __future__ import annotations

import dataclasses
import functools

from ..reference.symbols import LAYER_INPUTS
from ..reference.variant import Variant
from . import onnx_arrays, onnx_engine, onnx_file, onnx_plain
from .layout import Layout
from .onnx_model import Node, OnnxError, rewritten

CLASSES: tuple[str, ...] = ()  # the one kind of LSTM has no name; a file has
OPTIONS = ("evaluator",)  # what runs it: "onnxruntime" or "reference"


def find(path: str) -> Node:
    """The LSTM node of a file, or a plain one of any size where none is named. Raises OnnxError."""
    return onnx_file.read(path) if path else onnx_plain.plain()


def engine():
    return onnx_engine


def variant(node: Node, options: dict, declared: Variant) -> Variant:
    return node.variant


def layout(node: Node, options: dict, variant: Variant, declared: Layout | None) -> Layout:
    return onnx_arrays.LAYOUT if "B" in node.names else dataclasses.replace(onnx_arrays.LAYOUT, biases=0)


def supports(node: Node, options: dict, variant: Variant) -> dict:
    """No gradients, and what the model's shapes and onnxruntime allow. Raises OnnxError where it has no LSTM for the model."""
    limits = {f"{k}_gradient": False for k in LAYER_INPUTS} | node.limits
    if options["evaluator"] == "onnxruntime" and limits.setdefault("dtypes", ["float32"]) == ["float64"]:
        raise OnnxError(f"it is of float64, in which onnxruntime has no LSTM; judge it with onnx:reference:{node.path}")
    return limits


def function(node: Node, options: dict):
    start = onnx_engine.EVALUATORS[options["evaluator"]]
    started = functools.cache(lambda H, dtype: start(node.model(H, dtype)))

    def lstm(inputs):
        given, size = onnx_arrays.given(node, inputs), (inputs["initial_h"].shape[-1], inputs["X"].dtype.name)
        kept = {node.names[k]: given[k] for k in node.kept}
        run = start(rewritten(node.model(*size), kept)) if kept else started(*size)
        return onnx_arrays.returned(node, *run({name: given[k] for k, name in node.names.items() if name not in kept}))

    return lstm
