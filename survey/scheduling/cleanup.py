"""Delete intermediate products and stale tile records of complete mosaics.

Products are deleted after a run, not when their mosaic is complete: a lost crf file or tile of a complete mosaic may be
made again during the run, and reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from survey.models import COMPLETE, Task, TaskRecord
from survey.steps.base import Unit
from survey.steps.registry import is_intermediate, mosaic_of, row_of
from survey.workspace.paths import discard
from survey.workspace.records import record_path


def clean_up(
    root: Path,
    decided: Mapping[str, TaskRecord],
    mosaics: Mapping[str, Iterable[Task]],
    stored: Mapping[str, TaskRecord],
    keep_intermediate: bool,
) -> None:
    """Delete what complete mosaics no longer need, after a run.

    Parameters
    ----------
    root : of the workspace
    decided : records of this run, by task key
    mosaics : product -> the tasks of its mosaic
    stored : records of earlier runs, by task key
    keep_intermediate : keep pixel maps, drizzled groups and medians
    """
    for record in list(decided.values()):
        if row_of(record).commits and record.status == COMPLETE:
            tasks = list(mosaics[record.subject])
            if any(task.tile is not None for task in tasks):
                if not keep_intermediate:
                    _delete_intermediate(root, tasks, decided)
                _delete_stale_tiles(root, record.subject, {task.key for task in tasks}, stored)


def clean_up_first_pass(root: Path, plan: Iterable[Task], decided: Mapping[str, TaskRecord], keep: bool) -> None:
    """Delete what only a first pass needed, after a run in which every mask was made.

    Parameters
    ----------
    root : of the workspace
    plan : tasks of the run
    decided : records of this run, by task key
    keep : delete nothing
    """
    tasks = list(plan)
    masks = [decided.get(task.key) for task in tasks if row_of(task).masks]
    if keep or not masks or any(record is None or record.status != COMPLETE for record in masks):
        return
    for task in tasks:
        record = decided.get(task.key)
        if task.first_pass and is_intermediate(task) and record is not None and record.status == COMPLETE:
            for item in record.products:
                discard(root, item.path)
            if row_of(task).makes_tiles:
                _remove_empty_folders(root, {Path(item.path).parent for item in record.products})


def _remove_empty_folders(root: Path, folders: Iterable[Path]) -> None:
    """Remove folders of chunks that are empty, and those above them, up to the store of mosaics."""
    for folder in folders:
        while len(folder.parts) > 2:  # mosaics/mosaics.zarr
            try:
                (root / folder).rmdir()
            except OSError:  # not empty, or gone
                break
            folder = folder.parent


def _delete_intermediate(root: Path, tasks: Iterable[Task], decided: Mapping[str, TaskRecord]) -> None:
    """Delete products that only tasks of the mosaic read. They are made again when one of these tasks runs again."""
    for task in tasks:
        record = decided.get(task.key)
        if record is not None and row_of(task).intermediate:
            for item in record.products:
                discard(root, item.path)


def _delete_stale_tiles(root: Path, product: str, known: set[str], stored: Mapping[str, TaskRecord]) -> None:
    """Delete tiles and groups of an earlier grid, which the mosaic no longer has, and their records."""
    for key, record in stored.items():
        of_grid = row_of(record).unit in (Unit.GROUP, Unit.TILE) and mosaic_of(record) == product
        if of_grid and key not in known:
            record_path(root / "records", key).unlink(missing_ok=True)
            for item in record.products:
                discard(root, item.path)
