"""Against gradcheck: one case judged completely by lstm_ref, against torch.autograd.gradcheck of the same LSTM.

lstm_ref holds every entry of every gradient against autodiff within derived tolerances, and every block against
differences of the candidate's own forward pass. Its candidates are the reference (which also gives the gradients of
eleven intermediates, judged too) and torch.nn.LSTM. It is warm: the oracle for these sizes is compiled. The first case
of a run costs more than later ones, since it tries whether complex steps can be trusted. gradcheck (slow mode, default
eps and atol, float64) differences every entry of the same inputs of the same torch LSTM, with one bias, for the same
outputs h and c_T.

All on one thread, in turns; at H = 64 gradcheck takes so long that it runs once. "gradcheck ÷ this" is its time over
the row's, the median over rounds. Forward passes are those of the LSTM under test for one case, with or without a
backward pass after them; gradcheck also runs at least two backward passes for every entry of h and c_T.

    python benchmarks/against_gradcheck.py [--small]       --small leaves out H = 64
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import sys
from statistics import median

import numpy as np
from rounds import installed, interleaved, ratio, table

from lstm_ref.candidates.load import load
from lstm_ref.cases import Case, Spec, build
from lstm_ref.judgement.judge import Bench, judge
from lstm_ref.judgement.tolerances import PRECISIONS
from lstm_ref.judgement.verdict import PASS, ZERO
from lstm_ref.reference.symbols import Sizes

GRADCHECK = "torch.autograd.gradcheck"
SMALL, LARGE = Sizes(5, 2, 3, 4), Sizes(5, 2, 3, 64)
ROUNDS = 9
TORCH = installed("torch")


def judging(target: str, case: Case, fresh: bool):
    """Judge the case, and give the forward passes that it took; `fresh` forgets what earlier cases taught."""
    face = load(target)[0]
    kept = Bench(face, PRECISIONS["float64"], face.make())
    passes = counted(kept.instance)

    def run() -> int:
        passes.clear()
        bench = Bench(face, PRECISIONS["float64"], kept.instance) if fresh else kept
        found = judge(bench, case)
        assert all(e.outcome in (PASS, ZERO) for e in found.evidence.values()), f"{target} did not pass"
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

    for name in ("forward", "pullback"):
        setattr(instance, name, counting(getattr(instance, name)))
    return passes


def gradchecking(case: Case):
    """torch.autograd.gradcheck of torch's LSTM at the same inputs."""
    import torch

    torch.set_num_threads(1)
    q = case.inputs
    H = q["h0"].shape[-1]
    W = np.concatenate([q[f"W_{k}"] for k in ("i", "f", "c", "o")])  # torch's order
    b = np.concatenate([q[f"b_{k}"] for k in ("i", "f", "c", "o")])
    arrays = (q["x"], q["h0"][None], q["c0"][None], W[:, H:], W[:, :H], b)
    inputs = [torch.from_numpy(np.array(v, order="C")).requires_grad_() for v in arrays]
    no_bias = torch.zeros_like(inputs[-1])

    def run() -> int:
        passes = []

        def lstm(x, h0, c0, W_x, W_h, b):
            passes.append(None)
            h, _, c_T = torch._VF.lstm(x, (h0, c0), [W_x, W_h, b, no_bias], True, 1, 0.0, False, False, False)
            return h, c_T

        assert torch.autograd.gradcheck(lstm, inputs, raise_exception=True)
        return len(passes)

    return run


def rows_at(n: Sizes, gradcheck_once: bool) -> list[tuple]:
    case = build(Spec(n), np.dtype("float64"), model=False)
    targets = {"the reference": "ref:"} | ({"torch.nn.LSTM": "torch:"} if TORCH else {})
    rivals = {f"lstm_ref, {k}, first case": judging(target, case, fresh=True) for k, target in targets.items()}
    rivals |= {f"lstm_ref, {k}, later cases": judging(target, case, fresh=False) for k, target in targets.items()}
    for run in rivals.values():
        run()  # the oracle is compiled here, and what a bench learns from its first case is learnt
    rivals |= {GRADCHECK: gradchecking(case)} if TORCH else {}
    passes: dict[str, int] = {}
    noted = {k: lambda k=k: passes.update({k: rivals[k]()}) for k in rivals}
    alone = {GRADCHECK: noted.pop(GRADCHECK)} if TORCH and gradcheck_once else {}
    times = interleaved(noted, ROUNDS, warm_up=False) | interleaved(alone, 1, warm_up=False)
    entries = sum(v.size for v in case.inputs.values())
    return [
        (str(tuple(n[:4])), entries, k, len(t), 1e3 * median(t), 1e3 * min(t), ratio(times.get(GRADCHECK), t), passes[k])
        for k, t in times.items()
    ]


def main() -> None:
    rows = rows_at(SMALL, gradcheck_once=False) + ([] if "--small" in sys.argv[1:] else rows_at(LARGE, gradcheck_once=True))
    header = ("(T, B, D, H)", "entries", "one case judged by", "runs", "median ms", "min ms", "gradcheck ÷ this", "forward passes")
    table(header, rows)


if __name__ == "__main__":
    main()
