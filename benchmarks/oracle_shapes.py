"""Oracle shapes: one compiled, padded oracle for every shape, against a jax.jit of the unpadded oracle per shape.

Measured is the time of lstm_ref.truth.autodiff.truth on fresh random shapes (T 1–8, B 1–4, D 1–8, H 1–8, K 2–8) with an
output layer, each shape once. The padded oracle compiles once, for the bucket that holds them all. Its rival is the
same oracle compiled for the very shape, which is what jax.jit does when shapes change. The persistent cache lies in an
empty temporary folder, so that everything really compiles. They take turns: 40 shapes padded, one of these unpadded.

"apart" is the largest difference between the two, over all values and gradients, as a share of the largest entry of its block.

    python benchmarks/oracle_shapes.py
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import tempfile
from statistics import median

import numpy as np
from rounds import ratio, seconds, table

from lstm_ref.cases import Spec, build
from lstm_ref.reference.symbols import Sizes
from lstm_ref.truth import autodiff

SHAPES, ROUNDS = 200, 5
LARGEST = Sizes(8, 4, 8, 8, 8)


def fresh_sizes(count: int) -> list[Sizes]:
    """Random sizes, all different, none of them the bucket's own."""
    rng, found = np.random.default_rng(0), {}
    while len(found) < count:
        n = Sizes(*(int(rng.integers(2 if axis == "K" else 1, most + 1)) for axis, most in LARGEST._asdict().items()))
        if n != LARGEST:
            found[n] = None
    return list(found)


def arrays(n: Sizes, seed: int) -> tuple[dict, dict]:
    """Inputs with an output layer, and cotangents on top of its loss."""
    model, layer = (build(Spec(n, seed=seed), np.dtype("float64"), model=m) for m in (True, False))
    return model.inputs, layer.cotangents


def apart(a: autodiff.Truth, b: autodiff.Truth) -> float:
    pairs = [(p[k], q[k]) for p, q in zip(a, b, strict=True) for k in p]
    return max(float(np.abs(p - q).max() / max(np.abs(q).max(), 1e-300)) for p, q in pairs)


def main() -> None:
    sizes = fresh_sizes(SHAPES)
    cases = [arrays(n, seed) for seed, n in enumerate(sizes)]
    assert {autodiff.bucket(n) for n in sizes} == {LARGEST}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LSTM_REF_CACHE"] = folder
        compiling = seconds(lambda: autodiff.truth(*cases[0], padded=LARGEST))
        padded, unpadded, differences = [], [], []
        for k in range(ROUNDS):
            turn = range(k * SHAPES // ROUNDS, (k + 1) * SHAPES // ROUNDS)
            padded.append(seconds(lambda: [autodiff.truth(*cases[n]) for n in turn]))
            unpadded.append(seconds(lambda: autodiff.truth(*cases[turn[0]], padded=sizes[turn[0]])))
            differences.append(apart(autodiff.truth(*cases[turn[0]]), autodiff.truth(*cases[turn[0]], padded=sizes[turn[0]])))
    each = [t * ROUNDS / SHAPES for t in padded]
    rows = [
        ("padded, compiled once", 1, compiling, None, None, None, None),
        ("padded, then", SHAPES, sum(padded), 1e3 * median(each), 1e3 * min(each), 1.0, None),
        (
            "unpadded, jax.jit per shape",
            ROUNDS,
            sum(unpadded),
            1e3 * median(unpadded),
            1e3 * min(unpadded),
            ratio(unpadded, each),
            max(differences),
        ),
    ]
    table(("oracle", "shapes", "seconds", "median ms per shape", "min ms per shape", "× padded", "apart"), rows)


if __name__ == "__main__":
    main()
