"""The HTML report: its structure, its picture, what a hostile candidate can do to it, and how it behaves in a browser."""

import copy
import importlib.util
import itertools
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from lstm_ref import verify
from lstm_ref.candidates.load import plug
from lstm_ref.cases import Spec
from lstm_ref.cli import app
from lstm_ref.diagnosis import mutants
from lstm_ref.diagnosis.edges import EDGES, GROUPS, HEAD_EDGES, HEAD_GROUPS
from lstm_ref.diagnosis.heat import heat
from lstm_ref.diagnosis.localise import BACKWARD_ORDER
from lstm_ref.judgement import run as engine
from lstm_ref.judgement.against import hold
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.reference.symbols import EQUATIONS, Sizes
from lstm_ref.report import html, json_report, picture

from .planted import FAULTS
from .programs import required
from .strangers import CellByCell, spoilt
from .test_reports import hostile

FEW = engine.Profile("ci", 4, 6)
VOID = {"meta", "link", "br", "rect", "line", "circle", "path"}
WIDTHS = (360, 768, 1280)


def judged(*lstms, dtype=None, **more) -> dict:
    """The document of a short run of some LSTMs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engine.PROFILES, "ci", FEW)
        runs = []
        for lstm in lstms:
            verdict = verify(lstm, profile="ci", dtype=dtype, **more)
            files = {(r.id, r.dtype): f".lstm-ref/{r.id}.json" for r in verdict.results}
            runs.append(json_report.run_data(verdict, plug(lstm)[0].layout, files))
    return json_report.document(runs)


@pytest.fixture(scope="module")
def documents() -> dict[str, dict]:
    """What the tests look at: a right LSTM, one with a wrong term, one without intermediates, one that nothing explains; together."""
    dropped = judged(FAULTS["dc_next dropped"][0])
    halved = judged(spoilt(change_gradients=lambda g: {**g, "W_f": 0.5 * g["W_f"]}))
    random = judged(spoilt(change_gradients=lambda g: {**g, "x": g["x"][::-1] * 1.5 + 0.1}))
    passing = judged(CellByCell, dtype="float64,float32")
    faces = [plug(lstm)[0] for lstm in (CellByCell, FAULTS["dc_next dropped"][0])]
    beside = [hold(*faces, PRECISIONS["float64"])]
    held = json_report.document([*passing["runs"], *dropped["runs"]], beside)
    together = json_report.document([*passing["runs"], *dropped["runs"], *halved["runs"]])
    bad = json_report.document([json_report.run_data(hostile())], incomplete="<img src=x onerror=alert(1)>")
    return {"passing": passing, "dropped": dropped, "halved": halved, "random": random, "together": together, "held": held, "hostile": bad}


class Reader(HTMLParser):
    """The elements of a page in order, each with its attributes, its ancestors and the text in it."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found, self.unclosed = [], [], []
        self.feed(text)
        self.unclosed += [e["tag"] for e in self.open]

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "at": dict(attrs), "in": [e["tag"] for e in self.open], "text": ""}
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.found.append({"tag": tag, "at": dict(attrs), "in": [e["tag"] for e in self.open], "text": ""})

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1]["tag"] == tag, f"</{tag}> closes <{self.open[-1]['tag']}>"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [e for e in self.found if e["tag"] in tags]


