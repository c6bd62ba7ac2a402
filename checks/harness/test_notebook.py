"""A verdict in a notebook: the same value, shown as a card in which every text is only text."""

import dataclasses
import html.parser
import pickle

import pytest

from lstm_ref import Verdict, verify
from lstm_ref.report import notebook, words

from .planted import FAULTS

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)></pre></div>\"'&"


@pytest.fixture(scope="module")
def failing():
    return verify(FAULTS["db averaged over the batch"][0])


class Tags(html.parser.HTMLParser):
    """Every tag in the order in which they stand, and whether they are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_verdict_is_a_verdict(failing):
    assert isinstance(failing, Verdict)
    assert failing.outcome == "fail"
    assert dataclasses.replace(failing, notes=("a",)).notes == ("a",)
    small = dataclasses.replace(failing, explanation=None, heat=None)
    assert pickle.loads(pickle.dumps(small)).outcome == "fail"


def test_the_card_says_verdict_diagnosis_and_what_fails_first(failing):
    text = failing._repr_html_()
    places = [
        text.index(part) for part in ("FAIL", "gradients: fail", "diagnosis: every db_k is averaged", "grad.b_f.autodiff", "other checks")
    ]
    assert places == sorted(places)
    assert text.startswith('<div class="lstm-ref-card"')
    tags = Tags(text)
    assert tags.open == []
    assert {"html", "head", "body", "script", "link", "img"} & set(tags.tags) == set()
    assert text.count("<tr>") == len(failing.results) + text.count("<table>")


def test_texts_are_escaped_and_bounded(failing):
    results = tuple(dataclasses.replace(r, reason=HOSTILE + "x" * 10**5) for r in failing.results)
    text = notebook.card(dataclasses.replace(failing, target=HOSTILE, notes=(HOSTILE,), results=results))
    tags = Tags(text)
    assert {"script", "img"} & set(tags.tags) == set()
    assert tags.attributes == {"class", "style", "scope"}
    assert text.count("&lt;script&gt;") > len(results)
    assert len(text) < 10**6


def test_ipython_shows_the_lines_and_not_the_fields(failing):
    IPython = pytest.importorskip("IPython", reason="needs IPython: pip install '.[test]'")
    shell = IPython.core.interactiveshell.InteractiveShell(warn_venv=False)  # the tests may run where another environment is activated
    formatter = shell.display_formatter
    shown, _ = formatter.format(failing)
    assert shown["text/html"] == failing._repr_html_()
    assert shown["text/plain"] == "\n".join([words.headline(failing), words.meaning(failing), words.explanation(failing)])


def test_a_cell_of_a_notebook_shows_the_card(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install '.[test]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install '.[test]'")
    import nbformat

    cells = [nbformat.v4.new_code_cell("from lstm_ref import verify\nverify('ref:', only='contract.*')")]
    book = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=300, kernel_name="python3").execute()
    [output] = [o for o in book.cells[0].outputs if o.output_type == "execute_result"]
    assert output.data["text/html"].startswith('<div class="lstm-ref-card"')
    assert output.data["text/plain"].startswith("PASS  (partial: 6 of ")
