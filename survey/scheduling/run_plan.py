"""Plan -> dask futures: one future a task, failures contained, mosaics gathered when their members are decided.

The chain of an exposure goes to the scheduler whole. A mosaic waits here until every member is complete or lost, since
the config's `max_missing` decides then whether, and of what, it is made.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dask.distributed import Client, Future, as_completed

from survey.cluster.capacity import capacity, expected_workers, too_large, workers_of
from survey.cluster.deploy import RESOURCE
from survey.errors import ClusterError, DiskFullError, InterruptedRunError, SurveyError
from survey.execution.environment import Site
from survey.execution.task import blank_record, run_task, skipped_record
from survey.models import COMPLETE, FAILED, SKIPPED, Association, Plan, Task, TaskRecord
from survey.mosaics.layouts import read_layout
from survey.planning.planner import Planner, reference_of, steps_until
from survey.scheduling.cleanup import done, dropped_and_needed, tidy
from survey.scheduling.waiting import Patience, await_workers
from survey.workspace.folders import Workspace

WAIT_SECONDS = 0.1  # for the next task to end
Watch = Callable[[TaskRecord, bool], None]  # called with each record as it is decided, and whether it was reused
LaidOut = Callable[[str, Sequence[Task]], None]  # called with a mosaic's product and tasks once its grids are known


@dataclass(frozen=True)
class _Started:
    """A mosaic whose first tasks are under way."""

    association: Association
    chains: Mapping[str, list[Task]]  # of the members that are there
    lost: tuple[str, ...]
    first: tuple[Task, ...]
    reference: Task | None


@dataclass
class _Flow:
    """The state of one run: what is decided, what is under way."""

    plan: Plan
    planner: Planner
    site: Site
    client: Client
    watch: Watch
    laid_out: LaidOut
    stored: Mapping[str, TaskRecord]  # of earlier runs
    names: tuple[str, ...]  # steps to run
    capacity: float  # largest memory resource of any worker [GB]; 0: the workers declare none
    trouble: Callable[[], SurveyError | None]  # why no worker will do the rest
    decided: dict[str, TaskRecord] = field(default_factory=dict)
    pending: dict[Future, Task] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)  # of a key; the scheduler remembers each by its name
    asked: dict[str, float] = field(default_factory=dict)  # task key -> memory that it asks the workers for [GB]
    given_up: dict[str, TaskRecord] = field(default_factory=dict)  # found no worker, and what stands behind it
    latest: dict[str, Future] = field(default_factory=dict)  # of a task that runs again, the one that counts
    fresh: list[Future] = field(default_factory=list)  # submitted since they were last counted
    tried_memory: set[str] = field(default_factory=set)
    waiting: dict[str, Association] = field(default_factory=dict)  # product -> association, members not decided yet
    undecided: dict[str, int] = field(default_factory=dict)  # product -> members that are not decided yet
    by_key: dict[str, Task] = field(default_factory=dict)
    chains: dict[str, list[Task]] = field(default_factory=dict)  # exposure or product -> its tasks to run, in order
    mosaics_of: dict[str, list[str]] = field(default_factory=dict)  # key of an exposure's last task -> products
    aligning: dict[str, _Started] = field(default_factory=dict)  # key of an align task -> its mosaic
    aligned: dict[str, Task] = field(default_factory=dict)  # product -> its align task, once decided
    behind: dict[str, list[Association]] = field(default_factory=dict)  # product -> mosaics that are aligned to it
    # A scheduler answers a key that it still holds with the old result: of an earlier run, or of another workspace.
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])


def run_plan(
    plan: Plan,
    planner: Planner,
    site: Site,
    client: Client,
    *,
    stored: Mapping[str, TaskRecord],
    watch: Watch,
    until: str | None = None,
    trouble: Callable[[], SurveyError | None] = lambda: None,
    laid_out: LaidOut = lambda _product, _tasks: None,
) -> list[TaskRecord]:
    """Run every task of a plan that is not already done.

    Parameters
    ----------
    plan, planner : what to do; the planner makes a mosaic's tasks again when members are missing
    site : where the workspace is, and what children need
    client : of any scheduler
    stored : records by key, as they are on disk
    watch : called once per decided task
    until : last step to run
    trouble : asked while nothing is finished: why no worker will do the rest
    laid_out : called with each mosaic's tasks once they are known, or known not to run

    Returns
    -------
    records : one per task that was decided: complete (reused or run), failed or skipped

    Raises
    ------
    DiskFullError
        The workspace is full; what was complete stays.
    InterruptedRunError
        The user stopped the run.
    ClusterError
        The scheduler is gone, no worker came, or there is trouble.
    """
    expected = expected_workers(client)
    limit = max(60.0 * site.limits.workers_minutes, expected.start_seconds)
    if not expected.capacity_gb:
        await_workers(client, limit)
    flow = _Flow(
        plan, planner, site, client, watch, laid_out, stored, steps_until(plan, until), capacity(client), trouble
    )
    _index(flow)
    try:
        _follow(flow, limit)
    except BaseException as error:
        with contextlib.suppress(Exception):  # a scheduler that is gone can cancel nothing
            client.cancel(list(flow.pending), force=True)
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError("stopped; everything that was complete stays. Run again to continue.") from error
        if isinstance(error, OSError) and error.errno is None:  # dask's own, of broken connections
            raise _gone(flow) from error
        raise
    tidy(_root(flow), flow.decided, flow.chains, flow.stored, flow.planner.config.mosaic.keep_intermediate)
    return list(flow.decided.values())


def _follow(flow: _Flow, limit_seconds: float) -> None:
    """Submit what can run, and decide each task as it ends, until nothing is left."""
    _submit_exposures(flow)
    flow.fresh.clear()
    completed: Any = as_completed(list(flow.pending), loop=flow.client.loop, raise_errors=False)
    patience = Patience(limit_seconds, RESOURCE)
    while not completed.is_empty():
        if not completed.has_ready():
            _wait(flow, completed, patience)
            continue
        for future in completed.next_batch():
            _decide(flow, future)
            while flow.fresh:
                completed.add(flow.fresh.pop())
        del future  # its worker need not keep the result


def _gone(flow: _Flow) -> ClusterError:
    address = getattr(flow.client.scheduler, "address", "")
    return ClusterError(f"the scheduler {address} is gone; everything that was complete stays. Run again to continue.")


def _wait(flow: _Flow, completed: Any, patience: Patience) -> None:
    """Wait a moment for a task to end; now and then, see whether there are workers for those that could run."""
    with completed.thread_condition:
        completed.thread_condition.wait(WAIT_SECONDS)
    trouble = flow.trouble()
    if trouble is not None:
        raise trouble
    if not patience.is_due:
        return
    ready = [(task, flow.asked[task.key]) for task in flow.pending.values() if flow.decided.keys() >= set(task.inputs)]
    for key, error in patience.look(ready, workers_of(flow.client, RESOURCE)).items():
        _give_up(flow, key, error)


def _give_up(flow: _Flow, key: str, error: str) -> None:
    """Take a task that no worker can hold, and what stands on it, away from the scheduler."""
    lost: dict[str, TaskRecord] = {}
    futures = []
    for future, task in list(flow.pending.items()):  # in the order of their submission: inputs come first
        cause = next((lost[name] for name in task.inputs if name in lost), None)
        if task.key == key:
            lost[key] = replace(blank_record(task), error=error, error_class="again")
        elif cause is not None:
            lost[task.key] = skipped_record(task, cause)
        else:
            continue
        futures.append(future)
    flow.given_up |= lost
    flow.client.cancel(futures, force=True)


def _root(flow: _Flow) -> Path:
    return Workspace(Path(flow.site.root)).root


def _index(flow: _Flow) -> None:
    flow.by_key = {task.key: task for task in flow.plan}
    for task in flow.plan:
        if task.step in flow.names and not task.mosaic:
            flow.chains.setdefault(task.subject, []).append(task)
    if "association" not in flow.names:
        return
    for association in flow.plan.associations:
        flow.waiting[association.product] = association
        flow.undecided[association.product] = len(association.members)
        for name in association.members:
            flow.mosaics_of.setdefault(flow.chains[name][-1].key, []).append(association.product)


def _submit_exposures(flow: _Flow) -> None:
    """Hand the chains of all exposures to the scheduler."""
    for chain in list(flow.chains.values()):  # a mosaic whose members are all done adds its own
        result: Any = None
        for task in chain:
            result = _start(flow, task, [] if result is None else [result])


def _start(flow: _Flow, task: Task, inputs: list[Any], memory_gb: float | None = None, forced: bool = False) -> Any:
    """Decide a task at once, when its record serves or it cannot run, or submit it.

    Returns
    -------
    result : TaskRecord or Future; what tasks that stand on it take as input
    """
    if task.unknown:
        error = f"not run: {task.unknown}"
        return _settle(flow, replace(blank_record(task), status=FAILED, error=error, error_class="never"), False)
    found = None if forced else done(_root(flow), task, flow.stored)
    if found is not None:
        return _settle(flow, found, True)
    lost = next((item for item in inputs if isinstance(item, TaskRecord) and item.status != COMPLETE), None)
    if lost is not None:
        return _settle(flow, skipped_record(task, lost), False)
    if flow.capacity and task.memory_gb > flow.capacity:
        return _settle(
            flow, replace(blank_record(task), error=too_large(task, flow.capacity), error_class="never"), False
        )
    # The extra try may want more than there is: then it gets the largest worker to itself.
    need = min(memory_gb or task.memory_gb, flow.capacity or float("inf"))
    flow.attempts[task.key] = flow.attempts.get(task.key, 0) + 1
    attempt = f"{flow.run}-{flow.attempts[task.key]}"
    flow.asked[task.key] = need if flow.capacity else 0.0
    future = flow.client.submit(
        run_task,
        task,
        flow.site,
        inputs,
        flow.site.limits.memory_gb(need, flow.capacity),
        key=(f"{task.step}-{task.filter}", f"{task.subject}-{attempt}-{task.digest[:16]}"),
        resources={RESOURCE: need} if flow.capacity else None,
        retries=task.retries,
        pure=False,
    )
    flow.pending[future] = task
    flow.latest[task.key] = future
    flow.fresh.append(future)
    return future


def _settle(flow: _Flow, record: TaskRecord, reused: bool) -> TaskRecord:
    flow.decided[record.key] = record
    flow.latest.pop(record.key, None)  # its worker need not keep the result, and may go
    flow.watch(record, reused)
    for product in flow.mosaics_of.get(record.key, ()):
        flow.undecided[product] -= 1
        if not flow.undecided[product]:
            _start_mosaic(flow, flow.waiting.pop(product))
    if record.key in flow.aligning:
        _continue_mosaic(flow, flow.aligning.pop(record.key), record)
    return record


def _decide(flow: _Flow, future: Future) -> None:
    """Take a finished future's record; give a task that ran out of memory one more try."""
    task = flow.pending.pop(future)
    if task.key in flow.decided or flow.latest[task.key] is not future:
        return  # a skip behind a task that runs again, and so will this one
    record = _record_of(flow, task, future)
    if record.error_class == "disk":
        cause = record.error.removeprefix(f"{task.key}: ")
        raise DiskFullError(f"{task.key}: {cause}. Make room and run again; what was complete stays.")
    if record.error_class == "memory" and task.key not in flow.tried_memory:
        flow.tried_memory.add(task.key)
        _restart(flow, task, record.peak_memory_gb)
        return
    _settle(flow, record, False)


