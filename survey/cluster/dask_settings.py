"""dask's settings while a survey uses a cluster: dask's own defaults, ours, and of the user's those that are honoured.

A setting of the user's, made for other work, can end a cluster at its start (a preload that is missing, a link with a
variable that is not set) or change how it works (limits of memory, times to live). So only `HONOURED` ones have an
effect; deploy files have keys for the rest.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from survey.errors import ConfigError
from survey.messages import shown
from survey.user_files import setting_faults, setting_files, where_set

if TYPE_CHECKING:
    from dask.distributed import Client, Security

CONNECT_SECONDS = 30
BUSY_SECONDS = 120  # a machine with far more work than cores may read a connection later than dask's default allows

STARTED_HERE: dict[str, Any] = {
    # Child processes do the work and the resource memory_gb accounts for their memory; a worker itself stays small.
    **{f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause", "terminate")},
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    "distributed.comm.timeouts.tcp": f"{BUSY_SECONDS}s",
}
# For workers on other hosts, which read settings there; lists and single values, since a variable adds to a mapping.
ON_HOSTS: dict[str, Any] = {
    **STARTED_HERE,
    **{f"distributed.{who}.preload": [] for who in ("worker", "nanny")},
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.worker.daemon": True,
    "distributed.admin.event-loop": "tornado",
}

LINK, FOLDER, ENCRYPTION = "distributed.dashboard.link", "temporary-directory", "distributed.comm.require-encryption"
SCHEME, CERTIFICATES = "distributed.comm.default-scheme", "distributed.comm.tls"
UCX = ("distributed.comm.ucx", "distributed.rmm", "distributed-ucxx")
# Of dask-jobqueue; the rest of a job is described by the deploy file.
OF_JOBS = ("queue", "account", "local-directory", "shebang")
KINDS_OF_JOBS = ("slurm", "pbs")
_FILES = ("ca-file", *(f"{role}.{what}" for role in ("scheduler", "worker", "client") for what in ("cert", "key")))
SECURE = ("tls", "wss")


def load_dask() -> None:
    """Import dask's distributed package.

    Raises
    ------
    ConfigError
        The user's settings of dask do not let it be imported; their files are named.
    """
    faults = setting_faults(os.environ)
    if faults:
        raise ConfigError(faults)
    try:
        import dask.distributed  # noqa: F401
    except ImportError:
        raise
    except Exception as error:  # of many kinds: dask reads its settings as it is imported
        files = [str(path) for path in setting_files("dask", os.environ) if path.is_file()]
        places = ", ".join([*files, *sorted(name for name in os.environ if name.startswith("DASK_"))])
        raise ConfigError(
            f"dask cannot be imported with its settings ({type(error).__name__}: {str(error)[:300]}). They are in "
            f"{places or 'none of its files'}: correct or remove what it names."
        ) from error


def users(key: str) -> Any:
    """A setting of dask as the user has it; None where there is none."""
    import dask

    try:
        return dask.config.get(key, default=None)
    except (TypeError, AttributeError):  # a value in place of a section
        return None


def wants_encryption() -> bool:
    """Whether the user's settings of dask ask for encrypted connections."""
    return bool(users(ENCRYPTION)) or users(SCHEME) in SECURE


@contextlib.contextmanager
def applied(encrypted: bool, roles: Collection[str] = ("client",)) -> Iterator[Security]:
    """Replace the user's settings of dask, in this process, by dask's defaults and what is honoured.

    Parameters
    ----------
    encrypted : use the certificates of the user's settings
    roles : 'scheduler' and 'worker' too where they are started by this process

    Returns
    -------
    security : of these settings

    Raises
    ------
    ConfigError
        A setting that is honoured cannot be used; it is named, and so is the file that holds it.
    """
    import dask
    from dask.distributed import Security

    settings = _settings(encrypted, _temporary_folder() if "scheduler" in roles else None)
    with dask.config.set(settings):
        if encrypted:
            _check_certificates(roles)
        try:
            security = Security()
            for role in roles if encrypted else ():
                security.get_connection_args(role)  # reads the files
        except (OSError, TypeError, ValueError) as error:
            raise _fault(CERTIFICATES, f"the certificates cannot be used ({error})") from error
        yield security


