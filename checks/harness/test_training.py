"""The training example: it follows the gradients that it is given, right ones and wrong ones, and both of them learn."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lstm_ref import verify
from lstm_ref.candidates.load import TargetError, plug
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.comparison import compare
from lstm_ref.judgement.judge import BY_STEP
from lstm_ref.reference.forward import forward
from lstm_ref.reference.objectives import softmax_forward
from lstm_ref.truth import autodiff

from .strangers import KerasStyle, OneAtATime, spoilt

EXAMPLES = Path(__file__).parents[2] / "examples"
FORGETFUL = f"{EXAMPLES}/my_lstm.py:Forgetful"
RIGHT = ("ref:", f"{EXAMPLES}/my_lstm.py:MyLSTM", f"{EXAMPLES}/numpy_fused.py:Fused")
FEW = 160  # updates after which the loss is below the unigram entropy


def script():
    spec = importlib.util.spec_from_file_location("train_example", EXAMPLES / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train = script()
TEXT = train.TEXT.read_text(encoding="utf-8")
ALPHABET = "".join(sorted(set(TEXT)))
CODES, K = np.array([ALPHABET.index(c) for c in TEXT]), len(ALPHABET)
CUT = int(len(CODES) * (1 - train.HELD_OUT))
UNIGRAM, BIGRAM = train.entropies(CODES, K)


@pytest.mark.parametrize("target", ["ref:", FORGETFUL])
def test_it_learns_and_so_does_what_forgets_the_cell_state(target):
    _, curve = train.train(train.layer(target, K), CODES, K, steps=FEW)
    assert curve[0].step == FEW // train.ROWS
    assert curve[-1].step == FEW
    assert curve[-1].training < UNIGRAM < curve[0].training
    assert curve[-1].held_out < UNIGRAM


def test_what_forgets_and_learns_is_caught():
    verdict = verify(FORGETFUL, only="grad.W_f.autodiff,grad.c0.autodiff")
    assert verdict.outcome == "fail"
    assert {r.id for r in verdict.results if r.outcome == "fail"} == {"grad.W_f.autodiff", "grad.c0.autodiff"}


@pytest.fixture(scope="module")
def first():
    """Weights before the first update, what they should be after it by autodiff, and how far rounding may move them from that."""
    before, (x, y) = train.initial(K), next(train.chunks(CODES[:CUT]))
    zeros = np.zeros((train.B, train.H))
    inputs = {**before, "x": np.eye(K)[x], "h0": zeros, "c0": zeros, "y": y, "w": np.full(y.shape, 1 / y.size)}
    nothing = {"h": np.zeros((train.T, train.B, train.H)), "h_T": zeros, "c_T": zeros}
    gradients = autodiff.truth(inputs, nothing).gradients
    found = tol.conditions(tol.noisy_run(inputs, nothing, tol.PRECISIONS["float64"]), tol.PRECISIONS["float64"], BY_STEP)
    conditions = {
        k: c._replace(C=train.RATE * c.C + np.abs(W), scale=float(np.abs(W).max()) or c.scale)
        for k, W in before.items()
        for c in [found[f"d{k}"]]
    }
    return {k: W - train.RATE * gradients[k] for k, W in before.items()}, conditions


def misled(first, target) -> set[str]:
    """The weights that the script's first update puts elsewhere than autodiff does."""
    due, conditions = first
    after, _ = train.train(train.layer(target, K), CODES, K, steps=1)
    assert set(after) == set(due)
    precision = tol.PRECISIONS["float64"]
    outcomes = {k: compare(k, after[k], due[k], conditions[k], precision).outcome for k in due}
    assert set(outcomes.values()) <= {"pass", "fail"}
    return {k for k, outcome in outcomes.items() if outcome == "fail"}


@pytest.mark.parametrize("target", RIGHT)
def test_the_first_update_is_the_one_by_autodiff(first, target):
    assert not misled(first, target)


def test_the_first_update_of_torch_is_the_one_by_autodiff(first):
    pytest.importorskip("torch", reason="needs PyTorch: pip install '.[torch]'")
    assert not misled(first, "torch:")


def test_the_first_update_of_a_wrong_gradient_is_another(first):
    assert misled(first, FORGETFUL) == {f"{q}_{k}" for q in "Wb" for k in "fic"} | {"W_o", "b_o"}


