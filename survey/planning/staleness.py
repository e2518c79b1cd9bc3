"""What would run, and why: a plan's tasks beside the records of earlier runs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from survey.messages import unquoted
from survey.models import COMPLETE, Task, TaskRecord
from survey.steps.alignment import refusal_of
from survey.steps.base import Unit
from survey.steps.registry import is_intermediate, row_of
from survey.workspace.products import in_place, product_in_place, recorded

DONE = "done"
NEW = "new"  # never run
STALE = "stale"  # was run, and would make something else now
FAILED = "failed"  # was tried and failed
UNKNOWN = "unknown"  # depends on something that is not known yet
DELETED = "its product was deleted to save space, and a task that has to run reads it"


@dataclass(frozen=True, slots=True)
class State:
    """Where a task stands."""

    task: Task
    state: str
    reasons: tuple[str, ...] = ()


def states(tasks: Iterable[Task], records: Mapping[str, TaskRecord], root: Path) -> list[State]:
    """The state of each task of a plan, in its order: exactly those that a run reuses are done.

    Parameters
    ----------
    tasks : a plan or some of its tasks, each after its inputs
    records : of earlier runs, by key
    root : of the workspace
    """
    listed = list(tasks)
    reusable = reusable_records(root, listed, records)
    found = [
        State(task, DONE) if task.key in reusable else _to_run(state_of(task, records.get(task.key), root))
        for task in listed
    ]
    refused = {
        item.task.mosaic: cause
        for item in found
        if item.state == DONE
        and row_of(item.task).lays_out
        and (cause := refusal_of(item.task, records[item.task.key]))
    }
    if not refused:
        return found
    return [
        replace(item, state=FAILED, reasons=(refused[item.task.mosaic],))
        if item.state != DONE and item.task.mosaic in refused
        else item
        for item in found
    ]


def _to_run(found: State) -> State:
    """The state of a task that a run does not reuse, though its own record is as it should be."""
    return found if found.state != DONE else State(found.task, STALE, (DELETED,))


def reusable_records(
    root: Path, tasks: Sequence[Task], stored: Mapping[str, TaskRecord], needed: Iterable[str] = ()
) -> dict[str, TaskRecord]:
    """Records of earlier runs by task key, of the tasks that need not run again.

    A product must still be in the workspace. That of an intermediate step, or one that `survey tidy` removed, may be
    gone, unless a task that has to run reads it: then the task that makes it has to run as well.

    Parameters
    ----------
    root : of the workspace
    tasks : each after its inputs, with all that read such a product of one of them
    stored : records of earlier runs, by key
    needed : keys of tasks whose products other tasks will read: see `products_needed`
    """
    reusable: dict[str, TaskRecord] = {}
    read = set(needed)  # and keys of the inputs of tasks that have to run
    for task in reversed(tasks):
        record = recorded(task, stored.get(task.key))
        if record is not None and ((may_be_gone(task, record) and task.key not in read) or in_place(root, record)):
            reusable[task.key] = record
        else:
            read.update(task.inputs)
    return reusable


def products_needed(root: Path, tasks: Sequence[Task], stored: Mapping[str, TaskRecord]) -> frozenset[str]:
    """Keys of the tasks whose products a task that has to run will read.

    Parameters
    ----------
    root, stored : as for `reusable_records`
    tasks : all that a run selects; those that are not known yet count as tasks that have to run
    """
    reusable = reusable_records(root, tasks, stored)
    return frozenset(key for task in tasks if task.key not in reusable for key in task.inputs)


def may_be_gone(task: Task, record: TaskRecord) -> bool:
    """Whether the products of a complete task may have been deleted: intermediate ones, or by `survey tidy`."""
    return is_intermediate(task) or bool(record.removed)


def state_of(task: Task, record: TaskRecord | None, root: Path) -> State:
    """The state of one task, beside its record on disk."""
    done = recorded(task, record)
    if done is not None and not may_be_gone(task, done) and not in_place(root, done):
        done = None
    if done is not None:
        return State(task, DONE)
    if task.unknown:
        return State(task, UNKNOWN, (task.unknown,))
    if record is None:
        return State(task, NEW, ("never run",))
    if record.status != COMPLETE:
        return State(task, FAILED, (record.error or record.status,))
    if record.digest != task.digest:
        return State(task, STALE, tuple(differences(task, record)))
    return State(task, STALE, _out_of_place(record, root))


def _out_of_place(record: TaskRecord, root: Path) -> tuple[str, ...]:
    """Which products of a record are not there as they were written; the others are no cause."""
    lost = [item.path for item in record.products if not product_in_place(root, item, record.digest)]
    return tuple(f"{path} is missing or has another size" for path in lost)


def differences(task: Task, record: TaskRecord) -> list[str]:
    """Why a record's digest is not the task's: every setting, reference, input and version that differs."""
    settings = _changed(record.settings, task.settings)
    found = [f"{name}: {_setting(old)} -> {_setting(new)}" for name, old, new in settings]
    found += [f"{kind} {new or 'none'} replaced {old or 'none'}" for kind, old, new in _reference_changes(task, record)]
    for name, old, new in _changed({key: record.versions.get(key) for key in task.versions}, task.versions):
        found.append(f"{name} {old or 'none'} -> {new or 'none'}")
    for name, old, new in _changed(record.inputs, task.digests):
        if old is not None and new is not None:
            found.append(f"{name} holds other bytes" if name in task.files else f"{name} has changed")
        else:
            found.append(f"{name} {'is new' if old is None else 'is no longer an input'}")
    if record.missing != task.missing:
        found.append(f"missing members: {len(record.missing)} -> {len(task.missing)}")
    return found or ["the step's version has changed"]


def summary(found: Iterable[State]) -> dict[str, dict[str, int]]:
    """Counts by '<step> <filter>' and state, in the plan's order."""
    rows: dict[str, Counter[str]] = {}
    for item in found:
        name = f"{item.task.step} {item.task.filter}{' pass 1' if item.task.first_pass else ''}"
        rows.setdefault(name, Counter())[item.state] += 1
    return {name: dict(counts) for name, counts in rows.items()}


