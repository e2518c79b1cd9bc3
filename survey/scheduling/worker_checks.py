"""Check workers before their first task: versions, workspace, CRDS cache and memory. Runs on the client.

Workers that are there are asked at once, and the run is refused when one of them lacks something. Batch jobs, pods and
workers of a shared scheduler may join later: `WorkerCheckPlugin` checks them as they do. Without it, a worker that does
not see the workspace, or has another version of a package, would fail every task that it gets, for the whole run.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
from dask.distributed import Client

from survey import __version__
from survey.cluster.capacity import capacity, workers_of
from survey.cluster.deploy import RESOURCE
from survey.errors import SurveyError, WorkersError
from survey.models import Task
from survey.references import References
from survey.scheduling import scheduler_check_plugin, worker_check_plugin
from survey.scheduling.scheduler_check_plugin import SchedulerCheckPlugin
from survey.scheduling.waiting import refuse_small_workers
from survey.scheduling.worker_check_plugin import Requirements, WorkerCheckPlugin
from survey.steps.registry import row_of

CHECK = "survey-check"
CHECK_SECONDS = 90.0
APPEAR_SECONDS = 15.0  # a network file system may show a new file to another host a little later
LOOK_SECONDS = 2.0  # between two looks at the scheduler's list of workers
MAX_SHOWN = 10


@dataclass
class WorkerReports:
    """What the workers of a run have reported so far."""

    client: Client
    rejected: dict[str, list[str]] = field(default_factory=dict)  # 'worker NAME at ADDRESS' -> faults
    _addresses: set[str] = field(default_factory=set)  # of rejected workers
    _looked: float = 0.0
    _error: SurveyError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, event: Any) -> None:
        """Take a worker's report; runs in the client's event loop."""
        _, report = event
        if report["faults"]:
            with self._lock:
                self.rejected[f"worker {report['name']} at {report['worker']}"] = report["faults"]
                self._addresses.add(report["worker"])

    def trouble(self) -> SurveyError | None:
        """Why no worker will run the tasks: all are rejected, or the cluster cannot start any. None: some may."""
        self._error = self._error or getattr(self.client.cluster, "trouble", lambda: None)()
        if self._error is None and self.rejected and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            there = set(self.client.scheduler_info(n_workers=-1)["workers"])
            with self._lock:
                if not there - self._addresses:
                    self._error = rejection(self.rejected)
        return self._error


def rejection(rejected: Mapping[str, Sequence[str]]) -> WorkersError:
    """The error that names the faults of workers; a fault that several have is named once."""
    workers_with: dict[str, list[str]] = {}
    for worker, faults in rejected.items():
        for fault in faults:
            workers_with.setdefault(fault, []).append(worker)
    shown = []
    for fault, workers in list(workers_with.items())[:MAX_SHOWN]:
        more = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
        shown.append(f"{workers[0]}{more}: {fault}")
    return WorkersError([*shown, "Workers need what the client has: the same environment, workspace and CRDS cache."])


@contextlib.contextmanager
def checked_workers(
    client: Client, tasks: Sequence[Task], root: Path, references: References, *, ours: bool
) -> Iterator[WorkerReports]:
    """Check the workers for what tasks need, now and, inside the context, as they join.

    Parameters
    ----------
    tasks : that are to be run
    root : of the workspace
    references : whose cache and context the workers must see
    ours : whether the workers belong to this run; then rejected ones are closed

    Raises
    ------
    WorkersError
        A worker that is there lacks something, or all are too small; every fault is named.
    """
    refuse_small_workers(client, [task.memory_gb for task in tasks if not (task.mosaic or row_of(task).external)])
    versions = {**next((dict(task.versions) for task in tasks), {}), "survey": __version__}
    with probe_files(root, Path(references.cache), references.context) as files:
        needs = requirements(client, versions, files, [str(root / "records")], [task.memory_gb for task in tasks])
        with check_workers(client, needs, ours) as reports:
            yield reports


def requirements(
    client: Client,
    versions: Mapping[str, str],
    files: Mapping[str, tuple[str, str]],
    written: Sequence[str],
    tasks_gb: Sequence[float] = (),
) -> Requirements:
    """What the workers of a client must have.

    Parameters
    ----------
    versions : package -> version that the client has; dask's and Python's are added
    files : what it is -> path and sha256 of a file that the client sees
    written : folders that workers write to
    tasks_gb : memory of every task [GB]
    """
    declared, there = capacity(client), workers_of(client, RESOURCE)
    return Requirements(
        versions={**versions, **_dask_versions()},
        files=dict(files),
        written=tuple(written),
        appear_seconds=APPEAR_SECONDS,
        resource=RESOURCE,
        tasks_gb=tuple(sorted(set(tasks_gb))),
        requested=bool(declared) if declared or there else None,
    )


@contextlib.contextmanager
def check_workers(client: Client, needs: Requirements, closes: bool = False) -> Iterator[WorkerReports]:
    """Check the workers that are there and, inside the context, those that join.

    Parameters
    ----------
    needs : what they must have
    closes : close those that are rejected

    Raises
    ------
    WorkersError
        A worker that is there lacks something; every fault of every worker is named.
    """
    reports, name = WorkerReports(client), f"{CHECK}-{uuid.uuid4().hex[:8]}"
    with _sent_as_code():
        rejected = _ask_present(client, needs)
        if rejected:
            raise rejection(rejected)
        client.subscribe_topic(name, reports.receive)
        client.register_plugin(SchedulerCheckPlugin(name, client.id), name=name)
        client.register_plugin(WorkerCheckPlugin(needs, name, closes), name=name)
    try:
        yield reports
    finally:
        _unregister(client, name)


def _unregister(client: Client, name: str) -> None:
    """Remove the checks from the scheduler, if it is still there."""
    # AttributeError: a client whose scheduler is gone has none to ask.
    with contextlib.suppress(OSError, RuntimeError, ValueError, TimeoutError, AttributeError):
        client.unsubscribe_topic(name)
        client.unregister_worker_plugin(name)
        client.unregister_scheduler_plugin(name)


@contextlib.contextmanager
def _sent_as_code() -> Iterator[None]:
    """Send what the plugins' modules define as code: other processes may have another survey, or none."""
    modules = (worker_check_plugin, scheduler_check_plugin)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _ask_present(client: Client, needs: Requirements) -> dict[str, list[str]]:
    """Faults of the workers that are there, those without faults left out."""
    names = {address: str(item["name"]) for address, item in client.scheduler_info(n_workers=-1)["workers"].items()}
    if not names:
        return {}
    run: Callable[..., Any] = client._run
    try:
        answers = client.sync(run, needs.faults_of, on_error="return", callback_timeout=CHECK_SECONDS)
    except TimeoutError:
        return {"workers": [f"did not report within {CHECK_SECONDS:.0f} s which versions they have."]}
    rejected = {}
    for address, faults in answers.items():
        if isinstance(faults, BaseException):
            faults = [f"cannot run the check of its environment ({type(faults).__name__}: {faults})."]
        if faults:
            rejected[f"worker {names.get(address, '?')} at {address}"] = list(faults)
    return rejected


def _dask_versions() -> dict[str, str]:
    import dask
    import distributed

    return {
        "dask": dask.__version__,
        "distributed": distributed.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
    }


@contextlib.contextmanager
def probe_files(root: Path, cache: Path, context: str) -> Iterator[dict[str, tuple[str, str]]]:
    """Files that show whether a worker sees the client's workspace and CRDS cache; see ``Requirements.files``.

    They are written for the purpose, and removed afterwards. In a cache that cannot be written, the context's own
    file of rules is taken.
    """
    written: list[Path] = []
    found = {}
    try:
        for what, folder in (("workspace", root), ("CRDS cache", cache)):
            path = folder / f".probe-{uuid.uuid4().hex}"
            try:
                path.write_text(path.name)
                written.append(path)
            except OSError:
                if folder is root:
                    raise
                path = cache / "mappings" / "jwst" / context
            if path.is_file():
                found[what] = (str(path.absolute()), hashlib.sha256(path.read_bytes()).hexdigest())
        yield found
    finally:
        for path in written:
            path.unlink(missing_ok=True)