@pytest.mark.parametrize("name", ["passing", "dropped", "halved", "random", "together", "held", "hostile"])
def test_a_page_is_whole_alone_and_has_what_a_screen_reader_needs(documents, name):
    text = html.page(documents[name])
    page = Reader(text)
    assert not page.unclosed
    assert not page.all("script", "iframe", "object", "embed", "base", "form")
    assert not re.search(r"https?://|@import|url\((?!#)|javascript:", text)
    assert all(k[:2] != "on" for e in page.found for k in e["at"])
    ids = [e["at"]["id"] for e in page.found if "id" in e["at"]]
    assert not [k for k, n in Counter(ids).items() if n > 1]
    for e in page.found:
        for ref in (e["at"].get("aria-labelledby", "") + " " + e["at"].get("aria-describedby", "")).split():
            assert ref in ids, ref
        if e["tag"] == "a":
            assert e["at"]["href"][1:] in ids
    assert [e["at"].get("lang") for e in page.all("html")] == ["en"]
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("header")) == len(page.all("footer")) == 1
    levels = [int(e["tag"][1]) for e in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), levels
    tables, captions = page.all("table"), page.all("caption")
    assert len(tables) == len(captions)
    assert all(e["text"].strip() for e in captions)
    assert all(e["at"].get("scope") in ("row", "col") for e in page.all("th"))
    for svg in page.all("svg"):
        assert svg["at"]["role"] == "img"
    assert text.count("<summary>The picture as a table</summary>") == len(page.all("svg"))
    assert all("summary" in text[m.end() : m.end() + 12] for m in re.finditer(r"<details[^>]*>", text))


def test_the_verdict_comes_first_and_the_parts_in_their_order(documents):
    page = Reader(html.page(documents["dropped"]))
    heads = [" ".join(e["text"].split()) for e in page.all("h1", "h2")]
    assert heads == [
        "✗ Fail",
        "What is wrong",
        "Where it goes wrong",
        "Errors against their tolerance",
        "The smallest counterexample",
        "What this run was able to see",
        "Every check",
    ]
    lead = next(e for e in page.found if e["at"].get("class") == "lead")
    assert re.fullmatch(r"\d+ of \d+ checks fail(, and \d+ could not be decided)?\.", lead["text"])
    told = next(e for e in page.found if e["at"].get("class") == "told")
    assert "all that comes back into dc_t, the cotangent of c_T included is missing (B:cell)" in told["text"]
    passing = Reader(html.page(documents["passing"]))
    assert [" ".join(e["text"].split()) for e in passing.all("h1", "h2")] == [
        "✓ Pass",
        "Errors against their tolerance",
        "What this run was able to see",
        "Every check",
    ]
    held = Reader(html.page(documents["held"]))
    assert [e["text"] for e in held.all("h2")][:2] == ["Overview", "Held against each other"]
    assert any("differ in gradient of" in e["text"] for e in held.all("p"))
    together = Reader(html.page(documents["together"]))
    assert next(e for e in together.all("h2"))["text"] == "Overview"
    assert len([e for e in together.found if e["at"].get("class") == "run"]) == 3


def test_every_check_is_in_the_table_with_its_outcome(documents):
    (run,) = documents["dropped"]["runs"]
    page = Reader(html.page(documents["dropped"]))
    rows = [e["text"] for e in page.all("tr")]
    for r in run["results"]:
        if r["outcome"] not in ("not provided", "deselected"):
            assert any(r["id"] in row and r["outcome"] in row for row in rows), r["id"]


# the picture


def test_every_edge_and_every_group_of_edges_has_lines_in_the_picture():
    assert set(picture.LINES) == {e.id for e in (*EDGES, *HEAD_EDGES)}
    for e in (*EDGES, *HEAD_EDGES, *GROUPS, *HEAD_GROUPS):
        assert picture.MEMBERS[e.id]
        assert set(picture.MEMBERS[e.id]) <= set(picture.LINES)
    gradients = {b.gradient for b in picture.BOXES.values() if b.gradient}
    assert gradients == {"x", "h0", "c0", "W_v", "b_v", *(f"{p}_{k}" for p in "Wb" for k in "fico")}
    assert {picture.box_of(k) for k in BACKWARD_ORDER} <= set(picture.BOXES)


def test_every_equation_that_a_diagnosis_may_name_has_a_place_in_the_picture():
    labels = {m.label for m in mutants.bank()} | set(EQUATIONS)
    assert len(labels) > 15
    for label in labels:
        assert set(picture.edges_of(label)) <= set(picture.LINES)
        assert picture.edges_of(label), label


