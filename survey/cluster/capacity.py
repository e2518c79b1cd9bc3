"""The memory that workers declare, and that a cluster can still bring."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from survey.cluster.deploy import RESOURCE
from survey.models import Task

PROMISE = "survey-promise"  # in a scheduler's metadata


@dataclass(frozen=True)
class Promise:
    """Workers that a cluster brings when tasks ask for them."""

    capacity_gb: float = 0.0  # the largest memory resource of any; 0: it brings none
    patience_seconds: float = 0.0  # how long they may take to come


def publish(client: Any, promise: Promise) -> None:
    """Leave a promise with the scheduler, for every client of it: those that have its address alone, too."""
    client.set_metadata(PROMISE, asdict(promise))


def promise_of(client: Any) -> Promise:
    """What the cluster of a dask client will bring."""
    return Promise(**client.get_metadata(PROMISE, default={}))


def workers_of(client: Any, resource: str) -> dict[str, float]:
    """Address of each worker of a dask client -> the memory resource that it declares [GB], 0 when it declares none."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {name: float(worker.get("resources", {}).get(resource, 0.0)) for name, worker in workers.items()}


def capacity(client: Any) -> float:
    """The largest memory resource of any worker that is there or that the cluster can bring [GB].

    0: nobody declares it.
    """
    return max([promise_of(client).capacity_gb, *workers_of(client, RESOURCE).values()])


def too_large(task: Task, capacity_gb: float) -> str:
    """What to say of a task that no worker can hold; it would wait for ever."""
    advice = "Use a larger worker, a smaller mosaic or tile, or one mosaic per [filter, observation]."
    if task.step == "source_catalog":
        advice = "It holds the whole mosaic: leave it out with 'source_catalog: {skip: true}', or use a larger worker."
    return f"needs resource {RESOURCE} = {task.memory_gb:.1f}, the largest worker has {capacity_gb:.1f}. {advice}"
