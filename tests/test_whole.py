"""Whole runs of a small scene: the real clients, the real pipeline, from a program number to mosaics.

One simulated observatory, one server and one finished run serve all tests; a test that changes something works on a
copy of the workspace.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from whole_run import document, survey

pytestmark = [pytest.mark.whole, pytest.mark.xdist_group("whole")]

MOSAICS = {name: f"jw01345-a3001_t001_nircam_clear-{name.lower()}-sub320" for name in ("F200W", "F444W")}
# Per exposure; per mosaic of two members and four tiles.
TASKS = 4 * 4 + 2 * (2 + 2 + 1 + 2 + 2 + 4 + 2 + 4 + 2)
FLAT_FIELDED = ("subtract_striping", "image2")


def pixels(path: Path) -> dict[str, np.ndarray]:
    """All image planes of a product; tables and text differ in times and paths."""
    with fits.open(path) as hdus:
        return {
            f"{hdu.name},{hdu.ver}": hdu.data.copy()
            for hdu in hdus
            if hdu.is_image and hdu.data is not None and hdu.name
        }


def assert_same_pixels(one: Path, other: Path) -> None:
    first, second = pixels(one), pixels(other)
    assert first.keys() == second.keys()
    assert "SCI,1" in first
    for name, plane in first.items():
        assert plane.dtype == second[name].dtype
        assert plane.tobytes() == second[name].tobytes(), f"{name} of {one.name}"


def products(workspace: Path) -> list[Path]:
    return sorted(
        path for folder in ("stage1", "stage2", "stage3", "mosaics") for path in (workspace / folder).glob("*.fits")
    )


def test_a_run_makes_every_product(small, finished):
    _, said = finished
    assert said["failed"] == said["missing"] == said["incomplete"] == {}
    assert (said["tasks"], said["ran"], said["reused"]) == (TASKS, TASKS, 0)
    assert sorted(Path(path).name for path in said["mosaics"]) == [f"{name}_i2d.fits" for name in MOSAICS.values()]
    assert all(record["status"] == "complete" for record in small.records().values())
    assert len(list((small.workspace / "stage2").glob("*_cal.fits"))) == 4
    for name in MOSAICS:
        assert (small.workspace / "mosaics" / "mosaics.zarr" / name / "zarr.json").is_file()
    hidden = [
        path for path in small.workspace.rglob(".*") if path.is_dir() and path.name not in (".locks", ".provenance")
    ]
    assert hidden == []


def test_a_second_run_runs_nothing_and_asks_no_crds(small, finished):
    config, _ = finished
    before = {path: path.stat().st_mtime_ns for path in small.workspace.rglob("*.fits")}
    requests = len(small.server.downloads())
    said = document("run", config)
    assert (said["ran"], said["reused"]) == (0, TASKS)
    assert {path: path.stat().st_mtime_ns for path in small.workspace.rglob("*.fits")} == before
    assert len(small.server.downloads()) == requests
    assert survey("status", config).stdout.count(" done") == 2 * (4 + 11)
    assert document("plan", config)["to_run"] == 0


@pytest.mark.parametrize("offline", [["--offline"], []], ids=["offline", "away"])
def test_a_finished_run_is_planned_without_any_server(small, finished, offline):
    """Neither the archive nor the CRDS server answers: exposures, references and grids are in the workspace."""
    from survey.mosaics.sky_plane import LinearWcs

    away = small.config("away", small.workspace, archive="http://127.0.0.1:9")
    away.write_text(away.read_text().replace(small.server.crds_url, "http://127.0.0.1:9/crds"))
    done = survey("plan", away, "--json", *offline)
    assert ("Going on without the archive" in done.stderr) is not bool(offline)
    said = json.loads(done.stdout)
    assert (said["exposures_from"], said["to_run"]) == ("workspace", 0)
    assert all(task["digest"] for task in said["tasks"])
    for item in said["associations"]:
        grid = LinearWcs.from_json(item["grid"])
        header = fits.getheader(small.workspace / "mosaics" / f"{item['product']}_i2d.fits", "SCI")
        assert (item["grid"]["source"], list(grid.shape)) == ("alignment", [header["NAXIS1"], header["NAXIS2"]])
        for pixel in ((0, 0), (grid.shape[0], 7)):
            ra, dec = (float(value) for value in WCS(header).all_pix2world(*pixel, 0))
            assert grid.pixel_of((ra, dec)) == pytest.approx(pixel, abs=1e-3)


def test_verify_finds_a_flipped_byte(small, finished, tmp_path):
    config, _ = finished
    assert document("verify", config)["faults"] == {}
    workspace = small.copy(tmp_path / "ws")
    victim = sorted((workspace / "stage1").glob("*_rate.fits"))[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    done = survey("verify", config, "--workspace", workspace, code=1)
    assert f"stage1/{victim.name}: sha256 is" in done.stderr
    assert list(document("verify", config, "--workspace", workspace, code=1)["faults"]) == [f"stage1/{victim.name}"]


def test_every_product_says_how_it_was_made(small, finished):
    from importlib.metadata import version

    digest_of = {
        Path(item["path"]).name: record["digest"] for record in small.records().values() for item in record["products"]
    }
    found = products(small.workspace)
    assert len(found) >= 4 * 4 + 2
    for path in found:
        header = fits.getheader(path, 0)
        assert header["SURVEY"] == "small", path.name
        assert header["SVYDIGST"] == digest_of[path.name], path.name
        assert header["CRDS_CTX"] == "jwst_0001.pmap", path.name
        assert header["CAL_VER"] == version("jwst"), path.name
        assert header["SIMULATD"] == "T", path.name


def test_provenance_holds_every_task(small, finished):
    dataset = xr.open_zarr(small.workspace / "provenance.zarr", consolidated=False)
    table = dataset.to_dataframe()
    records = small.records()
    assert set(table.index) == set(records)
    assert set(table["status"]) == {"complete"}
    for key, record in records.items():
        assert table.loc[key, "digest"] == record["digest"]
    assert (table["peak_memory_gb"] > 0.05).all()
    assert dataset.attrs["survey"] == "small"


def test_explain_reaches_the_raw_files(small, finished):
    config, _ = finished
    said = document("explain", config, f"{MOSAICS['F444W']}_i2d.fits")
    assert len(said["raw"]) == 2
    assert all(name.endswith("_nrcblong_uncal.fits") for name in said["raw"])
    assert said["stale"] == {}
    steps = {node["step"] for node in said["nodes"].values() if "step" in node}
    assert steps == {
        "detector1", "subtract_striping", "image2", "sources", "association", "align", "sky", "skymatch", "pixmap",
        "outlier_i2d", "median", "outliers", "drizzle", "assemble",
    }  # fmt: skip


def test_mosaics_open_in_xarray(small, finished):
    for name, product in MOSAICS.items():
        group = xr.open_zarr(small.workspace / "mosaics" / "mosaics.zarr", group=name, consolidated=False)
        plane = fits.getdata(small.workspace / "mosaics" / f"{product}_i2d.fits", "SCI")
        np.testing.assert_array_equal(group["sci"].values, plane)
        assert np.isfinite(plane).mean() > 0.3


PLAIN = """
import sys
from pathlib import Path
from jwst.pipeline import Detector1Pipeline, Image2Pipeline, Image3Pipeline
raw, rate, association, output = sys.argv[1:]
Detector1Pipeline.call(raw, steps={"jump": {"rejection_threshold": 4.0}}, save_results=True, output_dir=output)
Image2Pipeline.call(rate, steps={"resample": {"skip": True}}, save_results=True, output_dir=output)
Image3Pipeline.call(association, steps={"tweakreg": {"expand_refcat": True}}, save_results=True, output_dir=output)
"""


def test_pixels_are_those_of_the_plain_pipeline(small, finished, tmp_path):
    """To the bit: rate and cal of one exposure, and a mosaic from the workspace's own association."""
    name = sorted((small.workspace / "stage2").glob("*_nrcblong_cal.fits"))[0].name.removesuffix("_cal.fits")
    # What Image2 took is the corrected rate, under the name of a rate.
    corrected = tmp_path / f"{name}_rate.fits"
    corrected.symlink_to(small.workspace / "stage1" / f"{name}_striping.fits")
    output = tmp_path / "plain"
    output.mkdir()
    raw = small.workspace / "raw" / f"{name}_uncal.fits"
    association = small.workspace / "asn" / f"{MOSAICS['F444W']}_asn.json"
    environment = {
        "CRDS_PATH": str(small.folder / "crds"), "CRDS_CONTEXT": "jwst_0001.pmap", "CRDS_READONLY_CACHE": "1",
        "CRDS_SERVER_URL": small.server.crds_url, "USER": "survey", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *map(str, (raw, corrected, association, output))], cwd=tmp_path, text=True,
        env={**os.environ, **environment}, capture_output=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_pixels(small.workspace / "stage1" / f"{name}_rate.fits", output / f"{name}_rate.fits")
    assert_same_pixels(small.workspace / "stage2" / f"{name}_cal.fits", output / f"{name}_cal.fits")
    mosaic = f"{MOSAICS['F444W']}_i2d.fits"
    assert_same_pixels(small.workspace / "mosaics" / mosaic, output / mosaic)


