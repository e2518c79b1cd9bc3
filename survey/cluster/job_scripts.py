"""Scripts of batch jobs that bring workers: dask-jobqueue writes them, from what a deploy file says."""

from __future__ import annotations

import re
import shlex
import tempfile
from typing import Any

from dask.distributed import Security, Status

from survey.cluster.deploy import RESOURCE, BatchSite
from survey.cluster.groups import JobGroup, clock
from survey.errors import ConfigError

JOB_NAME = "survey"
CONNECT_SECONDS = 300  # a worker that finds no scheduler for so long ends, and its job


def job_options(site: BatchSite, group: JobGroup, logs: str | None) -> dict[str, Any]:
    """Arguments of dask-jobqueue's job class for one group.

    Parameters
    ----------
    site, group : of the deploy file
    logs : folder for the jobs' output
    """
    workers = group.workers_per_job
    lifetime, stagger = group.lifetimes
    quoted = _quoted_logs(site.kind, logs) if logs else []
    options: dict[str, Any] = {
        "cores": workers,  # one thread per worker process, whatever a worker's cores are
        "processes": workers,
        "memory": f"{workers * group.asked_gb * 1e9:.0f}B",  # dask-jobqueue's is of a whole job
        "job_name": JOB_NAME,
        "queue": group.queue,
        "account": site.account,
        "walltime": clock(group.walltime),
        "interface": site.interface,
        "local_directory": site.scratch and shell_word(site.scratch),
        "python": site.python and shell_word(site.python),
        "death_timeout": CONNECT_SECONDS,
        "log_directory": None if quoted else logs,
        "job_extra_directives": [*quoted, *group.directives],
        "job_script_prologue": [
            'export USER="${USER:-survey}"',
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
    """One word of a shell command, in which $NAME and ${NAME} stand for the job's variables and nothing else does.

    A word without special characters stays as it is.
    """
    if re.fullmatch(r"(?:[A-Za-z0-9_./:@%+=,-]|\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\})+", text):
        return text if "$" not in text else f'"{text}"'
    escaped = re.sub(r'([\\"`]|\$(?![A-Za-z_]|\{[A-Za-z_][A-Za-z0-9_]*\}))', r"\\\1", text)
    return f'"{escaped}"'


def _quoted_logs(kind: str, logs: str) -> list[str]:
    """Directives for a folder of logs with spaces; dask-jobqueue writes those of others."""
    if not re.search(r"[\s\"'\\#]", logs):
        return []
    if kind == "slurm" and not re.search(r"[\x00-\x1f\x7f\"\\]", logs):
        return [f'-{option} "{logs}/{JOB_NAME}-%J.{end}"' for option, end in (("e", "err"), ("o", "out"))]
    raise ConfigError(
        f"folder of the jobs' logs {logs!r}: {kind} cannot be told a path with such characters. "
        "Set 'logs' in the deploy file to one without."
    )


def _pbs_megabytes(gigabytes: float) -> int:
    """PBS says MB and means 2^20 bytes."""
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
    """Says how a job ended: dask-jobqueue does not, and a cluster that closes asks for it."""

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
    """The script of a job of each group, as it would be submitted; makes no folder.

    Parameters
    ----------
    logs : folder of the jobs' output as the scripts are to name it
    security : certificates for encrypted connections
    """
    scripts = {}
    protocol = "tls" if security else "tcp"
    for name, group in site.groups.items():
        with tempfile.TemporaryDirectory() as folder:  # dask-jobqueue makes the folder that it is told
            told = logs if _quoted_logs(site.kind, logs) else folder
            options = job_options(site, group, told) | encryption(security)
            job = job_class(site.kind)(f"{protocol}://SCHEDULER:PORT", name=f"{JOB_NAME}-{name}-1", **options)
            scripts[name] = str(job.job_script()).replace(folder, logs)
    return scripts


def encryption(security: Security | None) -> dict[str, Any]:
    return {} if security is None else {"security": security, "protocol": "tls"}
