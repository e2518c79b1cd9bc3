"""What workers must have before they get tasks: the client's versions, its workspace and cache, and memory."""

from __future__ import annotations

import asyncio
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
from dask.distributed import Client, SchedulerPlugin, Status, WorkerPlugin

from survey import __version__
from survey.cluster.capacity import capacity, workers_of
from survey.cluster.deploy import RESOURCE
from survey.errors import SurveyError, WorkersError
from survey.models import Task
from survey.references import References
from survey.scheduling.waiting import refuse_small
from survey.steps.registry import REGISTRY

CHECK = "survey-check"
CHECK_SECONDS = 90.0
# A network file system may show a new file to another host a little later.
APPEAR_SECONDS = 15.0
LOOK_SECONDS = 2.0
MAX_SHOWN = 10


# --- on the worker: sent by value, since a worker's own survey may be another, or none ----------------------------


def worker_faults(expected: Mapping[str, Any], appear_seconds: float, dask_worker: Any) -> list[str]:
    """What a worker lacks; runs there.

    Parameters
    ----------
    expected : 'versions' {package: version}, 'files' {what: (path, sha256)}, 'written' folders that it must write to,
        'memory' see `memory_fault`
    appear_seconds : how long to wait for a file to appear
    dask_worker : the worker; dask fills this in

    Returns
    -------
    faults : sentences, each of which names the thing, what was found and what was expected
    """
    import hashlib
    import importlib.metadata
    import os
    import platform
    import time
    import uuid

    def version(name: str) -> str:
        if name == "python":
            return ".".join(platform.python_version_tuple()[:2])
        try:
            return str(__import__(name).__version__) if name == "survey" else importlib.metadata.version(name)
        except (ImportError, AttributeError):  # PackageNotFoundError is one
            return "not installed"

    faults = []
    for name, wanted in expected["versions"].items():
        found = version(name)
        if found != wanted:
            faults.append(f"{name} is {found}, the client has {wanted}.")
    for what, (path, sha256) in expected["files"].items():
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
    for folder in expected["written"]:
        probe = os.path.join(folder, f".probe-{uuid.uuid4().hex}")
        try:
            with open(probe, "w"):
                pass
            os.unlink(probe)
        except OSError as error:
            faults.append(f"{folder} cannot be written: {error.strerror}.")
    return [*faults, *memory_fault(dask_worker, **expected["memory"])]


def memory_fault(worker: Any, resource: str, tasks_gb: Sequence[float], asked: bool | None) -> list[str]:
    """Whether a worker's memory limit holds the tasks that it may have at once; runs there.

    Parameters
    ----------
    resource : what declared memory is called
    tasks_gb : memory of every task
    asked : whether tasks ask for that resource; None: no worker was there to decide that, and this one's word counts
    """
    limit_gb, threads = (worker.memory_manager.memory_limit or 0) / 1e9, worker.state.nthreads
    declared = worker.state.total_resources.get(resource, 0.0)
    if declared and asked is None:
        asked = True
    most = threads * max((need for need in tasks_gb if not asked or need <= declared), default=0.0)
    at_once = min(most, declared) if asked else most
    if not limit_gb or at_once <= limit_gb:
        return []
    count = f"{threads} thread{'s' if threads > 1 else ''}"
    why, advice = f"{resource} = {declared:.1f}, {count}", "Raise --memory-limit, or have it declare less."
    if not asked:
        why = f"tasks ask for no memory here, so that it may get any task; {count}"
        advice = (
            f"Give workers more memory or fewer threads, or have all say what they hold, by --resources {resource}=..."
        )
    return [f"its memory limit is {limit_gb:.1f} GB, and its tasks may take {at_once:.1f} GB at once ({why}). {advice}"]


