"""The demo on two one-core jobs of a real Slurm, beside a local cluster of two workers: ``python benchmarks/slurm.py``.

    python benchmarks/slurm.py [--repeat 1] [--json]

Slurm is Debian's, on loopback, as in ``tests/test_slurm.py``; needs root. The two runs take turns, each in a new
workspace, with one CRDS cache that is filled before; their mosaics are compared bit by bit. Wall time is the whole
command's: from its start to its end, the wait for the queue and the end of its jobs included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from equality import compare_files
from measure import DEMO, OBSERVATORY, ROOT, demo_command, make_demo, measure, say, served
from rerun import complete_records

sys.path.insert(0, str(ROOT / "tests"))
from _pytest.outcomes import Skipped
from slurm_service import Slurm, install

MEMORY_GB = 5.0
WORKERS = 2
ORDER = ("local", "slurm")


def deploy_files(folder: Path) -> dict[str, Path]:
    """A deploy file for each way; the sizes of the workers are the same."""
    group = {"memory_gb": MEMORY_GB, "maximum": WORKERS}
    sites = {
        "local": {"kind": "local", "groups": {"ordinary": group}},
        "slurm": {
            "kind": "slurm", "interface": "lo", "scratch": str(folder), "start_timeout": "00:02:00",
            "groups": {"ordinary": {**group, "walltime": "01:00:00"}}, "environment": {"PYTHONPATH": str(ROOT)},
        },
    }  # fmt: skip
    paths = {kind: folder / f"{kind}.yaml" for kind in sites}
    for kind, site in sites.items():
        paths[kind].write_text(yaml.safe_dump(site))
    return paths


@contextlib.contextmanager
def service(folder: Path) -> Iterator[Slurm]:
    try:
        install()
    except Skipped as reason:
        raise SystemExit(f"no Slurm here: {reason}") from reason
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def unequal(workspace: Path) -> int:
    """Elements of the mosaics that differ from the demo's."""
    names = [path.name for path in (DEMO / "mosaics").glob("*.fits")]
    tables = [compare_files(DEMO / "mosaics" / name, workspace / "mosaics" / name) for name in names]
    return sum(int(row["unequal"]) for table in tables for row in table.values())


def run(kind: str, site: Path, workspace: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    cost = measure([*demo_command(workspace), "--cluster", site], environment=environment)
    records = complete_records(workspace)
    jobs = {record.job for record in records.values()} - {""}
    seconds = sum(record.seconds for record in records.values())
    return {"kind": kind, "wall_s": cost.wall_s, "tasks": len(records), "jobs": len(jobs), "task_seconds": seconds,
            "unequal": unequal(workspace)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each way")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    make_demo()
    found = []
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, served(OBSERVATORY) as environment:
        folder = Path(name)
        sites = deploy_files(folder)
        (folder / "service").mkdir()
        with service(folder / "service"):
            for number in range(given.repeat):
                for kind in ORDER if number % 2 == 0 else reversed(ORDER):
                    say(f"the demo, {kind}")
                    found.append(run(kind, sites[kind], folder / f"{kind}{number}", environment))
                    if not given.json:
                        print("  ".join(f"{key} {value if key == 'kind' else round(value, 1)}"
                                        for key, value in found[-1].items()), flush=True)  # fmt: skip
    if given.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
