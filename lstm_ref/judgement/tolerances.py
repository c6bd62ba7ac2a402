"""Tolerances: how large an error rounding alone can make in every entry of every quantity of one case.

    tolerance = κ · u · C

u is the unit roundoff of the dtype. C, the condition, is measured per entry for the very case: the forward and
the written-out backward pass run in float64 once clean and 16 times with noise q → q + η·g(n)·ξ·max(A, m) at every
stored q. A is |q|, for a sum of n terms Σ|terms|; g(n) = max(1, n/κ) grants each sum its own a-priori bound;
ξ = ±U[½, 1]; m is the smallest normal number over u, since flushing to zero is legal.

This is the only module with tolerance literals. Each was measured; the `calibrate` command reproduces the measurement.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from types import SimpleNamespace
from typing import NamedTuple

import ml_dtypes
import numpy as np
from threadpoolctl import ThreadpoolController

from ..reference import backward, forward, objectives, rewrite
from ..reference.arrays import Gates
from ..reference.symbols import GATES
from ..reference.variant import TEXTBOOK, Variant
from ..truth import variants

KAPPA = 16  # largest error/(u·C) seen on correct LSTMs is 5; a search for the worst noise seed reaches 13.6
RMS_LIMIT = 4  # of error/(u·C) over a block; correct LSTMs stay under 1.7
RMS_ENTRIES = 16  # blocks smaller than this have no meaningful rms
BLOCK_SHARE = 0.01  # of the block's largest condition is granted to every entry of it
LARGEST_NOISE = 2.0**-42  # float64 noise is lifted above the rounding of the noisy run itself
RANGE_SHARE = 1 / 16  # a value above this share of the dtype's largest number may overflow in another order of operations
CURVATURE = 0.05  # |g₊ + g₋ − 2g| over |g₊ − g₋| above which first order no longer holds ...
CURVATURE_MATTERS = 0.3  # ... and matters, when the noise reaches this share of the block
DIFFERENCE_BOUND = 3  # textbook error bounds of differences cover the truth 23-97 % of the time; three times them does
KINK_BOUND = 30  # of differences beside kinks: with 3, 843 of 15,000 J with five kinks lie outside in float32, with 30 it is 24
BENT = 32  # C·h over the gradient above which J bends within a step h: under 8 wherever differences resolve, over 90 in chaos
EXPLANATION_NEAR = 4  # tolerances that a diagnosis may be off by: it sums in another order than the candidate it explains
GAIN_SETTLED = 1e-5  # fitted gains nearer than this to each other, or to a value people get by mistake, are equal
GAIN_NEAR_ONE = 0.01  # ... and those nearer to 1 than that are where they agree to this share of what they are off: 2.2e-4 at 1e-12
LOOK_ALIKE = (1 / 64, 4)  # median error/(u₃₂·|g|) between these looks like arithmetic in the lower precision
MOVED = 2  # unit roundoffs of the lower precision by which everything is moved: its rounding errors are new ones then ...
SAME_ERROR = 0.2  # ... and change by more than this share of themselves; a small error of another kind stays what it is
LIKE_BFLOAT16 = 0.3  # median over wrong blocks of the rms of error/(u₁₆·C): 0.04-0.27 for float16 on the way, 0.37-2.4 for bfloat16
NUDGED = 4  # roundings of J by which it is due to move where an array may be rounded on the way, unless that takes ...
LARGEST_NUDGE = 2.0**-12  # ... moving the array by more than this share of itself: the step of a grid is larger

INDEPENDENT, SAME_STEPS, SAME_UNITS = 8, 4, 4  # noise draws: free, repeated at every t and b, at every unit too
DRAWS = INDEPENDENT + SAME_STEPS + SAME_UNITS
MIRRORED = range(1, 2 + INDEPENDENT, INDEPENDENT)  # these lanes are repeated with −ξ
LANES = 1 + DRAWS + len(MIRRORED)  # lane 0 is clean
NOISE_SEED = 20_111
SUMS = ("dW", "db")  # what is summed over time and batch, and stored once
OUTER = ("dW", "dW_v")  # no entry of these meets another: their rows share the noise of one
# by 1, or by what they are formed from: they reach no peak of their own
BOUNDED = frozenset(("f", "i", "o", "c_tilde", "tanh_c", "h", "do", "di", "dc_tilde", "da.f", "da.i", "da.c", "da.o", "dc_next"))
NEITHER, SIGMOID, SIGMOID_AND_TANH = 0, 1, 2  # whose noise is absolute ...
ABSOLUTE = ((), ("f", "i", "o"), ("f", "i", "o", "c_tilde", "tanh_c"))  # ... and what each of them forms
STEP, WIDE_STEP = (LANES, 8, 40), (LANES, 8, 160)  # steps that are no larger, of one gate and of four, take a part of the noise of these
LONGEST = 2**32  # more than any quantity is stored in one run
COLUMNS = 2**12  # entries whose lanes are looked at together
SMALL_BLOCK = 2**9  # entries of a block that is laid beside others
TINY_NOISE, SMALL_NOISE = 2**10, 2**13  # numbers in a draw of noise: what is no larger is kept for the next case of the same sizes


class Precision(NamedTuple):
    """A floating-point dtype: unit roundoff, smallest normal over u, its counterpart for gates, largest number,
    and the share of a block's scale that its tolerance may reach before the block counts as unresolved."""

    name: str
    u: float
    m: float
    m_gate: float
    largest: float
    resolution: float

    @property
    def eta(self) -> float:
        return max(self.u, LARGEST_NOISE)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16 if self.name == "bfloat16" else self.name)


