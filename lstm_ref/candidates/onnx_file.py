"""onnx: a file, read: its one LSTM node with what computes the node's weights, as a model of its own."""

from __future__ import annotations

from .onnx_graph import shapes_and_dtypes, sources
from .onnx_model import INPUTS, OUTPUTS, Node, OnnxError, built
from .onnx_variant import variant_of

WEIGHTS = ("W", "R", "B", "P")


def read(path: str) -> Node:
    """The one LSTM node of a file. Raises OnnxError, which names what cannot be judged."""
    model, node = _found(path)
    given = {k: name for k, name in zip(INPUTS, node.input, strict=False) if name}
    variant = variant_of(node, given)
    shapes, dtypes = shapes_and_dtypes(model.graph)
    dtype = next((dtypes[name] for name in given.values() if name in dtypes), None)
    if dtype is None:
        raise OnnxError("it does not say the type of its LSTM node's inputs; a model with types is due")
    own = sources(model.graph, {k: given[k] for k in WEIGHTS if k in given}, shapes)
    names = {k: own[k][0] if k in own else f"given.{k}" for k in given}
    before = [n for n in model.graph.node if any(n in nodes for _, nodes in own.values())]
    at = _with_inputs(node, {k: given[k] if k in own else name for k, name in names.items()})
    arrays = [q for q in model.graph.initializer if any(q.name in n.input for n in (*before, at))]
    kept = tuple(k for k in own if names[k] in {q.name for q in arrays})
    fed = {name: "int32" if k == "sequence_lens" else dtype for k, name in names.items() if k not in kept}
    alike = {"opset_imports": model.opset_import, "ir_version": model.ir_version, "functions": model.functions}
    alone = built([*before, at], fed, arrays, **alike)
    D, H = (shapes.get(given[k], (None,))[-1] for k in ("W", "R"))
    limits = {k: n for k, n in (("D", D), ("H", H)) if n} | {"dtypes": [dtype]}
    limits["initial_state"] = "initial_h" in given and "initial_c" in given
    return Node(lambda H, dtype: alone, names, kept, limits, variant, path)


def _found(path: str) -> tuple:
    """The model, with all shapes that follow from it, and its one LSTM node."""
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    except Exception as error:  # protobuf's, the file system's and ONNX' own
        raise OnnxError(f"it cannot be read as an ONNX model ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from None
    found = [n for n in model.graph.node if n.op_type == "LSTM"]
    if len(found) != 1:
        kinds = ", ".join(dict.fromkeys(n.op_type for n in model.graph.node)) or "none"
        raise OnnxError(f"it holds {len(found) or 'no'} LSTM node{'s' * (len(found) != 1)} (its nodes: {kinds}); one is due")
    return model, found[0]


def _with_inputs(node, names: dict[str, str]):
    """A copy of a node with inputs of these names, and its outputs named as the operator has them."""
    copy = type(node)()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(names.get(k, "") for k in INPUTS)
    copy.output.extend(OUTPUTS)
    return copy
