"""Diagnosis: the wrong term is named, in words; what is right, random or unknown is never explained."""

import io

import numpy as np
import pytest
from rich.console import Console

from lstm_ref import verify
from lstm_ref.candidates.layout import PRESETS
from lstm_ref.candidates.load import plug
from lstm_ref.candidates.reference import ReferenceLayer, ReferenceModel
from lstm_ref.diagnosis import edges, gains, mutants, power, rounded
from lstm_ref.diagnosis.explain import explain, matching
from lstm_ref.diagnosis.localise import localise
from lstm_ref.diagnosis.probe import SIZES, probes
from lstm_ref.judgement import reading, run, selftest
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.doctor import examine
from lstm_ref.reference.symbols import WEIGHTS
from lstm_ref.report import power as report
from lstm_ref.report import words

from .planted import FAULTS, layer, model
from .strangers import CellByCell, KerasStyle, MeanLoss, WrongGateOrder, spoilt

BANK = mutants.bank()
FLOAT64 = tol.PRECISIONS["float64"]


def candidate(mutant):
    return power._candidate(lambda: power.as_candidate(mutant), mutant.model)


def named(mutant, found) -> bool:
    """Whether the explanation names the mutant, or an edge whose gain is the same mistake."""
    same = {
        "σ' with the wrong sign": "with the wrong sign",
        "its sign": "with the wrong sign",
        "counted twice in dc": "counted twice",
        "the factor tanh_c is missing": "missing",
        "zero elsewhere": "missing",
    }
    told = [text for _, text in found.names] + [f"edge:{f.edges[0].id}:" for f in found.fits]
    if mutant.words in told or any(mutant.id.startswith(t) for t in told if t.startswith("edge:")):
        return True
    return any(mutant.id.partition(":")[2].find(k) >= 0 and found.fits and found.fits[0].wrong == (v,) for k, v in same.items())


def test_bank_is_large_and_covers_every_backward_equation():
    assert len(BANK) > 450
    labels = {m.label for m in BANK}
    assert {"B:logits", "B:output-layer", "B:hidden", "B:output", "B:cell", "B:gates", "B:preact", "B:concat", "B:split"} <= labels
    assert {"B:carry", "B:weights", "B:biases", "B:initial"} <= labels


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_quick_kills_the_bank(dtype):
    found = power.power("quick", dtype)
    survivors = [k.mutant.id for k in found.kills if not k.checks and k.mutant.kind != "precision"]
    assert not survivors
    assert found.false_alarms == 0
    if dtype == "float64":
        assert all(k.checks for k in found.kills)
        assert found.entry < 1e-12
    else:
        assert found.entry < 1e-3


def test_sight_is_told_over_weight_scale_and_steps(monkeypatch):
    monkeypatch.setattr(power, "CURVE_WEIGHTS", (0.01, 3.0))
    monkeypatch.setattr(power, "CURVE_STEPS", (1, 10))
    monkeypatch.setattr(power, "CURVE_CASES", 3)
    sights = {(s.weights, s.T): s for s in power.curve("float64")}
    assert sights[0.01, 1].entry < sights[0.01, 10].entry < 1e-13 < sights[3.0, 10].entry < 1e-9
    assert all(s.resolved == 1 for s in sights.values())
    out = io.StringIO()
    report.show_curve(Console(file=out, width=80), "float64", list(sights.values()))
    assert "T = 10" in out.getvalue()
    assert f"{sights[3.0, 10].entry:.1e}" in out.getvalue()
    with pytest.raises(ValueError, match="the dtype is 'float8'"):
        power.curve("float8")


def test_right_term_comes_first_on_the_bank():
    """Every fifth mutant; `lstm-ref power` and the docs have the whole bank."""
    sample = [m for m in BANK if m.kind != "region"][::5]
    missed = []
    for mutant in sample:
        found = explain(candidate(mutant), FLOAT64)
        if found is None or not named(mutant, found):
            missed.append(mutant.id)
    assert len(missed) <= 0.03 * len(sample), missed


def test_mistakes_beside_the_bank_are_named():
    """Every third one: most are made by one rule."""
    beside = [m for m in mutants.known() if m not in BANK]
    assert beside
    assert len({m.id for m in mutants.known()}) == len(BANK) + len(beside)
    assert not [m.id for m in beside[::3] if m.words not in [k.words for k, _ in matching(probes(candidate(m), FLOAT64, SIZES[:2]))]]


