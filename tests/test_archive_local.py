"""A folder of raw files in place of an archive: headers alone are read."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from dataclasses import replace
from hashlib import sha256

import pytest
from observatory import CORNERS, make_observatory, write_raw

from survey.archive import local
from survey.archive.headers import DamagedFileError
from survey.archive.held import expected, held
from survey.archive.ledger import LEDGER, Ledger
from survey.archive.local import find_exposures, read_exposure
from survey.archive.raw import checked_facts, link_local
from survey.errors import ConfigError, ProductNameError, SurveyError
from survey.models import LOST, Exposure

ONE = "jw01345001001_02101_00001_nrcb1"


@pytest.fixture
def folder(tmp_path):
    return make_observatory(tmp_path, observations=(1, 2), exposures=1) / "raw"


def test_headers_tell_the_exposure(folder):
    exposure = read_exposure(folder / f"{ONE}_uncal.fits")
    assert (exposure.name, exposure.program, exposure.observation, exposure.visit) == (ONE, 1345, 1, 1)
    assert (exposure.detector, exposure.filter, exposure.pupil, exposure.subarray) == (
        "NRCB1",
        "F200W",
        "CLEAR",
        "SUB320",
    )
    assert (exposure.groups, exposure.integrations, exposure.start_mjd) == (3, 1, 59934.5)
    assert exposure.footprint == CORNERS  # a string longer than one card
    assert exposure.size == (folder / f"{ONE}_uncal.fits").stat().st_size


def test_choice(folder):
    (folder / "notes.txt").write_text("x")
    found, faults = find_exposures(folder)
    assert len(found) == 6 and faults == {} and [item.name for item in found] == sorted(item.name for item in found)
    assert len(find_exposures(folder, 1345, observations=[2], filters=["f200w"])[0]) == 2


def test_bad_files_are_named_and_the_others_found(folder):
    os.truncate(folder / f"{ONE}_uncal.fits", 11520)
    (folder / "odd_uncal.fits").write_bytes(b"")
    (folder / f"{ONE[:-1]}3_uncal.fits").write_bytes(b"<html>")
    (folder / f"{ONE[:-1]}4_uncal.fits").symlink_to(folder / "nowhere")
    found, faults = find_exposures(folder)
    assert len(found) == 5
    assert set(faults) == {f"{ONE}_uncal.fits", "odd_uncal.fits", f"{ONE[:-1]}3_uncal.fits", f"{ONE[:-1]}4_uncal.fits"}
    assert "11520 bytes" in faults[f"{ONE}_uncal.fits"]


def test_other_data_is_left_out(folder):
    for name, detector, keywords in (
        ("jw01345001001_02101_00009_nrcb1", "NRCB1", {"EXP_TYPE": "NRC_TACQ"}),
        ("jw01345001001_02101_00009_mirimage", "MIRIMAGE", {"EXP_TYPE": "MIR_IMAGE"}),
        ("jw01345001001_02101_00009_nrcblong", "NRCBLONG", {"FILTER": "F200W"}),
    ):
        write_raw(folder / f"{name}_uncal.fits", name, detector, keywords.pop("FILTER", "F200W"), **keywords)
        assert read_exposure(folder / f"{name}_uncal.fits") is None
    assert len(find_exposures(folder)[0]) == 6


def test_narrow_filter_in_the_pupil_wheel(folder):
    name = "jw01345001001_02101_00007_nrcb1"
    write_raw(folder / f"{name}_uncal.fits", name, "NRCB1", "F150W2", PUPIL="F162M")
    exposure = read_exposure(folder / f"{name}_uncal.fits")
    assert (exposure.filter, exposure.pupil) == ("F162M", "F150W2")


def test_header_of_another_exposure(folder):
    path = folder / "jw01345001001_02101_00008_nrcb1_uncal.fits"
    write_raw(path, "jw09999001001_02101_00008_nrcb1", "NRCB1", "F200W")
    with pytest.raises(DamagedFileError, match="program 9999"):
        read_exposure(path)


def test_errors_say_what_the_folder_has(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"archive\.local"):
        find_exposures(tmp_path / "nowhere")
    with pytest.raises(SurveyError, match="F200W, F444W"):
        find_exposures(folder, filters=["F115W"])
    with pytest.raises(SurveyError, match="program 2"):
        find_exposures(folder, 2)
    with pytest.raises(ProductNameError):
        read_exposure(tmp_path / "x_uncal.fits")


def test_cache_spares_the_headers_of_unchanged_files(folder, tmp_path, monkeypatch):
    first, _ = find_exposures(folder)
    linked, _ = link_local(first, tmp_path / "raw")
    opened = []
    read = local.read_exposure
    monkeypatch.setattr(local, "read_exposure", lambda path: opened.append(path.name) or read(path))
    ledger = tmp_path / "raw" / LEDGER
    lines = ledger.read_bytes()
    assert find_exposures(folder, cache=Ledger(ledger))[0] == linked and opened == []
    write_raw(folder / f"{ONE}_uncal.fits", ONE, "NRCB1", "F115W")
    again, _ = find_exposures(folder, cache=Ledger(ledger))
    assert opened == [f"{ONE}_uncal.fits"] and again[0].filter == "F115W"
    assert ledger.read_bytes() == lines  # whoever looks does not hold the workspace


@pytest.mark.parametrize(
    "odd",
    [
        {"footprint": 5}, {"footprint": [["a", "b"]]}, {"footprint": [[1.0]]}, {"footprint": [[1.0, float("nan")]]},
        {"filter": 5}, {"filter": ["F200W"]}, {"pupil": {}}, {"subarray": 3}, {"subarray": "S" * 500},
        {"groups": "5"}, {"groups": 2.5}, {"groups": True}, {"groups": -1}, {"integrations": [1]},
        {"start_mjd": "today"}, {"start_mjd": float("inf")},
    ],
)  # fmt: skip
def test_a_ledger_line_of_odd_facts_is_not_known(folder, tmp_path, odd):
    first, _ = find_exposures(folder)
    link_local(first, tmp_path / "raw")
    path = tmp_path / "raw" / LEDGER
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(Ledger(path)) == len(lines)
    lines[0]["facts"] |= odd
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert lines[0]["name"] not in Ledger(path).names() and len(Ledger(path)) == len(lines) - 1
    assert len(held(tmp_path / "raw")) == len(lines) - 1
    assert find_exposures(folder, cache=Ledger(path))[0] != ()


@pytest.mark.parametrize(
    "keywords",
    [{"FILTER": "F115W"}, {"FILTER": "F444W"}, {"EXP_TYPE": "NRC_GRISM"}, {"PUPIL": "WLP8"}, {"OBSERVTN": "002"},
     {"VISIT": "003"}],
)  # fmt: skip
def test_file_that_is_not_the_one_of_its_row_is_refused(tmp_path, keywords):
    row = Exposure(ONE, 1345, 1, 1, "NRCB1", "F200W", uri="mast:JWST/product/x")
    path = tmp_path / row.file
    write_raw(path, ONE, "NRCB1", "F200W", OBSERVTN="001", VISIT="001")
    assert checked_facts(path, row)["filter"] == "F200W"
    write_raw(
        path, ONE, "NRCB1", keywords.get("FILTER", "F200W"), **{k: v for k, v in keywords.items() if k != "FILTER"}
    )
    with pytest.raises(DamagedFileError, match="by its header"):
        checked_facts(path, row)


def test_row_that_names_the_narrow_filter_alone_fits_its_pair(tmp_path):
    row = Exposure(ONE, 1345, 1, 1, "NRCB1", "F162M", uri="mast:JWST/product/x")
    write_raw(tmp_path / row.file, ONE, "NRCB1", "F150W2", PUPIL="F162M")
    assert checked_facts(tmp_path / row.file, row)["pupil"] == "F150W2"


def test_a_footprint_is_read_from_the_wcs_where_there_is_no_s_region(tmp_path):
    """Cal files that others wrote: 32 x 32 pixels of 0.03 arcsec around 10, 60 degrees, y to the north."""
    from astropy.io import fits

    name = "jw01345001001_02101_00001_nrcb1"
    path = tmp_path / f"{name}_uncal.fits"
    write_raw(path, name, "NRCB1", "F200W")
    with fits.open(path, mode="update") as hdus:
        header = hdus["SCI"].header
        del header["S_REGION"]
    assert read_exposure(path).footprint is None
    with fits.open(path, mode="update") as hdus:
        step = 0.03 / 3600
        linear = {"CRVAL1": 10.0, "CRVAL2": 60.0, "CRPIX1": 16.5, "CRPIX2": 16.5, "CDELT1": step, "CDELT2": step,
                  "PC1_1": -1.0, "PC1_2": 0.0, "PC2_1": 0.0, "PC2_2": 1.0}  # fmt: skip
        hdus["SCI"].header.update(linear)
    found = read_exposure(path).footprint
    half = 16 * step
    assert found[0] == pytest.approx((10.0 + 2 * half, 60.0 - half), abs=1e-8)  # cos 60 = 1/2
    assert found[2] == pytest.approx((10.0 - 2 * half, 60.0 + half), abs=1e-8)


def test_files_are_found_at_any_depth_and_copies_count_once(folder, tmp_path):
    deep = tmp_path / "mast" / "mastDownload" / "JWST"
    for path in sorted(folder.glob("*_uncal.fits")):
        place = deep / path.name.removesuffix("_uncal.fits") / path.name
        place.parent.mkdir(parents=True)
        shutil.copy(path, place)
    assert [item.name for item in find_exposures(tmp_path / "mast")[0]] == [i.name for i in find_exposures(folder)[0]]
    shutil.copy(deep / ONE / f"{ONE}_uncal.fits", tmp_path / "mast" / f"{ONE}_uncal.fits")
    (deep / "again").symlink_to(deep)
    found, faults = find_exposures(tmp_path / "mast")
    assert len(found) == 6 and faults == {}
    assert found[0].uri == str(tmp_path / "mast" / f"{ONE}_uncal.fits")
    write_raw(tmp_path / "mast" / f"{ONE}_uncal.fits", ONE, "NRCB1", "F200W", TARGNAME="other")
    found, faults = find_exposures(tmp_path / "mast")
    assert len(found) == 5 and "is there twice with different content" in faults[f"{ONE}_uncal.fits"]


def test_an_empty_folder_says_what_else_there_is(tmp_path):
    for name in ("a_rate.fits", "b_rate.fits", "c_cal.fits"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SurveyError) as raised:
        find_exposures(tmp_path, 1345)
    assert "There are also 2 _rate.fits and 1 _cal.fits files" in str(raised.value)


@pytest.fixture
def packed(folder, tmp_path):
    """A folder with one raw file that is compressed, and the content of that file."""
    path = folder / f"{ONE}_uncal.fits"
    content = path.read_bytes()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / f"{path.name}.gz").write_bytes(gzip.compress(content))
    return tmp_path / "packed", content


def test_compressed_files_are_read_and_their_content_is_kept(packed, folder, tmp_path):
    place, content = packed
    found, faults = find_exposures(place, 1345)
    plain = read_exposure(folder / f"{ONE}_uncal.fits")
    assert faults == {} and [replace(item, uri="") for item in found] == [replace(plain, uri="")]
    good, missing = link_local(found, tmp_path / "ws")
    kept = tmp_path / "ws" / f"{ONE}_uncal.fits"
    assert missing == {} and kept.read_bytes() == content and not kept.is_symlink()
    assert good[0].sha256 == sha256(content).hexdigest()
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name, LEDGER]
    lines, before = (kept.parent / LEDGER).read_text(), kept.stat()
    cached = find_exposures(place, 1345, cache=Ledger(kept.parent / LEDGER))[0]
    assert expected(cached, kept.parent, {}, local=True)[0].sha256 == good[0].sha256
    assert link_local(cached, kept.parent)[0][0].sha256 == good[0].sha256
    assert (kept.parent / LEDGER).read_text() == lines and kept.stat().st_ino == before.st_ino


def test_a_lost_or_replaced_compressed_file_is_decompressed_again(packed, folder, tmp_path):
    place, content = packed
    found, _ = find_exposures(place)
    good, _ = link_local(found, tmp_path / "ws")
    kept = tmp_path / "ws" / f"{ONE}_uncal.fits"
    kept.unlink()
    lost = expected(found, kept.parent, {}, local=True)[0]
    assert (lost.sha256, lost.absent) == (good[0].sha256, LOST)
    assert link_local(found, kept.parent)[0][0].sha256 == good[0].sha256 and kept.read_bytes() == content
    write_raw(folder / "other.fits", ONE, "NRCB1", "F200W", TARGNAME="other")
    (place / f"{ONE}_uncal.fits.gz").write_bytes(gzip.compress((folder / "other.fits").read_bytes()))
    found, _ = find_exposures(place, cache=Ledger(kept.parent / LEDGER))
    changed, _ = link_local(found, kept.parent)
    assert changed[0].sha256 != good[0].sha256 and kept.read_bytes() == (folder / "other.fits").read_bytes()


def test_a_file_is_preferred_to_the_same_one_compressed(packed, folder):
    place, content = packed
    (place / f"{ONE}_uncal.fits").write_bytes(content)
    found, faults = find_exposures(place)
    assert [item.uri for item in found] == [str(place / f"{ONE}_uncal.fits")] and faults == {}


@pytest.mark.parametrize("damage", ["cut", "foreign", "checksum", "large"])
def test_a_damaged_compressed_file_is_named(packed, monkeypatch, damage):
    place, _ = packed
    path = place / f"{ONE}_uncal.fits.gz"
    data = path.read_bytes()
    if damage == "large":
        monkeypatch.setattr("survey.archive.compressed.MAX_BYTES", 1000)
    else:
        path.write_bytes({"cut": data[:-20], "foreign": b"<html>", "checksum": data[:-6] + b"\0\0" + data[-4:]}[damage])
    with pytest.raises(SurveyError) as raised:
        find_exposures(place)
    cause = "holds more than" if damage == "large" else "cannot be decompressed"
    assert f"{path.name}: {cause}" in str(raised.value)


@pytest.mark.parametrize(
    ("detector", "filter_name", "keywords", "cause"),
    [
        ("NRCB1", "F212N", {"PUPIL": "WLP8"}, "PUPIL WLP8 is a weak lens"),
        ("NRCBLONG", "F444W", {"PUPIL": "GRISMR"}, "PUPIL GRISMR is a grism"),
        ("NRCB1", "F200W", {"EXP_TYPE": "NRC_TACQ"}, "EXP_TYPE NRC_TACQ, target acquisition"),
        ("NRCB1", "F200W", {"CORONMSK": "MASKA210R"}, "CORONMSK MASKA210R"),
        ("NRCB1", "F200W", {"CORONMSK": "NONE"}, ""),
        ("NIS", "F200W", {"EXP_TYPE": "NIS_IMAGE"}, "detector NIS is not one of NIRCam"),
        ("NRCB1", "F444W", {}, "FILTER F444W is not one of NRCB1"),
    ],
)
def test_exposures_that_are_no_imaging_are_left_out_with_their_cause(folder, detector, filter_name, keywords, cause):
    name = f"jw01345001001_02101_00009_{detector.lower()}"
    write_raw(folder / f"{name}_uncal.fits", name, detector, filter_name, **keywords)
    found = local.search(folder, 1345)
    assert found.faults == {} and (len(found.exposures), len(found.left_out)) == ((6, 1) if cause else (7, 0))
    assert all(item.name == name and item.excluded.startswith(cause) for item in found.left_out)
