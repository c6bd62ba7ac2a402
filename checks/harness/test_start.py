"""The first minutes with an LSTM of one's own: what `doctor` says of it, and the adapters that `init` writes."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import lstm_ref
from lstm_ref import verify
from lstm_ref.candidates import start
from lstm_ref.candidates.load import load, plug
from lstm_ref.cli import app
from lstm_ref.judgement import doctor
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.report import doctor as report

from . import strangers
from .programs import required
from .strangers import CellByCell, KerasStyle, MeanLoss, spoilt
from .test_candidates import Student

PACKAGE = Path(lstm_ref.__file__).parent
SMALL = ("--sizes", "T=3,B=2,D=3,H=4", "--only", "forward.*,grad.*")


def command(*args):
    done = CliRunner().invoke(app, list(args))
    return done.exit_code, done.output


def told(thing, dtype="float64") -> tuple[doctor.Examination, str]:
    found = doctor.examine(plug(thing)[0], PRECISIONS[dtype])
    return found, report.text(found, "here.py:MyLSTM")


def keras(**fields):
    """KerasStyle with some of what it says of its layout replaced."""
    names = {"W_x": "kernel", "W_h": "recurrent_kernel", "b": "bias"}
    own = {"order": "ifco", "packed": True, "joint": "split", "transposed": True, "batch_first": True, "names": names}
    return type("Declared", (KerasStyle,), {"layout": own | fields})


def test_doctor_tells_what_was_understood_of_a_right_lstm():
    found, text = told(KerasStyle)
    assert found.fits
    for due in (
        "here.py:MyLSTM  (float64)",
        "a layer through pullback(inputs)",
        "a new instance where a check needs one",
        "gates i f c o in one array; one weight for x and one for h, (inputs, units), for x W; one bias; x is (B, T, D), batch first",
        "x (2, 4, 3)  h0 (2, 5)  c0 (2, 5)  kernel (3, 20)  recurrent_kernel (5, 20)  bias (20,)  float64   at T=4, B=2, D=3, H=5",
        "outputs       h (2, 4, 5)  c_T (2, 5)  float64",
        "gradients of  x (2, 4, 3)  h0 (2, 5)  c0 (2, 5)  kernel (3, 20)  recurrent_kernel (5, 20)  bias (20,)  float64",
        "the forward pass is that of the textbook LSTM as it is declared",
        "computed in float64, as far as three cases tell",
        "complex step, exact to rounding",
        "no h_T        the cotangent of h_T is added to the last h",
        "inter.*: no gradients of intermediates are returned; they are optional",
        "ready: lstm-ref check here.py:MyLSTM",
    ):
        assert due in text, due
    assert "PROBLEM" not in text


class CellAtRest(CellByCell):
    """It begins with c of zero, whatever c0 is."""

    def pullback(self, p):
        outputs, pull = super().pullback({**p, "c0": 0 * p["c0"]})
        return outputs, lambda s: {**pull(s), "c0": 0 * p["c0"]}


class ModelAtRest(MeanLoss):
    """It begins with states of zero."""

    def loss_and_gradients(self, p):
        J, gradients = super().loss_and_gradients({**p, "h0": 0 * p["h0"], "c0": 0 * p["c0"]})
        return J, {**gradients, "h0": 0 * p["h0"], "c0": 0 * p["c0"]}


# name -> (candidate, whether it fits, what is said)
SAID = {
    "c0 ignored": (
        CellAtRest,
        False,
        ["the declared LSTM's, but for its initial state", 'c0 ignored. If that is meant, declare supports = {"c0": False}'],
    ),
    "states ignored by a model": (
        ModelAtRest,
        False,
        [
            "the declared LSTM's, but for its initial state",
            'h0 and c0 ignored. If that is meant, declare supports = {"initial_state"',
        ],
    ),
    "misdeclared order": (
        keras(order="ifoc"),
        False,
        ["write order='ifco' in the layout", "next        write that; until then forward.h fails"],
    ),
    "misdeclared batch first": (keras(batch_first=False), False, ["write batch_first=True in the layout", "until then the call fails"]),
    "misdeclared names": (
        keras(names={}),
        False,
        ["raised KeyError: 'kernel'", "W_x (3, 20)", "the arrays have the names under `given`", "nothing came back that could be read"],
    ),
    "no c_T": (
        spoilt(change_outputs=lambda d: {"h": d["h"], "last": 0.0}),
        False,
        [
            'declare supports = {"c_T": False} [contract.keys]',
            "cotangents come for what forward returns and for nothing else: it returned no c_T",
        ],
    ),
    "raises": (
        spoilt(change_gradients=strangers._raise),
        False,
        ["raised RuntimeError: kernel launch failed at T=4", "[contract.call]", "next        mend what is named", "not ready: mend"],
    ),
    "limits": (
        strangers.OneAtATime,
        True,
        ["B: 1; h0 and c0 always zero", "gradient of x, h0, c0, declared", "forward.initial_state, law.time_split: it is declared that"],
    ),
    "no gradient of b_o": (
        spoilt(change_gradients=strangers._without("b_o")),
        False,
        ["no gradient of b_o", 'declare supports = {"b_o_gradient"'],
    ),
    "float32 inside": (
        spoilt(change_outputs=lambda d: {k: v.astype(np.float32).astype(v.dtype) for k, v in d.items()}),
        False,
        ["is computed in float32", "[numerics.effective_precision]", 'declare supports = {"dtypes": ["float32"]}', "as it is declared"],
    ),
    "another function": (
        spoilt(change_outputs=lambda d: {**d, "h": d["h"] + 0.1 * d["h"] ** 2}),
        False,
        ["no layout and no variant that is known here", "its gradients can be judged by differences of its own: lstm-ref check"],
    ),
    "extra keys": (spoilt(change_outputs=lambda d: {**d, "attention": d["h"]}), True, ["attention: returned, and nothing is done with it"]),
    "two branches": (strangers.StableSigmoid, True, ["real steps at six points: a complex step finds another slope"]),
    "one instance": (CellByCell(), True, ["state.two_instances: there is one instance and no way to make another"]),
    "gradients under other names": (
        spoilt(change_gradients=lambda g: {f"d{k}": v for k, v in g.items()}),
        False,
        ["gradients are keyed as the inputs are: name them x, h0, c0, W_f, W_i, W_c, W_o, b_f, b_i, b_c, b_o [contract.keys]"],
    ),
    "arguments of its own": (
        type("Arguments", (CellByCell,), {"pullback": lambda self, x, h0, c0: x}),
        False,
        ["missing 2 required positional arguments", "at T=4, B=2, D=3, H=5; it is called as pullback(inputs), with one dict of arrays"],
    ),
    "arguments of vjp": (
        type("OfVjp", (strangers.ForwardThenVjp,), {"vjp": lambda self, cotangents: {}}),
        False,
        ["; it is called as vjp(inputs, cotangents), with two dicts of arrays"],
    ),
    "a second bias": (
        type("Two", (KerasStyle,), {"pullback": lambda self, p: p["bias_h"]}),
        False,
        ["""it looks for a second bias: declare biases=2 in the layout, with names {"b_x": 'bias', "b_h": 'bias_h'}"""],
    ),
    "both directions added": (
        type("Added", (), {"variant": {"direction": "both"}, "forward": lambda self, p: {"h": np.zeros((*p["x"].shape[:2], 5))}}),
        False,
        ["(4, 2, 10) is due; the two directions lie side by side in h: their sum or mean is no h"],
    ),
    "a model": (strangers.MeanLoss, True, ["reduction     mean", "W_v (6, 5)", "K=6", "the loss is that of the textbook LSTM"]),
    "forward only": (
        type("Forward", (), {"forward": lambda self, p: CellByCell().pullback(p)[0]}),
        False,
        ["nothing that gives gradients", "give it vjp(inputs, cotangents)", "grad.*: none are returned"],
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_doctor_says_what_does_not_fit_and_the_next_step(name):
    thing, fits, due = SAID[name]
    found, text = told(thing)
    assert found.fits == fits, text
    for words in due:
        assert words in text, text


def test_doctor_of_a_student():
    found, text = told(Student)
    assert found.fits
    assert "a student: params, loss() and gradients()" in text
    assert "params        W (4, 3)  U (4, 1)  b (4,)  float64" in text
    assert "ready: lstm-ref check" in text

    class Copies(Student):
        def __init__(self):
            super().__init__()
            self.own, self.params = self.params, {k: v.copy() for k, v in self.params.items()}

        def _run(self):
            mine, self.params = self.params, self.own
            try:
                return super()._run()
            finally:
                self.params = mine

        def gradients(self):
            return {k: v for k, v in super().gradients().items() if k != "U"}

    found, text = told(Copies)
    assert not found.fits
    assert "loss() stays the same whatever is written into params, so it reads other arrays" in text
    assert "gradients() has no U; it has W, b [contract.keys]" in text


def test_doctor_of_a_student_that_gives_odd_things():
    class Odd(Student):
        def __init__(self):
            super().__init__()
            self.params["s"] = 0.3
            self.params["U"].setflags(write=False)

        def gradients(self):
            return {**super().gradients(), "W": [[1.0], [1.0, 2.0]], "b": None}

    found, text = told(Odd)
    assert not found.fits
    for due in (
        "params['s'] is a float, which cannot be moved in place; an array that loss() reads is due: np.array(0.3)",
        "params['U'] is read-only, and it is moved in place and put back",
        "the gradient of W is no array (ValueError: ",
        "gradients() has no b; it has W, U, b: None",
    ):
        assert due in text, text


def test_doctor_sees_that_a_softmax_reads_its_bias():
    class Softmax:
        """A loss that adding one number to every logit does not change."""

        def __init__(self):
            self.params = {"b_v": np.arange(4.0)}

        def loss(self):
            b = self.params["b_v"]
            return np.log(np.exp(b).sum()) - b[1]

        def gradients(self):
            p = np.exp(self.params["b_v"])
            return {"b_v": p / p.sum() - np.eye(4)[1]}

    found, text = told(Softmax)
    assert found.fits
    assert "does not depend on" not in text


def test_doctor_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(strangers.__file__)
    code, text = command("doctor", f"{file}:CellByCell", "--dtype", "float32")
    assert code == 0
    assert "(float32)" in text
    assert "a complex step is taken in float64 only" in text
    assert command("doctor", f"{file}:ReturnsNothing")[0] == 1
    assert command("doctor", f"{file}:Nobody")[0] == 2
    assert command("doctor", "ref:", "--dtype", "float8")[0] == 2


@pytest.mark.parametrize("style", ["class", "functions", "student"])
def test_init_writes_a_numpy_adapter_that_passes(style, tmp_path):
    path, (check,) = start.write(style, tmp_path / f"{style}_lstm.py")
    assert check in path.read_text()
    target = check.removeprefix("lstm-ref check ")
    verdict = verify(target, only=None if style == "student" else "forward.*,grad.*")
    assert verdict.outcome == "pass"
    assert doctor.examine(load(target)[0], PRECISIONS["float64"]).fits


@pytest.mark.parametrize("style", ["torch", "jax", "command"])
def test_init_writes_an_adapter_that_passes(style, tmp_path, monkeypatch):
    if style != "command":
        pytest.importorskip(style)
    monkeypatch.chdir(tmp_path)
    code, text = command("init", style)
    assert code == 0
    assert "wrote my_lstm.py; it works as it is:" in text
    target = text.splitlines()[-1].split("lstm-ref check ")[1].strip('"').replace("cmd:python3", f"cmd:{sys.executable}")
    code, text = command("check", target, *SMALL)
    assert code == 0, text
    assert "PASS" in text


def test_init_writes_a_c_adapter_that_builds_and_passes(tmp_path, monkeypatch):
    required("cc")
    monkeypatch.chdir(tmp_path)
    _, (build, check) = start.write("c", None)
    build = build.replace("$(python ", f"$({sys.executable} ").replace("cc ", "cc -Wall -Wextra -Werror ", 1)
    subprocess.run(build, shell=True, check=True)
    code, text = command("check", check.removeprefix("lstm-ref check "), *SMALL)
    assert code == 0, text


def test_init_never_writes_over_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("mine")
    code, text = command("init", "class", "--out", str(path))
    assert code == 2
    assert "already, and it is left as it is; name another with --out" in " ".join(text.split())
    assert path.read_text() == "mine"
    assert command("init", "fortran")[0] == 2
    assert command("init", "class", "--out", str(tmp_path / "a.c"))[0] == 2
    assert command("init", "class", "--out", str(tmp_path / "nowhere" / "a.py"))[0] == 2
    assert not (tmp_path / "nowhere").exists()


def test_templates_are_short_and_packed():
    files = sorted((PACKAGE / "templates").iterdir())
    assert {f.name for f in files} == {s.template for s in start.STYLES.values()}
    assert all(len(f.read_text(encoding="utf-8").splitlines()) <= 70 for f in files)
    project = PACKAGE.parent / "pyproject.toml"
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["lstm_ref"]
    assert {f for pattern in declared for f in PACKAGE.glob(pattern)} >= set(files)
