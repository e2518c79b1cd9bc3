"""What a task may take before it is ended, and how long it may wait: the config's section ``limits``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

# A hang is seen in ten minutes where a task was expected to be short, however wrong the expectation.
EXPECTED_FACTOR = 60.0
MIN_SECONDS = 600.0
LONG_TASK_FACTOR = 4.0
# Of a process with the pipeline imported, whatever was predicted for what it does.
MIN_MEMORY_GB = 2.0
# Beyond what the largest worker declares there is what its machine has in reserve, but not more.
WORKER_SLACK = 1.25
MORE_MEMORY = 2.0  # a task that ran out of memory is tried once more with this much more
OVER_USED = 1.5  # and at least with this much more than what it was seen to hold


class Limits(BaseModel):
    """The config's section ``limits``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task_hours: float = Field(
        6.0,
        gt=0,
        description="longest time that a task may run [h]; a task that is expected to run longer than a quarter of it "
        "may take four times its estimate",
        examples=[12],
    )
    memory_factor: float = Field(
        3.0,
        ge=1,
        description="a task is stopped when it holds more than this many times the memory that it asked for",
        examples=[4],
    )
    workers_minutes: float = Field(
        10.0,
        gt=0,
        description="how long tasks wait for a worker with enough memory before they fail [min]",
        examples=[60],
    )

    def seconds(self, expected_cpu_seconds: float) -> float:
        """Wall-clock limit of a task [s].

        Sixty times what was expected and ten minutes at least, but no more than ``task_hours``; for a mosaic of many
        exposures, which may be expected to take longer than that, four times the expectation.
        """
        usual = min(3600.0 * self.task_hours, max(MIN_SECONDS, EXPECTED_FACTOR * expected_cpu_seconds))
        return max(usual, LONG_TASK_FACTOR * expected_cpu_seconds)

    def memory_gb(self, asked_gb: float, largest_worker_gb: float = 0.0) -> float:
        """What a task and all that it starts may hold [GB].

        ``memory_factor`` times what it asked the scheduler for, 2 GB at least, and never a quarter more than the
        largest worker has (0: the workers declare none).
        """
        most = max(MIN_MEMORY_GB, self.memory_factor * asked_gb)
        return min(most, WORKER_SLACK * max(asked_gb, largest_worker_gb)) if largest_worker_gb else most

    @staticmethod
    def more_memory(asked_gb: float, used_gb: float) -> float:
        """What to ask for when a task ran out of what it had asked for [GB]."""
        return round(max(MORE_MEMORY * asked_gb, OVER_USED * used_gb), 3)
