"""Mutants: wrong backward passes, each one small substitution in the reference, most of them generated from its source.

What people get wrong: an edge with a wrong gain; a local derivative that is missing, doubled or another one's; an operand,
gate, time step or transpose that is another of the same shape; a reduction over too little or too much; a fault that shows
only in some region, or only in the last digits.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np

from ..reference import backward, objectives, rewrite
from ..reference.symbols import GATES
from .edges import EDGES, GROUPS, HEAD_EDGES, INDEX, Edge, gained

FACTORS = {
    "missing": lambda n: 0.0,
    "sign": lambda n: -1.0,
    "twice": lambda n: 2.0,
    "half": lambda n: 0.5,
    "mean over batch": lambda n: 1 / n[1],
    "mean over time": lambda n: 1 / n[0],
}
SOME_STEPS = {  # people write the ends of the loop apart
    "t > 0": "at every step but the first",
    "t == 0": "at the first step alone",
    "t < T - 1": "at every step but the last",
    "t == T - 1": "at the last step alone",
}
Gradients = dict[str, np.ndarray]
Change = tuple[Callable, str, str]  # a function of the reference, the text that goes and the one that comes


@dataclass(frozen=True)
class Mutant:
    """One wrong backward pass. `run(trace, s, head)` gives its gradients; `label` is the equation it breaks. `change` is
    what makes it, where that is a change of text."""

    id: str
    kind: str
    label: str
    words: str
    run: Callable[..., Gradients]
    model: bool = False
    change: Change | None = None


@cache
def bank() -> tuple[Mutant, ...]:
    """Every mutant, no id twice. None is equivalent to the reference for all inputs: each changes a term that is not zero."""
    found = [*_edge_mutants(), *_derivatives(), *_operands(), *_steps(), *_written(), *_afterwards(), *_softmax()]
    ids = [m.id for m in found]
    assert len(set(ids)) == len(ids), sorted(i for i in ids if ids.count(i) > 1)
    return tuple(found)


@cache
def known() -> tuple[Mutant, ...]:
    """The bank, and mistakes that are named like its mutants and are none of those that `power` counts."""
    return (*bank(), *_beside_the_bank(), *_without_what_comes_back(), *_of_other_gates(), *_of_other_positions())


def right(trace, s: dict, head: tuple | None = None) -> Gradients:
    """The reference's own gradients, in the form in which mutants give theirs."""
    return _named(*_through(backward.backward, objectives.softmax_backward, trace, s, head))


def _through(backward_pass, softmax_pass, trace, s, head):
    if head is None:
        return backward_pass(trace, s["h"], s["h_T"], s["c_T"]), None
    softmax, inputs = head
    top = softmax_pass(softmax, trace.h, inputs["W_v"], inputs["y"], inputs["w"])
    nothing = np.zeros_like(trace.h0)
    return backward_pass(trace, top.dh_out, nothing, nothing), top


def _named(g, top) -> Gradients:
    H = g.dh0.shape[-1]
    out = {"x": g.dx.copy(), "h0": g.dh0.copy(), "c0": g.dc0.copy()}
    for n, k in enumerate(GATES):
        out[f"W_{k}"], out[f"b_{k}"] = g.dW[n * H : (n + 1) * H].copy(), g.db[n * H : (n + 1) * H].copy()
    return out if top is None else out | {"W_v": top.dW_v, "b_v": top.db_v}


# --- edges with a wrong gain ---------------------------------------------------------------------------------------


def _edge_mutants() -> Iterator[Mutant]:
    twins = {"df", "di", "dc_tilde", "do"}  # each flows into one da_k only: the same mutants as da_k's
    for edge in (*EDGES, *GROUPS, *HEAD_EDGES):
        for name, factor in FACTORS.items():
            if edge.id not in twins:
                yield Mutant(f"edge:{edge.id}:{name}", "edge", edge.label, f"{edge.words}: {name}", _gain(edge, factor), edge in HEAD_EDGES)


def _gain(edge: Edge, factor) -> Callable[..., Gradients]:
    def run(trace, s, head=None):
        table = np.ones((1, len(INDEX)), complex)
        for member in edge.members or (edge.id,):
            table[0, INDEX[member]] = factor(trace.h.shape)
        return {k: v[0].real for k, v in gained(trace, table, s, head).items()}

    return run


# --- substitutions in the source -------------------------------------------------------------------------------------


@cache  # to find it takes as long as ten runs
def _source(function) -> str:
    return textwrap.dedent(inspect.getsource(function))


def changed(function: Callable, changes: Sequence[Change]) -> str:
    """The text of a function of the reference with those of the changes made that are to it, each at its one place. Raises ValueError
    where one of them takes away the place of another."""
    source = _source(function)
    for of, old, new in changes:
        if of is function:
            if source.count(old) != 1:
                raise ValueError(f"{function.__name__} has {source.count(old)} places of {old!r}; one is due")
            source = source.replace(old, new)
    return source


