"""Plugging in: layouts go there and back, targets load or say why not, declarations are understood or refused."""

import collections
import signal
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_ref import Layout, cases, verify
from lstm_ref.candidates import contract
from lstm_ref.candidates import load as loading
from lstm_ref.candidates.contract import ContractError, parse_supports
from lstm_ref.candidates.layout import LayoutError, decode, effective, encode, resolve
from lstm_ref.candidates.load import TargetError, load, plug
from lstm_ref.candidates.reference import ReferenceLayer, ReferenceModel
from lstm_ref.judgement import student as student_judged
from lstm_ref.judgement.run import PROFILES
from lstm_ref.judgement.student import judge_student
from lstm_ref.reference.symbols import GATES, LAYER_INPUTS, Sizes
from lstm_ref.report import words

from .strangers import CellByCell, HiddenStateOnly, LastStateOnly, MeanLoss

layouts = st.builds(
    Layout,
    order=st.permutations("ifgo").map("".join),
    packed=st.just(True),
    interleaved=st.booleans(),
    joint=st.sampled_from(["hx", "xh", "split"]),
    transposed=st.booleans(),
    biases=st.sampled_from([1, 2]),
    batch_first=st.booleans(),
) | st.builds(
    Layout,
    order=st.permutations("ifco").map("".join),
    joint=st.sampled_from(["hx", "xh", "split"]),
    transposed=st.booleans(),
    biases=st.sampled_from([1, 2]),
    batch_first=st.booleans(),
)


@given(layouts, cases.specs())
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_inputs_and_gradients_go_there_and_back(layout, spec):
    case = cases.build(spec, np.dtype(float), False)
    there = encode(layout, case.inputs, np.dtype(float))
    back = decode(layout, there, {k: v.shape for k, v in case.inputs.items()})
    for k in LAYER_INPUTS:
        second = back.get(f"{k}.second", 0)
        assert np.array_equal(back[k] + second, case.inputs[k]), k


@given(layouts)
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
def test_a_reference_in_any_layout_passes(layout):
    class Wrapped:
        def pullback(self, inputs):
            H = inputs["h0"].shape[-1]
            D = inputs["x"].shape[-1]
            shapes = {k: (H, H + D) if k[0] == "W" else (H,) if k[0] == "b" else inputs[k].shape for k in LAYER_INPUTS}
            x = np.swapaxes(inputs["x"], 0, 1) if layout.batch_first else inputs["x"]
            textbook = decode(layout, inputs, {**shapes, "x": x.shape})
            textbook = {k: textbook[k] + textbook.get(f"{k}.second", 0) for k in LAYER_INPUTS}
            outputs, pull = CellByCell().pullback(textbook)
            flip = (lambda q: np.swapaxes(q, 0, 1)) if layout.batch_first else (lambda q: q)

            def back(s):
                g = pull({"h": flip(s["h"]), "c_T": s["c_T"]})
                return encode(Layout(**{**vars(layout), "biases": 1 if layout.biases == 1 else 2}), _doubled(g, layout), np.dtype(float))

            return {"h": flip(outputs["h"]).copy(), "c_T": outputs["c_T"]}, back

    Wrapped.layout = layout
    candidate = plug(Wrapped)[0]
    case = cases.build(cases.CORNERS[0], np.dtype(float), False)
    outputs, gradients = contract.run(contract.prepare(candidate, case.inputs, np.dtype(float)), Wrapped(), case.cotangents)
    _, pull = CellByCell().pullback(case.inputs)
    s = case.cotangents
    due = pull({"h": s["h"] + np.concatenate([np.zeros_like(s["h"][:-1]), s["h_T"][None]]), "c_T": s["c_T"]})
    assert not outputs.faults
    assert not gradients.faults
    for k in LAYER_INPUTS:
        assert np.allclose(gradients.arrays[k], due[k], rtol=1e-9), k


def _doubled(g, layout):
    """`encode` halves two biases; gradients are not halved."""
    return {k: v * layout.biases if k[0] == "b" else v for k, v in g.items()}


def test_forget_bias_is_taken_off_and_the_rest_is_exact():
    layout = Layout(forget_bias=1.0)
    case = cases.build(cases.CORNERS[0], np.dtype(np.float32), False)
    there = encode(layout, case.inputs, np.dtype(np.float32))
    seen = effective(layout, case.inputs, np.dtype(np.float32))
    assert np.array_equal(there["b_f"].astype(float) + 1, seen["b_f"])
    assert np.array_equal(there["b_i"], case.inputs["b_i"])


class Letters(ReferenceLayer):
    """Weights under the names of gates, biases under those of the pre-activations, and every intermediate among the outputs."""

    layout = {"names": {"W": "{gate}", "b": "a_{gate}"}}
    scale = 1.0

    def pullback(self, p):
        outputs, pull = super().pullback({**p, **{f"W_{k}": p[k] for k in GATES}, **{f"b_{k}": p[f"a_{k}"] for k in GATES}})

        def back(s):
            g = pull(s)
            weights = {k: g[f"W_{k}"] for k in GATES} | {f"a_{k}": g[f"b_{k}"] * (self.scale if k == "c" else 1) for k in GATES}
            return {k: g[k] for k in ("x", "h0", "c0", "c_tilde")} | weights

        return outputs, back

    def forward(self, p):
        return self.pullback(p)[0]