@pytest.mark.parametrize(
    "told",
    [
        "da_c: (1 − g)² for 1 − g²",
        "dc: (1 − tanh c)² for 1 − tanh²c",
        "dc_next: f² for f",
        "dc: o² for o",
        "dc_tilde: i² for i",
        "softmax gradient: its weight on the probabilities only",
    ],
)
def test_a_square_or_weight_in_the_wrong_place_is_named(told):
    mutant = next(m for m in mutants.known() if m.words == told)
    assert [name for _, name in explain(candidate(mutant), FLOAT64).names] == [told]


@pytest.mark.parametrize("condition", mutants.SOME_STEPS)
def test_a_mistake_at_some_steps_alone_is_named_with_them(condition):
    """As where the ends of the loop are written apart."""
    some = mutants.at_steps(condition)
    assert len(some) > 200
    for mutant in some[7::50]:
        found = explain(candidate(mutant), FLOAT64)
        assert found is not None, mutant.id
        assert mutant.words in [words for _, words in found.names], mutant.id


def test_pairs_of_edges_are_found():
    rng, good, total = np.random.default_rng(5), 0, 15
    for _ in range(total):
        one, two = (edges.EDGES[k] for k in rng.choice(len(edges.EDGES), 2, replace=False))
        wrong = [gains.PAIR_GAINS[k] for k in rng.integers(0, len(gains.PAIR_GAINS), 2)]

        def spoil(trace, s, head=None, pair=(one, two), wrong=wrong):
            n = type("n", (), {"T": trace.h.shape[0], "B": trace.h.shape[1]})
            table = np.ones((1, len(edges.INDEX)), complex)
            for edge, w in zip(pair, wrong, strict=True):
                table[0, edges.INDEX[edge.id]] = gains.USUAL[w](n)
            return {k: v[0].real for k, v in edges.gained(trace, table, s, head).items()}

        found = explain(candidate(mutants.Mutant("pair", "pair", "", "", spoil)), FLOAT64)
        good += found is not None and any({e.id for e in f.edges} == {one.id, two.id} for f in found.fits)
    assert good >= 0.8 * total


LEAF = ("B:weights", "B:biases", "B:split", "B:initial")  # where a gradient is formed that nothing else is formed from


def test_two_mistakes_are_named_where_one_shows_in_a_few_gradients_alone():
    changes = [m for m in BANK if m.change is not None and not m.model]
    leaves, rest = ([m for m in changes if (m.label in LEAF) is leaf] for leaf in (True, False))
    rng, good, total = np.random.default_rng(11), 0, 6
    for _ in range(total):
        one, two = rest[rng.integers(len(rest))], leaves[rng.integers(len(leaves))]
        found = explain(candidate(mutants.Mutant("two", "two", "", "", mutants.run_of(one.change, two.change))), FLOAT64)
        told = [text for _, text in found.names] if found else []
        good += any(one.words in text and text.endswith(f", and {two.words}") for text in told)
    assert good >= total - 1  # one may have an edge's gain for an equal


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("da_c: 1 − g for 1 − g²", "dc: tanh' twice"),
        ("da_o: σ' missing", "dc_next: f of t−1"),
        ("da_f: σ' of gate o", "da_i: σ' missing"),
        ("dc: tanh' on raw c", "dc_next from dh's path only"),
        ("W_h not transposed", "di: df for dc"),
    ],
)
def test_two_mistakes_are_named_where_one_shows_in_a_single_step_in_few_gradients(one, two):
    changes = [next(m.change for m in BANK if m.words == w) for w in (one, two)]
    found = explain(candidate(mutants.Mutant("two", "two", "", "", mutants.run_of(*changes))), FLOAT64)
    assert {f"{one}, and {two}", f"{two}, and {one}"} & {text for _, text in found.names}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            layer(("dc_next = dc[t] * f[t]", "dc_next = 0 * dc[t]"), ("step_sum(da.all)", "step_sum(da.all) / dh_out.shape[1]")),
            "dc_next' = dc ⊙ f is missing, and every db_k is averaged over the batch (B:carry and B:biases)",
        ),
        (
            layer(("dc_next = dc[t] * f[t]", "dc_next = 0 * dc[t]"), ("outer_sum(da.all, z)", "outer_sum(da.all[:-1], z[:-1])")),
            "",  # the last step left out of dW is no mistake of the bank
        ),
        (
            model(
                ("dv = w[..., None] * head.y_hat - w[..., None] * onehot", "dv = head.y_hat - onehot"),
                ("step_sum(dv)", "step_sum(dv[:, -1:])"),
            ),
            "softmax gradient: without its weight, and softmax gradient: db_v of the last row (B:logits and B:output-layer)",
        ),
    ],
)
def test_two_mistakes_in_words(wrong, told):
    text = words.explanation(verify(wrong, only="grad.*.autodiff"))
    assert text.startswith(
        f"diagnosis: {told}\n  this explains all of the " if told else "diagnosis: no single term explains these gradients"
    )


