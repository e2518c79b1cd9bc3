"""The scheduler's side of the survey page: keeps the state of the last runs and serves it.

It adds routes to the dashboard: ``/survey`` (the page), ``/survey/state.json``, and gauges in ``/metrics``.
"""

from __future__ import annotations

import contextlib
import json
import time
import weakref
from collections.abc import Iterator
from typing import Any

from distributed import Scheduler, SchedulerPlugin
from distributed.http.utils import RequestHandler

from survey.dashboard.document import run_document
from survey.dashboard.state import RunState

MAX_RUNS = 8  # that a scheduler keeps


class SurveyPlugin(SchedulerPlugin):
    """Scheduler plugin: receives updates from clients, and serves the page, JSON and metrics."""

    name = "survey"
    idempotent = True  # a second run uses the plugin of the first

    def __init__(self) -> None:
        self.runs: dict[str, RunState] = {}
        self._scheduler: Scheduler | None = None

    def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        scheduler.handlers.update(
            survey_begin=self.on_begin,
            survey_lay_out=self.on_lay_out,
            survey_update=self.on_update,
            survey_end=self.on_end,
            survey_page=self.on_page,
        )
        _add_routes(scheduler, self)
        with contextlib.suppress(ImportError):
            from survey.dashboard.metrics import expose

            expose(self)

    async def on_begin(self, facts: dict[str, Any]) -> int:
        """Start the state of a run.

        Returns
        -------
        samples : number of samples that the scheduler's system monitor has so far, for dask's performance report
        """
        assert self._scheduler is not None
        state = RunState.begin(facts)
        self.runs[state.run] = state
        while len(self.runs) > MAX_RUNS:
            del self.runs[next(iter(self.runs))]
        self._scheduler.get_task_stream(
            start=0, stop=0
        )  # dask records tasks' times from the first call on, for its report
        return int(self._scheduler.monitor.count)

    async def on_lay_out(self, run: str, facts: dict[str, Any]) -> None:
        if run in self.runs:
            self.runs[run].lay_out(facts)

    async def on_update(self, run: str, updates: list[Any]) -> None:
        if run in self.runs:
            self.runs[run].update(updates)

    async def on_end(self, run: str, outcome: str) -> None:
        if run in self.runs:
            self.runs[run].end(time.time(), outcome)

    async def on_page(self, run: str) -> str:
        """The page as one HTML file."""
        from survey.dashboard.page import standalone

        return standalone(self.document(run))

    def document(self, run: str = "") -> dict[str, Any]:
        """State of a run, by default the latest; without the key 'run' when there is none."""
        state = self.runs.get(run) if run else next(reversed(self.runs.values()), None)
        runs = [{"run": item.run, "survey": item.survey, "began": item.began} for item in self.runs.values()]
        if state is None:
            return {"runs": runs}
        return {**run_document(state, time.time(), self._running()), "runs": runs}

    def _running(self) -> dict[tuple[str, str], list[str]]:
        """Subjects of the tasks that run, by step and filter, from the workers' last heartbeats."""
        found: dict[tuple[str, str], list[str]] = {}
        for worker in self._scheduler.workers.values() if self._scheduler is not None else ():
            for task in worker.executing:
                if not (isinstance(task.key, tuple) and len(task.key) == 2):
                    continue
                step, _, name = str(task.key[0]).partition("-")
                # Keys of `survey.scheduling`: '<subject>-<run>-<attempt>-<digest>'; a subject may contain dashes.
                found.setdefault((step, name), []).append(str(task.key[1]).rsplit("-", 3)[0])
        return found


class _State(RequestHandler):
    """The state as JSON: of the latest run, or of ``?run=...``."""

    def initialize(self, plugin: weakref.ref[SurveyPlugin]) -> None:
        self.plugin = plugin

    def get(self) -> None:
        plugin, run = self.plugin(), self.get_argument("run", "")
        document = {} if plugin is None else plugin.document(run)
        if run and "run" not in document:
            self.set_status(404)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.write(json.dumps(document))


def _add_routes(scheduler: Scheduler, plugin: SurveyPlugin) -> None:
    """Add the page to the scheduler's dashboard, if there is one, and to the navigation bar of dask's pages."""
    application = getattr(scheduler, "http_application", None)
    if application is None:
        return
    prefix = _prefix(application)
    state = (rf"{prefix}/survey/state\.json", _State, {"plugin": weakref.ref(plugin)})
    application.add_handlers(r".*$", [state])
    with contextlib.suppress(ImportError):  # without bokeh there are no pages
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables
        from tornado.ioloop import IOLoop

        from survey.dashboard.page import live

        variables = template_variables(scheduler)
        if "survey" not in variables["pages"]:
            variables["pages"].insert(0, "survey")
        pages = BokehApplication({"/survey": live(plugin.document)}, scheduler, prefix or "/", variables)
        application.add_application(pages)
        pages.initialize(IOLoop.current())
        pages.start()


def _prefix(application: Any) -> str:
    """Prefix of a dashboard's routes: '' or '/some/path'."""
    for path in _paths(application):
        if path.endswith("/health"):
            return path.removesuffix("/health").rstrip("/")
    return ""


def _paths(application: Any) -> Iterator[str]:
    for router in (application.wildcard_router, application.default_router):
        for rule in router.rules:
            pattern = getattr(getattr(rule.matcher, "regex", None), "pattern", "")
            yield pattern.rstrip("$")