class WrongLetters(Letters):
    scale = 0.5


def test_a_weight_may_have_the_name_of_an_intermediate():
    """Under that name the gradients hold the weight's, and the outputs the intermediate."""
    found = {r.id: r.outcome for r in verify(Letters, only="contract.*,forward.*,grad.*.autodiff,inter.*.autodiff").results}
    assert {found[f"inter.{k}.autodiff"] for k in (*GATES, "a_c")} == {"not provided"}
    assert all(found[f"forward.{k}"] == "pass" for k in (*GATES, "a_c", "c_T"))
    assert found["grad.W_c.autodiff"] == found["grad.b_c.autodiff"] == found["inter.c_tilde.autodiff"] == "pass"
    assert "fail" not in found.values()
    assert [r.id for r in verify(WrongLetters, only="contract.*,grad.*.autodiff").failures()] == ["grad.b_c.autodiff"]


class AddsOne(CellByCell):
    layout = Layout(forget_bias=1.0)

    def pullback(self, p):
        return super().pullback({**p, "b_f": p["b_f"] + p["b_f"].dtype.type(1)})


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_forget_bias_raises_no_alarm(dtype):
    assert verify(AddsOne, dtype=dtype).outcome == "pass"


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"order": "ifgx"}, "must name the gates i, f, o and g or c once each"),
        (
            {"order": "fgo"},
            "'fgo'; it must name the gates i, f, o and g or c once each, as in 'ifgo'; a coupled gate that has no arrays stands in it too",
        ),
        ({"joint": "zx"}, "must be one of 'hx', 'xh' or 'split'"),
        ({"biases": 3}, "it must be 0, 1 or 2"),
        ({"interleaved": True}, "only packed gates can be interleaved"),
        ({"names": {"U": "u"}}, "names has ['U']"),
        ({"directions": {"left": "fw"}}, "layout directions has ['left']; its keys are 'forward' and 'reverse'"),
        ({"directions": {"forward": "fw", "reverse": "fw"}}, "layout directions calls both of them 'fw'; each needs a name of its own"),
        ({"directions": {"forward": "reverse"}}, "calls both of them 'reverse'"),
        ({"colour": 1}, "its fields are order"),
        (
            {"joint": "split", "packed": True, "names": {"W_h": "x"}},
            "the name 'x' to x and to W_h; each array needs a name of its own",
        ),
        ({"names": {"b": "b"}}, "gives the name 'b' to b of gate f and to b of gate i"),
        ("pytorch", "must be one of 'textbook', 'torch', 'keras'"),
    ],
)
def test_a_layout_that_says_nothing_is_refused(declared, words):
    with pytest.raises(LayoutError) as error:
        resolve(declared)
    assert words in str(error.value)


def test_a_name_places_its_layer_and_direction_itself_or_has_them_appended():
    told = Layout(names={"W_x": "w_{direction}_{layer}", "W_h": "{direction}.h", "b": "b"}, directions={"reverse": "bw"}, packed=True)
    places = ("", ".l0", ".l0.reverse", ".l1.reverse")
    assert [told.name("W_x", p) for p in places] == ["w_forward_0", "w_forward_0", "w_bw_0", "w_bw_1"]
    assert [told.name("W_h", p) for p in places] == ["forward.h", "forward.h", "bw.h", "bw.h_l1"]
    assert [told.name("b", p) for p in places] == ["b", "b_l0", "b_l0_reverse", "b_l1_reverse"]


def test_supports_is_understood():
    supports = parse_supports({"B": 1, "H": "multiple of 8", "T": "at most 4", "D": [2, 6], "initial_state": False, "x_gradient": False})
    assert supports.fit(Sizes(9, 5, 5, 9)) == Sizes(4, 1, 6, 16)
    assert not supports.initial_state
    assert "x_gradient" in supports.missing
    assert [parse_supports({k: False}).start("random") for k in ("initial_state", "c0", "h0")] == ["zero", "h0", "c0"]


@pytest.mark.parametrize(("declared", "words"), [({"H": "even"}, "'multiple of N'"), ({"G": 1}, "supports has the key 'G'")])
def test_supports_that_says_nothing_is_refused(declared, words):
    with pytest.raises(ContractError) as error:
        parse_supports(declared)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nonsense", "names no LSTM; it must be one of module:attribute"),
        ("no_such_module_here:X", "could not be imported: ModuleNotFoundError"),
        ("missing.py:X", "there is no file missing.py"),
        ("json:Nope", "json has no 'Nope'"),
        ("json:JSONDecoder", "has none of the methods that the contract knows"),
        (":A", "the target ':A' names no LSTM; it must be one of module:attribute, file.py:attribute, "),
        ("fractions:gcd_of_nothing", "has no 'gcd_of_nothing'"),
        ("torch:LSTM(dropout=0.5)", "sets dropout; what can be set is batch_first, bias, num_layers, bidirectional, proj_size, packed"),
        ("torch:LSTM(__import__('os'))", "they must be literals"),
        ("torch:torch.nn:Linear", "the module's parameters are weight (5, 3), bias (5,)"),
        ("torch:torch.nn:GRU", "the module's weight_ih_l0 is (15, 3) for D = 3, H = 5; (20, 3) is due, for an LSTM's four gates"),
        ("torch:torch.nn:NoSuch", "torch.nn has no 'NoSuch'"),
    ],
)
def test_a_target_that_cannot_be_plugged_in_says_why(target, words):
    with pytest.raises(TargetError) as error:
        load(target)
    assert words in str(error.value)


