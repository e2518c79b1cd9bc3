"""Plan and run a survey: fetch raw files and reference files, plan the tasks, run them on dask."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from survey import references as crds_references
from survey.archive import held as archive_held
from survey.cluster.capacity import capacity, too_large
from survey.config.model import SurveyConfig, resolved
from survey.errors import ReferencesError, SurveyError
from survey.execution.environment import Site
from survey.models import COMPLETE, REMOVED, Exposure, Plan, Task, TaskRecord
from survey.mosaics.association_files import read_association
from survey.mosaics.groups import ensure_store
from survey.mosaics.layouts import read_layouts
from survey.names import first_pass_name
from survey.planning.disk import check_room, room
from survey.planning.memory import learn
from survey.planning.mosaic_list import mosaics_of
from survey.planning.planner import Planner
from survey.planning.planner import plan as make_plan
from survey.planning.recipe import recipe_of
from survey.planning.selection import is_selected, keys_from, steps_until
from survey.planning.staleness import DONE, states
from survey.planning.supplied import group_of, plan_of
from survey.reduction.alignment import check_alignment
from survey.reduction.catalogs import sync_catalogs, with_catalogs
from survey.reduction.fetching import fetch_again, fetch_some
from survey.reduction.inputs import (
    find_exposures,
    header_files,
    override_digests,
    sync_references,
    types_needed,
    unreferenced,
)
from survey.reduction.load import check_config
from survey.reduction.members import members_of
from survey.reduction.options import Callbacks, RunOptions, Watch, combined
from survey.reduction.outcome import Run
from survey.reduction.placement import check_placement
from survey.reduction.selection import all_left_out
from survey.references import References
from survey.scheduling.cleanup import clean_up, clean_up_first_pass
from survey.steps.registry import row_named, row_of
from survey.workspace.provenance import ProvenanceWriter
from survey.workspace.records import failure_path, forget, read_records, write_record

LEFTOVER_SECONDS = 24 * 3600.0  # age at which folders of killed tasks are removed from a shared workspace
REPORT = "dashboard.html"  # of a run, in reports/


def plan(
    config: SurveyConfig,
    exposures: Sequence[Exposure],
    references: References | None = None,
    *,
    ask_server: bool = False,
) -> Plan:
    """List the tasks of a survey, each with the digest of its result. Reads the workspace, writes nothing there.

    A raw file that is missing or damaged counts as the recorded one, which a run is expected to fetch again.

    Parameters
    ----------
    config : what to reduce
    exposures : of `find_exposures`
    references : of `sync_references`; default: those that it recorded, and for further exposures or another context
        those that the rules in the CRDS cache choose
    ask_server : fetch the rules of the context, if the CRDS cache does not have them

    Raises
    ------
    ConfigError
        Wrong steps, parameters or override files; a grid that misses all exposures of a mosaic; fields so far apart
        that the grid of one mosaic would be nearly empty; members without a file in ``mosaic.alignment``. All faults
        are named.
    """
    made = unchecked_plan(config, exposures, references, ask_server=ask_server)
    check_placement(config, made)
    check_alignment(config, made)
    return made


def unchecked_plan(
    config: SurveyConfig,
    exposures: Sequence[Exposure],
    references: References | None = None,
    *,
    ask_server: bool = False,
) -> Plan:
    """As `plan`, without the comparison of exposures with grids and with files of alignments."""
    workspace = config.folders
    records = read_records(workspace.records).by_key
    remembered = {
        name.removeprefix("raw/"): sha256
        for record in records.values()
        for name, sha256 in record.inputs.items()
        if name.startswith("raw/")
    }
    exposures = archive_held.expected(exposures, workspace.raw, remembered, local=config.archive.local is not None)
    if references is None:
        headers, types = header_files(workspace, exposures), types_needed(config)
        references = crds_references.recall(
            headers, config.references, workspace.references, types, ask_server=ask_server
        )
    if references is not None:
        lacking = unreferenced(config, exposures, references)
        exposures = [replace(item, fault=lacking.get(item.name, item.fault)) for item in exposures]
        references = with_catalogs(config, exposures, references)
    products = [association.product for association in mosaics_of(config, exposures)]
    products += [first_pass_name(product) for product in products] if recipe_of(config).mask_step else []
    memory = learn(records.values())
    return make_plan(
        config, exposures, references, override_digests(config), read_layouts(workspace.root, products), memory
    )


def run(
    config: SurveyConfig, options: RunOptions | None = None, callbacks: Callbacks | None = None, **keywords: Any
) -> Run:
    """Run a survey: fetch raw files and reference files, then run all tasks that are not done.

    Parameters
    ----------
    config : what to reduce
    options : where tasks run, and the last step; default: all steps, on workers on this machine
    callbacks : functions for the plan, each task's record, downloads and messages
    keywords : fields of `RunOptions` and `Callbacks` by name: ``run(config, client=client, until="image2")``

    Raises
    ------
    WorkspaceBusyError, ServiceError, ReferencesError, DiskFullError, InterruptedRunError, ConfigError
        See `survey.errors`. Failures of single files and tasks are not raised: they are in the result.
    """
    options, callbacks = combined(options, callbacks, keywords)
    check_config(config, options)
    with _started(config, options, callbacks) as job:
        exposures, missing = _fetch_available(job)
        left_out = {exposure.name: exposure.excluded for exposure in exposures if exposure.excluded}
        if left_out and len(left_out) == len(exposures):
            raise SurveyError(all_left_out(exposures))
        references = _references(job, exposures)
        made = unchecked_plan(config, exposures, references)
        if options.remake is not None:
            forget(config.folders.records, keys_from(made, options.remake))
        needed = _absent_inputs(job, made)
        if needed:
            exposures, more = fetch_again(config, callbacks, (*made.exposures, *made.left_out), needed, missing)
            missing |= more
            if any(exposure.name not in missing for exposure in needed):
                references = _references(job, exposures)
            made = unchecked_plan(config, exposures, references)
        missing |= {item.name: item.fault for item in made.exposures if item.fault and item.sha256}
        return replace(_run_tasks(job, made, references), missing=missing, left_out=left_out)


def mosaic(
    config: SurveyConfig,
    association: Path,
    options: RunOptions | None = None,
    callbacks: Callbacks | None = None,
    **keywords: Any,
) -> Run:
    """Make the mosaic of an existing level-3 association.

    Members whose raw files are in the workspace are reduced with the config's steps. Of other members the calibrated
    files that the association lists are used, or ``<exposure>_cal.fits``, in the association's folder or in
    ``mosaic.calibrated``.

    Parameters
    ----------
    config : steps and grid
    association : path of the association file
    options, callbacks, keywords : see `run`

    Raises
    ------
    ConfigError
        The file is not an association, or members have neither file; all such members are named.
    """
    options, callbacks = combined(options, callbacks, keywords)
    check_config(config, options)
    wanted = read_association(association, config.mosaic.calibrated)
    with _started(config, options, callbacks) as job:
        found = members_of(config, wanted, association.parent)
        wanted, raw, given = found.association, found.raw, found.given
        for note in (*wanted.notes, *found.notes):
            job.callbacks.say(note)
        references = sync_references(config, [*raw, *given])
        lacking = unreferenced(config, raw, references)
        if lacking:
            raise ReferencesError("\n".join(f"{name}: {why}" for name, why in sorted(lacking.items())))
        references = sync_catalogs(config, [*raw, *given], references, [wanted], say=job.callbacks.say)
        planner = Planner(config, references, override_digests(config))
        group = group_of(wanted, read_records(job.config.folders.records).by_key)
        made = plan_of(unchecked_plan(config, raw, references), replace(wanted, group=group), planner, given)
        return _run_tasks(job, made, references)


@dataclass(frozen=True)
class _Job:
    """A run that holds the lock of its workspace."""

    config: SurveyConfig
    options: RunOptions
    callbacks: Callbacks
    name: str  # of the run


@contextlib.contextmanager
def _started(config: SurveyConfig, options: RunOptions, callbacks: Callbacks) -> Iterator[_Job]:
    """Hold the workspace for a run; folders that killed tasks left are removed before and after it."""
    workspace = config.folders
    alone = options.client is None and options.cluster in (None, "local")
    age = 0.0 if alone else LEFTOVER_SECONDS  # workers of an earlier run may still write on other hosts
    with workspace.lock() as name:
        workspace.create()
        workspace.sweep(age)
        try:
            yield _Job(config, options, callbacks, name)
        finally:
            workspace.sweep(age, run=name)


def _fetch_available(job: _Job) -> tuple[tuple[Exposure, ...], dict[str, str]]:
    """Fetch the raw files, except those that `survey tidy` removed.

    Returns
    -------
    exposures : all of them; those with a sha256 that are not ``absent`` have a verified raw file
    missing : exposure -> why its file could not be fetched; `mosaic.max_missing` says how many a mosaic may lack
    """
    config, say = job.config, job.callbacks.say
    found = find_exposures(config, say=say)
    say(f"{len(found)} exposures of {config.program_text}")
    usable = tuple(exposure for exposure in found if not exposure.excluded)
    check_placement(config, Plan((), usable, mosaics_of(config, usable)))  # before hours of downloads
    if config.archive.local is None:
        found = archive_held.expected(found, config.folders.raw, {})
        if not all(exposure.is_held or exposure.excluded for exposure in found):
            # The disk space for the products as well.
            made = unchecked_plan(config, found)
            _check(job, made)
            _waiting(job, made, read_records(job.config.folders.records).by_key)
    return fetch_some(config, job.callbacks, found, [item for item in found if item.absent != REMOVED])


def _absent_inputs(job: _Job, made: Plan) -> list[Exposure]:
    """Exposures of a plan whose raw files are not there, though a task that has to run reads them."""
    waiting = _unfinished(job, made, read_records(job.config.folders.records).by_key)
    read = {name for task in waiting for name in task.files}
    return [exposure for exposure in made.exposures if exposure.absent and f"raw/{exposure.file}" in read]


def _references(job: _Job, exposures: Sequence[Exposure]) -> References:
    """Sync the reference files and catalogues of exposures; those whose header is not there keep the recorded ones.

    Raises
    ------
    SurveyError
        No exposure has a raw file, or the header of one.
    """
    config, workspace = job.config, job.config.folders
    exposures = archive_held.expected(exposures, workspace.raw, {})
    headers = header_files(workspace, exposures)
    present = [exposure for exposure in exposures if headers.get(exposure.name) is not None]
    if not present:
        raise SurveyError(f"{config.workspace}: none of {len(exposures)} raw files is available.")
    gone: dict[str, Path | None] = {name: None for name, path in headers.items() if path is None}
    before = crds_references.recall(gone, config.references, workspace.references, types_needed(config))
    synced = sync_references(config, present)
    found = synced if before is None else synced.joined(before)
    if job.options.until is None or row_named(job.options.until).per_mosaic:
        found = sync_catalogs(config, exposures, found, say=job.callbacks.say)
    return found


def _run_tasks(job: _Job, made: Plan, references: References) -> Run:
    """Run a plan's tasks, and keep the provenance of the workspace up to date meanwhile."""
    config, root = job.config, job.config.folders.root
    warnings = _check(job, made)
    for text in warnings:
        job.callbacks.say(text)
    found = read_records(job.config.folders.records)
    stored = found.by_key
    waiting = _waiting(job, made, stored)
    watch = None if job.callbacks.watch is None else job.callbacks.watch(made)
    reused: set[str] = set()
    with ProvenanceWriter(root, config.survey, resolved(config), found.latest.values()) as writer:

        def decided(record: TaskRecord, was_reused: bool) -> None:
            if was_reused:
                reused.add(record.key)
            elif record.status != COMPLETE:  # a lost worker or a skipped task has written no record
                with contextlib.suppress(OSError):
                    write_record(root / "records", record)
            if not was_reused or record.key in found.failures:
                writer.add(record)
            if was_reused and record.key in found.failures:  # an earlier failure that no longer applies
                failure_path(root / "records", record.key).unlink(missing_ok=True)
            if watch is not None:
                watch(record, was_reused)

        if not waiting:
            names = steps_until(made, job.options.until)
            tasks = [task for task in made if is_selected(task, names)]
            records = [stored[task.key] for task in tasks]
            for record in records:
                decided(record, True)
            # A run that was killed at its very end may not have removed intermediate products.
            mosaics: dict[str, list[Task]] = {}
            for task in tasks:
                mosaics.setdefault(task.mosaic, []).append(task)
            decided_now = {task.key: stored[task.key] for task in tasks}
            clean_up(root, decided_now, mosaics, stored, config.mosaic.keep_intermediate)
            clean_up_first_pass(root, tasks, decided_now, config.mosaic.keep_intermediate)
            if job.options.report:
                before = " That of an earlier run is kept." if (root / "reports" / REPORT).exists() else ""
                job.callbacks.say(f"{REPORT} is not written, since all tasks were done before.{before}")
        else:
            records = _on_cluster(job, made, references, stored, decided)
    if any(row_of(record).commits and record.status == COMPLETE for record in records):
        ensure_store(root / "mosaics" / "mosaics.zarr")
    return Run(tuple(records), frozenset(reused), warnings=warnings)


