"""Flow: how much of a gradient arrives at earlier steps, in a candidate and in a plain RNN of the same size.

J_t = ⟨s, h_t⟩ is what the last step t = T alone sends back, with ‖s‖ = 1; one sequence (B = 1) of standard normal inputs from zero states.
Of every earlier step k the norm of ∂J_t/∂h_k is taken, that of ∂J_t/∂c_k, and that of the step's share of ∂J_t/∂W.

The candidate is a black box, and every number comes out of its own backward pass:

* (h_k, c_k) is all that the future knows of the past, so a run that starts at step k with the candidate's own h_k, c_k is the rest of the
  run, and its ∂J_t/∂h0 and ∂J_t/∂c0 are ∂J_t/∂h_k and ∂J_t/∂c_k, each with the other state held still. Every such run has T steps, those
  after t being earlier inputs that nothing flows back from: a compiled candidate then meets two numbers of steps only, T and 1.
* The share of step k is ∂J_t/∂W of a run of that one step, with ∂J_t/∂h_k and ∂J_t/∂c_k as cotangents of what it returns. The
  difference of two runs, one of which begins a step earlier, is the same number on paper; but what is small beside the later shares
  drowns in their rounding, and what vanishes is what is looked for. One step has no such sum: its share is right to rounding however small.

So a carry that is lost between steps shows in every number here. A sum over time that leaves steps out does not; `lstm-ref check`
sees that.

The plain RNN is h_t = tanh(W_c [h_{t-1}, x_t] + b_c), with the candidate's own W_c: net_t = W h_{t-1} + a_t. Its bound is that of P3
(docs/published-claims.md): ‖∂J_t/∂h_k‖ ≤ ‖∂J_t/∂h_t‖ (β_f β_W)^{t−k} with β_f = max |tanh'(net_i)| over the run and β_W = ‖W‖₂.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .candidates import contract
from .candidates.contract import Candidate
from .claims import rnn
from .judgement.tolerances import PRECISIONS
from .reference.symbols import INITIAL, Sizes
from .reference.variant import plain

STEPS, HIDDEN, INPUTS, SCALE, FORGET_BIASES = 60, 32, 16, 0.5, (0.0, 1.0, 3.0)
LOST = PRECISIONS["float32"].u  # a share below this part of step t's own changes nothing when float32 adds it to that
CLEAR = 2  # powers of ten from end to end below which a gradient neither vanishes nor explodes


@dataclass(frozen=True)
class Curve:
    """One network's gradient against the lag n = t − k: `dh`, `dc` (T+1,) are ‖∂J_t/∂h_k‖, ‖∂J_t/∂c_k‖ for n = 0 … T, `share` (T,) is
    ‖share of step k in ∂J_t/∂W‖ for n = 0 … T−1, over all gates. The RNN has no `dc`; it alone has bounds, on `dh` and on `share`, from
    `beta_f` and `beta_W`. `forget_bias` is None where none was set."""

    network: str  # "LSTM" or "RNN"
    forget_bias: float | None
    dh: np.ndarray
    share: np.ndarray
    dc: np.ndarray | None = None
    bound: np.ndarray | None = None
    share_bound: np.ndarray | None = None
    beta_f: float = np.nan
    beta_W: float = np.nan

    @property
    def rate(self) -> float:
        """What ‖∂J_t/∂h_k‖ is multiplied by per step back, by least squares on its logarithm from n = 1 on (n = 0 is s itself)."""
        n = np.arange(1, len(self.dh))
        seen = np.isfinite(self.dh[1:]) & (self.dh[1:] > 0)
        if seen.sum() < 2:
            return 0.0 if not self.dh[1:].any() else np.nan
        return float(np.exp(np.polyfit(n[seen], np.log(self.dh[1:][seen]), 1)[0]))

    @property
    def fate(self) -> str:
        """ "vanishes", "explodes", or "lasts" where its trend over all steps is within `CLEAR` powers of ten."""
        if not np.isfinite(self.dh).all():
            return "explodes"
        decades = np.log10(self.rate) * (len(self.dh) - 2) if self.rate > 0 else -np.inf
        return "vanishes" if decades < -CLEAR else "explodes" if decades > CLEAR else "lasts"

    @property
    def lost(self) -> int | None:
        """The smallest lag from which on every share is below `LOST` of step t's own; None where the earliest step's is not."""
        seen = np.flatnonzero(~(self.share < LOST * self.share[0]))
        return int(seen[-1]) + 1 if seen[-1] + 1 < len(self.share) else None


@dataclass(frozen=True)
class Flow:
    """The curves of one candidate at one size: the RNN first, then one per forget bias. `asked` is the T that was asked for."""

    sizes: Sizes
    asked: int
    curves: tuple[Curve, ...]


def flow(
    candidate: Candidate,
    steps: int | None = None,
    hidden: int | None = None,
    seed: int = 0,
    forget_biases: Sequence[float] | None = None,
    scale: float = SCALE,
    weights: dict[str, np.ndarray] | None = None,
) -> Flow:
    """The flow of a candidate, at every forget bias of the list.

    `weights` are textbook arrays; without, W ~ scale/√H · N(0, 1), biases zero. `forget_biases` replace b_f; by default 0, 1 and 3, or what
    is in `weights`. Sizes that are not asked for are the nearest that the candidate supports. Raises ValueError where the candidate cannot
    be restarted at a step, or fails to answer: the text says what it did.
    """
    n = _sizes(candidate, steps, hidden, scale, weights)
    q, s = _drawn(candidate, n, seed, scale, weights)
    biases = _forget_biases(candidate, forget_biases, weights)
    dtype = PRECISIONS[(candidate.supports.dtypes or ("float64",))[0]].dtype
    with np.errstate(all="ignore"):  # what explodes is plotted, and no error
        curves = [_of_rnn(q, s)]
    for bias in biases:
        given = q if bias is None else {**q, "b_f": np.full(n.H, bias)}
        try:
            curves.append(dataclasses.replace(_of_candidate(_Runs(candidate, dtype), given, s), forget_bias=bias))
        except contract.Finding as finding:
            raise ValueError(f"{candidate.name}: {finding.sentence} ({finding.check}); lstm-ref check says more") from None
    return Flow(n, steps or STEPS, tuple(curves))


def _sizes(candidate: Candidate, steps: int | None, hidden: int | None, scale: float, weights: dict | None) -> Sizes:
    _restartable(candidate)
    for name, value in (("steps", steps), ("hidden", hidden)):
        if value is not None and value < (2 if name == "steps" else 1):
            raise ValueError(f"--{name} is {value}; it must be at least {2 if name == 'steps' else 1}")
    if not 0 <= scale < np.inf:
        raise ValueError(f"--scale is {scale}; it must be a number from 0")
    n = candidate.supports.fit(Sizes(steps or STEPS, 1, INPUTS, hidden or HIDDEN))
    if n.B != 1:
        raise ValueError(f"{candidate.name} declares B = {candidate.supports.sizes['B']!r}; flow follows one sequence and needs B = 1")
    if weights is not None:
        H, columns = weights["W_c"].shape
        if hidden not in (None, H):
            raise ValueError(f"--hidden is {hidden}, but the weights have H = {H}; leave --hidden out")
        n = n._replace(H=H, D=columns - H)
    return n._replace(T=steps or n.T, H=hidden or n.H)


def _restartable(candidate: Candidate) -> None:
    """Raise ValueError where a run cannot be begun at a step with given states, or its gradients are not given."""
    name, v = candidate.name, candidate.variant
    if candidate.kind not in ("pullback", "vjp"):
        what = {"student": "an object with its own data", "loss_and_gradients": "a model with its own loss"}.get(
            candidate.kind, "a forward pass"
        )
        raise ValueError(f"{name} is {what}; flow sends a gradient into h_t alone: give it forward(inputs) and vjp(inputs, cotangents)")
    if len(v.places) > 1 or not v.splits_in_time or v.data or v.projection:
        raise ValueError(
            f"{name} is declared with variant {v.words}; flow follows one layer that goes forward, without masks or projection"
        )
    lacks = [k for k in ("h0", "c0", *v.parameters) if k not in candidate.gradient_names and plain(k)[:2] != "b_"]
    lacks += [k for k in ("h", "c_T") if k in candidate.supports.missing]
    if lacks or not candidate.supports.initial_state:
        what = f"declares that it gives no {', '.join(lacks)}"
        if not candidate.supports.initial_state:
            what = f"takes no {' and no '.join(k for k in INITIAL if k not in candidate.supports.states)}"
        raise ValueError(f"{name} {what}; flow restarts it at every step from its own h and c, and needs their gradients")
    if candidate.supports.fit(Sizes(1, 1, 1, 1)).T != 1:
        limit = candidate.supports.sizes["T"]
        raise ValueError(f"{name} declares T = {limit!r}; the share of a step is the gradient of a run of one step, and needs T = 1")


def _forget_biases(candidate: Candidate, asked: Sequence[float] | None, weights: dict | None) -> tuple[float | None, ...]:
    if candidate.layout.biases == 0 or "b_f" not in candidate.variant.parameters:
        if asked:
            raise ValueError(f"{candidate.name} has no bias of a forget gate; leave --forget-bias out")
        return (None,)
    if asked is None:
        return FORGET_BIASES if weights is None else (None,)
    return tuple(asked)


def _drawn(candidate: Candidate, n: Sizes, seed: int, scale: float, weights: dict | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The inputs and s (1, H), all from one seed; the same x for given weights as for drawn ones."""
    rng = np.random.default_rng(seed)
    shapes = candidate.variant.shapes(n)
    q = {"x": rng.standard_normal(shapes["x"]), "h0": np.zeros((1, n.H)), "c0": np.zeros((1, n.H))}
    s = rng.standard_normal((1, n.H))
    for k in candidate.variant.parameters:
        kind = plain(k)[:2]
        q[k] = np.zeros(n.H) if kind == "b_" else scale / np.sqrt(n.H) * rng.standard_normal(shapes[k]) + (kind == "ga")
    return {**q, **(weights or {})}, s / _length(s)


