"""Expected failures: what is pinned stays no failure, what is fixed fails the run, what is not understood is refused."""

import dataclasses
import datetime
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lstm_ref import verify
from lstm_ref.candidates.load import plug
from lstm_ref.candidates.reference import ReferenceLayer
from lstm_ref.cases import Spec
from lstm_ref.cli import app
from lstm_ref.judgement import expected
from lstm_ref.judgement.expected import Expectation
from lstm_ref.judgement.regions import condition, separating
from lstm_ref.judgement.run import run
from lstm_ref.judgement.verdict import narrowed
from lstm_ref.reference.symbols import Sizes
from lstm_ref.report import html, json_report, words

from .planted import FAULTS

TALL, FLAT = FAULTS["an error only for H > 16"][0], FAULTS["db averaged over the batch"][0]
ONLY = "contract.*,forward.*,grad.b_?.autodiff,sizes.tiles"
PROGRAM = (
    "import sys\n"
    f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    "from checks.harness.planted import FAULTS\n"
    "from lstm_ref.candidates.reference import ReferenceLayer\n"
    "Mine = {choice}\n"
)
RIGHT, WRONG = "ReferenceLayer", "FAULTS['db averaged over the batch'][0]"


def judged(lstm, only=ONLY):
    faces = plug(lstm, "mine")
    return run("mine", faces, only=only), faces


@pytest.fixture(scope="module")
def tall():
    return judged(TALL)


@pytest.fixture(scope="module")
def flat():
    return judged(FLAT)


@pytest.fixture(scope="module")
def right():
    return judged(ReferenceLayer)


@pytest.fixture
def pins(tmp_path):
    """Pin what fails in a verdict; the file and its entries."""

    def pin(verdict, faces, reason="known since May", until=None):
        path = tmp_path / "lstm-ref.toml"
        made, without = expected.fresh(verdict, faces, reason, until, tmp_path / "lstm-ref.expected")
        assert without == []
        expected.keep(path, (), made)
        return path, expected.read(path)

    return pin


def outcomes(verdict) -> dict[str, str]:
    return {r.id: r.outcome for r in verdict.results}


def test_what_is_pinned_is_no_failure_and_the_verdict_says_how_many(tall, pins):
    path, entries = pins(*tall)
    assert {e.check for e in entries} == {"grad.b_f.autodiff", "sizes.tiles"}
    assert next(e.region for e in entries if e.check == "grad.b_f.autodiff") == "H > 16"
    verdict = expected.held(*tall, entries, path)
    assert verdict.outcome == "pass"
    assert verdict.gradients == "expected failure"
    assert verdict.behaviour == "deselected" or verdict.behaviour == "pass"
    assert outcomes(verdict)["grad.b_f.autodiff"] == "expected failure"
    assert ", 2 expected failures" in words.headline(verdict)
    assert next(r.reason for r in verdict.results if r.id == "grad.b_f.autodiff") == "known since May; only where H > 16"


def test_a_failure_outside_of_the_region_is_a_failure(tall, flat, pins):
    path, entries = pins(*tall)
    everywhere = dataclasses.replace(tall[0], results=tuple(_failing_at(r, Sizes(4, 2, 3, 5, 1)) for r in tall[0].results))
    verdict = expected.held(everywhere, tall[1], entries, path)
    assert verdict.outcome == "fail"
    reason = next(r.reason for r in verdict.failures() if r.id == "grad.b_f.autodiff")
    assert reason == (
        f"was expected to fail only where H > 16 (known since May); 1 of {len(_failing(tall[0]).failing) + 1} failing cases lie elsewhere, "
        "such as T=4, B=2, D=3, H=5, ordinary"
    )


def _failing(verdict):
    return next(r for r in verdict.results if r.id == "grad.b_f.autodiff")


def _failing_at(r, sizes):
    return dataclasses.replace(r, failing=(*r.failing, Spec(sizes))) if r.id == "grad.b_f.autodiff" else r


def test_another_failure_beside_an_expected_one_is_a_failure_with_a_case(flat, pins):
    path, entries = pins(*flat)
    one = [e for e in entries if e.check == "grad.b_f.autodiff"]
    verdict = expected.held(*flat, one, path)
    assert verdict.outcome == "fail"
    assert [r.id for r in verdict.failures()] == [f"grad.b_{k}.autodiff" for k in "ico"]
    shown = [r for r in verdict.failures() if r.counterexample is not None]
    assert [r.counterexample.primary for r in shown] == [True] + [False] * (len(shown) - 1)
    assert "again" in words.failure(shown[0], "mine", None, "file.json")


