"""Inspect a workspace: states of tasks, lineage of products, and whether files are as recorded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from survey.archive import held as archive_held
from survey.archive.ledger import LEDGER, Ledger
from survey.config.model import SurveyConfig
from survey.digest import file_sha256, tree_sha256
from survey.errors import ConfigError
from survey.models import COMPLETE, Notice, Plan, TaskRecord
from survey.mosaics.groups import ROOT_METADATA
from survey.planning.disk import Room, room
from survey.planning.made_with import Differences, differences
from survey.planning.staleness import DONE, State, states
from survey.reduction.inputs import listed_exposures
from survey.reduction.job import unchecked_plan
from survey.reduction.outcome import notices_of
from survey.reduction.placement import placement_of
from survey.references import catalogs
from survey.steps.reference_catalog import FOLDER
from survey.steps.registry import row_of
from survey.versions import recorded_versions
from survey.workspace import paths
from survey.workspace.folders import Workspace
from survey.workspace.products import stored_record
from survey.workspace.provenance import STORE, Lineage, lineage
from survey.workspace.provenance import fault as provenance_fault
from survey.workspace.records import Records, read_records, seal_fault

MIN_PARTS = 3  # underscores in an exposure's name


def status(config: SurveyConfig) -> list[TaskRecord]:
    """The newest record of each task in the workspace; may be read during a run."""
    return list(read_records(config.folders.records).latest.values())


def explain(config: SurveyConfig, product: str) -> tuple[Lineage, dict[str, tuple[str, ...]]]:
    """Find how a product was made, and which of its tasks are stale.

    Returns
    -------
    lineage : survey.workspace.provenance.Lineage, from the product down to its raw files
    stale : key of a task -> why it would run again with the config, the raw files and the reference files of now; no
        server is asked

    Raises
    ------
    ConfigError
        No record has such a product.
    """
    workspace = config.folders
    records = read_records(workspace.records).by_key
    try:
        tree = lineage(records, _inside(product, workspace))
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from error
    exposures = [item for item in listed_exposures(config) if not item.excluded]
    current = {state.task.key: state for state in states(unchecked_plan(config, exposures), records, workspace.root)}
    held = {exposure.name for exposure in exposures}
    stale = {}
    for _, node in tree.walk():
        state = current.get(node.name)
        if node.record is None:
            continue
        if state is not None and state.state != DONE:
            stale[node.name] = state.reasons
        elif state is None and not _is_foreign(node.record, held):
            stale[node.name] = (_why_unplanned(node.record, held),)
    return tree, stale


def _is_foreign(record: TaskRecord, held: set[str]) -> bool:
    """Whether a record belongs to an association that the user supplied, which no config plans."""
    step = row_of(record)
    if step.external:
        return True
    if not step.per_mosaic:
        return False
    members = record.settings.get("members")
    return not isinstance(members, list) or all(isinstance(name, str) and name in held for name in members)


def _why_unplanned(record: TaskRecord, held: set[str]) -> str:
    if record.subject in held or record.subject.count("_") < MIN_PARTS:
        return "the config no longer includes it"
    return f"raw/{record.subject}_uncal.fits is missing, or was changed since it was verified; run 'survey fetch'"


def verify(config: SurveyConfig) -> dict[str, str]:
    """Compare all files with their recorded checksums: products, records, mosaics in zarr, provenance, raw files.

    Returns
    -------
    faults : path -> what is wrong; empty if all files are as recorded

    Raises
    ------
    ConfigError
        The workspace has neither records nor raw files.
    """
    workspace = config.folders
    found = read_records(workspace.records)
    if not found.by_key and not found.faults and not (workspace.raw / LEDGER).exists():
        raise ConfigError(f"{workspace.root}: holds no records and no raw files; nothing was run there.")
    faults = {f"records/{name}": cause for name, cause in found.faults.items()}
    faults |= _record_faults(workspace, found)
    known: set[str] = set()
    for record in found.by_key.values():
        if record.status != COMPLETE:
            continue
        for product in record.products:
            known.add(product.path)
            try:
                path = paths.inside(workspace.root, product.path)
                if (row_of(record).intermediate or record.removed) and not os.path.lexists(path):
                    continue
                sha256 = _sha256_of(path)
            except (OSError, ValueError) as error:
                faults[product.path] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
                continue
            if sha256 != product.sha256:
                faults[product.path] = f"sha256 is {sha256[:12]}..., its record has {product.sha256[:12]}..."
    faults |= _store_faults(workspace, known) | _raw_faults(workspace, found)
    faults |= {f"{FOLDER}/{name}": cause for name, cause in catalogs.faults(workspace.root / FOLDER).items()}
    cause = provenance_fault(workspace.root)
    return faults | ({STORE: cause} if cause else {})


def _record_faults(workspace: Workspace, found: Records) -> dict[str, str]:
    """Records whose content differs from what was written."""
    faults = {}
    for path in sorted(workspace.records.glob("[!.]*.json")):
        if path.name not in found.faults:
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
                cause = seal_fault(path)
                if cause:
                    faults[f"records/{path.name}"] = cause
    return faults


def _store_faults(workspace: Workspace, known: set[str]) -> dict[str, str]:
    """Files of finished mosaics that are in no record, and faults of the store's root metadata.

    A group without metadata is not finished: a run that was killed may have left chunks there.
    """
    store = workspace.root / "mosaics" / "mosaics.zarr"
    marks = sorted(store.glob("[!.]*/zarr.json"))
    cause = _root_fault(store / "zarr.json", needed=bool(marks))
    faults = {"mosaics/mosaics.zarr/zarr.json": f"{cause}; run again to rewrite it"} if cause else {}
    for mark in marks:
        group = mark.parent
        if group.relative_to(workspace.root).as_posix() in known:  # one product: its sha256 is that of all its files
            continue
        for path in sorted(group.rglob("*")):
            name = path.relative_to(workspace.root).as_posix()
            if name not in known and (path.is_symlink() or not path.is_dir()):
                faults[name] = "is in no record"
    return faults


def _root_fault(path: Path, *, needed: bool) -> str:
    """What is wrong with the root metadata of the store; it is needed once the store has a mosaic."""
    if not os.path.lexists(path):
        return "is missing, though the store has mosaics" if needed else ""
    if not paths.is_file(path):  # reading a pipe would block
        return "is a folder, a link or a device; expected a file"
    try:
        return "" if path.read_bytes() == ROOT_METADATA else "was changed since it was written"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _raw_faults(workspace: Workspace, found: Records) -> dict[str, str]:
    """Raw files that differ from the ledger, and those that tasks have read and the ledger does not list."""
    faults = archive_held.verify(workspace.raw)
    known = set(Ledger(workspace.raw / LEDGER).names())
    for record in found.by_key.values():
        for name in record.inputs if record.status == COMPLETE else ():
            file = name.removeprefix("raw/")
            if file != name and file not in known and (workspace.root / name).exists():
                faults[name] = f"was read by {record.key}, and is not in raw/{LEDGER}; run 'survey fetch'"
    return faults


def _sha256_of(path: Path) -> str:
    """sha256 of a product.

    Raises
    ------
    ValueError
        It is neither a file nor a folder, but a link, a pipe or a device.
    """
    if paths.is_folder(path):
        return tree_sha256(path)[0]
    if paths.is_file(path) or not os.path.lexists(path):
        return file_sha256(path)
    raise ValueError("a link or a device; expected a file")


def plan_states(config: SurveyConfig, made: Plan) -> list[State]:
    """States of a plan's tasks: done, or why they would run, compared with the workspace's records.

    A task that failed with the settings and inputs of the plan has failed, also if it was complete with other ones.
    """
    workspace, digests = config.folders, {task.key: task.digest for task in made if task.digest}
    found = read_records(workspace.records)
    failures = {key: record for key, record in found.failures.items() if record.digest == digests.get(key)}
    return states(made, {**found.by_key, **failures}, workspace.root)


def plan_notices(config: SurveyConfig, made: Plan) -> dict[str, tuple[Notice, ...]]:
    """What steps of Image3 did not do when they last ran with a plan's settings and inputs, by product."""
    records = read_records(config.folders.records).by_key
    digests = {task.key: task.digest for task in made if task.mosaic and task.digest}
    return notices_of(record for key, record in records.items() if record.digest == digests.get(key))


