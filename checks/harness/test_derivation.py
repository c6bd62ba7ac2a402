"""The derivation: its blocks run, its formulas are true as printed, its labels are the code's, an error in any equation is seen."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from lstm_ref.diagnosis import edges, gains, mutants
from lstm_ref.reference import backward, forward, objectives, rewrite
from lstm_ref.reference.symbols import EQUATIONS

from .formulas import Formula, FormulaError, Point, tokens

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "derivation.md").read_text(encoding="utf-8")
TAG = re.compile(r"\\tag\{([^}]*)\}")


class Section(NamedTuple):
    """What stands under one heading; `label` is empty where the heading has none."""

    label: str
    blocks: list[str]
    formulas: list[str]


def sections() -> list[Section]:
    found = []
    for part in re.split(r"^#+ ", re.sub(r"^# |\A", "", PAGE), flags=re.M):
        if fences := re.findall(r"^```(python|math)\n(.*?)^```", part, re.S | re.M):
            label = re.match(r"[FB]:[a-z-]+|", part)[0]
            found.append(Section(label, *([text for kind, text in fences if kind == due] for due in ("python", "math"))))
    return found


SECTIONS = sections()
LABELLED = {s.label: s for s in SECTIONS if s.label}
BLOCKS = [block for s in SECTIONS for block in s.blocks]
SHARED = [block for block in BLOCKS if "\ndef " in block or block.startswith("def ")]  # what the other blocks rest on
WHOLE = BLOCKS[-1]
INLINE = re.findall(r"\$([^$]*)\$", re.sub(r"^```.*?^```|`[^`\n]*`", "", PAGE, flags=re.S | re.M))
IN_GENERAL = {  # inline equations about anything, and conditions: nothing to evaluate
    r"g(x + i\varepsilon) = g(x) + i\varepsilon g'(x) - \frac{1}{2}\varepsilon^2 g''(x) - \dots",
    r"\mathrm{d}X = \sum_Y \left(\partial Y / \partial X\right)^\top \mathrm{d}Y",
    *("u = 2^{-53}", "n = q", "T = 1"),
}
FORMULAS = {f"{s.label}-{n}": formula for s in SECTIONS for n, formula in enumerate(s.formulas)}
FORMULAS |= {f"inline-{n}": formula for n, formula in enumerate(INLINE) if "=" in formula and formula not in IN_GENERAL}
EACH_FORMULA = pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)


def labels_at_line_ends(text: str) -> set[str]:
    return {m["label"] for m in rewrite.LABEL.finditer(text)}


def run(block: str, scope: dict) -> dict:
    exec(compile(block, "<docs/derivation.md>", "exec"), scope)
    return scope


@cache
def shared() -> dict:
    """The namespace that every block can rest on: the point, the forward pass, the complex steps."""
    scope: dict = {}
    for block in SHARED:
        run(block, scope)
    return scope


# --- the page as it stands -----------------------------------------------------------------------------------------------


def test_the_page_runs_from_top_to_bottom():
    scope: dict = {}
    for block in BLOCKS:
        run(block, scope)
    assert len(BLOCKS) == len(re.findall(r"^```python", PAGE, re.M)) > len(EQUATIONS)


@pytest.mark.parametrize("label", EQUATIONS)
def test_every_block_rests_on_the_shared_ones_alone(label):
    for block in LABELLED[label].blocks:
        run(block, dict(shared()))


def test_labels_are_those_of_the_code_and_of_the_list_of_equations():
    code = labels_at_line_ends("".join(map(inspect.getsource, (forward, backward, objectives))))
    on_the_page = {
        "headings": set(LABELLED),
        "formulas": set(TAG.findall(PAGE)),
        "blocks": set().union(*(labels_at_line_ends(block) for s in LABELLED.values() for block in s.blocks)),
        "forward and backward pass": labels_at_line_ends(SHARED[0] + WHOLE),
    }
    assert len(EQUATIONS) > 20
    assert code == set(EQUATIONS)
    for where, labels in on_the_page.items():
        assert labels == set(EQUATIONS), (where, labels ^ set(EQUATIONS))


@pytest.mark.parametrize("label", EQUATIONS)
def test_every_label_has_its_formulas_and_a_block_that_asserts_them(label):
    section = LABELLED[label]
    tagged = [formula for formula in section.formulas if TAG.search(formula)]
    assert tagged
    assert all(TAG.findall(formula) == [label] for formula in tagged)
    assert any(",b" in formula or "b," in formula for formula in section.formulas), "the batch's index stands only in component form"
    assert any(labels_at_line_ends(block) == {label} and "agree(" in block for block in section.blocks)
    assert all(labels_at_line_ends(block) <= {label} for block in section.blocks)


@EACH_FORMULA
def test_every_formula_is_true_as_printed(formula):
    assert holds(tokens(formula))


def holds(parts: list[str]) -> bool:
    """Whether all sides agree. Raises FormulaError where they make no sense."""
    first, *others = Formula(parts).sides(point())
    try:
        for side in others:
            shared()["agree"](side, first)
    except AssertionError:
        return False
    return True


@cache
def point() -> Point:
    return Point(shared())


def test_nothing_is_displayed_that_is_not_read():
    displayed = [n for n in FORMULAS if not n.startswith("inline")]
    assert len(displayed) == len(re.findall(r"^```math", PAGE, re.M)) > 2 * len(EQUATIONS)
    assert len(FORMULAS) > len(displayed)
    assert set(INLINE) >= IN_GENERAL
    assert "$$" not in PAGE


def test_agree_passes_rounding_and_nothing_more():
    agree, bound = shared()["agree"], shared()["ROUNDINGS"] * np.finfo(float).eps / 2
    one = np.ones(3)
    agree(one + bound / 2, one)
    for wrong in (one + 2 * bound, one * np.nan, np.ones(4), np.zeros(3)):
        with pytest.raises(AssertionError):
            agree(wrong, one)
    with pytest.raises(AssertionError):
        agree(one, one * np.nan)
    with pytest.raises(AssertionError):
        agree(one * np.finfo(float).tiny, np.zeros(3))


# --- planted errors ------------------------------------------------------------------------------------------------------


def planted(block: str, label: str, scope: dict) -> Iterator[tuple[str, str]]:
    """The block with one error in one line of that label: what was done, and the text. `scope` knows the shapes of names."""
    tree = ast.parse(block)
    lines = {n for n, line in enumerate(block.splitlines(), 1) if label in labels_at_line_ends(line)}
    for statement in [n for n in ast.walk(tree) if isinstance(n, (ast.Assign, ast.AugAssign)) and n.lineno in lines]:
        for holder, field, old, new in changes(statement, scope):
            put(holder, field, new)
            yield f"{ast.unparse(old)} -> {ast.unparse(new)} in {block.splitlines()[statement.lineno - 1].strip()}", ast.unparse(tree)
            put(holder, field, old)


def put(holder, field, node) -> None:
    name, index = field
    if index is None:
        setattr(holder, name, node)
    else:
        getattr(holder, name)[index] = node


def changes(statement, scope: dict) -> Iterator[tuple]:
    """(holder, field, old node, new node): signs, factors, terms, functions, powers, sums and names."""
    for holder in [*list(ast.walk(statement.value)), statement]:
        for name, value in ast.iter_fields(holder):
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if name not in ("targets", "target") and isinstance(node, ast.expr):
                    yield from ((holder, (name, index), node, new) for new in wrong(node, scope))
    top, value = statement, statement.value
    field: tuple = ("value", None)
    while isinstance(value, (ast.DictComp, ast.Call)) and (isinstance(value, ast.DictComp) or ast.unparse(value.func) == "form"):
        top, field = (value, ("value", None)) if isinstance(value, ast.DictComp) else (value, ("args", 1))
        value = top.value if isinstance(top, ast.DictComp) else top.args[1]
    fields = [(value, ("elts", n)) for n in range(len(value.elts))] if isinstance(value, ast.Tuple) else [(top, field)]
    for holder, (name, index) in fields:
        old = getattr(holder, name) if index is None else getattr(holder, name)[index]
        yield holder, (name, index), old, ast.UnaryOp(ast.USub(), old)
        yield holder, (name, index), old, ast.BinOp(ast.Constant(2), ast.Mult(), old)


def wrong(node: ast.expr, scope: dict) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
        if isinstance(node.op, ast.Pow):
            yield ast.BinOp(node.left, node.op, ast.Constant(3))
        yield from (node.left, node.right)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):  # −1 is an axis
        yield node.operand
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.tanh", "np.exp", "np.log", "sigmoid"):
        yield node.args[0]
        yield ast.Call(ast.parse("np.cos", mode="eval").body, node.args, [])
    elif isinstance(node, ast.Call) and ast.unparse(node) == "range(T)":
        yield ast.parse("range(T - 1)", mode="eval").body
    elif isinstance(node, ast.Name) and isinstance(scope.get(node.id), np.ndarray) and scope[node.id].ndim > 1:
        q = scope[node.id]
        same = [k for k, v in scope.items() if isinstance(v, np.ndarray) and v.shape == q.shape and not np.array_equal(v, q)]
        yield from (ast.Name(k, ast.Load()) for k in same[:3])


def seen(text: str, scope: dict) -> type[Exception] | None:
    """How an error shows when the text runs: the exception's type, or None where nothing happens."""
    try:
        with np.errstate(all="ignore"):
            run(text, scope)
    except Exception as e:
        return type(e)
    return None