def causes(found: Iterable[State]) -> dict[str, dict[str, int]]:
    """Each first cause and how many tasks of each step it makes run: what a user wants to know before starting.

    Causes that only hand on another task's change are left out: they follow from the first.
    """
    rows: dict[str, Counter[str]] = {}
    for item in found:
        for reason in item.reasons:
            if item.state != DONE and not _is_handed_on(item.task, reason):
                rows.setdefault(reason, Counter())[item.task.step] += 1
    return {reason: dict(counts) for reason, counts in rows.items()}


def _is_handed_on(task: Task, reason: str) -> bool:
    """Whether a cause says no more than that an input will be another."""
    return reason.removesuffix(" has changed") in task.inputs


def reach(found: Sequence[State]) -> dict[str, dict[str, int]]:
    """Each first cause and what it reaches, the tasks behind it included: exposures, mosaics and tasks that run again.

    A task that two causes reach counts for both. One whose inputs are not known yet is reached by what these wait for.
    """
    causes_of: dict[str, set[str]] = {}
    rows: dict[str, tuple[set[str], set[str], set[str]]] = {}
    for item in found:
        if item.state == DONE:
            continue
        behind = set().union(*(causes_of.get(key, set()) for key in item.task.inputs))
        own = {reason for reason in item.reasons if not _is_handed_on(item.task, reason)}
        if behind and item.state in (UNKNOWN, NEW, FAILED):
            own = set()  # it waits for its inputs, whatever it says
        causes_of[item.task.key] = own | behind
        for reason in sorted(own | behind):
            exposures, mosaics, tasks = rows.setdefault(reason, (set(), set(), set()))
            tasks.add(item.task.key)
            if not item.task.mosaic:
                exposures.add(item.task.subject)
            elif row_of(item.task).unit is Unit.MOSAIC:
                mosaics.add(item.task.subject)
    return {
        reason: {"exposures": len(exposures), "mosaics": len(mosaics), "tasks": len(tasks)}
        for reason, (exposures, mosaics, tasks) in rows.items()
    }


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    """(name, old, new) of every leaf that differs; None where there is none."""
    rows: list[tuple[str, Any, Any]] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        name = f"{path}.{key}" if path else key
        if isinstance(before, Mapping) or isinstance(after, Mapping):
            rows += _changed(before or {}, after or {}, name)
        elif _plain(before) != _plain(after):
            rows.append((name, before, after))
    return rows


def _reference_changes(task: Task, record: TaskRecord) -> list[tuple[str, str, str]]:
    rows = []
    for kind in sorted({*task.references, *record.references}):
        old, new = record.references.get(kind, ""), task.references.get(kind, "")
        if record.sha1.get(old, old) != task.sha1.get(new, new):
            rows.append((kind, old, new))
    return rows


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _setting(value: Any) -> str:
    return "default" if value is None else unquoted(value)
