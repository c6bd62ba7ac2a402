"""Laws: relations between a candidate's own gradients that need no truth.

Each law is a handful of runs whose gradients must combine to zero; its tolerance is the sum of |coefficient| ×
tolerance over the gradients in it. Only the zero cotangent is exact.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..candidates import contract
from ..candidates.contract import Finding
from ..candidates.layout import encode
from ..reference.variant import DATA, plain
from ..truth import differences
from . import tolerances as tol
from .comparison import index_of, worst_of
from .judge import Bench, Judged, Point
from .verdict import FAIL, PASS, UNRESOLVED, Evidence

FACTOR, SMALL_FACTOR = 1024.0, 8.0  # powers of two scale without rounding; the small one is for float16's range
FIELD = "∂g"  # under which it is known whether the gradients are complex-safe
BY_BATCH = ("x", "h0", "c0")
BY_STEP = ("x", "y", "w", *(k for k in DATA if k != "lengths"))  # inputs with an axis of time


def judge_laws(bench: Bench, judged: Judged, wanted) -> dict[str, Evidence]:
    """Every law that is wanted and that applies to this case; `wanted` says so of a check id."""
    found: dict[str, Evidence] = {}
    finite = all(np.isfinite(v).all() for v in judged.gradients.arrays.values())
    if not finite or not all(c.in_range for c in judged.point.conditions.values()):
        return found  # a law's sums may overflow where the gradients themselves do not
    for name, law in LAWS.items():
        if wanted(f"law.{name}"):
            try:
                evidence = law(bench, judged)
                if evidence is not None and evidence.outcome == FAIL:
                    evidence = _second_look(law, bench, judged, evidence)
            except Finding as finding:
                evidence = Evidence(FAIL, np.inf, rule=finding.sentence)
            except KeyError as missing:
                evidence = Evidence(FAIL, np.inf, rule=f"{missing.args[0]} came back from one call and not from another")
            if evidence is not None:
                found[f"law.{name}"] = evidence
    return found


def _second_look(law, bench: Bench, judged: Judged, evidence: Evidence) -> Evidence:
    """A law that fails, unresolved where σ and tanh of absolute accuracy explain it, as they do where gates are shut."""
    near_zero = judged.point.near_zero
    again = law(replace(bench, absolute=near_zero.bench.absolute), replace(judged, point=near_zero))
    if again is None or again.outcome == FAIL:
        return evidence
    return again._replace(outcome=UNRESOLVED, rule="σ or tanh of absolute accuracy explains it")


def _run(bench: Bench, point: Point) -> tuple[dict, dict]:
    call = contract.prepare(bench.candidate, point.inputs, bench.precision.dtype)
    outputs, gradients = contract.run(call, bench.instance, point.cotangents)
    return outputs.arrays, {k: v for k, v in gradients.arrays.items() if k in bench.candidate.gradient_names}


def _base(judged: Judged) -> dict:
    return {k: v for k, v in judged.gradients.arrays.items() if k in judged.point.bench.candidate.gradient_names}


def _flow(point: Point, scale) -> Point:
    """The same point with what flows in scaled: the cotangents, or the weights of the loss."""
    if "w" in point.inputs:
        return point.flowing(point.cotangents, point.inputs["w"] * scale)
    return point.flowing({k: v * scale for k, v in point.cotangents.items()})


def _agree(bench: Bench, left: dict, right: dict, limits: dict) -> Evidence:
    """Whether two sets of gradients agree within the given tolerances, block by block; all blocks are compared at once."""
    if not left:
        return Evidence(UNRESOLVED)
    sizes = np.array([v.size for v in left.values()])
    starts = np.cumsum(sizes) - sizes
    one, two, granted = (np.concatenate([q[k].ravel() for k in left]) for q in (left, right, limits))
    largest = np.maximum.reduceat([np.abs(one), np.abs(two), granted], starts, axis=1)
    scales = np.maximum(largest[0], largest[1])
    widest: dict[str, float] = {}  # a wrong gradient may be another entry's or gate's: each kind is granted its largest limit
    for k, limit in zip(left, largest[2].tolist(), strict=True):
        widest[k[:2]] = max(widest.get(k[:2], 0.0), limit)
    with np.errstate(all="ignore"):
        limit = np.array([widest[k[:2]] for k in left])
        grown = tol.KAPPA * np.array([bench.u(f"d{k}") for k in left]) * scales / limit  # a wrong, larger gradient rounds more
        limit = limit * np.where(np.isfinite(grown), np.maximum(1.0, grown), 1.0)
        error = np.abs(one - two)
        ratios = np.where(error == 0, 0.0, error / np.repeat(limit, sizes))
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    pieces = []
    for k, start, size, scale, most in zip(left, starts.tolist(), sizes.tolist(), scales.tolist(), limit.tolist(), strict=True):
        if not math.isfinite(widest[k[:2]]):
            pieces.append(Evidence(UNRESOLVED, quantity=k, rule="no finite tolerance here"))
            continue
        entry = int(ratios[start : start + size].argmax())
        at = start + entry
        worst = ratios.item(at)
        outcome = FAIL if worst > 1 else UNRESOLVED if scale and most >= bench.arithmetic.resolution * scale else PASS
        values = (one.item(at), two.item(at), None, error.item(at), most)
        pieces.append(
            Evidence(outcome, worst, k, index_of(entry, left[k].shape), *values, rule="|left − right| ≤ Σ|coefficient|·tolerance")
        )
    failed = [e for e in pieces if e.outcome == FAIL]
    resolved = [e for e in pieces if e.outcome == PASS]
    return worst_of(failed or resolved or pieces)


def _homogeneity(bench: Bench, judged: Judged) -> Evidence:
    base, point = _base(judged), judged.point
    factor = FACTOR if bench.arithmetic.largest > FACTOR**4 else SMALL_FACTOR
    limits = {k: 2 * point.tolerance(k) for k in base}
    pieces = []
    for by in (factor, 1 / factor):
        scaled = _flow(point, by)
        evidence = _agree(bench, {k: v / by for k, v in _run(bench, scaled)[1].items()}, base, limits)
        if evidence.outcome == FAIL and not all(c.in_range for c in scaled.conditions.values()):
            evidence = evidence._replace(
                outcome=UNRESOLVED, rule=f"{by:g} times what flows in comes near the largest {bench.precision.name}"
            )
        pieces.append(evidence)
    return worst_of(pieces)


def _additivity(bench: Bench, judged: Judged) -> Evidence:
    """g(s) = g(s − s') + g(s') with s' taking every other entry of what flows in: no rounding in the split."""
    point = judged.point
    if "w" in point.inputs:
        mask = np.indices(point.inputs["w"].shape).sum(0) % 2
        halves = [_flow(point, mask), _flow(point, 1 - mask)]
    else:
        masks = {k: np.indices(v.shape).sum(0) % 2 for k, v in point.cotangents.items()}
        parts = [{k: v * masks[k] for k, v in point.cotangents.items()}, {k: v * (1 - masks[k]) for k, v in point.cotangents.items()}]
        halves = [point.flowing(part) for part in parts]
    base = _base(judged)
    one, two = (_run(bench, h)[1] for h in halves)
    limits = {k: point.tolerance(k) + sum(h.tolerance(k) for h in halves) for k in base}
    return _agree(bench, {k: one[k] + two[k] for k in base}, base, limits)