def judge(found: dict[str, type[Exception] | None]) -> None:
    """Every planted error turns something red, and most of them do so in an assertion, not by breaking an operation."""
    assert not [what for what, red in found.items() if red is None]
    asserted = [what for what, red in found.items() if red is AssertionError]
    assert len(asserted) >= 2
    assert len(asserted) > len(found) / 2, {what: red for what, red in found.items() if red is not AssertionError}


@pytest.mark.parametrize("label", EQUATIONS)
def test_an_error_in_any_equation_of_a_block_is_seen(label):
    found = {}
    for block in (*LABELLED[label].blocks, *([WHOLE] if label.startswith("B:") else [])):
        right = run(block, dict(shared()))
        for what, text in planted(block, label, right):
            found[what] = seen(text, dict(shared()))
    judge(found)


@pytest.mark.parametrize("label", [k for k in EQUATIONS if k.startswith("F:")])
def test_an_error_in_any_line_of_the_forward_pass_is_seen_by_its_own_block(label):
    found = {}
    for what, text in planted(SHARED[0], label, {}):
        blocks = [text, *SHARED[1:-1], *LABELLED[label].blocks]
        found[what] = seen("\n".join(blocks), {})
    judge(found)


def misprints(parts: list[str]) -> Iterator[list[str]]:
    """The formula with one error in print: a sign, a symbol, a factor, a power, a function, a time step, an accent."""
    formula = Formula(list(parts))
    other = {"f": "o", "i": "f", "o": "i", "c": "h", "h": "c", "v": "b", "x": "z", "z": "x", "W": "b", "s": "h", "a": "c"}
    for start, end in formula.spans:
        letter = next(n for n in range(start, end) if parts[n].isalpha())
        if new := other.get(parts[letter]):
            yield [*parts[:letter], new, *parts[letter + 1 :]]
        if not {r"\partial", r"\log"} & set(parts[max(start - 1, 0) : start]):
            yield [*parts[:start], "2", *parts[start:]]
    exchanged = {"+": "-", "-": "+", r"\tanh": r"\sigma", r"\sigma": r"\tanh", r"\exp": r"\tanh", r"\top": "2", "1": "2"}
    for n, part in enumerate(parts):
        if part in exchanged:
            yield [*parts[:n], exchanged[part], *parts[n + 1 :]]
        if part == r"\odot":
            yield [*parts[:n], "+", *parts[n + 1 :]]
        if part in (r"\tilde", r"\bar", r"\hat", r"\mathrm{d}"):
            yield [*parts[:n], *parts[n + 1 :]]
        if part == "^" and parts[n + 1] == "2":
            yield [*parts[:n], *parts[n + 2 :]]
        if parts[n : n + 3] == ["t", "-", "1"]:
            yield [*parts[:n], "t", *parts[n + 3 :]]
    equal = parts.index("=") + 1
    yield [*parts[:equal], "-", *parts[equal:]] if parts[equal] != "-" else [*parts[:equal], *parts[equal + 1 :]]


