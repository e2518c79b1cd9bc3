"""Pixels that cannot be an exposure's: what is refused before the first step and behind every step."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from survey.errors import TaskError
from survey.steps.sanity import check_covered, check_image, check_ramp, ramp_fault, shape_fault

RNG = np.random.default_rng(5)


def ramp(groups: int = 3) -> np.ndarray:
    return np.cumsum(RNG.integers(1, 50, (1, groups, 6, 5)), axis=1).astype("uint16")


def write(path, image, flags=None):
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="SCI")]
    hdus += [] if flags is None else [fits.ImageHDU(flags, name="DQ")]
    fits.HDUList(hdus).writeto(path)
    return path


def test_a_ramp_with_signal_may_be_one():
    assert ramp_fault(ramp()) == ""
    assert ramp_fault(ramp().astype("float32")) == ""
    assert ramp_fault(ramp(1)) == ""


def test_one_live_pixel_is_a_signal():
    data = np.zeros((1, 3, 6, 5), "uint16")
    data[0, 2, 3, 3] = 1
    assert ramp_fault(data) == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full((1, 3, 6, 5), np.nan, "float32"), "90 of 90 samples that are NaN"),
        (np.zeros((1, 3, 6, 5), "uint16"), "never changes"),
        (np.full((1, 3, 6, 5), 65535, "uint16"), "never changes"),
        (np.full((1, 1, 6, 5), 7, "uint16"), "never changes"),
        (np.broadcast_to(ramp(1), (1, 4, 6, 5)), "never changes"),
        (np.zeros((1, 0, 6, 5), "uint16"), "shape (1, 0, 6, 5)"),
        (np.zeros((6, 5), "uint16"), "shape (6, 5)"),
        (None, "holds nothing"),
    ],
)
def test_what_cannot_be_a_ramp_is_named(data, words):
    assert words in ramp_fault(data)


def test_one_nan_is_refused():
    data = ramp().astype("float32")
    data[0, 1, 2, 2] = np.nan
    assert "1 of 90 samples" in ramp_fault(data)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, ""),
        ({"NGROUPS": 3, "NINTS": 1, "SUBSIZE1": 5, "SUBSIZE2": 6}, ""),
        ({"NINTS": 9}, ""),  # of a segment
        ({"NGROUPS": 0}, "declares NGROUPS = 0 and holds 3"),
        ({"NGROUPS": 9}, "declares NGROUPS = 9 and holds 3"),
        ({"SUBSIZE1": 6}, "declares SUBSIZE1 = 6 and holds 5"),
        ({"SUBSIZE2": 5}, "declares SUBSIZE2 = 5 and holds 6"),
        ({"NINTS": 0}, "declares NINTS = 0 and holds 1"),
    ],
)
def test_a_ramp_has_the_shape_that_its_header_declares(header, words):
    found = shape_fault((1, 3, 6, 5), header)
    assert words in found and bool(found) == bool(words)


def test_a_raw_file_is_checked_as_it_is_stored(tmp_path):
    check_ramp(write(tmp_path / "a_uncal.fits", ramp()), "detector1/a")
    with pytest.raises(TaskError, match=r"detector1/b: b_uncal.fits never changes") as raised:
        check_ramp(write(tmp_path / "b_uncal.fits", np.full((1, 3, 6, 5), 65535, "uint16")), "detector1/b")
    assert raised.value.retry == "never"


def test_the_share_of_usable_pixels(tmp_path):
    image = RNG.normal(size=(10, 10)).astype("float32")
    image[0] = np.nan
    flags = np.zeros((10, 10), "uint32")
    flags[:, 0] = 1  # DO_NOT_USE
    flags[:, 1] = 4  # a jump: the pixel is still of use
    assert check_image(write(tmp_path / "a.fits", image, flags), "image2/a") == pytest.approx(0.81)
    assert check_image(write(tmp_path / "b.fits", image), "image2/a") == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("image", "flags", "words"),
    [
        (
            np.full((4, 4), np.nan, "float32"),
            np.zeros((4, 4), "uint32"),
            "no pixel of a_cal.fits is usable: all 16",
        ),
        (RNG.normal(size=(4, 4)), np.full((4, 4), 3, "uint32"), "no pixel of a_cal.fits is usable"),
        (
            np.zeros((4, 4), "float32"),
            np.zeros((4, 4), "uint32"),
            "all 16 usable pixels of a_cal.fits have the value 0",
        ),
    ],
)
def test_an_image_without_a_usable_pixel_is_refused(tmp_path, image, flags, words):
    with pytest.raises(TaskError, match="image2/a") as raised:
        check_image(write(tmp_path / "a_cal.fits", image, flags), "image2/a")
    assert words in str(raised.value)


def test_a_mosaic_without_data_is_an_error(tmp_path):
    """One pixel in the last row has a weight, or none has."""
    weights = np.zeros((1500, 4), "float32")
    path = tmp_path / "i2d.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(weights, name="WHT")]).writeto(path)
    with pytest.raises(TaskError, match="product: no pixel of the mosaic has data"):
        check_covered(path, "product")
    weights[-1, 3] = 0.5
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(weights, name="WHT")]).writeto(path, overwrite=True)
    check_covered(path, "product")