def _record_of(flow: _Flow, task: Task, future: Future) -> TaskRecord:
    """What a finished future says of its task; dask hands an error on to all tasks behind it, which did not run."""
    if future.status == "finished":
        return future.result()  # type: ignore[no-any-return]
    lost = next((key for key in task.inputs if key in flow.decided and flow.decided[key].status != COMPLETE), None)
    if lost is not None:
        return skipped_record(task, flow.decided[lost])
    if task.key in flow.given_up:
        return flow.given_up[task.key]
    if future.status == "cancelled":
        if flow.client.status != "running":
            raise _gone(flow)
        return replace(blank_record(task), error="its scheduler dropped it; run again.", error_class="again")
    error = future.exception()
    text = str(error) if isinstance(error, SurveyError) else f"{type(error).__name__}: {error}"
    text = text.removeprefix(f"{task.key}: ")
    return replace(blank_record(task), status=FAILED, error=text, error_class="again", attempts=task.retries + 1)


def _restart(flow: _Flow, task: Task, used_gb: float) -> None:
    """Run a task again with more memory, and behind it what stands on it in its exposure or mosaic."""
    name = next(name for name, chain in flow.chains.items() if task in chain)
    touched = {task.key}
    for item in flow.chains[name]:
        if item is task or touched.intersection(item.inputs):
            touched.add(item.key)
            more = flow.site.limits.more_memory(item.memory_gb, used_gb)
            memory_gb = more if item is task else item.memory_gb
            _start(flow, item, _results(flow, item), memory_gb, forced=True)


