"""Regions: a fault that shows only somewhere is said to be there, with what it is; what shows everywhere has no region."""

from dataclasses import replace

import numpy as np
import pytest

from lstm_ref import verify
from lstm_ref.candidates.load import plug
from lstm_ref.cases import CORNERS, Spec
from lstm_ref.diagnosis import regions
from lstm_ref.diagnosis.explain import Seen, diagnose, explain
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.judge import Bench
from lstm_ref.judgement.verdict import Verdict
from lstm_ref.reference.symbols import LAYER_INPUTS, Sizes
from lstm_ref.report import words

from .planted import layer
from .strangers import CellByCell, KerasStyle, MeanLoss, SigmoidThroughTanh
from .test_strangers import HalfOfTwoBiases

FLOAT64 = tol.PRECISIONS["float64"]
ORDINARY = Seen(right=tuple(spec for spec in CORNERS if spec.regime == "ordinary" and spec.memory == "plain"))  # those that are right
DA_O = "da.o[t] = do[t] * o[t] * (1 - o[t])"
DA_I = "da.i[t] = di[t] * i[t] * (1 - i[t])"
DA_F = "da.f[t] = df[t] * f[t] * (1 - f[t])"
DA_C = "da.c[t] = dc_tilde[t] * (1 - c_tilde[t] ** 2)"
SOMEWHERE = {
    "c < 0": (layer((DA_O, f"{DA_O} * np.where(c[t] < 0, 2, 1)")), "da_o is counted twice"),
    "c̃ < 0": (layer((DA_C, "da.c[t] = dc_tilde[t] * (1 - np.where(c_tilde[t] < 0, -1, 1) * c_tilde[t] ** 2)")), "da_c: 1 + g² for 1 − g²"),
    "|a| > 10": (layer((DA_F, f"{DA_F} * (np.abs(trace.a.f[t]) <= 10)")), "da_f is missing"),
    "f > ½": (layer((DA_F, f"{DA_F} * np.where(f[t] > 0.5, 1.01, 1)")), "da_f is multiplied by 1.01"),
    "H > 16": (layer((DA_I, f"{DA_I} * (2 if H > 16 else 1)")), "da_i is counted twice"),
    "B > 16": (layer((DA_I, f"{DA_I} * (2 if c.shape[-2] > 16 else 1)")), "da_i is counted twice"),
    "T > 5": (layer((DA_I, f"{DA_I} * (2 if t >= 5 else 1)")), "no single term"),
    "x holds exact zeros": (layer((DA_I, f"{DA_I} * (z[t][..., H:] != 0).all(-1, keepdims=True)")), "da_i is missing"),
    "h0 and c0 are zero": (layer(("db = step_sum(da.all)", "db = step_sum(da.all) * (1 if c0.any() else 2)")), "db"),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("condition", SOMEWHERE)
def test_the_region_of_a_fault_is_found(condition, dtype):
    found = regions.find(plug(SOMEWHERE[condition][0])[0], tol.PRECISIONS[dtype])
    assert condition in [r.condition for r in found]
    assert len(found) <= 2
    assert all(r.failed >= 3 or r.condition[0] in "TBDH" for r in found)


@pytest.mark.parametrize("condition", ["c̃ < 0", "|a| > 10", "B > 16", "T > 5"])
def test_the_report_says_where_and_what(condition):
    candidate, what = SOMEWHERE[condition]
    told = words.explanation(verify(candidate, only="grad.*"))
    assert f"wrong only where {condition}" in told
    assert what in told
    assert "elsewhere pass" in told


def test_a_fault_of_large_numbers_is_not_laid_on_a_size():
    conditions = [r.condition for r in regions.find(plug(SOMEWHERE["|a| > 10"][0])[0], tol.PRECISIONS["float64"])]
    assert not any(c[0] in "TBDH" for c in conditions)


def test_right_gradients_and_faults_that_show_everywhere_have_no_region():
    def random(gradients, trace):
        rng = np.random.default_rng(len(trace.h))
        return {k: v * (1 + 0.01 * rng.standard_normal(v.shape)) for k, v in gradients.items()}

    def coarse(gradients, trace):
        return {k: v.astype(np.float32).astype(v.dtype) if k[0] == "W" else v for k, v in gradients.items()}

    # errors of 1e-8 are hidden where gates are shut, which is no region
    for candidate in (CellByCell, layer((DA_O, "da.o[t] = do[t]")), layer(after=random), layer(after=coarse)):
        assert regions.find(plug(candidate)[0], tol.PRECISIONS["float64"]) == ()
    assert explain(plug(CellByCell)[0], tol.PRECISIONS["float64"]) is None


def test_a_sigmoid_that_loses_its_tail_is_no_region_of_another_fault():
    """What a run forgives of σ = ½(1 + tanh(a/2)), the search forgives."""

    class Square(SigmoidThroughTanh):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            wrong = 1.5 if p["x"].shape[2] == p["h0"].shape[1] else 1.0
            return outputs, lambda s: {**(g := pull(s)), "x": g["x"] * wrong}

    class Three(SigmoidThroughTanh):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            wrong = 1.5 if len(p["h0"]) == 3 else 1.0
            return outputs, lambda s: {**(g := pull(s)), "W_f": g["W_f"] * wrong}

    assert regions.find(plug(SigmoidThroughTanh)[0], FLOAT64) == ()
    square, three = (regions.find(plug(c)[0], FLOAT64) for c in (Square, Three))
    assert [r.condition for r in square] == ["D = H"]
    assert square[0].sizes(Sizes(3, 5, 2, 4)) == Sizes(3, 5, 4, 4)
    assert [r.condition for r in three] == ["B = 3"]
    assert three[0].failed >= 3


@pytest.mark.parametrize(("one", "two"), [("B", "H"), ("T", "B")])
def test_axes_that_are_taken_for_one_another_where_two_sizes_are_equal(one, two):
    """Any other sizes raise in such code, and equal sizes of 1 are right."""

    class Mixed(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            n = dict(zip("TBDH", (*p["x"].shape, p["h0"].shape[1]), strict=True))
            wrong = n[one] == n[two] > 1
            return outputs, lambda s: {**(g := pull(s)), "b_f": g["b_f"] * (2 if wrong else 1)}

    verdict = verify(Mixed, only="grad.b_f.autodiff")
    assert verdict.outcome == "fail"
    assert f"wrong only where {one} = {two}: " in words.explanation(verdict)


def test_what_is_carried_in_float32_is_told_from_a_small_error():
    coarse = layer(("dc_next = dc[t] * f[t]", "dc_next = (dc[t] * f[t]).astype(np.float32).astype(c.dtype)"))
    told = diagnose(plug(coarse)[0], FLOAT64, ORDINARY)
    assert "rounding to float32 makes" in told.remarks[0]
    assert "what is carried from step to step or a buffer, is held in float32" in told.remarks[0]
    small = layer(("(1 - tanh_c[t] ** 2)", "(1 - tanh_c[t] ** 2 + 1e-9)"))  # input value
    assert "float32" not in "".join(diagnose(plug(small)[0], FLOAT64, ORDINARY).remarks)


def test_gradients_that_are_skipped_where_they_are_small_are_not_called_rounding_to_float16():
    at = "dz[t, ..., :H] = da.all[t] @ W_h"
    skips = layer((at, f"da.all[t] = np.where(np.abs(da.all[t]) < 1e-4, 0, da.all[t]); {at}"))  # input value
    told = diagnose(plug(skips)[0], tol.PRECISIONS["float32"], ORDINARY)
    assert "float16" not in "".join(told.remarks)
    coarse = layer(("dc_next = dc[t] * f[t]", "dc_next = (dc[t] * f[t]).astype(np.float16).astype(c.dtype)"))
    assert "is held in float16" in diagnose(plug(coarse)[0], tol.PRECISIONS["float32"], ORDINARY).remarks[0]


def test_a_fault_of_two_classes_is_one_of_their_number():
    class Binary(MeanLoss):
        def loss_and_gradients(self, p):
            J, gradients = super().loss_and_gradients(p)
            return J, {k: v / 2 if len(p["W_v"]) == 2 else v for k, v in gradients.items()}

    told = diagnose(plug(Binary)[0], FLOAT64)
    assert [r.condition for r in told.regions] == ["K < 3"]
    assert [(f.edges[0].id, f.wrong) for f in told.fits] == [("dv", ("halved",))]


def test_weights_of_x_taken_for_those_of_h_are_named_where_they_fit():
    square = layer(("da.all[t] @ W_h", "da.all[t] @ (W_x if W_x.shape == W_h.shape else W_h)"))
    told = diagnose(plug(square)[0], FLOAT64, ORDINARY)
    assert [r.condition for r in told.regions] == ["D = H"]
    assert [text for _, text in told.names] == ["dh_next through W_x where D = H"]


def test_the_second_of_two_biases_has_regions_too():
    class LongDouble(HalfOfTwoBiases):
        """Of more than one step, the second bias gets half."""

        def pullback(self, p):
            outputs, pull = super().pullback(p)
            share = 0.5 if p["x"].shape[1] > 1 else 1.0
            return outputs, lambda s: {**(g := pull(s)), "bias_hh": share * g["bias_ih"]}

    told = diagnose(plug(LongDouble)[0], FLOAT64, ORDINARY)
    assert [r.condition for r in told.regions] == ["T > 1"]
    assert told.names[0][1] == "the gradient of bias_hh, the second of two biases, is halved"


def test_a_clip_is_named_by_what_it_clips():
    def norm(gradients, trace):
        size = np.sqrt(sum(np.vdot(v, v) for k, v in gradients.items() if k in LAYER_INPUTS))
        return {k: v / max(1, size / 5) if k in LAYER_INPUTS else v for k, v in gradients.items()}

    def each(gradients, trace):
        return {k: np.clip(v, -5, 5) if k[:2] in ("W_", "b_") else v for k, v in gradients.items()}

    inner = layer(
        ("dc[t] = dh[t] * o[t] * (1 - tanh_c[t] ** 2) + dc_next", "dc[t] = np.clip(dh[t] * o[t] * (1 - tanh_c[t] ** 2) + dc_next, -1, 1)")
    )
    one = layer(("da.f[t] = df[t] * f[t] * (1 - f[t])", "da.f[t] = np.clip(df[t] * f[t] * (1 - f[t]), -0.1, 0.1)"))
    for candidate, condition in (
        (layer(after=norm), "the norm of all gradients > 5"),
        (layer(after=each), "the largest of dW and db > 5"),
        (inner, "|dc_t| > 1"),
        (one, "the gradients are large"),  # by what, no one number tells
    ):
        assert condition in [r.condition for r in regions.find(plug(candidate)[0], FLOAT64)]


def test_a_case_of_the_run_refutes_a_region():
    face = plug(SOMEWHERE["|a| > 10"][0])[0]
    bench = Bench(face, FLOAT64, face.make())
    small, large = (bench.case(Spec(Sizes(3, 2, 2, 3), regime)) for regime in ("small", "extreme"))
    assert regions.find(face, FLOAT64, failing=[large])
    assert regions.find(face, FLOAT64, failing=[large, small]) == ()
    tall = plug(SOMEWHERE["H > 16"][0])[0]
    assert regions.find(tall, FLOAT64, right=[bench.case(Spec(Sizes(3, 2, 2, 16)))])
    right = plug(CellByCell)[0]
    region = regions.Region("H > 2", 1, 1, holds=lambda case: True, must=lambda case: case.spec.sizes.H > 2)
    bench = Bench(right, FLOAT64, right.make())
    assert not regions._stands(bench, region, [], [small])
    assert regions._stands(bench, region, [], [bench.case(Spec(Sizes(3, 2, 2, 2)))])


def sometimes(factor: str) -> type:
    return layer(("do[t] = dh[t] * tanh_c[t]", f"do[t] = dh[t] * tanh_c[t] * ({factor})"))


def test_a_gain_is_told_with_the_condition_outside_of_which_gradients_are_right():
    told = words.explanation(verify(sometimes("1.5 if s_c.any() else 1"), only="grad.*"))
    assert "wrong only where the cotangent of c_T is not zero: 3 of 3 cases there fail, 3 of 3 elsewhere pass" in told
    assert "There,\n  do is multiplied by 1.5 (B:output): gain 1.500 on do" in told


@pytest.mark.parametrize(("factor", "condition"), [("1.5 if c0.any() else 1", "c0 is not zero"), ("1.5 if c.shape[1] > 1 else 1", "B > 1")])
def test_a_gain_that_right_cases_refute_has_a_region(factor, condition):
    told = diagnose(plug(sometimes(factor))[0], FLOAT64, ORDINARY)
    assert condition in [r.condition for r in told.regions]
    assert (told.fits[0].edges[0].id, told.fits[0].wrong) == ("do", ("multiplied by 1.5",))


def test_a_gain_whose_condition_is_not_found_is_not_said_to_hold_everywhere():
    """Right in the case that the search starts from, wrong where T or B is larger, and in every probe."""
    face = plug(sometimes("1.5 if c.shape[0] + c.shape[1] > 6 else 1"))[0]
    seen = replace(ORDINARY, failing=(Spec(Sizes(2, 5, 3, 3)), Spec(Sizes(6, 1, 3, 3))))
    told = diagnose(face, FLOAT64, seen)
    assert told.fits[0].wrong == ("multiplied by 1.5",)
    assert told.regions == ()
    assert told.remarks[0].endswith("it is so only under a condition that was not found")
    verdict = Verdict("mine", "quick", 0, (), 0, 0.0, explanation=told)
    assert words.explanation(verdict).endswith(told.remarks[0])
    everywhere = diagnose(plug(sometimes("1.5"))[0], FLOAT64, ORDINARY)
    assert everywhere.fits[0].wrong == ("multiplied by 1.5",)
    assert everywhere.remarks == everywhere.regions == ()


def test_what_does_not_fail_again_is_not_reproducible():
    class Flaky(CellByCell):
        """Loses a little of db in one call of twenty."""

        def __init__(self):
            self.rng = np.random.default_rng(1)

        def pullback(self, p):
            outputs, pull = super().pullback(p)
            lost = 1 - 1e-6 * (self.rng.random() < 0.05)  # input value
            return outputs, lambda s: {**(g := pull(s)), "b_f": g["b_f"] * lost}

    told = words.explanation(verify(Flaky, only="grad.b_f.autodiff"))
    assert "cases that failed are right when they are asked again" in told
    assert "what a call returns depends on chance" in told
    assert "wrong only where" not in told


def test_a_gradient_that_comes_back_transposed_is_called_that():
    class Transposed(KerasStyle):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {**(g := pull(s)), "kernel": g["kernel"].T}

    class Wrong(KerasStyle):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {**(g := pull(s)), "kernel": 2 * g["kernel"].T}

    told = words.explanation(verify(Transposed, only="contract.*,grad.b_f.autodiff,grad.W_f.autodiff"))
    assert told == "diagnosis: the gradient of kernel comes back transposed, and all else is right"
    wrong = diagnose(plug(Wrong)[0], FLOAT64)
    assert wrong is None or not wrong.remarks
