"""The main job, for Python users and the command line alike: find, fetch, look up references, plan, run, verify."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survey import references as crds_references
from survey.archive import held as archive_held
from survey.archive import local as archive_local
from survey.archive.ledger import LEDGER, Ledger
from survey.config import SurveyConfig, resolved
from survey.digest import file_sha256, tree_sha256
from survey.errors import ConfigError, DownloadError, ReferencesError, SurveyError
from survey.models import COMPLETE, FAILED, SKIPPED, Association, Exposure, Plan, TaskRecord
from survey.pipeline_spec import override_files
from survey.planning import Planner, check, mosaics_of
from survey.planning import plan as make_plan
from survey.provenance import ProvenanceWriter, lineage, read_records
from survey.references import References
from survey.staleness import DONE, State, state_of, states
from survey.workspace import Workspace

if TYPE_CHECKING:
    from dask.distributed import Client

Say = Callable[[str], None]
Watch = Callable[[TaskRecord, bool], None]
Progress = Callable[[str, int, int | None], None]


def _silent(_text: str) -> None:
    return None


@dataclass(frozen=True)
class Run:
    """What a run ended with."""

    records: tuple[TaskRecord, ...]
    reused: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)  # raw file -> why it could not be had

    @property
    def failed(self) -> tuple[TaskRecord, ...]:
        return tuple(record for record in self.records if record.status in (FAILED, SKIPPED))

    @property
    def ran(self) -> tuple[TaskRecord, ...]:
        """Records of the tasks that this run ran itself."""
        return tuple(item for item in self.records if item.key not in self.reused and item.status == COMPLETE)

    @property
    def products(self) -> tuple[str, ...]:
        return tuple(product.path for record in self.records if record.status == COMPLETE for product in record.products)

    @property
    def incomplete_mosaics(self) -> tuple[TaskRecord, ...]:
        """Mosaics that were made without some of their members."""
        return tuple(record for record in self.records if record.status == COMPLETE and record.missing)


def find_exposures(config: SurveyConfig, *, say: Say = _silent) -> tuple[Exposure, ...]:
    """The program's exposures, from the archive or the folder that the config names.

    What the ledger of earlier downloads knows of a file (sha256, time, groups, footprint) is filled in.

    Raises
    ------
    ServiceError
        The archive cannot be reached or refuses.
    SurveyError
        No exposure fits the config.
    """
    archive = config.archive
    raw = Workspace(config.workspace).raw
    if archive.local is not None:
        exposures, faults = archive_local.find_exposures(
            archive.local, config.program, observations=config.observations, filters=config.filters, cache=Ledger(raw / LEDGER)
        )
        for name, cause in faults.items():
            say(f"left out {name}: {cause}")
    else:
        from survey.archive.query import find_exposures as ask_archive

        exposures = ask_archive(
            config.program,
            server=archive.server,
            observations=config.observations,
            filters=config.filters,
            instrument=config.instrument,
            timeout_seconds=archive.timeout_seconds,
            retries=archive.retries,
        )
    return archive_held.known(exposures, raw)


def fetch(
    config: SurveyConfig, exposures: Sequence[Exposure] | None = None, *, progress: Progress | None = None, say: Say = _silent
) -> tuple[Exposure, ...]:
    """Bring every raw file into the workspace, verified.

    Returns
    -------
    exposures : with the sha256 of each file, and what its header tells

    Raises
    ------
    DownloadError
        Some files could not be had; they are named, the others are kept.
    ServiceError, DiskFullError
    """
    from survey.archive.fetch import fetch as download
    from survey.archive.raw import link_local
    from survey.archive.transfer import FetchSettings

    wanted = find_exposures(config, say=say) if exposures is None else tuple(exposures)
    workspace = Workspace(config.workspace)
    workspace.create()
    if config.archive.local is not None:
        good, missing = link_local(wanted, workspace.raw, progress=progress)
        if missing:
            raise DownloadError(missing)
        return good
    settings = FetchSettings(
        downloads=config.archive.downloads,
        retries=config.archive.retries,
        timeout_seconds=config.archive.timeout_seconds,
    )
    report = download(
        wanted,
        workspace.raw,
        server=config.archive.server,
        token=os.environ.get("MAST_API_TOKEN"),
        settings=settings,
        progress=progress,
    )
    if report.error is not None:
        raise report.error
    return report.exposures


def sync_references(config: SurveyConfig, exposures: Sequence[Exposure]) -> References:
    """Sync and verify the context and the references that these exposures need; see `survey.references.sync`."""
    workspace = Workspace(config.workspace)
    found = crds_references.sync(_raw_files(workspace, exposures), config.references, record=workspace.references)
    faults = []
    types = {name for step in check(config)[0] for name in _needed_types(step)}
    for exposure in exposures:
        if exposure.name in found.exposures:
            faults += [f"{exposure.name}: {why}" for why in found.not_found(exposure.name, types).values()]
    if faults:
        raise ReferencesError("\n".join(sorted(set(faults))[:20]))
    return found


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
            references = crds_references.recall(_raw_files(workspace, exposures), config.references, workspace.references)
    return make_plan(config, exposures, references, _override_digests(config))


def run(
    config: SurveyConfig,
    *,
    client: Client | None = None,
    cluster: str | None = None,
    until: str | None = None,
    watch: Callable[[Plan], Watch] | None = None,
    progress: Progress | None = None,
    say: Say = _silent,
) -> Run:
    """The main job: fetch, references, then every task that is not already done.

    Parameters
    ----------
    config : what to reduce
    client : any dask Client; default: the one of ``cluster``
    cluster : 'local' (default) or a scheduler's address
    until : last step to run
    watch : called with the plan; returns what is called with each decided record
    progress, say : where downloads and remarks are shown

    Raises
    ------
    WorkspaceBusyError, ServiceError, ReferencesError, DiskFullError, InterruptedRunError, ConfigError
        See `survey.errors`. Failures of single files and tasks do not raise: they are in the result.
    """
    _check_until(config, until)
    crds_references.pin(config.references.context, config.references.server)
    with Workspace(config.workspace).lock():
        Workspace(config.workspace).create()
        exposures, missing = _fetch_what_can_be_had(config, progress, say)
        return _run_tasks(config, exposures, missing, client, cluster, until, watch, say)


def mosaic(
    config: SurveyConfig,
    association: Path,
    *,
    client: Client | None = None,
    cluster: str | None = None,
    watch: Callable[[Plan], Watch] | None = None,
    say: Say = _silent,
) -> Run:
    """Mosaic the members of an existing level-3 association.

    Raises
    ------
    ConfigError
        The association is not one, or members are not in the workspace's stage2 with a record.
    """
    from survey.associations import read_association

    crds_references.pin(config.references.context, config.references.server)
    given = read_association(association)
    workspace = Workspace(config.workspace)
    with workspace.lock():
        workspace.create()
        chosen = _members(config, given, workspace)
        return _run_tasks(config, chosen, {}, client, cluster, None, watch, say, given)


def status(config: SurveyConfig) -> list[TaskRecord]:
    """The records of the workspace, as they are now; read while a run goes on as well."""
    return list(read_records(Workspace(config.workspace).records).by_key.values())


def explain(config: SurveyConfig, product: str) -> tuple[Any, dict[str, tuple[str, ...]]]:
    """How a product was made, and what of it is stale.

    Returns
    -------
    lineage : survey.provenance.Lineage, from the product down to its raw files
    stale : key of a task -> why its product would be another now; compared with the config, the raw files and the references
        at hand, without asking any server

    Raises
    ------
    ConfigError
        No record made such a product.
    """
    workspace = Workspace(config.workspace)
    records = read_records(workspace.records).by_key
    try:
        tree = lineage(records, _inside(product, workspace))
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from error
    exposures = held_exposures(config)
    current = {state.task.key: state for state in states(plan(config, exposures), records, workspace.root)} if exposures else {}
    stale = {}
    for _, node in tree.walk():
        state = current.get(node.name)
        if state is not None and state.state != DONE:
            stale[node.name] = state.reasons
        elif node.record is not None and state is None:
            stale[node.name] = ("the config does not ask for it any more",)
    return tree, stale


def verify(config: SurveyConfig) -> dict[str, str]:
    """Compare every product with its record, and every raw file with the ledger.

    Returns
    -------
    faults : path -> what is wrong; empty when every byte is as recorded
    """
    workspace = Workspace(config.workspace)
    found = read_records(workspace.records)
    faults = {f"records/{name}": cause for name, cause in found.faults.items()}
    for record in found.by_key.values():
        if record.status != COMPLETE:
            continue
        for product in record.products:
            path = workspace.root / product.path
            try:
                sha256 = tree_sha256(path)[0] if path.is_dir() else file_sha256(path)
            except OSError as error:
                faults[product.path] = f"cannot be read: {error.strerror or error}"
                continue
            if sha256 != product.sha256:
                faults[product.path] = f"sha256 is {sha256[:12]}..., its record says {product.sha256[:12]}..."
    return faults | archive_held.verify(workspace.raw)


def held_exposures(config: SurveyConfig) -> tuple[Exposure, ...]:
    """The config's exposures whose verified raw files are in the workspace, known from the ledger alone."""
    workspace = Workspace(config.workspace)
    return tuple(
        exposure
        for exposure in archive_held.held(workspace.raw)
        if exposure.program == config.program
        and (config.observations is None or exposure.observation in config.observations)
        and (config.filters is None or exposure.filter in config.filters)
    )


