"""Check a worker for what tasks need. Runs on the worker.

The code of this module is sent to each worker (pickled by value), because the worker's own survey may be of another
version, or missing. It therefore imports the standard library and dask.distributed only.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import os
import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.distributed import Status, WorkerPlugin

CLOSE_SECONDS = 1.0  # after a report, so that it reaches the client


@dataclass(frozen=True)
class Requirements:
    """What a worker must have before it gets tasks."""

    versions: Mapping[str, str]  # package, or 'python' -> version; Python's as '3.11'
    files: Mapping[str, tuple[str, str]]  # what it is -> path and sha256 of a file that the worker must see
    written: tuple[str, ...]  # folders that it must be able to write to
    appear_seconds: float  # how long a file may take to appear on a network file system
    resource: str  # name of the resource in which workers declare memory [GB]
    tasks_gb: tuple[float, ...] = ()  # memory that the tasks need
    # Whether tasks request that resource. None: unknown, as no worker was there; they do if this worker declares it.
    requested: bool | None = None

    def faults_of(self, dask_worker: Any) -> list[str]:
        """What a worker lacks.

        Parameters
        ----------
        dask_worker : the worker that this runs on; `Client.run` fills it in

        Returns
        -------
        faults : sentences, each of which names the thing, what was found and what was expected
        """
        return [
            *_version_faults(self.versions),
            *_file_faults(self.files, self.appear_seconds),
            *_folder_faults(self.written),
            *memory_faults(self, dask_worker),
        ]


def _version_faults(versions: Mapping[str, str]) -> list[str]:
    pairs = [(name, _version(name), wanted) for name, wanted in versions.items()]
    return [f"{name} is {found}, the client has {wanted}." for name, found, wanted in pairs if found != wanted]


def _version(name: str) -> str:
    if name == "python":
        return ".".join(platform.python_version_tuple()[:2])
    try:
        # The version of survey is in its code; a checkout may be installed under the metadata of an older one.
        return str(__import__(name).__version__) if name == "survey" else importlib.metadata.version(name)
    except (ImportError, AttributeError):  # PackageNotFoundError is an ImportError
        return "not installed"


def _file_faults(files: Mapping[str, tuple[str, str]], appear_seconds: float) -> list[str]:
    faults = []
    for what, (path, sha256) in files.items():
        end = time.monotonic() + appear_seconds
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.2)
        try:
            with open(path, "rb") as stream:
                same = hashlib.sha256(stream.read()).hexdigest() == sha256
            cause = "" if same else "holds other bytes there"
        except OSError as error:
            cause = f"{error.strerror} there"
        if cause:
            faults.append(f"{what}: {path}, which the client sees, {cause}; mount the same file system.")
    return faults


def _folder_faults(folders: Sequence[str]) -> list[str]:
    faults = []
    for folder in folders:
        probe = os.path.join(folder, f".probe-{uuid.uuid4().hex}")
        try:
            with open(probe, "w"):
                pass
            os.unlink(probe)
        except OSError as error:
            faults.append(f"{folder} cannot be written: {error.strerror}.")
    return faults


def memory_faults(needs: Requirements, worker: Any) -> list[str]:
    """Whether a worker's memory limit is less than what its tasks may need at once."""
    limit_gb, threads = (worker.memory_manager.memory_limit or 0) / 1e9, worker.state.nthreads
    declared = worker.state.total_resources.get(needs.resource, 0.0)
    requested = needs.requested if needs.requested is not None else bool(declared)
    fitting = [need for need in needs.tasks_gb if not requested or need <= declared]
    most = threads * max(fitting, default=0.0)
    at_once = min(most, declared) if requested else most
    if not limit_gb or at_once <= limit_gb:
        return []
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    why, advice = f"{needs.resource} = {declared:.1f}, {count}", "Raise --memory-limit, or have it declare less."
    if not requested:
        why = f"tasks ask for no memory here, so that it may get any task; {count}"
        advice = (
            "Give workers more memory or fewer threads, or have all of them declare what they hold, by "
            f"--resources {needs.resource}=..."
        )
    return [f"its memory limit is {limit_gb:.1f} GB, and its tasks may take {at_once:.1f} GB at once ({why}). {advice}"]


class WorkerCheckPlugin(WorkerPlugin):
    """Checks each worker that joins, and keeps tasks from one that lacks something.

    A rejected worker is closed when it belongs to the run; a worker of others is paused until the run is over. It may
    get tasks before the check is done: `SchedulerCheckPlugin` moves them to other workers.

    Parameters
    ----------
    needs : what the worker must have
    name : of this run's check; the topic of its reports
    closes : whether rejected workers belong to the run
    """

    def __init__(self, needs: Requirements, name: str, closes: bool):
        self.needs = needs
        self.name = name
        self.closes = closes
        self.worker: Any = None
        self.report: dict[str, Any] = {}
        self.fraction: Any = None  # of a rejected worker: the share of its memory above which it pauses by itself

    async def setup(self, worker: Any) -> None:
        faults = await asyncio.to_thread(self.needs.faults_of, worker)
        self.worker = worker
        self.report = {"worker": worker.address, "name": str(worker.name), "faults": faults}
        if faults:
            manager, others = worker.memory_manager, self._others_rejecting()
            self.fraction = others[0].fraction if others else manager.memory_pause_fraction
            manager.memory_pause_fraction = False  # otherwise it resumes as soon as it finds memory free
            worker.status = Status.paused
            if self.closes:
                asyncio.get_running_loop().call_later(
                    CLOSE_SECONDS, lambda: asyncio.ensure_future(worker.close(reason="survey-check"))
                )
        worker.log_event(self.name, self.report)

    def transition(self, key: Any, start: Any, finish: Any, **kwargs: Any) -> None:
        """Report again when a rejected worker gets a task: one that it was given, or had stolen, before it paused."""
        if self.fraction is not None and finish == "waiting":
            self.worker.log_event(self.name, self.report)

    def teardown(self, worker: Any) -> None:
        if self.fraction is not None and worker.status == Status.paused and not self._others_rejecting():
            worker.memory_manager.memory_pause_fraction = self.fraction
            worker.status = Status.running

    def _others_rejecting(self) -> list[Any]:
        """Checks of other runs that reject the worker as well."""
        others = [item for item in self.worker.plugins.values() if item is not self]
        return [item for item in others if getattr(item, "fraction", None) is not None]
