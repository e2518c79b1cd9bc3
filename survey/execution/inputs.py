"""Find the files that a task reads, and check each against the sha256 that the task's digest depends on."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from survey.errors import TaskError
from survey.models import Task, TaskRecord
from survey.steps.parameter_files import content_digest, known_sha256
from survey.steps.registry import row_of
from survey.workspace import paths
from survey.workspace.folders import Workspace
from survey.workspace.records import record_path


def verified_sources(task: Task, workspace: Workspace, inputs: Sequence[TaskRecord]) -> list[str]:
    """Find a task's inputs, and check their sha256.

    When a product differs from its record, the record is removed, so that the next run makes the product again. A raw
    file that differs is removed itself, so that the next run fetches it again.

    Parameters
    ----------
    task : its ``files`` and ``reads`` name the inputs
    inputs : records of the tasks that it depends on

    Returns
    -------
    paths : absolute, in the task's order

    Raises
    ------
    TaskError
        Class 'again': an input is missing (a network file system may show another host's rename late). Class 'never':
        an input has changed.
    """
    _check_parameter_files(task)
    wanted = [(name, task.digests.get(name, ""), "") for name in task.files]
    wanted += _products_read(task, inputs)
    for record in inputs:
        if _reads_chunks(task, record):
            _check_chunks(record, workspace)
    found = []
    for name, sha256, maker in wanted:
        path = _place(workspace, name) if maker else workspace.root / name
        if not path or not (paths.is_file(path) if maker else path.is_file()):
            raise TaskError(f"{task.key}: input {name} is missing; run again to make it.", retry="again")
        if sha256 and known_sha256(path) != sha256:
            if maker:
                record_path(workspace.records, maker).unlink(missing_ok=True)
            elif name.startswith("raw/"):
                path.unlink(missing_ok=True)
            raise TaskError(f"{task.key}: input {name} has changed since it was recorded; run again to replace it.")
        found.append(str(path))
    return found


def _reads_chunks(task: Task, record: TaskRecord) -> bool:
    """Whether a task reads the chunks of a tile where they are published."""
    made, reads = row_of(record), row_of(task)
    return made.makes_tiles and (made.assembled_by == reads.name or reads.first_pass)


def _place(workspace: Workspace, product: str) -> Path | None:
    """Absolute path of a product; None when it leads out of the workspace."""
    try:
        return paths.inside(workspace.root, product)
    except ValueError:
        return None


def _check_parameter_files(task: Task) -> None:
    """Check the files that parameters name: the pipeline reads them where they are.

    Raises
    ------
    TaskError
        Class 'never': a file has changed since the plan, or cannot be read on this host.
    """
    for name in row_of(task).parameter_files(task.settings):
        expected = task.digests.get(name, "")
        try:
            changed = expected and content_digest(Path(name)) != expected
        except OSError as error:
            host = socket.gethostname()
            raise TaskError(
                f"{task.key}: {name}, which a parameter names, cannot be read on {host} ({error.strerror}). Put it "
                "where all workers can read it, and run again."
            ) from error
        if changed:
            raise TaskError(f"{task.key}: {name}, which a parameter names, has changed since the plan. Run again.")


def _check_chunks(record: TaskRecord, workspace: Workspace) -> None:
    """Check the chunks of a tile against its record; when one differs, remove the record: the next run makes the tile.

    Raises
    ------
    TaskError
        Class 'never': a chunk is missing or has changed; it is named.
    """
    for product in record.products:
        path = _place(workspace, product.path)
        if not path or not paths.is_file(path) or known_sha256(path) != product.sha256:
            record_path(workspace.records, record.key).unlink(missing_ok=True)
            raise TaskError(f"{record.key}: {product.path} has changed since it was recorded; run again to replace it.")


def _products_read(task: Task, inputs: Sequence[TaskRecord]) -> list[tuple[str, str, str]]:
    """Path, sha256 and key of the making task of each product that a task reads, in its order."""
    if not task.reads:
        # Of a task with several products, the next one reads that with the suffix of its step.
        return [
            (product.path, product.sha256, record.key)
            for record in inputs
            for product in record.products
            if Path(product.path).stem == f"{record.subject}_{row_of(record).produces}"
        ]
    made = {product.path: (product.sha256, record.key) for record in inputs for product in record.products}
    unknown = next((path for path in task.reads if path not in made), None)
    if unknown is not None:
        raise TaskError(f"{task.key}: no task that it depends on made {unknown}; remove their records and run again.")
    return [(path, *made[path]) for path in task.reads]