PLANTED = {
    "sign": lambda weights, dJ, rate: {k: W + rate * dJ[k] for k, W in weights.items()},
    "sum over the batch": lambda weights, dJ, rate: {k: W - rate * train.B * dJ[k] for k, W in weights.items()},
    "clipped": lambda weights, dJ, rate: {k: W - rate * np.clip(dJ[k], -1 / 128, 1 / 128) for k, W in weights.items()},
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_update_is_seen(first, monkeypatch, name):
    monkeypatch.setattr(train, "update", PLANTED[name])
    assert misled(first, "ref:")


def test_streams_are_stretches_of_the_text_and_the_target_is_the_next_character():
    pairs = list(train.chunks(CODES))
    x, y = (np.concatenate(q) for q in zip(*pairs, strict=True))
    length = (len(CODES) - 1) // train.B
    assert all(q[0].shape == (train.T, train.B) for q in pairs)
    assert len(x) == length // train.T * train.T
    for b in range(train.B):
        assert np.array_equal(x[:, b], CODES[b * length :][: len(x)])
        assert np.array_equal(y[:, b], CODES[b * length + 1 :][: len(x)])


def test_states_are_carried_over_to_the_next_chunk():
    candidate, weights, zeros = train.layer("ref:", K), train.initial(K), np.zeros((train.B, train.H))
    (x1, y1), (x2, y2) = list(train.chunks(CODES))[:2]
    J1, _, state = train.gradients(candidate, candidate.make(), weights, (zeros, zeros), x1, y1)
    J2, _, _ = train.gradients(candidate, candidate.make(), weights, state, x2, y2)
    y = np.concatenate([y1, y2])
    h = forward({**weights, "x": np.eye(K)[np.concatenate([x1, x2])], "h0": zeros, "c0": zeros}).h
    assert np.isclose((J1 + J2) / 2, softmax_forward(h, weights["W_v"], weights["b_v"], y, np.full(y.shape, 1 / y.size)).J)
    without = train.gradients(candidate, candidate.make(), weights, (zeros, zeros), x2, y2)[0]
    assert not np.isclose(J2, without)


def test_states_reach_every_update_of_a_run(monkeypatch):
    seen = []
    gradients = train.gradients

    def kept(candidate, instance, weights, state, x, y):
        found = gradients(candidate, instance, weights, state, x, y)
        seen.append((state, found[2]))
        return found

    monkeypatch.setattr(train, "gradients", kept)
    train.train(train.layer("ref:", K), CODES[: 4 * train.B * train.T], K, steps=5)
    fresh = [not state[0].any() and not state[1].any() for state, _ in seen]
    assert fresh == [True, False, False, True, False]  # three chunks to a pass over the text
    assert all(seen[k][0] is seen[k - 1][1] for k in (1, 2, 4))


def test_held_out_text_is_never_trained_on():
    other = CODES.copy()
    other[CUT:] = 0
    (one, curve), (two, second) = (train.train(train.layer("ref:", K), codes, K, steps=2) for codes in (CODES, other))
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert curve[-1].training == second[-1].training
    assert curve[-1].held_out != second[-1].held_out


def test_entropies_of_texts_that_are_known():
    unigram, bigram = train.entropies(np.array([0, 1] * 5000), 2)
    assert np.isclose(unigram, np.log(2))
    assert abs(bigram) < 1 / 5000
    random = np.random.default_rng(0).integers(4, size=100_000)
    assert np.allclose(train.entropies(random, 4), np.log(4), rtol=1 / 1000)
    assert train.entropies(np.zeros(9, int), 1) == (0, 0)
    assert 0 < BIGRAM < UNIGRAM < np.log(K)


def test_the_page_says_what_the_text_is():
    page = (EXAMPLES.parent / "docs" / "training.md").read_text(encoding="utf-8")
    poems = TEXT.split("\n\n")
    assert {len(poem.strip().splitlines()) for poem in poems} == {14}
    for due in (
        f"{len(poems)} of Shakespeare's sonnets",
        f"{len(TEXT):,} characters, {K} different",
        f"{UNIGRAM:.3f} nats",
        f"{BIGRAM:.3f} nats",
    ):
        assert due in page, due


def test_the_seconds_are_a_limit():
    _, curve = train.train(train.layer("ref:", K), CODES, K, steps=10_000, seconds=0.2)
    assert len(curve) == 1
    assert curve[0].step < 1000


# name -> (arguments, what is said)
REFUSED = {
    "no module": (["--lstm", "nothing_here:LSTM"], "nothing_here could not be imported: ModuleNotFoundError"),
    "no target": (["--lstm", "my_lstm"], "the target 'my_lstm' names no LSTM; it must be one of module:attribute"),
    "a variant": (["--lstm", f"{EXAMPLES}/peephole.py:Peephole"], "declares a variant; what is trained here is the textbook LSTM"),
    "no step": (["--steps", "0"], "--steps is 0; a number above 0 is due"),
    "no time": (["--seconds", "-1"], "--seconds is -1.0; a number above 0 is due"),
    "no rate": (["--rate", "nan"], "--rate is nan; a number above 0 is due"),
    "no figure": (["--plot", "curves.txt"], "--plot is curves.txt; a file that ends in .png or .svg is due"),
    "no folder": (["--plot", "/no/where/curves.png"], "--plot is /no/where/curves.png; there is no folder /no/where"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_told(name, capsys):
    arguments, due = REFUSED[name]
    with pytest.raises(SystemExit) as stopped:
        train.main(arguments)
    assert stopped.value.code == 2
    assert due in capsys.readouterr().err


def test_a_figure_without_matplotlib_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        train.main(["--plot", "curves.png"])
    assert "--plot needs matplotlib, which is not installed; install it with: pip install 'lstm-ref[plots]'" in capsys.readouterr().err


class Single(KerasStyle):
    supports = {"dtypes": ["float32"]}


def test_what_computes_in_float32_is_trained_in_float32():
    before, eps = train.initial(K)["W_f"], np.finfo(np.float32).eps
    single, double = (train.train(plug(c)[0], CODES, K, steps=1)[0]["W_f"] - before for c in (Single, KerasStyle))
    assert eps / 16 < np.linalg.norm(single - double) / np.linalg.norm(double) < 16 * eps


class ForwardOnly:
    def forward(self, inputs):
        return {}


class Half(KerasStyle):
    supports = {"dtypes": ["float16"]}


class NoCellState(KerasStyle):
    supports = {"c_T": False, "W_f_gradient": False}


# candidate -> what is said of it before it is trained
UNTRAINABLE = {
    ForwardOnly: "offers no gradients of a layer; pullback(inputs), or forward(inputs) and vjp(inputs, cotangents), are due",
    OneAtATime: "leave out T=32, B=16, D=59, H=64 and states that are carried over; declare them if it can do that",
    Half: "declares the dtypes float16; float64 or float32 is due",
    NoCellState: "does not provide W_f, c_T, which training needs",
}


@pytest.mark.parametrize("thing", UNTRAINABLE)
def test_what_cannot_be_trained_is_told(thing, monkeypatch):
    monkeypatch.setattr(train.load, "load", lambda target: plug(thing, target))
    with pytest.raises(TargetError) as refused:
        train.layer("here.py:It", K)
    assert "here.py:It" in str(refused.value)
    assert UNTRAINABLE[thing] in str(refused.value)


def not_a_number(gradients):
    gradients["bias"][0] = np.nan
    return gradients


# what a candidate does with its gradients -> what the run ends with
SPOILT = {
    not_a_number: "here.py:It: ∂J/∂b_i not finite at step 1; if the loss rose before, try a smaller --rate than 2",
    lambda gradients: {**gradients, "bias": gradients["bias"][:3]}: "returned bias with shape (3,); (256,) is due",
    lambda gradients: 1 / 0: "raised ZeroDivisionError: division by zero at T=32, B=16, D=59, H=64",
}


@pytest.mark.parametrize("change", SPOILT)
def test_what_goes_wrong_on_the_way_is_told(change, monkeypatch, capsys):
    monkeypatch.setattr(train.load, "load", lambda target: plug(spoilt(change_gradients=change, base=KerasStyle), target))
    with pytest.raises(SystemExit) as stopped:
        train.main(["--lstm", "here.py:It", "--steps", "3"])
    assert SPOILT[change] in str(stopped.value.code)
    assert "  step  seconds  training" in capsys.readouterr().out


def test_the_script_runs_and_tells_its_baseline():
    command = [sys.executable, f"{EXAMPLES}/train.py", "--steps", "3", "--lstm", FORGETFUL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"text.txt: {len(TEXT)} characters, {K} different; the last 10% are held out" in done.stdout
    assert f"entropy of the text: unigram {train.told(UNIGRAM)}, bigram {train.told(BIGRAM)} per character" in done.stdout
    assert f"\n{FORGETFUL}  T=32, B=16, H=64, α = 2\n" in done.stdout
    assert "nats above the unigram entropy\nit writes:\n" in done.stdout


def test_right_and_wrong_are_plotted_together(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install '.[plots]'")
    for name in ("one.svg", "two.svg"):
        curves = {k: [train.Point(1, 0.0, 3.0, 3.1), train.Point(2, 0.1, v, 2.9)] for k, v in (("ref:", 2.0), ("wrong:", 2.5))}
        train.plot(str(tmp_path / name), curves, UNIGRAM, BIGRAM)
    one, two = (path.read_text(encoding="utf-8") for path in sorted(tmp_path.iterdir()))
    assert one == two
    assert all(text in one for text in ("ref:  training", "wrong:  held out", "unigram entropy", "nats per character"))
    train.main(["--steps", "2", "--lstm", "ref:", "--plot", str(tmp_path / "three.png")])
    assert (tmp_path / "three.png").read_bytes()[1:4] == b"PNG"
    assert "ref:" in capsys.readouterr().out
