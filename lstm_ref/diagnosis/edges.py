"""Edges: every term of every B-equation with a gain on it, derived from the reference's own source.

A gain of 1 is the right backward pass; 0 is a missing term, −1 a wrong sign, 2 a term counted twice, 1/B a mean over the
batch. Lanes, an axis of their own, run many sets of gains at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..reference import backward, objectives, rewrite
from ..reference.symbols import GATES


class Edge(NamedTuple):
    """One term of one equation, or several that people get wrong together (`members`, which share one gain): its id,
    the equation's label, and what it is in words."""

    id: str
    label: str
    words: str
    members: tuple[str, ...] = ()


def _edges() -> tuple[Edge, ...]:
    out = [
        Edge("dh<-s", "B:hidden", "what flows in on h_t"),
        Edge("dh<-dh_next", "B:hidden", "the part of dh_t that comes back from t+1"),
        Edge("dh<-s_h", "B:hidden", "the cotangent of the returned h_T"),
        Edge("dc<-s_c", "B:cell", "the cotangent of the returned c_T"),
        Edge("do", "B:output", "do"),
        Edge("dc<-dh", "B:cell", "the part of dc_t that comes through h_t"),
        Edge("dc<-dc_next", "B:cell", "the part of dc_t that comes back from t+1"),
        Edge("df", "B:gates", "df"),
        Edge("di", "B:gates", "di"),
        Edge("dc_tilde", "B:gates", "dc̃"),
        *(Edge(f"da_{k}", "B:preact", f"da_{k}") for k in GATES),
        *(Edge(f"dh_next<-da_{k}", "B:concat", f"gate {k} in what goes back to h_{{t-1}}") for k in GATES),
        *(Edge(f"dx<-da_{k}", "B:concat", f"gate {k} in dx") for k in GATES),
        Edge("dc_next", "B:carry", "dc_next' = dc ⊙ f"),
        *(Edge(f"dW_{k}", "B:weights", f"dW_{k}") for k in GATES),
        *(Edge(f"db_{k}", "B:biases", f"db_{k}") for k in GATES),
        Edge("dh0", "B:initial", "dh0"),
        Edge("dc0", "B:initial", "dc0"),
    ]
    return tuple(out)


EDGES = _edges()
HEAD_EDGES = (
    Edge("dv", "B:logits", "dv"),
    Edge("dh<-dv", "B:hidden", "W_vᵀ dv in dh_t"),
    Edge("dW_v", "B:output-layer", "dW_v"),
    Edge("db_v", "B:output-layer", "db_v"),
)
_ALL = {p: tuple(f"{p}_{k}" for k in GATES) for p in ("dW", "db", "dx<-da", "dh_next<-da")}
GROUPS = (
    Edge("dW", "B:weights", "every dW_k", _ALL["dW"]),
    Edge("db", "B:biases", "every db_k", _ALL["db"]),
    Edge("dW and db", "B:weights", "every dW_k and db_k", (*_ALL["dW"], *_ALL["db"])),
    Edge("dx", "B:concat", "dx", _ALL["dx<-da"]),
    Edge("dh_next", "B:concat", "what goes back to h_{t-1}", _ALL["dh_next<-da"]),
    Edge("every gradient", "F:loss", "every gradient", ("dh<-s", "dh<-s_h", "dc<-s_c")),
    Edge("dh_next and dc_next", "B:carry", "all that comes back from t+1", ("dh<-dh_next", "dc<-dc_next")),
    Edge("dc<-all", "B:cell", "all that comes back into dc_t, the cotangent of c_T included", ("dc<-dc_next", "dc<-s_c")),
    Edge("dh<-all", "B:hidden", "all that comes back into dh_t, the cotangent of h_T included", ("dh<-dh_next", "dh<-s_h")),
    Edge("s_h and s_c", "B:hidden", "what flows in on the returned states", ("dh<-s_h", "dc<-s_c")),
)
HEAD_GROUPS = (Edge("dW_v and db_v", "B:output-layer", "dW_v and db_v", ("dW_v", "db_v")),)
INDEX = {e.id: n for n, e in enumerate((*EDGES, *HEAD_EDGES))}
_backward = rewrite.hooked(backward.backward)
_softmax_backward = rewrite.hooked(objectives.softmax_backward)


def gained(trace, gains: np.ndarray, s: dict, head: tuple | None = None) -> dict[str, np.ndarray]:
    """All gradients of `INDEX`'s edges scaled by `gains` (lanes, edges), lane axis first.

    `trace` is a plain forward trace; `s` holds the cotangents `h h_T c_T`; `head` is (softmax trace, inputs) at model level.
    """
    g = {k: gains[:, n] for k, n in INDEX.items()}
    lane = _in_lanes(trace, g)
    keep = _Gains(g, trace.h.shape[-1])
    dh_out = s["h"][:, None] * g["dh<-s"][None, :, None, None]
    top = None
    if head is not None:
        softmax, inputs = head
        lifted = type(softmax)(y_hat=softmax.y_hat[:, None])
        top = _softmax_backward(keep, lifted, lane.h, inputs["W_v"], inputs["y"][:, None], inputs["w"][:, None])
        dh_out = dh_out + top.dh_out.value * g["dh<-dv"][:, None, None]
    s_h = s["h_T"] * g["dh<-s_h"][:, None, None]
    s_c = s["c_T"] * g["dc<-s_c"][:, None, None]
    found = _backward(keep, lane, dh_out, s_h, s_c)
    return _named(found, g, top)


