"""LSTMs as other people write them: the right ones pass, the bad ones get a named finding and a sentence."""

import ast
import io
import time
from dataclasses import replace
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest
from rich.console import Console

from lstm_ref import cases, verify
from lstm_ref.candidates.contract import Candidate
from lstm_ref.candidates.load import TargetError, load, plug
from lstm_ref.candidates.reference import ReferenceLayer, ReferenceModel
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.against import hold
from lstm_ref.judgement.comparison import worst_of
from lstm_ref.judgement.judge import Bench, fitted, judge, measure_precision
from lstm_ref.judgement.laws import judge_laws
from lstm_ref.judgement.manifest import manifest
from lstm_ref.judgement.run import PROFILES, _judge_one, _slow, compile_oracle, evidence_of_case
from lstm_ref.judgement.sheet import Sheet, due
from lstm_ref.judgement.state import judge_state
from lstm_ref.judgement.verdict import Evidence
from lstm_ref.reference.symbols import Sizes
from lstm_ref.report import terminal, words

from .planted import layer
from .strangers import (
    MISBEHAVING,
    RIGHT,
    CellByCell,
    Hangs,
    HiddenStateOnly,
    KerasStyle,
    LastStateOnly,
    MeanLoss,
    WrongGateOrder,
    sigmoid,
    spoilt,
)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("candidate", RIGHT, ids=lambda c: c.__name__)
def test_right_lstm_passes(candidate, dtype):
    verdict = verify(candidate, dtype=dtype)
    assert verdict.outcome == "pass", [(r.id, r.outcome, r.reason) for r in verdict.results if r.outcome not in ("pass", "not provided")]
    assert verdict.kind == "textbook"


def test_float16_with_tiny_cotangents_raises_no_alarm():
    verdict = verify(CellByCell, dtype="float16")
    assert not verdict.failures()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_judged_by_autodiff_and_says_so(dtype):
    verdict = verify(ReferenceLayer, dtype=dtype)
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "pass"
    assert found["grad.W_f.differences"].outcome == "not provided"
    assert found["grad.W_f.differences"].reason == f"{dtype} is too coarse for it; autodiff judged the same gradients"
    assert f"{dtype} is too coarse for differences: autodiff alone judged the gradients" in verdict.notes

    class Half(ReferenceLayer):
        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            return outputs, lambda s: {**(g := pull(s)), "W_f": g["W_f"] / 2}

    assert verify(Half, dtype=dtype, only="grad.*").outcome == "fail"


class StoredInHalf(CellByCell):
    """float64 goes in and comes out, and every hidden state is stored in float16 on the way."""

    def cell(self, p, x, h, c):
        h, c, cache = super().cell(p, x, h, c)
        return h.astype(np.float16).astype(h.dtype), c, cache


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_outputs_that_are_stored_in_half_precision_are_told_and_their_gradients_not_accused(dtype):
    only = "forward.*,grad.*.autodiff,numerics.effective_precision"
    verdict = verify(StoredInHalf, dtype=dtype, only=only)
    assert {r.id for r in verdict.failures()} == {"numerics.effective_precision"}
    due = f"everything is computed in float16, though {dtype} goes in and comes out; judged as float16 from here on"
    assert due in verdict.failures()[0].reason
    half = spoilt(change_gradients=lambda g: {**g, "W_f": g["W_f"] / 2}, base=StoredInHalf)
    assert "grad.W_f.autodiff" in {r.id for r in verify(half, dtype=dtype, only=only).failures()}


class StoredInBfloat16(CellByCell):
    """The numbers of bfloat16 lie in float16, too, as long as they are not small; their rounding is eight times as large."""

    def cell(self, p, x, h, c):
        h, c, cache = super().cell(p, x, h, c)
        return h.astype(ml_dtypes.bfloat16).astype(h.dtype), c, cache


class CachedInHalf(CellByCell):
    """What the backward pass takes of the gates is kept in float16; the forward pass goes on with what it had."""

    half = np.float16

    def cell(self, p, x, h, c):
        h, c, (z, *gates, c_prev, tc) = super().cell(p, x, h, c)
        return h, c, (z, *(q.astype(self.half).astype(q.dtype) if q.dtype.kind == "f" else q for q in gates), c_prev, tc)


class CachedInBfloat16(CachedInHalf):
    half = ml_dtypes.bfloat16


@pytest.mark.parametrize(("lstm", "half"), [(CachedInHalf, "float16"), (CachedInBfloat16, "bfloat16")])
def test_what_is_kept_for_the_backward_pass_in_half_precision_is_told_as_that(lstm, half):
    """In float32 by the check, which judges all as that; in float64 there is none between, and the diagnosis says it."""
    verdict = verify(lstm, dtype="float32")
    assert {r.id for r in verdict.failures()} == {"numerics.effective_precision"}
    assert verdict.failures()[0].reason.startswith(f"every gradient is computed in {half}, though float32 goes in and comes out")
    told = words.explanation(verify(lstm, only="grad.*.autodiff"))
    assert told.startswith(f"diagnosis: every error is one that rounding to {half} makes, and is another one where numbers are")


class MultipliedInBfloat16(CellByCell):
    """Right, as under autocast: pre-activations and the gradients of the weights are formed in bfloat16, states in float32."""

    def cell(self, p, x, h, c):
        z = np.hstack([h, x])
        a = {k: _in_bfloat16(z.dot(_in_bfloat16(p["W_" + k]).T) + p["b_" + k]) for k in "fico"}
        f, i, o, g = *(_in_bfloat16(self.sigmoid(a[k])) for k in "fio"), _in_bfloat16(self.tanh(a["c"]))
        c_new = f * c + i * g
        tc = self.tanh(c_new)
        return o * tc, c_new, (z, f, i, o, g, c, tc)

    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {k: _in_bfloat16(v) if k[0] == "W" else v for k, v in pull(s).items()}


def _in_bfloat16(q):
    return q.astype(ml_dtypes.bfloat16).astype(q.dtype)


@pytest.mark.parametrize("lstm", [StoredInBfloat16, MultipliedInBfloat16])
def test_what_is_computed_in_bfloat16_is_not_called_float16(lstm):
    only = "forward.*,grad.*.autodiff,numerics.effective_precision"
    verdict = verify(lstm, dtype="float32", only=only)
    assert {r.id for r in verdict.failures()} == {"numerics.effective_precision"}
    due = "everything is computed in bfloat16, though float32 goes in and comes out; judged as bfloat16 from here on"
    assert due in verdict.failures()[0].reason
    half = spoilt(change_gradients=lambda g: {**g, "W_f": g["W_f"] / 2}, base=lstm)
    assert "grad.W_f.autodiff" in {r.id for r in verify(half, dtype="float32", only=only).failures()}


class OnTensorCores(CellByCell):
    """Right, as on a GPU: what is multiplied in float32 is rounded to the 10 stored bits of TF32 first, and float64 is float64."""

    def cell(self, p, x, h, c):
        return super().cell(p, _in_tf32(x), _in_tf32(h), c)

    def pullback(self, p):
        return super().pullback({k: _in_tf32(v) if k[0] == "W" else v for k, v in p.items()})


