"""A cluster of worker processes on this machine, sized for its cores and memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import dask
from dask.distributed import Client, Nanny, Scheduler, Security, SpecCluster
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from survey.cluster.dask_settings import FOLDER, STARTED_HERE
from survey.cluster.deploy import RESOURCE, LocalSite
from survey.errors import ClusterError

RESERVE_GB = 1.5  # left to the operating system, the scheduler and the client
START_SECONDS = 120  # for all workers together


def local_sizes(small_gb: float, large_gb: float, cores: int, total_gb: float) -> list[float]:
    """Memory of each local worker [GB], the largest first.

    Parameters
    ----------
    small_gb : largest task of an exposure
    large_gb : largest task of all; one worker must hold it
    cores : workers at most
    total_gb : memory of the machine

    Returns
    -------
    sizes : as many as cores and memory allow, at least one; their sum is the machine's memory without the reserve
    """
    budget = max(total_gb - RESERVE_GB, 1.0)
    count = max(1, min(cores, int(budget // max(small_gb, 0.1))))
    while count > 1 and budget - (count - 1) * small_gb < large_gb and large_gb <= budget:
        count -= 1
    return [round(budget - (count - 1) * small_gb, 3), *[small_gb] * (count - 1)]


@contextlib.contextmanager
def local_client(site: LocalSite, small_gb: float, large_gb: float, security: Security) -> Iterator[Client]:
    """Start the workers of a local deploy file and open a client of them; both end together.

    Parameters
    ----------
    small_gb, large_gb : see `local_sizes`; for a deploy file without groups
    security : certificates; connections are encrypted where it requires it

    Raises
    ------
    ClusterError
        The scheduler or a worker does not start.
    """
    # dask's own figures are the limits of a container or a batch job where there are any, else the machine's.
    sizes = [group.memory_gb for group in site.groups.values() for _ in range(group.maximum)]
    sizes = sizes or local_sizes(small_gb, large_gb, CPU_COUNT, MEMORY_LIMIT / 1e9)
    environment = {"USER": os.environ.get("USER") or "survey"} | site.worker_environment
    protocol = {"protocol": "tls://" if security.require_encryption else "tcp://", "security": security}
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "env": environment, **protocol}
    scheduler = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "dashboard": True, **protocol}
    with dask.config.set(_settings()), contextlib.ExitStack() as stack:
        # dask's default folder below /tmp has the same name for every user, and workers import from it.
        folder = tempfile.TemporaryDirectory(
            prefix="survey-", dir=site.scratch or dask.config.get(FOLDER), ignore_cleanup_errors=True
        )
        options["local_directory"] = scheduler["local_directory"] = stack.enter_context(folder)
        workers = {
            number: {"cls": Nanny, "options": {**options, "resources": {RESOURCE: size}}}
            for number, size in enumerate(sizes)
        }
        try:
            cluster = stack.enter_context(
                SpecCluster(
                    workers=workers,
                    scheduler={"cls": Scheduler, "options": scheduler},
                    security=security,
                    name="survey",
                    asynchronous=False,
                )
            )
            client = stack.enter_context(Client(cluster, set_as_default=False, security=security))
            client.wait_for_workers(len(sizes), timeout=START_SECONDS)
        except Exception as error:  # of many kinds, from dask and what it runs
            cause = " ".join(str(error).split())[:400]
            raise ClusterError(f"workers on this machine did not start ({type(error).__name__}: {cause}).") from error
        yield client


def _settings() -> dict[str, Any]:
    """dask's settings while a local cluster runs."""
    return {
        **STARTED_HERE,
        "distributed.scheduler.no-workers-timeout": "10 minutes",
        # A worker that was killed is started again; on a busy machine that takes longer than the 15 s after which dask
        # gives it up for good.
        "distributed.deploy.lost-worker-timeout": "1 hour",
        # The default, twice a second, was a tenth of the cost of scheduling.
        "distributed.admin.system-monitor.interval": "2s",
        # Workers read their logging settings from here when they start, before any other setting reaches them.
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "DASK_LOGGING__DISTRIBUTED": "critical",
        },
    }
