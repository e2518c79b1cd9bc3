"""The tasks of a run that is under way, in a small file of the workspace: ``logs/run.json``.

``survey status`` reads it together with the records, so that it needs neither the scheduler nor the lock. The file is
removed when the run ends. That of a killed run stays; the workspace's lock shows that it is not running.
"""

from __future__ import annotations

import calendar
import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from survey.dashboard.state import REUSED, RunState, update_of
from survey.models import TaskRecord
from survey.workspace.files import write_file

WRITE_SECONDS = 5.0


class Journal:
    """Writes the file: when the planned tasks change, and every few seconds while reused tasks are counted."""

    def __init__(self, root: Path, facts: Mapping[str, Any]):
        self._path = journal_path(root)
        self._facts = dict(facts)
        self._reused: dict[tuple[str, str], int] = {}
        self._written = 0.0
        self._write()

    def reuse(self, record: TaskRecord) -> None:
        place = record.step, record.filter
        self._reused[place] = self._reused.get(place, 0) + 1
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._write()

    def lay_out(self, facts: Mapping[str, Any]) -> None:
        self._facts["totals"] = [*self._facts["totals"], *facts["totals"]]
        self._facts["products"] = [product for product in self._facts["products"] if product != facts["product"]]
        self._write()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._written = time.monotonic()
        reused = [[*place, count] for place, count in self._reused.items()]
        with contextlib.suppress(OSError):  # on a full disk, another write ends the run, with a better message
            write_file(self._path, json.dumps({**self._facts, "reused": reused}), durable=False)


def journal_path(root: Path) -> Path:
    return root / "logs" / "run.json"


def run_state(root: Path, records: Iterable[TaskRecord]) -> RunState | None:
    """State of the run that is under way, from its journal and its records; None without a journal."""
    try:
        facts = json.loads(journal_path(root).read_text())
        state = RunState.begin(facts)
        for step, name, count in facts["reused"]:
            state.cells[step, name].counts[REUSED] = int(count)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    ended = sorted((_ended(record), record.key, record) for record in records)
    for stop, _, record in ended:
        if stop >= state.began and (record.step, record.filter) in state.cells:
            state.update([update_of(record, False, stop)])
    return state


def _ended(record: TaskRecord) -> float:
    """When a record's task ended, as time.time() [s]; 0 if the record has no time."""
    try:
        # Records have whole seconds; the end of the second is taken, so that tasks of the run's first second count.
        return calendar.timegm(time.strptime(record.started, "%Y-%m-%dT%H:%M:%SZ")) + 1 + record.seconds
    except ValueError:
        return 0.0
