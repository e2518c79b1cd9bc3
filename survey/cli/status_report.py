"""`survey status`: records and the current run as a document of JSON types, and as text with one table."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from survey.cli.run_report import notice_lines, notices_document
from survey.cli.tables import (
    AGAIN,
    DONE,
    RUNNING,
    TO_RUN,
    Block,
    count,
    left_out_lines,
    sort_steps,
    step_label,
    steps_table,
)
from survey.config.model import SurveyConfig
from survey.dashboard.journal import run_state
from survey.dashboard.markup import clock
from survey.dashboard.state import REUSED, RunState, first_line
from survey.errors import ProductNameError
from survey.execution.failures import root_cause
from survey.models import COMPLETE, FAILED, SKIPPED, Task, TaskRecord
from survey.names import parse_mosaic
from survey.nircam import passband
from survey.planning.made_with import Differences
from survey.planning.staleness import STALE, State
from survey.reduction.inputs import held_exposures
from survey.reduction.outcome import notices_of

EQUALLY_MADE = Differences()
SHOWN = 20  # failures, causes and running tasks in the text; the document has all


def status_document(
    config: SurveyConfig, records: Sequence[TaskRecord], planned: Sequence[State] = ()
) -> dict[str, Any]:
    """Counts by step and filter.

    Parameters
    ----------
    records : of the workspace
    planned : states of the tasks that the config plans for the raw files in the workspace; not needed during a run
    """
    counts: dict[str, Counter[str]] = {}
    for record in records:
        word = DONE if record.status == COMPLETE else record.status
        counts.setdefault(f"{record.step} {record.filter}", Counter())[word] += 1
    running = _running(config)
    holder = config.folders.holder
    state = run_state(config.folders.root, records) if holder else None
    return {
        "run": _under_way(holder, state),
        "table": _table(config, records, planned, running, state),
        "steps": {name: dict(row) for name, row in sorted(counts.items())},
        "running": list(running),
        "failed": {record.key: record.error for record in records if record.status == FAILED},
        "skipped": {record.key: record.error for record in records if record.status == SKIPPED},
        "not_aligned": {record.mosaic: record.not_aligned for record in records if record.not_aligned},
        "notices": notices_document(notices_of(records)),
        "seconds": {name: round(value, 1) for name, value in _mean_seconds(records).items()},
    }


def _table(
    config: SurveyConfig,
    records: Sequence[TaskRecord],
    planned: Sequence[State],
    running: Mapping[str, str],
    state: RunState | None,
) -> dict[str, dict[str, dict[str, int]]]:
    """Numbers of tasks by step, filter and word: by the run that goes on, else by records and the plan."""
    places = {item.key: (_label(item, state), item.filter) for item in records}
    places |= {item.task.key: (_label(item.task, state), item.task.filter) for item in planned}
    words = {record.key: DONE if record.status == COMPLETE else record.status for record in records}
    for item in planned:
        if item.task.key not in words:
            words[item.task.key] = TO_RUN
        elif item.state == STALE:
            words[item.task.key] = AGAIN
    places |= {key: (key.partition("/")[0], name) for key, name in running.items()}
    words |= dict.fromkeys(running, RUNNING)
    chain = [step.name for step in config.steps]
    table = count([(*places[key], word) for key, word in words.items()], chain)
    if state is None:
        return table
    for (step, name), cell in state.cells.items():
        under_way = sum(places[key] == (step, name) for key in running)
        found = {DONE: cell.counts[DONE] + cell.counts[REUSED], RUNNING: under_way, TO_RUN: cell.left - under_way,
                 FAILED: cell.counts[FAILED], SKIPPED: cell.counts[SKIPPED]}  # fmt: skip
        table.setdefault(step, {})[name] = {word: number for word, number in found.items() if number > 0}
    return {step: table[step] for step in sort_steps(table, chain)}


def _label(item: Task | TaskRecord, state: RunState | None) -> str:
    """Name of a step in the table; the page of a run under way counts both passes together."""
    return step_label(item.step, item.subject) if state is None else item.step


def _under_way(holder: str | None, state: RunState | None) -> dict[str, Any]:
    """Progress and rate of the current run, and which process runs it; empty when none does."""
    if state is None:
        return {"holder": holder} if holder else {}
    now = time.time()
    return {
        "holder": holder,
        "tasks": sum(max(cell.total, cell.decided) for cell in state.cells.values()),
        "left": sum(cell.left for cell in state.cells.values()),
        "exposures_per_hour": round(state.exposures_per_hour(now), 1),
        "elapsed_seconds": round(now - state.began, 1),
        "seconds_left": state.seconds_left(now),
        "not_laid_out": sorted(state.guessed),
    }


def _under_way_text(run: Mapping[str, Any]) -> str:
    if "tasks" not in run:
        return f"in use by {run['holder']}"
    left = "-" if run["seconds_left"] is None else clock(run["seconds_left"])
    least = " at least" if run["not_laid_out"] else ""
    return (
        f"run by {run['holder']}: {run['tasks'] - run['left']} of {run['tasks']} tasks, "
        f"{run['exposures_per_hour']:.0f} exposures an hour, {left} left{least}"
    )


def status_blocks(document: Mapping[str, Any], workspace: Path, differences: Differences = EQUALLY_MADE) -> list[Block]:
    """The current run, the table, what runs now, failures with their causes, and how products were made."""
    if not any(document.get(name) for name in ("run", "table", "warnings", "left_out")):
        return ["nothing was run yet" if workspace.is_dir() else f"{workspace}: the workspace does not exist"]
    blocks: list[Block] = [_under_way_text(document["run"]), ""] if document["run"] else []
    if document["table"]:
        times = {step: _time_text(seconds) for step, seconds in document["seconds"].items()}
        blocks.append(steps_table(document["table"], times))
    lines = [*_shortened([f"running {name}" for name in document["running"]], "running"), *_failures(document)]
    lines += left_out_lines(document.get("left_out", {}))
    lines += [f"warning: {text}" for text in document.get("warnings", ())]
    lines += _shortened(notice_lines(document["notices"]), "notices")
    lines += differences.lines()
    return [*blocks, *(["", *lines] if lines else [])]


def _time_text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else clock(seconds)


def _failures(document: Mapping[str, Any]) -> list[str]:
    """Failed tasks with their cause, and how many tasks were skipped after each."""
    failed = [f"failed {name}: {first_line(error)}" for name, error in document[FAILED].items()]
    causes = Counter(first_line(root_cause(error)) for error in document[SKIPPED].values())
    skipped = [f"skipped {number} task{'s' if number != 1 else ''}: {cause}" for cause, number in causes.items()]
    return [*_shortened(failed, "failures"), *_shortened(skipped, "causes")]


def _shortened(lines: list[str], what: str) -> list[str]:
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"... and {more} more {what}; --json lists them all"]


def _running(config: SurveyConfig) -> dict[str, str]:
    """Keys of the tasks that run now, with the filter of each.

    They have no record yet, but a folder: '.<step>.<subject>.<id>'.
    """
    workspace = config.folders
    folders = [path.name.split(".") for path in workspace.leftovers()] if workspace.holder else []
    subjects = {f"{step}/{'.'.join(subject)}": ".".join(subject) for _, step, *subject, _ in folders if subject}
    names = {item.name: item.filter for item in held_exposures(config)} if subjects else {}
    return {key: _filter_of(subject, names) for key, subject in sorted(subjects.items())}


def _filter_of(subject: str, names: Mapping[str, str]) -> str:
    """Filter of an exposure, or of a mosaic by its name; of their parts as well: '<exposure>_<id>', '<mosaic>_<tile>'.

    Parameters
    ----------
    names : filters of exposures
    """
    for name in (subject, subject.rpartition("_")[0]):
        if name in names:
            return names[name]
        with contextlib.suppress(ProductNameError):
            pair = passband(parse_mosaic(name).elements.split("-"))
            return "" if pair is None else pair[0]
    return ""


def _mean_seconds(records: Sequence[TaskRecord]) -> dict[str, float]:
    rows: dict[str, list[float]] = {}
    for record in records:
        if record.status == COMPLETE:
            rows.setdefault(record.step, []).append(record.seconds)
    return {step: sum(values) / len(values) for step, values in rows.items()}
