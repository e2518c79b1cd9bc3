"""A whole run that is aligned to an online catalogue: fetched before the tasks, with the pixels of the pipeline."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from test_whole import assert_same_pixels
from whole_run import document, survey

pytestmark = [pytest.mark.whole, pytest.mark.xdist_group("whole")]

MOSAIC = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
SETTINGS = "image3: {tweakreg: {expand_refcat: true, abs_refcat: GAIADR3}, source_catalog: {skip: true}}"
PIPELINE = """
import sys
from jwst.pipeline import Image3Pipeline
association, output = sys.argv[1:]
steps = {"tweakreg": {"expand_refcat": True, "abs_refcat": "GAIADR3"}, "source_catalog": {"skip": True}}
Image3Pipeline.call(association, steps=steps, save_results=True, output_dir=output)
"""
NOWHERE = "http://localhost:9/webservices"


def asked(server) -> int:
    return sum("CatalogSearch" in item.path for item in server.requests)


@pytest.mark.parametrize("engine", ["tiled", "stock"])
def test_the_mosaic_is_that_of_the_pipeline_with_the_same_service(small, finished, tmp_path, engine, monkeypatch):
    from survey.references.child import _environment

    workspace = small.copy(tmp_path / "ws")
    config = small.config(f"gaia-{engine}", workspace, engine=engine, mosaic=SETTINGS)
    config.write_text("filters: [F200W]\n" + config.read_text())
    monkeypatch.setenv("ASTROMETRIC_CATALOG_URL", NOWHERE)
    said = survey("run", config, code=3)
    assert NOWHERE in said.stderr and "GAIADR3" in said.stderr and "abs_refcat also takes a file" in said.stderr
    assert "to fetch before the first task: catalogs/" in survey("plan", config).stdout

    monkeypatch.setenv("ASTROMETRIC_CATALOG_URL", small.server.catalogs_url)
    before = asked(small.server)
    (catalog,) = document("refs", config)["catalogs"]
    assert asked(small.server) == before + 1 and (workspace / catalog).is_file()
    monkeypatch.setenv("ASTROMETRIC_CATALOG_URL", NOWHERE)
    done = document("run", config)  # no task asks, and the file is not fetched again
    assert done["failed"] == {} and done["not_aligned"] == {} and asked(small.server) == before + 1
    step = {"tiled": "align", "stock": "image3"}[engine]
    assert small.records(workspace)[f"{step}/{MOSAIC}"]["inputs"][catalog]
    assert document("run", config)["ran"] == 0

    output = tmp_path / "pipeline"
    output.mkdir()
    environment = _environment(small.folder / "crds") | {"CRDS_CONTEXT": "jwst_0001.pmap"}
    monkeypatch.setenv("ASTROMETRIC_CATALOG_URL", small.server.catalogs_url)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    association = workspace / "asn" / f"{MOSAIC}_asn.json"
    subprocess.run([sys.executable, "-c", PIPELINE, association, output], check=True, cwd=tmp_path)
    assert asked(small.server) == before + 2
    assert_same_pixels(workspace / "mosaics" / f"{MOSAIC}_i2d.fits", output / f"{MOSAIC}_i2d.fits")

    text = (workspace / catalog).read_text()
    (workspace / catalog).write_text(text.replace("\n1000", "\n1001", 1))
    assert list(document("verify", config, code=1)["faults"]) == [catalog]
    shutil.rmtree(workspace / "catalogs")
    monkeypatch.setenv("ASTROMETRIC_CATALOG_URL", NOWHERE)
    assert survey("run", config, code=3).stderr
