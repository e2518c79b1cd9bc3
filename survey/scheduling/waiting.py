"""Tasks that wait for a worker that can hold them, there or promised: not for ever."""

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


def refuse_small(client: Any, exposure_gb: Sequence[float]) -> None:
    """Refuse workers that hold no task of any exposure; what single tasks lack is said of each when its turn comes.

    Parameters
    ----------
    exposure_gb : memory of the tasks of exposures

    Raises
    ------
    WorkersError
        They are too small.
    """
    declared = capacity(client)
    if declared and exposure_gb and min(exposure_gb) > declared:
        raise WorkersError(
            f"the largest worker has {RESOURCE} = {declared:.1f}, and the smallest task of an exposure needs "
            f"{min(exposure_gb):.1f}. Use larger workers."
        )


def await_workers(client: Any, limit_seconds: float) -> None:
    """Wait for the first worker of a dask client: what the largest can hold decides how tasks are handed out.

    Raises
    ------
    SurveyError
        None came within the limit.
    """
    try:
        client.wait_for_workers(1, timeout=limit_seconds)
    except TimeoutError as error:
        raise SurveyError(nobody(limit_seconds)) from error


class Patience:
    """Remembers since when each task has found no worker, and gives it up in the end.

    Parameters
    ----------
    limit_seconds : how long a task may wait so
    resource : what the workers' declared memory is called
    """

    def __init__(self, limit_seconds: float, resource: str):
        self.limit_seconds = limit_seconds
        self.resource = resource
        self._since: dict[str, float] = {}
        self._looked = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the workers again."""
        return time.monotonic() - self._looked >= min(LOOK_SECONDS, self.limit_seconds / 2)

    def look(self, ready: Iterable[tuple[Task, float]], workers: Mapping[str, float]) -> dict[str, str]:
        """Compare what could run now with the workers that are there.

        Parameters
        ----------
        ready : tasks whose inputs are all there, and the memory that each asks for [GB]; 0: it asks for none
        workers : address of each worker -> the memory that it declares [GB], 0 when it declares none

        Returns
        -------
        given_up : task key -> what to say of it
        """
        now = self._looked = time.monotonic()
        largest = max(workers.values(), default=0.0)
        waiting = {task.key: asked for task, asked in ready if not workers or asked > largest}
        self._since = {key: self._since.get(key, now) for key in waiting}
        return {
            key: self._said(waiting[key], largest, bool(workers))
            for key, since in self._since.items()
            if now - since >= self.limit_seconds
        }

    def _said(self, asked_gb: float, largest_gb: float, any_workers: bool) -> str:
        if not any_workers:
            return nobody(self.limit_seconds)
        return (
            f"no worker with resource {self.resource} = {asked_gb:.1f} came within {self.limit_seconds / 60:.1f} min; "
            f"the largest that is there has {largest_gb:.1f}. {ADVICE}"
        )


def nobody(limit_seconds: float) -> str:
    """What to say when there is no worker at all."""
    return f"no worker came within {limit_seconds / 60:.1f} min; there is no worker at all. {ADVICE}"
