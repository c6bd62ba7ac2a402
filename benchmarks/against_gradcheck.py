"""Against gradcheck: one case judged completely by lstm_ref, against torch.autograd.gradcheck of the same LSTM.

lstm_ref holds every entry of every gradient against autodiff within derived tolerances, and every block against
differences of the candidate's own forward pass. Its candidates are the reference, whose intermediate gradients are
judged against autodiff too, and torch.nn.LSTM. It is warm: the oracle for these sizes is compiled. The first case of a
run costs more than later ones, since it tries whether complex steps can be trusted; later cases come in a row, as in a
run, and their time is that of one. "With taps" also differences the
reference's eleven intermediates, which gradcheck cannot see. The reference has a `forward_many`, so that one call of it
takes the complex steps of all blocks; "forward alone" is without that, as most candidates are.

gradcheck (slow mode, default eps and atol, float64) differences every entry of the same inputs for the same outputs h
and c_T: of the reference, made a torch.autograd.Function as gradcheck demands of a hand-written backward pass, and of
torch's LSTM (one bias).

All on one thread, in turns, but for the oracle, which JAX computes on a thread of its own while NumPy goes on (`taskset -c 0`
holds both to one core); at H = 64 gradcheck takes so long that it runs once. "gradcheck ÷ this" is the time of
gradcheck on the row's own LSTM over the row's, the median over rounds; the last column is that of CPU time, the oracle's thread
included, which other work on the machine disturbs less. Forward passes are those of the LSTM under test
for one case, with or without a backward pass after them, a call of forward_many being one; gradcheck also runs at least
two backward passes for every entry of h and c_T.

    python benchmarks/against_gradcheck.py [--small]       --small leaves out H = 64
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import sys
import time
from statistics import median

import numpy as np
from rounds import installed, interleaved, ratio, table

from lstm_ref.candidates.load import load
from lstm_ref.cases import Case, Spec, build
from lstm_ref.judgement.judge import Bench, judge
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.judgement.verdict import PASS, ZERO
from lstm_ref.reference.symbols import LAYER_INPUTS, Sizes

GRADCHECK = "torch.autograd.gradcheck"
SMALL, LARGE = Sizes(5, 2, 3, 4), Sizes(5, 2, 3, 64)
ROUNDS = 9
IN_A_ROW = 20  # later cases that are timed together
TORCH = installed("torch")


def judging(target: str, case: Case, fresh: bool, taps: bool = False, one_by_one: bool = False):
    """Judge the case, and give the forward passes that it took; `fresh` forgets what earlier cases taught, `one_by_one` takes no
    forward_many."""
    face = load(target)[0]
    kept = Bench(face, PRECISIONS["float64"], face.make(), many=not one_by_one)
    passes = counted(kept.instance)

    def run() -> int:
        passes.clear()
        bench = Bench(face, PRECISIONS["float64"], kept.instance) if fresh else kept
        found = judge(bench, case, with_taps=taps)
        assert all(e.outcome in (PASS, ZERO) for e in found.evidence.values()), f"{target} did not pass"
        assert all(f"grad.{k}.{truth}" in found.evidence for k in LAYER_INPUTS for truth in ("autodiff", "differences"))
        return len(passes)

    return run


def counted(instance) -> list:
    """A list that grows by one whenever the instance runs its forward pass."""
    passes: list = []

    def counting(method):
        def run(*args, **named):
            passes.append(None)
            return method(*args, **named)

        return run

    for name in ("forward", "pullback", "forward_many"):
        if hasattr(instance, name):
            setattr(instance, name, counting(getattr(instance, name)))
    return passes


def gradchecking(lstm, arrays: list[np.ndarray]):
    """torch.autograd.gradcheck of an LSTM at these inputs; the forward passes that it took."""
    import torch

    torch.set_num_threads(1)
    inputs = [torch.from_numpy(np.array(v, order="C")).requires_grad_() for v in arrays]

    def run() -> int:
        passes = []

        def counting(*args):
            passes.append(None)
            return lstm(*args)

        assert torch.autograd.gradcheck(counting, inputs, raise_exception=True)
        return len(passes)

    return run


def of_torch(case: Case):
    """torch's own LSTM, in its own layout."""
    import torch

    q = case.inputs
    H = q["h0"].shape[-1]
    W = np.concatenate([q[f"W_{k}"] for k in ("i", "f", "c", "o")])  # torch's order
    b = np.concatenate([q[f"b_{k}"] for k in ("i", "f", "c", "o")])
    no_bias = torch.zeros(len(b), dtype=torch.float64)

    def lstm(x, h0, c0, W_x, W_h, b):
        h, _, c_T = torch._VF.lstm(x, (h0, c0), [W_x, W_h, b, no_bias], True, 1, 0.0, False, False, False)
        return h, c_T

    return gradchecking(lstm, [q["x"], q["h0"][None], q["c0"][None], W[:, H:], W[:, :H], b])