def _results(flow: _Flow, task: Task) -> list[Any]:
    """What each input of a task ended with, or the future of it."""
    return [flow.decided.get(key) or flow.latest[key] for key in task.inputs]


def _start_mosaic(flow: _Flow, association: Association) -> None:
    """Start a mosaic, whose members are all decided, or record why it is not made."""
    wanted = reference_of(flow.planner.config, association, flow.plan.associations)
    if wanted is not None and wanted not in flow.aligned and "align" in flow.names:
        flow.behind.setdefault(wanted, []).append(association)
        return
    keys = [flow.chains[name][-1].key for name in association.members]
    lost = [flow.by_key[key].subject for key in keys if flow.decided[key].status != COMPLETE]
    lost = sorted([*lost, *association.lost])
    chains = {name: flow.chains[name] for name in association.members if name not in lost}
    exposures = {exposure.name: exposure for exposure in flow.plan.exposures}
    reference = flow.aligned.get(wanted or "")
    first, rest = flow.planner.mosaic_tasks(association, chains, exposures, lost, None, reference)
    allowed = flow.planner.config.mosaic.max_missing
    if lost and (len(lost) > allowed or not chains):
        names = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        total = len(keys) + len(association.lost)
        error = f"{len(lost)} of {total} members missing ({names}); mosaic.max_missing allows {allowed}."
        flow.laid_out(association.product, [*first, *rest])
        _skip(flow, association, [*first, *rest], error)
        return
    if flow.planner.config.mosaic.engine == "tiled":
        flow.aligning[first[-1].key] = _Started(association, chains, tuple(lost), tuple(first), reference)
    _submit_chain(flow, association.product, first)