def _in_tf32(q):
    if q.dtype != np.float32:
        return q
    bits = np.ascontiguousarray(q).view(np.uint32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def test_tf32_is_named_where_float32_is_as_coarse_and_not_where_values_are_stored_in_half():
    only = "forward.*,grad.*.autodiff,numerics.effective_precision"
    verdict = verify(OnTensorCores, dtype="float32", only=only)
    assert {r.id for r in verdict.failures()} == {"numerics.effective_precision"}
    assert "; TF32, in which GPUs form the products of float32 by default, is as coarse: torch.backends" in verdict.failures()[0].reason
    assert "No gradient is wrong" in words.meaning(verdict)
    assert verify(OnTensorCores, only=only).outcome == "pass"
    assert "TF32" not in verify(StoredInHalf, dtype="float32", only=only).failures()[0].reason


class ForgetsF:
    """The bug of a cell in a few lines: dc is handed back as it is, where dc ⊙ f is due."""

    in_product = staticmethod(lambda q: q)

    def pullback(self, p):
        h, c, hs, caches = p["h0"], p["c0"], [], []
        W = {k: self.in_product(p[f"W_{k}"]) for k in "fico"}
        for x in p["x"]:
            z = self.in_product(np.hstack([h, x]))
            f, i, o = (sigmoid(z @ W[k].T + p[f"b_{k}"]) for k in "fio")
            g, before = np.tanh(z @ W["c"].T + p["b_c"]), c
            c = f * before + i * g
            h = o * np.tanh(c)
            hs.append(h)
            caches.append((z, f, i, o, g, before, np.tanh(c)))

        def pull(s):
            d = {k: np.zeros_like(v) for k, v in p.items()}
            dh, dc = np.zeros_like(h), s["c_T"].copy()
            for t, (z, f, i, o, g, before, tc) in reversed([*enumerate(caches)]):
                dh = dh + s["h"][t]
                dc = dc + dh * o * (1 - tc**2)
                da = {"f": dc * before * f * (1 - f), "i": dc * g * i * (1 - i), "c": dc * i * (1 - g**2), "o": dh * tc * o * (1 - o)}
                for k, a in da.items():
                    d[f"W_{k}"] += a.T @ z
                    d[f"b_{k}"] += a.sum(axis=0)
                dh, d["x"][t] = np.hsplit(sum(a @ W[k] for k, a in da.items()), [dh.shape[1]])
            return {**d, "h0": dh, "c0": dc}

        return {"h": np.stack(hs), "c_T": c}, pull


class ForgetsFOnTensorCores(ForgetsF):
    in_product = staticmethod(_in_tf32)


class ForgetsFInHalf(ForgetsF):
    supports: ClassVar = {"dtypes": ["float16"]}


@pytest.mark.parametrize(("lstm", "dtype", "coarse"), [(ForgetsFOnTensorCores, "float32", "float16"), (ForgetsF, "bfloat16", "bfloat16")])
def test_a_wrong_term_in_coarse_arithmetic_is_named_by_what_it_does_in_a_finer_dtype(lstm, dtype, coarse):
    told = words.explanation(verify(lstm, dtype=dtype, only="forward.*,grad.*.autodiff,numerics.effective_precision"))
    assert "dc_next: the factor f is missing (B:carry)" in told
    assert f"this is what it does in float64: {coarse} is too coarse to tell terms apart" in told


def test_what_takes_half_precision_alone_is_told_that_no_term_can_be_named():
    told = words.explanation(verify(ForgetsFInHalf, only="forward.*,grad.*.autodiff"))
    assert told == "diagnosis: float16 is too coarse to tell which term is wrong"


class FastExponential(CellByCell):
    """Wrong: e^a is (1 + a/1024)^1024, which is off by as much as a rounding to float16."""

    @staticmethod
    def sigmoid(a):
        return 1 / (1 + _fast_exponential(-a))

    @staticmethod
    def tanh(a):
        return 1 - 2 / (1 + _fast_exponential(2 * a))


def _fast_exponential(a):
    e = 1 + np.clip(a, -88, 88) / 1024
    for _ in range(10):
        e = e * e
    return e


def test_an_error_of_mathematics_as_small_as_float16_is_not_called_its_rounding():
    verdict = verify(FastExponential, dtype="float32", only="forward.*,grad.*.autodiff,numerics.effective_precision")
    assert verdict.outcome == "fail"
    assert "numerics.effective_precision" not in {r.id for r in verdict.failures()}
    assert "float16" not in words.explanation(verdict)


def test_no_difference_is_taken_that_rounding_hides_where_autodiff_confirms():
    class Counting(ReferenceLayer):
        forwards = 0

        def forward(self, inputs):
            Counting.forwards += 1
            return super().forward(inputs)

    class Half(Counting):
        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            return outputs, lambda s: {k: g / 2 for k, g in pull(s).items()}

    case = cases.build(cases.CORNERS[0], tol.PRECISIONS["bfloat16"].dtype, False)
    for candidate in (Counting, Half):
        bench = Bench(plug(candidate)[0], tol.PRECISIONS["bfloat16"], candidate())
        before = Counting.forwards
        found = judge(bench, case).evidence
        assert {e.outcome for k, e in found.items() if k.endswith(".differences")} == {"unresolved"}
        assert (Counting.forwards > before) == (candidate is Half)


def test_sigmoid_through_tanh_is_a_note():
    right = next(c for c in RIGHT if c.__name__ == "SigmoidThroughTanh")
    verdict = verify(right, only="grad.*,forward.*,numerics.sigmoid_tail")
    assert verdict.outcome == "pass"
    assert any("½(1 + tanh(a/2))" in note for note in verdict.notes)
    assert not verify(CellByCell, only="grad.*,forward.*,numerics.sigmoid_tail").notes


@pytest.mark.parametrize(
    ("dtype", "regime", "size", "start", "seed", "told"),
    [
        ("float64", "saturated", Sizes(2, 1, 3, 1), "random", 6, "unresolved: σ or tanh of absolute accuracy explains it"),
        ("float64", "saturated", Sizes(2, 1, 3, 1), "random", 15, "pass"),
        ("float32", "saturated", Sizes(1, 3, 1, 1), "zero", 1018, "unresolved: σ or tanh of absolute accuracy explains it"),
    ],
)
def test_a_law_is_not_broken_by_a_coarse_sigmoid_in_its_tail(dtype, regime, size, start, seed, told):
    right = next(c for c in RIGHT if c.__name__ == "SigmoidThroughTanh")
    wrong = spoilt(change_gradients=lambda g: {**g, "x": 2 * g["x"]}, base=right)

    def symmetry(candidate, regime):
        bench = Bench(plug(candidate)[0], tol.PRECISIONS[dtype], candidate())
        judged = judge(bench, bench.case(cases.Spec(size, regime, initial_state=start, seed=seed)), with_differences=False)
        return judge_laws(bench, judged, "law.symmetry".__eq__)["law.symmetry"]

    found = symmetry(right, regime)
    assert (found.outcome if found.outcome == "pass" else f"{found.outcome}: {found.rule}") == told
    assert symmetry(right, "ordinary").outcome == "pass"
    assert symmetry(wrong, "ordinary").outcome == "fail"


def test_a_law_is_not_broken_where_gradients_bend_within_a_step():
    bench = Bench(plug(ReferenceLayer)[0], tol.PRECISIONS["float32"], ReferenceLayer())
    case = bench.case(cases.Spec(Sizes(6, 7, 8, 31), "large", cotangent_scale=1e-3, initial_state="zero", seed=2216640143))
    assert judge_laws(bench, judge(bench, case, with_differences=False), "law.symmetry".__eq__)["law.symmetry"].outcome == "unresolved"


class NotAnalytic(CellByCell):
    """Right for real numbers, and without the imaginary part of half of them: |a| is taken of what is positive anyway."""

    def cell(self, p, x, h, c):
        h, c_new, (z, f, i, o, g, c, tc) = super().cell(p, x, h, c)
        return h, c_new, (z, np.abs(f), i, o, g, c, tc)


def test_symmetry_is_judged_by_two_complex_steps_once_real_ones_agree_with_them():
    """Real steps decide the first case of a regime, and every case that the complex ones do not pass."""

    def symmetry(candidate, seeds=range(4)):
        calls = []

        class Counted(candidate):
            def pullback(self, p):
                calls.append(p["x"].dtype.kind)
                return super().pullback(p)

        bench, told = Bench(plug(Counted)[0], tol.PRECISIONS["float64"], Counted()), []
        for seed in seeds:
            judged = judge(bench, bench.case(cases.Spec(Sizes(4, 2, 3, 5), seed=seed)), with_differences=False)
            calls.clear()
            evidence = judge_laws(bench, judged, "law.symmetry".__eq__)["law.symmetry"]
            told.append((evidence.outcome, calls.count("f") >= 12, calls.count("c")))
        return told

    assert symmetry(CellByCell) == [("pass", True, 2), *[("pass", False, 2)] * 3]
    assert symmetry(NotAnalytic) == [("pass", True, 2), *[("pass", True, 0)] * 3]
    twice = spoilt(change_gradients=lambda g: {**g, "x": 2 * g["x"]})
    assert {found[:2] for found in symmetry(twice)} == {("fail", True)}


class LossScaled(ReferenceLayer):
    """Right. What flows in is multiplied by 8 on its way back, as where half precision is kept from underflow."""

    largest = np.inf

    def pullback(self, inputs):
        outputs, pull = super().pullback(inputs)

        def scaled(s):
            with np.errstate(all="ignore"):
                g = pull({k: np.clip(v * v.dtype.type(8), -self.largest, self.largest) for k, v in s.items()})
                return {k: v / v.dtype.type(8) for k, v in g.items()}

        return outputs, scaled


class Clipped(LossScaled):
    largest = 8.0


def test_homogeneity_accuses_no_overflow_of_its_own_making_and_still_finds_a_clip():
    flooded = cases.Spec(Sizes(4, 2, 3, 4), cotangents="c_T", cotangent_scale=1e3)
    for candidate, spec, found in (
        (LossScaled, flooded, ("unresolved", "8 times what flows in comes near the largest float16")),
        (LossScaled, replace(flooded, cotangent_scale=1.0), ("pass", "")),
        (Clipped, replace(flooded, cotangent_scale=1.0), ("fail", "")),
    ):
        face = plug(candidate)[0]
        bench = Bench(face, tol.PRECISIONS["float16"], face.make())
        judged = judge(bench, bench.case(spec), with_differences=False)
        assert all(c.in_range for c in judged.point.conditions.values())
        evidence = judge_laws(bench, judged, "law.homogeneity".__eq__)["law.homogeneity"]
        assert evidence.outcome == found[0]
        assert found[1] in evidence.rule


def test_what_is_resolved_at_ordinary_numbers_of_any_size_is_resolved():
    """In bfloat16 a gradient of two layers often lies below what rounding may do, at ordinary sizes more than at sizes of one."""
    face = plug(CellByCell)[0]
    sheet = Sheet({c.id: c for c in manifest([face])}, {"grad.b_c.autodiff"}, due([face]))
    hidden, seen = Evidence("unresolved", quantity="b_c"), Evidence("pass", 0.1, "b_c")
    for evidence, spec in ((hidden, cases.CORNERS[0]), (seen, cases.Spec(Sizes(3, 3, 4, 4), "extreme"))):
        sheet.add("grad.b_c.autodiff", evidence, spec, model=False)
    assert result(sheet).outcome == "cannot tell"
    sheet.add("grad.b_c.autodiff", seen, cases.Spec(Sizes(3, 3, 4, 4)), model=False)
    assert result(sheet).outcome == "pass"


def test_a_group_counts_cases():
    """Not what was compared in them; a case of which anything is resolved is resolved."""
    face = plug(CellByCell)[0]
    checks = {c.id: c for c in manifest([face])}
    sheet = Sheet(checks, set(checks), due([face]))
    hidden, seen = Evidence("unresolved", quantity="b_c"), Evidence("pass", 0.1, "b_c")
    first, second = cases.Spec(Sizes(1, 2, 3, 5)), cases.Spec(Sizes(2, 1, 3, 5))
    for spec, evidence in ((first, (hidden, seen, seen, hidden)), (second, (hidden, hidden))):
        for id_, e in zip(("forward.h", "grad.b_c.autodiff", "grad.b_f.autodiff", "grad.x.autodiff"), evidence, strict=False):
            sheet.add(id_, e, spec, model=False)
    group = result(sheet, "sizes.ones")
    assert (group.cases, group.unresolved) == (2, 1)


@pytest.mark.parametrize(("dtype", "outcome"), [("bfloat16", "not provided"), ("float32", "cannot tell")])
def test_a_law_that_no_case_resolves_is_too_fine_for_half_precision_alone(dtype, outcome):
    """Where autodiff judged the gradients; a law that fails fails in every precision."""
    face = plug(CellByCell)[0]
    sheet = Sheet({c.id: c for c in manifest([face])}, {"law.additivity", "grad.b_c.autodiff"}, due([face]))
    for id_, evidence in (("law.additivity", Evidence("unresolved", quantity="b_c")), ("grad.b_c.autodiff", Evidence("pass", 0.1, "b_c"))):
        sheet.add(id_, evidence, cases.CORNERS[0], model=False)
    assert result(sheet, "law.additivity", dtype).outcome == outcome
    sheet.add("law.additivity", Evidence("fail", 2.0, "b_c"), cases.CORNERS[0], model=False)
    assert result(sheet, "law.additivity", dtype).outcome == "fail"


def result(sheet, id_="grad.b_c.autodiff", dtype="bfloat16"):
    return next(r for r in sheet.results(dtype) if r.id == id_)


def test_tanh_through_sigmoid_is_a_note_and_excuses_nothing_else():
    only = "grad.*,forward.*,numerics.tanh_near_zero"
    right = next(c for c in RIGHT if c.__name__ == "TanhThroughSigmoid")
    verdict = verify(right, only=only)
    assert verdict.outcome == "pass"
    assert any("tanh loses relative accuracy near 0 (as 2σ(2a) − 1 does)" in note for note in verdict.notes)
    assert not verify(CellByCell, only=only).notes
    wrong = verify(spoilt(change_gradients=lambda g: {**g, "W_c": g["W_c"] * (1 + 1e-9)}, base=right), only=only)
    assert {r.id for r in wrong.failures()} == {"grad.W_c.autodiff", "grad.W_c.differences"}
    assert wrong.failures()[0].failed > 40  # with few exceptions


@pytest.mark.parametrize("name", MISBEHAVING)
def test_misbehaviour_is_named_and_the_run_goes_on(name):
    candidate, check, sentence = MISBEHAVING[name]
    verdict = verify(candidate)
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "fail"
    assert found[check].outcome == "fail"
    assert sentence in found[check].reason, found[check].reason
    assert verdict.seconds < 10
    told = io.StringIO()
    terminal.card(Console(file=told, width=1000), verdict, plug(candidate)[0].layout, {})  # whatever came back, a card tells it
    assert f"{check} " in told.getvalue()


@pytest.mark.parametrize("name", [n for n in MISBEHAVING if n.endswith("as flat memory")])
def test_numbers_that_are_wrong_in_awkward_memory_alone_are_told_as_that(name):
    """Not as wrong gradients of every weight, in the fixed case that has such memory and in a third of what is drawn."""
    assert {r.id for r in verify(MISBEHAVING[name][0]).failures()} == {"state.noncontiguous"}


def test_a_hang_ends_the_run_without_a_verdict_and_says_how_to_wait_longer():
    verdict = verify(Hangs)
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "inconclusive"
    assert found["contract.time"].outcome == "timeout"
    assert "did not return within 6 s" in found["contract.time"].reason
    assert 'declare supports = {"call_seconds": 60}' in found["contract.time"].reason
    assert "contract.time" in words.meaning(verdict)
    assert verdict.seconds < 10


def test_a_candidate_may_declare_that_its_calls_are_slow():
    class Slow(Hangs):
        supports = {"call_seconds": 0.2}

    began = time.monotonic()
    verdict = verify(Slow)
    assert time.monotonic() - began < 5
    assert "within 0.2 s" in next(r.reason for r in verdict.results if r.id == "contract.time")


@pytest.mark.parametrize(("slow", "whose"), [("candidate", "the candidate"), ("oracle", "judging it")])
def test_the_note_says_whose_time_it_was(monkeypatch, slow, whose):
    """Either the candidate's calls or the noise of the oracle are made slow."""

    class Sleepy(CellByCell):
        def pullback(self, p):
            time.sleep(0.1 if slow == "candidate" else 0)
            return super().pullback(p)

    noisy = tol.noisy
    monkeypatch.setattr(tol, "noisy", lambda *args: time.sleep(0.3 if slow == "oracle" else 0) or noisy(*args))
    face = plug(Sleepy)[0]
    bench = Bench(face, tol.PRECISIONS["float64"], face.make())
    sheet = Sheet({c.id: c for c in manifest([face])}, {"law.homogeneity"}, due([face]))
    compile_oracle(face)
    _judge_one(sheet, bench, fitted(cases.CORNERS[0], face), 0, PROFILES["quick"])
    assert sheet.extras > 0.3
    assert _slow(sheet, [bench]) == whose


def test_one_of_two_weight_arrays_in_a_lower_precision_is_told_as_that():
    class CoarseRecurrent(KerasStyle):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {**(g := pull(s)), "recurrent_kernel": g["recurrent_kernel"].astype(np.float32).astype(np.float64)}

    verdict = verify(CoarseRecurrent, only="grad.*,numerics.effective_precision")
    assert [r.id for r in verdict.failures()] == ["numerics.effective_precision"]
    assert verdict.failures()[0].reason.startswith("dW_c, dW_f, dW_i, dW_o is computed in float32")
    precise = "No gradient is wrong: what fails is the precision that they are computed in"
    assert precise in words.meaning(verdict)
    assert precise not in words.meaning(verify(InSinglePrecisionAndWrong, only="grad.*,numerics.effective_precision"))


class InSinglePrecision(CellByCell):
    """Right, but float64 is computed in float32."""

    def pullback(self, p):
        outputs, pull = super().pullback({k: v.astype(np.float32) for k, v in p.items()})

        def widened(arrays):
            return {k: v.astype(np.float64) for k, v in arrays.items()}

        return widened(outputs), lambda s: widened(pull({k: v.astype(np.float32) for k, v in s.items()}))


def _in_float32(q):
    return q.astype(np.float32).astype(q.dtype)


class CoarseCache(CellByCell):
    """Right, but what is kept for the way back is kept in float32."""

    def cell(self, p, x, h, c):
        h, c, kept = super().cell(p, x, h, c)
        return h, c, tuple(map(_in_float32, kept))


class CoarseStart(CellByCell):
    """Right, but dh0 passes through float32."""

    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {**(g := pull(s)), "h0": _in_float32(g["h0"])}


class OffByAShare(CellByCell):
    """Wrong: bias gradients are 1 + 1e-9 times what is due."""

    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {k: v * (1 + 1e-9) if k[0] == "b" else v for k, v in pull(s).items()}


SLOPE = "dc[t] = dh[t] * o[t] * (1 - tanh_c[t] ** 2) + dc_next"
OffByAConstant = layer((SLOPE, SLOPE.replace("** 2)", "** 2 + 1e-8)")))  # input value


def measured(candidate):
    face = plug(candidate)[0]
    bench = Bench(face, tol.PRECISIONS["float64"], face.make())
    ordinary = [bench.case(cases.CORNERS[k]) for k in (0, 4, 8)]
    return bench, ordinary, measure_precision(bench, ordinary)


@pytest.mark.parametrize(
    ("candidate", "coarse"), [(CoarseCache, "every gradient"), (InSinglePrecision, "everything"), (CoarseStart, "dh0")]
)
def test_rounding_to_float32_is_told_from_a_small_error(candidate, coarse):
    bench, ordinary, told = measured(candidate)
    assert told.rule.startswith(f"{coarse} is computed in float32")
    found = judge(bench, ordinary[0], with_differences=False).evidence
    assert not [k for k, e in found.items() if e.outcome == "fail"]


def test_what_is_handed_back_coarsely_breaks_no_law():
    verdict = verify(CoarseStart, only="law.time_split,numerics.effective_precision")
    assert [r.id for r in verdict.failures()] == ["numerics.effective_precision"]


@pytest.mark.parametrize(("candidate", "wrong"), [(OffByAShare, "b_o"), (OffByAConstant, "W_f")])
def test_a_small_error_is_not_called_float32(candidate, wrong):
    bench, ordinary, told = measured(candidate)
    assert told.outcome == "pass"
    assert not bench.lower
    found = judge(bench, ordinary[0], with_differences=False).evidence
    assert found[f"grad.{wrong}.autodiff"].outcome == "fail"


def test_a_backward_pass_that_raises_leaves_the_forward_pass_right():
    class Raises(CellByCell):
        def pullback(self, p):
            def pull(s):
                raise ValueError("not written yet")

            return super().pullback(p)[0], pull

    verdict = verify(Raises)
    assert [r.id for r in verdict.failures()] == ["contract.call"]
    assert "raised ValueError: not written yet at T=" in verdict.failures()[0].reason
    assert verdict.forward == "pass"
    assert verdict.kind == "textbook"


def test_wrong_forward_is_judged_by_its_own_differences():
    verdict = verify(WrongGateOrder)
    found = {r.id: r for r in verdict.results}
    assert verdict.kind == "self-consistency"
    assert found["forward.h"].outcome == "fail"
    assert found["grad.W_f.autodiff"].outcome == "not run"
    assert "blocked by forward.h" in found["grad.W_f.autodiff"].reason
    assert all(found[f"grad.{k}.differences"].outcome == "pass" for k in ("W_f", "W_i", "W_c", "W_o", "b_f", "x", "h0", "c0"))


class Steeper(CellByCell):
    """Another function, whose gradients are right: σ(1.7 a)."""

    def pullback(self, p):
        steeper = {k: 1.7 * v if k[2:] in ("f", "i", "o") else v for k, v in p.items()}
        outputs, pull = super().pullback(steeper)
        return outputs, lambda s: {k: 1.7 * v if k[2:] in ("f", "i", "o") else v for k, v in pull(s).items()}


def test_right_gradients_of_another_function_pass_though_a_few_cases_are_the_textbooks():
    verdict = verify(Steeper, only="forward.*,grad.*")
    found = {r.id: r for r in verdict.results}
    assert (verdict.kind, verdict.forward, verdict.gradients) == ("self-consistency", "fail", "pass")
    assert found["grad.W_f.autodiff"].cases > 0  # where nothing was resolved
    assert found["grad.W_f.autodiff"].reason == "blocked by forward.h: judged by differences of its own forward pass"


def test_gradients_are_not_said_to_fail_where_the_forward_pass_alone_does():
    class Clipped(CellByCell):
        """A σ that is clipped, which shows in its tail."""

        sigmoid = staticmethod(lambda a: sigmoid(np.clip(a, -30, 30)))

    class ClippedInEverythingShown(ReferenceLayer):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            beyond = np.abs(outputs["a_f"]).max() > 300
            return {k: v * 1.001 if beyond else v for k, v in outputs.items()}, pull

    for candidate in (Clipped, ClippedInEverythingShown):
        verdict = verify(candidate, only="forward.*,grad.*.autodiff,numerics.extreme")
        through = {r.id: r.through for r in verdict.failures()}["numerics.extreme"]
        assert through
        assert all(check.startswith("forward.") for check in through)
        assert (verdict.forward, verdict.gradients) == ("fail", "pass")
    assert len(through) > 4


def test_an_initial_state_is_called_ignored_only_where_h_is_wrong():
    class OtherC(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return {**outputs, "c_T": np.tanh(outputs["c_T"])}, pull

    class NoC(CellByCell):
        def pullback(self, p):
            return super().pullback({**p, "c0": 0 * p["c0"]})

    for candidate, outcome in ((OtherC, "pass"), (NoC, "fail")):
        bench = Bench(plug(candidate)[0], tol.PRECISIONS["float64"], candidate())
        specs = [spec for spec in cases.CORNERS if spec.initial_state == "random"]
        told = [judge(bench, bench.case(spec), with_differences=False).evidence["forward.initial_state"] for spec in specs]
        assert worst_of(told).outcome == outcome
    assert "c0 ignored" in worst_of(told).rule


def test_differences_are_taken_where_the_gradients_were_though_inputs_are_changed():
    class Updates(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)

            def update(s):
                grads = pull(s)
                for k in grads:
                    p[k] -= 0.01 * grads[k]
                return grads

            return outputs, update

    bench = Bench(plug(Updates)[0], tol.PRECISIONS["float64"], Updates())
    told = judge(bench, bench.case(cases.CORNERS[0])).evidence
    assert {k for k, e in told.items() if e.outcome == "fail"} == {"state.inputs_unmutated"}


def test_a_state_check_whose_second_case_cannot_be_called_is_told_as_the_call():
    class Once(CellByCell):
        """Raises for all but the first inputs, as what keeps complex numbers from a call before may."""

        def __init__(self):
            self.first = None

        def pullback(self, p):
            outputs, pull = super().pullback(p)
            self.first = p["x"] if self.first is None else self.first
            if not np.array_equal(self.first, p["x"]):
                return outputs, lambda s: s["nothing"]
            return outputs, pull

    bench = Bench(plug(Once)[0], tol.PRECISIONS["float64"], Once())
    told = evidence_of_case(bench, bench.case(cases.CORNERS[0]), lambda k: True, False, False, True)
    assert told["contract.call"].outcome == "fail"
    assert "pull(cotangents) raised KeyError: 'nothing'" in told["contract.call"].rule
    assert told["grad.W_f.autodiff"].outcome == "pass"


def test_what_follows_from_an_output_of_a_wrong_shape_is_not_told_of_the_backward_pass():
    """It has no cotangent, which a backward pass may look for."""

    class OneRow(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return {**outputs, "c_T": outputs["c_T"][0]}, lambda s: pull({"h": s["h"], "c_T": s["c_T"]})

    results = {r.id: r for r in verify(OneRow, only="contract.*,forward.*,grad.*").results}
    assert [k for k, r in results.items() if r.outcome == "fail" and k[:8] == "contract"] == ["contract.shapes"]
    assert results["contract.shapes"].reason.startswith("forward returned c_T with shape (4,); (2, 4) is due")
    assert results["grad.W_f.autodiff"].reason == "blocked by contract.shapes"


def test_a_cotangent_that_is_looked_for_in_vain_is_told_where_it_is():
    class WantsAll(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: pull({**s, "h": s["h"] + s["h_T"] * 0})

    told = {r.id: r.reason for r in verify(WantsAll, only="contract.call").failures()}["contract.call"]
    assert "pull(cotangents) raised KeyError: 'h_T' at T=" in told
    assert told.partition("; it is given ")[2].startswith(
        "the cotangents of what was returned, h, c_T: what flows in on h_T is that on the last step of h"
    )


@pytest.mark.parametrize(
    ("key", "declared"),
    [
        ("mask", '{"mask": "carry"}'),
        ("lengths", '{"mask": "carry", "lengths": True}'),
        ("p_f", '{"peephole": True}'),
        ("drop_h", '{"dropout": ["h"]}'),
        ("W_f.l1", '{"layers": 2}'),
        ("weight_hh_l0_reverse", '{"direction": "both"}'),
        ("weight_ih_l1", '{"layers": 2}'),
    ],
)
def test_an_array_of_a_variant_that_is_looked_for_in_vain_is_told_what_to_declare(key, declared):
    class Wants(CellByCell):
        def pullback(self, p):
            return super().pullback({**p, key: p[key]})

    told = {r.id: r.reason for r in verify(Wants, only="contract.call").failures()}["contract.call"]
    assert told.endswith(f"{key} is an array of a variant, declare variant = {declared}")


def test_an_array_under_another_name_is_still_told_the_layout():
    class Wants(CellByCell):
        def pullback(self, p):
            return super().pullback({**p, "kernel": p["kernel"]})

    told = {r.id: r.reason for r in verify(Wants, only="contract.call").failures()}["contract.call"]
    assert told.endswith("if yours lie in another way or have other names, declare a layout")


def losses(candidate, *more):
    """How often the candidate was asked for its loss alone and for both, and the verdict."""
    asked = {"loss": 0, "loss_and_gradients": 0}

    class Counted(candidate):
        def loss(self, *given):
            asked["loss"] += 1
            return super().loss(*given)

        def loss_and_gradients(self, inputs):
            asked["loss_and_gradients"] += 1
            return super().loss_and_gradients(inputs)

    if more:
        Counted.loss = more[0]
    verdict = verify(Counted)
    return asked, verdict


def test_a_model_that_gives_its_loss_alone_is_differenced_by_it():
    asked, verdict = losses(ReferenceModel)
    assert verdict.outcome == "pass"
    assert asked["loss"] > 2 * asked["loss_and_gradients"]


class DoubledLoss(ReferenceModel):
    def loss_and_gradients(self, inputs):
        J, gradients = super().loss_and_gradients(inputs)
        return 2 * J, {k: 2 * v for k, v in gradients.items()}


def test_another_loss_than_that_of_the_gradients_is_not_differenced():
    """What it overrides is the loss that is judged: its gradients are right ones of that."""
    asked, verdict = losses(DoubledLoss)
    assert asked["loss"] < asked["loss_and_gradients"] / 10
    told = {r.id: r.outcome for r in verdict.results}
    assert told["forward.J"] == "fail"
    assert told["grad.W_f.differences"] == told["grad.W_v.differences"] == "pass"


@pytest.mark.parametrize(
    "loss", [lambda self: 1.0, lambda self, x, y: 1.0, lambda self, x, y=None: 1.0, lambda self, p: "one", lambda self, p: 1.0, 3]
)
def test_a_loss_that_is_something_else_is_left_alone(loss):
    _, verdict = losses(ReferenceModel, loss)
    assert verdict.outcome == "pass"


def test_a_wrong_gradient_of_a_model_is_refuted_by_differences_of_its_loss_alone():
    class Wrong(ReferenceModel):
        def loss_and_gradients(self, inputs):
            J, gradients = super().loss_and_gradients(inputs)
            return J, {k: v * (1.01 if k == "W_v" else 1) for k, v in gradients.items()}

    asked, verdict = losses(Wrong)
    assert {"grad.W_v.autodiff", "grad.W_v.differences"} <= {r.id for r in verdict.failures()}
    assert asked["loss"]


def test_a_loss_that_changes_from_call_to_call_is_told():
    class Drifts(ReferenceModel):
        calls = 0

        def loss_and_gradients(self, inputs):
            J, gradients = super().loss_and_gradients(inputs)
            Drifts.calls += 1
            return J * (1 + 1e-9 * (Drifts.calls % 2)), gradients  # input value

    reason = {r.id: r.reason for r in verify(Drifts).failures()}["state.repeat"]
    assert reason.startswith("the output J of the same call is another one than before")


class OtherAlone(CellByCell):
    """What it computes where no gradient is asked for is another function; what pullback gives is right."""

    def forward(self, p):
        outputs, _ = self.pullback(p)
        return {k: 1.01 * v for k, v in outputs.items()}


def test_another_function_where_no_gradient_is_asked_for_is_told_as_that():
    verdict = verify(OtherAlone)
    told = {r.id: (r.outcome, r.reason) for r in verdict.results}
    assert told["forward.h"] == (
        "fail",
        "h of forward(inputs), where no gradient is asked for, is another than h of pullback(inputs), where one is",
    )
    assert told["grad.W_f.autodiff"][0] == "pass"
    outcome, reason = told["grad.W_f.differences"]
    assert (outcome, reason.partition(": ")[0]) == ("not run", "blocked by forward.h")
    assert (verdict.forward, verdict.gradients) == ("fail", "pass")


def test_a_wrong_gradient_is_still_refuted_by_differences_of_a_forward_pass_of_its_own():
    class Wrong(CellByCell):
        def forward(self, p):
            return self.pullback(p)[0]

        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {k: v * (1.01 if k == "W_f" else 1) for k, v in pull(s).items()}

    failed = {r.id for r in verify(Wrong).failures()}
    assert {"grad.W_f.autodiff", "grad.W_f.differences"} <= failed
    assert "forward.h" not in failed


def test_what_blocks_the_checks_that_were_asked_for_is_told_though_it_was_not():
    class Raises(CellByCell):
        def pullback(self, p):
            raise ValueError("no kernel for this")

    verdict = verify(Raises, only="grad.*")
    assert not verdict.failures()
    (note,) = verdict.notes
    assert note.startswith("contract.call, which is not selected, fails: pullback raised ValueError: no kernel for this at T=")


def test_a_group_is_not_said_to_be_right_at_ordinary_points_where_none_was_judged():
    class OnesAlone(CellByCell):
        """Raises but where a size is 1, and is wrong there."""

        def pullback(self, p):
            if 1 not in (*p["x"].shape, p["h0"].shape[-1]):
                raise ValueError("only vectors")
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {k: 1.01 * v for k, v in pull(s).items()}

    told = {r.id: (r.outcome, r.reason) for r in verify(OnesAlone).results}["sizes.ones"]
    assert told == ("not run", "blocked by grad.W_c.autodiff, which fails in every case that was judged")


class HalfOfTwoBiases(KerasStyle):
    """Two biases; the gradient of the second is forgotten."""

    layout = {
        "order": "ifco",
        "packed": True,
        "joint": "split",
        "transposed": True,
        "batch_first": True,
        "biases": 2,
        "names": {"W_x": "kernel", "W_h": "recurrent_kernel", "b_x": "bias_ih", "b_h": "bias_hh"},
    }
    share = 0.0

    def pullback(self, p):
        outputs, pull = super().pullback({**p, "bias": p["bias_ih"] + p["bias_hh"]})

        def both(s):
            g = pull(s)
            return {**g, "bias_ih": g["bias"], "bias_hh": self.share * g["bias"]}

        return outputs, both


class BothBiases(HalfOfTwoBiases):
    share = 1.0


class OneOfTwoBiases(BothBiases):
    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {**pull(s), "bias_hh": None}


def test_a_second_bias_without_a_gradient_is_missing_unless_it_is_declared_so():
    found = {r.id: r for r in verify(OneOfTwoBiases, only="contract.*,grad.*").results}
    assert found["contract.keys"].outcome == "fail"
    due = 'returned no gradient of bias_hh, the second bias; return it, or declare supports = {"bias_hh_gradient": False}'
    assert due in found["contract.keys"].reason

    class Declared(OneOfTwoBiases):
        supports: ClassVar = {"bias_hh_gradient": False}

    assert verify(Declared, only="contract.*,grad.*").outcome == "pass"
    assert verify(BothBiases, only="contract.*,grad.*").outcome == "pass"


def test_each_of_two_biases_is_judged_by_both_truths():
    verdict = verify(HalfOfTwoBiases, only="grad.b_*")
    wrong = {r.id: r for r in verdict.failures()}
    assert "the gradient of bias_hh, the second of two biases, is missing (B:biases)" in words.explanation(verdict)
    assert {"grad.b_f.autodiff", "grad.b_f.differences"} <= set(wrong)
    assert "bias_hh" in wrong["grad.b_f.autodiff"].worst.quantity
    assert "bias_hh" in wrong["grad.b_f.differences"].worst.quantity
    assert verify(BothBiases).outcome == "pass"


def test_laws_do_not_accuse_a_gradient_that_is_another_gates():
    class Swapped(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)

            def swap(s):
                g = pull(s)
                return {**g, "W_f": g["W_i"], "W_i": g["W_f"]}

            return outputs, swap

    failed = {r.id for r in verify(Swapped).failures()}
    assert "grad.W_f.autodiff" in failed
    assert not failed & {"law.additivity", "law.time_split", "law.batch_additivity", "law.batch_permutation", "law.unit_permutation"}


def test_a_declared_limit_silences_gradients_that_are_returned_all_the_same():
    class NoState(CellByCell):
        supports = {"initial_state": False}

        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {**pull(s), "h0": 0 * p["h0"], "c0": 0 * p["c0"]}

    assert verify(NoState).outcome == "pass"


def test_a_hidden_state_without_a_cell_state_has_its_gradient_judged():
    """`"c0": False` leaves h0 to be judged; without the line, the zero c0 is found out and the line is told."""

    class Undeclared(HiddenStateOnly):
        supports = {"c_T": False}

    class Stale(HiddenStateOnly):
        def pullback(self, q):
            outputs, back = super().pullback(q)
            return outputs, lambda s: {**(g := back(s)), "h0": g["h0"] * 2}

    outcomes = {r.id: r.outcome for r in verify(HiddenStateOnly).results}
    assert outcomes["grad.h0.autodiff"] == outcomes["grad.h0.differences"] == outcomes["forward.initial_state"] == "pass"
    assert outcomes["grad.c0.autodiff"] == outcomes["law.time_split"] == "not provided"
    verdict = verify(Stale)
    assert {r.id for r in verdict.failures()} == {"grad.h0.autodiff", "grad.h0.differences"}
    told = next(r.reason for r in verify(Undeclared).results if r.id == "forward.initial_state")
    assert told == 'h is what it would be with c0 zero: c0 ignored. If that is meant, declare supports = {"c0": False}'


class FromRest(ReferenceModel):
    """A model whose sequences begin with both states zero, or with c0 alone."""

    ignored: tuple[str, ...] = ("h0", "c0")

    def loss_and_gradients(self, inputs):
        J, gradients = super().loss_and_gradients({**inputs, **{k: 0 * inputs[k] for k in self.ignored}})
        return J, {k: v for k, v in gradients.items() if k not in self.ignored}


@pytest.mark.parametrize(("ignored", "line"), [(("h0", "c0"), '{"initial_state": False}'), (("c0",), '{"c0": False}')])
def test_a_model_that_begins_at_rest_is_judged_so_and_told_the_line_where_it_does_not_say_it(ignored, line):
    kept = {f"{k}_gradient": False for k in ignored}
    undeclared = type("Undeclared", (FromRest,), {"ignored": ignored, "supports": kept})
    declared = type("Declared", (FromRest,), {"ignored": ignored, "supports": ast.literal_eval(line)})
    only = "contract.*,forward.*,grad.*.autodiff"
    told = next(r for r in verify(undeclared, only=only).failures())
    names = " and ".join(ignored)
    assert (told.id, told.reason) == (
        "forward.J",
        f"J is what it would be with {names} zero: {names} ignored. If that is meant, declare supports = {line}",
    )
    assert verify(declared, only=only).outcome == "pass"


def test_one_that_returns_the_last_state_alone_is_judged_through_that(monkeypatch):
    """Many to one: nothing flows into h, and forward.h_T says which LSTM it is."""
    monkeypatch.setattr(cases, "CORNERS", cases.CORNERS[:24])
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], draws=1))
    verdict = verify(LastStateOnly)
    outcomes = {r.id: r.outcome for r in verdict.results}
    assert verdict.outcome == verdict.forward == verdict.gradients == verdict.behaviour == "pass"
    assert outcomes["forward.h"] == outcomes["law.causality"] == "not provided"
    assert {outcomes[k] for k in ("forward.h_T", "forward.c_T", "grad.W_f.autodiff", "grad.x.differences", "law.time_split")} == {"pass"}
    assert verify(LastStateOnly, dtype="float32", only="contract.*,forward.*,grad.*.autodiff").outcome == "pass"
    without_cell = type("H", (Last,), {"outputs": ("h_T",), "supports": {"h": False, "c_T": False}})
    assert verify(without_cell, only="contract.*,forward.*,grad.*").outcome == "pass"
    alike = hold(plug(CellByCell)[0], plug(LastStateOnly)[0], tol.PRECISIONS["float64"])
    assert alike.rows
    assert not [row for row in alike.rows if row.differ]


class Last(LastStateOnly):
    """With something changed: what is returned, what flows in, the gradients."""

    outputs, flow, gradients = ("h_T", "c_T"), staticmethod(lambda s: s), staticmethod(lambda g: g)

    def pullback(self, p):
        outputs, back = super().pullback(p)

        def pull(s):
            return self.gradients(back(self.flow({"c_T": np.zeros_like(p["c0"]), **s})))

        return {k: outputs[k] for k in self.outputs}, pull


def test_faults_of_one_that_returns_the_last_state_alone_are_caught(monkeypatch):
    monkeypatch.setattr(cases, "CORNERS", cases.CORNERS[:10])
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], draws=1))

    def changed(**fields):
        return type("Changed", (Last,), fields)

    halved = changed(gradients=staticmethod(lambda g: {**g, "b_o": g["b_o"] / 2}))
    found = {r.id for r in verify(halved, only="contract.*,forward.*,grad.*").failures()}
    assert found == {"grad.b_o.autodiff", "grad.b_o.differences"}
    deaf = changed(flow=staticmethod(lambda s: {**s, "c_T": 0 * s["c_T"]}))
    verdict = verify(deaf, only="contract.*,forward.*,grad.*.autodiff")
    assert verdict.gradients == "fail"
    assert "the cotangent of the returned c_T is missing" in words.explanation(verdict)
    backwards = type("Backwards", (LastStateOnly,), {"pullback": lambda self, p: LastStateOnly.pullback(self, {**p, "x": p["x"][::-1]})})
    failed = {r.id: r.reason for r in verify(backwards, only="contract.*,forward.*").failures()}
    assert set(failed) == {"forward.h_T"}
    assert "h_T is that of an LSTM with time in reverse" in failed["forward.h_T"]


