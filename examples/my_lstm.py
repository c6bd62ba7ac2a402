"""An LSTM with a hand-written backward pass, plugged in: `lstm-ref check examples/my_lstm.py:MyLSTM`.

`Forgetful` is the same with a bug that its training loss would never show.
"""

import numpy as np


def sigmoid(a):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))


class MyLSTM:
    # one weight on [x, h], gates side by side in the order i, f, g, o
    layout = {"order": "ifgo", "packed": True, "joint": "xh", "transposed": True}

    def pullback(self, inputs):
        W, b, h, c = inputs["W"], inputs["b"], inputs["h0"], inputs["c0"]
        outputs, cache = [], []
        for x in inputs["x"]:
            xh = np.concatenate([x, h], axis=1)
            i, f, g, o = np.split(xh @ W + b, 4, axis=1)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            c_prev, c = c, f * c + i * g
            h = o * np.tanh(c)
            outputs.append(h)
            cache.append((xh, i, f, g, o, c_prev, np.tanh(c)))

        def gradients(cotangents):
            D = inputs["x"].shape[2]
            dW, db, dx = np.zeros_like(W), np.zeros_like(b), np.zeros_like(inputs["x"])
            dh, dc = np.zeros_like(h), cotangents["c_T"]
            for t in reversed(range(len(cache))):
                xh, i, f, g, o, c_prev, tanh_c = cache[t]
                dh = dh + cotangents["h"][t]
                dc = self.carried(dc) + dh * o * (1 - tanh_c**2)
                da = [dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)]
                da = np.concatenate(da, axis=1)
                dW += xh.T @ da
                db += da.sum(axis=0)
                dx[t], dh = np.split(da @ W.T, [D], axis=1)
                dc = dc * f
            return {"W": dW, "b": db, "x": dx, "h0": dh, "c0": dc}

        return {"h": np.stack(outputs), "c_T": c}, gradients

    def carried(self, dc):
        return dc


class Forgetful(MyLSTM):
    def carried(self, dc):
        return 0 * dc  # what comes back from t+1 through the cell state is dropped