def _zero_cotangent(bench: Bench, judged: Judged) -> Evidence:
    _, gradients = _run(bench, _flow(judged.point, 0.0))
    for k, v in gradients.items():
        if v.any() or np.isnan(v).any():
            index = tuple(int(n) for n in np.argwhere(~(v == 0))[0])
            return Evidence(FAIL, np.inf, k, index, float(v[index]), 0.0, rule=f"d{k} is not exactly zero when nothing flows in")
    return Evidence(PASS)


def _time_split(bench: Bench, judged: Judged) -> Evidence | None:
    point, supports = judged.point, bench.candidate.supports
    T = judged.case.spec.sizes.T
    base = _base(judged)
    variant = bench.candidate.variant
    if not variant.splits_in_time or T < 2 or "T" in supports.sizes:
        return None
    if "c_T" in supports.missing or not supports.initial_state or not {"h0", "c0"} <= set(base):
        return None
    if _hands_over_no_state(judged):
        return None
    t = T // 2
    s = point.cotangents
    nothing = {k: np.zeros_like(s[k]) for k in ("h_T", "c_T")}
    early_inputs, late_inputs = (_steps(point, steps) for steps in (slice(t), slice(t, None)))
    early = Point(bench, early_inputs, {"h": s["h"][:t], **nothing})
    handed, _ = _run(bench, early)
    hidden = bench.candidate.hidden
    if not {hidden, "c_T"} <= set(handed):
        return None
    h_t = handed["h"][-1] if hidden == "h" else handed["h_T"]
    another = judged.fails(f"forward.{hidden}")
    if another and not np.array_equal(h_t, handed.get("h_T", h_t)):
        return None  # of another function: what comes back as its last states may be those exchanged, and is not what it goes on from
    late = Point(bench, {**late_inputs, "h0": h_t, "c0": handed["c_T"]}, {"h": s["h"][t:], "h_T": s["h_T"], "c_T": s["c_T"]})
    rest, g2 = _run(bench, late)
    if another and not _goes_on(judged, late, rest[hidden], t):
        return None
    early = early.flowing({"h": s["h"][:t], "h_T": g2["h0"], "c_T": g2["c0"]})
    _, g1 = _run(bench, early)
    joined = {k: g1[k] + g2[k] if k in variant.parameters else g1[k] for k in base}
    u = max(bench.u("dh0"), bench.u("dc0"))  # what is handed back may be rounded coarsely, and all that is formed from it is then
    handed_back = {k: early.tolerance(k) * max(1.0, u / bench.u(f"d{k}")) for k in base}
    limits = {k: point.tolerance(k) + handed_back[k] for k in base if k != "x"}
    limits |= {k: limits[k] + late.tolerance(k) for k in variant.parameters if k in base}
    if "x" in base:
        joined["x"] = np.concatenate([g1["x"], g2["x"]])
        limits["x"] = point.tolerance("x") + np.concatenate([handed_back["x"], late.tolerance("x")])
    return _agree(bench, joined, base, limits)


