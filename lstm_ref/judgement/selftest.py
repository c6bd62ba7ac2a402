"""Self-test: before a candidate is judged, one right gradient must pass and some wrong ones must fail.

It costs milliseconds. A run in which one of them is misjudged has no verdict.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import cases
from ..candidates.contract import Candidate
from ..candidates.reference import ReferenceLayer
from .judge import Bench, judge
from .tolerances import PRECISIONS, Precision
from .verdict import FAIL

SMALL_ERRORS = {"float64": 1e-10, "float32": 1e-2, "bfloat16": 30.0, "float16": 30.0}  # input values: planted, relative to the block


def _changed(change: Callable[[dict], dict]):
    class Changed(ReferenceLayer):
        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            return outputs, lambda cotangents: change(pull(cotangents))

    return Changed


def _one_entry(share: float):
    def change(g: dict) -> dict:
        W = g["W_o"].copy()
        W[0, 0] += np.asarray(share * np.abs(W).max()).astype(W.dtype)
        return {**g, "W_o": W}

    return change


def known_bad(p: Precision) -> dict[str, type]:
    """Gradients that are wrong, by what is wrong with them."""
    return {
        "a gradient of b_f that is zero": _changed(lambda g: {**g, "b_f": np.zeros_like(g["b_f"])}),
        "a gradient of x with the wrong sign": _changed(lambda g: {**g, "x": -g["x"]}),
        "a gradient of W_i that is W_f's": _changed(lambda g: {**g, "W_i": g["W_f"]}),
        "one entry of W_o slightly off": _changed(_one_entry(SMALL_ERRORS[p.name])),
        "a gradient of c0 that is NaN": _changed(lambda g: {**g, "c0": np.full_like(g["c0"], np.nan)}),
    }


def misjudged(dtype: str) -> list[str]:
    """What the harness gets wrong about gradients that it knows; an empty list is what is due."""
    p = PRECISIONS[dtype]
    case = cases.build(cases.CORNERS[0], p.dtype, False)
    problems = []
    if failed := _failed(ReferenceLayer, p, case):
        problems.append(f"a right gradient fails ({failed[0]})")
    for words, candidate in known_bad(p).items():
        if not _failed(candidate, p, case):
            problems.append(f"{words} is not caught")
    return problems


def _failed(cls, p: Precision, case: cases.Case) -> list[str]:
    candidate = Candidate("self-test", "pullback", cls)
    found = judge(Bench(candidate, p, cls()), case, with_differences=False)
    return [k for k, e in found.evidence.items() if e.outcome == FAIL and k.startswith(("grad.", "inter.", "forward."))]
