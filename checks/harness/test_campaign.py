"""Campaigns: a stream that is the same everywhere, rows that are neither lost nor doubled, bugs that are told apart."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from importlib import resources

import jsonschema
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lstm_ref import cli
from lstm_ref.campaign import drive, hunt, memory, store, stream, verdicts, work
from lstm_ref.candidates.load import load, plug
from lstm_ref.candidates.reference import ReferenceLayer, ReferenceModel
from lstm_ref.cases import Spec
from lstm_ref.judgement import tolerances as tol
from lstm_ref.judgement.judge import Bench, Point, judge
from lstm_ref.judgement.run import evidence_of
from lstm_ref.reference.symbols import Sizes
from lstm_ref.report import campaign as report

CI = pathlib.Path(__file__).parents[2] / "examples" / "ci"
PLANTED = """
import os, signal, time
from lstm_ref.candidates.reference import ReferenceLayer


class Right(ReferenceLayer):
    pass


def changed(change):
    class Changed(ReferenceLayer):
        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            return outputs, lambda s: change(dict(pull(s)), inputs)

    return Changed


Sign = changed(lambda g, q: {**g, "W_f": -g["W_f"]})
Two = changed(lambda g, q: {**g, "W_f": -g["W_f"], **({"x": 2 * g["x"]} if len(q["x"]) > 4 else {})})


def guarded(act):
    class Guarded(ReferenceLayer):
        def pullback(self, inputs):
            if inputs["h0"].shape[-1] == 3:
                act()
            return super().pullback(inputs)

    return Guarded


Crash = guarded(lambda: os.kill(os.getpid(), signal.SIGSEGV))
Memory = guarded(lambda: bytearray(64 * 2**30))
Hang = guarded(lambda: time.sleep(60))
Hang.supports = {"call_seconds": 0.2}
"""


class Here(Executor):
    """An executor that does everything at once, in this process."""

    _max_workers = 1

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "planted_campaign.py"
    path.write_text(PLANTED, encoding="utf-8")
    return path


@pytest.fixture
def db(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "campaign.db"


@pytest.fixture(scope="module")
def plan(planted):
    subjects = tuple(stream.Subject(**s) for s in work.meet(f"{planted}:Right", ("float64", "float32"), False))
    return stream.Plan(subjects, stream.parse_regimes(None), *stream.parse_sizes("small"), 5)


def rows(db) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(db)) as found:
        return found.execute("SELECT k, outcome, ratio, checks, digest, told, signature FROM cases ORDER BY k").fetchall()


def report_of(db) -> verdicts.Report:
    with contextlib.closing(store.open_(db)) as opened:
        return verdicts.report(opened)


# --- the stream ------------------------------------------------------------------------------------------------------------


def test_case_k_depends_on_the_plan_and_k_alone(plan):
    forth = [stream.drawn(plan, k) for k in range(60)]
    again = stream.plan_from(stream.plan_as_text(plan))
    stream._order.cache_clear()
    assert [stream.drawn(again, k) for k in reversed(range(60))] == forth[::-1]
    assert stream.plan_as_text(again) == stream.plan_as_text(plan)
    assert len({d.spec.seed for d in forth}) == 60


def test_every_block_meets_every_stratum(plan):
    assert len(plan.cells) == 2 * len(plan.regimes)
    for block in (0, 7):
        met = {(d.subject, d.spec.regime) for d in (stream.drawn(plan, len(plan.cells) * block + k) for k in range(len(plan.cells)))}
        assert met == {(n, r) for n in range(2) for r in plan.regimes}


def test_another_seed_gives_other_cases(plan):
    other = stream.Plan(plan.subjects, plan.regimes, plan.sizes, plan.held, 6)
    assert [stream.drawn(plan, k).spec for k in range(5)] != [stream.drawn(other, k).spec for k in range(5)]


def test_every_cell_is_judged_by_differences_in_a_third_of_its_turns_and_by_laws_in_a_twentieth(plan):
    blocks = stream.DIFFERENCES_EVERY * stream.LAWS_EVERY
    found = [stream.drawn(plan, k) for k in range(blocks * len(plan.cells))]
    for cell in set(plan.cells):
        own = [d for d in found if (d.subject, d.spec.regime, d.stratum) == cell]
        assert len(own) == blocks
        assert (sum(d.with_differences for d in own), sum(d.with_laws for d in own)) == (20, 3)
        assert sum(d.with_differences and d.with_laws for d in own) == 1
    first = found[: len(plan.cells)]
    assert 0 < sum(d.with_laws for d in first) < len(first) / 4  # not all at once


def test_sizes_in_words():
    assert stream.parse_sizes("small:9,real,H=64,T=2") == ((("small", 9), ("real", 1)), (("H", 64), ("T", 2)))
    assert max(s for of in stream.STRATA["real"][:1] for s in of) == 512
    with pytest.raises(stream.CampaignError, match=r"--sizes has 'huge'; it may hold small, tiles, medium, real, each with its turns"):
        stream.parse_sizes("huge")
    with pytest.raises(stream.CampaignError, match=r"--regimes has 'odd'; it may hold ordinary, small,"):
        stream.parse_regimes("odd")
    with pytest.raises(stream.CampaignError, match=r"--dtypes has 'float8'; it may hold float64, float32"):
        stream.parse_dtypes("float8")


# --- the same everywhere ---------------------------------------------------------------------------------------------------


def test_the_judgement_is_the_same_to_the_last_bit_wherever_it_is_made(planted, db, tmp_path):
    from distributed import Client

    from lstm_ref.campaign.dask import cluster

    cases = 20
    drive.run([f"{planted}:Sign", f"{planted}:Right"], cases, db, executor=Here(), sizes="small")
    one = rows(db)
    assert [row[0] for row in one] == list(range(cases))
    assert {row[1] for row in one} == {"pass", "fail"}
    with store.open_(db) as opened:
        plan, known = opened.value("plan"), opened.known()
        opened.db.execute("DELETE FROM cases")  # what is known of bugs stays, so that nothing is shrunk again
    for name in ("two.db", "dask.db"):
        shutil.copy(db, tmp_path / name)
    backwards = work.judge_batch(work.Batch(plan, tuple(reversed(range(cases))), known))
    assert [tuple(r) for r in reversed(backwards.rows)] == one
    drive.resume(tmp_path / "two.db", workers=2)
    assert rows(tmp_path / "two.db") == one
    with cluster(2) as started, Client(started) as client:
        trimmed = client.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_")
        assert set(trimmed.values()) == {None}  # Dask's own, 65536, takes an eighth of a case
        assert "MALLOC_TRIM_THRESHOLD_" not in os.environ
        drive.resume(tmp_path / "dask.db", executor=client.get_executor(pure=False), workers=2)
    assert rows(tmp_path / "dask.db") == one


def test_rows_do_not_depend_on_the_hash_seed():
    """Python shuffles sets anew in every process; what is kept of a case must not be in their order."""
    code = """
