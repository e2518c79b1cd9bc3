"""The archive's grammar: what it builds it reads, and nothing else gets through."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survey.errors import ProductNameError
from survey.names import (
    ExposureName,
    MosaicName,
    optical_elements,
    parse_exposure,
    parse_mosaic,
    split_file,
)
from survey.nircam import DETECTORS

EXPOSURE = "jw01345001001_02201_00001_nrcblong"
MOSAIC = "jw01345-o001_t021_nircam_clear-f115w"

_BASE36 = string.digits + string.ascii_lowercase
_EXPOSURES = st.builds(
    ExposureName,
    program=st.integers(1, 99_999),
    observation=st.integers(1, 999),
    visit=st.integers(1, 999),
    group=st.integers(0, 99).map("{:02d}".format),
    sequence=st.integers(0, 9).map(str),
    activity=st.text(_BASE36, min_size=2, max_size=2),
    exposure=st.integers(1, 99_999),
    detector=st.sampled_from(DETECTORS),
    segment=st.none() | st.integers(1, 999),
)
_MOSAICS = st.builds(
    MosaicName,
    program=st.integers(1, 99_999),
    acid=st.sampled_from(["o001", "c1000", "a3001", "r0001", ""]),
    target=st.integers(0, 999),
    instrument=st.just("nircam"),
    elements=st.sampled_from(["clear-f200w", "f150w2-f162m"]),
    subarray=st.none() | st.sampled_from(["sub320", "sub640"]),
    epoch=st.none() | st.integers(0, 9999),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_EXPOSURES)
def test_an_exposure_name_goes_round(name):
    assert parse_exposure(str(name)) == name
    assert split_file(name.file("uncal")) == (name, "uncal")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(_MOSAICS)
def test_a_mosaic_name_goes_round(name):
    assert parse_mosaic(str(name)) == name
    assert split_file(name.file("i2d")) == (name, "i2d")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=60) | st.text(max_size=3).map(lambda text: f"{EXPOSURE}{text}_uncal.fits"))
def test_what_is_read_is_what_would_be_written(text):
    try:
        name, suffix = split_file(text)
    except ProductNameError:
        return
    assert text.startswith(f"{name}_{suffix}.")
    assert "/" not in text and "\0" not in text and text.isascii()


def test_known_exposure():
    name = parse_exposure("jw01345052001_0210a_00002-seg003_nrca3")
    assert (name.program, name.observation, name.visit) == (1345, 52, 1)
    assert (name.group, name.sequence, name.activity) == ("02", "1", "0a")  # the activity is base 36
    assert (name.exposure, name.segment, name.detector) == (2, 3, "NRCA3")


def test_known_mosaic():
    name = parse_mosaic(f"{MOSAIC}-sub320")
    assert (name.program, name.acid, name.target) == (1345, "o001", 21)
    assert (name.elements, name.subarray) == ("clear-f115w", "sub320")


@pytest.mark.parametrize(
    ("name", "acid", "target", "epoch"),
    [
        ("jw01345-o001_t001-epoch12_nircam_clear-f200w", "o001", 1, 12),
        ("jw01345-c1001_t005-epoch1_nircam_clear-f200w-sub320", "c1001", 5, 1),
        ("jw01345-a3001_t005-epoch0_nircam_f150w2-f162m", "a3001", 5, 0),
        ("jw01345-t005-epoch1_nircam_clear-f200w", "", 5, 1),
        ("jw01345-c1001_t005_nircam_clear-f200w", "c1001", 5, None),
    ],
)
def test_a_mosaic_can_be_of_one_epoch(name, acid, target, epoch):
    found = parse_mosaic(name)
    assert (found.program, found.acid, found.target, found.epoch) == (1345, acid, target, epoch)
    assert str(found) == name
    assert split_file(f"{name}_i2d.fits") == (found, "i2d")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        EXPOSURE.upper(),
        f"{EXPOSURE}\n",
        f"{EXPOSURE} ",
        f"../{EXPOSURE}",
        f"{EXPOSURE}_rate",
        EXPOSURE.replace("01345", "1345"),
        EXPOSURE.replace("01345", "0134\u0665"),
        "jw01345xx1001_02201_00001_nrcb1",
    ],
)
def test_bad_exposure_names(bad):
    with pytest.raises(ProductNameError, match="not an exposure name") as caught:
        parse_exposure(bad)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "bad",
    ["", EXPOSURE, f"{MOSAIC}\n", MOSAIC.replace("o001", "x001"), f"{MOSAIC}-", f"/{MOSAIC}",
     MOSAIC.replace("t021", "t021-epoch"), MOSAIC.replace("t021", "t021-epoch01"), MOSAIC.replace("_t021", "-epoch1")],
)  # fmt: skip
def test_bad_mosaic_names(bad):
    with pytest.raises(ProductNameError, match="not a level-3 product name"):
        parse_mosaic(bad)


@pytest.mark.parametrize(
    "bad",
    [
        f"/{EXPOSURE}_uncal.fits",
        f"../{EXPOSURE}_uncal.fits",
        f"{EXPOSURE}_uncal.fits\0",
        f"{EXPOSURE}_uncal.fits/..",
        f"{EXPOSURE}_uncal.exe",
        f"{EXPOSURE}_.fits",
        f"{EXPOSURE}.fits",
        "_.fits",
        "passwd",
        "x" * 10_000,
    ],
)
def test_bad_file_names(bad):
    with pytest.raises(ProductNameError) as caught:
        split_file(bad)
    assert len(str(caught.value)) < 400


def test_suffix_and_elements():
    assert optical_elements("F200W", "CLEAR") == optical_elements("CLEAR", "F200W") == "clear-f200w"
    assert optical_elements("F150W2", "F162M") == "f150w2-f162m"
