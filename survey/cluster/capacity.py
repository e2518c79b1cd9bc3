"""Memory of the workers of a cluster: of those that are connected, and of those that it will start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from survey.cluster.deploy import RESOURCE
from survey.models import Task
from survey.steps.registry import row_of

EXPECTED = "survey-expected-workers"  # in a scheduler's metadata
TOO_LARGE = "Use a larger worker, a smaller mosaic or tile, or one mosaic per [filter, observation]."


@dataclass(frozen=True)
class ExpectedWorkers:
    """Workers that a cluster starts when tasks need them."""

    capacity_gb: float = 0.0  # largest memory resource of any of them; 0: the cluster starts none
    start_seconds: float = 0.0  # how long they may take to start


def publish(client: Any, expected: ExpectedWorkers) -> None:
    """Tell the scheduler which workers to expect, for every client of it: also for those that only have its address."""
    client.set_metadata(EXPECTED, asdict(expected))


def expected_workers(client: Any) -> ExpectedWorkers:
    """Workers that the cluster of a dask client starts when tasks need them."""
    return ExpectedWorkers(**client.get_metadata(EXPECTED, default={}))


def workers_of(client: Any, resource: str) -> dict[str, float]:
    """Memory resource that each worker of a dask client declares [GB], by its address; 0 when it declares none."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {name: float(worker.get("resources", {}).get(resource, 0.0)) for name, worker in workers.items()}


def capacity(client: Any) -> float:
    """The largest memory resource of any present or expected worker [GB]; 0 when no worker declares any."""
    return max([expected_workers(client).capacity_gb, *workers_of(client, RESOURCE).values()])


def too_large(task: Task, capacity_gb: float) -> str:
    """Message for a task that needs more memory than any worker has, and would wait forever."""
    advice = row_of(task).advice or TOO_LARGE
    return f"needs resource {RESOURCE} = {task.memory_gb:.1f}, the largest worker has {capacity_gb:.1f}. {advice}"
