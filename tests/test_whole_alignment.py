"""Whole runs in which tweakreg gives up: what each command says, and which mosaics are made."""

from __future__ import annotations

import shutil

import pytest
from whole_run import document, survey

pytestmark = [pytest.mark.whole, pytest.mark.xdist_group("whole")]

MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
LOST = "jw01345001001_02201_00002_nrcb1"
SETTINGS = "filters: [F200W]\n"
TWEAKREG = "image3: {{tweakreg: {{minobj: 5000}}, source_catalog: {{skip: true}}}}"


def config_of(small, name, workspace, engine, mosaic):
    path = small.config(name, workspace, engine=engine, mosaic=mosaic)
    path.write_text(SETTINGS + path.read_text())
    return path


@pytest.mark.parametrize("engine", ["tiled", "stock"])
def test_a_mosaic_of_unaligned_exposures_is_made_only_if_the_config_allows_it(small, finished, tmp_path, engine):
    workspace = small.copy(tmp_path / "ws")
    for folder in ("mosaics", "stage3"):
        shutil.rmtree(workspace / folder)
    tweakreg = TWEAKREG.format()
    config = config_of(small, f"{engine}-strict", workspace, engine, tweakreg)
    said = survey("run", config, code=1)
    step = {"tiled": "align", "stock": "image3"}[engine]
    line = next(line for line in said.stderr.splitlines() if line.startswith(f"failed {step}/{MOSAIC}: "))
    for words in ("1 of 2 exposures", LOST, "too few sources match", "minobj = 5000", "require_alignment: false"):
        assert words in line
    assert not list((workspace / "mosaics").glob("*_i2d.fits"))
    record = small.records(workspace)[f"{step}/{MOSAIC}"]
    reason = "too few sources match those of other exposures (minobj = 5000)"
    assert record["status"] == "failed"
    assert record["notices"] == [{"step": "tweakreg", "failed": True, "reason": reason, "members": [LOST]}]
    assert document("status", config)["not_aligned"] == {MOSAIC: {LOST: reason}}
    assert f"failed {step}/{MOSAIC}" in survey("plan", config).stdout

    free = config_of(small, f"{engine}-free", workspace, engine, f"require_alignment: false\n  {tweakreg}")
    said = survey("run", free)
    told = f"{MOSAIC}: not aligned by tweakreg: {LOST}: {reason}"
    assert told in said.stderr and (workspace / "mosaics" / f"{MOSAIC}_i2d.fits").is_file()
    assert told in survey("status", free).stdout and told in survey("plan", free).stdout
    assert document("run", free)["not_aligned"] == {MOSAIC: {LOST: reason}}

    again = document("run", config, code=1)
    assert (again["ran"], again["failed"], again["not_aligned"]) == (0, {}, {MOSAIC: {LOST: reason}})
    plan = document("plan", config)
    assert (plan["to_run"], [item["reason"] for item in plan["notices"][MOSAIC]]) == (0, [reason])


def test_tweakreg_may_be_skipped(small, finished, tmp_path):
    workspace = small.copy(tmp_path / "ws")
    mosaic = "image3: {tweakreg: {skip: true}, source_catalog: {skip: true}}"
    config = config_of(small, "skipped", workspace, "tiled", mosaic)
    said = survey("run", config)
    assert f"{MOSAIC}: not aligned by tweakreg: its parameter skip is true" in said.stderr
    assert document("status", config)["not_aligned"] == {}
