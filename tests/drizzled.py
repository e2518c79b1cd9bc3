"""A mosaic drizzled whole, as the pipeline does, and tile by tile, as `survey.steps.image3.drizzle` does."""

from __future__ import annotations

from typing import Any

import numpy as np

from survey.mosaics.grid import Box
from survey.steps.image3.drizzle import DO_NOT_USE
from survey.steps.image3.resampling import (
    StoredMap,
    Window,
    bounding_box,
    left_out,
    place,
    reach,
    scanned_whole,
    touching,
    window_around,
    window_resampler,
    with_neighbours,
)

ARRAYS = ("data", "wht", "err", "var_rnoise", "var_poisson", "var_flat", "dq")
PARS: dict[str, Any] = {
    "blendheaders": False, "weight_type": "ivm", "pixfrac": 1.0, "kernel": "square", "fillval": "NAN",
    "good_bits": "~DO_NOT_USE+NON_SCIENCE", "enable_ctx": True, "enable_var": True, "report_var": True,
    "compute_err": "from_var", "propagate_dq": True,
}  # fmt: skip


def distorted(shape, origin, angle, scale=0.97, bend=3e-5):
    """Pixel map: of an exposure of a shape (ny, nx), turned, scaled and with quadratic terms, from where it begins."""
    y, x = np.indices(shape, dtype=float)
    x, y = x + bend * x**2 - 0.67 * bend * x * y, y + 1.33 * bend * y**2 + 0.33 * bend * x * y
    u = scale * (np.cos(angle) * x - np.sin(angle) * y) + origin[0]
    v = scale * (np.sin(angle) * x + np.cos(angle) * y) + origin[1]
    return np.stack([u, v], axis=-1)


def member(number, pixmap):
    """Pixels with NaN, flags and a variance of zero, as stcal takes them, and where they fall."""
    shape = pixmap.shape[:2]
    rng = np.random.default_rng(number)
    arrays = {name: (rng.uniform(0.5, 2, shape) * size).astype("f4")
              for name, size in (("var_rnoise", 0.1), ("var_poisson", 0.2), ("var_flat", 0.01))}  # fmt: skip
    arrays["data"] = rng.normal(3, 1, shape).astype("f4")
    bad, jump = rng.uniform(size=shape) < 0.05, rng.uniform(size=shape) < 0.1
    arrays["dq"] = (bad * DO_NOT_USE + jump * 4).astype("u4")
    arrays["data"][bad] = arrays["var_rnoise"][bad] = np.nan
    arrays["var_rnoise"][rng.uniform(size=shape) < 0.02] = 0
    facts = {
        "exposure_time": 100.0 + number, "start_time": 60000.0 + number, "end_time": 60001.0 + number,
        "duration": 101.0, "measurement_time": 99.0 + number, "pixelarea_steradians": 2e-14, "filename": str(number),
        "group_id": str(number // 2), "level": 0.1 * number, "subtracted": False,
    }  # fmt: skip
    return arrays, facts, pixmap


def plain_resampler():
    """The pipeline's own, for members that are dictionaries."""
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    class Plain(ResampleImage):
        add_model, finalize = Resample.add_model, Resample.finalize

    return Plain


def output(box, ratio):
    return {"wcs": Window(box), "pixel_scale": 0.03, "pixel_scale_ratio": ratio}


def whole(members, used, shape, ratio, **pars):
    """The mosaic of members, of which the pixels ``used`` are drizzled, as the pipeline makes it."""
    made = plain_resampler()(members, output_wcs=output(Box(0, 0, shape[1], shape[0]), ratio), **{**PARS, **pars})
    for arrays, facts, pixmap in members:
        ny, nx = pixmap.shape[:2]
        made.add_model({**arrays, **facts, "wcs": StoredMap(pixmap, bounding_box(used, Box(0, 0, nx, ny)))})
    made.finalize()
    return made.output_model


def left_outs(members, used, shape, ratio):
    """`left_out` of each member, empty for one inside the mosaic."""
    grid = Box(0, 0, shape[1], shape[0])
    inside = [reach(pixmap, used).inside(grid) for _, _, pixmap in members]
    return [np.zeros((0, 0), bool) if within else left_out(pixmap, used, grid, ratio)
            for within, (_, _, pixmap) in zip(inside, members, strict=True)]  # fmt: skip


def tile_alone(members, used, tile, shape, ratio, leftout, **pars):
    """The drizzled window of a tile, the tile's pixels in it, and the members that were added."""
    pars = {**PARS, **pars}
    kernel = pars["kernel"]
    near = [touching(pixmap, tile, kernel, 1 / ratio) for _, _, pixmap in members]
    taken = {n: box.within(used) for n, box in enumerate(near) if box is not None and box.within(used).pixels}
    if not taken:
        return None, None, []
    window = window_around(tile, 8, Box(0, 0, shape[1], shape[0]), kernel, 1 / ratio)
    for n, box in taken.items():
        pixmap = members[n][2]
        if not scanned_whole(kernel, pars["pixfrac"], pixmap[with_neighbours(box, pixmap.shape[:2]).slices]):
            window = window.around(reach(pixmap, box))
    made = window_resampler()(list(taken), output_wcs=output(window, ratio), **pars)
    for n, box in taken.items():
        arrays, facts, pixmap = members[n]
        read = with_neighbours(box, pixmap.shape[:2])
        part = {name: np.array(values[read.slices]) for name, values in arrays.items()}
        if leftout[n].size:
            part["dq"][leftout[n][read.slices]] |= DO_NOT_USE
        moved = box.moved(read.x0, read.y0)
        part, stored = place(part, pixmap[read.slices], moved, window, made, clipped=False)
        made.add_model({**part, **facts, "wcs": stored})
    made.finalize()
    return made.output_model, tile.moved(window.x0, window.y0).slices, list(taken)
