"""Sequence: one sequence through an LSTM and its loss, every true derivative of it, and their conditions.

Truth is autodiff's. Three flows back into step t are told apart by running autodiff on that step alone, with what comes
from t+1 put in as cotangents of h_t and c_t: both (the total derivative), only the cell's (the truncated gradient: no
gradient leaves through h_{t-1}), or nothing (the step's own loss alone). The weight gradient of such a step is its share.
"""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace

import numpy as np

from ..judgement import tolerances as tol
from ..judgement.judge import BY_STEP
from ..reference.forward import forward
from ..reference.symbols import BIASES, GATES, WEIGHTS, Sizes
from ..truth import autodiff
from ..truth.differences import COMPLEX_STEP

LARGEST = Sizes(4, 3, 3, 3, 4)  # what one compiled oracle serves; B holds the rows of a Jacobian
P = tol.PRECISIONS["float64"]
FLOWS = {"total": (True, True), "truncated": (False, True), "alone": (False, False)}  # what comes in from t+1: through h, through c
VALUES = ("h", "c", "o", "f", "i", "c_tilde", "a_f", "a_i", "a_c", "a_o", "z", "v", "y_hat")
JACOBIANS = {"∂c/∂c_prev": ("c_T", "c_prev"), "∂h/∂c": ("h_T", "c"), "∂c/∂f": ("c_T", "f")}  # what is differentiated, by what


