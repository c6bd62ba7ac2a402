"""Isolation: right candidates are judged as they are without it, and what would take the run down, or leave traces in its
process, is a finding of its own; the run goes on, and no process is left."""

import gc
import os
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from lstm_ref import cases, cli, pytest_plugin, verify
from lstm_ref.candidates import contract, isolate
from lstm_ref.candidates.contract import Finding
from lstm_ref.candidates.isolate import isolated
from lstm_ref.candidates.load import TargetError, load
from lstm_ref.judgement.judge import fitted
from lstm_ref.judgement.run import PROFILES
from lstm_ref.judgement.tolerances import PRECISIONS

FLOAT64 = np.dtype(float)

# The reference, which does something else first: in every call, or in those of six steps only.
MODULE = """
import ctypes, os, pathlib, re, signal, sys, time, warnings
import numpy as np
from lstm_ref.candidates.reference import ReferenceLayer

with pathlib.Path(__file__).with_suffix(".pids").open("a") as pids:
    pids.write(f"{os.getpid()}\\n")

def right(inputs):
    return {k: np.array(v) for k, v in inputs.items()}

class Right(ReferenceLayer):
    supports = {"call_seconds": 3.0}
    steps = None

    def pullback(self, inputs):
        if self.steps in (None, inputs["x"].shape[0]):
            self.misbehave(inputs)
        outputs, pull = super().pullback(right(inputs))
        return self.outputs(outputs, inputs), lambda s: self.gradients(pull(s), inputs, s)

    def misbehave(self, inputs): pass
    def outputs(self, outputs, inputs): return outputs
    def gradients(self, gradients, inputs, s): return gradients
"""


@pytest.fixture
def written(tmp_path):
    """A function that writes a class and gives its target; afterwards no process of it may be left, not even a zombie."""
    path = tmp_path / "own.py"

    def write(code: str) -> str:
        body = "".join(f"    {line}\n" for line in code.splitlines())
        path.write_text(f"{MODULE}\nclass Own(Right):\n{body}", encoding="utf-8")
        return f"{path}:Own"

    yield write
    gc.collect()
    if path.with_suffix(".pids").exists():
        for pid in map(int, path.with_suffix(".pids").read_text().split()):
            if pid != os.getpid():
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)


def one_case(candidate, instance=None, corner=0, memory="plain", dtype=FLOAT64):
    """A call, and what a candidate returns for one case; raises Finding."""
    case = cases.build(fitted(cases.CORNERS[corner], candidate), dtype, candidate.model)
    call = contract.prepare(candidate, case.inputs, dtype, memory)
    return call, *contract.run(call, instance or candidate.make(), case.cotangents)


def few_cases(monkeypatch):
    """A quick run of the first fixed cases and one more, the two of the state checks among them."""
    monkeypatch.setattr(cases, "CORNERS", cases.CORNERS[:12])
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], draws=1))


ONLY = "contract.*,state.*,forward.*,grad.*.autodiff,grad.x.differences,inter.c.differences"


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("ref:", "float64"),
        ("torch:", "float32"),
        ("examples/my_lstm.py:MyLSTM", "float64"),
        ("examples/numpy_fused.py:Fused", "float32"),
    ],
)
def test_right_candidates_are_judged_as_without_it(target, dtype, monkeypatch):
    if target == "torch:":
        pytest.importorskip("torch")
    few_cases(monkeypatch)
    plain, apart = (verify(target, dtype=dtype, only=ONLY, isolate=k) for k in (False, True))
    outcomes = [{r.id: r.outcome for r in v.results} for v in (plain, apart)]
    assert outcomes[0] == outcomes[1]
    assert "pass" in outcomes[0].values()
    assert plain.outcome == apart.outcome


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_numbers_come_back_bit_for_bit(dtype):
    dtype = PRECISIONS[dtype].dtype
    for here, there in zip(load("ref:"), isolated("ref:"), strict=True):
        for memory in ("plain", "readonly", "noncontiguous"):
            asked = [one_case(face, memory=memory, dtype=dtype)[1:] for face in (here, there)]
            for kept, sent in zip(*asked, strict=True):
                assert kept.raw.keys() == sent.raw.keys()
                assert not sent.faults
                for k in kept.raw:
                    np.testing.assert_array_equal(kept.raw[k], sent.raw[k], strict=True)


