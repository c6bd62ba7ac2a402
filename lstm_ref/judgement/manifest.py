"""Manifest: every check that a run judges, by its stable id, and the cases in which it must be resolved."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable
from typing import NamedTuple

from ..candidates.contract import Candidate
from ..cases import Spec
from ..reference.symbols import BIASES, HEAD, LAYER_INTERMEDIATES, STATES, WEIGHTS, forward_equations, upstream
from ..reference.variant import plain

OF_VARIANTS = ("p_f", "p_i", "p_o", "gain_f", "gain_i", "gain_c", "gain_o", "W_r")


class Check(NamedTuple):
    """One property. `needed` names the fixed cases in which it must be resolved for a pass; `level` is "both", "layer"
    or "model"."""

    id: str
    title: str
    needed: Callable[[Spec], bool] | None = None
    level: str = "both"
    equations: tuple[str, ...] = ()


def _ordinary(spec: Spec) -> bool:
    return spec.ordinary


def _in_group(id_: str):
    return lambda spec: id_ in groups(spec)


GROUPS: dict[str, tuple[str, Callable[[Spec], bool]]] = {
    "sizes.ones": ("T, B, D or H of one", lambda s: 1 in s.sizes[:4]),
    "sizes.square": ("D = H", lambda s: s.sizes.D == s.sizes.H > 1),
    "sizes.tiles": ("H, D or K around 8, 16, 32, kernels' tails, or B of 8 and 33", lambda s: max(s.sizes.H, s.sizes.D, s.sizes.B - 1) > 6),
    "sizes.long": ("six time steps and more", lambda s: s.sizes.T >= 6),
    "numerics.saturation": ("gates nearly open or shut", lambda s: s.regime in ("saturated", "shut")),
    "numerics.extreme": ("pre-activations of ±800", lambda s: s.regime == "extreme"),
    "numerics.small": ("weights of 0.01 and less", lambda s: s.regime in ("small", "tiny")),
    "numerics.large": ("weights of 1.5 and more", lambda s: s.regime in ("large", "spread")),
    "numerics.mixed": ("exact zeros and entries over four decades", lambda s: s.regime in ("zeros", "mixed")),
    "numerics.scale": ("cotangents a thousand times larger or smaller", lambda s: s.cotangent_scale != 1.0),
    "numerics.logits": ("tiny and large logits", lambda s: s.logits != 1.0),
}


@functools.lru_cache(maxsize=256)
def groups(spec: Spec) -> tuple[str, ...]:
    """The sizes.* and numerics.* checks that this case speaks for."""
    return tuple(id_ for id_, (_, member) in GROUPS.items() if member(spec))


def _checks() -> list[Check]:
    out = [
        Check("contract.call", "every call returns what the contract asks for, and raises nothing"),
        Check("contract.time", "every call returns in time"),
        Check("contract.keys", "every output and gradient that is due is there"),
        Check("contract.shapes", "every array has the shape that is due"),
        Check("contract.dtype", "float32 in, float32 out; float64 in, float64 out"),
        Check("contract.finite", "no NaN and no infinity where the truth is finite"),
    ]
    for k in ("h", "c_T", "h_T", *LAYER_INTERMEDIATES[1:]):
        out.append(Check(f"forward.{k}", f"{k} is the textbook's", _ordinary, "layer", forward_equations(k)))
    out += [
        Check("forward.J", "the loss is the textbook's", _ordinary, "model", forward_equations("J")),
        Check("forward.initial_state", "h0 and c0 are used, not assumed zero", _ordinary, "layer", ("F:concat", "F:cell")),
    ]
    for truth, words in (("autodiff", "autodiff, every entry"), ("differences", "differences of its own forward pass")):
        for k in (*WEIGHTS, *BIASES, *OF_VARIANTS, *STATES):
            out.append(Check(f"grad.{k}.{truth}", f"d{k} against {words}", _ordinary, "both", upstream(k)))
        for k in HEAD:
            out.append(Check(f"grad.{k}.{truth}", f"d{k} against {words}", _ordinary, "model", upstream(k)))
    for truth in ("autodiff", "differences"):
        for k in LAYER_INTERMEDIATES:
            out.append(Check(f"inter.{k}.{truth}", f"d{k} at every time step against {truth}", _ordinary, "layer", upstream(k)))
        if truth == "autodiff":
            out.append(Check("inter.v.autodiff", "dv at every time step against autodiff", _ordinary, "model", upstream("v")))
    laws = {
        "homogeneity": "gradients scale with what flows in",
        "additivity": "gradients add over what flows in",
        "zero_cotangent": "nothing in, exactly nothing out",
        "time_split": "T₁ + T₂ steps, states and cotangents handed over, are T steps",
        "batch_additivity": "a batch is the sum of its parts",
        "batch_permutation": "rows of the batch may be reordered",
        "unit_permutation": "hidden units may be reordered",
        "euler": "⟨dW_x, W_x⟩ = ⟨dx, x⟩",
        "causality": "nothing at t depends on what comes later",
        "symmetry": "the Jacobian of the gradients is symmetric",
    }
    for k, title in laws.items():
        out.append(Check(f"law.{k}", title, _ordinary, "layer" if k == "time_split" else "both"))
    state = {
        "repeat": "the same call gives the same gradients",
        "second_backward": "a second backward pass of one forward pass gives the same gradients",
        "interleaved": "two calls under way at once do not disturb each other",
        "two_instances": "two instances share nothing",
        "inputs_unmutated": "inputs and cotangents are left as they were",
        "readonly": "read-only inputs give the same gradients",
        "noncontiguous": "non-contiguous inputs and cotangents give the same gradients",
        "aliasing": "nothing returned shares memory with what was given, or with what the next call returns",
    }
    out += [Check(f"state.{k}", title) for k, title in state.items()]
    for k, (title, _) in GROUPS.items():
        out.append(Check(k, title, _in_group(k), "model" if k == "numerics.logits" else "both"))
    out += [
        Check("numerics.effective_precision", "computed in the precision of its dtype"),
        Check("numerics.sigmoid_tail", "σ keeps its relative accuracy in the tail (a note, never a failure)"),
        Check("numerics.tanh_near_zero", "tanh keeps its relative accuracy near 0 (a note, never a failure)"),
    ]
    return out


CHECKS: dict[str, Check] = {c.id: c for c in _checks()}
if len(CHECKS) != len(_checks()):
    raise ValueError("two checks share an id")


def manifest(faces: list[Candidate]) -> list[Check]:
    """The checks for a target, in the order of the report."""
    levels = {"both", *("model" if face.model else "layer" for face in faces)}
    arrays = {*HEAD, *(plain(k) for face in faces for k in face.variant.inputs)}
    there = [c for c in CHECKS.values() if c.level in levels]
    return [c for c in there if not c.id.startswith("grad.") or c.id.split(".")[1] in arrays]


def selected(checks: list[Check], only: str | None) -> set[str]:
    """The ids that a comma-separated list of patterns names (all without one). Raises ValueError if it names none."""
    if not only:
        return {c.id for c in checks}
    patterns = [p.strip() for p in only.split(",") if p.strip()]
    found = {c.id for c in checks if any(fnmatch.fnmatchcase(c.id, p) for p in patterns)}
    if not found:
        raise ValueError(f"no check matches {only!r}; `lstm-ref checks` lists them all")
    return found
