"""LSTMs as other people write them, right and wrong: another style, layout and order of operations in each."""

from __future__ import annotations

import time

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class CellByCell:
    """Right. Textbook layout, one cell at a time with a cache per step, gradients accumulated from the end."""

    sigmoid = staticmethod(sigmoid)
    tanh = staticmethod(np.tanh)

    def cell(self, p, x, h, c):
        z = np.hstack([h, x])
        f, i, o = (self.sigmoid(z.dot(p["W_" + k].T) + p["b_" + k]) for k in "fio")
        g = self.tanh(z.dot(p["W_c"].T) + p["b_c"])
        c_new = f * c + i * g
        tc = self.tanh(c_new)
        return o * tc, c_new, (z, f, i, o, g, c, tc)

    def pullback(self, p):
        with np.errstate(over="ignore"):
            h, c, caches, hs = p["h0"], p["c0"], [], []
            for x in p["x"]:
                h, c, cache = self.cell(p, x, h, c)
                caches.append(cache)
                hs.append(h)

        def pull(s):
            grads = {k: np.zeros_like(v) for k, v in p.items()}
            H = p["h0"].shape[1]
            dh_next, dc_next = np.zeros_like(p["h0"]), s["c_T"].copy()
            for t in range(len(caches) - 1, -1, -1):
                z, f, i, o, g, c_prev, tc = caches[t]
                dh = s["h"][t] + dh_next
                dc = dc_next + dh * o * (1 - tc * tc)
                da = {
                    "f": dc * c_prev * f * (1 - f),
                    "i": dc * g * i * (1 - i),
                    "c": dc * i * (1 - g * g),
                    "o": dh * tc * o * (1 - o),
                }
                dz = np.zeros_like(z)
                for k in "fico":
                    grads["W_" + k] += da[k].T.dot(z)
                    grads["b_" + k] += da[k].sum(axis=0)
                    dz += da[k].dot(p["W_" + k])
                dh_next, grads["x"][t], dc_next = dz[:, :H], dz[:, H:], dc * f
            grads["h0"], grads["c0"] = dh_next, dc_next
            return grads

        return {"h": np.array(hs), "c_T": c}, pull


class SigmoidThroughTanh(CellByCell):
    """Right. σ(a) = ½(1 + tanh(a/2)), which loses relative accuracy in its tail."""

    sigmoid = staticmethod(lambda a: (0.5 * (1 + np.tanh(a / 2))).astype(a.dtype))


class TanhThroughSigmoid(CellByCell):
    """Right. tanh(a) = 2σ(2a) − 1, which loses relative accuracy near 0."""

    tanh = staticmethod(lambda a: (2 * sigmoid(2 * a) - 1).astype(a.dtype))


class OtherSums(CellByCell):
    """Right. Its own sums run one term after another, in reverse."""

    def cell(self, p, x, h, c):
        z = np.hstack([h, x])
        a = {}
        for k in "fico":
            total = np.broadcast_to(p["b_" + k], h.shape).copy()
            for n in reversed(range(z.shape[1])):
                total = total + z[:, n : n + 1] * p["W_" + k][:, n]
            a[k] = total
        with np.errstate(over="ignore"):
            f, i, o = (sigmoid(a[k]) for k in "fio")
        g = np.tanh(a["c"])
        c_new = f * c + i * g
        tc = np.tanh(c_new)
        return o * tc, c_new, (z, f, i, o, g, c, tc)


class StableSigmoid(CellByCell):
    """Right. The two-branch σ, whose absolute value makes the forward pass unsafe for a complex step."""

    @staticmethod
    def sigmoid(a):
        e = np.exp(-np.abs(a))
        return np.where(a >= 0, 1 / (1 + e), e / (1 + e))


class ForwardThenVjp(CellByCell):
    """Right. The two-method form, and lists where arrays would do."""

    pullback = None
    supports = {"B": "at most 3"}

    def __getattribute__(self, name):
        if name == "pullback":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def forward(self, p):
        outputs, _ = CellByCell.pullback(self, p)
        return {"h": list(outputs["h"]), "c_T": outputs["c_T"]}

    def vjp(self, p, s):
        return CellByCell.pullback(self, p)[1](s)


