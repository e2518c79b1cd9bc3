"""Whole mosaics keep no intermediate products, and no records of tiles that they do not have; what of these comes back.

They go behind a run, not sooner: beside a mosaic that stands, a lost crf file or tile may be made anew, and reads them.
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


def tidy(
    root: Path,
    decided: Mapping[str, TaskRecord],
    chains: Mapping[str, Iterable[Task]],
    stored: Mapping[str, TaskRecord],
    keep_intermediate: bool,
) -> None:
    """Tidy up behind every mosaic that is whole.

    Parameters
    ----------
    root : of the workspace
    decided : records of this run, by key
    chains : product -> the tasks of its mosaic
    stored : records of earlier runs, by key
    keep_intermediate : leave pixel maps, drizzled groups and medians
    """
    for record in list(decided.values()):
        if row_of(record).commits and record.status == COMPLETE:
            tasks = list(chains[record.subject])
            if any(task.tile is not None for task in tasks):
                if not keep_intermediate:
                    _drop_intermediate(root, tasks, decided)
                _drop_strangers(root, record.subject, {task.key for task in tasks}, stored)


def _drop_intermediate(root: Path, tasks: Iterable[Task], decided: Mapping[str, TaskRecord]) -> None:
    """Remove what only the mosaic's tasks read; they are made again should one of these run again."""
    for task in tasks:
        record = decided.get(task.key)
        if record is not None and REGISTRY[task.step].intermediate:
            for item in record.products:
                discard(root, item.path)


def _drop_strangers(root: Path, product: str, known: set[str], stored: Mapping[str, TaskRecord]) -> None:
    """Remove records of tiles and groups that this mosaic no longer has: their files went with the old grid."""
    for key, record in stored.items():
        of_grid = row_of(record).unit in (Unit.GROUP, Unit.TILE) and mosaic_of(record) == product
        if of_grid and key not in known:
            record_path(root / "records", key).unlink(missing_ok=True)
            for item in record.products:
                discard(root, item.path)


def reusable_records(root: Path, tasks: Sequence[Task], stored: Mapping[str, TaskRecord]) -> dict[str, TaskRecord]:
    """Records of an earlier run that serve for tasks, by key: these tasks need not run.

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
