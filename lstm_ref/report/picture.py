"""Picture: the backward graph of the LSTM cell as boxes and lines, one line for every edge of diagnosis, and what to mark on it.

Time runs to the right, so gradients come in from the right (t+1) and leave to the left (t−1); within the step they run downwards.
"""

from __future__ import annotations

from typing import NamedTuple

from ..diagnosis.edges import EDGES, GROUPS, HEAD_EDGES, HEAD_GROUPS
from ..reference.symbols import GATES

WIDTH, HEIGHT = 400, 566
COLUMNS = {"f": 52, "i": 141, "c": 230, "o": 319}
Point = tuple[float, float]


class Box(NamedTuple):
    """A quantity: the middle of its box, half its width, and its label. `gradient` is the contract's name of what it holds,
    where it is what a candidate returns."""

    x: float
    y: float
    half: float
    label: str
    gradient: str = ""


def _boxes() -> dict[str, Box]:
    boxes = {
        "dv": Box(52, 46, 20, "dv"),
        "dW_v": Box(28, 98, 22, "dW_v", "W_v"),
        "db_v": Box(80, 98, 22, "db_v", "b_v"),
        "s": Box(180, 46, 18, "s"),
        "s_h": Box(352, 62, 20, "s_h"),
        "dh_next": Box(352, 112, 30, "dh_next"),
        "dh": Box(236, 112, 20, "dh"),
        "dc_next": Box(352, 186, 30, "dc_next"),
        "s_c": Box(352, 234, 20, "s_c"),
        "dc": Box(141, 186, 20, "dc"),
        "dc_prev": Box(44, 186, 30, "dc_prev"),
        "dc0": Box(44, 146, 20, "dc0", "c0"),
        "dx": Box(372, 470, 20, "dx", "x"),
        "dh_prev": Box(60, 540, 32, "dh_prev"),
        "dh0": Box(160, 540, 22, "dh0", "h0"),
    }
    for k, x in COLUMNS.items():
        gate = "dc_tilde" if k == "c" else f"d{k}"
        boxes[gate] = Box(x, 286, 22, "dc̃" if k == "c" else gate)
        boxes[f"da_{k}"] = Box(x, 346, 22, f"da_{k}")
        boxes[f"dW_{k}"] = Box(x - 24, 408, 19, f"dW_{k}", f"W_{k}")
        boxes[f"db_{k}"] = Box(x + 24, 408, 19, f"db_{k}", f"b_{k}")
    return boxes


BOXES = _boxes()


def _lines() -> dict[str, tuple[Point, ...]]:
    """The corners of the line of every edge, in the direction in which gradients flow."""
    lines: dict[str, tuple[Point, ...]] = {
        "dv": ((52, 10), (52, 32)),
        "dW_v": ((46, 60), (32, 84)),
        "db_v": ((58, 60), (74, 84)),
        "dh<-dv": ((73, 50), (215, 104)),
        "dh<-s": ((190, 60), (222, 97)),
        "dh<-s_h": ((331, 66), (258, 103)),
        "dh<-dh_next": ((321, 112), (258, 112)),
        "dc<-dh": ((219, 127), (163, 175)),
        "dc<-dc_next": ((321, 186), (163, 186)),
        "dc<-s_c": ((331, 230), (163, 196)),
        "dc_next": ((120, 186), (76, 186)),
        "dc0": ((44, 172), (44, 161)),
        "df": ((126, 201), (66, 270)),
        "di": ((141, 201), (141, 270)),
        "dc_tilde": ((157, 201), (216, 270)),
        "do": ((246, 127), (312, 270)),
        "dh0": ((93, 540), (136, 540)),
    }
    for k, x in COLUMNS.items():
        lines[f"da_{k}"] = ((x, 301), (x, 331))
        lines[f"dW_{k}"] = ((x - 11, 361), (x - 22, 393))
        lines[f"db_{k}"] = ((x + 11, 361), (x + 22, 393))
        lines[f"dx<-da_{k}"] = ((x + 2.5, 361), (x + 2.5, 470), (350, 470))
        lines[f"dh_next<-da_{k}"] = ((x - 2.5, 361), (x - 2.5, 504), (60, 504), (60, 525))
    return lines


LINES = _lines()
MEMBERS = {e.id: e.members or (e.id,) for e in (*EDGES, *HEAD_EDGES, *GROUPS, *HEAD_GROUPS)}
WORDS = {e.id: e for e in (*EDGES, *HEAD_EDGES)}
_ELSEWHERE = {  # equations that are no edge's label, and the edges that their terms are on
    "B:split": tuple(k for k in LINES if "<-da_" in k),
    "F:loss": ("dh<-s", "dh<-s_h", "dc<-s_c", "dv"),
    "F:softmax": ("dv",),
    "F:logits": ("dh<-dv", "dW_v", "db_v"),
    "F:hidden": ("do", "dc<-dh"),
    "F:cell": ("df", "di", "dc_tilde", "dc_next"),
    "F:gates": tuple(f"da_{k}" for k in GATES),
    "F:preact": tuple(k for k in LINES if "<-da_" in k) + tuple(f"d{p}_{k}" for p in "Wb" for k in GATES),
    "F:concat": tuple(k for k in LINES if "<-da_" in k),
}
QUANTITY_BOX = {"h": "dh", "c": "dc", "c_tilde": "dc_tilde", "z": "dx"}


def edges_of(label: str) -> tuple[str, ...]:
    """The edges on which the terms of an equation lie."""
    return tuple(e.id for e in WORDS.values() if e.label == label) or _ELSEWHERE.get(label, ())


def box_of(quantity: str) -> str:
    """The box of an intermediate gradient, such as "a_f" or "c_tilde"."""
    return QUANTITY_BOX.get(quantity, f"d{quantity}")


def middle(points: tuple[Point, ...]) -> Point:
    """Where a mark on a line is put: the middle of it, or of the end of its first part, which no other line shares."""
    (x0, y0), (x1, y1) = points[:2]
    return ((x0 + x1) / 2, (y0 + y1) / 2) if len(points) == 2 else (x1, y1 - 19)


def marked(explanation: dict | None) -> dict[str, list[str]]:
    """What to mark, from the explanation in a report: `guilty` edges, `maybe` (in other explanations that cannot be told from the
    first, or anywhere in a named equation), the boxes that are `wrong` and the box `first` in backward order, if known."""
    told: dict[str, list[str]] = {"guilty": [], "maybe": [], "wrong": [], "first": []}
    if explanation is None:
        return told
    for n, fit in enumerate(explanation["fits"]):
        for edge in fit["edges"]:
            told["maybe" if n else "guilty"] += MEMBERS.get(edge["id"], ())
    told["wrong"] = [k for k, box in BOXES.items() if box.gradient in explanation["failing"]]
    for name in explanation["names"]:
        for equation in name["equation"].split(" and "):
            there = edges_of(equation)
            if equation in ("B:weights", "B:biases"):  # of the sums over time and batch, those that come out wrong
                there = tuple(k for k in told["wrong"] if k[:3] in ("dW_", "db_") and k in LINES) or there
            told["maybe"] += there
    if explanation["location"] and explanation["location"]["first"]:
        told["first"] = [box_of(explanation["location"]["first"][0])]
    told["maybe"] = [k for k in dict.fromkeys(told["maybe"]) if k not in told["guilty"]]
    return {k: list(dict.fromkeys(v)) for k, v in told.items()}
