"""HTML: a report as one page that needs no script and no network, made from the JSON document alone."""

from __future__ import annotations

import importlib.util
import math
from importlib import resources
from typing import Any

from . import picture, words

SIGNS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "cannot tell": "?", "timeout": "?", "not run": "?", "agree": "✓", "differ": "✗"}
SIGNS |= {"expected failure": "!", "unexpected pass": "✗"}
CLASSES = {"✓": "good", "✗": "bad", "?": "open", "!": "open"}
ORDER = {"fail": 0, "timeout": 1, "not run": 2, "cannot tell": 3, "pass": 4, "not provided": 5, "deselected": 6}
ORDER |= {"unexpected pass": 0, "expected failure": 1, "blocked": 3}
LEFT, RIGHT, ROW = 46, 388, 26  # of a strip plot
LEAST, MOST = -4, 18  # powers of ten that are drawn; what lies beyond stands at the edge
TRUTHS = ("autodiff", "differences")
SHOWN_NUMBERS = 60  # of an array, before it is folded away


class MissingExtra(ValueError):
    """jinja2 is not installed; the text says how to get it."""


def ready() -> None:
    """Raise MissingExtra where a page cannot be made, so that it is known before a run and not after it."""
    if importlib.util.find_spec("jinja2") is None:
        raise MissingExtra("an HTML report needs jinja2: install the extra with pip install 'lstm-ref[html]'")


def page(document: dict) -> str:
    """The document of `json_report.document` or `json_report.load` as one HTML file."""
    ready()
    import jinja2
    import markupsafe

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"ratio": ratio, "number": number, "entry": entry, "sizes": sizes, "seconds": seconds, "gain": gain}
    environment.globals |= {"sign": _sign, "tone": _tone}
    here, runs = resources.files(__package__), [_run(run) for run in document["runs"]]
    template, css = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.html.jinja", "page.css"))
    outcomes = [run["outcome"] for run in document["runs"]]
    tally = {o: outcomes.count(o) for o in ("fail", "inconclusive", "pass") if o in outcomes}
    told = {"doc": document, "runs": runs, "tally": tally, "title": _title(document), "style": markupsafe.Markup(css)}
    return environment.from_string(template).render(told).lstrip()


def _title(document: dict) -> str:
    targets = list(dict.fromkeys(run["target"] for run in document["runs"]))
    return f"{document['outcome']}: {targets[0][:80] if len(targets) == 1 else f'{len(targets)} LSTMs'}"


def _sign(outcome: str) -> str:
    return SIGNS.get(outcome, "–")


def _tone(outcome: str) -> str:
    return CLASSES.get(_sign(outcome), "quiet")


def real(q: Any) -> float:
    """A number of the document, where what is not finite is a string."""
    return float(q)


def ratio(q: Any) -> str:
    """An error as a multiple of its tolerance, short."""
    if q is None:
        return "–"
    found = real(q)
    if not math.isfinite(found):
        return "∞"
    if found == 0 or 0.01 <= found < 100:
        return f"{found:.2g}"
    digit, _, power = f"{found:.0e}".partition("e")
    return f"{digit}e{int(power)}".replace("-", "−")


def number(q: Any, digits: int = 6) -> str:
    return "–" if q is None else str(q) if isinstance(q, str) else f"{q:.{digits}g}"


def gain(q: Any) -> str:
    """A gain as the diagnosis says it."""
    return words.gain(real(q))


def entry(e: dict) -> str:
    return e["quantity"] + (f"[{', '.join(map(str, e['index']))}]" if e["index"] else "")


def sizes(n: dict) -> str:
    return ", ".join(f"{k} = {v}" for k, v in n.items() if k != "K" or v > 1)


def seconds(q: float) -> str:
    return f"{q:.1f} s" if q < 100 else f"{q / 60:.0f} min"


