"""What scheduling costs: ``python benchmarks/overhead.py [--exposures 690]``.

A survey's whole graph, tiled mosaics included, with steps that write a few bytes, on a local cluster of two workers.
Client and scheduler share a process; its CPU time per task is the overhead. Aim: under 5 ms.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import ROOT, say

sys.path.insert(0, str(ROOT / "tests"))
from stub_steps import FakeReferences, exposure
from stub_tiled import ENVIRONMENT

from survey.cluster.connect import connect
from survey.config.model import SurveyConfig
from survey.dashboard.feed import feed
from survey.dashboard.page import Page
from survey.digest import file_sha256
from survey.execution.task import Site, blank_record
from survey.models import COMPLETE, Plan, TaskRecord
from survey.planning.planner import Planner, plan
from survey.planning.selection import steps_until
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.workspace.folders import Workspace


def _run(planned: Plan, planner: Planner, site: Site, client: Any, *, page: bool) -> list[TaskRecord]:
    if not page:
        return run_plan(planned, planner, site, client, RunSettings())
    with feed(client, planner.config, planned, steps_until(planned, None), say) as told:
        watch = told.watch(lambda *_: None)
        return run_plan(planned, planner, site, client, RunSettings(watch=watch, laid_out=told.laid_out))


def _page_alone(planned: Plan, planner: Planner, client: Any, count: int) -> dict[str, float]:
    """What the page costs client and scheduler, no task being run: per record told, and per look at it."""
    tasks = list(planned)
    records = [replace(blank_record(tasks[number % len(tasks)]), status=COMPLETE, seconds=1.0, peak_memory_gb=1.0)
               for number in range(count)]  # fmt: skip
    with feed(client, planner.config, planned, steps_until(planned, None), say) as told:
        watch = told.watch(lambda *_: None)
        before = time.process_time()
        for record in records:
            watch(record, False)
        told.end("finished")
        spent = time.process_time() - before
        plugin = client.cluster.scheduler.plugins["survey"]
        page, began = Page(), time.process_time()
        for _ in range(10):
            page.show(plugin.document())
        return {"page_ms_per_task": 1000 * spent / count, "page_ms_per_look": 100 * (time.process_time() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, default=690)
    parser.add_argument(
        "--no-page", action="store_true", help="without the survey page: what it costs is the difference"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(Path(name) / "ws")
        workspace.create()
        config = SurveyConfig(
            survey="overhead", program=1345, workspace=workspace.root, steps=["detector1", "image2"],
            references={"context": "jwst_0001.pmap", "cache": name}, mosaic={"tile": 256},
        )  # fmt: skip
        made = [exposure(number) for number in range(1, given.exposures + 1)]
        for item in made:
            (workspace.raw / item.file).write_text(item.name)
        exposures = [replace(item, sha256=file_sha256(workspace.raw / item.file)) for item in made]
        began = time.process_time()
        references = FakeReferences()
        planned = plan(config, exposures, references)
        planning = time.process_time() - began
        site = Site(str(workspace.root), "overhead", ENVIRONMENT)
        with connect("local", 1.0, 1.0) as client:
            say(f"running {given.exposures} exposures")
            before, wall = time.process_time(), time.monotonic()
            records = _run(planned, Planner(config, references), site, client, page=not given.no_page)
            cpu, wall = time.process_time() - before, time.monotonic() - wall
            alone = _page_alone(planned, Planner(config, references), client, 20_000)
    found = {
        "exposures": given.exposures,
        "tasks": len(records),
        "complete": sum(record.status == COMPLETE for record in records),
        "edges": sum(len(record.inputs) for record in records),
        "planning_s": planning,
        "wall_s": wall,
        "client_and_scheduler_cpu_s": cpu,
        "ms_per_task": 1000 * cpu / len(records),
        **alone,
        "steps": dict(Counter(record.step for record in records)),
    }
    print(json.dumps(found, indent=1) if given.json else "\n".join(f"{key:28s}{value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