def test_two_mistakes_that_are_found_in_two_ways_are_told_once():
    def exchanged(g):
        averaged = {k: v / g["x"][..., 0].size for k, v in g.items() if k[0] == "b"}
        return {**g, **averaged, "h0": g["c0"], "c0": g["h0"]}

    (told,) = explain(plug(spoilt(change_gradients=exchanged))[0], FLOAT64).names
    assert told == ("B:initial and B:biases", "dh0 and dc0 exchanged, and every db_k is averaged over batch and time")


@pytest.mark.parametrize("off", [1e-6, -1e-9, 1e-11])
def test_a_gain_that_is_nearly_one_is_named(off):
    def scaled(trace, s, head=None):
        return {k: v * (1 + off) if k[0] == "b" else v for k, v in mutants.right(trace, s, head).items()}

    (fit,) = explain(candidate(mutants.Mutant("scaled", "scaled", "", "", scaled)), FLOAT64).fits
    assert (fit.edges[0].words, fit.wrong) == ("every db_k", (f"multiplied by 1{off:+.0e}",))
    assert words.gain(fit.gains[0]) == f"1{off:+.0e}"
    assert [words.gain(g) for g in (-0.0, -1.0, 0.5, 1 + 1 / 1024, -4e200)] == ["0.000", "-1.000", "0.500", "1.001", "-4e+200"]


def kernel_by(change):
    """One whose gradient of the recurrent kernel is changed: the weights of h alone."""

    class Changed(KerasStyle):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: (lambda g: {**g, "recurrent_kernel": change(g["recurrent_kernel"], p)})(pull(s))

    return Changed


H_FIRST = layer(("outer_sum(da.all, z)", "np.concatenate([outer_sum(da.all[:1], z[:1])[..., :H], outer_sum(da.all, z)[..., H:]], axis=-1)"))
X_FIRST = layer(("outer_sum(da.all, z)", "np.concatenate([outer_sum(da.all, z)[..., :H], outer_sum(da.all[:1], z[:1])[..., H:]], axis=-1)"))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (kernel_by(lambda g, p: g / len(p["x"])), "the gradient of recurrent_kernel is averaged over the batch"),
        (kernel_by(lambda g, p: -g), "the gradient of recurrent_kernel is with the wrong sign"),
        (kernel_by(lambda g, p: g * (1 + 1e-7)), "the gradient of recurrent_kernel is multiplied by 1+1e-07"),
        (H_FIRST, "the part of dW_k that is h's: dW of the first step only"),
        (X_FIRST, "the part of dW_k that is x's: dW of the first step only"),
        (kernel_by(lambda g, p: g + 1e-3 * np.roll(g, 1)), ""),
    ],
)
def test_what_is_wrong_with_the_weights_of_x_or_of_h_alone_is_named(wrong, told):
    found = explain(plug(wrong)[0], FLOAT64)
    assert (found.names if found else ()) == ((("B:weights", told),) if told else ())
    assert explain(plug(kernel_by(lambda g, p: g))[0], FLOAT64) is None


@pytest.mark.parametrize("size", [0.01, 1e-6, 1e-9])
def test_right_and_random_gradients_are_never_explained(size):
    def random(trace, s, head=None):
        rng = np.random.default_rng(len(trace.h))
        return {k: v * (1 + size * rng.standard_normal(v.shape)) for k, v in mutants.right(trace, s, head).items()}

    assert explain(candidate(mutants.Mutant("random", "random", "", "", random)), FLOAT64) is None
    for dtype in ("float64", "float32"):
        assert explain(plug(CellByCell)[0], tol.PRECISIONS[dtype]) is None


def test_explanation_needs_weight_gradients_only_and_works_in_any_layout_and_in_float32():
    class Partial(KerasStyle):
        supports = {"x_gradient": False, "h0_gradient": False, "c0_gradient": False}

        def pullback(self, p):
            outputs, pull = super().pullback(p)

            def weights_only(s):
                found = pull({**s, "c_T": 0 * s["c_T"]})
                return {k: found[k] for k in ("kernel", "recurrent_kernel", "bias")}

            return outputs, weights_only

    for dtype in ("float64", "float32"):
        found = explain(plug(Partial)[0], tol.PRECISIONS[dtype])
        assert found.fits[0].edges[0].id == "dc<-s_c"
        assert found.fits[0].wrong == ("missing",)


