"""Where a run happens: a local cluster sized for this machine, any dask scheduler, or what a deploy file says.

Whoever reaches a scheduler runs code on it: one that is not on loopback is spoken to over TLS, with a certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import psutil
import yaml
from dask.distributed import Client, Nanny, Scheduler, Security, SpecCluster
from dask.system import CPU_COUNT
from distributed.comm import connect as open_comm
from distributed.system import MEMORY_LIMIT

from survey.cluster import tls as certificates
from survey.cluster.capacity import Promise, publish
from survey.cluster.deploy import (
    CLUSTER_ADDRESS,
    RESOURCE,
    AddressSite,
    BatchSite,
    KubernetesSite,
    LocalSite,
    SiteConfig,
    load_site,
    site_of,
)
from survey.credentials import hidden
from survey.errors import ConfigError, ServiceUnreachableError

# What is left to the operating system, the scheduler and the client.
RESERVE_GB = 1.5
CONNECT_SECONDS = 30
BUSY_SECONDS = 120  # a machine with far more to do than cores may leave a connection unread for longer than dask bears
ENCRYPTED = ("tls", "wss")
ROLES = ("scheduler", "worker", "client")
LOST_WORKERS = 20  # that one task may see
# The children do the work and are accounted for by the scheduler's resource; a worker itself stays small.
_MEMORY = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause", "terminate")}
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
        try:
            return _site_faults(where, site_of(where), tls, insecure)
        except ConfigError as error:
            return error.faults
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


def _site_faults(where: str, site: SiteConfig, tls: Path | None, insecure: bool) -> list[str]:
    """What is wrong with the cluster of a deploy file, beyond its keys."""
    if isinstance(site, LocalSite):
        return address_faults("local", tls)
    if isinstance(site, BatchSite):
        return _interface_faults(where, site, tls or site.tls, insecure)
    address = _address_of(where, site)
    return [fault.replace("--cluster ", f"{where}: ") for fault in address_faults(address, tls or _tls(site), insecure)]


def _interface_faults(where: str, site: BatchSite, tls: Path | None, insecure: bool) -> list[str]:
    """A scheduler that other hosts reach needs certificates."""
    found = psutil.net_if_addrs()
    if site.interface not in found:
        return [f"{where}: interface {site.interface!r} is none of this host's: {', '.join(sorted(found))}."]
    if tls is not None:
        return certificates.faults(tls, ("scheduler", "worker", "client"))
    hosts = [item.address for item in found[site.interface] if item.family == socket.AF_INET]
    if insecure or all(map(_is_loopback, hosts)):
        return []
    return [
        f"{where}: interface {site.interface!r} is seen by other hosts; whoever reaches a scheduler runs code on it. "
        "Write 'tls: DIR' ('survey tls DIR' makes one), or add --insecure on a network of your own."
    ]


def _tls(site: SiteConfig) -> Path | None:
    return site.tls if isinstance(site, AddressSite | KubernetesSite | BatchSite) else None


def _address_of(where: object, site: SiteConfig) -> str:
    """Of the scheduler of a deploy file that names one that is there.

    Raises
    ------
    ConfigError
        Its scheduler_file cannot be read, or is none.
    """
    if isinstance(site, KubernetesSite):
        return f"tls://{site.name}-scheduler.{site.namespace}.svc:8786"
    if isinstance(site, AddressSite) and site.scheduler_file is not None:
        what = f"{where}: scheduler_file {site.scheduler_file}"
        try:
            facts = json.loads(site.scheduler_file.read_bytes())
        except OSError as error:
            raise ConfigError(f"{what} cannot be read: {error.strerror}. Start the scheduler that writes it.") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{what} is no JSON: {error}. 'dask scheduler --scheduler-file' writes one.") from None
        address = facts.get("address") if isinstance(facts, dict) else None
        if not isinstance(address, str) or not CLUSTER_ADDRESS.fullmatch(address):
            raise ConfigError(f"{what} holds no address such as tcp://10.0.0.1:8786: found {str(address)[:80]!r}.")
        return address
    return str(site.address) if isinstance(site, AddressSite) else ""


def starts_workers(where: str | None) -> bool:
    """Whether the workers of ``--cluster`` are started from here, and so are ours to end."""
    return isinstance(site_of(where), LocalSite | BatchSite)


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
    where : None or 'local', an address such as tcp://127.0.0.1:8786, or a deploy file
    small_gb, large_gb : see `local_sizes`
    log : file for what a local cluster has to say of itself; default: nowhere
    tls : folder of certificates for a tls:// address, as `survey.cluster.tls.make` makes it
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
    site = site_of(where)
    guard = security(tls or _tls(site), ROLES if isinstance(site, BatchSite) else ("client",))
    with hidden(), _quiet(log):
        if isinstance(site, LocalSite):
            opened = _local(site, small_gb, large_gb)
        elif isinstance(site, BatchSite):
            opened = _batch(site, (log or Path("cluster.log")).parent / "jobs", guard)
        else:
            opened = _address(_address_of(where, site), guard)
        with opened as client:
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
    if log is not None and log.is_symlink():  # its lines go nowhere but into the workspace
        log.unlink()
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
def _local(site: LocalSite, small_gb: float, large_gb: float) -> Iterator[Client]:
    # dask's own figures heed the limits of a container or a batch job, not only the machine's.
    sizes = [group.memory_gb for group in site.groups.values() for _ in range(group.maximum)]
    sizes = sizes or local_sizes(small_gb, large_gb, CPU_COUNT, MEMORY_LIMIT / 1e9)
    settings = {
        **_MEMORY,
        "distributed.scheduler.no-workers-timeout": "10 minutes",
        # A worker that was killed is started anew; on a busy machine that takes longer than the 15 s after which dask
        # gives its place up for good.
        "distributed.deploy.lost-worker-timeout": "1 hour",
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
        "distributed.comm.timeouts.tcp": f"{BUSY_SECONDS}s",
        # Looking at itself twice a second was a tenth of what scheduling costs.
        "distributed.admin.system-monitor.interval": "2s",
        # Workers read their logging from here as they are started, before anything else is told to them.
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            "DASK_LOGGING__DISTRIBUTED": "critical",
        },
    }
    environment = {"USER": os.environ.get("USER") or "survey"} | site.worker_environment
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "env": environment}
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        # dask's own place has the same name for everybody, below /tmp, and workers import from it.
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="survey-", dir=site.scratch, ignore_cleanup_errors=True)
        )
        options["local_directory"] = scratch
        workers = {
            number: {"cls": Nanny, "options": {**options, "resources": {RESOURCE: size}}}
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
def _batch(site: BatchSite, logs: Path, guard: Security) -> Iterator[Client]:
    from survey.cluster.batch import GRACE_SECONDS, BatchCluster

    encrypted = guard.require_encryption
    settings = {
        **_MEMORY,
        # For a size of workers that never comes; when none comes at all, the cluster says so before.
        "distributed.scheduler.no-workers-timeout": f"{site.start_timeout + GRACE_SECONDS}s",
        # Children hold what could kill a worker: one that is lost was ended by its batch system, and tells nothing.
        "distributed.scheduler.allowed-failures": LOST_WORKERS,
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
        "distributed.comm.timeouts.tcp": f"{BUSY_SECONDS}s",
    }
    scheduler = {
        "interface": site.interface,
        "dashboard_address": "127.0.0.1:8787",
        "dashboard": True,
        **({"protocol": "tls://", "security": guard} if encrypted else {}),
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        cluster = stack.enter_context(BatchCluster(site, site.logs or logs, scheduler, guard if encrypted else None))
        client = stack.enter_context(Client(cluster, set_as_default=False, security=guard))
        publish(client, Promise(cluster.capacity_gb, cluster.patience_seconds))
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


def preview(path: Path, workspace: str, tls: Path | None = None) -> dict[str, str]:
    """What a deploy file would submit: the name of each job script or manifest, and its text.

    Parameters
    ----------
    workspace : whose logs/jobs the jobs write to, unless the file says otherwise
    tls : in place of the file's
    """
    site = load_site(path)
    if isinstance(site, BatchSite):
        from survey.cluster.job_scripts import job_scripts

        folder = tls or site.tls
        guard = None if folder is None else security(folder, ROLES)
        return job_scripts(site, str(site.logs or f"{workspace}/logs/jobs"), guard)
    if isinstance(site, KubernetesSite):
        from survey.cluster.pods import manifests

        named = {f"{item['kind']} {item['metadata']['name']}": item for item in manifests(site)}
        return {name: yaml.safe_dump(item, sort_keys=False) for name, item in named.items()}
    if isinstance(site, LocalSite):
        sizes = [f"{group.maximum} x {group.memory_gb:g} GB" for group in site.groups.values()]
        return {"workers": f"processes on this machine: {', '.join(sizes) or 'as many as cores and memory allow'}\n"}
    return {"address": f"nothing is submitted; the scheduler is at {_address_of(path, site)}\n"}


def dashboard(client: Client) -> str:
    """Link of the scheduler's dashboard."""
    return str(client.dashboard_link)
