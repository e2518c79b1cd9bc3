"""The client's side of the survey page: sends finished tasks to the scheduler, twice a second."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dask.distributed import Client

from survey.config.model import SurveyConfig
from survey.credentials import scrub
from survey.dashboard.journal import Journal
from survey.dashboard.report import joined
from survey.dashboard.state import update_of
from survey.models import Plan, Task, TaskRecord
from survey.planning.selection import is_selected
from survey.steps.registry import row_of
from survey.workspace.files import write_file

FLUSH_SECONDS = 0.5
ANSWER_SECONDS = 30  # limit for an answer of the scheduler
REPORT_SECONDS = 300
Totals = dict[tuple[str, str], list[float]]  # step and filter -> number of tasks, planned CPU time [s]
Watch = Callable[[TaskRecord, bool], None]
Say = Callable[[str], None]


class Feed:
    """Sends the progress of a run to the page of a scheduler, and keeps the run's journal.

    An error between client and page does not end the run: it is reported once, and the run continues without a page.
    """

    def __init__(self, client: Client, root: Path, names: Sequence[str], say: Say):
        self._client = client
        self._root = root  # of the workspace
        self._say = say
        self._names = names  # of the steps that are run
        self._run = uuid.uuid4().hex[:8]
        self._journal: Journal | None = None
        self._guesses: dict[str, Totals] = {}
        self._tiles: dict[str, tuple[str, int, int]] = {}  # task key -> product, column and row of its tile
        self._lock = threading.Lock()
        self._updates: list[Any] = []
        self._due = False  # a flush is scheduled
        self._alive = False
        self._ended = False
        self._since = (time.time(), 0)  # for dask's report

    def begin(self, config: SurveyConfig, made: Plan) -> None:
        """Add the page to the scheduler's dashboard, and send it the plan."""
        tasks = [task for task in made if is_selected(task, self._names)]
        self._guesses = guesses(tasks)
        chain = [task.step for task in tasks if not task.mosaic]
        calibrated = [task.step for task in tasks if not task.mosaic and row_of(task).makes_members]
        facts = {
            "run": self._run,
            "survey": config.survey,
            "program": config.program if isinstance(config.program, int) else list(config.program),
            "context": made.context,
            "began": time.time(),
            "exposures": len({task.subject for task in tasks if not task.mosaic}),
            "last_step": (calibrated or chain or [""])[-1],
            "totals": [[*place, *total] for place, total in totals(tasks).items()],
            "products": [task.mosaic for task in tasks if row_of(task).lays_out],
        }
        self._journal = Journal(self._root, facts)
        try:
            from survey.dashboard.plugin import SurveyPlugin

            self._client.register_plugin(SurveyPlugin())
            samples = self._call("survey_begin", facts=facts)
        except Exception as error:  # noqa: BLE001 - any error of a foreign scheduler
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._say(f"no survey page on this scheduler's dashboard: {cause}")
            return
        self._since = (time.time(), samples)
        self._alive = True

    def watch(self, note: Watch) -> Watch:
        """A function that passes a record to ``note`` and sends it to the page."""

        def decided(record: TaskRecord, reused: bool) -> None:
            note(record, reused)
            if reused and self._journal is not None:
                self._journal.reuse(record)
            if not self._alive:
                return
            update = update_of(
                replace(record, error=self._hide(record.error)), reused, time.time(), self._tiles.get(record.key)
            )
            with self._lock:
                self._updates.append(list(update))
                due, self._due = self._due, True
            if not due:
                self._client.loop.add_callback(self._flush_soon)

        return decided

    def laid_out(self, product: str, tasks: Sequence[Task]) -> None:
        """Replace the predicted tasks of a mosaic by those that are planned after its alignment."""
        guess = self._guesses.pop(product, {})
        after = [task for task in tasks if row_of(task).needs_layout and is_selected(task, self._names)]
        found = totals(after)
        nothing = [0, 0.0]
        rows = [
            [
                *place,
                *(now - then for now, then in zip(found.get(place, nothing), guess.get(place, nothing), strict=True)),
            ]
            for place in dict.fromkeys((*guess, *found))
        ]
        tiles = [(task, task.tile) for task in after if task.tile is not None and row_of(task).makes_tiles]
        self._tiles |= {task.key: (product, tile.ix, tile.iy) for task, tile in tiles}
        first = tiles[0][0] if tiles else None
        facts = {
            "product": product,
            "filter": first.filter if first is not None else "",
            "step": first.step if first is not None else "",
            "totals": rows,
            "tiles": [[tile.ix, tile.iy, task.subject] for task, tile in tiles],
            "shape": [max((tile.box.x1 for _, tile in tiles), default=0),
                      max((tile.box.y1 for _, tile in tiles), default=0)],
            "side": first.settings["side"] if first is not None else 0,
        }  # fmt: skip
        if self._journal is not None:
            self._journal.lay_out(facts)
        if self._alive:
            self._client.loop.add_callback(self._send, "survey_lay_out", facts=facts)

    def end(self, outcome: str) -> None:
        """Send the remaining updates and the outcome of the run."""
        if self._journal is not None:
            self._journal.close()
        if not self._alive or self._ended:
            return
        self._ended = True
        with self._lock:
            updates, self._updates = self._updates, []
        try:
            self._call("survey_update", updates=updates)
            self._call("survey_end", outcome=outcome)
        except Exception:  # noqa: BLE001 - the run may have ended because the scheduler is gone
            self._alive = False

    def save(self, path: Path, seconds: float = REPORT_SECONDS) -> bool:
        """Write dask's performance report and the page as one HTML file, and report its path.

        Parameters
        ----------
        seconds : limit for each answer of the scheduler

        Returns
        -------
        written : False if there is no page or an error occurred, which is reported
        """
        if not self._alive:
            self._say(f"{path.name} is not written: this scheduler has no survey page, or is gone.")
            return False
        start, samples = self._since
        try:
            page = self._call("survey_page", seconds=seconds)
            # dask's own context manager would include the calling code, and load scripts from a CDN.
            report = self._client.sync(
                self._client.scheduler.performance_report, start=start, last_count=samples, code="", mode="inline",
                callback_timeout=seconds,
            )  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, joined(self._hide(page), self._hide(report)), durable=False)
        except Exception as error:  # noqa: BLE001 - the run is complete without a report
            self._say(f"{path.name} is not written: {error}")
            return False
        self._say(f"report: {path}")
        return True

    def _hide(self, text: str) -> str:
        """A text without the archive's token and the workspace's path."""
        return scrub(text.replace(str(self._root), "workspace")) if text else text

    def _call(self, operation: str, seconds: float = ANSWER_SECONDS, **what: Any) -> Any:
        if "facts" not in what:
            what["run"] = self._run
        return self._client.sync(getattr(self._client.scheduler, operation), callback_timeout=seconds, **what)

    async def _send(self, operation: str, **what: Any) -> None:
        try:
            await getattr(self._client.scheduler, operation)(run=self._run, **what)
        except Exception:  # noqa: BLE001 - the run itself reports a scheduler that is gone
            self._alive = False

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH_SECONDS)
        with self._lock:
            updates, self._updates, self._due = self._updates, [], False
        if updates and self._alive:
            await self._send("survey_update", updates=updates)


