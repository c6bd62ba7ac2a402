"""The doors: command line, pytest plugin, Python call; their exit codes, texts and files; all from one engine."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lstm_ref import verify
from lstm_ref.candidates.layout import PRESETS
from lstm_ref.candidates.printed import printed
from lstm_ref.cli import app
from lstm_ref.judgement import record
from lstm_ref.judgement.manifest import CHECKS, manifest
from lstm_ref.judgement.run import PROFILES
from lstm_ref.report import words

from .planted import FAULTS
from .strangers import CellByCell

STRANGERS = Path(__file__).parent / "strangers.py"


def command(*args, cwd=None):
    done = CliRunner().invoke(app, list(args))
    return done.exit_code, done.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_passes_with_0_and_one_verdict_line(here):
    code, text = command("check", f"{STRANGERS}:CellByCell")
    assert code == 0
    assert "PASS" in text
    assert "grad.W_f.autodiff" in text
    assert "not provided" in text
    assert "printed" not in text
    assert not (here / ".lstm-ref").exists()


def test_what_an_lstm_prints_is_told_in_one_line_beside_the_card(here):
    (here / "loud.py").write_text(
        f"import sys\nsys.path.insert(0, {str(STRANGERS.parent)!r})\n"
        "from strangers import CellByCell\n"
        "print('imported')\n"
        "class Loud(CellByCell):\n"
        "    def pullback(self, p):\n"
        "        print('x is', p['x'].shape)\n"
        "        sys.stdout.writelines(['so\\n', 'so'])\n"
        "        sys.stdout.flush()\n"
        "        return super().pullback(p)\n"
    )
    done = CliRunner().invoke(app, ["check", "loud.py:Loud", "--only", "contract.call,forward.h", "--sizes", "T=2,B=1,D=1,H=1"])
    assert done.exit_code == 0, done.output
    assert "x is" not in done.stdout
    assert re.search(r"the LSTM printed [\d,]+ lines, which are not shown here; it begins 'imported'; lstm-ref replay shows", done.stderr)


def test_the_lines_of_a_debugger_are_shown(capsys):
    with printed() as foreign:
        print("kept " * 30)
        before = sys.gettrace()
        sys.settrace(lambda *_: None)
        try:
            print("(Pdb) ")
        finally:
            sys.settrace(before)
    assert capsys.readouterr().out == "(Pdb) \n"
    assert "a line, which is not shown here; it begins 'kept kept" in foreign.told
    assert len(foreign.told) < 200


def test_check_fails_with_1_and_tells_what_where_seen_due_and_how_to_replay(here):
    (here / "wrong_lstm.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(STRANGERS.parent)!r})\n"
        "from strangers import CellByCell\n"
        "class Wrong(CellByCell):\n"
        "    def pullback(self, p):\n"
        "        out, pull = super().pullback(p)\n"
        "        return out, lambda s: {k: -v if k == 'b_o' else v for k, v in pull(s).items()}\n"
    )
    code, text = command("check", "wrong_lstm.py:Wrong", "--report", "out.json")
    assert code == 1
    for due in (
        'gradients["b_o"][0]  (gate o, unit = 0)',
        "candidate  ",
        "autodiff   ",
        "× tolerance",
        "the sign is the opposite",
        "(B:biases)  db_k = Σ_{t,b} da_k",
        "smallest case found: T=1, B=1, D=1, H=1",
        "again: lstm-ref replay .lstm-ref/",
        "FAIL  wrong_lstm.py:Wrong",
    ):
        assert due in text, due
    saved = next((here / ".lstm-ref").iterdir())
    code, text = command("replay", str(saved), "--lstm", "wrong_lstm.py:Wrong")
    assert code == 1
    assert "the sign is the opposite" in text
    code, text = command("replay", str(saved), "--lstm", f"{STRANGERS}:CellByCell")
    assert code == 0
    report = json.loads((here / "out.json").read_text())
    assert report["outcome"] == "fail"
    assert report["runs"][0]["gradients"] == "fail"
    assert report["runs"][0]["behaviour"] == "pass"
    assert len(report["runs"][0]["results"]) == len(manifest([_face(CellByCell)]))


def _face(cls):
    from lstm_ref.candidates.load import plug

    return plug(cls)[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "nonsense"),
        ("check", "ref:", "--profile", "slow"),
        ("check", "ref:", "--dtype", "float128"),
        ("check", "ref:", "--only", "zzz"),
        ("check", "ref:", "--sizes", "Z=3"),
        ("replay", "none.json", "--lstm", "ref:"),
        ("check",),
    ],
)
def test_usage_errors_are_2_with_a_sentence(here, arguments):
    code, _ = command(*arguments)
    assert code == 2


def test_sizes_are_held_fixed(here):
    from lstm_ref.cli import _at_sizes

    code, _ = command("check", f"{STRANGERS}:CellByCell", "--sizes", "H=6,T=2", "--only", "grad.*.autodiff", "--report", "out.json")
    assert code == 0
    worst = [r["worst"]["index"] for r in json.loads((here / "out.json").read_text())["runs"][0]["results"] if r["id"] == "grad.x.autodiff"]
    assert worst[0][0] < 2
    assert _at_sizes(_face(CellByCell), "H=6,T=2").supports.sizes == {"H": 6, "T": 2}


def test_nightly_names_the_seed_that_it_drew(monkeypatch):
    from lstm_ref.judgement import run

    monkeypatch.setitem(run.PROFILES, "nightly", run.Profile("nightly", 2, 5))
    one, two = (verify(CellByCell, profile="nightly", only="contract.*") for _ in range(2))
    assert one.seed != two.seed
    assert verify(CellByCell, only="contract.*").seed == run.SEED


def test_deselection_is_partial_and_passes():
    verdict = verify(CellByCell, only="grad.W_*.autodiff")
    assert verdict.outcome == "pass"
    assert verdict.partial == (4, len(verdict.results))
    assert "partial: 4 of" in words.headline(verdict)


def test_a_group_of_cases_is_judged_by_its_gradients_even_where_they_are_not_selected():
    verdict = verify(FAULTS["an error only for H > 16"][0], only="sizes.*")
    assert [r.id for r in verdict.failures()] == ["sizes.tiles"]
    assert verify(CellByCell, only="sizes.*").outcome == "pass"


def test_a_check_that_was_never_resolved_makes_the_run_inconclusive(here, monkeypatch):
    from lstm_ref.judgement import tolerances

    blind = {k: p._replace(resolution=0.0) for k, p in tolerances.PRECISIONS.items()}
    monkeypatch.setattr(tolerances, "PRECISIONS", blind)
    verdict = verify(CellByCell, only="grad.x.autodiff")
    assert verdict.outcome == "inconclusive"
    assert next(r for r in verdict.results if r.id == "grad.x.autodiff").outcome == "cannot tell"
    code, text = command("check", f"{STRANGERS}:CellByCell", "--only", "grad.x.autodiff")
    assert code == 3
    assert "INCONCLUSIVE" in text


def test_the_engine_gives_the_same_verdict_twice(monkeypatch):
    patient = replace(PROFILES["quick"], seconds=None, extras=None)  # a busy machine draws fewer cases in six seconds
    monkeypatch.setitem(PROFILES, "quick", patient)
    one, two = (verify(CellByCell) for _ in range(2))
    assert [(r.id, r.outcome, r.cases, r.worst) for r in one.results] == [(r.id, r.outcome, r.cases, r.worst) for r in two.results]


def test_the_reference_keeps_half_precision_as_a_model_too():
    verdict = verify("ref:", dtype="bfloat16", only="contract.*")
    assert verdict.behaviour == "pass", [(r.id, r.reason) for r in verdict.failures()]


def test_snippet_runs_as_pasted_and_shows_the_fault(here):
    (here / "pasted_lstm.py").write_text(
        f"import sys\nsys.path.insert(0, {str(STRANGERS.parent)!r})\n"
        "from strangers import KerasStyle\n"
        "class Wrong(KerasStyle):\n"
        "    def pullback(self, p):\n"
        "        out, pull = super().pullback(p)\n"
        "        return out, lambda s: {k: 2 * v if k == 'kernel' else v for k, v in pull(s).items()}\n"
    )
    verdict = verify("pasted_lstm.py:Wrong", only="grad.*")
    c = next(r.counterexample for r in verdict.failures() if r.counterexample.primary)
    text = words.snippet(c, PRESETS["keras"]) + "\nprint(repr(float(np.abs(gradients['kernel']).max())))\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=here, check=True)
    assert float(done.stdout) > 0
    assert "# textbook gradients W_" in text


def test_counterexample_files_round_trip():
    verdict = verify(FAULTS["db averaged over the batch"][0])
    c = next(r.counterexample for r in verdict.failures() if r.counterexample.primary)
    check, dtype, case, _ = record.parse(json.loads(record.dump(c)), "here")
    assert (check, dtype) == (c.check, c.dtype)
    assert all(np.array_equal(case.inputs[k], c.inputs[k]) for k in c.inputs)
    assert all(np.array_equal(case.cotangents[k], c.cotangents[k]) for k in c.cotangents)
    assert c.spec.sizes == (1, 2, 1, 1, 1)


def _good() -> dict:
    verdict = verify(FAULTS["db averaged over the batch"][0], only="grad.b_f.autodiff")
    return json.loads(record.dump(next(r.counterexample for r in verdict.failures())))


HOSTILE = {
    "huge sizes": (lambda r: r["sizes"].update(T=10**9), "sizes are whole numbers from 1 to 4096"),
    "many numbers": (lambda r: r["sizes"].update(T=4096, B=4096), "describes an array of more than"),
    "negative size": (lambda r: r["sizes"].update(H=-1), "has H = -1"),
    "boolean size": (lambda r: r["sizes"].update(H=True), "has H = True"),
    "unknown key": (lambda r: r.update(run="os.system"), "unknown or missing keys: run"),
    "missing key": (lambda r: r.pop("inputs"), "unknown or missing keys: inputs"),
    "object": (lambda r: r["inputs"].update(x={"__class__": "os"}), "inputs x is a dict where a list of 1 is due"),
    "string for a number": (lambda r: r["inputs"].update(b_f=["1"]), "inputs b_f holds '1'; finite numbers are due"),
    "ragged": (lambda r: r["inputs"].update(b_f=[1.0, 2.0]), "inputs b_f is a list of 2 where a list of 1 is due"),
    "infinity": (lambda r: r["inputs"].update(b_f=[1e999]), "finite numbers are due"),
    "another check": (lambda r: r.update(check="os.system"), "has the check 'os.system', which is not known here"),
    "another format": (lambda r: r.update(format="pickle"), "its format must be 'lstm-ref counterexample 1'"),
    "no cotangents": (lambda r: r["cotangents"].clear(), "must give the cotangents h, h_T, c_T"),
}


@pytest.fixture(scope="module")
def good_record():
    return json.dumps(_good())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_a_sentence(tmp_path, good_record, name):
    spoil, words_due = HOSTILE[name]
    found = json.loads(good_record)
    spoil(found)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(found))
    with pytest.raises(record.RecordError) as error:
        record.read(path)
    assert words_due in str(error.value)


def test_files_that_are_not_json_or_too_large_are_refused(tmp_path):
    path = tmp_path / "c.json"
    with path.open("wb") as f:
        f.truncate(100 * 2**20)  # sparse: refused by its size, never read
    with pytest.raises(record.RecordError, match="104,857,600 bytes"):
        record.read(path)
    path.write_bytes(b"\x80\x04\x95")
    with pytest.raises(record.RecordError, match="is not JSON"):
        record.read(path)
    path.write_text("[" * 100_000)
    with pytest.raises(record.RecordError, match="is not JSON"):
        record.read(path)


def test_checks_lists_the_manifest():
    code, text = command("checks")
    assert code == 0
    assert all(id_ in text for id_ in CHECKS)


def test_version_tells_what_a_verdict_rests_on():
    code, text = command("--version")
    told = verify("ref:", only="contract.call").versions
    assert code == 0
    assert text.startswith(f"lstm-ref {told['lstm-ref']} (")
    assert all(f"{name} {version}" in text for name, version in told.items())


def test_calibrate_prints_the_table_and_finds_no_false_alarm():
    code, text = command("calibrate", "ref:", "--cases", "12", "--dtype", "float32")
    assert code == 0
    assert "error ÷ (u · condition)" in text


def pytest_in(folder: Path, *arguments: str):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=folder, capture_output=True, text=True, env=env
    )


@pytest.fixture
def project(tmp_path):
    """A foreign project with tests and strict settings of its own."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\ntestpaths = tests\n"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_own.py").write_text("def test_own():\n    assert True\n")
    (tmp_path / "their_lstm.py").write_text(
        f"import sys\nsys.path.insert(0, {str(STRANGERS.parent)!r})\nfrom strangers import CellByCell\n"
        "class Wrong(CellByCell):\n"
        "    def pullback(self, p):\n"
        "        out, pull = super().pullback(p)\n"
        "        return out, lambda s: {k: 0 * v if k == 'c0' else v for k, v in pull(s).items()}\n"
    )
    return tmp_path


