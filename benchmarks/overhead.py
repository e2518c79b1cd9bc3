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

from measure import ROOT, say

sys.path.insert(0, str(ROOT / "tests"))
from stub_steps import FakeReferences, exposure
from stub_tiled import ENVIRONMENT

from survey.cluster import connect
from survey.config import SurveyConfig
from survey.digest import file_sha256
from survey.execute import Site
from survey.graph import run_plan
from survey.models import COMPLETE
from survey.planning import Planner, plan
from survey.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, default=690)
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
            records = run_plan(planned, Planner(config, references), site, client, stored={}, watch=lambda *_: None)
            cpu, wall = time.process_time() - before, time.monotonic() - wall
    found = {
        "exposures": given.exposures,
        "tasks": len(records),
        "complete": sum(record.status == COMPLETE for record in records),
        "edges": sum(len(record.inputs) for record in records),
        "planning_s": planning,
        "wall_s": wall,
        "client_and_scheduler_cpu_s": cpu,
        "ms_per_task": 1000 * cpu / len(records),
        "steps": dict(Counter(record.step for record in records)),
    }
    print(json.dumps(found, indent=1) if given.json else "\n".join(f"{key:28s}{value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
