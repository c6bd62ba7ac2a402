"""pytest --lstm as a good citizen of other people's test runs: what it selects, reports, leaves behind, and says."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lstm_ref.report import json_report

HARNESS = Path(__file__).parent
WRONG = "lambda s: {k: 2 * v if k == 'b_f' else v for k, v in pull(s).items()}"
HEAD = f"import os, signal, sys\nsys.path.insert(0, {str(HARNESS)!r})\nfrom strangers import CellByCell\n"
FEW = "supports = {'T': 2, 'B': 2, 'D': 2, 'H': 3}"  # one size is compiled and judged in no time
PROGRAM = HEAD + (
    f"class Wrong(CellByCell):\n    {FEW}\n    def pullback(self, p):\n        out, pull = super().pullback(p)\n"
    f"        return out, {WRONG}\n"
    "class Right(CellByCell):\n    supports = {'T': 2, 'B': 2, 'D': 2, 'H': 3, 'dtypes': ['float64', 'float32']}\n"
)
STOPS = HEAD + (
    f"class Stops(CellByCell):\n    {FEW}\n"
    "    calls = 0\n"
    "    def pullback(self, p):\n"
    "        Stops.calls += 1\n"
    "        if Stops.calls == 60 and not os.path.exists('stopped'):\n"
    "            open('stopped', 'w').close()\n"
    "            {how}\n"
    "        return super().pullback(p)\n"
)


@pytest.fixture
def here(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\n")
    (tmp_path / "mine.py").write_text(PROGRAM)
    return tmp_path


def pytest_in(folder, *arguments, cache=()):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", *(cache or ("-p", "no:cacheprovider")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)


def properties(path: Path) -> dict[str, dict[str, str]]:
    """The properties of every test, by the test's name; the class that each is filed under is due."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        assert case.get("classname").startswith("lstm_ref.checks.test_lstm_")
        found[case.get("name")] = {p.get("name"): p.get("value") for p in case.iter("property")}
    return found


def test_a_failing_run_tells_the_same_with_and_without_xdist(here):
    pytest.importorskip("xdist")
    reports, told = [], []
    for more in ((), ("-n", "2")):
        done = pytest_in(here, "--lstm", "mine.py:Wrong", "--lstm-report", "out.json", "--junitxml", "out.xml", "-q", *more)
        assert done.returncode == 1, done.stdout
        assert "wrote out.json" in done.stdout
        for noise in ("Falsifying example", "hypothesis", "@reproduce_failure", "Traceback", "lstm_result =", "def test_"):
            assert noise not in done.stdout, noise
        assert "FAILED lstm_ref/checks/test_lstm_grad.py::test_grad[mine.py:Wrong|float64|grad.b_f.autodiff]" in done.stdout
        document = json_report.load(here / "out.json")
        assert document["complete"]
        assert [(run["target"], run["dtypes"], run["outcome"]) for run in document["runs"]] == [("mine.py:Wrong", ["float64"], "fail")]
        reports.append(document["runs"][0])
        told.append(properties(here / "out.xml"))
    outcomes = [{r["id"]: r["outcome"] for r in run["results"]} for run in reports]
    assert outcomes[0] == outcomes[1]
    assert set(told[0]) == set(told[1])
    for tests in told:
        one = tests["test_grad[mine.py:Wrong|float64|grad.b_f.autodiff]"]
        assert one["lstm_ref.outcome"] == "fail"
        assert (one["lstm_ref.target"], one["lstm_ref.dtype"]) == ("mine.py:Wrong", "float64")
        assert (one["lstm_ref.check"], one["lstm_ref.profile"], one["lstm_ref.seed"]) == ("grad.b_f.autodiff", "quick", "20261")
        assert float(one["lstm_ref.worst_ratio"]) > 1 > float(one["lstm_ref.worst_tolerance"])
        assert one["lstm_ref.worst_entry"].startswith("b_f[")
        assert tests["test_grad[mine.py:Wrong|float64|grad.b_o.autodiff]"]["lstm_ref.outcome"] == "pass"
        assert all(len(v) < 3000 for p in tests.values() for v in p.values())


def test_what_is_not_selected_is_deselected_in_the_verdict_too(here):
    done = pytest_in(here, "--lstm", "mine.py:Wrong", "-k", "grad.b_o", "-q", "--lstm-report", "out.json")
    assert done.returncode == 0, done.stdout
    assert "PASS  (partial: 2 of " in done.stdout
    assert json_report.load(here / "out.json")["outcome"] == "pass"


def test_what_failed_is_run_again_and_alone(here):
    keep = ("-o", "cache_dir=cache")
    pytest_in(here, "--lstm", "mine.py:Wrong", "-q", cache=keep)
    done = pytest_in(here, "--lstm", "mine.py:Wrong", "--lf", "-q", cache=keep)
    assert done.returncode == 1
    assert " deselected in " in done.stdout
    assert ", 0 passed" not in done.stdout
    assert done.stdout.count("FAILED ") == len([x for x in done.stdout.splitlines() if x.startswith("FAILED lstm_ref/checks/")]) > 1