def plan_states(config: SurveyConfig, made: Plan) -> list[State]:
    """What a plan's tasks are, beside the workspace's records."""
    workspace = Workspace(config.workspace)
    return states(made, read_records(workspace.records).by_key, workspace.root)


def _fetch_what_can_be_had(
    config: SurveyConfig, progress: Progress | None, say: Say
) -> tuple[tuple[Exposure, ...], dict[str, str]]:
    """Fetch; single files that cannot be had are left to `mosaic.max_missing`."""
    found = find_exposures(config, say=say)
    say(f"{len(found)} exposures of program {config.program}")
    try:
        return fetch(config, found, progress=progress, say=say), {}
    except DownloadError as error:
        for line in str(error).splitlines():
            say(line)
        return archive_held.known(found, Workspace(config.workspace).raw), error.missing


def _run_tasks(
    config: SurveyConfig,
    exposures: Sequence[Exposure],
    missing: Mapping[str, str],
    client: Client | None,
    cluster: str | None,
    until: str | None,
    watch: Callable[[Plan], Watch] | None,
    say: Say,
    association: Association | None = None,
) -> Run:
    """References, plan and graph, for exposures whose files are there."""
    workspace = Workspace(config.workspace)
    present = [exposure for exposure in exposures if exposure.sha256]
    if not present:
        raise SurveyError(f"{config.workspace}: none of {len(exposures)} raw files could be had.")
    references = sync_references(config, present)
    made = plan(config, exposures, references)
    if association is not None:
        made = _only(made, association, config, references)
    stored = read_records(workspace.records).by_key
    note = watch(made) if watch is not None else _ignore
    reused: set[str] = set()
    planner = Planner(config, references, _override_digests(config))
    settings = resolved(config)
    with ProvenanceWriter(workspace.root, config.survey, settings, stored.values()) as writer:

        def decided(record: TaskRecord, was_reused: bool) -> None:
            if was_reused:
                reused.add(record.key)
            else:
                writer.add(record)
            note(record, was_reused)

        records = _execute(made, planner, config, references, client, cluster, until, stored, decided, say)
    return Run(tuple(records), frozenset(reused), dict(missing))


