"""It learns: an LSTM trained by its own gradients on the characters of 38 of Shakespeare's sonnets (text.txt, public domain).

    python examples/train.py                                    # the reference
    python examples/train.py --lstm examples/my_lstm.py:MyLSTM  # any layer that can be plugged in, in any layout
    python examples/train.py --lstm ref: --lstm examples/my_lstm.py:Forgetful --plot curves.svg

The rule is W ← W − α ∂J/∂W and nothing else: no momentum, no clipping. J is the mean loss per character, −log ŷ_y, over B
parallel streams and T steps; the states are carried over from one chunk to the next, gradients are not (truncated BPTT).

A candidate comes from `candidates.load.load` and is called through `candidates.contract`, which converts layouts both ways:
`prepare` gives it the weights as it wants them, `start` its forward pass, and what that returns its gradients. The output layer
and the softmax are the reference's, and so is the forward pass that measures the held-out text and writes the sample:
whatever the gradients were, the weights that they led to are judged alike.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np

from lstm_ref.candidates import contract, load
from lstm_ref.reference.forward import forward
from lstm_ref.reference.objectives import softmax_backward, softmax_forward
from lstm_ref.reference.symbols import BIASES, WEIGHTS, Sizes, shape

TEXT = pathlib.Path(__file__).with_name("text.txt")
HELD_OUT = 0.1  # the last tenth of the text is never trained on
T, B, H = 32, 16, 64  # steps of a chunk, parallel streams, hidden units
RATE, STEPS, SECONDS, SEED = 2.0, 1600, 100.0, 1  # the seconds are a guard for slow machines
ROWS = 16  # of the table
PLOTS = (".png", ".svg")
DTYPES = ("float64", "float32")


class Point(NamedTuple):
    """One row of the table: losses in nats per character, the training loss as the mean since the row before."""

    step: int
    seconds: float
    training: float
    held_out: float


def layer(target: str, classes: int) -> contract.Candidate:
    """The textbook LSTM layer that a target names. Raises TargetError if it names none, or one that cannot be trained here."""
    found, n = load.load(target)[0], Sizes(T, B, classes, H)
    absent = [*({*WEIGHTS, *BIASES} - {*found.gradient_names}), *({"h", "c_T"} - {*found.outputs_due})]
    if found.kind not in ("pullback", "vjp"):
        due = "pullback(inputs), or forward(inputs) and vjp(inputs, cotangents), are due"
        raise load.TargetError(f"{target} offers no gradients of a layer; {due}")
    if not found.variant.textbook:
        raise load.TargetError(f"{target} declares a variant; what is trained here is the textbook LSTM")
    if absent:
        raise load.TargetError(f"{target} does not provide {', '.join(sorted(absent))}, which training needs")
    if not found.supports.initial_state or found.supports.fit(n) != n:
        due = f"T={T}, B={B}, D={classes}, H={H} and states that are carried over"
        raise load.TargetError(f"the supports of {target} leave out {due}; declare them if it can do that")
    if not {*DTYPES} & {*(found.supports.dtypes or DTYPES)}:
        raise load.TargetError(f"{target} declares the dtypes {', '.join(found.supports.dtypes)}; {' or '.join(DTYPES)} is due")
    return found


def initial(classes: int, seed: int = SEED) -> dict[str, np.ndarray]:
    """Weights in ±1/√H, biases 0 but for b_f = 1, in the textbook layout; the input is a character, one-hot."""
    random, n = np.random.default_rng(seed), Sizes(T, B, classes, H, classes)
    drawn = {k: random.uniform(-1, 1, shape(k, n)) / math.sqrt(H) for k in (*WEIGHTS, "W_v")}
    return {**drawn, **{k: np.full(shape(k, n), float(k == "b_f")) for k in (*BIASES, "b_v")}}


def chunks(codes: np.ndarray):
    """Characters and the ones that follow, (T, B) each, over the text once: every stream is a stretch of it."""
    length = (len(codes) - 1) // B
    x, y = (codes[k : k + B * length].reshape(B, length).T for k in (0, 1))
    for start in range(0, length - T + 1, T):
        yield x[start : start + T], y[start : start + T]


def gradients(candidate, instance, weights, state, x, y):
    """J in nats per character, ∂J/∂W by the names of `weights`, and the states (h_T, c_T), for characters `x`, `y` (T, B).

    Raises contract.Finding where the candidate does what it must not."""
    names = (*WEIGHTS, *BIASES)
    given = {k: weights[k] for k in names} | {"x": np.eye(len(weights["b_v"]))[x], "h0": state[0], "c0": state[1]}
    dtype = "float64" if "float64" in (candidate.supports.dtypes or DTYPES) else "float32"
    outputs, pull = contract.start(contract.prepare(candidate, given, np.dtype(dtype)), instance)
    h, c_T = (whole(outputs, k) for k in ("h", "c_T"))

    head_data = (weights["W_v"], weights["b_v"], y, np.full(y.shape, 1 / y.size))  # weights of 1/(T·B): a mean
    head = softmax_forward(h, *head_data)
    top = softmax_backward(head, h, weights["W_v"], *head_data[2:])
    nothing = np.zeros_like(c_T)  # what comes after the chunk sends nothing back
    found = pull({"h": top.dh_out, "h_T": nothing, "c_T": nothing})
    return float(head.J), {k: whole(found, k) for k in names} | {"W_v": top.dW_v, "b_v": top.db_v}, (h[-1], c_T)


def whole(answer: contract.Answer, name: str) -> np.ndarray:
    """One array of an answer. Raises what was found wrong with it."""
    if name in answer.faults:
        raise answer.faults[name]
    return answer.arrays[name]


def update(weights: dict, dJ: dict, rate: float) -> dict[str, np.ndarray]:
    """W ← W − α ∂J/∂W."""
    return {k: W - rate * dJ[k] for k, W in weights.items()}


def train(candidate, codes, classes, steps=STEPS, seconds=SECONDS, rate=RATE, seed=SEED, each=lambda point: None):
    """Train from the initial weights: the weights after `steps` updates, or after `seconds`, and the curve. Calls `each` with
    every point of it. Raises contract.Finding, and FloatingPointError where the loss or a gradient is no number."""
    cut = int(len(codes) * (1 - HELD_OUT))
    weights, curve, losses, begun = initial(classes, seed), [], [], time.perf_counter()
    instance, pairs = candidate.make(), iter(())
    for step in range(1, steps + 1):
        if (pair := next(pairs, None)) is None:  # the text from its start again
            pairs, state = chunks(codes[:cut]), (np.zeros((B, H)),) * 2
            pair = next(pairs)
        J, dJ, state = gradients(candidate, instance, weights, state, *pair)
        if bad := [k for k, q in {"J": J, **dJ}.items() if not np.isfinite(q).all()]:
            names = ", ".join(k if k == "J" else f"∂J/∂{k}" for k in bad)
            raise FloatingPointError(f"{names} not finite at step {step}; if the loss rose before, try a smaller --rate than {rate:g}")
        weights = update(weights, dJ, rate)
        losses.append(J)
        spent = time.perf_counter() - begun
        if step % max(1, steps // ROWS) == 0 or step == steps or spent > seconds:
            curve.append(Point(step, spent, float(np.mean(losses)), loss(weights, codes[cut:])))
            each(curve[-1])
            losses = []
        if spent > seconds:
            break
    return weights, curve


def loss(weights: dict, codes: np.ndarray) -> float:
    """Nats per character of a stretch of text, read from zero states by the reference."""
    x, y, zeros = np.eye(len(weights["b_v"]))[codes[:-1, None]], codes[1:, None], np.zeros((1, weights["W_v"].shape[1]))
    h = forward({**weights, "x": x, "h0": zeros, "c0": zeros}).h
    return float(softmax_forward(h, weights["W_v"], weights["b_v"], y, np.full(y.shape, 1 / y.size)).J)


def written(weights: dict, alphabet: str, length: int = 400, seed: int = SEED) -> str:
    """Text that the model writes: each character drawn from ŷ, and fed back in."""
    random, code, text = np.random.default_rng(seed), alphabet.index("\n"), ""
    h = c = np.zeros((1, weights["W_v"].shape[1]))
    for _ in range(length):
        trace = forward({**weights, "x": np.eye(len(alphabet))[[[code]]], "h0": h, "c0": c})
        h, c = trace.h[-1], trace.c[-1]
        y_hat = softmax_forward(trace.h, weights["W_v"], weights["b_v"], np.array([[code]]), np.ones((1, 1))).y_hat[0, 0]
        code = int(random.choice(len(alphabet), p=y_hat / y_hat.sum()))
        text += alphabet[code]
    return text


def entropies(codes: np.ndarray, classes: int) -> tuple[float, float]:
    """Nats per character of the text by its own counts: of single characters, and of each given the one before."""
    pairs = np.zeros((classes, classes))
    np.add.at(pairs, (codes[:-1], codes[1:]), 1)
    one, two = (p[p > 0] / p.sum() for p in (np.bincount(codes), pairs))
    unigram = float(-np.sum(one * np.log(one)))
    return unigram, float(-np.sum(two * np.log(two))) - unigram


def plot(path: str, curves: dict[str, list[Point]], unigram: float, bigram: float) -> None:
    """The curves of all targets in one figure: training solid, held-out text dashed, entropies of the text dotted."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "train"}):
        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for n, (target, curve) in enumerate(curves.items()):
            steps = [p.step for p in curve]
            axes.plot(steps, [p.training for p in curve], color=f"C{n}", label=f"{target}  training")
            axes.plot(steps, [p.held_out for p in curve], color=f"C{n}", linestyle="--", label=f"{target}  held out")
        for entropy, name in ((unigram, "unigram"), (bigram, "bigram")):
            axes.axhline(entropy, color="gray", linestyle=":")
            axes.text(axes.get_xlim()[1], entropy, f"{name} entropy ", ha="right", va="bottom", color="gray")
        axes.set(xlabel="updates", ylabel="loss, nats per character")
        axes.legend(frameon=False)
        figure.savefig(path, dpi=100, metadata={"Date": None} if path.endswith(".svg") else None)
        pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train LSTMs by their own gradients on the characters of 38 sonnets.")
    parser.add_argument("--lstm", action="append", metavar="TARGET", help="a layer to train, as for lstm-ref check; may be repeated")
    parser.add_argument("--plot", metavar="FILE", help="the curves of all of them in one figure, .png or .svg")
    parser.add_argument("--steps", type=int, default=STEPS, help="updates for each")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="stop after that, for each")
    parser.add_argument("--rate", type=float, default=RATE, help="α")
    asked = parser.parse_args(arguments)
    for name in ("steps", "seconds", "rate"):
        if not getattr(asked, name) > 0:
            parser.error(f"--{name} is {getattr(asked, name)}; a number above 0 is due")
    if asked.plot:
        if not asked.plot.endswith(PLOTS):
            parser.error(f"--plot is {asked.plot}; a file that ends in {' or '.join(PLOTS)} is due")
        if not (folder := pathlib.Path(asked.plot).absolute().parent).is_dir():
            parser.error(f"--plot is {asked.plot}; there is no folder {folder}")
        try:
            import matplotlib  # noqa: F401 (whether it is there)
        except ImportError:
            parser.error("--plot needs matplotlib, which is not installed; install it with: pip install 'lstm-ref[plots]'")

    text = TEXT.read_text(encoding="utf-8")
    alphabet = "".join(sorted(set(text)))
    codes = np.array([alphabet.index(character) for character in text])
    unigram, bigram = entropies(codes, len(alphabet))
    try:
        candidates = {target: layer(target, len(alphabet)) for target in asked.lstm or ["ref:"]}
    except load.TargetError as error:
        parser.error(str(error))
    print(f"{TEXT.name}: {len(text)} characters, {len(alphabet)} different; the last {HELD_OUT:.0%} are held out")
    print(f"entropy of the text: unigram {told(unigram)}, bigram {told(bigram)} per character")
    curves = {}
    for target, candidate in candidates.items():
        print(f"\n{target}  T={T}, B={B}, H={H}, α = {asked.rate:g}\n  step  seconds  training                held out")
        try:
            weights, curves[target] = train(candidate, codes, len(alphabet), asked.steps, asked.seconds, asked.rate, each=row)
        except (contract.Finding, FloatingPointError) as error:
            sys.exit(f"{target}: {error}")
        last = curves[target][-1]
        for name, value in (("training", last.training), ("held out", last.held_out)):
            print(f"{name} {told(value)}: {abs(unigram - value):.3f} nats {'below' if value < unigram else 'above'} the unigram entropy")
        print("it writes:", *written(weights, alphabet).splitlines(), sep="\n    ")
    if asked.plot:
        plot(asked.plot, curves, unigram, bigram)


def row(p: Point) -> None:
    print(f"{p.step:6}  {p.seconds:7.1f}  {told(p.training)}  {told(p.held_out)}", flush=True)


def told(nats: float) -> str:
    return f"{nats:.3f} nats ({nats / math.log(2):.2f} bits)"


if __name__ == "__main__":
    main()
