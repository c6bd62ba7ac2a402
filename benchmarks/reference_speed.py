"""Reference speed: the hand-written reference against torch.nn.LSTM and a jitted JAX scan, forward and backward.

Measured is one call that computes h, c_T and every gradient (x, h0, c0, all weights and biases) for cotangents on every
h and on c_T. Rivals:

    torch         torch.nn.LSTM and torch.autograd.grad, eager
    JAX           jax.vjp of a lax.scan, jitted, with x W_x of all steps in one product before the scan
    plain NumPy   written by hand as one usually does: gates packed, every product step by step
    floor         only the reference's matrix products, into buffers that are already there; no LSTM in NumPy is faster

All on one thread, in turns. × torch and × floor are time over theirs, the median over rounds. All must agree first.

    python benchmarks/reference_speed.py
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

from statistics import median

import numpy as np
from rounds import installed, interleaved, ratio, table

from lstm_ref.reference.backward import backward
from lstm_ref.reference.forward import forward
from lstm_ref.reference.symbols import BIASES, WEIGHTS, Sizes

SIZES = {Sizes(16, 4, 32, 64): 301, Sizes(64, 32, 128, 256): 15}  # with the rounds of each
AGREE = {"float64": 1e-10, "float32": 1e-3}  # of the largest entry


def draw(n: Sizes, dtype: str) -> dict[str, np.ndarray]:
    """Packed weights W (4H, H+D) in the order f i c o, and cotangents s (T, B, H) and s_c (B, H)."""
    rng = np.random.default_rng(0)
    T, B, D, H, _ = n
    shapes = {"x": (T, B, D), "h0": (B, H), "c0": (B, H), "b": (4 * H,), "s": (T, B, H), "s_c": (B, H)}
    q = {k: rng.standard_normal(v) for k, v in shapes.items()}
    q["W"] = rng.standard_normal((4 * H, H + D)) / np.sqrt(H + D)
    return {k: v.astype(dtype) for k, v in q.items()}


def reference(q: dict):
    """The hand-written reference; like every rival, it gives (dx, dh0, dc0, dW, db)."""
    inputs = {k: q[k] for k in ("x", "h0", "c0")}
    inputs |= dict(zip(WEIGHTS, np.split(q["W"], 4), strict=True)) | dict(zip(BIASES, np.split(q["b"], 4), strict=True))
    s_h = np.zeros_like(q["s_c"])

    def run():
        g = backward(forward(inputs), q["s"], s_h, q["s_c"])
        return g.dx, g.dh0, g.dc0, g.dW, g.db

    return run


def torch_lstm(q: dict):
    import torch

    torch.set_num_threads(1)
    D, H = q["x"].shape[-1], q["h0"].shape[-1]

    def torch_order(p):  # f i c o as i f c o, and back
        return np.concatenate([p[H : 2 * H], p[:H], p[2 * H :]])

    W, b = torch_order(q["W"]), torch_order(q["b"])
    module = torch.nn.LSTM(D, H).to(torch.from_numpy(W).dtype)
    with torch.no_grad():
        for p, value in zip(module.parameters(), (W[:, H:], W[:, :H], b, np.zeros_like(b)), strict=True):
            p.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    states = [torch.from_numpy(v).requires_grad_() for v in (q["x"], q["h0"][None], q["c0"][None])]
    wanted = [*states, *module.parameters()]
    flows = [torch.from_numpy(q["s"]), torch.from_numpy(q["s_c"][None])]

    def run():
        h, (_, c_T) = module(states[0], (states[1], states[2]))
        dx, dh0, dc0, dW_x, dW_h, db, _ = (g.numpy() for g in torch.autograd.grad((h, c_T), wanted, flows))
        return dx, dh0[0], dc0[0], dW_x, dW_h, db

    def as_ours(found):
        dx, dh0, dc0, dW_x, dW_h, db = found
        return dx, dh0, dc0, torch_order(np.concatenate([dW_h, dW_x], axis=1)), torch_order(db)

    run.as_ours = as_ours
    return run


def jax_scan(q: dict):
    import jax
    import jax.numpy as jnp

    H = q["h0"].shape[-1]

    def lstm(x, h0, c0, W, b):
        W_h = W[:, :H]

        def step(state, a_x):
            h, c = state
            f, i, g, o = jnp.split(a_x + h @ W_h.T, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        (_, c_T), h = jax.lax.scan(step, (h0, c0), x @ W[:, H:].T + b)
        return h, c_T

    @jax.jit
    def everything(inputs, flows):
        outputs, pull = jax.vjp(lstm, *inputs)
        return outputs, pull(flows)

    with jax.enable_x64(True):
        inputs = [jnp.asarray(q[k]) for k in ("x", "h0", "c0", "W", "b")]
        flows = (jnp.asarray(q["s"]), jnp.asarray(q["s_c"]))

    def run():
        with jax.enable_x64(True):
            return jax.block_until_ready(everything(inputs, flows))[1]

    return run


def plain_numpy(q: dict):
    """An LSTM in NumPy as one usually writes it."""
    x, h0, c0, W, b, s, s_c = (q[k] for k in ("x", "h0", "c0", "W", "b", "s", "s_c"))
    H = h0.shape[-1]

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    def run():
        h, c, hs, cache = h0, c0, [], []
        for x_t in x:
            z = np.concatenate([h, x_t], axis=1)
            a = z @ W.T + b
            f, i, g, o = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), np.tanh(a[:, 2 * H : 3 * H]), sigmoid(a[:, 3 * H :])
            c_prev, c = c, f * c + i * g
            tanh_c = np.tanh(c)
            h = o * tanh_c
            hs.append(h)
            cache.append((z, f, i, g, o, c_prev, tanh_c))
        h = np.stack(hs)  # an output, like c

        dx, dW, db, dh_next, dc_next = np.empty_like(x), np.zeros_like(W), np.zeros_like(b), 0, s_c
        for t in reversed(range(len(x))):
            z, f, i, g, o, c_prev, tanh_c = cache[t]
            dh = s[t] + dh_next
            dc = dh * o * (1 - tanh_c**2) + dc_next
            da = np.concatenate([dc * c_prev * f * (1 - f), dc * g * i * (1 - i), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)], axis=1)
            dW += da.T @ z
            db += da.sum(axis=0)
            dz = da @ W
            dh_next, dx[t], dc_next = dz[:, :H], dz[:, H:], dc * f
        return dx, dh_next, dc_next, dW, db

    return run


def floor(q: dict):
    """The reference's matrix products alone, shape by shape."""
    T, B, D = q["x"].shape
    H, dtype = q["h0"].shape[-1], q["x"].dtype
    rng = np.random.default_rng(1)
    x, z, da = (rng.standard_normal((T * B, n)).astype(dtype) for n in (D, H + D, 4 * H))
    W_x, W_h = np.ascontiguousarray(q["W"][:, H:]), np.ascontiguousarray(q["W"][:, :H])
    W_hT, h, da_t = np.ascontiguousarray(W_h.T), q["h0"], da[:B]
    a, a_t, dh, dx, dWT = (np.empty(shape, dtype) for shape in ((T * B, 4 * H), (B, 4 * H), (B, H), (T * B, D), (H + D, 4 * H)))

    def run():
        np.matmul(x, W_x.T, out=a)
        for _ in range(T):
            np.matmul(h, W_hT, out=a_t)
        for _ in range(T):
            np.matmul(da_t, W_h, out=dh)
        np.matmul(da, W_x, out=dx)
        np.matmul(z.T, da, out=dWT)

    return run


