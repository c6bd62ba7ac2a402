"""torch: NumPy arrays as tensors, and tensors as NumPy arrays; bfloat16, which NumPy does not have, is ml_dtypes' there."""

from __future__ import annotations

import contextlib

import numpy as np


@contextlib.contextmanager
def one_thread():
    """torch on one thread, and then on as many as before: what is judged is small, and where other programs run too, threads that wait
    for each other take up to a hundred times as long. What torch.compile compiles there, or made there, can be asked for gradients again:
    its backward pass gives no memory away."""
    import torch
    import torch._functorch.config as compiled

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with compiled.patch(donated_buffer=False) if hasattr(compiled, "donated_buffer") else contextlib.nullcontext():  # since torch 2.6
            yield
    finally:
        torch.set_num_threads(before)


def tensor(q: np.ndarray):
    """An array as a tensor with memory of its own. Raises TypeError for complex numbers."""
    import torch

    if q.dtype.kind == "c":
        raise TypeError("torch's LSTM takes real numbers only")
    if q.dtype.kind not in "fiub" and q.dtype.name == "bfloat16":  # NumPy makes up the name each time
        return torch.from_numpy(q.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(q, order="C"))


def array(q) -> np.ndarray:
    """A tensor that needs no gradient as an array."""
    import torch

    if q.dtype == torch.bfloat16:
        import ml_dtypes

        return q.float().cpu().numpy().astype(ml_dtypes.bfloat16)
    return q.cpu().numpy()
