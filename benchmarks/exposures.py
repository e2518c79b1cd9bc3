"""Full-frame exposures through Detector1 and Image2, three ways side by side: ``python benchmarks/exposures.py``.

(a) a shell loop of ``strun``, two starts an exposure; (b) one Python process that calls the pipelines in a loop;
(c) ``survey run --until image2`` on two workers. All three read the same files, use the same CRDS cache, context and
settings (Image2's drizzled image of every single exposure is left out), and no server; the pixels are compared.
Aims: (c) 2.8 times faster than (a) and 1.8 times than (b).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from equality import compare_files
from measure import ROOT, SURVEY, Cost, measure, say, served, simulate

from survey.references import References, worker_environment

SCENE = ROOT / "configs" / "scenes" / "full.yaml"
OBSERVATORY = ROOT / "runs" / "observatory-full"
WAYS = ("strun", "loop", "survey")
MEANING = {"strun": "(a) shell loop of strun", "loop": "(b) one Python process", "survey": "(c) survey, two workers"}
CORES = 2

SHELL_LOOP = """
set -e
for file in raw/*_uncal.fits; do
    name=$(basename "$file" _uncal.fits)
    strun calwebb_detector1 "$file" --output_dir="$1"
    strun calwebb_image2 "$1/${name}_rate.fits" --output_dir="$1" --steps.resample.skip=true
done
"""

PYTHON_LOOP = """
import sys
from pathlib import Path
from jwst.pipeline import Detector1Pipeline, Image2Pipeline
output = sys.argv[1]
for file in sorted(Path("raw").glob("*_uncal.fits")):
    Detector1Pipeline.call(str(file), save_results=True, output_dir=output)
    rate = Path(output) / file.name.replace("_uncal", "_rate")
    Image2Pipeline.call(str(rate), steps={"resample": {"skip": True}}, save_results=True, output_dir=output)
"""


def prepare(folder: Path, observatory: Path, number: int) -> dict[str, str]:
    """Choose exposures, write the config, and fill the CRDS cache once for all three ways.

    Returns
    -------
    environment : variables of a way: this cache and context, no server, one thread for numerical libraries
    """
    chosen = json.loads((observatory / "exposures.json").read_text())[: number or None]
    (folder / "raw").mkdir()
    for row in chosen:
        file = f"{row['name']}_uncal.fits"
        shutil.copyfile(observatory / "raw" / file, folder / "raw" / file)
    config = {
        "survey": "benchmark",
        "program": chosen[0]["program"],
        "archive": {"local": str(folder / "raw")},
        "references": {"server": "${SURVEY_CRDS_URL}", "context": "jwst_0001.pmap", "cache": str(folder / "crds")},
        "steps": [{"detector1": {}}, {"image2": {}}],
        "workspace": str(folder / "fill"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with served(observatory) as servers:
        for command in ("fetch", "refs"):
            measure([*SURVEY, command, folder / "config.yaml"], environment=servers)
    config["references"] |= {"server": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads((folder / "fill" / "references.json").read_text())
    references = References.from_json(record["references"])
    return worker_environment(references) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "USER": "survey"}


def command_of(way: str, folder: Path, output: Path) -> list[str | Path]:
    if way == "strun":
        return ["bash", "-c", SHELL_LOOP, "loop", output]
    if way == "loop":
        return [sys.executable, "-c", PYTHON_LOOP, output]
    return [*SURVEY, "run", folder / "config.yaml", "--workspace", output, "--until", "image2"]


def run_way(way: str, folder: Path, environment: dict[str, str]) -> Cost:
    output = folder / way
    output.mkdir()
    say(f"{MEANING[way]} ...")
    cost = measure(command_of(way, folder, output), cwd=folder, environment=environment, log=folder / f"{way}.log")
    say(f"{MEANING[way]:26s}{cost}")
    return cost


def products(way: str, folder: Path) -> dict[str, Path]:
    """The rate and cal files that a way made, by name."""
    found = [path for kind in ("rate", "cal") for path in (folder / way).rglob(f"*_{kind}.fits")]
    return {path.name: path for path in found if path.parent.name in (way, "stage1", "stage2")}


def compare_ways(ways: list[str], folder: Path) -> dict[str, dict[str, int]]:
    """Products of each way against those of the first: how many, and how many differ in a pixel."""
    first = products(ways[0], folder)
    compared = {}
    for way in ways[1:]:
        made = products(way, folder)
        shared = sorted(first.keys() & made.keys())
        unequal = sum(any(row["unequal"] for row in compare_files(made[name], first[name]).values()) for name in shared)
        compared[way] = {"files": len(shared), "missing": len(first.keys() ^ made.keys()), "unequal": unequal}
    return compared


@contextlib.contextmanager
def two_cores() -> Iterator[None]:
    """Hold this process, and all that it starts, to two cores: survey starts a worker for each core that it sees."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:CORES]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observatory", type=Path, default=OBSERVATORY, help="made from --scene when missing")
    parser.add_argument("--scene", type=Path, default=SCENE)
    parser.add_argument("--exposures", type=int, default=8, help="how many; 0: all of the scene; default: 8")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    simulate(given.observatory.absolute(), given.scene.absolute())
    scratch = given.observatory.absolute().parent
    with tempfile.TemporaryDirectory(prefix=".exposures-", dir=scratch) as name, two_cores():
        folder = Path(name)
        environment = prepare(folder, given.observatory.absolute(), given.exposures)
        costs = {way: run_way(way, folder, environment) for way in given.ways}
        found = {
            "exposures": len(list((folder / "raw").glob("*_uncal.fits"))),
            "ways": {way: asdict(cost) for way, cost in costs.items()},
            "ratios": ratios(costs),
            "pixels": compare_ways(given.ways, folder),
        }
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        show(found, costs)


def ratios(costs: dict[str, Cost]) -> dict[str, float]:
    """Wall time of the other ways over that of survey."""
    if "survey" not in costs:
        return {}
    return {way: cost.wall_s / costs["survey"].wall_s for way, cost in costs.items() if way != "survey"}


def show(found: dict[str, Any], costs: dict[str, Cost]) -> None:
    print(f"{found['exposures']} exposures through Detector1 and Image2, {CORES} cores")
    for way, cost in costs.items():
        ratio = f"  {found['ratios'][way]:.2f} times as long as (c)" if way in found["ratios"] else ""
        print(f"  {MEANING[way]:26s}{cost}{ratio}")
    for way, row in found["pixels"].items():
        print(f"  {MEANING[way]:26s}{row['unequal']} of {row['files']} products differ in a pixel from the first way's")
        if row["missing"]:
            print(f"  {row['missing']} products are not in both")


if __name__ == "__main__":
    main()