def test_the_last_state_alone_is_told_how_to_be_declared():
    undeclared = type("Undeclared", (LastStateOnly,), {"supports": {}})
    told = [r.reason for r in verify(undeclared, only="contract.keys").failures()]
    assert told == ['forward returned no output h (keys: c_T, h_T); return it, or declare supports = {"h": False}']
    flat = spoilt(change_outputs=lambda d: {**d, "h": d["h"][-1]})
    told = next(r.reason for r in verify(flat, only="contract.shapes").failures())
    assert told.startswith("forward returned h with shape (")
    assert '; if it is the last state alone, return it as h_T and declare supports = {"h": False}' in told
    with pytest.raises(TargetError, match="supports has neither h nor h_T; one that returns the last state alone declares h False"):
        plug(type("Neither", (LastStateOnly,), {"supports": {"h": False, "h_T": False}}))


def test_a_wrong_number_is_shown_rather_than_the_nan_that_it_grows_to():
    class Grows(HiddenStateOnly):
        def pullback(self, q):
            outputs, back = super().pullback(q)
            T = q["x"].shape[1]
            return outputs, lambda s: {**(g := back(s)), "h0": g["h0"] * (np.nan if T >= 7 else 1.5 if T > 1 else 1)}

    verdict = verify(Grows, only="contract.*,forward.*,grad.h0.*,law.time_split")
    found = {r.id: r for r in verdict.results}
    assert verdict.forward == "pass"
    assert found["forward.c_T"].outcome == found["law.time_split"].outcome == "not provided"
    assert found["contract.finite"].outcome == "fail"
    shown = next(r.counterexample for r in verdict.failures() if r.counterexample and r.counterexample.primary)
    assert shown.check == "grad.h0.autodiff"
    assert shown.spec.sizes.T == 2
    assert np.isfinite(shown.evidence.candidate)


