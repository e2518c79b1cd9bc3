"""The smallest grid around footprints, and fields that are far apart."""

from __future__ import annotations

import math
import random

import pytest
from test_sky_plane import astropy_wcs

from survey.mosaics.enclosing import MARGIN_ARCSEC, enclosing_grid, fields, hull, sky_hull, smallest_rotation_deg
from survey.mosaics.sky_plane import LinearWcs, separation_deg, unproject


def strip(angle, centre=(214.8, 52.8), sides=(600.0, 200.0), seed=1):
    """Sky positions in a rectangle [arcsec] whose y axis is at a position angle, its corners included."""
    rng = random.Random(seed)
    x, y = sides[0] / 2, sides[1] / 2
    inside = [(rng.uniform(-x, x), rng.uniform(-y, y)) for _ in range(50)]
    return [unproject(point, centre, 1.0, angle) for point in [(-x, -y), (x, -y), (x, y), (-x, y), *inside]]


def test_the_hull_of_a_square_is_its_corners():
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert hull([*corners, (0.5, 0.5), (0.5, 0.0), (1.0, 1.0)]) == corners
    assert hull([(1.0, 2.0)]) == [(1.0, 2.0)]
    assert hull([(2.0, 2.0), (1.0, 1.0), (1.5, 1.5)]) == [(1.0, 1.0), (2.0, 2.0)]


@pytest.mark.parametrize(("angle", "expected"), [(0, 0), (30, 30), (-30, -30), (45, -45), (60, -30), (-49.7, 40.3)])
def test_the_rotation_of_a_strip_is_found(angle, expected):
    """Of the four directions of a rectangle's sides, the one nearest to north."""
    found = smallest_rotation_deg(strip(angle))
    assert min(abs(found - expected), 90 - abs(found - expected)) < 0.11


def test_north_is_up_where_a_rotation_gains_little():
    assert smallest_rotation_deg(strip(0.5)) == 0.0


@pytest.mark.parametrize("centre", [(214.8, 52.8), (0.01, -30.0), (150.0, 2.0), (80.0, -69.5)])
@pytest.mark.parametrize("angle", [0, 20, -44])
@pytest.mark.parametrize("scale", [0.03, 0.06])
def test_the_grid_holds_every_position_with_a_margin(centre, angle, scale):
    points = strip(angle, centre, sides=(2000.0, 500.0))
    grid = enclosing_grid(points, scale)
    nx, ny = grid.shape
    xs, ys = astropy_wcs(grid).all_world2pix(*zip(*points, strict=True), 0)
    margin = MARGIN_ARCSEC / scale - 0.5
    assert min(xs) >= margin and max(xs) <= nx - 1 - margin
    assert min(ys) >= margin and max(ys) <= ny - 1 - margin
    wanted = (2000 / scale + 2 * margin) * (500 / scale + 2 * margin)
    assert nx * ny < 1.03 * wanted
    assert grid.crpix == ((nx - 1) / 2, (ny - 1) / 2)


def test_one_position_has_a_grid_of_its_margin():
    grid = enclosing_grid([(10.0, 20.0)], 0.03)
    assert (grid.crval_deg, grid.shape, grid.rotation_deg) == ((10.0, 20.0), (200, 200), 0.0)


def square(ra, dec, side=0.02):
    wide = side / math.cos(math.radians(dec))
    return [(ra, dec), (ra + wide, dec), (ra + wide, dec + side), (ra, dec + side)]


def test_fields_are_parted_by_wide_gaps():
    """A chain of squares is one field, however long; what lies beyond a gap is another."""
    chain = [square(10 + 0.25 * number, 0) for number in range(5)]
    far = [square(13, 0), square(13.01, 0.0)]
    assert fields([*far, *chain]) == [[2, 3, 4, 5, 6], [0, 1]]
    assert fields([square(359.99, 0), square(0.05, 0)]) == [[0, 1]]
    assert fields([]) == []


def test_many_exposures_are_sorted_into_fields_quickly():
    rng = random.Random(2)
    polygons = [square(214.8 + rng.uniform(0, 0.4), 52.8 + rng.uniform(0, 0.4)) for _ in range(5000)]
    assert [len(field) for field in fields(polygons)] == [5000]


def test_a_hull_on_the_sky_holds_its_points():
    points = strip(30)
    corners = sky_hull(points)
    assert len(corners) == 4
    for corner in points[:4]:
        assert min(separation_deg(corner, found) for found in corners) < 1e-9


def test_rounding_does_not_move_positions_off_the_grid():
    grid = enclosing_grid(strip(12.34), 0.03, margin_arcsec=0.0)
    assert isinstance(grid, LinearWcs) and grid.holds(strip(12.34))
