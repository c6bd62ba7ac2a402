"""Memory: how many bytes judging a case takes, before it is judged. The factors are fitted to the resident sets that
`benchmarks/campaign_memory.py` measures; a prediction may lie a tenth below what a case then takes."""

from __future__ import annotations

from ..cases import Spec
from ..judgement.tolerances import LANES
from ..reference.symbols import Sizes
from ..truth.autodiff import BUCKETS, bucket

NUMBER = 8  # bytes: truth and noise are float64 whatever the dtype is
STORED = 34.0  # arrays of (T, B, H) that a noisy run and its conditions take for each lane, z and x counted for themselves
JOINED = 8.0  # arrays of (T, B, H + D)
TRACED = 60.0  # arrays of (T, B, H) that the oracle keeps, residuals and what it returns
WEIGHTS = 2.2  # copies of the weights' gradients for each lane
ALIVE = 110.0  # arrays of (T, B, H) of a case in parts: what the candidate keeps and returns, truth and conditions
COMPILED = 0.2 * 2**30  # bytes that the compiler takes for an oracle of a bucket of its own


def predicted(spec: Spec, model: bool = False, layers: int = 1) -> float:
    """The bytes at the peak of judging a case, on top of what a process takes for itself; `layers` counts both directions."""
    p = bucket(spec.sizes)
    return layers * (_noisy(spec.sizes, model) + _oracle(p)) + (0.0 if p in BUCKETS else COMPILED)


def rows_within(spec: Spec, limit: float) -> tuple[int, float] | None:
    """How many rows of the batch of a textbook layer fit into `limit` bytes at once, a power of two, and the bytes that the case then
    takes; None where not even one row fits."""
    n = spec.sizes
    kept = NUMBER * (n.T * n.B * (ALIVE * n.H + 6 * n.D) + LANES * 4 * n.H * (n.H + n.D))  # the sums over the parts in every lane, too
    rows = 1 << (n.B.bit_length() - 1)
    while rows:
        p = bucket(n._replace(B=rows, K=1))
        needed = kept + _noisy(n._replace(B=rows), False) + _oracle(p) + COMPILED
        if needed <= limit:
            return rows, needed
        rows //= 2
    return None


def _noisy(n: Sizes, model: bool) -> float:
    T, B, D, H, K = n
    by_step = T * B * (STORED * H + JOINED * (H + D) + (STORED / 4 * K if model else 0))
    return NUMBER * LANES * (by_step + WEIGHTS * 4 * H * (H + D))


def _oracle(n: Sizes) -> float:
    T, B, D, H, K = n
    return NUMBER * (T * B * (TRACED * H + 6 * (H + D) + 8 * K) + 6 * 4 * H * (H + D))