def test_pythons_own_numbers_have_no_dtype_there_either(written):
    face = isolated(written("def gradients(self, g, inputs, s): return {k: v.tolist() for k, v in g.items()}"))[0]
    _, _, told = one_case(face, dtype=np.dtype("float32"))
    assert {v.dtype.name for v in told.raw.values()} == {"float32"}
    np.testing.assert_array_equal(told.raw["b_f"], one_case(load("ref:")[0], dtype=np.dtype("float32"))[2].raw["b_f"])


def test_complex_steps_and_taps_arrive():
    found = []
    for face in (load("ref:")[0], isolated("ref:")[0]):
        instance, case = face.make(), cases.build(cases.CORNERS[0], FLOAT64, False)
        call = contract.prepare(face, case.inputs, FLOAT64)
        there = contract.moved(call, call.inputs, {"W_f": np.ones(call.inputs["W_f"].shape)}, 1e-30j, np.dtype(complex))
        h, tap = contract.forward(there, instance).arrays["h"], np.full(case.cotangents["h"].shape, 1e-30j)
        found.append((h, contract.forward(there, instance, {"c": tap}).arrays["h"]))
    np.testing.assert_array_equal(*found, strict=True)
    assert found[0][0].imag.any()
    assert (found[0][0] != found[0][1]).all()


def test_what_is_declared_is_told():
    for here, there in zip(load("ref:"), isolated("ref:"), strict=True):
        for field in ("name", "kind", "factory", "layout", "supports", "reduction", "taps"):
            assert getattr(here, field) == getattr(there, field)
    assert callable(there.make().loss_and_gradients)
    assert not hasattr(there.make(), "pullback")


def test_arrays_lie_there_as_they_lie_here(written):
    say = "def misbehave(self, inputs): raise ValueError(str([(v.strides, v.flags.writeable, v.flags.owndata) for v in inputs.values()]))"
    target = written(say)
    for memory in ("plain", "readonly", "noncontiguous"):
        said = []
        for face in (load(target)[0], isolated(target)[0]):
            with pytest.raises(Finding) as found:
                one_case(face, corner=5, memory=memory)
            said.append(found.value.sentence)
        assert said[0] == said[1]
        assert "own.py:" in said[0]


@pytest.mark.parametrize(
    ("misbehaviour", "check", "sentence"),
    [
        ("ctypes.string_at(0)", "contract.call", "pullback crashed its process (SIGSEGV) at T=6, "),
        ("os._exit(3)", "contract.call", "pullback ended its process with exit code 3 at T=6, "),
        ("os.abort()", "contract.call", "pullback crashed its process (SIGABRT) at T=6, "),
        ("sys.exit(4)", "contract.call", "pullback raised SystemExit: 4 at T=6, "),
        ("raise KeyboardInterrupt", "contract.call", "pullback raised KeyboardInterrupt at T=6, "),
        ("self.hoard = [np.ones(2**24) for _ in range(2**10)]", "contract.call", "Unable to allocate"),
        ("np.seterr(over='raise')", "contract.call", "changed NumPy's error state (over: 'warn' to 'raise') and left it so at T=6, "),
        (
            "np.set_printoptions(precision=3)",
            "contract.call",
            "changed NumPy's print options (precision: 8 to 3) and left them so at T=6, ",
        ),
        ("np.random.seed(0)", "contract.call", "changed NumPy's global random state"),
        ("warnings.simplefilter('error')", "contract.call", "changed the filters of warnings and left them so at T=6, "),
        ("os.chdir('/')", "contract.call", "changed the working directory to '/' and left it so at T=6, "),
        ("os.environ['OWN'] = '1'", "contract.call", "changed the environment (OWN) and left it so at T=6, "),
        ("sys.stdout.write('x' * 10_000_000)", "contract.call", "printed 10.0 MB; at most 1 MB is fair in one call at T=6, "),
        ("os.write(2, b'x' * 10_000_000)", "contract.call", "printed 10.0 MB; at most 1 MB is fair in one call at T=6, "),
    ],
)
def test_misbehaviour_is_a_finding_and_the_candidate_goes_on(written, monkeypatch, misbehaviour, check, sentence):
    monkeypatch.setenv("LSTM_REF_MEMORY_GIB", "0.4")
    candidate = isolated(written(f"steps = 6\ndef misbehave(self, inputs): {misbehaviour}"))[0]
    instance = candidate.make()
    six = next(n for n, spec in enumerate(cases.CORNERS) if spec.sizes.T == 6)
    one_case(candidate, instance)  # what a first call imports may change filters and the environment
    for _ in range(2):  # as a finding each time, and as if nothing had been afterwards
        try:
            _, outputs, gradients = one_case(candidate, instance, six)
            found = outputs.faults["process"]
            assert {"h", "c_T"} <= outputs.arrays.keys()
            assert "W_f" in gradients.arrays
        except Finding as finding:
            found = finding
        assert found.check == check
        assert sentence in found.sentence, found.sentence
        _, outputs, gradients = one_case(candidate, instance)
        assert not outputs.faults
        assert not gradients.faults


