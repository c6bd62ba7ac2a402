"""Cases: where an LSTM is judged, as small descriptions that unfold into arrays.

A `Spec` is plain data: sizes, the regime that the numbers lie in, what flows back, how memory lies, and a seed.
`build` turns it into the arrays of a `Case`. Every profile starts with the same fixed corner cases, because the point
decides more than the tolerance does; Hypothesis draws the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .reference.symbols import INITIAL, Sizes
from .reference.variant import TEXTBOOK, Variant, plain

# regime -> scale of the weights, scale of the biases
REGIMES = {
    "ordinary": (0.6, 0.6),
    "small": (0.01, 0.01),
    "tiny": (1e-4, 1e-4),  # input value
    "large": (3.0, 3.0),
    "saturated": (0.5, 15.0),  # biases ±15: every gate nearly open or shut
    "extreme": (0.5, 800.0),  # pre-activations of ±800
    "shut": (0.5, 0.5),  # one gate near −90
    "zeros": (0.6, 0.6),  # exact zeros in x, weights and states
    "mixed": (0.6, 0.6),  # entries over four decades
    "spread": (1.5, 0.3),
}
SIGNED_BIAS = ("saturated", "extreme")
COTANGENTS = ("all", "h", "h_T", "c_T", "last")
MEMORY = ("plain", "readonly", "noncontiguous")
SHUT_GATE = -90.0
ORDINARY = ("ordinary", "small", "spread")  # regimes in which every gradient must be resolved


@dataclass(frozen=True)
class Spec:
    """One case as data. `logits` scales W_v and b_v of a softmax head; K is ignored at layer level."""

    sizes: Sizes
    regime: str = "ordinary"
    cotangents: str = "all"
    cotangent_scale: float = 1.0
    initial_state: str = "random"  # or "zero", or the one of the two that is not zero: "h0" or "c0"
    memory: str = "plain"
    logits: float = 1.0
    seed: int = 0

    @property
    def ordinary(self) -> bool:
        """Whether every gradient must be resolved here: ordinary numbers, cotangents on every h_t, no logits out of range."""
        return self.regime in ORDINARY and self.cotangents in ("all", "h") and self.cotangent_scale == 1.0 and self.logits == 1.0


@dataclass(frozen=True)
class Case:
    """One draw: textbook inputs (with `W_v b_v y w` for a model) and cotangents `h h_T c_T`, float64 values that the
    dtype under test represents exactly."""

    spec: Spec
    inputs: dict[str, np.ndarray]
    cotangents: dict[str, np.ndarray]

    @property
    def model(self) -> bool:
        return "W_v" in self.inputs


def build(spec: Spec, dtype: np.dtype, model: bool, variant: Variant = TEXTBOOK) -> Case:
    """The arrays of a case of a variant, rounded to `dtype` and held in float64."""
    T, B, _, H, K = spec.sizes
    rng = np.random.default_rng(spec.seed)
    normal = rng.standard_normal
    weights, biases = REGIMES[spec.regime]
    shapes = variant.shapes(spec.sizes)
    q = {k: normal(shapes[k]) for k in ("x", "h0", "c0")}
    for k in variant.parameters:
        if plain(k)[:2] == "b_":
            q[k] = biases * (_signs(rng, H) if spec.regime in SIGNED_BIAS else normal(H))
        else:
            q[k] = (1.0 if plain(k)[:4] == "gain" else 0.0) + weights * normal(shapes[k])
    cotangents = {k: normal(shapes[k]) for k in ("h", "h_T", "c_T")}
    if spec.regime == "shut":
        shut = [k for k in q if plain(k)[:2] == "b_"]
        q[shut[rng.integers(len(shut))]] += SHUT_GATE
    if spec.regime == "zeros":
        q = {k: v * (rng.random(v.shape) < 0.5) for k, v in q.items()}
    if spec.regime == "mixed":
        q = {k: v * 10.0 ** rng.uniform(-3, 1, v.shape) for k, v in q.items()}
    for k in INITIAL:
        q[k] = q[k] if spec.initial_state in ("random", k) else np.zeros_like(q[k])
    if model:
        q["W_v"], q["b_v"] = spec.logits * normal(shapes["W_v"]), spec.logits * normal(K)
        counted = rng.random((T, B)) < 0.8
        counted[0, 0] |= not counted.any()  # a mean over the weights needs one
        q["w"] = spec.cotangent_scale * rng.uniform(0.5, 2.0, (T, B)) * counted
        cotangents = {k: np.zeros_like(v) for k, v in cotangents.items()}
    else:
        cotangents = _flowing_in(spec.cotangents, cotangents, spec.cotangent_scale)
    inputs = {k: _rounded(v, dtype) for k, v in q.items()}
    if model:
        inputs["y"] = rng.integers(0, K, (T, B))
    for k in variant.data:
        inputs[k] = rng.integers(1, T + 1, B) if k == "lengths" else _mask(k, rng, shapes[k])
    return Case(spec, inputs, {k: _rounded(v, dtype) for k, v in cotangents.items()})


def _signs(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.5, -1.0, 1.0) * rng.uniform(0.8, 1.0, n)


def _flowing_in(kind: str, s: dict, scale: float) -> dict:
    kept = {"all": ("h", "h_T", "c_T"), "last": ("h",)}.get(kind, (kind,))
    s = {k: scale * v if k in kept else np.zeros_like(v) for k, v in s.items()}
    if kind == "last":
        s["h"][:-1] = 0
    return s


def _mask(key: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Ones and zeros; what is dropped is made up for by twos."""
    ones = rng.random(shape) < {"mask": 0.75, "drop": 0.5, "zone": 0.3}[key[:4]]
    return ones * (2.0 if key[:4] == "drop" else 1.0)