def _goes_on(judged: Judged, late: Point, rest: np.ndarray, t: int) -> bool:
    """Whether the outputs of another function go on from step t as they do in one run: its last h and c may be no state of it."""
    hidden, u = late.bench.candidate.hidden, late.bench.u(late.bench.candidate.hidden)
    whole, limits = judged.values[hidden], tol.tolerance(judged.point.conditions[hidden], u)
    if hidden == "h":
        whole, limits = whole[t:], limits[t:]
    return bool(np.all(np.abs(rest - whole) <= limits + tol.tolerance(late.conditions[hidden], u)))


def _hands_over_no_state(judged: Judged) -> bool:
    """Whether h is right and the last states are not: the forward pass has them, and returns something else."""
    h_is_wrong = judged.fails(f"forward.{judged.point.bench.candidate.hidden}")
    return not h_is_wrong and (judged.fails("forward.c_T") or judged.fails("forward.h_T"))


def _steps(point: Point, steps: slice) -> dict:
    """The inputs of some of the steps."""
    once = point.bench.candidate.variant.dropout_once
    return {k: v[steps] if k in BY_STEP and not (once and k[:4] == "drop") else v for k, v in point.inputs.items()}


def _rows(point: Point, rows) -> Point:
    """The point with some rows of the batch."""
    parameters = {*point.bench.candidate.variant.parameters, "W_v", "b_v"}
    once = point.bench.candidate.variant.dropout_once
    inputs = {k: v if k in parameters else _of_rows(k, v, rows, once) for k, v in point.inputs.items()}
    return Point(point.bench, inputs, {k: _of_rows(k, v, rows) for k, v in point.cotangents.items()})


def _of_rows(k: str, v: np.ndarray, rows, once: bool = False) -> np.ndarray:
    before = (slice(None),) * _batch_axis(k, v)
    return v[rows] if once and k[:4] == "drop" else v[(*before, rows)]


def _batch_axis(k: str, v: np.ndarray) -> int:
    """Where the batch is: before the units of a state, first in lengths, after time elsewhere."""
    return v.ndim - 2 if k in ("h0", "c0", "h_T", "c_T") else 0 if k == "lengths" else 1


