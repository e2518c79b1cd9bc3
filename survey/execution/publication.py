"""Publish a task's products and its record, so that a crash at any moment leaves no wrong product.

A product counts as made only when there is a record of it. A publication therefore removes the records of all products
that it replaces, then renames the new products into place, and then writes the new record. Each of the three steps is
on the disk before the next begins.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from survey.digest import file_sha256, tree_sha256
from survey.errors import TaskError
from survey.models import COMPLETE, Product, Task, TaskRecord
from survey.mosaics.layouts import copy_layout
from survey.mosaics.tiles import uncommit
from survey.names import association_id
from survey.steps.base import Outcome, Unit
from survey.steps.registry import REGISTRY, mosaic_of, row_of
from survey.workspace import paths
from survey.workspace.files import replace_folder, sync_folder, sync_tree
from survey.workspace.folders import Workspace
from survey.workspace.products import reusable, stored_record
from survey.workspace.records import read_record, record_path, write_record

_LOCKS = 64
_LOCK_SECONDS = 600.0  # another process may be renaming a large mosaic


def published(task: Task, workspace: Workspace) -> TaskRecord | None:
    """The record of a task that need not run, or None.

    Waits for a process that is publishing the task, such as a worker that outlived a killed run.
    """
    with _locked(workspace, task.key):
        return reusable(task, workspace.root, stored_record(workspace, task.key))


def publish(
    record: TaskRecord, task: Task, outcome: Outcome, folder: Path, workspace: Workspace, run: str = ""
) -> TaskRecord:
    """Rename a task's products into place, and write its record.

    Parameters
    ----------
    record : of the task, without products
    outcome : names the products
    folder : where the products were made
    run : name of the run that the task belongs to; see `Workspace.check_run`

    Returns
    -------
    record : with its products; or that of another execution of the same task that was published first

    Raises
    ------
    TaskError
        The run no longer holds the workspace, or a link would lead a product out of it. Nothing is changed.
    """
    made = [(folder / source, target) for source, target in outcome.products]
    products = tuple(_product(path, target) for path, target in made if not path.is_symlink())
    for path, _ in made:
        sync_tree(path)
    final = replace(record, products=products)
    places = [_place(task, workspace.root, target) for _, target in made]
    row = row_of(task)
    mark: Path | None = None  # of the mosaic's group in the store: its presence commits the mosaic
    if row.makes_tiles:
        mark = _place(task, workspace.root, f"mosaics/mosaics.zarr/{task.settings['group']}/zarr.json")
    with _locked(workspace, task.key):
        workspace.check_run(task.key, run)
        first = reusable(task, workspace.root, stored_record(workspace, task.key))
        if first is not None:
            return first
        old = stored_record(workspace, task.key)
        _remove_records([record_path(workspace.records, task.key), *_replaced(task, products, workspace)], workspace)
        if mark is not None and not _is_tile_of(task, f"{row.assembled_by}/{task.mosaic}", workspace):
            # The tile's pixels change, so the mosaic is invalid until it is assembled again.
            _remove_records([record_path(workspace.records, f"{row.assembled_by}/{task.mosaic}")], workspace)
            uncommit(mark.parent)
        _remove_former(old, products, workspace)
        changed: set[Path] = set()
        for (source, _), place in zip(made, places, strict=True):
            changed |= _replace(source, place)
        for parent in changed:
            sync_folder(parent)
        if row.lays_out:
            copy_layout(workspace.root, task.subject)
        write_record(workspace.records, final)
    return final


def _place(task: Task, root: Path, target: str) -> Path:
    """Absolute path of a product; TaskError when a link would lead it out of the workspace."""
    try:
        return paths.inside(root, target)
    except ValueError as error:
        raise TaskError(f"{task.key}: {error}.") from error


def _remove_records(files: Iterable[Path], workspace: Workspace) -> None:
    """Remove records, and flush that to the disk: a record must not outlive its product."""
    there = [path for path in files if path.exists()]
    for path in there:
        path.unlink(missing_ok=True)
    if there:
        sync_folder(workspace.records)


def _replaced(task: Task, products: Sequence[Product], workspace: Workspace) -> list[Path]:
    """Files of the records of the other engine whose products are replaced by those of a task."""
    mine, ours = row_of(task), {product.path for product in products}
    found: list[Path] = []
    for name in mine.replaces:
        unit = REGISTRY[name].unit
        if unit is Unit.MOSAIC and mine.unit is not Unit.EXPOSURE:
            found.append(record_path(workspace.records, f"{name}/{task.mosaic}"))
            continue
        # Mosaics of one id have different members: the file of an exposure shows which of them is meant.
        by_file = Unit.EXPOSURE in (unit, mine.unit)
        for path in workspace.records.glob(f"{name}.*{association_id(task.mosaic)}*.json"):
            with contextlib.suppress(OSError, ValueError):  # a torn or foreign file is no record
                other = read_record(path)
                if ours & {item.path for item in other.products} if by_file else mosaic_of(other) == task.mosaic:
                    found.append(path)
    return found


def _is_tile_of(tile: Task, mosaic_key: str, workspace: Workspace) -> bool:
    """Whether a mosaic was assembled from this very tile, which was lost and has been made again."""
    record = stored_record(workspace, mosaic_key)
    return record is not None and record.status == COMPLETE and record.inputs.get(tile.key) == tile.digest


def _remove_former(old: TaskRecord | None, products: Sequence[Product], workspace: Workspace) -> None:
    """Remove products of the task's old record that the new one does not have; no record would name them."""
    kept = {product.path for product in products}
    for product in old.products if old is not None and old.status == COMPLETE else ():
        if product.path not in kept:
            paths.discard(workspace.root, product.path)


@contextlib.contextmanager
def _locked(workspace: Workspace, key: str) -> Iterator[None]:
    """Lock the publication of a task against other processes. All tasks share a small number of locks."""
    folder = workspace.records / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{zlib.crc32(key.encode()) % _LOCKS}.lock", timeout=_LOCK_SECONDS):
        yield


def _product(path: Path, target: str) -> Product:
    if path.is_dir():
        sha256, size = tree_sha256(path)
        return Product(target, sha256, size)
    return Product(target, file_sha256(path), path.stat().st_size)


def _replace(source: Path, target: Path) -> set[Path]:
    """Rename a product into place.

    Returns
    -------
    changed : folders in which a name changed
    """
    changed = {target.parent}
    for parent in target.parents:  # also those in which the next line creates a folder
        if parent.exists():
            changed.add(parent)
            break
        changed.add(parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        replace_folder(source, target)
    else:
        source.replace(target)
    return changed
