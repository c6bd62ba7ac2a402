"""onnx: a model with one LSTM node, run forward by onnxruntime or by ONNX' own reference evaluator, as a candidate.

Gates i, o, f, c in W (directions, 4H, D) and R (directions, 4H, H), both biases in B (directions, 8H), peepholes i, o, f in P
(directions, 3H); there are no gradients. What its attributes change is the variant that it is judged as. What is judged is the node and
what computes its weights: x, h0 and c0 go in at the node, the weights where the model keeps its own, and Y, Y_h and Y_c come from
the node. What else the model does before and after is not looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..reference.symbols import LAYER_INPUTS
from ..reference.variant import TEXTBOOK, Variant
from .layout import Layout

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")  # of the node, in their order
OUTPUTS = ("Y", "Y_h", "Y_c")
WEIGHTS = ("W", "R", "B", "P")
PLAIN = tuple(k for k in INPUTS if k not in ("sequence_lens", "P"))
NAMES = {"x": "X", "W_x": "W", "W_h": "R", "b_x": "Wb", "b_h": "Rb", "h0": "initial_h", "c0": "initial_c"}
NAMES |= {"h": "Y", "h_T": "Y_h", "c_T": "Y_c", "p": "P", "lengths": "sequence_lens"}
LAYOUT = Layout(order="iofc", packed=True, joint="split", biases=2, names=NAMES)
SUPPORTS: dict[str, Any] = {f"{k}_gradient": False for k in LAYER_INPUTS}
DIRECTIONS = {"forward": "forward", "reverse": "reverse", "bidirectional": "both"}
FUNCTIONS = {"tanh": "tanh", "relu": "relu", "softsign": "softsign", "sigmoid": "sigmoid"}
GATE_FUNCTIONS = {"sigmoid": "sigmoid", "hardsigmoid": "hard_sigmoid_0.2"}  # its default slope
KNOWN = ("activations", "clip", "direction", "input_forget", "hidden_size", "layout")


class OnnxError(ValueError):
    """A model that cannot be judged; the text says what was seen and what is due."""


class Node(NamedTuple):
    """An LSTM node with what computes its weights, as a model of its own. `names` are those of its inputs in the model; of these,
    `kept` are arrays that the model keeps, which are rewritten. `supports` are its limits, as a candidate declares them."""

    model: Any
    names: dict[str, str]
    kept: tuple[str, ...]
    supports: dict[str, Any]
    variant: Variant = TEXTBOOK

    @property
    def layout(self) -> Layout:
        return LAYOUT if "B" in self.names else dataclasses.replace(LAYOUT, biases=0)


class Layer:
    """LSTM nodes through the plug-in contract: `node(H, dtype)` gives one, and `start(model)` a function from a dict of arrays to
    Y, Y_h and Y_c."""

    def __init__(self, node: Callable[[int, str], Node], start: Callable):
        self.node, self.start = node, start
        self.started: dict = {}

    def forward(self, inputs):
        H, dtype = inputs["initial_h"].shape[-1], inputs["X"].dtype
        if dtype.kind == "c":
            raise TypeError("ONNX' LSTM takes real numbers only")
        node = self.node(H, dtype.name)
        places = [place.suffix for place in node.variant.places]
        two = len(places) > 1

        def both(key):
            return np.stack([inputs[LAYOUT.name(key, place)] for place in places])

        given = {"X": inputs["X"], "W": both("W_x"), "R": both("W_h")}
        given |= {k: inputs[k] if two else inputs[k][None] for k in ("initial_h", "initial_c")}
        if "B" in node.names:
            given["B"] = np.concatenate([both("b_x"), both("b_h")], axis=1)
        if "P" in node.names:
            given["P"] = both("p")
        if "sequence_lens" in node.names:
            given["sequence_lens"] = inputs["sequence_lens"].astype(np.int32)
        if node.kept:
            run = self.start(_rewritten(node, given))
        else:
            run = self.started[H, dtype] = self.started.get((H, dtype)) or self.start(node.model)
        Y, Y_h, Y_c = run({name: given[k] for k, name in node.names.items() if k not in node.kept})
        Y = np.moveaxis(Y, 1, 2).reshape(Y.shape[0], Y.shape[2], -1)  # directions side by side
        return {"Y": Y, "Y_h": Y_h if two else Y_h[0], "Y_c": Y_c if two else Y_c[0]}


def onnxruntime(model) -> Callable:
    """The model in onnxruntime, on the CPU."""
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4  # what it raises is told once
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, given)


def reference(model) -> Callable:
    """The model in ONNX' reference evaluator, which is NumPy."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda given: evaluator.run(None, given)


def plain(H: int, dtype: str) -> Node:
    """A node with default attributes, whose weights are inputs of the model."""
    from onnx import helper

    node = helper.make_node("LSTM", [k if k in PLAIN else "" for k in INPUTS[:-1]], OUTPUTS, hidden_size=H)
    opset = helper.make_opsetid("", 14)
    model = _model([node], dict.fromkeys(PLAIN, dtype), [], opset_imports=[opset], ir_version=8)  # old enough for any onnxruntime
    return Node(model, {k: k for k in PLAIN}, (), SUPPORTS)


