"""Quick time: the wall time of whole `lstm-ref check` commands, from the start of Python to its end.

Measured is `python -m lstm_ref check TARGET` for the reference (a layer and a model), torch.nn.LSTM, and a layer in
plain NumPy that this script writes to a temporary folder: cold, with an empty cache of compiled oracles, and warm, run
again with what the cold run left there. The rival is the cold run: "cold ÷ this" is its time over the row's, the median over rounds.
The targets take turns. Profile quick; with --ci also the ci profile, once and cold. "cases" is what the run says it
judged: quick stops drawing after eight seconds, so a slow run may judge fewer, and its time is then of less work.

Every subprocess runs on one thread, in a folder of its own.

    python benchmarks/quick_time.py [--ci]
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from statistics import median

from rounds import installed, ratio, seconds, table

ROUNDS = 3
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ONE_THREAD["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
PLAIN_NUMPY = """
import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class PlainLSTM:
    layout = {"order": "fico", "packed": True}

    def run(self, q):
        h, c, H, cache = q["h0"], q["c0"], q["h0"].shape[1], []
        for x in q["x"]:
            z = np.concatenate([h, x], axis=1)
            a = z @ q["W"].T + q["b"]
            f, i, g, o = sigmoid(a[:, :H]), sigmoid(a[:, H:2 * H]), np.tanh(a[:, 2 * H:3 * H]), sigmoid(a[:, 3 * H:])
            c_prev, c = c, f * c + i * g
            h = o * np.tanh(c)
            cache.append((z, f, i, g, o, c_prev, c, h))
        return cache

    def forward(self, q):
        cache = self.run(q)
        return {"h": np.stack([step[-1] for step in cache]), "c_T": cache[-1][-2]}

    def vjp(self, q, s):
        cache, H = self.run(q), q["h0"].shape[1]
        dx, dW, db, dh_next, dc = np.empty_like(q["x"]), np.zeros_like(q["W"]), np.zeros_like(q["b"]), 0, s["c_T"]
        for t in reversed(range(len(cache))):
            z, f, i, g, o, c_prev, c, _ = cache[t]
            dh, tanh_c = s["h"][t] + dh_next, np.tanh(c)
            dc = dh * o * (1 - tanh_c**2) + dc
            gates = [dc * c_prev * f * (1 - f), dc * g * i * (1 - i), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)]
            da = np.concatenate(gates, axis=1)
            dW += da.T @ z
            db += da.sum(axis=0)
            dz = da @ q["W"]
            dh_next, dx[t], dc = dz[:, :H], dz[:, H:], dc * f
        return {"x": dx, "h0": dh_next, "c0": dc, "W": dW, "b": db}
"""


def check(target: str, profile: str, cache: str, folder: str) -> str:
    """One command; it must pass. Gives the number of cases that it judged."""
    command = [sys.executable, "-m", "lstm_ref", "check", target, "--profile", profile]
    environment = os.environ | ONE_THREAD | {"LSTM_REF_CACHE": cache}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{target} ended with exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return re.search(r"(\d+) cases", done.stdout)[1]


def times_of(targets: dict[str, str], profile: str, rounds: int, states: tuple[str, ...], folder: str) -> list[tuple]:
    found: dict[tuple[str, str], list[float]] = {(name, state): [] for name in targets for state in states}
    cases: dict[tuple[str, str], set[str]] = {key: set() for key in found}
    for _ in range(rounds):
        for name, target in targets.items():
            with tempfile.TemporaryDirectory() as cache:
                for state in states:
                    found[name, state].append(seconds(lambda: cases[name, state].add(check(target, profile, cache, folder))))
    return [
        (profile, name, state, rounds, " or ".join(sorted(cases[name, state])), median(t), min(t), ratio(found[name, "cold"], t))
        for (name, state), t in found.items()
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "plain.py").write_text(PLAIN_NUMPY, encoding="utf-8")
        targets = {"ref:": "ref:", "plain NumPy": "plain.py:PlainLSTM"} | ({"torch:": "torch:"} if installed("torch") else {})
        rows = times_of(targets, "quick", ROUNDS, ("cold", "warm"), folder)
        if "--ci" in sys.argv[1:]:
            rows += times_of(targets, "ci", 1, ("cold",), folder)
    table(("profile", "target", "cache", "runs", "cases", "median s", "min s", "cold ÷ this"), rows)


if __name__ == "__main__":
    main()