def test_a_class_that_needs_arguments_says_so():
    class Needs:
        def __init__(self, H):
            self.H = H

    with pytest.raises(TargetError, match="needs no arguments"):
        verify(Needs)


def test_missing_torch_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TargetError, match=r"pip install 'lstm-ref\[torch\]'"):
        load("torch:")


def test_file_target_and_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("SCALE = 1.0\n")
    (tmp_path / "mine_here.py").write_text(
        "from neighbour_of_mine import SCALE\n\nclass L:\n    def forward(self, inputs):\n        return {}\n"
    )
    face = load(f"{tmp_path}/mine_here.py:L")[0]
    assert face.kind == "forward"


def test_a_file_named_as_another_module_does_not_stand_for_it(tmp_path):
    """What is imported later finds Python's own operator, and the file is a module of its own."""
    import operator

    (tmp_path / "operator.py").write_text("class L:\n    def forward(self, inputs):\n        return {}\n")
    target = f"{tmp_path}/operator.py:L"
    face = load(target)[0]
    assert sys.modules["operator"] is operator
    assert type(face.make()).__module__ in sys.modules
    assert load(target)[0].make().__module__ == face.make().__module__  # loaded again, it takes its own place


def test_a_file_of_a_package_is_told_how_it_is_named(tmp_path):
    """What imports from beside it with a dot is known by the names of its folders."""
    folder = tmp_path / "nets" / "cells"
    folder.mkdir(parents=True)
    (folder / "core.py").write_text("from ..acts import LSTM")
    target = f"{folder}/core.py:LSTM"
    with pytest.raises(TargetError, match=r"ImportError: .*; its folder is no package, which a dot needs: give it an __init__.py"):
        load(target)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    with pytest.raises(TargetError) as refused:
        load(target)
    due = f"; it is a file of the package nets: name it as a module, nets.cells.core:LSTM, in the folder {tmp_path}"
    assert str(refused.value).endswith(due)


def test_what_a_class_says_of_itself_and_cannot_is_a_sentence():
    class Raises(CellByCell):
        @property
        def layout(self):
            raise RuntimeError("the layout is not known yet")

    with pytest.raises(
        TargetError, match=r"^Raises: its layout raised RuntimeError: the layout is not known yet \(test_candidates.py:\d+\);"
    ):
        plug(Raises)

    class Late(CellByCell):
        @property
        def gradients(self):
            raise RuntimeError("nothing has run yet")

    assert [face.kind for face in plug(Late)] == ["pullback"]


def test_params_that_have_no_names_are_told_as_that():
    class Listed:
        params = [np.zeros(3)]

        def loss(self):
            return 0.0

        def gradients(self):
            return [np.zeros(3)]

    with pytest.raises(TargetError, match=r"^Listed: params is a list; a dict from names to arrays is due, and gradients keyed as it is$"):
        plug(Listed)


def test_a_declaration_with_a_slip_in_its_name_is_told(monkeypatch):
    monkeypatch.setattr(cases, "CORNERS", cases.CORNERS[:10])
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], draws=1))

    class Slip(CellByCell):
        suports = {"H": "multiple of 8"}
        layuot, layout = "torch", None
        variants = ("a", "b")

    due = "nothing reads its layuot, and it declares no layout; if that is meant, name it so; "
    due += "nothing reads its suports, and it declares no supports; if that is meant, name it so"
    assert plug(Slip)[0].remark == due
    assert due in verify(Slip, only="contract.call").notes
    assert not plug(CellByCell)[0].remark
    fine = type("Fine", (CellByCell,), {"supports": {}, "supported": {"H": 8}, "layouts": ["torch"]})
    assert not plug(fine)[0].remark


def test_instances_and_factories_are_told_apart():
    assert not plug(CellByCell())[0].factory
    assert plug(CellByCell)[0].factory
    assert plug(lambda: CellByCell())[0].factory