def run_of(*changes: Change) -> Callable[..., Gradients]:
    """The gradients of the reference with these changes made to it, compiled when they are first asked for."""

    @cache
    def passes():
        touched = {of for of, _, _ in changes}
        own = (backward.backward, objectives.softmax_backward)
        return [_compiled(function, changed(function, changes)) if function in touched else function for function in own]

    def run(trace, s, head=None):
        with np.errstate(all="ignore"):
            return _named(*_through(*passes(), trace, s, head))

    return run


def _run_of_source(source: str) -> Callable[..., Gradients]:
    """The gradients of a backward pass of this text."""

    def run(trace, s, head=None):
        with np.errstate(all="ignore"):
            return _named(*_through(_compiled(backward.backward, source), objectives.softmax_backward, trace, s, head))

    return run


def _compiled(function: Callable, source: str) -> Callable:
    scope = dict(function.__globals__)
    exec(compile(source, f"<mutant of {function.__name__}>", "exec"), scope)
    return scope[function.__name__]


def _substituted(id_: str, kind: str, label: str, words: str, old: str, new: str, function=backward.backward) -> Mutant:
    change = (function, old, new)
    return Mutant(id_, kind, label, words, run_of(change), function is objectives.softmax_backward, change)


def _for_sigma(k: str) -> dict[str, str]:
    """What people write for dk ⊙ σ' of a gate."""
    sigma = f"(1 / (1 + np.exp(-{k}[t])))"
    return {
        "σ' missing": f"d{k}[t]",
        "σ for σ'": f"d{k}[t] * {k}[t]",
        "1 − σ for σ'": f"d{k}[t] * (1 - {k}[t])",
        "σ' with the wrong sign": f"d{k}[t] * {k}[t] * ({k}[t] - 1)",
        "σ' squared": f"d{k}[t] * ({k}[t] * (1 - {k}[t])) ** 2",
        "σ' of the activated gate": f"d{k}[t] * {sigma} * (1 - {sigma})",
        "tanh' for σ'": f"d{k}[t] * (1 - {k}[t] ** 2)",
        "σ' with a plus": f"d{k}[t] * {k}[t] * (1 + {k}[t])",
    }


def _derivatives() -> Iterator[Mutant]:
    for k in "fio":
        old, confusions = f"d{k}[t] * {k}[t] * (1 - {k}[t])", _for_sigma(k)
        confusions |= {f"σ' of gate {other}": f"d{k}[t] * {other}[t] * (1 - {other}[t])" for other in "fio" if other != k}
        for words, new in confusions.items():
            yield _substituted(f"derivative:da_{k}:{words}", "derivative", "B:preact", f"da_{k}: {words}", old, new)
    confusions = {
        "tanh' missing": "1",
        "1 − g for 1 − g²": "(1 - c_tilde[t])",
        "1 − 2g for 1 − g²": "(1 - c_tilde[t] * 2)",
        "1 + g² for 1 − g²": "(1 + c_tilde[t] ** 2)",
        "tanh' of the activated candidate": "(1 - np.tanh(c_tilde[t]) ** 2)",
        "σ' for tanh'": "c_tilde[t] * (1 - c_tilde[t])",
        "tanh' squared": "(1 - c_tilde[t] ** 2) ** 2",
        "tanh' of c_t": "(1 - tanh_c[t] ** 2)",
    }
    for words, new in confusions.items():
        yield _substituted(f"derivative:da_c:{words}", "derivative", "B:preact", f"da_c: {words}", "(1 - c_tilde[t] ** 2)", new)
    confusions = {
        "tanh' missing": "1",
        "tanh' on raw c": "(1 - c[t] ** 2)",
        "tanh' twice": "(1 - np.tanh(tanh_c[t]) ** 2)",
        "1 − tanh c": "(1 - tanh_c[t])",
        "1 − 2 tanh c": "(1 - 2 * tanh_c[t])",
        "1 + tanh²c": "(1 + tanh_c[t] ** 2)",
        "tanh' of c_{t-1}": "(1 - np.tanh(c_prev) ** 2)",
        "tanh' of c̃": "(1 - c_tilde[t] ** 2)",
    }
    for words, new in confusions.items():
        yield _substituted(f"derivative:dc:{words}", "derivative", "B:cell", f"dc: {words}", "(1 - tanh_c[t] ** 2)", new)


STATE_LIKE = ("f[t]", "i[t]", "o[t]", "c_tilde[t]", "tanh_c[t]", "c[t]", "c_prev")
GRADIENT_LIKE = ("dh[t]", "do[t]", "dc[t]", "df[t]", "di[t]", "dc_tilde[t]", "dc_next", "dh_next")