def test_what_an_expected_failure_kept_from_running_does_not_hold_the_run_up(flat, pins):
    path, entries = pins(*flat)
    assert outcomes(flat[0])["sizes.tiles"] == "not run"
    verdict = expected.held(*flat, entries, path)
    assert outcomes(verdict)["sizes.tiles"] == "blocked"
    assert verdict.outcome == "pass"
    alone = narrowed(flat[0], lambda r: r.id == "sizes.tiles")
    assert expected.held(alone, flat[1], (), path).outcome == "inconclusive"
    assert outcomes(expected.held(alone, flat[1], entries, path))["sizes.tiles"] == "blocked"


def test_a_call_that_fails_leaves_the_run_without_a_verdict(pins):
    class Raises(ReferenceLayer):
        def pullback(self, inputs):
            raise RuntimeError("no")

    verdict, faces = judged(Raises)
    path, entries = pins(verdict, faces)
    assert {e.check for e in entries} == {"contract.call"}
    assert expected.held(verdict, faces, entries, path).outcome == "inconclusive"


def test_a_fix_fails_the_run_with_the_command_that_removes_the_entry(flat, right, pins):
    path, entries = pins(*flat)
    verdict = expected.held(*right, entries, path)
    assert verdict.outcome == "fail"
    assert outcomes(verdict)["grad.b_f.autodiff"] == "unexpected pass"
    due = (
        "4 checks pass that were expected to fail, the first is grad.b_f.autodiff [float64]: it passes, and its pinned "
        "counterexample passes now; it was expected to fail: known since May. "
        f"Remove the entry: lstm-ref expect prune mine --expect {path}"
    )
    assert due in words.meaning(verdict)
    assert "4 unexpected passes" in words.headline(verdict)


def test_the_page_does_not_call_an_expected_failure_a_pass(tall, right, pins):
    pytest.importorskip("jinja2", reason="needs jinja2: pip install '.[html]'")
    path, entries = pins(*tall)
    for judged_now, due in ((tall, "checks pass, 2 fail as expected"), (right, r"2 of \d+ checks pass though a failure is expected")):
        verdict = expected.held(*judged_now, entries, path)
        page = html.page(json_report.document([json_report.run_data(verdict)]))
        assert re.search(due, page)
        assert "checks that apply pass" not in page
        assert "known since May" in page


def test_another_fault_under_the_same_check_is_a_failure(flat, tall, pins):
    path, entries = pins(*flat)
    verdict = expected.held(*tall, entries, path)
    assert "grad.b_f.autodiff" in [r.id for r in verdict.failures()]
    reason = next(r.reason for r in verdict.failures() if r.id == "grad.b_f.autodiff")
    assert reason.startswith("the pinned counterexample of what was expected (known since May) passes now, so this is another failure.")


def test_the_counterexample_decides_where_a_run_draws_no_failing_case(tall, right, pins):
    path, entries = pins(*tall)
    verdict = expected.held(right[0], tall[1], entries, path)  # a run in which it passes, of the candidate that is wrong
    assert verdict.outcome == "pass"
    assert _failing(verdict).outcome == "expected failure"
    assert "on the pinned counterexample, not on this run's own cases" in _failing(verdict).reason


def test_after_its_end_date_a_failure_is_one_again(flat, pins):
    last = datetime.date(2027, 1, 31)
    path, entries = pins(*flat, until=last)
    assert expected.held(*flat, entries, path, today=last).outcome == "pass"
    verdict = expected.held(*flat, entries, path, today=last + datetime.timedelta(1))
    assert verdict.outcome == "fail"
    assert "was expected to fail until 2027-01-31, which is past: known since May" in {r.reason for r in verdict.failures()}


def test_entries_of_other_targets_and_dtypes_say_nothing(flat, pins):
    path, entries = pins(*flat)
    others = [dataclasses.replace(e, target="theirs") for e in entries]
    assert expected.held(*flat, others, path) is flat[0]
    assert expected.held(*flat, [dataclasses.replace(e, target="") for e in entries], path).outcome == "pass"
    with pytest.raises(expected.ExpectError, match=r"mine has no check forward\.J; remove the entry: lstm-ref expect prune mine"):
        expected.due([Expectation("forward.J", "float64", "x", path, "mine")], "mine", flat[1], path)


