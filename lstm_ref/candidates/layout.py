"""Layout: how a candidate's arrays lie, as data, and the conversion both ways.

The harness converts textbook inputs into the candidate's layout and its gradients out of it, so nobody converts by
hand. This module and the framework adapters are the only places that know an order of gates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..reference.symbols import BIASES, GATES, WEIGHTS

JOINTS = ("hx", "xh", "split")
_GATE_KEYS = ("W", "W_x", "W_h", "b", "b_x", "b_h")
_PLAIN_KEYS = ("x", "h0", "c0", "h", "h_T", "c_T", "W_v", "b_v", "y", "w")


class LayoutError(ValueError):
    """A layout that says nothing consistent; the text says what was seen and what is due."""


@dataclass(frozen=True)
class Layout:
    """How weights, biases and time lie in a candidate's arrays.

    order         the four gates, as letters: i, f, o and g or c for the candidate cell state
    packed        the four gates in one array, in `order`, instead of four arrays
    interleaved   packed unit by unit (row 4j+k is gate k of unit j) instead of gate by gate
    joint         "hx" or "xh": one weight on [h, x] or [x, h]; "split": one for x and one for h
    transposed    weights are (inputs, units), for x W, instead of (units, inputs), for W x
    biases        1, or 2 that are added, or 0
    forget_bias   a constant that the candidate adds to the forget gate's pre-activation itself
    batch_first   x and h are (B, T, ·) instead of (T, B, ·); states stay (B, H)
    names         the candidate's name for each array: keys `x h0 c0 h h_T c_T W_v b_v y w`, and
                  `W`, `b` (joint) or `W_x`, `W_h` (split), `b_x`, `b_h` (two biases); a name of one gate's array
                  holds "{gate}", which stands for its letter in `order`
    """

    order: str = "fico"
    packed: bool = False
    interleaved: bool = False
    joint: str = "hx"
    transposed: bool = False
    biases: int = 1
    forget_bias: float = 0.0
    batch_first: bool = False
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if sorted(self.order.replace("g", "c")) != sorted(GATES):
            raise LayoutError(f"layout order is {self.order!r}; it must name the gates i, f, o and g or c once each, as in 'ifgo'")
        if self.joint not in JOINTS:
            raise LayoutError(f"layout joint is {self.joint!r}; it must be one of 'hx', 'xh' or 'split'")
        if self.biases not in (0, 1, 2):
            raise LayoutError(f"layout biases is {self.biases!r}; it must be 0, 1 or 2")
        if self.interleaved and not self.packed:
            raise LayoutError("layout is interleaved but not packed; only packed gates can be interleaved")
        known = {*_GATE_KEYS, *_PLAIN_KEYS}
        if unknown := set(self.names) - known:
            raise LayoutError(f"layout names has {sorted(unknown)}; it may hold {sorted(known)}")

    def name(self, key: str) -> str:
        default = key + "_{gate}" if key in _GATE_KEYS and not self.packed else key
        return self.names.get(key, default)

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """The weight and bias arrays, each with what it stands for."""
        weights = (("W_x", "x"), ("W_h", "h")) if self.joint == "split" else (("W", self.joint),)
        return weights + {0: (), 1: (("b", "b"),), 2: (("b_x", "b"), ("b_h", "b"))}[self.biases]


PRESETS = {
    "textbook": Layout(),
    "torch": Layout(
        order="ifgo",
        packed=True,
        joint="split",
        biases=2,
        names={"W_x": "weight_ih_l0", "W_h": "weight_hh_l0", "b_x": "bias_ih_l0", "b_h": "bias_hh_l0"},
    ),
    "keras": Layout(
        order="ifco",
        packed=True,
        joint="split",
        transposed=True,
        batch_first=True,
        names={"W_x": "kernel", "W_h": "recurrent_kernel", "b": "bias"},
    ),
}


def resolve(layout) -> Layout:
    """A Layout from what a candidate declares: nothing, a preset's name, a dict of fields, or a Layout."""
    if layout is None:
        return PRESETS["textbook"]
    if isinstance(layout, Layout):
        return layout
    if isinstance(layout, dict):
        try:
            return Layout(**layout)
        except TypeError as error:
            fields = ", ".join(Layout.__dataclass_fields__)
            raise LayoutError(f"layout {layout!r} is not understood ({error}); its fields are {fields}") from None
    if isinstance(layout, str) and layout in PRESETS:
        return PRESETS[layout]
    raise LayoutError(f"layout is {layout!r}; it must be one of {', '.join(map(repr, PRESETS))}, a dict of fields or a Layout")


