"""Campaign overhead: what scheduling, moving and keeping a case costs, whatever judging it costs.

The judge is one of a fixed cost: it spins for FIXED seconds a case and answers with a row as large as that of a passing case. Measured is
the wall time of the whole campaign times the workers, less what was spun, over the cases: on a Dask LocalCluster of two processes, and
on the processes of our own. "rows/s kept" is how fast the client alone writes rows into SQLite, one transaction a batch: the most
that one client can take from all its workers.

    python benchmarks/campaign_overhead.py [--small]
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
import time

from rounds import installed, table

from lstm_ref.campaign import drive, store
from lstm_ref.campaign.work import Batch, Found, Row

SMALL = "--small" in sys.argv
CASES = 20_000 if SMALL else 1_000_000
FIXED, WORKERS = 0.0005, 2
CHECKS = bytes(6 * 60)  # of a case that sixty checks speak for
DIGEST = bytes(8)


def fixed(batch: Batch) -> Found:
    """Spin for the fixed cost of every case."""
    began = time.perf_counter()
    rows = [Row(k, "pass", 0.5, CHECKS, DIGEST, None, None) for k in batch.ks]
    while time.perf_counter() - began < FIXED * len(batch.ks):
        pass
    return Found(rows, seconds=time.perf_counter() - began)


def measured(name: str, folder: pathlib.Path, executor=None) -> tuple:
    path = folder / f"{name}.db"
    drive.run(["ref:"], 1, path, executor=executor, workers=WORKERS, judge=fixed)  # meet it, and start the workers
    progress = drive.run(["ref:"], CASES, path, executor=executor, workers=WORKERS, judge=fixed)
    with store.open_(path) as opened:
        spun = opened.db.execute("SELECT sum(cpu) FROM sessions WHERE n = 2").fetchone()[0]
    wall = (CASES - 1) / progress.rate
    return name, CASES, progress.rate, 1e6 * (wall * WORKERS - spun) / CASES


def kept(folder: pathlib.Path) -> tuple:
    """Rows a second that the client alone can keep, in batches of a thousand."""
    drive.run(["ref:"], 1, folder / "kept.db", workers=1, judge=fixed)
    with store.open_(folder / "kept.db") as opened:
        opened.begin()
        began = time.perf_counter()
        for first in range(1, CASES, 1000):
            opened.keep(Found([Row(k, "pass", 0.5, CHECKS, DIGEST, None, None) for k in range(first, first + 1000)]))
        rate = CASES / (time.perf_counter() - began)
    return "rows/s kept by the client", CASES, rate, 1e6 / rate


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rows.append(measured("processes of our own", folder))
        if installed("distributed"):
            from lstm_ref.campaign.dask import executor

            with executor("local", WORKERS) as (hands, _):
                rows.append(measured("Dask LocalCluster", folder, hands))
        rows.append(kept(folder))
    table(("", "cases", "cases/s", "µs a case"), rows)


if __name__ == "__main__":
    main()