def test_lines_begin_and_end_at_boxes_and_no_two_boxes_overlap():
    boxes = picture.BOXES.values()
    for one in boxes:
        for other in boxes:
            apart = abs(one.x - other.x) >= one.half + other.half or abs(one.y - other.y) >= 28
            assert one is other or apart, (one, other)
        assert one.half <= one.x <= picture.WIDTH - one.half
        assert 14 <= one.y <= picture.HEIGHT - 14
    for name, points in picture.LINES.items():
        (x, y) = points[-1]
        near = [b for b in boxes if abs(b.x - x) <= b.half + 4 and abs(b.y - y) <= 18]
        assert len(near) == 1, name


@pytest.mark.parametrize("edge", [*EDGES, *HEAD_EDGES, *GROUPS, *HEAD_GROUPS], ids=lambda e: e.id)
def test_a_wrong_edge_is_marked_on_the_picture_in_words_and_in_the_table(documents, edge):
    document = copy.deepcopy(documents["halved"])
    fit = document["runs"][0]["explanation"]["fits"][0]
    fit["edges"] = [{**edge._asdict(), "members": list(edge.members), "wrong": "missing"}]
    fit["gains"] = [0.0]
    page = Reader(html.page(document))
    guilty = {e["at"]["id"] for e in page.all("path") if e["at"].get("class") == "edge guilty"}
    assert guilty == {f"r-graph-{k.replace('<-', '-from-')}" for k in picture.MEMBERS[edge.id]}
    desc = next(e["text"] for e in page.all("desc"))
    rows = [" ".join(e["text"].split()) for e in page.all("tr")]
    for k in picture.MEMBERS[edge.id]:
        assert k in desc
        assert any(row.startswith(k) and row.endswith("✗ missing, gain 0.000") for row in rows), k
    assert len([e for e in page.all("circle") if e["at"].get("class") == "badge guilty"]) == len(guilty)


def test_what_cannot_be_told_from_the_guilty_edge_is_marked_otherwise():
    edge = {"id": "dW_f", "label": "B:weights", "words": "dW_f", "members": [], "wrong": "halved"}
    other = {**edge, "id": "da_f"}
    told = {
        "fits": [{"edges": [edge], "gains": [0.5]}, {"edges": [other], "gains": [0.5]}],
        "names": [],
        "failing": ["W_f"],
        "location": None,
    }
    assert picture.marked(told) == {"guilty": ["dW_f"], "maybe": ["da_f"], "wrong": ["dW_f"], "first": []}
    named = {**told, "fits": [], "names": [{"equation": "B:weights", "words": "…"}], "failing": ["b_f"]}
    assert picture.marked(named)["maybe"] == ["db_f"]
    place = {"first": ["c_tilde", 2, 0, 1], "smallest_T": 2, "flows": [], "tried": [], "failing": []}
    assert picture.marked({**named, "names": [], "location": place})["first"] == ["dc_tilde"]
    assert not any(picture.marked(None).values())


# the heat map


def test_the_heat_map_shows_the_first_wrong_quantity_and_says_what_is_not_known(documents):
    heat = documents["dropped"]["runs"][0]["heat"]
    steps = {row["quantity"]: row["ratios"] for row in heat["steps"]}
    assert heat["missing"] == []
    assert max(steps["h"][-1], steps["o"][-1]) <= 1 < steps["c"][-1]  # at T the cotangent of c_T is lost, what comes from h_T is not
    assert all(q > 1 for q in steps["c"])
    alone = {row["quantity"]: dict(zip(heat["flows"], row["ratios"], strict=True)) for row in heat["alone"]}
    assert alone["W_f"]["h_1"] <= 1 < alone["W_f"]["h_4"]  # what flows in at the first step never needs the carry
    page = Reader(html.page(documents["dropped"]))
    cells = [e for e in page.all("td") if e["at"].get("class", "").startswith("heat")]
    assert len(cells) == sum(len(row["ratios"]) for row in (*heat["steps"], *heat["alone"]))
    assert all(("above tolerance" in e["text"]) == (e["at"]["class"][-2:] in ("l2", "l3", "l4")) for e in cells)
    halved = documents["halved"]["runs"][0]["heat"]
    assert [row["quantity"] for row in halved["steps"]] == ["x"]
    assert "Not known: dh, do, dc" in " ".join(Reader(html.page(documents["halved"])).all("main")[0]["text"].split())
    assert {row["quantity"] for row in halved["alone"] if max(row["ratios"]) > 1} == {"W_f"}