def _settings(encrypted: bool, folder: str | None) -> dict[str, Any]:
    """Whole sections of settings, for ``dask.config.set``."""
    import dask

    settings = dask.config.merge(*dask.config.defaults)
    chosen: dict[str, Any] = {LINK: _link(), FOLDER: folder, ENCRYPTION: encrypted or None}
    chosen[SCHEME] = "tls" if encrypted else "tcp"
    if encrypted:
        named = users(CERTIFICATES) or {}
        if not isinstance(named, Mapping):
            raise _fault(CERTIFICATES, f"expected names and values, found {shown(named)}")
        chosen[CERTIFICATES] = dask.config.merge(settings["distributed"]["comm"]["tls"], named)
    chosen |= {key: value for key in UCX if (value := users(key)) is not None}
    for kind in KINDS_OF_JOBS if "jobqueue" in settings else ():
        for name in OF_JOBS:
            value = users(f"jobqueue.{kind}.{name}")
            if value is not None and not (isinstance(value, str) and value.isprintable()):
                raise _fault(f"jobqueue.{kind}.{name}", f"expected text, found {shown(value)}")
            if value is not None:
                chosen[f"jobqueue.{kind}.{name}"] = value
    dask.config.set(chosen, config=settings)
    return settings


def _link() -> str:
    """Template of the dashboard's link; the default one where the user's has a variable that is not set."""
    import dask

    default = dask.config.get(LINK, config=dask.config.merge(*dask.config.defaults))
    template = users(LINK)
    known: Mapping[str, Any] = {**os.environ, "scheme": "http", "host": "127.0.0.1", "port": 8787}
    try:
        return template if template.format(**known) else default
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        return str(default)


def _temporary_folder() -> str | None:
    """The user's folder for dask's files; None for the system's.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    found = users(FOLDER)
    if not found:
        return None
    try:
        os.makedirs(found, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=found):
            return str(found)
    except (OSError, TypeError, ValueError) as error:
        raise _fault(FOLDER, f"{shown(found)}: {getattr(error, 'strerror', None) or error}") from error


def dashboard_link(client: Client) -> str:
    """Link of the dashboard of a client's scheduler; empty when it has none."""
    try:
        return str(client.dashboard_link or "")
    except (KeyError, IndexError, ValueError, AttributeError):  # no dashboard, or a variable that is not set
        pass
    services = client.scheduler_info(n_workers=0).get("services", {})
    if "dashboard" not in services:
        return ""
    host = client.scheduler.address.partition("://")[2].rpartition(":")[0]
    return f"http://{host}:{services['dashboard']}/status"


def _check_certificates(roles: Collection[str]) -> None:
    """Check the files of certificates that the user's settings name.

    Raises
    ------
    ConfigError
        A file is not named, or cannot be read.
    """
    needed = [name for name in _FILES if name == "ca-file" or name.partition(".")[0] in roles]
    for name in needed:
        key = f"{CERTIFICATES}.{name}"
        path = users(key)
        if path is None and name.endswith(".key"):  # may be in the certificate's file
            continue
        try:
            with open(path, "rb"):
                pass
        except (OSError, TypeError, ValueError) as error:
            if path is None:
                asks = next((name for name in (ENCRYPTION, SCHEME) if where_set(name, os.environ)), ENCRYPTION)
                raise _fault(asks, f"asks for encryption, but {key}: no file is named") from error
            raise _fault(key, f"{shown(path)}: {getattr(error, 'strerror', None) or error}") from error


def _fault(key: str, problem: str) -> ConfigError:
    place = where_set(key, os.environ)
    return ConfigError(f"dask's setting {key}{f' in {place}' if place else ''}: {problem}. Correct or remove it.")


def as_variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the environment variables in which dask reads them, for processes on other hosts."""
    return {f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(value) for name, value in settings.items()}