def read(path: str) -> Node:
    """The one LSTM node of a file. Raises OnnxError, which names what cannot be judged."""
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    except Exception as error:  # protobuf's, the file system's and ONNX' own
        raise OnnxError(f"it cannot be read as an ONNX model ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from None
    graph = model.graph
    found = [n for n in graph.node if n.op_type == "LSTM"]
    if len(found) != 1:
        kinds = ", ".join(dict.fromkeys(n.op_type for n in graph.node)) or "none"
        raise OnnxError(f"it holds {len(found) or 'no'} LSTM node{'s' * (len(found) != 1)} (its nodes: {kinds}); one is due")
    node = found[0]
    given = {k: name for k, name in zip(INPUTS, node.input, strict=False) if name}
    variant = _variant(node, given)
    shapes, dtypes = _shapes(graph)
    dtype = next((dtypes[name] for name in given.values() if name in dtypes), None)
    if dtype is None:
        raise OnnxError("it does not say the type of its LSTM node's inputs; a model with types is due")
    sources = {k: _source(graph, given[k], shapes) for k in WEIGHTS if k in given}
    leaves = [leaf for leaf, _ in sources.values()]
    own = {k: q for k, q in sources.items() if q[0] and leaves.count(q[0]) == 1}
    names = {k: own[k][0] if k in own else f"given.{k}" for k in given}
    before = [n for n in graph.node if any(n in nodes for _, nodes in own.values())]
    at = onnx.NodeProto()
    at.CopyFrom(node)
    del at.input[:], at.output[:]
    at.input.extend(given[k] if k in own else names.get(k, "") for k in INPUTS)
    at.output.extend(OUTPUTS)
    arrays = [q for q in graph.initializer if any(q.name in n.input for n in (*before, at))]
    kept = tuple(k for k in own if names[k] in {q.name for q in arrays})
    fed = {name: "int32" if k == "sequence_lens" else dtype for k, name in names.items() if k not in kept}
    alike = {"opset_imports": model.opset_import, "ir_version": model.ir_version, "functions": model.functions}
    D, H = (shapes.get(given[k], (None,))[-1] for k in ("W", "R"))
    supports = SUPPORTS | {k: n for k, n in (("D", D), ("H", H)) if n} | {"dtypes": [dtype]}
    supports["initial_state"] = "initial_h" in given and "initial_c" in given
    return Node(_model([*before, at], fed, arrays, **alike), names, kept, supports, variant)


def _variant(node, given: dict[str, str]) -> Variant:
    """What the attributes and the inputs of a node make of the LSTM. Raises OnnxError, naming what is not known here."""
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


def _shapes(graph) -> tuple[dict[str, tuple], dict[str, str]]:
    """The shape of every array whose rank is known, None for a size that is not, and the dtypes."""
    from onnx import helper

    types = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info)}
    shapes = {k: tuple(d.dim_value or None for d in t.shape.dim) for k, t in types.items() if t.HasField("shape")}
    kinds = {k: t.elem_type for k, t in types.items() if t.elem_type} | {q.name: q.data_type for q in graph.initializer}
    return shapes | {q.name: tuple(q.dims) for q in graph.initializer}, {
        k: helper.tensor_dtype_to_np_dtype(t).name for k, t in kinds.items()
    }


def _source(graph, name: str, shapes: dict[str, tuple]) -> tuple[str, list]:
    """The one array of its shape that a weight is computed from, and the nodes that compute it; no name where there is not one."""
    made = {k: n for n in graph.node for k in n.output}
    nodes, leaves, seen = [], [], [name]
    for k in seen:  # grows
        if k in made:
            nodes.append(made[k])
            seen += [q for q in made[k].input if q and q not in seen]
        else:
            leaves.append(k)
    arrays = {q.name for q in graph.initializer}
    alike = [k for k in leaves if k == name or (k in shapes and shapes[k] == shapes.get(name))]
    others = [k for k in leaves if k not in alike and k not in arrays]
    return ("", []) if len(alike) != 1 or others else (alike[0], nodes)


def _model(nodes: list, given: dict[str, str], arrays: list, **alike):
    from onnx import helper

    kinds = {k: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for k, dtype in given.items()}
    inputs = [helper.make_tensor_value_info(k, kind, None) for k, kind in kinds.items()]
    kind = kinds.get("X", next(iter(kinds.values())))
    outputs = [helper.make_tensor_value_info(k, kind, None) for k in OUTPUTS]
    return helper.make_model(helper.make_graph(nodes, "lstm", inputs, outputs, arrays), **alike)


def _rewritten(node: Node, given: dict[str, np.ndarray]):
    """The model with the weights that it keeps replaced."""
    from onnx import ModelProto, numpy_helper

    model = ModelProto()
    model.CopyFrom(node.model)
    arrays = {node.names[k]: given[k] for k in node.kept}
    for q in model.graph.initializer:
        if q.name in arrays:
            q.CopyFrom(numpy_helper.from_array(arrays[q.name], q.name))
    return model
