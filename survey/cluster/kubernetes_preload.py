"""Preload of the scheduler on Kubernetes: the autoscaler may retire ordinary workers only.

The operator's autoscaler asks the scheduler for a number of workers to retire, of any group, and then deletes the pods
of those that the scheduler chose. It starts only ordinary workers again when they are needed: if a worker with more
memory were chosen, no worker could run the large tasks any more.
"""

from __future__ import annotations

import math

from distributed import Scheduler, SchedulerPlugin
from distributed.scheduler import WorkerState

from survey.cluster.deploy import RESOURCE


class Retirement(SchedulerPlugin):
    """Restricts retirement to ordinary workers: those that declare no more memory than the smallest worker so far."""

    name = "survey-retirement"
    idempotent = True

    def __init__(self) -> None:
        self._smallest = math.inf  # kept: without any ordinary worker, a large one must not count as ordinary

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._smallest = min(self._smallest, _declared(scheduler.workers[worker], math.inf))

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[WorkerState]) -> list[WorkerState]:
        return [worker for worker in workers if _declared(worker, 0.0) <= self._smallest]


def dask_setup(scheduler: Scheduler) -> None:
    """Called by ``dask scheduler --preload survey.cluster.kubernetes_preload``."""
    scheduler.add_plugin(Retirement())


def _declared(worker: WorkerState, without: float) -> float:
    return float(worker.resources.get(RESOURCE, without))
