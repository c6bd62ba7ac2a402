"""onnx: a model of one LSTM node, whose arrays go in by name; such models are read from a file, or made, and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..reference.variant import TEXTBOOK, Variant

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # of the node, in their order
OUTPUTS = ("Y", "Y_h", "Y_c")


class OnnxError(ValueError):
    """A model that cannot be judged; the text says what was seen and what is due."""


class Node(NamedTuple):
    """An LSTM node with what computes its weights, as a model of its own, `model(H, dtype)`. `names` are those of its inputs in
    the model; of these, `kept` are arrays that the model keeps, which are rewritten. `limits` are declared as `supports` is."""

    model: Callable[[int, str], Any]
    names: dict[str, str]
    kept: tuple[str, ...]
    limits: dict[str, Any]
    variant: Variant = TEXTBOOK
    path: str = ""


def built(nodes: list, given: dict[str, str], arrays: list, **alike):
    """A model of nodes that end in an LSTM's outputs, with its inputs and their dtypes, and the arrays that it keeps."""
    from onnx import helper

    kinds = {k: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for k, dtype in given.items()}
    inputs = [helper.make_tensor_value_info(k, kind, None) for k, kind in kinds.items()]
    kind = kinds.get("X", next(iter(kinds.values())))
    outputs = [helper.make_tensor_value_info(k, kind, None) for k in OUTPUTS]
    return helper.make_model(helper.make_graph(nodes, "lstm", inputs, outputs, arrays), **alike)


def rewritten(model, arrays: dict[str, np.ndarray]):
    """A copy of the model in which arrays that it keeps have other values, by name."""
    from onnx import ModelProto, numpy_helper

    copy = ModelProto()
    copy.CopyFrom(model)
    for q in copy.graph.initializer:
        if q.name in arrays:
            q.CopyFrom(numpy_helper.from_array(arrays[q.name], q.name))
    return copy
