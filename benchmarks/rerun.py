"""Reruns: ``python benchmarks/rerun.py [WORKSPACE OBSERVATORY] [--no-kill] [--json]``.

A rerun of a finished demo, which should run no task; and a run whose client is killed with SIGKILL half-way: which
tasks its rerun runs, and whether the pixels are those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equality import compare_files
from measure import DEMO, OBSERVATORY, ROOT, demo_command, make_demo, measure, say, served, survey_environment

from survey.models import COMPLETE, TaskRecord
from survey.workspace.records import read_records

LIMIT_SECONDS = 1800


def complete_records(workspace: Path) -> dict[str, TaskRecord]:
    found = read_records(workspace / "records").by_key
    return {key: record for key, record in found.items() if record.status == COMPLETE}


def time_rerun(workspace: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the finished demo again: what it cost, and how many tasks it ran."""
    before = complete_records(workspace)
    cost = measure(demo_command(workspace), environment=environment)
    return {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "tasks": len(before), "tasks_run": len(ran(before, workspace))}


def ran(before: Mapping[str, TaskRecord], workspace: Path) -> list[str]:
    """Keys of the tasks whose record is new: each running of a task writes one, with its start and its times."""
    return [key for key, record in complete_records(workspace).items() if before.get(key) != record]


def kill_in_mid_run(workspace: Path, environment: Mapping[str, str], tasks: int, share: float) -> dict[str, Any]:
    """Start a run in a new workspace, kill its client when a share of its tasks is done, and run again."""
    log = workspace.with_suffix(".log")
    with open(log, "ab") as stream:
        client = subprocess.Popen(
            demo_command(workspace), cwd=ROOT, env=survey_environment(environment), stdout=stream, stderr=stream
        )
        wait_for_records(client, workspace, max(1, round(share * tasks)))
        client.send_signal(signal.SIGKILL)
        client.wait()
    killed = time.monotonic()
    while orphans(workspace):  # what the killed client left: they notice, and end
        if time.monotonic() - killed > 60:
            break
        time.sleep(0.1)
    left_s = time.monotonic() - killed
    before = complete_records(workspace)
    cost = measure(demo_command(workspace), environment=environment)
    again = ran(before, workspace)
    return {
        "tasks": tasks,
        "done_when_killed": len(before),
        "orphans_gone_after_s": left_s,
        "rerun_wall_s": cost.wall_s,
        "tasks_run": len(again),
        "finished_tasks_run_again": len(set(again) & set(before)),
        "done_after": len(complete_records(workspace)),
    }


def wait_for_records(client: subprocess.Popen, workspace: Path, number: int) -> None:
    started = time.monotonic()
    while sum(1 for _ in workspace.glob("records/*.json")) < number:
        if client.poll() is not None:
            raise RuntimeError(f"the run ended with {client.returncode} before it could be killed; see its log.")
        if time.monotonic() - started > LIMIT_SECONDS:
            client.kill()
            raise RuntimeError(f"fewer than {number} tasks were done in {LIMIT_SECONDS} s.")
        time.sleep(0.02)


def orphans(workspace: Path) -> list[int]:
    """Processes that hold the workspace's folders or logs open, by Linux' /proc."""
    found = []
    pattern = re.compile(re.escape(str(workspace.resolve())) + "/")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(pattern.match(os.readlink(entry)) for entry in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:
            continue
    return found


def compare_workspaces(ours: Path, other: Path, products: Iterable[str]) -> dict[str, int]:
    """FITS products of two runs: how many there are, and how many differ in a pixel."""
    fits = [path for path in products if path.endswith(".fits")]
    differ = 0
    for path in fits:
        rows = compare_files(ours / path, other / path).values() if (other / path).is_file() else [{"unequal": 1}]
        differ += any(row["unequal"] for row in rows)
    return {"files": len(fits), "with_unequal_pixels": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, nargs="?", default=DEMO, help="a finished demo run")
    parser.add_argument("observatory", type=Path, nargs="?", default=OBSERVATORY)
    parser.add_argument("--share", type=float, default=0.5, help="of the tasks done when the client is killed")
    parser.add_argument("--no-kill", action="store_true", help="leave out the killed run")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    make_demo(given.workspace, given.observatory)
    workspace = given.workspace.resolve()
    found: dict[str, Any] = {}
    with served(given.observatory.resolve()) as environment:
        measure(demo_command(workspace), environment=environment)  # so that it is finished with this version
        found["finished"] = time_rerun(workspace, environment)
        if not given.no_kill:
            say("a run that is killed")
            with tempfile.TemporaryDirectory(prefix=".rerun-", dir=workspace.parent) as folder:
                other = Path(folder) / "killed"
                tasks = found["finished"]["tasks"]
                found["killed"] = kill_in_mid_run(other, environment, tasks, given.share)
                products = [item.path for record in complete_records(workspace).values() for item in record.products]
                found["killed"]["products"] = compare_workspaces(workspace, other, products)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    row = found["finished"]
    print(f"rerun of a finished demo: {row['wall_s']:.2f} s, {row['tasks_run']} of {row['tasks']} tasks run")
    if "killed" in found:
        row = found["killed"]
        print(f"client killed with {row['done_when_killed']} of {row['tasks']} tasks done;")
        print(f"  its processes were gone after {row['orphans_gone_after_s']:.1f} s")
        print(f"  the rerun took {row['rerun_wall_s']:.1f} s and ran {row['tasks_run']} tasks,")
        print(f"  {row['finished_tasks_run_again']} of them done before; {row['done_after']} are done now")
        products = row["products"]
        print(f"  {products['with_unequal_pixels']} of {products['files']} products differ in a pixel")


if __name__ == "__main__":
    main()
