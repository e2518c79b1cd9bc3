"""Boxes, tiles and layouts: every pixel in one tile, every overlap known, and guesses from footprints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_steps import exposure

from survey.mosaics.grid import Box, Tile, places, tiles, touched
from survey.mosaics.layouts import Aligned, Layout, Member, Scale
from survey.mosaics.predictions import predict
from survey.mosaics.sky_plane import LinearWcs
from survey.planning.tiled import group_numbers

SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 300))


def test_box_arithmetic():
    box = Box(2, 3, 10, 5)
    assert (box.shape, box.pixels, box.slices) == ((2, 8), 16, (slice(3, 5), slice(2, 10)))
    assert box.grown(1) == Box(1, 2, 11, 6)
    assert box.moved(2, 3) == Box(0, 0, 8, 2)
    assert box.within(Box(0, 0, 4, 4)) == Box(2, 3, 4, 4)
    assert box.within(Box(20, 20, 30, 30)).pixels == 0
    assert box.around(Box(0, 9, 1, 11)) == Box(0, 3, 10, 11)
    assert box.inside(Box(0, 0, 10, 5)) and not box.inside(Box(0, 0, 9, 5))


@settings(deadline=None)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.integers(7, 120))
def test_tiles_cover_a_grid_once(shape, side):
    count = [[0] * shape[1] for _ in range(shape[0])]
    for tile in tiles(shape, side):
        assert max(tile.box.shape) <= side
        for y in range(tile.box.y0, tile.box.y1):
            for x in range(tile.box.x0, tile.box.x1):
                count[y][x] += 1
    assert all(value == 1 for row in count for value in row)


BOXES = st.tuples(*[st.integers(-50, 350)] * 4).map(
    lambda v: Box(min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


@settings(deadline=None)
@given(SHAPES, st.integers(10, 120), st.lists(st.none() | BOXES, max_size=6))
def test_touched_is_what_boxes_share(shape, side, boxes):
    found = touched(shape, side, boxes)
    for tile in tiles(shape, side):
        sharing = tuple(i for i, box in enumerate(boxes) if box is not None and box.within(tile.box).pixels)
        assert found.get(tile, ()) == sharing
    assert [(tile.iy, tile.ix) for tile in found] == sorted((tile.iy, tile.ix) for tile in found)


def test_places_outside_of_the_grid_are_none():
    assert list(places((100, 100), 50, Box(100, 0, 120, 50))) == []
    assert list(places((100, 100), 50, Box(-5, 40, 51, 60))) == [(0, 0), (1, 0), (0, 1), (1, 1)]


LAYOUT = Layout(
    (100, 200), (50, 60), False,
    (Member("a", 0, Box(0, 0, 50, 50), Box(0, 0, 10, 10)), Member("b", 1, Box(90, 0, 120, 40), None),
     Member("c", 0, Box(60, 60, 99, 99), Box(40, 40, 60, 50))),
    "digest",
)  # fmt: skip
FOUND = Aligned(
    "x", (64, 32), Box(1, 2, 30, 60), [[1.0, 2.0], [3.0, 4.0]], "a_cal.fits", 10.0, 59000.0, 59001.0, 12.0, None, 1e-13
)
ALIGNED = replace(
    LAYOUT,
    members=tuple(
        replace(member, found=replace(FOUND, group_id=name)) for member, name in zip(LAYOUT.members, "xyx", strict=True)
    ),
    scales={"final": Scale([0.03, "float"], [1.0, "float64"]), "outlier": Scale([0.031, "float"], None)},
    final_wcs=LinearWcs((10.0, 0.0), (600.0, 500.0), 0.03, 20.0, (60, 50)),
    corrected=2,
)


def test_a_layout_comes_back_from_json():
    for layout in (LAYOUT, ALIGNED):
        assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    with pytest.raises((KeyError, TypeError)):
        Layout.from_json({"members": []})


def test_a_layout_of_version_0_1_is_read():
    data = json.loads(json.dumps(ALIGNED.to_json()))
    assert set(data["facts"]) == {"members", "pixel_scale_ratio", "pixel_scale", "wcs", "group_ids", "corrected"}
    assert data["facts"]["members"][0] == {
        "exposure_time": 10.0, "start_time": 59000.0, "end_time": 59001.0, "duration": 12.0, "measurement_time": None,
        "filename": "a_cal.fits", "pixelarea_steradians": 1e-13, "shape": [64, 32], "range": [1, 2, 30, 60],
        "sky_border": [[1.0, 2.0], [3.0, 4.0]],
    }  # fmt: skip
    del data["facts"]["wcs"]  # which that version did not write
    assert Layout.from_json(data) == replace(ALIGNED, final_wcs=None)


def test_a_predicted_member_says_that_it_is_not_aligned():
    assert ALIGNED.members[1].aligned.used == Box(1, 2, 30, 60)
    with pytest.raises(ValueError, match="b: is not aligned"):
        LAYOUT.members[1].aligned  # noqa: B018


def test_groups_share_a_box():
    assert LAYOUT.groups == [(0, 2), (1,)]
    assert LAYOUT.group_box((0, 2)) == Box(0, 0, 99, 99)
    assert LAYOUT.group_box((1,)) == Box(90, 0, 120, 40)
    assert LAYOUT.outlier_tiles(100) == {
        Tile(0, 0, Box(0, 0, 100, 100)): (0, 1),
        Tile(1, 0, Box(100, 0, 200, 100)): (1,),
    }
    assert set(LAYOUT.final_tiles(30).values()) == {(0,), (2,)}


def square(ra: float, dec: float, side_deg: float):
    return ((ra, dec), (ra + side_deg, dec), (ra + side_deg, dec + side_deg), (ra, dec + side_deg))


def test_a_guess_from_footprints():
    side = 320 * 0.031 / 3600
    near = replace(exposure(1), footprint=square(10.0, 0.0, side))
    far = replace(exposure(2), footprint=square(10.0, 10 * side, side))
    layout = predict([near, far], [0, 1], {}, 0.031)
    assert layout is not None and layout.shared and not layout.digest
    assert layout.outlier_shape[0] == pytest.approx(11 * 320, abs=3)
    first, second = (member.final for member in layout.members)
    assert first is not None and second is not None
    assert first.y1 < second.y0  # north is up
    assert predict([near, replace(far, footprint=None)], [0, 1], {}, 0.031) is None
    assert predict([], [], {}, 0.031) is None


def test_a_guess_on_the_configs_own_grid():
    side = 320 * 0.031 / 3600
    inside = replace(exposure(1), footprint=square(10.0, 0.0, side))
    outside = replace(exposure(2), footprint=square(20.0, 0.0, side))
    grid = {
        "pixel_scale": 0.0155,
        "crval": [10.0, 0.0],
        "crpix": [700.0, 50.0],
        "output_shape": [800, 900],
        "rotation": 0.0,
    }
    layout = predict([inside, outside], [0, 1], grid, 0.031)
    assert layout is not None and layout.final_shape == (900, 800) and not layout.shared
    box = layout.members[0].final
    assert box is not None
    # East is left: from pixel 700 down to 60, and 640 pixels up from 50, with the guess's pad around.
    assert (box.x0, box.x1, box.y0, box.y1) == pytest.approx((60 - 32, 700 + 33, 50 - 32, 690 + 33), abs=2)
    assert layout.members[1].final is None


def test_exposures_of_one_moment_are_a_group():
    names = [exposure(number, detector).name for number in (1, 2) for detector in ("NRCB1", "NRCB2")]
    assert group_numbers(names) == [0, 0, 1, 1]
