"""The comparator and the tolerances: what must fail does, NaN never passes, nothing is broadcast."""

import re
from pathlib import Path

import numpy as np
import pytest

import lstm_ref
from lstm_ref import cases
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.comparison import compare, compare_along, looks_like
from lstm_ref.judgement.tolerances import Condition
from lstm_ref.reference.symbols import Sizes
from lstm_ref.truth import autodiff

P = tol.PRECISIONS["float64"]


def flat(due, C=None):
    due = np.asarray(due, float)
    C = np.abs(due).max() * np.ones_like(due) if C is None else C
    return Condition(due, C, float(np.abs(due).max()), True, True)


def test_an_error_above_tolerance_fails_and_one_below_passes():
    due = np.array([1.0, 2.0, -3.0])
    limit = tol.KAPPA * P.u * 3
    assert compare("g", due + np.array([0, 0, 0.9 * limit]), due, flat(due), P).outcome == "pass"
    failed = compare("g", due + np.array([0, 1.5 * limit, 0]), due, flat(due), P)
    assert failed.outcome == "fail"
    assert failed.index == (1,)
    assert failed.ratio > 1


def test_a_small_error_everywhere_fails_by_its_rms():
    due = np.ones(100)
    evidence = compare("g", due + 6 * P.u, due, flat(due), P)
    assert evidence.outcome == "fail"
    assert "rms" in evidence.rule
    assert compare("g", due[:9] + 6 * P.u, due[:9], flat(due[:9]), P).outcome == "pass"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_never_pass(bad):
    due = np.array([1.0, 2.0])
    seen = np.array([1.0, bad])
    assert compare("g", seen, due, flat(due), P).outcome == "fail"
    assert compare("g", due, np.array([1.0, bad]), flat(due), P).outcome == "unresolved"
    assert compare_along("g", seen, np.array([0.6, 0.8]), 2.2, 0.0, np.zeros(2), P).outcome == "fail"
    assert compare_along("g", due, np.array([0.6, 0.8]), bad, 0.0, np.zeros(2), P).outcome == "unresolved"


def test_a_gradient_and_a_difference_that_are_exactly_zero_agree_whatever_the_tolerance():
    nothing, along = np.zeros(2), np.array([0.6, 0.8])
    assert compare_along("g", nothing, along, 0.0, 1.0, np.ones(2), P).outcome == "zero"
    assert compare_along("g", nothing, along, 1e-30, 1.0, np.ones(2), P).outcome == "unresolved"
    assert compare_along("g", nothing, along, 3.0, 1.0, np.ones(2), P).outcome == "fail"


def test_nothing_is_broadcast():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare("g", np.ones((1, 3)), np.ones(3), flat(np.ones(3)), P)


def test_a_tolerance_as_large_as_the_gradient_cannot_tell():
    due = np.array([1e-20, 2e-20])
    assert compare("g", due, due, flat(due, C=np.ones(2)), P).outcome == "unresolved"
    assert compare("g", due + 1, due, flat(due, C=np.ones(2)), P).outcome == "fail"


def test_zero_is_resolved_by_exact_zero_only():
    due = np.zeros(3)
    c = Condition(due, np.full(3, P.m), P.m, True, True)
    assert compare("g", due, due, c, P).outcome == "zero"
    assert compare("g", due + 1e-300, due, c, P).outcome == "fail"


def test_out_of_range_and_beyond_first_order_cannot_tell():
    due = np.ones(3)
    assert compare("g", due + 1, due, flat(due)._replace(in_range=False), P).outcome == "unresolved"
    assert compare("g", due + 1, due, flat(due)._replace(first_order=False), P).outcome == "unresolved"


def test_float32_is_recognised_by_its_values_or_its_errors():
    rng = np.random.default_rng(0)
    due = rng.standard_normal(50)
    lower = tol.PRECISIONS["float32"]
    assert looks_like(due.astype(np.float32).astype(float), due, lower.dtype, lower.u)
    assert looks_like(due * (1 + lower.u * rng.uniform(-1, 1, 50)), due, lower.dtype, lower.u)
    assert not looks_like(due, due, lower.dtype, lower.u)
    wrong = due.copy()
    wrong[3] += 1e-8
    assert not looks_like(wrong, due, lower.dtype, lower.u)
    assert not looks_like(due * 1.5, due, lower.dtype, lower.u)


@pytest.mark.parametrize("name", ["dW_f", "dx", "dc0", "dh", "db_o"])
def test_planted_relative_error_is_caught_at_ordinary_weights(name):
    """An error of 2e-12 of the block in any one entry, up to T = 8, H = 8."""
    for spec in (cases.CORNERS[0], cases.Spec(Sizes(8, 3, 8, 8), seed=3), cases.Spec(Sizes(6, 2, 3, 4), "small")):
        case = cases.build(spec, P.dtype, False)
        run = tol.noisy_run(case.inputs, case.cotangents, P)
        due = autodiff.truth(case.inputs, case.cotangents).gradients[name[1:]]
        c = tol.conditions(run, P, frozenset(["dh"]))[name]
        for index in np.ndindex(due.shape):
            seen = due.copy()
            seen[index] += 2e-12 * np.abs(due).max()
            assert compare(name, seen, due, c, P).outcome == "fail"


def test_noise_is_repeatable_and_lane_zero_is_clean():
    case = cases.build(cases.CORNERS[0], P.dtype, True)
    one, two = (tol.noisy_run(case.inputs, case.cotangents, P) for _ in range(2))
    assert all(np.array_equal(one.values[k], two.values[k]) for k in one.values)
    truth = autodiff.truth(case.inputs, case.cotangents)
    assert np.allclose(one.values["dW_f"][0], truth.gradients["W_f"], rtol=1e-9)
    spread = one.values["dW_f"][1 : 1 + tol.DRAWS] - one.values["dW_f"][0]
    assert (np.abs(spread).max(axis=(1, 2)) > 0).all()
    mirrored = one.values["dW_f"][1 + tol.DRAWS :] - one.values["dW_f"][0]
    one_draw = spread[tol.MIRRORED[0] - 1]
    assert np.linalg.norm(mirrored[0] + one_draw) < 0.01 * np.linalg.norm(one_draw)


def test_no_tolerance_literal_stands_outside_the_tolerance_module():
    package = Path(lstm_ref.__file__).parent
    small = re.compile(r"(?<![\w.])\d+(\.\d+)?e-\d+|[ar]tol\s*=")
    allowed = {"tolerances.py", "differences.py"}  # and inputs, which are marked
    found = [
        f"{path.name}: {line.strip()}"
        for path in package.rglob("*.py")
        if path.name not in allowed
        for line in path.read_text(encoding="utf-8").splitlines()
        if small.search(line) and "input value" not in line
    ]
    assert not found, found