def test_a_crash_names_the_line_and_quotes_what_was_printed(written):
    candidate = isolated(
        written("def misbehave(self, inputs):\n    os.write(1, b'half way\\n')\n    os.kill(os.getpid(), signal.SIGSEGV)")
    )[0]
    with pytest.raises(Finding, match=r"crashed its process \(SIGSEGV\); its stderr ends: 'half way' at T=4, .* \(own\.py:\d+\)$"):
        one_case(candidate)


@pytest.mark.parametrize("thread", [False, True])
def test_a_hang_that_never_returns_to_python_ends_in_time(written, thread):
    hang = "supports = {'call_seconds': 0.5}\ndef misbehave(self, inputs): re.match(r'(a+)+$', 'a' * 60 + 'b')"
    candidate, found = isolated(written(hang))[0], []

    def ask():
        with pytest.raises(Finding) as finding:
            one_case(candidate)
        found.append(finding.value)

    if thread:
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(10)
    else:
        ask()
    assert found[0].check == "contract.time"
    assert "pullback did not return within 0.5 s" in found[0].sentence


def test_a_run_goes_on_after_crashes_and_ends_with_a_verdict(written, monkeypatch):
    few_cases(monkeypatch)
    verdict = verify(
        written("steps = 5\ndef misbehave(self, inputs): ctypes.string_at(0)"), only="contract.*,grad.W_f.autodiff", isolate=True
    )
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "fail"
    assert "crashed its process (SIGSEGV)" in found["contract.call"].reason
    assert found["grad.W_f.autodiff"].outcome == "pass"
    assert found["contract.call"].counterexample is not None


def test_a_trace_in_every_call_leaves_the_gradients_judged(written, monkeypatch):
    few_cases(monkeypatch)
    verdict = verify(written("def misbehave(self, inputs): np.seterr(all='ignore')"), only="contract.*,grad.*.autodiff", isolate=True)
    assert [r.id for r in verdict.failures()] == ["contract.call"]
    assert verdict.gradients == "pass"


def test_a_hang_in_c_ends_the_run_without_a_verdict(written):
    hang = "supports = {'call_seconds': 0.5}\ndef misbehave(self, inputs): re.match(r'(a+)+$', 'a' * 60 + 'b')"
    verdict = verify(written(hang), isolate=True)
    assert verdict.outcome == "inconclusive"
    assert {r.id: r for r in verdict.results}["contract.time"].outcome == "timeout"


