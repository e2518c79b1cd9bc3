"""Artifacts of a whole observatory: pointing, aberration, persistence over programs, epochs, and the truth on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from survey.errors import ConfigError
from survey.simulate import epochs, exposures, geometry, halos, observatory, sky
from survey.simulate.detector import load_detector
from survey.simulate.scene import Scene, load_scene
from survey.simulate.truth import read_truth

ROOT = Path(__file__).parents[1]
DEEP = Scene.model_validate(
    {
        "name": "deep",
        "seed": 3,
        "random_streams": "separate",
        "detectors": ["NRCBLONG"],
        "filters": ["F444W", "F356W"],
        "readout": {"pattern": "BRIGHT1", "groups": 3},
        "observations": [
            {"observation": 1, "dithers": 1},
            {"observation": 1, "dithers": 1, "program": 1346, "start": "2022-12-21T01:00:00", "epoch": 2},
        ],
        "pointing_errors": {"shift_arcsec": 0, "roll_arcsec": 0},
        "pointing_faults": {"faults": [{"program": 1346, "filter": "F356W", "shift_mas": [300, -200]}]},
        "velocity_aberration": {"enabled": True, "scale": 0.9999, "origin_arcsec": [-2.0, -492.9]},
        "reference_catalogue": {"enabled": True, "faint_mag": 25},
        "sky": {
            "radius_arcsec": 12,
            "stars": {"number": 30},
            "galaxies": {"number": 20},
            "bright_stars": {"enabled": True, "number": 6, "bright_mag": 10, "faint_mag": 12},
            "halos": {"enabled": True, "share": 0.5},
            "variables": {"enabled": True, "mag_ab": {2: 19}},
            "proper_motions": {"enabled": True},
        },
        "artifacts": {
            "flat_error": {"enabled": True},
            "persistence": {"enabled": True, "across_exposures": True, "fraction": 0.01, "decay_s": 900},
            "bad_pixels": {"enabled": True},
            "trails": {"enabled": True, "share": 1},
            "striping": {"enabled": True},
        },
    }
)
HASHES = {
    1: "6ec7822825edf8f3797af36e733fe1846065b490a0fc141a4e5a4a55e4f65449",
    2: "b205d9eefef7cfeaeb898f0625ac4fd13d3771e3c4e3f31bbde0229523c70ea0",
}
FIRST, SECOND = "jw01345001001_02201_00001_nrcblong", "jw01345001001_02203_00001_nrcblong"
LATER, WRONG = "jw01346001001_02201_00001_nrcblong", "jw01346001001_02203_00001_nrcblong"


def changed(**sections):
    """The scene with other values, as a scene file would have them."""
    document = DEEP.model_dump(mode="json")
    for name, values in sections.items():
        document[name] = document[name] | values if isinstance(document[name], dict) else values
    return Scene.model_validate(document)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("deep") / "sim"
    observatory.build(path, DEEP)
    return path


def counts(folder, name):
    with fits.open(folder / "raw" / f"{name}_uncal.fits") as hdus:
        return hdus["SCI"].data.astype(int)


def test_scenes_without_the_new_artifacts_keep_their_counts(tmp_path):
    """Hashes of the version before the artifacts of this module."""
    scene = Scene.model_validate(
        {
            "name": "small",
            "detectors": ["NRCBLONG"],
            "filters": ["F444W"],
            "readout": {"pattern": "SHALLOW4", "groups": 2},
            "observations": [
                {"observation": 1, "dithers": 1},
                {"observation": 2, "dithers": 1, "offset_arcsec": (3.0, 1.0)},
            ],
            "sky": {"radius_arcsec": 20, "stars": {"number": 20}, "galaxies": {"number": 3}},
            "artifacts": {"persistence": {"enabled": True}, "striping": {"enabled": True}},
        }
    )
    observatory.build(tmp_path / "sim", scene, references=False)
    found = {
        number: hashlib.sha256(
            counts(tmp_path / "sim", f"jw01345{number:03d}001_02201_00001_nrcblong").astype("<u2").tobytes()
        ).hexdigest()
        for number in (1, 2)
    }
    assert found == HASHES


def test_exposures_of_two_programs_are_told_apart(folder):
    entries = json.loads((folder / "exposures.json").read_text())
    assert [(entry["name"], entry["program"]) for entry in entries] == [
        (FIRST, 1345), (SECOND, 1345), (LATER, 1346), (WRONG, 1346)
    ]  # fmt: skip
    header = fits.getheader(folder / "raw" / f"{LATER}_uncal.fits")
    assert (header["PROGRAM"], header["VISIT_ID"]) == ("01346", "01346001001")
    assert header["DATE-BEG"].startswith("2022-12-21T01:00:00")


def test_persistence_decays_over_filters_and_programs(folder):
    truth = read_truth(folder)
    table = truth.table("persistence")
    assert set(table["exposure"]) == {SECOND, LATER, WRONG}
    assert set(truth.rows("persistence", SECOND)["source"]) == {FIRST}
    after_an_hour = truth.rows("persistence", LATER)
    assert FIRST in after_an_hour["source"] and SECOND in after_an_hour["source"]
    entries = {entry["name"]: entry for entry in json.loads((folder / "exposures.json").read_text())}
    # A pixel that only the first exposure saturated keeps decaying; those that the second saturated have more left
    pixels = [truth.image(name, "persistence") for name in (SECOND, LATER)]
    trapped = (pixels[0] > 0) & (pixels[1] > 0)
    seconds = (entries[LATER]["start_mjd"] - entries[SECOND]["start_mjd"]) * 86400
    assert np.min(pixels[1][trapped] / pixels[0][trapped]) == pytest.approx(np.exp(-seconds / 900), rel=0.01)
    # What a saturated pixel of 85,000 e- holds: 1%, decayed from the end of the exposure to the start of the next
    gap = (entries[SECOND]["start_mjd"] - entries[FIRST]["end_mjd"]) * 86400
    duration = 5 * 1.06904
    released = 0.01 * 85000 * np.exp(-gap / 900) * -np.expm1(-duration / 900)
    assert np.median(pixels[0][pixels[0] > 0]) * 1.85 * duration == pytest.approx(released, rel=0.05)


def test_a_wrong_pointing_changes_the_header_alone(folder, tmp_path):
    observatory.build(tmp_path / "right", changed(pointing_faults={"enabled": False}), references=False)
    for name in (FIRST, SECOND, LATER, WRONG):
        np.testing.assert_array_equal(counts(folder, name), counts(tmp_path / "right", name))
    wrong, right = (
        fits.getheader(path / "raw" / f"{WRONG}_uncal.fits", "SCI") for path in (folder, tmp_path / "right")
    )
    east = (wrong["RA_REF"] - right["RA_REF"]) * np.cos(np.radians(right["DEC_REF"])) * 3.6e6
    assert (east, (wrong["DEC_REF"] - right["DEC_REF"]) * 3.6e6) == (
        pytest.approx(300, abs=0.1), pytest.approx(-200, abs=0.1)
    )  # fmt: skip
    assert fits.getheader(folder / "raw" / f"{LATER}_uncal.fits", "SCI")["RA_REF"] == pytest.approx(
        fits.getheader(tmp_path / "right" / "raw" / f"{LATER}_uncal.fits", "SCI")["RA_REF"], abs=1e-12
    )
    row = read_truth(folder).rows("pointing_faults", WRONG)[0]
    assert (row["east_mas"], row["north_mas"]) == (300, -200)
    assert "F356W" in row["matching"]
    assert len(read_truth(tmp_path / "right").table("pointing_faults")) == 0


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        ({"observation": 1, "exposure": 2, "shift_mas": [100, 0]}, 4),  # two filters on two detectors
        ({"observation": 1, "exposure": 2, "activity": "01"}, 2),
        ({"detector": "NRCB4", "shift_mas": [100, 0]}, 6),
        ({"observation": 2, "visit": 1, "shift_mas": [100, 0]}, 4),
        ({"detector": "NRCBLONG", "observation": 2, "filter": "F356W"}, 1),
    ],
)
def test_faults_reach_an_exposure_a_detector_or_a_visit(fault, number):
    document = DEEP.model_dump(mode="json") | {
        "detectors": ["NRCB4", "NRCBLONG"],
        "filters": ["F200W", "F150W", "F444W", "F356W"],
        "observations": [{"observation": 1, "dithers": 2}, {"observation": 2, "dithers": 1}],
        "pointing_faults": {"faults": [fault]},
    }
    scene = Scene.model_validate(document)
    shots = exposures.plan_shots(scene)
    wrong = [exposures.with_faults(scene, shot, name)[1] for shot in shots for name in scene.detectors]
    assert sum(bool(faults) for faults in wrong) == number


def test_faults_that_match_nothing_or_everything_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"pointing_faults.faults.0: no exposure has \{'observation': 7\}"):
        exposures.plan_shots(changed(pointing_faults={"faults": [{"observation": 7, "shift_mas": [1, 1]}]}))
    path = tmp_path / "scene.yaml"
    path.write_text("pointing_faults: {faults: [{shift_mas: [100, 0]}]}")
    with pytest.raises(ConfigError, match=r"pointing_faults.faults.0: .*matches every exposure"):
        load_scene(path)


def test_observations_out_of_order_are_refused():
    later = {"observation": 2, "dithers": 1, "start": "2022-12-20T00:00:00"}
    with pytest.raises(ConfigError, match=r"observation 2: start .* is before the end"):
        exposures.plan_shots(changed(observations=[{"observation": 1}, later], pointing_faults={"enabled": False}))
    with pytest.raises(ConfigError, match="start: 'soon'"):
        exposures.plan_shots(changed(observations=[{"observation": 1, "start": "soon"}]))


def test_the_pipelines_aberration_leaves_the_shift_of_the_truth(folder):
    truth = read_truth(folder)
    row = truth.rows("pointings", FIRST)[0]
    assert row["va_scale"] == 0.9999
    assert fits.getheader(folder / "raw" / f"{FIRST}_uncal.fits", "SCI")["VA_SCALE"] == 0.9999
    # NRCBLONG is 87 arcsec from the origin: 1e-4 of it
    reference = np.array([row["v2_ref"], row["v3_ref"]])
    assert [row["va_shift_v2"], row["va_shift_v3"]] == pytest.approx(-0.1 * (reference - [-2.0, -492.9]), abs=1e-6)
    shot = exposures.plan_shots(DEEP)[0]
    v2, v3 = reference[:, None] + np.array([[0, 5, -4], [0, 3, -4]])
    # jwst.assign_wcs.pointing.dva_corr_model: scaled about the detector's own reference point
    pipeline = shot.header.to_sky(*(shot.va_scale * (v - r) + r for v, r in zip((v2, v3), reference, strict=True)))
    true = shot.true.to_sky(v2, v3)
    told = shot.header.from_sky(*true)
    left = 1000 * (np.array(told) - shot.header.from_sky(*pipeline))
    np.testing.assert_allclose(left, [[row["va_shift_v2"]] * 3, [row["va_shift_v3"]] * 3], atol=1e-3)
    np.testing.assert_allclose(shot.true.from_sky(*true), (v2, v3), atol=1e-7)


def test_modules_are_apart_by_what_is_measured_in_flight():
    """Detectors of one exposure are off by 9 to 13 mas, modules A and B by 16 to 25 (jwst issue 9400)."""
    detectors = [f"NRC{module}{chip}" for module in "AB" for chip in "1234"]
    scene = Scene.model_validate(
        {"detectors": detectors, "filters": ["F200W"], "subarray": "FULL", "velocity_aberration": {"enabled": True}}
    )
    true = exposures.plan_shots(scene)[0].true
    places = [geometry.aperture(name) for name in detectors]
    shifts = 1000 * np.array([true.pipeline_shift(float(p.V2Ref), float(p.V3Ref)) for p in places])
    sizes = np.hypot(*shifts.T)
    assert 5 < sizes.min() < 9 < sizes.max() < 14
    apart = np.hypot(*(shifts[:4].mean(axis=0) - shifts[4:].mean(axis=0)))
    assert apart == pytest.approx(17, abs=1)


def test_no_aberration_is_the_plain_attitude():
    shots = exposures.plan_shots(changed(velocity_aberration={"enabled": False}))
    assert isinstance(shots[0].true, geometry.Attitude) and shots[0].va_scale == 1.0


@pytest.mark.pipeline
def test_assign_wcs_leaves_the_shift_of_the_truth(folder):
    from jwst.assign_wcs import AssignWcsStep
    from stdatamodels.jwst.datamodels import ImageModel, Level1bModel

    step = AssignWcsStep()
    for reftype in step.reference_file_types:
        setattr(step, f"override_{reftype}", "N/A")
    step.override_distortion = str(next((folder / "crds/references/jwst/nircam").glob("*distortion*.asdf")))
    with Level1bModel(folder / "raw" / f"{FIRST}_uncal.fits") as raw:
        image = ImageModel(data=np.zeros(raw.data.shape[-2:], np.float32))
        image.update(raw)
    result = step.process(image)
    x, y = np.array([0.0, 150.3, 319.0]), np.array([0.0, 20.2, 319.0])
    window = geometry.window("NRCBLONG", "SUB320")
    shot = exposures.plan_shots(DEEP)[0]
    true = shot.true.to_sky(*geometry.pixel_to_v2v3("NRCBLONG", x + window.x0, y + window.y0))
    left = 1000 * (np.array(shot.header.from_sky(*true)) - shot.header.from_sky(*result.meta.wcs(x, y)))
    row = read_truth(folder).rows("pointings", FIRST)[0]
    np.testing.assert_allclose(left, [[row["va_shift_v2"]] * 3, [row["va_shift_v3"]] * 3], atol=0.01)


def test_the_variable_shines_in_its_epoch_alone():
    sources, variables = sky.draw_sources(DEEP), epochs.draw_variables(DEEP)
    quiet = epochs.sources_at(DEEP, sources, variables, DEEP.start, epoch=1)
    bright = epochs.sources_at(DEEP, sources, variables, DEEP.start, epoch=2)
    assert len(bright) == len(quiet) + 1
    assert bright["flux_F444W"][-1] == pytest.approx(10 ** (0.4 * (23.9 - 19)))
    plain = changed(sky=DEEP.sky.model_dump(mode="json") | {"proper_motions": {"enabled": False}})
    still = sky.draw_sources(plain)
    assert epochs.sources_at(plain, still, epochs.draw_variables(plain), "2030-01-01T00:00:00", epoch=1) is still


def test_bright_stars_leave_the_others_where_they_are():
    without = changed(sky=DEEP.sky.model_dump(mode="json") | {"bright_stars": {"enabled": False}})
    few, many = sky.draw_sources(without), sky.draw_sources(DEEP)
    assert len(many) == len(few) + 6
    for column in ("ra", "dec", "mag_ab", "flux_F356W", "kind", "sersic"):
        assert list(many[column][:50]) == list(few[column])
    assert set(many["kind"][50:]) == {"star"}
    assert many["mag_ab"][50:].min() >= 10 and many["mag_ab"][50:].max() <= 12


def test_the_reference_catalogue_has_its_errors_epoch_and_motions(folder):
    document = DEEP.sky.model_dump(mode="json") | {"stars": {"number": 600}, "galaxies": {"number": 1}}
    scene = changed(sky=document, reference_catalogue={"offset_mas": [5.0, -3.0], "error_mas": 1.0, "faint_mag": 25})
    sources = sky.draw_sources(scene)
    table = epochs.reference_catalogue(scene, sources)
    stars = sources[np.isin(sources["id"], table["id"])]
    assert len(table) / 600 == pytest.approx(0.95, abs=0.04)
    assert (table["ref_epoch"] == 2016).all()
    years = epochs.julian_year(scene.start) - 2016
    assert years == pytest.approx(6.97, abs=0.01)
    moved = Table({"ra": table["ra"], "dec": table["dec"], "pm_ra": stars["pm_ra"], "pm_dec": stars["pm_dec"]})
    ra, dec = epochs.move(moved, years)
    north = (dec - stars["dec"]) * 3.6e6
    east = (ra - stars["ra"]) * np.cos(np.radians(stars["dec"])) * 3.6e6
    for found, offset, error in ((east, 5.0, table["ra_error"]), (north, -3.0, table["dec_error"])):
        pulls = (np.asarray(found) - offset) / np.asarray(error)
        assert (pulls.mean(), pulls.std()) == (pytest.approx(0, abs=0.17), pytest.approx(1, abs=0.12))  # 570 stars
    pulls = (table["pmra"] - stars["pm_ra"]) / table["pmra_error"]
    assert np.std(pulls) == pytest.approx(1, abs=0.12)
    assert table["ra_error"].max() == pytest.approx(1.0, rel=0.05) and str(table["pmra"].unit) == "mas / yr"
    written = Table.read(folder / "reference_catalogue.ecsv")
    assert written.colnames == table.colnames


def test_halos_have_their_surface_brightness_at_the_half_light_radius():
    detector, window = load_detector("NRCBLONG", DEEP), geometry.window("NRCBLONG", "SUB320")
    shot = exposures.plan_shots(DEEP)[0]
    table = halos.draw_halos(DEEP, sky.draw_sources(DEEP))
    assert 0 < len(table) < 20
    one = table[:1]
    one["axis_ratio"], one["position_angle"] = 1.0, 0.0
    x, y = window.x0 + 160.0, window.y0 + 160.0
    ra, dec = shot.true.to_sky(*geometry.pixel_to_v2v3("NRCBLONG", x, y))
    one["ra"], one["dec"] = ra, dec
    image = halos.halo_rate(one, detector, window, "F444W", shot.true)
    # 28 AB/arcsec2 is 0.0229 uJy/arcsec2
    unit = 0.022909 * detector.electrons_per_ujy("F444W") * detector.pixel_area_arcsec2
    away = 2.5 / np.sqrt(detector.pixel_area_arcsec2)
    at = [image[160, round(160 + away)], image[round(160 - away), 160]]
    assert at == pytest.approx([unit, unit], rel=0.02)  # a pixel is 2.5% of the radius
    assert image.max() == pytest.approx(unit * np.exp(1.67835), rel=0.02)
    nothing = halos.halo_rate(table[:0], detector, window, "F444W", shot.true)
    assert nothing.shape == (320, 320) and not nothing.any()


def test_truth_is_read_back_through_one_module(folder):
    truth = read_truth(folder)
    assert truth.images(FIRST) == ["halos", "striping", "trail"]
    assert truth.images(SECOND) == ["halos", "persistence", "striping", "trail"]
    assert truth.image(FIRST, "striping").std() > 0.1
    assert truth.amplitudes[FIRST]["striping_e"] == DEEP.artifacts.striping.amplitude_e
    ratio = truth.flat_ratio("NRCBLONG", "F444W")
    assert ratio.shape == (320, 320) and ratio.std() == pytest.approx(0.01, rel=0.5)
    assert set(truth.rows("bad_pixels", FIRST)["kind"]) == {"hot", "open"}
    assert len(truth.rows("trails", FIRST)) == 1
    assert len(truth.table("halos")) > 0 and len(truth.table("variables")) == 1
    assert not truth.snowball_charge(FIRST, (320, 320)).any()
    with pytest.raises(ConfigError, match="no image of 'wisps'; there is halos, striping"):
        truth.image(FIRST, "wisps")
    with pytest.raises(ConfigError, match="no truth of a simulated observatory"):
        read_truth(folder / "raw")


def test_the_same_scene_has_the_same_bytes(folder, tmp_path):
    observatory.build(tmp_path / "again", DEEP, references=False)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.parts[0] != "crds"]  # tests/test_simulate_observatory.py compares those
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for path in files:
        assert (folder / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path


@pytest.mark.parametrize("name", ["halos", "variables", "bright_stars"])
def test_without_a_kind_of_source_the_rest_of_the_sky_is_the_same(folder, tmp_path, name):
    document = DEEP.sky.model_dump(mode="json")
    document[name] = document[name] | {"enabled": False}
    observatory.build(tmp_path / "less", changed(sky=document), references=False)
    difference = counts(folder, LATER) - counts(tmp_path / "less", LATER)
    unlit = np.all(difference == 0, axis=(0, 1))
    if name == "halos":
        unlit = read_truth(folder).image(LATER, "halos") == 0
        assert unlit.mean() < 0.9
    elif name == "variables":  # one star, and the persistence of what it saturates
        assert unlit.mean() > 0.8
    assert not difference[..., unlit].any()
    assert difference.sum() > 0
