"""Where a run happens: a local cluster sized for this machine, or the address of any dask scheduler.

Whoever reaches a scheduler runs code on it: one that is not on loopback is spoken to over TLS, with a certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
from dask.distributed import Client, Nanny, Scheduler, Security, SpecCluster
from dask.system import CPU_COUNT
from distributed.comm import connect as open_comm
from distributed.system import MEMORY_LIMIT

from survey import tls as certificates
from survey.config import CLUSTER_ADDRESS
from survey.errors import ConfigError, ServiceUnreachableError
from survey.graph import RESOURCE

# What is left to the operating system, the scheduler and the client.
RESERVE_GB = 1.5
CONNECT_SECONDS = 30
ENCRYPTED = ("tls", "wss")
# Loggers of what runs a cluster in this process.
_LOGGERS = ("distributed", "tornado", "asyncio")


def local_sizes(small_gb: float, large_gb: float, cores: int, total_gb: float) -> list[float]:
    """Memory of each local worker [GB], the first the largest.

    Parameters
    ----------
    small_gb : largest task of an exposure
    large_gb : largest task of all; one worker must hold it
    cores : workers at most
    total_gb : memory of the machine

    Returns
    -------
    sizes : as many as cores and memory allow, at least one; their sum is what the machine has left for them
    """
    budget = max(total_gb - RESERVE_GB, 1.0)
    count = max(1, min(cores, int(budget // max(small_gb, 0.1))))
    while count > 1 and budget - (count - 1) * small_gb < large_gb and large_gb <= budget:
        count -= 1
    return [round(budget - (count - 1) * small_gb, 3), *[small_gb] * (count - 1)]


def address_faults(where: str | None, tls: Path | None = None, insecure: bool = False) -> list[str]:
    """What is wrong with where a run shall happen; arguments as those of `connect`."""
    if where is None or where == "local":
        return [] if tls is None else [f"--tls {tls}: goes with an address, such as --cluster tls://host:8786."]
    match = CLUSTER_ADDRESS.fullmatch(where)
    if match is None:
        return [f"--cluster {where}: expected 'local' or an address such as tcp://127.0.0.1:8786."]
    safe = f"tls://{where.partition('://')[2]}"
    if match["protocol"] in ENCRYPTED:
        if tls is not None:
            return certificates.faults(tls)
        if Security().tls_ca_file:  # of dask's own configuration
            return []
        return [f"--cluster {where}: needs the deployment's certificates: --tls DIR ('survey tls DIR' makes them)."]
    if tls is not None:
        return [f"--cluster {where}: is not encrypted, and --tls {tls} of no use there; write {safe}."]
    if insecure or _is_loopback(match["host"] or match["ipv6"]):
        return []
    return [
        f"--cluster {where}: not this host and not encrypted: whoever reaches that scheduler runs code on it. "
        f"Write {safe} with --tls DIR ('survey tls DIR' makes one), or add --insecure on a network of your own."
    ]


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def connect(
    where: str | None,
    small_gb: float = 3.0,
    large_gb: float = 3.0,
    log: Path | None = None,
    *,
    tls: Path | None = None,
    insecure: bool = False,
) -> Iterator[Client]:
    """A client of the cluster that ``--cluster`` names; it ends what it started.

    Parameters
    ----------
    where : None or 'local', or an address such as tcp://127.0.0.1:8786
    small_gb, large_gb : see `local_sizes`
    log : file for what a local cluster has to say of itself; default: nowhere
    tls : folder of certificates for a tls:// address, as `survey.tls.make` makes it
    insecure : take an address without TLS that is not loopback

    Raises
    ------
    ConfigError
        As `address_faults` says.
    ServiceUnreachableError
        No scheduler answers at the address.
    """
    faults = address_faults(where, tls, insecure)
    if faults:
        raise ConfigError(faults)
    if where is None or where == "local":
        with _quiet(log), _local(small_gb, large_gb) as client:
            yield client
    else:
        with _address(where, security(tls)) as client:
            yield client


def security(tls: Path | None, roles: Iterable[str] = ("client",)) -> Security:
    """dask's Security of a folder of certificates; without one, what dask's own configuration says.

    Parameters
    ----------
    roles : 'scheduler' and 'worker' as well for whoever starts these itself
    """
    if tls is None:
        return Security()
    return Security(require_encryption=True, **certificates.settings(tls, roles))


@contextlib.contextmanager
def _quiet(log: Path | None) -> Iterator[None]:
    """Keep dask's own words off the terminal: what became of a task is in its record, and said by the run."""
    handler = logging.NullHandler() if log is None else logging.FileHandler(log, delay=True, encoding="utf-8")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


@contextlib.contextmanager
def _local(small_gb: float, large_gb: float) -> Iterator[Client]:
    # dask's own figures heed the limits of a container or a batch job, not only the machine's.
    sizes = local_sizes(small_gb, large_gb, CPU_COUNT, MEMORY_LIMIT / 1e9)
    settings = {
        # The children do the work and are accounted for by the scheduler's resource; a worker itself stays small.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.scheduler.no-workers-timeout": "10 minutes",
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
        # Workers read their logging from here as they are started, before anything else is told to them.
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "DASK_LOGGING__DISTRIBUTED": "critical",
        },
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        workers = {
            number: {
                "cls": Nanny,
                "options": {
                    "nthreads": 1,
                    "resources": {RESOURCE: size},
                    "memory_limit": 0,
                    "host": "127.0.0.1",
                },
            }
            for number, size in enumerate(sizes)
        }
        scheduler = {
            "cls": Scheduler,
            "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "dashboard": True},
        }
        cluster = stack.enter_context(
            SpecCluster(workers=workers, scheduler=scheduler, name="survey", asynchronous=False)
        )
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.wait_for_workers(len(sizes), timeout=120)
        yield client


@contextlib.contextmanager
def _address(where: str, guard: Security) -> Iterator[Client]:
    try:
        # In a thread of its own: the caller may be in an event loop already, as notebooks are.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _ask_identity(where, guard)).result()
        client = Client(where, timeout=CONNECT_SECONDS, set_as_default=False, security=guard)
    except (OSError, TimeoutError, ValueError) as error:
        hint = ", or it believes another authority than --tls" if where.startswith(ENCRYPTED) else ""
        raise ServiceUnreachableError(f"--cluster {where}: no dask scheduler answers there{hint} ({error}).") from error
    with client:
        yield client


async def _ask_identity(where: str, guard: Security) -> None:
    """Ask a scheduler who it is, and take no answer within the limit for none.

    A Client asks the same, but its reads have no limit: what accepts connections and is no scheduler holds it for ever.
    """
    async with asyncio.timeout(CONNECT_SECONDS):
        comm = await open_comm(where, timeout=CONNECT_SECONDS, **guard.get_connection_args("client"))
        try:
            await comm.write({"op": "identity", "reply": True})
            await comm.read()
        finally:
            comm.abort()


def dashboard(client: Client) -> str:
    """Link of the scheduler's dashboard."""
    return str(client.dashboard_link)
