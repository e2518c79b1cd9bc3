"""Remove raw and rate files to make room, and remember it, so that neither counts as lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from survey.archive import held as archive_held
from survey.archive.headers import read_primary_header
from survey.archive.ledger import LEDGER, Ledger
from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.models import COMPLETE, Exposure, Plan, Task
from survey.planning.staleness import DONE, states
from survey.reduction.inputs import listed_exposures
from survey.reduction.job import plan
from survey.steps.registry import row_of
from survey.workspace import paths
from survey.workspace.files import sync_folder, write_file
from survey.workspace.folders import Workspace
from survey.workspace.products import stored_record
from survey.workspace.records import read_records, write_record

RATE, CAL = "rate", "cal"
KEEP = (RATE, CAL)


@dataclass(frozen=True)
class Removable:
    """A file that can be removed."""

    path: str  # relative to the workspace
    bytes: int
    task: str = ""  # that made it; '' for a raw file


@dataclass(frozen=True)
class Removal:
    """What `survey tidy` removes and what it keeps."""

    keep: str
    files: tuple[Removable, ...]
    needed: dict[str, str] = field(default_factory=dict)  # exposure -> why its files are kept
    linked: int = 0  # raw files of archive.local, which are never removed

    @property
    def gb(self) -> float:
        """Size of the files [GB]."""
        return sum(item.bytes for item in self.files) / 1e9


def removable(config: SurveyConfig, keep: str) -> Removal:
    """Find the files that mosaics no longer need; removes nothing.

    Parameters
    ----------
    config : plans of its exposures decide what is still needed
    keep : 'cal' removes raw files and everything before the calibrated images, 'rate' removes raw files only

    Raises
    ------
    ConfigError
        ``keep`` is something else.
    """
    if keep not in KEEP:
        raise ConfigError(f"--keep {keep}: expected {' or '.join(KEEP)}.")
    exposures = [exposure for exposure in listed_exposures(config) if not exposure.excluded]
    if not exposures:
        return Removal(keep, ())
    made, workspace = plan(config, exposures), config.folders
    done = {item.task.key: item for item in states(made, read_records(workspace.records).by_key, workspace.root)}
    files: list[Removable] = []
    needed: dict[str, str] = {}
    for exposure in exposures:
        chain = _chain(made, exposure, keep)
        waiting = next((task for task in chain if done[task.key].state != DONE), None)
        if waiting is not None or not chain:
            why = f"{waiting.step} has to run" if waiting is not None else exposure.fault or "it is not planned"
            needed[exposure.name] = why
            continue
        files += _raw(config, exposure)
        if keep == CAL:
            files += [item for task in chain[:-1] for item in _products(task, workspace)]
    linked = len(exposures) if config.archive.local is not None else 0
    return Removal(keep, tuple(files), needed, linked)


def _chain(made: Plan, exposure: Exposure, keep: str) -> list[Task]:
    """The tasks of an exposure up to the one whose product is kept."""
    tasks = [task for task in made if not task.mosaic and task.subject == exposure.name and row_of(task).chained]
    if keep == RATE:
        return tasks[:1]
    last = next((index for index, task in enumerate(tasks) if row_of(task).makes_members), None)
    return [] if last is None else tasks[: last + 1]


def _raw(config: SurveyConfig, exposure: Exposure) -> Iterator[Removable]:
    if config.archive.local is None and exposure.is_held:
        path = config.folders.raw / exposure.file
        if paths.is_file(path):
            yield Removable(f"raw/{exposure.file}", path.stat().st_size)


def _products(task: Task, workspace: Workspace) -> Iterator[Removable]:
    record = stored_record(workspace, task.key)
    for product in record.products if record is not None and record.status == COMPLETE else ():
        path = paths.inside(workspace.root, product.path)
        if paths.is_file(path):
            yield Removable(product.path, path.stat().st_size, task.key)


def remove(config: SurveyConfig, removal: Removal) -> None:
    """Remove files; call it only while holding the lock of the workspace.

    The headers of raw files are kept in ``raw/headers``, so that reference files can be looked up. The ledger and the
    records say first that a file is removed: when this is interrupted, nothing counts as lost.

    Raises
    ------
    OSError
        A file cannot be removed; run again to continue.
    """
    workspace = config.folders
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _remove_raw(workspace, [item.path.removeprefix("raw/") for item in removal.files if not item.task])
    for key in dict.fromkeys(item.task for item in removal.files if item.task):
        record = stored_record(workspace, key)
        if record is None or record.status != COMPLETE:
            continue
        write_record(workspace.records, replace(record, removed=now))
        for product in record.products:
            paths.discard(workspace.root, product.path)


def _remove_raw(workspace: Workspace, names: Sequence[str]) -> None:
    ledger = Ledger(workspace.raw / LEDGER)
    for name in names:
        entry, path = ledger.get(name), workspace.raw / name
        if entry is None:
            continue
        kept = archive_held.header_path(workspace.raw, name)
        kept.parent.mkdir(exist_ok=True)
        write_file(kept, read_primary_header(path).content)
        ledger.append(replace(entry, removed=True))
        path.unlink(missing_ok=True)
    if names:
        sync_folder(workspace.raw)
