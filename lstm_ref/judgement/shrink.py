"""Shrink: a failing case in, the smallest failing case in, both bounded in time.

First sizes and regime, greedily and from the failing case itself (Hypothesis cannot start from a fixed corner case);
then the numbers, towards 0, 1 and short decimals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from .. import cases
from ..cases import Case, Spec
from .judge import Bench
from .verdict import FAIL, Counterexample, Evidence

SECONDS = 2.0
TRIES = 200  # where no clock ends the search, so that two runs with one seed end alike; 20 to 65 are usual
ENTRIES = 60  # arrays of so many entries are also simplified one entry at a time
DECIMALS = (0, 1, 2)


def shrink(
    target: str,
    check: str,
    bench: Bench,
    spec: Spec,
    judge: Callable[[Case, str], dict[str, Evidence]],
    seconds: float | None = SECONDS,
) -> tuple[Counterexample, dict[str, Evidence]] | None:
    """The smallest case found on which `check` fails, with all that it says; None if the failure does not repeat. Without `seconds`,
    a number of tries ends the search."""
    deadline, tries = time.monotonic() + (seconds or np.inf), 0
    dtype = bench.precision.dtype

    def over() -> bool:
        return time.monotonic() > deadline or (seconds is None and tries >= TRIES)

    def fails(case: Case) -> dict[str, Evidence] | None:
        nonlocal tries
        tries += 1
        found = judge(case, check)
        return found if check in found and found[check].outcome == FAIL else None

    case = bench.case(spec)
    evidence = fails(case)
    if evidence is None:
        return None
    moved = True
    while moved and not over():
        moved = False
        for simpler in cases.smaller(case.spec):
            simpler = replace(simpler, sizes=bench.candidate.supports.fit(simpler.sizes))
            if simpler == case.spec or over():
                continue
            if not bench.candidate.supports.initial_state and simpler.initial_state != "zero":
                continue
            smaller = bench.case(simpler)
            if (found := fails(smaller)) is not None:
                case, evidence, moved = smaller, found, True
                break
    for plainer in _simpler_numbers(lambda: case, dtype):
        if over():
            break
        if (found := fails(plainer)) is not None:
            case, evidence = plainer, found
    what = (check, target, bench.precision.name, case.spec, case.inputs, case.cotangents, evidence[check])
    return Counterexample(*what, bench.output_names, way=bench.candidate.kind, variant=bench.candidate.variant), evidence


def _simpler_numbers(current: Callable[[], Case], dtype: np.dtype) -> Iterator[Case]:
    """Cases with one array made simpler at a time, always starting from the current case."""
    for group in ("inputs", "cotangents"):
        for name in getattr(current(), group):
            if name == "y":
                continue
            for simple in (np.zeros_like, *(_rounded(d, dtype) for d in DECIMALS)):
                before = getattr(current(), group)[name]
                after = simple(before)
                if np.array_equal(before, after):
                    break
                yield _with(current(), group, name, after)
                if np.array_equal(getattr(current(), group)[name], after):
                    break
    for group in ("cotangents", "inputs"):
        for name, array in getattr(current(), group).items():
            if name == "y" or array.size > ENTRIES:
                continue
            for index in np.ndindex(array.shape):
                for value in (0.0, 1.0):
                    now = getattr(current(), group)[name]
                    if now[index] in (0.0, value):
                        break
                    after = now.copy()
                    after[index] = value
                    yield _with(current(), group, name, after)


def _rounded(decimals: int, dtype: np.dtype):
    return lambda q: np.round(q, decimals).astype(dtype).astype(np.float64)


def _with(case: Case, group: str, name: str, array: np.ndarray) -> Case:
    if group == "inputs":
        return replace(case, inputs={**case.inputs, name: array})
    return replace(case, cotangents={**case.cotangents, name: array})
