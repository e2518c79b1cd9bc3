"""How long the command line and plans take: ``python benchmarks/plan.py [--json]``.

`survey --help`, and `survey plan` of 690 and of 13,000 made-up exposures: asked of a loopback archive with nothing
cached, and with the files known in the workspace. Aims: 0.5 s; 2 s and 15 s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from measure import ROOT, SURVEY, Cost, measure, say, served

from survey.archive.ledger import LEDGER, Entry, Ledger, signature
from survey.config.model import read_config
from survey.digest import digest
from survey.references import References, reference_types
from survey.references.record import Question, write_record
from survey.workspace.folders import Workspace

# CEERS epoch 1: exposures per filter; its short-wave filters are seen by eight detectors, its long-wave ones by two.
CEERS_EPOCH_1 = {"F115W": 288, "F150W": 144, "F200W": 120, "F277W": 36, "F356W": 36, "F410M": 36, "F444W": 30}
SHORT_WAVE = tuple(f"nrc{module}{chip}" for module in "ab" for chip in "1234")
LONG_WAVE = ("nrcalong", "nrcblong")
OBSERVATIONS = 10
RAW_BYTES = 75_528_000  # a full frame of nine groups


def made_up_exposures(number: int) -> list[dict[str, Any]]:
    """Exposures in the composition of CEERS epoch 1, scaled to a number; as in a simulated observatory's list."""
    total = sum(CEERS_EPOCH_1.values())
    rows = []
    for activity, (name, share) in enumerate(CEERS_EPOCH_1.items()):
        wanted = round(number * share / total)
        if name == "F444W":  # the last takes what rounding left
            wanted = number - len(rows)
        detectors = SHORT_WAVE if int(name[1:4]) < 240 else LONG_WAVE
        rows += [_exposure(index, activity, name, detectors) for index in range(wanted)]
    return rows


def _exposure(index: int, activity: int, filter_name: str, detectors: tuple[str, ...]) -> dict[str, Any]:
    pointing, chip = divmod(index, len(detectors))
    dither, observation = divmod(pointing, OBSERVATIONS)
    detector = detectors[chip]
    ra, dec = 214.8 + 0.01 * observation + 0.001 * dither, 52.8 + 0.005 * chip
    corners = ((0, 0), (0.03, 0), (0.03, 0.018), (0, 0.018))
    return {
        "name": f"jw01345{observation + 1:03d}001_02{activity + 1}01_{dither + 1:05d}_{detector}",
        "program": 1345,
        "observation": observation + 1,
        "visit": 1,
        "detector": detector.upper(),
        "filter": filter_name,
        "pupil": "CLEAR",
        "subarray": "FULL",
        "start_mjd": 59934.0 + 0.01 * pointing,
        "groups": 9,
        "integrations": 1,
        "size": RAW_BYTES,
        "ra_deg": ra,
        "dec_deg": dec,
        "footprint": [[ra + x, dec + y] for x, y in corners],
        "target": "EGS",
    }


def write_observatory(directory: Path, number: int) -> None:
    """A folder that `survey serve` takes: the list alone, no raw files and no references."""
    (directory / "raw").mkdir(parents=True)
    (directory / "exposures.json").write_text(json.dumps(made_up_exposures(number)))


def write_config(path: Path, workspace: Path) -> None:
    """The CEERS config, with its servers and folders moved to this machine."""
    config = yaml.safe_load((ROOT / "configs" / "ceers.yaml").read_text())
    config["archive"]["server"] = "${SURVEY_ARCHIVE_URL}"
    config["references"] |= {"server": "${SURVEY_CRDS_URL}", "cache": str(workspace / "crds")}
    config["workspace"] = str(workspace)
    path.write_text(yaml.safe_dump(config))


def hold_everything(config_path: Path, rows: list[dict[str, Any]]) -> None:
    """Make the workspace look as after a fetch and a sync: empty raw files, their ledger, small reference files."""
    config = read_config(config_path)
    workspace = Workspace(config.workspace)
    workspace.create()
    ledger = Ledger(workspace.raw / LEDGER)
    for row in rows:
        path = workspace.raw / f"{row['name']}_uncal.fits"
        path.touch()
        facts = {key: row[key] for key in ("filter", "pupil", "subarray", "start_mjd", "groups", "integrations")}
        facts["footprint"] = row["footprint"]
        entry = Entry(path.name, row["size"], digest(row["name"]), f"mast:{path.name}", signature(path), facts)
        ledger.append(entry, durable=False)
    raw = {row["name"]: workspace.raw / f"{row['name']}_uncal.fits" for row in rows}
    cache = Path(config.references.cache).absolute()
    question = Question(raw, config.references.context, cache, None)
    write_record(workspace.references, question, made_up_references(cache, config.references.context, rows))


