"""After the alignment: a grid that no exposure touches, and exposures that are far apart, are refused by name."""

from __future__ import annotations

import pytest
from small_wcs import SIDE, tangent_wcs
from test_wcs_files import fits_wcs

from survey.errors import TaskError
from survey.mosaics.layouts import Layout, Member
from survey.mosaics.sky_plane import LinearWcs
from survey.steps.image3.align import _box, _check_place, _check_size, _Exposure
from survey.steps.image3.members import Description

pytestmark = pytest.mark.slow  # gwcs takes seconds to import

NAMES = ("jw01345001001_02101_00001_nrcb1", "jw01345005001_02101_00001_nrcb1")


def exposures(*places):
    """Exposures of 32 x 32 pixels of 0.03 arcsec, whose pixel (x, y) is at 215, 52 degrees."""
    described = [Description({}, tangent_wcs(x, y), (SIDE, SIDE)) for x, y in places]
    return [_Exposure(name, "g", item) for name, item in zip(NAMES, described, strict=False)]


def grid(crval, shape=(100, 100)):
    middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    return {"wcs": fits_wcs(LinearWcs(crval, middle, 0.03, 0.0, shape)), "pixel_scale_ratio": 1.0}


def layout(found, wcs):
    members = tuple(Member(item.name, 0, None, _box(item.described, wcs["wcs"])) for item in found)
    return Layout((100, 100), (100, 100), True, members)


def test_a_grid_that_no_aligned_exposure_touches_is_an_error():
    found = exposures((16, 16), (20, 16))
    near, away, opposite = grid((215.0, 52.0)), grid((215.0, 52.0 + 10 / 3600)), grid((35.0, -52.0))
    _check_place("p", near, layout(found, near), found)
    with pytest.raises(
        TaskError, match=r"p: the grid of 100 x 100 pixels around 215.0000 52.0028 deg misses all 2"
    ) as e:
        _check_place("p", away, layout(found, away), found)
    assert "10.0 arcsec away; the nearest is jw01345" in str(e.value) and "survey init" in str(e.value)
    with pytest.raises(TaskError, match=r"180.00 deg away"):
        _check_place("p", opposite, layout(found, opposite), found)


def test_fields_that_are_far_apart_are_named():
    found = exposures((16, 16), (100_000, 100_000))
    with pytest.raises(TaskError) as error:
        _check_size("p", grid((215.0, 52.0), (100_000, 100_000)), found)
    text = str(error.value)
    assert "2 fields, up to 1.18 deg apart" in text and "observation 5; 1 exposure" in text
    assert "per: [filter, observation]" in text and "leave it out" not in text
    _check_size("p", grid((215.0, 52.0), (1000, 1000)), found)
