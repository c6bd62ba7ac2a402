"""The laws between the rooms: who imports whom, who formats, what importing changes; and the packages that ship."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lstm_ref
from lstm_ref.candidates.load import FRAMEWORKS

PACKAGE = Path(lstm_ref.__file__).parent
ROOT = PACKAGE.parent


def imports(path: Path) -> set[str]:
    """Every module that a file imports, relative ones with their dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found |= {base, *(f"{base}.{a.name}".replace("..", "..") for a in node.names)}
    return found


def files(room: str = "") -> list[Path]:
    found = sorted(p for p in (PACKAGE / room).rglob("*.py") if "checks" not in p.relative_to(PACKAGE).parts)
    assert found
    return found


def test_the_oracle_shares_no_code_with_what_it_judges():
    for path in files("truth"):
        reference = {m for m in imports(path) if "reference" in m}
        assert all("symbols" in m or "variant" in m or m == "..reference" for m in reference), (path, reference)


def test_nothing_flows_back():
    later = {
        "reference": ("truth", "candidates", "judgement", "claims", "campaign", "report"),
        "truth": ("candidates", "judgement", "claims", "campaign", "report"),
        "candidates": ("judgement", "claims", "campaign", "report", "truth"),
        "judgement": ("report", "diagnosis", "claims", "campaign"),
        "diagnosis": ("report", "claims", "campaign"),
        "claims": ("candidates", "diagnosis", "campaign", "report"),
        "campaign": ("claims", "report"),
    }
    for room, forbidden in later.items():
        for path in files(room):
            assert not [m for m in imports(path) if any(f".{f}" in m for f in (*forbidden, "flow"))], path


def test_only_the_report_prints():
    for path in files():
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        prints = [n for n in calls if getattr(n.func, "id", "") == "print" or getattr(n.func, "attr", "") == "print"]
        assert not prints or path.parent.name == "report" or path.name == "cli.py", path


def test_only_candidates_know_a_framework_or_an_order_of_gates():
    for path in files():
        if path.parent.name == "candidates":
            continue
        heavy = {m.partition(".")[0] for m in imports(path)} & {"torch", "keras", "flax", "equinox", "haiku", "onnx"}
        assert not heavy, path
        text = path.read_text(encoding="utf-8")
        assert not any(f'"{order}"' in text for order in ("ifgo", "ifco", "fico", "ifog", "igfo")), path


ADAPTER_LINES = 60
SKELETON = {
    "engine": [],
    "find": ["name"],
    "variant": ["thing", "options", "declared"],
    "layout": ["thing", "options", "variant", "declared"],
    "supports": ["thing", "options", "variant"],
    "function": ["thing", "options"],
}


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_adapters_share_one_skeleton(kind, monkeypatch):
    """Each has what `load` asks of it, written in the file itself, with as many arguments, and nothing else that is public."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    adapter = importlib.import_module(f"lstm_ref.candidates.{FRAMEWORKS[kind]}")
    for name, arguments in SKELETON.items():
        function = getattr(adapter, name)
        found = list(inspect.signature(function).parameters)
        assert len(found) == len(arguments), (name, found)
        assert found[1:] == arguments[1:], (name, found)
    for name in ("CLASSES", "OPTIONS"):
        assert isinstance(getattr(adapter, name), tuple), name
        assert all(isinstance(k, str) for k in getattr(adapter, name)), name
    public = {k for k, v in vars(adapter).items() if inspect.isfunction(v) and v.__module__ == adapter.__name__}
    assert public == set(SKELETON)
    assert callable(adapter.engine().Layer.forward)


def test_adapters_and_all_that_is_of_one_framework_are_short():
    candidates = {p.stem: p for p in files("candidates")}
    assert set(FRAMEWORKS.values()) <= set(candidates)
    of_one = {stem for stem in candidates if stem.partition("_")[0] in FRAMEWORKS}
    assert of_one >= set(FRAMEWORKS.values())
    lines = {stem: len(candidates[stem].read_text(encoding="utf-8").splitlines()) for stem in of_one}
    assert {stem: n for stem, n in lines.items() if n > ADAPTER_LINES} == {}


def test_what_knows_a_framework_says_so_in_its_name():
    """JAX is that of all its libraries."""
    for path in files("candidates"):
        known, name = {m.partition(".")[0] for m in imports(path)} & set(FRAMEWORKS), path.stem.partition("_")[0]
        assert known <= ({name, "jax"} if name in FRAMEWORKS else set()), path


def test_the_package_imports_nothing_from_checks():
    for path in files():
        assert not [m for m in imports(path) if "checks" in m.split(".")], path


def test_importing_and_judging_change_no_global_state():
    code = """
import warnings, random
import numpy as np, jax, hypothesis
def state():
    return (np.geterr(), np.random.get_state()[1].sum(), random.getstate(), hypothesis.settings.get_current_profile_name(),
            hypothesis.settings.default.max_examples, {k: str(v) for k, v in jax.config.values.items()}, list(warnings.filters))
before = state()
import lstm_ref
from lstm_ref.reference.forward import forward
lstm_ref.Layout
assert state() == before, "import"
lstm_ref.verify("ref:")
assert state() == before, "judging"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True
    )
    return next(folder.glob("*.whl"))


def test_wheel_and_clone_run_the_same_checks(wheel, tmp_path):
    """The wheel, unpacked beside the installed dependencies and away from the clone, collects what the clone does."""
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True)
    assert not (site / "checks").exists()
    assert not (site / "lstm_ref" / "checks" / "harness").exists()
    empty = tmp_path / "empty"
    empty.mkdir()

    def collected(path: str) -> list[str]:
        env = {**os.environ, "PYTHONPATH": path}
        arguments = ["--lstm", "ref:", "--collect-only", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=empty, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line)

    code = "import lstm_ref; print(lstm_ref.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=empty, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(site))
    from_wheel, from_clone = collected(str(site)), collected("")
    assert from_wheel == from_clone
    assert len(from_wheel) > 90


def test_wheel_judges_away_from_the_clone(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    arguments = ["check", "ref:", "--only", "grad.*.autodiff,state.*", "--html", "out.html", "--report", "out.json"]
    done = subprocess.run([sys.executable, "-m", "lstm_ref", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS" in done.stdout
    assert "</html>" in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert (site / "lstm_ref" / "report" / "report.schema.json").is_file()