def _operands() -> Iterator[Mutant]:
    """Every operand of the time loop's equations replaced by every other quantity of its shape that exists by then."""
    source = _source(backward.backward)
    lines = source.splitlines()
    loop = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.For))
    known = ["dh_next", "dc_next"]
    for statement in loop.body:
        line = lines[statement.lineno - 1]
        label = rewrite.LABEL.search(line)
        if not isinstance(statement, ast.Assign) or not label or label["label"] in ("B:split", "B:concat", "B:preact"):
            continue
        target = ast.unparse(statement.targets[0])
        for node in _leaves(statement.value):
            old = ast.unparse(node)
            pool = (
                (*STATE_LIKE, "1.0") if old in STATE_LIKE else tuple(k for k in GRADIENT_LIKE if k in known) if old in GRADIENT_LIKE else ()
            )
            for new in pool:
                if new != old:
                    changed = _replaced(statement, node, new)
                    words = f"{target.removesuffix('[t]')}: {new.removesuffix('[t]')} for {old.removesuffix('[t]')}"
                    words = words if new != "1.0" else f"{target.removesuffix('[t]')}: the factor {old.removesuffix('[t]')} is missing"
                    indent = line[: len(line) - len(line.lstrip())]
                    id_ = f"operand:{words}:{node.col_offset}"
                    yield _substituted(id_, "operand", label["label"], words, line, f"{indent}{changed}")
        known.append(target)


def _leaves(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, (ast.Subscript, ast.Name)):
        yield node
    elif not isinstance(node, ast.Constant):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from _leaves(child)


def _replaced(statement: ast.Assign, node: ast.expr, new: str) -> str:
    class Swap(ast.NodeTransformer):
        def visit(self, seen):
            same = getattr(seen, "col_offset", None) == node.col_offset and ast.dump(seen) == ast.dump(node)
            return ast.parse(new, mode="eval").body if same else super().visit(seen)

    changed = copy.deepcopy(statement)
    changed.value = Swap().visit(changed.value)
    return ast.unparse(changed)


def _steps() -> Iterator[Mutant]:
    """The right quantity at the wrong time step; at the ends the index wraps, as Python's does."""
    lines = {
        "do": ("do[t] = dh[t] * tanh_c[t]", ("tanh_c",)),
        "dc": ("dc[t] = dh[t] * o[t] * (1 - tanh_c[t] ** 2) + dc_next", ("o", "tanh_c")),
        "di": ("di[t] = dc[t] * c_tilde[t]", ("c_tilde",)),
        "dc_tilde": ("dc_tilde[t] = dc[t] * i[t]", ("i",)),
        "dc_next": ("dc_next = dc[t] * f[t]", ("f",)),
        "dh": ("dh[t] = dh_out[t] + dh_next", ("dh_out",)),
    }
    labels = {"do": "B:output", "dc": "B:cell", "di": "B:gates", "dc_tilde": "B:gates", "dc_next": "B:carry", "dh": "B:hidden"}
    for name, (line, operands) in lines.items():
        for q in operands:
            for shift, words in (("t - 1", "t−1"), ("(t + 1) % T", "t+1")):
                new = line.replace(f"{q}[t]", f"{q}[{shift}]", 1) if name != q else line
                yield _substituted(f"step:{name}:{q} of {words}", "step", labels[name], f"{name}: {q} of {words}", line, new)
    wrapped = "c_prev = c[t - 1] if t > 0 else c0"
    for words, new in {
        "c_{t-1} wraps to c_T at the first step": "c_prev = c[t - 1]",
        "c0 taken as zero": "c_prev = c[t - 1] if t > 0 else 0 * c0",
        "c_t for c_{t-1}": "c_prev = c[t]",
        "c_{t-2} for c_{t-1}": "c_prev = c[t - 2] if t > 1 else c0",
        "c0 for every c_{t-1}": "c_prev = c0",
    }.items():
        yield _substituted(f"step:{words}", "step", "B:gates", words, wrapped, new)


