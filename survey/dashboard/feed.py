"""The client's side of the survey page: tells the scheduler what was decided, twice a second and in few words."""

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
from survey.steps.registry import REGISTRY
from survey.workspace.files import write_file

FLUSH_SECONDS = 0.5
ANSWER_SECONDS = 30  # a page that takes longer is not waited for
REPORT_SECONDS = 300
Totals = dict[tuple[str, str], list[float]]  # step and filter -> number of tasks, their CPU time [s]
Watch = Callable[[TaskRecord, bool], None]
Say = Callable[[str], None]


class Feed:
    """What a run tells the page of a scheduler. Silent where there is none.

    Nothing here ends a run: whatever goes wrong between client and page is said once, and the run goes on without.
    """

    def __init__(self, client: Client, root: Path, names: Sequence[str], say: Say):
        self._client = client
        self._root = root  # of the workspace
        self._say = say
        self._names = names  # steps that are run
        self._run = uuid.uuid4().hex[:8]
        self._journal: Journal | None = None
        self._guesses: dict[str, Totals] = {}
        self._tiles: dict[str, tuple[str, int, int]] = {}  # task key -> product, column and row of its tile
        self._lock = threading.Lock()
        self._updates: list[Any] = []
        self._due = False  # a flush is on its way
        self._alive = False
        self._ended = False
        self._since = (time.time(), 0)  # for dask's report

    def begin(self, config: SurveyConfig, made: Plan) -> None:
        """Put the page up, if it is not there yet, and tell it of a plan."""
        tasks = [task for task in made if task.step in self._names]
        self._guesses = guesses(tasks)
        chain = [task.step for task in tasks if not task.mosaic]
        calibrated = [step for step in chain if REGISTRY[step].makes_members]
        facts = {
            "run": self._run,
            "survey": config.survey,
            "program": config.program,
            "context": made.context,
            "began": time.time(),
            "exposures": len({task.subject for task in tasks if not task.mosaic}),
            "last_step": (calibrated or chain or [""])[-1],
            "totals": [[*place, *total] for place, total in totals(tasks).items()],
            "products": [task.mosaic for task in tasks if REGISTRY[task.step].lays_out],
        }
        self._journal = Journal(self._root, facts)
        try:
            from survey.dashboard.plugin import SurveyPlugin

            self._client.register_plugin(SurveyPlugin())
            samples = self._ask("survey_begin", facts=facts)
        except Exception as error:  # noqa: BLE001 - raised by whatever the scheduler is
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            self._say(f"no survey page on this scheduler's dashboard: {cause}")
            return
        self._since = (time.time(), samples)
        self._alive = True

    def watch(self, note: Watch) -> Watch:
        """A watch that tells the page as well."""

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
        """Tell of the tasks that a mosaic has behind its alignment, in place of those that were guessed."""
        guess = self._guesses.pop(product, {})
        after = [task for task in tasks if REGISTRY[task.step].needs_layout and task.step in self._names]
        found = totals(after)
        nothing = [0, 0.0]
        rows = [
            [
                *place,
                *(now - then for now, then in zip(found.get(place, nothing), guess.get(place, nothing), strict=True)),
            ]
            for place in dict.fromkeys((*guess, *found))
        ]
        tiles = [(task, task.tile) for task in after if task.tile is not None and REGISTRY[task.step].makes_tiles]
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
            self._client.loop.add_callback(self._tell, "survey_lay_out", facts=facts)

    def end(self, outcome: str) -> None:
        """Tell what is left to tell, and how the run ended."""
        if self._journal is not None:
            self._journal.close()
        if not self._alive or self._ended:
            return
        self._ended = True
        with self._lock:
            updates, self._updates = self._updates, []
        try:
            self._ask("survey_update", updates=updates)
            self._ask("survey_end", outcome=outcome)
        except Exception:  # noqa: BLE001 - the scheduler may be what ended the run
            self._alive = False

    def save(self, path: Path, seconds: float = REPORT_SECONDS) -> bool:
        """Write dask's performance report and the page as one HTML file, and say where.

        Parameters
        ----------
        seconds : for which the scheduler is waited for

        Returns
        -------
        written : False where there is no page
        """
        if not self._alive:
            self._say(f"{path.name} is not written: this scheduler has no survey page, or is gone.")
            return False
        start, samples = self._since
        try:
            page = self._ask("survey_page", seconds=seconds)
            # dask's own context manager would add the code that called it; and its scripts would come from a CDN.
            report = self._client.sync(
                self._client.scheduler.performance_report, start=start, last_count=samples, code="", mode="inline",
                callback_timeout=seconds,
            )  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, joined(self._hide(page), self._hide(report)), durable=False)
        except Exception as error:  # noqa: BLE001 - the products are there whatever becomes of a report
            self._say(f"{path.name} is not written: {error}")
            return False
        self._say(f"report: {path}")
        return True

    def _hide(self, text: str) -> str:
        """A text without the archive's token and the workspace's place."""
        return scrub(text.replace(str(self._root), "workspace")) if text else text

    def _ask(self, operation: str, seconds: float = ANSWER_SECONDS, **what: Any) -> Any:
        if "facts" not in what:
            what["run"] = self._run
        return self._client.sync(getattr(self._client.scheduler, operation), callback_timeout=seconds, **what)

    async def _tell(self, operation: str, **what: Any) -> None:
        try:
            await getattr(self._client.scheduler, operation)(run=self._run, **what)
        except Exception:  # noqa: BLE001 - the run itself will meet a scheduler that is gone
            self._alive = False

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH_SECONDS)
        with self._lock:
            updates, self._updates, self._due = self._updates, [], False
        if updates and self._alive:
            await self._tell("survey_update", updates=updates)


@contextlib.contextmanager
def feed(
    client: Client, config: SurveyConfig, made: Plan, names: Sequence[str], say: Say, report: Path | None = None
) -> Iterator[Feed]:
    """A feed of one run; how the run ends is told.

    Parameters
    ----------
    names : steps that are run
    report : file for the report, which is kept however the run ends
    """
    told = Feed(client, config.folders.root, names, say)
    told.begin(config, made)
    outcome = "stopped"
    try:
        yield told
        outcome = "finished"
    finally:
        told.end(outcome)
        if report is not None:  # whoever stopped a run is not kept waiting for long
            told.save(report, REPORT_SECONDS if outcome == "finished" else ANSWER_SECONDS)


def totals(tasks: Iterable[Task]) -> Totals:
    """Number of tasks and their CPU time, by step and filter."""
    found: Totals = {}
    for task in tasks:
        row = found.setdefault((task.step, task.filter), [0, 0.0])
        row[0] += 1
        row[1] += task.cpu_seconds
    return found


def guesses(tasks: Iterable[Task]) -> dict[str, Totals]:
    """What a plan holds after each alignment, by product."""
    parts: dict[str, list[Task]] = {}
    for task in tasks:
        if REGISTRY[task.step].needs_layout:
            parts.setdefault(task.mosaic, []).append(task)
    return {product: totals(part) for product, part in parts.items()}
