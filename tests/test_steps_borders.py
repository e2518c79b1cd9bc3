"""Exposures across the borders of a mosaic: a window keeps their corners, and drizzle makes the same pixels of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from drizzled import distorted

from survey.mosaics.grid import Box, tiles
from survey.steps.image3.corners import BEFORE, corners_of, exact_map
from survey.steps.image3.resampling import left_out, place, window_around

# So close to coordinate 0, corners of the mosaic have more digits than the centres around them can have.
ZERO_PX, ROUNDING_PX = 4, 5e-16
RESAMPLER = SimpleNamespace(kernel="square", pixfrac=1.0)


def drizzled(arrays, pixmap, used, shape):
    from drizzle.resample import Drizzle

    made = Drizzle(kernel="square", out_shape=shape, fillval="0")
    made.add_image(
        arrays["data"], exptime=1.0, pixmap=pixmap, weight_map=arrays["weight"], pixel_scale_ratio=1.0,
        xmin=used.x0, xmax=used.x1 - 1, ymin=used.y0, ymax=used.y1 - 1,
    )  # fmt: skip
    return {"data": made.out_img, "weight": made.out_wht, "context": made.out_ctx}


def windowed(arrays, pixmap, window, grid):
    """An exposure drizzled onto a window of the mosaic."""
    ny, nx = pixmap.shape[:2]
    used = Box(0, 0, nx, ny)
    weight = np.where(left_out(pixmap, used, grid, 1.0), np.float32(0), arrays["weight"])
    placed, stored = place({**arrays, "weight": weight}, pixmap, used, window, RESAMPLER, clipped=False)
    (left, right), (bottom, top) = stored.bounding_box
    box = Box(int(left + 0.5), int(bottom + 0.5), int(right + 0.5) + 1, int(top + 0.5) + 1)
    return drizzled(placed, np.dstack(stored.pixel_to_world_values(0, 0)), box, window.shape)


def strip(number):
    """A strip of an exposure across the lower left corner of a mosaic, with data and weights."""
    rng = np.random.default_rng([5, number])
    pixmap = distorted((30, 1500), (0, 0), rng.uniform(0.5, 1.0), rng.choice([0.97, 1.03]), 4e-6)
    pixmap = pixmap + np.round(-pixmap.min((0, 1)) - 0.5 - rng.uniform(5, 60, 2), 3)
    data, weight = rng.normal(3, 1, (30, 1500)), rng.uniform(0.5, 2, (30, 1500))
    return {"data": data.astype("f4"), "weight": weight.astype("f4")}, pixmap


@pytest.mark.parametrize("number", [79, 113, 192, 233])
def test_a_strip_across_the_lower_left_corner(number):
    """Each of these had a pixel with another last digit, in a window that began before the mosaic."""
    arrays, pixmap = strip(number)
    grid = Box(0, 0, 1000, 1000)
    wanted = drizzled(arrays, pixmap, Box(0, 0, 1500, 30), grid.shape)
    found = windowed(arrays, pixmap, window_around(grid, 8, grid, "square", 1.0), grid)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, name)


@pytest.mark.parametrize("turn", [0.0, 0.02, -0.7, 1.57, 2.5, 4.0])
@pytest.mark.parametrize("border", ["left", "lower", "right", "upper", "corner"])
def test_each_border_in_tiles(border, turn):
    shape, frame = (90, 110), (70, 80)
    pixmap = distorted(frame, (0, 0), turn, 1.0, 1e-4)
    middle = pixmap.mean((0, 1))
    sides = {"left": (0, 45), "lower": (50, 0), "right": (109.5, 45), "upper": (50, 89.5), "corner": (0.25, 0.5)}
    pixmap = pixmap - middle + sides[border]
    rng = np.random.default_rng(3)
    arrays = {"data": rng.normal(3, 1, frame).astype("f4"), "weight": rng.uniform(0.5, 2, frame).astype("f4")}
    grid = Box(0, 0, shape[1], shape[0])
    wanted = drizzled(arrays, pixmap, Box(0, 0, frame[1], frame[0]), shape)
    assert (wanted["weight"] != 0).sum() > 1000
    for tile in tiles(shape, 48):
        window = window_around(tile.box, 2, grid, "square", 1.0)
        assert window.inside(grid)
        found = windowed(arrays, pixmap, window, grid)
        inner = tile.box.moved(window.x0, window.y0).slices
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[name][(..., *inner)], values[(..., *tile.box.slices)], tile.name)


@pytest.mark.parametrize("turn", [0.0, 0.003, -0.6, 1.57, 3.0, 4.2])
@pytest.mark.parametrize("scale", [0.5, 1.03])
def test_corners_are_the_mosaics_also_before_its_first_pixel(turn, scale):
    """21 in 100 were not, in a window that began before the mosaic."""
    pixmap = distorted((300, 350), (0, 0), turn, scale, 2e-5)
    low, high = pixmap.min((0, 1)), pixmap.max((0, 1))
    pixmap = pixmap - low - 0.37 * (high - low)
    for first in ((0, 0), (0, 40), (70, 0)):
        moved = exact_map(pixmap, first)[:-1, :-1] * 0.25
        means = moved[:-1, :-1] + moved[:-1, 1:] + moved[1:, :-1] + moved[1:, 1:]
        for axis in (0, 1):
            wanted = corners_of(np.ascontiguousarray(pixmap[..., axis]))
            error = np.abs(means[..., axis] + first[axis] - wanted)
            assert not error[wanted > first[axis] + (ZERO_PX if first[axis] == 0 else -ZERO_PX)].any()
            assert error[wanted > first[axis] - ZERO_PX].max() <= ROUNDING_PX


def test_pixels_of_a_window_without_a_border_are_all_scanned():
    """A window that an exposure crosses on all sides: drizzle itself would clip it."""
    pixmap = distorted((120, 120), (0, 0), 0.4, 1.0, 2e-4)
    pixmap = pixmap - pixmap.mean((0, 1)) + (700, 800)
    rng = np.random.default_rng(8)
    arrays = {"data": rng.normal(3, 1, (120, 120)).astype("f4"), "weight": np.ones((120, 120), "f4")}
    grid, window = Box(0, 0, 1400, 1600), Box(660, 765, 740, 835)
    wanted = drizzled(arrays, pixmap, Box(0, 0, 120, 120), grid.shape)["data"][window.slices]
    clipped, stored = place(arrays, pixmap, Box(0, 0, 120, 120), window, RESAMPLER, clipped=True)
    box = Box(BEFORE, BEFORE, BEFORE + 120, BEFORE + 120)
    alone = drizzled(clipped, np.dstack(stored.pixel_to_world_values(0, 0)), box, window.shape)["data"]
    np.testing.assert_array_equal(windowed(arrays, pixmap, window, grid)["data"], wanted)
    assert (alone != wanted).sum() > 10


def test_edges_of_an_exposure_far_from_the_border_that_they_cross():
    """drizzle cuts off pixels of a bent edge as far as the next corner of the exposure."""
    frame, grid = (60, 1000), Box(0, 0, 900, 700)
    y, x = np.indices(frame, dtype=float)
    y += 1e-5 * (x - 500) ** 2
    pixmap = np.stack([np.cos(0.5) * x - np.sin(0.5) * y - 181, np.sin(0.5) * x + np.cos(0.5) * y + 20], axis=-1)
    rng = np.random.default_rng(4)
    arrays = {"data": rng.normal(3, 1, frame).astype("f4"), "weight": rng.uniform(0.5, 2, frame).astype("f4")}
    missed = left_out(pixmap, Box(0, 0, frame[1], frame[0]), grid, 1.0)
    assert (missed & (pixmap[..., 0] > 70) & (pixmap[..., 1] > 70)).sum() > 500
    wanted = drizzled(arrays, pixmap, Box(0, 0, frame[1], frame[0]), grid.shape)
    found = windowed(arrays, pixmap, grid, grid)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, name)
