"""RNN: one sequence through a plain recurrent network, its derivatives by complex steps, and their conditions.

    net_t = W h_{t-1} + a_t,   h_t = φ(net_t) with φ = tanh,   E = Σ_t ⟨s_t, h_t⟩

a_t stands for all that x_t and the bias add. Every step has its own copy of W, of a_t, and of a zero `e` that is added
to h_t, so that one complex forward pass over many small changes gives ∂E/∂net_t, ∂E/∂h_t and the share of every step in ∂E/∂W.
"""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace

import numpy as np

from ..judgement import tolerances as tol
from ..reference import rewrite
from ..truth.differences import COMPLEX_STEP

P = tol.PRECISIONS["float64"]
SHARES = ("dnet", "dh", "share", "dW")


def forward(h0, W, a, e):
    """`h0` (…, 1, H), `W` (T, …, H, H), `a`, `e` (T, …, 1, H): net_t and h_t, (T, …, 1, H)."""
    net, h = [], []
    h_prev = h0
    for t in range(len(a)):
        net_t = a[t] + h_prev @ np.swapaxes(W[t], -1, -2)  # (F:preact)
        h_t = np.tanh(net_t) + e[t]  # (F:hidden)
        net.append(net_t)
        h.append(h_t)
        h_prev = h_t
    return SimpleNamespace(net=np.stack(net), h=np.stack(h))


def backward(trace, W, s):
    """The same derivatives written out, only to learn their conditions: ∂E/∂net_t and ∂E/∂h_t."""
    dnet, dh = np.empty_like(trace.net), np.empty_like(trace.net)
    dh_next = np.zeros_like(trace.net[0])
    for t in reversed(range(len(s))):
        dh[t] = s[t] + dh_next  # (B:hidden)
        dnet[t] = dh[t] * (1 - trace.h[t] ** 2)  # (B:preact)
        dh_next = dnet[t] @ W[t]  # (B:concat)
    return SimpleNamespace(dnet=dnet, dh=dh)


_forward, _backward = rewrite.hooked(forward), rewrite.hooked(backward)