# What differs between two runs of one pipeline, and the mark of the engine.
UNLIKE = {"DATE", "SVYDIGST", "SVYENGIN", "SVYNCORR", "CHECKSUM", "DATASUM", "", "COMMENT", "HISTORY"}


def assert_same_headers(one: Path, other: Path) -> None:
    with fits.open(one) as first, fits.open(other) as second:
        assert [(hdu.name, hdu.ver) for hdu in first] == [(hdu.name, hdu.ver) for hdu in second]
        for hdu in first:
            if hdu.name == "ASDF":
                continue
            cards, others = hdu.header, second[hdu.name, hdu.ver].header
            unlike = {key for key in {*cards, *others} - UNLIKE if cards.get(key) != others.get(key)}
            assert unlike == set(), (
                f"{hdu.name} of {one.name}: {[(key, cards.get(key), others.get(key)) for key in unlike]}"
            )


GRIDS = {
    "default": "image3: {tweakreg: {expand_refcat: true}}",
    "rotated": """pixel_scale_arcsec: 0.021
  crval_deg: [214.825, 52.825]
  crpix: [260.2, 233.0]
  rotation_deg: 21.5
  shape: [480, 450]
  image3:
    tweakreg: {expand_refcat: true}
    skymatch: {skymethod: global, subtract: true}
    outlier_detection: {snr: 4.0 3.0, pixfrac: 0.9}
""",
}