def _written() -> Iterator[Mutant]:
    """What people write that no rule generates: reductions, transposes, carries, shifted and reversed time."""
    gates = {k: f"da.all[..., {n}*H:{n + 1}*H]" for n, k in enumerate(GATES)}
    B = "B:weights"
    z = "outer_sum(da.all, z)"
    table = [
        ("dW uses h_t", "weights", B, z, "outer_sum(da.all, np.concatenate([trace.h, z[..., H:]], -1))"),
        ("dW uses h_{t-2}", "weights", B, z, "outer_sum(da.all, np.concatenate([np.roll(z[..., :H], 1, 0), z[..., H:]], -1))"),
        ("dW ignores h0", "weights", B, z, "outer_sum(da.all, np.concatenate([z[..., :H] * (np.arange(T) > 0)[:, None, None], z[..., H:]], -1))"),
        ("dW takes the first row of h0 for all", "weights", B, z, "outer_sum(da.all, np.concatenate([np.where(np.arange(T)[:, None, None] > 0, z[..., :H], z[:1, :1, :H]), z[..., H:]], -1))"),
        ("dW of the first step only", "reduction", B, z, "outer_sum(da.all[:1], z[:1])"),
        ("dW of the last step only", "reduction", B, z, "outer_sum(da.all[-1:], z[-1:])"),
        ("dW of the last row only", "reduction", B, z, "outer_sum(da.all[:, -1:], z[:, -1:])"),
        ("dW without the first step", "reduction", B, z, "outer_sum(da.all[1:], z[1:])"),
        ("dW sums rows before the product", "reduction", B, z, "outer_sum(da.all.sum(1, keepdims=True), z.sum(1, keepdims=True))"),
        ("dW of x is the same in every row", "reduction", B, z, "outer_sum(da.all, np.concatenate([z[..., :H], np.broadcast_to(z[..., H:].mean(-1, keepdims=True), z[..., H:].shape)], -1))"),
        ("dW before the activation derivative of o", "weights", B, z, "outer_sum(np.concatenate([da.f, da.i, da.c, do], -1), z)"),
        ("db of the first step only", "reduction", "B:biases", "step_sum(da.all)", "step_sum(da.all[:1])"),
        ("db of the last step only", "reduction", "B:biases", "step_sum(da.all)", "step_sum(da.all[-1:])"),
        ("db of the last row only", "reduction", "B:biases", "step_sum(da.all)", "step_sum(da.all[:, -1:])"),
        ("db without the first step", "reduction", "B:biases", "step_sum(da.all)", "step_sum(da.all[1:])"),
        ("W_h not transposed", "transpose", "B:concat", "da.all[t] @ W_h", "da.all[t] @ np.concatenate([W_h[k * H : k * H + H].T for k in range(4)])"),
        ("dh_next through the candidate only", "carry", "B:concat", "da.all[t] @ W_h", "da.c[t] @ W_h[2 * H : 3 * H]"),
        ("dh_next from gate gradients before σ'", "carry", "B:concat", "da.all[t] @ W_h", "np.concatenate([df[t], di[t], da.c[t], do[t]], -1) @ W_h"),
        ("dh_next from dc̃ before tanh'", "carry", "B:concat", "da.all[t] @ W_h", "np.concatenate([da.f[t], da.i[t], dc_tilde[t], da.o[t]], -1) @ W_h"),
        ("the first step is skipped", "carry", "B:hidden", "for t in reversed(range(T)):", "da.all[...] = 0\n    dz[...] = 0\n    for t in list(reversed(range(T)))[: max(T - 1, 1)]:"),
        ("carries cut every second step", "carry", "B:carry", "dc_next = dc[t] * f[t]", "dc_next = dc[t] * f[t] * (t % 2 > 0 or t == 0); dh_next = dh_next * (t % 2 > 0 or t == 0)"),
        ("carry clipped at ±0.2", "clip", "B:carry", "dc_next = dc[t] * f[t]", "dc_next = np.clip(dc[t] * f[t], -0.2, 0.2)"),
        ("dc_next is df's own gradient", "carry", "B:carry", "dc_next = dc[t] * f[t]", "dc_next = dc[t] * da.f[t]"),
        ("dc_next multiplied by do", "carry", "B:carry", "dc_next = dc[t] * f[t]", "dc_next = dc[t] * do[t]"),
        ("dc_next from dh's path only", "carry", "B:carry", "dc_next = dc[t] * f[t]", "dc_next = dh[t] * o[t] * (1 - tanh_c[t] ** 2) * f[t]"),
        ("dc_next from the carry only", "carry", "B:carry", "dc_next = dc[t] * f[t]", "dc_next = (dc[t] - dh[t] * o[t] * (1 - tanh_c[t] ** 2)) * f[t]"),
        ("dh's path counted twice in dc", "carry", "B:cell", "(1 - tanh_c[t] ** 2) + dc_next", "(1 - tanh_c[t] ** 2) * 2 + dc_next"),
        ("do ignores what comes back", "carry", "B:output", "do[t] = dh[t] * tanh_c[t]", "do[t] = dh_out[t] * tanh_c[t]"),
        ("dc ignores dh's carry", "carry", "B:cell", "dc[t] = dh[t] * o[t]", "dc[t] = dh_out[t] * o[t]"),
        ("what flows in is reversed in time", "time", "B:hidden", "dh[t] = dh_out[t] + dh_next", "dh[t] = dh_out[T - 1 - t] + dh_next"),
        ("dx reversed in time", "time", "B:split", "dx = dz[..., H:]", "dx = dz[::-1, ..., H:]"),
        ("dx off by one step", "time", "B:split", "dx = dz[..., H:]", "dx = np.roll(dz[..., H:], -1, 0)"),
        ("dx is h's part where D = H, zero elsewhere", "split", "B:split", "dx = dz[..., H:]", "dx = dz[..., :H] if dz.shape[-1] == 2 * H else 0 * dz[..., H:]"),
        ("dh0 is what flows in on h_1", "initial", "B:initial", "dh0, dc0 = dh_next, dc_next", "dh0, dc0 = dh_out[0] + 0 * dh_next, dc_next"),
        ("dc0 is dc_1", "initial", "B:initial", "dh0, dc0 = dh_next, dc_next", "dh0, dc0 = dh_next, dc[0]"),
        ("dh0 is dh_1", "initial", "B:initial", "dh0, dc0 = dh_next, dc_next", "dh0, dc0 = dh[0], dc_next"),
        ("dh0 and dc0 exchanged", "initial", "B:initial", "dh0, dc0 = dh_next, dc_next", "dh0, dc0 = dc_next, dh_next"),
        ("s_h and s_c exchanged", "initial", "B:hidden", "dh_next, dc_next = s_h, s_c", "dh_next, dc_next = s_c, s_h"),
    ]  # fmt: skip
    for words, kind, label, old, new in table:
        yield _substituted(f"{kind}:{words}", kind, label, words, old, new)
    for one in GATES:
        for two in GATES:
            if one != two:
                swapped = [gates[two] if k == one else gates[k] for k in GATES]
                new = f"outer_sum(np.concatenate([{', '.join(swapped)}], -1), z)"
                yield _substituted(f"gate:dW_{one} is dW_{two}", "gate", B, f"dW_{one} is dW_{two}", z, new)
                new = f"step_sum(np.concatenate([{', '.join(swapped)}], -1))"
                yield _substituted(f"gate:db_{one} is db_{two}", "gate", "B:biases", f"db_{one} is db_{two}", "step_sum(da.all)", new)
            if one < two:
                order = [gates[two] if k == one else gates[one] if k == two else gates[k] for k in GATES]
                joined = f"np.concatenate([{', '.join(order)}], -1)"
                both = f"outer_sum({joined}, z)"
                words = f"gates {one} and {two} exchanged in dW"
                yield _substituted(f"gate:{words}", "gate", B, words, z, both)
                words = f"gates {one} and {two} exchanged in what goes back"
                new = "np.concatenate([" + ", ".join(g.replace("all[...,", "all[t][...,") for g in order) + "], -1) @ W_h"
                yield _substituted(f"gate:{words}", "gate", "B:concat", words, "da.all[t] @ W_h", new)
                words, back = f"da_{one} and da_{two} exchanged", "dz[t, ..., :H] = da.all[t] @ W_h"
                new = f"da.{one}[t], da.{two}[t] = da.{two}[t].copy(), da.{one}[t].copy(); {back}"
                yield _substituted(f"gate:{words}", "gate", "B:preact", words, back, new)