class Rnn:
    """One plain RNN of textbook shapes: `h0` (H,), `W` (H, H), `a` (T, H), `s` (T, H).

    The reading "alone" has E = ⟨s_T, h_T⟩, the error of the last step; "total" has the errors of all steps.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.T, self.H = arrays["a"].shape
        self._noisy: dict[tuple, list[SimpleNamespace]] = {}

    def places(self, at: str) -> list[tuple[str, int | None]]:
        """Where a claim about the steps k < t = T is judged; once where it is about the whole."""
        if at == "whole":
            return [("T = 1" if self.T == 1 else "T > 1", None)]
        return [("t − k = 1" if k == self.T - 2 else "t − k > 1", k) for k in range(self.T - 1)]

    @cached_property
    def _derivatives(self) -> dict[str, dict[str, np.ndarray]]:
        """By reading: `dnet`, `dh` (T, H), `share` (T, H, H) and `dW` (H, H), by complex steps, all in one forward pass."""
        T, H = self.T, self.H
        sizes = (T * H, T * H, T * H * H, H * H)
        starts = np.cumsum((0, *sizes))
        n = starts[-1]
        a, e, W = np.zeros((T, n, 1, H), complex), np.zeros((T, n, 1, H), complex), np.zeros((T, n, H, H), complex)
        a += self.arrays["a"][:, None, None]
        W += self.arrays["W"]
        step = 1j * COMPLEX_STEP
        for m, (t, j) in enumerate(np.ndindex(T, H)):
            a[t, starts[0] + m, 0, j] += step
            e[t, starts[1] + m, 0, j] += step
        for m, (t, j, k) in enumerate(np.ndindex(T, H, H)):
            W[t, starts[2] + m, j, k] += step
        for m, (j, k) in enumerate(np.ndindex(H, H)):
            W[:, starts[3] + m, j, k] += step
        h = forward(np.broadcast_to(self.arrays["h0"], (n, 1, H)), W, a, e).h
        shapes = ((T, H), (T, H), (T, H, H), (H, H))
        found = {}
        for reading, s in self._errors.items():
            slopes = np.imag(np.einsum("tj,tnj->n", s, h[:, :, 0])) / COMPLEX_STEP
            parts = (slopes[i:j].reshape(shape) for i, j, shape in zip(starts[:-1], starts[1:], shapes, strict=True))
            found[reading] = dict(zip(SHARES, parts, strict=True))
        return found

    @cached_property
    def _errors(self) -> dict[str, np.ndarray]:
        last = np.zeros_like(self.arrays["s"])
        last[-1] = self.arrays["s"][-1]
        return {"alone": last, "total": self.arrays["s"]}

    @cached_property
    def lanes(self) -> dict[str, dict[str, np.ndarray]]:
        """By reading: `h`, `dnet`, `dh`, `share`, `dW` clean and with noise, the lanes on the first axis."""
        found = {}
        for reading, s in self._errors.items():
            keep = tol.noise(P)
            W = np.broadcast_to(self.arrays["W"], (self.T, self.H, self.H))
            h0 = np.broadcast_to(self.arrays["h0"], (tol.LANES, 1, self.H))
            a = self.arrays["a"][:, None, None]
            trace = _forward(keep, h0, W, a, np.zeros_like(a))
            g = _backward(keep, trace, W, s[:, None, None])
            run = {"h": trace.h, "dnet": g.dnet, "dh": g.dh}
            run = {k: np.moveaxis(v[:, :, 0], 0, 1) for k, v in run.items()}
            h_prev = np.concatenate([h0[:, :1], run["h"][:, :-1]], axis=1)
            run["share"] = run["dnet"][..., None] * h_prev[:, :, None]
            found[reading] = run | {"dW": run["share"].sum(1)}
        return found

    @cached_property
    def _conditions(self) -> dict[str, dict[str, tol.Condition]]:
        steps = frozenset(("dnet", "dh", "share"))
        return {reading: tol.conditions(tol.Lanes({k: run[k] for k in SHARES}, 0.0, 0.0), P, steps) for reading, run in self.lanes.items()}

    def due(self, key: str, k: int | None, truth: str, reading: str) -> tuple[np.ndarray, tol.Condition]:
        """What is true of `key` at step k (of the whole where k is None), under the E of the reading, and its condition."""
        value, c = self._derivatives[reading][key], self._conditions[reading][key]
        return (value, c) if k is None else (value[k], tol.part(c, k))

    def step(self, reading: str, k: int | None) -> SimpleNamespace:
        """What a claim may speak of, from the complex steps; for a bound see `noisy_steps`."""
        W, a = np.broadcast_to(self.arrays["W"], (self.T, self.H, self.H)), self.arrays["a"][:, None]
        trace = forward(self.arrays["h0"][None], W, a, np.zeros_like(a))
        found = {q: v["dnet"] for q, v in self._derivatives.items()}
        return self._step(reading, k, trace.h[:, 0], self._derivatives[reading], found)

    def noisy_steps(self, reading: str, k: int | None) -> list[SimpleNamespace]:
        """The same quantities with noise, one namespace per lane: what a bound's own rounding is learnt from."""
        if (reading, k) not in self._noisy:
            self._noisy[reading, k] = self._noisy_steps(reading, k)
        return self._noisy[reading, k]

    def _noisy_steps(self, reading: str, k: int | None) -> list[SimpleNamespace]:
        lanes = [{q: {name: v[lane] for name, v in run.items()} for q, run in self.lanes.items()} for lane in range(tol.LANES)]
        return [self._step(reading, k, run[reading]["h"], run[reading], {q: v["dnet"] for q, v in run.items()}) for run in lanes]

    def _step(self, reading: str, k: int | None, h, found: dict, dnet: dict) -> SimpleNamespace:
        """`s` are the errors of the steps under the reading, `delta_of_t` what the error of step t alone makes of δ."""
        return SimpleNamespace(
            k=k,
            t=self.T - 1,
            W=self.arrays["W"],
            slope=1 - h**2,
            h_prev=np.vstack([self.arrays["h0"], h[:-1]]),
            s=self._errors[reading],
            delta=dnet[reading],
            dh=found["dh"],
            share=found["share"],
            delta_of_t=dnet["alone"],
        )
