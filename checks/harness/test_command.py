"""Programs: an LSTM in another language over a pipe passes; one that dies, hangs or talks nonsense is named, and nothing is left of it."""

import gc
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lstm_ref import cases, verify
from lstm_ref.candidates import contract, pipe
from lstm_ref.candidates.load import TargetError, load
from lstm_ref.reference.symbols import LAYER_INPUTS, Sizes, shape
from lstm_ref.report import words as report

from .programs import required

ROOT = Path(__file__).resolve().parents[2]
NODE = f"cmd:node {ROOT}/examples/javascript/lstm.mjs"

# A right LSTM and a right model behind the protocol, and `misbehave`, which is called before the third and every later reply,
# and replies itself where it returns True.
PROGRAM = """
import json, math, os, pathlib, signal, sys, time
import numpy as np
from lstm_ref.candidates.reference import ReferenceLayer, ReferenceModel

def misbehave(): pass
HELLO = {}
MISBEHAVIOUR
pathlib.Path(__file__).with_suffix(".pids").open("a").write(f"{os.getpid()}\\n")
source, sink, count = sys.stdin.buffer, sys.stdout.buffer, 0

def say(text):
    sink.write(text.encode())
    sink.flush()

def flows(p):
    return {"h_T": p["d_h_T"], "h": p["d_h"], "c_T": p["d_c_T"]}

def answer(call, p):
    if call == "loss_and_gradients":
        J, gradients = ReferenceModel().loss_and_gradients({**p, "y": p["y"].astype(int)})
        return {"J": J, **gradients}
    outputs, pull = ReferenceLayer().pullback(p)
    wanted = ("h", "h_T", "c_T") if call == "forward" else ("x", "h0", "c0", *(q + k for q in ("W_", "b_") for k in "fico"))
    found = outputs if call == "forward" else pull(flows(p))
    return {k: found[k] for k in wanted}

while head := source.readline().split():
    name, version, call, dtype, n = (v.decode() for v in head)
    shapes = [(k, tuple(map(int, d))) for k, *d in (source.readline().decode().split() for _ in range(int(n)))]
    p = {k: np.frombuffer(source.read(8 * math.prod(d))).reshape(d).astype(dtype) for k, d in shapes}
    if call == "hello":
        say("hello " + json.dumps(HELLO) + "\\n")
        continue
    count += 1
    if count > 2 and misbehave():
        continue
    found = {k: np.asarray(v, float) for k, v in answer(call, p).items()}
    heads = "".join(" ".join(map(str, (k, *v.shape))) + "\\n" for k, v in found.items())
    say(f"ok {len(found)}\\n" + heads)
    sink.write(b"".join(v.tobytes() for v in found.values()))
    sink.flush()
"""


@pytest.fixture
def written(tmp_path):
    """A function that writes a program with a misbehaviour; afterwards no process of it may be left, not even a zombie."""
    path = tmp_path / "program.py"

    def write(misbehaviour: str = "") -> list[str]:
        path.write_text(PROGRAM.replace("MISBEHAVIOUR", misbehaviour), encoding="utf-8")
        return [sys.executable, str(path)]

    yield write
    gc.collect()
    if path.with_suffix(".pids").exists():
        for pid in map(int, path.with_suffix(".pids").read_text().split()):
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def target(argv: list[str]) -> str:
    return "cmd:" + " ".join(argv)


def call(candidate):
    """Outputs and gradients of one case: two calls of a layer."""
    case = cases.build(cases.CORNERS[0], np.dtype(float), candidate.model)
    return contract.run(contract.prepare(candidate, case.inputs, np.dtype(float)), candidate.make(), case.cotangents)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_javascript_example_passes(dtype):
    required("node")
    verdict = verify(NODE, dtype=dtype)
    assert verdict.outcome == "pass", [(r.id, r.outcome, r.reason) for r in verdict.results if r.outcome not in ("pass", "not provided")]
    assert verdict.kind == "textbook"


def test_the_javascript_example_without_its_carry_is_diagnosed():
    required("node")
    verdict = verify(f"{NODE} --forget-carry", dtype="float64", only="forward.*,grad.*")
    assert {"grad.W_f.autodiff", "grad.c0.differences"} <= {r.id for r in verdict.failures()}
    assert "comes back from t+1 is missing (B:cell): gain 0.000 on dc<-dc_next" in report.explanation(verdict)