def _beside_the_bank() -> Iterator[Mutant]:
    carry, da_f = "dc_next = dc[t] * f[t]", "da.f[t] = df[t] * f[t] * (1 - f[t])"
    slope, z = "(1 - tanh_c[t] ** 2)", "outer_sum(da.all, z)"
    parts = "W_h, W_x = np.ascontiguousarray(W[..., :H]), W[..., H:]"
    dh, flow, initial = "dh[t] = dh_out[t] + dh_next", "what flows in on h_t", "dh0, dc0 = dh_next, dc_next"
    table = [
        (f"{flow} is taken at the last step only", "time", "B:hidden", dh, "dh[t] = dh_out[t] * (t == T - 1) + dh_next"),
        (f"{flow} is taken at the first step only", "time", "B:hidden", dh, "dh[t] = dh_out[t] * (t == 0) + dh_next"),
        (f"{flow} is left out at the last step", "time", "B:hidden", dh, "dh[t] = dh_out[t] * (t < T - 1) + dh_next"),
        (f"{flow} is left out at the first step", "time", "B:hidden", dh, "dh[t] = dh_out[t] * (t > 0) + dh_next"),
        (f"{flow} is counted twice at the last step", "time", "B:hidden", dh, "dh[t] = dh_out[t] * (1 + (t == T - 1)) + dh_next"),
        ("dc_next takes da_o for o", "carry", "B:carry", carry, f"dc_next = (dc[t] - dh[t] * o[t] * {slope} + dh[t] * da.o[t] * {slope}) * f[t]"),
        ("dc_next takes do for o", "carry", "B:carry", carry, f"dc_next = (dc[t] - dh[t] * o[t] * {slope} + dh[t] * do[t] * {slope}) * f[t]"),
        ("dh0 is dc0", "initial", "B:initial", initial, "dh0, dc0 = dc_next, dc_next"),
        ("dc0 is dh0", "initial", "B:initial", initial, "dh0, dc0 = dh_next, dh_next"),
        ("df: tanh(c_{t-1}) for c_{t-1}", "operand", "B:gates", "df[t] = dc[t] * c_prev", "df[t] = dc[t] * np.tanh(c_prev)"),
        ("da_c: (1 − g)² for 1 − g²", "derivative", "B:preact", "(1 - c_tilde[t] ** 2)", "(1 - c_tilde[t]) ** 2"),
        ("dc: (1 − tanh c)² for 1 − tanh²c", "derivative", "B:cell", slope, "(1 - tanh_c[t]) ** 2"),
        ("dc_next: f² for f", "carry", "B:carry", carry, "dc_next = dc[t] * f[t] ** 2"),
        ("dc: o² for o", "operand", "B:cell", "dc[t] = dh[t] * o[t] *", "dc[t] = dh[t] * o[t] ** 2 *"),
        ("dc_tilde: i² for i", "operand", "B:gates", "dc_tilde[t] = dc[t] * i[t]", "dc_tilde[t] = dc[t] * i[t] ** 2"),
        ("df and di exchanged", "gate", "B:gates", da_f, f"df[t], di[t] = di[t].copy(), df[t].copy(); {da_f}"),
        ("dW of the first row only", "reduction", "B:weights", "outer_sum(da.all, z)", "outer_sum(da.all[:, :1], z[:, :1])"),
        ("db of the first row only", "reduction", "B:biases", "step_sum(da.all)", "step_sum(da.all[:, :1])"),
        ("dW of h comes back transposed", "transpose", "B:weights", z, f"np.concatenate([np.concatenate([q[:, :H].T, q[:, H:]], 1) for q in np.split({z}, 4)])"),
        ("dW has the columns of x first", "split", "B:weights", z, "outer_sum(da.all, np.roll(z, -H, -1))"),
        ("dW has the columns of h first, where those of x are due", "split", "B:weights", z, "outer_sum(da.all, np.roll(z, H, -1))"),
        ("dz of [h, x] is split as [x, h]", "split", "B:split", parts, "W_h, W_x = W[..., -H:], W[..., :-H]"),
        ("dz of [x, h] is split as [h, x]", "split", "B:split", parts, "W_h, W_x = np.split(np.roll(W, -H, -1), [H], -1)"),
        ("dh_next through W_x where D = H", "transpose", "B:concat", parts, f"{parts}; W_h = W_x if W_x.shape == W_h.shape else W_h"),
        ("W_x not transposed where D = H", "transpose", "B:concat", "rows(da.all, W_x)", "rows(da.all, W_x if W_x.shape != W_h.shape else np.concatenate([q.T for q in np.split(W_x, 4)]))"),
    ]  # fmt: skip
    for words, kind, label, old, new in table:
        yield _substituted(f"{kind}:{words}", kind, label, words, old, new)


