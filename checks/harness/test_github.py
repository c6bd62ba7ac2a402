"""GitHub: annotations that its parser takes apart again, a summary that shows hostile text as text, a badge."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_ref import verify
from lstm_ref.candidates.load import load, plug
from lstm_ref.candidates.place import place
from lstm_ref.judgement.verdict import EXPECTED
from lstm_ref.report import github, json_report

from . import planted
from .planted import FAULTS

HOSTILE = "<script>alert(1)</script> `x` | [a](http://x) **b** @all ::error::\r\n# ```\n% :: , &amp; ![i](x)"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def failing():
    return json_report.document([json_report.run_data(verify(FAULTS["db averaged over the batch"][0]))])


@pytest.fixture(scope="module")
def passing():
    return json_report.document([json_report.run_data(verify("ref:", only="contract.*"))])


def parsed(text: str) -> list[tuple[dict, str]]:
    """Annotations as GitHub's runner reads them: one command in a line, escapes undone."""
    found = []
    for line in text.splitlines():
        properties, message = re.fullmatch(r"::error ([^:]*)::(.*)", line).groups()
        named = dict(part.split("=", 1) for part in properties.split(","))
        undo = [("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")]
        for a, b in undo:
            named, message = {k: v.replace(a, b) for k, v in named.items()}, message.replace(a, b)
        found.append((named, message))
    return found


def test_a_failing_run_is_one_error_with_the_diagnosis_where_the_gradients_are_written(failing):
    target = failing["runs"][0]["target"]
    [(properties, message)] = parsed(github.errors(failing, {target: ("mine.py", 7)}))
    assert properties == {"file": "mine.py", "line": "7", "title": f"lstm-ref: fail, {target} float64"}
    assert message.startswith("diagnosis: every db_k is averaged over the batch")
    assert re.search(
        r"^grad\.b_f\.autodiff \[float64\] fail: in \d+ of \d+ cases, \S+ × tolerance; every failing case has B > 1", message, re.M
    )
    assert github.errors(failing).startswith("::error title=")


def test_a_passing_run_is_no_error(passing):
    assert github.errors(passing) == ""


def test_a_run_that_is_not_complete_is_an_error(passing):
    [(properties, message)] = parsed(github.errors({**passing, "complete": False, "incomplete": "worker gw0 died"}))
    assert properties == {"title": "lstm-ref: not complete"}
    assert message == "worker gw0 died"


def hostile(document: dict) -> dict:
    run = {**document["runs"][0], "target": HOSTILE, "meaning": HOSTILE, "notes": [HOSTILE], "explanation": {"told": HOSTILE}}
    run["results"] = [{**r, "reason": HOSTILE, "snippet": "x = '''\n```\n'''" if r["snippet"] else ""} for r in run["results"]]
    return {**document, "runs": [run]}


def test_hostile_text_is_the_text_of_one_command_only(failing):
    text = github.errors(hostile(failing), {HOSTILE: ("a,b:c%.py", 1)})
    [(properties, message)] = parsed(text)
    assert properties["file"] == "a,b:c%.py"
    assert properties["title"] == f"lstm-ref: fail, {HOSTILE} float64"
    assert message.startswith(HOSTILE)


def test_hostile_text_is_shown_as_text_in_the_summary(failing):
    text = github.summary(hostile(failing))
    assert "<script>" not in text
    assert "](http" not in text
    assert html.unescape(text).count("alert(1)") > 3
    allowed = {"details", "/details", "summary", "/summary", "br", "code", "/code"}
    assert set(re.findall(r"<(/?[^<>]*)>", re.sub(r"```+python.*?\n```+\n", "", text, flags=re.S))) <= allowed
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 50
    assert {line.count("|") for line in rows} == {7}, "a hostile reason may not add a column or a row"


def test_the_summary_is_bounded(failing):
    run = failing["runs"][0]
    many = {**failing, "runs": [run] * 200}
    text = github.summary(many)
    assert len(text.encode()) < 2**20
    assert "the rest is left out" in text
    assert github.errors(many).count("\n") == 10


