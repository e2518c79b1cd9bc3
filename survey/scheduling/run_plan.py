"""Run a plan on dask: the loop that joins the task queue and the gate of the mosaics.

`TaskQueue` runs tasks, and `MosaicGate` decides when those of a mosaic can be submitted. The tasks of all exposures are
submitted at the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dask.distributed import Client

from survey.cluster.capacity import expected_workers
from survey.errors import InterruptedRunError, SurveyError
from survey.execution.environment import Site
from survey.models import Plan, Task, TaskRecord
from survey.planning.planner import Planner
from survey.planning.selection import is_selected, steps_until
from survey.planning.staleness import products_needed
from survey.scheduling.cleanup import clean_up, clean_up_first_pass
from survey.scheduling.mosaic_gate import MosaicGate, Ready
from survey.scheduling.task_queue import TaskQueue, scheduler_gone
from survey.scheduling.waiting import wait_for_first_worker


def _ignore(*_: object) -> None:
    """In place of a callback that the caller does not want."""


@dataclass(frozen=True)
class RunSettings:
    """What a run begins with, how far it goes, and the functions that it calls as it goes on."""

    stored: Mapping[str, TaskRecord] = field(default_factory=dict)  # records of earlier runs, by task key
    until: str | None = None  # last step to run; None: all
    # Called once for each task, with its record and whether that is an earlier run's.
    watch: Callable[[TaskRecord, bool], None] = _ignore
    # Called once for each mosaic, with its product and tasks, when the tasks after its alignment are known or skipped.
    laid_out: Callable[[str, Sequence[Task]], None] = _ignore
    # Called while no task ends; returns why no worker will ever run the rest, or None.
    trouble: Callable[[], SurveyError | None] = lambda: None


def run_plan(plan: Plan, planner: Planner, site: Site, client: Client, settings: RunSettings) -> list[TaskRecord]:
    """Run every task of a plan that is not done yet.

    Parameters
    ----------
    plan, planner : what to do; the planner makes a mosaic's tasks again when members are missing
    site : the workspace, and what the child processes of tasks need
    client : dask client of any scheduler

    Returns
    -------
    records : one for each task that was decided: complete (reused or run), failed or skipped

    Raises
    ------
    DiskFullError
        The workspace's disk is full; what was complete stays.
    InterruptedRunError
        The user stopped the run.
    ClusterError
        The scheduler is gone.
    SurveyError
        No worker came, or what ``settings.trouble`` returned.
    """
    expected = expected_workers(client)
    limit_seconds = max(60.0 * site.limits.workers_minutes, expected.start_seconds)
    if not expected.capacity_gb:
        wait_for_first_worker(client, limit_seconds)
    root, steps = site.folders.root, steps_until(plan, settings.until)
    chains = exposure_chains(plan, steps)
    selected = [task for task in plan if is_selected(task, steps)]
    needed = products_needed(root, selected, settings.stored) if plan.first_pass else frozenset()
    queue = TaskQueue(client, site, settings.stored, limit_seconds, needed)
    gate = MosaicGate(plan, planner, chains, steps, root)
    try:
        _run(queue, gate, settings)
    except BaseException as error:
        queue.cancel()
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError("stopped; everything that was complete stays. Run again to continue.") from error
        if isinstance(error, OSError) and error.errno is None:  # dask's own, of broken connections
            raise scheduler_gone(client) from error
        raise
    clean_up(root, queue.records, gate.submitted, settings.stored, planner.config.mosaic.keep_intermediate)
    clean_up_first_pass(root, gate.seen, queue.records, planner.config.mosaic.keep_intermediate)
    return list(queue.records.values())


def exposure_chains(plan: Plan, steps: Sequence[str]) -> dict[str, list[Task]]:
    """The tasks of each exposure by its name, in order, of the steps that are run."""
    chains: dict[str, list[Task]] = {}
    for task in plan:
        if is_selected(task, steps) and not task.mosaic:
            chains.setdefault(task.subject, []).append(task)
    return chains


def _run(queue: TaskQueue, gate: MosaicGate, settings: RunSettings) -> None:
    """Submit what is ready, and collect what has ended, until nothing is left."""
    ready = deque(gate.ready_at_start())
    while ready or queue.unfinished:
        if ready:
            _start(ready.popleft(), queue, settings)
        elif not queue.collect():
            trouble = settings.trouble()
            if trouble is not None:
                raise trouble
            queue.give_up_unplaced()
        released: list[Ready] = []
        for record, reused in queue.take_decided():
            settings.watch(record, reused)
            released += gate.ready_after(record)
        ready.extendleft(reversed(released))  # before further exposures: a mosaic that can be made is made


def _start(ready: Ready, queue: TaskQueue, settings: RunSettings) -> None:
    if ready.layout_known:
        settings.laid_out(ready.product, ready.tasks)
    if ready.error:
        queue.skip(ready.tasks, ready.error, keep_done=ready.keeps_done)
    else:
        queue.add(ready.tasks)
