"""Localise: where gradients are first wrong, for failures that no term explains.

From exposed intermediates: the first wrong quantity in backward order, with its time step, row and unit. From the outside:
the smallest T that fails, and which cotangent, alone, brings the fault out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import cases
from ..candidates import contract
from ..candidates.contract import Candidate, Finding
from ..judgement import tolerances as tol
from ..judgement.comparison import compare
from ..judgement.judge import Bench, Point
from ..judgement.verdict import FAIL
from ..reference.symbols import Sizes

BACKWARD_ORDER = ("h", "o", "c", "f", "i", "c_tilde", "a_f", "a_i", "a_c", "a_o", "z")
SIZE = Sizes(5, 2, 3, 4)


@dataclass(frozen=True)
class Location:
    """`first` is (quantity, t, b, unit) in backward order where intermediates are exposed; `smallest_T` the fewest steps that
    fail; `flows` the cotangents that fail alone ("h_3", "h_T", "c_T"), of `tried`, which are none where all of them together are right at
    more steps; `failing` the wrong gradients."""

    first: tuple[str, int, int, int] | None
    smallest_T: int
    flows: tuple[str, ...]
    tried: tuple[str, ...]
    failing: tuple[str, ...]


def localise(face: Candidate, precision: tol.Precision) -> Location | None:
    """Where a layer-level candidate is first wrong; None if it is right at every case tried, or cannot be asked."""
    if face.kind not in ("vjp", "pullback"):
        return None
    bench = Bench(face, precision, face.make())
    try:
        T, failing, answers, point = _smallest(bench)
    except Finding:
        return None
    if not failing:
        return None
    flows, tried = _flows(bench) if _fails(bench) else ((), ())
    return Location(_first(bench, answers, point), T, flows, tried, failing)


def _asked(bench: Bench, size: Sizes, keep=None):
    """Wrong gradients of one case, all answers, and the case; `keep` picks what flows in."""
    supports = bench.candidate.supports
    spec = cases.Spec(supports.fit(size), initial_state=supports.start("random"), seed=300)
    case = cases.build(spec, bench.precision.dtype, False)
    s = case.cotangents if keep is None else keep({k: v.copy() for k, v in case.cotangents.items()})
    if "c_T" in supports.missing:
        s = {**s, "c_T": 0 * s["c_T"]}
    point = Point(bench, case.inputs, s)
    _, found = contract.run(contract.prepare(bench.candidate, case.inputs, bench.precision.dtype), bench.instance, s)
    wrong = tuple(k for k in bench.candidate.gradient_names if k in found.arrays and _is_wrong(bench, point, k, found.arrays[k]))
    return wrong, found.arrays, point


def _is_wrong(bench: Bench, point: Point, k: str, seen: np.ndarray) -> bool:
    return compare(k, seen, point.truth.gradients[k], point.conditions[f"d{k}"], bench.precision, bench.u(f"d{k}")).outcome == FAIL


def _smallest(bench: Bench):
    supports = bench.candidate.supports
    for T in sorted({supports.fit(SIZE._replace(T=T)).T for T in range(1, SIZE.T + 1)}):
        wrong, answers, point = _asked(bench, SIZE._replace(T=T))
        if wrong:
            break
    return T, wrong, answers, point


def _fails(bench: Bench) -> bool:
    """Whether a gradient is wrong at the most steps, with all that flows in."""
    try:
        return bool(_asked(bench, SIZE)[0])
    except Finding:
        return False


def _flows(bench: Bench) -> tuple[tuple[str, ...], tuple[str, ...]]:
    steps = range(bench.candidate.supports.fit(SIZE).T if bench.candidate.hidden == "h" else 0)
    places = {f"h_{t + 1}": ("h", t) for t in steps} | {"h_T": ("h_T", None), "c_T": ("c_T", None)}
    bad = []
    for name, (key, t) in places.items():

        def keep(s, key=key, t=t):
            return {k: np.where(_mask(v, t), v, 0.0) if k == key else np.zeros_like(v) for k, v in s.items()}

        try:
            if _asked(bench, SIZE, keep)[0]:
                bad.append(name)
        except Finding:
            continue
    return tuple(bad), tuple(places)


def _mask(q: np.ndarray, t: int | None) -> np.ndarray:
    return np.ones(q.shape, bool) if t is None else (np.arange(len(q)) == t)[:, None, None]


def _first(bench: Bench, answers: dict, point: Point) -> tuple[str, int, int, int] | None:
    """The first wrong entry: the last time step first, and within a step the order of the backward equations."""
    u = bench.precision.u
    wrong = {}
    for k in BACKWARD_ORDER:
        if k in answers:
            wrong[k] = np.abs(answers[k] - point.truth.gradients[k]) > tol.tolerance(point.conditions[f"d{k}"], u)
    for t in range(len(point.inputs["x"]) - 1, -1, -1):
        for k, where in wrong.items():
            if where[t].any():
                b, unit = (int(n) for n in np.argwhere(where[t])[0])
                return k, t + 1, b, unit
    return None
