"""Claims: the verdicts on published formulas as a table at the terminal, as JSON, and as part of a docs page."""

from __future__ import annotations

import json
from itertools import groupby

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..claims.judge import FAILS, LAST, LOCAL, READINGS, RIGHT, WRONG, Counterexample, Ruling

FORMAT = "lstm-ref claims 1"
BEGIN, END = "<!-- begin: lstm-ref claims -->", "<!-- end: lstm-ref claims -->"
NAMES = {"alone": "output layer's gradient alone", "total": "total derivative"}
NORMS = ("1-norm", "2-norm", "∞-norm", "Frobenius norm")
STYLES = {WRONG: "bold red", FAILS: "bold red", LOCAL: "cyan", LAST: "yellow"}


def show(console: Console, found: list[Ruling], seed: int) -> None:
    """Print the table, then what is right instead and where each claim fails."""
    console.print(
        f"what flows into a step: the output layer's gradient of that step alone, or the total derivative (seed {seed})", highlight=False
    )
    for source, group in groupby(found, key=lambda r: r.claim.source):
        table = Table(title=escape(source), title_justify="left")
        for name, ratio in (("id", 3), ("claim as printed", 8), (NAMES["alone"], 4), (NAMES["total"], 4)):
            table.add_column(name, ratio=ratio, overflow="fold")
        for r in group:
            words = [f"[{_style(r.verdicts[k])}]{escape(r.verdicts[k])}[/]" for k in READINGS]
            table.add_row(escape(r.claim.id), escape(r.claim.printed), *words)
        console.print(table)
    for r in found:
        if lines := _details(r):
            console.print(f"[bold]{escape(r.claim.id)}[/]", highlight=False)
            console.print("\n".join(f"  {escape(line)}" for line in lines), highlight=False, soft_wrap=True)


def _style(word: str) -> str:
    return STYLES.get(word, "green" if word in RIGHT else "yellow")


def _details(r: Ruling) -> list[str]:
    lines = []
    if r.claim.corrected is not None:
        lines.append(f"right is: {r.claim.correction}  ({r.corrected})")
    for readings, text in _counterexamples(r):
        lines.append(f"fails with {readings}: {text}")
    return lines + [f"note: {note}" for note in r.notes]


def _counterexamples(r: Ruling) -> list[tuple[str, str]]:
    """The counterexamples as text, each with the readings that it refutes."""
    texts = {k: counterexample(c, r.claim.kind == "bound") for k, c in r.counterexamples.items()}
    if len(texts) == 2 and len(set(texts.values())) == 1:
        return [("either reading", texts["total"])]
    return [(f"the {NAMES[k]}", text) for k, text in texts.items()]


def counterexample(c: Counterexample, bound: bool = False) -> str:
    """A counterexample in one line: sizes, the numbers that are not 0, where, what is claimed, what is true."""
    arrays = {k: _plain(k, v) for k, v in c.arrays.items()}
    if "x" in arrays:
        sizes = f"T = {len(arrays['x'])}, D = {arrays['x'].shape[1]}, H = {len(arrays['h0'])}"
        sizes += f", K = {len(arrays['b_v'])}" if "b_v" in arrays else ""
    else:
        sizes = f"T = {len(arrays['a'])}, H = {len(arrays['h0'])}"
    given = [f"{k} = {_numbers(v)}" for k, v in arrays.items() if v.any() or k == "y"]
    at = "" if c.t is None else f"at {'k' if 'x' not in arrays else 't'} = {c.t + 1}: "
    numbers = f"{sizes}; {', '.join([*given, 'all else 0'])}; {at}"
    if bound:
        norm = f" ({NORMS[c.index[0]]})" if c.index else ""
        return f"{numbers}the left side is {number(c.claimed)}, the right side {number(c.true)}{norm}"
    return f"{numbers}{_entry(c)} is claimed {number(c.claimed)}, true {number(c.true)}"


