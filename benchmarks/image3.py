"""Image3 of full-frame exposures, tiled beside stock: ``python benchmarks/image3.py``.

N exposures in a strip, each half over the one before, from cal files to a mosaic: by ``engine: tiled`` on two workers
and by ``engine: stock``, the pipeline's own Image3 in one process. Both read the same cal files and references; the
mosaics are compared bit by bit. Aims at N = 8: a quarter of stock's wall time and half of its CPU time; for every N the
same peak memory; CPU time per exposure at N = 16 within 15% of that at N = 4.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from equality import compare_files
from exposures import OBSERVATORY, SCENE, two_cores
from measure import SURVEY, Cost, measure, say, served, simulate

ENGINES = ("tiled", "stock")


def config(folder: Path, observatory: Path, engine: str, number: int) -> Path:
    """The config of one run: the first ``number`` exposures of the strip."""
    facts: dict[str, Any] = {
        "survey": "benchmark",
        "program": 1345,
        "observations": list(range(1, number + 1)),
        "archive": {"local": str(observatory / "raw")},
        "references": {"server": "${SURVEY_CRDS_URL}", "context": "jwst_0001.pmap", "cache": str(folder / "crds")},
        "steps": [{"detector1": {}}, {"image2": {}}],
        # Without expand_refcat the far end of the strip would never be aligned to the first exposure.
        "mosaic": {"engine": engine, "image3": {"tweakreg": {"expand_refcat": True}}},
        "workspace": str(folder / f"{engine}-{number}"),
    }
    path = folder / f"{engine}-{number}.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


def run(folder: Path, observatory: Path, engine: str, number: int, servers: dict[str, str]) -> Cost:
    """From the calibrated exposures, which are linked, to the mosaic."""
    made = folder / f"{engine}-{number}"
    shutil.copytree(folder / "cal", made, copy_function=os.link, ignore=shutil.ignore_patterns(".lock*"))
    path = config(folder, observatory, engine, number)
    say(f"{engine}, {number} exposures ...")
    cost = measure([*SURVEY, "run", path], environment=servers, log=folder / f"{engine}-{number}.log")
    say(f"{engine:6s}{number:3d}{cost}")
    return cost


def by_step(workspace: Path) -> dict[str, dict[str, float]]:
    """Tasks, CPU and wall seconds, peak and predicted memory of each step of Image3, from the records."""
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path in (workspace / "records").glob("*.json"):
        record = json.loads(path.read_text())
        if record["step"] in ("detector1", "image2"):
            continue
        row = rows[record["step"]]
        row["tasks"] += 1
        row["cpu_s"] += record["cpu_seconds"]
        row["wall_s"] += record["seconds"]
        row["peak_gb"] = max(row["peak_gb"], record["peak_memory_gb"])
        row["predicted_gb"] = max(row["predicted_gb"], record["memory_gb"])
    return {step: dict(row) for step, row in rows.items()}


def unequal(folder: Path, number: int) -> dict[str, int]:
    """Elements of the mosaic, and of the flagged exposures, whose bits differ between the engines."""
    found: dict[str, int] = defaultdict(int)
    for place in ("mosaics", "stage3"):
        for path in sorted((folder / f"stock-{number}" / place).glob("*.fits")):
            rows = compare_files(folder / f"tiled-{number}" / place / path.name, path)
            for name, row in rows.items():
                found[f"{path.stem.rpartition('_')[2]} {name}"] += row["unequal"]
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observatory", type=Path, default=OBSERVATORY, help="made from --scene when missing")
    parser.add_argument("--scene", type=Path, default=SCENE)
    parser.add_argument("--exposures", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--keep", type=Path, help="a folder for the workspaces, which stay")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    observatory = given.observatory.absolute()
    simulate(observatory, given.scene.absolute())
    with tempfile.TemporaryDirectory(prefix=".image3-", dir=observatory.parent) as name, two_cores():
        folder = given.keep.absolute() if given.keep else Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {"runs": {}, "steps": {}, "unequal": {}}
        with served(observatory) as servers:
            if not (folder / "cal").is_dir():
                say("Detector1 and Image2 ...")
                path = config(folder, observatory, "tiled", max(given.exposures))
                measure([*SURVEY, "run", path, "--until", "image2", "--workspace", folder / "cal"], environment=servers)
            for number in given.exposures:
                costs = {engine: run(folder, observatory, engine, number, servers) for engine in given.engines}
                found["runs"][number] = {engine: asdict(cost) for engine, cost in costs.items()}
                if "tiled" in costs:
                    found["steps"][number] = by_step(folder / f"tiled-{number}")
                if len(costs) == len(ENGINES):
                    found["unequal"][number] = unequal(folder, number)
    print(json.dumps(found, indent=1) if given.json else text(found))


def text(found: dict[str, Any]) -> str:
    lines = []
    for number, costs in found["runs"].items():
        lines += [f"{number:3d} exposures  {engine:6s}{Cost(**cost)}" for engine, cost in costs.items()]
        if len(costs) == len(ENGINES):
            ratio = {key: costs["stock"][key] / costs["tiled"][key] for key in ("wall_s", "cpu_s", "peak_gb")}
            lines.append(
                f"{'':15s}stock over tiled: " + ", ".join(f"{key} {value:.2f}" for key, value in ratio.items())
            )
            lines.append(f"{'':15s}unequal: {found['unequal'][number]}")
    for number, steps in found["steps"].items():
        whole = sum(row["cpu_s"] for row in steps.values())
        lines.append(f"where the time goes at {number}: {whole:.1f} s CPU in tasks, {whole / number:.2f} an exposure")
        for step, row in sorted(steps.items(), key=lambda item: -item[1]["cpu_s"]):
            lines.append(
                f"  {step:16s}{row['tasks']:4.0f} tasks{row['cpu_s']:8.1f} s CPU {row['cpu_s'] / whole:6.1%}"
                f"{row['peak_gb']:8.2f} GB peak {row['predicted_gb']:6.2f} predicted"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