def _execute(
    made: Plan,
    planner: Planner,
    config: SurveyConfig,
    references: References,
    client: Client | None,
    cluster: str | None,
    until: str | None,
    stored: Mapping[str, TaskRecord],
    decided: Watch,
    say: Say,
) -> list[TaskRecord]:
    root = Workspace(config.workspace).root
    waiting = [task for task in made if state_of(task, stored.get(task.key), root).state != DONE]
    if not [task for task in waiting if not task.unknown]:
        if client is None and not waiting:
            for task in made:
                decided(stored[task.key], True)
            return [stored[task.key] for task in made]
    from survey.cluster import connect, dashboard
    from survey.execute import Site
    from survey.graph import run_plan

    environment = {**crds_references.worker_environment(references), "USER": os.environ.get("USER") or "survey"}
    site = Site(str(root), config.survey, environment)
    small = max((task.memory_gb for task in made if task.step in planner.chain), default=1.0)
    large = max((task.memory_gb for task in waiting), default=1.0)
    with contextlib.ExitStack() as stack:
        if client is None:
            client = stack.enter_context(connect(cluster, small, large))
            say(f"dashboard: {dashboard(client)}")
        return run_plan(made, planner, site, client, stored=stored, watch=decided, until=until)


def _only(made: Plan, association: Association, config: SurveyConfig, references: References) -> Plan:
    """The plan of one association's members and mosaic."""
    names = set(association.members)
    by_name = {exposure.name: exposure for exposure in made.exposures}
    tasks = [task for task in made if task.subject in names]
    last = {task.subject: task for task in tasks}
    planner = Planner(config, references, _override_digests(config))
    members = [last[name] for name in association.members]
    tasks += planner.mosaic_tasks(association, members, by_name)
    exposures = tuple(by_name[name] for name in association.members)
    return replace(made, tasks=tuple(tasks), exposures=exposures, associations=(association,))


