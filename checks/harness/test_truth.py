"""The two truths: padding is exact, fresh shapes compile nothing, JAX's settings stay; differences keep their bound."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from lstm_ref import cases, verify
from lstm_ref.candidates.reference import ReferenceLayer
from lstm_ref.judgement import run
from lstm_ref.judgement import tolerances as tol
from lstm_ref.reference.symbols import Sizes
from lstm_ref.truth import autodiff, differences, programs

FLOAT64 = np.dtype(np.float64)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 2), (5, 2, 3, 4, 6), (3, 3, 7, 2, 3)])
@pytest.mark.parametrize("regime", ["ordinary", "large", "saturated"])
def test_padded_oracle_equals_the_unpadded_one(sizes, regime):
    n = Sizes(*sizes)
    case = cases.build(cases.Spec(n, regime), FLOAT64, True)
    padded, plain = autodiff.truth(case.inputs, case.cotangents), autodiff.truth(case.inputs, case.cotangents, padded=n)
    large = autodiff.truth(case.inputs, case.cotangents, padded=autodiff.BUCKETS[1])
    noisy = tol.noisy_run(case.inputs, case.cotangents, tol.PRECISIONS["float64"])
    found = tol.conditions(noisy, tol.PRECISIONS["float64"], frozenset())
    for k, due in plain.gradients.items():
        limit = tol.tolerance(found[f"d{k}"], tol.PRECISIONS["float64"].u)
        assert padded.gradients[k].shape == due.shape
        assert (np.abs(padded.gradients[k] - due) <= limit).all(), k
        assert (np.abs(large.gradients[k] - due) <= limit).all(), k
    for k, due in plain.values.items():
        limit = tol.tolerance(found[k], tol.PRECISIONS["float64"].u)
        assert (np.abs(padded.values[k] - due) <= limit).all(), k


def test_fresh_shapes_compile_nothing(monkeypatch):
    case = cases.build(cases.CORNERS[0], FLOAT64, True)
    autodiff.truth(case.inputs, case.cotangents)
    misses = autodiff.compiled.cache_info().misses
    for n in range(1, 9):
        case = cases.build(cases.Spec(Sizes(n, 1 + n % 4, n, 9 - n, 2)), FLOAT64, False)
        autodiff.truth(case.inputs, case.cotangents)
    assert autodiff.compiled.cache_info().misses == misses


def test_buckets_grow_to_hold_large_cases():
    n = Sizes(64, 4, 100, 41, 2)
    b = autodiff.bucket(n)
    assert all(have >= need for have, need in zip(b, n, strict=True))
    assert autodiff.bucket(n) == autodiff.bucket(n._replace(T=60))


def test_oracle_leaves_jax_as_it_was():
    names = ("jax_enable_x64", "jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {k: getattr(jax.config, k) for k in names}
    case = cases.build(cases.CORNERS[3], FLOAT64, False)
    autodiff.compiled.cache_clear()
    autodiff.truth(case.inputs, case.cotangents)
    assert {k: getattr(jax.config, k) for k in names} == before
    assert jax.numpy.ones(2).dtype == np.float32


@pytest.fixture
def new_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LSTM_REF_CACHE", str(tmp_path))
    yield tmp_path
    autodiff.compiled.cache_clear()


def test_what_is_compiled_is_kept_and_neither_traced_nor_compiled_again(monkeypatch, new_folder):
    case = cases.build(cases.CORNERS[3], FLOAT64, True)

    def truth():
        autodiff.compiled.cache_clear()
        return autodiff.truth(case.inputs, case.cotangents, padded=case.spec.sizes)

    first = truth()
    (kept,) = new_folder.glob("*.program")
    with monkeypatch.context() as alone:
        alone.setattr(jax, "jit", None)
        again = truth()
    for p, q in zip(first, again, strict=True):
        assert all(np.array_equal(p[k], q[k]) for k in p)
    kept.write_bytes(kept.read_bytes()[:-9])
    assert np.array_equal(truth().gradients["W_f"], first.gradients["W_f"])
    with monkeypatch.context() as alone:
        alone.setattr(jax, "jit", None)
        assert truth().values["J"] == first.values["J"]


def test_what_is_compiled_of_other_sources_or_elsewhere_is_another_program(monkeypatch, tmp_path):
    source = tmp_path / "oracle.py"
    source.write_text("1")
    here = programs._fingerprint("what", str(source))
    assert here == programs._fingerprint("what", str(source)) != programs._fingerprint("another", str(source))
    source.write_text("2")
    programs._source.cache_clear()
    assert programs._fingerprint("what", str(source)) != here
    source.write_text("1")
    programs._source.cache_clear()
    monkeypatch.setattr(programs, "_processor", lambda: "one that can do less")
    assert programs._fingerprint("what", str(source)) != here
    programs._source.cache_clear()


def test_a_program_that_cannot_be_kept_serves_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("LSTM_REF_CACHE", str(tmp_path / "a file"))
    (tmp_path / "a file").write_text("in the way")
    case = cases.build(cases.CORNERS[3], FLOAT64, True)
    autodiff.compiled.cache_clear()
    assert np.isfinite(autodiff.truth(case.inputs, case.cotangents, padded=case.spec.sizes).values["J"])
    autodiff.compiled.cache_clear()


def test_complex_step_is_exact_and_knows_when_it_is_not_safe():
    d = differences.complex_step(lambda x: np.exp(2 * (1 + x)))
    assert abs(d.value - 2 * np.exp(2)) <= 4 * np.finfo(float).eps * d.value
    assert differences.complex_step(lambda x: np.nan * x) is None


@pytest.mark.parametrize("method", [differences.six_point, differences.adaptive])
def test_difference_bounds_cover_the_truth(method):
    worst = 0.0
    for n, spec in enumerate(cases.drawn(60, 11)):
        case = cases.build(spec, FLOAT64, False)
        s = case.cotangents
        _, pull = ReferenceLayer().pullback(case.inputs)
        g = pull(s)
        lanes = tol.noisy_run(case.inputs, s, tol.PRECISIONS["float64"]).values
        for k in ("W_c", "b_f", "x", "c0"):
            direction = np.random.default_rng(n).standard_normal(g[k].shape)
            direction /= np.linalg.norm(direction)

            def J(step, k=k, direction=direction, case=case, s=s):
                out = ReferenceLayer().forward({**case.inputs, k: case.inputs[k] + step * direction})
                return np.sum(s["h"] * out["h"]) + np.sum(s["h_T"] * out["h_T"]) + np.sum(s["c_T"] * out["c_T"])

            spread = sum(np.abs(s[q] * (lanes[q] - lanes[q][0])).sum() for q in ("h", "h_T", "c_T")) / tol.PRECISIONS["float64"].eta
            terms = sum(np.abs(s[q] * lanes[q][0]).sum() for q in ("h", "h_T", "c_T"))
            rounding = tol.KAPPA * tol.PRECISIONS["float64"].u * (spread / tol.LANES + terms)
            scale = np.linalg.norm(g[k]) / np.sqrt(g[k].size)
            if method is differences.six_point:
                d = method(J, rounding, tol.DIFFERENCE_BOUND, scale, np.sqrt(tol.PRECISIONS["float64"].u) * scale)
            else:
                d = method(J, rounding, tol.DIFFERENCE_BOUND)
            error = abs(d.value - np.sum(g[k] * direction))
            worst = max(worst, error / d.bound if d.bound else float(error > 0))
    assert worst <= 1, worst


def test_a_difference_of_nothing_has_no_bound():
    """Six-point says 0 where 0 is thought due, and the shorter rules do not agree: of what size their disagreement is nobody knows."""
    h = differences.STEPS[0]
    odd = {1: 0.0, 2: 0.5, 3: 4.5}  # 45 · 0 − 9 · 0.5 + 4.5 = 0
    d = differences.six_point(lambda step: np.sign(step) * odd[round(abs(step) / h)], 0.0, tol.DIFFERENCE_BOUND, 0.0, 0.0, tries=1)
    assert np.isinf(d.bound)
    assert d.passes == 6


@pytest.mark.parametrize(("rounding", "passes"), [(1e-2, (6, 4, 7)), (1e-6, (6, 6, 7)), (0.0, (12, 8, 13))])
def test_no_step_is_taken_at_which_rounding_alone_is_above_the_bound_found(rounding, passes):
    seen: list[float] = []

    def J(step):
        seen.append(step)
        return np.sin(1 + 2 * step)

    rest = (rounding, tol.DIFFERENCE_BOUND)
    ways = (lambda: differences.six_point(J, *rest, 1.0, 0.0, coarse=True), lambda: differences.adaptive(J, *rest, coarse=True))
    for due, way in zip(passes, (*ways, lambda: differences.near_kinks(J, *rest, 0.0, coarse=True)), strict=True):
        seen.clear()
        d = way()
        assert len(seen) == d.passes == due
        assert abs(d.value - 2 * np.cos(1)) <= d.bound
        assert d.bound >= differences.least_bound(rounding)


def test_no_longer_step_is_taken_where_J_bends_within_a_shorter_one():
    steps: list[float] = []

    def J(step):
        steps.append(abs(step))
        return np.sin(1 + 40 * step)

    d = differences.six_point(J, 1e-15, tol.DIFFERENCE_BOUND, 1.0, 0.0)
    assert d.passes == len(steps) == 12
    assert max(steps) == 3 * differences.STEPS[0]
    assert abs(d.value - 40 * np.cos(1)) <= d.bound


def test_a_J_that_jumps_to_huge_values_has_no_slope_and_raises_nothing():
    d = differences.six_point(lambda step: 1e200 if step > 0 else 0.0, 1e-15, tol.DIFFERENCE_BOUND, 1.0, 0.0, coarse=True)
    assert d.bound > 1e190


def test_what_shorter_steps_contradict_is_dropped():
    """A wave whose nodes are nearly the points of the longest step: every rule agrees there, on nothing of its slope."""
    wave = 2.0002 * np.pi / differences.KINK_STEPS[0]  # input value
    d = differences.near_kinks(lambda x: x + 0.01 * np.sin(wave * x), 1e-15, tol.KINK_BOUND, 0.0)
    assert abs(d.value - (1 + 0.01 * wave)) <= d.bound
    assert d.bound < tol.PRECISIONS["float64"].resolution ** 2 * d.value


def test_differences_near_a_kink_are_within_their_bound_wherever_it_lies():
    def bent(at, change):
        return lambda x: np.sin(1 + 2 * x) + change * max(0.0, x - at)

    slope, rounding = 2 * np.cos(1), 1e-15  # input value
    missed, kinks = (
        0,
        [(at, change) for at in np.concatenate([10.0**-k * np.linspace(0.1, 1, 40) for k in range(2, 6)]) for change in (3.0, -0.1)],
    )
    for at, change in kinks:
        J = bent(at, change)
        near = differences.near_kinks(J, rounding, tol.KINK_BOUND, 0.0)
        assert abs(near.value - slope) <= near.bound, (at, change)
        six = differences.six_point(J, rounding, tol.DIFFERENCE_BOUND, 1.0, 0.0)
        missed += abs(six.value - slope) > six.bound
    assert missed > len(kinks) // 2  # what the other rule makes of them
    smooth = differences.near_kinks(bent(9.0, 1.0), rounding, tol.KINK_BOUND, 0.0)
    assert abs(smooth.value - slope) <= smooth.bound < tol.PRECISIONS["float64"].resolution ** 6 * abs(slope)


@given(cases.specs())
@settings(max_examples=30, deadline=None, database=None, derandomize=True)
def test_cases_are_finite_and_representable(spec):
    for dtype in ("float32", "bfloat16"):
        p = tol.PRECISIONS[dtype]
        case = cases.build(spec, p.dtype, True)
        for k, v in {**case.inputs, **case.cotangents}.items():
            assert np.isfinite(v).all(), k
            assert k == "y" or np.array_equal(v, v.astype(p.dtype).astype(np.float64)), k


def test_the_harness_accuses_itself_when_autodiff_is_not_the_derivative_of_its_own_forward(monkeypatch):
    right = autodiff.begun

    def wrong(inputs, cotangents, padded=None):
        found = right(inputs, cotangents, padded)()
        return lambda: found._replace(gradients={**found.gradients, "b_o": 2 * found.gradients["b_o"]})

    monkeypatch.setattr(autodiff, "begun", wrong)
    unknown = verify(ReferenceLayer, only="grad.b_o.autodiff")
    assert unknown.outcome == "inconclusive"
    assert "lstm-ref misjudges gradients that it knows: a right gradient fails" in unknown.notes[0]
    monkeypatch.setattr(run, "misjudged", lambda dtype: [])  # past the self-test, the second guard holds
    verdict = verify(ReferenceLayer, only="grad.b_o.autodiff")
    assert verdict.outcome == "inconclusive"
    assert "lstm-ref contradicts itself" in verdict.results[[r.id for r in verdict.results].index("grad.b_o.autodiff")].reason


def test_the_oracles_gates_are_accurate_in_both_tails_and_for_tiny_cotangents():
    """Against extended precision: values within 4 u, derivatives within 8 u, also when what flows back is near underflow."""
    a = np.concatenate([np.linspace(-300, 300, 2001), np.linspace(-2, 2, 2001), np.array([0.0, -0.0, 1e-300, 0.8, -0.8])])
    exact = a.astype(np.longdouble)
    e = np.exp(-np.abs(exact))
    due = {autodiff._sigmoid: (np.where(a < 0, e, 1) / (1 + e), e / (1 + e) ** 2)}
    due[autodiff._tanh] = (np.tanh(exact), 4 * e**2 / (1 + e**2) ** 2)
    u = tol.PRECISIONS["float64"].u
    for function, (value, slope) in due.items():
        with jax.enable_x64(True):
            seen, pull = jax.vjp(function, a)
            slopes = {s: np.asarray(pull(np.full_like(a, s))[0]) / s for s in (1.0, 2.0**-990)}
        size = np.maximum(np.abs(value), np.finfo(float).tiny)
        assert np.max(np.abs(np.asarray(seen) - value) / size) <= 4 * u
        assert np.max(np.abs(slopes[1.0] - slope) / slope) <= 8 * u
        middle = np.abs(a) < 1  # elsewhere the product itself underflows
        assert np.max(np.abs(slopes[2.0**-990] - slope)[middle] / slope[middle]) <= 16 * u


@pytest.mark.parametrize(("platforms", "told"), [("cuda", ""), ("nonsense", 'JAX_PLATFORMS, or set it to "nonsense,cpu"')])
def test_a_jax_that_is_told_of_no_cpu_runs_the_oracle_on_it_or_says_what_to_set(platforms, told):
    """A GPU that is named and not there is passed over once the CPU stands behind it; what JAX does not know is not."""
    code = "from lstm_ref.truth import programs; print(programs.cpu().platform)"
    env = {**os.environ, "JAX_PLATFORMS": platforms}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert told in done.stderr
    assert done.stdout == ("" if told else "cpu\n")
