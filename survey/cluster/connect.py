"""Connect to the cluster that ``--cluster`` names; start it first where it is a local cluster or one of batch jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dask.distributed import Client, Security
from distributed.comm import connect as open_comm

from survey.cluster import tls as certificates
from survey.cluster.addresses import certificate_folder, cluster_faults, scheduler_address
from survey.cluster.batch import batch_client
from survey.cluster.dask_settings import CONNECT_SECONDS, SECURE, applied, dashboard_link, wants_encryption
from survey.cluster.deploy import BatchSite, LocalSite
from survey.cluster.deploy_file import site_of
from survey.cluster.job_scripts import job_class
from survey.cluster.local import local_client
from survey.credentials import hidden
from survey.errors import ConfigError, ServiceUnreachableError
from survey.isolation import clean_environment

_LOGGERS = ("distributed", "tornado", "asyncio")  # of a cluster that runs in this process


def starts_workers(where: str | None) -> bool:
    """Whether the workers of ``--cluster`` are started, and later ended, by this process."""
    return isinstance(site_of(where), LocalSite | BatchSite)


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
    """Open a client of the cluster that ``--cluster`` names. What was started for it ends with it.

    Parameters
    ----------
    where : None or 'local', an address such as tcp://127.0.0.1:8786, or a deploy file
    small_gb, large_gb : see `survey.cluster.local.local_sizes`
    log : file for the log of a cluster that runs in this process; default: not kept
    tls : folder of certificates for a tls:// address, as `survey.cluster.tls.make` makes it
    insecure : accept an address without TLS that is not loopback

    Raises
    ------
    ConfigError
        The faults that `survey.cluster.addresses.cluster_faults` finds.
    ServiceUnreachableError
        No scheduler answers at the address.
    """
    faults = cluster_faults(where, tls, insecure)
    if faults:
        raise ConfigError(faults)
    site = site_of(where)
    starts = isinstance(site, LocalSite | BatchSite)
    folder = tls or certificate_folder(site)
    roles = certificates.ROLES if starts else ("client",)
    if isinstance(site, BatchSite):
        job_class(site.kind)  # brings the defaults of dask-jobqueue's settings
    encrypted = wants_encryption() if starts else scheduler_address(where, site).startswith(SECURE)
    with hidden(), _quiet(log), applied(encrypted and folder is None, roles) as security:
        if folder is not None:
            security = certificates.security(folder, roles)
        if isinstance(site, LocalSite):
            opened = local_client(site, small_gb, large_gb, security)
        elif isinstance(site, BatchSite):
            opened = batch_client(site, (log or Path("cluster.log")).parent / "jobs", security)
        else:
            opened = _client_at(scheduler_address(where, site), security)
        with clean_environment() if starts else contextlib.nullcontext(), opened as client:
            yield client


def dashboard(client: Client) -> str:
    """Link of the scheduler's dashboard, or 'none'."""
    return dashboard_link(client) or "none"


@contextlib.contextmanager
def _quiet(log: Path | None) -> Iterator[None]:
    """Send dask's log to a file, not the terminal: failures of tasks are in their records, and the run prints them."""
    if log is not None and log.is_symlink():  # write nowhere but in the workspace
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
def _client_at(address: str, security: Security) -> Iterator[Client]:
    """A client of a scheduler that somebody else started."""
    try:
        # In a thread of its own: the caller may be in an event loop already, as notebooks are.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _ask_identity(address, security)).result()
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False, security=security)
    except (OSError, TimeoutError, ValueError) as error:
        hint = ", or it believes another authority than --tls" if address.startswith(SECURE) else ""
        raise ServiceUnreachableError(
            f"--cluster {address}: no dask scheduler answers there{hint} ({error})."
        ) from error
    with client:
        yield client


async def _ask_identity(address: str, security: Security) -> None:
    """Ask a scheduler for its identity; raises TimeoutError when it does not answer within the limit.

    A Client asks the same, but its reads have no limit: a server that accepts connections and is no scheduler would
    hold it forever.
    """
    async with asyncio.timeout(CONNECT_SECONDS):
        comm = await open_comm(address, timeout=CONNECT_SECONDS, **security.get_connection_args("client"))
        try:
            await comm.write({"op": "identity", "reply": True})
            await comm.read()
        finally:
            comm.abort()
