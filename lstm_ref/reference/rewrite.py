"""Rewrite: the reference's own source, with every labelled equation handed to a hook.

The reference is written once, for readers. What else the project needs of it (rounding noise, taps, gains on
single terms) is derived here from the source itself: each line `q = term + term  # (B:label)` becomes
`q = keep("q", "B:label", index, term, term)`, and `keep` decides what is stored.

Every term arrives as a `Sum`: its value, the sum of the magnitudes of what was added up in it, and how many
numbers that were, so that a hook knows the a-priori rounding error of each equation.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import arrays

LABEL = re.compile(r"#\s*\((?P<label>[FB]:[a-z-]+)\)(?P<partial> partial)?")
COPIES = ("F:concat", "B:split", "B:initial")  # these lines move numbers and form none
PRODUCTS = {"matmul": arrays.rows, "rows": arrays.rows, "outer_sum": arrays.outer_sum}  # lanes and batch as one matrix


class Sum(NamedTuple):
    """A sum in the making: `value`, `magnitude` = Σ|terms|, and the number `n` of terms."""

    value: np.ndarray
    magnitude: np.ndarray
    n: int

    def at(self, index) -> Sum:
        return Sum(self.value[index], self.magnitude[index], self.n)


def term(q) -> Sum:
    return q if isinstance(q, Sum) else Sum(q, np.abs(q), 1)


def product(name: str, left, right) -> Sum:
    return Sum(PRODUCTS[name](left, right), PRODUCTS[name](np.abs(left), np.abs(right)), _added(name, left))


def product_of_lanes(name: str, left, right) -> Sum:
    """A product whose lanes, on the last axis but two, differ by noise alone: to the first order of it all have the magnitude of one."""
    first = (np.abs(q[..., :1, :, :] if q.ndim > 2 else q) for q in (left, right))
    return Sum(PRODUCTS[name](left, right), PRODUCTS[name](*first), _added(name, left))


def _added(name: str, left) -> int:
    return left.shape[0] * left.shape[-2] if name == "outer_sum" else left.shape[-1]


def step_sum(q) -> Sum:
    return Sum(arrays.step_sum(q), arrays.step_sum(np.abs(q)), q.shape[0] * q.shape[-2])


def pick(q: Sum, index) -> Sum:
    """`q[index]` for a partial sum or a plain array."""
    return q.at(index) if isinstance(q, Sum) else term(q[index])


def total(terms) -> Sum:
    """The terms added up, value and magnitude and count."""
    first = term(terms[0])
    if len(terms) == 1:
        return first
    value, magnitude, n = first
    for q in terms[1:]:
        if isinstance(q, Sum):
            value, magnitude, n = value + q.value, magnitude + q.magnitude, n + q.n
        else:
            value, magnitude, n = value + q, magnitude + np.abs(q), n + 1
    return Sum(value, magnitude, n)


def partial(*terms) -> Sum:
    """What a line marked `partial` leaves behind: a sum that a later equation goes on with."""
    return total(terms)


def hooked(function: Callable, multiply: Callable = product, source: str = "") -> Callable:
    """The function with a first argument `keep(name, label, index, *terms) -> stored value` added, and its products as `multiply` has them.
    `source` is another text of it than its own.

    `name` is the stored quantity ("dc", "da.f", "dW"; packed gates are "a" and "da"), `index` the place in it
    that the line fills (an `np.s_` index, or None for a whole array).
    """
    source = source or textwrap.dedent(inspect.getsource(function))
    tree = ast.parse(source)
    _Hooks(source.splitlines()).visit(tree)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.args.args.insert(0, ast.arg("keep"))
    definition.returns = None
    scope = dict(function.__globals__)
    scope.update(_total=total, _term=term, _product=multiply, _step_sum=step_sum, _pick=pick, _partial=partial, _s=np.s_)
    exec(compile(ast.fix_missing_locations(tree), f"<hooked {function.__name__}>", "exec"), scope)
    return scope[function.__name__]


class _Hooks(ast.NodeTransformer):
    def __init__(self, lines: list[str]):
        self.labels = {n: m for n, line in enumerate(lines, 1) if (m := LABEL.search(line))}
        self.partials: set[str] = set()

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        found = self.labels.get(node.lineno)
        if found is None:
            return node
        label, target = found["label"], node.targets[0]
        if found["partial"]:
            self.partials.add(ast.unparse(target))
            node.value = _call("_partial", *self.terms(node.value))
        elif label not in COPIES or self._forms_z(target):
            name, index = _name_and_index(target)
            node.value = _call("keep", ast.Constant(name), ast.Constant(label), index, *self.terms(node.value))
        return node

    @staticmethod
    def _forms_z(target: ast.expr) -> bool:
        """z is formed by copying, but it is a quantity with a gradient, so a hook may want to tap it."""
        return isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and target.value.id == "z"

    def terms(self, node: ast.expr, sign: int = 1) -> list[ast.expr]:
        """The additive terms of an expression, each as an expression that evaluates to a Sum or an array."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            right = sign if isinstance(node.op, ast.Add) else -sign
            return self.terms(node.left, sign) + self.terms(node.right, right)
        if sign < 0:
            return [ast.UnaryOp(ast.USub(), node)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return [_call("_product", ast.Constant("matmul"), node.left, node.right)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PRODUCTS:
            return [_call("_product", ast.Constant(node.func.id), *node.args)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "step_sum":
            return [_call("_step_sum", *node.args)]
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and self._may_be_partial(node.value.id):
            return [_call("_pick", node.value, _index(node.slice))]
        return [node]

    def _may_be_partial(self, name: str) -> bool:
        return name in self.partials or name == "dh_out"  # dh_out comes from the objective


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(args), [])


def _index(slice_: ast.expr) -> ast.expr:
    if isinstance(slice_, ast.Name):
        return slice_
    return ast.Subscript(ast.Name("_s", ast.Load()), slice_, ast.Load())


def _name_and_index(target: ast.expr) -> tuple[str, ast.expr]:
    index: ast.expr = ast.Constant(None)
    if isinstance(target, ast.Subscript):
        index, target = _index(target.slice), target.value
    return ast.unparse(target).removesuffix(".all"), index
