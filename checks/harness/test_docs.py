"""The documentation runs: its Python blocks execute, its console blocks show what the commands really print."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from lstm_ref.cli import app

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
        for block in re.findall(r"^    .*\n(?:^    .*\n|^\n(?=    ))*", page.read_text(encoding="utf-8"), re.M):
            lines = [line.strip() for line in block.splitlines() if line]
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


def test_console_blocks_go_on_after_a_blank_line():
    [due] = [lines for page, _, lines in console_blocks() if page == "reading-a-failure.md"]
    assert "candidate  0.0" in due
    assert due[-1] == "forward: pass; gradients: fail; behaviour: pass"
    assert any(line.startswith("diagnosis: ") for line in due)


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


CI = ROOT / "examples" / "ci"
OURS = ("lstm-ref ", "pytest ")


def strings(tree) -> list[str]:
    """Every text in what a YAML file holds."""
    if isinstance(tree, dict):
        return [s for value in tree.values() for s in strings(value)]
    if isinstance(tree, list):
        return [s for value in tree for s in strings(value)]
    return [tree] if isinstance(tree, str) else []


def lines_in_yaml() -> list[tuple[str, str]]:
    found = []
    for page, block in blocks("yaml"):
        texts = [s for text in strings(yaml.safe_load(block)) for s in text.splitlines()]
        found += [(page, line.strip()) for line in texts if line.strip().startswith(OURS)]
    return found


def plain(line: str) -> list[str]:
    """A command line as arguments, with the example as the LSTM."""
    return shlex.split(
        line.replace('"$LSTM"', "my_lstm.py:MyLSTM").replace('"$SEED"', "1").replace("my_lstm.py", f"{ROOT}/examples/my_lstm.py")
    )


def understood(group, arguments: list[str]) -> dict:
    """What the real parser makes of a command line."""
    name, command, rest = group.resolve_command(typer.Context(group), arguments)
    if hasattr(command, "commands"):
        name, rest = (rest[0], rest[1:]) if rest[0] in command.commands else ("run", rest)
        command = command.commands[name]
    return command.make_context(name, rest).params


@pytest.mark.parametrize("line", sorted({line for _, line in lines_in_yaml()}))
def test_commands_in_yaml_are_understood(line, tmp_path):
    program, *arguments = plain(line)
    if program == "lstm-ref":
        group = typer.main.get_command(app)
        given = understood(group, arguments)
        assert str(given.get("target", given.get("targets", "my_lstm.py:MyLSTM"))).rstrip("]'").endswith("my_lstm.py:MyLSTM")
    else:
        (tmp_path / "tests").mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, "--collect-only", "-q"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def command_lines() -> list[tuple[str, str]]:
    """Indented command lines of ours that no other test runs: those with a $ before them are run, and cli.md has usage lines."""
    found = []
    for page in PAGES:
        lines = re.findall(r"^    ((?:lstm-ref [a-z]|pytest )[^…\n]*)$", page.read_text(encoding="utf-8"), re.M)
        found += [(page.name, line) for line in lines if page.name != "cli.md"]
    return found


def test_command_lines_of_the_pages_are_understood():
    lines, known = command_lines(), subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True).stdout
    assert {"README.md", "variants.md", "isolation.md", "any-language.md"} <= {page for page, _ in lines}
    group = typer.main.get_command(app)
    for page, line in lines:
        program, *arguments = shlex.split(line, comments=True)
        if program == "lstm-ref":
            understood(group, arguments)
        else:
            options = [a for a in arguments if a.startswith("--")]
            assert options, (page, line)
            assert all(f"{option} " in known or f"{option}=" in known or f"{option}\n" in known for option in options), (page, line)


def test_there_are_commands_in_yaml_to_look_at():
    assert {line.partition(" ")[0] for _, line in lines_in_yaml()} == {"lstm-ref", "pytest"}


def test_an_option_that_is_none_is_seen():
    with pytest.raises(Exception, match="No such option: --fast"):
        test_commands_in_yaml_are_understood("lstm-ref check my_lstm.py:MyLSTM --fast", None)


@pytest.mark.parametrize(
    ("name", "on"), [("github-actions.yml", "in-ci.md"), ("pre-commit-config.yaml", "in-ci.md"), ("campaign-nightly.yml", "campaigns.md")]
)
def test_the_page_includes_the_files_of_the_examples(name, on):
    text = (CI / name).read_text(encoding="utf-8")
    assert text in [block for page, block in blocks("yaml") if page == on]
    assert yaml.safe_load(text)


def test_the_workflow_says_what_is_wrong(tmp_path):
    """Its own lines, run on an LSTM that is wrong: the step fails, annotates, sums up, and leaves what is uploaded."""
    pytest.importorskip("jinja2", reason="needs jinja2: pip install '.[html]'")
    (tmp_path / "my_lstm.py").write_bytes((ROOT / "examples" / "my_lstm.py").read_bytes())
    steps = yaml.safe_load((CI / "github-actions.yml").read_text(encoding="utf-8"))["jobs"]["gradients"]["steps"]
    check = next(s["run"] for s in steps if s.get("run", "").startswith("lstm-ref check"))
    _, *arguments = shlex.split(check.replace('"$LSTM"', "my_lstm.py:Forgetful").replace("--profile ci", "--profile quick"))
    env = {**os.environ, "GITHUB_STEP_SUMMARY": "summary.md"}
    done = subprocess.run([sys.executable, "-m", "lstm_ref", *arguments], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 1, done.stderr
    for path in next(s["with"]["path"] for s in steps if "upload-artifact" in s.get("uses", "")).split():
        assert (tmp_path / path).exists()
    [told] = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert told.startswith("::error file=my_lstm.py,line=")
    assert "title=lstm-ref%3A fail%2C my_lstm.py%3AForgetful float64+float32::" in told
    assert "is missing (B:cell)" in told
    assert "### ❌ lstm-ref: my&#95;lstm.py" in (tmp_path / "summary.md").read_text(encoding="utf-8")
