"""Formulas: the displayed formulas of the derivation, read as they are printed and evaluated on numbers.

A formula is an equation in LaTeX, as much of it as the page needs. It is evaluated at every value of its free indices. A symbol with
all its indices is a number; with fewer it is a column or a matrix, and a product of these is a matrix product. A batch index
that is left out is the sequence at hand. `∂A/∂B` is asked of the page's own complex steps.
"""

from __future__ import annotations

import itertools
import re

import numpy as np

TOKEN = re.compile(r"\\mathrm\{d\}|\\text\{\w+\}|\\[a-zA-Z]+|\d+|[A-Za-z]|\S")
ACCENTS = {r"\tilde": "tilde", r"\hat": "hat", r"\bar": "bar"}
FUNCTIONS = {r"\tanh": np.tanh, r"\exp": np.exp, r"\log": np.log, r"\sigma": lambda a: 1 / (1 + np.exp(-a))}
ENDS = {"+", "-", "=", ")", "]", ",", "}", r"\rangle", r"\rVert"}
AXES = {  # t is counted from 0 where there is an initial value, else from 1
    **dict.fromkeys(("f", "i", "o", "c_tilde", "c", "h", "s", "y_bar", "h_next", "c_next"), "tbj"),
    **{"a": "ktbj", "z": "tbm", "x": "tbd", "v": "tbn", "y_hat": "tbn", "y": "tb", "w": "tb"},
    **{"W": "kjm", "b": "kj", "W_v": "nj", "b_v": "n", "s_h": "bj", "s_c": "bj"},
}
FITS = {"t": "tT0123456789", "b": "b", "j": "j", "m": "mjH", "d": "d", "n": "nqy", "k": "kfico"}  # first letters of an axis's indices


class FormulaError(Exception):
    """A formula that cannot be read or makes no sense: what was seen, and where."""


def tokens(latex: str) -> list[str]:
    """The formula in pieces, its \\tag left out."""
    return TOKEN.findall(re.sub(r"\\tag\{[^}]*\}", "", latex))


class Point:
    """The numbers that the symbols of a formula stand for, from the namespace of the page."""

    def __init__(self, page: dict):
        self.page = page
        self.sizes = {n: page[n] for n in "TBDHK"}
        T, B, D, H, K = self.sizes.values()
        many = {"t": T, "b": B, "j": H, "d": D, "m": H + D, "n": K, "q": K}
        self.ranges = {n: range(1, size + 1) for n, size in many.items()} | {"k": page["GATES"]}
        self.kept: dict[str, tuple[np.ndarray, int]] = {}

    def array(self, name: str, gradient: bool) -> tuple[np.ndarray, int]:
        """A quantity or its gradient, and the number of its first time step."""
        key = f"d{name}" * gradient or name
        if key not in self.kept:
            if name.endswith("_next") and not gradient:
                raise FormulaError(f"{name} is a gradient; d is due before it")
            get = self.page["total"] if gradient else self.page["here"].get
            if name.endswith("_next"):
                found, first = np.stack([*get(f"{name[0]}_prev"), self.page[f"s_{name[0]}"]]), 0
            elif name in ("h", "c"):
                found, first = np.stack([get(f"{name}0"), *get(name)]), 0
            elif name in ("W", "b", "a"):
                found, first = np.stack([get(f"{name}_{k}") for k in self.page["GATES"]]), 1
            elif gradient and name not in self.page["here"]:
                raise FormulaError(f"{name} has no gradient")
            else:
                found, first = (get(name) if name in self.page["here"] else self.page[name] + (name == "y")), 1
            self.kept[key] = found, first
        return self.kept[key]


