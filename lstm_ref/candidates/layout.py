"""Layout: how a candidate's arrays lie, as data, and the conversion both ways.

The harness converts textbook inputs into the candidate's layout and its gradients out of it, so nobody converts by
hand. This module and the framework adapters are the only places that know an order of gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..reference.symbols import GATES
from ..reference.variant import DATA, plain

JOINTS = ("hx", "xh", "split")
_GATE_KEYS = ("W", "W_x", "W_h", "b", "b_x", "b_h", "p", "gain")
_STATES = ("h0", "c0", "h_T", "c_T")
_PLAIN_KEYS = ("x", "h", *_STATES, "W_r", "W_v", "b_v", "y", "w", *DATA)
_BY_GATE = tuple(f"{kind}_{k}" for kind in ("W", "b", "p", "gain") for k in GATES)


class LayoutError(ValueError):
    """A layout that says nothing consistent; the text says what was seen and what is due."""


@dataclass(frozen=True)
class Layout:
    """How weights, biases and time lie in a candidate's arrays.

    order         the four gates, as letters: i, f, o and g or c for the candidate cell state; gates without arrays are passed over
    packed        the four gates in one array, in `order`, instead of four arrays
    interleaved   packed unit by unit (row 4j+k is gate k of unit j) instead of gate by gate
    joint         "hx" or "xh": one weight on [h, x] or [x, h]; "split": one for x and one for h
    transposed    weights are (inputs, units), for x W, instead of (units, inputs), for W x; W_v stays (K, H)
    biases        1, or 2 that are added, or 0
    forget_bias   a constant that the candidate adds to the forget gate's pre-activation itself
    batch_first   x and h are (B, T, ·) instead of (T, B, ·); states stay (B, H)
    names         the candidate's name for each array: keys `x h0 c0 h h_T c_T W_v b_v y w`, and
                  `W`, `b` (joint) or `W_x`, `W_h` (split), `b_x`, `b_h` (two biases); a name of one gate's array
                  holds "{gate}", which stands for its letter in `order`, or for what `gates` says. Of a variant also `p` (peepholes),
                  `gain`, `W_r`, `mask`, `lengths`, `zone_h`, `zone_c`, `drop_x`, `drop_h`, `drop_c_tilde`. With several layers
                  "{layer}" stands for the layer, counted from 0, else `_l0` is appended; the reverse direction appends `_reverse`, unless
                  "{direction}" stands for what `directions` says, after which `_l1` and so on are appended to later layers alone
    gates         what "{gate}" stands for, by letter, as in {"f": "forget_gate", "i": "input_gate"}
    directions    what "{direction}" stands for, as in {"forward": "fw", "reverse": "bw"}
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
    gates: dict[str, str] = field(default_factory=dict)
    directions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if sorted(self.order.replace("g", "c")) != sorted(GATES):
            due = "it must name the gates i, f, o and g or c once each, as in 'ifgo'"
            coupled = len(self.order) == 3 and set(self.order.replace("g", "c")) < set(GATES)
            due += "; a coupled gate that has no arrays stands in it too, anywhere: it is passed over" if coupled else ""
            raise LayoutError(f"layout order is {self.order!r}; {due}")
        if self.joint not in JOINTS:
            raise LayoutError(f"layout joint is {self.joint!r}; it must be one of 'hx', 'xh' or 'split'")
        if self.biases not in (0, 1, 2):
            raise LayoutError(f"layout biases is {self.biases!r}; it must be 0, 1 or 2")
        if self.interleaved and not self.packed:
            raise LayoutError("layout is interleaved but not packed; only packed gates can be interleaved")
        known = {*_GATE_KEYS, *_PLAIN_KEYS}
        if unknown := set(self.names) - known:
            raise LayoutError(f"layout names has {sorted(unknown)}; it may hold {sorted(known)}")
        if unknown := set(self.gates) - set(self.order):
            raise LayoutError(f"layout gates has {sorted(unknown)}; its keys are the letters of the order {self.order!r}")
        if unknown := set(self.directions) - {"forward", "reverse"}:
            raise LayoutError(f"layout directions has {sorted(unknown)}; its keys are 'forward' and 'reverse'")
        one, other = (self.directions.get(k, k) for k in ("forward", "reverse"))
        if one == other:
            raise LayoutError(f"layout directions calls both of them {one!r}; each needs a name of its own")

    def name(self, key: str, suffix: str = "") -> str:
        """The candidate's name of an array, in the place that the suffix of a textbook key stands for."""
        name = self.template(key)
        if not suffix and "{layer}" not in name and "{direction}" not in name:
            return name
        layer, _, reverse = suffix.removeprefix(".l").partition(".")
        layer, direction = layer or "0", reverse or "forward"
        if "{direction}" in name:
            name, reverse = name.replace("{direction}", self.directions.get(direction, direction)), ""
            name += f"_l{layer}" if layer != "0" and "{layer}" not in name else ""
        elif "{layer}" not in name:
            name += f"_l{layer}"
        return name.replace("{layer}", layer) + (f"_{reverse}" if reverse else "")

    def template(self, key: str) -> str:
        """The name with its {gate}, {layer} and {direction}, as declared."""
        return self.names.get(key, key + "_{gate}" if key in _GATE_KEYS and not self.packed else key)

    def gated(self, name: str, letter: str) -> str:
        """A name with what stands for the gate of a letter in the place of {gate}."""
        return name.replace("{gate}", self.gates.get(letter, letter))

    def name_of(self, key: str) -> str:
        """The candidate's name of a textbook array that no gate shares, "W_r.l1" say."""
        return self.name(plain(key), key[len(plain(key)) :])

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
        names={
            "W_x": "weight_ih_l{layer}",
            "W_h": "weight_hh_l{layer}",
            "b_x": "bias_ih_l{layer}",
            "b_h": "bias_hh_l{layer}",
            "W_r": "weight_hr_l{layer}",
        },
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
    """A Layout from what a candidate declares: nothing, a preset's name, a dict of fields, or a Layout. Raises LayoutError."""
    if layout is None:
        return PRESETS["textbook"]
    if isinstance(layout, Layout):
        return _told_apart(layout)
    if isinstance(layout, dict):
        try:
            return _told_apart(Layout(**layout))
        except TypeError as error:
            fields = ", ".join(Layout.__dataclass_fields__)
            raise LayoutError(f"layout {layout!r} is not understood ({error}); its fields are {fields}") from None
    if isinstance(layout, str) and layout in PRESETS:
        return PRESETS[layout]
    raise LayoutError(f"layout is {layout!r}; it must be one of {', '.join(map(repr, PRESETS))}, a dict of fields or a Layout")


