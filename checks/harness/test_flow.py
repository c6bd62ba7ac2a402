"""Flow: what arrives at earlier steps is the truth's, faults of a candidate change it, the bound holds, and every file says so."""

import csv
import html
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lstm_ref import flow
from lstm_ref.candidates.load import load, plug
from lstm_ref.candidates.weights import WeightsError, read
from lstm_ref.claims.rnn import Rnn
from lstm_ref.cli import app
from lstm_ref.reference.symbols import BIASES, GATES, WEIGHTS, Sizes, shape
from lstm_ref.report import flow as report
from lstm_ref.truth.autodiff import truth

from .planted import layer
from .strangers import KerasStyle

T, H = 7, 4
REFERENCE = load("ref:")[0]


def followed(thing=None, **options):
    candidate = REFERENCE if thing is None else plug(thing)[0]
    return flow.flow(candidate, **{"steps": T, "hidden": H, "seed": 3, "forget_biases": (1.0,), **options})


def same(seen, due):
    np.testing.assert_allclose(seen, due, rtol=1e-11)


def drawn():
    """The inputs that `followed` uses, s, and what the oracle says of the whole run: one reverse pass, no restart."""
    n = Sizes(T, 1, flow.INPUTS, H)
    q, s = flow._drawn(REFERENCE, n, 3, flow.SCALE, None)
    q["b_f"] = np.ones(H)
    on_h = np.zeros((T, 1, H))
    on_h[-1] = s
    return q, s, truth(q, {"h": on_h, "h_T": 0 * s, "c_T": 0 * s})


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "my.npz"
    rng = np.random.default_rng(5)
    n = Sizes(1, 1, 3, H)
    np.savez(path, **{k: rng.standard_normal(shape(k, n)) for k in (*WEIGHTS, *BIASES)})
    return path


def command(*args):
    done = CliRunner().invoke(app, ["flow", *map(str, args)])
    return done.exit_code, done.output


def test_states_and_shares_are_those_of_one_reverse_pass_of_the_oracle():
    q, _, due = drawn()
    curve = followed().curves[1]
    dh, dc = due.gradients["h"], due.gradients["c"]
    same(curve.dh[:T], [np.linalg.norm(dh[T - 1 - n]) for n in range(T)])
    same(curve.dh[T], np.linalg.norm(due.gradients["h0"]))
    carried = [dc[k] * due.values["f"][k] for k in range(T)]  # (B:carry): ∂J/∂c_{k-1} with h_{k-1} held still
    same(curve.dc[1:], [np.linalg.norm(carried[T - 1 - n]) for n in range(T)])
    assert curve.dc[0] == 0
    h_prev = [q["h0"], *due.values["h"][:-1]]
    z = [np.concatenate([h_prev[k], q["x"][k]], axis=-1) for k in range(T)]
    shares = [[due.gradients[f"a_{g}"][k].T @ z[k] for g in GATES] for k in range(T)]
    same(curve.share, [np.linalg.norm(shares[T - 1 - n]) for n in range(T)])
    for g, parts in zip(GATES, zip(*shares, strict=True), strict=True):
        np.testing.assert_allclose(sum(parts), due.gradients[f"W_{g}"], rtol=1e-10, atol=1e-14)


def test_the_plain_rnn_is_that_of_complex_steps_and_within_its_bound():
    q, s, _ = drawn()
    a = q["x"] @ q["W_c"][:, H:].T
    W = np.ascontiguousarray(q["W_c"][:, :H])
    on_h = np.zeros((T, H))
    on_h[-1] = s
    due = Rnn({"h0": q["h0"][0], "W": W, "a": a[:, 0], "s": on_h})._derivatives["alone"]
    curve = followed().curves[0]
    same(curve.dh[:T], np.linalg.norm(due["dh"], axis=1)[::-1])
    same(curve.dh[T], np.linalg.norm(due["dnet"][0] @ W))
    h_prev = np.linalg.norm(due["share"], axis=(1, 2)) / np.where((d := np.linalg.norm(due["dnet"], axis=1)) > 0, d, 1)
    z = np.sqrt(h_prev**2 + np.sum(q["x"][:, 0] ** 2, axis=1))
    same(curve.share, (d * z)[::-1])


@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0, 3.0, 10.0])
def test_the_bound_holds_and_is_no_less_than_what_it_bounds(scale):
    for seed in range(5):
        rnn = followed(scale=scale, seed=seed, steps=30, forget_biases=(1.0,)).curves[0]
        rounding = 1 + 2.0**-40
        assert np.all(rnn.dh <= rnn.bound * rounding)
        assert np.all(rnn.share <= rnn.share_bound * rounding)


