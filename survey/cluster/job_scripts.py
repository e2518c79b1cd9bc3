"""Scripts of the batch jobs that start workers, which dask-jobqueue writes from a deploy file."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from typing import Any

from dask.distributed import Security, Status

from survey.cluster.dask_settings import ON_HOSTS, as_variables
from survey.cluster.deploy import RESOURCE, BatchSite
from survey.cluster.groups import JobGroup, clock
from survey.errors import ConfigError
from survey.isolation import PYTHON_OPTIONS

JOB_NAME = "survey"
# Workers import no module from the folder in which the job was submitted, and use none of the user's settings of dask.
ON_NODES = {"PYTHONSAFEPATH": "1", **as_variables(ON_HOSTS)}
CONNECT_SECONDS = 300  # after which a worker that cannot connect to the scheduler ends, and with it its job


def job_options(site: BatchSite, group: JobGroup, logs: str | None) -> dict[str, Any]:
    """Arguments of dask-jobqueue's job class for one group.

    Parameters
    ----------
    site, group : of the deploy file
    logs : folder of the jobs' output
    """
    workers = group.workers_per_job
    lifetime, stagger = group.lifetimes
    quoted = _quoted_logs(site.kind, logs) if logs else []
    options: dict[str, Any] = {
        "cores": workers,  # for dask: one thread per worker process
        "processes": workers,
        "memory": f"{workers * group.asked_gb * 1e9:.0f}B",  # of the whole job
        "job_name": JOB_NAME,
        "queue": group.queue,
        "account": site.account,
        "walltime": clock(group.walltime),
        "interface": site.interface,
        "local_directory": site.scratch and shell_word(site.scratch),
        "python": shell_word(site.python or sys.executable),
        "death_timeout": CONNECT_SECONDS,
        "log_directory": None if quoted else logs,
        "job_extra_directives": [*quoted, *group.directives],
        "job_script_prologue": [
            'export USER="${USER:-survey}"',
            f"unset {' '.join(PYTHON_OPTIONS)}",
            *(f"export {name}={shlex.quote(value)}" for name, value in ON_NODES.items()),
            *(f"export {name}={shlex.quote(value)}" for name, value in site.worker_environment.items()),
            *site.prologue,
        ],
        "worker_extra_args": [
            *("--resources", f"{RESOURCE}={group.memory_gb:g}"),
            *("--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"),
            "--no-dashboard",
        ],
    }
    cores = workers * group.cores
    if site.kind == "slurm":
        options["job_cpu"] = cores
    else:
        options["resource_spec"] = f"select=1:ncpus={cores}:mem={_pbs_megabytes(workers * group.asked_gb)}MB"
    return options


def shell_word(text: str) -> str:
    """Quote a word of a shell command, so that only $NAME and ${NAME} are expanded, in the job.

    A word without special characters is returned unchanged.
    """
    if re.fullmatch(r"(?:[A-Za-z0-9_./:@%+=,-]|\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\})+", text):
        return text if "$" not in text else f'"{text}"'
    escaped = re.sub(r'([\\"`]|\$(?![A-Za-z_]|\{[A-Za-z_][A-Za-z0-9_]*\}))', r"\\\1", text)
    return f'"{escaped}"'


def _quoted_logs(kind: str, logs: str) -> list[str]:
    """Directives for a log folder with spaces; dask-jobqueue writes those for other folders."""
    if not re.search(r"[\s\"'\\#]", logs):
        return []
    if kind == "slurm" and not re.search(r"[\x00-\x1f\x7f\"\\]", logs):
        return [f'-{option} "{logs}/{JOB_NAME}-%J.{end}"' for option, end in (("e", "err"), ("o", "out"))]
    raise ConfigError(
        f"folder of the jobs' logs {logs!r}: {kind} does not accept a path with these characters. "
        "Set 'logs' in the deploy file to one without."
    )


def _pbs_megabytes(gigabytes: float) -> int:
    """Memory in the unit that PBS calls MB, which is 2^20 bytes, rounded up."""
    return -int(-gigabytes * 1e9 // 2**20)


def job_class(kind: str) -> type:
    """dask-jobqueue's class of one job.

    Raises
    ------
    ConfigError
        dask-jobqueue is not installed.
    """
    try:
        from dask_jobqueue.pbs import PBSJob
        from dask_jobqueue.slurm import SLURMJob
    except ImportError as error:
        raise ConfigError(
            f"kind {kind} needs dask-jobqueue, which is not installed: pip install 'jwst-survey[hpc]'."
        ) from error
    return type("Job", (_Accounted, {"slurm": SLURMJob, "pbs": PBSJob}[kind]), {})


class _Accounted:
    """Sets the status of a job at its end, which a closing cluster needs and dask-jobqueue does not set."""

    async def start(self) -> None:
        try:
            await super().start()  # type: ignore[misc]
        except BaseException:
            self.status = Status.failed
            raise

    async def close(self) -> None:
        await super().close()  # type: ignore[misc]
        self.status = Status.closed


def job_scripts(site: BatchSite, logs: str, security: Security | None) -> dict[str, str]:
    """The script of a job of each group, as it would be submitted; no folder is created.

    Parameters
    ----------
    logs : folder of the jobs' output, as it is written in the scripts
    security : certificates for encrypted connections
    """
    scripts = {}
    protocol = "tls" if security else "tcp"
    for name, group in site.groups.items():
        with tempfile.TemporaryDirectory() as folder:  # dask-jobqueue creates the folder that it is given
            target = logs if _quoted_logs(site.kind, logs) else folder
            options = job_options(site, group, target) | encryption(security)
            job = job_class(site.kind)(f"{protocol}://SCHEDULER:PORT", name=f"{JOB_NAME}-{name}-1", **options)
            scripts[name] = str(job.job_script()).replace(folder, logs)
    return scripts


def encryption(security: Security | None) -> dict[str, Any]:
    """Arguments of a job class for encrypted connections; empty without certificates."""
    return {} if security is None else {"security": security, "protocol": "tls"}