def test_a_missing_gradient_is_never_a_pass_even_when_the_contract_is_deselected():
    class Silent(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return outputs, lambda s: {k: v for k, v in pull(s).items() if k != "W_f"}

    verdict = verify(Silent, only="grad.*")
    assert verdict.outcome == "inconclusive"
    assert {r.id: r.outcome for r in verdict.results}["grad.W_f.autodiff"] == "not run"


def test_two_instances_needs_a_factory():
    verdict = verify(CellByCell(), only="state.two_instances,grad.*")
    assert {r.id: r.outcome for r in verdict.results}["state.two_instances"] == "not provided"
    assert verdict.outcome == "pass"


def test_forward_only_candidate_is_judged_on_its_forward():
    class ForwardOnly:
        def forward(self, inputs):
            return CellByCell().pullback(inputs)[0]

    found = {r.id: r.outcome for r in verify(ForwardOnly).results}
    assert found["forward.h"] == "pass"
    assert found["grad.W_f.autodiff"] == "not provided"


TORCH_MODULES = """
import torch

class Sub(torch.nn.LSTM):
    pass

class Wrapping(torch.nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.rnn = torch.nn.LSTM(input_size, hidden_size)

    def forward(self, x, state):
        return self.rnn(x, state)

class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, c):
        ctx.save_for_backward(c)
        return torch.tanh(c)

    @staticmethod
    def backward(ctx, d):
        (c,) = ctx.saved_tensors
        return d * (1 - c**2)

class ByHand(torch.nn.Module):
    '''Gates i, f, g, o; one bias; parameters of its own names, one that of an intermediate; transposed.'''
    tanh = staticmethod(torch.tanh)

    def __init__(self, D, H):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(D, 4 * H))
        self.u = torch.nn.Parameter(torch.randn(H, 4 * H))
        self.c = torch.nn.Parameter(torch.zeros(4 * H))

    def forward(self, x, state):
        h, c = state[0][0], state[1][0]
        out = []
        for x_t in x:
            i, f, g, o = (x_t @ self.w + h @ self.u + self.c).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.tanh(c)
            out.append(h)
        return torch.stack(out), (h[None], c[None])

class ByHandWrong(ByHand):
    tanh = staticmethod(Wrong.apply)
"""


@pytest.mark.parametrize(("name", "outcome"), [("Sub", "pass"), ("Wrapping", "pass"), ("ByHand", "pass"), ("ByHandWrong", "fail")])
def test_torch_modules_of_ones_own(tmp_path, name, outcome):
    pytest.importorskip("torch")
    (tmp_path / "torch_modules_here.py").write_text(TORCH_MODULES)
    verdict = verify(f"torch:{tmp_path}/torch_modules_here.py:{name}", only="forward.h,forward.c_T,grad.*,inter.*")
    assert verdict.outcome == outcome
    if outcome == "fail":
        assert "grad.W_f.autodiff" in {r.id for r in verdict.failures()}, [(r.id, r.outcome, r.reason) for r in verdict.results]
        assert "forward.h" not in {r.id for r in verdict.failures()}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "import argparse\nargparse.ArgumentParser().parse_args()\nraise KeyError('x')\n",
            r"KeyError: 'x' \(script\.py:3\); what a script does belongs",
        ),
        (
            "import sys\nsys.exit(len(sys.argv))\n",
            r'SystemExit: 1 \(script\.py:2\); what a script does belongs below if __name__ == "__main__":',
        ),
        (
            "def made():\n    return Lstm\nclass Lstm:\n    pass\n",
            r"made\(\) returned the class Lstm; an instance is due: name the class itself",
        ),
    ],
)
def test_a_script_that_is_imported_is_told_where_it_stops(tmp_path, monkeypatch, text, told):
    """And our own command line is none of its business."""
    (tmp_path / "script.py").write_text(text)
    monkeypatch.setattr(sys, "argv", ["lstm-ref", "check", "--profile", "ci"])
    with pytest.raises(TargetError, match=told):
        load(f"{tmp_path}/script.py:made")
    assert sys.argv[0] == "lstm-ref"


def test_a_target_that_hangs_while_it_loads_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text("while True:\n    pass\n")
    (tmp_path / "endless_class.py").write_text("class Lstm:\n    def __init__(self):\n        while True:\n            pass\n")
    monkeypatch.setattr(loading, "LOAD_SECONDS", 0.3)
    with pytest.raises(TargetError, match=r"endless\.py took longer than 0\.3 s"):
        load(f"{tmp_path}/endless.py:Lstm")
    with pytest.raises(TargetError, match=r"Lstm\(\) did not return within 0\.3 s"):
        load(f"{tmp_path}/endless_class.py:Lstm")


def test_a_candidate_that_takes_its_inputs_out_of_the_dict_is_told_and_the_run_goes_on():
    class Pops(CellByCell):
        def pullback(self, p):
            outputs, pull = super().pullback({k: p.pop(k) for k in list(p)})
            return outputs, lambda s: pull({k: s.pop(k) for k in list(s)})

    verdict = verify(Pops, only="contract.*,grad.*,state.*")
    assert verdict.gradients == "pass"
    assert [r.id for r in verdict.failures()] == ["state.inputs_unmutated"]


def test_an_error_state_that_a_candidate_sets_is_put_back():
    class Raising(CellByCell):
        def pullback(self, p):
            np.seterr(all="raise")
            return super().pullback(p)

    before = np.geterr()
    verify(Raising, only="grad.W_f.*")
    assert np.geterr() == before


