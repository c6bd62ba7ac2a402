"""Variants: the oracle against a plain forward pass of its own, conditions against the textbook's, and candidates, right and wrong."""

import json
import pathlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lstm_ref import cases
from lstm_ref.candidates.load import TargetError, load, plug
from lstm_ref.judgement import record
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.judge import BY_STEP, Bench, judge
from lstm_ref.judgement.run import replay, run
from lstm_ref.judgement.verdict import Evidence
from lstm_ref.reference.symbols import Sizes
from lstm_ref.reference.variant import TEXTBOOK, Variant, VariantError, parse
from lstm_ref.report import words
from lstm_ref.truth import autodiff, variants

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "peephole.py"
FLOAT64 = tol.PRECISIONS["float64"]
IN_DISGUISE = Variant(clip=1e300)  # input value: the textbook, which the oracle of variants takes for another
FUNCTIONS = {
    "tanh": np.tanh,
    "identity": lambda a: a,
    "relu": lambda a: np.where(a.real > 0, a, 0),
    "softsign": lambda a: a / (1 + np.where(a.real > 0, a, -a)),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "hard_sigmoid": lambda a: limited(a / 6 + 0.5, 0, 1),
    "hard_sigmoid_0.2": lambda a: limited(0.2 * a + 0.5, 0, 1),
}
VARIANTS = [
    Variant(peephole=True, projection=2, norm=True),
    Variant(peephole=True, coupled="i", output="identity", clip=0.7),
    Variant(coupled="f", idle_gate=True, gate="hard_sigmoid_0.2", preactivation_clip=1.5, direction="reverse"),
    Variant(activation="relu", output="softsign", gate="hard_sigmoid", zoneout=True),
    Variant(dropout=("x", "h", "c_tilde"), dropout_once=True, mask="reset", coupled="f", norm=True),
    Variant(layers=2, direction="both", projection=3, mask="zero", lengths=True),
    Variant(layers=3, mask="carry", peephole=True),
    Variant(direction="both", dropout=(), mask="carry", lengths=True),
]


def limited(a, low, high):
    return np.where(a.real < low, low, np.where(a.real > high, high, a))


def forward(v: Variant, q: dict) -> dict:
    """Every variant as one plain loop, in NumPy, for real and complex numbers."""
    T, B, _ = q["x"].shape
    mask = np.arange(T)[:, None] < q["lengths"] if v.lengths else q["mask"] > 0 if v.mask else np.ones((T, B), bool)
    x, last = q["x"], []
    for layer in range(v.layers):
        sides = []
        for reverse in {"forward": [False], "reverse": [True], "both": [False, True]}[v.direction]:
            several = v.layers > 1 or v.direction == "both"
            end = (f".l{layer}" + (".reverse" if reverse and v.direction == "both" else "")) if several else ""
            h, c = (q[k][len(last)] if several else q[k] for k in ("h0", "c0"))
            out = [None] * T
            for t in reversed(range(T)) if reverse else range(T):
                h_out, h, c = one_step(v, q, end, x[t], h, c, mask[t][:, None], t)
                out[t] = h_out
            last.append((h, c))
            sides.append(np.array(out))
        x = np.concatenate(sides, axis=-1)
    h_T, c_T = (np.array(s) if len(last) > 1 else s[0] for s in zip(*last, strict=True))
    return {"h": x, "h_T": h_T, "c_T": c_T}


