"""The site from the repository as it stands: README.md is its home, linked files come along, formulas become MathML.

Nothing is fetched, neither here nor in the reader's browser, which sets MathML itself.
"""

from __future__ import annotations

import html
import pathlib
import re

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)")  # what stands in the parentheses of a link to a file
FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.S)
TAG = re.compile(r"\\tag\{([^}]*)\}")
TOUCHED_UP = {  # what is left to do: thin spaces, none after a sign; \mathrm{d} upright, accents close, ‖ ⟨ ⟩ small
    r"(</(?:mi|mn|msub|msup|msubsup)>)(<msup>)?(<mi>(?:&#x00064;|tanh|log)</mi>)": r'\1<mspace width="0.17em"/>\2\3',
    r"(<mi>log</mi>)(?!<mo)": r'\1<mspace width="0.17em"/>',
    r"((?:&#x00028;|&#x0003D;)</mo>)<mo>&#x02212;</mo>": r'\1<mo form="prefix">&#x02212;</mo>',
    r"<mi>&#x00064;</mi>": '<mi mathvariant="normal">d</mi>',
    r"<mover>": '<mover accent="true">',
    r"<m[io]>(&#x0(?:2016|27E8|27E9);)</m[io]>": r'<mo stretchy="false">\1</mo>',
}


def on_files(files: Files, config) -> Files:
    """Add README.md as the home page, and every file outside docs/ that a page links to."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    for page in [f for f in files if f.src_uri.endswith(".md")]:
        folder = ROOT if page.src_uri == "index.md" else ROOT / "docs"
        for _, link in LINK.findall(page.content_string):
            path = (folder / link).resolve()
            if path.is_file() and path.suffix != ".md" and (uri := _uri(path)) and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Turn links between the repository's folders into links between the site's pages."""
    folder = ROOT if page.file.src_uri == "index.md" else ROOT / "docs"
    return LINK.sub(lambda m: m[1] + (_uri((folder / m[2]).resolve()) or m[2]), markdown)


def on_page_content(content: str, **_) -> str:
    """Formulas as MathML, the label of a displayed one at its right."""
    return FORMULA.sub(lambda m: _formula(html.unescape(m[2]).strip(), displayed=m[1] == "div"), content)


def _uri(path: pathlib.Path) -> str:
    """Where a file of the repository lies on the site; empty for what is no file of it."""
    if not path.is_relative_to(ROOT) or not path.exists():
        return ""
    if path == ROOT / "README.md":
        return "index.md"
    return path.relative_to(ROOT / "docs" if path.is_relative_to(ROOT / "docs") else ROOT).as_posix()


def _formula(latex: str, displayed: bool) -> str:
    made = convert(TAG.sub("", latex), display="block" if displayed else "inline")
    for old, new in TOUCHED_UP.items():
        made = re.sub(old, new, made)
    if not displayed:
        return made
    label = TAG.search(latex)
    return f'<div class="formula">{made}' + (f'<span class="label">({label[1]})</span>' if label else "") + "</div>"