def made_up_references(cache: Path, context: str, rows: list[dict[str, Any]]) -> References:
    """A reference file of every type for each detector and filter."""
    pairs = sorted({(row["detector"], row["filter"]) for row in rows})
    types = reference_types()
    groups = [{kind: f"jwst_nircam_{kind}_{'_'.join(pair)}.fits".lower() for kind in types} for pair in pairs]
    files = sorted({name for group in groups for name in group.values()})
    folder = Path("references") / "jwst" / "nircam"
    for path in (cache / folder, cache / "mappings" / "jwst", cache / "config" / "jwst"):
        path.mkdir(parents=True)
    for path in [cache / "config" / "jwst" / "server_config", *(cache / folder / name for name in files)]:
        path.touch()
    return References(
        context=context,
        cache=str(cache),
        groups=tuple(groups),
        exposures={row["name"]: pairs.index((row["detector"], row["filter"])) for row in rows},
        files={name: digest(name)[:40] for name in files},
        paths={name: str(folder / name) for name in files},
        mappings={},
    )


def time_help(rounds: int) -> dict[str, float]:
    costs = [measure([*SURVEY, "--help"]) for _ in range(rounds)]
    return {
        "wall_s": statistics.median(cost.wall_s for cost in costs),
        "cpu_s": statistics.median(cost.cpu_s for cost in costs),
    }


def time_plans(number: int, folder: Path) -> dict[str, Any]:
    """Plans of a number of exposures: from the archive, and from files that the workspace holds."""
    write_observatory(folder / "observatory", number)
    config = folder / "config.yaml"
    write_config(config, folder / "workspace")
    command = [*SURVEY, "plan", config, "--json"]
    found: dict[str, Any] = {}
    with served(folder / "observatory") as environment:
        found["nothing cached"] = facts(
            measure(command, environment=environment, log=folder / "1.json"), folder / "1.json"
        )
        found["nothing cached"]["query_s"] = time_query(environment, folder)
        with changed_environment(environment):
            hold_everything(config, made_up_exposures(number))
        found["all files held"] = facts(
            measure(command, environment=environment, log=folder / "2.json"), folder / "2.json"
        )
    return found


@contextlib.contextmanager
def changed_environment(environment: dict[str, str]):
    """The config names its servers by variables."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def time_query(environment: dict[str, str], folder: Path) -> float:
    """The archive's part of a plan, without the import of its client [s]."""
    script = folder / "query.py"
    script.write_text(
        "import sys, time\n"
        "import astroquery.mast\n"
        "from survey.config.model import read_config\n"
        "from survey.reduction.inputs import find_exposures\n"
        "config = read_config(sys.argv[1])\n"
        "started = time.monotonic()\n"
        "found = find_exposures(config)\n"
        "print(len(found), time.monotonic() - started)\n"
    )
    log = folder / "query.txt"
    measure([sys.executable, script, folder / "config.yaml"], environment=environment, log=log)
    return float(log.read_text().split()[-1])


def facts(cost: Cost, output: Path) -> dict[str, Any]:
    text = output.read_text()
    document = json.loads(text[text.index("{") :])
    return {
        "wall_s": cost.wall_s,
        "cpu_s": cost.cpu_s,
        "peak_gb": cost.peak_gb,
        "exposures": len(document["exposures"]),
        "tasks": len(document["tasks"]),
        "with_digest": sum(bool(task["digest"]) for task in document["tasks"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, nargs="+", default=[690, 13_000])
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    found: dict[str, Any] = {"help": time_help(5), "plans": {}}
    for number in given.exposures:
        say(f"planning {number} exposures")
        with tempfile.TemporaryDirectory(prefix="plan-") as folder:
            found["plans"][number] = time_plans(number, Path(folder))
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    print(f"survey --help{'':29s} {found['help']['wall_s']:7.2f} s wall {found['help']['cpu_s']:7.2f} s CPU")
    for number, plans in found["plans"].items():
        for kind, row in plans.items():
            query = f"  of these {row['query_s']:.2f} s for the archive's answers" if "query_s" in row else ""
            name = f"plan of {number} exposures, {kind}"
            print(
                f"{name:42s} {row['wall_s']:7.2f} s wall {row['cpu_s']:7.2f} s CPU {row['peak_gb']:6.2f} GB"
                f"  {row['tasks']} tasks, {row['with_digest']} with digest{query}"
            )


if __name__ == "__main__":
    main()
