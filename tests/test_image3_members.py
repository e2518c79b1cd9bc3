"""What an association says of its members, in the pixels: the pipeline's own Image3 against both engines."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from small_image3 import (
    exposures_of,
    keywords,
    name_of,
    pipeline,
    planes,
    run,
    stars_on,
    survey_config,
    write_asn,
    write_cal,
)

from survey.digest import file_sha256
from survey.mosaics.association_files import read_association
from survey.mosaics.layouts import read_layout

pytestmark = pytest.mark.pipeline

PRODUCT = "jw01345-a3001_t001_nircam_clear-f200w"
OFFSETS = ((-20, -15), (18, -12), (-14, 20), (22, 17))
ERRORS = ((0, 0), (1.5, -0.8), (1.5, -0.8), (-1.1, 0.9))


@pytest.fixture(autouse=True)
def without_crds(monkeypatch, tmp_path):
    monkeypatch.setenv("STPIPE_DISABLE_CRDS_STEPPARS", "true")
    monkeypatch.setenv("CRDS_CONTEXT", "jwst_0001.pmap")
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "crds"))
    monkeypatch.setenv("CRDS_SERVER_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("stpipe.crds_client.get_context_used", lambda *_: "jwst_0001.pmap")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cals(tmp_path):
    """Four exposures of one field; the WCS of all but the first is wrong."""
    return [
        write_cal(
            tmp_path / "cal" / f"{name_of(number)}_cal.fits", number, OFFSETS[number - 1], error=ERRORS[number - 1]
        )
        for number in (1, 2, 3, 4)
    ]


def catalogued(association, folder):
    """The association with its catalogues, as `survey.reduction.members` finds them."""
    listed = {item.name: folder / item.catalog for item in association.listed if item.catalog}
    return replace(association, catalogs={name: (str(path), file_sha256(path)) for name, path in listed.items()})


def made_by_all(tmp_path, paths, settings, **attributes):
    """Mosaics of the pipeline and of both engines, and the associations' notes."""
    asn = write_asn(paths[0].parent / "own_asn.json", [path.name for path in paths], PRODUCT, **attributes)
    theirs = pipeline(asn, tmp_path / "plain", settings)
    found = catalogued(read_association(asn), asn.parent)
    made = {"pipeline": theirs / f"{PRODUCT}_i2d.fits"}
    for engine in ("tiled", "stock"):
        config = survey_config(tmp_path / engine, engine, settings)
        made[engine] = run(config, found, exposures_of(paths)) / "mosaics" / f"{PRODUCT}_i2d.fits"
    return made


def assert_same(made):
    for engine in ("tiled", "stock"):
        assert keywords(made[engine]) == keywords(made["pipeline"]), engine
        own, theirs = planes(made[engine]), planes(made["pipeline"])
        assert own.keys() == theirs.keys()
        for name, pixels in theirs.items():
            assert own[name] == pixels, f"{engine}: {name}"


def test_groups_of_an_association_are_the_pipelines(cals, tmp_path):
    groups = ["one", "two", "two", None]
    made = made_by_all(tmp_path, cals, {}, group_id=groups)
    assert keywords(made["pipeline"])["S_TWKREG"] == "COMPLETE"
    assert_same(made)
    layout = read_layout(tmp_path / "tiled", PRODUCT)
    assert layout.groups == [(0,), (1, 2), (3,)]
    assert [member.aligned.group_id for member in layout.members[:3]] == groups[:3]
    plain = write_asn(cals[0].parent / "plain_asn.json", [path.name for path in cals], PRODUCT)
    others = planes(pipeline(plain, tmp_path / "ungrouped", {}) / f"{PRODUCT}_i2d.fits")
    assert others["SCI,1"] != planes(made["pipeline"])["SCI,1"], "the groups make no difference in this scene"