@pytest.mark.parametrize("grid", GRIDS)
def test_tiles_are_the_stock_mosaic(small, finished, tmp_path, grid):
    """To the bit, with every keyword: the pipeline's own Image3, and tiles of 256; the rotated grid cuts exposures."""
    made = {}
    for engine in ("stock", "tiled"):
        if (engine, grid) == ("tiled", "default"):
            made[engine] = small.workspace
            continue
        made[engine] = small.copy(tmp_path / engine)
        config = small.config(f"{engine}-{grid}", made[engine], engine=engine, mosaic=GRIDS[grid])
        assert document("run", config)["failed"] == {}
    compared = 0
    for folder, pattern in (("mosaics", "*_i2d.fits"), ("mosaics", "*_segm.fits"), ("stage3", "*_crf.fits")):
        paths = sorted((made["stock"] / folder).glob(pattern))
        assert [path.name for path in paths] == [path.name for path in sorted((made["tiled"] / folder).glob(pattern))]
        for path in paths:
            assert_same_pixels(path, made["tiled"] / folder / path.name)
            assert_same_headers(path, made["tiled"] / folder / path.name)
            compared += 1
    assert compared == 2 + 2 + 4
    for name in MOSAICS:
        one, other = (xr.open_zarr(made[engine] / "mosaics" / "mosaics.zarr", group=name, consolidated=False)
                      for engine in ("stock", "tiled"))  # fmt: skip
        assert set(one.data_vars) <= set(other.data_vars)
        for variable in one.data_vars:
            np.testing.assert_array_equal(one[variable].values, other[variable].values)
        assert one.attrs["wcs"] == other.attrs["wcs"]