@pytest.mark.parametrize("target", ["torch:LSTMCell", "torch:LSTM(bias=False)", "torch:LSTMCell(bias=False)"])
def test_torch_cells_and_layers_without_a_bias_pass(target):
    pytest.importorskip("torch")
    verdict = verify(target, only="contract.*,forward.*,grad.*,state.*")
    assert verdict.forward == verdict.gradients == verdict.behaviour == "pass"
    provided = {r.id for r in verdict.results if r.outcome == "pass"}
    assert ("grad.b_f.autodiff" in provided) == ("bias" not in target)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_torch_provides_everything_but_intermediates(dtype):
    pytest.importorskip("torch")
    verdict = verify("torch:", dtype=dtype)
    absent = {r.id for r in verdict.results if r.outcome != "pass"}
    assert verdict.outcome == "pass"
    assert all(
        k.startswith("inter.") or k in {f"forward.{q}" for q in ("c", "o", "f", "i", "c_tilde", "a_f", "a_i", "a_c", "a_o", "z")}
        for k in absent
    )


class Student:
    """A regression on the last hidden state of a scalar LSTM, as homework has it."""

    def __init__(self):
        rng = np.random.default_rng(4)
        self.params = {"W": rng.standard_normal((4, 3)), "U": rng.standard_normal((4, 1)), "b": rng.standard_normal(4)}
        self.x, self.y = rng.standard_normal((5, 3)), 0.3

    def _run(self):
        h, c, kept = 0.0, 0.0, []
        for x in self.x:
            a = self.params["W"] @ x + self.params["U"][:, 0] * h + self.params["b"]
            f, i, o = 1 / (1 + np.exp(-a[[0, 1, 3]]))
            g = np.tanh(a[2])
            kept.append((x, h, c, f, i, g, o))
            c = f * c + i * g
            h = o * np.tanh(c)
        return h, c, kept

    def loss(self):
        return 0.5 * (self._run()[0] - self.y) ** 2

    def gradients(self):
        h, c, kept = self._run()
        grads = {k: np.zeros_like(v) for k, v in self.params.items()}
        dh, dc = h - self.y, 0.0
        for x, h_prev, c_prev, f, i, g, o in reversed(kept):
            tc = np.tanh(c)
            dc = self.carry(dc) + dh * o * (1 - tc**2)
            da = np.array([dc * c_prev * f * (1 - f), dc * g * i * (1 - i), dc * i * (1 - g**2), dh * tc * o * (1 - o)])
            grads["W"] += np.outer(da, x)
            grads["U"] += (da * h_prev)[:, None]
            grads["b"] += da
            dh, dc, c = float(da @ self.params["U"][:, 0]), dc * f, c_prev
        return grads

    def carry(self, dc):
        return dc


class ForgetfulStudent(Student):
    def carry(self, dc):
        return 0.0


def test_student_object_is_judged_by_its_own_loss():
    verdict = verify(Student)
    assert (verdict.outcome, verdict.kind) == ("pass", "self-consistency")
    assert {r.id for r in verdict.results} >= {"grad.W.differences", "grad.U.differences", "grad.b.differences", "state.repeat"}
    wrong = verify(ForgetfulStudent)
    assert {r.id for r in wrong.failures()} == {"grad.W.differences", "grad.U.differences", "grad.b.differences"}


class Accumulates(Student):
    """Adds to arrays that it keeps and returns, as where gradients are not set to zero before each call."""

    def __init__(self):
        super().__init__()
        self.sums = {k: np.zeros_like(v) for k, v in self.params.items()}

    def gradients(self):
        for k, v in super().gradients().items():
            self.sums[k] += v
        return self.sums


def test_gradients_of_a_student_that_add_up_from_call_to_call_are_told_as_that():
    """What was returned first changes with the second call; the gradient itself is right."""
    assert [r.id for r in verify(Accumulates).failures()] == ["state.repeat"]


class LossThatSums:
    """Its loss() runs the backward pass too, which adds to the arrays that gradients() gave."""

    def __init__(self):
        self.params, self.sums = {"w": np.array([0.3, -0.7])}, {}

    def loss(self):
        w = self.params["w"]
        self.sums["w"] = self.sums.get("w", np.zeros(2))
        self.sums["w"] += 2 * w
        return float(w @ w)

    def gradients(self):
        self.sums = {}
        self.loss()
        return self.sums


def test_a_loss_that_writes_into_the_gradients_of_a_student_is_no_second_answer():
    verdict = verify(LossThatSums)
    assert verdict.outcome == "pass", [(r.id, r.reason) for r in verdict.failures()]


class TakesAStep(Student):
    """Its gradients() also takes a step with them, as where training is one method."""

    def gradients(self):
        found = super().gradients()
        for k, v in found.items():
            self.params[k] -= 0.1 * v
        return found


class SmoothedLoss(Student):
    """Its loss() is a running mean, as it is printed."""

    smooth = 0.0

    def loss(self):
        self.smooth = 0.9 * self.smooth + 0.1 * super().loss()
        return self.smooth


class Slow(Student):
    def loss(self):
        time.sleep(0.2)
        return super().loss()


class InFloat32(Student):
    """Its loss is large beside its gradients."""

    def __init__(self):
        super().__init__()
        self.params = {k: v.astype(np.float32) for k, v in self.params.items()}

    def loss(self):
        return np.float32(1e4 + super().loss())


