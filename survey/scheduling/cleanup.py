"""Delete intermediate products and stale tile records of complete mosaics; find the tasks that need not run again.

Products are deleted after a run, not when their mosaic is complete: a lost crf file or tile of a complete mosaic may be
made again during the run, and reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from survey.models import COMPLETE, Task, TaskRecord
from survey.steps.base import Unit
from survey.steps.registry import REGISTRY, mosaic_of, row_of
from survey.workspace.paths import discard
from survey.workspace.products import in_place, recorded
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


def _delete_intermediate(root: Path, tasks: Iterable[Task], decided: Mapping[str, TaskRecord]) -> None:
    """Delete products that only tasks of the mosaic read. They are made again when one of these tasks runs again."""
    for task in tasks:
        record = decided.get(task.key)
        if record is not None and REGISTRY[task.step].intermediate:
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


def reusable_records(root: Path, tasks: Sequence[Task], stored: Mapping[str, TaskRecord]) -> dict[str, TaskRecord]:
    """Records of earlier runs by task key, of the tasks that need not run again.

    A product must still be in the workspace. That of an intermediate step may be gone, unless a task that has to run
    reads it: then the intermediate task has to run as well.

    Parameters
    ----------
    root : of the workspace
    tasks : each after its inputs, with all that read an intermediate product of one of them
    stored : records of earlier runs, by key
    """
    reusable: dict[str, TaskRecord] = {}
    read: set[str] = set()  # keys of the inputs of tasks that have to run
    for task in reversed(tasks):
        record = recorded(task, stored.get(task.key))
        may_be_gone = REGISTRY[task.step].intermediate and task.key not in read
        if record is not None and (may_be_gone or in_place(root, record)):
            reusable[task.key] = record
        else:
            read.update(task.inputs)
    return reusable