class InSinglePrecisionAndWrong(InSinglePrecision):
    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {**(g := pull(s)), "x": 0.5 * g["x"]}


def test_what_is_computed_in_a_lower_precision_may_underflow_as_that_does():
    """Gates that are shut make gradients below the smallest float32: differences of them are exactly zero, they are not."""
    face = plug(InSinglePrecision)[0]
    bench = Bench(face, tol.PRECISIONS["float64"], face.make())
    assert measure_precision(bench, [bench.case(cases.CORNERS[k]) for k in (0, 4, 8)]).outcome == "fail"
    assert bench.arithmetic.name == "float32"
    for regime in ("extreme", "shut", "saturated", "tiny"):
        for seed in range(12):
            found = judge(bench, bench.case(cases.Spec(Sizes(3, 1, 1, 1), regime, seed=seed))).evidence
            assert not [k for k, e in found.items() if e.outcome == "fail"], (regime, seed)


def test_a_fault_in_what_is_computed_in_a_lower_precision_is_named():
    verdict = verify(InSinglePrecisionAndWrong, only="grad.*,numerics.effective_precision")
    assert {r.id for r in verdict.failures() if r.id.endswith(".autodiff")} == {"grad.x.autodiff"}
    assert words.explanation(verdict).startswith("diagnosis: dx")
    assert "gain 0.5" in words.explanation(verdict)


