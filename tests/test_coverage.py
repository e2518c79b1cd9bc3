"""Exposures on a grid: inside, cut, missed; areas, distances and fields."""

from __future__ import annotations

import math

import pytest

from survey.mosaics.coverage import (
    angle_text,
    border_gap_deg,
    coverage,
    farthest_deg,
    fields_of,
    fields_text,
    how_to_split,
    is_nearly_empty,
)
from survey.mosaics.sky_plane import LinearWcs, unproject

SIDE = 10.0  # of a footprint [arcsec]


def grid(crval=(10.0, 0.0), rotation=0.0, side=1000):
    return LinearWcs(crval, ((side - 1) / 2, (side - 1) / 2), 0.1, rotation, (side, side))


def square(wcs, x_arcsec, y_arcsec, side=SIDE):
    """A square around an offset from a grid's centre, along its axes."""
    corners = [(x_arcsec + sx * side / 2, y_arcsec + sy * side / 2) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [unproject(corner, wcs.crval_deg, 1.0, wcs.rotation_deg) for corner in corners]


@pytest.mark.parametrize("crval", [(10.0, 0.0), (0.0, -30.0), (359.9999, 89.999), (120.0, 90.0), (214.8, 52.8)])
@pytest.mark.parametrize("rotation", [0.0, 33.0])
def test_a_grid_holds_cuts_and_misses_at_any_place_of_the_sky(crval, rotation):
    """The grid is 100 arcsec wide: 1/4 of one exposure is beyond its border, another is 40 arcsec away."""
    wcs = grid(crval, rotation)
    polygons = {"in": [square(wcs, 0, 0)], "cut": [square(wcs, 47.5, 0)], "out": [square(wcs, 95, 0)]}
    found = coverage(wcs, polygons)
    assert (found.cut, found.missed) == (("cut",), ("out",))
    assert found.outside == pytest.approx((0.25 + 1) / 3, abs=1e-4)
    assert found.gap_deg * 3600 == pytest.approx(40, abs=0.01)


def test_a_footprint_that_passes_a_corner_of_the_grid_is_missed():
    """The box around a turned footprint overlaps the grid, the footprint does not."""
    wcs = grid()
    turned = [unproject(point, wcs.crval_deg, 1.0, 0.0) for point in ((56, 46), (66, 56), (56, 66), (46, 56))]
    assert coverage(wcs, {"a": [turned]}).missed == ("a",)
    inside = [unproject(point, wcs.crval_deg, 1.0, 0.0) for point in ((52, 42), (62, 52), (52, 62), (42, 52))]
    assert coverage(wcs, {"a": [inside]}).cut == ("a",)


def test_within_the_tolerance_an_exposure_is_not_missed():
    wcs = grid()
    beside = {"a": [square(wcs, 50 + SIDE / 2 + 0.5, 0)]}
    assert coverage(wcs, beside).missed == ("a",)
    assert coverage(wcs, beside, 1.0).cut == ("a",)


@pytest.mark.parametrize("place", [(190.0, 0.0), (100.0, 0.0), (10.0, 89.0), (15.0, 0.0)])
def test_far_away_is_outside_also_on_the_other_side_of_the_sky(place):
    """A tangent plane shows the antipode at its own origin."""
    wcs = grid()
    far = square(grid(place), 0, 0)
    found = coverage(wcs, {"far": [far], "in": [square(wcs, 0, 0)]})
    assert found.missed == ("far",) and found.outside == pytest.approx(0.5, abs=1e-3)
    assert found.gap_deg == pytest.approx(math.degrees(math.acos(_cosine(place))), abs=0.05)


def _cosine(place):
    ra, dec = math.radians(place[0] - 10.0), math.radians(place[1])
    return math.cos(dec) * math.cos(ra)


def test_an_exposure_in_one_of_two_outlines_is_cut_at_most():
    wcs = grid()
    assert coverage(wcs, {"a": [square(wcs, 0, 0), square(wcs, 500, 0)]}).cut == ("a",)
    assert coverage(wcs, {"a": [square(wcs, 700, 0), square(wcs, 500, 0)]}).missed == ("a",)
    assert coverage(wcs, {}) == coverage(wcs, {"a": [square(wcs, 0, 0)]})


def test_fields_across_the_meridian():
    polygons = {"a": [square(grid((359.99, 0.0)), 0, 0)], "b": [square(grid((0.01, 0.0)), 0, 0)],
                "c": [square(grid((1.2, 0.0)), 0, 0)]}  # fmt: skip
    found = fields_of(polygons)
    assert [item.names for item in found] == [("a", "b"), ("c",)]
    assert farthest_deg(found) == pytest.approx(1.2, abs=1e-6)
    labels = {"a": "1", "b": "10", "c": "2"}
    assert fields_text(found, labels) == [
        "field 1 around 0.0000 0.0000 deg (observations 1, 10; 2 exposures)",
        "field 2 around 1.2000 0.0000 deg (observation 2; 1 exposure)",
    ]
    assert "per: [filter, observation]" in how_to_split(found, labels)
    assert "'observations: [1, 10]' and 'observations: [2]'" in how_to_split(found, labels)
    several = {"a": "1345:1", "b": "1345:10", "c": "2079:2"}
    assert "'observations: {1345: [1, 10]}' and 'observations: {2079: [2]}'" in how_to_split(found, several)
    shared = how_to_split(found, dict.fromkeys("abc", "7"))
    assert "Observation 7 has exposures in more than one field" in shared and "'exclude:'" in shared


def test_angles_and_sizes():
    assert (angle_text(5.0), angle_text(40 / 3600)) == ("5.00 deg", "40.0 arcsec")
    assert border_gap_deg(grid(), square(grid(), 0, 0)) == pytest.approx(0, abs=1e-12)
    assert (is_nearly_empty(6e7, 1.0), is_nearly_empty(7e7, 1e6), is_nearly_empty(2e8, 1e6)) == (False, False, True)
