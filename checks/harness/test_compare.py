"""Compare: what got better or worse between two reports, and what says nothing."""

import copy
import json

import pytest
from typer.testing import CliRunner

from lstm_ref import verify
from lstm_ref.candidates.reference import ReferenceLayer
from lstm_ref.cli import app
from lstm_ref.report import compare, json_report

from .planted import FAULTS

ONLY = "contract.*,forward.*,grad.b_?.autodiff,sizes.*"


def document(lstm, **options):
    return json_report.document([json_report.run_data(verify(lstm, only=ONLY, **options))])


@pytest.fixture(scope="module")
def right():
    return document(ReferenceLayer)


@pytest.fixture(scope="module")
def wrong():
    return document(FAULTS["db averaged over the batch"][0])


def changed(document, id_, **fields):
    """The document with one result changed; a field of `worst` as worst_ratio."""
    out = copy.deepcopy(document)
    [r] = [r for r in out["runs"][0]["results"] if r["id"] == id_]
    for k, v in fields.items():
        if k.startswith("worst_"):
            r["worst"][k.removeprefix("worst_")] = v
        else:
            r[k] = v
    return out


def test_a_report_is_the_same_as_itself(right, wrong):
    for one in (right, wrong):
        d = compare.compare(one, one)
        assert d.outcome == "same"
        assert compare.text(d) == f"same: no outcome of {d.common} checks has changed"
        assert d.common > 20


def test_what_fails_now_is_worse_and_back_is_better(right, wrong):
    d = compare.compare(right, wrong)
    assert d.outcome == "worse"
    assert {c.id for c in d.worse} == {f"grad.b_{k}.autodiff" for k in "fico"}
    text = compare.text(d)
    assert "worse   grad.b_f.autodiff [float64] pass → fail: in " in text
    assert " × tolerance; every failing case has B > 1" in text
    assert "changed pass → not run: sizes.ones [float64]" in text, "what the failure keeps from running is not worse on its own"
    assert text.endswith(f"worse: 4 worse, 0 better of {d.common} checks")
    back = compare.compare(wrong, right)
    assert back.outcome == "better"
    assert [c.id for c in back.better] == [c.id for c in d.worse]
    assert back.worse == ()


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("pass", "cannot tell", "worse"),
        ("pass", "timeout", "worse"),
        ("pass", "not provided", "worse"),
        ("pass", "expected failure", "worse"),
        ("pass", "not run", "worse"),
        ("expected failure", "fail", "worse"),
        ("cannot tell", "fail", "worse"),
        ("not provided", "fail", "worse"),
        ("fail", "expected failure", "other"),
        ("fail", "cannot tell", "other"),
        ("not provided", "pass", "other"),
        ("cannot tell", "pass", "better"),
        ("expected failure", "unexpected pass", "better"),
    ],
)
def test_every_change_of_outcome_has_a_direction(right, before, after, kind):
    one, two = (changed(right, "grad.b_f.autodiff", outcome=o) for o in (before, after))
    d = compare.compare(one, two)
    assert [c.id for c in getattr(d, kind)] == ["grad.b_f.autodiff"]
    assert len(d.worse) + len(d.better) + len(d.other) == 1
    assert d.outcome == {"other": "same"}.get(kind, kind)


def test_errors_are_told_where_they_move_by_more_than_seeds_do_and_decide_nothing(right):
    one = changed(right, "grad.b_f.autodiff", worst_ratio=0.1)
    for ratio, word in ((0.3, ""), (0.5, "larger  "), (0.02, "smaller ")):
        d = compare.compare(one, changed(right, "grad.b_f.autodiff", worst_ratio=ratio))
        assert d.outcome == "same"
        line = f"{word}grad.b_f.autodiff [float64]: worst error 0.1 of the tolerance before, {ratio} now"
        assert (line in compare.text(d)) is bool(word)
    assert compare.compare(one, changed(right, "grad.b_f.autodiff", worst_ratio="nan", outcome="fail")).outcome == "worse"


def test_how_often_a_check_fails_is_told(wrong):
    d = compare.compare(wrong, changed(wrong, "grad.b_f.autodiff", failed=1, cases=48))
    assert d.outcome == "same"
    assert "changed grad.b_f.autodiff [float64] fail → fail: in " in compare.text(d)
    assert " cases before, in 1 of 48 now" in compare.text(d)


def test_two_candidates_are_compared_whatever_their_names(right, wrong):
    other = copy.deepcopy(wrong)
    other["runs"][0]["target"] = "theirs"
    d = compare.compare(right, other)
    assert d.outcome == "worse"
    assert {c.target for c in d.worse} == {"ReferenceLayer → theirs"}


def test_several_targets_are_paired_by_name(right, wrong):
    both = {**right, "runs": [*right["runs"], {**wrong["runs"][0], "target": "b"}]}
    d = compare.compare(both, right)
    assert (d.outcome, d.common) == ("same", len([r for r in right["runs"][0]["results"] if r["outcome"] != "deselected"]))
    assert len(d.only[0]) > 20
    assert "only in the first: contract.call [float64]" in compare.text(d)


def test_what_makes_them_other_runs_is_said(right):
    other = copy.deepcopy(right)
    other["runs"][0] |= {"profile": "ci", "seed": 5}
    other["versions"] = {**right["versions"], "jax": "9.9"}
    text = compare.text(compare.compare(right, other))
    assert "warning: the profiles differ: quick and ci; cases, and so worst errors, are others" in text
    assert "warning: the seeds differ: 20261 and 5" in text
    assert f"warning: versions differ: jax {right['versions']['jax']} → 9.9" in text


def test_nothing_follows_from_what_is_not_whole_or_has_nothing_in_common(right, wrong):
    d = compare.compare(right, {**wrong, "complete": False, "incomplete": "interrupted"})
    assert d.outcome == "incomparable"
    assert compare.text(d).endswith("incomparable: the second report is not complete: interrupted")
    nothing = {**right, "runs": []}
    assert compare.text(compare.compare(right, nothing)).endswith("incomparable: they have no check in common")


def test_from_the_command_line(right, wrong, tmp_path):
    for name, doc in (("right", right), ("wrong", wrong), ("cut", {**right, "complete": False, "incomplete": "interrupted"})):
        (tmp_path / f"{name}.json").write_text(json_report.dumps(doc), encoding="utf-8")
    (tmp_path / "other.json").write_text("{}")

    def command(*names, more=()):
        done = CliRunner().invoke(app, ["compare", *(str(tmp_path / f"{n}.json") for n in names), *more])
        return done.exit_code, done.output

    assert [command(*names)[0] for names in (("right", "right"), ("right", "wrong"), ("wrong", "right"))] == [0, 1, 0]
    assert command("right", "cut")[0] == 3
    assert command("right", "other")[0] == 2
    assert command("right", "none")[0] == 2
    code, text = command("right", "wrong", more=("--json",))
    found = json.loads(text)
    assert (code, found["outcome"], len(found["worse"])) == (1, "worse", 4)
