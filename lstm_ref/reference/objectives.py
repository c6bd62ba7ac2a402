"""Objectives: the loss J on top of h, and what it sends back into every h_t.

Three of them, and they add: weighted softmax cross-entropy behind an output layer, squared error on h, and
the linear functional Σ_t ⟨s_t, h_t⟩ + ⟨s_h, h_T⟩ + ⟨s_c, c_T⟩, whose gradient is the vector-Jacobian product.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from .arrays import outer_sum, rows, step_sum


def softmax_forward(h: np.ndarray, W_v: np.ndarray, b_v: np.ndarray, y: np.ndarray, w: np.ndarray) -> SimpleNamespace:
    """J = −Σ_{t,b} w_{t,b} log softmax(W_v h_t + b_v)_y, with the logits and log-probabilities it went through.

    Shapes: `h` (T, B, H), `W_v` (K, H), `b_v` (K,), `y` (T, B) integers in [0, K), `w` (T, B), where a weight
    of 0 ignores a position. Returns `v`, `log_y_hat`, `y_hat` (T, B, K) and the scalar `J`.
    """
    v = rows(h, W_v.mT) + b_v  # (F:logits)
    v_max = np.take_along_axis(v, v.real.argmax(-1)[..., None], -1)
    lse = np.log(np.sum(np.exp(v - v_max), -1, keepdims=True)) + v_max  # (F:softmax)
    log_y_hat = v - lse  # (F:softmax)
    y_hat = np.exp(log_y_hat)  # (F:softmax)
    log_y_hat_y = np.take_along_axis(log_y_hat, np.broadcast_to(y, log_y_hat.shape[:-1])[..., None], -1)  # (F:loss)
    J = step_sum(-w[..., None] * log_y_hat_y)  # (F:loss)
    return SimpleNamespace(v=v, log_y_hat=log_y_hat, y_hat=y_hat, J=J[..., 0])


def softmax_backward(head: SimpleNamespace, h: np.ndarray, W_v: np.ndarray, y: np.ndarray, w: np.ndarray):
    """Gradients of the softmax cross-entropy: a namespace `dv` (T, B, K), `dW_v`, `db_v`, `dh_out` (T, B, H)."""
    onehot = np.eye(W_v.shape[0])[y].astype(W_v.real.dtype)
    dv = w[..., None] * head.y_hat - w[..., None] * onehot  # (B:logits)
    dW_v = outer_sum(dv, h)  # (B:output-layer)
    db_v = step_sum(dv)  # (B:output-layer)
    dh_out = rows(dv, W_v)  # (B:hidden) partial: what the output layer sends back
    return SimpleNamespace(dv=dv, dW_v=dW_v, db_v=db_v, dh_out=dh_out)


def squared_error(h: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J = ½ Σ_t ‖h_t − y_t‖² for `h`, `y` (T, B, H), and its `dh_out` = h − y (T, B, H)."""
    dh_out = h - y  # (B:hidden) partial
    return 0.5 * np.sum(dh_out**2), dh_out


def linear(h: np.ndarray, c_T: np.ndarray, s: np.ndarray, s_h: np.ndarray, s_c: np.ndarray) -> np.ndarray:
    """J = Σ_t ⟨s_t, h_t⟩ + ⟨s_h, h_T⟩ + ⟨s_c, c_T⟩; it sends back s_t, s_h and s_c themselves."""
    return np.sum(s * h) + np.sum(s_h * h[-1]) + np.sum(s_c * c_T)
