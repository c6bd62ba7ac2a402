"""Two LSTMs held against each other: a port that is right agrees in any layout, one that is wrong is named where it is."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lstm_ref.candidates.load import load, plug
from lstm_ref.cases import CORNERS
from lstm_ref.cli import app
from lstm_ref.judgement import against
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.report import against as report

from .planted import FAULTS
from .strangers import CellByCell, Hangs, KerasStyle, MeanLoss, OneAtATime, spoilt
from .test_candidates import Student

STRANGERS = Path(__file__).parent / "strangers.py"


def held(one, other, dtype="float64"):
    ours, theirs = (load(q) if isinstance(q, str) else plug(q) for q in (one, other))
    return against.hold(*against.pairs(ours, theirs)[0], PRECISIONS[dtype])


def names(found, kind):
    return [row.quantity for row in found.rows if row.kind == kind]


class ForgetBias(CellByCell):
    """Right. It adds 1 to the forget gate itself, and has two biases."""

    layout = {"biases": 2, "forget_bias": 1.0}

    def pullback(self, p):
        b = {k: p[k.replace("b_", "b_x_")] + p[k.replace("b_", "b_h_")] + (k == "b_f") for k in ("b_f", "b_i", "b_c", "b_o")}
        outputs, pull = super().pullback({**{k: v for k, v in p.items() if k[0] != "b"}, **b})

        def twice(s):
            g = pull(s)
            return {**g, **{k.replace("b_", f"b_{q}_"): g[k] for k in b for q in "xh"}}

        return outputs, twice


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("other", [KerasStyle, ForgetBias])
def test_a_right_port_in_another_layout_agrees(other, dtype):
    found = held("ref:", other, dtype)
    assert found.outcome == "agree", report.text(found)
    assert found.cases == len(CORNERS)
    assert set(names(found, "gradients")) >= {"x", "h0", "c0", "W_f", "W_i", "W_c", "W_o", "b_f", "b_i", "b_c", "b_o"}
    assert {"h", "c_T"} <= set(names(found, "outputs"))
    assert max(row.ratio for row in found.rows) < 1
    assert not found.skipped
    assert "AGREE  " in report.outcome(found)


def test_limits_of_one_are_the_limits_of_both():
    found = held(KerasStyle, OneAtATime)
    assert found.outcome == "agree"
    assert names(found, "gradients") == ["W_f", "W_i", "W_c", "W_o", "b_f", "b_i", "b_c", "b_o"]
    assert "only KerasStyle returns gradient of c0, gradient of h0, gradient of x" in report.text(found)


def test_a_wrong_port_differs_and_is_named():
    found = held("ref:", spoilt(change_gradients=lambda g: {**g, "W_f": (1 + 1e-11) * g["W_f"]}))
    assert found.outcome == "differ"
    assert [row.quantity for row in found.rows if row.differ] == ["W_f"]
    row = next(row for row in found.rows if row.differ)
    assert row.ours == pytest.approx(row.due, rel=1e-13)
    assert row.theirs == pytest.approx(row.ours * (1 + 1e-11), rel=1e-14)
    text = report.text(found)
    assert "differ in gradient of W_f" in text
    assert "(nearer: ref:)" in text


def test_a_port_in_float32_agrees_to_that_and_it_is_said():
    found = held(CellByCell, spoilt(change_gradients=lambda g: {k: v.astype(np.float32).astype(v.dtype) for k, v in g.items()}))
    assert found.outcome == "agree"
    text = report.text(found)
    assert "every gradient is computed in float32, though float64 goes in and comes out" in text
    assert "are equal to rounding in that lower precision" in text


def test_two_that_are_wrong_alike_agree():
    wrong = FAULTS["db averaged over the batch"][0]
    assert held(wrong, wrong).outcome == "agree"
    assert held(CellByCell, wrong).outcome == "differ"


def test_another_forward_pass_differs_in_its_outputs():
    found = held(CellByCell, spoilt(change_outputs=lambda d: {**d, "c_T": d["c_T"] * 1.01}))
    assert [row.quantity for row in found.rows if row.differ] == ["c_T"]


def test_nan_of_one_differs():
    found = held(CellByCell, spoilt(change_gradients=lambda g: {**g, "x": g["x"] * np.nan}))
    assert [row.quantity for row in found.rows if row.differ] == ["x"]


def test_losses_are_compared_whatever_they_are_divided_by():
    ours, theirs = load("ref:"), plug(MeanLoss)
    found = against.hold(*against.pairs(ours, theirs)[0], PRECISIONS["float64"])
    assert found.outcome == "agree", report.text(found)
    assert {"J", "W_v", "b_v"} <= {row.quantity for row in found.rows}


def test_a_side_that_raises_leaves_it_untold():
    def broken(*_):
        raise RuntimeError("out of memory")

    found = held(CellByCell, spoilt(change_outputs=broken))
    assert found.outcome == "cannot tell"
    assert "raised RuntimeError: out of memory" in report.text(found)


def test_without_gradients_nothing_is_called_equal():
    forward = type("Forward", (), {"forward": lambda self, p: CellByCell().pullback(p)[0]})
    found = held(CellByCell, forward)
    assert found.outcome == "cannot tell"
    assert "no gradient was returned by both" in report.outcome(found)


def test_a_side_that_hangs_ends_it(monkeypatch):
    monkeypatch.setattr(Hangs, "supports", {"call_seconds": 0.2}, raising=False)
    assert held(CellByCell, Hangs).outcome == "cannot tell"


def test_what_cannot_be_held_against_each_other_is_a_usage_error():
    with pytest.raises(ValueError, match="is a layer and MeanLoss is a model; two of a level are due"):
        against.pairs(plug(CellByCell), plug(MeanLoss))
    with pytest.raises(ValueError, match="not given the same weights"):
        against.pairs(plug(Student), plug(Student))


def test_check_against(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "port.py").write_text(
        f"import sys\nsys.path.insert(0, {str(STRANGERS.parent)!r})\nfrom strangers import CellByCell, spoilt\n"
        "Wrong = spoilt(change_gradients=lambda g: {**g, 'W_f': 0.99 * g['W_f']})\n"
    )
    few = ("--only", "grad.*.autodiff", "--sizes", "T=3,B=2,D=3,H=4")

    def command(*args):
        done = CliRunner().invoke(app, ["check", *args])
        return done.exit_code, done.output

    code, text = command(f"{STRANGERS}:KerasStyle", "--against", f"{STRANGERS}:CellByCell", *few)
    assert code == 0
    assert "AGREE" in text
    code, text = command(f"{STRANGERS}:KerasStyle", "--against", "port.py:Wrong", *few)
    assert code == 1
    for due in ("PASS  (partial", "FAIL  (partial", "DIFFER", "differ in gradient of W_f", "in units of both tolerances"):
        assert due in text, due
    assert command(f"{STRANGERS}:KerasStyle", "--against", "nonsense")[0] == 2
    command(f"{STRANGERS}:KerasStyle", "--against", "port.py:Wrong", "--report", "out.json", *few)
    told = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [(run["target"], run["outcome"]) for run in told["runs"]] == [(f"{STRANGERS}:KerasStyle", "pass"), ("port.py:Wrong", "fail")]
    assert (told["outcome"], told["complete"]) == ("fail", True)
    (held_,) = told["held"]
    assert (held_["dtype"], held_["outcome"]) == ("float64", "differ")
    assert [row["quantity"] for row in held_["rows"] if row["differ"]] == ["W_f"]
    assert "differ in gradient of W_f" in held_["told"]
    worst = next(row for row in held_["rows"] if row["differ"])
    assert worst["theirs"] == pytest.approx(0.99 * worst["ours"])
    assert [worst["where"]["sizes"][k] for k in "TBDH"] == [3, 2, 3, 4]
    command(f"{STRANGERS}:KerasStyle", "--report", "out.json", *few)
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["held"] == []
    assert command(f"{STRANGERS}:KerasStyle", "--against", f"{STRANGERS}:MeanLoss")[0] == 2
