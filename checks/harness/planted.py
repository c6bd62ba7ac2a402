"""Planted faults: the reference with one line of its backward pass changed, as candidates."""

from __future__ import annotations

import inspect
import textwrap
from types import FunctionType

import numpy as np

from lstm_ref.candidates import reference as adapter
from lstm_ref.reference import backward, objectives
from lstm_ref.reference.forward import forward


def changed(function: FunctionType, *replacements: tuple[str, str]) -> FunctionType:
    """The function with lines replaced in its source; every text to replace must be there exactly once."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in replacements:
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {function.__name__}"
        source = source.replace(old, new)
    scope = dict(function.__globals__)
    exec(compile(source, f"<planted {function.__name__}>", "exec"), scope)
    return scope[function.__name__]


def layer(*replacements: tuple[str, str], after=lambda gradients, trace: gradients, before=lambda s: s):
    """A layer-level candidate class with a changed backward pass, or with its gradients changed afterwards."""
    wrong = changed(backward.backward, *replacements)

    class Planted:
        def forward(self, inputs):
            return adapter._outputs(forward(inputs))

        def pullback(self, inputs):
            trace = forward(inputs)

            def pull(cotangents):
                s = before(dict(cotangents))
                return after(adapter._gradients(wrong(trace, s["h"], s["h_T"], s["c_T"])), trace)

            return adapter._outputs(trace), pull

    return Planted


def model(*replacements: tuple[str, str]):
    """A model-level candidate class with a changed softmax backward pass."""
    wrong = changed(objectives.softmax_backward, *replacements)

    class Planted(adapter.ReferenceModel):
        def loss_and_gradients(self, inputs):
            trace = forward(inputs)
            head = objectives.softmax_forward(trace.h, *(inputs[k] for k in ("W_v", "b_v", "y", "w")))
            top = wrong(head, trace.h, inputs["W_v"], inputs["y"], inputs["w"])
            nothing = np.zeros_like(inputs["h0"])
            gradients = adapter._gradients(backward.backward(trace, top.dh_out, nothing, nothing))
            return head.J, {**gradients, "W_v": top.dW_v, "b_v": top.db_v, "v": top.dv}

    return Planted


def _mutates():
    class Mutates(adapter.ReferenceLayer):
        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            inputs["c0"] += 1.0
            return outputs, pull

    return Mutates


def _shared_cache():
    class SharedCache(adapter.ReferenceLayer):
        cache: dict = {}  # the fault itself: one cache for all instances

        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            self.cache["pull"] = pull
            return outputs, lambda cotangents: self.cache["pull"](cotangents)

    return SharedCache


def _one_entry(gradients, trace):
    W = gradients["W_o"]
    W[0, 0] += 1e-11 * np.abs(W).max()  # a planted error, not a tolerance
    return gradients


def _float32_buffer(gradients, trace):
    return {k: v.astype(np.float32).astype(v.dtype) for k, v in gradients.items()}


def _tall(gradients, trace):
    if trace.h.shape[-1] > 16:
        gradients["b_f"][16:] = 0
    return gradients


def _wide(gradients, trace):
    whole = trace.h.shape[1] // 8 * 8  # rows in blocks of eight; fewer take another way
    gradients["x"][:, :whole] = 0
    return gradients


def _tail(gradients, trace):
    gradients["x"][:, 32:] = 0  # rows beyond a block of 32
    return gradients


def _fast_path(gradients, trace):
    if trace.h.shape[1] % 16 == 0:
        gradients["c0"] = gradients["c0"] / 2
    if trace.h.shape[-1] % 32 == 0:
        gradients["b_c"] = gradients["b_c"] / 2
    return gradients


def _long(gradients, trace):
    if len(trace.h) >= 6:
        gradients["x"][5] = 0
    return gradients


def _second_part(gradients, trace):
    if len(trace.h) > 32:  # what goes from one part of 32 steps to the one before is lost
        gradients["x"][:32] *= 0.5
    return gradients


# name -> (the candidate, a check that must say so)
FAULTS = {
    "dc_next dropped": (layer((" + dc_next  # (B:cell)", "  # (B:cell)")), "law.time_split|grad.W_f.autodiff"),
    "f missing in the carry": (layer(("dc_next = dc[t] * f[t]", "dc_next = dc[t]")), "grad.c0.autodiff"),
    "h_t for h_{t-1} in dW": (
        layer(("outer_sum(da.all, z)", "outer_sum(da.all, np.concatenate([trace.h, z[..., H:]], -1))")),
        "grad.W_f.autodiff",
    ),
    "c_t for c_{t-1} in df": (layer(("df[t] = dc[t] * c_prev", "df[t] = dc[t] * c[t]")), "inter.f.autodiff"),
    "σ' missing for o": (layer(("do[t] * o[t] * (1 - o[t])", "do[t]")), "inter.a_o.autodiff"),
    "tanh' on raw c": (layer(("(1 - tanh_c[t] ** 2)", "(1 - c[t] ** 2)")), "inter.c.autodiff"),
    "gates i and f swapped in dW only": (
        layer(after=lambda g, trace: {**g, "W_i": g["W_f"], "W_f": g["W_i"]}),
        "grad.W_i.autodiff",
    ),
    "db averaged over the batch": (layer(("step_sum(da.all)", "step_sum(da.all) / c.shape[1]")), "law.batch_additivity"),
    "initial state assumed zero": (layer(("if t > 0 else c0", "if t > 0 else 0 * c0")), "grad.W_f.autodiff"),
    "W_h not transposed": (
        layer(
            (
                "W_h, W_x = np.ascontiguousarray(W[..., :H]), W[..., H:]",
                "W_h, W_x = np.concatenate([W[k * H : k * H + H, :H].T for k in range(4)]), W[:, H:]",
            )
        ),
        "grad.h0.autodiff",
    ),
    "c_T's cotangent ignored": (layer(before=lambda s: {**s, "c_T": 0 * s["c_T"]}), "grad.c0.autodiff"),
    "softmax gradient without its weight": (
        model(("dv = w[..., None] * head.y_hat - w[..., None] * onehot", "dv = head.y_hat - onehot")),
        "inter.v.autodiff",
    ),
    "one entry of dW_o off by 1e-11": (layer(after=_one_entry), "grad.W_o.autodiff"),
    "gradients through a float32 buffer": (layer(after=_float32_buffer), "numerics.effective_precision"),
    "a clip at ±5": (layer(after=lambda g, trace: {k: np.clip(v, -5, 5) for k, v in g.items()}), "law.homogeneity"),
    "an error only for H > 16": (layer(after=_tall), "sizes.tiles"),
    "an error only in whole blocks of eight sequences": (layer(after=_wide), "sizes.tiles"),
    "an error only beyond 32 sequences": (layer(after=_tail), "sizes.tiles"),
    "errors only where sizes are multiples of a kernel's": (layer(after=_fast_path), "sizes.tiles"),
    "an error only at T ≥ 6": (layer(after=_long), "sizes.long"),
    "an error only beyond 32 steps": (layer(after=_second_part), "sizes.long"),
    "an input mutated": (_mutates(), "state.inputs_unmutated"),
    "a cache shared by two instances": (_shared_cache(), "state.two_instances"),
}
