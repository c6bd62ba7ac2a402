"""The reference as a candidate: `ref:`, a layer with intermediates and taps, and a model with a softmax head."""

from __future__ import annotations

import numpy as np

from ..reference import objectives, rewrite
from ..reference.arrays import Gates
from ..reference.backward import backward
from ..reference.forward import forward
from ..reference.symbols import BIASES, GATES, LAYER_INTERMEDIATES

_tapped_forward = rewrite.hooked(forward)


class ReferenceLayer:
    """The textbook LSTM through the plug-in contract, in the textbook layout."""

    def forward(self, inputs, taps=None):
        return _outputs(forward(inputs) if taps is None else _tapped_forward(_Taps(taps), inputs))

    def forward_many(self, inputs):
        trace = forward(_time_in_front(inputs))
        return {"h": trace.h.swapaxes(0, 1), "h_T": trace.h[-1], "c_T": trace.c[-1]}

    def pullback(self, inputs):
        trace = forward(inputs)

        def pull(cotangents):
            s_h = cotangents["h_T"]
            return _gradients(backward(trace, cotangents["h"], s_h, cotangents["c_T"]))

        return _outputs(trace), pull


class ReferenceModel:
    """The textbook LSTM with an output layer and weighted softmax cross-entropy, summed."""

    def loss(self, inputs):
        return self._head(forward(inputs), inputs).J

    def loss_many(self, inputs):
        sets = _time_in_front(inputs)
        return self._head(forward(sets), sets).J

    def loss_and_gradients(self, inputs):
        trace = forward(inputs)
        head = self._head(trace, inputs)
        top = objectives.softmax_backward(head, trace.h, inputs["W_v"], inputs["y"], inputs["w"])
        nothing = inputs["h0"] * 0
        gradients = _gradients(backward(trace, top.dh_out, nothing, nothing))
        own = {"W_v": top.dW_v, "b_v": top.db_v, "v": top.dv}
        return head.J, {**gradients, **{k: v.astype(inputs["x"].dtype) for k, v in own.items()}}

    @staticmethod
    def _head(trace, inputs):
        return objectives.softmax_forward(trace.h, *(inputs[k] for k in ("W_v", "b_v", "y", "w")))


class _Taps:
    """The hook that adds a tap to a quantity where it is formed."""

    def __init__(self, taps):
        self.taps = {k: v for k, v in taps.items() if k[:2] != "a_"}
        if pre := {k: v for k, v in taps.items() if k[:2] == "a_"}:
            some = next(iter(pre.values()))
            packed = Gates(np.zeros((*some.shape[:-1], 4 * some.shape[-1]), some.dtype))
            for k, v in pre.items():
                getattr(packed, k[2:])[...] = v
            self.taps["a"] = packed.all

    def __call__(self, name, label, index, *terms):
        q = rewrite.total(terms).value
        return q + self.taps[name][index] if name in self.taps else q


def _time_in_front(inputs):
    """Many sets of inputs, one after the other on the first axis, as the reference takes them: its lanes are between time and batch."""
    by_time = {k: inputs[k].swapaxes(0, 1) for k in ("x", "y", "w") if k in inputs}
    return {**inputs, **by_time, **{k: inputs[k][:, None] for k in (*BIASES, "b_v") if k in inputs}}


def _outputs(trace):
    pre = {f"a_{k}": getattr(trace.a, k) for k in GATES}
    values = {k: getattr(trace, k) for k in LAYER_INTERMEDIATES if k[:2] != "a_"}
    return {**pre, **values, "h_T": trace.h[-1].copy(), "c_T": trace.c[-1].copy()}


def _gradients(g):
    H, dtype = g.dh0.shape[-1], g.dh0.dtype  # NumPy gives a product of bfloat16 as float32
    packed = {f"{q}_{k}": d[n * H : (n + 1) * H].astype(dtype) for q, d in (("W", g.dW), ("b", g.db)) for n, k in enumerate(GATES)}
    inner = {k: getattr(g, f"d{k}") for k in LAYER_INTERMEDIATES if k[:2] != "a_"} | {f"a_{k}": getattr(g.da, k) for k in GATES}
    return {**packed, **inner, "x": g.dx.copy(), "h0": g.dh0.copy(), "c0": g.dc0.copy()}