def _without_what_comes_back() -> Iterator[Mutant]:
    """The chain rule cut short: a local derivative that is not multiplied by the gradient from above, and a sum over gates that keeps
    one of them."""
    table = [
        ("df", "dc", "B:gates", "df[t] = dc[t] * c_prev", "df[t] = c_prev"),
        ("di", "dc", "B:gates", "di[t] = dc[t] * c_tilde[t]", "di[t] = c_tilde[t]"),
        ("dc_tilde", "dc", "B:gates", "dc_tilde[t] = dc[t] * i[t]", "dc_tilde[t] = i[t]"),
        ("do", "dh", "B:output", "do[t] = dh[t] * tanh_c[t]", "do[t] = tanh_c[t]"),
        ("da_f", "df", "B:preact", "df[t] * f[t] * (1 - f[t])", "f[t] * (1 - f[t])"),
        ("da_i", "di", "B:preact", "di[t] * i[t] * (1 - i[t])", "i[t] * (1 - i[t])"),
        ("da_c", "dc_tilde", "B:preact", "dc_tilde[t] * (1 - c_tilde[t] ** 2)", "1 - c_tilde[t] ** 2"),
        ("da_o", "do", "B:preact", "do[t] * o[t] * (1 - o[t])", "o[t] * (1 - o[t])"),
        ("dc", "dh", "B:cell", "dc[t] = dh[t] * o[t] *", "dc[t] = o[t] *"),
        ("dc", "dh ⊙ o", "B:cell", "dc[t] = dh[t] * o[t] *", "dc[t] ="),
        ("dc_next", "dc", "B:carry", "dc_next = dc[t] * f[t]", "dc_next = f[t]"),
    ]
    for name, factor, label, old, new in table:
        yield _substituted(f"operand:{name} without {factor}", "operand", label, f"{name}: the factor {factor} is missing", old, new)
    after = "da.c[t] = dc_tilde[t]"  # the line that follows those of the three gates
    written = {
        k: _for_sigma(k) | {"the gradient from above is missing": f"{k}[t] * (1 - {k}[t])", "−σ² for σ'": f"-d{k}[t] * {k}[t] ** 2"}
        for k in "fio"
    }
    for words in written["f"]:
        new = "; ".join(f"da.{k}[t] = {written[k][words]}" for k in "fio")
        words = f"da_f, da_i and da_o: {words}"
        yield _substituted(f"derivative:{words}", "derivative", "B:preact", words, after, f"{new}; {after}")
    parts = "W_h, W_x = np.ascontiguousarray(W[..., :H]), W[..., H:]"
    for n, k in enumerate(GATES):
        words = f"dz through da_{k} alone"
        new = f"{parts}; kept = np.arange(4 * H)[:, None] // H == {n}; W_h, W_x = W_h * kept, W_x * kept"
        yield _substituted(f"carry:{words}", "carry", "B:concat", words, parts, new)


