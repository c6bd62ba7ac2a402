"""The reports: JSON that keeps to its schema, is whole or says that it is not, and holds no text of any length."""

import copy
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from lstm_ref import cases, verify
from lstm_ref.candidates.load import plug
from lstm_ref.cli import app
from lstm_ref.judgement import record
from lstm_ref.judgement import run as engine
from lstm_ref.judgement.verdict import FAIL, Evidence, Result, Verdict
from lstm_ref.report import bounds, json_report, words

from .strangers import CellByCell, spoilt

HERE = Path(__file__).parent
STRANGERS = HERE / "strangers.py"
SCHEMA = json.loads(resources.files("lstm_ref.report").joinpath("report.schema.json").read_text(encoding="utf-8"))
FEW = engine.Profile("ci", 4, 6)
Wrong = spoilt(change_gradients=lambda g: {**g, "W_f": 0.5 * g["W_f"], "b_f": 0.5 * g["b_f"]})


def valid(document: dict) -> dict:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(document)
    return json.loads(json_report.dumps(document))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(engine.PROFILES, "ci", FEW)


@pytest.fixture(scope="module")
def failing() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engine.PROFILES, "ci", FEW)
        verdict = verify(Wrong, profile="ci")
    return json_report.document([json_report.run_data(verdict, plug(Wrong)[0].layout)])


@pytest.fixture(scope="module")
def passing() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engine.PROFILES, "ci", FEW)
        return json_report.document([json_report.run_data(verify(CellByCell, profile="ci", dtype="float64,float32"))])


def test_a_passing_and_a_failing_report_keep_to_the_schema(passing, failing):
    for document in (passing, failing):
        assert valid(document) == document
    assert (passing["outcome"], passing["complete"], passing["incomplete"]) == ("pass", True, "")
    assert passing["runs"][0]["dtypes"] == ["float64", "float32"]
    assert (failing["outcome"], failing["complete"]) == ("fail", True)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (("outcome",), "perhaps"),
        (("format",), "lstm-ref report 1"),
        (("times", "seconds"), "long"),
        (("runs", 0, "results", 0, "cases"), -1),
        (("runs", 0, "results", 0, "surprise"), 1),
        (("runs", 0, "power", "float64", "told"), None),
    ],
)
def test_the_schema_refuses_what_is_no_report(passing, where, what):
    spoilt_ = copy.deepcopy(passing)
    there = spoilt_
    for key in where[:-1]:
        there = there[key]
    there[where[-1]] = what
    with pytest.raises(jsonschema.ValidationError):
        valid(spoilt_)


def test_a_failing_check_brings_its_numbers_its_case_and_a_counterexample_that_replays(failing, tmp_path):
    (run,) = failing["runs"]
    found = {r["id"]: r for r in run["results"]}
    own = next(r for r in run["results"] if r["counterexample"])
    assert found["grad.W_f.autodiff"]["outcome"] == "fail"
    assert own["id"] == "grad.W_f.autodiff"
    assert found["grad.b_f.autodiff"]["shares"] == own["id"]
    assert found["grad.b_f.autodiff"]["shrunk"]["outcome"] == "fail"
    worst = own["worst"]
    assert worst["candidate"] == pytest.approx(0.5 * worst["autodiff"])
    assert worst["tolerance"] == pytest.approx(16 * 2**-53 * worst["condition"])
    assert worst["error"] / worst["tolerance"] == pytest.approx(worst["ratio"])
    assert set(own["where"]["sizes"]) == set("TBDHK")
    check, dtype, case, variant = record.parse(own["counterexample"], "the report")
    again = engine.replay("here", plug(Wrong), check, dtype, case, variant)
    assert again.outcome == "fail"
    assert "lstm = " in own["snippet"]
    assert "it is half of what is due" in own["told"]
    (fit,) = run["explanation"]["fits"]
    assert {edge["id"]: gain for edge, gain in zip(fit["edges"], fit["gains"], strict=True)} == pytest.approx({"dW_f": 0.5, "db_f": 0.5})


