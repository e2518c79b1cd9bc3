"""`survey status`: the workspace's records and the current run as a document of JSON types, and as text."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from survey.cli.console import counts_text
from survey.config.model import SurveyConfig
from survey.dashboard.journal import run_state
from survey.dashboard.markup import clock
from survey.models import COMPLETE, FAILED, SKIPPED, TaskRecord
from survey.workspace.folders import Workspace


def status_document(config: SurveyConfig, records: Sequence[TaskRecord]) -> dict[str, Any]:
    """Counts by step and filter. A task that runs now has no record yet, but its folder: '.<step>.<subject>.<id>'."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        word = "done" if record.status == COMPLETE else record.status
        counts.setdefault(f"{record.step} {record.filter}", Counter())[word] += 1
    running = sorted(_running(config))
    return {
        "run": _under_way(config, records),
        "steps": {name: dict(row) for name, row in sorted(counts.items())},
        "running": running,
        "failed": {record.key: record.error for record in records if record.status == FAILED},
        "skipped": {record.key: record.error for record in records if record.status == SKIPPED},
        "seconds": {name: round(value, 1) for name, value in _mean_seconds(records).items()},
    }


def _under_way(config: SurveyConfig, records: Sequence[TaskRecord]) -> dict[str, Any]:
    """How far the run is that goes on, at which pace, and who runs it; nothing when nobody does."""
    workspace = Workspace(config.workspace)
    holder = workspace.holder
    state = run_state(workspace.root, records) if holder else None
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


def status_text(document: Mapping[str, Any]) -> str:
    lines = [_under_way_text(document["run"])] if document["run"] else []
    lines += [counts_text(name, row) for name, row in document["steps"].items()]
    lines += [f"running {name}" for name in document["running"]]
    lines += [f"{word} {name}: {error}" for word in (FAILED, SKIPPED) for name, error in document[word].items()]
    lines += [f"{step}: {clock(seconds)} a task" for step, seconds in document["seconds"].items()]
    return "\n".join(lines) or "nothing was run yet"


def _running(config: SurveyConfig) -> list[str]:
    workspace = Workspace(config.workspace)
    found = []
    for path in workspace.leftovers() if workspace.holder else ():
        _, step, *subject, _ = path.name.split(".")
        if subject:
            found.append(f"{step}/{'.'.join(subject)}")
    return found


def _mean_seconds(records: Sequence[TaskRecord]) -> dict[str, float]:
    rows: dict[str, list[float]] = {}
    for record in records:
        if record.status == COMPLETE:
            rows.setdefault(record.step, []).append(record.seconds)
    return {step: sum(values) / len(values) for step, values in rows.items()}
