"""What a whole mosaic leaves behind and nobody reads any more: transient products, and records of tiles it lost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from survey.models import Task, TaskRecord
from survey.records import record_path
from survey.steps import REGISTRY

OF_TILES = ("outlier_i2d", "median", "drizzle")


def drop_transient(root: Path, tasks: Iterable[Task], records: Mapping[str, TaskRecord]) -> None:
    """Remove what only a mosaic's tasks read; it is made again should one of these run again.

    The records stay: they say that the task need not run. A run that is killed here is made good by the next.
    """
    for task in tasks:
        record = records.get(task.key)
        if record is not None and REGISTRY[task.step].transient:
            for item in record.products:
                (root / item.path).unlink(missing_ok=True)


def drop_strangers(root: Path, product: str, known: Collection[str], stored: Mapping[str, TaskRecord]) -> None:
    """Remove records of tiles and groups that a mosaic no longer has, and their files that lie outside of its zarr
    group; those inside went as it was assembled.
    """
    for key, record in stored.items():
        if record.step in OF_TILES and record.subject.startswith(f"{product}_") and key not in known:
            record_path(root / "records", key).unlink(missing_ok=True)
            for item in record.products:
                (root / item.path).unlink(missing_ok=True)
