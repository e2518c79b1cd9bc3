"""A cluster whose workers run in jobs of a batch system; the number of jobs follows the ready tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shlex
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from dask.distributed import Client, Scheduler, Security, SpecCluster

from survey.cluster.capacity import ExpectedWorkers, publish
from survey.cluster.dask_settings import STARTED_HERE
from survey.cluster.deploy import RESOURCE, BatchSite
from survey.cluster.groups import clock
from survey.cluster.job_scripts import encryption, job_class, job_options
from survey.cluster.scaling import Group, jobs_wanted
from survey.errors import ClusterError

log = logging.getLogger(__name__)

GRACE_SECONDS = 60  # that dask waits longer for a worker than the cluster does
TICK_SECONDS = 2.0
QUEUE_SECONDS = 10.0  # between queries of the batch system
LOST_SECONDS = 6.0  # after which a job without its workers counts as lost; a nanny restarts a worker in less
LOST_WORKERS = 20  # that may end during one task before it fails
FAILED_STARTS = 3  # jobs in a row that end without a worker; more would end the same way
QUEUE_COMMANDS = {"slurm": "squeue --noheader --format=%i|%T|%r --jobs=", "pbs": "qstat "}
LOG_LINES = 5


@dataclass
class _Job:
    """One submitted job."""

    group: str
    workers: tuple[str, ...]  # names of its workers
    submitted: float
    seen: float = 0.0  # when one of its workers was last connected; 0: never
    busy: float = 0.0  # when one of them last had a task


@dataclass
class _Startup:
    """Whether jobs bring workers: failed jobs, the time without any worker, and the error that ends the cluster."""

    failed_jobs: int = 0  # in a row
    without_since: float = 0.0  # since when there is no worker although tasks are ready; 0: there is one, or no task
    error: ClusterError | None = None
    queue: dict[str, str] = field(default_factory=dict)  # job id -> its state in the batch system


class BatchCluster(SpecCluster):
    """A scheduler in this process, and jobs that start its workers.

    dask's adaptive scaling has one size of workers and no resources. This cluster counts, for each group, the ready
    tasks that the workers of no smaller group can hold. It replaces jobs that were ended by others, and gives up when
    jobs end repeatedly without starting a worker, or when no worker starts in time.
    """

    def __init__(self, site: BatchSite, logs: Path, scheduler: dict[str, Any], security: Security | None = None):
        self.site = site
        self.capacity_gb = site.capacity_gb
        self.start_seconds = float(site.start_timeout + GRACE_SECONDS)  # until a worker of any size starts
        self._logs = logs
        for group in site.groups.values():
            job_options(site, group, str(logs))  # raises here for what a job script cannot contain
        logs.mkdir(parents=True, exist_ok=True)
        self._extra = encryption(security)
        self._class = job_class(site.kind)
        self._jobs: dict[str, _Job] = {}
        self._startup = _Startup()
        self._asked_queue = 0.0
        self._ticking: Any = None
        self._submitted = 0
        super().__init__(
            scheduler={"cls": Scheduler, "options": scheduler},
            security=security,
            name=f"survey-{uuid.uuid4().hex[:6]}",
            asynchronous=False,
        )
        self.sync(self._begin)

    def trouble(self) -> ClusterError | None:
        """Why no worker will start; None while one may."""
        return self._startup.error

    async def _begin(self) -> None:
        self._ticking = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self.status.name == "running" and self._startup.error is None:
            try:
                await self._tick(time.monotonic())
            except (RuntimeError, OSError, ValueError) as error:  # from the command that submits
                self._startup.error = ClusterError(f"a job could not be submitted: {' '.join(str(error).split())}")
            await asyncio.sleep(TICK_SECONDS)

    async def _close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        await super()._close()

    async def _tick(self, now: float) -> None:
        """Compare jobs with ready tasks, and submit or end jobs."""
        self._look_at_workers(now)
        await self._drop([name for name, job in self._jobs.items() if job.seen and now - job.seen > LOST_SECONDS])
        wanted = self._wanted()
        unseen = [name for name, job in self._jobs.items() if not job.seen]
        if unseen and now - self._asked_queue > QUEUE_SECONDS:
            self._asked_queue = now
            await self._look_at_queue(unseen, now)
        self._look_for_trouble(wanted, now)
        if self._startup.error is None:
            await self._scale(wanted, now)

    def _look_at_workers(self, now: float) -> None:
        connected = {worker.name: worker for worker in self.scheduler.workers.values()}
        for job in self._jobs.values():
            workers = [connected[name] for name in job.workers if name in connected]
            if workers:
                job.seen = now
                self._startup.failed_jobs = 0
            if not job.busy or any(worker.processing for worker in workers):
                job.busy = now

    def _wanted(self) -> dict[str, int]:
        """Jobs that each group should have."""
        waiting = [*self.scheduler.unrunnable]
        running = [task for worker in self.scheduler.workers.values() for task in worker.processing]
        needs = [float((task.resource_restrictions or {}).get(RESOURCE, 0.0)) for task in (*waiting, *running)]
        groups = [
            Group(name, item.memory_gb, item.workers_per_job, *item.jobs) for name, item in self.site.groups.items()
        ]
        return jobs_wanted(needs, groups)

    async def _scale(self, wanted: dict[str, int], now: float) -> None:
        for group, count in wanted.items():
            mine = [name for name, job in self._jobs.items() if job.group == group]
            for _ in range(count - len(mine)):
                self._submit(group, now)
            idle = [name for name in mine if now - self._jobs[name].busy > self.site.idle]
            await self._drop(self._free(idle)[: max(len(mine) - count, 0)])
        await self._correct_state()

    def _free(self, names: list[str]) -> list[str]:
        """Those idle jobs that can be ended without losing results: another worker can take them."""
        workers = {worker.name: worker for worker in self.scheduler.workers.values()}
        idle = {worker for name in names for worker in self._jobs[name].workers if worker in workers}
        if set(workers) - idle:
            return names
        holding = {worker for worker in idle if workers[worker].has_what}
        return [name for name in names if not holding.intersection(self._jobs[name].workers)]

    def _submit(self, group: str, now: float) -> None:
        """Add a job, which the next `_correct_state` submits."""
        self._submitted += 1
        name = f"{self._name}-{group}-{self._submitted}"
        size = self.site.groups[group]
        spec: dict[str, Any] = {"cls": self._class}
        spec["options"] = job_options(self.site, size, str(self._logs)) | self._extra
        workers: tuple[str, ...] = (name,)
        if size.workers_per_job > 1:
            spec["group"] = [f"-{number}" for number in range(size.workers_per_job)]
            workers = tuple(f"{name}{suffix}" for suffix in spec["group"])
        self.worker_spec[name] = spec
        self._jobs[name] = _Job(group, workers, now)

    async def _drop(self, names: list[str]) -> None:
        """End jobs, after their workers' results were moved to other workers."""
        if not names:
            return
        workers = [worker for name in names for worker in self._jobs[name].workers]
        await self.scheduler.retire_workers(names=workers, remove=True, close_workers=True)
        for name in names:
            del self._jobs[name]
            self.worker_spec.pop(name, None)
        await self._correct_state()

    async def _look_at_queue(self, names: list[str], now: float) -> None:
        """Query the batch system for jobs without a worker; those that it does not list any more have failed."""
        ids = {str(self.workers[name].job_id): name for name in names if name in self.workers}
        listed = await self._ask_queue(list(ids))
        if listed is None:
            return
        self._startup.queue = listed
        gone = [name for job_id, name in ids.items() if job_id not in listed]
        gone = [name for name in gone if now - self._jobs[name].submitted > QUEUE_SECONDS]
        if not gone:
            return
        self._startup.failed_jobs += len(gone)
        if self._startup.failed_jobs >= FAILED_STARTS:
            last = str(self.workers[gone[-1]].job_id)
            self._startup.error = ClusterError(
                f"{self._startup.failed_jobs} jobs in a row ended before a worker was there; the last is {last}. "
                f"See {self._logs}.{self._tail(last)}"
            )
        else:
            await self._drop(gone)

    async def _ask_queue(self, ids: list[str]) -> dict[str, str] | None:
        """State of each job that the batch system still lists, by its id; None if it does not answer."""
        separator = "," if self.site.kind == "slurm" else " "
        command = shlex.split(QUEUE_COMMANDS[self.site.kind] + separator.join(ids))
        with contextlib.suppress(OSError, TimeoutError):
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, errors = await asyncio.wait_for(process.communicate(), QUEUE_SECONDS)
            found = dict(_states(out.decode(errors="replace"), ids))
            if process.returncode == 0 or _only_ended_jobs(errors.decode(errors="replace"), ids, found):
                return found
        return None

    def _look_for_trouble(self, wanted: dict[str, int], now: float) -> None:
        startup = self._startup
        if self.scheduler.workers or not any(wanted.values()):
            startup.without_since = 0.0
            return
        startup.without_since = startup.without_since or now
        if startup.error is None and now - startup.without_since > self.site.start_timeout:
            states = "; ".join(f"job {job_id}: {state}" for job_id, state in startup.queue.items())
            startup.error = ClusterError(
                f"no worker was there for {clock(self.site.start_timeout)} while tasks waited"
                f"{f' ({states})' if states else ''}. Finished products stay. Increase 'start_timeout' in the deploy "
                "file, or ask for a smaller or shorter job."
            )

    def _tail(self, job_id: str) -> str:
        """The last lines of a job's output."""
        lines: list[str] = []
        for path in sorted(self._logs.glob(f"*{job_id}*")):
            with contextlib.suppress(OSError):
                lines += [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return "".join(f"\n    {line[:200]}" for line in lines[-LOG_LINES:])


@contextlib.contextmanager
def batch_client(site: BatchSite, logs: Path, security: Security) -> Iterator[Client]:
    """Start the scheduler of a batch deploy file and open a client of it; jobs come with the first ready tasks.

    Parameters
    ----------
    logs : folder of the jobs' output, unless the deploy file names another
    security : certificates; connections are encrypted where it requires it
    """
    encrypted = security.require_encryption
    settings = {
        **STARTED_HERE,
        # For tasks that no worker is large enough for; when no worker comes at all, the cluster reports that earlier.
        "distributed.scheduler.no-workers-timeout": f"{site.start_timeout + GRACE_SECONDS}s",
        # Tasks run in child processes and cannot kill a worker: a lost worker was ended by the batch system.
        "distributed.scheduler.allowed-failures": LOST_WORKERS,
    }
    scheduler = {
        "interface": site.interface,
        "dashboard_address": "127.0.0.1:8787",
        "dashboard": True,
        "protocol": "tls://" if encrypted else "tcp://",
        "security": security,
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        cluster = stack.enter_context(BatchCluster(site, site.logs or logs, scheduler, security if encrypted else None))
        client = stack.enter_context(Client(cluster, set_as_default=False, security=security))
        publish(client, ExpectedWorkers(cluster.capacity_gb, cluster.start_seconds))
        yield client


def _only_ended_jobs(errors: str, ids: list[str], found: dict[str, str]) -> bool:
    """Whether a query failed only because jobs have ended.

    qstat prints the jobs that it lists, and an error for each other one; squeue fails only if asked for a single job.
    """
    others = [job_id for job_id in ids if job_id not in found]
    if "Invalid job id" in errors:
        return len(ids) == 1
    gone = [line for line in errors.splitlines() if "Unknown Job" in line or "has finished" in line]
    numbers = {number for line in gone for number in re.findall(r"\d+(?:\[\d*\])?", line)}
    return all(job_id.split(".")[0] in numbers for job_id in others)


def _states(text: str, ids: list[str]) -> Iterator[tuple[str, str]]:
    """Job id and state of the lines that squeue or qstat printed."""
    for line in text.splitlines():
        words = line.replace("|", " ").split()
        job_id = next((item for item in ids if words and words[0].split(".")[0] == item.split(".")[0]), None)
        if job_id is not None:
            yield job_id, " ".join(words[1:]) if "|" in line else words[-2]