def state_of(candidate, *wanted):
    """What the state checks say of a candidate on one case, beside another one."""
    face = plug(candidate)[0] if not isinstance(candidate, Candidate) else candidate
    bench = Bench(face, tol.PRECISIONS["float64"], face.make())
    one, two = (judge(bench, bench.case(fitted(replace(cases.CORNERS[0], seed=n), face)), with_differences=False) for n in (0, 1))
    return judge_state(bench, one, two, lambda check: check.removeprefix("state.") in wanted)


class OverflowingTanh(CellByCell):
    """Wrong far out alone, where it is not a number: nothing is kept from call to call."""

    @staticmethod
    def tanh(a):
        with np.errstate(over="ignore", invalid="ignore"):
            return (np.exp(a) - np.exp(-a)) / (np.exp(a) + np.exp(-a))


def test_a_call_that_is_not_a_number_beside_another_is_no_memory():
    verdict = verify(OverflowingTanh, dtype="float32", only="contract.finite,forward.h,state.*")
    assert {r.id for r in verdict.failures()} == {"contract.finite", "forward.h"}


class KeepsBuffers(CellByCell):
    """Right numbers in arrays that the object keeps, and fills anew in the next call."""

    def __init__(self):
        self.buffers = {}

    def kept(self, where, arrays):
        for k, v in arrays.items():
            self.buffers.setdefault((where, k, v.shape), np.empty_like(v))[...] = v
        return {k: self.buffers[where, k, v.shape] for k, v in arrays.items()}

    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: self.kept("gradient", pull(s))