def test_the_power_statement_is_kept_by_the_judge(passing):
    """An error just above what the statement says fails in every gradient, one of a tenth of it does not."""
    (run,) = passing["runs"]
    power = run["power"]["float64"]
    assert power["cases"]["autodiff"] == run["results"][0]["cases"] or power["cases"]["autodiff"] > 30
    assert set(power["autodiff"]) >= {"W_f", "W_o", "b_c", "x", "h0", "c0"}
    for name, sight in power["autodiff"].items():
        assert 0 < sight["smallest"] <= sight["median"] <= sight["largest"] < 1, name
    shape = {}

    def off(by):
        def change(g):
            out = dict(g)
            q = np.array(out["b_o"])
            q[np.argmin(np.abs(q))] += by * np.abs(q).max()  # wherever it lies: the smallest entry
            shape["b_o"] = q.shape
            return {**out, "b_o": q}

        return change

    sight = power["autodiff"]["b_o"]
    for by, due in ((sight["smallest"] * 1.01, "fail"), (sight["smallest"] / 10, "pass")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(engine.PROFILES, "ci", FEW)
            verdict = verify(spoilt(change_gradients=off(by)), profile="ci", only="grad.b_o.autodiff")
        assert verdict.outcome == due, by
    assert f"{max(s['smallest'] for s in power['autodiff'].values()):.1e} of the block" in power["told"][0]


def test_the_published_figures_are_those_of_the_page():
    page = (HERE.parents[1] / "docs" / "power.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| (float\d+) \| (\d+) \| (\d+) \(.*?\) \| ([\d.e-]+)[^|]*\| [^|]+\| (\d+ in [\d,]+ blocks) \|", page)
    assert len(rows) == len(words.PUBLISHED_POWER) == 2
    for dtype, mutants, killed, entry, alarms in rows:
        told = words.PUBLISHED_POWER[dtype]
        digits, power = entry.split("e-")
        entry = f"{digits}·10⁻{power.translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
        for due in (f"{killed} of {mutants}", f"{entry} of the block", alarms.replace(" in ", " false alarms in ")):
            assert due in told, due


def timeless(q):
    """The document without what may differ between two runs with one seed."""
    if isinstance(q, dict):
        return {k: timeless(v) for k, v in q.items() if k not in ("seconds", "times")}
    return [timeless(v) for v in q] if isinstance(q, list) else q


AGAIN = """
import sys
sys.path.insert(0, {root!r})
from checks.harness.test_reports import FEW, Wrong, engine, json_report, plug, timeless, verify

engine.PROFILES["ci"] = FEW
run = json_report.run_data(verify(Wrong, profile="ci"), plug(Wrong)[0].layout)
print(json_report.dumps(timeless(json_report.document([run]))))
"""


def test_two_runs_with_one_seed_give_the_same_json_but_for_times():
    """In processes of their own, where sets and dicts of strings are ordered otherwise."""
    code = AGAIN.format(root=str(HERE.parents[1]))
    runs = [
        subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True)
        for seed in ("1", "2")
    ]
    one, two = (run.communicate(timeout=300)[0] for run in runs)
    assert json.loads(one)["runs"][0]["outcome"] == "fail"
    assert one == two


def test_a_document_that_is_not_complete_does_not_pass(passing, failing):
    runs = [*passing["runs"]]
    assert json_report.document(runs)["outcome"] == "pass"
    assert json_report.document(runs, incomplete="interrupted")["outcome"] == "inconclusive"
    assert json_report.document([*runs, *failing["runs"]], incomplete="interrupted")["outcome"] == "fail"
    assert json_report.document([])["outcome"] == "inconclusive"


def test_no_number_that_is_not_finite_breaks_the_file():
    worst = Evidence(FAIL, math.inf, "W_f", (0, 0), math.nan, -math.inf, rule="nan is not a finite number")
    verdict = Verdict("mine", "quick", 1, (Result("grad.W_f.autodiff", "float64", FAIL, 1, failed=1, worst=worst),), 1, 0.5)
    document = valid(json_report.document([json_report.run_data(verdict)]))
    told = document["runs"][0]["results"][0]["worst"]
    assert (told["ratio"], told["candidate"], told["autodiff"]) == ("inf", "nan", "-inf")


HOSTILE = "<script>alert(1)</script> \" ' & \x00 \x1b[2J \ud800 \u202e " + "A" * 10_000_000


def hostile() -> Verdict:
    worst = Evidence(FAIL, math.inf, HOSTILE, rule=HOSTILE, note=HOSTILE)
    results = tuple(
        Result(k, "float64", FAIL, 1, failed=1, worst=worst, reason=HOSTILE) for k in ("contract.call", "grad.W_f.autodiff", HOSTILE)
    )
    return Verdict(HOSTILE, "quick", 1, results, 1, 0.5, notes=(HOSTILE, HOSTILE[::-1]), incomplete=HOSTILE)