def _check(job: _Job, made: Plan) -> tuple[str, ...]:
    """Check grids and given alignments against exposures; returns warnings."""
    warnings = check_placement(job.config, made)
    check_alignment(job.config, made, steps_until(made, job.options.until))
    return warnings


def _waiting(job: _Job, made: Plan, stored: Mapping[str, TaskRecord]) -> list[Task]:
    """Tasks of a plan that are not done, up to the last step of the options.

    Raises
    ------
    DiskFullError
        Their products do not fit on the disk.
    """
    root, waiting = job.config.folders.root, _unfinished(job, made, stored)
    check_room(room(root, made, waiting, stored, job.config.archive.local is None), root, job.callbacks.say)
    return waiting


def _unfinished(job: _Job, made: Plan, stored: Mapping[str, TaskRecord]) -> list[Task]:
    """Tasks of a plan that are not done, up to the last step of the options."""
    names = steps_until(made, job.options.until)
    found = states([task for task in made if is_selected(task, names)], stored, job.config.folders.root)
    return [item.task for item in found if item.state != DONE]


def _on_cluster(
    job: _Job, made: Plan, references: References, stored: Mapping[str, TaskRecord], decided: Watch
) -> list[TaskRecord]:
    """Run a plan's tasks on the cluster of the options, and return all their records, reused ones included."""
    # dask takes half a second to import, which a run without tasks does not need.
    from survey.cluster.dask_settings import load_dask

    load_dask()
    from survey.cluster.connect import connect, dashboard, starts_workers
    from survey.dashboard.feed import feed
    from survey.scheduling.run_plan import RunSettings, run_plan
    from survey.scheduling.worker_checks import checked_workers

    # The pipeline asks for a user name at import, and containers with an arbitrary user id have none.
    environment = {**crds_references.worker_environment(references), "USER": os.environ.get("USER") or "survey"}
    config, options, root, say = job.config, job.options, job.config.folders.root, job.callbacks.say
    planner = Planner(config, references, override_digests(config), learn(stored.values()))
    site = Site(str(root), config.survey, environment, config.limits, job.name)
    small = [task.memory_gb for task in made if not (task.mosaic or row_of(task).external)]
    names = steps_until(made, options.until)
    tasks = [task for task in made if is_selected(task, names)]
    with contextlib.ExitStack() as stack:
        client = options.client
        if client is None:
            large = max((task.memory_gb for task in tasks), default=1.0)
            sizes, log = (max(small, default=1.0), large), root / "logs" / "cluster.log"
            client = stack.enter_context(
                connect(options.cluster, *sizes, log, tls=options.tls, insecure=options.insecure)
            )
            say(f"dashboard: {dashboard(client)}")
        ours = options.client is None and starts_workers(options.cluster)
        reports = stack.enter_context(checked_workers(client, tasks, root, references, ours=ours))
        largest = capacity(client)
        for task in tasks:
            if largest and task.memory_gb > largest:
                say(f"{task.key} will not be run: {too_large(task, largest)}")
        kept = root / "reports" / REPORT if options.report else None
        told = stack.enter_context(feed(client, config, made, names, say, kept))
        settings = RunSettings(stored, options.until, told.watch(decided), told.laid_out, reports.trouble)
        return run_plan(made, planner, site, client, settings)
