"""A whole run with stub steps, as a program that can be killed: ``python stub_survey.py WORKSPACE [--until STEP]``.

Lock, sweep, plan, a local cluster (or ``--cluster ADDRESS``), provenance and tidying are those of `survey.run`; raw
files and references are made up. STUB_SECONDS is how long each task takes, ``settings.json`` in the workspace what the
config sets in ``mosaic`` beside the defaults.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from stub_steps import FakeReferences, exposure
from stub_tiled import ENVIRONMENT

from survey import references as crds_references
from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.errors import SurveyError
from survey.reduction import job as reduction
from survey.workspace.folders import Workspace


def config_of(root: Path) -> SurveyConfig:
    path = root / "settings.json"
    return SurveyConfig(
        survey="t", program=1345, workspace=root, references={"context": "jwst_0001.pmap", "cache": root / "crds"},
        steps=["detector1", "image2"], mosaic={"tile": 256, **(json.loads(path.read_text()) if path.exists() else {})},
    )  # fmt: skip


def exposures_of(root: Path):
    workspace = Workspace(root)
    workspace.create()
    made = [exposure(number) for number in (1, 2, 3)] + [exposure(n, "NRCBLONG", "F444W") for n in (1, 2)]
    for item in made:
        path = workspace.raw / item.file
        if not path.exists():
            path.write_text(item.name)
    return tuple(replace(item, sha256=file_sha256(workspace.raw / item.file)) for item in made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--until")
    parser.add_argument("--cluster")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    root = given.workspace.absolute()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    exposures = exposures_of(root)
    seconds = {"STUB_SECONDS": os.environ.get("STUB_SECONDS", "0")}
    reduction._fetch_available = lambda *_: (exposures, {})
    reduction.sync_references = lambda *_: FakeReferences()
    crds_references.worker_environment = lambda _: {**ENVIRONMENT, **seconds}
    try:
        told = (lambda line: print(line, file=sys.stderr)) if given.report else (lambda _line: None)
        where = {"cluster": given.cluster, "until": given.until}
        done = reduction.run(config_of(root), **where, say=told, report=given.report)
    except SurveyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"ran": sorted(record.key for record in done.ran), "reused": len(done.reused),
                      "failed": {record.key: record.error for record in done.failed}}))  # fmt: skip
    return 1 if done.failed else 0


if __name__ == "__main__":
    sys.exit(main())
