"""Memory: how many bytes judging a case takes, before it is judged."""

from __future__ import annotations

from ..cases import Spec
from ..judgement.tolerances import LANES
from ..reference.symbols import Sizes
from ..reference.variant import TEXTBOOK, Variant
from ..truth.autodiff import bucket

NUMBER = 8  # bytes: truth and noise are float64 whatever the dtype is
STORED = 24.0  # arrays of (T, B, H) that a noisy run keeps for each lane, z and x counted for themselves
TRACED = 60.0  # arrays of (T, B, H) that the oracle keeps, residuals and what it returns
WEIGHTS = 3.0  # copies of the weights' gradients for each lane


def predicted(spec: Spec, model: bool = False, variant: Variant = TEXTBOOK) -> float:
    """The bytes at the peak of judging a case, on top of what a process takes for itself."""
    return _noisy(spec.sizes, model) + _oracle(bucket(spec.sizes), model)


def _noisy(n: Sizes, model: bool) -> float:
    T, B, D, H, K = n
    by_step = T * B * (STORED * H + 4 * (H + D) + (6 * K if model else 0))
    return NUMBER * LANES * (by_step + WEIGHTS * 4 * H * (H + D))


def _oracle(n: Sizes, model: bool) -> float:
    T, B, D, H, K = n
    return NUMBER * (T * B * (TRACED * H + 6 * (H + D) + 8 * K) + 6 * 4 * H * (H + D))
