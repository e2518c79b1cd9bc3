"""What a run will write, and whether the workspace's disk has room for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from survey.errors import DiskFullError
from survey.models import COMPLETE, Exposure, Plan, Task, TaskRecord
from survey.steps.base import frame_gb
from survey.steps.registry import REGISTRY

# Bytes of a mosaic's pixel: sci, err, wht, con and three variances. In zarr, compression takes some of it off again.
MOSAIC_BYTES = 28
# float32 planes of an exposure that a product holds, measured with jwst 3.0.0: (SCI, ERR, DQ and variances; a cal and a
# crf file also have the area and the flat's variance).
RATE_PLANES, CAL_PLANES = 5.2, 7.3
PIXMAP_PLANES = 8.0  # two maps of float64 for drizzling, two for outlier detection
GROUP_PLANES = 1.5  # a drizzled group, per exposure
CATALOGUE_BYTES = 4  # of a mosaic's pixel: the segmentation map
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

    exposures = {exposure.name: exposure for exposure in made.exposures}
    absent = [exposure for exposure in made.exposures if not exposure.sha256 and not exposure.fault]
    # A larger size is a slip of the archive's row: that file will not be fetched.
    sizes = [exposure.size for exposure in absent if exposure.size and exposure.size <= MAX_FILE_BYTES]
    raw = sum(sizes) / 1e9 if fetches else 0.0
    mosaics: dict[str, list[Task]] = {}
    for task in made:
        if task.step == "drizzle":
            mosaics.setdefault(task.subject.rpartition("_")[0], []).append(task)
    write = sum(
        max(0.0, product_gb(task, exposures, mosaics.get(task.subject, ())) - _held_gb(root, records.get(task.key)))
        for task in waiting
    )
    return Room(raw, write, _free_gb(root))


def product_gb(task: Task, exposures: Mapping[str, Exposure], tiles: Iterable[Task] = ()) -> float:
    """What a task will leave on the disk, roughly [GB].

    Parameters
    ----------
    exposures : of the plan, by name
    tiles : the drizzle tasks of its mosaic, for a task that stands behind them
    """
    box = task.settings.get("box")
    pixels = (box[2] - box[0]) * (box[3] - box[1]) if box else 0
    if task.step in ("drizzle", "median"):
        planes = (len(task.settings.get("members", ())) - 1) // 32 * 4 if task.step == "drizzle" else 0
        return 1e-9 * pixels * (MOSAIC_BYTES + planes if task.step == "drizzle" else 4)
    if task.step in ("assemble", "source_catalog"):
        boxes = [tile.settings["box"] for tile in tiles]
        extent = max((item[2] for item in boxes), default=0) * max((item[3] for item in boxes), default=0)
        return 1e-9 * extent * (MOSAIC_BYTES if task.step == "assemble" else CATALOGUE_BYTES)
    same = (frame_gb(exposure) for exposure in exposures.values() if exposure.filter == task.filter)
    if task.step in ("image3", "mosaic"):  # no grid is known: members side by side, each half covered by others
        members = sum(same)
        return MOSAIC_BYTES / 4 * members / 2 + (CAL_PLANES * members if task.step == "image3" else 0.0)
    if task.step == "outlier_i2d":
        return GROUP_PLANES * len(task.settings["members"]) * next(same, 0.0)
    exposure = exposures.get(task.subject) or exposures.get(task.subject.rpartition("_")[0])
    return _planes(task.step) * frame_gb(exposure) if exposure else 0.0


def _planes(step: str) -> float:
    """float32 planes of an exposure that a step's products hold."""
    if step == "pixmap":
        return PIXMAP_PLANES
    row = REGISTRY[step]
    if row.produces in ("cal", "crf"):
        return CAL_PLANES
    return RATE_PLANES if row.chained else 0.0


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
