"""How far one scheduler carries: ``python benchmarks/scaling.py [--workers 1 2 4 8 16] [--whole 13000]``.

Chains of three tasks per exposure, each of which sleeps for a fixed time in its worker: no child process, no pipeline
and no file, so that workers cost next to nothing and many fit on a small machine. What is left is what survey and
dask do for each task. Efficiency is the time that the sleeps alone would take, over the time that it took.

Scheduler and client share this process, as in `survey run`. With ``--whole 13000`` the graph of so many exposures is
run once more on the largest number of workers.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dask
import psutil
from dask.distributed import Client, LocalCluster
from measure import ROOT, say

sys.path.insert(0, str(ROOT / "tests"))
from stub_steps import FakeReferences, asleep, exposure

import survey.scheduling.task_queue
from survey.cluster.deploy import RESOURCE
from survey.config.model import SurveyConfig
from survey.execution.task import Site
from survey.models import COMPLETE
from survey.planning.planner import Planner, plan
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.workspace.folders import Workspace

STEPS = ["detector1", "subtract_striping", "image2"]
TASK_GB = 1.0


def planned(exposures: int, folder: Path):
    """A plan's exposures alone, without their mosaics."""
    config = SurveyConfig(
        survey="scaling", program=1345, workspace=folder, steps=STEPS,
        references={"context": "jwst_0001.pmap", "cache": folder},
    )  # fmt: skip
    Workspace(folder).create()
    references = FakeReferences()
    made = [exposure(number) for number in range(1, exposures + 1)]
    tasks = plan(config, made, references)
    tasks = replace(tasks, tasks=tuple(replace(task, memory_gb=TASK_GB) for task in tasks.tasks))
    return tasks, Planner(config, references)


def measure(exposures: int, workers: int, seconds: float) -> dict[str, float]:
    """Run a graph; client and scheduler are this process, workers are others."""
    survey.scheduling.task_queue.run_task = functools.partial(asleep, seconds)
    own = psutil.Process()
    with tempfile.TemporaryDirectory() as name:
        tasks, planner = planned(exposures, Path(name))
        settings = {"distributed.scheduler.work-stealing": True, "distributed.comm.timeouts.tcp": "300s"}
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
                resources={RESOURCE: TASK_GB}, memory_limit=0,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):  # fmt: skip
            client.wait_for_workers(workers, timeout=300)
            client.run(os.getpid)
            memory, cpu, began = own.memory_info().rss, time.process_time(), time.monotonic()
            started: list[float] = []

            def watch(_record, _reused) -> None:
                started.append(time.monotonic())

            site = Site(name, "scaling")
            records = run_plan(tasks, planner, site, client, RunSettings(watch=watch, until=STEPS[-1]))
            wall, used = time.monotonic() - began, time.process_time() - cpu
            grown = own.memory_info().rss - memory
    assert {record.status for record in records} == {COMPLETE}
    ideal = len(records) * seconds / workers
    return {
        "exposures": exposures, "workers": workers, "sleep_s": seconds, "tasks": len(records), "wall_s": wall,
        "first_result_s": started[0] - began, "efficiency": ideal / wall, "cpu_ms_per_task": 1000 * used / len(records),
        "tasks_per_s": len(records) / wall, "cpu_share": used / wall, "scheduler_mb": grown / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--sleep", type=float, default=0.2, help="of each task [s]; a real one takes 2 to 40")
    parser.add_argument("--whole", type=int, default=0, help="exposures of one more run on the most workers")
    parser.add_argument("--whole-sleep", type=float, default=0.05)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    cases = [(given.exposures, workers, given.sleep) for workers in given.workers]
    if given.whole:
        cases.append((given.whole, max(given.workers), given.whole_sleep))
    found = []
    for case in cases:
        say("{} exposures on {} workers, {} s a task".format(*case))
        found.append(measure(*case))
        if not given.json:
            print("  ".join(f"{key} {value:.4g}" for key, value in found[-1].items()))
            sys.stdout.flush()
    if given.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