def _submit_chain(flow: _Flow, product: str, tasks: list[Task]) -> None:
    """Hand a mosaic's tasks, which stand in order, to the scheduler."""
    chain = [task for task in tasks if task.step in flow.names]
    flow.chains.setdefault(product, []).extend(chain)
    forced = dropped_and_needed(_root(flow), chain, flow.stored)
    results: dict[str, Any] = {}
    for task in chain:
        inputs = [results.get(key) or flow.decided.get(key) or flow.latest[key] for key in task.inputs]
        results[task.key] = _start(flow, task, inputs, forced=task.key in forced)


def _continue_mosaic(flow: _Flow, started: _Started, record: TaskRecord) -> None:
    """Start what stands behind an alignment, now that its grids are known."""
    association, exposures = started.association, {item.name: item for item in flow.plan.exposures}
    align = started.first[-1]
    layout = read_layout(_root(flow), association.product) if record.status == COMPLETE else None
    _, rest = flow.planner.mosaic_tasks(association, started.chains, exposures, started.lost, layout, started.reference)
    flow.aligned[association.product] = align
    flow.laid_out(association.product, rest)
    if record.status == COMPLETE:
        _submit_chain(flow, association.product, rest)
    else:
        _skip(flow, association, rest, f"not run, because {record.key} {record.status}: {record.error}")
    for other in flow.behind.pop(association.product, []):
        _start_mosaic(flow, other)


def _skip(flow: _Flow, association: Association, tasks: list[Task], error: str) -> None:
    """Record why a mosaic is not made; whoever waits for it goes on without."""
    for task in tasks:
        if task.step in flow.names:
            _settle(flow, replace(blank_record(task), status=SKIPPED, error=error), False)
    align = next((task for task in tasks if task.step == "align"), None)
    if align is not None:
        flow.aligned[association.product] = align
        for other in flow.behind.pop(association.product, []):
            _start_mosaic(flow, other)