@contextlib.contextmanager
def feed(
    client: Client, config: SurveyConfig, made: Plan, names: Sequence[str], say: Say, report: Path | None = None
) -> Iterator[Feed]:
    """A feed that lasts as long as the run, and sends how it ended.

    Parameters
    ----------
    names : steps that are run
    report : file for the report, which is also written when the run is stopped
    """
    sender = Feed(client, config.folders.root, names, say)
    sender.begin(config, made)
    outcome = "stopped"
    try:
        yield sender
        outcome = "finished"
    finally:
        sender.end(outcome)
        if report is not None:  # after an interrupt, do not wait for long
            sender.save(report, REPORT_SECONDS if outcome == "finished" else ANSWER_SECONDS)


def totals(tasks: Iterable[Task]) -> Totals:
    """Number and planned CPU time of tasks, by step and filter."""
    found: Totals = {}
    for task in tasks:
        row = found.setdefault((task.step, task.filter), [0, 0.0])
        row[0] += 1
        row[1] += task.cpu_seconds
    return found


def guesses(tasks: Iterable[Task]) -> dict[str, Totals]:
    """Predicted tasks after each alignment, by product."""
    parts: dict[str, list[Task]] = {}
    for task in tasks:
        if row_of(task).needs_layout:
            parts.setdefault(task.mosaic, []).append(task)
    return {product: totals(part) for product, part in parts.items()}