@dataclass(frozen=True)
class Forecast:
    """What the config plans for the raw files in the workspace."""

    states: Sequence[State] = ()
    warnings: tuple[str, ...] = ()  # of grids that lose exposures or miss them, and of pointings
    left_out: Mapping[str, str] = field(default_factory=dict)  # exposure that is no part of the survey -> why
    differences: Differences = field(default_factory=Differences)  # between finished products


def forecast(config: SurveyConfig) -> Forecast:
    """States of the tasks that the config plans for the raw files in the workspace. No server is asked."""
    exposures = listed_exposures(config)
    if not exposures:
        return Forecast()
    made = unchecked_plan(config, exposures)
    found = placement_of(config, made)
    left_out = {item.name: item.excluded for item in made.left_out}
    planned = plan_states(config, made)
    return Forecast(planned, (*found.faults, *found.warnings), left_out, made_with(config, planned))


def made_with(config: SurveyConfig, found: Sequence[State]) -> Differences:
    """How the finished products of a plan differ in the versions and machines that made them."""
    return differences(found, read_records(config.folders.records).by_key, recorded_versions())


def plan_room(config: SurveyConfig, made: Plan, found: list[State]) -> Room:
    """Disk space that the unfinished tasks of a plan need, and that is free."""
    workspace = config.folders
    waiting = [item.task for item in found if item.state != DONE]
    read = {task.key: stored_record(workspace, task.key) for task in waiting}
    records = {key: record for key, record in read.items() if record is not None}
    return room(workspace.root, made, waiting, records, fetches=config.archive.local is None)


def _inside(product: str, workspace: Workspace) -> str:
    """A product's path relative to the workspace, whichever path to it was given."""
    path = Path(os.path.abspath(product))
    return path.relative_to(workspace.root).as_posix() if path.is_relative_to(workspace.root) else product