def _of_other_gates() -> Iterator[Mutant]:
    """One gate for another, where the bank does not have it: any order of all of them, one letter in σ' or tanh', one transpose."""
    back = "dz[t, ..., :H] = da.all[t] @ W_h"
    for n, k in enumerate(GATES):
        words = f"W_{k} of h not transposed"
        new = f"dz[t, ..., :H] = da.all[t] @ np.concatenate([q.T if n == {n} else q for n, q in enumerate(np.split(W_h, 4))])"
        yield _substituted(f"transpose:{words}", "transpose", "B:concat", words, back, new)
    for order in permutations(GATES):
        if sum(one != two for one, two in zip(order, GATES, strict=True)) > 2:  # two that are exchanged are of the bank
            words = ", ".join(f"da_{one} is da_{two}" for one, two in zip(GATES, order, strict=True) if one != two)
            new = f"da.all[t] = np.concatenate([{', '.join(f'da.{k}[t]' for k in order)}], -1); {back}"
            yield _substituted(f"gate:{words}", "gate", "B:preact", words, back, new)
    for k, other in permutations(("f", "i", "o", "c_tilde"), 2):
        if k != "c_tilde":
            old, wrong = f"{k}[t] * (1 - {k}[t])", f"{other}[t]"
            for words, new in (
                (f"{other} for the first {k}", f"{wrong} * (1 - {k}[t])"),
                (f"1 − {other} for 1 − {k}", f"{k}[t] * (1 - {wrong})"),
            ):
                words = f"da_{k}: {words} in {k}(1 − {k})"
                yield _substituted(f"derivative:{words}", "derivative", "B:preact", words, old, new)
    for k in "fio":
        yield _substituted(
            f"derivative:da_{k}:no 1", "derivative", "B:preact", f"da_{k}: −σ² for σ'", f"{k}[t] * (1 - {k}[t])", f"-({k}[t] ** 2)"
        )
        for q, of, label in (("c_tilde", "da_c", "B:preact"), ("tanh_c", "dc", "B:cell")):
            for words, new in ((f"1 − {q}·{k}", f"(1 - {q}[t] * {k}[t])"), (f"1 − {k}²", f"(1 - {k}[t] ** 2)")):
                words = f"{of}: {words} for 1 − {q}²"
                yield _substituted(f"derivative:{words}", "derivative", label, words, f"(1 - {q}[t] ** 2)", new)
    for q, of, label in (("c_tilde", "da_c", "B:preact"), ("tanh_c", "dc", "B:cell")):
        words = f"{of}: −{q}² for 1 − {q}²"
        yield _substituted(f"derivative:{words}", "derivative", label, words, f"(1 - {q}[t] ** 2)", f"(-({q}[t] ** 2))")
    words, back = "do: dc for dh", "da.o[t] = do[t] * o[t] * (1 - o[t])"
    yield _substituted("operand:do: dc for dh", "operand", "B:output", words, back, f"do[t] = dc[t] * tanh_c[t]; {back}")


@cache
def at_steps(condition: str) -> tuple[Mutant, ...]:
    """Those that are known and change the loop over time alone, made where a condition of `SOME_STEPS` holds."""
    words, found = SOME_STEPS[condition], []
    before, loop, end = _around_the_loop(_source(backward.backward))
    for m in known():
        if m.change is None or m.change[0] is not backward.backward:
            continue
        own_before, own_loop, own_end = _around_the_loop(changed(backward.backward, [m.change]))
        if (own_before, own_end) == (before, end):
            source = f"{before}        if {condition}:\n{textwrap.indent(own_loop, '    ')}            continue\n{loop}{end}"
            found.append(Mutant(f"{m.id}, {words}", m.kind, m.label, f"{m.words}, {words}", _run_of_source(source)))
    return tuple(found)


def _around_the_loop(source: str) -> tuple[str, str, str]:
    """The text of the backward pass up to the body of its loop over time, that body, and what follows it."""
    before, head, rest = source.partition("    for t in reversed(range(T)):\n")
    loop, _, end = rest.partition("\n\n")
    return before + head, loop + "\n", "\n" + end


def _of_other_positions() -> Iterator[Mutant]:
    """The weight or the class of another position in the gradient of the softmax, or that weight as something else."""
    dv, eye = "w[..., None] * head.y_hat - w[..., None] * onehot", "np.eye(W_v.shape[0])[y]"
    table = [
        ("its weight squared", dv, f"w[..., None] * ({dv})"),
        ("its weight on the probabilities only", dv, "w[..., None] * head.y_hat - onehot"),
        ("its weight as a mask of ones and zeros", dv, "(w[..., None] != 0) * (head.y_hat - onehot)"),
        ("the weight of the first row for all", dv, "w[:, :1, None] * (head.y_hat - onehot)"),
        ("the weight of the first step for all", dv, "w[:1, :, None] * (head.y_hat - onehot)"),
        ("the class of the first row for all", eye, f"{eye}[:, :1]"),
        ("the class of the step before", eye, f"np.roll({eye}, 1, 0)"),
        ("the classes of all rows in every row", eye, f"{eye}.max(1, keepdims=True)"),
        ("only the class's own entry", dv, "w[..., None] * (head.y_hat - onehot) * onehot"),
    ]
    for words, old, new in table:
        words = f"softmax gradient: {words}"
        yield _substituted(f"softmax:{words}", "softmax", "B:logits", words, old, new, objectives.softmax_backward)


