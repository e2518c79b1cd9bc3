"""Tangent planes and grids on them, compared with astropy's WCS."""

from __future__ import annotations

import math

import pytest
from astropy.wcs import WCS

from survey.mosaics.sky_plane import LinearWcs, mean_direction, separation_deg, unproject

GRID = LinearWcs((214.825, 52.825), (31584.5, 9043.5), 0.03, -49.7, (46200, 15400))
GRIDS = [GRID, LinearWcs((359.999, -89.5), (10.0, 20.0), 0.1, 130.0, (300, 200))]


def astropy_wcs(grid: LinearWcs) -> WCS:
    """The same grid by the FITS standard: x to the left of y, y at the position angle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = grid.crval_deg
    wcs.wcs.crpix = [value + 1 for value in grid.crpix]
    angle, scale = math.radians(grid.rotation_deg), grid.pixel_scale_arcsec / 3600
    wcs.wcs.cd = [[-scale * math.cos(angle), scale * math.sin(angle)],
                  [scale * math.sin(angle), scale * math.cos(angle)]]  # fmt: skip
    return wcs


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("pixel", [(0, 0), (299.5, 100.25), (-40, 7)])
def test_pixels_are_astropys(grid, pixel):
    ra, dec = (float(value) for value in astropy_wcs(grid).all_pix2world(*pixel, 0))
    assert grid.pixel_of((ra, dec)) == pytest.approx(pixel, abs=1e-4)
    offset = (pixel[0] - grid.crpix[0], pixel[1] - grid.crpix[1])
    found = unproject(offset, grid.crval_deg, grid.pixel_scale_arcsec, grid.rotation_deg)
    assert separation_deg(found, (ra, dec)) < 1e-9


def test_positions_inside_and_outside_a_grid():
    inside, across, outside = (
        [tuple(map(float, astropy_wcs(GRID).all_pix2world(x, y, 0))) for x, y in corners]
        for corners in (((0, 0), (46199, 15399)), ((10, 10), (46210, 10)), ((46210, 0), (46220, 10)))
    )
    assert (GRID.holds(inside), GRID.holds(across), GRID.holds(outside)) == (True, False, False)
    assert GRID.holds(across, tolerance_arcsec=0.4) and not GRID.holds(across, tolerance_arcsec=0.2)
    assert GRID.pixel_of(GRID.centre_deg) == pytest.approx((23099.5, 7699.5), abs=1e-4)


def test_directions_across_the_meridian():
    assert mean_direction([(359.0, 0.0), (1.0, 0.0)])[0] % 360 == pytest.approx(0, abs=1e-9)
    assert separation_deg((359.5, 0), (0.5, 0)) == pytest.approx(1)
    assert separation_deg((0, 89), (180, 89)) == pytest.approx(2)


def test_json_and_back():
    assert LinearWcs.from_json(GRID.to_json()) == GRID
    for bad in ({}, GRID.to_json() | {"shape": [1]}, GRID.to_json() | {"rotation_deg": "north"}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            LinearWcs.from_json(bad)