class KerasStyle:
    """Right. (B, T, D), kernel and recurrent kernel transposed, gates i, f, c, o, one bias; einsum throughout."""

    layout = "keras"

    def pullback(self, p):
        x, W, U, b = p["x"], p["kernel"], p["recurrent_kernel"], p["bias"]
        H = U.shape[0]
        h, c, saved = p["h0"], p["c0"], []
        y = np.empty((x.shape[0], x.shape[1], H), x.dtype)
        with np.errstate(over="ignore"):
            for t in range(x.shape[1]):
                a = np.einsum("bd,dg->bg", x[:, t], W) + np.einsum("bh,hg->bg", h, U) + b
                i, f, o = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), sigmoid(a[:, 3 * H :])
                g = np.tanh(a[:, 2 * H : 3 * H])
                saved.append((h, c, i, f, g, o))
                c = f * c + i * g
                h = o * np.tanh(c)
                y[:, t] = h

        def pull(s):
            dW, dU, db, dx = (np.zeros_like(q) for q in (W, U, b, x))
            dh, dc, c_now = np.zeros_like(p["h0"]), s["c_T"], c
            for t in range(x.shape[1] - 1, -1, -1):
                h_in, c_in, i, f, g, o = saved[t]
                dh = dh + s["h"][:, t]
                tc = np.tanh(c_now)
                dc = dc + dh * o * (1 - tc**2)
                da = np.concatenate([dc * g * i * (1 - i), dc * c_in * f * (1 - f), dc * i * (1 - g**2), dh * tc * o * (1 - o)], 1)
                dW += np.einsum("bd,bg->dg", x[:, t], da)
                dU += np.einsum("bh,bg->hg", h_in, da)
                db += np.einsum("bg->g", da)
                dx[:, t] = np.einsum("bg,dg->bd", da, W)
                dh, dc, c_now = np.einsum("bg,hg->bh", da, U), dc * f, c_in
            return {"x": dx, "h0": dh, "c0": dc, "kernel": dW, "recurrent_kernel": dU, "bias": db}

        return {"h": y, "c_T": c}, pull


class OneAtATime(CellByCell):
    """Right. Batch of one and zero initial states only, no gradient of x, and it says so."""

    supports = {"B": 1, "initial_state": False, "x_gradient": False}

    def pullback(self, p):
        outputs, pull = super().pullback({**p, "h0": 0 * p["h0"], "c0": 0 * p["c0"]})
        return outputs, lambda s: {k: v for k, v in pull(s).items() if k[0] in "Wb"}


class HiddenStateOnly:
    """Right. As homework has it: a step and its backward step, gates i f o g, batch first, h0 given and c0 zero, h alone returned."""

    layout = {
        "order": "ifog",
        "packed": True,
        "joint": "split",
        "transposed": True,
        "batch_first": True,
        "biases": 1,
        "names": {"W_x": "Wx", "W_h": "Wh", "b": "b"},
    }
    supports = {"c0": False, "c_T": False}

    def pullback(self, q):
        hidden, cell, saved, seen = q["h0"], np.zeros_like(q["h0"]), [], []
        for x in q["x"].swapaxes(0, 1):
            a = x.dot(q["Wx"]) + hidden.dot(q["Wh"]) + q["b"]
            i, f, o = (1 / (1 + np.exp(-k)) for k in np.split(a, 4, axis=1)[:3])
            g = np.tanh(np.split(a, 4, axis=1)[3])
            after = f * cell + i * g
            saved.append((x, hidden, cell, i, f, o, g, after))
            hidden, cell = o * np.tanh(after), after
            seen.append(hidden)

        def back(s):
            dnext_h, dnext_c, dx = 0, 0, []
            grads = {k: np.zeros_like(q[k]) for k in ("Wx", "Wh", "b")}
            for dh, (x, before, cell, i, f, o, g, after) in zip(s["h"].swapaxes(0, 1)[::-1], saved[::-1], strict=True):
                dh, t = dh + dnext_h, np.tanh(after)
                dc = dnext_c + dh * o * (1 - t**2)
                da = np.hstack([dc * g * i * (1 - i), dc * cell * f * (1 - f), dh * t * o * (1 - o), dc * i * (1 - g**2)])
                grads["Wx"] += x.T.dot(da)
                grads["Wh"] += before.T.dot(da)
                grads["b"] += da.sum(axis=0)
                dx.append(da.dot(q["Wx"].T))
                dnext_h, dnext_c = da.dot(q["Wh"].T), dc * f
            return {**grads, "x": np.stack(dx[::-1], axis=1), "h0": dnext_h}

        return {"h": np.stack(seen, axis=1)}, back