# --- changes to gradients on their way out ------------------------------------------------------------------------------


def _afterwards() -> Iterator[Mutant]:
    def after(id_, kind, words, change, label="B:weights"):
        def run(trace, s, head=None):
            return change(right(trace, s, head), trace)

        return Mutant(f"{kind}:{id_}", kind, label, words, run)

    def clip(limit, keys=""):
        return lambda g, trace: {k: np.clip(v, -limit, limit) if k.startswith(keys) else v for k, v in g.items()}

    def in_float32(g, trace):
        return {k: v.astype(np.float32).astype(v.dtype) for k, v in g.items()}

    def norm(g, trace):
        size = np.sqrt(sum(np.sum(v**2) for v in g.values()))
        return {k: v * min(1.0, 0.25 / size) if size else v for k, v in g.items()}

    def where(key, condition, new=0.0):
        def change(g, trace):
            v = g[key]
            v[condition(v, trace)] = new
            return g

        return change

    yield after("every gradient at ±5", "clip", "a clip at ±5 on the way out", clip(5))
    yield after("every gradient at ±1", "clip", "a clip at ±1 on the way out", clip(1))
    yield after("weights at ±1", "clip", "weight gradients clipped at ±1", clip(1, "W_"))
    yield after("norm at ¼", "clip", "the whole gradient clipped in norm", norm)
    yield after("every gradient through float32", "precision", "gradients pass through a float32 buffer", in_float32)
    for k in ("W_f", "W_o", "b_c", "x", "h0"):
        words = f"d{k} passes through a float32 buffer"
        yield after(f"d{k} through float32", "precision", words, lambda g, trace, k=k: {**g, k: in_float32({k: g[k]}, trace)[k]})
    regions = {
        "db_f beyond unit 16": ("b_f", lambda v, t: np.arange(len(v)) >= 16),
        "dW_i beyond unit 8": ("W_i", lambda v, t: np.arange(len(v)) >= 8),
        "dx from step 6 on": ("x", lambda v, t: np.arange(len(v)) >= 5),
        "dx beyond row 2": ("x", lambda v, t: np.broadcast_to(np.arange(v.shape[1])[:, None] >= 2, v.shape)),
        "dx beyond feature 8": ("x", lambda v, t: np.broadcast_to(np.arange(v.shape[2]) >= 8, v.shape)),
        "dc0 where c0 is negative": ("c0", lambda v, t: t.c0 < 0),
        "dh0 where the forget gate is above 0.9": ("h0", lambda v, t: t.f[0] > 0.9),
        "dW_o where it is large": ("W_o", lambda v, t: np.abs(v) > 3),
    }
    for words, (key, condition) in regions.items():
        yield after(f"{words} is zero", "region", f"{words} is zero", where(key, condition))


def _softmax() -> Iterator[Mutant]:
    f, label = objectives.softmax_backward, "B:logits"
    dv = "dv = w[..., None] * head.y_hat - w[..., None] * onehot"
    table = {
        "without its weight": (label, dv, "dv = head.y_hat - onehot"),
        "its sign": (label, dv, "dv = w[..., None] * onehot - w[..., None] * head.y_hat"),
        "onehot dropped": (label, dv, "dv = w[..., None] * head.y_hat"),
        "σ' on top": (label, dv, "dv = (w[..., None] * head.y_hat - w[..., None] * onehot) * head.y_hat * (1 - head.y_hat)"),
        "mean over classes": (label, dv, "dv = (w[..., None] * head.y_hat - w[..., None] * onehot) / W_v.shape[0]"),
        "class off by one": (label, "np.eye(W_v.shape[0])[y]", "np.eye(W_v.shape[0])[y - 1]"),
        "weight on the class only": (label, dv, "dv = head.y_hat - w[..., None] * onehot"),
        "mean over the weights": (label, dv, "dv = (w[..., None] * head.y_hat - w[..., None] * onehot) / max(w.sum(), np.finfo(float).tiny)"),
        "dW_v of the last step": ("B:output-layer", "outer_sum(dv, h)", "outer_sum(dv[-1:], h[-1:])"),
        "dW_v uses h_{t-1}": ("B:output-layer", "outer_sum(dv, h)", "outer_sum(dv, np.roll(h, 1, 0))"),
        "db_v of the last row": ("B:output-layer", "step_sum(dv)", "step_sum(dv[:, -1:])"),
        "dh from the last step's logits only": ("B:hidden", "rows(dv, W_v)", "rows(dv, W_v) * (np.arange(len(dv)) == len(dv) - 1)[:, None, None]"),
    }  # fmt: skip
    for words, (where, old, new) in table.items():
        yield _substituted(f"softmax:{words}", "softmax", where, f"softmax gradient: {words}", old, new, f)
