"""Matching: which arrays of a layout the parameters of a module are, by their names, else by their shapes.

What is known of a module is the shape of each of its parameters by name; no framework is needed for that.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from ..reference.symbols import Sizes
from ..reference.variant import TEXTBOOK, Variant
from .layout import Layout, LayoutError, encode

Shapes = dict[str, tuple[int, ...]]


def matched(layout: Layout, variant: Variant, sizes: tuple[int, int], shapes: Shapes, declared: bool) -> Layout:
    """The layout with the names of a module's parameters, whose shapes are those at the sizes (D, H).

    Their names are the layout's, perhaps each behind the same prefix, as in "rnn.weight_ih_l0". Where the layout is not
    `declared`, a module without biases is seen to have none, and the parameters of an LSTM with the textbook's arrays may have any
    names. Raises LayoutError.
    """
    if not declared and not any(len(shape) == 1 for shape in shapes.values()):
        layout = dataclasses.replace(layout, biases=0)
    every = variant.shapes(Sizes(1, 1, *sizes))
    given = encode(layout, {k: np.zeros(every[k]) for k in variant.inputs}, np.dtype(float))
    wanted = [k for k in given if k not in map(layout.name, ("x", "h0", "c0"))]
    if set(wanted) == set(shapes):
        _agreed({k: given[k].shape for k in wanted}, shapes, sizes)
        return layout
    prefixes = {k[: -len(w)] for w in wanted for k in shapes if k.endswith(f".{w}")}
    if len(prefixes) == 1 and (prefix := prefixes.pop()) and {prefix + w for w in wanted} == set(shapes):
        _agreed({prefix + k: given[k].shape for k in wanted}, shapes, sizes)
        keys = (*(key for key, _ in layout.parts), "p", "gain", "W_r")
        return dataclasses.replace(layout, names={**layout.names, **{k: prefix + layout.template(k) for k in keys}})
    if not declared and set(variant.parameters) == set(TEXTBOOK.parameters):
        return _by_shape(layout, sizes, shapes)
    said = "the layout that it declares names" if declared else "it declares no layout, and that of its framework, with this variant, names"
    absent, empty = [k for k in wanted if k not in shapes], [k for k in shapes if k not in wanted]
    wrong = [f"there is no {', '.join(absent)}"] * bool(absent) + [f"nothing is put into {', '.join(empty)}"] * bool(empty)
    raise LayoutError(f"the module's parameters are {_listed(shapes)}; {said} {', '.join(wanted)}: {', and '.join(wrong)}")


def _agreed(due: Shapes, shapes: Shapes, sizes: tuple[int, int]) -> None:
    """Parameters that have an LSTM's names have its shapes, too: a GRU's have not."""
    if wrong := [k for k in due if due[k] != shapes[k]]:
        k, (D, H) = wrong[0], sizes
        raise LayoutError(f"the module's {k} is {shapes[k]} for D = {D}, H = {H}; {due[k]} is due, for an LSTM's four gates")


def _by_shape(layout: Layout, sizes: tuple[int, int], shapes: Shapes) -> Layout:
    D, H = sizes
    roles: dict[str, set[tuple[int, ...]]] = {"W_x": {(4 * H, D), (D, 4 * H)}, "W_h": {(4 * H, H), (H, 4 * H)}, "b": {(4 * H,)}}
    found = {role: [k for k, s in shapes.items() if s in due] for role, due in roles.items()}
    if len(found["W_x"]) == len(found["W_h"]) == 1 and len(found["b"]) <= 2 and sum(map(len, found.values())) == len(shapes):
        names = {"W_x": found["W_x"][0], "W_h": found["W_h"][0]}
        names |= dict(zip(("b",) if len(found["b"]) == 1 else ("b_x", "b_h"), found["b"], strict=False))
        transposed = shapes[names["W_h"]] == (H, 4 * H)
        return dataclasses.replace(layout, packed=True, joint="split", transposed=transposed, biases=len(found["b"]), names=names)
    raise LayoutError(f"the module's parameters are {_listed(shapes)} for D = {D}, H = {H}; {_to_declare(sizes, shapes)}")


def _to_declare(sizes: tuple[int, int], shapes: Shapes) -> str:
    """What a class with such parameters may declare, in words."""
    D, H = sizes
    if several := _of_torch(shapes):
        return f"declare variant = {several} in the class, or give it a `layout` that names them"
    joint = any(sorted(s) == sorted(axes) for s in shapes.values() for axes in ((D + H, 4 * H), (D + H, H)))
    if sum(sorted(s) in (sorted((D + H, H)), sorted((D, H))) for s in shapes.values()) > 2:
        names = "{'W': '{gate}.weight', 'b': '{gate}.bias'}" if joint else "{'W_x': 'x_{gate}.weight', 'W_h': …, 'b': …}"
        gates = "gates={'f': 'forget_gate', 'i': …, 'g': …, 'o': …}"
        told = f"as in layout = dict(order='figo', joint='{'hx' if joint else 'split'}', {gates}, names={names})"
        told += ", where {gate} stands for what gates says, else for the letter"
    else:
        one = "joint='hx', biases=1, names={'W': …, 'b': …}" if joint else "joint='split', biases=1, names={'W_x': …, 'W_h': …, 'b': …}"
        told = f"as in layout = dict(order='ifgo', packed=True, {one})"
    return f"give the class a `layout` that names them, {told}" + (", with 'xh' for a weight on [x, h]" if joint else "")


def _of_torch(shapes: Shapes) -> dict[str, int | str]:
    """The variant that names like torch.nn.LSTM's speak of: several layers, both directions, a projection."""
    layers = [int(found[1]) for k in shapes if (found := re.search(r"weight_hh_l(\d+)", k))]
    projections = [s[0] for k, s in shapes.items() if k.endswith("weight_hr_l0")]
    said = {
        "layers": max(layers, default=0) + 1,
        "direction": "both" if any(k.endswith("weight_hh_l0_reverse") for k in shapes) else "forward",
        "projection": projections[0] if projections else 0,
    }
    return {k: v for k, v in said.items() if v not in (1, "forward", 0)}


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{k} {s}" for k, s in shapes.items()) or "none"