def test_reasons_of_any_text_are_read_back(flat, pins):
    reason = 'a "quote", a \\ backslash,\na line, a\ttab, \x00\x1f\x7f and Größe → ∂'
    path, entries = pins(*flat, reason=reason)
    assert {e.reason for e in entries} == {reason}
    assert tomllib.loads(path.read_text(encoding="utf-8"))["expected"][0]["counterexample"].startswith("lstm-ref.expected/mine-")
    before = path.read_bytes()
    expected.write(path, entries)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def pinned_file(flat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pinned")
    made, _ = expected.fresh(*flat, "known", None, folder / "lstm-ref.expected")
    expected.keep(folder / "lstm-ref.toml", (), dict(list(made.items())[:1]))
    return folder


CHECK = 'check = "grad.b_f.autodiff"'
HOSTILE = {
    "unknown check": (CHECK, 'check = "grad.b_x.autodiff"', r"there is no check 'grad\.b_x\.autodiff'; grad\.\w+\.autodiff is one"),
    "nothing like a check": (CHECK, 'check = "zzz"', "there is no check 'zzz'; `lstm-ref checks` lists them all"),
    "another check": (CHECK, 'check = "grad.b_o.autodiff"', r"is of grad\.b_f\.autodiff \[float64\]; one of grad\.b_o\.autodiff"),
    "unknown key": (CHECK, CHECK + '\nregoin = "H > 1"', "has the unknown key regoin; the keys are check, dtype, reason"),
    "no reason": ('reason = "known"', "", "has no reason; it must have check, dtype, reason, counterexample"),
    "empty reason": ('"known"', '" "', "reason is ' '; a text is due"),
    "a number": ('"known"', "3", "reason is 3; a text is due"),
    "another dtype": ('dtype = "float64"', 'dtype = "float63"', "the dtype is 'float63'; it must be one of float64"),
    "no such file": ("lstm-ref.expected/", "elsewhere/", "there is no file .*elsewhere/mine-"),
    "a date in quotes": (CHECK, CHECK + '\nuntil = "2027-01-31"', "a date is due, such as until = 2027-01-31, without quotes"),
    "a region in other words": ('region = "B > 1"', 'region = "large H"', r"the region has 'large H'; it must be a condition on T, B, D"),
    "not TOML": ("[[expected]]", "[[expected", "is not TOML"),
    "another table": ("[[expected]]", "[[expect]]", r"has expect; it may hold \[\[expected\]\] tables only"),
    "no table": (None, "expected = 3", r"has an `expected` that is no list"),
    "numbers": (None, "expected = [3]", r"entry 1 is no table; write \[\[expected\]\] above its keys"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_not_understood_is_refused_with_a_sentence(name, pinned_file, tmp_path):
    old, new, due = HOSTILE[name]
    shutil.copytree(pinned_file, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "lstm-ref.toml"
    text = path.read_text(encoding="utf-8")
    assert old is None or text.count(old) == 1
    path.write_text(text.replace(old, new) if old else new, encoding="utf-8")
    with pytest.raises(expected.ExpectError, match=due):
        expected.read(path)


def test_a_missing_file_and_a_double_entry_are_refused(pinned_file, tmp_path):
    with pytest.raises(
        expected.ExpectError, match=r"there is no file nowhere\.toml; `lstm-ref expect update TARGET --expect nowhere\.toml"
    ):
        expected.read("nowhere.toml")
    shutil.copytree(pinned_file, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "lstm-ref.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + text, encoding="utf-8")
    with pytest.raises(expected.ExpectError, match=r"entry 2: grad\.b_f\.autodiff \[float64\] of mine is there twice"):
        expected.read(path)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("H > 16", (1, 1, 1, 17), (1, 1, 1, 16)),
        ("T < 3", (2, 1, 1, 1), (3, 1, 1, 1)),
        ("B = 1", (1, 1, 1, 1), (1, 2, 1, 1)),
        ("H is not a multiple of 8", (1, 1, 1, 9), (1, 1, 1, 16)),
        ("D is a multiple of 4 and T > 1", (2, 1, 8, 1), (1, 1, 8, 1)),
        ("sizes.square", (1, 1, 3, 3), (1, 1, 3, 4)),
    ],
)
def test_regions_hold_where_they_say(text, inside, outside):
    assert condition(text)(Spec(Sizes(*inside, 1)))
    assert not condition(text)(Spec(Sizes(*outside, 1)))


def test_a_region_of_numbers_is_a_group_of_cases():
    assert condition("numerics.saturation and H > 1")(Spec(Sizes(1, 1, 1, 2, 1), "saturated"))
    assert not condition("numerics.saturation")(Spec(Sizes(1, 1, 1, 2, 1)))


@pytest.mark.parametrize("fault", [lambda n: n.H > 16, lambda n: n.T < 3, lambda n: n.D % 8 != 0])
def test_the_conditions_that_are_found_are_read_back(fault):
    seen = [(n := Sizes(t, 2, d, h, 1), fault(n)) for t in (1, 2, 3, 4) for d in (7, 8, 9, 16) for h in (15, 16, 17, 18)]
    text, _ = separating(seen)
    assert all(condition(text)(Spec(n)) is failed for n, failed in seen)


def command(*args):
    done = CliRunner().invoke(app, list(args))
    return done.exit_code, done.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PROGRAM.format(choice=WRONG))
    return tmp_path


FEW = ("--only", ONLY)


def test_from_pinning_to_pruning_at_the_desk(here):
    code, text = command("check", "mine.py:Mine", *FEW)
    assert code == 1
    code, text = command("expect", "update", "mine.py:Mine", *FEW)
    assert code == 2
    assert "4 checks fail: grad.b_f.autodiff [float64], grad.b_i.autodiff [float64], grad.b_c" in text
    assert not (here / "lstm-ref.toml").exists()
    code, text = command("expect", "update", "mine.py:Mine", *FEW, "--reason", "a mean by design", "--until", "2999-12-31")
    assert code == 0
    assert "pinned      grad.b_f.autodiff [float64], only where B > 1, until 2999-12-31\n" in text
    assert "reason: a mean by design\nwrote lstm-ref.toml, and 4 counterexamples into lstm-ref.expected: keep both with the code\n" in text
    assert "judge with them: lstm-ref check mine.py:Mine --expect lstm-ref.toml" in text
    code, text = command("check", "mine.py:Mine", *FEW)
    assert code == 1, "nothing is expected unasked"
    code, text = command("check", "mine.py:Mine", *FEW, "--expect", "lstm-ref.toml")
    assert code == 0
    assert re.search(r"^PASS .* 4 expected failures", text, re.M)
    code, text = command("expect", "prune", "mine.py:Mine")
    assert code == 0
    assert text == "nothing to remove: 4 expected failures of mine.py:Mine left in lstm-ref.toml\n"
    (here / "mine.py").write_text(PROGRAM.format(choice=RIGHT))
    code, text = command("check", "mine.py:Mine", *FEW, "--expect", "lstm-ref.toml")
    assert code == 1
    assert "Remove the entry: lstm-ref expect prune mine.py:Mine" in text
    assert "unexpected pass grad.b_f.autodiff" in text
    code, text = command("expect", "prune", "mine.py:Mine")
    assert code == 0
    assert text.endswith("0 expected failures of mine.py:Mine left in lstm-ref.toml\n")
    assert list((here / "lstm-ref.expected").iterdir()) == []
    assert command("check", "mine.py:Mine", *FEW, "--expect", "lstm-ref.toml")[0] == 0


def test_usage_errors_are_2_before_anything_is_judged(here):
    (here / "bad.toml").write_text('[[expected]]\ncheck = "zzz"\n')
    for arguments in (("check", "mine.py:Mine", "--expect", "bad.toml"), ("expect", "prune", "mine.py:Mine", "--expect", "none.toml")):
        assert command(*arguments)[0] == 2
    assert command("expect", "update", "mine.py:Mine", "--until", "soon")[0] == 2


def test_a_pin_that_cannot_be_written_is_2(here):
    (here / "lstm-ref.expected").write_text("a file where a folder is due")
    code, text = command("expect", "update", "mine.py:Mine", *FEW, "--reason", "x")
    assert code == 2
    assert "cannot be written" in text


def test_from_python(here):
    command("expect", "update", "mine.py:Mine", *FEW, "--reason", "a mean by design")
    verdict = verify("mine.py:Mine", only=ONLY, expect="lstm-ref.toml")
    assert verdict.outcome == "pass"
    assert json.dumps([r.reason for r in verdict.results if r.outcome == "expected failure"]).count("a mean by design") == 4
