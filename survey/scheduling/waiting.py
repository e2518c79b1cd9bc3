"""Limits on waiting for workers: for the first one, and for one with the memory that a task needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from survey.cluster.capacity import capacity
from survey.cluster.deploy import RESOURCE
from survey.errors import SurveyError, WorkersError
from survey.models import Task

ADVICE = "Start one and run again, or allow more time by limits.workers_minutes."
LOOK_SECONDS = 5.0  # between two looks at the workers


def refuse_small_workers(client: Any, exposure_gb: Sequence[float]) -> None:
    """Refuse to run when no worker has the memory for any task of an exposure.

    A single task that is too large for the workers fails by itself, when its turn comes.

    Parameters
    ----------
    client : dask client
    exposure_gb : memory that each task of an exposure needs [GB]

    Raises
    ------
    WorkersError
        The largest worker declares less memory than the smallest of these tasks needs.
    """
    declared = capacity(client)
    if declared and exposure_gb and min(exposure_gb) > declared:
        raise WorkersError(
            f"the largest worker has {RESOURCE} = {declared:.1f}, and the smallest task of an exposure needs "
            f"{min(exposure_gb):.1f}. Use larger workers."
        )


def wait_for_first_worker(client: Any, limit_seconds: float) -> None:
    """Wait until a dask client has a worker. What the largest one can hold decides how tasks are submitted.

    Raises
    ------
    SurveyError
        None came within the limit.
    """
    try:
        client.wait_for_workers(1, timeout=limit_seconds)
    except TimeoutError as error:
        raise SurveyError(_no_worker(limit_seconds)) from error


class WorkerTimeout:
    """Time limit for tasks that no worker has the memory to run.

    Parameters
    ----------
    limit_seconds : how long a task may wait without such a worker
    """

    def __init__(self, limit_seconds: float):
        self.limit_seconds = limit_seconds
        self._since: dict[str, float] = {}  # task key -> when it was first found without a worker
        self._looked = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the workers again."""
        return time.monotonic() - self._looked >= min(LOOK_SECONDS, self.limit_seconds / 2)

    def expired(self, tasks: Iterable[tuple[Task, float]], workers: Mapping[str, float]) -> dict[str, str]:
        """Tasks that have waited for the time limit without a worker that can hold them.

        The wait of a task starts again when such a worker was there in between.

        Parameters
        ----------
        tasks : tasks whose inputs are all there, and the memory that each requests [GB]; 0: it requests none
        workers : address of each worker -> memory that it declares [GB]; 0: it declares none

        Returns
        -------
        errors : task key -> why it is given up
        """
        now = self._looked = time.monotonic()
        largest = max(workers.values(), default=0.0)
        waiting = {task.key: need for task, need in tasks if not workers or need > largest}
        self._since = {key: self._since.get(key, now) for key in waiting}
        return {
            key: self._error(waiting[key], largest, bool(workers))
            for key, since in self._since.items()
            if now - since >= self.limit_seconds
        }

    def _error(self, need_gb: float, largest_gb: float, any_workers: bool) -> str:
        if not any_workers:
            return _no_worker(self.limit_seconds)
        return (
            f"no worker with resource {RESOURCE} = {need_gb:.1f} came within {self.limit_seconds / 60:.1f} min; "
            f"the largest that is there has {largest_gb:.1f}. {ADVICE}"
        )


def _no_worker(limit_seconds: float) -> str:
    return f"no worker came within {limit_seconds / 60:.1f} min; there is no worker at all. {ADVICE}"