def test_a_bound_that_is_too_small_would_be_seen():
    """The spectral radius is no bound: with it in place of the norm, the RNN breaks its bound."""
    broken = 0
    for seed in range(5):
        rnn = followed(scale=3.0, seed=seed).curves[0]
        W = flow._drawn(REFERENCE, Sizes(T, 1, flow.INPUTS, H), seed, 3.0, None)[0]["W_c"][:, :H]
        radius = np.max(np.abs(np.linalg.eigvals(W)))
        broken += np.any(rnn.dh > (rnn.beta_f * radius) ** np.arange(T + 1))
    assert broken


@pytest.mark.parametrize(
    "fault",
    [
        ((" + dc_next  # (B:cell)", "  # (B:cell)"),),  # dropped everywhere
        (("dc_next = dc[t] * f[t]  # (B:carry)", "dc_next = dc[t] * f[t] * (t == 0)"),),  # between steps only: every single step is right
    ],
    ids=["everywhere", "between steps only"],
)
def test_a_lost_carry_changes_the_curve(fault):
    right, wrong = followed().curves[1], followed(layer(*fault)).curves[1]
    same(wrong.dh[:2], right.dh[:2])
    assert np.all(wrong.dh[2:] < right.dh[2:] / 2)
    assert wrong.rate < right.rate
    same(followed(layer()).curves[1].dh, right.dh)  # the same class without a fault


def test_shares_that_are_small_are_right_to_rounding():
    """Where differences of runs would be rounding alone: the share of the first step is δ_1 z_1ᵀ, however small."""
    found = followed(steps=60, forget_biases=(-3.0,))
    curve = found.curves[1]
    assert curve.fate == "vanishes"
    assert curve.share[-1] < curve.share[0] * 2.0**-100
    again = followed(steps=60, forget_biases=(-3.0,), thing=KerasStyle).curves[1]
    same(again.share, curve.share)


def test_other_layouts_and_frameworks_flow_alike():
    due = followed().curves[1]
    for target in ("torch:", KerasStyle):
        seen = (followed(target) if not isinstance(target, str) else flow.flow(load(target)[0], T, H, 3, (1.0,))).curves[1]
        same(seen.dh, due.dh)
        same(seen.dc[1:], due.dc[1:])
        same(seen.share, due.share)


def test_fates_and_rates():
    lag = np.arange(41)

    def curve(rate, share=None):
        return flow.Curve("LSTM", 1.0, rate**lag, rate ** lag[:-1] if share is None else share)

    assert [curve(r).fate for r in (0.5, 1.0, 1.5)] == ["vanishes", "lasts", "explodes"]
    assert curve(0.5).rate == pytest.approx(0.5)
    assert curve(0.5).lost == 25  # 2⁻²⁴ is not below u of float32, 2⁻²⁵ is
    assert curve(1.0).lost is None
    assert flow.Curve("LSTM", 1.0, np.array([1.0, 2.0, np.inf]), np.ones(2)).fate == "explodes"
    assert flow.Curve("LSTM", 1.0, np.array([1.0, 0.0, 0.0]), np.ones(2)).fate == "vanishes"


def test_sizes_are_what_is_supported_unless_asked_for():
    class Small(KerasStyle):
        supports = {"T": "at most 5", "D": 2, "H": "multiple of 3"}

    found = flow.flow(plug(Small)[0], hidden=H, forget_biases=(0.0,))
    assert found.sizes == Sizes(5, 1, 2, H)
    assert "(T: what it supports, not 60; --steps asks for more)" in report.lines(found, "here")


