"""Drive: hand batches to an executor, keep what comes back, and lose nothing when a worker, the disk or the user ends it.

Any `concurrent.futures.Executor` will do. Without one, there is a process for every core; where one of them dies, the pool is
started again, what was under way is run again one batch at a time, the case that kills its worker is found by halving, and from
then on the candidates run in processes of their own, in which a crash is a finding with a name.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection
from typing import Any

from . import store as stored
from .store import Progress, Store
from .stream import SIZES, CampaignError, Plan, Subject, parse_dtypes, parse_regimes, parse_sizes
from .work import ERROR, Batch, Found, Row, judge_batch, meet

SEED = 20_261
BATCH_SECONDS = 1.0  # a batch is about so much work: what a kill -9 costs, and how often the database is written
FIRST, LARGEST = 4, 2000  # cases in the first batch and in the largest
AHEAD = 2  # batches for each worker that are under way or wait: what the client holds never grows with the number of cases
PATIENCE = 1800.0  # seconds without a batch after which our own workers are taken for dead
MEMORY_SHARE = 0.7  # of the memory that is available may be taken by the cases under way


@dataclass
class Crew:
    """Who judges: an executor, how to start it again where it is ours, and for how many batches at once."""

    pool: futures.Executor
    workers: int
    start: Callable[[], futures.Executor] | None = None

    def replace(self) -> None:
        """A new pool for a broken one. Raises CampaignError where it is not ours."""
        if self.start is None:
            raise CampaignError("the executor is broken; every batch before is kept; start it again and resume the campaign with it")
        self.end()
        self.pool = self.start()

    def end(self) -> None:
        """End our own pool, whatever its workers are doing."""
        if self.start is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
            for child in _children():
                child.kill()
                child.join()


def run(
    targets: tuple[str, ...] | list[str],
    cases: int,
    db: str | os.PathLike = "campaign.db",
    *,
    sizes: str = SIZES,
    dtypes: str | None = None,
    regimes: str | None = None,
    seed: int | None = None,
    executor: futures.Executor | None = None,
    workers: int | None = None,
    isolate: bool = False,
    memory: float | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    judge: Callable[[Batch], Found] = judge_batch,
    patience: float = PATIENCE,
) -> Progress:
    """Judge cases 0 … `cases` − 1 of targets into a database, and say where it stands. Call it again to go on, or for more cases.

    targets   as on the command line of check
    cases     how many, over all targets, dtypes, regimes and sizes together
    db        the file that keeps them; it is made, or gone on with where it holds the same campaign
    sizes     strata with their turns, and sizes held fixed: "small:9,tiles,real,H=64"
    dtypes    "float64,float32", …; what each target declares where it is None
    regimes   "ordinary,saturated", …; all of them where it is None
    seed      of the stream of cases; case k follows from it, k and the other axes alone
    executor  any concurrent.futures.Executor whose workers can import lstm_ref; processes on this machine where it is None
    workers   how many batches may run at once (default: the cores of this machine)
    isolate   run every LSTM in a process of its own, which may crash or hang
    memory    GiB that one case may take (default: a share of what is available, divided by the workers)
    judge     what judges a batch; another one is for measuring the campaign itself
    patience  seconds without any batch after which a worker of this machine that hangs is killed

    Raises CampaignError (a ValueError) for a campaign that cannot be begun or gone on with, a full disk or a broken executor,
    TargetError for a target that cannot be plugged in.
    """
    path = pathlib.Path(db)
    if not targets or cases < 1:
        raise CampaignError("a campaign needs a target and at least one case")
    with stored.locked(path), crew(executor, workers) as hands:
        strata, held = parse_sizes(sizes)
        asked: dict[str, Any] = {"targets": list(targets), "sizes": sizes, "dtypes": dtypes, "regimes": regimes, "isolate": isolate}
        asked["seed"] = SEED if seed is None else seed
        if path.exists():
            store = stored.open_(path)
            _same(path, asked, store.options)
            store.extend(cases)
        else:
            subjects = [s for t in targets for s in met(hands, t, parse_dtypes(dtypes), isolate)]
            plan = Plan(tuple(subjects), parse_regimes(regimes), strata, held, asked["seed"])
            limit = memory * 2**30 if memory else available() * MEMORY_SHARE / hands.workers
            store = stored.create(path, plan, cases, {**asked, "limit": limit})
        with contextlib.closing(store):
            return _drive(store, hands, judge, progress, patience)


def resume(
    db: str | os.PathLike = "campaign.db",
    *,
    executor: futures.Executor | None = None,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    judge: Callable[[Batch], Found] = judge_batch,
    patience: float = PATIENCE,
) -> Progress:
    """Judge the cases that a database lacks, and say where it stands; raises as `run` does."""
    path = pathlib.Path(db)
    stored.open_(path).close()
    with stored.locked(path), contextlib.closing(stored.open_(path)) as store, crew(executor, workers) as hands:
        return _drive(store, hands, judge, progress, patience)


def status(db: str | os.PathLike = "campaign.db") -> Progress:
    """Where a campaign stands, while it runs too. Raises CampaignError."""
    with contextlib.closing(stored.open_(pathlib.Path(db))) as store:
        return store.progress()


def _same(path: pathlib.Path, asked: dict, known: dict) -> None:
    other = [k for k in asked if asked[k] != known[k]]
    if other:
        what = "; ".join(f"{k} {known[k]!r}, not {asked[k]!r}" for k in other)
        raise CampaignError(
            f"{path} holds another campaign ({what}); go on with it by lstm-ref campaign resume --db {path}, or give --db another file"
        )


def met(hands: Crew, target: str, dtypes: tuple[str, ...] | None, isolate: bool) -> list[Subject]:
    """What is learnt of a target before its first case, by a worker."""
    try:
        told = hands.pool.submit(meet, target, dtypes, isolate).result()
    except futures.BrokenExecutor:  # it takes its process down, so it gets one of its own
        hands.replace()
        told = hands.pool.submit(meet, target, dtypes, True).result()
    found = [Subject(**t) for t in told]
    if problems := [p for s in found for p in s.misjudged]:
        raise CampaignError(f"lstm-ref misjudges gradients that it knows: {'; '.join(problems)}")
    return found


def _drive(store: Store, hands: Crew, judge, progress, patience: float) -> Progress:
    """Judge what is missing. What waits here is a few batches for each worker, however many cases there are."""
    store.begin()
    options, plan, cases = store.options, store.value("plan"), store.cases
    todo, total, done = store.missing(cases), cases, store.count()
    known, isolate, size = store.known(), options["isolate"], FIRST
    under_way: dict[futures.Future, tuple[int, ...]] = {}
    suspects: collections.deque[tuple[int, ...]] = collections.deque()
    progress(done, total, "campaign")
    while True:
        while len(under_way) < (1 if suspects else AHEAD * hands.workers):
            ks = suspects.popleft() if suspects else tuple(islice(todo, size))
            if not ks:
                break
            batch = Batch(plan, ks, known, isolate, options["limit"])
            try:
                under_way[hands.pool.submit(judge, batch)] = ks
            except futures.BrokenExecutor:
                suspects.append(ks)
                suspects.extend(under_way.values())
                under_way.clear()
                hands.replace()
        if not under_way:
            break
        ready, _ = futures.wait(under_way, patience, futures.FIRST_COMPLETED)
        if not ready and hands.start is not None:
            for child in _children():
                child.kill()  # the pool is broken now, and what was under way is run again
            ready, _ = futures.wait(under_way, None, futures.FIRST_COMPLETED)
        alone, broken = len(under_way) == 1, False
        for future in ready:
            ks = under_way.pop(future)
            try:
                found = future.result()
            except (Exception, futures.CancelledError) as error:
                broken |= isinstance(error, futures.BrokenExecutor)
                if not alone:
                    suspects.append(ks)
                elif len(ks) > 1:
                    suspects.extendleft((ks[len(ks) // 2 :], ks[: len(ks) // 2]))
                elif not isolate:
                    isolate = True
                    suspects.appendleft(ks)
                else:
                    told = f"the worker that judged this case ended, twice ({type(error).__name__}: {str(error)[:200]})"
                    done += store.keep(Found([Row(ks[0], ERROR, 0.0, b"", b"", stored.told(told), None)]))
                continue
            done += store.keep(found)
            known |= {(b.subject, b.signature) for b in found.bugs}
            if found.seconds > 0:
                size = min(max(int(len(ks) / found.seconds * BATCH_SECONDS), 1), LARGEST, 4 * size)
            progress(done, total, "campaign")
        if broken:
            suspects.extend(under_way.values())
            under_way.clear()
            hands.replace()
    return store.progress()


# --- workers of our own ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def crew(executor: futures.Executor | None, workers: int | None) -> Iterator[Crew]:
    workers = workers or (getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
    if executor is not None:
        yield Crew(executor, workers)
        return

    def start() -> futures.Executor:
        context = multiprocessing.get_context("spawn")  # a forked JAX hangs
        return futures.ProcessPoolExecutor(workers, context, at_work)

    ours = Crew(start(), workers, start)
    try:
        yield ours
    except BaseException:  # Ctrl-C too: what is under way is not waited for
        ours.end()
        raise
    ours.pool.shutdown()


def at_work() -> None:
    """A worker leaves Ctrl-C to the client, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _children() -> list:
    return multiprocessing.active_children()


def available() -> float:
    """Bytes of memory that are available on this machine."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as lines:
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
