"""Printed: what four texts claim, each formula as printed beside the same formula as code, and the corrections.

A formula takes one step `s` of one sequence (column vectors; a dot is the gate subscript, so `s.da.f`, `s.W.f`) and gives
what it claims for every key of `due`, in that order; `judge` says what is true of the keys. `s.prev` and `s.next` are the steps
around it, outside which nothing flows. `dX` is whatever flows in under the reading, never what the formula itself claims.

Verdicts stand nowhere here: they are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import diag, exp, outer, tanh
from numpy.linalg import norm

SOURCES = {
    "P1": '"LSTM Gradients: detailed mathematical derivation of gradients of LSTM cell", Towards Data Science',
    "P2": '"LSTM: derivation of back propagation through time", GeeksforGeeks',
    "P3": '"Basic principles of the LSTM in deep learning", a blog post of 2019-08-22',
    "P4": '"The LSTM algorithm and its mathematical derivation", a blog post; where an image is lost, what its prose spells out',
}


class Aside(NamedTuple):
    """A second look at a claim, printed as a note: under which words, against which truth, and the formula if it is another."""

    label: str
    due: tuple[str, ...]
    formula: Callable


class Claim(NamedTuple):
    """One printed formula.

    `at` says where it is claimed: "every step", "t = T", "t < T", "t > 1", or once about the "whole". `kind` is
    "equation", "bound" (the formula gives the left and the right side of ≤; 0 ≤ or ≤ ∞ says nothing) or "rule". `correction`
    and `corrected` are what is right instead, as text and as code, judged as the claim is; `why` tells a student.
    """

    id: str
    printed: str
    due: tuple[str, ...]
    formula: Callable
    correction: str = ""
    corrected: Callable | None = None
    at: str = "every step"
    kind: str = "equation"
    asides: tuple[Aside, ...] = ()
    why: str = ""

    @property
    def source(self) -> str:
        return SOURCES[self.id[:2]]

    @property
    def network(self) -> str:
        """What the claim is about: an LSTM with a "softmax" or a "squared" loss, or a plain "rnn"."""
        return "rnn" if self.id.startswith("P3.rnn") else "squared" if self.id[:2] == "P2" else "softmax"


def sigma(a):
    return 1 / (1 + exp(-a))


def softmax(v):
    return exp(v) / sum(exp(v))


def cross_entropy(y, y_hat):
    return -sum(y * np.log(y_hat))


def product(matrices, n):
    """M_1 M_2 …, in the order given; the identity if there are none."""
    found = np.eye(n)
    for M in matrices:
        found = found @ M
    return found


def hadamard(vectors, n):
    found = np.ones(n)
    for v in vectors:
        found = found * v
    return found


GATE_VALUES = ("a_f", "a_i", "a_c", "a_o", "f", "i", "c_tilde", "o")
STEP_SHARES = ("step dW_f", "step dW_i", "step dW_c", "step dW_o", "step db_f", "step db_i", "step db_c", "step db_o")
WHOLE = ("dW_f", "dW_i", "dW_c", "dW_o", "db_f", "db_i", "db_c", "db_o")
HEAD_SHARES, HEAD = ("step dW_v", "step db_v"), ("dW_v", "db_v")
THROUGH_H = "Σ_k W_khᵀ dJ/da_k,t+1"  # what comes back from t+1 through h_t; W_kh are the columns of W_k on h_{t-1}


def from_next(s):
    """What comes back into h_t from the gates of t+1."""
    return s.W_h.f.T @ s.next.da.f + s.W_h.i.T @ s.next.da.i + s.W_h.c.T @ s.next.da.c + s.W_h.o.T @ s.next.da.o


P1 = (
    Claim(
        "P1.forward.gates",
        "a_k = W_k Z_t + b_k; f_t = σ(a_f), i_t = σ(a_i), c̃_t = tanh(a_c), o_t = σ(a_o)",
        GATE_VALUES,
        lambda s: (
            s.W.f @ s.z + s.b.f,
            s.W.i @ s.z + s.b.i,
            s.W.c @ s.z + s.b.c,
            s.W.o @ s.z + s.b.o,
            sigma(s.a.f),
            sigma(s.a.i),
            tanh(s.a.c),
            sigma(s.a.o),
        ),
    ),
    Claim("P1.forward.cell", "C_t = f_t ⊙ C_{t-1} + i_t ⊙ c̃_t", ("c",), lambda s: (s.f * s.c_prev + s.i * s.c_tilde,)),
    Claim("P1.forward.hidden", "h_t = o_t ⊙ tanh(C_t)", ("h",), lambda s: (s.o * tanh(s.c),)),
    Claim(
        "P1.forward.output",
        "V_t = W_v h_t + b_v, ŷ_t = softmax(V_t)",
        ("v", "y_hat"),
        lambda s: (s.W_v @ s.h + s.b_v, softmax(s.v)),
    ),
    Claim(
        "P1.forward.loss",
        "J = cross-entropy of ŷ_t and y_t (summed over t)",
        ("J",),
        lambda s: (sum(cross_entropy(r.y, r.y_hat) for r in s.steps),),
        at="whole",
    ),
    Claim("P1.softmax", "dJ/dV_t = ŷ_t − y_t", ("dv",), lambda s: (s.y_hat - s.y,)),
    Claim(
        "P1.hidden",
        "dJ/dh_t = W_vᵀ dJ/dV_t",
        ("dh",),
        lambda s: (s.W_v.T @ s.dv,),
        f"dJ/dh_t = W_vᵀ dJ/dV_t + {THROUGH_H} (nothing from T+1)",
        lambda s: (s.W_v.T @ s.dv + from_next(s),),
        why="h_t has two readers: the output layer at t, and all four gates at t+1. A quantity that is used twice gets a gradient from "
        "both. Only at t = T is there no second reader.",
    ),
    Claim(
        "P1.o",
        "dJ/do_t = dJ/dh_t ⊙ tanh(C_t)",
        ("do",),
        lambda s: (s.dh * tanh(s.c),),
        why="The step itself is right: o_t is read by h_t only. It is as right as the dJ/dh_t that you put in.",
    ),
    Claim(
        "P1.a_o",
        "dJ/da_o = dJ/do_t ⊙ o_t ⊙ (1 − o_t)",
        ("da_o",),
        lambda s: (s.do * s.o * (1 - s.o),),
        why="Right, given a right dJ/do_t.",
    ),
    Claim(
        "P1.cell",
        "dJ/dC_t = dJ/dh_t ⊙ o_t ⊙ (1 − tanh²(C_t))",
        ("dc",),
        lambda s: (s.dh * s.o * (1 - tanh(s.c) ** 2),),
        "dJ/dC_t = dJ/dh_t ⊙ o_t ⊙ (1 − tanh²(C_t)) + dJ/dC_{t+1} ⊙ f_{t+1} (nothing from T+1)",
        lambda s: (s.dh * s.o * (1 - tanh(s.c) ** 2) + s.next.dc * s.next.f,),
        why="C_t is read by h_t and, through the forget gate, by C_{t+1}. The second path is the whole point of an LSTM, and it is "
        "missing from the formula (the text adds it only at the end, in prose). Putting the right dJ/dh_t in does not bring it "
        "back.",
    ),
    Claim(
        "P1.c_tilde",
        "dJ/dc̃_t = dJ/dC_t ⊙ i_t",
        ("dc_tilde",),
        lambda s: (s.dc * s.i,),
        why="Right, given a right dJ/dC_t; the text's own dJ/dC_t is that of the last step only.",
    ),
    Claim(
        "P1.a_c",
        "dJ/da_c = dJ/dc̃_t ⊙ (1 − c̃_t²)",
        ("da_c",),
        lambda s: (s.dc_tilde * (1 - s.c_tilde**2),),
        why="Right, given a right dJ/dc̃_t.",
    ),
    Claim(
        "P1.i",
        "dJ/di_t = dJ/dC_t ⊙ c̃_t",
        ("di",),
        lambda s: (s.dc * s.c_tilde,),
        why="Right, given a right dJ/dC_t.",
    ),
    Claim(
        "P1.a_i",
        "dJ/da_i = dJ/di_t ⊙ i_t ⊙ (1 − i_t)",
        ("da_i",),
        lambda s: (s.di * s.i * (1 - s.i),),
        why="Right, given a right dJ/di_t.",
    ),
    Claim(
        "P1.f",
        "dJ/df_t = dJ/dC_t ⊙ C_{t-1}",
        ("df",),
        lambda s: (s.dc * s.c_prev,),
        why="Right, given a right dJ/dC_t.",
    ),
    Claim(
        "P1.a_f",
        "dJ/da_f = dJ/df_t ⊙ f_t ⊙ (1 − f_t)",
        ("da_f",),
        lambda s: (s.df * s.f * (1 - s.f),),
        why="Right, given a right dJ/df_t.",
    ),
    Claim(
        "P1.c_prev",
        "dJ/dC_{t-1} = dJ/dC_t ⊙ f_t",
        ("dc_prev",),
        lambda s: (s.dc * s.f,),
        "dJ/dC_{t-1} = dJ/dC_t ⊙ f_t + dJ/dh_{t-1} ⊙ o_{t-1} ⊙ (1 − tanh²(C_{t-1})); for C_0 the first term alone",
        lambda s: (s.dc * s.f + s.prev.dh * s.prev.o * (1 - tanh(s.prev.c) ** 2),),
        why="This is what arrives at C_{t-1} from step t, not all that C_{t-1} gets: it also made h_{t-1}. Only C_0 made no h. In "
        "code, this value is the dc_next that the step before adds to its own part.",
    ),
    Claim(
        "P1.z",
        "dJ/dZ_t = W_fᵀ dJ/da_f + W_iᵀ dJ/da_i + W_cᵀ dJ/da_c + W_oᵀ dJ/da_o",
        ("dz",),
        lambda s: (s.W.f.T @ s.da.f + s.W.i.T @ s.da.i + s.W.c.T @ s.da.c + s.W.o.T @ s.da.o,),
        why="Right, given right dJ/da_k. Its first rows are what h_{t-1} gets back: the term that P1.hidden lacks.",
    ),
    Claim(
        "P1.weights",
        "dJ/dW_k = dJ/da_k Z_tᵀ, dJ/db_k = dJ/da_k; dJ/dW_v = dJ/dV_t h_tᵀ, dJ/db_v = dJ/dV_t",
        STEP_SHARES + HEAD_SHARES,
        lambda s: (
            outer(s.da.f, s.z),
            outer(s.da.i, s.z),
            outer(s.da.c, s.z),
            outer(s.da.o, s.z),
            s.da.f,
            s.da.i,
            s.da.c,
            s.da.o,
            outer(s.dv, s.h),
            s.dv,
        ),
        why="This is the share of one step, right given right dJ/da_k. All steps use the same weights, so the gradient of a weight "
        "is the sum of the shares (P1.through_time); one share is the whole only where T = 1. The output layer sees no later "
        "step, so its shares are right under both readings.",
    ),
    Claim(
        "P1.through_time",
        "the gradient of each weight is the sum of its per-step gradients over t = 1 … T",
        WHOLE + HEAD,
        lambda s: (
            sum(outer(r.da.f, r.z) for r in s.steps),
            sum(outer(r.da.i, r.z) for r in s.steps),
            sum(outer(r.da.c, r.z) for r in s.steps),
            sum(outer(r.da.o, r.z) for r in s.steps),
            sum(r.da.f for r in s.steps),
            sum(r.da.i for r in s.steps),
            sum(r.da.c for r in s.steps),
            sum(r.da.o for r in s.steps),
            sum(outer(r.dv, r.h) for r in s.steps),
            sum(r.dv for r in s.steps),
        ),
        at="whole",
        why="Adding up is right, of the right things: the shares of total derivatives. The sum of shares that each know only their "
        "own step's loss is not a gradient of anything once T > 1.",
    ),
    Claim(
        "P1.update",
        "W ← W − α dJ/dW",
        WHOLE + HEAD,
        lambda s: (
            s.W.f - s.alpha * s.gradients["W_f"],
            s.W.i - s.alpha * s.gradients["W_i"],
            s.W.c - s.alpha * s.gradients["W_c"],
            s.W.o - s.alpha * s.gradients["W_o"],
            s.b.f - s.alpha * s.gradients["b_f"],
            s.b.i - s.alpha * s.gradients["b_i"],
            s.b.c - s.alpha * s.gradients["b_c"],
            s.b.o - s.alpha * s.gradients["b_o"],
            s.W_v - s.alpha * s.gradients["W_v"],
            s.b_v - s.alpha * s.gradients["b_v"],
        ),
        at="whole",
        kind="rule",
        why="A rule, not an equation: there is no derivative it could be. What can be checked is that it walks along −dJ/dW, at the"
        " speed α.",
    ),
)

P2 = (
    Claim(
        "P2.forward",
        "Z_k = wx_k x + wh_k h_{t-1} + b_k; g = tanh(Z_g), i, f, o = σ(Z_·); c_t = c_{t-1} f + g i; h_t = o tanh(c_t)",
        (*GATE_VALUES, "c", "h"),
        lambda s: (
            s.W_x.f @ s.x + s.W_h.f @ s.h_prev + s.b.f,
            s.W_x.i @ s.x + s.W_h.i @ s.h_prev + s.b.i,
            s.W_x.c @ s.x + s.W_h.c @ s.h_prev + s.b.c,
            s.W_x.o @ s.x + s.W_h.o @ s.h_prev + s.b.o,
            sigma(s.a.f),
            sigma(s.a.i),
            tanh(s.a.c),
            sigma(s.a.o),
            s.c_prev * s.f + s.c_tilde * s.i,
            s.o * tanh(s.c),
        ),
    ),
    Claim(
        "P2.delta",
        "E_delta = dE/dh_t = y − h(x), for the squared error E = ½ Σ_t ‖h_t − y_t‖²",
        ("dh",),
        lambda s: (s.target - s.h,),
        "dE/dh_t = h_t − y_t + Σ_k wh_kᵀ dE/dZ_k,t+1 (nothing from T+1)",
        lambda s: (s.h - s.target + from_next(s),),
        why="Two things. The sign: d/dh ½(h − y)² = h − y; with y − h every gradient of the text points uphill (the update W ← W − "
        "α dE/dW would then have to be W + α …); a mean in place of ½ Σ would only bring a constant factor. And h_t is read by "
        "the gates of t+1, too, so even with the right sign it holds at t = T only.",
    ),
    Claim(
        "P2.o",
        "dE/do = E_delta tanh(c_t)",
        ("do",),
        lambda s: (s.E_delta * tanh(s.c),),
        why="Right if E_delta is the total dE/dh_t; with the error of step t alone, at the last step only.",
    ),
    Claim(
        "P2.c",
        "dE/dc_t = E_delta o (1 − tanh²(c_t))",
        ("dc",),
        lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2),),
        "dE/dc_t = E_delta o (1 − tanh²(c_t)) + dE/dc_{t+1} f_{t+1}, with E_delta = dE/dh_t the total derivative (nothing from T+1)",
        lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2) + s.next.dc * s.next.f,),
        why="The path c_t → c_{t+1} is missing. A right E_delta does not help: that path does not pass through h_t.",
    ),
    Claim(
        "P2.i",
        "dE/di = E_delta o (1 − tanh²(c_t)) g",
        ("di",),
        lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_tilde,),
        "dE/di = dE/dc_t g, with dE/dc_t the total derivative",
        lambda s: (s.dc * s.c_tilde,),
        why="The factor before g stands for dE/dc_t, and it is the incomplete one of P2.c.",
    ),
    Claim(
        "P2.g",
        "dE/dg = E_delta o (1 − tanh²(c_t)) i",
        ("dc_tilde",),
        lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.i,),
        "dE/dg = dE/dc_t i, with dE/dc_t the total derivative",
        lambda s: (s.dc * s.i,),
        why="As P2.i: the dE/dc_t inside it is incomplete.",
    ),
    Claim(
        "P2.f",
        "dE/df = E_delta o (1 − tanh²(c_t)) c_{t-1}",
        ("df",),
        lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_prev,),
        "dE/df = dE/dc_t c_{t-1}, with dE/dc_t the total derivative",
        lambda s: (s.dc * s.c_prev,),
        why="As P2.i: the dE/dc_t inside it is incomplete. With the text's c_0 = 0 both sides are 0 at t = 1, which hides it.",
    ),
    Claim(
        "P2.c_prev",
        'dE/dc_t = E_delta o (1 − tanh²(c_t)) f, under the heading "gradient with respect to c_{t-1}"',
        ("dc_prev",),
        lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.f,),
        "dE/dc_{t-1} = dE/dc_t f_t + dE/dh_{t-1} o_{t-1} (1 − tanh²(c_{t-1})); for c_0 the first term alone",
        lambda s: (s.dc * s.f + s.prev.dh * s.prev.o * (1 - tanh(s.prev.c) ** 2),),
        asides=(Aside("under the name that is printed, dE/dc_t", ("dc",), lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.f,)),),
        why="Three things. The left side is printed as dE/dc_t, and means dE/dc_{t-1}. The factor before f is the incomplete "
        "dE/dc_t of P2.c. And c_{t-1} also made h_{t-1}, whose gradient is left out; only c_0 made none.",
    ),
    Claim(
        "P2.W_o",
        "dE/dwx_o = E_delta tanh(c_t) σ(z_o)(1 − σ(z_o)) x_t; dE/dwh_o with h_{t-1}; dE/db_o without it",
        ("step dwx_o", "step dwh_o", "step db_o"),
        lambda s: (
            outer(s.E_delta * tanh(s.c) * sigma(s.a.o) * (1 - sigma(s.a.o)), s.x),
            outer(s.E_delta * tanh(s.c) * sigma(s.a.o) * (1 - sigma(s.a.o)), s.h_prev),
            s.E_delta * tanh(s.c) * sigma(s.a.o) * (1 - sigma(s.a.o)),
        ),
        why="The share of step t, right if E_delta is the total dE/dh_t. The gradient of the weight is the sum over steps.",
    ),
    Claim(
        "P2.W_f",
        "dE/dwx_f = E_delta o (1 − tanh²(c_t)) c_{t-1} σ(z_f)(1 − σ(z_f)) x_t; wh_f with h_{t-1}; the bias, printed as db_o, without it",
        ("step dwx_f", "step dwh_f", "step db_f"),
        lambda s: (
            outer(s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_prev * sigma(s.a.f) * (1 - sigma(s.a.f)), s.x),
            outer(s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_prev * sigma(s.a.f) * (1 - sigma(s.a.f)), s.h_prev),
            s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_prev * sigma(s.a.f) * (1 - sigma(s.a.f)),
        ),
        "dE/dwx_f = dE/dc_t c_{t-1} f (1 − f) x_t, with dE/dc_t the total derivative; wh_f with h_{t-1}; db_f without it",
        lambda s: (
            outer(s.dc * s.c_prev * s.f * (1 - s.f), s.x),
            outer(s.dc * s.c_prev * s.f * (1 - s.f), s.h_prev),
            s.dc * s.c_prev * s.f * (1 - s.f),
        ),
        asides=(
            Aside(
                "the bias line under the name that is printed, db_o",
                ("step db_o",),
                lambda s: (s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_prev * sigma(s.a.f) * (1 - sigma(s.a.f)),),
            ),
        ),
        why="The dE/dc_t inside it is the incomplete one of P2.c, so the share is right at t = T only. The bias line has the wrong "
        "name: it is b_f's.",
    ),
    Claim(
        "P2.W_i",
        "dE/dwx_i = E_delta o (1 − tanh²(c_t)) g σ(z_i)(1 − σ(z_i)) x_t; wh_i with h_{t-1}, b_i without it",
        ("step dwx_i", "step dwh_i", "step db_i"),
        lambda s: (
            outer(s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_tilde * sigma(s.a.i) * (1 - sigma(s.a.i)), s.x),
            outer(s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_tilde * sigma(s.a.i) * (1 - sigma(s.a.i)), s.h_prev),
            s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.c_tilde * sigma(s.a.i) * (1 - sigma(s.a.i)),
        ),
        "dE/dwx_i = dE/dc_t g i (1 − i) x_t, with dE/dc_t the total derivative; wh_i with h_{t-1}, b_i without it",
        lambda s: (
            outer(s.dc * s.c_tilde * s.i * (1 - s.i), s.x),
            outer(s.dc * s.c_tilde * s.i * (1 - s.i), s.h_prev),
            s.dc * s.c_tilde * s.i * (1 - s.i),
        ),
        why="As P2.W_f: the dE/dc_t inside it is incomplete.",
    ),
    Claim(
        "P2.W_g",
        "dE/dwx_g = E_delta o (1 − tanh²(c_t)) i (1 − tanh²(z_g)) x_t; wh_g with h_{t-1}, b_g without it",
        ("step dwx_c", "step dwh_c", "step db_c"),
        lambda s: (
            outer(s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.i * (1 - tanh(s.a.c) ** 2), s.x),
            outer(s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.i * (1 - tanh(s.a.c) ** 2), s.h_prev),
            s.E_delta * s.o * (1 - tanh(s.c) ** 2) * s.i * (1 - tanh(s.a.c) ** 2),
        ),
        "dE/dwx_g = dE/dc_t i (1 − g²) x_t, with dE/dc_t the total derivative; wh_g with h_{t-1}, b_g without it",
        lambda s: (
            outer(s.dc * s.i * (1 - s.c_tilde**2), s.x),
            outer(s.dc * s.i * (1 - s.c_tilde**2), s.h_prev),
            s.dc * s.i * (1 - s.c_tilde**2),
        ),
        why="As P2.W_f: the dE/dc_t inside it is incomplete.",
    ),
    Claim(
        "P2.through_time",
        "the final gradient of a weight is the sum over time steps",
        WHOLE,
        lambda s: (
            sum(outer(r.da.f, r.z) for r in s.steps),
            sum(outer(r.da.i, r.z) for r in s.steps),
            sum(outer(r.da.c, r.z) for r in s.steps),
            sum(outer(r.da.o, r.z) for r in s.steps),
            sum(r.da.f for r in s.steps),
            sum(r.da.i for r in s.steps),
            sum(r.da.c for r in s.steps),
            sum(r.da.o for r in s.steps),
        ),
        at="whole",
        why="Adding up is right. Adding up the text's own shares, which are those of the last step everywhere, is not.",
    ),
)


def norms(v):
    """The 1-, 2- and ∞-norm of a row vector, and the 2-norm again for the Frobenius norm of a matrix to its right."""
    return np.array([norm(v, 1), norm(v, 2), norm(v, np.inf), norm(v, 2)])


def matrix_norms(M):
    """The norms of M that go with them: ‖δᵀM‖ ≤ ‖δᵀ‖ ‖M‖."""
    return np.array([norm(M.T, 1), norm(M.T, 2), norm(M.T, np.inf), norm(M)])


def beta(s):
    """β_f β_W with the smallest bounds there are: the largest ‖diag[φ'(net_i)]‖ of the steps k … t−1, and ‖W‖ itself."""
    if not hasattr(s, "beta"):
        s.beta = np.max([matrix_norms(diag(s.slope[i])) for i in range(s.k, s.t)], axis=0) * matrix_norms(s.W)
    return s.beta


def growth(s):
    """The smallest factor by which the error can change on its way from t to k, in the 2-norm: a product of smallest singular values."""
    return np.prod([norm(s.W @ diag(s.slope[i]), -2) for i in range(s.k, s.t)])


P3 = (
    Claim(
        "P3.rnn_error",
        "δ_kᵀ = δ_tᵀ Π_{i=k}^{t-1} diag[φ'(net_i)] W",
        ("dnet",),
        lambda s: (s.delta[s.t] @ product([diag(s.slope[i]) @ s.W for i in reversed(range(s.k, s.t))], len(s.W)),),
        "δ_kᵀ = δ_tᵀ Π_{i=t-1}^{k} W diag[φ'(net_i)], the latest step first, plus what enters between k and t: s_iᵀ diag[φ'(net_i)] at "
        "every step i that has an error s_i of its own, carried to k in the same way",
        lambda s: (
            s.delta[s.t] @ product([s.W @ diag(s.slope[i]) for i in reversed(range(s.k, s.t))], len(s.W))
            + sum(
                s.s[i] @ diag(s.slope[i]) @ product([s.W @ diag(s.slope[j]) for j in reversed(range(s.k, i))], len(s.W))
                for i in range(s.k, s.t)
            ),
        ),
        asides=(
            Aside(
                "with δ read as ∂E/∂h",
                ("dh",),
                lambda s: (s.dh[s.t] @ product([diag(s.slope[i]) @ s.W for i in reversed(range(s.k, s.t))], len(s.W)),),
            ),
            Aside(
                "with δ read as ∂E/∂h and the product over i = k+1 … t",
                ("dh",),
                lambda s: (s.dh[s.t] @ product([diag(s.slope[i]) @ s.W for i in reversed(range(s.k + 1, s.t + 1))], len(s.W)),),
            ),
        ),
        why="δ is ∂E/∂net. From net_t back to net_{t-1} the error passes W first and the slope φ'(net_{t-1}) after it: δᵀ W "
        "diag[φ']. The printed order multiplies by the slope first. Numbers commute, matrices do not, so a check with one unit "
        "passes. The order diag[φ'] W belongs to ∂E/∂h, and there the product runs over k+1 … t. And the formula carries only "
        "the error of step t: where steps between have errors, they add.",
    ),
    Claim(
        "P3.rnn_bound",
        "‖δ_kᵀ‖ ≤ ‖δ_tᵀ‖ (β_f β_W)^{t−k}, with β_f ≥ ‖diag[φ'(net_i)]‖, β_W ≥ ‖W‖",
        ("bound",),
        lambda s: (norms(s.delta[s.k]), norms(s.delta[s.t]) * beta(s) ** (s.t - s.k)),
        "the same, for the error of step t alone; where steps between have errors s_i of their own, "
        "‖δ_kᵀ‖ ≤ ‖δ_tᵀ‖ β^{t−k} + Σ_i ‖s_iᵀ diag[φ'(net_i)]‖ β^{i−k}, β = β_f β_W",
        lambda s: (
            norms(s.delta[s.k]),
            norms(s.delta[s.t]) * beta(s) ** (s.t - s.k)
            + sum(norms(s.s[i] @ diag(s.slope[i])) * beta(s) ** (i - s.k) for i in range(s.k, s.t)),
        ),
        kind="bound",
        why="Right for what the error of step t sends back (the wrong order in P3.rnn_error has the same norms, so it does no "
        "harm). It is not a bound on the total derivative, to which every step between adds its own error.",
    ),
    Claim(
        "P3.rnn_bound.vanishes",
        "where β_f β_W < 1, the gradient vanishes: ‖δ_kᵀ‖ ≤ ‖δ_tᵀ‖",
        ("bound",),
        lambda s: (norms(s.delta[s.k]), np.where(beta(s) < 1, norms(s.delta[s.t]), np.inf)),
        "the same, for the error of step t alone; else the right side has + Σ_i ‖s_iᵀ diag[φ'(net_i)]‖",
        lambda s: (
            norms(s.delta[s.k]),
            np.where(beta(s) < 1, norms(s.delta[s.t]) + sum(norms(s.s[i] @ diag(s.slope[i])) for i in range(s.k, s.t)), np.inf),
        ),
        kind="bound",
        why="It follows from the bound, and holds where the bound does: for the error of step t alone.",
    ),
    Claim(
        "P3.rnn_bound.explodes",
        "where β_f β_W > 1, the gradient explodes: ‖δ_tᵀ‖ ≤ ‖δ_kᵀ‖",
        ("bound",),
        lambda s: (np.where(beta(s) > 1, norms(s.delta[s.t]), 0), norms(s.delta[s.k])),
        "‖δ_tᵀ‖₂ Π_i σ_min(W diag[φ'(net_i)]) ≤ ‖δ_kᵀ‖₂ for the error of step t alone: it must explode where the smallest "
        "singular values are above 1, not where a bound is",
        lambda s: (norm(s.delta[s.t]) * growth(s), norm(s.delta_of_t[s.k])),
        kind="bound",
        why="A bound from above that grows says nothing: what lies under it may still shrink. β_f is the largest slope and β_W the "
        "largest stretch, and the error of one unit may meet neither.",
    ),
    Claim(
        "P3.rnn_sum",
        "∇_W E = Σ_k ∇_{W_k} E, with ∇_{W_k} E = δ_k h_{k-1}ᵀ",
        ("dW",),
        lambda s: (sum(outer(s.delta[k], s.h_prev[k]) for k in range(s.t + 1)),),
        at="whole",
    ),
    Claim(
        "P3.rnn_sum.shrinks",
        "the share of step k shrinks as t − k grows: ‖∇_{W_k} E‖ ≤ ‖∇_{W_{k+1}} E‖ (the text plots these)",
        ("bound",),
        lambda s: (norm(s.share[s.k]), norm(s.share[s.k + 1])),
        "‖∇_{W_k} E‖ ≤ ‖δ_tᵀ‖ (β_f β_W)^{t−k} ‖h_{k-1}‖ for the error of step t alone, in the 2-norm: a bound shrinks, where β_f β_W < 1",
        lambda s: (norm(outer(s.delta_of_t[s.k], s.h_prev[s.k])), norm(s.delta[s.t]) * beta(s)[1] ** (s.t - s.k) * norm(s.h_prev[s.k])),
        kind="bound",
        why="The share of a step is ‖δ_k‖ ‖h_{k-1}‖: even where δ_k shrinks, a small h_k makes the share of the step after it "
        "small. Plots of one network show one network.",
    ),
    Claim(
        "P3.gates",
        "f_t, i_t, o_t = σ(W_· [h_{t-1}, x_t] + b_·), c̃_t = tanh(W_c [h_{t-1}, x_t] + b_c)",
        ("f", "i", "o", "c_tilde"),
        lambda s: (
            sigma(s.W.f @ np.append(s.h_prev, s.x) + s.b.f),
            sigma(s.W.i @ np.append(s.h_prev, s.x) + s.b.i),
            sigma(s.W.o @ np.append(s.h_prev, s.x) + s.b.o),
            tanh(s.W.c @ np.append(s.h_prev, s.x) + s.b.c),
        ),
    ),
    Claim(
        "P3.split",
        "W_f is d_c × (d_h + d_x) and is [W_fh, W_fx] side by side, so W_f [h, x] = W_fh h + W_fx x; d_c = d_h",
        ("W_f", "a_f", "d_h"),
        lambda s: (
            np.hstack([s.W_h.f, s.W_x.f]).reshape(len(s.c), len(s.h) + len(s.x)),
            s.W_h.f @ s.h_prev + s.W_x.f @ s.x + s.b.f,
            np.array([float(len(s.c))]),
        ),
    ),
    Claim("P3.cell", "c_t = f_t ⊙ c_{t-1} + i_t ⊙ c̃_t", ("c",), lambda s: (s.f * s.c_prev + s.i * s.c_tilde,)),
    Claim("P3.hidden", "h_t = o_t ⊙ tanh(c_t)", ("h",), lambda s: (s.o * tanh(s.c),)),
    Claim(
        "P3.memory",
        "c_t depends on c_{t-1} through f_t alone, with no W in between: ∂c_t/∂c_{t-1} = diag[f_t] (our reading of the text)",
        ("∂c/∂c_prev",),
        lambda s: (diag(s.f),),
        "∂c_t/∂c_{t-1} = diag[f_t] + (diag[c_{t-1} f (1−f)] W_fh + diag[c̃ i (1−i)] W_ih + diag[i (1−c̃²)] W_ch) diag[o_{t-1} "
        "(1 − tanh²(c_{t-1}))]; the second part only for t > 1",
        lambda s: (diag(s.f) + gate_path(s),),
        why="True of the direct edge, with the gates held. But c_{t-1} also makes h_{t-1}, which all gates of step t read through "
        "their W_h. The direct edge is what keeps the gradient alive; it is not the whole derivative. (That the cell state "
        "carries the gradient further than a plain RNN does is no formula, and is not judged.)",
    ),
)


def gate_path(s):
    """The path c_{t-1} → h_{t-1} → f_t, i_t, c̃_t → c_t, gate by gate."""
    gates = (
        diag(s.c_prev * s.f * (1 - s.f)) @ s.W_h.f + diag(s.c_tilde * s.i * (1 - s.i)) @ s.W_h.i + diag(s.i * (1 - s.c_tilde**2)) @ s.W_h.c
    )
    return gates @ diag(s.prev.o * (1 - tanh(s.prev.c) ** 2))


def own_rows(q, z):
    """The Jacobian of a vector by a matrix of which each entry reads its own row: q_j z_b at [j, j, b]."""
    return np.einsum("jk,j,b->jkb", np.eye(len(q)), q, z)


P4 = (
    Claim(
        "P4.forward",
        "the four gates, the cell state, the hidden state, an output layer on h_t",
        (*GATE_VALUES[4:], "c", "h", "v", "y_hat"),
        lambda s: (
            sigma(s.W.f @ s.z + s.b.f),
            sigma(s.W.i @ s.z + s.b.i),
            tanh(s.W.c @ s.z + s.b.c),
            sigma(s.W.o @ s.z + s.b.o),
            s.f * s.c_prev + s.i * s.c_tilde,
            s.o * tanh(s.c),
            s.W_v @ s.h + s.b_v,
            softmax(s.v),
        ),
    ),
    Claim(
        "P4.forward.loss",
        "cross-entropy loss (summed over t)",
        ("J",),
        lambda s: (sum(cross_entropy(r.y, r.y_hat) for r in s.steps),),
        at="whole",
    ),
    Claim(
        "P4.w_f",
        "∂E/∂w_f = ∂E/∂C_t · ∂C_t/∂f_t · ∂f_t/∂w_f",
        ("step dW_f",),
        lambda s: (outer(s.dc * s.c_prev * s.f * (1 - s.f), s.z),),
        why="The share of step t, right given the total ∂E/∂C_t. As printed, without a sum over t, it is the gradient of w_f only "
        "where T = 1.",
    ),
    Claim(
        "P4.cell_last",
        "at t = n: ∂E/∂C_n = ∂E/∂h_n · ∂h_n/∂C_n",
        ("dc",),
        lambda s: (s.dh * s.o * (1 - tanh(s.c) ** 2),),
        at="t = T",
    ),
    Claim(
        "P4.cell",
        "for t < n: ∂E/∂C_t = ∂E/∂h_t · ∂h_t/∂C_t + ∂E/∂C_{t+1} · ∂C_{t+1}/∂C_t; unrolled, a sum over all later steps",
        ("dc", "dc"),
        lambda s: (
            s.dh * s.o * (1 - tanh(s.c) ** 2) + s.next.dc * s.next.f,
            sum(
                r.dh * r.o * (1 - tanh(r.c) ** 2) * hadamard([u.f for u in s.steps if s.n < u.n <= r.n], len(s.c))
                for r in s.steps
                if r.n >= s.n
            ),
        ),
        at="t < T",
        why="The recursion is exact if ∂E/∂h_t is the total derivative, which has the path h_t → gates of t+1 in it. If ∂E/∂h_t is "
        "the output layer's gradient alone, what comes out is the truncated gradient of the LSTM of 1997, in which no error "
        "leaves a cell through the gates: a gradient people trained with, but not ∂E/∂C_t.",
    ),
    Claim("P4.dh_dC", "∂h_t/∂C_t = o_t (1 − tanh²(C_t))", ("∂h/∂c",), lambda s: (diag(s.o * (1 - tanh(s.c) ** 2)),)),
    Claim(
        "P4.dC_dC",
        "∂C_{t+1}/∂C_t = f_{t+1}",
        ("∂c/∂c_prev",),
        lambda s: (diag(s.f),),
        "∂C_t/∂C_{t-1} = diag[f_t] + (diag[C_{t-1} f (1−f)] W_fh + diag[c̃ i (1−i)] W_ih + diag[i (1−c̃²)] W_ch) diag[o_{t-1} "
        "(1 − tanh²(C_{t-1}))]",
        lambda s: (diag(s.f) + gate_path(s),),
        at="t > 1",
        why="Right with the gates held, as the chain rule of P4.cell needs it: there the path through h_t is counted in ∂E/∂h_t. As"
        " a total derivative it lacks that path.",
    ),
    Claim("P4.dC_df", "∂C_t/∂f_t = C_{t-1}", ("∂c/∂f",), lambda s: (diag(s.c_prev),)),
    Claim(
        "P4.df_dw",
        "∂f_t/∂w_f = f_t (1 − f_t) [h_{t-1}, x_t]",
        ("∂f/∂W_f",),
        lambda s: (own_rows(s.f * (1 - s.f), np.append(s.h_prev, s.x)),),
        "∂f_t/∂w_f = f_t (1 − f_t) ([h_{t-1}, x_t] on its own row + W_fh ∂h_{t-1}/∂w_f); ∂h_0/∂w_f = 0",
        lambda s: (own_rows(s.f * (1 - s.f), np.append(s.h_prev, s.x)) + np.einsum("j,jm,mkb->jkb", s.f * (1 - s.f), s.W_h.f, s.dh_dW(1)),),
        why="Right with h_{t-1} held, as P4.w_f needs it. But h_{t-1} was made with the same w_f: as a total derivative it holds at"
        " t = 1 only.",
    ),
)

CLAIMS = P1 + P2 + P3 + P4
