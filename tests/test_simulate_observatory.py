"""A whole small observatory: exposures in time, headers, truth, and the same bytes for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from survey.digest import file_sha256
from survey.errors import ConfigError
from survey.names import parse_exposure
from survey.simulate import exposures, geometry, observatory, sky
from survey.simulate.scene import Pointing, PointingErrors, Scene, load_scene

HEADER_COLUMNS = ("v2_ref", "v3_ref", "header_ra", "header_dec", "header_roll")
SMALL = Scene(
    name="small",
    detectors=["NRCBLONG"],
    filters=["F444W"],
    readout={"pattern": "SHALLOW4", "groups": 2},
    observations=[{"observation": 1, "dithers": 1}, {"observation": 2, "dithers": 1, "offset_arcsec": (3.0, 1.0)}],
    sky={"radius_arcsec": 20, "stars": {"number": 20}, "galaxies": {"number": 3}},
    artifacts={"persistence": {"enabled": True}, "striping": {"enabled": True}},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("observatory") / "sim"
    observatory.build(path, SMALL)
    return path


@pytest.fixture(scope="module")
def entries(folder):
    return json.loads((folder / "exposures.json").read_text())


def all_files(folder):
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_every_exposure_is_listed_with_its_bytes(folder, entries):
    assert [entry["name"] for entry in entries] == [
        "jw01345001001_02201_00001_nrcblong",
        "jw01345002001_02201_00001_nrcblong",
    ]
    for entry in entries:
        path = folder / "raw" / f"{entry['name']}_uncal.fits"
        assert parse_exposure(entry["name"]).detector == entry["detector"]
        assert (path.stat().st_size, file_sha256(path)) == (entry["size"], entry["sha256"])
        assert entry["end_mjd"] > entry["start_mjd"]
    assert len(list((folder / "raw").iterdir())) == 2


def test_headers_tell_detector_time_and_pointing(folder, entries):
    with fits.open(folder / "raw" / f"{entries[1]['name']}_uncal.fits") as hdus:
        primary, science = hdus[0].header, hdus["SCI"].header
        assert hdus["SCI"].data.shape == (1, 2, 320, 320)
        assert hdus["SCI"].data.dtype.kind == "u"
        assert hdus["ZEROFRAME"].data.shape == (1, 320, 320)
    assert primary["SIMULATD"] == "T"
    assert primary["DATAMODL"] == "Level1bModel"
    assert (primary["SUBSTRT1"], primary["SUBSTRT2"]) == (853, 861)
    assert (primary["EXP_TYPE"], primary["OBSERVTN"], primary["EXPOSURE"]) == ("NRC_IMAGE", "002", "1")
    assert primary["NGROUPS"] == 2
    assert primary["DATE-OBS"] == "2022-12-21"
    assert primary["EXPSTART"] == pytest.approx(entries[1]["start_mjd"], abs=1e-9)
    # SHALLOW4 averages 4 frames and drops 1: two groups end at the ninth frame
    assert primary["EFFEXPTM"] == pytest.approx(9 * primary["TFRAME"], rel=1e-9)
    assert primary["TGROUP"] == pytest.approx(5 * primary["TFRAME"], rel=1e-9)
    assert science["S_REGION"].startswith("POLYGON ICRS")
    assert science["RA_REF"] == pytest.approx(entries[1]["ra_deg"], abs=1e-4)


def test_truth_has_header_and_true_pointing(folder, entries):
    table = Table.read(folder / "truth" / "pointings.ecsv")
    assert sorted(table["exposure"]) == sorted(entry["name"] for entry in entries)
    shift = (table["true_dec"] - table["header_dec"]) * 3600
    assert np.all(shift != 0)
    assert np.all(np.abs(shift) < 0.3)  # six times the rms of 0.05 arcsec
    header = fits.getheader(folder / "raw" / f"{table['exposure'][0]}_uncal.fits", "SCI")
    told = [header[key] for key in ("V2_REF", "V3_REF", "RA_REF", "DEC_REF", "ROLL_REF")]
    assert told == pytest.approx([table[name][0] for name in HEADER_COLUMNS], abs=1e-9)


def test_truth_has_sources_rays_and_amplitudes(folder, entries):
    sources = Table.read(folder / "truth" / "sources.ecsv")
    assert len(sources) == 23
    assert str(sources["flux_F444W"].unit) == "uJy"
    rays = Table.read(folder / "truth" / "cosmic_rays.ecsv")
    assert {"exposure", "x", "y", "integration", "group", "electrons", "sigma"} <= set(rays.colnames)
    assert len(rays) > 0
    assert set(rays["exposure"]) <= {entry["name"] for entry in entries}
    assert Table.read(folder / "truth" / "snowballs.ecsv").colnames[0] == "exposure"
    amplitudes = json.loads((folder / "truth" / "amplitudes.json").read_text())
    assert amplitudes[entries[0]["name"]]["striping_e"] == SMALL.artifacts.striping.amplitude_e
    assert amplitudes[entries[0]["name"]]["zodiacal_e_s"] > 0


def test_same_seed_same_bytes_other_seed_other_bytes(folder, tmp_path):
    observatory.build(tmp_path / "again", SMALL)
    before, after = all_files(folder), all_files(tmp_path / "again")
    assert before == after
    # over an observatory that is there already, with another seed
    observatory.build(tmp_path / "again", SMALL.model_copy(update={"seed": 7}))
    other = all_files(tmp_path / "again")
    assert other.keys() == before.keys()
    changed = {name for name in before if before[name] != other[name]}
    assert {name for name in before if name.startswith("raw/")} <= changed
    assert "truth/sources.ecsv" in changed
    assert load_scene(tmp_path / "again" / "scene.yaml").seed == 7


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty"):
        observatory.build(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_detectors_of_a_shot_share_its_error_and_use_their_channels_filter():
    scene = SMALL.model_copy(
        update={"detectors": ["NRCB1", "NRCB2", "NRCBLONG"], "filters": ["F200W", "F444W", "F356W"]}
    )
    shots = exposures.plan_shots(scene)
    assert [shot.activity for shot in shots] == ["01", "03", "01", "03"]
    assert dict(shots[0].filters) == {"NRCB1": "F200W", "NRCB2": "F200W", "NRCBLONG": "F444W"}
    assert dict(shots[1].filters) == {"NRCB1": "F200W", "NRCB2": "F200W", "NRCBLONG": "F356W"}
    assert shots[0].name(scene, "NRCB1") == "jw01345001001_02201_00001_nrcb1"
    assert [shot.start for shot in shots] == sorted(shot.start for shot in shots)
    assert len({shot.true.ra for shot in shots}) == 4


def test_no_pointing_errors_means_the_header_is_true():
    scene = SMALL.model_copy(update={"pointing_errors": PointingErrors(shift_arcsec=0.0, roll_arcsec=0.0)})
    for shot in exposures.plan_shots(scene):
        told = (shot.header.ra, shot.header.dec, shot.header.roll)
        assert (shot.true.ra, shot.true.dec, shot.true.roll) == pytest.approx(told, abs=1e-12)


def test_pointing_errors_have_the_size_asked_for():
    scene = SMALL.model_copy(update={"observations": [Pointing(observation=1, dithers=300)]})
    shots = exposures.plan_shots(scene)
    north = np.array([shot.true.dec - shot.header.dec for shot in shots]) * 3600
    roll = np.array([shot.true.roll - shot.header.roll for shot in shots]) * 3600
    # the rms of 300 draws is known to 4 per cent: three sigma
    assert north.std() == pytest.approx(0.05, rel=0.12)
    assert roll.std() == pytest.approx(20.0, rel=0.12)


def test_dithers_start_at_the_pointing_and_stay_in_the_pattern():
    offsets = list(exposures.dither_offsets(Pointing(observation=1, dithers=9, dither_arcsec=3.0)))
    assert offsets[0] == (0.0, 0.0)
    assert len(set(offsets)) == 9
    assert np.abs(offsets).max() <= 1.5


def test_all_faults_of_a_scene_are_told_at_once():
    scene = SMALL.model_copy(
        update={
            "detectors": ["NRCBLONG", "NRCB7"],
            "filters": ["F200W", "F444W", "F123X"],
            "observations": [Pointing(observation=1), Pointing(observation=1)],
            "start": "yesterday",
        }
    )
    with pytest.raises(ConfigError) as caught:
        exposures.plan_shots(scene.model_copy(update={"filters": [*scene.filters, "F444W"]}))
    text = str(caught.value)
    for part in ("NRCB7", "F123X", "filters", "observations", "yesterday"):
        assert part in text
    assert len(caught.value.faults) == 5


def test_scene_files_name_every_fault(tmp_path):
    path = tmp_path / "scene.yaml"
    path.write_text("sky: {radius_arcsec: -1}\nstarz: 3\n1: 2\n")
    with pytest.raises(ConfigError) as caught:
        load_scene(path)
    assert len(caught.value.faults) == 3
    assert "sky.radius_arcsec" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"seed: -1", b"ra_deg: .nan", b"artifacts: {cosmic_rays: {rate_per_cm2_s: -1}}"]
)
def test_scene_files_that_cannot_be_drawn_are_refused(tmp_path, content):
    path = tmp_path / "scene.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"scene\.yaml"):
        load_scene(path)


@pytest.mark.parametrize(("name", "number"), [("demo", 20), ("full", 16), ("deep", 50), ("deep-full", 60)])
def test_shipped_scenes_can_be_observed(name, number):
    scene = load_scene(Path(__file__).parents[1] / "configs" / "scenes" / f"{name}.yaml")
    shots = exposures.plan_shots(scene)
    assert sum(len(shot.filters) for shot in shots) == number
    bright = scene.sky.bright_stars.number if scene.sky.bright_stars.enabled else 0
    assert len(sky.draw_sources(scene)) == scene.sky.stars.number + scene.sky.galaxies.number + bright


@pytest.mark.parametrize("name", ["deep", "deep-full"])
def test_the_deep_scenes_switch_everything_on(name):
    scene = load_scene(Path(__file__).parents[1] / "configs" / "scenes" / f"{name}.yaml")
    sections = {key: getattr(scene.artifacts, key) for key in type(scene.artifacts).model_fields}
    sections |= {key: getattr(scene.sky, key) for key in ("bright_stars", "halos", "variables", "proper_motions")}
    sections |= {key: getattr(scene, key) for key in ("velocity_aberration", "reference_catalogue", "pointing_faults")}
    assert [key for key, section in sections.items() if not section.enabled] == []
    assert scene.random_streams == "separate" and len(scene.pointing_faults.faults) == 3


def test_filters_without_a_detector_are_refused():
    with pytest.raises(ConfigError, match="no short-wave detector"):
        exposures.plan_shots(SMALL.model_copy(update={"filters": ["F200W", "F444W"]}))


def test_a_faulty_scene_leaves_an_observatory_as_it_is(tmp_path):
    (tmp_path / "scene.yaml").write_text("name: before")
    with pytest.raises(ConfigError, match="twice"):
        observatory.build(tmp_path, SMALL.model_copy(update={"filters": ["F444W", "F444W"]}))
    assert (tmp_path / "scene.yaml").read_text() == "name: before"


@pytest.mark.pipeline
def test_the_pipelines_coordinates_are_the_headers(folder, entries, tmp_path):
    from jwst.assign_wcs import AssignWcsStep
    from stdatamodels.jwst.datamodels import ImageModel, Level1bModel

    name = entries[0]["name"]
    step = AssignWcsStep()
    for reftype in step.reference_file_types:
        setattr(step, f"override_{reftype}", "N/A")
    step.override_distortion = str(next((folder / "crds/references/jwst/nircam").glob("*distortion*.asdf")))
    with Level1bModel(folder / "raw" / f"{name}_uncal.fits") as raw:
        image = ImageModel(data=np.zeros(raw.data.shape[-2:], np.float32))
        image.update(raw)
    result = step.process(image)  # run() would ask a CRDS server for the context
    x, y = np.array([0.0, 10.0, 150.3, 319.0]), np.array([0.0, 300.0, 20.2, 319.0])
    window = geometry.window("NRCBLONG", "SUB320")
    shot = exposures.plan_shots(SMALL)[0]
    expected = shot.header.to_sky(*geometry.pixel_to_v2v3("NRCBLONG", x + window.x0, y + window.y0))
    np.testing.assert_allclose(result.meta.wcs(x, y), expected, atol=1e-5 / 3600)  # a tenth of what is promised
    assert result.meta.cal_step.assign_wcs == "COMPLETE"
