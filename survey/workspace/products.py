"""Whether the products that a record names are still in the workspace."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from survey.models import COMPLETE, Product, Task, TaskRecord
from survey.workspace import paths
from survey.workspace.folders import Workspace
from survey.workspace.records import read_record, record_path


def stored_record(workspace: Workspace, key: str) -> TaskRecord | None:
    """The record of a key, or None: a torn or foreign file is no record."""
    try:
        return read_record(record_path(workspace.records, key))
    except (OSError, ValueError):
        return None


def reusable(task: Task, root: Path, record: TaskRecord | None) -> TaskRecord | None:
    """The given record, when it is complete, of the task's digest, and its products are there in their size.

    Bytes are compared by `survey verify` and by the task that reads them; here the record, written last, is the proof.
    """
    done = recorded(task, record)
    return done if done is not None and in_place(root, done) else None


def recorded(task: Task, record: TaskRecord | None) -> TaskRecord | None:
    """The given record, when it is complete and of the task's digest, wherever its products are."""
    if record is None or record.status != COMPLETE or not task.digest or record.digest != task.digest:
        return None
    return record


def in_place(root: Path, record: TaskRecord) -> bool:
    """Whether all products of a record are there in their size."""
    return all(product_in_place(root, product, record.digest) for product in record.products)


def product_in_place(root: Path, product: Product, digest: str) -> bool:
    """Whether a product is there, as a file of its size or as a mosaic of its task."""
    try:
        path = paths.inside(root, product.path)
        found = path.lstat()
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(found.st_mode):  # a mosaic for xarray says whose it is
        return _said_digest(path / "zarr.json") in ("", digest)
    return stat.S_ISREG(found.st_mode) and found.st_size == product.bytes


def _said_digest(metadata: Path) -> str:
    try:
        return str(json.loads(metadata.read_text())["attributes"]["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