class KeepsOutputs(KeepsBuffers):
    def pullback(self, p):
        outputs, pull = CellByCell.pullback(self, p)
        return self.kept("output", outputs), pull


class KeepsBuffersInTheClass(KeepsBuffers):
    shared: dict = {}  # the fault itself

    def __init__(self):
        self.buffers = self.shared


class FillsOneBufferPerForwardPass(CellByCell):
    def pullback(self, p):
        outputs, pull = super().pullback(p)
        own = KeepsBuffers()
        return outputs, lambda s: own.kept("gradient", pull(s))


@pytest.mark.parametrize(
    ("candidate", "check", "sentence"),
    [
        (KeepsBuffers, "aliasing", "the gradient x of one call changed during the next call; return a copy"),
        (KeepsOutputs, "aliasing", "the output h of one call changed during the next call; return a copy"),
        (FillsOneBufferPerForwardPass, "aliasing", "the gradient x changed during a second backward pass of the same forward pass"),
        (KeepsBuffersInTheClass, "two_instances", "the gradient x of one instance changed during a call of another; return a copy"),
    ],
)
def test_arrays_that_a_later_call_overwrites_are_named(candidate, check, sentence):
    found = state_of(candidate, "repeat", "second_backward", "interleaved", "two_instances", "aliasing")
    assert found[f"state.{check}"].outcome == "fail"
    assert sentence in found[f"state.{check}"].rule
    told = {"state.aliasing", f"state.{check}"}
    assert all(e.outcome == ("fail" if k in told else "pass") for k, e in found.items())


