"""The survey page on real schedulers: what a client tells, what people, scripts and Prometheus see, and a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import browser, found
from stub_steps import TESTS, FakeReferences, exposure
from stub_tiled import ENVIRONMENT

from survey.cli.status_report import status_blocks, status_document
from survey.cli.tables import text_of
from survey.cluster.connect import connect
from survey.cluster.deploy import RESOURCE
from survey.config.model import SurveyConfig
from survey.dashboard.feed import feed, guesses
from survey.dashboard.journal import journal_path
from survey.digest import file_sha256
from survey.errors import ClusterError, InterruptedRunError
from survey.execution.task import Site
from survey.models import COMPLETE, FAILED
from survey.planning.planner import Planner, plan
from survey.planning.selection import steps_until
from survey.reduction import job as reduction
from survey.reduction.options import Callbacks, RunOptions
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.workspace.folders import Workspace
from survey.workspace.records import read_records

TOKEN = "token-of-nobody-0123"


class Line:
    """A workspace whose stub run meets two failed exposures, and runs of it with a page."""

    def __init__(self, root: Path, exposures: int):
        self.workspace = Workspace(root)
        self.workspace.create()
        self.config = SurveyConfig(
            survey="egs-demo", program=1345, workspace=root, steps=["detector1", "image2"],
            references={"context": "jwst_0001.pmap", "cache": root}, mosaic={"tile": 150, "max_missing": 1},
        )  # fmt: skip
        made = [exposure(number) for number in range(1, exposures + 1)]
        made += [exposure(number, "NRCBLONG", "F444W") for number in range(1, exposures + 1)]
        for item in made:
            (self.workspace.raw / item.file).write_text(item.name)
        self.exposures = [replace(item, sha256=file_sha256(self.workspace.raw / item.file)) for item in made]
        self.failed = (f"detector1/{made[1].name}", f"image2/{made[-1].name}")
        (root / "faults.json").write_text(json.dumps({key: ["never"] for key in self.failed}))
        self.references = FakeReferences()
        self.plan = plan(self.config, self.exposures, self.references)
        self.said: list[str] = []
        self.seconds = 0.0  # that each task takes

    def run(self, client, watch=lambda *_: None, save: Path | None = None):
        site = Site(str(self.workspace.root), self.config.survey, {**ENVIRONMENT, "STUB_SECONDS": str(self.seconds)})
        stored = read_records(self.workspace.records).by_key
        with feed(client, self.config, self.plan, steps_until(self.plan, None), self.said.append, save) as told:
            settings = RunSettings(stored, watch=told.watch(watch), laid_out=told.laid_out)
            records = run_plan(self.plan, Planner(self.config, self.references), site, client, settings)
        return {record.key: record for record in records}


def link(client, path):
    """Address of a page; a cluster within a process tells another host than it listens on."""
    return f"http://127.0.0.1:{urlsplit(client.dashboard_link).port}{path}"


def ask(client, path):
    with urllib.request.urlopen(link(client, path), timeout=30) as answer:
        return answer.read().decode()


def state(client):
    return json.loads(ask(client, "/survey/state.json"))


@contextmanager
def scheduler(folder: Path, *, knows_page: bool = True):
    """A scheduler of its own process, and its address; one of older software cannot import the page."""
    forget = "" if knows_page else "import sys; sys.modules['survey.dashboard'] = None; "
    code = f"{forget}from distributed.cli.dask_scheduler import main; main()"
    file = folder / "scheduler.json"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0",
         "--scheduler-file", str(file)],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def worker(address: str, folder: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--nworkers", "1",
         "--resources", f"{RESOURCE}=4", "--host", "127.0.0.1", "--no-dashboard", "--local-directory", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_guesses_stand_between_their_alignment_and_the_next(tmp_path):
    line = Line(tmp_path / "ws", 2)
    assert set(guesses(line.plan)) <= {item.product for item in line.plan.associations}
    assert guesses([]) == {}


@pytest.mark.slow
def test_a_run_is_told_to_the_scheduler(client, tmp_path, monkeypatch):
    monkeypatch.setenv("MAST_API_TOKEN", TOKEN)
    line = Line(tmp_path / "ws", 2)
    (line.workspace.root / "faults.json").write_text(json.dumps({line.failed[0]: ["never"]}))
    line.config = line.config.model_copy(update={"mosaic": line.config.mosaic.model_copy(update={"max_missing": 0})})
    records = line.run(client)
    found = state(client)
    counts = {word: sum(record.status == word for record in records.values()) for word in (COMPLETE, FAILED)}
    assert line.said == []
    assert (found["survey"], found["ended"], found["outcome"]) == (line.config.survey, True, "finished")
    assert (found["tasks"]["done"], found["tasks"]["failed"]) == (counts[COMPLETE], counts[FAILED])
    assert found["tasks"]["total"] == len(records) and found["not_laid_out"] == []
    assert found["exposures"]["done"] == 3 and found["exposures"]["lost"] == 1
    assert [item["key"] for item in found["failures"]] == [line.failed[0]]
    mosaics = {item["filter"]: item for item in found["mosaics"]}
    assert {tile[2] for tile in mosaics["F444W"]["tiles"]} == {"done"}
    assert (mosaics["F444W"]["done"], mosaics["F444W"]["total"]) == (8, 8)  # 500 x 300 pixels in tiles of 150
    # Again, all done: nothing fails anew but the one that did, and the rest is reused.
    line.run(client)
    again = state(client)
    assert again["run"] != found["run"] and len(again["runs"]) == 2
    assert again["tasks"]["reused"] == counts[COMPLETE]
    assert json.loads(ask(client, f"/survey/state.json?run={found['run']}"))["tasks"] == found["tasks"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(client, "/survey/state.json?run=nothing")
    metrics = ask(client, "/metrics")
    assert "dask_scheduler_tasks" in metrics
    labels = 'filter="F444W",state="reused",step="drizzle",survey="egs-demo"'
    assert re.search(rf"^survey_tasks{{{labels}}} 8\.0$", metrics, re.MULTILINE)
    assert 'href="survey"' in ask(client, "/status")


def job_with_a_report(line, client):
    """`survey run --until image2 --report` of a line, on a client that is there."""
    options = RunOptions(client=client, until="image2", report=True)
    return reduction._Job(line.config, options, Callbacks(say=line.said.append), "")


def run_with_a_report(line, client, decided):
    return reduction._on_cluster(job_with_a_report(line, client), line.plan, line.references, {}, decided)


@pytest.mark.slow
def test_a_run_with_a_report_keeps_it_in_the_workspace(client, tmp_path, monkeypatch):
    line = Line(tmp_path / "ws", 1)
    (line.workspace.root / "faults.json").unlink()
    monkeypatch.setattr(reduction.crds_references, "worker_environment", lambda _references: ENVIRONMENT)
    decided = []
    records = run_with_a_report(line, client, lambda record, _reused: decided.append(record))
    assert [record.status for record in records] == [COMPLETE] * 4 and len(decided) == 4
    saved = line.workspace.root / "reports" / "dashboard.html"
    assert line.said == [f"report: {saved}"] and "Dask performance" in saved.read_text()
    assert state(client)["tasks"]["total"] == 4 and state(client)["outcome"] == "finished"
    # Again: nothing runs, which is said, and the report of the run that did stays.
    before, line.said[:] = saved.read_bytes(), []
    again = reduction._run_tasks(job_with_a_report(line, client), line.plan, line.references)
    assert len(again.reused) == 4 and saved.read_bytes() == before
    assert line.said == [
        "dashboard.html is not written, since all tasks were done before. That of an earlier run is kept."
    ]


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["interrupt", "trouble"])
def test_a_run_that_is_stopped_keeps_its_report(client, tmp_path, monkeypatch, ends, request):
    line = Line(tmp_path / "ws", 2)
    line.seconds = 0.3
    slowly = {**ENVIRONMENT, "STUB_SECONDS": "0.3"}
    monkeypatch.setattr(reduction.crds_references, "worker_environment", lambda _references: slowly)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may have none
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def decided(record, _reused):
        if record.status == COMPLETE and ends == "interrupt":
            signal.raise_signal(signal.SIGINT)
        elif record.status == COMPLETE:
            raise ClusterError("three jobs in a row ended before a worker was there.")

    error, words = {"interrupt": (InterruptedRunError, "stopped"), "trouble": (ClusterError, "three jobs")}[ends]
    with pytest.raises(error, match=words):
        run_with_a_report(line, client, decided)
    saved = line.workspace.root / "reports" / "dashboard.html"
    assert line.said == [f"report: {saved}"] and "Dask performance" in saved.read_text()
    assert state(client)["outcome"] == "stopped" and ", stopped, began" in saved.read_text()


@pytest.mark.slow
def test_a_report_that_cannot_be_written_hides_no_error(client, tmp_path, monkeypatch):
    line = Line(tmp_path / "ws", 1)
    monkeypatch.setattr(reduction.crds_references, "worker_environment", lambda _references: ENVIRONMENT)
    (line.workspace.root / "reports").rmdir()
    (line.workspace.root / "reports").write_text("in the way")

    def decided(record, _reused):
        raise ClusterError(f"{record.key} was the last.")

    with pytest.raises(ClusterError, match="was the last"):
        run_with_a_report(line, client, decided)
    assert len(line.said) == 1 and line.said[0].startswith("dashboard.html is not written: ")


@pytest.mark.slow
def test_a_scheduler_without_the_page_is_said_once_and_the_run_goes_on(tmp_path):
    line = Line(tmp_path / "ws", 1)
    with scheduler(tmp_path, knows_page=False) as address, worker(address, tmp_path), connect(address) as client:
        records = line.run(client, save=tmp_path / "report.html")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            state(client)
    assert sum(record.status == COMPLETE for record in records.values()) > 2
    assert len(line.said) == 2
    assert "no survey page on this scheduler's dashboard" in line.said[0] and "survey" in line.said[0]
    assert "report.html is not written" in line.said[1] and not (tmp_path / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(found() is None, reason="no browser: install Debian's chromium (apt-get install chromium)")
def test_the_page_in_a_browser_while_a_run_goes_on(tmp_path, monkeypatch):
    """A scheduler at an address, its page open from before the run to its end, with two failed exposures."""
    monkeypatch.setenv("MAST_API_TOKEN", TOKEN)
    line = Line(tmp_path / "ws", 2)
    line.seconds = 0.3  # of a task: the page looks once a second
    kept = Path(os.environ.get("SURVEY_SCREENSHOTS", tmp_path))
    saved = tmp_path / "reports" / "dashboard.html"
    with (
        scheduler(tmp_path) as address, worker(address, tmp_path), connect(address) as client, browser() as page,
    ):  # fmt: skip
        middle = threading.Event()
        decided: list[str] = []

        def watch(record, _reused):
            decided.append(record.key)
            if record.step == "drizzle":
                middle.set()

        done = {}
        thread = threading.Thread(target=lambda: done.update(line.run(client, watch, saved)))
        with line.workspace.lock():
            thread.start()
            until(lambda: len(decided) > 4)
            page.visit(link(client, "/survey"))
            early = until(lambda: counts_of(page.text()))
            status = status_document(line.config, list(read_records(line.workspace.records).latest.values()))
            assert middle.wait(60)
            time.sleep(1.5)
            half = counts_of(page.text())
            (kept / "mid.png").write_bytes(page.screenshot())
            thread.join(100)
        time.sleep(2.5)
        late, text = counts_of(page.text()), page.text()
        (kept / "end.png").write_bytes(page.screenshot())
        page.visit(saved.as_uri())
        until(lambda: page.evaluate("document.querySelectorAll('iframe').length") == 2)
        asked = [url for url in page.requests if not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:"))]
    assert early and half and early[0] < half[0] < late[0] == len(done)
    assert set(line.failed) == {key for key, record in done.items() if record.status == FAILED}
    for key in (*line.failed, "ValueError: bad pixels", "egs-demo", "finished"):
        assert key in text
    assert page.complaints == []
    assert [url for url in asked if url not in (saved.as_uri(), "about:blank", "about:srcdoc")] == []
    assert line.said == [f"report: {saved}"]
    whole = saved.read_text()
    assert "Task Stream" in whole and "jw01345001001_02101" in whole
    assert [
        word for word in (TOKEN, str(tmp_path), str(TESTS.parent), sys.prefix, "site-packages") if word in whole
    ] == []
    # Seen from another terminal meanwhile: by records alone.
    assert f"process {os.getpid()}" in status["run"]["holder"]
    assert 0 < status["run"]["left"] < status["run"]["tasks"] and status["run"]["seconds_left"] > 0
    text = text_of(status_blocks(status, line.workspace.root))
    assert re.match(r"run by process \d+ on .*: \d+ of \d+ tasks, \d+ exposures an hour, .* left", text)
    assert not journal_path(line.workspace.root).exists()


def counts_of(text: str) -> tuple[int, int] | None:
    shown = re.search(r"(\d+) of (\d+) ?tasks", text)
    return (int(shown[1]), int(shown[2])) if shown else None


def until(what, seconds=60.0):
    """What a look is worth, once it is worth something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s")
