"""Dask: the executor of a Dask scheduler, or of a cluster of processes on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor

from .stream import CampaignError

LOCAL = "local"
CONNECT_SECONDS = "10s"


@contextlib.contextmanager
def executor(address: str, workers: int | None = None) -> Iterator[tuple[Executor, int]]:
    """The executor of the scheduler at an address (tcp://HOST:PORT), or of one that is started here ("local"), and how many workers
    it has. Raises CampaignError where Dask is not installed or does not answer."""
    try:
        from distributed import Client
    except ImportError:
        line = "pip install 'lstm-ref[campaign]'"
        raise CampaignError(f"--scheduler needs Dask distributed, which is not installed; install it with: {line}") from None
    with contextlib.ExitStack() as stack:
        try:
            if address == LOCAL:
                client = stack.enter_context(Client(stack.enter_context(cluster(workers))))
            else:
                client = stack.enter_context(Client(address, timeout=CONNECT_SECONDS))
        except (OSError, TimeoutError, ValueError) as error:
            raise CampaignError(f"no Dask scheduler answers at {address!r} ({error}); an address is due such as tcp://host:8786") from None
        threads = sum(client.nthreads().values())
        if not threads:
            raise CampaignError(f"the Dask scheduler at {address!r} has no workers; start one with: dask worker {address}")
        yield client.get_executor(pure=False), workers or threads


def cluster(workers: int | None = None):
    """A `distributed.LocalCluster` of processes of one thread. Dask would have them hand back memory after every case (glibc's
    MALLOC_TRIM_THRESHOLD_), which takes an eighth of a small case's time."""
    import dask
    from distributed import LocalCluster

    with dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}):
        return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