def test_gradients_of_a_model_that_a_later_call_overwrites_are_named():
    class OneBuffer(MeanLoss):
        shared = KeepsBuffers()

        def loss_and_gradients(self, inputs):
            J, gradients = super().loss_and_gradients(inputs)
            return J, self.shared.kept("gradient", gradients)

    found = state_of(OneBuffer, "repeat", "two_instances", "aliasing")
    assert {k: e.outcome for k, e in found.items()} == {
        "state.repeat": "pass",
        "state.two_instances": "fail",
        "state.aliasing": "fail",
    }
    assert "of one instance changed during a call of another" in found["state.two_instances"].rule


@pytest.mark.parametrize("target", [CellByCell, MeanLoss, "torch:"])
def test_fresh_arrays_alias_nothing(target):
    if target == "torch:":
        pytest.importorskip("torch")
        target = load(target)[0]
    found = state_of(target, "two_instances", "aliasing")
    assert {k: e.outcome for k, e in found.items()} == {"state.two_instances": "pass", "state.aliasing": "pass"}


def test_what_an_instance_remembers_is_not_laid_at_the_door_of_the_class():
    class RemembersItsFirstBias(CellByCell):
        def __init__(self):
            self.first = {}

        def pullback(self, p):
            return super().pullback({**p, "b_f": self.first.setdefault(p["x"].shape, p["b_f"])})

    face = plug(RemembersItsFirstBias)[0]
    bench = Bench(face, tol.PRECISIONS["float64"], face.make())
    cells = [bench.case(replace(cases.CORNERS[0], seed=n)) for n in (2, 0, 1)]
    _, one, two = (judge(bench, case, with_differences=False) for case in cells)
    found = judge_state(bench, one, two, {"state.two_instances", "state.repeat"}.__contains__)
    assert found["state.repeat"].outcome == "pass"
    assert found["state.two_instances"].outcome == "fail"
    assert "a new instance gives other gradients than one that was called before" in found["state.two_instances"].rule
    assert "or in the instance" in words.STATE_HINTS["state.two_instances"]