def test_a_student_that_cannot_be_differenced_as_it_is_is_told_what_to_do(monkeypatch):
    coarse = {r.reason for r in verify(InFloat32).results if r.chapter == "grad"}
    assert coarse == {"no direction could be resolved; differences see little in float32: hold params in float64"}
    monkeypatch.setattr(student_judged, "SECONDS", 0.1)
    (slow,) = verify(Slow).results
    told = "did not return within 0.1 s, twice each; loss() is called hundreds of times: plug in fewer steps and units"
    assert (slow.outcome, slow.reason) == ("fail", f"gradients() or loss() {told}")


def test_a_slow_student_is_differenced_along_fewer_directions_and_told_so(monkeypatch):
    """So many that all of them take about as long as is granted, two at the least: a wrong gradient fails along any of them."""
    monkeypatch.setattr(Slow, "loss", lambda self: (time.sleep(0.002), Student.loss(self))[1])
    monkeypatch.setattr(student_judged, "SPENT", 0.2)
    verdict = verify(Slow)
    counts = {r.id: r.cases for r in verdict.results if r.chapter == "grad"}
    assert verdict.outcome == "pass"
    assert {2} <= set(counts.values())
    assert any(note.startswith("loss() takes 0.00") for note in verdict.notes)
    assert any("along 2 directions each" in note for note in verdict.notes)

    class Wrong(Slow, ForgetfulStudent):
        pass

    assert {r.id for r in verify(Wrong).failures()} == {"grad.W.differences", "grad.U.differences", "grad.b.differences"}


class Nested(Student):
    """A dict of dicts among its gradients."""

    def gradients(self):
        return {**super().gradients(), "by layer": {"one": np.ones(3)}}


def test_what_disturbs_a_student_is_told_and_its_right_gradients_are_not_accused():
    step, smoothed = verify(TakesAStep), verify(SmoothedLoss)
    assert {r.id: r.reason for r in step.failures()} == {"state.inputs_unmutated": "gradients() changed W, U, b"}
    assert [r.id for r in smoothed.failures()] == ["state.repeat"]
    told = {r.reason for r in smoothed.results if r.chapter == "grad"}
    assert told == {"blocked by state.repeat: what changes from call to call has no derivative"}
    assert verify(Nested).outcome == "pass"


def test_student_parameters_are_put_back():
    student = Student()
    before = {k: v.copy() for k, v in student.params.items()}
    verify(student)
    assert all(np.array_equal(before[k], student.params[k]) for k in before)


class Summed(Student):
    """The loss is a mean over the five steps, its gradient a sum."""

    def loss(self):
        return super().loss() / 5


class OfFloats(Student):
    def __init__(self):
        super().__init__()
        self.params["s"] = 0.3

    def loss(self):
        return super().loss() + np.sin(self.params["s"])

    def gradients(self):
        return {**super().gradients(), "s": np.cos(self.params["s"])}


class HandsOutCopies(Student):
    params = property(lambda self: {k: v.copy() for k, v in self.own.items()}, lambda self, params: setattr(self, "own", params))


class ReadsOtherArrays(Student):
    def __init__(self):
        super().__init__()
        self.own = {k: v.copy() for k, v in self.params.items()}

    def _run(self):
        given, self.params = self.params, self.own
        try:
            return super()._run()
        finally:
            self.params = given


class ReadOnly(Student):
    def __init__(self):
        super().__init__()
        self.params["U"].setflags(write=False)


def returning(loss=lambda J: J, gradients=lambda g: g):
    class Returning(Student):
        def loss(self):
            return loss(super().loss())

        def gradients(self):
            return gradients(super().gradients())

    return Returning


def _refuse(value):
    raise RuntimeError("no loss today")


class LossMoves(Student):
    def loss(self):
        self.params["b"] += 1e-9
        return super().loss()


class RaisesWhenMoved(Student):
    def __init__(self):
        super().__init__()
        self.before = self.params["b"].copy()

    def loss(self):
        if not np.array_equal(self.params["b"], self.before):
            raise RuntimeError("hands off")
        return super().loss()