def test_the_heat_map_is_of_a_case_that_fails_and_of_none_where_all_is_right():
    float64 = PRECISIONS["float64"]
    assert heat(plug(CellByCell)[0], float64) is None
    late = FAULTS["an error only at T ≥ 6"][0]
    assert heat(plug(late)[0], float64) is None  # the small case is right, and no other is given
    found = heat(plug(late)[0], float64, Spec(Sizes(7, 2, 3, 4, 1)))
    (dx,) = (row for row in found.steps if row.quantity == "x")
    assert [q > 1 for q in dx.ratios] == [t == 5 for t in range(7)]
    assert all(q <= 1 for row in found.steps if row.quantity != "x" for q in row.ratios)
    nan = spoilt(change_gradients=lambda g: {**g, "x": np.full_like(g["x"], np.nan)})
    (dx,) = (row for row in heat(plug(nan)[0], float64).steps if row.quantity == "x")
    assert set(dx.ratios) == {np.inf}


# escaping


def test_hostile_texts_stay_text_and_do_not_bloat_the_page(documents):
    text = html.page(documents["hostile"])
    assert len(text) < 200_000
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<script" not in text
    assert "<img" not in text
    text.encode("utf-8")
    for raw in ("\x00", "\x1b", "\u202e"):
        assert raw not in text


# the doors


def test_without_jinja2_html_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jinja2" else real(name, *a))
    monkeypatch.setattr(engine, "run", lambda *a, **k: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["check", "ref:", "--html", "out.html"])
    assert done.exit_code == 2
    assert "an HTML report needs jinja2: install the extra with pip install 'lstm-ref[html]'" in " ".join(done.output.split())


@pytest.mark.parametrize("option", ["--html", "--report"])
@pytest.mark.parametrize(("where", "told"), [("none/out", "there is no folder none"), (".", "it is a folder")])
def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path, monkeypatch, option, where, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", lambda *a, **k: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["check", "ref:", option, where])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_a_file_that_cannot_be_written_in_the_end_is_told_in_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(json_report, "write", full)
    done = CliRunner().invoke(app, ["check", "ref:", "--only", "contract.call", "--report", "out.json"])
    assert done.exit_code == 2
    assert "PASS" in done.output
    assert "No space left on device" in done.output


def test_the_command_writes_the_page_of_its_own_document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["check", "ref:", "--only", "contract.*", "--html", "out.html", "--report", "out.json"])
    assert done.exit_code == 0
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == html.page(json_report.load(tmp_path / "out.json"))


# in a browser


@pytest.fixture(scope="module")
def browser():
    program = required("chromium")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=quiet)
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, document in documents.items():
        (folder / f"{name}.html").write_text(html.page(document), encoding="utf-8")
    return folder


@pytest.fixture
def opened(browser, files):
    """A function that opens a page and watches it; whatever it complains of or asks the network for fails the test."""
    heard, pages = [], []

    def open_(name: str, width: int = 768, dark: bool = False, media: str = "screen"):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda r: heard.append(r.url) if not r.url.startswith(("file://", "data:")) else None)
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.emulate_media(media=media, color_scheme="dark" if dark else "light")
        page.goto((files / f"{name}.html").as_uri())
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert not heard


