"""What every test stands on: an environment that no user's settings leak into, and no network but loopback."""

from __future__ import annotations

import ipaddress
import os
import socket

import pytest

# Time limits [s] for tests that set none; pytest's own (pyproject.toml) holds for the unit suite.
TIMEOUTS = {"whole": 900, "pipeline": 600, "slow": 300}

# Read at import by crds, astropy and astroquery: gone before any test module is imported.
for _name in (
    "ASTROPY_CONFIG_DIR",
    "ASTROPY_CACHE_DIR",
    "CRDS_PATH",
    "CRDS_CONTEXT",
    "CRDS_SERVER_URL",
    "CRDS_READONLY_CACHE",
    "MAST_API_TOKEN",
    "SURVEY_ARCHIVE_URL",
    "SURVEY_CRDS_URL",
    "PYTHONWARNINGS",
):
    os.environ.pop(_name, None)

# Child processes cannot be patched; a proxy that does not exist keeps them off the network.
for _name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[_name] = "http://127.0.0.1:9"
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = "localhost,127.0.0.1,::1"


class NetworkForbiddenError(RuntimeError):
    """A test reached for an address that is not loopback."""


def _is_loopback(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in ("", None, "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(name).split("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(host: object) -> None:
    raise NetworkForbiddenError(f"a test reached for {host!r}; tests talk to servers on 127.0.0.1 alone.")


@pytest.fixture(autouse=True, scope="session")
def loopback_only():
    """Fail any look-up of, or stream connection to, an address that is not loopback."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(sock, address):
        # Connecting a datagram socket sends nothing: dask asks for this machine's own address that way.
        stream = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
        if stream and not _is_loopback(address[0]):
            _refuse(address)

    def guarded_connect(self, address):
        check(self, address)
        return connect(self, address)

    def guarded_connect_ex(self, address):
        check(self, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host, *args, **kwargs):
        try:
            ipaddress.ip_address(str(host).split("%")[0])  # a number is no look-up
        except ValueError:
            if not _is_loopback(host):
                _refuse(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def pytest_collection_modifyitems(items):
    """Give marked tests the time they need, unless they name their own."""
    for item in items:
        if item.get_closest_marker("timeout"):
            continue
        for marker, seconds in TIMEOUTS.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.timeout(seconds))
                break


from slurm_service import slurm  # noqa: E402, F401
from whole_run import finished, small  # noqa: E402, F401 - shared by all whole runs; behind the environment's cleaning


@pytest.fixture(scope="module")
def client():
    """A scheduler and two one-thread workers in this process, each with 4 GB to give."""
    from dask.distributed import Client, LocalCluster

    from survey.cluster.deploy import RESOURCE
    from survey.execution.children import close_idle

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, resources={RESOURCE: 4.0},
                     dashboard_address="127.0.0.1:0", memory_limit=0) as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):  # fmt: skip
        yield connected
    close_idle()
