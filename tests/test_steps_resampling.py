"""Windows of a mosaic, drizzled on their own, are the mosaic's pixels to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from survey.mosaics.grid import Box, tiles
from survey.steps.image3.drizzle import DO_NOT_USE, context_of_all
from survey.steps.image3.resampling import (
    StoredMap,
    Window,
    bounding_box,
    left_out,
    place,
    reach,
    touching,
    window_resampler,
    with_neighbours,
)

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.filterwarnings("ignore:Kernel .* is not a flux-conserving kernel"),
]

NY, NX = 80, 96
USED = Box(1, 2, NX - 1, NY)  # as if the bounding box of the WCS left a border out
ARRAYS = ("data", "wht", "err", "var_rnoise", "var_poisson", "var_flat", "dq")
PARS = {
    "blendheaders": False, "weight_type": "ivm", "pixfrac": 1.0, "kernel": "square", "fillval": "NAN",
    "good_bits": "~DO_NOT_USE+NON_SCIENCE", "enable_ctx": True, "enable_var": True, "report_var": True,
    "compute_err": "from_var", "propagate_dq": True,
}  # fmt: skip


def distorted(origin, angle, scale):
    y, x = np.indices((NY, NX), dtype=float)
    x, y = x + 3e-5 * x**2 - 2e-5 * x * y, y + 4e-5 * y**2 + 1e-5 * x * y
    u = scale * (np.cos(angle) * x - np.sin(angle) * y) + origin[0]
    v = scale * (np.sin(angle) * x + np.cos(angle) * y) + origin[1]
    return np.stack([u, v], axis=-1)


def member(number, origin, angle, scale=0.97):
    """Pixels with NaN, flags and a variance of zero, as stcal takes them, and where they fall."""
    rng = np.random.default_rng(number)
    arrays = {name: (rng.uniform(0.5, 2, (NY, NX)) * size).astype("f4")
              for name, size in (("var_rnoise", 0.1), ("var_poisson", 0.2), ("var_flat", 0.01))}  # fmt: skip
    arrays["data"] = rng.normal(3, 1, (NY, NX)).astype("f4")
    bad, jump = rng.uniform(size=(NY, NX)) < 0.05, rng.uniform(size=(NY, NX)) < 0.1
    arrays["dq"] = (bad * DO_NOT_USE + jump * 4).astype("u4")
    arrays["data"][bad] = arrays["var_rnoise"][bad] = np.nan
    arrays["var_rnoise"][rng.uniform(size=(NY, NX)) < 0.02] = 0
    facts = {
        "exposure_time": 100.0 + number, "start_time": 60000.0 + number, "end_time": 60001.0 + number,
        "duration": 101.0, "measurement_time": 99.0 + number, "pixelarea_steradians": 2e-14, "filename": str(number),
        "group_id": str(number // 2), "level": 0.1 * number, "subtracted": False,
    }  # fmt: skip
    return arrays, facts, distorted(origin, angle, scale)


def plain_resampler():
    """The pipeline's own, for members that are dictionaries."""
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    class Plain(ResampleImage):
        add_model, finalize = Resample.add_model, Resample.finalize

    return Plain


def output(box, ratio):
    return {"wcs": Window(box), "pixel_scale": 0.03, "pixel_scale_ratio": ratio}


def whole(members, shape, ratio, **pars):
    made = plain_resampler()(members, output_wcs=output(Box(0, 0, shape[1], shape[0]), ratio), **{**PARS, **pars})
    for arrays, facts, pixmap in members:
        made.add_model({**arrays, **facts, "wcs": StoredMap(pixmap, bounding_box(USED, Box(0, 0, NX, NY)))})
    made.finalize()
    return made.output_model


def tile_alone(members, tile, ratio, leftout, **pars):
    """As `survey.steps.image3.drizzle` does it: the pixels that touch the tile, on a window around their outlines."""
    pars = {**PARS, **pars}
    near = [touching(pixmap, tile, pars["kernel"], 1 / ratio) for _, _, pixmap in members]
    used = {n: box.within(USED) for n, box in enumerate(near) if box is not None and box.within(USED).pixels}
    if not used:
        return None, None, []
    window = tile.grown(8)
    for n, box in used.items():
        window = window.around(reach(members[n][2], box))
    made = window_resampler()(list(used), output_wcs=output(window, ratio), **pars)
    for n, box in used.items():
        arrays, facts, pixmap = members[n]
        read = with_neighbours(box, (NY, NX))
        part = {name: np.ascontiguousarray(values[read.slices]) for name, values in arrays.items()}
        part["dq"][leftout[n][read.slices]] |= DO_NOT_USE
        part, stored = place(part, pixmap[read.slices], box.moved(read.x0, read.y0), window, made)
        made.add_model({**part, **facts, "wcs": stored})
    made.finalize()
    return made.output_model, tile.moved(window.x0, window.y0).slices, list(used)


