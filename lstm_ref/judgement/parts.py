"""Parts: truth and condition of a layer whose batch is too large for memory, some rows of it at a time.

Rows of a batch do not meet: h, dx, dh0 and dc0 of a part are those of the whole, and dW and db are sums over the parts. Only what
is judged at that size is kept: outputs and the gradients of inputs and weights, no intermediates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..reference.symbols import BIASES, WEIGHTS
from ..truth import autodiff
from ..truth.autodiff import Truth
from . import tolerances as tol
from .tolerances import Condition, Lanes, Precision

OUTPUTS = ("h", "h_T", "c_T")
INPUTS = ("x", "h0", "c0")  # with a row for each of the batch
BY_STEP = frozenset(("h", "dx"))
SUMMED = (*WEIGHTS, *BIASES)


class Conditions(NamedTuple):
    """The condition of every block, the loss in every lane of the noise, and Σ|terms| of it."""

    blocks: dict[str, Condition]
    J: np.ndarray
    terms: float


def truth(inputs: dict, cotangents: dict, rows: int) -> Truth:
    """What `autodiff.truth` gives for a layer, `rows` of the batch at a time; weights and biases are summed in float64."""
    found = []
    for part, s in _parts(inputs, cotangents, rows):
        n = autodiff.sizes_of(part)
        values, gradients = autodiff.truth(part, s, autodiff.bucket(n._replace(B=rows)))
        found.append(({k: values[k] for k in OUTPUTS}, {k: gradients[k] for k in (*INPUTS, *SUMMED)}))
    values = {k: _joined([v[k] for v, _ in found]) for k in OUTPUTS}
    gradients = {k: _joined([g[k] for _, g in found]) for k in INPUTS}
    return Truth(values, gradients | {k: np.sum([g[k] for _, g in found], axis=0) for k in SUMMED})


def conditions(inputs: dict, cotangents: dict, p: Precision, rows: int, absolute: int, forget_bias: float) -> Conditions:
    """What `tolerances.conditions` gives of a noisy run of a layer, `rows` of the batch at a time."""
    count = -(-inputs["x"].shape[1] // rows)
    blocks: list[dict[str, Condition]] = []
    sums: dict[str, np.ndarray] = {}
    J, terms, forward_peak, peak = np.zeros(tol.LANES), 0.0, 0.0, 0.0
    for n, (part, s) in enumerate(_parts(inputs, cotangents, rows)):
        run = tol.noisy_run(part, s, p, absolute, forget_bias, part=n, parts=count)
        own, of_part = loss(run.values, s)
        J, terms = J + own, terms + of_part
        forward_peak, peak = max(forward_peak, run.forward_peak), max(peak, run.peak)
        for k in SUMMED:
            sums[k] = sums[k] + run.values[f"d{k}"] if k in sums else run.values[f"d{k}"].copy()
        kept = {k: run.values[k] for k in (*OUTPUTS, *(f"d{k}" for k in INPUTS))}
        blocks.append(tol.conditions(run._replace(values=kept), p, BY_STEP, share=0.0))
    whole = {k: _whole([b[k] for b in blocks], k in BY_STEP) for k in blocks[0]}
    weights = tol.conditions(Lanes({f"d{k}": v for k, v in sums.items()}, forward_peak, peak), p, BY_STEP)
    return Conditions(whole | weights, J, terms)


def loss(lanes: dict[str, np.ndarray], s: dict) -> tuple[np.ndarray, float]:
    """J = Σ ⟨s, output⟩ in every lane, and the sum of the magnitudes of its terms."""
    flows = [(s["h"], lanes["h"]), (s["h_T"], lanes["h_T"]), (s["c_T"], lanes["c_T"])]
    J = sum(np.sum(a * q, axis=tuple(range(1, q.ndim))) for a, q in flows)
    return J, float(sum(np.sum(np.abs(a * q[0])) for a, q in flows))


def _parts(inputs: dict, cotangents: dict, rows: int) -> Iterator[tuple[dict, dict]]:
    for first in range(0, inputs["x"].shape[1], rows):
        row = slice(first, first + rows)
        part = {k: v[:, row] if k == "x" else v[row] if k in INPUTS else v for k, v in inputs.items()}
        yield part, {k: v[:, row] if v.ndim == 3 else v[row] for k, v in cotangents.items()}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, axis=parts[0].ndim - 2)


def _whole(parts: list[Condition], by_step: bool) -> Condition:
    """One block's condition from those of its parts: what is largest in a block is so over all of them."""
    clean, C = _joined([c.clean for c in parts]), _joined([c.C for c in parts])
    C += tol.BLOCK_SHARE * (C.max(axis=(1, 2), keepdims=True) if by_step else C.max())
    every = (max(c.scale for c in parts), all(c.in_range for c in parts), all(c.first_order for c in parts))
    return Condition(clean, C, *every)