@pytest.mark.parametrize(
    ("student", "check", "outcome", "sentence"),
    [
        (
            OfFloats,
            "contract.call",
            "fail",
            "params['s'] is a float, which cannot be moved in place; an array that loss() reads is due: np.array(0.3)",
        ),
        (OfFloats, "grad.s.differences", "not run", "blocked by contract.call"),
        (OfFloats, "grad.W.differences", "pass", ""),
        (HandsOutCopies, "contract.call", "fail", "params gives a copy of W each time, so that loss() does not see it move"),
        (HandsOutCopies, "grad.W.differences", "not run", "blocked by contract.call"),
        (
            ReadsOtherArrays,
            "contract.call",
            "fail",
            "loss() stays the same whatever is written into params, so it reads other arrays; give",
        ),
        (ReadsOtherArrays, "grad.b.differences", "not run", "blocked by contract.call"),
        (ReadOnly, "contract.call", "fail", "params['U'] is read-only, and it is moved in place and put back; make it writeable"),
        (ReadOnly, "grad.W.differences", "pass", ""),
        (
            RaisesWhenMoved,
            "grad.b.differences",
            "not run",
            "with b moved a little, loss() raised RuntimeError: hands off (test_candidates.py:",
        ),
        (LossMoves, "state.inputs_unmutated", "fail", "loss() changed b"),
        (returning(loss=lambda J: (J, "more")), "contract.call", "fail", "loss() returned a tuple; one number is due"),
        (returning(loss=lambda J: None), "contract.call", "fail", "loss() returned None; one number is due"),
        (returning(loss=lambda J: J * np.nan), "contract.call", "fail", "loss() gives nan; a finite number is due"),
        (returning(loss=_refuse), "contract.call", "fail", "loss() raised RuntimeError: no loss today (test_candidates.py:"),
        (returning(gradients=lambda g: list(g.values())), "contract.call", "fail", "gradients() returned a list; a dict of arrays is due"),
        (returning(gradients=_refuse), "contract.call", "fail", "gradients() raised RuntimeError: no loss today"),
        (returning(gradients=lambda g: {**g, "b": None}), "grad.b.differences", "fail", "gradients() has no b; it has W, U, b: None"),
        (
            returning(gradients=lambda g: {**g, "b": "text"}),
            "grad.b.differences",
            "fail",
            "the gradient of b has dtype <U4; floats are due",
        ),
        (returning(gradients=lambda g: {**g, "b": [[1], [1, 2]]}), "grad.b.differences", "fail", "the gradient of b is no array"),
        (returning(gradients=lambda g: {**g, "b": g["b"][:3]}), "grad.b.differences", "fail", "b has shape (3,); (4,) is due"),
        (
            returning(gradients=lambda g: {k: -v for k, v in g.items()}),
            "grad.W.differences",
            "fail",
            "all of this gradient has the opposite sign",
        ),
        (Summed, "grad.W.differences", "fail", "all of this gradient is 5 times what it should be: a sum for a mean?"),
        (
            returning(gradients=lambda g: {k: v / 3 for k, v in g.items()}),
            "grad.U.differences",
            "fail",
            "is 1/3 of what it should be: a mean",
        ),
        (ForgetfulStudent, "grad.W.differences", "fail", "|⟨candidate, direction⟩ − difference| ≤ "),
    ],
)
def test_what_a_student_object_gives_is_told_in_words(student, check, outcome, sentence):
    results = {r.id: r for r in judge_student(plug(student)[0], None)}
    assert results[check].outcome == outcome
    assert sentence in results[check].reason
    if check.startswith("contract"):
        assert [r.id for r in results.values() if r.outcome == "fail"] == ["contract.call"]


@pytest.mark.parametrize("loss", [np.array, lambda J: np.array([J]), lambda J: [J]])
def test_a_loss_that_is_one_number_in_an_array_is_a_number(loss):
    assert {r.outcome for r in judge_student(plug(returning(loss=loss))[0], None)} == {"pass"}


def test_of_the_axes_of_a_student_nothing_is_said():
    verdict = verify(returning(gradients=lambda g: {**g, "U": np.abs(g["U"])}))
    (failed,) = verdict.failures()
    text = words.failure(failed, verdict.target)
    assert 'gradients["U"][' in text
    assert "unit =" not in text
    textbook = verify(WithoutItsLastBias, only="grad.b_o.autodiff")
    assert "(gate o, unit = " in words.failure(textbook.failures()[0], textbook.target)


class WithoutItsLastBias(CellByCell):
    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {**(g := pull(s)), "b_o": 0 * g["b_o"]}


def test_time_limits_ring_once_they_listen_and_leave_the_alarm_as_it_was():
    def theirs(signum, frame):
        raise AssertionError("the handler of others rang")

    def within_another():
        with contract.listening(), contract.time_limit(30):
            pass
        time.sleep(30)  # the outer limit goes on

    before = signal.signal(signal.SIGALRM, theirs)
    try:
        with contract.listening():
            for limit in (0.05, 0.06):
                with pytest.raises(contract.TimeLimit), contract.time_limit(limit):
                    time.sleep(30)
            with pytest.raises(contract.TimeLimit), contract.time_limit(0.05):
                within_another()
        assert signal.getsignal(signal.SIGALRM) is theirs
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.signal(signal.SIGALRM, before)


class InNamedTuples(CellByCell):
    """The outputs in a read-only mapping, the gradients in a named tuple."""

    def pullback(self, p):
        outputs, pull = super().pullback(p)

        def gradients(s):
            g = pull(s)
            return collections.namedtuple("Gradients", list(g))(**g)

        return types.MappingProxyType(outputs), gradients


def test_what_comes_back_may_be_any_mapping_or_a_named_tuple():
    assert verify(InNamedTuples, only="contract.*,forward.*,grad.*,state.*").outcome == "pass"
    for nameless in ((1, 2), None, types.SimpleNamespace(h=1)):
        assert contract.by_name(nameless) is None