def test_a_layer_and_a_model_in_one_program_pass(written):
    argv = written('HELLO = {"calls": ["forward", "vjp", "loss_and_gradients"]}')
    assert [c.kind for c in load(target(argv))] == ["vjp", "loss_and_gradients"]
    verdict = verify(target(argv), dtype="float64", only="contract.*,forward.*,grad.*.autodiff")
    found = {r.id: r.outcome for r in verdict.results}
    assert verdict.outcome == "pass"
    assert found["forward.J"] == found["forward.h"] == found["grad.W_v.autodiff"] == "pass"


def test_replies_in_float32_are_float32_and_complex_numbers_are_refused(written):
    program = load(target(written()))[0].make()
    inputs = cases.build(cases.CORNERS[0], np.dtype(np.float32), False).inputs
    assert {v.dtype.name for v in program.forward({k: v.astype(np.float32) for k, v in inputs.items()}).values()} == {"float32"}
    assert {v.dtype.name for v in program.forward({k: v.astype(np.float64) for k, v in inputs.items()}).values()} == {"float64"}
    with pytest.raises(TypeError, match="real numbers only"):
        program.forward({k: v.astype(complex) for k, v in inputs.items()})
    with pytest.raises(TypeError, match="computes in float64 or float32, not in float16"):
        program.forward({k: v.astype(np.float16) for k, v in inputs.items()})


def test_the_page_shows_the_request_that_is_sent(monkeypatch):
    sent = []
    monkeypatch.setattr(pipe._Process, "__init__", lambda self, argv: None)
    monkeypatch.setattr(pipe._Process, "exchange", lambda self, request, due: (sent.append(request) or due, {}))
    n = Sizes(2, 1, 3, 4)
    inputs, cotangents = ({k: np.ones(shape(k, n)) for k in names} for names in (LAYER_INPUTS, ("h", "c_T")))
    pipe.Program([]).vjp(inputs, cotangents)
    head = sent[0].removesuffix(np.ones(sum(v.size for v in (*inputs.values(), *cotangents.values()))).tobytes()).decode()
    assert head.endswith("d_c_T 1 4\n")
    assert "".join(f"    {line}\n" for line in head.splitlines()) in (ROOT / "docs/any-language.md").read_text(encoding="utf-8")