def test_the_summary_says_verdict_and_diagnosis_first(failing):
    text = github.summary(failing)
    lines = [line for line in text.splitlines() if line]
    assert lines[0].startswith("### ❌ lstm-ref: ")
    assert lines[1].startswith("**FAIL")
    assert html.unescape(lines[3]).startswith("> diagnosis: every db_k is averaged over the batch")
    assert html.unescape(text).count("| grad.b_f.autodiff | float64 | fail |") == 1
    assert "⚠️ **This report is not complete**: a worker died" in github.summary(
        {**failing, "complete": False, "incomplete": "a worker died"}
    )


def test_badges(failing, passing):
    assert json.loads(github.badge(passing)) == {
        "schemaVersion": 1,
        "label": "LSTM gradients",
        "message": "pass, 6 checks",
        "color": "brightgreen",
    }
    shown = json.loads(github.badge(failing))
    assert re.fullmatch(r"fail, \d+ of \d+ checks", shown["message"])
    assert (shown["color"], shown["isError"]) == ("red", True)
    verdict = verify("ref:", only="contract.*")
    known = [dataclasses.replace(r, outcome=EXPECTED) if r.id == "contract.dtype" else r for r in verdict.results]
    shown = json.loads(github.badge(json_report.document([json_report.run_data(dataclasses.replace(verdict, results=tuple(known)))])))
    assert (shown["message"], shown["color"]) == ("pass, 1 expected failure", "yellowgreen")
    assert json.loads(github.badge({**passing, "complete": False}))["message"] == "pass, not complete"


def test_the_place_is_where_the_gradients_are_written(monkeypatch, tmp_path):
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.chdir(HERE)
    source = (HERE / "planted.py").read_text(encoding="utf-8").splitlines()
    path, line = place(plug(FAULTS["dc_next dropped"][0])[0], "planted")
    assert path == "planted.py"
    assert source[line - 1].strip() == "def pullback(self, inputs):"
    assert place(load("ref:")[0], "ref:") is None, "not of the project that is worked on"
    assert place(load("torch:")[0], "torch:planted.py:LSTM") == ("planted.py", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(HERE.parent))
    assert place(plug(FAULTS["dc_next dropped"][0])[0], "planted") == ("harness/planted.py", line)
    monkeypatch.delenv("GITHUB_WORKSPACE")
    assert place(plug(FAULTS["dc_next dropped"][0])[0], f"{planted.__file__}:X") is None


def test_from_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom strangers import CellByCell\n\n\nclass Wrong(CellByCell):\n"
        "    def pullback(self, p):\n        out, pull = super().pullback(p)\n"
        "        return out, lambda s: {k: -v if k == 'b_o' else v for k, v in pull(s).items()}\n"
    )
    (tmp_path / "summary.md").write_text("of a step before\n")
    env = {**os.environ, "GITHUB_STEP_SUMMARY": "summary.md"}
    few = ("--only", "grad.b_?.autodiff", "--github", "--badge", "badge.json")
    done = subprocess.run(
        [sys.executable, "-m", "lstm_ref", "check", "mine.py:Wrong", *few], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert line.startswith("::error file=mine.py,line=7,title=lstm-ref%3A fail%2C mine.py%3AWrong float64::diagnosis: ")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("of a step before\n### ❌ lstm-ref: mine.py")
    assert json.loads((tmp_path / "badge.json").read_text())["color"] == "red"
    env["GITHUB_STEP_SUMMARY"] = "none/summary.md"
    done = subprocess.run(
        [sys.executable, "-m", "lstm_ref", "check", "mine.py:Wrong", *few], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "$GITHUB_STEP_SUMMARY is none/summary.md, which cannot be written" in done.stderr


def test_from_pytest(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"GITHUB_STEP_SUMMARY": "summary.md"}
    (tmp_path / "mine.py").write_text(f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom strangers import CellByCell\n")
    options = ("--lstm", "mine.py:CellByCell", "-q", "--lstm-github", "--lstm-badge", "badge.json", "-p", "no:cacheprovider")
    done = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "::error" not in done.stdout
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").count("### ✅ lstm-ref") == 1, "once, at the end"
    assert json.loads((tmp_path / "badge.json").read_text())["color"] == "brightgreen"