def _members(config: SurveyConfig, association: Association, workspace: Workspace) -> tuple[Exposure, ...]:
    held = {exposure.name: exposure for exposure in held_exposures(replace_filters(config))}
    lost = [name for name in association.members if name not in held]
    if lost:
        raise ConfigError(
            [
                f"{association.product}: member {name} has no verified raw file in {workspace.raw}; run 'survey fetch' with a "
                "config that holds it."
                for name in lost
            ]
        )
    return tuple(held[name] for name in association.members)


def replace_filters(config: SurveyConfig) -> SurveyConfig:
    """The config for every filter and observation of its program: an association says itself which it holds."""
    return config.model_copy(update={"filters": None, "observations": None})


def _raw_files(workspace: Workspace, exposures: Sequence[Exposure]) -> dict[str, Path]:
    return {exposure.name: workspace.raw / exposure.file for exposure in exposures if exposure.sha256}


def _needed_types(step: str) -> tuple[str, ...]:
    from survey.steps import REGISTRY

    return REGISTRY[step].reference_types


def _override_digests(config: SurveyConfig) -> dict[str, str]:
    """sha256 of every file that an ``override_<type>`` parameter names.

    Raises
    ------
    ConfigError
        A file is not there; all such files are named.
    """
    chain, image3, _ = check(config)
    paths = override_files({**chain, "image3": image3})
    faults = [f"override file {path}: not found." for path in paths if not Path(path).is_file()]
    if faults:
        raise ConfigError(faults)
    return {path: file_sha256(path) for path in paths}


def _check_until(config: SurveyConfig, until: str | None) -> None:
    from survey.pipeline_spec import nearest

    known = [*check(config)[0], "association", "image3", "mosaic"]
    faults = check(config)[2]
    if until is not None and until not in known:
        faults.append(f"--until {until}: not a step of this config{nearest(until, known)}")
    if faults:
        raise ConfigError(faults)


def _inside(product: str, workspace: Workspace) -> str:
    """A product's path relative to the workspace, when it was given as any other path to it."""
    path = Path(os.path.abspath(product))
    return path.relative_to(workspace.root).as_posix() if path.is_relative_to(workspace.root) else product


def _ignore(_record: TaskRecord, _reused: bool) -> None:
    return None


__all__ = ["Run", "explain", "fetch", "find_exposures", "mosaic", "mosaics_of", "plan", "run", "status", "verify"]