def _run(run: dict) -> dict:
    """What the template needs beside the run itself: everything here is drawn from the run's own data."""
    results = sorted(run["results"], key=lambda r: ORDER.get(r["outcome"], 9))
    shown = [r for r in results if r["outcome"] not in ("not provided", "deselected")]
    quiet = {o: [r for r in results if r["outcome"] == o] for o in ("not provided", "deselected")}
    counts: dict[str, int] = {}
    for r in results:
        counts[r["outcome"]] = counts.get(r["outcome"], 0) + 1
    lead, more = _lead(run, counts)
    return {
        "data": run,
        "lead": lead,
        "with_forward": any(r["id"].startswith("forward.") for r in results),
        "whole": not run["incomplete"] and "deselected" not in counts and all(p["autodiff"] for p in run["power"].values()),
        "more": more,
        "sights": {d: {truth: _sight(p[truth]) for truth in TRUTHS} for d, p in run["power"].items()},
        "shown": shown,
        "quiet": {o: rs for o, rs in quiet.items() if rs},
        "counts": counts,
        "failures": sorted((r for r in results if r["outcome"] == "fail"), key=lambda r: r["counterexample"] is None),
        "undecided": [r for r in results if r["outcome"] in ("cannot tell", "timeout", "not run")],
        "examples": [_example(r) for r in results if r["counterexample"] is not None],
        "graph": _graph(run["explanation"]) if run["explanation"] else None,
        "strips": [strip for d in run["dtypes"] if (strip := _strip(run, d))["rows"]],
        "heat": _heat(run["heat"]) if run["heat"] else None,
        "diagnosis": run["explanation"]["told"].removeprefix("diagnosis: ") if run["explanation"] else "",
    }


def _lead(run: dict, counts: dict[str, int]) -> tuple[str, str]:
    """The verdict as a sentence, and what its meaning says beyond the outcomes of its parts."""
    left_out = counts.get("deselected", 0)
    ran = sum(counts.values()) - counts.get("not provided", 0) - left_out
    passed, failed, awaited, surprising, blocked = (
        counts.get(o, 0) for o in ("pass", "fail", "expected failure", "unexpected pass", "blocked")
    )
    undecided = ran - passed - failed - awaited - surprising - blocked
    wrong = [f"{failed} of {ran} checks {'fails' if failed == 1 else 'fail'}"] if failed or not surprising else []
    wrong += [f"{surprising} of {ran} checks {'passes' if surprising == 1 else 'pass'} though a failure is expected"] if surprising else []
    wrong += [f"{undecided} could not be decided"] if undecided else []
    held_up = f", and {blocked} did not run because of that" if blocked else ""
    told = {
        "fail": ", and ".join(wrong),
        "pass": f"{passed} of {ran} checks pass, {awaited} {'fails' if awaited == 1 else 'fail'} as expected{held_up}"
        if awaited
        else f"All of the {ran} checks that apply pass",
        "inconclusive": f"{undecided} of {ran} checks could not be decided, and none fails",
    }[run["outcome"]]
    partial = f" {left_out} checks were left out by the user." if left_out else ""
    _, _, more = run["meaning"].partition(". ")
    return f"{told}.{partial}", "" if more.startswith(f"{undecided} check") else more


def _sight(sights: dict[str, dict]) -> dict | None:
    """The least that is sure to be seen in any gradient: the widest of each share."""
    return {k: max(s[k] for s in sights.values()) for k in ("smallest", "median", "largest")} if sights else None


def _graph(explanation: dict) -> dict:
    """Lines and boxes with what is marked on them, and the same as rows of a table."""
    marks = picture.marked(explanation)
    gains = {}
    for fit in explanation["fits"][:1]:
        for edge, gain in zip(fit["edges"], fit["gains"], strict=True):
            for member in picture.MEMBERS.get(edge["id"], ()):
                gains[member] = (edge["wrong"], gain)
    lines = []
    for k, points in picture.LINES.items():
        kind = next((name for name in ("guilty", "maybe") if k in marks[name]), "")
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        lines.append(
            {"id": k, "path": path, "kind": kind, "middle": picture.middle(points), "edge": picture.WORDS[k], "gain": gains.get(k)}
        )
    boxes = [
        {"id": k, "box": b, "label": _label(b.label), "wrong": k in marks["wrong"], "first": k in marks["first"]}
        for k, b in picture.BOXES.items()
    ]
    wrong = [picture.BOXES[k].label for k in marks["wrong"]]
    guilty = [line for line in lines if line["kind"] == "guilty"]
    maybe = [line for line in lines if line["kind"] == "maybe"]
    order = {"guilty": 0, "maybe": 1, "": 2}
    return {
        "width": picture.WIDTH,
        "height": picture.HEIGHT,
        "lines": sorted(lines, key=lambda line: -order[line["kind"]]),
        "table": sorted(lines, key=lambda line: order[line["kind"]]),
        "boxes": boxes,
        "guilty": guilty,
        "maybe": maybe,
        "wrong": wrong,
        "first": [picture.BOXES[k].label for k in marks["first"]],
    }


def _label(name: str) -> tuple[str, str]:
    """A name as its stem and what stands below the line: dW_f as ("dW", "f")."""
    if name == "dc_tilde":
        return "dc̃", ""
    stem, _, below = name.partition("_")
    return stem, {"next": "t+1", "prev": "t−1"}.get(below, below)