class WorkerCheck(WorkerPlugin):
    """Looks at each worker as it comes, before its first task; one that lacks something gets none."""

    def __init__(self, expected: Mapping[str, Any], appear_seconds: float, name: str, closes: bool):
        self.expected = dict(expected)
        self.appear_seconds = appear_seconds
        self.name = name  # of this run's check, and the topic of what it says
        self.closes = closes  # a worker of our own is ended; another's is only paused, until the run is over
        self.worker: Any = None
        self.said: dict[str, Any] = {}
        self.fraction: Any = None  # while it is refused: the memory above which the worker pauses by itself

    async def setup(self, worker: Any) -> None:
        faults = await asyncio.to_thread(worker_faults, self.expected, self.appear_seconds, worker)
        self.worker = worker
        self.said = {"worker": worker.address, "name": str(worker.name), "faults": faults}
        if faults:
            manager, others = worker.memory_manager, self._refusing()
            self.fraction = others[0].fraction if others else manager.memory_pause_fraction
            manager.memory_pause_fraction = False  # else it resumes as soon as it finds memory free
            worker.status = Status.paused
            if self.closes:
                asyncio.get_running_loop().call_later(
                    1.0, lambda: asyncio.ensure_future(worker.close(reason="survey-check"))
                )
        worker.log_event(self.name, self.said)

    def transition(self, key: Any, start: Any, finish: Any, **kwargs: Any) -> None:
        """Say again that it is refused when a task comes all the same: it was given, or stolen, before."""
        if self.fraction is not None and finish == "waiting":
            self.worker.log_event(self.name, self.said)

    def teardown(self, worker: Any) -> None:
        if self.fraction is not None and worker.status == Status.paused and not self._refusing():
            worker.memory_manager.memory_pause_fraction = self.fraction
            worker.status = Status.running

    def _refusing(self) -> list[Any]:
        """Checks of other runs that refuse the worker as well."""
        others = [item for item in self.worker.plugins.values() if item is not self]
        return [item for item in others if getattr(item, "fraction", None) is not None]


class CheckOffice(SchedulerPlugin):
    """Takes back what a refused worker was given, and the check itself when its client is gone without a word."""

    def __init__(self, name: str, client: str):
        self.name = name
        self.client = client
        self.scheduler: Any = None
        self.leaving: Any = None

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def log_event(self, topic: str, msg: Any) -> None:
        worker = self.scheduler.workers.get(msg["worker"]) if topic == self.name and msg["faults"] else None
        if worker is not None:
            back = {task.key: "released" for task in worker.processing if task not in worker.executing}
            self.scheduler.transitions(back, f"{self.name}-{time.time()}")

    def remove_client(self, scheduler: Any, client: str) -> None:
        if client == self.client:
            scheduler.remove_plugin(self.name)
            if self.name in scheduler.worker_plugins:
                self.leaving = asyncio.ensure_future(scheduler.unregister_worker_plugin(None, self.name))


# --- on the client ------------------------------------------------------------------------------------------------


@dataclass
class Guard:
    """What is known of a run's workers while it goes on."""

    client: Client
    closes: bool
    refused: dict[str, list[str]] = field(default_factory=dict)  # 'name at address' -> faults
    addresses: set[str] = field(default_factory=set)  # of those
    looked: float = 0.0
    error: SurveyError | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def heard(self, event: Any) -> None:
        """Take a worker's word on itself; runs in the client's event loop."""
        _, message = event
        if message["faults"]:
            with self.lock:
                self.refused[f"worker {message['name']} at {message['worker']}"] = message["faults"]
                self.addresses.add(message["worker"])

    def trouble(self) -> SurveyError | None:
        """Why no worker will do the tasks; None as long as there is hope."""
        self.error = self.error or getattr(self.client.cluster, "trouble", lambda: None)()
        if self.error is None and self.refused and time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            there = set(self.client.scheduler_info(n_workers=-1)["workers"])
            with self.lock:
                if not there - self.addresses:
                    self.error = refusal(self.refused)
        return self.error


def refusal(refused: Mapping[str, Sequence[str]]) -> WorkersError:
    """All faults of workers, alike ones told once."""
    alike: dict[str, list[str]] = {}
    for worker, faults in refused.items():
        for fault in faults:
            alike.setdefault(fault, []).append(worker)
    shown = []
    for fault, workers in list(alike.items())[:MAX_SHOWN]:
        more = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
        shown.append(f"{workers[0]}{more}: {fault}")
    return WorkersError([*shown, "Workers need what the client has: the same environment, workspace and CRDS cache."])