def test_stopping_at_the_first_failure_says_what_was_not_judged(here):
    (here / "mine.py").write_text(PROGRAM + "class Mute(CellByCell):\n    def pullback(self, p):\n        raise RuntimeError('no')\n")
    done = pytest_in(here, "--lstm", "mine.py:Mute", "--lstm", "mine.py:Wrong", "-x", "-q", "--lstm-report", "out.json")
    assert done.returncode == 1
    assert done.stdout.count("FAILED ") == 1
    document = json_report.load(here / "out.json")
    assert document["incomplete"] == "stopping after 1 failures; not judged: mine.py:Wrong float64"
    assert [run["target"] for run in document["runs"]] == ["mine.py:Mute"]


def test_collecting_and_silence(here):
    done = pytest_in(here, "--lstm", "mine.py:Right", "--co", "-q", "--lstm-report", "out.json", "-k", "float64")
    assert done.returncode == 0
    assert "test_grad[mine.py:Right|float64|grad.b_f.autodiff]" in done.stdout
    assert not (here / "out.json").exists()
    done = pytest_in(here, "--lstm", "mine.py:Right", "-p", "no:terminal", "--lstm-report", "out.json", "-k", "float64")
    assert (done.returncode, done.stdout) == (0, "")
    document = json_report.load(here / "out.json")
    assert document["complete"], "float32 was deselected by -k"
    assert [run["dtypes"] for run in document["runs"]] == [["float64"]]


def test_one_test_by_its_name(here):
    from lstm_ref.pytest_plugin import _check_files

    path = next(p for p in _check_files() if p.name == "test_lstm_grad.py")
    done = pytest_in(here, "--lstm", "mine.py:Wrong", f"{path}::test_grad[mine.py:Wrong|float64|grad.b_f.autodiff]", "-q")
    assert "1 failed in" in done.stdout


@pytest.mark.parametrize(
    ("how", "more", "code", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGINT)", (), 2, "interrupted"),
        ("os.kill(os.getppid(), signal.SIGINT)", ("-n", "1"), 2, "interrupted; not judged: mine.py:Stops float64"),
        ("os._exit(3)", ("-n", "1"), 1, "worker gw0 died"),
    ],
)
def test_a_run_that_is_cut_short_leaves_a_valid_report_that_says_so(here, how, more, code, why):
    pytest.importorskip("xdist")
    (here / "mine.py").write_text(STOPS.replace("{how}", how))
    (here / "out.json").write_text("an older report")
    done = pytest_in(here, "--lstm", "mine.py:Stops", "-q", "--lstm-report", "out.json", *more)
    assert done.returncode == code, done.stdout
    document = json_report.load(here / "out.json")
    assert not document["complete"]
    assert document["incomplete"] == why
    if not more:
        assert document["runs"][0]["incomplete"].startswith("interrupted after ")
        assert document["outcome"] == "inconclusive"


def test_a_process_that_is_killed_leaves_a_report_that_says_so(here):
    (here / "mine.py").write_text(STOPS.replace("{how}", "os.kill(os.getpid(), signal.SIGKILL)"))
    done = pytest_in(here, "--lstm", "mine.py:Stops", "-q", "--lstm-report", "out.json")
    assert done.returncode == -signal.SIGKILL
    assert json_report.load(here / "out.json")["incomplete"] == "the run has not ended"


@pytest.mark.parametrize(
    ("arguments", "due"),
    [
        (("--lstm", "mine.py:Right", "--lstm-report", "none/out.json"), "none/out.json cannot be written: No such file or directory"),
        (("--lstm-report", "out.json"), "--lstm-report needs --lstm, which names what is judged"),
        (("--lstm", "mine.py:Right", "--lstm-expect", "none.toml"), "there is no file none.toml"),
    ],
)
def test_options_that_cannot_be_followed_are_usage_errors_before_anything_is_judged(here, arguments, due):
    done = pytest_in(here, *arguments)
    assert done.returncode == 4
    assert due in done.stderr
    assert "passed" not in done.stdout


def test_expected_failures_xfail_and_a_fix_fails(here):
    env = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "lstm_ref", "expect", "update", "mine.py:Wrong", "--reason", "a known factor of two"]
    subprocess.run(command, cwd=here, check=True, env=env, capture_output=True)
    done = pytest_in(here, "--lstm", "mine.py:Wrong", "-q", "-rx", "--lstm-expect", "lstm-ref.toml", "--junitxml", "out.xml")
    assert done.returncode == 0, done.stdout
    assert "a known factor of two" in done.stdout
    assert " xfailed in " in done.stdout
    assert ", 3 expected failures" in done.stdout
    assert properties(here / "out.xml")["test_grad[mine.py:Wrong|float64|grad.b_f.autodiff]"]["lstm_ref.outcome"] == "expected failure"
    (here / "mine.py").write_text(PROGRAM.replace("2 * v", "v"))
    done = pytest_in(here, "--lstm", "mine.py:Wrong", "-q", "--lstm-expect", "lstm-ref.toml")
    assert done.returncode == 1
    assert "Remove the entry: lstm-ref expect prune mine.py:Wrong" in done.stdout
    assert json.dumps(done.stdout).count("unexpected pass") > 1
