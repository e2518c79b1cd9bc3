"""Check whether the products of a record are still in the workspace."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from survey.models import COMPLETE, Product, Task, TaskRecord
from survey.workspace import paths
from survey.workspace.folders import Workspace
from survey.workspace.records import read_record, record_path


def stored_record(workspace: Workspace, key: str) -> TaskRecord | None:
    """The record of a task; None if there is none, or it cannot be read."""
    try:
        return read_record(record_path(workspace.records, key))
    except (OSError, ValueError):
        return None


def reusable(task: Task, root: Path, record: TaskRecord | None) -> TaskRecord | None:
    """The record, if it is complete, has the task's digest, and its products exist with their recorded size.

    Contents are not compared: `survey verify` and the tasks that read a product do that.
    """
    done = recorded(task, record)
    return done if done is not None and in_place(root, done) else None


def recorded(task: Task, record: TaskRecord | None) -> TaskRecord | None:
    """The record, if it is complete and has the task's digest, whether or not its products exist."""
    if record is None or record.status != COMPLETE or not task.digest or record.digest != task.digest:
        return None
    return record


def in_place(root: Path, record: TaskRecord) -> bool:
    """Whether all products of a record exist with their recorded size."""
    return all(product_in_place(root, product, record.digest) for product in record.products)


def product_in_place(root: Path, product: Product, digest: str) -> bool:
    """Whether a product exists: as a file of its size, or as a zarr group with the digest of its task."""
    try:
        path = paths.inside(root, product.path)
        found = path.lstat()
    except (OSError, ValueError):
        return False
    if stat.S_ISDIR(found.st_mode):  # a zarr group
        return _stored_digest(path / "zarr.json") in ("", digest)
    return stat.S_ISREG(found.st_mode) and found.st_size == product.bytes


def _stored_digest(metadata: Path) -> str:
    try:
        return str(json.loads(metadata.read_text())["attributes"]["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