class Sequence:
    """One sequence, B = 1: textbook inputs with `W_v b_v y` for softmax cross-entropy, or with `target` (T, 1, H) for
    E = ½ Σ_t ‖h_t − target_t‖². The loss is the sum over all steps."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.inputs = {k: v for k, v in arrays.items() if k != "target"}
        self._found: dict[tuple, tuple[np.ndarray, tol.Condition]] = {}
        self._rows: dict[tuple, tuple[autodiff.Truth, dict[str, tol.Condition]]] = {}
        self.T, _, self.D = arrays["x"].shape
        self.H = arrays["h0"].shape[1]
        if "W_v" in arrays:
            self.inputs["w"] = np.ones((self.T, 1))

    def places(self, at: str) -> list[tuple[str, int | None]]:
        """Where a claim is judged: at every step, at those it speaks of, or once where it is about the whole."""
        T = self.T
        if at == "whole":
            return [("T = 1" if T == 1 else "T > 1", None)]
        here = {"every step": range(T), "t = T": [T - 1], "t < T": range(T - 1), "t > 1": range(1, T)}[at]
        names = {(True, True): "T = 1", (True, False): "t = 1 < T", (False, True): "t = T > 1", (False, False): "1 < t < T"}
        return [(names[t == 0, t == T - 1], t) for t in here]

    @cached_property
    def cotangents(self) -> dict[str, np.ndarray]:
        none = np.zeros((1, self.H))
        s = {"h": np.zeros((self.T, 1, self.H)), "h_T": none, "c_T": none}
        if "target" not in self.arrays:
            return s
        return s | {"h": _truth(self.inputs, s).values["h"] - self.arrays["target"]}

    @cached_property
    def total(self) -> autodiff.Truth:
        return _truth(self.inputs, self.cotangents)

    @cached_property
    def _states(self) -> dict[str, np.ndarray]:
        """h_{t-1} and c_{t-1} of every step, (T, 1, H)."""
        return {k: np.concatenate([self.inputs[f"{k}0"][None], self.total.values[k][:-1]]) for k in ("h", "c")}

    def _steps_inputs(self, first: int, last: int) -> dict[str, np.ndarray]:
        """The inputs of the steps first … last, begun in the states before them."""
        inputs = {k: v[first : last + 1] if k in ("x", "y", "w") else v for k, v in self.inputs.items()}
        return inputs | {"h0": self._states["h"][first], "c0": self._states["c"][first]}

    def _chain(self, through_h: bool, through_c: bool) -> dict[str, np.ndarray]:
        """Gradients of every step (T first), each step differentiated alone, given what comes back into it."""
        found, none = [], np.zeros((1, self.H))
        s_h = s_c = none
        for t in reversed(range(self.T)):
            flow = {"h": self.cotangents["h"][t : t + 1], "h_T": s_h, "c_T": s_c}
            g = _truth(self._steps_inputs(t, t), flow).gradients
            s_h, s_c = g["h0"] if through_h else none, g["c0"] if through_c else none
            found.append({k: v[0, 0] if k in VALUES else v for k, v in g.items()})
        return {k: np.stack([g[k] for g in reversed(found)]) for k in found[0]}

    @cached_property
    def chains(self) -> dict[str, dict[str, np.ndarray]]:
        """By flow: gradients by name, T first; of the weights, the share of each step."""
        return _Lazy({k: lambda k=k: self._chain(*FLOWS[k]) for k in FLOWS})

    @cached_property
    def conditions(self) -> dict[str, dict[str, tol.Condition]]:
        """By truth: the condition of every value, gradient and share."""
        whole = {"total": lambda: self._noisy(self.inputs), "truncated": lambda: _cut_back(self._noisy(self._cut()), self.H, self.D)}
        return _Lazy({k: lambda run=run: _with_shares(run()) for k, run in whole.items()})

    def _noisy(self, inputs: dict) -> tol.Lanes:
        return tol.noisy_run(inputs, self.cotangents, P)

    def _cut(self) -> dict:
        """Another LSTM with the same values, whose h_{t-1} is an input and not a state: its gradients are truncated."""
        x = np.concatenate([self.inputs["x"], self._states["h"]], axis=-1)
        W = {k: np.hstack([np.zeros((self.H, self.H)), self.inputs[k][:, self.H :], self.inputs[k][:, : self.H]]) for k in WEIGHTS}
        return {**self.inputs, **W, "x": x}

    def due(self, key: str, t: int | None, truth: str, reading: str) -> tuple[np.ndarray, tol.Condition]:
        """What is true of `key` at step t, and its condition.

        Keys: "f" a forward value, "df" a gradient, "dc_prev" that of c_{t-1}, "step dW_f" the share of a step in a weight
        gradient ("wx", "wh": its columns), "dW_f" the whole, "W_f", "d_h" what is given, "∂h/∂c" a Jacobian, whose truth
        is "local" (all else held) or "total". For gradients the truth is "total" or "truncated".
        """
        if (key, t, truth) not in self._found:
            self._found[key, t, truth] = self._due(key, t, truth, reading)
        return self._found[key, t, truth]

    def _due(self, key: str, t: int | None, truth: str, reading: str) -> tuple[np.ndarray, tol.Condition]:
        if key.startswith("∂"):
            return self._jacobian(key, t, truth)
        if key in ("W_f", "d_h"):
            return _given(self.inputs["W_f"] if key == "W_f" else np.array([float(self.H)]))
        if "dwx_" in key or "dwh_" in key:
            value, c = self.due(key.replace("wx", "W").replace("wh", "W"), t, truth, reading)
            columns = np.s_[:, self.H :] if "dwx_" in key else np.s_[:, : self.H]
            return value[columns], tol.part(c, columns)
        conditions = self.conditions[truth]
        if key.startswith("step d"):
            return self.chains[truth][key[6:]][t], tol.part(conditions[key], t)
        if key == "dc_prev":
            if t == 0:
                return self.chains[truth]["c0"][0, 0], tol.part(conditions["dc0"], 0)
            return self.due("dc", t - 1, truth, reading)
        if key in ("J", *(f"d{k}" for k in (*WEIGHTS, *BIASES, "W_v", "b_v"))):
            value = self.total.values["J"] if key == "J" else self.total.gradients[key[1:]]
            return (value, conditions[key]) if truth == "total" else (self.chains[truth][key[1:]].sum(0), conditions[key])
        if key[0] == "d":
            value = self.total.gradients[key[1:]][t, 0] if truth == "total" else self.chains[truth][key[1:]][t]
        else:
            value = self.total.values[key][t, 0]
        return value, tol.part(conditions[key], np.s_[t, 0])

    def _jacobian(self, key: str, t: int, truth: str) -> tuple[np.ndarray, tol.Condition]:
        if key == "∂f/∂W_f":
            return self.df_dW(t, truth), self._condition_of_df_dW(t, truth)
        of, by = JACOBIANS[key]
        truths, conditions = self._run_rows(of, t if truth == "local" else 0, t)
        if by == "c_prev" and (t == 0 or truth == "local"):
            return truths.gradients["c0"], conditions["dc0"]
        name, steps_back = ("c", -2) if by == "c_prev" else (by, -1)
        return truths.gradients[name][steps_back], tol.part(conditions[f"d{name}"], steps_back)

    def _run_rows(self, of: str, first: int, last: int) -> tuple[autodiff.Truth, dict[str, tol.Condition]]:
        """Autodiff over steps first … last with one batch entry per unit of h or c at the last: the rows of a Jacobian."""
        if (of, first, last) not in self._rows:
            inputs = self._steps_inputs(first, last)
            inputs = {k: v for k, v in inputs.items() if k not in ("W_v", "b_v", "y", "w")}
            inputs |= {k: np.repeat(inputs[k], self.H, axis=0) for k in ("h0", "c0")} | {"x": np.repeat(inputs["x"], self.H, axis=1)}
            s = {"h": np.zeros((last - first + 1, self.H, self.H)), "h_T": np.zeros((self.H, self.H)), "c_T": np.zeros((self.H, self.H))}
            s[of] = np.eye(self.H)
            self._rows[of, first, last] = _truth(inputs, s), tol.conditions(tol.noisy_run(inputs, s, P), P, BY_STEP)
        return self._rows[of, first, last]

    @cached_property
    def _noisy_values(self) -> dict[str, np.ndarray]:
        return self._noisy(self.inputs).values

    def _condition_of_df_dW(self, t: int, truth: str) -> tol.Condition:
        """From the lanes of f_t, z_t and, for the total derivative, ∂h_{t-1}/∂W_f, row by row."""
        f, z = (self._noisy_values[k][:, t, 0] for k in ("f", "z"))
        lanes = np.einsum("jk,lb->ljkb", np.eye(self.H), z)
        if truth == "total" and t > 0:
            inputs, rows = self._steps_inputs(0, t - 1), []
            inputs = {k: v for k, v in inputs.items() if k not in ("W_v", "b_v", "y", "w")}
            for row in np.eye(self.H):
                s = {"h": np.zeros((t, 1, self.H)), "h_T": row[None], "c_T": np.zeros((1, self.H))}
                rows.append(tol.noisy_run(inputs, s, P).values["dW_f"])
            lanes = lanes + np.einsum("jm,mlkb->ljkb", self.inputs["W_f"][:, : self.H], np.stack(rows))
        lanes = (f * (1 - f))[:, :, None, None] * lanes
        return tol.conditions(tol.Lanes({"q": lanes}, 0.0, 0.0), P, frozenset())["q"]

    def df_dW(self, t: int, truth: str) -> np.ndarray:
        """∂f_t/∂W_f (H, H, H+D), with h_{t-1} held ("local") or not, by complex steps."""
        return self._by_W_f("f", t, t if truth == "local" else 0)

    def dh_dW(self, t: int) -> np.ndarray:
        """∂h_t/∂W_f (H, H, H+D), the total derivative; 0 before the first step."""
        return self._by_W_f("h", t, 0) if t >= 0 else np.zeros((self.H, self.H, self.H + self.D))

    def _by_W_f(self, name: str, t: int, first: int) -> np.ndarray:
        inputs, shape = self._steps_inputs(first, t), (self.H, self.H + self.D)
        found = np.zeros((self.H, *shape))
        for index in np.ndindex(shape):
            W = inputs["W_f"].astype(complex)
            W[index] += 1j * COMPLEX_STEP
            found[:, *index] = np.imag(getattr(forward({**inputs, "W_f": W}), name)[-1, 0]) / COMPLEX_STEP
        return found

    def step(self, reading: str, t: int | None) -> SimpleNamespace:
        """Step t as the texts speak of it: its forward values, and what flows in under the reading. For the whole, t is None."""
        steps = self.steps[reading]
        return steps[0 if t is None else t]

    @cached_property
    def steps(self) -> dict[str, list[SimpleNamespace]]:
        """By reading, the steps 1 … T, each with `prev`, `next` (nothing flows there outside 1 … T) and all `steps`."""
        return _Lazy({k: lambda k=k: self._steps(k) for k in (*FLOWS, "printed")})

    def _steps(self, reading: str) -> list[SimpleNamespace]:
        flows = self.chains["alone" if reading == "printed" else reading]
        steps = [self._step(t, flows) for t in range(self.T)]
        nothing = np.zeros(self.H)
        outside = SimpleNamespace(dh=nothing, dc=nothing, f=nothing, o=nothing, c=nothing, da=_by_gate(lambda k: nothing))
        for t, s in enumerate(steps):
            s.prev, s.next = steps[t - 1] if t else outside, steps[t + 1] if t + 1 < self.T else outside
            s.steps, s.gradients = steps, self._whole(reading)
            if "target" in self.arrays:
                s.target = self.arrays["target"][t, 0]
                s.E_delta = s.target - s.h if reading == "printed" else s.dh
        return steps

    def _step(self, t: int, flows: dict[str, np.ndarray]) -> SimpleNamespace:
        values, H, q = self.total.values, self.H, self.inputs
        now = {k: values[k][t, 0] for k in VALUES if k in values}
        now |= {f"d{k}": flows[k][t] for k in (*VALUES, "W_v", "b_v") if k in flows}
        weights = {"W_v": q.get("W_v"), "b_v": q.get("b_v")}
        return SimpleNamespace(
            n=t,
            **now,
            **weights,
            x=q["x"][t, 0],
            h_prev=self._states["h"][t, 0],
            c_prev=self._states["c"][t, 0],
            y=np.eye(len(q["W_v"]))[q["y"][t, 0]] if "y" in q else None,
            W=_by_gate(lambda k: q[f"W_{k}"]),
            W_h=_by_gate(lambda k: q[f"W_{k}"][:, :H]),
            W_x=_by_gate(lambda k: q[f"W_{k}"][:, H:]),
            b=_by_gate(lambda k: q[f"b_{k}"]),
            a=_by_gate(lambda k: now[f"a_{k}"]),
            da=_by_gate(lambda k: now[f"da_{k}"]),
            alpha=1j * COMPLEX_STEP,
            dh_dW=lambda back=0: self.dh_dW(t - back),
        )

    def _whole(self, reading: str) -> dict[str, np.ndarray]:
        """Whole weight gradients, those that an update rule is given."""
        names = (*WEIGHTS, *BIASES, *(("W_v", "b_v") if "W_v" in self.inputs else ()))
        return {k: self.total.gradients[k] for k in names}


class _Lazy(dict):
    """A dict whose values are functions until they are asked for."""

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if callable(value):
            self[key] = value = value()
        return value


def _truth(inputs: dict, cotangents: dict) -> autodiff.Truth:
    return autodiff.truth(inputs, cotangents, LARGEST)


def _by_gate(value) -> SimpleNamespace:
    return SimpleNamespace(**{k: value(k) for k in GATES})


def _with_shares(run: tol.Lanes) -> dict[str, tol.Condition]:
    """Conditions of a noisy run, those of each step's share in a weight gradient too: da_k z_tᵀ, lane by lane."""
    v = {k: q[:, :, 0] for k, q in run.values.items() if q.ndim == 4}
    shares = {f"step dW_{k}": v[f"da_{k}"][..., None] * v["z"][:, :, None] for k in GATES} | {f"step db_{k}": v[f"da_{k}"] for k in GATES}
    if "dv" in v:
        shares |= {"step dW_v": v["dv"][..., None] * v["h"][:, :, None], "step db_v": v["dv"]}
    return tol.conditions(tol.Lanes({**run.values, **shares}, run.forward_peak, run.peak), P, BY_STEP | frozenset(shares))


def _cut_back(run: tol.Lanes, H: int, D: int) -> tol.Lanes:
    """The noisy run of a cut LSTM with z and the weights in their usual columns again."""

    def usual(q):
        return np.concatenate([q[..., H + D :], q[..., H : H + D]], axis=-1)

    moved = {k: usual(v) for k, v in run.values.items() if k in ("z", "dz") or k.removeprefix("d") in WEIGHTS}
    return run._replace(values={**run.values, **moved})


def _given(q: np.ndarray) -> tuple[np.ndarray, tol.Condition]:
    return q, tol.conditions(tol.Lanes({"q": np.broadcast_to(q, (tol.LANES, *q.shape))}, 0.0, 0.0), P, frozenset())["q"]