def test_the_reference_runs_many_sets_of_inputs_at_once():
    sets = [cases.build(cases.Spec(Sizes(3, 2, 5, 4), seed=n), np.dtype(float), False).inputs for n in range(3)]
    together = ReferenceLayer().forward_many({k: np.stack([q[k] for q in sets]) for k in sets[0]})
    for n, inputs in enumerate(sets):
        alone = ReferenceLayer().forward(inputs)
        for k in ("h", "h_T", "c_T"):
            assert np.allclose(together[k][n], alone[k], rtol=1e-14, atol=0), (k, n)


def with_many(forward_many, base=CellByCell):
    """The verdict on a candidate with this forward_many, and how often that and forward are called."""
    calls = {"forward": 0, "forward_many": 0}

    class Counted(base):
        def forward(self, inputs):
            calls["forward"] += 1
            return self.pullback(inputs)[0]

        def forward_many(self, inputs):
            calls["forward_many"] += 1
            return forward_many(lambda given: self.pullback(given)[0], inputs)

    return verify(Counted), calls


def one_by_one(forward, inputs):
    """What forward_many is to give, by a forward that takes one set."""
    found = [forward({k: v[n] for k, v in inputs.items()}) for n in range(len(inputs["x"]))]
    return {k: np.stack([q[k] for q in found]) for k in found[0]}


@pytest.mark.parametrize("base", [CellByCell, HiddenStateOnly, LastStateOnly])
def test_a_candidate_with_forward_many_is_differenced_by_it(base):
    plain, alone = with_many(lambda forward, inputs: {}, base)
    verdict, calls = with_many(one_by_one, base)
    assert verdict.outcome == "pass"
    assert {r.id: r.outcome for r in verdict.results} == {r.id: r.outcome for r in plain.results}
    assert not [n for n in verdict.notes if "forward_many" in n]
    assert calls["forward_many"] > 10
    assert alone["forward"] - calls["forward"] > 5 * calls["forward_many"]  # each stands for several


def test_a_wrong_gradient_fails_by_forward_many_as_by_forward():
    class Wrong(CellByCell):
        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            return outputs, lambda s: {k: v * (1 + 1e-8 * (k == "b_o")) for k, v in pull(s).items()}

    verdict, calls = with_many(one_by_one, Wrong)
    assert calls["forward_many"] > 0
    assert {"grad.b_o.autodiff", "grad.b_o.differences"} <= {r.id for r in verdict.failures()}
    assert all("b_o" in r.id or r.chapter == "law" for r in verdict.failures())


def scaled(by):
    return lambda forward, inputs: {k: by * v for k, v in one_by_one(forward, inputs).items()}


@pytest.mark.parametrize(
    ("forward_many", "told"),
    [
        (lambda forward, inputs: {}, "forward_many returned no h of shape ("),
        (lambda forward, inputs: None, "forward_many returned no h of shape ("),
        (lambda forward, inputs: {k: v[:1] for k, v in one_by_one(forward, inputs).items()}, " sets of inputs is due"),
        (lambda forward, inputs: forward(inputs), "forward_many raised "),
        (scaled(1.001), "forward_many gives another J than it is of one set of inputs: off by "),
        (
            lambda forward, inputs: one_by_one(forward, {k: v.real + 0j for k, v in inputs.items()}),
            "forward_many has another derivative than ",
        ),
        (scaled(np.nan), "forward_many gives another J than it is of one set of inputs: off by nan"),
    ],
)
def test_a_forward_many_that_is_of_no_use_is_left_alone_and_told(forward_many, told):
    """It is asked once: a right LSTM passes all the same, by differences of its forward."""
    verdict, calls = with_many(forward_many)
    assert verdict.outcome == "pass"
    assert calls["forward_many"] == 1
    (note,) = [n for n in verdict.notes if "forward_many" in n]
    assert told in note
    assert note.endswith("; it is left alone, and differences are taken with one call at a time")


class ManyLosses(MeanLoss):
    """How often it is asked, and a factor on what it gives of many sets."""

    asked, by = 0, 1.0

    def loss_many(self, inputs):
        type(self).asked += 1
        return [self.by * self.loss_and_gradients({k: v[n] for k, v in inputs.items()})[0] for n in range(len(inputs["y"]))]


def test_a_model_may_give_many_losses_at_once():
    """Of the loss as it is declared, a mean here; another one is left alone."""

    class Sum(ManyLosses):
        asked, by = 0, 2.0

    right, other = verify(ManyLosses), verify(Sum)
    assert (right.outcome, other.outcome) == ("pass", "pass")
    assert ManyLosses.asked > 10
    assert Sum.asked == 1
    assert not [n for n in right.notes if "loss_many" in n]
    assert [n for n in other.notes if n.startswith("loss_many gives another J than it is of one set of inputs: off by ")]


def test_the_reference_gives_many_losses_at_once():
    sets = [cases.build(cases.Spec(Sizes(3, 2, 5, 4, 6), seed=n), np.dtype(float), True).inputs for n in range(3)]
    together = ReferenceModel().loss_many({k: np.stack([q[k] for q in sets]) for k in sets[0]})
    assert np.allclose(together, [ReferenceModel().loss(q) for q in sets], rtol=1e-14, atol=0)
