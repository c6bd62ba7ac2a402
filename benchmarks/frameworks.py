"""Frameworks: worst error ÷ tolerance of every framework target, by precision, as a Markdown table for docs/frameworks.md.

    python benchmarks/frameworks.py             # quick
    python benchmarks/frameworks.py ci          # a thousand cases each
    python benchmarks/frameworks.py quick onnx  # only targets whose name holds "onnx"

Each target is judged in a process of its own, so that Keras can run on either backend. 1 is the tolerance.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from importlib import metadata

from lstm_ref.judgement.tolerances import PRECISIONS

TARGETS = (  # and the backend of Keras
    ("torch:", ""),
    ("torch:LSTM(num_layers=2,bidirectional=True)", ""),
    ("torch:LSTM(bias=False,batch_first=True)", ""),
    ("torch:LSTM(proj_size=2)", ""),
    ("torch:LSTM(num_layers=2,bidirectional=True,packed=True)", ""),
    ("torch:LSTMCell", ""),
    ("keras:", "torch"),
    ("keras:LSTMCell", "torch"),
    ("keras:", "jax"),
    ("keras:LSTMCell", "jax"),
    ("flax:", ""),
    ("flax:OptimizedLSTMCell", ""),
    ("flax:nnx.LSTMCell", ""),
    ("flax:nnx.OptimizedLSTMCell", ""),
    ("equinox:", ""),
    ("haiku:", ""),
    ("onnx:", ""),
    ("onnx:reference:", ""),
)
FORWARD_ONLY = {"onnx:": ("float32",), "onnx:reference:": ("float64", "float32")}
PACKAGES = ("torch", "jax", "keras", "flax", "equinox", "dm-haiku", "onnx", "onnxruntime", "numpy")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def row(target: str, dtype: str, backend: str, profile: str) -> str:
    """Judge a target in a process of its own: one line of the table."""
    environment = os.environ | ONE_THREAD | {"KERAS_BACKEND": backend or "jax"}
    command = [sys.executable, __file__, "--judge", target, dtype, profile]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else f"| error | | | | {done.stderr.strip().splitlines()[-1]} |"
    return f"| `{target}`{f' on {backend}' if backend else ''} | {dtype} {told}"


def judge(target: str, dtype: str, profile: str) -> str:
    """The outcome, the cases, and the worst error ÷ tolerance of outputs and of gradients, each with where it is."""
    from lstm_ref import verify

    verdict = verify(target, profile, dtype)
    own = [r for r in verdict.results if r.worst is not None and r.worst.tolerance and r.outcome in ("pass", "fail")]
    cells = [verdict.outcome, str(verdict.cases)]
    for chapter in ("forward", "grad"):
        worst = max((r for r in own if r.chapter == chapter), key=lambda r: r.worst.ratio, default=None)
        cells.append("–" if worst is None else f"{worst.worst.ratio:.2g} ({worst.id.removeprefix(chapter + '.')})")
    if verdict.outcome == "pass":
        return f"| {' | '.join(cells)} | |"
    said = [r.id for r in verdict.results if r.outcome not in ("pass", "not provided", "deselected")]
    return f"| {' | '.join(cells)} | {', '.join(said[:3])}{' …' if said[3:] else ''} |"


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def main(profile: str = "quick", part: str = "") -> None:
    print(f"Profile {profile}, {datetime.date.today()}; {versions()}.\n")
    print("| target | dtype | verdict | cases | outputs | gradients | what is not a pass |\n|---|---|---|---|---|---|---|")
    for dtype in PRECISIONS:
        for target, backend in TARGETS:
            if part in target and dtype in FORWARD_ONLY.get(target, PRECISIONS):
                print(row(target, dtype, backend, profile), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--judge"]:
        print(judge(*sys.argv[2:]))
    else:
        main(*sys.argv[1:])