@dataclass(frozen=True)
class _Runs:
    """A candidate that is run on textbook arrays: its outputs, and its gradients for cotangents; a fault of either is raised."""

    candidate: Candidate
    dtype: np.dtype
    instance: object = None

    def __post_init__(self):
        object.__setattr__(self, "instance", self.candidate.make())

    def _call(self, q: dict) -> contract.Call:
        given = {k: v.astype(self.dtype).astype(np.float64) for k, v in q.items()}
        return contract.prepare(self.candidate, given, self.dtype)

    def outputs(self, q: dict) -> dict[str, np.ndarray]:
        return self._sound(contract.forward(self._call(q), self.instance), ("h", "c_T"))

    def gradients(self, q: dict, cotangents: dict) -> dict[str, np.ndarray]:
        _, found = contract.run(self._call(q), self.instance, cotangents)
        return self._sound(found, self.candidate.gradient_names)

    def _sound(self, answer: contract.Answer, due: tuple[str, ...]) -> dict[str, np.ndarray]:
        for k in due:
            if k in answer.faults:
                raise answer.faults[k]
        return answer.arrays


def _of_candidate(runs: _Runs, q: dict[str, np.ndarray], s: np.ndarray) -> Curve:
    T = len(q["x"])
    h, c = [q["h0"]], [q["c0"]]  # by step: h[k] after k steps
    for k in range(T):
        found = runs.outputs(_one(q, k, h[k], c[k]))
        h.append(found["h"][-1])
        c.append(found["c_T"])
    dh, dc, shares = np.empty(T + 1), np.zeros(T + 1), np.empty(T)
    g_h, g_c = s, np.zeros_like(s)
    dh[0] = _length(s)
    for n in range(T):
        k = T - n  # the step whose states carry g_h, g_c
        step = runs.gradients(_one(q, k - 1, h[k - 1], c[k - 1]), _cotangents(1, 0, g_h * 0, g_h, g_c))
        shares[n] = _length(np.concatenate([v.ravel() for name, v in step.items() if name[:2] == "W_"]))
        rest = {**q, "x": np.roll(q["x"], 1 - k, axis=0), "h0": h[k - 1], "c0": c[k - 1]}
        found = runs.gradients(rest, _cotangents(T, n, s, g_h * 0, g_c * 0))
        g_h, g_c = found["h0"], found["c0"]
        dh[n + 1], dc[n + 1] = _length(g_h), _length(g_c)
    return Curve("LSTM", None, dh, shares, dc)