def test_a_killed_run_goes_on_where_it_was(small, finished, tmp_path):
    """kill -9 of the client as soon as two tasks are complete; the rerun leaves those alone."""
    workspace = tmp_path / "ws"
    config = small.config("killed", workspace)
    process = subprocess.Popen(
        [sys.executable, "-m", "survey.cli", "run", str(config), "--until", "image2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 300
    while len(list((workspace / "records").glob("*.json"))) < 2 and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_for_end_of_children(workspace)
    before = {path: path.stat().st_mtime_ns for path in (workspace / "records").glob("*.json")}
    assert 2 <= len(before) < 12
    said = document("run", config, "--until", "image2")
    assert said["failed"] == {}
    assert said["ran"] == 12 - len(before)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    for path in (workspace / "stage2").glob("*_cal.fits"):
        assert_same_pixels(path, small.workspace / "stage2" / path.name)
    assert document("verify", config)["faults"] == {}


def wait_for_end_of_children(workspace: Path, seconds: float = 120.0) -> bool:
    """The workers see that the client is gone, and end; no process with this workspace's jobs is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        first = sorted((path.name, path.stat().st_mtime_ns) for path in workspace.glob("*/*"))
        time.sleep(3)
        if first == sorted((path.name, path.stat().st_mtime_ns) for path in workspace.glob("*/*")):
            return True
    return False


def test_another_context_runs_again_only_what_its_flat_changes(small, finished, tmp_path):
    workspace = small.copy(tmp_path / "ws")
    config = small.config("second", workspace, context="jwst_0002.pmap")
    before = small.records(workspace)
    asked = document("plan", small.config("first", workspace), "--context", "jwst_0002.pmap")
    assert small.records(workspace) == before
    assert any("flat" in cause and "replaced" in cause for cause in asked["causes"])
    survey("refs", config)
    planned = document("plan", config)
    assert [task["state"] for task in asked["tasks"]] == [task["state"] for task in planned["tasks"]]
    waiting = {task["key"] for task in planned["tasks"] if task["state"] != "done"}
    said = document("run", config)
    after = small.records(workspace)
    changed = {key for key, record in after.items() if record["started"] != before[key]["started"]}
    assert changed == waiting
    assert said["ran"] == len(changed)
    detectors = {key.rpartition("_")[2] for key in changed if key.startswith("image2/")}
    assert len(detectors) == 1
    filters = {after[key]["filter"] for key in changed}
    assert len(filters) == 1
    name = filters.pop()
    # The striping is measured on a flat-fielded copy, so it takes the flat as well.
    behind = {key for key in before if key.split("/")[0] in FLAT_FIELDED and key.rpartition("_")[2] in detectors}
    assert changed == behind | {
        key for key in before if before[key]["filter"] == name and key.split("/")[0] not in ("detector1", *FLAT_FIELDED)
    }
    flats = {
        key: (before[key]["references"]["flat"], after[key]["references"]["flat"])
        for key in changed
        if "image2/" in key
    }
    assert all(old != new for old, new in flats.values())


def test_mosaic_of_a_given_association(small, finished, tmp_path):
    """One member fewer, from the workspace's raw files: the exposures' products serve."""
    workspace = small.copy(tmp_path / "ws")
    config, _ = finished
    made = json.loads((workspace / "asn" / f"{MOSAICS['F444W']}_asn.json").read_text())
    made["products"][0]["name"] = "jw01345-o001_t001_nircam_clear-f444w-sub320"
    del made["products"][0]["members"][1:]
    path = tmp_path / "own_asn.json"
    path.write_text(json.dumps(made))
    said = document("mosaic", config, "--asn", path, "--workspace", workspace)
    assert [Path(item).name for item in said["mosaics"]] == ["jw01345-o001_t001_nircam_clear-f444w-sub320_i2d.fits"]
    assert (said["ran"], said["reused"]) == (1 + 1 + 3 + 1 + 4 + 2, 4)
    assert document("verify", config, "--workspace", workspace)["faults"] == {}
    assert sorted(item.name for item in (workspace / "mosaics" / "mosaics.zarr").iterdir() if item.is_dir()) == [
        "F200W", "F444W", "F444W-o001",
    ]  # fmt: skip


def test_mosaic_of_given_cal_files(small, finished, tmp_path):
    """A folder from elsewhere: its cal files beside an association, and an empty workspace."""
    folder, workspace = tmp_path / "foreign", tmp_path / "ws"
    folder.mkdir()
    name = f"{MOSAICS['F444W']}_asn.json"
    shutil.copy(small.workspace / "asn" / name, folder)
    for path in (small.workspace / "stage2").glob("*_nrcblong_cal.fits"):
        shutil.copy(path, folder)
    config = small.config("given", workspace)
    said = document("mosaic", config, "--asn", folder / name)
    assert (said["ran"], said["failed"]) == (2 + 2 + 21, {})
    assert_same_pixels(Path(said["mosaics"][0]), small.workspace / "mosaics" / Path(said["mosaics"][0]).name)
    next(folder.glob("*_cal.fits")).unlink()
    done = survey("mosaic", config, "--asn", folder / name, "--workspace", tmp_path / "ws2", code=2)
    assert "has no raw file" in done.stderr