def test_explanation_reads_like_a_colleagues():
    verdict = verify(FAULTS["c_T's cotangent ignored"][0])
    text = words.explanation(verdict)
    assert "the cotangent of the returned c_T is missing (B:cell): gain" in text
    assert "on dc<-s_c, every other edge 1" in text
    assert "this explains all of the 11 wrong gradients" in text
    assert not words.explanation(verify(CellByCell, only="grad.*"))


def test_self_test_catches_a_blind_comparator(monkeypatch):
    assert all(selftest.misjudged(d) == [] for d in tol.PRECISIONS)
    monkeypatch.setattr(tol, "KAPPA", 1e16)
    assert any("is not caught" in problem for problem in selftest.misjudged("float64"))
    verdict = verify(CellByCell, only="grad.x.autodiff")
    assert verdict.outcome == "inconclusive"
    assert "lstm-ref misjudges gradients that it knows" in verdict.notes[0]


def test_a_deaf_comparator_has_no_verdict(monkeypatch):
    monkeypatch.setattr(tol, "KAPPA", 1e-6)
    monkeypatch.setattr(tol, "RMS_LIMIT", 1e-9)
    assert run.misjudged("float64")[0].startswith("a right gradient fails")


class Misdeclared(KerasStyle):
    layout = {
        "order": "fogi",
        "packed": True,
        "joint": "split",
        "transposed": True,
        "batch_first": True,
        "names": {"W_x": "kernel", "W_h": "recurrent_kernel", "b": "bias"},
    }


class MisdeclaredAndWrong(Misdeclared):
    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {k: -v if k == "bias" else v for k, v in pull(s).items()}


def test_a_wrong_layout_fails_once_with_the_layout_to_write():
    verdict = verify(Misdeclared)
    assert [r.id for r in verdict.failures()] == ["forward.h"]
    assert "order='ifgo'" in verdict.failures()[0].reason  # keras' i, f, c, o in the letters of what was declared
    wrong = verify(MisdeclaredAndWrong)
    failed = {r.id for r in wrong.failures()}
    assert {"forward.h", "grad.b_f.autodiff"} <= failed
    assert "grad.W_f.autodiff" not in failed


class Identity(CellByCell):
    """Right, with h = o ⊙ c."""

    def pullback(self, p):
        h, c, saved, out = p["h0"], p["c0"], [], []
        for x in p["x"]:
            z = np.hstack([h, x])
            f, i, o = (self.sigmoid(z @ p[f"W_{k}"].T + p[f"b_{k}"]) for k in "fio")
            g = np.tanh(z @ p["W_c"].T + p["b_c"])
            saved.append((z, f, i, o, g, c))
            c = f * c + i * g
            h = o * c
            out.append(h)
        last = c

        def pull(s):
            grads = {k: np.zeros_like(v) for k, v in p.items()}
            dh_next, dc_next, now = 0 * p["h0"], s["c_T"], last
            for t in range(len(saved) - 1, -1, -1):
                z, f, i, o, g, before = saved[t]
                dh = s["h"][t] + dh_next
                dc = dc_next + dh * o
                da = {"f": dc * before * f * (1 - f), "i": dc * g * i * (1 - i), "c": dc * i * (1 - g * g), "o": dh * now * o * (1 - o)}
                dz = sum(da[k] @ p[f"W_{k}"] for k in "fico")
                for k in "fico":
                    grads[f"W_{k}"] += da[k].T @ z
                    grads[f"b_{k}"] += da[k].sum(0)
                dh_next, grads["x"][t], dc_next, now = dz[:, : h.shape[1]], dz[:, h.shape[1] :], dc * f, before
            return {**grads, "h0": dh_next, "c0": dc_next}

        return {"h": np.array(out), "c_T": last}, pull


def test_a_variant_fails_forward_only_and_is_named():
    verdict = verify(Identity)
    assert [r.id for r in verdict.failures()] == ["forward.h"], [(r.id, r.reason) for r in verdict.failures()]
    assert "h = o ⊙ c, without a tanh" in next(r.reason for r in verdict.failures() if r.id == "forward.h")
    assert "variant = dict(output='identity')" in verdict.failures()[0].reason
    assert verdict.kind == "variant"
    assert verdict.gradients == "pass"


class OneRow(Misdeclared):
    """The first case of it has one row, and so speaks for sizes of one too."""

    supports = {"B": 1}


class OneRowAndWrong(MisdeclaredAndWrong):
    supports = {"B": 1}


