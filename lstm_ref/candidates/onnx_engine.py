"""onnx as an engine: what runs a model, onnxruntime or ONNX' own reference evaluator, forward only."""

from __future__ import annotations

from collections.abc import Callable


class Layer:
    """A function of arrays through the plug-in contract, without gradients: `function(inputs) -> outputs`, both dicts."""

    def __init__(self, function: Callable[[dict], dict]):
        self.function = function

    def forward(self, inputs):
        if any(v.dtype.kind == "c" for v in inputs.values()):
            raise TypeError("ONNX' LSTM takes real numbers only")
        return self.function(inputs)


def onnxruntime(model) -> Callable:
    """The model in onnxruntime, on the CPU: a function from a dict of arrays to Y, Y_h and Y_c."""
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4  # what it raises is told once
    session = onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, given)


def reference(model) -> Callable:
    """The model in ONNX' reference evaluator, which is NumPy: a function as above."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda given: evaluator.run(None, given)


EVALUATORS = {"onnxruntime": onnxruntime, "reference": reference}