class LastStateOnly:
    """Right. Many to one: what it returns is the state after the last step, and nothing else flows back."""

    supports = {"h": False}

    def pullback(self, p):
        outputs, pull = CellByCell().pullback(p)
        h = outputs["h"]

        def back(s):
            assert set(s) == {"h_T", "c_T"}
            flows = np.zeros_like(h)
            flows[-1] = s["h_T"]
            return pull({"h": flows, "c_T": s["c_T"]})

        return {"h_T": h[-1].copy(), "c_T": outputs["c_T"]}, back


class MeanLoss:
    """Right. A model whose loss is the mean over all positions."""

    reduction = "mean"

    def loss_and_gradients(self, p):
        outputs, pull = CellByCell().pullback({k: p[k] for k in p if k not in ("W_v", "b_v", "y", "w")})
        h, (T, B) = outputs["h"], p["y"].shape
        v = h @ p["W_v"].T + p["b_v"]
        e = np.exp(v - v.max(-1, keepdims=True))
        prob = e / e.sum(-1, keepdims=True)
        t, b = np.indices((T, B))
        log_prob = v - v.max(-1, keepdims=True) - np.log(e.sum(-1, keepdims=True))
        J = -(p["w"] * log_prob[t, b, p["y"]]).sum() / (T * B)
        dv = prob.copy()
        dv[t, b, p["y"]] -= 1
        dv *= p["w"][..., None] / (T * B)
        grads = pull({"h": dv @ p["W_v"], "c_T": np.zeros_like(p["c0"])})
        flat = dv.reshape(T * B, -1)
        return J, {**grads, "W_v": flat.T @ h.reshape(T * B, -1), "b_v": flat.sum(0)}


RIGHT = [
    CellByCell,
    SigmoidThroughTanh,
    TanhThroughSigmoid,
    OtherSums,
    StableSigmoid,
    ForwardThenVjp,
    KerasStyle,
    OneAtATime,
    HiddenStateOnly,
    MeanLoss,
]


def spoilt(change_outputs=lambda out: out, change_gradients=lambda g: g, base=CellByCell):
    """A candidate class whose answers are changed on their way out."""

    class Spoilt(base):
        def pullback(self, p):
            outputs, pull = super().pullback(p)
            return change_outputs(outputs), lambda s: change_gradients(pull(s))

    return Spoilt


def _raise(*_):
    raise RuntimeError("kernel launch failed")


def _without(key):
    return lambda d: {k: v for k, v in d.items() if k != key}


class IgnoresInitialState(CellByCell):
    def pullback(self, p):
        outputs, pull = super().pullback({**p, "h0": 0 * p["h0"], "c0": 0 * p["c0"]})
        return outputs, pull


class Hangs(CellByCell):
    def pullback(self, p):
        while True:
            time.sleep(0.01)


class BatchOfOne(CellByCell):
    def pullback(self, p):
        if p["x"].shape[1] > 1:
            raise ValueError("cannot reshape array")
        return super().pullback(p)


class ReturnsNothing(CellByCell):
    def pullback(self, p):
        return None


class Exits(CellByCell):
    def pullback(self, p):
        raise SystemExit(0)


class WrongGateOrder(CellByCell):
    """Right but for what it says of itself: it reads W_i where the textbook has W_f."""

    def pullback(self, p):
        swap = {"W_f": "W_i", "W_i": "W_f", "b_f": "b_i", "b_i": "b_f"}
        outputs, pull = super().pullback({swap.get(k, k): v for k, v in p.items()})
        return outputs, lambda s: {swap.get(k, k): v for k, v in pull(s).items()}