ODD = {
    "h_T": (None, ""),
    "c": (None, ""),
    "o": ([None] * 4, ""),
    "z": ("text", ""),
    "i": ([[1.0], [1.0, 2.0]], ""),
    "c_tilde": (
        np.zeros((4, 2, 5), int),
        "forward returned c_tilde with dtype int64, which cuts off what is added to it; float64 is due; leave",
    ),
    "f": (np.zeros((9, 2, 4)), "forward returned f with shape (9, 2, 4); (4, 2, 5) is due; leave f out"),
    "a": (object(), ""),
}


@pytest.mark.parametrize("name", ODD)
def test_what_else_an_lstm_returns_is_passed_over_or_told_once(name):
    value, sentence = ODD[name]
    candidate = spoilt(change_outputs=lambda out: {**out, name: value})
    found = state_of(candidate, "aliasing", "repeat", "second_backward", "two_instances")
    assert len(found) == 4
    assert all(e.outcome == "pass" for e in found.values())
    bench = Bench(plug(candidate)[0], tol.PRECISIONS["float64"], candidate())
    told = judge(bench, bench.case(cases.CORNERS[0])).evidence
    failed = {k: e.rule for k, e in told.items() if e.outcome == "fail"}
    assert len(failed) == (1 if sentence else 0), failed
    assert all(sentence in rule for rule in failed.values())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"x": None},
            "pull(cotangents) returned no gradient of x (keys: W_c, W_f, W_i, W_o, b_c, b_f, b_i, b_o, c0, h0, x: None); return it",
        ),
        ({"b_f": np.zeros(5, int)}, "pull(cotangents) returned b_f with dtype int64, which cuts off what is added to it; float64 is due"),
        ({"c0": np.zeros((2, 5), complex)}, "pull(cotangents) returned c0 with dtype complex128; float64 is due"),
        ({"h0": np.zeros((2, 5), np.longdouble)}, f"h0 came back as {np.dtype(np.longdouble)} for float64 inputs"),
    ],
)
def test_gradients_that_are_no_arrays_of_the_dtype_are_told_in_words(changed, sentence):
    candidate = spoilt(change_gradients=lambda g: {**g, **changed})
    bench = Bench(plug(candidate)[0], tol.PRECISIONS["float64"], candidate())
    told = judge(bench, bench.case(cases.CORNERS[0]), with_differences=False).evidence
    assert any(sentence in e.rule for k, e in told.items() if k.startswith("contract.")), told


def test_numbers_without_a_dtype_and_bytes_in_another_order_are_numbers():
    def odd(arrays):
        return {k: v.astype(">f8") if v.ndim > 1 else [int(n) if n == 0 else n for n in v.tolist()] for k, v in arrays.items()}

    class Odd(spoilt(odd, odd)):
        supports = {"c0_gradient": False, "h0_gradient": False}

        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {**pull(s), "c0": None, "h0": "not computed"}

    bench = Bench(plug(Odd)[0], tol.PRECISIONS["float64"], Odd())
    for n in (0, 22):
        case = bench.case(cases.CORNERS[n])
        told = judge(bench, replace(case, cotangents={k: 0 * v for k, v in case.cotangents.items()}), with_differences=False).evidence
        told |= {f"{k} again": e for k, e in judge(bench, case, with_differences=False).evidence.items()}
        assert not {k: e.rule for k, e in told.items() if e.outcome == "fail"}
        assert "grad.b_f.autodiff" in told
        assert "grad.c0.autodiff" not in told


@pytest.mark.parametrize(("element", "outcome"), [(float, "pass"), (np.float64, "fail")])
def test_pythons_own_floats_are_of_no_other_dtype_than_is_due(element, outcome):
    def listed(arrays):
        return {k: [[element(n) for n in row] for row in v.tolist()] if v.ndim == 2 else v for k, v in arrays.items()}

    bench = Bench(plug(spoilt(listed, listed))[0], tol.PRECISIONS["float32"], spoilt(listed, listed)())
    told = judge(bench, bench.case(cases.CORNERS[0]), with_differences=False).evidence
    assert told["contract.dtype"].outcome == outcome
    assert told["grad.W_f.autodiff"].outcome == "pass"


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ({"h": 1, "c_T": 2}, "pullback returned a dict; (outputs, pull) is due"),
        ("ab", "pullback returned a str; (outputs, pull) is due"),
    ],
)
def test_two_keys_and_two_letters_are_no_pair(returned, sentence):
    class Returns(CellByCell):
        def pullback(self, p):
            return returned

    bench = Bench(plug(Returns)[0], tol.PRECISIONS["float64"], Returns())
    assert judge(bench, bench.case(cases.CORNERS[0])).evidence["contract.call"].rule == sentence


def test_a_flat_loss_of_a_coarse_tanh_refutes_nothing_that_autodiff_does_not():
    spec = cases.Spec(Sizes(3, 1, 1, 1, 7), regime="extreme", cotangents="h", seed=2980245)
    right = next(c for c in RIGHT if c.__name__ == "TanhThroughSigmoid")
    wrong = spoilt(change_gradients=lambda g: {**g, "W_i": 2 * g["W_i"]}, base=right)
    found = []
    for candidate, where in ((right, spec), (wrong, replace(spec, regime="ordinary"))):
        bench = Bench(plug(candidate)[0], tol.PRECISIONS["float64"], candidate())
        found.append(judge(bench, bench.case(where)).evidence["grad.W_i.differences"])
    assert [e.outcome for e in found] == ["unresolved", "fail"]
    assert found[0].rule == "J is as flat here as a coarse σ or tanh makes it"
