"""Heat: error ÷ tolerance by time step, gate and stage of the backward pass, on one failing case.

What the candidate gives is shown: the gradients of intermediates, where it gives them, and dx. From the outside a time step can
still be singled out: let one cotangent alone flow in, and see which gradients go wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..cases import Spec
from ..judgement import tolerances as tol
from ..judgement.judge import Bench, Point, fitted, measure_precision
from ..reference.symbols import Sizes
from .localise import BACKWARD_ORDER

SIZES = Sizes(4, 2, 3, 4)
STAGES = {"h": "state", "c": "state", "o": "gate", "f": "gate", "i": "gate", "c_tilde": "gate", "z": "input", "x": "input"}


@dataclass(frozen=True)
class Row:
    """One gradient: what it is of, the gate and the stage that it belongs to ("" where to none), and its largest
    error ÷ tolerance in each column; None where that is not known."""

    quantity: str
    gate: str
    stage: str
    ratios: tuple[float | None, ...]


@dataclass(frozen=True)
class Heat:
    """One failing case. `steps` are rows by time step t = 1 … T in backward order; `missing` are the quantities that the candidate
    does not give. `alone` are rows by what alone flowed in (`flows`: "h_1" … "h_T", "c_T"), empty for a model."""

    dtype: str
    where: Spec
    steps: tuple[Row, ...]
    missing: tuple[str, ...]
    flows: tuple[str, ...]
    alone: tuple[Row, ...]


def heat(face: Candidate, precision: tol.Precision, failing: Spec | None = None) -> Heat | None:
    """The map on a small ordinary case, else on the case `failing`; None where neither fails, or the candidate cannot be asked."""
    if face.kind in ("student", "forward"):
        return None
    bench = Bench(face, precision, face.make())
    for spec in (Spec(SIZES, seed=300), failing):
        if spec is None:
            continue
        spec = fitted(spec, face)
        case = bench.case(spec)
        try:
            measure_precision(bench, [case])
            answers, point = _asked(bench, case, case.cotangents)
            names = [k for k in face.gradient_names if k in answers]
            if any(r is not None and r.max() > 1 for k in names if (r := _ratios(bench, point, k, answers[k])) is not None):
                return Heat(precision.name, spec, *_by_step(bench, point, answers), *_alone(bench, case, names))
        except Finding:
            continue
    return None


def _asked(bench: Bench, case, cotangents: dict) -> tuple[dict, Point]:
    """All that the candidate answers on a case, and its truth; c_T's cotangent is nothing where c_T is not returned."""
    s = cotangents
    if "c_T" in bench.candidate.supports.missing:
        s = {**s, "c_T": 0 * s["c_T"]}
    _, found = contract.run(contract.prepare(bench.candidate, case.inputs, bench.precision.dtype), bench.instance, s)
    return found.arrays, Point(bench, case.inputs, s)


def _ratios(bench: Bench, point: Point, k: str, seen: np.ndarray) -> np.ndarray | None:
    """Error ÷ tolerance of a gradient, per entry; infinite where it is not a number, None where nothing can be told."""
    c, due = point.conditions[f"d{k}"], point.truth.gradients[k]
    if not (c.in_range and c.first_order and np.isfinite(due).all()) or seen.shape != due.shape:
        return None
    with np.errstate(all="ignore"):
        found = np.abs(seen - due) / tol.tolerance(c, bench.u(f"d{k}"))
    return np.where(np.isnan(found), np.inf, found)


def _by_step(bench: Bench, point: Point, answers: dict) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    rows, T = [], len(point.inputs["x"])
    for k in (*BACKWARD_ORDER, "x"):
        if k in answers:
            found = _ratios(bench, point, k, answers[k])
            told = (None,) * T if found is None else tuple(float(q.max()) for q in found)
            rows.append(Row(k, _gate(k), STAGES.get(k, "pre-activation"), told))
    return tuple(rows), tuple(k for k in (*BACKWARD_ORDER, "x") if k not in answers)


def _gate(k: str) -> str:
    return {"c_tilde": "c", "c": ""}.get(k, k[-1] if k[-1] in "fio" or k[:2] == "a_" else "")


def _alone(bench: Bench, case, names: list[str]) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """The ratios of every gradient with one cotangent alone: that of one h_t, of the returned h_T, or of the returned c_T."""
    if case.model:
        return (), ()
    T, missing = len(case.inputs["x"]), bench.candidate.supports.missing
    places = [] if "h" in missing else [(f"h_{t + 1}", "h", t) for t in range(T)]
    places += [(f"returned {k}", k, None) for k in ("h_T", "c_T") if k not in missing]
    base = bench.case(replace(case.spec, cotangents="all"))
    columns = []
    for _, key, t in places:
        s = {k: np.zeros_like(v) for k, v in base.cotangents.items()}
        if t is None:
            s[key] = base.cotangents[key]
        else:
            s[key][t] = base.cotangents[key][t]
        try:
            answers, point = _asked(bench, base, s)
            columns.append({k: _ratios(bench, point, k, answers[k]) for k in names if k in answers})
        except Finding:
            columns.append({})
    rows = (Row(k, k[2] if k[:2] in ("W_", "b_") else "", _stage(k), tuple(_largest(c.get(k)) for c in columns)) for k in names)
    return tuple(name for name, _, _ in places), tuple(rows)


def _largest(ratios: np.ndarray | None) -> float | None:
    return None if ratios is None else float(ratios.max())


def _stage(k: str) -> str:
    return {"W": "weights", "b": "biases", "x": "input"}.get(k[0], "initial state")
