"""Drawn: the sequences that claims are judged on, from Hypothesis, and small plain ones to begin a search with.

Sizes are small (T 1–4, D and H 1–3, K 2–4), B is 1 as in the texts, states are zero or not. A fixed part of the stream
has every T at H = 1 and H = 2, so that no place is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .. import cases
from ..reference.symbols import Sizes
from .rnn import Rnn
from .sequence import LARGEST, Sequence

NETWORKS = {"softmax": Sequence, "squared": Sequence, "rnn": Rnn}
SEED, COUNT = 11, 24  # of the stream that the command and the docs page use
REGIMES = ("ordinary", "spread")
RNN_WEIGHTS, RNN_INPUTS = (0.3, 0.6, 1.0, 2.0, 4.0), 0.5  # scales


@st.composite
def specs(draw) -> cases.Spec:
    """A Hypothesis strategy over sizes, weights, initial states and seeds."""
    T, D, H, K = (draw(st.integers(low, high)) for low, high in ((1, LARGEST.T), (1, LARGEST.D), (1, LARGEST.H), (2, LARGEST.K)))
    state = draw(st.sampled_from(["random", "random", "zero"]))
    return cases.Spec(Sizes(T, 1, D, H, K), draw(st.sampled_from(REGIMES)), initial_state=state, seed=draw(st.integers(0, 2**32 - 1)))


def arrays(network: str, spec: cases.Spec, decimals: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of one sequence for a network, rounded to `decimals` where given."""
    T, _, _, H, _ = spec.sizes
    rng = np.random.default_rng([spec.seed, 1])
    if network == "rnn":
        scale = RNN_WEIGHTS[spec.seed % len(RNN_WEIGHTS)]
        found = {"h0": rng.standard_normal(H), "W": scale * rng.standard_normal((H, H))}
        found |= {"a": RNN_INPUTS * rng.standard_normal((T, H)), "s": rng.standard_normal((T, H))}
        found["h0"] *= spec.initial_state != "zero"
    else:
        found = {k: v for k, v in cases.build(spec, np.dtype(float), network == "softmax").inputs.items() if k != "w"}
        if network == "squared":
            found["target"] = rng.standard_normal((T, 1, H))
    return found if decimals is None else {k: v if v.dtype.kind == "i" else np.round(v, decimals) for k, v in found.items()}


def corners() -> list[cases.Spec]:
    """Every T at H = 1 and H = 2."""
    return [cases.Spec(Sizes(T, 1, 2, H, 3), seed=100 * T + H) for T in range(1, LARGEST.T + 1) for H in (1, 2)]


def stream(stream_seed: int = SEED, count: int = COUNT) -> list[cases.Spec]:
    """The corners and `count` drawn specs, the same for the same seed; no two share their numbers."""
    found: list[cases.Spec] = []

    @seed(stream_seed)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), print_blob=False
    )
    @given(specs())
    def collect(spec):
        found.append(spec)

    collect()
    return corners() + [replace(spec, seed=(spec.seed + 7919 * n) % 2**32) for n, spec in enumerate(found[:count])]


def plain(network: str) -> Iterator[dict[str, np.ndarray]]:
    """Small sequences of short decimals, smallest sizes first."""
    for T, H in sorted(((T, H) for T in range(1, LARGEST.T + 1) for H in (1, 2)), key=lambda n: (n[1], n[0])):
        for n in range(len(RNN_WEIGHTS)):
            yield arrays(network, cases.Spec(Sizes(T, 1, 1, H, 2), seed=n), decimals=1)


def simpler(current: dict[str, np.ndarray]) -> Iterator[tuple[str, slice | tuple[int, ...], float]]:
    """What may be made simpler, most daring first: an array and a place in it, and the number to put there."""
    names = [k for k, v in current.items() if v.dtype.kind != "i"]
    for name in names:
        yield name, slice(None), 0.0
    for value in (0.0, 1.0):
        for name in names:
            for index in np.ndindex(current[name].shape):
                yield name, index, value
