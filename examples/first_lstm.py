"""`First` has one mistake, in its backward pass; `Fixed` has none."""

import numpy as np


def sigmoid(a):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))


class First:
    # the textbook layout: for each gate a weight (H, H+D) and a bias (H,), on z = [h, x]
    def pullback(self, inputs):
        W, b = ([inputs[f"{kind}_{k}"] for k in "fico"] for kind in "Wb")
        h, c, hs, cache = inputs["h0"], inputs["c0"], [], []
        for x in inputs["x"]:
            z = np.concatenate([h, x], axis=1)
            a_f, a_i, a_c, a_o = (z @ w.T + v for w, v in zip(W, b, strict=True))
            f, i, g, o = sigmoid(a_f), sigmoid(a_i), np.tanh(a_c), sigmoid(a_o)
            c_prev, c = c, f * c + i * g
            h = o * np.tanh(c)
            hs.append(h)
            cache.append((z, f, i, g, o, c_prev, np.tanh(c)))
        return {"h": np.stack(hs), "c_T": c}, lambda cotangents: self.back(inputs, W, cache, cotangents)

    def back(self, inputs, W, cache, cotangents):
        grads = {name: np.zeros_like(value) for name, value in inputs.items()}
        dh, dc = np.zeros_like(inputs["h0"]), cotangents["c_T"]
        for t in reversed(range(len(cache))):
            z, f, i, g, o, c_prev, tanh_c = cache[t]
            dh = dh + cotangents["h"][t]
            dc = dc + dh * o * self.slope(tanh_c)
            da = (dc * c_prev * f * (1 - f), dc * g * i * (1 - i), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o))
            for k, da_k in zip("fico", da, strict=True):
                grads[f"W_{k}"] += da_k.T @ z
                grads[f"b_{k}"] += da_k.sum(axis=0)
            dz = sum(da_k @ w for da_k, w in zip(da, W, strict=True))
            dh, grads["x"][t] = np.split(dz, [dh.shape[1]], axis=1)
            dc = dc * f
        return {**grads, "h0": dh, "c0": dc}

    def slope(self, tanh_c):
        return 1 - tanh_c  # the derivative of tanh, so it was thought


class Fixed(First):
    def slope(self, tanh_c):
        return 1 - tanh_c**2
