"""Guesses from footprints put each member on the tiles where a gnomonic projection has it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from stub_steps import exposure

from survey.mosaics.predictions import PREDICTION_PAD_PX, predict
from survey.planning.tiled import group_numbers

SCALE = 0.031
SIDE = 320 * SCALE / 3600


def placed(number, x, y, dec=0.0):
    """An exposure whose lower left corner lies x and y sides east and north of (10 deg, dec)."""
    stretch = 1 / math.cos(math.radians(dec))
    ra, low = 10.0 + x * SIDE * stretch, dec + y * SIDE
    wide = SIDE * stretch
    corners = ((ra, low), (ra + wide, low), (ra + wide, low + SIDE), (ra, low + SIDE))
    return replace(exposure(number), footprint=corners)


def members_of(tiles):
    return {(tile.ix, tile.iy): found for tile, found in tiles.items()}


def test_members_are_on_the_tiles_that_they_cover():
    """Two exposures in opposite corners of five sides; a tile is one side, and the guess's pad stays below it."""
    layout = predict([placed(1, 0, 0), placed(2, 4, 4)], [0, 1], {}, SCALE)
    assert layout.final_shape == pytest.approx((1600, 1600), abs=3)
    found = members_of(layout.final_tiles(320))
    assert found[(4, 0)] == (0,)  # south, and east is left: the last column
    assert found[(0, 4)] == (1,)
    assert set().union(*found.values()) == {0, 1}
    assert {place for place, own in found.items() if 0 in own} <= {(ix, iy) for ix in (3, 4, 5) for iy in (0, 1)}
    assert members_of(layout.outlier_tiles(320)) == found  # one grid, and each exposure is a group


def test_detectors_of_one_moment_are_one_group_on_the_outlier_grid():
    pair = [placed(1, 0, 0), replace(placed(1, 4, 4), name=placed(1, 0, 0).name.replace("nrcb1", "nrcb2"))]
    layout = predict(pair, group_numbers([item.name for item in pair]), {}, SCALE)
    assert layout.groups == [(0, 1)]
    tiles = members_of(layout.outlier_tiles(320))
    assert len(tiles) >= 25 and set(tiles.values()) == {(0,)}  # the whole box around both, also where neither is
    assert len(layout.final_tiles(320)) < len(tiles)


@pytest.mark.parametrize("rotation", [0.0, 90.0, 180.0, 270.0, 30.0])
def test_the_grid_is_turned_as_the_config_says(rotation):
    """The y axis stands at the position angle: what lies north by d is at d (sin, cos) of it, east counted left."""
    grid = {"crval": [10.0, 0.0], "crpix": [1500, 1500], "output_shape": [3000, 3000], "rotation": rotation}
    layout = predict([placed(1, -0.5, -0.5), placed(2, -0.5, 2.5)], [0, 1], grid, SCALE)
    assert layout.final_shape == (3000, 3000) and not layout.shared
    first, second = (((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for box in (m.final for m in layout.members))
    assert first == pytest.approx((1500, 1500), abs=2)
    angle = math.radians(rotation)
    assert second == pytest.approx((1500 + 960 * math.sin(angle), 1500 + 960 * math.cos(angle)), abs=2)


def test_a_finer_scale_has_more_pixels_of_the_mosaic_and_as_many_of_the_outlier_grid():
    exposures = [placed(1, 0, 0), placed(2, 1, 0)]
    for grid in ({"pixel_scale": SCALE / 2}, {"pixel_scale_ratio": 0.5}):
        layout = predict(exposures, [0, 1], grid, SCALE)
        assert not layout.shared
        assert layout.outlier_shape == pytest.approx((320, 640), abs=3)
        assert layout.final_shape == pytest.approx((640, 1280), abs=3)
    assert predict(exposures, [0, 1], {"pixel_scale_ratio": 1.0}, SCALE).shared


@pytest.mark.parametrize("dec", [-80.0, 0.0, 52.8, 89.0])
def test_right_ascensions_are_wider_near_a_pole(dec):
    layout = predict([placed(1, 0, 0, dec), placed(2, 2, 0, dec)], [0, 1], {}, SCALE)
    assert layout.final_shape == pytest.approx((320, 960), abs=6)


def test_right_ascensions_around_zero_are_neighbours():
    west, east = (replace(item, footprint=tuple(((ra + shift) % 360, dec) for ra, dec in item.footprint))
                  for item, shift in ((placed(1, 0, 0), -10.0 - SIDE), (placed(2, 0, 0), -10.0)))  # fmt: skip
    layout = predict([west, east], [0, 1], {}, SCALE)
    assert layout.final_shape == pytest.approx((320, 640), abs=3)
    assert layout.members[0].final.x0 > layout.members[1].final.x0


def test_boxes_are_padded_and_stay_on_the_grid():
    layout = predict([placed(1, 0, 0), placed(2, 2, 2)], [0, 1], {}, SCALE)
    ny, nx = layout.final_shape
    for member in layout.members:
        box = member.final
        assert 0 <= box.x0 < box.x1 <= nx and 0 <= box.y0 < box.y1 <= ny
        assert box.shape == pytest.approx((320 + PREDICTION_PAD_PX,) * 2, abs=3)  # one side of each is the border


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["jw01345001001_02101_00001_nrca1", "jw01345001001_02101_00001_nrcblong"], [0, 0]),
        (["jw01345001001_02101_00002_nrca1", "jw01345001001_02101_00001_nrca1"], [0, 1]),
        (["jw01345001001_02101_00001-seg001_nrca1", "jw01345001001_02101_00001-seg002_nrca2"], [0, 0]),
        (["jw01345001001_02101_00001_nrca1", "jw01345001001_02103_00001_nrca1"], [0, 1]),
        ([], []),
    ],
)
def test_a_group_is_a_moment(names, groups):
    assert group_numbers(names) == groups
