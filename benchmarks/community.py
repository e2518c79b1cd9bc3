"""Steps of snowblind on one full-frame exposure, by survey and by hand: ``python benchmarks/community.py``.

Each of its steps that works on one exposure runs as a hook, as a step or in its pipeline, in a run of survey up to that
step, and once more by the class's own ``call`` in Python. The pixels of both are compared bit by bit. Times and memory
are those of the task, by the operating system's accounting; the plain Detector1 stands first, for the difference.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from equality import compare_files
from exposures import prepare
from measure import ROOT, SURVEY, measure, say, simulate

SCENE = ROOT / "configs" / "scenes" / "full.yaml"
OBSERVATORY = ROOT / "runs" / "observatory-community"


@dataclass(frozen=True)
class Case:
    """A way to use one of the steps."""

    title: str
    detector1: Mapping[str, Any]  # settings in the config
    by_hand: str  # arguments of the pipeline's call in Python
    pipeline: str = "jwst.pipeline.Detector1Pipeline"
    step: str = ""  # runs on the rate file
    suffix: str = "rate"


def _hook(name: str) -> Case:
    return Case(
        f"{name}, hook after jump",
        {"jump": {"post_hooks": [f"snowblind.{name}"]}},
        f"steps={{'jump': {{'post_hooks': [snowblind.{name}]}}}}",
    )


CASES = {
    "plain": Case("plain Detector1", {}, ""),
    "snowblind": _hook("SnowblindStep"),
    "jump_plus": _hook("JumpPlusStep"),
    "stream_clean": _hook("StreamCleanStep"),
    "reset_rampfit": Case(
        "ResetRampFitStep, hook of a skipped ramp_fit",
        {"ramp_fit": {"skip": True, "post_hooks": ["snowblind.ResetRampFitStep(as_hook=True)"]}},
        "steps={'ramp_fit': {'skip': True, 'post_hooks': [snowblind.ResetRampFitStep(as_hook=True)]}}",
    ),
    "pipeline": Case(
        "snowblind's Detector1Pipeline", {"pipeline": "snowblind_detector1"}, "", "snowblind.Detector1Pipeline"
    ),
    "rate": Case("SnowblindStep on the rate", {}, "", step="snowblind", suffix="snowblind"),
}
BY_HAND = """
import sys
import jwst.pipeline
import snowblind
raw, output = sys.argv[1:]
{pipeline}.call(raw, save_results=True, output_dir=output, {arguments})
"""
THEN = """
rate = output + "/" + raw.rpartition("/")[2].replace("_uncal", "_rate")
snowblind.SnowblindStep.call(rate, save_results=True, output_dir=output, suffix="snowblind")
"""


def run_case(name: str, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one case by survey and by hand.

    Returns
    -------
    row : seconds, CPU seconds and memory [GB] of the task, and the number of pixels that differ
    """
    case = CASES[name]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    steps: list[dict[str, Any]] = [{"detector1": dict(case.detector1)}, *([{case.step: {}}] if case.step else [])]
    workspace = folder / name
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "steps": steps, "workspace": str(workspace)}))
    last = case.step or "detector1"
    measure([*SURVEY, "run", path, "--until", last], environment=environment, log=folder / f"{name}.log")
    (record,) = [json.loads(item.read_text()) for item in (workspace / "records").glob(f"{last}.*.json")]
    (raw,) = (folder / "raw").glob("*_uncal.fits")
    output = folder / f"{name}-by-hand"
    output.mkdir()
    code = BY_HAND.format(pipeline=case.pipeline, arguments=case.by_hand) + (THEN if case.step else "")
    measure([sys.executable, "-c", code, raw, output], cwd=output, environment=environment, log=folder / f"{name}.log")
    product = raw.name.replace("_uncal", f"_{case.suffix}")
    compared = compare_files(workspace / "stage1" / product, output / product)
    return {
        "seconds": record["seconds"],
        "cpu_seconds": record["cpu_seconds"],
        "peak_gb": record["peak_memory_gb"],
        "reserved_gb": record["memory_gb"],
        "pixels": sum(row["pixels"] for row in compared.values()),
        "unequal": sum(row["unequal"] for row in compared.values()),
    }


def report(name: str, row: Mapping[str, Any]) -> str:
    """A line about one case."""
    return (
        f"{CASES[name].title:46s}{row['seconds']:7.1f} s {row['cpu_seconds']:7.1f} s CPU {row['peak_gb']:6.2f} GB "
        f"(reserved {row['reserved_gb']:.2f})  {row['unequal']} of {row['pixels']} pixels differ"
    )


def observatory() -> Path:
    """One full-frame exposure; simulated once."""
    scene = yaml.safe_load(SCENE.read_text())
    scene |= {"name": "community", "observations": [{"observation": 1, "offset_arcsec": [0.0, 0.0], "dithers": 1}]}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(scene, file)
        file.flush()
        simulate(OBSERVATORY, Path(file.name))
    return OBSERVATORY


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=tuple(CASES), help="default: all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    given = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = prepare(folder, observatory(), 1)
        for case in given.cases:
            rows[case] = run_case(case, folder, environment)
            say(report(case, rows[case]))
    if given.json:
        print(json.dumps(rows))
    return 1 if any(row["unequal"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