def test_plugin_judges_from_a_foreign_project(project):
    done = pytest_in(project, "--lstm", "their_lstm:CellByCell", "-q")
    assert done.returncode == 0, done.stdout
    assert "PASS  their_lstm:CellByCell" in done.stdout
    assert "test_own" not in done.stdout


def test_plugin_fails_with_1_and_the_failure_text(project):
    done = pytest_in(project, "--lstm", "their_lstm:Wrong", "-q", "tests")
    assert done.returncode == 1
    assert 'gradients["c0"][0, 0]  (b = 0, unit = 0)' in done.stdout
    assert "it is zero" in done.stdout
    assert "(B:initial)" in done.stdout
    assert "Traceback" not in done.stdout


def test_plugin_is_silent_without_the_option(project):
    done = pytest_in(project, "-q")
    assert done.returncode == 0
    assert "1 passed" in done.stdout
    assert "lstm" not in done.stdout


def test_plugin_takes_several_targets_under_xdist(project):
    pytest.importorskip("xdist")
    done = pytest_in(project, "--lstm", "their_lstm:CellByCell", "--lstm", "ref:", "-q", "-n", "2")
    assert done.returncode == 0, done.stdout
    assert "PASS  their_lstm:CellByCell" in done.stdout
    assert "PASS  ref:" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--lstm", "nonsense"), ("--lstm", "ref:", "-k", "nothing_like_this"), ("--lstm", "ref:", "--lstm-profile", "slow")]
)
def test_plugin_usage_errors_are_never_green(project, arguments):
    done = pytest_in(project, *arguments)
    assert done.returncode not in (0, 5), done.stdout


def test_plugin_imports_nothing_beyond_pytest():
    code = (
        "import sys, pytest; before = set(sys.modules); import lstm_ref.pytest_plugin; "
        "print(sorted(m.partition('.')[0] for m in set(sys.modules) - before if m.partition('.')[0] in "
        "('numpy', 'jax', 'hypothesis', 'torch', 'typer', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_of_checks_that_are_all_not_provided_is_shown(here):
    (here / "outputs_only.py").write_text("class Outputs:\n    def forward(self, inputs):\n        return {}\n")
    _, output = command("check", "outputs_only.py:Outputs", "--only", "grad.*")
    assert "not provided: grad." in output, output
