"""A fused NumPy LSTM in another style, plugged in as it is: `lstm-ref check examples/numpy_fused.py:Fused`.

One matrix for x and h, batch first, σ through tanh, one product per step in each direction, sums in an order of its own.
"""

import numpy as np


class Fused:
    layout = {
        "order": "ogif",
        "packed": True,
        "joint": "xh",
        "transposed": True,
        "batch_first": True,
        "names": {"W": "kernel", "b": "bias"},
    }
    supports = {"dtypes": ["float64", "float32"]}

    def pullback(self, inputs):
        x, W, b = inputs["x"], inputs["kernel"], inputs["bias"]
        h, c, T, H = inputs["h0"], inputs["c0"], x.shape[1], inputs["h0"].shape[1]
        tape, out = [], []
        for t in range(T):
            xh = np.hstack([x[:, t], h])
            a = b + xh @ W
            gates = 0.5 + 0.5 * np.tanh(0.5 * a)
            gates[:, H : 2 * H] = np.tanh(a[:, H : 2 * H])
            o, g, i, f = (gates[:, k * H : (k + 1) * H] for k in range(4))
            c_prev, c = c, i * g + c * f
            squashed = np.tanh(c)
            h = squashed * o
            tape.append((xh, gates, c_prev, squashed))
            out.append(h)

        def pull(cotangents):
            dh, dc = np.zeros_like(h), cotangents["c_T"].copy()
            dx, dW, db = np.empty_like(x), np.zeros_like(W), np.zeros_like(b)
            for t in range(T - 1, -1, -1):
                xh, gates, c_prev, squashed = tape[t]
                o, g, i, f = (gates[:, k * H : (k + 1) * H] for k in range(4))
                dh = dh + cotangents["h"][:, t]
                dc = dc + dh * o * (1 - squashed) * (1 + squashed)
                da = np.hstack([dh * squashed, dc * i, dc * g, dc * c_prev])
                slope = gates - gates * gates
                slope[:, H : 2 * H] = 1 - g * g
                da = da * slope
                dW += xh.T @ da
                db += da.sum(0)
                back = da @ W.T
                dx[:, t], dh, dc = back[:, : x.shape[2]], back[:, x.shape[2] :], dc * f
            return {"x": dx, "kernel": dW, "bias": db, "h0": dh, "c0": dc}

        return {"h": np.stack(out, 1), "c_T": c}, pull
