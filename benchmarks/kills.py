"""Kills: ``python benchmarks/kills.py [--kills 100] [--seed 1] [--real CONFIG] [--json]``.

Runs with stub steps on a real local cluster, of which processes are killed with SIGKILL at random moments, until each
ends by itself; and publications that are killed before each of their system calls. ``--real`` does the first with the
pipeline itself: a config whose workspace holds a finished run, which a killed one must equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from equality import compare_files  # noqa: E402
from killing import KINDS, false_records, family, harm, wait_for_end  # noqa: E402
from measure import SURVEY, say  # noqa: E402
from rerun import complete_records  # noqa: E402
from test_execution_publication import CASES, kill_everywhere  # noqa: E402

from survey.workspace.folders import Workspace  # noqa: E402


def publications(folder: Path) -> dict[str, int]:
    """System calls before which each kind of publication was killed; AssertionError where one was not made good."""
    return {case: kill_everywhere(folder / str(number), case) for number, case in enumerate(CASES)}


def real(config: Path, workspace: Path, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill processes of runs with the pipeline, each until it ends by itself, and compare with a finished run.

    Parameters
    ----------
    config, workspace : of the finished run; its servers must answer
    """
    chance, done = random.Random(seed), complete_records(workspace)
    products = [item.path for record in done.values() for item in record.products if item.path.endswith(".fits")]
    killed: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    again: list[str] = []
    faults: list[str] = []
    unequal: list[str] = []
    runs = equal = 0
    while killed.total() < kills:
        other = folder / f"killed{runs}"
        before, code = killed.total(), 1
        while code:
            held = complete_records(other) if other.exists() else {}
            client = subprocess.Popen(
                [*SURVEY, "run", str(config), "--workspace", str(other), "--json"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while killed.total() < kills and client.poll() is None:
                _wait(client, chance.uniform(3.0, 25.0))
                under_way = {path.name.split(".")[1] for path in Workspace(other).leftovers()}
                kind = chance.choice(KINDS)
                victims = family(client)[kind]
                if client.poll() is None and victims:
                    with contextlib.suppress(psutil.Error):
                        chance.choice(victims).kill()
                        killed[kind] += 1
                        steps.update(under_way)
                    held |= complete_records(other)
                    say(f"killed a {kind} with {len(held)} of {len(done)} tasks done")
            code, runs = client.wait(3600), runs + 1
            wait_for_end(other)
            faults += false_records(other)
            after = complete_records(other)
            again += [key for key, record in held.items() if after.get(key) != record]
        odd = [
            path for path in products
            if any(row["unequal"] for row in compare_files(workspace / path, other / path).values())
        ]  # fmt: skip
        unequal += odd
        equal += 0 if odd else killed.total() - before
        shutil.rmtree(other)
    return {
        "kills": killed.total(), "processes": dict(killed), "steps": dict(sorted(steps.items())), "reruns": runs,
        "equal": equal, "unequal": unequal, "run_twice": again, "faults": faults, "fits": len(products),
    }  # fmt: skip


def _wait(client: subprocess.Popen, seconds: float) -> None:
    end = time.monotonic() + seconds
    while client.poll() is None and time.monotonic() < end:
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=Path, metavar="CONFIG", help="a config whose workspace holds a finished run")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    found: dict[str, Any] = {"cores": psutil.cpu_count(), "seed": given.seed}
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        if given.real is not None:
            from survey.config.model import read_config

            workspace = Path(read_config(given.real).workspace).absolute()
            found["real"] = real(given.real, workspace, given.kills, given.seed, Path(folder))
        else:
            found["publications"] = publications(Path(folder))
            found["stub_runs"] = harm(Path(folder), given.kills, given.seed, say=say).to_json()
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    if "publications" in found:
        points = found["publications"]
        total = sum(points.values())
        print(f"{total} kills in {len(points)} kinds of publication, one before each system call: all made good")
    row = found.get("stub_runs") or found["real"]
    made_of = "with stub steps" if "stub_runs" in found else "of the pipeline"
    print(f"{row['kills']} kills in runs {made_of}: {row['processes']}")
    print(f"  tasks under way meanwhile, by step: {row['steps']}")
    print(f"  {row['equal']} of {row['kills']} ended with what an undisturbed run makes")
    print(f"  records without their products, right after a kill: {len(row['faults'])}")
    print(f"  tasks run again after they were committed: {len(row['run_twice'])}")
    for name in row["unequal"]:
        print(f"  differs: {name}")


if __name__ == "__main__":
    main()