@EACH_FORMULA
def test_a_misprint_in_any_formula_is_seen(formula):
    found = []
    for parts in misprints(tokens(formula)):
        try:
            with np.errstate(all="ignore"):
                assert not holds(parts), " ".join(parts)
            found.append("false")
        except FormulaError:
            found.append("makes no sense")
    assert found.count("false") >= 2


# --- what surrounds the equations ----------------------------------------------------------------------------------------


def test_the_report_says_what_the_table_of_mistakes_says():
    said = {(m.label, m.words) for m in mutants.bank()}
    every = (*edges.EDGES, *edges.HEAD_EDGES, *edges.GROUPS)
    said |= {(edge.label, f"{edge.words} is {wrong}") for edge in every for wrong in gains.USUAL}
    rows = re.findall(r"^\| ([FB]:[a-z-]+) \|.*\| `([^`]*)` \|$", PAGE.partition("## What people get wrong")[2], re.M)
    assert len(rows) > 10
    assert not set(rows) - said


def test_inline_formulas_survive_github():
    """GitHub reads Markdown before mathematics: escapes of punctuation vanish, and paired underscores or asterisks become emphasis."""
    assert len(INLINE) > 100
    assert not [m for m in INLINE if re.search(r"\\[^A-Za-z]|[}\\)]_[^{]|\*|<|\|", m) or m != m.strip() or "\n" in m]
