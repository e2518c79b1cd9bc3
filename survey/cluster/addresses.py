"""Check ``--cluster``, ``--tls`` and ``--insecure`` before anything starts, and find the scheduler's address.

Anyone who can connect to a scheduler can run code on it, so a scheduler that is not on loopback requires TLS.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from pathlib import Path

from survey.cluster import tls as certificates
from survey.cluster.dask_settings import CERTIFICATES, ENCRYPTION, SECURE, load_dask, users, wants_encryption
from survey.cluster.deploy import (
    CLUSTER_ADDRESS,
    AddressSite,
    BatchSite,
    KubernetesSite,
    LocalSite,
    SiteConfig,
)
from survey.cluster.deploy_file import site_of
from survey.errors import ConfigError

ANYONE = "Anyone who can connect to a scheduler can run code on it."


def cluster_faults(where: str | None, tls: Path | None = None, insecure: bool = False) -> list[str]:
    """Faults of ``--cluster`` and of the options that belong to it; empty when a run may start.

    Parameters
    ----------
    where, tls, insecure : as for `survey.cluster.connect.connect`
    """
    try:
        load_dask()
    except ConfigError as error:
        return error.faults
    if where is None or where == "local":
        return [] if tls is None else [f"--tls {tls}: needs an address, such as --cluster tls://host:8786."]
    if CLUSTER_ADDRESS.fullmatch(where):
        return _address_faults(where, tls, insecure)
    try:
        site = site_of(where)
        if isinstance(site, LocalSite):
            return cluster_faults("local", tls)
        if isinstance(site, BatchSite):
            return _interface_faults(where, site, tls or site.tls, insecure)
        found = _address_faults(scheduler_address(where, site), tls or certificate_folder(site), insecure)
    except ConfigError as error:
        return error.faults
    return [fault.replace("--cluster ", f"{where}: ") for fault in found]


def certificate_folder(site: SiteConfig) -> Path | None:
    """Folder of certificates that a deploy file names; None where it names none."""
    return site.tls if isinstance(site, AddressSite | KubernetesSite | BatchSite) else None


def scheduler_address(where: object, site: SiteConfig) -> str:
    """Address of the scheduler of a deploy file that starts none itself.

    Parameters
    ----------
    where : name of the deploy file, for messages

    Raises
    ------
    ConfigError
        The deploy file's scheduler_file cannot be read, or holds no address.
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
            raise ConfigError(f"{what} is not JSON: {error}. 'dask scheduler --scheduler-file' writes one.") from None
        address = facts.get("address") if isinstance(facts, dict) else None
        if not isinstance(address, str) or not CLUSTER_ADDRESS.fullmatch(address):
            raise ConfigError(f"{what} holds no address such as tcp://10.0.0.1:8786: found {str(address)[:80]!r}.")
        return address
    return str(site.address) if isinstance(site, AddressSite) else ""


def _address_faults(address: str, tls: Path | None, insecure: bool) -> list[str]:
    """Faults of a scheduler's address: encrypted without certificates, or on another host and not encrypted."""
    match = CLUSTER_ADDRESS.fullmatch(address)
    assert match is not None
    safe = f"tls://{address.partition('://')[2]}"
    if match["protocol"] in SECURE:
        if tls is not None:
            return certificates.faults(tls)
        if users(f"{CERTIFICATES}.ca-file"):
            return []
        return [f"--cluster {address}: needs the deployment's certificates: --tls DIR ('survey tls DIR' makes them)."]
    if tls is not None:
        return [f"--cluster {address}: is not encrypted, so --tls {tls} has no effect; write {safe}."]
    if users(ENCRYPTION):
        return [f"--cluster {address}: is not encrypted, but dask's setting {ENCRYPTION} asks for it; write {safe}."]
    if insecure or _is_loopback(match["host"] or match["ipv6"]):
        return []
    return [
        f"--cluster {address}: on another host and not encrypted. {ANYONE} "
        f"Write {safe} with --tls DIR ('survey tls DIR' makes one), or add --insecure on a private network."
    ]


def _interface_faults(where: str, site: BatchSite, tls: Path | None, insecure: bool) -> list[str]:
    """Faults of a batch cluster's network interface: it is missing, or others see it and there are no certificates."""
    import psutil

    addresses = psutil.net_if_addrs()
    known = ", ".join(sorted(addresses))
    faults = []
    if site.interface not in addresses:
        faults.append(f"{where}: interface {site.interface!r} is not one of this host: {known}.")
    if tls is not None:
        return faults + certificates.faults(tls, certificates.ROLES)
    if wants_encryption():
        return faults
    hosts = [item.address for item in addresses.get(site.interface, []) if item.family == socket.AF_INET]
    if not insecure and not all(map(_is_loopback, hosts)):
        faults.append(
            f"{where}: interface {site.interface!r} is visible to other hosts. {ANYONE} "
            "Write 'tls: DIR' ('survey tls DIR' makes one), or add --insecure on a private network."
        )
    return faults


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
