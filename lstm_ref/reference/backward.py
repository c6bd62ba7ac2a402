"""Backward: a trace of the forward pass and what flows in, every derived gradient out.

Here `dX` is ∂J/∂X, the total derivative, and nothing else begins with d. `_prev` is t−1, `_next` is what
arrives from t+1, no suffix is t. This is the only written-out backward pass of the project.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .arrays import Gates, outer_sum, rows, step_sum


def backward(trace: SimpleNamespace, dh_out: np.ndarray, s_h: np.ndarray, s_c: np.ndarray) -> SimpleNamespace:
    """Backpropagate through all T steps.

    `dh_out` (T, B, H) is what flows in on every h_t: the cotangent s_t, and what the objective sends back
    (see `objectives`); `s_h` and `s_c` (B, H) flow in on the returned h_T and c_T.

    Returns a namespace with `dh do dc df di dc_tilde` (T, B, H), `da.f da.i da.c da.o`, `dz` (T, B, H+D),
    `dx` (T, B, D), `dh0`, `dc0` (B, H), `dW` (4H, H+D) and `db` (4H,), the gates in the order of `Gates`.
    """
    z, f, i, c_tilde, o, c, tanh_c = (getattr(trace, q) for q in ("z", "f", "i", "c_tilde", "o", "c", "tanh_c"))
    W, c0 = trace.W, trace.c0
    T, H = c.shape[0], c.shape[-1]

    dh, do, dc, df, di, dc_tilde = (np.empty_like(c) for _ in range(6))
    da, dz = Gates(np.empty_like(trace.a.all)), np.empty_like(z)
    W_h, W_x = np.ascontiguousarray(W[..., :H]), W[..., H:]

    dh_next, dc_next = s_h, s_c
    for t in reversed(range(T)):
        c_prev = c[t - 1] if t > 0 else c0
        dh[t] = dh_out[t] + dh_next  # (B:hidden)
        do[t] = dh[t] * tanh_c[t]  # (B:output)
        dc[t] = dh[t] * o[t] * (1 - tanh_c[t] ** 2) + dc_next  # (B:cell)
        df[t] = dc[t] * c_prev  # (B:gates)
        di[t] = dc[t] * c_tilde[t]  # (B:gates)
        dc_tilde[t] = dc[t] * i[t]  # (B:gates)
        da.f[t] = df[t] * f[t] * (1 - f[t])  # (B:preact)
        da.i[t] = di[t] * i[t] * (1 - i[t])  # (B:preact)
        da.o[t] = do[t] * o[t] * (1 - o[t])  # (B:preact)
        da.c[t] = dc_tilde[t] * (1 - c_tilde[t] ** 2)  # (B:preact)
        dz[t, ..., :H] = da.all[t] @ W_h  # (B:concat)
        dh_next = dz[t, ..., :H]  # (B:split)
        dc_next = dc[t] * f[t]  # (B:carry)

    dz[..., H:] = rows(da.all, W_x)  # (B:concat) for x, all steps at once
    dx = dz[..., H:]  # (B:split)
    dW = outer_sum(da.all, z)  # (B:weights)
    db = step_sum(da.all)  # (B:biases)
    dh0, dc0 = dh_next, dc_next  # (B:initial)
    return SimpleNamespace(dh=dh, do=do, dc=dc, df=df, di=di, dc_tilde=dc_tilde, da=da, dz=dz, dx=dx, dh0=dh0, dc0=dc0, dW=dW, db=db)