REFUSED = {
    "no initial state": ({"initial_state": False}, "takes no h0 and no c0; flow restarts it at every step from its own h and c"),
    "no c_T": ({"c_T": False}, "declares that it gives no c_T; flow restarts it"),
    "no gradient of h0": ({"h0_gradient": False}, "declares that it gives no h0; flow restarts it"),
    "T": ({"T": [4]}, "declares T = [4]; the share of a step is the gradient of a run of one step, and needs T = 1"),
    "B": ({"B": 8}, "declares B = 8; flow follows one sequence and needs B = 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_in_words(name):
    supports, due = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(due)):
        followed(type("Limited", (KerasStyle,), {"supports": supports}))


def test_models_variants_and_faults_are_refused_in_words():
    with pytest.raises(ValueError, match=r"ref: is a model with its own loss; flow sends a gradient into h_t alone: give it forward"):
        flow.flow(load("ref:")[1])
    with pytest.raises(ValueError, match="is declared with variant layers=2; flow follows one layer that goes forward"):
        followed(type("Two", (KerasStyle,), {"variant": {"layers": 2}}))

    class Raises(KerasStyle):
        def forward(self, inputs):
            raise RuntimeError("no kernel for this")

        pullback = forward

    with pytest.raises(
        ValueError, match=r"raised RuntimeError: no kernel for this at T=1, B=1.*\(contract.call\); lstm-ref check says more"
    ):
        followed(Raises)
    with pytest.raises(ValueError, match="--steps is 1; it must be at least 2"):
        followed(steps=1)


def test_the_values_as_csv():
    found = followed(forget_biases=(0.0, 1.5))
    rows = list(csv.DictReader(io.StringIO(report.table(found))))
    assert report.table(found).startswith("network,forget_bias,lag,k,dh,dc,share,bound_dh,bound_share\n")
    assert len(rows) == 3 * (T + 1)
    assert [r["forget_bias"] for r in rows[:: T + 1]] == ["", "0", "1.5"]
    last = rows[-1]
    assert (last["network"], last["lag"], last["k"], last["share"], last["bound_dh"]) == ("LSTM", str(T), "0", "", "")
    assert [float(r["dh"]) for r in rows[-T - 1 :]] == list(found.curves[2].dh)
    assert [float(r["dc"]) for r in rows[-T - 1 :]] == list(found.curves[2].dc)
    assert [float(r["bound_share"]) for r in rows[:T]] == list(found.curves[0].share_bound)
    assert rows[0]["dc"] == ""


def test_given_weights_are_used_and_their_forget_bias_kept(weights_file):
    given = read(weights_file, REFERENCE)
    found = flow.flow(REFERENCE, steps=T, weights=given)
    assert (found.sizes.H, found.sizes.D) == (H, 3)
    assert [c.forget_bias for c in found.curves] == [None, None]
    assert ",given," in report.table(found)
    due = np.linalg.norm(given["W_c"][:, :H], 2)
    same(found.curves[0].beta_W, due)
    replaced = flow.flow(REFERENCE, steps=T, weights=given, forget_biases=(5.0,)).curves[1]
    assert replaced.rate > found.curves[1].rate


def test_weights_under_the_targets_own_names(tmp_path, weights_file):
    import torch

    candidate = load("torch:")[0]
    module = torch.nn.LSTM(3, H).double()
    path = tmp_path / "torch.npz"
    np.savez(path, **{k: v.numpy() for k, v in module.state_dict().items()}, epoch=3)
    found = read(path, candidate)
    own = {k: v.numpy() for k, v in module.state_dict().items()}
    np.testing.assert_array_equal(found["W_f"], np.concatenate([own["weight_hh_l0"][H : 2 * H], own["weight_ih_l0"][H : 2 * H]], axis=1))
    same(found["b_o"], (own["bias_ih_l0"] + own["bias_hh_l0"])[3 * H :])
    assert {k: v.tobytes() for k, v in read(weights_file, candidate).items()} == {
        k: v.tobytes() for k, v in read(weights_file, REFERENCE).items()
    }


def test_a_forget_bias_that_the_layout_adds_is_in_the_weights(tmp_path):
    class Unit(KerasStyle):
        layout = {"order": "ifco", "packed": True, "joint": "split", "transposed": True, "batch_first": True, "forget_bias": 1.0}

    candidate = plug(Unit)[0]
    own = {"kernel": np.zeros((3, 4 * H)), "recurrent_kernel": np.zeros((H, 4 * H)), "bias": np.zeros(4 * H)}
    names = [candidate.layout.name(k) for k in ("W_x", "W_h", "b")]
    np.savez(tmp_path / "k.npz", **dict(zip(names, own.values(), strict=True)))
    found = read(tmp_path / "k.npz", candidate)
    assert (found["b_f"] == 1).all()
    assert (found["b_i"] == 0).all()


def test_bad_weights_are_said_in_words(tmp_path, weights_file):
    path = tmp_path / "bad.npz"

    def said(**arrays):
        np.savez(path, **arrays)
        with pytest.raises(WeightsError) as error:
            read(path, REFERENCE)
        return str(error.value).replace(str(path), "bad.npz")

    good = dict(np.load(weights_file))
    assert said(**{k: v for k, v in good.items() if k != "W_o"}).startswith(
        "bad.npz holds W_c, W_f, W_i, b_c, b_f, b_i, b_o; W_o is missing"
    )
    text = said(**{**good, "W_i": good["W_i"][:2]})
    assert "W_i (2, 7)" in text
    assert "these shapes do not go together: at H = 4, D = 3 they would be W_c (4, 7)" in text
    assert said(**{**good, "b_f": np.full(H, np.nan)}) == "bad.npz holds NaN or infinity in b_f; every weight must be a number"
    assert "cannot be read as .npz" in said(**{**good, "W_f": np.array([{}])})
    for content in (b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"cannot be read as \.npz .*; write it with np.savez\(path, W_f=…, …\), numbers only"):
            read(path, REFERENCE)
    with pytest.raises(WeightsError, match=r"does not exist; --weights takes a file that np\.savez wrote"):
        read(tmp_path / "none.npz", REFERENCE)
    assert command("ref:", "--weights", tmp_path / "none.npz", "--csv", tmp_path / "v.csv")[0] == 2
    assert "--hidden is 5, but the weights have H = 4" in command("--weights", weights_file, "--hidden", 5, "--csv", tmp_path / "v.csv")[1]


def test_the_command_draws_the_same_bytes_for_a_seed(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install '.[plots]'")
    drawn = []
    for n in (1, 2):
        svg, png, values = (tmp_path / f"{n}.{k}" for k in ("svg", "png", "csv"))
        code, printed = command("--steps", T, "--hidden", H, "--out", f"{svg},{png}", "--csv", values)
        assert code == 0, printed
        drawn.append([p.read_bytes() for p in (svg, png, values)])
    assert drawn[0] == drawn[1]
    assert drawn[0][1][:4] == b"\x89PNG"
    text = " ".join(html.unescape(w) for w in re.findall(r"<text[^>]*>([^<]+)<", drawn[0][0].decode())).replace("\u00a0", " ")
    for due in ("at forget bias 0 (×", "LSTM, bias 1", "LSTM, bias 3  ×", "bound, RNN", "steps back, t − k", "‖∂Jₜ/∂hₖ‖", "ref:  T = 7"):
        assert due in text, due
    assert b"dc:date" not in drawn[0][0]
    assert re.search(r"plain RNN +(vanishes|lasts) +×0\.\d\d per step back", printed)
    assert "wrote " in printed


@pytest.mark.parametrize(
    "arguments", [("--scale", 100, "--steps", 60), ("--scale", 0), ("--steps", 2, "--hidden", 1), ("--forget-bias", "-40")]
)
def test_extremes_are_drawn(tmp_path, arguments):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install '.[plots]'")
    code, printed = command("--hidden", 3, *arguments, "--out", tmp_path / "a.svg")
    assert code == 0, printed


def test_the_title_says_what_vanishes_and_what_explodes():
    lag = np.arange(41)
    curves = [flow.Curve("RNN", None, 0.5**lag, 0.5 ** lag[:-1])]
    curves += [flow.Curve("LSTM", b, r**lag, r ** lag[:-1]) for b, r in ((0.0, 0.6), (1.0, 0.8), (3.0, 1.0), (-9.0, 1.5))]
    said = report.sentence(flow.Flow(Sizes(40, 1, 2, 2), 40, tuple(curves))).replace("\u00a0", " ")
    assert said == (
        "The plain RNN's gradient vanishes (×0.50 per step); the LSTM's vanishes at forget bias 0 (×0.60) and 1 (×0.80), "
        "lasts at forget bias 3 (×1.00) and explodes at forget bias −9 (×1.50)."
    )


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        (("--out", "a.pdf"), "--out has a.pdf; it must end with .png or .svg (both: --out flow.png,flow.svg)"),
        (("--forget-bias", "1,x"), "--forget-bias is '1,x'; numbers with commas between them are due, such as 0,1,3"),
        (("--scale", "nan"), "--scale is nan; it must be a number from 0"),
        (("--forget-bias", "nan"), "--forget-bias is 'nan'; numbers"),
    ],
)
def test_wrong_options_are_said_in_words(arguments, due):
    code, printed = command("--steps", 3, *arguments)
    assert (code, due in printed) == (2, True), printed


def test_without_matplotlib_the_extra_is_named_and_csv_still_written(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; from lstm_ref.cli import main; main()"

    def run(*arguments):
        command = [sys.executable, "-c", code, "flow", "--steps", "3", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run()
    assert done.returncode == 2
    due = "lstm-ref: a picture needs matplotlib: pip install 'lstm-ref[plots]'; --csv FILE writes the values without it"
    assert done.stderr.strip() == due
    done = run("--csv", "v.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "v.csv").read_text().splitlines()) == 1 + 4 * 4
    assert not list(tmp_path.glob("*.png"))


def test_the_picture_of_the_page_is_that_of_the_command(tmp_path):
    """The committed values' picture is of this version: drawn anew, it says the same words."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install '.[plots]'")
    page = Path(__file__).resolve().parents[2] / "docs" / "assets" / "flow.svg"
    assert page.stat().st_size < 60_000
    code, printed = command("--out", tmp_path / "flow.svg")
    assert code == 0, printed

    def words(path):
        found = re.findall(r"<text[^>]*>([^<]+)<", path.read_text(encoding="utf-8"))
        return [w for w in found if not w.isdigit() and w[:2] != "10"]  # ticks are matplotlib's choice

    assert words(page) == words(tmp_path / "flow.svg")
