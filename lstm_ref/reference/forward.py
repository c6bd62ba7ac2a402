"""Forward: inputs in, every intermediate of the LSTM out.

`inputs` holds `x` (T, B, D), `h0`, `c0` (B, H), `W_f W_i W_c W_o` (H, H+D) on z_t = [h_{t-1}, x_t] and
`b_f b_i b_c b_o` (H,). Everything is computed in the dtype of the inputs, complex included.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .arrays import Gates, pack, rows, sigmoid


def forward(inputs: dict) -> SimpleNamespace:
    """Run the LSTM over all T steps and keep what the backward pass needs.

    Returns a namespace with `z` (T, B, H+D), `a.f a.i a.c a.o`, `f i c_tilde o c tanh_c h` (T, B, H), the
    packed weights `W` (4H, H+D), and the states `h0`, `c0` as given.
    """
    x, h0, c0 = inputs["x"], inputs["h0"], inputs["c0"]
    (T, D), H = (x.shape[0], x.shape[-1]), h0.shape[-1]
    W, b = pack(inputs)
    W_hT, W_xT = np.ascontiguousarray(W[..., :H].mT), W[..., H:].mT

    def every_step(n):
        return np.empty((T, *h0.shape[:-1], n), np.result_type(x, h0, c0, W))

    z, a = every_step(H + D), Gates(every_step(4 * H))
    f, i, c_tilde, o, c, tanh_c, h = (every_step(H) for _ in range(7))

    z[..., H:] = x  # (F:concat)
    a_x = rows(z[..., H:], W_xT) + b  # (F:preact) partial: what x and b add, all steps at once
    h_prev, c_prev = h0, c0
    for t in range(T):
        z[t, ..., :H] = h_prev  # (F:concat)
        a.all[t] = a_x[t] + z[t, ..., :H] @ W_hT  # (F:preact)
        f[t] = sigmoid(a.f[t])  # (F:gates)
        i[t] = sigmoid(a.i[t])  # (F:gates)
        c_tilde[t] = np.tanh(a.c[t])  # (F:gates)
        o[t] = sigmoid(a.o[t])  # (F:gates)
        c[t] = f[t] * c_prev + i[t] * c_tilde[t]  # (F:cell)
        tanh_c[t] = np.tanh(c[t])  # (F:hidden)
        h[t] = o[t] * tanh_c[t]  # (F:hidden)
        h_prev, c_prev = h[t], c[t]

    return SimpleNamespace(z=z, a=a, f=f, i=i, c_tilde=c_tilde, o=o, c=c, tanh_c=tanh_c, h=h, W=W, h0=h0, c0=c0)