def _strip(run: dict, dtype: str) -> dict:
    """Error ÷ tolerance of every gradient at one dtype, as marks on a logarithmic axis and as rows of a table."""
    rows: dict[str, dict] = {}
    for r in run["results"]:
        chapter, _, rest = r["id"].partition(".")
        name, _, truth = rest.rpartition(".")
        if r["dtype"] == dtype and chapter in ("grad", "inter") and r["ratios"] and truth in TRUTHS:
            told = {"ratios": [real(q) for q in r["ratios"]], "failed": r["failed"], "cases": r["cases"]}
            rows.setdefault(name, {})[truth] = told
    everything = [q for row in rows.values() for told in row.values() for q in told["ratios"]]
    top = min(MOST, max([1, *(math.ceil(math.log10(q)) for q in everything if 1 < q < math.inf)]))
    beyond = any(q > 10.0**top for q in everything)
    top += beyond
    step = next(s for s in (1, 2, 3, 4) if (top - LEAST) / s <= 8)

    def place(decade: float) -> float:
        return LEFT + (RIGHT - LEFT) * (min(max(decade, LEAST), top) - LEAST) / (top - LEAST)

    drawn = []
    for n, (name, row) in enumerate(rows.items()):
        marks = []
        for truth, shift in (("autodiff", -4.5), ("differences", 4.5)):
            seen = set()
            for q in row[truth]["ratios"] if truth in row else ():
                x = round(place(top if math.isinf(q) else math.log10(q) if q > 0 else LEAST))
                if (x, q > 1) not in seen:
                    seen.add((x, q > 1))
                    marks.append({"x": x, "y": ROW * n + ROW / 2 + shift, "truth": truth, "over": q > 1})
        stem, below = _label(f"d{name}")
        drawn.append({"name": f"d{name}", "stem": stem, "below": below, "y": ROW * n + ROW / 2, "marks": marks, "table": _spread(row)})
    powers = [*range(-step, LEAST - 1, -step), *range(0, top + (not beyond), step)]
    ticks = [{"x": round(place(k), 1), "power": k} for k in powers]
    return {
        "dtype": dtype,
        "rows": drawn,
        "ticks": ticks,
        "one": place(0),
        "height": ROW * len(rows),
        "beyond": top - 1 if beyond else None,
    }


def _spread(row: dict) -> list[dict]:
    return [
        {"truth": k, "median": told["ratios"][len(told["ratios"]) // 2], "largest": told["ratios"][-1], **told} for k, told in row.items()
    ]


def _heat(heat: dict) -> dict:
    steps = [{**row, "name": f"d{row['quantity']}", "cells": [_cell(q) for q in row["ratios"]]} for row in heat["steps"]]
    alone = [{**row, "name": f"d{row['quantity']}", "cells": [_cell(q) for q in row["ratios"]]} for row in heat["alone"]]
    return {**heat, "steps": steps, "alone": alone, "missing": [f"d{k}" for k in heat["missing"]]}


def _cell(q: Any) -> dict:
    """A cell of the heat map: its text, and a level from 0 (far within the tolerance) to 4."""
    if q is None:
        return {"text": "–", "level": "unknown", "over": False}
    found = real(q)
    levels = (0.1, 1.0, 1e3, 1e8)
    return {"text": ratio(q), "level": sum(found > limit for limit in levels), "over": found > 1}


def _example(r: dict) -> dict:
    c = r["counterexample"]
    arrays = [{"name": k, "group": "given", **_array(v)} for k, v in c["inputs"].items()]
    arrays += [{"name": f"cotangent of {k}", "group": "flows in", **_array(v)} for k, v in c["cotangents"].items()]
    return {"result": r, "record": c, "arrays": arrays, "zeros": [a["name"] for a in arrays if a["zero"]], "e": r["shrunk"]}


def _array(q: Any) -> dict:
    """An array as its shape, and its numbers as lines of text."""
    shape, inner = [], q
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else 0
    flat = list(_flat(q))
    return {
        "shape": " × ".join(map(str, shape)) or "one number",
        "lines": _rows(q),
        "long": len(flat) > SHOWN_NUMBERS,
        "zero": not any(flat),
        "count": len(flat),
    }


def _flat(q: Any):
    if isinstance(q, list):
        for part in q:
            yield from _flat(part)
    else:
        yield q


def _rows(q: Any) -> list[str]:
    """The rows of an array, one line each; a blank line between the matrices of a larger one."""
    if not isinstance(q, list):
        return [number(q, 17)]
    if not q or not isinstance(q[0], list):
        return ["  ".join(number(v, 17) for v in q)]
    parts = [_rows(part) for part in q]
    return [line for n, part in enumerate(parts) for line in ([""] if n and len(part) > 1 else []) + part]