@pytest.mark.parametrize(
    ("code", "check", "sentence"),
    [
        ("def misbehave(self, inputs): inputs['x'] *= 2", "state.inputs_unmutated", "x changed during the call"),
        ("def misbehave(self, inputs): inputs['x'] = inputs['x'] * 2", "state.inputs_unmutated", "x changed during the call"),
        (
            "def gradients(self, g, inputs, s):\n    inputs['W_f'][0, 0] += 1\n    return g",
            "state.inputs_unmutated",
            "W_f changed during the call",
        ),
        (
            "def gradients(self, g, inputs, s):\n    s['c_T'][...] = 0\n    return g",
            "state.inputs_unmutated",
            "changed the cotangent c_T that it was given",
        ),
        (
            "def outputs(self, o, inputs):\n    inputs['c0'][...] = o['c_T']\n    return {**o, 'c_T': inputs['c0']}",
            "state.aliasing",
            "the output c_T shares memory with the input c0",
        ),
        (
            "def gradients(self, g, inputs, s):\n    inputs['W_f'][...] = g['W_f']\n    return {**g, 'W_f': inputs['W_f'][:]}",
            "state.aliasing",
            "the gradient W_f shares memory with the input W_f",
        ),
        (
            "last = {}\n"
            "def outputs(self, o, inputs):\n"
            "    h = self.last.setdefault(o['h'].shape, o['h'])\n"
            "    h[...] = o['h']\n"
            "    return {**o, 'h': h}",
            "state.aliasing",
            "the output h of one call changed during the next call",
        ),
    ],
)
def test_traces_in_arrays_are_seen_from_outside(written, monkeypatch, code, check, sentence):
    few_cases(monkeypatch)
    target = written(code)
    told = [{r.id: r for r in verify(target, only="contract.*,state.*", isolate=k).results} for k in (False, True)]
    for found in told:
        assert found[check].outcome == "fail"
        assert sentence in found[check].reason, found[check].reason
    assert {k: r.outcome for k, r in told[0].items()} == {k: r.outcome for k, r in told[1].items()}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def outputs(self, o, inputs): return list(o)", "pullback returned a list as its first value; a dict of arrays is due"),
        ("def outputs(self, o, inputs): return None", "pullback returned None as its first value; a dict of arrays is due"),
        ("def pullback(self, inputs): return 7", "pullback returned a int; (outputs, pull) is due"),
        ("def pullback(self, inputs): return {}, 7", "pullback returned a int as its second value"),
        ("def pullback(self, inputs): raise MyError('so')\nglobal MyError\nclass MyError(Exception): pass", "raised MyError: so at T=4"),
    ],
)
def test_what_is_no_answer_is_said_in_the_same_words(written, code, sentence):
    said, target = [], written(code)
    for face in (load(target)[0], isolated(target)[0]):
        with pytest.raises(Finding) as found:
            one_case(face)
        said.append((found.value.check, found.value.sentence))
    assert said[0] == said[1]
    assert sentence in said[0][1]


def test_a_mapping_of_another_kind_is_an_answer_here_and_there(written):
    target = written("def outputs(self, o, inputs): return __import__('types').MappingProxyType(o)")
    for apart in (False, True):
        assert verify(target, only="contract.*,forward.h", isolate=apart).outcome == "pass"


@pytest.mark.parametrize(
    "value", ["o['h'][0]", "o['h'].astype(int)", "o['h'].astype('f4')", "'text'", "None", "[[1], [1, 2]]", "object()", "o['h'] * np.nan"]
)
def test_arrays_that_do_not_fit_are_said_in_the_same_words(written, value):
    target = written(f"def outputs(self, o, inputs): return {{**o, 'h': {value}}}")
    said = []
    for face in (load(target)[0], isolated(target)[0]):
        try:
            said.append({k: (f.check, f.sentence) for k, f in one_case(face)[1].faults.items()})
        except Finding as finding:
            said.append({"": (finding.check, finding.sentence)})
    assert said[0] == said[1]


def test_forward_and_vjp_meet_in_the_same_instance_and_inputs(written):
    two = """
def forward(self, inputs):
    inputs["kept"] = ReferenceLayer.pullback(self, right(inputs))
    return inputs["kept"][0]
def vjp(self, inputs, s): return inputs["kept"][1](s)
def __getattribute__(self, name):
    if name == "pullback": raise AttributeError(name)
    return super().__getattribute__(name)
"""
    candidate = isolated(written(two))[0]
    assert candidate.kind == "vjp"
    instance = candidate.make()
    for n in (0, 7):
        assert not one_case(candidate, instance, n)[2].faults


def test_a_crash_in_one_backward_pass_ends_the_others(written):
    candidate = isolated(written("def gradients(self, g, inputs, s): return os._exit(5) if inputs['x'].shape[0] == 6 else g"))[0]
    instance, pulls = candidate.make(), []
    for n in (0, next(n for n, spec in enumerate(cases.CORNERS) if spec.sizes.T == 6)):
        case = cases.build(cases.CORNERS[n], FLOAT64, False)
        pulls.append((contract.start(contract.prepare(candidate, case.inputs, FLOAT64), instance)[1], case.cotangents))
    with pytest.raises(Finding, match=r"pull\(cotangents\) ended its process with exit code 5 at T=6"):
        pulls[1][0](pulls[1][1])
    with pytest.raises(Finding, match="could not be called: its process has ended, and with it what pullback had kept"):
        pulls[0][0](pulls[0][1])
    assert one_case(candidate, instance)[2].arrays


