"""Rounded: arrays that a forward pass rounds to a coarser grid before it computes with them, as a fake quantisation does."""

from __future__ import annotations

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..judgement import tolerances as tol
from ..judgement.judge import Bench, Point
from ..reference.symbols import WEIGHTS
from ..reference.variant import plain
from .probe import specs

WHY = "A gradient that is passed straight through a rounding (fake quantisation) is no derivative of what is computed"
ADVICE = "to have the backward pass judged, turn the rounding off"


def remark(face: Candidate, precision: tol.Precision) -> str:
    """Which arrays are rounded on the way, though their gradients are not zero; empty where none is.

    In every case, what comes back keeps its last bit where their smaller numbers move so far that J is due to move by more than its
    rounding, and does not where they double. Larger numbers may set the scale of a grid, and stay.
    """
    bench = Bench(face, precision, face.make())
    try:
        known = [_rounded(bench, bench.case(spec)) for spec in specs(face)]
    except Finding:
        return ""
    due = [k for k in face.gradient_names if all(k in found for found in known)]
    if not due:
        return ""
    names, whose = f"{due[0]} is", "its"
    if len(due) == len(face.gradient_names):
        names = "everything that goes in is"
    elif len(due) > 1:
        names, whose = f"{', '.join(due)} are", "their"
    moved = f"what comes back is the same to the last bit where {whose} smaller numbers move by more than rounding"
    return f"{names} rounded on the way: {moved}. {WHY}; {ADVICE}"


def _rounded(bench: Bench, case: cases.Case) -> set[str]:
    here, gradients = _asked(bench, case, case.inputs)
    point, found = Point(bench, case.inputs, case.cotangents), set()
    for k in bench.candidate.gradient_names:
        smaller = case.inputs[k] * _small(case.inputs[k], case.inputs["h0"].shape[-1] if plain(k) in WEIGHTS else 0)
        due = abs(float(np.vdot(gradients[k], smaller))) if k in gradients else 0.0
        if not tol.NUDGED * point.rounding_of_J <= tol.LARGEST_NUDGE * due:  # NaN is not
            continue
        near, far = ({**case.inputs, k: case.inputs[k] + by * smaller} for by in (tol.NUDGED * point.rounding_of_J / due, 1))
        if _same(_asked(bench, case, near)[0], here) and not _same(_asked(bench, case, far)[0], here):
            found.add(k)
    return found


def _asked(bench: Bench, case: cases.Case, inputs: dict) -> tuple[dict, dict]:
    outputs, gradients = contract.run(contract.prepare(bench.candidate, inputs, bench.precision.dtype), bench.instance, case.cotangents)
    return outputs.arrays, gradients.arrays


def _small(q: np.ndarray, P: int = 0) -> np.ndarray:
    """Which numbers are below half of the largest of their row and column, so that they set no scale. The first `P` columns, the weights
    of h, and the others may be arrays of their own."""
    if P:
        return np.concatenate([_small(q[:, :P]), _small(q[:, P:])], axis=1)
    size = np.abs(q)
    most = size.max() if q.ndim < 2 else np.minimum(size.max(-1, keepdims=True), size.max(-2, keepdims=True))
    return 2 * size < most


def _same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)