def _rounded(q: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return q.astype(dtype).astype(np.float64)


def _corner(T, B, D, H, K=5, regime="ordinary", **other) -> Spec:
    return Spec(Sizes(T, B, D, H, K), regime, **other)


_BASE = (4, 2, 3, 5)
CORNERS: tuple[Spec, ...] = (
    _corner(*_BASE),
    _corner(*_BASE, memory="readonly", seed=1),
    _corner(*_BASE, memory="noncontiguous", seed=2),
    _corner(1, 1, 1, 1, 2),
    _corner(1, 3, 2, 4, 3),
    _corner(4, 1, 3, 2),
    _corner(3, 2, 1, 4, 2),
    _corner(5, 2, 3, 1),
    _corner(4, 4, 4, 4, 4),  # any two sizes equal: what mixes up two axes raises everywhere else
    _corner(7, 2, 3, 4),
    _corner(33, 2, 2, 3, 3),  # as long as what is padded anyway: kernels take time in parts of 16 or 32
    _corner(3, 4, 8, 7),
    _corner(2, 5, 9, 8, 9),
    _corner(3, 2, 5, 9),
    _corner(2, 8, 16, 15, 17),
    _corner(3, 2, 17, 16),
    _corner(2, 2, 3, 17),
    _corner(2, 2, 31, 33, 33),
    _corner(*_BASE, initial_state="zero", seed=3),
    _corner(*_BASE, cotangents="h", seed=4),
    _corner(*_BASE, cotangents="h_T", seed=5),
    _corner(*_BASE, cotangents="c_T", seed=6),
    _corner(*_BASE, cotangents="last", seed=7),
    _corner(*_BASE, cotangent_scale=1e3, seed=8),
    _corner(*_BASE, cotangent_scale=1e-3, seed=9),  # input value
    _corner(6, 2, 3, 4, regime="small", seed=10),
    _corner(6, 2, 3, 4, regime="tiny", seed=11),
    _corner(6, 2, 3, 4, regime="large", seed=12),
    _corner(5, 3, 3, 4, regime="saturated", seed=13),
    _corner(5, 3, 3, 4, regime="extreme", seed=14),
    _corner(5, 3, 3, 4, regime="shut", seed=15),
    _corner(5, 3, 3, 4, regime="zeros", seed=16),
    _corner(5, 3, 3, 4, regime="mixed", seed=17),
    _corner(4, 2, 3, 4, logits=1e-3, seed=18),  # input value
    _corner(4, 2, 3, 4, logits=30.0, seed=19),
    _corner(4, 2, 3, 4, logits=800.0, seed=20),
    _corner(2, 33, 3, 5, 3),  # more rows than kernels take at once
    _corner(2, 32, 3, 5, 3),  # multiples of what they take at once have ways of their own
    _corner(2, 8, 3, 32, 32),
    _corner(2, 2, 32, 5),
)

_small = st.integers(1, 8)
_around_tiles = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33])


@st.composite
def specs(draw) -> Spec:
    """A Hypothesis strategy over every regime and size that the profiles draw from."""
    large = draw(st.integers(0, 9)) == 0
    H = draw(_around_tiles if large else _small)
    D = draw(st.one_of(st.just(H), _around_tiles if large else _small))
    T = draw(st.integers(1, 30 if large else 8))
    n = Sizes(T, draw(st.integers(1, 8 if large else 4)), D, H, draw(st.integers(2, 8)))
    return Spec(
        n,
        "ordinary",
        draw(st.sampled_from(COTANGENTS)),
        draw(st.sampled_from([1.0, 1.0, 1e3, 1e-3])),  # input values
        draw(st.sampled_from(["random", "random", "random", "zero"])),
        draw(st.sampled_from(MEMORY)),
        draw(st.sampled_from([1.0, 1.0, 1e-3, 30.0])),  # input values
        draw(st.integers(0, 2**32 - 1)),
    )


def drawn(count: int, stream_seed: int) -> Iterator[Spec]:
    """`count` specs from Hypothesis, the same for the same seed, whatever profile or database is loaded.

    Regimes take turns, so that every few cases meet them all, and no two cases share their numbers.
    """
    found: list[Spec] = []

    @seed(stream_seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(specs())
    def collect(spec):
        found.append(spec)

    if count:
        collect()
    regimes = tuple(REGIMES)
    for n, spec in enumerate(found[:count]):
        yield replace(spec, regime=regimes[n % len(regimes)], seed=(spec.seed + 7919 * n) % 2**32)


def smaller(spec: Spec) -> Iterator[Spec]:
    """Simpler specs than this one, most daring first: the steps of a greedy shrink."""
    n = spec.sizes
    for axis in Sizes._fields:
        have = getattr(n, axis)
        for size in sorted({1, 2, have // 2, have - 1} - {0, have}):
            if size < have:
                yield replace(spec, sizes=n._replace(**{axis: size}))
    for simple in ({"regime": "ordinary"}, {"cotangent_scale": 1.0}, {"memory": "plain"}, {"initial_state": "zero"}, {"logits": 1.0}):
        if any(getattr(spec, k) != v for k, v in simple.items()):
            yield replace(spec, **simple)
    if spec.cotangents == "all":
        for kind in ("last", "h_T", "c_T", "h"):
            yield replace(spec, cotangents=kind)
