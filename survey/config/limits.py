"""The config's section ``limits``: time and memory after which a task is stopped, and the wait for workers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

# Wall-clock limit of a task: this many times its expected CPU time, and at least ten minutes.
EXPECTED_FACTOR = 60.0
MIN_SECONDS = 600.0
LONG_TASK_FACTOR = 4.0
# Least limit of a process, which has the pipeline imported.
MIN_MEMORY_GB = 2.0
# A machine has some memory beyond what its worker declares.
WORKER_SLACK = 1.25
MORE_MEMORY = 2.0  # factor for the second try of a task that ran out of memory
OVER_USED = 1.5  # and at least this factor over what it was seen to use


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

        Sixty times the expected CPU time, at least ten minutes and at most ``task_hours``; four times the expected CPU
        time if that is longer, as for a mosaic of many exposures.
        """
        usual = min(3600.0 * self.task_hours, max(MIN_SECONDS, EXPECTED_FACTOR * expected_cpu_seconds))
        return max(usual, LONG_TASK_FACTOR * expected_cpu_seconds)

    def memory_gb(self, asked_gb: float, largest_worker_gb: float = 0.0) -> float:
        """Memory limit of a task, with all processes that it starts [GB].

        ``memory_factor`` times what it asked the scheduler for, at least 2 GB, and at most a quarter more than the
        largest worker has (0: unknown).
        """
        most = max(MIN_MEMORY_GB, self.memory_factor * asked_gb)
        return min(most, WORKER_SLACK * max(asked_gb, largest_worker_gb)) if largest_worker_gb else most

    @staticmethod
    def more_memory(asked_gb: float, used_gb: float) -> float:
        """Memory to ask for in the second try of a task that ran out of memory [GB]."""
        return round(max(MORE_MEMORY * asked_gb, OVER_USED * used_gb), 3)
