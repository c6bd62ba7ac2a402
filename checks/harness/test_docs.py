"""The documentation runs: its Python blocks execute, its console blocks show what the commands really print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHARING = ("derivation.md",)  # its blocks rest on its first ones: test_derivation.py runs them


def blocks(kind: str) -> list[tuple[str, str]]:
    pages = [p for p in PAGES if p.name not in SHARING]
    return [(p.name, b) for p in pages for b in re.findall(rf"```{kind}\n(.*?)```", p.read_text(encoding="utf-8"), re.S)]


@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_python_blocks_run(page, block):
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def console_blocks() -> list[tuple[str, str, list[str]]]:
    """Indented blocks that begin with `$ lstm-ref …`: page, command, the lines that must be printed."""
    found = []
    for page in PAGES:
        for block in re.findall(r"(?:^    .*\n)+", page.read_text(encoding="utf-8"), re.M):
            lines = [line.strip() for line in block.splitlines()]
            if lines[0].startswith("$ lstm-ref "):
                found.append((page.name, lines[0][2:], [line for line in lines[1:] if "…" not in line]))
    return found


@pytest.mark.parametrize(("page", "command", "due"), console_blocks())
def test_console_blocks_show_what_is_printed(page, command, due, tmp_path):
    arguments = [a.replace("examples/", f"{ROOT}/examples/") for a in command.split()[1:]]
    done = subprocess.run([sys.executable, "-m", "lstm_ref", *arguments], cwd=tmp_path, capture_output=True, text=True)
    printed = [line.strip() for line in done.stdout.splitlines()]
    assert due
    assert not [line for line in due if line not in printed], done.stdout


def test_there_is_something_to_run():
    assert blocks("python")
    assert console_blocks()


@pytest.mark.parametrize("name", ["MyLSTM", "Forgetful"])
def test_example(name, tmp_path):
    arguments = ["check", f"{ROOT}/examples/my_lstm.py:{name}"]
    done = subprocess.run([sys.executable, "-m", "lstm_ref", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (0 if name == "MyLSTM" else 1), done.stdout


def test_readme_names_only_files_that_exist():
    for page in PAGES:
        for link in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_site_builds_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install '.[docs]'")
    pytest.importorskip("latex2mathml", reason="needs latex2mathml: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    source = (ROOT / "docs" / "derivation.md").read_text(encoding="utf-8")
    made = (tmp_path / "derivation" / "index.html").read_text(encoding="utf-8")
    assert made.count('<div class="formula">') == source.count("```math") > 0
    assert "arithmatex" not in made
    assert "merror" not in made
    pages = [p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.html")]
    assert len(pages) > len(PAGES)
    for page in pages:
        assert not re.findall(r"<(?:script|img|iframe)[^>]* src=\"?https?:|<link[^>]* rel=\"?stylesheet[^>]* href=\"?https?:", page)