def _told_apart(layout: Layout) -> Layout:
    """The layout, if no two arrays that a candidate is given have one name in it."""
    given: dict[str, str] = {}
    for key in ("x", "h0", "c0", *(key for key, _ in layout.parts)):
        for letter in layout.order if key in _GATE_KEYS and not layout.packed else "-":
            name, of = layout.gated(layout.template(key), letter), key if letter == "-" else f"{key} of gate {letter}"
            if name in given:
                raise LayoutError(f"layout gives the name {name!r} to {given[name]} and to {of}; each array needs a name of its own")
            given[name] = of
    return layout


def encode(layout: Layout, inputs: dict, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Textbook inputs as the candidate's arrays, rounded to `dtype` (complex values stay complex, whole numbers whole)."""
    if layout == PRESETS["textbook"] and _suffixes(inputs) == ("",):
        return {k: np.array(v, None if v.dtype.kind in "ci" else dtype, order="C") for k, v in inputs.items()}
    P = inputs["h0"].shape[-1]
    user = {layout.name("x"): _time(layout, "x", inputs["x"])}
    user |= {layout.name(k): inputs[k] for k in ("h0", "c0")}
    for suffix in _suffixes(inputs):
        for key, part in layout.parts:
            kind = "b" if part == "b" else "W"
            blocks = {k: inputs[f"{kind}_{k}{suffix}"] for k in GATES if f"{kind}_{k}{suffix}" in inputs}
            blocks = _biases(layout, blocks) if part == "b" else {k: _part(W, part, P) for k, W in blocks.items()}
            user |= _join(layout, key, blocks, suffix)
        for key in ("p", "gain"):
            blocks = {k: inputs[f"{key}_{k}{suffix}"] for k in GATES if f"{key}_{k}{suffix}" in inputs}
            user |= _join(layout, key, blocks, suffix) if blocks else {}
        if f"W_r{suffix}" in inputs:
            W_r = inputs[f"W_r{suffix}"]
            user[layout.name("W_r", suffix)] = W_r.T if layout.transposed else W_r
    for k in ("W_v", "b_v"):
        if k in inputs:
            user[layout.name(k)] = inputs[k]
    user = {k: np.array(v, None if v.dtype.kind == "c" else dtype, order="C") for k, v in user.items()}
    for k in ("y", "w", *DATA):
        if k in inputs:
            whole = inputs[k].dtype.kind == "i"
            user[layout.name(k)] = np.array(_time(layout, k, inputs[k]).astype(inputs[k].dtype if whole else dtype))
    return user


def effective(layout: Layout, inputs: dict, dtype: np.dtype) -> dict[str, np.ndarray]:
    """The textbook inputs that the candidate really computes with: `inputs` but for what conversion cannot keep."""
    inputs = dict(inputs)
    for k in [k for k in inputs if plain(k)[:2] == "b_" and plain(k) != "b_v"]:
        constant = layout.forget_bias if plain(k) == "b_f" else 0.0
        if layout.biases == 0:
            inputs[k] = np.full_like(inputs[k], constant)
        elif constant:
            stored = (inputs[k] - constant).astype(dtype).astype(np.float64)
            inputs[k] = stored + constant
    return inputs


def encode_by_time(layout: Layout, arrays: dict, dtype: np.dtype) -> dict[str, np.ndarray]:
    """Cotangents or taps, keyed as outputs, as the candidate's arrays."""
    return {layout.name(k): np.array(_time(layout, k, v), dtype, order="C") for k, v in arrays.items()}


def decode(layout: Layout, user: dict, key_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The candidate's arrays, of known right shapes, as textbook arrays; the second of two biases is `b_f.second`.

    `key_shapes` holds the textbook shapes of everything that may be there; what is absent stays absent.
    """
    suffixes = _suffixes(key_shapes)
    if layout == PRESETS["textbook"] and suffixes in ((), ("",)):
        return dict(user)
    found: dict[str, np.ndarray] = {}
    for key in key_shapes:
        if plain(key) in _BY_GATE or (name := layout.name_of(key)) not in user:
            continue
        found[key] = user[name].T if plain(key) == "W_r" and layout.transposed else _time(layout, key, user[name])
    for suffix in suffixes:
        pieces: dict[str, dict[str, np.ndarray]] = {}
        for key, part in (*layout.parts, ("p", "p"), ("gain", "gain")):
            kind = part if part in ("b", "p", "gain") else "W"
            gates = [k for k in GATES if f"{kind}_{k}{suffix}" in key_shapes]
            for k, block in _split(layout, key, user, gates, suffix).items():
                if kind == "W":
                    pieces.setdefault(k, {})[part] = block
                else:
                    found[f"{kind}_{k}{suffix}" + (".second" if key == "b_h" else "")] = block
        for k, piece in pieces.items():
            if "hx" in piece:
                found[f"W_{k}{suffix}"] = piece["hx"]
            elif "xh" in piece:
                D = piece["xh"].shape[-1] - key_shapes["h0"][-1]
                found[f"W_{k}{suffix}"] = np.concatenate([piece["xh"][:, D:], piece["xh"][:, :D]], axis=-1)
            elif "x" in piece and "h" in piece:
                found[f"W_{k}{suffix}"] = np.concatenate([piece["h"], piece["x"]], axis=-1)
    return found


def blocks_in(layout: Layout, name: str, keys) -> tuple[str, ...]:
    """The textbook blocks, of those of `keys`, that the candidate's array `name` holds, for messages about it."""
    for suffix in _suffixes(keys):
        for key, part in (*layout.parts, ("p", "p"), ("gain", "gain")):
            kind = part if part in ("b", "p", "gain") else "W"
            for letter in layout.order:
                if layout.gated(layout.name(key, suffix), letter) == name:
                    gates = GATES if layout.packed else (_gate(letter),)
                    return tuple(f"{kind}_{k}{suffix}" for k in gates if f"{kind}_{k}{suffix}" in keys)
    return tuple(key for key in keys if plain(key) not in _BY_GATE and layout.name_of(key) == name) or (name,)


def _suffixes(keys) -> tuple[str, ...]:
    """The places that textbook keys belong to: every one has weights of the candidate cell state."""
    return ("",) if "W_c" in keys else tuple(k[len("W_c") :] for k in keys if k[:3] == "W_c")


def _gate(letter: str) -> str:
    return "c" if letter == "g" else letter


def _time(layout: Layout, key: str, q: np.ndarray) -> np.ndarray:
    """Time and batch exchanged where the candidate has the batch first, in arrays that have both."""
    both = key in ("y", "w", "mask") or (q.ndim == 3 and key not in _STATES)
    return np.swapaxes(q, 0, 1) if layout.batch_first and both else q


def _part(W: np.ndarray, part: str, H: int) -> np.ndarray:
    h, x = W[:, :H], W[:, H:]
    return {"hx": W, "xh": np.concatenate([x, h], axis=-1), "x": x, "h": h}[part]


def _biases(layout: Layout, blocks: dict) -> dict[str, np.ndarray]:
    share = 1 / layout.biases  # halves are exact
    return {k: (b - (layout.forget_bias if k == "f" else 0.0)) * share for k, b in blocks.items()}


def _join(layout: Layout, key: str, blocks: dict[str, np.ndarray], suffix: str) -> dict[str, np.ndarray]:
    letters = [letter for letter in layout.order if _gate(letter) in blocks]
    ordered, name = [blocks[_gate(letter)] for letter in letters], layout.name(key, suffix)
    if not layout.packed:
        names = [layout.gated(name, letter) for letter in letters]
        return {n: b.T if layout.transposed else b for n, b in zip(names, ordered, strict=True)}
    joined = np.stack(ordered, axis=1 if layout.interleaved else 0)
    joined = joined.reshape(-1, *joined.shape[2:])
    return {name: joined.T if layout.transposed else joined}


def _split(layout: Layout, key: str, user: dict, gates: list[str], suffix: str) -> dict[str, np.ndarray]:
    letters, name = [letter for letter in layout.order if _gate(letter) in gates], layout.name(key, suffix)
    if not layout.packed:
        names = {_gate(letter): layout.gated(name, letter) for letter in letters}
        return {k: user[n].T if layout.transposed else user[n] for k, n in names.items() if n in user}
    if name not in user or not letters:
        return {}
    joined = user[name]
    joined = joined.T if layout.transposed else joined
    if layout.interleaved:
        return {_gate(letter): joined[n :: len(letters)] for n, letter in enumerate(letters)}
    H = joined.shape[0] // len(letters)
    return {_gate(letter): joined[n * H : (n + 1) * H] for n, letter in enumerate(letters)}
