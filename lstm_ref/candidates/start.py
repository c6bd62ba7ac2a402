"""Start: a commented adapter to begin with, in the style of one's own LSTM; each works as it is written."""

from __future__ import annotations

import pathlib
from importlib import resources
from typing import NamedTuple

HEADER = "$(python -m lstm_ref.candidates.library --include)"


class Style(NamedTuple):
    """A template, what it is for, the target that its file is ({file}, {stem}), and how it is built, if it is."""

    template: str
    words: str
    target: str
    build: str = ""

    @property
    def file(self) -> str:
        return f"my_lstm.{self.template.split('.')[1]}"


STYLES = {
    "class": Style("class.py.txt", "a NumPy class whose forward pass keeps a cache", "{file}:MyLSTM"),
    "functions": Style("functions.py.txt", "a forward and a backward function in NumPy", "{file}:MyLSTM"),
    "torch": Style("torch.py.txt", "a torch.nn.Module", "torch:{file}:MyLSTM"),
    "jax": Style("jax.py.txt", "a function that JAX differentiates", "jax:{file}:lstm"),
    "c": Style("c.c.txt", "a shared library in C", "lib:{stem}.so", f"cc -O2 -shared -fPIC -I{HEADER} -o {{stem}}.so {{file}} -lm"),
    "command": Style("command.py.txt", "a program in any language, shown in Python", '"cmd:python3 {file}"'),
    "student": Style("student.py.txt", "an object with params, loss() and gradients()", "{file}:MyLSTM"),
}


class StartError(ValueError):
    """A style that is not known, or a file that is there already; the text says which."""


def write(style: str, out: pathlib.Path | None) -> tuple[pathlib.Path, tuple[str, ...]]:
    """Write the adapter of a style, never over a file; the path, and the commands that build and judge it. Raises StartError."""
    if style not in STYLES:
        raise StartError(f"the style is {style!r}; it must be one of " + "; ".join(f"{k} ({s.words})" for k, s in STYLES.items()))
    chosen = STYLES[style]
    path = pathlib.Path(chosen.file) if out is None else out
    if path.suffix != pathlib.Path(chosen.file).suffix:
        raise StartError(f"the file is {path}; that of the style {style!r} ends in {pathlib.Path(chosen.file).suffix}")
    names = {"{file}": str(path), "{stem}": str(path.with_suffix("")) if path.parent.name else f"./{path.stem}"}
    build, check = (_filled(text, names) for text in (chosen.build, f"lstm-ref check {chosen.target}"))
    text = (resources.files("lstm_ref") / "templates" / chosen.template).read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as f:
            f.write(_filled(text, {"{check}": check, "{build}": build}))
    except FileExistsError:
        raise StartError(f"there is a file {path} already, and it is left as it is; name another with --out") from None
    except OSError as error:
        raise StartError(f"{path} cannot be written: {error.strerror}; name another file with --out") from None
    return path, tuple(filter(None, (build, check)))


def _filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text