def test_a_forward_failure_that_a_declaration_explains_fails_nothing_else():
    verdict = verify(OneRow, only="forward.*,sizes.*")
    assert [r.id for r in verdict.failures()] == ["forward.h"], [(r.id, r.reason) for r in verdict.failures()]
    assert verdict.gradients == "pass"
    wrong = verify(OneRowAndWrong, only="forward.*,grad.*")
    shown = {r.id: r.counterexample for r in wrong.failures()}
    assert shown["forward.h"] is None
    assert shown["grad.b_f.autodiff"].primary


def test_an_output_is_not_called_a_gradient_where_a_group_of_cases_shows_it():
    class LongStates(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            h = outputs["h"] * (1.5 if len(p["x"]) >= 6 else 1)
            return {**outputs, "h": h}, pull

    long = next(r for r in verify(LongStates, only="forward.*,sizes.*").failures() if r.id == "sizes.long")
    assert 'worst      outputs["h"]' in words.failure(long, "mine")


class Backwards(CellByCell):
    """Right, but that it runs from the last step to the first."""

    def pullback(self, p):
        outputs, pull = super().pullback({**p, "x": p["x"][::-1]})

        def back(s):
            last = (np.arange(len(s["h"])) == 0)[:, None, None] * s.get("h_T", 0)
            g = pull({"h": (s["h"] + last)[::-1], "c_T": s["c_T"]})
            return {**g, "x": g["x"][::-1]}

        return {"h": outputs["h"][::-1], "h_T": outputs["h"][-1], "c_T": outputs["c_T"]}, back


class WithRelu(CellByCell):
    def cell(self, p, x, h, c):
        z = np.hstack([h, x])
        f, i, o = (self.sigmoid(z @ p[f"W_{k}"].T + p[f"b_{k}"]) for k in "fio")
        c = f * c + i * np.maximum(z @ p["W_c"].T + p["b_c"], 0)
        return o * np.tanh(c), c, (z, f, i, o, None, c, None)


class CoupledToForget(CellByCell):
    def cell(self, p, x, h, c):
        z = np.hstack([h, x])
        f, o = (self.sigmoid(z @ p[f"W_{k}"].T + p[f"b_{k}"]) for k in "fo")
        c = f * c + (1 - f) * np.tanh(z @ p["W_c"].T + p["b_c"])
        return o * np.tanh(c), c, (z, f, 1 - f, o, None, c, None)


@pytest.mark.parametrize(
    ("candidate", "line"),
    [(Backwards, "direction='reverse'"), (WithRelu, "activation='relu'"), (CoupledToForget, "coupled='i', idle_gate=True")],
)
def test_a_variant_without_arrays_of_its_own_is_looked_for(candidate, line):
    face = plug(candidate)[0]
    told = words.identified(reading.find(face, FLOAT64), face)
    assert f"write variant = dict({line}) in the class" in told


def test_what_runs_in_reverse_and_says_so_is_as_declared():
    class Declared(Backwards):
        variant = {"direction": "reverse"}

    face = plug(Declared)[0]
    assert words.identified(reading.find(face, FLOAT64), face) == "the forward pass is that of the LSTM as it is declared"


def test_identify_finds_gates_taken_for_one_another():
    found = reading.find(plug(WrongGateOrder)[0], FLOAT64)
    assert "W_i and b_i for gate f" in found.words
    assert reading.find(plug(CellByCell)[0], FLOAT64).words == ""
    assert words.identified(None, plug(CellByCell)[0]).startswith("no layout and no variant")


class TimeFirst(KerasStyle):
    """Batch first, declared as time first: arrays do not fit, and it raises."""

    layout = {**vars(PRESETS["keras"]), "batch_first": False}


class Untransposed(KerasStyle):
    layout = {**vars(PRESETS["keras"]), "transposed": False}


@pytest.mark.parametrize(("candidate", "write"), [(TimeFirst, "batch_first=True"), (Untransposed, "transposed=True")])
def test_arrays_the_other_way_round_are_read_and_the_rest_is_judged(candidate, write):
    verdict = verify(candidate)
    assert [r.id for r in verdict.failures()] == ["forward.h"]
    assert f"write {write} in the layout" in verdict.failures()[0].reason
    assert verdict.kind == "textbook"


class UndeclaredMean(MeanLoss):
    """The mean over all positions, declared as the sum."""

    reduction = "sum"


class OverTheWeights(MeanLoss):
    """Divided by the sum of the weights, declared as the sum."""

    reduction = "sum"

    def loss_and_gradients(self, p):
        J, gradients = super().loss_and_gradients(p)
        share = p["w"].size / p["w"].sum()
        return J * share, {k: v * share for k, v in gradients.items()}


class DeclaredWeightedMean(OverTheWeights):
    reduction = "weighted mean"


@pytest.mark.parametrize(("candidate", "reduction"), [(UndeclaredMean, "mean"), (OverTheWeights, "weighted mean")])
def test_a_loss_of_another_reduction_fails_once_with_the_reduction_to_write(candidate, reduction):
    verdict = verify(candidate)
    assert [r.id for r in verdict.failures()] == ["forward.J"]
    assert f"write reduction = '{reduction}' in the class" in verdict.failures()[0].reason
    assert f"reduction = '{reduction}'" in words.identified(reading.find(plug(candidate)[0], FLOAT64), plug(candidate)[0])


class HeadTurned(MeanLoss):
    """Right on W_v (H, K), which it is not given."""

    def loss_and_gradients(self, p):
        J, gradients = super().loss_and_gradients({**p, "W_v": p["W_v"].T})
        return J, {**gradients, "W_v": gradients["W_v"].T}


class HeadWhicheverFits(HeadTurned):
    """It takes W_v as (H, K) where that fits, and as (K, H) where not: right wherever K is not H."""

    def loss_and_gradients(self, p):
        K, H = p["W_v"].shape
        return super().loss_and_gradients(p) if K == H else MeanLoss.loss_and_gradients(self, p)


@pytest.mark.parametrize("candidate", [HeadTurned, HeadWhicheverFits])
def test_a_weight_of_the_head_that_is_read_the_other_way_round_is_told(candidate):
    face = plug(candidate)[0]
    told = words.identified(reading.find(face, FLOAT64), face)
    assert told == "the loss is that of an LSTM with W_v read as (H, K), where it is given as (K, H), in every layout"
    found = examine(face, FLOAT64)
    assert not found.fits
    assert len({*found.sizes}) == 5
    if candidate is HeadTurned:
        assert "raised ValueError" in found.problems[0].sentence
        assert "at T=4, B=2, D=3, H=5, K=6 (" in found.problems[0].sentence


class SummedGradients(MeanLoss):
    """The loss is a mean, its gradients are of the sum."""

    def loss_and_gradients(self, p):
        J, gradients = super().loss_and_gradients(p)
        return J, {k: v * p["y"].size for k, v in gradients.items()}


def test_gradients_of_a_sum_where_the_loss_is_a_mean_are_called_that():
    told = [(f.edges[0].id, f.wrong) for f in explain(plug(SummedGradients)[0], FLOAT64).fits]
    assert ("dv", ("summed over batch and time where a mean is due",)) in told


def decayed(base, method, shares):
    """A candidate whose gradients have shares of their own parameters on them."""

    class Decayed(base):
        pass

    def with_shares(self, p):
        one, two = getattr(base, method)(self, p)

        def changed(gradients):
            return {k: v + shares[k[:2]] * p[k] if k[:2] in shares else v for k, v in gradients.items()}

        return (one, (lambda s: changed(two(s)))) if callable(two) else (one, changed(two))

    setattr(Decayed, method, with_shares)
    return plug(Decayed)[0]


@pytest.mark.parametrize(
    ("base", "shares", "label", "told"),
    [
        (CellByCell, {"W_": 1e-3}, "B:weights", "0.001 times the parameter itself is added to dW_f, dW_i, dW_c, dW_o (weight decay"),
        (
            KerasStyle,
            {"ke": 2.0, "re": 2.0},
            "B:weights",
            "2 times the parameter itself is added to dW_f, dW_i, dW_c, dW_o (weight decay: ",
        ),
        (CellByCell, {"b_": -0.3}, "B:biases", "-0.3 times the parameter itself is added to db_f, db_i, db_c, db_o (weight decay"),
        (MeanLoss, {"b_": 1e-3}, "B:biases", "0.001 times the parameter itself is added to db_f, db_i, db_c, db_o, db_v (weight decay"),
        (
            ReferenceModel,
            {"W_": 0.25},
            "B:weights",
            "0.25 times the parameter itself is added to dW_f, dW_i, dW_c, dW_o, dW_v (weight decay: ",
        ),
    ],
)
def test_weight_decay_is_named(base, shares, label, told):
    found = explain(decayed(base, "pullback" if hasattr(base, "pullback") else "loss_and_gradients", shares), FLOAT64)
    ((where, text),) = found.names
    assert where == label
    assert text.startswith(told)


@pytest.mark.parametrize("shares", [{"W_": 1e-3, "b_": 2e-3}, {"x": 1e-3}, {"h0": 1e-3}, {"W_": np.nan}, {"b_": np.inf}])
def test_what_is_no_weight_decay_is_not_called_it(shares):
    assert explain(decayed(CellByCell, "pullback", shares), FLOAT64) is None


def test_what_nothing_explains_is_said_to_be_that(monkeypatch):
    """Numbers that are wrong where no small case shows it; arrays of another shape explain themselves."""
    monkeypatch.setattr("lstm_ref.diagnosis.explain.diagnose", lambda face, precision, seen: None)

    class Noisy(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {**(g := pull(s)), "W_f": g["W_f"] + 1e-6 * p["W_f"]}  # input value

    class Columns(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {k: v[:, None] if k[0] == "b" else v for k, v in pull(s).items()}

    verdict = verify(Noisy, only="grad.W_f.autodiff")
    assert words.explanation(verdict) == "diagnosis: no single term explains these gradients"
    assert verdict.explanation.failing == ("W_f",)
    assert not words.explanation(verify(Columns, only="grad.b_f.autodiff"))


def test_a_forward_pass_that_gives_nothing_to_read_is_told_as_that():
    class Raises(CellByCell):
        def pullback(self, p):
            raise RuntimeError("out of memory")

    (face,) = plug(Raises)
    assert reading.find(face, FLOAT64) is None
    told = words.identified(None, face, reading.unread(face, FLOAT64))
    assert told.startswith("the forward pass gave nothing that could be read: pullback raised RuntimeError: out of memory at T=1")
    assert not reading.unread(plug(CellByCell)[0], FLOAT64)


def test_the_mean_over_the_weights_is_a_reduction():
    assert verify(DeclaredWeightedMean).outcome == "pass"


def test_cotangents_taken_in_reverse_are_named_without_h_T_as_an_output():
    class Reversed(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: pull({**s, "h": s["h"][::-1]})

    assert "what flows in is reversed in time" in [text for _, text in explain(plug(Reversed)[0], FLOAT64).names]


def test_gradients_that_are_all_averaged_are_called_that_without_h_T_as_an_output():
    class Averaged(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {k: v / p["x"].shape[0] / p["x"].shape[1] for k, v in pull(s).items()}

    told = explain(plug(Averaged)[0], FLOAT64)
    assert [(f.edges[0].id, f.wrong) for f in told.fits] == [("every gradient", ("averaged over batch and time",))]


def test_sums_that_are_never_cleared_are_asked_of_new_instances():
    class Accumulates(CellByCell):
        def __init__(self):
            self.kept = {}

        def pullback(self, p):
            outputs, pull = super().pullback(p)

            def add(s):
                grads = pull(s)
                grads["b_f"] = grads["b_f"] + self.kept.get(grads["b_f"].shape, 0)
                self.kept[grads["b_f"].shape] = grads["b_f"]
                return grads

            return outputs, add

    told = words.explanation(verify(Accumulates, only="grad.b_f.autodiff,state.repeat"))
    assert "are right when they are asked again: what a call returns depends on" in told
    assert "wrong only where" not in told


def test_gradients_of_one_that_ignores_its_initial_state_are_not_called_wrong():
    class Ignores(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback({**p, "h0": 0 * p["h0"]})
            return outputs, lambda s: {**pull(s), "h0": 0 * p["h0"]}

    verdict = verify(Ignores, only="forward.*,grad.*")
    failed = {r.id for r in verdict.failures()}
    assert "forward.initial_state" in failed
    assert not {k for k in failed if k.startswith("grad.")}  # not by autodiff either where h0 is zero, and the forward pass the textbook's
    assert "h0 ignored" in next(r.reason for r in verdict.failures() if r.id == "forward.initial_state")
    assert words.explanation(verdict) == ""


def test_what_no_term_explains_is_localised():
    class Odd(ReferenceLayer):
        """da_f of the third step is off by a number of its own, and what depends on it is not."""

        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)

            def spoil(s):
                g = pull(s)
                if len(g["a_f"]) >= 3:
                    g["a_f"][2, 1, 0] += 0.1
                    g["b_f"][0] += 0.1
                return g

            return outputs, spoil

    verdict = verify(Odd, only="grad.*,inter.*")
    text = words.explanation(verdict)
    assert "wrong only where T > 2" in text
    assert "no single term explains what is wrong there" in text
    assert "first wrong quantity in backward order: da_f at t = 3 (b = 1, unit = 0)" in text
    assert "first wrong at T = 3: b_f" in text


def test_localisation_tells_which_cotangent_brings_the_fault_out():
    class OnlyFromC(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)

            def spoil(s):
                g = pull(s)
                return {**g, "x": g["x"] + np.abs(s["c_T"]).sum() * np.sin(np.arange(g["x"].size)).reshape(g["x"].shape)}

            return outputs, spoil

    told = words.explanation(verify(OnlyFromC, only="grad.*,law.*"))
    assert "laws that break: " in told
    assert "law.euler (the weights of x, or dx)" in told
    assert "law.homogeneity" not in told
    found = localise(plug(OnlyFromC)[0], FLOAT64)
    assert found.flows == ("c_T",)
    assert found.smallest_T == 1
    assert localise(plug(CellByCell)[0], FLOAT64) is None


def test_localisation_speaks_of_steps_that_are_supported():
    class Late(CellByCell):
        supports = {"T": [1, 4, 7]}

        def pullback(self, p):
            outputs, pull = super().pullback(p)

            def spoil(s):
                g = pull(s)
                return {**g, "x": g["x"] + (len(g["x"]) > 1) * np.abs(s["h"]).sum()}

            return outputs, spoil

    found = localise(plug(Late)[0], FLOAT64)
    assert found.smallest_T == 4
    assert found.flows == ("h_1", "h_2", "h_3", "h_4", "h_T")
    assert found.tried == (*found.flows, "c_T")


def test_localisation_says_nothing_of_cotangents_where_all_of_them_together_are_right():
    class AtThree(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {**(g := pull(s)), "x": g["x"] + (len(g["x"]) == 3) * np.abs(s["h"]).sum()}

    found = localise(plug(AtThree)[0], FLOAT64)
    assert (found.smallest_T, found.failing, found.flows, found.tried) == (3, ("x",), (), ())


class LossElsewhere(MeanLoss):
    """The loss that is returned is another one; its gradients are not of it."""

    def loss_and_gradients(self, p):
        J, gradients = super().loss_and_gradients(p)
        return J**2, gradients


class Limited(CellByCell):
    """What is returned as h is cut off; the gradients are those of the whole."""

    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return {**outputs, "h": np.clip(outputs["h"], -0.3, 0.3)}, pull  # input values


@pytest.mark.parametrize(("wrong", "name"), [(LossElsewhere, "J"), (Limited, "h")])
def test_right_gradients_beside_wrong_outputs_are_said_to_be_right(wrong, name):
    """They fail by differences of the candidate's own forward pass, and no term of theirs is wrong."""
    verdict = verify(wrong)
    assert f"forward.{name}" in {r.id for r in verdict.failures()}
    told = f"diagnosis: every gradient is that of the textbook's function, to rounding; what is wrong is {name}, not they"
    assert words.explanation(verdict) == told


def in_eight_bits(p):
    """The weights of the gates on a grid of their own."""
    steps = {k: np.abs(v).max() / 127 or 1.0 for k, v in p.items() if k in WEIGHTS}  # input values
    return {k: (np.round(v / steps[k]) * steps[k]).astype(v.dtype) if k in steps else v for k, v in p.items()}


class StraightThrough(CellByCell):
    """Gradients of the weights are passed straight through their rounding: no derivatives of what is computed. Those of all else are."""

    def pullback(self, p):
        return super().pullback(in_eight_bits(p))


class StraightThroughLoss(MeanLoss):
    """The same."""

    def loss_and_gradients(self, p):
        return super().loss_and_gradients(in_eight_bits(p))


class Forgetful(CellByCell):
    """W_f is not used at all, and has a gradient."""

    def pullback(self, p):
        return super().pullback({**p, "W_f": 0 * p["W_f"]})


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("candidate", [StraightThrough, StraightThroughLoss])
def test_weights_that_are_rounded_on_the_way_are_said_to_be(candidate, dtype):
    """Where such a forward pass is the textbook's to rounding, at large weights say, its gradients are another function's all the same."""
    verdict = verify(candidate, dtype=dtype)
    wrong = {r.id for r in verdict.failures() if r.chapter == "grad"}
    assert wrong
    assert wrong <= {f"grad.W_{k}.differences" for k in "fico"}
    assert verdict.kind == "self-consistency"
    told = (
        "diagnosis: W_f, W_i, W_c, W_o are rounded on the way: what comes back is the same to the last bit where their smaller numbers move"
    )
    assert words.explanation(verdict).startswith(told)


@pytest.mark.parametrize("candidate", [CellByCell, MeanLoss, Limited, Forgetful])
def test_what_is_not_rounded_is_not_said_to_be(candidate):
    for dtype in ("float64", "float32"):
        assert not rounded.remark(plug(candidate)[0], tol.PRECISIONS[dtype])
