"""The reference: NumPy only, equal to autodiff in every derived gradient, one written-out backward for all uses."""

import ast
import inspect
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_ref import cases
from lstm_ref.candidates.reference import ReferenceLayer, ReferenceModel
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.comparison import compare
from lstm_ref.judgement.judge import BY_STEP
from lstm_ref.reference import backward, forward, objectives, rewrite
from lstm_ref.reference.symbols import EQUATIONS, LAYER_INPUTS, LAYER_INTERMEDIATES, MODEL_INPUTS, upstream
from lstm_ref.truth import autodiff

FLOAT64 = np.dtype(np.float64)


@given(cases.specs(), st.booleans())
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
def test_every_derived_gradient_equals_autodiff(spec, model):
    case = cases.build(spec, FLOAT64, model)
    truth = autodiff.truth(case.inputs, case.cotangents)
    if model:
        J, gradients = ReferenceModel().loss_and_gradients(case.inputs)
        due = (*MODEL_INPUTS, "v", *LAYER_INTERMEDIATES)
    else:
        _, pull = ReferenceLayer().pullback(case.inputs)
        gradients, due = pull(case.cotangents), (*LAYER_INPUTS, *LAYER_INTERMEDIATES)
    p = tol.PRECISIONS["float64"]
    run = tol.noisy_run(case.inputs, case.cotangents, p)
    found = tol.conditions(run, p, BY_STEP)
    assert set(due) <= set(gradients)
    for k in due:
        evidence = compare(k, gradients[k], truth.gradients[k], found[f"d{k}"], p)
        assert evidence.outcome != "fail", evidence
    if model:
        assert compare("J", np.asarray(J), truth.values["J"], found["J"], p).outcome != "fail"


def test_squared_error_and_linear_objective():
    case = cases.build(cases.CORNERS[0], FLOAT64, False)
    h, s = case.inputs["x"][..., :2], case.cotangents
    y = np.ones_like(h)
    J, dh = objectives.squared_error(h, y)
    step = 1e-20j
    for index in np.ndindex(h.shape):
        moved = h.astype(complex)
        moved[index] += step
        assert np.isclose(np.imag(objectives.squared_error(moved, y)[0]) / step.imag, dh[index])
    assert 0.5 * np.sum((h - 1) ** 2) == J
    hidden = forward.forward(case.inputs)
    J = objectives.linear(hidden.h, hidden.c[-1], s["h"], s["h_T"], s["c_T"])
    assert np.isclose(J, autodiff.truth(case.inputs, s).values["J"])


def test_weights_of_zero_ignore_a_position():
    case = cases.build(cases.CORNERS[0], FLOAT64, True)
    w = case.inputs["w"].copy()
    w[2, 1] = 0
    one = ReferenceModel().loss_and_gradients({**case.inputs, "w": w})
    y = case.inputs["y"].copy()
    y[2, 1] = (y[2, 1] + 1) % 5
    two = ReferenceModel().loss_and_gradients({**case.inputs, "w": w, "y": y})
    assert one[0] == two[0]
    assert all(np.array_equal(one[1][k], two[1][k]) for k in one[1])


@pytest.mark.parametrize("function", [forward.forward, backward.backward, objectives.softmax_forward, objectives.softmax_backward])
def test_every_labelled_line_is_an_equation_that_is_listed(function):
    labels = {m["label"] for m in map(rewrite.LABEL.search, inspect.getsource(function).splitlines()) if m}
    assert labels
    assert labels <= set(EQUATIONS)


def test_code_and_list_of_equations_have_the_same_labels():
    files = (forward, backward, objectives)
    labels = {m["label"] for f in files for m in map(rewrite.LABEL.search, inspect.getsource(f).splitlines()) if m}
    assert labels == set(EQUATIONS)
    assert all(set(upstream(k)) <= set(EQUATIONS) for k in (*MODEL_INPUTS, "v", *LAYER_INTERMEDIATES))


def test_hooked_code_without_a_change_gives_the_same_numbers():
    case = cases.build(cases.CORNERS[9], FLOAT64, False)
    kept = []

    def keep(name, label, index, *terms):
        kept.append(name)
        return rewrite.total(terms).value

    plain = forward.forward(case.inputs)
    hooked = rewrite.hooked(forward.forward)(keep, case.inputs)
    s = case.cotangents
    g = backward.backward(plain, s["h"], s["h_T"], s["c_T"])
    hooked_g = rewrite.hooked(backward.backward)(keep, hooked, s["h"], s["h_T"], s["c_T"])
    assert np.array_equal(plain.h, hooked.h)
    assert all(np.array_equal(getattr(g, k), getattr(hooked_g, k)) for k in ("dh", "dc", "df", "dz", "dW", "db", "dh0", "dc0"))
    assert {"a", "f", "c", "h", "dh", "do", "dc", "df", "di", "dc_tilde", "da.f", "da.o", "dz", "dc_next", "dW", "db"} <= set(kept)


def test_every_assignment_of_the_time_loops_carries_a_label():
    for function in (forward.forward, backward.backward):
        source = textwrap.dedent(inspect.getsource(function))
        lines = source.splitlines()
        loop = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.For))
        bare = [lines[n.lineno - 1] for n in loop.body if isinstance(n, ast.Assign) and not rewrite.LABEL.search(lines[n.lineno - 1])]
        assert all("_prev" in line for line in bare), bare


def test_reference_imports_nothing_heavier_than_numpy():
    code = (
        "import sys, importlib.util as u, types; p = types.ModuleType('lstm_ref'); "
        "p.__path__ = u.find_spec('lstm_ref').submodule_search_locations; sys.modules['lstm_ref'] = p; "
        "import lstm_ref.reference.forward, lstm_ref.reference.backward, lstm_ref.reference.objectives, lstm_ref.reference.rewrite; "
        "print([m for m in ('jax', 'torch', 'hypothesis', 'pytest', 'scipy') if m in sys.modules])"
    )
    # the spec lookup imports nothing of the package itself
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