def of_reference(case: Case):
    """The reference as a torch.autograd.Function."""
    import torch

    reference = load("ref:")[0].make()

    class Reference(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            outputs, ctx.pull = reference.pullback({k: v.numpy() for k, v in zip(LAYER_INPUTS, inputs, strict=True)})
            return torch.from_numpy(outputs["h"]), torch.from_numpy(outputs["c_T"])

        @staticmethod
        def backward(ctx, s, s_c):
            gradients = ctx.pull({"h": s.numpy(), "h_T": np.zeros(s_c.shape), "c_T": s_c.numpy()})
            return tuple(torch.from_numpy(gradients[k]) for k in LAYER_INPUTS)

    return gradchecking(Reference.apply, [case.inputs[k] for k in LAYER_INPUTS])


def rows_at(n: Sizes, gradcheck_once: bool) -> list[tuple]:
    case = build(Spec(n), np.dtype("float64"), model=False)
    targets = {"the reference": "ref:"} | ({"torch.nn.LSTM": "torch:"} if TORCH else {})
    rivals = {}
    for k, target in targets.items():
        rivals[f"lstm_ref, {k}, first case"] = judging(target, case, fresh=True)
        rivals[f"lstm_ref, {k}, later cases"] = judging(target, case, fresh=False)
    rivals["lstm_ref, the reference, later cases, forward alone"] = judging("ref:", case, fresh=False, one_by_one=True)
    rivals["lstm_ref, the reference, later cases, with taps"] = judging("ref:", case, fresh=False, taps=True)
    for run in rivals.values():
        run()  # the oracle is compiled here, and what a bench learns from its first case is learnt
    gradchecks = {"the reference": of_reference(case), "torch.nn.LSTM": of_torch(case)} if TORCH else {}
    gradchecks = {f"{GRADCHECK}, {k}": v for k, v in gradchecks.items()}
    passes: dict[str, int] = {}
    cpu: dict[str, list[float]] = {k: [] for k in (*rivals, *gradchecks)}
    times_over = {k: IN_A_ROW if "later" in k else 1 for k in cpu}

    def noting(k, run):
        def noted():
            began = time.process_time()
            for _ in range(times_over[k]):
                passes[k] = run()
            cpu[k].append((time.process_time() - began) / times_over[k])

        return noted

    noted = {k: noting(k, run) for k, run in (rivals | gradchecks).items()}
    alone = {k: noted.pop(k) for k in gradchecks} if gradcheck_once else {}
    times = interleaved(noted, ROUNDS, warm_up=False) | interleaved(alone, 1, warm_up=False)
    times = {k: [seconds / times_over[k] for seconds in t] for k, t in times.items()}
    entries = sum(v.size for v in case.inputs.values())
    own = {k: f"{GRADCHECK}, {k.split(', ')[1]}" for k in times}
    rows = []
    for k, t in times.items():
        ratios = ratio(times.get(own[k]), t), ratio(cpu.get(own[k]), cpu[k])
        rows.append((str(tuple(n[:4])), entries, k, len(t), passes[k], 1e3 * median(t), 1e3 * min(t), 1e3 * median(cpu[k]), *ratios))
    return rows


def main() -> None:
    rows = rows_at(SMALL, gradcheck_once=False) + ([] if "--small" in sys.argv[1:] else rows_at(LARGE, gradcheck_once=True))
    times = ("median ms", "min ms", "CPU ms", "gradcheck ÷ this", "in CPU time")
    header = ("(T, B, D, H)", "entries", "one case judged by", "runs", "forward passes", *times)
    table(header, rows)


if __name__ == "__main__":
    main()
