"""Arrays: the three products and the container that the equations are written with.

Time is the first axis, batch and features are the last two; any axes between them ride along.
"""

from __future__ import annotations

import numpy as np

from .symbols import BIASES, WEIGHTS

LARGEST_EXPONENT = {"d": 709, "D": 709, "f": 88, "F": 88, "e": 11}  # by dtype: e to the next integer overflows


class Gates:
    """Four arrays side by side on the last axis, one per gate: `g.f`, `g.i`, `g.c`, `g.o` are views of `g.all`."""

    __slots__ = ("all", "c", "f", "i", "o")

    def __init__(self, packed: np.ndarray):
        H = packed.shape[-1] // 4
        self.all = packed
        self.f, self.i, self.c, self.o = (packed[..., k * H : (k + 1) * H] for k in range(4))


def pack(inputs: dict) -> tuple[np.ndarray, np.ndarray]:
    """The gate weights as one (4H, H+D) array and the biases as one (4H,) array, in the order of `Gates`."""
    return np.concatenate([inputs[k] for k in WEIGHTS], axis=-2), np.concatenate([inputs[k] for k in BIASES], axis=-1)


def rows(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """x W for every row of every step, as one matrix product (one per lane, if W has lanes)."""
    if W.ndim > 2:
        return x @ W
    return (x.reshape(-1, x.shape[-1]) @ W).reshape(*x.shape[:-1], W.shape[-1])


def outer_sum(da: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Σ_{t,b} da_t z_tᵀ: (T, …, B, n) and (T, …, B, m) to (…, n, m), as one matrix product (one per lane, if there are lanes)."""
    da, z = _steps_last(da), _steps_last(z)
    if da.ndim > 2:  # what each lane is multiplied with next lies row by row
        return np.swapaxes(da, -1, -2) @ z
    return (z.T @ da).T  # the faster side for OpenBLAS by a quarter


def step_sum(da: np.ndarray) -> np.ndarray:
    """Σ_{t,b} da_t: (T, …, B, n) to (…, n)."""
    return da.sum(axis=(0, -2))


def _steps_last(q: np.ndarray) -> np.ndarray:
    q = q.transpose(*range(1, q.ndim - 2), 0, -2, -1)  # np.moveaxis takes ten times as long
    return q.reshape(*q.shape[:-3], -1, q.shape[-1])


def sigmoid(a: np.ndarray) -> np.ndarray:
    """σ(a) = 1 / (1 + e^{−a}), accurate relative to its own size in both tails, for real and complex a.

    Where e^{−a} would overflow, the largest power that does not stands in for it: σ is then below the smallest normal
    number, as it should be."""
    return 1 / (1 + np.exp(np.minimum(-a, LARGEST_EXPONENT.get(a.dtype.char, 88))))