# name -> (candidate, the check that fails, words of its sentence)
MISBEHAVING = {
    "raises in backward": (spoilt(change_gradients=_raise), "contract.call", "raised RuntimeError: kernel launch failed"),
    "raises in forward": (spoilt(change_outputs=_raise), "contract.call", "raised RuntimeError: kernel launch failed"),
    "returns None": (ReturnsNothing, "contract.call", "pullback returned None; (outputs, pull) is due"),
    "calls sys.exit": (Exits, "contract.call", "raised SystemExit"),
    "fails for B > 1": (BatchOfOne, "contract.call", 'declare supports = {"B": 1}'),
    "bias gradient (1, H)": (
        spoilt(change_gradients=lambda g: {**g, "b_f": g["b_f"][None]}),
        "contract.shapes",
        "returned b_f with shape (1, 4); (4,) is due",
    ),
    "h without its time axis": (
        spoilt(change_outputs=lambda out: {**out, "h": out["h"][-1]}),
        "contract.shapes",
        "returned h with shape (2, 4); (4, 2, 4) is due",
    ),
    "h, the only output of its kind, with the batch first": (
        spoilt(change_outputs=lambda out: {"h": out["h"].swapaxes(0, 1), "c_T": out["c_T"]}),
        "contract.shapes",
        "returned h with shape (2, 4, 4); (4, 2, 4) is due",
    ),
    "no gradient of b_o": (spoilt(change_gradients=_without("b_o")), "contract.keys", "no gradient of b_o"),
    "no c_T": (spoilt(change_outputs=_without("c_T")), "contract.keys", 'declare supports = {"c_T": False}'),
    "float32 gradient": (
        spoilt(change_gradients=lambda g: {**g, "W_c": g["W_c"].astype(np.float32)}),
        "contract.dtype",
        "W_c came back as float32 for float64 inputs",
    ),
    "object gradient": (
        spoilt(change_gradients=lambda g: {**g, "W_c": g["W_c"].astype(object)}),
        "contract.dtype",
        "returned W_c with dtype object",
    ),
    "integer gradient": (
        spoilt(change_gradients=lambda g: {**g, "b_c": g["b_c"].astype(int)}),
        "contract.dtype",
        "returned b_c with dtype int64",
    ),
    "NaN gradient": (spoilt(change_gradients=lambda g: {**g, "x": g["x"] * np.nan}), "contract.finite", "nan is not a finite number"),
    "ignores h0": (IgnoresInitialState, "forward.initial_state", 'declare supports = {"initial_state": False}'),
    "gradient aliases an input": (
        spoilt(change_gradients=lambda g: g, base=type("Aliases", (CellByCell,), {"pullback": lambda self, p: _aliasing(self, p)})),
        "state.aliasing",
        "shares memory with the input c0",
    ),
}


def _aliasing(self, p):
    outputs, pull = CellByCell.pullback(self, p)

    def alias(s):
        gradients = pull(s)
        p["c0"][...] = gradients["c0"]
        return {**gradients, "c0": p["c0"]}

    return outputs, alias


class ScribblesOnCotangents(CellByCell):
    """Right numbers, but it adds to the cotangent of c_T in place, as `dc += …` does."""

    def pullback(self, p):
        outputs, pull = super().pullback(p)

        def scribble(s):
            gradients = pull(s)
            s["c_T"] += 1.0
            return gradients

        return outputs, scribble


def as_flat_memory(q):
    """What code that is given a pointer and a shape sees of an array."""
    start = q if q.flags.c_contiguous else q.base
    return np.ndarray(q.shape, q.dtype, start.tobytes())


class ReadsCotangentsAsFlatMemory(CellByCell):
    def pullback(self, p):
        outputs, pull = super().pullback(p)
        return outputs, lambda s: pull({k: as_flat_memory(v) for k, v in s.items()})


class ReadsInputsAsFlatMemory(CellByCell):
    def pullback(self, p):
        return super().pullback({k: as_flat_memory(v) for k, v in p.items()})


class IgnoresH0Alone(CellByCell):
    def pullback(self, p):
        return super().pullback({**p, "h0": 0 * p["h0"]})


MISBEHAVING |= {
    "changes its cotangents": (
        ScribblesOnCotangents,
        "state.inputs_unmutated",
        "changed the cotangent c_T that it was given; work on a copy",
    ),
    "reads cotangents as flat memory": (
        ReadsCotangentsAsFlatMemory,
        "state.noncontiguous",
        "right where arrays are contiguous",
    ),
    "reads inputs as flat memory": (ReadsInputsAsFlatMemory, "state.noncontiguous", "right where arrays are contiguous"),
    "ignores h0 alone": (IgnoresH0Alone, "forward.initial_state", "with h0 zero: h0 ignored"),
}