class Formula:
    """One equation, parsed: `sides(point)` gives what its sides are for all values of the free indices."""

    def __init__(self, parts: list[str]):
        self.parts, self.at = parts, 0
        self.spans: list[tuple[int, int]] = []  # of the symbols
        self.free: set[str] = set()
        self.bound: list[str] = []
        self.expressions = [self.sum()]
        while self.peek() == "=":
            self.take()
            self.expressions.append(self.sum())
        if self.peek() or len(self.expressions) < 2:
            raise FormulaError(f"an equation is due, seen {' '.join(parts)!r}, stopped at {self.at}")

    def sides(self, point: Point) -> list[np.ndarray]:
        free = sorted(self.free - {"b"} | {"b"})
        sides = []
        for values in itertools.product(*(point.ranges[n] for n in free)):
            env = {"point": point, **dict(zip(free, values, strict=True))}
            sides.append([e(env) for e in self.expressions])
        return [np.array(side) for side in zip(*sides, strict=True)]

    # --- reading --------------------------------------------------------------------------------------------------------

    def peek(self) -> str:
        return self.parts[self.at] if self.at < len(self.parts) else ""

    def take(self, due: str = "") -> str:
        seen = self.peek()
        if not seen or (due and seen != due):
            raise FormulaError(f"{due or 'more'} is due, seen {seen!r} in {' '.join(self.parts)!r}")
        self.at += 1
        return seen

    def sum(self):
        terms = [(self.take() if self.peek() == "-" else "+", self.product())]
        while self.peek() in ("+", "-"):
            terms.append((self.take(), self.product()))

        def value(env):
            total = 0.0
            for sign, term in terms:
                one = term(env)
                if np.ndim(one) and np.ndim(total) and np.shape(one) != np.shape(total):
                    raise FormulaError(f"{np.shape(total)} {sign} {np.shape(one)}")
                total = total + one if sign == "+" else total - one
            return total

        return value

    def product(self):
        factors = [("", self.factor())]
        while self.peek() and self.peek() not in ENDS:
            factors.append((self.take() if self.peek() == r"\odot" else "", self.factor()))

        def value(env):
            made = factors[0][1](env)
            for sign, factor in factors[1:]:
                one = factor(env)
                if np.ndim(made) == 0 or np.ndim(one) == 0 or (sign and np.shape(made) == np.shape(one)):
                    made = made * one
                elif sign or np.shape(made)[1] != np.shape(one)[0]:
                    raise FormulaError(f"{np.shape(made)} {sign or 'times'} {np.shape(one)}")
                else:
                    made = made @ one
            return made

        return value

    def factor(self):
        base = self.base()
        if self.peek() == "^":
            self.take()
            power = self.take()
            if power == r"\top":
                return lambda env: np.transpose(base(env))
            return lambda env: base(env) ** int(power)
        return base

    def base(self):
        seen = self.peek()
        if seen.isdigit():
            number = float(self.take())
            return lambda env: number
        if seen in ("(", r"\lVert", r"\langle", "["):
            return self.enclosed()
        if seen == r"\frac":
            return self.fraction()
        if seen == r"\sum":
            return self.series()
        if seen == r"\delta":
            self.take()
            one, two = self.subscripts()
            return lambda env: float(one[1](env) == two[1](env))
        if seen in FUNCTIONS:
            function = FUNCTIONS[self.take()]
            power = int(self.take()) if self.peek() == "^" and self.take() else 1
            inner = self.factor()
            return lambda env: function(inner(env)) ** power
        if seen in (r"\text{softmax}", r"\text{onehot}"):
            self.take()
            inner = self.enclosed()
            return softmax_of(inner) if "softmax" in seen else onehot_of(inner)
        name, gradient, subscripts = self.symbol()
        return lambda env: look_up(env, name, gradient, subscripts)

    def enclosed(self):
        opened = self.take()
        inner = [self.sum()]
        while self.peek() == ",":
            self.take()
            inner.append(self.sum())
        self.take({"(": ")", "[": "]", r"\lVert": r"\rVert", r"\langle": r"\rangle"}[opened])
        if opened == r"\lVert":
            return lambda env: float(np.sqrt(np.sum(inner[0](env) ** 2)))
        if opened == r"\langle":
            return lambda env: (inner[0](env).T @ inner[1](env)).item()
        return inner[0] if opened == "(" else lambda env: np.concatenate([e(env) for e in inner])

    def fraction(self):
        self.take(r"\frac")
        self.take("{")
        if self.peek() != r"\partial":
            above = self.sum()
            self.take("}"), self.take("{")
            below = self.sum()
            self.take("}")
            return lambda env: above(env) / below(env)
        sides = []
        for end in ("}{", "}"):
            self.take(r"\partial")
            logarithm = self.peek() == r"\log" and bool(self.take())
            name, _, subscripts = self.symbol()
            sides.append((f"log_{name}" * logarithm or name, name, subscripts))
            for mark in end:
                self.take(mark)

        def value(env):
            (out, where), (tap, of) = (place(env, *side) for side in sides)
            return env["point"].page["jacobian"](out, tap)[(*where, *of)].item()

        return value

    def series(self):
        self.take(r"\sum")
        names = [text for text, _ in self.subscripts(binding=True)]
        self.bound += names
        inner = self.product()
        del self.bound[-len(names) :]

        def value(env):
            ranges = [env["point"].ranges[n] for n in names]
            return sum(inner({**env, **dict(zip(names, at, strict=True))}) for at in itertools.product(*ranges))

        return value

    def symbol(self) -> tuple[str, bool, list]:
        start = self.at
        gradient = self.peek() == r"\mathrm{d}" and bool(self.take())
        accent = ACCENTS[self.take()] if self.peek() in ACCENTS else ""
        name = self.take()
        if not name.isalpha():
            raise FormulaError(f"a symbol is due, seen {name!r} in {' '.join(self.parts)!r}")
        name += f"_{accent}" * bool(accent)
        if self.parts[self.at : self.at + 4] == ["^", "{", r"\text{next}", "}"]:
            self.at += 4
            name += "_next"
        subscripts = self.subscripts() if self.peek() == "_" else []
        if subscripts and (f"{name}_{subscripts[0][0]}" in AXES or name == "J"):
            name += f"_{subscripts.pop(0)[0]}"
        self.spans.append((start, self.at))
        return name, gradient, subscripts

    def subscripts(self, binding: bool = False) -> list:
        """The indices below a symbol, each as its text and a function from the environment to its value."""
        self.take("_")
        if self.peek() != "{":
            return [self.index(binding, alone=True)]
        self.take("{")
        found = [self.index(binding)]
        while self.peek() == ",":
            self.take()
            found.append(self.index(binding))
        self.take("}")
        return found

    def index(self, binding: bool, alone: bool = False):
        text = self.take()
        if text.startswith(r"\text"):
            return text[6:-1], None
        if text == "y":  # a class as an index
            self.at -= 1
            name, gradient, subscripts = self.symbol()
            return "y", lambda env: int(look_up(env, name, gradient, subscripts))
        parts = [("+", text)]
        while not alone and self.peek() in ("+", "-"):
            parts.append((self.take(), self.take()))
        for _, n in parts:
            if n in ("t", "b", "j", "d", "m", "n", "q", "k") and not binding and n not in self.bound:
                self.free.add(n)

        def value(env):
            values = [env.get(n, env["point"].sizes.get(n, n)) for _, n in parts]
            if len(values) == 1 and not str(values[0]).isdigit():
                return values[0]  # a gate
            return sum((1 if sign == "+" else -1) * int(v) for (sign, _), v in zip(parts, values, strict=True))

        return "".join(n if sign == "+" and not k else sign + n for k, (sign, n) in enumerate(parts)), value


