"""How much memory tasks will take: the steps' own estimates, corrected by what earlier runs measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from survey.models import COMPLETE, Task, TaskRecord

# A task that ran before takes about what it took; the rest is for what its process shares and the allocator keeps.
SAFETY = 1.2
LEAST_GB = 0.3  # of a process with the pipeline imported
# One odd task must not make a step's estimate absurd.
FACTORS = (0.4, 4.0)
ENOUGH = 3  # measured tasks of a step before its ratio is applied to other tasks


@dataclass(frozen=True)
class Memory:
    """What earlier runs measured."""

    peaks: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # task key -> peak and estimate [GB]
    factors: Mapping[str, float] = field(default_factory=dict)  # step -> largest peak over its estimate

    def corrected(self, task: Task) -> float:
        """Memory to ask for [GB]: from the task's own last run, else its estimate by the experience of its step."""
        if task.key in self.peaks:
            peak, estimate = self.peaks[task.key]
            grown = max(task.memory_gb / estimate, 1.0) if estimate > 0 else 1.0  # more members, a larger tile
            return round(max(SAFETY * peak * grown, LEAST_GB), 3)
        return round(max(task.memory_gb * self.factors.get(task.step, 1.0), LEAST_GB), 3)


def learn(records: Iterable[TaskRecord]) -> Memory:
    """What complete records tell of memory."""
    peaks: dict[str, tuple[float, float]] = {}
    ratios: dict[str, list[float]] = {}
    for record in records:
        if record.status == COMPLETE and record.peak_memory_gb > 0:
            peaks[record.key] = (record.peak_memory_gb, record.estimate_gb)
            if record.estimate_gb > 0:
                ratios.setdefault(record.step, []).append(record.peak_memory_gb / record.estimate_gb)
    low, high = FACTORS
    factors = {step: min(max(SAFETY * max(found), low), high) for step, found in ratios.items() if len(found) >= ENOUGH}
    return Memory(peaks, factors)