def _precision(name: str, m: float | None = None, m_gate: float | None = None, resolution: float = 0.1) -> Precision:
    info = ml_dtypes.finfo(name)
    u, tiny = float(info.eps) / 2, float(info.tiny)
    m = tiny / u if m is None else m
    return Precision(name, u, m, m if m_gate is None else m_gate, float(info.max), resolution)


PRECISIONS = {
    "float64": _precision("float64"),
    "float32": _precision("float32"),
    "bfloat16": _precision("bfloat16", resolution=1.0),
    "float16": _precision("float16", m=2.0**-13, m_gate=2.0**-8, resolution=1.0),  # gradual underflow is relied on
}


class Condition(NamedTuple):
    """What noise does to one block: the clean value, C per entry, and whether first order and range hold."""

    clean: np.ndarray
    C: np.ndarray
    scale: float
    in_range: bool
    first_order: bool


_forward = rewrite.hooked(forward.forward, rewrite.product_of_lanes)
_backward = rewrite.hooked(backward.backward, rewrite.product_of_lanes)
_softmax_forward = rewrite.hooked(objectives.softmax_forward, rewrite.product_of_lanes)
_softmax_backward = rewrite.hooked(objectives.softmax_backward, rewrite.product_of_lanes)
_threads = ThreadpoolController()


class Lanes(NamedTuple):
    """A noisy run: every forward value `h`, gradient `dW_f` and loss `J` with the lanes on the first axis, and the
    largest number that was stored in the forward pass and in all of it."""

    values: dict[str, np.ndarray]
    forward_peak: float
    peak: float


def noisy_run(
    inputs: dict,
    cotangents: dict,
    precision: Precision,
    absolute: int = NEITHER,
    forget_bias: float = 0.0,
    variant: Variant = TEXTBOOK,
    part: int = 0,
    parts: int = 1,
) -> Lanes:
    """Run the case clean and with noise, all lanes at once.

    `inputs` are the textbook inputs in float64 (with `W_v b_v y w` for a softmax head), `cotangents` holds `h`,
    `h_T`, `c_T`. `absolute` says whose noise is absolute: that of σ (`SIGMOID`), as ½(1 + tanh(a/2)) rounds, or that of
    tanh too (`SIGMOID_AND_TANH`), as 2σ(2a) − 1 rounds. `forget_bias` is a constant that the candidate adds to a_f by
    itself: two more terms in that sum. Another variant than the textbook runs its own equations, and gives no
    intermediates. Of a textbook layer, this may be one of several `parts` of a batch: the lanes of dW and db may then be
    added up over the parts, and each part has noise of its own in everything else.
    """
    return noisy(inputs, precision, absolute, forget_bias, variant, part, parts)(cotangents)