import sys
from lstm_ref.campaign.work import row_of
from lstm_ref.candidates.load import load
from lstm_ref.cases import CORNERS
from lstm_ref.judgement.judge import Bench
from lstm_ref.judgement.run import evidence_of
from lstm_ref.judgement.tolerances import PRECISIONS

(face,) = load(sys.argv[1])
print(row_of(0, evidence_of(Bench(face, PRECISIONS["float64"], face.make()), CORNERS[0], lambda check: True, True, False, False)))
"""
    target = f"{pathlib.Path(__file__).parents[2] / 'examples/numpy_fused.py'}:Fused"
    command, seeds = [sys.executable, "-c", code, target], "01"
    run = [subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": s}, stdout=subprocess.PIPE, text=True) for s in seeds]
    told = [one.communicate(timeout=120)[0] for one in run]
    assert told[0].startswith("Row(k=0, outcome='pass'")
    assert told == [told[0]] * len(seeds)


def test_the_digest_sees_the_last_bit():
    e = work.Evidence("pass", 0.5, "W_f", (1, 2), 1.0, 1.0)
    other = e._replace(candidate=1.0 + 2.0**-52)
    assert work.row_of(1, {"grad.W_f.autodiff": e}).digest != work.row_of(1, {"grad.W_f.autodiff": other}).digest
    assert work.row_of(1, {"grad.W_f.autodiff": e}) == work.row_of(1, {"grad.W_f.autodiff": e})


# --- what is found ---------------------------------------------------------------------------------------------------------


def test_failures_are_grouped_into_bugs_with_a_smallest_case_each(planted, db):
    drive.run([f"{planted}:Right", f"{planted}:Sign"], 40, db, executor=Here(), sizes="small")
    found = report_of(db)
    assert [v.outcome for v in found.verdicts] == ["pass", "fail"]
    assert found.outcome == "fail"
    (bug,) = found.bugs
    assert bug.key == "dW_f with the wrong sign"
    assert bug.cases == found.failing > 8
    assert bug.record["sizes"] == {"T": 1, "B": 1, "D": 1, "H": 1, "K": 1} or bug.record["sizes"]["T"] <= 2
    assert found.space["subject"][f"{planted}:Right (layer, float64)"][1] == 0
    failed = next(r for r in found.verdicts[1].results if r.id == "grad.W_f.autodiff")
    assert failed.outcome == "fail"
    assert failed.counterexample is not None
    schema = json.loads(resources.files("lstm_ref.report").joinpath("report.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report.document(found))
    assert CliRunner().invoke(cli.app, ["campaign", "report", "--db", str(db), "--html", "campaign.html"]).exit_code == 1
    page = pathlib.Path("campaign.html").read_text(encoding="utf-8")
    assert f"{found.failing} failing cases, 1 bug<" in page
    assert "Where in the space the failures lie" in page


GH = """#!{python}
import json, pathlib, sys