def encode(layout: Layout, inputs: dict, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Textbook inputs as the candidate's arrays, rounded to `dtype` (complex values stay complex)."""
    H = inputs["h0"].shape[-1]
    user = {layout.name(k): _time(layout, inputs[k]) for k in ("x",)}
    user |= {layout.name(k): inputs[k] for k in ("h0", "c0")}
    for key, part in layout.parts:
        blocks = {k: _part(inputs[f"W_{k}"], part, H) for k in GATES} if part != "b" else _biases(layout, inputs)
        user |= _join(layout, key, blocks)
    for k in ("W_v", "b_v"):
        if k in inputs:
            user[layout.name(k)] = inputs[k]
    user = {k: np.array(v if np.iscomplexobj(v) else v.astype(dtype), order="C") for k, v in user.items()}
    if "y" in inputs:
        user[layout.name("y")] = np.array(_time(layout, inputs["y"]))
        user[layout.name("w")] = np.array(_time(layout, inputs["w"]).astype(dtype))
    return user


def effective(layout: Layout, inputs: dict, dtype: np.dtype) -> dict[str, np.ndarray]:
    """The textbook inputs that the candidate really computes with: `inputs` but for what conversion cannot keep."""
    inputs = dict(inputs)
    if layout.forget_bias:
        stored = (inputs["b_f"] - layout.forget_bias).astype(dtype).astype(np.float64)
        inputs["b_f"] = stored + layout.forget_bias
    if layout.biases == 0:
        inputs |= {k: np.full_like(inputs[k], layout.forget_bias if k == "b_f" else 0.0) for k in BIASES}
    return inputs


def encode_by_time(layout: Layout, arrays: dict, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Cotangents or taps, keyed as outputs, as the candidate's arrays."""
    return {layout.name(k): np.array((_time(layout, v) if v.ndim == 3 else v).astype(dtype), order="C") for k, v in arrays.items()}


def decode(layout: Layout, user: dict, key_shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The candidate's arrays, of known right shapes, as textbook arrays; the second of two biases is `b_f.second`.

    `key_shapes` holds the textbook shapes of everything that may be there; what is absent stays absent.
    """
    if layout == PRESETS["textbook"]:
        return dict(user)
    H = key_shapes["h0"][-1]
    found: dict[str, np.ndarray] = {}
    for key in key_shapes:
        name = layout.name(key) if key not in (*WEIGHTS, *BIASES) else None
        if name is not None and name in user:
            found[key] = _time(layout, user[name]) if len(key_shapes[key]) == 3 else user[name]
    pieces: dict[str, dict[str, np.ndarray]] = {}
    for key, part in layout.parts:
        for k, block in _split(layout, key, user).items():
            if part != "b":
                pieces.setdefault(k, {})[part] = block
            else:
                found[f"b_{k}.second" if key == "b_h" else f"b_{k}"] = block
    for k, piece in pieces.items():
        if "hx" in piece:
            found[f"W_{k}"] = piece["hx"]
        elif "xh" in piece:
            D = piece["xh"].shape[-1] - H
            found[f"W_{k}"] = np.concatenate([piece["xh"][:, D:], piece["xh"][:, :D]], axis=-1)
        elif "x" in piece and "h" in piece:
            found[f"W_{k}"] = np.concatenate([piece["h"], piece["x"]], axis=-1)
    return found


def blocks_in(layout: Layout, name: str) -> tuple[str, ...]:
    """The textbook blocks that the candidate's array `name` holds, for messages about it."""
    for key, part in layout.parts:
        kind = "b" if part == "b" else "W"
        for letter in layout.order:
            if layout.name(key).replace("{gate}", letter) == name:
                gates = GATES if layout.packed else (_gate(letter),)
                return tuple(f"{kind}_{k}" for k in gates)
    for key in _PLAIN_KEYS:
        if layout.name(key) == name:
            return (key,)
    return (name,)


def _gate(letter: str) -> str:
    return "c" if letter == "g" else letter


def _time(layout: Layout, q: np.ndarray) -> np.ndarray:
    return np.swapaxes(q, 0, 1) if layout.batch_first else q


def _part(W: np.ndarray, part: str, H: int) -> np.ndarray:
    h, x = W[:, :H], W[:, H:]
    return {"hx": W, "xh": np.concatenate([x, h], axis=-1), "x": x, "h": h}[part]


def _biases(layout: Layout, inputs: dict) -> dict[str, np.ndarray]:
    share = 1 / layout.biases  # halves are exact
    return {k: (inputs[f"b_{k}"] - (layout.forget_bias if k == "f" else 0.0)) * share for k in GATES}


def _join(layout: Layout, key: str, blocks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    ordered = [blocks[_gate(letter)] for letter in layout.order]
    if not layout.packed:
        names = [layout.name(key).replace("{gate}", letter) for letter in layout.order]
        return {n: b.T if layout.transposed else b for n, b in zip(names, ordered, strict=True)}
    joined = np.stack(ordered, axis=1 if layout.interleaved else 0)
    joined = joined.reshape(-1, *joined.shape[2:])
    return {layout.name(key): joined.T if layout.transposed else joined}


def _split(layout: Layout, key: str, user: dict) -> dict[str, np.ndarray]:
    if not layout.packed:
        names = {_gate(letter): layout.name(key).replace("{gate}", letter) for letter in layout.order}
        return {k: user[n].T if layout.transposed else user[n] for k, n in names.items() if n in user}
    if layout.name(key) not in user:
        return {}
    joined = user[layout.name(key)]
    joined = joined.T if layout.transposed else joined
    if layout.interleaved:
        return {_gate(letter): joined[n::4] for n, letter in enumerate(layout.order)}
    H = joined.shape[0] // 4
    return {_gate(letter): joined[n * H : (n + 1) * H] for n, letter in enumerate(layout.order)}