def _entry(c: Counterexample) -> str:
    """The entry in the notation of the reference: `dc[0]`; units are counted from 0."""
    name = c.key.removeprefix("step ").replace("∂c/∂c_prev", "∂c_t/∂c_{t-1}").replace("dc_prev", "dc_{t-1}").replace("dnet", "δ_k")
    share = "the share of " if c.key.startswith("step ") else ""
    return f"{share}{name}[{', '.join(map(str, c.index))}]"


def _plain(name: str, q: np.ndarray) -> np.ndarray:
    """The array of one sequence without its batch axis."""
    return q[0] if name in ("h0", "c0") and q.ndim == 2 else q[:, 0] if name in ("x", "y", "target") else q


def _numbers(q: np.ndarray) -> str:
    if q.ndim == 0:
        return f"{q + 0.0:g}"
    return f"[{', '.join(_numbers(v) for v in q)}]"


def number(q: float) -> str:
    """Four digits: what another machine's rounding cannot change."""
    return f"{q + 0.0:.4g}"


def as_data(found: list[Ruling], seed: int) -> dict:
    """The rulings as JSON-ready data."""
    return {"format": FORMAT, "seed": seed, "claims": [_as_data(r) for r in found]}


def dumps(found: list[Ruling], seed: int) -> str:
    return json.dumps(as_data(found, seed), indent=1, allow_nan=False, ensure_ascii=False)


def _as_data(r: Ruling) -> dict:
    examples = {
        k: {
            "arrays": {name: _plain(name, q).tolist() for name, q in c.arrays.items()},
            "quantity": c.key,
            "step": None if c.t is None else c.t + 1,
            "index": list(c.index),
            "claimed": c.claimed,
            "true": c.true,
        }
        for k, c in r.counterexamples.items()
    }
    return {
        "id": r.claim.id,
        "source": r.claim.source,
        "printed": r.claim.printed,
        "verdicts": r.verdicts,
        "notes": list(r.notes),
        "correction": r.claim.correction or None,
        "correction_verdict": r.corrected,
        "counterexamples": examples,
    }


def markdown(found: list[Ruling]) -> str:
    """The part of the docs page that is computed: a table for each text, then every claim that is not right as it is printed."""
    parts = []
    for source, group in groupby(found, key=lambda r: r.claim.source):
        rows = list(group)
        parts.append(f"## {rows[0].claim.id[:2]}: {source}\n")
        parts.append(
            f"| id | claim as printed | with the {NAMES['alone']} | with the {NAMES['total']} | corrected |\n|---|---|---|---|---|"
        )
        for r in rows:
            corrected = f"`{r.claim.correction}` ({r.corrected})" if r.claim.corrected else ""
            parts.append(f"| {r.claim.id} | `{r.claim.printed}` | {' | '.join(r.verdicts[k] for k in READINGS)} | {corrected} |")
        parts.append("")
        for r in rows:
            if r.claim.why:
                parts.append(_section(r))
    return "\n".join(parts)


def _section(r: Ruling) -> str:
    verdicts = [r.verdicts[k] for k in READINGS]
    told = verdicts[0] if verdicts[0] == verdicts[1] else "; ".join(f"with the {NAMES[k]}: {r.verdicts[k]}" for k in READINGS)
    lines = [f"### {r.claim.id}\n", f"`{r.claim.printed}`\n", f"**{told}.** {r.claim.why}\n"]
    if r.claim.corrected is not None:
        lines.append(f"* Right is: `{r.claim.correction}` (judged by the same tests: {r.corrected})")
    lines += [f"* Fails with {readings}: {text}" for readings, text in _counterexamples(r)]
    lines += [f"* Note: {note}" for note in r.notes]
    return "\n".join(lines) + "\n"


def refreshed(page: str, found: list[Ruling]) -> str:
    """The page with its computed part renewed. Raises ValueError where the page has not both markers, once each."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page has not one line {BEGIN!r} and, after it, one line {END!r}; what is computed is written between them")
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n\n{markdown(found)}\n{END}{rest.split(END)[1]}"