NAMED = {
    "dies by a signal": (
        "print('about to fall', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
        ["was killed by SIGSEGV in the middle of a call; its stderr ends: 'about to fall'"],
    ),
    "exits": (
        "raise ValueError('no more')",
        ["ended with exit code 1", "its stderr ends: 'Traceback (most recent call last): | ValueError: no more'"],
    ),
    "closes its output": ("os.close(1); time.sleep(60)", ["closed its stdout in the middle of a call"]),
    "prints": (
        r"say('epoch 1 loss 0.3\n')",
        ["wrote 'epoch 1 loss 0.3' to stdout, where a line 'ok …' or 'error …' is due"],
    ),
    "writes binary": (r"say('\0\1\2' * 100)", [r"wrote '\x00\x01\x02", " bytes) to stdout, where a line 'ok …' or 'error …' is due"]),
    "prints after its reply": (r"say('ok 0\nand more'); time.sleep(60)", ["wrote 'and more' to stdout after its reply"]),
    "announces too much": (r"say('ok 1\nh 99999 99999\n')", ["announced 9999800001 numbers; a reply holds at most 268435456"]),
    "announces a negative size": (r"say('ok 1\nh -3\n')", ["announced '-3' as h's size; a whole number from 0 to 268435456 is due"]),
    "announces half a size": (r"say('ok 1\nh 1.5\n')", ["announced '1.5' as h's size"]),
    "announces one name twice": (r"say('ok 2\nh 1\nh 1\n')", ["announced an array 'h'", "twice"]),
    "never ends a line": (r"say('ok 1\n' + 'h' * 100000)", ["wrote 'hhhh", "where a line 'NAME d1 …' is due"]),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_breaks_the_protocol_is_named_and_the_next_call_has_a_new_process(written, name):
    misbehaviour, words = NAMED[name]
    candidate = load(target(written(f"def misbehave(): {misbehaviour}")))[0]
    call(candidate)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(contract.Finding) as finding:
        call(candidate)
    assert finding.value.check == "contract.call"
    assert all(word in finding.value.sentence for word in words), finding.value.sentence
    assert candidate.make().process is None
    assert call(candidate)[1].arrays.keys() >= {"x", "W_f"}
    assert len(os.listdir("/dev/fd")) == before


def test_an_error_is_a_finding_of_its_call_and_the_process_lives_on(written):
    candidate = load(target(written(r"def misbehave(): return count == 3 and (say('error out of memory\n') or True)")))[0]
    call(candidate)
    process = candidate.make().process
    with pytest.raises(contract.Finding, match="forward raised RuntimeError: the program answered: error out of memory at T="):
        call(candidate)
    assert call(candidate)[1].arrays.keys() >= {"x", "W_f"}
    assert candidate.make().process is process


def test_a_program_that_goes_on_failing_ends_in_a_verdict(written):
    argv = written(r"def misbehave(): return count % 7 == 0 and (say('error out of memory\n') or True)")
    verdict = verify(target(argv), dtype="float64")
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "fail"
    assert found["contract.call"].outcome == "fail"
    assert "the program answered: error out of memory" in found["contract.call"].reason
    assert 0 < found["contract.call"].failed < found["contract.call"].cases


def test_a_hang_is_a_timeout(written):
    argv = written('HELLO = {"supports": {"call_seconds": 0.5}}\ndef misbehave(): time.sleep(60)')
    verdict = verify(target(argv), dtype="float64")
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "inconclusive"
    assert found["contract.time"].outcome == "timeout"
    assert "did not return within 0.5 s" in found["contract.time"].reason
    assert verdict.seconds < 10


def test_a_flood_on_stderr_stops_nothing_and_is_not_kept(written):
    candidate = load(target(written("def misbehave(): sys.stderr.write('flood ' * 2**20)")))[0]
    for _ in range(3):
        assert not call(candidate)[1].faults
    assert len(candidate.make().process.stderr) <= pipe.KEPT_STDERR


def test_children_of_a_program_end_with_it(written, tmp_path):
    os.mkfifo(tmp_path / "alive")
    argv = written(f"if os.fork() == 0: held = open({str(tmp_path / 'alive')!r}, 'w'); time.sleep(60); os._exit(0)")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    call(load(target(argv))[0])
    began = time.monotonic()
    os.set_blocking(alive, True)
    assert os.read(alive, 1) == b""  # the end: nobody holds the other side
    os.close(alive)
    assert time.monotonic() - began < 30


SAYS = {
    "hello": "says hello , which is not understood",
    "hello [1]": "says hello [1], which is not understood: a JSON object is due, with any of the keys layout, supports, reduction, calls",
    'hello {"layouts": 1}': "it has the key 'layouts'; it may have layout, supports, reduction, calls",
    'hello {"layout": "pytorch"}': "must be one of 'textbook', 'torch', 'keras'",
    'hello {"layout": {"order": 7}}': "is not understood",
    'hello {"layout": {"names": {"x": "the input"}}}': "layout names has 'the input'; a name is a word without spaces",
    'hello {"supports": {"G": 1}}': "supports has the key 'G'",
    'hello {"supports": {"dtypes": ["float16"]}}': "supports has the dtypes float16; a program is asked for float64 or float32",
    'hello {"reduction": "average"}': "reduction is 'average'; it must be one of 'sum', 'mean'",
    'hello {"calls": ["backward"]}': "calls is ['backward']; it is a list of forward, vjp, loss_and_gradients",
    'hello {"calls": ["vjp"]}': "forward is due where vjp is",
    "error no GPU here": "did not answer hello: the program answered: error no GPU here",
    "Welcome!": "did not answer hello: the program wrote 'Welcome!",
}


@pytest.mark.parametrize("line", SAYS)
def test_a_hello_that_says_nothing_is_refused(line):
    with pytest.raises(TargetError) as error:
        pipe.program(["sh", "-c", 'read request; echo "$0"; cat', line], "cmd:it")
    assert SAYS[line] in str(error.value)


def test_a_program_that_cannot_be_started_says_why(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("no program")
    for wrong, words in {
        "cmd:no_such_program_here x": "did not answer hello: [Errno 2] No such file or directory: 'no_such_program_here'",
        f"cmd:{tmp_path}/notes.txt": "Permission denied",
        "cmd:sh -c 'exit 3'": "did not answer hello: the program ended with exit code 3",
        "cmd:sh 'open": "is no command line: No closing quotation",
        "cmd:": "names no LSTM; it must be one of",
    }.items():
        with pytest.raises(TargetError) as error:
            load(wrong)
        assert words in str(error.value)
    monkeypatch.setattr(pipe, "LOAD_SECONDS", 0.2)
    with pytest.raises(TargetError, match=r"did not answer hello within 0\.2 s; does it flush what it writes\?"):
        load("cmd:sleep 60")
