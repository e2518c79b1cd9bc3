"""The main job, for Python users and the command line alike: find, fetch, look up references, plan, run, verify."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from survey import references as crds_references
from survey.archive import held as archive_held
from survey.cluster.capacity import capacity, too_large
from survey.config.model import SurveyConfig, resolved
from survey.errors import DownloadError, ReferencesError, SurveyError
from survey.execution.environment import Site
from survey.models import COMPLETE, Exposure, Plan, Task, TaskRecord
from survey.mosaics.association_files import read_association
from survey.mosaics.groups import ensure_store
from survey.mosaics.layouts import read_layouts
from survey.planning.disk import check_room, room
from survey.planning.memory import learn
from survey.planning.planner import Planner, mosaics_of, steps_until
from survey.planning.planner import plan as make_plan
from survey.planning.staleness import DONE, state_of
from survey.planning.supplied import group_of, plan_of
from survey.reduction.inputs import (
    Progress,
    Say,
    fetch,
    find_exposures,
    members_of,
    override_digests,
    raw_files,
    silent,
    sync_references,
    unreferenced,
)
from survey.reduction.load import check_config
from survey.reduction.outcome import Run
from survey.references import References
from survey.scheduling.cleanup import tidy
from survey.steps.registry import REGISTRY, row_of
from survey.workspace.folders import Workspace
from survey.workspace.provenance import ProvenanceWriter
from survey.workspace.records import failure_path, read_records, write_record

if TYPE_CHECKING:
    from dask.distributed import Client

LEFTOVER_SECONDS = 24 * 3600.0
REPORT = "dashboard.html"  # of the last run, in reports/

Watch = Callable[[TaskRecord, bool], None]


def plan(config: SurveyConfig, exposures: Sequence[Exposure], references: References | None = None) -> Plan:
    """List what a run would do; pure but for a look at what earlier runs left in the workspace.

    Parameters
    ----------
    config : what to reduce
    exposures : of `find_exposures`
    references : default: what the last sync found, when it still holds

    Raises
    ------
    ConfigError
        Wrong steps, parameters or override files; every fault is named.
    """
    if references is None:
        workspace = Workspace(config.workspace)
        with contextlib.suppress(ReferencesError):
            references = crds_references.recall(
                raw_files(workspace, exposures), config.references, workspace.references
            )
    if references is not None:
        lacking = unreferenced(config, exposures, references)
        exposures = [replace(item, fault=lacking.get(item.name, item.fault)) for item in exposures]
    products = [association.product for association in mosaics_of(config, exposures)]
    root = Workspace(config.workspace).root
    memory = learn(read_records(root / "records").by_key.values())
    return make_plan(config, exposures, references, override_digests(config), read_layouts(root, products), memory)


def run(
    config: SurveyConfig,
    *,
    client: Client | None = None,
    cluster: str | None = None,
    tls: Path | None = None,
    insecure: bool = False,
    until: str | None = None,
    watch: Callable[[Plan], Watch] | None = None,
    progress: Progress | None = None,
    say: Say = silent,
    report: bool = False,
) -> Run:
    """The main job: fetch, references, then every task that is not already done.

    Parameters
    ----------
    config : what to reduce
    client : any dask Client; default: the one of ``cluster``
    cluster : 'local' (default), a scheduler's address, or a deploy file
    tls : folder of certificates for a tls:// address; see `survey.cluster.tls`
    insecure : take a scheduler that is neither on loopback nor behind TLS
    until : last step to run
    watch : called with the plan; returns what is called with each decided record
    progress, say : where downloads and remarks are shown
    report : keep the survey page and dask's performance report as ``reports/dashboard.html``, however the run ends

    Raises
    ------
    WorkspaceBusyError, ServiceError, ReferencesError, DiskFullError, InterruptedRunError, ConfigError
        See `survey.errors`. Failures of single files and tasks do not raise: they are in the result.
    """
    check_config(config, until=until, cluster=cluster, tls=tls, insecure=insecure)
    where = _Where(client, cluster, until, watch or _nobody, say, tls, insecure, report=report)
    workspace = Workspace(config.workspace)
    with _held(workspace, where) as where:
        exposures, missing = _fetch_what_can_be_had(config, progress, where)
        present = [exposure for exposure in exposures if exposure.sha256]
        if not present:
            raise SurveyError(f"{config.workspace}: none of {len(exposures)} raw files could be had.")
        references = sync_references(config, present)
        made = plan(config, exposures, references)
        missing |= {item.name: item.fault for item in made.exposures if item.fault and item.sha256}
        return replace(_run_tasks(config, made, references, where), missing=missing)


def mosaic(
    config: SurveyConfig,
    association: Path,
    *,
    client: Client | None = None,
    cluster: str | None = None,
    tls: Path | None = None,
    insecure: bool = False,
    watch: Callable[[Plan], Watch] | None = None,
    say: Say = silent,
) -> Run:
    """Mosaic the members of an existing level-3 association.

    A member whose raw file is in the workspace goes through the config's steps; another is taken as it lies beside the
    association: ``<exposure>_cal.fits``.

    Raises
    ------
    ConfigError
        The association is not one, or a member is neither; every such member is named.
    """
    check_config(config, cluster=cluster, tls=tls, insecure=insecure)
    wanted = read_association(association)
    where = _Where(client, cluster, None, watch or _nobody, say, tls, insecure)
    workspace = Workspace(config.workspace)
    with _held(workspace, where) as where:
        raw, given = members_of(config, wanted, association.parent)
        references = sync_references(config, [*raw, *given])
        lacking = unreferenced(config, raw, references)
        if lacking:
            raise ReferencesError("\n".join(f"{name}: {why}" for name, why in sorted(lacking.items())))
        planner = Planner(config, references, override_digests(config))
        chosen = replace(wanted, group=group_of(wanted, read_records(workspace.records).by_key))
        made = plan_of(plan(config, raw, references), chosen, planner, given)
        return _run_tasks(config, made, references, where)


@dataclass(frozen=True)
class _Where:
    """Where tasks run, how far, and who is told."""

    client: Client | None
    cluster: str | None
    until: str | None
    watch: Callable[[Plan], Watch]
    say: Say
    tls: Path | None = None
    insecure: bool = False
    report: bool = False
    run: str = ""  # its own name, once it holds the workspace


def _fetch_what_can_be_had(
    config: SurveyConfig, progress: Progress | None, where: _Where
) -> tuple[tuple[Exposure, ...], dict[str, str]]:
    """Fetch; single files that cannot be had are left to `mosaic.max_missing`."""
    say = where.say
    found = find_exposures(config, say=say)
    say(f"{len(found)} exposures of program {config.program}")
    if config.archive.local is None and any(not exposure.sha256 for exposure in found):
        # Before hours of fetching: do the products fit as well?
        made = plan(config, found)
        stored = read_records(Workspace(config.workspace).records).by_key
        _waiting(config, made, stored, where)
    try:
        return fetch(config, found, progress=progress, say=say), {}
    except DownloadError as error:
        for line in str(error).splitlines():
            say(line)
        return archive_held.known(found, Workspace(config.workspace).raw), error.missing


@contextlib.contextmanager
def _held(workspace: Workspace, where: _Where) -> Iterator[_Where]:
    """Hold the workspace for a run, and give it its name; what killed tasks left goes before it and behind it."""
    alone = where.client is None and where.cluster in (None, "local")
    age = 0.0 if alone else LEFTOVER_SECONDS  # workers of other clusters may still be at it for a while
    with workspace.lock() as name:
        workspace.create()
        workspace.sweep(age)
        try:
            yield replace(where, run=name)
        finally:
            workspace.sweep(age, run=name)


def _run_tasks(config: SurveyConfig, made: Plan, references: References, where: _Where) -> Run:
    """Run a plan's tasks, and keep the provenance of the workspace up to date meanwhile."""
    root = Workspace(config.workspace).root
    found = read_records(root / "records")
    stored = found.by_key
    waiting = _waiting(config, made, stored, where)
    note = where.watch(made)
    reused: set[str] = set()
    with ProvenanceWriter(root, config.survey, resolved(config), found.latest.values()) as writer:

        def decided(record: TaskRecord, was_reused: bool) -> None:
            if was_reused:
                reused.add(record.key)
            elif record.status != COMPLETE:  # a worker that was lost, or a skip, has written nothing itself
                with contextlib.suppress(OSError):
                    write_record(root / "records", record)
            if not was_reused or record.key in found.failures:
                writer.add(record)
            if was_reused and record.key in found.failures:  # the cause is gone
                failure_path(root / "records", record.key).unlink(missing_ok=True)
            note(record, was_reused)

        if not waiting:
            tasks = [task for task in made if task.step in steps_until(made, where.until)]
            records = [stored[task.key] for task in tasks]
            for record in records:
                decided(record, True)
            # What a run that was killed at its very end did not.
            whole = {task.subject: tasks for task in tasks if task.step == "assemble"}
            tidy(root, {task.key: stored[task.key] for task in tasks}, whole, stored, config.mosaic.keep_intermediate)
            if where.report:
                before = " The last run's stays." if (root / "reports" / REPORT).exists() else ""
                where.say(f"{REPORT} is not written: every task was done before, so that nothing ran.{before}")
        else:
            planner = Planner(config, references, override_digests(config), learn(stored.values()))
            records = _on_cluster(made, planner, root, references, where, stored, decided)
    if any(row_of(record).commits and record.status == COMPLETE for record in records):
        ensure_store(root / "mosaics" / "mosaics.zarr")
    return Run(tuple(records), frozenset(reused))