def gained_once(trace, gains: np.ndarray, s: dict, head: tuple | None, backward_pass: Callable = _backward) -> dict[str, np.ndarray]:
    """The same for one set of gains (edges,), without lanes: `backward_pass` may be another hooked one than the reference's, whose text
    may not know of them."""
    g = {k: gains[n] for k, n in INDEX.items()}
    keep, dh_out, top = _Gains(g, trace.h.shape[-1]), s["h"] * g["dh<-s"], None
    if head is not None:
        softmax, inputs = head
        top = _softmax_backward(keep, softmax, trace.h, inputs["W_v"], inputs["y"], inputs["w"])
        dh_out = dh_out + top.dh_out.value * g["dh<-dv"]
    scaled = type(trace)(**{**vars(trace), "W": trace.W * _gains_of_W(trace, g)})
    return _named(backward_pass(keep, scaled, dh_out, s["h_T"] * g["dh<-s_h"], s["c_T"] * g["dc<-s_c"]), g, top)


def _in_lanes(trace, g: dict[str, np.ndarray]):
    """The trace with a lane axis after time, complex where gains may be; the gains of B:concat ride on its weights."""
    lifted, lanes = dict(vars(trace)), len(g["df"])
    lifted["W"] = trace.W * _gains_of_W(trace, g)
    for k in ("z", "f", "i", "c_tilde", "o", "c", "tanh_c", "h"):
        lifted[k] = np.broadcast_to(lifted[k][:, None], (len(lifted[k]), lanes, *lifted[k].shape[1:])).astype(complex)
    lifted["a"] = type(trace.a)(np.zeros((*lifted["c"].shape[:-1], trace.a.all.shape[-1]), complex))
    return type(trace)(**lifted)


def _gains_of_W(trace, g: dict[str, np.ndarray]) -> np.ndarray:
    """The gains of B:concat, as factors on the weights."""
    H = trace.h.shape[-1]
    scale = np.empty((*np.shape(g["df"]), *trace.W.shape), np.result_type(g["df"]))
    for n, k in enumerate(GATES):
        scale[..., n * H : (n + 1) * H, :H] = g[f"dh_next<-da_{k}"][..., None, None]
        scale[..., n * H : (n + 1) * H, H:] = g[f"dx<-da_{k}"][..., None, None]
    return scale


class _Gains:
    """The hook that scales terms, in lanes or without."""

    def __init__(self, gains: dict[str, np.ndarray], H: int):
        self.g = {k: v[..., None, None] for k, v in gains.items()}
        self.packed = {p: np.concatenate([np.repeat(gains[f"{p}_{k}"][..., None], H, -1) for k in GATES], -1) for p in ("dW", "db")}
        self.first = True

    def __call__(self, name: str, label: str, index, *terms):
        g, values = self.g, [rewrite.term(t).value for t in terms]
        if name == "dh":
            carry = 1.0 if self.first else g["dh<-dh_next"]
            return values[0] + values[1] * carry
        if name == "dc":  # at T what comes back is the cotangent of c_T, which has a gain of its own
            carry = 1.0 if self.first else g["dc<-dc_next"]
            self.first = False
            return values[0] * g["dc<-dh"] + values[1] * carry
        q = sum(values[1:], start=values[0])
        if name.startswith("da."):
            return q * g[f"da_{name[3:]}"]
        if name == "dW":
            return q * self.packed["dW"][..., None]
        if name == "db":
            return q * self.packed["db"]
        if name in ("dW_v", "db_v"):
            return q * (g[name] if name == "dW_v" else g[name][..., 0])
        return q * g[name] if name in g else q


def _named(found, g: dict[str, np.ndarray], top) -> dict[str, np.ndarray]:
    H = found.dh0.shape[-1]
    dx = np.moveaxis(found.dx, 1, 0) if found.dx.ndim > 3 else found.dx
    out = {"h0": found.dh0 * g["dh0"][..., None, None], "c0": found.dc0 * g["dc0"][..., None, None], "x": dx}
    for n, k in enumerate(GATES):
        out[f"W_{k}"], out[f"b_{k}"] = found.dW[..., n * H : (n + 1) * H, :], found.db[..., n * H : (n + 1) * H]
    if top is not None:
        out |= {"W_v": top.dW_v, "b_v": top.db_v}
    return out