def _batch_additivity(bench: Bench, judged: Judged) -> Evidence | None:
    B = judged.case.spec.sizes.B
    if B < 2 or "B" in bench.candidate.supports.sizes:
        return None
    point, base = judged.point, _base(judged)
    parts = [_rows(point, slice(0, B // 2)), _rows(point, slice(B // 2, B))]
    found = [_run(bench, part)[1] for part in parts]
    joined, limits = {}, {}
    for k in base:
        g, t = [f[k] for f in found], [p.tolerance(k) for p in parts]
        if k in BY_BATCH:
            joined[k], limits[k] = np.concatenate(g, _batch_axis(k, g[0])), point.tolerance(k) + np.concatenate(t, _batch_axis(k, t[0]))
        else:
            joined[k], limits[k] = sum(g), point.tolerance(k) + sum(t)
    return _agree(bench, joined, base, limits)


def _batch_permutation(bench: Bench, judged: Judged) -> Evidence | None:
    if judged.case.spec.sizes.B < 2:
        return None
    point, base = judged.point, _base(judged)
    _, found = _run(bench, _rows(point, slice(None, None, -1)))
    back = {k: np.flip(v, _batch_axis(k, v)) if k in BY_BATCH else v for k, v in found.items()}
    return _agree(bench, back, base, {k: 2 * point.tolerance(k) for k in base})


def _permute_units(q: dict, H: int) -> dict:
    """Hidden units in reverse order; the same map takes inputs and gradients, there and back."""
    out = {}
    for k, v in q.items():
        if k[:2] == "W_" and k != "W_v":
            v = np.concatenate([v[::-1, :H][:, ::-1], v[::-1, H:]], axis=1)
        elif k not in ("x", "y", "w", "b_v", "mask", "lengths", "drop_x"):
            v = v[..., ::-1]
        out[k] = v
    return out


def _unit_permutation(bench: Bench, judged: Judged) -> Evidence | None:
    H = judged.case.spec.sizes.H
    variant = bench.candidate.variant
    if H < 2 or len(variant.places) > 1 or variant.projection:
        return None
    point, base = judged.point, _base(judged)
    _, found = _run(bench, Point(bench, _permute_units(point.inputs, H), _permute_units(point.cotangents, H)))
    return _agree(bench, _permute_units(found, H), base, {k: 2 * point.tolerance(k) for k in base})


def _euler(bench: Bench, judged: Judged) -> Evidence | None:
    g, point, P = _base(judged), judged.point, judged.case.inputs["h0"].shape[-1]
    first = {p.suffix for p in bench.candidate.variant.places if p.layer == 0}
    weights = [k for k in bench.candidate.variant.parameters if plain(k)[:2] == "W_" and plain(k) != "W_r" and k[3:] in first]
    if not {*weights, "x"} <= set(g):
        return None
    inputs = point.seen
    left = sum(np.sum(g[k][:, P:] * inputs[k][:, P:]) for k in weights)
    right = np.sum(g["x"] * inputs["x"])
    limit = sum(np.sum(point.tolerance(k)[:, P:] * np.abs(inputs[k][:, P:])) for k in weights)
    limit += np.sum(point.tolerance("x") * np.abs(inputs["x"]))
    return _agree(bench, {"⟨dW_x, W_x⟩": left[None]}, {"⟨dW_x, W_x⟩": right[None]}, {"⟨dW_x, W_x⟩": np.array([limit])})


def _causality(bench: Bench, judged: Judged) -> Evidence | None:
    """With cotangents on h up to t only, dx after t is zero; and h up to t does not see x after t."""
    point, T = judged.point, judged.case.spec.sizes.T
    base = _base(judged)
    if T < 2 or not bench.candidate.variant.causal or bench.candidate.hidden != "h":
        return None
    if _hands_over_no_state(judged):
        return None
    t = T // 2
    early = np.arange(T) < t
    if "w" in point.inputs:
        cut = point.flowing(point.cotangents, point.inputs["w"] * early[:, None])
    else:
        s = {"h": point.cotangents["h"] * early[:, None, None], "h_T": 0 * point.cotangents["h_T"], "c_T": 0 * point.cotangents["c_T"]}
        cut = point.flowing(s)
    pieces = []
    if "x" in base:
        late = _run(bench, cut)[1]["x"][t:]
        pieces.append(_agree(bench, {"x": late}, {"x": np.zeros_like(late)}, {"x": cut.tolerance("x")[t:]}))
    if "w" not in point.inputs and "h" in judged.outputs:
        moved = Point(bench, {**point.inputs, "x": point.inputs["x"] * np.where(early, 1.0, -1.0)[:, None, None]}, point.cotangents)
        one, two = (_run(bench, p)[0]["h"][:t] for p in (point, moved))
        limit = 2 * tol.tolerance(point.conditions["h"], bench.u("h"))[:t]
        pieces.append(_agree(bench, {"h": one}, {"h": two}, {"h": limit}))
    return worst_of(pieces) if pieces else None


def _symmetry(bench: Bench, judged: Judged) -> Evidence | None:
    """u·∂g·v = v·∂g·u, by six-point differences of the gradient field, or by its complex step, once that has given what those do."""
    point, base = judged.point, _base(judged)
    variant = bench.candidate.variant
    due = [k for k in point.inputs if k not in ("y", "w", *variant.data)]  # in one order: what is drawn depends on it
    if not set(due) <= set(base) or not variant.smooth:
        return None  # differences across a kink say nothing
    rng = np.random.default_rng(judged.case.spec.seed)
    u = _unit({k: rng.standard_normal(base[k].shape) for k in due})
    scale = np.sqrt(sum(np.sum(base[k] ** 2) for k in due) / sum(base[k].size for k in due))
    coarse = bench.precision.name != "float64" or bool(bench.lower)
    key = (FIELD, judged.case.spec.regime)

    def rounding(*directions):
        return max(sum(np.sum(np.abs(d[k]) * point.tolerance(k)) for k in due) for d in directions)

    if not coarse and bench.complex_safe.get(key) and (along_u := _complex_step(bench, point, u)) is not None:
        v = _unit(along_u)  # the direction in which the relation has most to say
        steep = np.sqrt(_onto(along_u, along_u)) / scale if scale else 1.0
        bound = rounding(u, v) * max(1.0, steep)
        along_v = _complex_step(bench, point, v)
        if along_v is not None and (found := _equal(bench, _onto(along_u, v), _onto(along_v, u), 2 * bound)).outcome == PASS:
            return found  # what does not pass is differenced by real steps

    def gradients(along, step):
        moved = {**point.inputs, **{k: point.inputs[k] + step * along[k] for k in due}}
        return _run(bench, Point(bench, moved, point.cotangents))[1]

    first = (differences.COARSE_STEPS if coarse else differences.STEPS)[0]
    probed = {step: gradients(u, step) for step in (first, -first)}
    along_u = {k: (probed[first][k] - probed[-first][k]) / (2 * first) for k in due}
    v, enough = _unit(along_u), np.sqrt(bench.arithmetic.u) * max(scale, np.sqrt(_onto(along_u, along_u)))
    of_J = rounding(u, v)

    def slope(along, onto, bent):
        def J(step):
            return _onto(probed[step] if along is u and step in probed else gradients(along, step), onto)

        if bent:
            return differences.near_kinks(J, of_J, tol.KINK_BOUND, enough, coarse)
        return differences.real_steps(J, of_J, tol.DIFFERENCE_BOUND, scale, enough, bench.arithmetic.resolution * scale, coarse)

    def agree(bent):
        one, two = slope(u, v, bent), slope(v, u, bent)
        if not coarse and bench.complex_safe.get(key, True) and not bent:
            exact = [(_complex_step(bench, point, along), onto, d) for along, onto, d in ((u, v, one), (v, u, two))]
            bench.complex_safe[key] = all(q is not None and abs(_onto(q, onto) - d.value) <= d.bound + enough for q, onto, d in exact)
        return _equal(bench, one.value, two.value, one.bound + two.bound)

    found = agree(bent=False)
    if found.outcome == PASS or (coarse and found.outcome == UNRESOLVED):
        return found
    return agree(bent=True)  # J bends too much, or the rules have agreed on a wrong slope: shorter steps decide


def _complex_step(bench: Bench, point: Point, along: dict) -> dict | None:
    """∂g along a direction, exact to rounding; None where the candidate takes no complex numbers, or is not analytic."""
    layout = replace(bench.candidate.layout, forget_bias=0.0)  # no part of a direction
    call = contract.prepare(bench.candidate, point.inputs, bench.precision.dtype)
    moves = encode(layout, along, bench.precision.dtype)
    there = contract.moved(call, call.inputs, moves, 1j * differences.COMPLEX_STEP, np.dtype(np.complex128))
    try:
        with np.errstate(all="ignore"):
            found = contract.run(there, bench.instance, point.cotangents)[1].arrays
    except Finding:
        return None
    slopes = {k: np.imag(found[k]) / differences.COMPLEX_STEP for k in along if k in found}
    return slopes if len(slopes) == len(along) and all(np.isfinite(q).all() for q in slopes.values()) else None


def _equal(bench: Bench, one: float, two: float, bound: float) -> Evidence:
    """Whether u·∂g·v from both sides is the same within a bound."""
    name = "u·∂g·v"
    return _agree(bench, {name: np.array([one])}, {name: np.array([two])}, {name: np.array([bound])})


def _onto(q: dict, direction: dict) -> float:
    return float(sum(np.vdot(q[k], v) for k, v in direction.items()))


def _unit(q: dict) -> dict:
    length = np.sqrt(sum(np.sum(v**2) for v in q.values())) or 1.0
    return {k: v / length for k, v in q.items()}


LAWS = {
    "homogeneity": _homogeneity,
    "additivity": _additivity,
    "zero_cotangent": _zero_cotangent,
    "time_split": lambda bench, judged: None if judged.case.model else _time_split(bench, judged),
    "batch_additivity": _batch_additivity,
    "batch_permutation": _batch_permutation,
    "unit_permutation": _unit_permutation,
    "euler": _euler,
    "causality": _causality,
    "symmetry": _symmetry,
}