def test_catalogues_of_an_association_are_the_pipelines(cals, tmp_path):
    """Of two members, of which one is in FITS and has other names of columns; sources are searched in the others."""
    from astropy.table import Table

    rows = stars_on(OFFSETS[0]), stars_on(OFFSETS[1])
    Table(rows[0], names=("x", "y", "flux")).write(cals[0].parent / "one.ecsv")
    Table(rows[1], names=("xcentroid", "ycentroid", "flux")).write(cals[0].parent / "two.fits")
    catalogs = ["one.ecsv", "two.fits", None, ""]
    settings = {"tweakreg": {"use_custom_catalogs": True}}
    made = made_by_all(tmp_path, cals, settings, tweakreg_catalog=catalogs)
    assert keywords(made["pipeline"])["S_TWKREG"] == "COMPLETE"
    assert_same(made)


def test_a_moving_target_is_followed_as_by_the_pipeline(tmp_path):
    cals = [
        write_cal(
            tmp_path / "cal" / f"{name_of(number)}_cal.fits", number, OFFSETS[number - 1], target__type="MOVING",
            wcsinfo__mt_ra=150.0 + number * 1e-4, wcsinfo__mt_dec=2.0 - number * 2e-4,
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
    made = made_by_all(tmp_path, cals, {})
    found = keywords(made["pipeline"])
    assert (found["S_MTWCS"], "S_TWKREG" in found) == ("COMPLETE", False)
    assert_same(made)


@pytest.mark.parametrize("setting", ["skipped", "unknown"])
def test_a_moving_target_that_is_not_followed_is_not_aligned_otherwise(tmp_path, setting):
    """The step is skipped, or a member's header does not say where the target was."""
    cals = [
        write_cal(
            tmp_path / "cal" / f"{name_of(number)}_cal.fits", number, OFFSETS[number - 1], target__type="MOVING",
            **({} if setting == "unknown" and number == 2 else
               {"wcsinfo__mt_ra": 150.0 + number * 1e-4, "wcsinfo__mt_dec": 2.0}),
        )
        for number in (1, 2)
    ]  # fmt: skip
    made = made_by_all(tmp_path, cals, {"assign_mtwcs": {"skip": True}} if setting == "skipped" else {})
    assert keywords(made["pipeline"])["S_MTWCS"] == ("SKIPPED" if setting == "skipped" else "COMPLETE")
    assert_same(made)


def test_one_exposure_alone_is_that_of_the_pipeline(cals, tmp_path):
    """One group: no alignment, no sky, no outliers. The pipeline writes FAILED for what it leaves out."""
    made = made_by_all(tmp_path, cals[:1], {})
    found = keywords(made["pipeline"])
    assert (found["S_TWKREG"], found["S_OUTLIR"]) == ("FAILED", "FAILED")
    assert_same(made)


def test_two_detectors_of_one_moment_are_those_of_the_pipeline(tmp_path):
    """One group of two members: tweakreg is skipped, outliers are not."""
    cals = [
        write_cal(tmp_path / "cal" / f"{name_of(1, detector)}_cal.fits", 1, OFFSETS[number],
                  instrument__detector=detector.upper())
        for number, detector in enumerate(("nrcb1", "nrcb2"))
    ]  # fmt: skip
    made = made_by_all(tmp_path, cals, {})
    found = keywords(made["pipeline"])
    assert (found["S_TWKREG"], found["S_OUTLIR"]) == ("FAILED", "COMPLETE")
    assert_same(made)


def test_members_without_sources_are_those_of_the_pipeline(cals, tmp_path):
    made = made_by_all(tmp_path, cals[:2], {"tweakreg": {"snr_threshold": 1e6}})
    assert keywords(made["pipeline"])["S_TWKREG"] == "FAILED"
    assert_same(made)


def test_a_group_in_a_file_is_that_of_the_pipeline(tmp_path):
    """crf files of an earlier run hold their group_id."""
    cals = [
        write_cal(tmp_path / "cal" / f"{name_of(number)}_cal.fits", number, OFFSETS[number - 1], group_id="same")
        for number in (1, 2)
    ]
    made = made_by_all(tmp_path, cals, {})
    assert keywords(made["pipeline"])["S_TWKREG"] == "FAILED"
    assert_same(made)


@pytest.mark.parametrize("kind", ["tweakreg.asdf", "a3001_crf.fits"])
def test_a_given_alignment_is_applied(cals, tmp_path, kind):
    """Files as published with CEERS, or crf files: the mosaic is that of exposures which have this WCS themselves."""
    import asdf
    from stdatamodels.jwst import datamodels

    folder, own = tmp_path / "aligned", []
    folder.mkdir()
    for number, path in enumerate(cals[:2], 1):
        right = write_cal(tmp_path / "right" / path.name, number, OFFSETS[number - 1], error=(0.3 * number, -0.2))
        place = folder / path.name.replace("cal.fits", kind)
        if kind.endswith(".fits"):
            shutil.copy(right, place)
        else:
            with datamodels.open(right) as model:
                asdf.AsdfFile({"wcs": model.meta.wcs}).write_to(place)
        own.append(right)
    settings = {"tweakreg": {"skip": True}}
    asn = write_asn(tmp_path / "right" / "own_asn.json", [path.name for path in own], PRODUCT)
    theirs = pipeline(asn, tmp_path / "plain", settings) / f"{PRODUCT}_i2d.fits"
    config = survey_config(tmp_path / "tiled", "tiled", {}, alignment=str(folder))
    mine = run(config, read_association(asn), exposures_of(cals[:2])) / "mosaics" / f"{PRODUCT}_i2d.fits"
    assert planes(mine) == planes(theirs)


@pytest.fixture
def lists(cals):
    """Files that parameters name: sky levels, and a catalogue of the field that is shifted by 0.05 arcsec."""
    from astropy.table import Table
    from stdatamodels.jwst import datamodels

    levels = cals[0].parent / "levels.txt"
    levels.write_text("".join(f"{path.name} {0.1 * number}\n" for number, path in enumerate(cals[:2], 1)))
    x, y, flux = stars_on(OFFSETS[0])
    with datamodels.open(cals[0]) as model:
        ra, dec = model.meta.wcs(x, y, with_bounding_box=False)
    catalogue = cals[0].parent / "catalogue.ecsv"
    Table({"RA": ra + 0.05 / 3600, "DEC": dec, "flux": flux}).write(catalogue)
    return {"levels": str(levels), "catalogue": str(catalogue)}


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (2, {"skymatch": {"skymethod": "global+match"}}),
        (2, {"skymatch": {"skymethod": "local", "subtract": True}}),
        (1, {"skymatch": {"skymethod": "global"}}),
        (2, {"skymatch": {"skymethod": "user", "skylist": "{levels}", "subtract": True}}),
        (2, {"tweakreg": {"abs_refcat": "{catalogue}", "sip_approx": False}}),
        (1, {"tweakreg": {"abs_refcat": "{catalogue}"}}),
        (1, {"tweakreg": {"save_catalogs": True}}),
        (2, {"resample": {"enable_err": False, "enable_ctx": False}, "outlier_detection": {"skip": True}}),
        (2, {"resample": {"propagate_dq": True, "report_var": False}, "skymatch": {"skip": True}}),
        (2, {"tweakreg": {"skip": True}, "outlier_detection": {"weight_type": "exptime", "backg": 0.1}}),
    ],
)  # fmt: skip
def test_parameters_take_the_branches_of_the_pipeline(cals, lists, tmp_path, number, settings):
    chosen = {
        step: {name: value.format(**lists) if isinstance(value, str) else value for name, value in values.items()}
        for step, values in settings.items()
    }
    asn = write_asn(cals[0].parent / "own_asn.json", [path.name for path in cals[:number]], PRODUCT)
    theirs = pipeline(asn, tmp_path / "plain", chosen) / f"{PRODUCT}_i2d.fits"
    config = survey_config(tmp_path / "tiled", "tiled", chosen)
    mine = run(config, read_association(asn), exposures_of(cals[:number])) / "mosaics" / f"{PRODUCT}_i2d.fits"
    assert keywords(mine) == keywords(theirs)
    assert planes(mine) == planes(theirs)
