"""Run tasks on a dask scheduler: submit, retry, retry with more memory, give up, collect records."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dask.distributed import Client, Future, as_completed

from survey.cluster.capacity import capacity, too_large, workers_of
from survey.cluster.deploy import RESOURCE
from survey.errors import ClusterError, DiskFullError, SurveyError
from survey.execution.environment import Site
from survey.execution.task import blank_record, run_task, skipped_record
from survey.models import COMPLETE, SKIPPED, Task, TaskRecord
from survey.planning.staleness import reusable_records
from survey.scheduling.waiting import WorkerTimeout

WAIT_SECONDS = 0.1  # for the next task to end


class Decided(NamedTuple):
    """A task that needs no more work: it is complete, failed or skipped."""

    record: TaskRecord
    reused: bool  # the record is that of an earlier run


@dataclass(frozen=True)
class _Submitted:
    task: Task
    future: Future  # of the latest try
    memory_gb: float  # requested from the workers; 0: none


class TaskQueue:
    """The tasks of one run on a dask scheduler, from `add` until each has a record.

    The caller adds tasks, calls `collect` while there is an `unfinished` one, and takes what was decided with
    `take_decided`. Which task is added when, and why, is not decided here.

    A task is tried again in two ways:

    - After an error that may pass (class 'again': `survey.execution.failures.failure_class`) `run_task` raises, and
      dask itself tries the task again, ``Task.retries`` times.
    - *Retry with more memory* is done here, once for each task (`_retry_with_more_memory`). A task ran out of memory
      when its record has the class 'memory': `survey.execution.failures` gives it to a MemoryError, a SIGKILL, and a
      child that was ended because it held more than its limit. `survey.config.limits.Limits.more_memory` is how much
      the second try requests, and `Limits.memory_gb` the limit that follows from it. Tasks that depend on it and were
      submitted with the first try are submitted again after it.

    Parameters
    ----------
    client : dask client of the scheduler
    site : the workspace, and what the child processes of tasks need
    stored : records of earlier runs, by task key
    limit_seconds : how long a task may wait while no worker can hold it
    needed : keys of intermediate tasks whose products tasks that are added later will read
    """

    def __init__(
        self,
        client: Client,
        site: Site,
        stored: Mapping[str, TaskRecord],
        limit_seconds: float,
        needed: Container[str] = (),
    ):
        self.records: dict[str, TaskRecord] = {}  # of the decided tasks, by key
        self._client = client
        self._site = site
        self._root = site.folders.root
        self._stored = stored
        self._needed = needed
        self._capacity_gb = capacity(client)  # largest memory resource of any worker; 0: the workers declare none
        self._timeout = WorkerTimeout(limit_seconds)
        # A scheduler answers a key that it still holds with the old result, which may be that of another workspace.
        self._name = uuid.uuid4().hex[:8]
        # By task key, each task after its inputs: a second try keeps the place of the first.
        self._submitted: dict[str, _Submitted] = {}
        self._keys: dict[Future, str] = {}  # of futures that have not ended -> task key
        self._tries: dict[str, int] = {}  # by task key
        self._had_more_memory: set[str] = set()  # task keys
        self._decided: list[Decided] = []  # not taken by the caller yet
        self._completed: Any = as_completed([], loop=client.loop, raise_errors=False)

    @property
    def unfinished(self) -> bool:
        """Whether there are tasks without a record."""
        return bool(self._submitted)

    def add(self, tasks: Sequence[Task]) -> None:
        """Submit tasks. Those that need not run, or cannot, are decided at once.

        Parameters
        ----------
        tasks : each after its inputs; an input that is not among them was added before
        """
        needed = [task.key for task in tasks if task.key in self._needed]
        reusable = reusable_records(self._root, tasks, self._stored, needed)
        for task in tasks:
            if task.unknown:
                self._decide(_failed(task, f"not run: {task.unknown}", "never"))
                continue
            if task.key in reusable:
                self._decide(reusable[task.key], reused=True)
                continue
            lost = self._lost_input(task)
            if lost is not None:
                self._decide(skipped_record(task, lost))
            elif self._capacity_gb and task.memory_gb > self._capacity_gb:
                self._decide(_failed(task, too_large(task, self._capacity_gb), "never"))
            else:
                self._submit(task, task.memory_gb)

    def skip(self, tasks: Sequence[Task], error: str, keep_done: bool = False) -> None:
        """Record tasks as skipped, without running them; with ``keep_done``, all but those of an earlier run."""
        reusable = reusable_records(self._root, tasks, self._stored) if keep_done else {}
        for task in tasks:
            if task.key in reusable:
                self._decide(reusable[task.key], reused=True)
            else:
                self._decide(replace(blank_record(task), status=SKIPPED, error=error))

    def collect(self) -> bool:
        """Decide the tasks that have ended; when there are none, wait a moment for the next.

        Returns
        -------
        any_ended : False when no task had ended

        Raises
        ------
        DiskFullError
            A task found the disk full.
        ClusterError
            The scheduler is gone.
        """
        if not self._completed.has_ready():
            with self._completed.thread_condition:
                self._completed.thread_condition.wait(WAIT_SECONDS)
            return False
        for future in self._completed.next_batch():
            self._take(future)
        del future  # or its worker would keep the result
        return True

    def give_up_unplaced(self) -> None:
        """Fail tasks that no worker has been able to hold for the time limit, and skip those that depend on them.

        Looks at the workers every few seconds only, however often it is called.
        """
        if not self._timeout.is_due:
            return
        waiting = [
            (item.task, item.memory_gb)
            for item in self._submitted.values()
            if not item.future.done() and self.records.keys() >= set(item.task.inputs)
        ]
        for key, error in self._timeout.expired(waiting, workers_of(self._client, RESOURCE)).items():
            self._give_up(key, error)

    def take_decided(self) -> list[Decided]:
        """Tasks that were decided since the last call, in that order."""
        taken, self._decided = self._decided, []
        return taken

    def cancel(self) -> None:
        """Cancel everything that is submitted."""
        with contextlib.suppress(Exception):  # a scheduler that is gone can cancel nothing
            self._client.cancel(list(self._keys), force=True)

    def _submit(self, task: Task, memory_gb: float) -> None:
        # A second try may need more than any worker has: then it gets the largest one to itself.
        need = min(memory_gb, self._capacity_gb or math.inf)
        self._tries[task.key] = number = self._tries.get(task.key, 0) + 1
        future = self._client.submit(
            run_task,
            task,
            self._site,
            [self.records.get(key) or self._submitted[key].future for key in task.inputs],
            self._site.limits.memory_gb(need, self._capacity_gb),
            key=(f"{task.step}-{task.filter}", f"{task.subject}-{self._name}-{number}-{task.digest[:16]}"),
            resources={RESOURCE: need} if self._capacity_gb else None,
            retries=task.retries,
            pure=False,
        )
        self._submitted[task.key] = _Submitted(task, future, need if self._capacity_gb else 0.0)
        self._keys[future] = task.key
        self._completed.add(future)

    def _take(self, future: Future) -> None:
        """Decide the task of a future that has ended, or try it once more."""
        key = self._keys.pop(future)
        item = self._submitted.get(key)
        if item is None or item.future is not future:
            return  # of a task that was given up, or that was submitted again because its input was
        record = self._record_of(item.task, future)
        if record.error_class == "disk":
            cause = record.error.removeprefix(f"{key}: ")
            raise DiskFullError(f"{key}: {cause}. Make room and run again; what was complete stays.")
        if record.error_class == "memory" and key not in self._had_more_memory:
            self._retry_with_more_memory(item.task, record.peak_memory_gb)
        else:
            self._decide(record)

    def _retry_with_more_memory(self, task: Task, used_gb: float) -> None:
        """Submit a task again that ran out of memory, and after it the tasks that depend on it."""
        self._had_more_memory.add(task.key)
        self._submit(task, self._site.limits.more_memory(task.memory_gb, used_gb))
        again = {task.key}
        for item in list(self._submitted.values()):
            if again.intersection(item.task.inputs):
                again.add(item.task.key)
                self._submit(item.task, item.task.memory_gb)

    def _give_up(self, key: str, error: str) -> None:
        lost: dict[str, TaskRecord] = {}
        for item in self._submitted.values():
            cause = next((lost[name] for name in item.task.inputs if name in lost), None)
            if item.task.key == key:
                lost[key] = _failed(item.task, error, "again")
            elif cause is not None:
                lost[item.task.key] = skipped_record(item.task, cause)
        self._client.cancel([self._submitted[name].future for name in lost], force=True)
        for record in lost.values():
            self._decide(record)

    def _decide(self, record: TaskRecord, reused: bool = False) -> None:
        self.records[record.key] = record
        self._submitted.pop(record.key, None)  # without its future, the worker need not keep the result
        self._decided.append(Decided(record, reused))

    def _lost_input(self, task: Task) -> TaskRecord | None:
        """The first input of a task that failed or was skipped."""
        records = [self.records[key] for key in task.inputs if key in self.records]
        return next((record for record in records if record.status != COMPLETE), None)

    def _record_of(self, task: Task, future: Future) -> TaskRecord:
        """The record of a task whose future has ended. dask hands an error on to tasks that depend on it."""
        if future.status == "finished":
            return future.result()  # type: ignore[no-any-return]
        lost = self._lost_input(task)
        if lost is not None:
            return skipped_record(task, lost)
        if future.status == "cancelled":
            if self._client.status != "running":
                raise scheduler_gone(self._client)
            return _failed(task, "its scheduler dropped it; run again.", "again")
        error = future.exception()
        text = str(error) if isinstance(error, SurveyError) else f"{type(error).__name__}: {error}"
        return replace(_failed(task, text.removeprefix(f"{task.key}: "), "again"), attempts=task.retries + 1)


def scheduler_gone(client: Client) -> ClusterError:
    """The error for a scheduler that is gone."""
    address = getattr(client.scheduler, "address", "")
    return ClusterError(f"the scheduler {address} is gone; everything that was complete stays. Run again to continue.")


def _failed(task: Task, error: str, error_class: str) -> TaskRecord:
    return replace(blank_record(task), error=error, error_class=error_class)