kept = pathlib.Path("issues.json")
issues = json.loads(kept.read_text()) if kept.exists() else []
verb, given = sys.argv[2], dict(zip(sys.argv[3::2], sys.argv[4::2]))
if verb == "list":
    mark = given["--search"].removesuffix(" in:body")
    print(json.dumps([{{"number": n}} for n, issue in enumerate(issues) if mark in issue["--body"].split()]))
else:
    kept.write_text(json.dumps([*issues, given]))
"""


def test_the_nightly_workflow_opens_one_issue_for_each_new_bug(planted, db, tmp_path):
    """Its own lines, with a gh that keeps issues in a file: two bugs, two issues, and none on the next night."""
    steps = yaml.safe_load((CI / "campaign-nightly.yml").read_text(encoding="utf-8"))["jobs"]["campaign"]["steps"]
    opens = next(step["run"] for step in steps if "gh" in step.get("run", ""))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "bin" / "gh").write_text(GH.format(python=sys.executable), encoding="utf-8")
    (tmp_path / "bin" / "gh").chmod(0o755)
    drive.run([f"{planted}:Two", f"{planted}:Right"], 40, db, executor=Here(), sizes="small")
    CliRunner().invoke(cli.app, ["campaign", "report", "--db", str(db), "--json", "campaign.json"])
    bugs = json.loads((tmp_path / "campaign.json").read_text(encoding="utf-8"))["campaign"]["bugs"]
    for _ in range(2):
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["bash", "-e", "-c", opens], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
        issues = json.loads((tmp_path / "issues.json").read_text())
        assert [issue["--title"] for issue in issues] == [f"{planted}:Two: {bug['bug']}"[:200] for bug in bugs]
    assert len(issues) == 2
    for issue, bug in zip(issues, bugs, strict=True):
        assert bug["told"] in issue["--body"]
        assert f"{bug['cases']} failing cases" in issue["--body"]
        assert json.loads(issue["--body"].split("~~~json\n")[1].split("\n~~~")[0]) == bug["counterexample"]


def test_two_faults_of_one_target_are_two_bugs(planted, db):
    drive.run([f"{planted}:Two"], 40, db, executor=Here(), sizes="small")
    keys = [b.key for b in report_of(db).bugs]
    assert len(keys) == 2


def test_a_right_lstm_passes_and_nothing_is_unseen(planted, db):
    drive.run([f"{planted}:Right"], 60, db, executor=Here(), dtypes="float64")
    found = report_of(db)
    assert [r[5] for r in rows(db) if r[1] != "pass"] == []
    assert found.outcome == "pass"
    assert not found.bugs
    assert found.missing == found.failing == 0
    worst = next(r for r in found.verdicts[0].results if r.id == "grad.W_f.autodiff").worst
    assert 0 < worst.ratio < 1
    assert worst.index  # the whole evidence of what came nearest
    assert CliRunner().invoke(cli.app, ["campaign", "report", "--db", str(db)]).exit_code == 0


def test_a_case_that_would_not_fit_is_not_run(planted, db):
    drive.run([f"{planted}:Right"], 10, db, executor=Here(), memory=1e-6)  # input value
    found = report_of(db)
    assert found.judged == 0
    assert found.outcome == "inconclusive"
    assert found.unjudged == {"would not fit into the memory that is granted to a case": 10}
    told = json.loads(rows(db)[0][5])["not run"]
    assert told.startswith("needs ")
    assert "GB are granted to a case" in told


# --- nothing lost, nothing doubled -----------------------------------------------------------------------------------------


def test_resume_judges_what_is_missing_and_no_more(planted, db, tmp_path):
    whole = tmp_path / "whole.db"
    drive.run([f"{planted}:Right"], 24, whole, executor=Here())
    drive.run([f"{planted}:Right"], 24, db, executor=Here())
    with contextlib.closing(sqlite3.connect(db)) as opened, opened:
        opened.execute("DELETE FROM cases WHERE k % 3 = 1")
    judged = []

    def counted(batch):
        judged.extend(batch.ks)
        return work.judge_batch(batch)

    drive.resume(db, executor=Here(), judge=counted)
    assert judged == list(range(1, 24, 3))
    assert rows(db) == rows(whole)
    assert drive.run([f"{planted}:Right"], 30, db, executor=Here()).judged == 30


def test_another_campaign_on_the_same_file_is_refused(planted, db):
    drive.run([f"{planted}:Right"], 2, db, executor=Here())
    with pytest.raises(
        stream.CampaignError, match=r"holds another campaign \(seed 20261, not 3\); go on with it by lstm-ref campaign resume"
    ):
        drive.run([f"{planted}:Right"], 2, db, seed=3, executor=Here())


def test_two_campaigns_at_once_on_one_file(planted, db):
    drive.run([f"{planted}:Right"], 2, db, executor=Here())
    sentence = (
        rf"is being written by another campaign \(process {os.getpid()} on .*\); wait for its end, or give this one a file of its own"
    )
    with store.locked(db), pytest.raises(stream.CampaignError, match=sentence):
        drive.run([f"{planted}:Right"], 4, db, executor=Here())
    assert drive.status(db).running == ""
    with store.locked(db):
        assert drive.status(db).running.startswith(f"process {os.getpid()}")


def test_a_full_disk_ends_the_run_and_resume_finishes(planted, db, monkeypatch):
    connected, room = store._connected, [0]

    def small(path):
        opened = connected(path)
        pages = opened.execute("PRAGMA page_count").fetchone()[0]
        if room[0]:
            opened.execute(f"PRAGMA max_page_count = {pages + room[0]}")
        return opened

    drive.run([f"{planted}:Right"], 4, db, executor=Here())
    monkeypatch.setattr(store, "_connected", small)
    room[0] = 5
    with pytest.raises(stream.CampaignError, match=r"the disk is full\); every batch before is kept; make room and go on with: lstm-ref"):
        drive.run([f"{planted}:Right"], 80, db, executor=Here())
    room[0] = 0
    kept = len(rows(db))
    assert 4 <= kept < 80
    drive.resume(db, executor=Here())
    assert [row[0] for row in rows(db)] == list(range(80))


def test_a_worker_that_is_killed_loses_no_case(planted, db, tmp_path):
    killed = []

    def kill_one(done, total, what):
        if done and not killed:
            child = multiprocessing.active_children()[0]
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    drive.run([f"{planted}:Right"], 24, db, workers=1, progress=kill_one)
    assert killed
    drive.run([f"{planted}:Right"], 24, tmp_path / "quiet.db", executor=Here())
    assert rows(db) == rows(tmp_path / "quiet.db")


def test_a_candidate_that_takes_its_worker_down_is_found_and_isolated(planted, db, monkeypatch):
    monkeypatch.setattr(drive, "FIRST", 1)
    drive.run([f"{planted}:Crash"], 12, db, workers=1, sizes="small,T=2")
    found = report_of(db)
    assert [row[0] for row in rows(db)] == list(range(12))
    assert {row[1] for row in rows(db)} == {"pass", "fail"}
    assert any("crashed its process (SIGSEGV" in b.key for b in found.bugs)


@pytest.mark.parametrize(("name", "check", "said"), [("Hang", "contract.time", "did not return"), ("Memory", "contract.call", "")])
def test_an_isolated_candidate_that_hangs_or_eats_memory_is_a_finding(planted, db, monkeypatch, name, check, said):
    monkeypatch.setenv("LSTM_REF_MEMORY_GIB", "1")
    drive.run([f"{planted}:{name}"], 2, db, executor=Here(), sizes="small,H=3,T=2", isolate=True)
    found = report_of(db)
    assert {row[1] for row in rows(db)} == {"fail"}
    assert len(found.bugs) == 1
    assert found.bugs[0].key.startswith(check)
    assert said in found.bugs[0].key


def _wait_for_rows(db: pathlib.Path, count: int, process) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as opened:
            if opened.execute("SELECT count(*) FROM cases").fetchone()[0] >= count:
                return
        time.sleep(0.05)
    pytest.fail(f"no {count} rows in time: {process.poll()}")


def test_ctrl_c_and_kill_9_on_the_client(planted, db, tmp_path):
    whole = tmp_path / "whole.db"
    drive.run([f"{planted}:Right"], 150, whole, executor=Here(), sizes="small")
    begun = [sys.executable, "-m", "lstm_ref", "campaign", f"{planted}:Right", "--cases", "150", "--sizes", "small", "--workers", "1"]
    process = subprocess.Popen(begun, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _wait_for_rows(db, 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "stopped; every batch that came back is kept; go on with: lstm-ref campaign resume --db campaign.db" in said
    assert "Traceback" not in said
    kept = len(rows(db))
    assert kept < 150
    process = subprocess.Popen([*begun[:4], "resume", "--workers", "1"], stdout=subprocess.DEVNULL, start_new_session=True)
    _wait_for_rows(db, kept + 1, process)
    process.kill()
    process.wait()
    assert rows(db) == rows(whole)[: len(rows(db))]
    drive.resume(db, executor=Here())
    assert rows(db) == rows(whole)
    until = time.monotonic() + 20
    while _group_is_alive(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _group_is_alive(process.pid)  # the workers ended with their client


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- the hunt --------------------------------------------------------------------------------------------------------------


def test_a_hunt_climbs_and_a_right_lstm_stays_under_its_tolerance(planted):
    first = hunt.hunt([f"{planted}:Right"], 8, executor=Here(), sizes="small", dtypes="float32")
    found = hunt.hunt([f"{planted}:Right"], 80, executor=Here(), sizes="small", dtypes="float32")
    assert 0 < first[0].ratio < found[0].ratio < 1
    assert found[0].cases == 80
    again = hunt.hunt([f"{planted}:Right"], 80, executor=Here(), sizes="small", dtypes="float32")
    assert (again[0].spec, again[0].ratio) == (found[0].spec, found[0].ratio)


def test_a_hunt_finds_a_wrong_gradient_and_says_where(planted, db):
    said = CliRunner().invoke(cli.app, ["campaign", f"{planted}:Sign", "--cases", "8", "--hunt", "--sizes", "small", "--workers", "1"])
    assert said.exit_code == 1
    assert "of the tolerance at worst, in 8 cases" in " ".join(said.output.split())
    assert "grad.W_f.autodiff at T=" in said.output
    assert not db.exists()


# --- the command line ------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said(db, planted):
    run = CliRunner().invoke
    assert run(cli.app, ["campaign", "status"]).exit_code == 2
    assert run(cli.app, ["campaign", "nowhere.py:X", "--cases", "2", "--workers", "1"]).exit_code == 2
    db.write_text("no database", encoding="utf-8")
    with pytest.raises(stream.CampaignError, match="is no campaign's database"):
        store.open_(db)


def test_without_dask_one_sentence(monkeypatch):
    from lstm_ref.campaign import dask

    monkeypatch.setitem(sys.modules, "distributed", None)
    sentence = r"--scheduler needs Dask distributed, which is not installed; install it with: pip install 'lstm-ref\[campaign\]'"
    with pytest.raises(stream.CampaignError, match=sentence), dask.executor("local"):
        pass


def test_status_says_how_far_it_is(planted, db):
    drive.run([f"{planted}:Right"], 4, db, executor=Here())
    with contextlib.closing(store.open_(db)) as opened:
        opened.extend(8)
    said = CliRunner().invoke(cli.app, ["campaign", "status", "--db", str(db)]).output
    assert "4 of 8 cases (50.0%)" in said
    assert "not running" in said
    assert "time left" in said
    assert "go on with: lstm-ref campaign resume" in said


# --- what a campaign has found ---------------------------------------------------------------------------------------------


AT_ODDS = [  # what six and four points agree on by chance, beside the truth: 0.018 for 0.021, 1.1e7 for 3.1e9, 6.5 for 250
    (0, Spec(Sizes(4, 2, 4, 8, 2), "large", "c_T", 1e-3, memory="readonly", seed=1159420938)),  # input value
    (1, Spec(Sizes(29, 8, 17, 33, 8), "large", "all", 1e3, "zero", logits=1e-3, seed=3067771216)),  # input value
    (1, Spec(Sizes(11, 8, 1, 31, 7), "mixed", "all", 1e-3, "zero", "noncontiguous", 30.0, 896014658)),  # input value
]


def symmetry(candidate, spec):
    bench = Bench(candidate, tol.PRECISIONS["float64"], candidate.make())
    return evidence_of(bench, spec, lambda check: check == "law.symmetry", False, True, False)["law.symmetry"].outcome


@pytest.mark.parametrize(("n", "spec"), AT_ODDS)
def test_symmetry_holds_of_the_reference_where_six_and_four_points_agree_by_chance(n, spec):
    """Shorter steps decide: there the reference passes and a gradient that is wrong fails."""

    class Wrong(ReferenceLayer):
        def pullback(self, inputs):
            outputs, pull = super().pullback(inputs)
            return outputs, lambda s: {k: v * (1.5 if k == "W_c" else 1) for k, v in pull(s).items()}

    class WrongModel(ReferenceModel):
        def loss_and_gradients(self, inputs):
            J, gradients = super().loss_and_gradients(inputs)
            return J, {k: v * (1.5 if k == "W_c" else 1) for k, v in gradients.items()}

    (wrong,) = plug((Wrong, WrongModel)[n])
    assert symmetry(load("ref:")[n], spec) == "pass"
    assert symmetry(wrong, spec) == "fail"


# --- large cases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_case_in_parts_of_its_batch_is_judged_as_the_whole_is(dtype):
    face = load("ref:")[0]
    whole = Bench(face, tol.PRECISIONS[dtype], face.make())
    split = Bench(face, tol.PRECISIONS[dtype], face.make(), rows=2)
    case = whole.case(Spec(Sizes(5, 7, 3, 4, 1), seed=4))
    one, parts = (Point(b, case.inputs, case.cotangents) for b in (whole, split))
    assert (one.rows, parts.rows) == (None, 2)
    for k in ("x", "h0", "c0", "W_f", "b_o"):
        due = one.truth.gradients[k]
        np.testing.assert_allclose(parts.truth.gradients[k], due, rtol=0, atol=64 * tol.PRECISIONS["float64"].u * np.abs(due).max())
        C, other = one.conditions[f"d{k}"].C, parts.conditions[f"d{k}"].C
        assert 1 / 4 < np.median(other / C) < 4, k
    assert parts.truth.values["h"].shape == (5, 7, 4)
    assert 1 / 4 < np.abs(parts.loss[0] - parts.loss[0][0]).max() / np.abs(one.loss[0] - one.loss[0][0]).max() < 4
    found = judge(split, case)
    assert {e.outcome for k, e in found.evidence.items() if k.startswith(("forward", "grad"))} == {"pass"}
    assert found.evidence["grad.W_f.autodiff"].sight is not None  # the power, stated


def test_a_wrong_gradient_is_seen_in_a_case_in_parts(planted):
    face = load(f"{planted}:Sign")[0]
    split = Bench(face, tol.PRECISIONS["float64"], face.make(), rows=2)
    found = judge(split, split.case(Spec(Sizes(5, 7, 3, 4, 1), seed=4)))
    assert [k for k, e in found.evidence.items() if e.outcome == "fail"] == ["grad.W_f.autodiff", "grad.W_f.differences"]


def test_a_case_that_does_not_fit_whole_is_judged_in_parts(planted, db):
    spec = Spec(Sizes(16, 32, 32, 32, 1))
    limit = memory.COMPILED + (memory.predicted(spec) - memory.COMPILED) / 2
    rows_at_once, needed = memory.rows_within(spec, limit)
    assert 1 <= rows_at_once < 32
    assert needed <= limit
    assert memory.rows_within(spec, 1.0) is None
    held = "medium,T=16,B=32,D=32,H=32"
    drive.run([f"{planted}:Right"], 1, db, executor=Here(), sizes=held, regimes="ordinary", memory=limit / 2**30)
    assert [row[1] for row in rows(db)] == ["pass"], rows(db)[0][5]
    told = {verdicts.IDS[n] for n, *_ in np.frombuffer(rows(db)[0][3], work.CHECK).tolist()}
    assert "grad.W_f.autodiff" in told
    assert not [c for c in told if c.startswith("inter.")]
