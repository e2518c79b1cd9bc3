"""Reference files and rules: what crds makes of them, and what the pipeline makes of an exposure with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from survey.digest import file_sha1
from survey.simulate import detector as detectors
from survey.simulate import rules
from survey.simulate.detector import load_detector
from survey.simulate.geometry import window
from survey.simulate.readout import readout_timing
from survey.simulate.scene import CosmicRays, Scene

SCENE = Scene(
    seed=7,
    detectors=["NRCBLONG"],
    filters=["F444W"],
    observations=[{"observation": 1, "dithers": 1}],
    artifacts={"cosmic_rays": CosmicRays(rate_per_cm2_s=50)},
)
HEADER = {
    "META.INSTRUMENT.NAME": "NIRCAM",
    "META.INSTRUMENT.DETECTOR": "NRCBLONG",
    "META.INSTRUMENT.CHANNEL": "LONG",
    "META.INSTRUMENT.MODULE": "B",
    "META.INSTRUMENT.FILTER": "F444W",
    "META.SUBARRAY.NAME": "SUB320",
    "META.EXPOSURE.TYPE": "NRC_IMAGE",
    "META.OBSERVATION.DATE": "2022-12-21",
    "META.OBSERVATION.TIME": "08:30:00",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("observatory")
    rules.write_crds(path, SCENE)
    return path / "crds"


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    """The folder as a CRDS cache that needs no server."""
    path = tmp_path_factory.mktemp("cache")
    for name in ("mappings", "references"):
        (path / name).symlink_to(folder / name)
    (path / "config" / "jwst").mkdir(parents=True)
    info = {
        "observatory": "jwst",
        "latest_context": rules.CONTEXTS[-1],
        "operational_context": rules.CONTEXTS[-1],
        "edit_context": rules.CONTEXTS[-1],
        "bad_files_list": [],
        "force_remote_mode": False,
        "crds_version": {"str": "14.0.3", "name": "14.0.3"},
        "mappings": list(rules.CONTEXTS),
        "last_synced": "2026-01-01 00:00:00",
        "reference_url": {"jwst": "http://localhost:9/"},
        "mapping_url": {"jwst": "http://localhost:9/"},
    }
    (path / "config" / "jwst" / "server_config").write_text(repr(info))
    return path


def plane(folder, name, extension="SCI"):
    return fits.getdata(folder / "references" / "jwst" / "nircam" / name, extension)


def test_catalogue_lists_every_file_with_its_sha1(folder):
    catalog = json.loads((folder / "catalog.json").read_text())
    assert catalog["contexts"] == ["jwst_0001.pmap", "jwst_0002.pmap"]
    assert catalog["operational"] in catalog["contexts"]
    paths = [path for path in folder.rglob("jwst_*") if path.is_file()]
    assert sorted(catalog["files"]) == sorted(path.name for path in paths)
    for path in paths:
        assert catalog["files"][path.name] == {"sha1sum": file_sha1(path), "size": path.stat().st_size}


def test_same_scene_same_bytes(folder, tmp_path):
    rules.write_crds(tmp_path, SCENE)
    assert (tmp_path / "crds" / "catalog.json").read_bytes() == (folder / "catalog.json").read_bytes()


def test_crds_chooses_all_files_and_contexts_differ_in_one_flat(folder, cache, monkeypatch):
    from crds.core import rmap

    monkeypatch.setenv("CRDS_PATH", str(cache))
    best = []
    for context in rules.CONTEXTS:
        mapping = rmap.load_mapping(str(folder / "mappings" / "jwst" / context))  # verifies every checksum
        mapping.validate()
        best.append(mapping.get_best_references(HEADER))
    chosen = {reftype: name for reftype, name in best[0].items() if not name.startswith("NOT FOUND")}
    assert set(chosen) == set(rules.PARKEYS)
    assert {name for name in best[0].values() if name not in chosen.values()} == {"NOT FOUND n/a"}
    assert {key for key in best[0] if best[0][key] != best[1][key]} == {"flat"}
    assert (best[0]["flat"], best[1]["flat"]) == ("jwst_nircam_flat_0001.fits", "jwst_nircam_flat_0002.fits")
    assert set(chosen.values()) | {best[1]["flat"]} == {path.name for path in (folder / "references").rglob("jwst_*")}


def test_rules_shared_by_contexts_are_one_file(folder):
    names = sorted(path.name for path in (folder / "mappings" / "jwst").glob("*_0002.?map"))
    assert names == ["jwst_0002.pmap", "jwst_nircam_0002.imap", "jwst_nircam_flat_0002.rmap"]


def test_planes_are_the_detectors_own(folder):
    detector = load_detector("NRCBLONG", SCENE)
    where = window("NRCBLONG", "SUB320").slices
    np.testing.assert_array_equal(plane(folder, "jwst_nircam_mask_0001.fits", "DQ"), detector.mask[where])
    np.testing.assert_array_equal(plane(folder, "jwst_nircam_superbias_0001.fits"), detector.superbias[where])
    cds = plane(folder, "jwst_nircam_readnoise_0001.fits")
    np.testing.assert_allclose(cds, np.sqrt(2) * detector.read_noise[where], rtol=1e-6)
    dark = plane(folder, "jwst_nircam_dark_0001.fits")
    timing = readout_timing("BRIGHT1", "SUB320")
    np.testing.assert_allclose(
        dark[4] - dark[0], 4 * timing.group_s * (detector.dark / detector.gain)[where], rtol=1e-5
    )
    header = fits.getheader(folder / "references" / "jwst" / "nircam" / "jwst_nircam_dark_0001.fits")
    assert (header["NFRAMES"], header["GROUPGAP"], header["NGROUPS"]) == (1, 1, 5)
    assert (header["SUBSTRT1"], header["SUBSTRT2"]) == (853, 861)


def test_flats_flag_what_sees_no_light(folder):
    detector = load_detector("NRCBLONG", SCENE)
    where = window("NRCBLONG", "SUB320").slices
    flags = plane(folder, "jwst_nircam_flat_0001.fits", "DQ")
    blind = detector.response[where] == 0
    assert blind.any() and ((flags & detectors.NO_FLAT_FIELD) != 0)[blind].all() and not flags[~blind].any()
    ratio = plane(folder, "jwst_nircam_flat_0002.fits") / plane(folder, "jwst_nircam_flat_0001.fits")
    assert 0 < np.abs(ratio - 1).max() < 0.05


def test_area_is_full_frame_and_agrees_with_photometry(folder):
    assert plane(folder, "jwst_nircam_area_0001.fits").shape == (2048, 2048)
    area, photom = (
        fits.getheader(folder / "references" / "jwst" / "nircam" / f"jwst_nircam_{reftype}_0001.fits")
        for reftype in ("area", "photom")
    )
    nominal = load_detector("NRCBLONG", SCENE).pixel_area_sr
    assert area["PIXAR_SR"] == photom["PIXAR_SR"] == pytest.approx(nominal, rel=1e-12)  # a card holds 16 digits


def test_aperture_corrections_grow_with_the_light_enclosed(folder):
    table = plane(folder, "jwst_nircam_apcorr_0001.fits", "APCORR")
    assert (np.diff(table["radius"]) > 0).all()
    np.testing.assert_allclose(table["apcorr"] * table["eefraction"], 1, rtol=1e-6)
    half = table["radius"][np.isclose(table["eefraction"], 0.5)]
    assert 0.9 < half[0] < 2.0  # F444W: half of the light lies within about 0.09 arcsec, 1.4 pixels


@pytest.mark.pipeline
def test_rules_name_every_type_that_imaging_asks_for():
    from jwst import pipeline

    known = set(rules.PARKEYS) | set(rules._ABSENT) | {f"pars-{name}" for name in rules._CONFIGURABLE}
    for stage in (pipeline.Detector1Pipeline, pipeline.Image2Pipeline, pipeline.Image3Pipeline):
        steps = list(stage.step_defs.values())
        wanted = {f"pars-{step.__name__.lower()}" for step in [stage, *steps]}
        wanted |= {reftype for step in steps for reftype in step.reference_file_types}
        assert wanted <= known, f"{stage.__name__}: {sorted(wanted - known)}"


CALIBRATE = """
import sys
from jwst.pipeline import Detector1Pipeline, Image2Pipeline
raw, folder = sys.argv[1:]
detector1 = {"jump": {"rejection_threshold": 4.0}}
rate = Detector1Pipeline.call(raw, steps=detector1, save_calibrated_ramp=True, save_results=True, output_dir=folder)
Image2Pipeline.call(rate, steps={"resample": {"skip": True}}, save_results=True, output_dir=folder)
"""
SKY_MJY_SR = 30.0


@pytest.fixture(scope="module")
def calibrated(cache, tmp_path_factory):
    """A uniform sky exposed and calibrated by the pipeline: the folder, the ramp."""
    from survey.simulate import exposures, ramps, rawfiles

    folder = tmp_path_factory.mktemp("calibrated")
    detector = load_detector("NRCBLONG", SCENE)
    sky = np.full((320, 320), SKY_MJY_SR * detector.electrons_per_mjy_sr("F444W"))
    where = window("NRCBLONG", "SUB320")
    rng = np.random.default_rng(11)
    ramp = ramps.make_ramp(sky, ramps.View(detector, where, "F444W"), SCENE.readout, SCENE.artifacts, rng)
    raw = folder / "jw01345001001_02201_00001_nrcblong_uncal.fits"
    rawfiles.write_uncal(raw, SCENE, exposures.plan_shots(SCENE)[0], "NRCBLONG", "F444W", ramp)
    environment = os.environ | {
        "CRDS_PATH": str(cache),
        "CRDS_SERVER_URL": "http://localhost:9",
        "CRDS_CONTEXT": "jwst_0001.pmap",
        "USER": os.environ.get("USER", "tester"),
    }
    done = subprocess.run(
        [sys.executable, "-c", CALIBRATE, str(raw), str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, ramp


def without_hits(ramp):
    mask = load_detector("NRCBLONG", SCENE).mask[window("NRCBLONG", "SUB320").slices]
    clean = mask == 0
    clean[ramp.cosmic_rays["y"], ramp.cosmic_rays["x"]] = False
    return clean


@pytest.mark.pipeline
def test_surface_brightness_in_is_surface_brightness_out(calibrated):
    folder, ramp = calibrated
    with fits.open(folder / "jw01345001001_02201_00001_nrcblong_cal.fits") as hdus:
        sky, error, flags = (hdus[name].data for name in ("SCI", "ERR", "DQ"))
    good = without_hits(ramp) & ((flags & 1) == 0)
    # A pixel's error is 4%, of 90,000 pixels 0.013%; jump detection cuts high steps: 0.1%
    assert sky[good].mean() == pytest.approx(SKY_MJY_SR, rel=0.002)
    assert ((sky - SKY_MJY_SR) / error)[good].std() == pytest.approx(1, abs=0.05)


@pytest.mark.pipeline
def test_rates_scatter_by_their_errors(calibrated):
    folder, ramp = calibrated
    detector = load_detector("NRCBLONG", SCENE)
    where = window("NRCBLONG", "SUB320").slices
    with fits.open(folder / "jw01345001001_02201_00001_nrcblong_rate.fits") as hdus:
        rate, error, flags = (hdus[name].data for name in ("SCI", "ERR", "DQ"))
    light = SKY_MJY_SR * detector.electrons_per_mjy_sr("F444W") * detector.flat("F444W") / detector.gain
    good = without_hits(ramp) & ((flags & 1) == 0)
    pull = ((rate - light[where]) / error)[good]
    assert pull.mean() == pytest.approx(0, abs=0.05)
    # Over 1 by 1-2%: pixels with false jumps are fitted with fewer groups than is best
    assert np.mean(pull**2) == pytest.approx(1, abs=0.08)


@pytest.mark.pipeline
def test_pipeline_flags_the_planted_hits_and_little_else(calibrated):
    folder, ramp = calibrated
    jump = fits.getdata(folder / "jw01345001001_02201_00001_nrcblong_ramp.fits", "GROUPDQ")[0] & 4 != 0
    hits = ramp.cosmic_rays
    strong = hits[hits["detectable"] & (hits["sigma"] > 10)]
    assert len(strong) > 100
    assert jump[strong["group"], strong["y"], strong["x"]].mean() > 0.97
    alone = without_hits(ramp)
    # 4 sigma about the median of the three lowest of four steps: 0.1-0.2% of the steps of Gaussian noise, and
    # neighbours of strong hits
    assert jump[1:, alone].mean() < 0.006