def one_step(v, q, end, x, h, c, there, t):
    def given(key):
        return q[key] if v.dropout_once else q[key][t]

    x_in = x * given("drop_x") if "x" in v.dropout else x
    h_in = h * given("drop_h") if "h" in v.dropout else h
    z = np.concatenate([h_in, x_in], axis=1)

    def a(k, c):
        u = z @ q[f"W_{k}{end}"].T
        if v.norm:
            centred = u - u.mean(-1, keepdims=True)
            u = q[f"gain_{k}{end}"] * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + v.norm_epsilon)
        a = u + q[f"b_{k}{end}"] + (q[f"p_{k}{end}"] * c if v.peephole and k != "c" else 0)
        return limited(a, -v.preactivation_clip, v.preactivation_clip) if v.preactivation_clip else a

    gate = FUNCTIONS[v.gate]
    f = gate(a("f", c)) if v.coupled != "f" else 1 - gate(a("i", c))
    i = gate(a("i", c)) if v.coupled != "i" else 1 - f
    candidate = FUNCTIONS[v.activation](a("c", c)) * (given("drop_c_tilde") if "c_tilde" in v.dropout else 1)
    c_new = f * c + i * candidate
    c_new = limited(c_new, -v.clip, v.clip) if v.clip else c_new
    h_new = gate(a("o", c_new)) * FUNCTIONS[v.output](c_new)
    h_new = h_new @ q[f"W_r{end}"].T if v.projection else h_new
    if v.zoneout:
        h_new, c_new = (np.where(q[f"zone_{k}"][t] > 0, old, new) for k, old, new in (("h", h, h_new), ("c", c, c_new)))
    if v.mask == "reset":
        return np.where(there, h_new, 0), np.where(there, h_new, 0), np.where(there, c_new, 0)
    kept = np.where(there, h_new, h)
    return np.where(there, h_new, 0) if v.mask == "zero" else kept, kept, np.where(there, c_new, c)


def conditions_of(case, variant):
    return tol.conditions(tol.noisy_run(case.inputs, case.cotangents, FLOAT64, variant=variant), FLOAT64, BY_STEP)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.words)
def test_the_oracle_is_the_derivative_of_a_plain_forward_pass(variant):
    for n, regime in enumerate(("ordinary", "spread", "zeros")):
        case = cases.build(cases.Spec(Sizes(4, 3, 2, 4, 1), regime, seed=n), FLOAT64.dtype, False, variant)
        truth = variants.truth(variant, case.inputs, case.cotangents)
        conditions = conditions_of(case, variant)
        for k, due in forward(variant, case.inputs).items():
            assert (np.abs(truth.values[k] - due) <= tol.tolerance(conditions[k], FLOAT64.u)).all(), (regime, k)
        rng = np.random.default_rng(n)
        for k in variant.inputs:
            direction = rng.standard_normal(case.inputs[k].shape)
            moved = forward(variant, {**case.inputs, k: case.inputs[k] + 1e-20j * direction})  # input value
            slope = sum(np.sum(case.cotangents[o] * moved[o].imag) for o in moved) / 1e-20  # input value
            limit = np.sum(np.abs(direction) * tol.tolerance(conditions[f"d{k}"], FLOAT64.u))
            assert abs(np.sum(truth.gradients[k] * direction) - slope) <= limit, (regime, k)
            assert np.isfinite(limit), k


KINKED = Variant(activation="relu", output="relu", gate="hard_sigmoid_0.2")


class Kinked:
    """Kinks everywhere, and no complex numbers, as in compiled code: only real steps are left."""

    variant, wrong = KINKED.declared, 1.0

    def forward(self, q):
        if np.iscomplexobj(q["x"]):
            raise TypeError("real only")
        return {k: v.real for k, v in forward(KINKED, q).items()}

    def vjp(self, q, s):
        g = variants.truth(KINKED, q, s).gradients
        return {**g, "W_f": self.wrong * g["W_f"], "b_o": self.wrong * g["b_o"]}


class WrongKinked(Kinked):
    wrong = 1.01  # input value


@pytest.mark.parametrize(("cls", "failing"), [(Kinked, set()), (WrongKinked, {"grad.W_f", "grad.b_o"})])
def test_differences_across_kinks_do_not_accuse_a_right_gradient(cls, failing):
    """At these seeds the rules of six and four points agree on a wrong slope, since a kink lies within reach of the step."""
    found = set()
    for seed in (4, 10, 11, 48):
        (face,) = plug(cls)
        bench = Bench(face, FLOAT64, face.make())
        evidence = judge(bench, bench.case(cases.Spec(Sizes(4, 2, 3, 4, 1), seed=seed))).evidence
        found |= {k.removesuffix(".differences") for k, e in evidence.items() if e.outcome == "fail" and k.endswith(".differences")}
    assert found == failing


