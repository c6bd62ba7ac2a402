"""Campaign rate: cases a second on one core, how nearly two workers do twice that to the same bits, what memory does, what H costs.

Judged is the reference (`ref:`, a layer and a model) at the default sizes in float64, as a campaign judges it: autodiff in every case,
differences in a third, the laws and the state checks in a twentieth. One worker, two, and two of a Dask LocalCluster take turns at the
same cases, each pool warm, each with a database of its own; "÷ workers × one" is the median of the ratios round by round. Every worker
is held to a core of its own: one that is alone would have JAX compute on a second one.

Memory is the resident set of the client and of its largest worker, at tenths of a long campaign of the smallest cases. The cost of a
case is the CPU time of judging it by autodiff alone at T = 8, B = 4, D = H, against one forward and backward pass of the candidate.

    python benchmarks/campaign_rate.py [--small] [--plot cost.png]
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from statistics import median

from rounds import installed, table

from lstm_ref.campaign import drive, store

SMALL = "--small" in sys.argv
CASES, ROUNDS, LONG = (60, 1, 300) if SMALL else (10_000, 3, 100_000)
COSTS = (32, 64) if SMALL else (32, 64, 128, 256, 512)
REPEATS = 3 if SMALL else 7


def pool(workers: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, spawn, on_a_core, (spawn.Value("i"),))


def on_a_core(taken) -> None:
    """A worker takes the next core."""
    with taken.get_lock():
        held(taken.value)
        taken.value += 1
    drive.at_work()


def held(n: int) -> None:
    """Hold all threads of this process, and those to come, to the n-th of its cores."""
    cores = sorted(os.sched_getaffinity(0))
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {cores[n % len(cores)]})


@contextlib.contextmanager
def dask(workers: int):
    """The executor of a LocalCluster, each of its workers on a core of its own."""
    from distributed import Client

    from lstm_ref.campaign.dask import cluster

    with cluster(workers) as started, Client(started) as client:
        for n, address in enumerate(client.nthreads()):
            client.run(held, n, workers=[address])
        yield client.get_executor(pure=False)


def rates(folder: pathlib.Path) -> list[tuple]:
    """Cases a second with one worker, with two, and with two of Dask, in turns; the cases that all judge the same to the last bit."""
    with contextlib.ExitStack() as stack:
        hands = {name: (stack.enter_context(pool(n)), n) for name, n in (("one worker", 1), ("two workers", 2))}
        if installed("distributed"):
            hands["two workers of Dask"] = (stack.enter_context(dask(2)), 2)
        found: dict[str, list[float]] = {name: [] for name in hands}
        for name, (pooled, n) in hands.items():  # compile, and fill the caches
            drive.run(["ref:"], 40 * n, folder / f"warm {name}.db", executor=pooled, workers=n)
        same = CASES
        for turn in range(ROUNDS):
            paths = {name: folder / f"{turn} {name}.db" for name in hands}
            for name, (pooled, n) in hands.items():
                found[name].append(drive.run(["ref:"], CASES, paths[name], executor=pooled, workers=n).rate)
            same = min(same, alike(paths.values()))
    one = found["one worker"]
    shares = {name: median(r / (n * o) for r, o in zip(found[name], one, strict=True)) for name, (_, n) in hands.items()}
    return [(name, CASES, median(r), shares[name], same) for name, r in found.items()]


def alike(paths: Iterable[pathlib.Path]) -> int:
    """How many cases have the same digest of all their evidence in every database."""
    kept = []
    for path in paths:
        with store.open_(path) as opened:
            kept.append(set(opened.db.execute("SELECT k, digest FROM cases")))
    return len(set.intersection(*kept))


def resident(pid: int | str) -> float:
    """MB."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def memory(folder: pathlib.Path) -> list[tuple]:
    """The resident sets as a campaign goes on."""
    rows, due = [], [LONG * n // 10 for n in range(1, 11)]

    def sample(done: int, total: int, what: str) -> None:
        while due and done >= due[0]:
            children = [resident(c.pid) for c in multiprocessing.active_children()]
            rows.append((due.pop(0), resident("self"), max(children)))

    drive.run(["ref:"], LONG, folder / "long.db", sizes="small,T=1,B=1,D=1,H=1,K=2", workers=2, progress=sample)
    return rows


def costs() -> list[tuple]:
    """CPU seconds of one case and of one forward and backward pass, over H."""
    from lstm_ref.campaign.work import one_thread
    from lstm_ref.candidates import contract
    from lstm_ref.candidates.load import load
    from lstm_ref.cases import Spec
    from lstm_ref.judgement.judge import Bench
    from lstm_ref.judgement.run import evidence_of
    from lstm_ref.judgement.tolerances import PRECISIONS
    from lstm_ref.reference.symbols import Sizes

    face, rows = load("ref:")[0], []
    bench = Bench(face, PRECISIONS["float64"], face.make())
    for H in COSTS:
        spec = Spec(Sizes(8, 4, H, H, 2))
        case = bench.case(spec)
        call = contract.prepare(face, case.inputs, bench.precision.dtype)
        with one_thread():
            judged = cpu(lambda: evidence_of(bench, spec, lambda c: True, False, False, False))
            passes = cpu(lambda: contract.run(call, bench.instance, case.cotangents))
        rows.append((H, 1e3 * judged, 1e3 * passes, judged / passes))
    return rows


def cpu(run) -> float:
    """The median CPU seconds, after one call to warm up."""
    run()
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return median(found)


def plot(rows: list[tuple], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog([r[0] for r in rows], [r[3] for r in rows], "o-")
    axes.set(xlabel="H", ylabel="one judged case ÷ one forward and backward pass", title="T = 8, B = 4, D = H")
    figure.savefig(path)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        table(("", "cases", "cases/s", "÷ workers × one", "same bits in all"), rates(pathlib.Path(folder)))
        print()
        table(("cases so far", "client MB", "worker MB"), memory(pathlib.Path(folder)))
    print()
    rows = costs()
    table(("H", "case ms", "pass ms", "case ÷ pass"), rows)
    if "--plot" in sys.argv:
        plot(rows, sys.argv[sys.argv.index("--plot") + 1])


if __name__ == "__main__":
    main()