def compare(members, shape, ratio, side, leftout=None, **pars):
    """Every tile that has data against the whole; returns how many there were."""
    leftout = leftout or [np.zeros((NY, NX), bool)] * len(members)
    mosaic = whole(members, shape, ratio, **pars)
    compared = 0
    for tile in tiles(shape, side):
        found, inner, added = tile_alone(members, tile.box, ratio, leftout, **pars)
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
    members = [member(number, *where) for number, where in enumerate(SCENE)]
    assert compare(members, SHAPE, 0.97, 16400, **pars) == 2


@pytest.mark.parametrize("side", [16, 64, 100])
def test_the_tile_size_does_not_matter(side):
    members = [member(number, (x - 16290, y), angle) for number, ((x, y), angle) in enumerate(SCENE)]
    assert compare(members, (240, 250), 0.97, side) > 4


def test_moving_alone_would_not_do(monkeypatch):
    """The test can fail: a map that is only moved to the window has other corners."""
    import survey.steps.image3.resampling

    def moved(pixmap, corner):
        return np.pad(pixmap - np.array(corner, float), ((1, 2), (1, 2), (0, 0)), mode="reflect", reflect_type="odd")

    members = [member(number, *where) for number, where in enumerate(SCENE)]
    monkeypatch.setattr(survey.steps.image3.resampling, "exact_map", moved)
    with pytest.raises(AssertionError, match="x000y000"):
        compare(members, SHAPE, 0.97, 16400)


def test_exposures_across_the_right_and_upper_border():
    """Where the mosaic ends, drizzle leaves out pixels that a window, which holds the whole outline, would take."""
    members = [member(number, where, angle) for number, (where, angle) in
               enumerate([((60.3, 30.7), 0.3), ((100.9, 70.2), -0.4), ((20.1, 110.4), 0.7)])]  # fmt: skip
    shape = (150, 140)
    grid = Box(0, 0, shape[1], shape[0])
    leftout = [left_out(pixmap, USED, grid, 0.97) for _, _, pixmap in members]
    assert compare(members, shape, 0.97, 64, leftout) > 4


@pytest.mark.parametrize(
    ("kernel", "scale"),
    [("square", 0.5), ("square", 4.0), ("turbo", 4.0), ("point", 2.0), ("gaussian", 2.0), ("lanczos2", 2.0),
     ("lanczos3", 1.0), ("lanczos3", 4.0)],
)  # fmt: skip
def test_kernels_and_scales(kernel, scale):
    """Whatever the kernel reaches, in mosaic pixels, belongs to the window; also of the variances."""
    members = [member(0, (70.3, 60.7), 0.002, scale), member(1, (100.1, 90.2), 0.02, scale)]
    shape = (int(100 * scale) + 180, int(110 * scale) + 200)
    assert compare(members, shape, 1 / scale, 128, kernel=kernel, pixfrac=1.0) >= 2


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_touching_holds_every_pixel_that_can_reach_the_box(scale):
    rng = np.random.default_rng(int(10 * scale))
    half = 0.75 * scale  # of a pixel's diagonal
    hits = 0
    for _ in range(60):
        pixmap = distorted(rng.uniform(-20, 40, 2), rng.uniform(0, 6.3), scale)
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
    pixmap = distorted((50.0, 60.0), 0.4, 1.0)
    box = reach(pixmap, USED)
    inside = pixmap[USED.slices]
    for axis, (low, high) in enumerate(((box.x0, box.x1), (box.y0, box.y1))):
        assert low < inside[..., axis].min() - 0.5 and inside[..., axis].max() + 0.5 < high
    pixmap[USED.y0, USED.x0] = np.nan  # a corner without a place: its neighbours' extremes hold
    holed = reach(pixmap, USED)
    assert np.abs(np.array([holed.x0 - box.x0, holed.y0 - box.y0, holed.x1 - box.x1, holed.y1 - box.y1])).max() <= 2


def test_no_pixel_is_left_out_of_an_exposure_inside_the_mosaic():
    pixmap = distorted((80.0, 60.0), 0.3, 0.97)
    assert not left_out(pixmap, USED, Box(0, 0, 400, 400), 0.97).any()
    assert not left_out(pixmap, USED, Box(0, 0, 20, 20), 0.97).any()  # nor of one that misses it
