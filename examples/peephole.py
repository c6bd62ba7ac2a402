"""An LSTM with peepholes in NumPy, as a variant: f and i see c_{t-1}, o sees c_t. `DetachedPeephole` forgets that c_t reaches
the output through o as well."""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class Peephole:
    variant = {"peephole": True}

    def pullback(self, q):
        h, c, steps, hs = q["h0"], q["c0"], [], []
        with np.errstate(over="ignore"):
            for x in q["x"]:
                z, c_prev = np.hstack([h, x]), c
                a = {k: z @ q[f"W_{k}"].T + q[f"b_{k}"] for k in "fico"}
                f = sigmoid(a["f"] + q["p_f"] * c_prev)
                i = sigmoid(a["i"] + q["p_i"] * c_prev)
                c_tilde = np.tanh(a["c"])
                c = f * c_prev + i * c_tilde
                o = sigmoid(a["o"] + q["p_o"] * c)
                h = o * np.tanh(c)
                steps.append((z, f, i, c_tilde, o, c_prev, c))
                hs.append(h)

        def pull(s):
            gradients = {k: np.zeros_like(v) for k, v in q.items()}
            H, dh, dc = h.shape[1], np.zeros_like(h), s["c_T"]
            for t in reversed(range(len(steps))):
                z, f, i, c_tilde, o, c_prev, c_t = steps[t]
                dh = dh + s["h"][t]
                da = {"o": dh * np.tanh(c_t) * o * (1 - o)}
                dc = dc + dh * o * (1 - np.tanh(c_t) ** 2) + self.through_o(da["o"] * q["p_o"])
                da["f"] = dc * c_prev * f * (1 - f)
                da["i"] = dc * c_tilde * i * (1 - i)
                da["c"] = dc * i * (1 - c_tilde**2)
                for k, seen in (("f", c_prev), ("i", c_prev), ("o", c_t)):
                    gradients[f"p_{k}"] += (da[k] * seen).sum(0)
                for k in "fico":
                    gradients[f"W_{k}"] += da[k].T @ z
                    gradients[f"b_{k}"] += da[k].sum(0)
                dz = sum(da[k] @ q[f"W_{k}"] for k in "fico")
                dh, gradients["x"][t] = dz[:, :H], dz[:, H:]
                dc = dc * f + da["f"] * q["p_f"] + da["i"] * q["p_i"]
            return {**gradients, "h0": dh, "c0": dc}

        return {"h": np.array(hs), "c_T": c}, pull

    def through_o(self, dc):
        return dc


class DetachedPeephole(Peephole):
    def through_o(self, dc):
        return 0 * dc
