"""Calibrate: how close correct LSTMs come to their tolerances, by regime. The measurement that κ is set from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from . import tolerances as tol
from .judge import Bench, Judged, Point, fitted, held_against_autodiff


@dataclass(frozen=True)
class Row:
    """One target, dtype and regime: blocks judged, failed and unresolved, and error ÷ (u·C), largest and largest rms."""

    target: str
    dtype: str
    regime: str
    cases: int
    blocks: int
    failed: int
    unresolved: int
    largest: float
    rms: float
    where: str


def calibrate(face: Candidate, dtype: str, count: int, seed: int) -> list[Row]:
    """Judge `count` drawn cases after the fixed ones, gradients and forward values alike, and keep the distribution.

    What fails is judged again with σ's noise absolute, as in a run; the largest error is that of the first look.
    """
    if dtype not in tol.PRECISIONS:
        raise ValueError(f"the dtype is {dtype}; it must be one of {', '.join(tol.PRECISIONS)}")
    bench = Bench(face, tol.PRECISIONS[dtype], face.make())
    found: dict[str, list[tuple]] = {}
    for spec in (*cases.CORNERS, *cases.drawn(count, seed)):
        spec = fitted(spec, face)
        found.setdefault(spec.regime, []).extend(_blocks(bench, bench.case(spec)))
    return [_row(face, dtype, regime, rows) for regime, rows in found.items()]


def _blocks(bench: Bench, case: cases.Case) -> Iterable[tuple]:
    point = Point(bench, case.inputs, case.cotangents)
    found = Judged(case, point)
    call = contract.prepare(bench.candidate, case.inputs, bench.precision.dtype)
    try:
        outputs, gradients = contract.run(call, bench.instance, case.cotangents)
    except Finding as finding:
        yield (str(case.spec), "fail", np.inf, np.inf, finding.sentence)
        return
    blocks = [(k, v, point.truth.values[k], k) for k, v in outputs.arrays.items()]
    named = [(k.removesuffix(".second"), v) for k, v in gradients.arrays.items()]
    blocks += [(k, v, point.truth.gradients[k], f"d{k}") for k, v in named]
    pieces = held_against_autodiff(found, blocks, bench)
    for (_, seen, due, key), outcome in zip(blocks, (e.outcome for e in pieces), strict=True):
        condition = point.conditions[key]
        scaled = np.abs(seen - due) / (bench.precision.u * condition.C)
        rms = float(np.sqrt(np.mean(scaled**2))) if seen.size >= tol.RMS_ENTRIES else 0.0
        judged = condition.in_range and condition.first_order
        yield (str(case.spec), outcome, float(scaled.max()) if judged else 0.0, rms if judged else 0.0, key)


def _row(face: Candidate, dtype: str, regime: str, rows: list[tuple]) -> Row:
    worst = max(rows, key=lambda row: row[2])
    return Row(
        f"{face.name} {'model' if face.model else 'layer'}",
        dtype,
        regime,
        len({row[0] for row in rows}),
        len(rows),
        sum(row[1] == "fail" for row in rows),
        sum(row[1] == "unresolved" for row in rows),
        worst[2],
        max(row[3] for row in rows),
        worst[4],
    )