UNFOLD = "for (const d of document.querySelectorAll('details')) d.open = true"
CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1] };
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0) return c }
    return [255, 255, 255, 1] };
  const bad = []; let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walk.nextNode();) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.textContent.trim() || e.closest('.vh, title, desc, .skip') || !e.getClientRects().length) continue;
    let back = behind(e);
    const inside = e.closest('svg'), colour = parse(inside ? style.fill : style.color);
    if (inside) { const box = e.closest('text').previousElementSibling;
      if (box && box.matches('rect, circle')) { const f = getComputedStyle(box).fill; if (f !== 'none') back = parse(f) } }
    const [a, b] = [light(colour), light(back)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    seen++; if (ratio < 4.5) bad.push([e.className.baseVal ?? e.className, node.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return [seen, bad];
}"""


@pytest.mark.parametrize("name", ["passing", "dropped", "held", "hostile"])
def test_nothing_scrolls_sideways_at_any_width(opened, name):
    for width in WIDTHS:
        page = opened(name, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate(UNFOLD)
        inside = "e.getBoundingClientRect().right <= innerWidth + 1 || e.closest('.scroll, .vh')"
        wide = f"[...document.querySelectorAll('main *')].filter(e => !({inside}))"
        assert page.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 80))") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("dark", "media"), [(False, "screen"), (True, "screen"), (True, "print")], ids=["light", "dark", "print"])
def test_every_text_has_enough_contrast(opened, dark, media):
    for name in ("passing", "dropped", "random", "hostile"):
        page = opened(name, dark=dark, media=media)
        page.evaluate(UNFOLD)
        seen, bad = page.evaluate(CONTRAST)
        assert seen > 50
        assert bad == [], name


def test_the_looks_at_contrast_and_width_can_fail(opened):
    page = opened("passing", 360)
    page.add_style_tag(content=".quiet { color: #999 } .lead { width: 500px }")
    assert any(name == "quiet" for name, *_ in page.evaluate(CONTRAST)[1])
    assert page.evaluate("document.documentElement.scrollWidth") > 360


def test_dark_is_dark_and_print_is_white(opened):
    back = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert max(opened("dropped", dark=True).evaluate(back)) < 60
    assert min(opened("dropped").evaluate(back)) > 240
    assert min(opened("dropped", dark=True, media="print").evaluate(back)) == 255


def test_print_shows_what_is_folded_away(opened):
    folded = "[...document.querySelectorAll('details > :not(summary)')].filter(e => !e.checkVisibility()).length"
    assert opened("dropped").evaluate(folded) > 3
    page = opened("dropped", media="print")
    assert page.evaluate(folded) == 0
    assert page.pdf().startswith(b"%PDF")


def test_the_keyboard_reaches_all_that_can_be_opened_in_reading_order(opened):
    page = opened("dropped", 360)
    page.evaluate("[...document.querySelectorAll('a, summary, [tabindex=\"0\"]')].forEach((e, n) => e.dataset.n = n)")
    due = page.evaluate(
        "[...document.querySelectorAll('[data-n]')].filter(e => e.checkVisibility({contentVisibilityAuto: true})).map(e => e.dataset.n)"
    )
    visited = []
    for _ in range(len(due)):
        page.keyboard.press("Tab")
        n, outline = page.evaluate("[document.activeElement.dataset.n, getComputedStyle(document.activeElement).outlineWidth]")
        visited.append(n)
        assert outline == "3px", n
    assert visited == due
    assert len(due) > 6
    assert page.evaluate("document.querySelector('[data-n=\"0\"]').textContent") == "Skip to the report"
    page.evaluate("document.querySelector('summary').focus()")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll"


def test_a_screen_reader_hears_headings_landmarks_and_the_outcome_of_every_picture(opened):
    told = opened("dropped").locator("body").aria_snapshot()
    for due in ("- banner:", "- main:", "- contentinfo:", '- heading "Fail" [level=1]', '- img "The backward graph of the LSTM cell"'):
        assert due in told, due
    assert 'cell "above tolerance:' in told
    assert '- table "By time step, in backward order from top to bottom and from right to left"' in told