def noisy(
    inputs: dict,
    precision: Precision,
    absolute: int = NEITHER,
    forget_bias: float = 0.0,
    variant: Variant = TEXTBOOK,
    part: int = 0,
    parts: int = 1,
) -> Callable[..., Lanes]:
    """`noisy_run` as a function of the cotangents, which may be asked again, at model level with other weights `w` of the loss: the
    textbook's forward pass is run once for all of them."""
    if not variant.textbook:
        m, m_gate = precision.m, precision.m_gate
        noise = variants.Noise(precision.eta, m, m_gate, KAPPA, float(absolute), forget_bias)
        return lambda cotangents, w=None: Lanes(
            *variants.noisy(variant, inputs if w is None else {**inputs, "w": w}, cotangents, noise, _lanes())
        )
    keep = _Noise(precision, absolute, forget_bias, part, parts)
    with _threads.limit(limits=1), np.errstate(all="ignore"):
        trace = _noisy_forward(inputs, keep)

    def pull(cotangents: dict, w: np.ndarray | None = None) -> Lanes:
        with _threads.limit(limits=1), np.errstate(all="ignore"):
            return _noisy_backward(inputs if w is None else {**inputs, "w": w}, cotangents, trace, keep.again())

    return pull


@functools.cache
def _lanes() -> variants.Lane:
    """The same kinds of draws as `_draw_noise` has, for the noise of variants."""
    kinds = [(1, 1)] * (1 + INDEPENDENT) + [(0, 1)] * SAME_STEPS + [(0, 0)] * SAME_UNITS
    seeds = np.random.default_rng(NOISE_SEED).integers(2**32, size=len(kinds))
    lanes = [(seed, *kind, 1.0) for seed, kind in zip(seeds, kinds, strict=True)]
    lanes = [(*lanes[0][:3], 0.0), *lanes[1:], *((*lanes[n][:3], -1.0) for n in MIRRORED)]
    dtypes = (np.uint32, np.uint32, np.uint32, np.float64)
    return variants.Lane(*(np.array(q, d) for q, d in zip(zip(*lanes, strict=True), dtypes, strict=True)))


def _noisy_forward(inputs: dict, keep: _Noise) -> SimpleNamespace:
    states = np.broadcast_to(inputs["h0"], (LANES, *inputs["h0"].shape))
    return _forward(keep, {**inputs, "x": inputs["x"][:, None], "h0": states, "c0": np.broadcast_to(inputs["c0"], states.shape)})


def _noisy_backward(inputs: dict, cotangents: dict, trace: SimpleNamespace, keep: _Noise) -> Lanes:
    dh_out, head, forward_peak = cotangents["h"][:, None], None, float(np.max(keep.peaks))
    if "W_v" in inputs:
        data = (inputs["y"][:, None], inputs["w"][:, None])
        head = _softmax_forward(keep, trace.h, inputs["W_v"], inputs["b_v"], *data)
        head_gradients = _softmax_backward(keep, head, trace.h, inputs["W_v"], *data)
        dh_out = rewrite.total((head_gradients.dh_out, dh_out))
    s_h, s_c = (np.broadcast_to(cotangents[k], trace.h0.shape) for k in ("h_T", "c_T"))
    g = _backward(keep, trace, dh_out, s_h, s_c)

    by_step = {"h": trace.h, "c": trace.c, "o": trace.o, "f": trace.f, "i": trace.i, "c_tilde": trace.c_tilde, "z": trace.z}
    by_step |= {f"d{q}": getattr(g, f"d{q}") for q in by_step} | {"dx": g.dx}
    by_step |= {f"a_{k}": getattr(trace.a, k) for k in GATES} | {f"da_{k}": getattr(g.da, k) for k in GATES}
    if head is not None:
        by_step |= {"v": head.v, "y_hat": head.y_hat, "dv": head_gradients.dv}
    run = {k: v.swapaxes(0, 1) for k, v in by_step.items()}
    run |= {"h_T": trace.h[-1], "c_T": trace.c[-1], "dh0": g.dh0, "dc0": g.dc0}
    for n, k in enumerate(GATES):
        H = trace.h.shape[-1]
        run[f"dW_{k}"], run[f"db_{k}"] = g.dW[:, n * H : (n + 1) * H], g.db[:, n * H : (n + 1) * H]
    if head is not None:
        run |= {"J": head.J, "dW_v": head_gradients.dW_v, "db_v": head_gradients.db_v}
    return Lanes(run, forward_peak, float(np.max(keep.peaks)))