def agree(rivals: dict, dtype: str) -> None:
    """Every rival's gradients against the reference's, before any time is taken."""
    due = rivals["reference"]()
    for name, run in rivals.items():
        found = getattr(run, "as_ours", tuple)(run() or due)
        for a, b in zip(found, due, strict=True):
            assert np.abs(np.asarray(a) - b).max() <= AGREE[dtype] * np.abs(b).max(), f"{name} differs from the reference"


def main() -> None:
    makers = {"reference": reference, "plain NumPy": plain_numpy}
    makers |= {"torch": torch_lstm} if installed("torch") else {}
    makers |= {"JAX": jax_scan} if installed("jax") else {}
    makers |= {"floor": floor}
    rows = []
    for n, rounds in SIZES.items():
        for dtype in ("float64", "float32"):
            q = draw(n, dtype)
            rivals = {name: make(q) for name, make in makers.items()}
            agree(rivals, dtype)
            times = interleaved(rivals, rounds)
            for name, t in times.items():
                against = [ratio(t, times.get(k)) for k in ("torch", "floor")]
                rows.append((str(tuple(n[:4])), dtype, name, 1e3 * median(t), 1e3 * min(t), *against))
    table(("(T, B, D, H)", "dtype", "name", "median ms", "min ms", "× torch", "× floor"), rows)


if __name__ == "__main__":
    main()
