"""Number of jobs of each size that a cluster needs, from the memory of its ready tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Jobs of one size."""

    name: str
    memory_gb: float  # of the largest task that a worker runs
    workers_per_job: int
    minimum: int  # jobs
    maximum: int


def jobs_wanted(needs_gb: Iterable[float], groups: Sequence[Group]) -> dict[str, int]:
    """Number of jobs of each group.

    Each task counts for the group with the least memory that can hold it, with one worker for each task up to the
    group's maximum. A task that no group can hold is not counted.

    Parameters
    ----------
    needs_gb : memory of each task that runs or is ready
    groups : sizes of the cluster

    Returns
    -------
    wanted : group's name -> jobs, between its minimum and its maximum
    """
    by_size = sorted(groups, key=lambda group: group.memory_gb)
    tasks = dict.fromkeys((group.name for group in by_size), 0)
    for need in needs_gb:
        group = next((item for item in by_size if item.memory_gb >= need), None)
        if group is not None:
            tasks[group.name] += 1
    return {
        group.name: min(max(-(-tasks[group.name] // group.workers_per_job), group.minimum), group.maximum)
        for group in groups
    }