def noise(precision: Precision) -> Callable:
    """The hook of a noisy run, for a function that is written as the reference is and rewritten by `rewrite.hooked`: its
    stored arrays end in (lanes, batch, units)."""
    return _Noise(precision, NEITHER, forget_bias=0.0)


class _Noise:
    """The hook that stores q with noise on it: q + η·g(n)·ξ·max(A, m)."""

    def __init__(self, precision: Precision, absolute: int, forget_bias: float, part: int = 0, parts: int = 1):
        self.part, self.parts = part, parts
        self.p, self.eta, self.forget_bias = precision, precision.eta, forget_bias
        self.of_one = ABSOLUTE[absolute]
        self.stores: dict[str, int] = {}
        self.peaks: list[float] = []  # the largest magnitude of each store
        self.v = np.zeros(0)  # the logits, once they are formed
        self.least, self.least_gate = np.array(precision.m), np.array(precision.m_gate)
        self.unusual = {"v", "log_y_hat", "log_y_hat_y", *self.of_one, *("a" if forget_bias else "")}

    def again(self) -> _Noise:
        """A hook that goes on from here, as often as it is asked for."""
        other = copy.copy(self)
        other.stores, other.peaks = dict(self.stores), list(self.peaks)
        return other

    def __call__(self, name: str, label: str, index, *terms) -> np.ndarray:
        alone = len(terms) == 1 and not isinstance(terms[0], rewrite.Sum)
        value, magnitude, n = (terms[0], np.abs(terms[0]), 1) if alone else rewrite.total(terms)
        if name == "z":  # copied, not computed
            return value
        if name not in BOUNDED:
            self.peaks.append(magnitude.item(magnitude.argmax()))  # max() takes three times as long for it
        if name in self.unusual:
            magnitude = self._magnitude(name, value, magnitude)
        size = np.maximum(magnitude, self.least_gate if label == "F:gates" else self.least, out=magnitude)  # formed for this store
        if name in SUMS:
            n *= self.parts
        if n > KAPPA:
            size *= n / KAPPA
        noise = np.multiply(size, self._xi(name, value.shape), out=size if size.shape == value.shape else None)
        noise += value
        return noise

    def _magnitude(self, name: str, value: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
        """Of an `unusual` quantity."""
        if name in self.of_one:
            return np.ones_like(magnitude)
        if name == "log_y_hat":  # v − lse: others subtract max v first
            return np.abs(value) + np.abs(self.v - self.v.max(-1, keepdims=True))
        if name == "log_y_hat_y":  # others take the log of a rounded ŷ
            return np.abs(value) + np.maximum(1.0, self.p.m / np.maximum(np.exp(value), np.finfo(float).tiny))
        if name == "v":
            self.v = value
        if name == "a":
            Gates(magnitude).f[...] += 2 * abs(self.forget_bias)
        return magnitude

    def _xi(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """η·ξ of one store: it depends on nothing but η, the name, the shape and how often the name was stored."""
        shape = (*shape[:-2], 1, shape[-1]) if name in OUTER else shape
        self.stores[name] = count = self.stores.get(name, 0) + 1
        count += 0 if name in SUMS else self.part * LONGEST
        if self.parts > 1:  # no other case will meet it
            return _draw_noise(name, count, shape, self.eta)
        size = math.prod(shape)
        if size > TINY_NOISE and len(shape) == 3:  # one step
            for kept, widest in ((_step_noise, STEP), (_wide_noise, WIDE_STEP)):
                if shape[1] <= widest[1] and shape[2] <= widest[2]:
                    return kept(name, count, widest, self.eta)[:, : shape[1], : shape[2]]
        kept = _tiny_noise if size <= TINY_NOISE else _small_noise if size <= SMALL_NOISE else _large_noise
        return kept(name, count, shape, self.eta)


def _draw_noise(name: str, count: int, shape: tuple[int, ...], eta: float) -> np.ndarray:
    lanes = np.empty(shape)
    axis = lanes.ndim - (2 if name in ("db", "db_v", "J") else 3)
    by_lane = lanes.transpose(axis, *range(axis), *range(axis + 1, lanes.ndim))  # np.moveaxis takes as long as all the rest
    free, last, end = 1 + INDEPENDENT, shape[-1], 1 + DRAWS
    steps, units = _repeated_noise(name, last)
    middle = (1,) * (by_lane.ndim - 2)
    by_lane[0] = 0
    by_lane[1:free] = _free_noise(name, count, by_lane[1:free].shape)
    by_lane[free : free + SAME_STEPS] = steps.reshape(SAME_STEPS, *middle, last)
    by_lane[free + SAME_STEPS : end] = units.reshape(SAME_UNITS, *middle, 1)
    for k, lane in enumerate(MIRRORED):
        by_lane[end + k] = -by_lane[lane]
    lanes *= eta
    return lanes


def _free_noise(name: str, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """The draws of one store that differ everywhere: the first of a stream, so that small stores of all shapes share it."""
    size = math.prod(shape)
    if size > SMALL_NOISE:
        return _stream(name, count, size).reshape(shape)
    return _small_stream(name, count, 1 << size.bit_length())[:size].reshape(shape)


def _stream(name: str, count: int, size: int) -> np.ndarray:
    return _signed(np.random.default_rng([NOISE_SEED, count, *name.encode()]), size)


_small_stream = functools.lru_cache(maxsize=4096)(_stream)


@functools.lru_cache(maxsize=1024)
def _repeated_noise(name: str, units: int) -> tuple[np.ndarray, np.ndarray]:
    """The draws that repeat from step to step: of every unit, and one for all units."""
    always = np.random.default_rng([NOISE_SEED, units, *name.encode()])
    return _signed(always, (SAME_STEPS, units)), _signed(always, (SAME_UNITS, 1))


# every case of the same sizes meets the same noise; these hold 128 MB each at most, but for the tiny ones: 10,000 cases of the default
# sizes meet 40,000 of them, 80 MB
_step_noise = functools.lru_cache(maxsize=2**11)(_draw_noise)
_wide_noise = functools.lru_cache(maxsize=2**9)(_draw_noise)
_tiny_noise = functools.lru_cache(maxsize=2**16)(_draw_noise)
_small_noise = functools.lru_cache(maxsize=2**11)(_draw_noise)
_large_noise = functools.lru_cache(maxsize=16)(_draw_noise)


def _signed(random: np.random.Generator, shape) -> np.ndarray:
    r = random.random(shape)
    r -= r < 0.5
    return r  # ±U[½, 1]


def conditions(run: Lanes, p: Precision, by_step: frozenset[str], share: float = BLOCK_SHARE) -> dict[str, Condition]:
    """The condition of every block of a noisy run, all at once; blocks in `by_step` begin with a time axis of their own. `share` of the
    largest condition of a block, or of its time step, is granted to every entry of it."""
    shapes = {k: v.shape[1:] for k, v in run.values.items()}
    sizes = np.array([math.prod(n) for n in shapes.values()], int)
    starts = np.cumsum(sizes) - sizes
    steps = np.array([n[0] if k in by_step else 1 for k, n in shapes.items()], int)
    spans = np.repeat(sizes // steps, steps)  # entries that share their largest C: those of a time step, or of a block

    def largest(q):  # of every block; NaN is passed on
        return np.maximum.reduceat(q, starts)

    with np.errstate(all="ignore"):
        clean, C, span, bend, peak = np.concatenate([_by_entry(q, p) for q in _columns(run.values.values())], axis=1)
        scale, worst = np.maximum(largest(np.abs(clean)), p.m), largest(C)
        first_order = ~((largest(bend) > CURVATURE * largest(span)) & (p.eta * worst > CURVATURE_MATTERS * scale))
        peaks = np.maximum(largest(peak), [run.peak if k[0] == "d" else run.forward_peak for k in shapes])
        in_range = peaks <= p.largest * RANGE_SHARE  # a peak that is NaN is not
        C += share * np.repeat(np.maximum.reduceat(C, np.cumsum(spans) - spans), spans)
    found = {}
    told = zip(starts.tolist(), sizes.tolist(), scale.tolist(), in_range.tolist(), first_order.tolist(), strict=True)
    for (key, n), (start, size, *rest) in zip(shapes.items(), told, strict=True):
        block = slice(start, start + size)
        found[key] = Condition(clean[block].reshape(n), C[block].reshape(n), *rest)
    return found


def _columns(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The lanes of all blocks in order, as many entries at a time as stay in a cache: small blocks side by side, large ones in parts."""
    held: list[np.ndarray] = []
    room = COLUMNS
    for block in blocks:
        size = block[0].size
        if held and (size > room or size > SMALL_BLOCK):
            yield _side_by_side(held)
            held, room = [], COLUMNS
        if size > SMALL_BLOCK:  # to bring it in order costs more than to look at it in parts
            rows = max(1, COLUMNS * block.shape[1] // size)
            yield from (block[:, first : first + rows] for first in range(0, block.shape[1], rows))
        else:
            held.append(block)
            room -= size
    if held:
        yield _side_by_side(held)


def _side_by_side(blocks: list[np.ndarray]) -> np.ndarray:
    ends = list(accumulate(block[0].size for block in blocks))
    joined = np.empty((LANES, ends[-1]))
    for block, start, end in zip(blocks, [0, *ends], ends, strict=False):
        joined[:, start:end].reshape(block.shape)[...] = block
    return joined


def _by_entry(lanes: np.ndarray, p: Precision) -> np.ndarray:
    """Of every entry: the clean value, C without the share of its block, |g₊ − g₋|, |g₊ + g₋ − 2g|, the largest magnitude."""
    clean, draws, mirrored = lanes[0], lanes[1 : 1 + DRAWS], lanes[1 + DRAWS :]
    plus = lanes[MIRRORED.start : MIRRORED.stop : MIRRORED.step]
    magnitude, highest, lowest = np.abs(clean), draws.max(0), draws.min(0)
    C = np.maximum(np.maximum(np.maximum(highest - clean, clean - lowest) / p.eta, magnitude), p.m)
    span, bend = np.abs(plus - mirrored).max(0), np.abs(plus + mirrored - 2 * clean).max(0)
    peak = np.maximum(np.maximum(np.maximum(highest, -lowest), magnitude), np.abs(mirrored).max(0))
    return np.array([clean, C, span, bend, peak]).reshape(5, -1)


def flushed(c: Condition, lower: Precision) -> Condition:
    """The condition of a block that is computed in a lower precision than the rest, where numbers below its own smallest may be zero."""
    return c._replace(C=np.maximum(c.C, lower.m), scale=max(c.scale, lower.m))


def part(c: Condition, index) -> Condition:
    """The condition of one part of a block, of one time step for instance, judged as a block of its own."""
    clean = c.clean[index]
    return c._replace(clean=clean, C=c.C[index], scale=float(np.max(np.abs(clean), initial=PRECISIONS["float64"].m)))


def tolerance(c: Condition, u: float) -> np.ndarray:
    """κ·u·C, per entry."""
    return KAPPA * u * c.C