def test_hostile_texts_neither_break_nor_bloat_a_report(tmp_path):
    document = json_report.document([json_report.run_data(hostile())], incomplete=HOSTILE)
    valid(document)
    text = json_report.dumps(document)
    assert len(text) < 120_000
    assert "more)" in document["runs"][0]["target"]
    assert len(document["runs"][0]["results"][0]["reason"]) <= bounds.LONGEST
    for raw in ("\x1b", "\x00", "\ud800", "\u202e"):
        assert raw not in text
    json_report.write(tmp_path / "out.json", text)
    assert json_report.load(tmp_path / "out.json") == document


def test_hostile_texts_are_short_and_harmless_at_the_terminal():
    from rich.console import Console

    from lstm_ref.report import terminal

    console = Console(record=True, file=io.StringIO(), width=200)
    terminal.card(console, hostile(), None, {})
    text = console.export_text()
    assert len(text) < 60_000
    assert "\x1b[2J" not in text
    assert r"\x1b[2J" in text


def test_bounds_leave_what_is_short_alone_and_are_idempotent():
    for s in ("", "dW_f", "σ ∂ ⊙ ᵀ c̃\n\tnext"):
        assert bounds.text(s) == s
    for s in ("A" * 2001, "\x1b" * 1999, "é" * 10_000):
        once = bounds.text(s)
        assert len(once) <= bounds.LONGEST
        assert bounds.text(once) == once
        assert re.search(r"… \([\d,]+ more\)$", once)
    assert bounds.text("A" * 10_000).endswith(f"… ({10_000 - len(bounds.text('A' * 10_000).partition('…')[0]):,} more)")
    verdict = verify(CellByCell, only="contract.call")
    assert bounds.bounded(verdict) == verdict


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a report: its format must be 'lstm-ref report 2'"),
        ('{"format": "lstm-ref report 1"}', "and it is 'lstm-ref report 1'; write it again with lstm-ref check --report"),
        ('{"format": "lstm-ref report 2"}', "lacks the keys complete, held, incomplete, outcome, platform, runs, times, versions"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_load_refuses_what_is_no_report(tmp_path, content, told):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(json_report.ReportError, match=re.escape(told)):
        json_report.load(tmp_path / "x.json")


def test_load_refuses_files_that_are_missing_too_large_or_lack_parts(tmp_path, monkeypatch, passing):
    with pytest.raises(json_report.ReportError, match="there is no file"):
        json_report.load(tmp_path / "none.json")
    path = tmp_path / "x.json"
    for part, told in (({"runs": 3}, "runs must be a list"), ({"runs": [{}]}, r"runs\[0\] must be an object with dtypes")):
        path.write_text(json.dumps({**passing, **part}))
        with pytest.raises(json_report.ReportError, match=told):
            json_report.load(path)
    path.write_text(json_report.dumps(passing))
    assert json_report.load(path) == passing
    monkeypatch.setattr(json_report, "LARGEST_FILE", 10)
    with pytest.raises(json_report.ReportError, match="a report has at most 10"):
        json_report.load(path)


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    json_report.write(path, "before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        json_report.write(path, "after")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


SLOW = """
import sys, time, pathlib
sys.path.insert(0, {folder!r})
from strangers import CellByCell, spoilt

class Slow(CellByCell):
    def pullback(self, p):
        time.sleep(0.02)
        calls = pathlib.Path("calls")
        calls.write_text(str(int(calls.read_text() if calls.exists() else 0) + 1))
        return super().pullback(p)

class SlowWrong(Slow):
    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: {{**pull(s), "b_o": -pull(s)["b_o"]}}
"""


def interrupted(tmp_path, name: str, how: int, *more) -> tuple[int, dict, str]:
    """Exit code, report and output of a run that was sent a signal while it judged."""
    (tmp_path / "slow.py").write_text(SLOW.format(folder=str(HERE)))
    argv = [
        sys.executable,
        "-m",
        "lstm_ref",
        "check",
        f"slow.py:{name}",
        "--profile",
        "ci",
        "--only",
        "grad.*.autodiff,contract.*",
        "--report",
        "out.json",
    ]
    run = subprocess.Popen([*argv, *more], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        with_calls = tmp_path / "calls"
        if with_calls.exists() and int(with_calls.read_text() or 0) > 40:
            break
        time.sleep(0.05)
    run.send_signal(how)
    text, _ = run.communicate(timeout=120)
    return run.returncode, json_report.load(tmp_path / "out.json"), text


@pytest.mark.parametrize(("name", "how", "code"), [("SlowWrong", signal.SIGINT, 1), ("Slow", signal.SIGTERM, 3)], ids=str)
def test_an_interrupted_run_reports_what_it_had_judged(tmp_path, name, how, code):
    returned, document, text = interrupted(tmp_path, name, how)
    valid(document)
    assert returned == code, text
    assert document["complete"] is False
    told = re.fullmatch(r"interrupted after (\d+) of (\d+) float64 cases", document["incomplete"])
    assert told, document["incomplete"]
    (run,) = document["runs"]
    assert 0 < int(told[1]) == run["cases"] < int(told[2]) == len(cases.CORNERS) + 1000
    assert document["outcome"] == ("fail" if name == "SlowWrong" else "inconclusive")
    outcomes = {r["outcome"] for r in run["results"]}
    assert outcomes == {"not run", "deselected"} | ({"fail"} if name == "SlowWrong" else set())
    assert document["incomplete"] in text
    assert ("FAIL" if name == "SlowWrong" else "INCONCLUSIVE") in text
    assert "Traceback" not in text


def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path):
    code = (
        "import time\n"
        "from lstm_ref.cli import _stopped_once\n"
        "with _stopped_once():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        print('again', flush=True)\n"
        "        time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for due in ("ready", "again"):
        assert run.stdout.readline().strip() == due
        run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode == -signal.SIGINT


def test_an_interruption_before_the_first_case_leaves_a_report_too(tmp_path, monkeypatch):
    from lstm_ref import cli

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_loaded", stop)
    done = CliRunner().invoke(app, ["check", "ref:", "--report", "out.json", "--html", "out.html"])
    assert done.exit_code == 3
    document = json_report.load("out.json")
    valid(document)
    assert (document["complete"], document["incomplete"]) == (False, "interrupted before a case was judged")
    assert (document["outcome"], document["runs"]) == ("inconclusive", [])
    assert "Nothing was judged" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_a_worker_that_is_killed_leaves_a_whole_report_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "killed.py").write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "from strangers import CellByCell\n"
        "class Killed(CellByCell):\n"
        "    def pullback(self, p):\n"
        "        if p['x'].shape[0] > 6:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().pullback(p)\n"
    )
    done = CliRunner().invoke(
        app, ["check", "killed.py:Killed", "--isolate", "--only", "contract.*,grad.*.autodiff", "--report", "out.json"]
    )
    assert done.exit_code == 1, done.output
    document = json_report.load("out.json")
    valid(document)
    assert (document["complete"], document["outcome"]) == (True, "fail")
    found = {r["id"]: r for r in document["runs"][0]["results"]}
    assert found["contract.call"]["outcome"] == "fail"
    assert "SIGKILL" in found["contract.call"]["reason"]
    assert found["contract.call"]["failed"] < found["contract.call"]["cases"]
    assert found["grad.W_f.autodiff"]["outcome"] == "pass"


def test_ctrl_c_in_python_is_a_keyboard_interrupt_with_the_verdict_so_far(few):
    calls = []

    class Stopped(CellByCell):
        def pullback(self, p):
            calls.append(1)
            if len(calls) == 60:
                raise KeyboardInterrupt
            return super().pullback(p)

    with pytest.raises(engine.Interrupted, match="interrupted after") as stop:
        verify(Stopped, profile="ci", dtype="float64,float32")
    assert isinstance(stop.value, KeyboardInterrupt)
    verdict = stop.value.verdict
    assert verdict.outcome == "inconclusive"
    assert verdict.dtypes == ("float64", "float32")
    assert {r.outcome for r in verdict.results if r.dtype == "float32"} == {"not run"}
    valid(json_report.document([json_report.run_data(verdict)]))


def test_an_interruption_while_a_failure_is_made_smaller_keeps_every_outcome(few, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "shrink", stop)
    with pytest.raises(engine.Interrupted, match="before the failing float64 case was made smaller") as stopped:
        verify(Wrong, profile="ci", only="grad.*")
    verdict = stopped.value.verdict
    assert {r.id for r in verdict.failures()} == {f"grad.{k}_f.{truth}" for k in "Wb" for truth in ("autodiff", "differences")}
    assert any(r.outcome == "pass" for r in verdict.results)
