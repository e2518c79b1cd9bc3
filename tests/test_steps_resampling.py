"""Windows of a mosaic, drizzled on their own, are the mosaic's pixels to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from drizzled import ARRAYS, distorted, left_outs, member, tile_alone, whole

from survey.mosaics.grid import Box, tiles
from survey.steps.image3.drizzle import context_of_all
from survey.steps.image3.resampling import left_out, reach, touching

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.filterwarnings("ignore:Kernel .* is not a flux-conserving kernel"),
]

NY, NX = 80, 96
USED = Box(1, 2, NX - 1, NY)  # as if the bounding box of the WCS left a border out


def placed(number, origin, angle, scale=0.97):
    return member(number, distorted((NY, NX), origin, angle, scale))


def compare(members, shape, ratio, side, used=USED, **pars):
    """Every tile that has data against the whole; returns how many there were."""
    leftout = left_outs(members, used, shape, ratio)
    mosaic = whole(members, used, shape, ratio, **pars)
    compared = 0
    for tile in tiles(shape, side):
        found, inner, added = tile_alone(members, used, tile.box, shape, ratio, leftout, **pars)
        if not added:
            assert not mosaic["wht"][tile.box.slices].any(), f"{tile.name} has data that no member brings"
            continue
        compared += 1
        for name in ARRAYS:
            if mosaic.get(name) is not None:
                np.testing.assert_array_equal(found[name][inner], mosaic[name][tile.box.slices], f"{tile.name} {name}")
        local = np.ascontiguousarray(found["con"][(slice(None), *inner)]).view("u4")
        wanted = mosaic["con"][(slice(None), *tile.box.slices)].view("u4")
        np.testing.assert_array_equal(context_of_all(local, added, len(members)), wanted, f"{tile.name} con")
    return compared


# Across x = 16384, where the last bit of a coordinate changes its worth, and across y = 128.
SCENE = [((16305.3, 20.7), 0.002), ((16340.1, 60.2), 0.02), ((16380.9, 101.4), -0.03), ((16400.5, 40.3), 1.2)]
SHAPE = (240, 16520)


@pytest.mark.parametrize("pars", [{}, {"weight_type": "exptime"}, {"enable_var": False, "compute_err": None}], ids=str)
def test_two_windows_far_out_are_the_mosaics_to_the_bit(pars):
    members = [placed(number, *where) for number, where in enumerate(SCENE)]
    assert compare(members, SHAPE, 0.97, 16400, **pars) == 2


@pytest.mark.parametrize("side", [16, 64, 100])
def test_the_tile_size_does_not_matter(side):
    members = [placed(number, (x - 16290, y), angle) for number, ((x, y), angle) in enumerate(SCENE)]
    assert compare(members, (240, 250), 0.97, side) > 4


def test_moving_alone_would_not_do(monkeypatch):
    """The test can fail: a map that is only moved to the window has other corners."""
    import survey.steps.image3.resampling

    def moved(pixmap, corner):
        return np.pad(pixmap - np.array(corner, float), ((1, 2), (1, 2), (0, 0)), mode="reflect", reflect_type="odd")

    members = [placed(number, *where) for number, where in enumerate(SCENE)]
    monkeypatch.setattr(survey.steps.image3.resampling, "exact_map", moved)
    with pytest.raises(AssertionError, match="x000y000"):
        compare(members, SHAPE, 0.97, 16400)


# Across the right and upper border, then across the left and lower one, and their corner.
ACROSS = {"last": [((60.3, 30.7), 0.3), ((100.9, 70.2), -0.4), ((20.1, 110.4), 0.7)],
          "first": [((-30.3, 30.7), 0.3), ((40.9, -20.2), -0.4), ((-20.1, -11.4), 0.02)]}  # fmt: skip


@pytest.mark.parametrize("kernel", ["square", "point", "turbo", "gaussian", "lanczos2", "lanczos3"])
@pytest.mark.parametrize("border", ACROSS)
def test_exposures_across_a_border(border, kernel):
    """Where the mosaic ends, drizzle leaves out pixels that a window takes, whose outlines are not clipped."""
    members = [placed(number, *where) for number, where in enumerate(ACROSS[border])]
    assert compare(members, (150, 140), 0.97, 64, kernel=kernel) > 4


@pytest.mark.parametrize(
    ("kernel", "scale"),
    [("square", 0.5), ("square", 4.0), ("turbo", 4.0), ("point", 2.0), ("gaussian", 2.0), ("lanczos2", 2.0),
     ("lanczos3", 1.0), ("lanczos3", 4.0)],
)  # fmt: skip
def test_kernels_and_scales(kernel, scale):
    """Whatever the kernel reaches, in mosaic pixels, belongs to the window; also of the variances."""
    members = [placed(0, (70.3, 60.7), 0.002, scale), placed(1, (100.1, 90.2), 0.02, scale)]
    shape = (int(100 * scale) + 180, int(110 * scale) + 200)
    assert compare(members, shape, 1 / scale, 128, kernel=kernel, pixfrac=1.0) >= 2


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_touching_holds_every_pixel_that_can_reach_the_box(scale):
    rng = np.random.default_rng(int(10 * scale))
    half = 0.75 * scale  # of a pixel's diagonal
    hits = 0
    for _ in range(60):
        pixmap = distorted((NY, NX), rng.uniform(-20, 40, 2), rng.uniform(0, 6.3), scale)
        near = pixmap[rng.integers(NY), rng.integers(NX)] + rng.uniform(-70, 10, 2)
        x0, y0 = (int(np.floor(value)) for value in near)
        box = Box(x0, y0, x0 + int(rng.integers(1, 60)), y0 + int(rng.integers(1, 60)))
        low, high = np.array([box.x0, box.y0]) - 0.5 - half, np.array([box.x1, box.y1]) - 0.5 + half
        rows, columns = np.nonzero(((pixmap > low) & (pixmap < high)).all(axis=-1))
        if not rows.size:
            continue
        hits += 1
        found = touching(pixmap, box, "square", scale)
        assert found is not None
        assert Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1).inside(found)
    assert hits > 20


def test_reach_holds_the_corners_also_of_a_map_with_holes():
    pixmap = distorted((NY, NX), (50.0, 60.0), 0.4, 1.0)
    box = reach(pixmap, USED)
    inside = pixmap[USED.slices]
    for axis, (low, high) in enumerate(((box.x0, box.x1), (box.y0, box.y1))):
        assert low < inside[..., axis].min() - 0.5 and inside[..., axis].max() + 0.5 < high
    pixmap[USED.y0, USED.x0] = np.nan  # a corner without a place: its neighbours' extremes hold
    holed = reach(pixmap, USED)
    assert np.abs(np.array([holed.x0 - box.x0, holed.y0 - box.y0, holed.x1 - box.x1, holed.y1 - box.y1])).max() <= 2


def test_no_pixel_is_left_out_of_an_exposure_inside_the_mosaic():
    pixmap = distorted((NY, NX), (80.0, 60.0), 0.3, 0.97)
    assert not left_out(pixmap, USED, Box(0, 0, 400, 400), 0.97).any()
    assert not left_out(pixmap, USED, Box(0, 0, 20, 20), 0.97).any()  # nor of one that misses it