def _waiting(config: SurveyConfig, made: Plan, stored: Mapping[str, TaskRecord], where: _Where) -> list[Task]:
    """Tasks of a plan that are not done, up to the last step that was asked for; refused when they cannot fit."""
    root, names = Workspace(config.workspace).root, steps_until(made, where.until)
    waiting = [task for task in made if task.step in names and state_of(task, stored.get(task.key), root).state != DONE]
    check_room(room(root, made, waiting, stored, config.archive.local is None), root, where.say)
    return waiting


def _on_cluster(
    made: Plan,
    planner: Planner,
    root: Path,
    references: References,
    where: _Where,
    stored: Mapping[str, TaskRecord],
    decided: Watch,
) -> list[TaskRecord]:
    # dask takes half a second to import; a run that finds everything done does not need it.
    from survey.cluster.connect import connect, dashboard, starts_workers
    from survey.dashboard.feed import feed
    from survey.scheduling.run_plan import RunSettings, run_plan
    from survey.scheduling.worker_checks import workers_for

    # The pipeline asks for a user name at import, and containers with an arbitrary user id have none.
    environment = {**crds_references.worker_environment(references), "USER": os.environ.get("USER") or "survey"}
    site = Site(str(root), planner.config.survey, environment, planner.config.limits, where.run)
    small = [task.memory_gb for task in made if not (task.mosaic or REGISTRY[task.step].external)]
    tasks = [task for task in made if task.step in steps_until(made, where.until)]
    with contextlib.ExitStack() as stack:
        client = where.client
        if client is None:
            large = max((task.memory_gb for task in tasks), default=1.0)
            sizes, log = (max(small, default=1.0), large), root / "logs" / "cluster.log"
            client = stack.enter_context(connect(where.cluster, *sizes, log, tls=where.tls, insecure=where.insecure))
            where.say(f"dashboard: {dashboard(client)}")
        ours = where.client is None and starts_workers(where.cluster)
        guard = stack.enter_context(workers_for(client, tasks, root, references, ours=ours))
        largest = capacity(client)
        for task in tasks:
            if largest and task.memory_gb > largest:
                where.say(f"{task.key} will not be run: {too_large(task, largest)}")
        kept = root / "reports" / REPORT if where.report else None
        told = stack.enter_context(feed(client, planner.config, made, steps_until(made, where.until), where.say, kept))
        settings = RunSettings(stored, where.until, told.watch(decided), told.laid_out, guard.trouble)
        return run_plan(made, planner, site, client, settings)


def _nobody(_plan: Plan) -> Watch:
    return _unseen


def _unseen(_record: TaskRecord, _reused: bool) -> None:
    """Nobody watches."""