def _one(q: dict, k: int, h: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of the one step that makes h_{k+1}, c_{k+1} of h_k, c_k."""
    return {**q, "x": q["x"][k : k + 1], "h0": h, "c0": c}


def _cotangents(T: int, step: int, on_h: np.ndarray, h_T: np.ndarray, c_T: np.ndarray) -> dict[str, np.ndarray]:
    h = np.zeros((T, *on_h.shape))
    h[step] = on_h
    return {"h": h, "h_T": h_T, "c_T": c_T}


def _of_rnn(q: dict[str, np.ndarray], s: np.ndarray) -> Curve:
    T, H = len(q["x"]), q["h0"].shape[-1]
    W = np.broadcast_to(q["W_c"][:, :H], (T, H, H))
    a = q["x"] @ q["W_c"][:, H:].T + q.get("b_c", np.zeros(H))
    trace = rnn.forward(q["h0"], W, a, np.zeros_like(a))
    on_h = np.zeros_like(a)
    on_h[-1] = s
    back = rnn.backward(trace, W, on_h)
    h_prev = np.concatenate([q["h0"][None], trace.h[:-1]])
    z = np.concatenate([h_prev, q["x"]], axis=-1)
    dh = np.concatenate([back.dh[::-1], (back.dnet[0] @ W[0])[None]])  # by lag, ∂J/∂h_0 last
    lag = np.arange(T + 1)
    beta_f, beta_W = float(np.max(1 - trace.h**2)), float(np.linalg.norm(W[0], 2))
    bound = _length(s) * (beta_f * beta_W) ** lag
    return Curve(
        "RNN",
        None,
        _lengths(dh),
        _lengths(back.dnet)[::-1] * _lengths(z)[::-1],  # ‖δ_k z_kᵀ‖ of one sequence
        bound=bound,
        share_bound=beta_f * bound[:-1] * _lengths(z)[::-1],
        beta_f=beta_f,
        beta_W=beta_W,
    )


def _lengths(q: np.ndarray) -> np.ndarray:
    return np.array([_length(v) for v in q])


def _length(v: np.ndarray) -> float:
    """‖v‖ over all entries, whose squares may underflow."""
    largest = np.max(np.abs(v))
    return float(largest * np.linalg.norm(v / largest)) if 0 < largest < np.inf else float(largest)