@pytest.mark.parametrize("variant", VARIANTS[:6:5], ids=lambda v: v.words)
def test_padding_changes_nothing(variant, monkeypatch):
    n = Sizes(5, 2, 3, 4, 1)
    case = cases.build(cases.Spec(n), FLOAT64.dtype, False, variant)
    padded = variants.truth(variant, case.inputs, case.cotangents)
    monkeypatch.setattr(variants, "bucket", lambda n: n)
    exact = variants.truth(variant, case.inputs, case.cotangents)
    conditions = conditions_of(case, variant)
    for k, due in exact.gradients.items():
        assert (np.abs(padded.gradients[k] - due) <= tol.tolerance(conditions[f"d{k}"], FLOAT64.u)).all(), k


def test_steps_of_padding_have_no_noise(monkeypatch):
    variant, p = Variant(direction="reverse"), tol.PRECISIONS["float16"]
    case = cases.build(cases.Spec(Sizes(1, 1, 3, 2, 1), "shut", seed=4), p.dtype, False, variant)
    found = []
    for T in (1, 8):
        monkeypatch.setattr(variants, "bucket", lambda n, T=T: n._replace(T=T))
        found.append(tol.conditions(tol.noisy_run(case.inputs, case.cotangents, p, variant=variant), p, frozenset()))
    for k, c in found[0].items():
        assert np.allclose(c.C, found[1][k].C, rtol=tol.BLOCK_SHARE), k


@pytest.mark.parametrize("model", [False, True])
def test_conditions_are_those_of_the_written_out_backward_pass(model):
    """The noise of the variants' oracle is another implementation: block by block its median is within a factor of four."""
    for n in (0, 9, 13, 27, 28, 31):
        case = cases.build(cases.CORNERS[n], FLOAT64.dtype, model)
        written, other = (
            tol.conditions(tol.noisy_run(case.inputs, case.cotangents, FLOAT64, variant=v), FLOAT64, BY_STEP)
            for v in (TEXTBOOK, IN_DISGUISE)
        )
        for k, c in other.items():
            assert 1 / 4 < np.median(c.C / written[k].C) < 4, (n, k)
            assert c.first_order == written[k].first_order
            assert (np.abs(c.clean - written[k].clean) <= tol.tolerance(written[k], FLOAT64.u)).all()
        truth, due = variants.truth(IN_DISGUISE, case.inputs, case.cotangents), autodiff.truth(case.inputs, case.cotangents)
        for k, g in truth.gradients.items():
            assert (np.abs(g - due.gradients[k]) <= tol.tolerance(written[f"d{k}"], FLOAT64.u)).all(), (n, k)


FEW_SIZES = {"T": "at most 5", "B": "at most 3", "D": "at most 4", "H": "at most 6"}  # one oracle to compile


def judged(target: str, only="contract.*,forward.*,grad.*"):
    faces = load(target)
    if target.startswith("torch:") and not faces[0].supports.sizes:
        faces = [replace(face, supports=replace(face.supports, sizes=FEW_SIZES)) for face in faces]
    return run(target, faces, only=only)


def undecided(verdict) -> list:
    return [(r.id, r.outcome, r.reason) for r in verdict.results if r.outcome not in ("pass", "not provided", "deselected")]


def test_a_right_peephole_lstm_passes():
    verdict = judged(f"{EXAMPLE}:Peephole", only="contract.*,forward.*,grad.*,law.*")
    assert not undecided(verdict)
    assert verdict.kind == "variant"
    assert "judged as a variant of the textbook LSTM: peephole=True" in verdict.notes
    assert {"grad.p_f.autodiff", "grad.p_o.differences", "law.symmetry"} <= {r.id for r in verdict.results if r.outcome == "pass"}


def test_a_forgotten_path_through_a_peephole_fails_and_is_kept_with_its_variant():
    verdict = judged(f"{EXAMPLE}:DetachedPeephole")
    failing = {r.id for r in verdict.failures()}
    assert "grad.p_f.autodiff" in failing
    assert "forward.h" not in failing
    kept = next(r.counterexample for r in verdict.failures() if r.counterexample and r.counterexample.primary)
    found = json.loads(record.dump(kept))
    assert found["variant"] == {"peephole": True}
    check, _, case, variant = record.parse(found, "here")
    assert (check, variant) == (kept.check, Variant(peephole=True))
    assert replay("again", load(f"{EXAMPLE}:DetachedPeephole"), check, "float64", case, variant).outcome == "fail"
    assert replay("again", load(f"{EXAMPLE}:Peephole"), check, "float64", case, variant).outcome == "pass"
    with pytest.raises(ValueError, match=r"the case is one of the variant \(peephole=True\), and ref: declares \(none\)"):
        replay("ref:", load("ref:"), check, "float64", case, variant)
    with pytest.raises(record.RecordError, match="here: variant has peepholes"):
        record.parse({**found, "variant": {"peepholes": True}}, "here")


