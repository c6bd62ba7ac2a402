"""Added: a gradient with a share of the parameter itself on it, as the gradient of a penalty ½λ‖W‖² leaves it (weight decay)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..candidates.contract import REDUCTIONS
from ..judgement import tolerances as tol
from ..reference.variant import plain
from .probe import Probe


def decay(asked: Sequence[Probe], sound: Sequence[Probe] = (), reduction: str = "sum") -> tuple[str, str, float] | None:
    """The equation, the words and the distance in tolerances, where every wrong gradient is what is due and the same share λ of its own
    parameter, in every probe, and every other one is right; None where that explains nothing, or would show in the `sound` probes.
    λ is that of gradients of the loss as it is reduced."""
    wrong = tuple(dict.fromkeys(k for p in asked for k in p.failing))
    kinds = {plain(k)[:2] for k in wrong}
    if not kinds or not kinds <= {"W_", "b_"} or any(k not in p.answers for p in asked for k in wrong):
        return None
    per = [_counted(p, reduction) for p in asked]
    along = sum(n * float(np.vdot(p.answers[k] - p.truth[k], p.case.inputs[k])) for p, n in zip(asked, per, strict=True) for k in wrong)
    size = sum(n * n * float(np.vdot(p.case.inputs[k], p.case.inputs[k])) for p, n in zip(asked, per, strict=True) for k in wrong)
    share = along / size if size else 0.0
    whole = round(share)
    share = whole if whole and abs(share - whole) <= tol.GAIN_SETTLED * abs(share) else share
    distance = max((_off(p, wrong, share * _counted(p, reduction)) for p in (*asked, *sound)), default=np.inf)
    if not share or not distance <= 1:
        return None
    told = ", ".join(f"d{k}" for k in wrong)
    known = "weight decay: the penalty is no part of the loss that is judged; leave it out here"
    return "B:weights" if "W_" in kinds else "B:biases", f"{share:.4g} times the parameter itself is added to {told} ({known})", distance


def _counted(probe: Probe, reduction: str) -> float:
    """What gradients of the loss as it is reduced were multiplied by, to be those of its sum."""
    return REDUCTIONS[reduction](probe.case.spec.sizes, probe.case.inputs.get("w"))


def _off(probe: Probe, wrong: tuple[str, ...], share: float) -> float:
    """The largest error that is left, in tolerances."""
    due = {k: v + share * probe.case.inputs[k] if k in wrong else v for k, v in probe.truth.items()}
    return float(probe.distance({k: due[k][None] for k in probe.answers})[0])
