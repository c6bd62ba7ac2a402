"""LSTMs as other people write them: the right ones pass, the bad ones get a named finding and a sentence."""

import pytest

from lstm_ref import verify

from .strangers import MISBEHAVING, RIGHT, CellByCell, WrongGateOrder


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("candidate", RIGHT, ids=lambda c: c.__name__)
def test_right_lstm_passes(candidate, dtype):
    verdict = verify(candidate, dtype=dtype)
    assert verdict.outcome == "pass", [(r.id, r.outcome, r.reason) for r in verdict.results if r.outcome not in ("pass", "not provided")]
    assert verdict.kind == "textbook"


def test_float16_with_tiny_cotangents_raises_no_alarm():
    verdict = verify(CellByCell, dtype="float16")
    assert not verdict.failures()


def test_sigmoid_through_tanh_is_a_note():
    right = next(c for c in RIGHT if c.__name__ == "SigmoidThroughTanh")
    verdict = verify(right, only="grad.*,forward.*,numerics.sigmoid_tail")
    assert verdict.outcome == "pass"
    assert any("½(1 + tanh(a/2))" in note for note in verdict.notes)
    assert not verify(CellByCell, only="grad.*,forward.*,numerics.sigmoid_tail").notes


@pytest.mark.parametrize("name", MISBEHAVING)
def test_misbehaviour_is_named_and_the_run_goes_on(name):
    candidate, check, words = MISBEHAVING[name]
    verdict = verify(candidate)
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "fail"
    assert found[check].outcome == "fail"
    assert words in found[check].reason, found[check].reason
    assert verdict.seconds < 10


def test_wrong_forward_is_judged_by_its_own_differences():
    verdict = verify(WrongGateOrder)
    found = {r.id: r for r in verdict.results}
    assert verdict.kind == "self-consistency"
    assert found["forward.h"].outcome == "fail"
    assert found["grad.W_f.autodiff"].outcome == "not run"
    assert "blocked by forward.h" in found["grad.W_f.autodiff"].reason
    assert all(found[f"grad.{k}.differences"].outcome == "pass" for k in ("W_f", "W_i", "W_c", "W_o", "b_f", "x", "h0", "c0"))