def test_a_wrong_peephole_gradient_fails_alone():
    class Wrong(load(f"{EXAMPLE}:Peephole")[0].make):
        def pullback(self, q):
            outputs, pull = super().pullback(q)
            return outputs, lambda s: (g := pull(s)) | {"p_o": 2 * g["p_o"]}

    verdict = run("here", plug(Wrong), only="forward.*,grad.*")
    assert {r.id for r in verdict.failures()} == {"grad.p_o.autodiff", "grad.p_o.differences"}
    assert "\n  dp_o = Σ_{t,b} da_o ⊙ c_t\n" in words.failure(verdict.failures()[0], "here")


@pytest.mark.parametrize(
    "target",
    [
        "torch:LSTM(num_layers=2,bidirectional=True)",
        "torch:LSTM(proj_size=2,bias=False,batch_first=True)",
        "torch:LSTM(bidirectional=True,packed=True,batch_first=True)",
    ],
)
def test_torchs_variants_pass(target):
    verdict = judged(target)
    assert not undecided(verdict)
    assert verdict.kind == "variant"


def test_a_fault_in_one_layer_of_a_torch_module_is_found_there(tmp_path):
    (tmp_path / "hooked.py").write_text(
        "import torch\n"
        "class Hooked(torch.nn.LSTM):\n"
        "    def __init__(self, D, H):\n"
        "        super().__init__(D, H, num_layers=2)\n"
        "        self.weight_hh_l1.register_hook(lambda g: 1.001 * g)\n"
    )
    verdict = judged(f"torch:{tmp_path / 'hooked.py'}:Hooked", only="contract.*,forward.*,grad.*.autodiff")
    assert {r.id for r in verdict.failures()} == {f"grad.W_{k}.autodiff" for k in "fico"}
    assert {r.worst.quantity for r in verdict.failures()} == {f"W_{k}.l1" for k in "fico"}
    assert words.place(verdict.failures()[0].worst).startswith("layer 1, counted from 0, gate f, unit = ")
    shown = verdict.failures()[0].counterexample
    done = subprocess.run([sys.executable, "-c", words.snippet(shown, load(verdict.target)[0].layout)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_no_call_answers_is_shown_for_several_states_too(tmp_path):
    path = tmp_path / "misnamed.py"
    path.write_text(
        "class Misnamed:\n    variant = {'direction': 'both'}\n    def forward(self, inputs):\n        return {'h': inputs['bw_kernel']}\n"
        "class Silent:\n    variant = {'direction': 'both'}\n    def forward(self, inputs):\n"
        "        return {'h': inputs['x'][:, :, :1].repeat(2 * inputs['h0'].shape[-1], axis=2), 'c_T': inputs['c0']}\n"
    )
    for name, seen in (("Misnamed", "KeyError: 'bw_kernel'"), ("Silent", "h_T")):
        verdict = judged(f"{path}:{name}", only="contract.*")
        shown = verdict.failures()[0]
        assert seen in words.failure(shown, verdict.target, load(verdict.target)[0].layout)
        assert "'h': np." in words.snippet(shown.counterexample, load(verdict.target)[0].layout)


MASKED = """
import torch, jax, jax.numpy as jnp

class Masked(torch.nn.LSTM):
    variant = {"mask": "carry"}
    scale = 1

    def forward(self, x, state, mask):
        h, c = state[0][0], state[1][0]
        out = []
        for t in range(len(x)):
            y, (h_new, c_new) = super().forward(x[t : t + 1], (h[None], c[None]))
            m = mask[t][:, None]
            h, c = m * h_new[0] + (1 - m) * h, m * c_new[0] + self.scale * (1 - m) * c
            out.append(h)
        return torch.stack(out), (h[None], c[None])

class Leaking(Masked):
    scale = 0.999  # the state leaks where it should be carried

def lengths(q):
    mask = jnp.arange(q["x"].shape[0])[:, None] < q["lengths"]

    def step(state, now):
        h, c = state
        z, m = jnp.concatenate([h, now[0]], 1), now[1][:, None]
        a = {k: z @ q["W_" + k].T + q["b_" + k] for k in "fico"}
        c_new = jax.nn.sigmoid(a["f"]) * c + jax.nn.sigmoid(a["i"]) * jnp.tanh(a["c"])
        h_new = jax.nn.sigmoid(a["o"]) * jnp.tanh(c_new)
        state = jnp.where(m, h_new, h), jnp.where(m, c_new, c)
        return state, jnp.where(m, h_new, 0)

    (h_T, c_T), h = jax.lax.scan(step, (q["h0"], q["c0"]), (q["x"], mask), reverse=True)
    return {"h": h, "h_T": h_T, "c_T": c_T}

lengths.variant = {"mask": "zero", "lengths": True, "direction": "reverse"}
lengths.supports = {"T": [1, 4], "B": [1, 3], "D": [1, 4], "H": [4], "call_seconds": 60}
"""


def test_masks_reach_a_module_and_a_function_of_other_people(tmp_path):
    path = tmp_path / "masked.py"
    path.write_text(MASKED)
    for target in (f"torch:{path}:Masked", f"jax:{path}:lengths"):
        assert not undecided(judged(target))
    leaking = judged(f"torch:{path}:Leaking")
    assert leaking.forward == "fail"
    assert leaking.gradients == "pass"  # of the function that it is


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"peepholes": True}, "variant has peepholes; it must be a dict that may hold peephole, coupled, "),
        ("peephole", "variant has 'peephole'; it must be a dict"),
        ({"output": "gelu"}, "variant output is 'gelu'; it must be one of 'tanh', 'identity', 'relu', 'softsign', 'sigmoid'"),
        ({"peephole": "yes"}, "variant peephole is 'yes'; it must be one of True, False"),
        ({"layers": 0}, "variant layers is 0; a whole number from 1 is due"),
        ({"projection": 2.5}, "variant projection is 2.5; a whole number from 0 is due"),
        ({"clip": -1.0}, "variant clip is -1.0; a number that is not negative is due"),
        ({"clip": float("nan")}, "variant clip is nan; a number that is not negative is due"),
        ({"lengths": True}, "variant has lengths but no mask; say what happens after the end: mask='carry' or 'zero'"),
        ({"zoneout": True, "layers": 2}, "variant has zoneout or dropout masks and more than one layer or direction"),
        ({"dropout": ["y"]}, "variant dropout is ('y',); it must be a tuple or list of 'x', 'h', 'c_tilde'"),
        ({"idle_gate": True}, "variant has an idle gate but no coupled one; say which: coupled='f' or 'i'"),
    ],
)
def test_a_variant_that_says_nothing_is_refused_in_a_sentence(declared, sentence):
    with pytest.raises(VariantError) as refused:
        parse(declared)
    assert str(refused.value).startswith(sentence)
    with pytest.raises(TargetError, match="variant"):
        plug(type("Odd", (), {"variant": declared, "pullback": lambda self, q: None}))


@pytest.mark.parametrize(
    ("declared", "end"),
    [
        ({"peepholes": True}, ", dropout, dropout_once; peepholes is peephole here"),
        ({"bidirectional": True, "num_layers": 2}, "; bidirectional is direction='both' here; num_layers is layers here"),
        ({"batch_first": True}, "; batch_first is a field of the layout"),
    ],
)
def test_a_field_by_the_name_that_it_has_elsewhere_is_told_the_name_here(declared, end):
    with pytest.raises(VariantError) as refused:
        parse(declared)
    assert str(refused.value).endswith(end)


def test_a_state_of_several_layers_is_placed_by_layer_and_not_by_time():
    e = Evidence("fail", quantity="c0", index=(1, 0, 2))
    assert words.place(e) == "layer · direction = 1, b = 0, unit = 2"
    assert words.place(e._replace(quantity="x")) == "t = 1, b = 0, unit = 2"
    assert words.place(e._replace(index=(1, 2))) == "b = 1, unit = 2"