# --- looking up ---------------------------------------------------------------------------------------------------------


def softmax_of(inner):
    def value(env):
        powers = np.exp(inner(env))
        return powers / np.sum(powers)

    return value


def onehot_of(inner):
    return lambda env: np.array([[float(n == inner(env))] for n in env["point"].ranges["n"]])


def look_up(env: dict, name: str, gradient: bool, subscripts: list):
    """The number, column or matrix that a symbol stands for."""
    point = env["point"]
    if name.startswith("J"):
        return float(point.page["here"][name])
    if name not in AXES:
        raise FormulaError(f"no quantity is called {name!r}")
    values, first = point.array(name, gradient)
    given = list(subscripts)
    where: list = []
    for axis in AXES[name]:
        if given and given[0][0][0] in FITS[axis]:
            where.append(offset(point, axis, given.pop(0)[1](env), first, values.shape[len(where)]))
        elif axis == "b":
            where.append(env["b"] - 1)
        elif axis in "tk":
            raise FormulaError(f"{name} needs an index {axis}")
        else:
            where.append(slice(None))
    if given:
        raise FormulaError(f"{name} has no index {given[0][0]}")
    found = values[tuple(where)]
    return found[:, None] if found.ndim == 1 else found


def place(env: dict, name: str, kind: str, subscripts: list) -> tuple[str, tuple[int, ...]]:
    """A quantity's name on the page, its gate in it, and the position of one entry; `kind` is the quantity whose axes it has."""
    if name.startswith("J"):
        return name, ()
    axes = AXES.get(kind, "")
    if len(axes) != len(subscripts) or not all(text[0] in FITS[k] for k, (text, _) in zip(axes, subscripts, strict=True)):
        raise FormulaError(f"{kind} has no entry {', '.join(text for text, _ in subscripts)}")
    gate, where = "", []
    for axis, (_, index) in zip(axes, subscripts, strict=True):
        value = index(env)
        if axis == "k":
            gate = f"_{value}"
        else:
            where.append(offset(env["point"], axis, value, 1, env["point"].page["here"][name + gate].shape[len(where)]))
    return name + gate, tuple(where)


def offset(point: Point, axis: str, value, first: int, size: int) -> int:
    """Where the entry with that index lies on its axis."""
    if axis == "k":
        return point.page["GATES"].index(value)
    found = value - (first if axis == "t" else 1)
    if not 0 <= found < size:
        raise FormulaError(f"there is no {axis} = {value}")
    return found
