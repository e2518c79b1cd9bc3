"""Progress of runs and downloads on standard error: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from survey.dashboard.markup import clock
from survey.models import COMPLETE, SKIPPED, Plan, TaskRecord

LINE_SECONDS = 15.0  # between plain lines of unfinished steps


class TaskProgress(AbstractContextManager["TaskProgress"]):
    """Shows the number of finished tasks, rate and remaining time of each step.

    Parameters
    ----------
    say : prints one line
    terminal : draw bars; default: when standard error is a terminal
    """

    def __init__(self, say: Callable[[str], None], terminal: bool | None = None):
        self._say = say
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bars: Any = None
        self._rows: dict[str, Any] = {}
        self._total: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._ran: Counter[str] = Counter()
        self._began: dict[str, float] = {}
        self._printed = time.monotonic()
        self._skips: set[tuple[str, str]] = set()

    def watch(self, plan: Plan) -> Callable[[TaskRecord, bool], None]:
        """Start with a plan; the returned function is called with the record of each finished task."""
        self._total = Counter(task.step for task in plan)
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description:<18}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
            self._rows = {step: self._bars.add_task(step, total=count, note="") for step, count in self._total.items()}
        return self._decided

    def _decided(self, record: TaskRecord, reused: bool) -> None:
        step = record.step
        self._began.setdefault(step, time.monotonic() - record.seconds)
        self._done[step] += 1
        self._ran[step] += not reused and record.status == COMPLETE
        # The number of tiles is known after the alignment; the plan's may have been a guess.
        self._total[step] = max(self._total[step], self._done[step])
        self._print_failure(record)
        if self._bars is not None:
            if step not in self._rows:
                self._rows[step] = self._bars.add_task(step, total=self._total[step], note="")
            self._bars.update(self._rows[step], advance=1, total=self._total[step], note=self._note(step))
        elif self._done[step] == self._total[step] or time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            self._say(f"{step}: {self._done[step]}/{self._total[step]} {self._note(step)}".rstrip())

    def _print_failure(self, record: TaskRecord) -> None:
        """Print each failure, and of tasks that are skipped for the same cause the first of each step."""
        if record.status == COMPLETE:
            return
        if record.status != SKIPPED:
            self._say(f"FAILED {record.key}: {record.error}")
        elif (record.step, record.error) not in self._skips:
            self._skips.add((record.step, record.error))
            self._say(f"skipped {record.key}: {record.error}")

    def _note(self, step: str) -> str:
        if not self._ran[step]:
            return ""
        rate = self._ran[step] / max(time.monotonic() - self._began[step], 1e-3)
        left = (self._total[step] - self._done[step]) / rate
        return f"{60 * rate:.1f}/min, {clock(left)} left" if left else f"{60 * rate:.1f}/min"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


class DownloadProgress:
    """Prints the size of all downloaded files now and then. Thread-safe."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._lock = threading.Lock()
        self._bytes: dict[str, int] = {}
        self._printed = time.monotonic()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        with self._lock:
            self._bytes[name] = done
            whole = total is not None and done >= total
            if time.monotonic() - self._printed < LINE_SECONDS and not (whole and len(self._bytes) == 1):
                return
            self._printed = time.monotonic()
            gigabytes = sum(self._bytes.values()) / 1e9
            self._say(f"fetch: {len(self._bytes)} files, {gigabytes:.3f} GB")