def test_nothing_is_kept_there_that_is_forgotten_here(written):
    count = "sum(type(q).__name__ == 'Given' for q in __import__('gc').get_objects())"
    target = written(f"def outputs(self, o, inputs): return {{**o, 'h_T': 0 * o['h_T'] + {count}}}")
    candidate = isolated(target)[0]
    instance = candidate.make()
    counts = [one_case(candidate, instance)[1].raw["h_T"].flat[0] for _ in range(12)]
    assert max(counts) == counts[-1] <= isolate.KEPT_INPUTS + 4


def test_targets_that_do_not_load_say_so(written, tmp_path, monkeypatch):
    for target in (f"{tmp_path}/nowhere.py:A", "no_such_module:A", "examples/my_lstm.py:Other", "nonsense"):
        said = []
        for way in (load, isolated):
            with pytest.raises(TargetError) as error:
                way(target)
            said.append(str(error.value))
        assert said[0] == said[1]
    (tmp_path / "dies.py").write_text("import os\nos._exit(9)")
    with pytest.raises(TargetError, match="could not be loaded: it ended its process with exit code 9"):
        isolated(f"{tmp_path}/dies.py:A")
    (tmp_path / "student.py").write_text("class S:\n    params = {}\n    def loss(self): pass\n    def gradients(self): pass")
    with pytest.raises(TargetError, match="cannot be isolated; judge it without --isolate"):
        isolated(f"{tmp_path}/student.py:S")
    monkeypatch.setenv("LSTM_REF_MEMORY_GIB", "much")
    with pytest.raises(TargetError, match="LSTM_REF_MEMORY_GIB is 'much'; a number of GiB above 0 is due"):
        isolated("ref:")


def test_a_class_cannot_be_isolated():
    class Mine:
        forward = vjp = print

    with pytest.raises(ValueError, match=r'needs a target as on the command line, such as "my_module:MyLSTM": Mine is of this process'):
        verify(Mine, isolate=True)


def test_the_command_takes_it(written, monkeypatch, tmp_path):
    few_cases(monkeypatch)
    target = written("def misbehave(self, inputs): np.seterr(all='ignore')")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["check", target, "--only", "contract.*", "--isolate"])
    assert done.exit_code == 1, done.output
    assert "changed NumPy's error state" in " ".join(done.output.split())
    kept = next((tmp_path / cli.FAILURES).iterdir())
    again = [CliRunner().invoke(cli.app, ["replay", str(kept), "--lstm", target, *more]).exit_code for more in ([], ["--isolate"])]
    assert again == [0, 1]


def test_the_plugin_takes_it(written, monkeypatch):
    said = {"lstm_isolate": True, "lstm": []}
    plugins = SimpleNamespace(register=lambda *_: None)
    config = SimpleNamespace(getoption=said.get, stash=pytest.Stash(), pluginmanager=plugins, option=SimpleNamespace())
    pytest_plugin.pytest_configure(config)
    face = pytest_plugin._faces(config, written("pass"))[0]
    assert isinstance(face.make(), isolate.Instance)


def test_the_process_starts_without_jax():
    code = "import sys; import lstm_ref.candidates.worker, lstm_ref.candidates.load; assert not {'jax', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_doctor_isolated_says_what_it_says_without(written, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    alone, isolated_ = (CliRunner().invoke(cli.app, ["doctor", written("steps = 0"), *more]) for more in ([], ["--isolate"]))
    assert alone.exit_code == isolated_.exit_code == 0, isolated_.output
    assert alone.output == isolated_.output
    crashed = CliRunner().invoke(cli.app, ["doctor", written("def misbehave(self, inputs): os._exit(3)"), "--isolate"])
    assert crashed.exit_code == 1, crashed.output
    assert "PROBLEM" in crashed.output
    assert "ended its process" in crashed.output
