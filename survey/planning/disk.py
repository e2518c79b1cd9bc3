"""What a run will write, and whether the workspace's disk has room for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from survey.errors import DiskFullError
from survey.models import COMPLETE, REMOVED, Exposure, Plan, Task, TaskRecord
from survey.steps.costs import image_gb, ramp_gb

# Estimates are none too good: a run is refused only when even this much of them does not fit.
CERTAIN = 0.6


@dataclass(frozen=True)
class Room:
    """What a run needs, and what there is [GB]."""

    fetch_gb: float  # raw files that are not there yet, as the archive gives their sizes
    write_gb: float  # products of the tasks to run, less those that they replace
    free_gb: float

    @property
    def is_too_small(self) -> bool:
        return self.fetch_gb + CERTAIN * self.write_gb > self.free_gb

    @property
    def is_tight(self) -> bool:
        return self.fetch_gb + self.write_gb > self.free_gb

    def __str__(self) -> str:
        raw = f"{self.fetch_gb:.2f} GB to fetch and " if self.fetch_gb else ""
        return f"{raw}about {self.write_gb:.2f} GB to write, {self.free_gb:.2f} GB free"


def room(
    root: Path, made: Plan, waiting: Iterable[Task], records: Mapping[str, TaskRecord], fetches: bool = True
) -> Room:
    """What these tasks of a plan will write, beside what is free.

    Parameters
    ----------
    root : of the workspace; it need not exist yet
    waiting : tasks of the plan that will run
    records : of earlier runs, by key
    fetches : raw files are copied into the workspace, not linked
    """
    from survey.archive.download import MAX_FILE_BYTES  # which brings the network along

    waiting = list(waiting)
    read = {name for task in waiting for name in task.files}
    absent = [
        item
        for item in made.exposures
        if not item.is_held and not item.fault and (item.absent != REMOVED or f"raw/{item.file}" in read)
    ]
    # A larger size is a slip of the archive's row: that file will not be fetched.
    sizes = [exposure.size for exposure in absent if exposure.size and exposure.size <= MAX_FILE_BYTES]
    raw = sum(sizes) / 1e9 if fetches else 0.0
    write = sum(max(0.0, task.disk_gb - _held_gb(root, records.get(task.key))) for task in waiting)
    return Room(raw, write, _free_gb(root))


def total_gb(exposures: Iterable[Exposure]) -> float:
    """What the products of these exposures will take on disk, roughly [GB]: raw, rate, cal and crf.

    A rate file holds 6 float32 planes, a cal and a crf 10 each.
    """
    return sum(ramp_gb(exposure) / 2 + 26 * image_gb(exposure) for exposure in exposures)


def check_room(found: Room, root: Path, say: Callable[[str], None]) -> None:
    """Refuse a run that cannot fit, and say so when one might not.

    Raises
    ------
    DiskFullError
        Even a cautious estimate does not fit.
    """
    if found.is_too_small:
        raise DiskFullError(f"{root}: {found}. Make room, or take another --workspace; nothing was started.")
    if found.is_tight:
        say(f"{root}: {found}: the disk may become full. What is complete then stays, and a rerun goes on.")


def _held_gb(root: Path, record: TaskRecord | None) -> float:
    """Size of the products that a task's next ones take the place of [GB]."""
    if record is None or record.status != COMPLETE:
        return 0.0
    return sum(item.bytes for item in record.products if (root / item.path).exists()) / 1e9


def _free_gb(root: Path) -> float:
    there = next(path for path in (root, *root.parents) if path.exists())
    return shutil.disk_usage(there).free / 1e9