@contextlib.contextmanager
def checked(
    client: Client,
    versions: Mapping[str, str],
    files: Mapping[str, tuple[str, str]],
    written: Sequence[str],
    memory_gb: Sequence[float] = (),
    closes: bool = False,
) -> Iterator[Guard]:
    """Check the workers that are there, and see to it that those that come are checked before their first task.

    Parameters
    ----------
    versions : package -> version that the client has; dask's and Python's are added
    files : what it is -> a file that the client sees, and its sha256
    written : folders that workers write to
    memory_gb : of every task
    closes : end workers that are refused, since they are ours

    Raises
    ------
    WorkersError
        A worker that is there lacks something; every fault of every worker is named.
    """
    declared, there = capacity(client), workers_of(client, RESOURCE)
    memory = {
        "resource": RESOURCE,
        "tasks_gb": sorted(set(memory_gb)),
        "asked": bool(declared) if declared or there else None,
    }
    expected = {"versions": {**versions, **_dask_versions()}, "files": dict(files), "written": list(written)}
    expected["memory"] = memory
    guard = Guard(client, closes)
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        refused = _ask_present(client, expected)
        if refused:
            raise refusal(refused)
        name = f"{CHECK}-{uuid.uuid4().hex[:8]}"
        client.subscribe_topic(name, guard.heard)
        client.register_plugin(CheckOffice(name, client.id), name=name)
        client.register_plugin(WorkerCheck(expected, APPEAR_SECONDS, name, closes), name=name)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    try:
        yield guard
    finally:
        with contextlib.suppress(OSError, RuntimeError, ValueError, TimeoutError):  # the scheduler may be gone
            client.unsubscribe_topic(name)
            client.unregister_worker_plugin(name)
            client.unregister_scheduler_plugin(name)


def _ask_present(client: Client, expected: Mapping[str, Any]) -> dict[str, list[str]]:
    """Faults of the workers that are there; those without any are left out."""
    names = {address: str(item["name"]) for address, item in client.scheduler_info(n_workers=-1)["workers"].items()}
    if not names:
        return {}
    run: Callable[..., Any] = client._run
    try:
        told = client.sync(
            run, worker_faults, expected, APPEAR_SECONDS, on_error="return", callback_timeout=CHECK_SECONDS
        )
    except TimeoutError:
        return {"workers": [f"did not say within {CHECK_SECONDS:.0f} s which versions they have."]}
    refused = {}
    for address, faults in told.items():
        if isinstance(faults, BaseException):
            faults = [f"cannot run the check of its environment ({type(faults).__name__}: {faults})."]
        if faults:
            refused[f"worker {names.get(address, '?')} at {address}"] = list(faults)
    return refused


def _dask_versions() -> dict[str, str]:
    import dask
    import distributed

    return {
        "dask": dask.__version__,
        "distributed": distributed.__version__,
        "python": ".".join(map(str, sys.version_info[:2])),
    }


@contextlib.contextmanager
def probes(root: Path, cache: Path, context: str) -> Iterator[dict[str, tuple[str, str]]]:
    """Files by which a worker can tell that it sees the client's workspace and CRDS cache: `checked` takes them.

    They are written for the purpose, and gone afterwards; in a cache that cannot be written, the context's own rules
    serve.
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


@contextlib.contextmanager
def workers_for(
    client: Client, tasks: Sequence[Task], root: Path, references: References, *, ours: bool
) -> Iterator[Guard]:
    """Workers that have what these tasks need; see `memory_fault`, `refuse_small`, `probes` and `checked`.

    Parameters
    ----------
    tasks : that are to be run
    root, references : workspace; which cache and context
    ours : end workers that are refused
    """
    small = [task.memory_gb for task in tasks if not (task.mosaic or REGISTRY[task.step].external)]
    refuse_small(client, small)
    versions = {**next((dict(task.versions) for task in tasks), {}), "survey": __version__}
    with (
        probes(root, Path(references.cache), references.context) as files,
        checked(client, versions, files, [str(root / "records")], [task.memory_gb for task in tasks], ours) as guard,
    ):
        yield guard
