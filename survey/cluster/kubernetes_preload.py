"""Which workers may go when fewer are asked for: a preload of the scheduler on Kubernetes.

The operator's autoscaler tells the scheduler a number of workers to retire, whatever their group, and then deletes the
pods of those that the scheduler chose. It makes ordinary workers anew when they are needed, and no others: a worker
with much memory that was chosen would be gone for good, and so would be whoever could hold the large tasks.
"""

from __future__ import annotations

import math

from distributed import Scheduler, SchedulerPlugin
from distributed.scheduler import WorkerState

from survey.cluster.deploy import RESOURCE


class Retirement(SchedulerPlugin):
    """Lets ordinary workers go alone: those that declare no more memory than the smallest that ever came."""

    name = "survey-retirement"
    idempotent = True

    def __init__(self) -> None:
        self._smallest = math.inf  # remembered: when ordinary workers are all away, a large one is none of them

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._smallest = min(self._smallest, _declared(scheduler.workers[worker], math.inf))

    def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[WorkerState]) -> list[WorkerState]:
        return [worker for worker in workers if _declared(worker, 0.0) <= self._smallest]


def dask_setup(scheduler: Scheduler) -> None:
    """What ``dask scheduler --preload survey.cluster.kubernetes_preload`` calls."""
    scheduler.add_plugin(Retirement())


def _declared(worker: WorkerState, without: float) -> float:
    return float(worker.resources.get(RESOURCE, without))
