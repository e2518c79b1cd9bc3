"""The pipeline's resampler for a window of a grid, and a version without arrays for grids and headers.

`calc_pixmap` of stcal asks one WCS for the sky positions of pixels and another for the pixels at these positions. Here,
the first returns stored positions in the mosaic, shifted to the window, and the second returns its arguments.

Pixels are computed only by code of jwst and stcal. A contract test checks the names that are overridden here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

from survey.mosaics.grid import Box
from survey.steps.image3.corners import AFTER, BEFORE, exact_map, padded

# Reach of the kernels around the centre of a pixel [exposure pixels]; interpolation needs one more neighbour.
_REACH = {"square": 1, "point": 1, "turbo": 1, "gaussian": 4, "lanczos2": 3, "lanczos3": 4}
_NEIGHBOURS = 2
# Margin around the positions of pixel centres, for the corners of the pixels [mosaic pixels].
EDGE_PX = 8
# Largest deviation, by distortion, from a straight line across a detector [mosaic pixels].
LINE_PX = 64
FLAG_BITS = 32
_COARSE = 16
_SPATIAL = SimpleNamespace(naxes=2, axes_type=("SPATIAL", "SPATIAL"))


class StoredMap:
    """A replacement for the WCS of an exposure, or of a window of it; its 'sky' positions are pixels of the mosaic."""

    output_frame = _SPATIAL

    def __init__(self, pixmap: Any, bounding_box: tuple[tuple[float, float], tuple[float, float]] | None = None):
        self._pixmap = pixmap
        self.bounding_box = bounding_box
        self.array_shape = pixmap.shape[:2]

    def pixel_to_world_values(self, _x: Any, _y: Any) -> tuple[Any, Any]:
        return self._pixmap[..., 0], self._pixmap[..., 1]


class Window:
    """A replacement for the WCS of a window of the mosaic, for maps that are shifted to it already."""

    output_frame = _SPATIAL
    bounding_box = None

    def __init__(self, box: Box):
        self.array_shape = box.shape
        self.pixel_shape = box.shape[::-1]

    def world_to_pixel_values(self, x: Any, y: Any) -> tuple[Any, Any]:
        return x, y


def scanned_whole(kernel: str, pixfrac: float, pixmap: Any) -> bool:
    """Whether `place` can make drizzle process all pixels of a member, also across the border of its window."""
    import numpy as np

    return kernel != "square" or (pixfrac == 1 and bool(np.isfinite(pixmap).all()))


def window_around(tile: Box, margin: int, grid: Box, kernel: str, scale: float) -> Box:
    """The window to drizzle for a tile: some more pixels, but none outside of the mosaic.

    A window must not begin before the mosaic. Coordinates would then be larger than in the mosaic and rounded more
    coarsely, and corners could not be kept.

    Parameters
    ----------
    tile, grid : pixels of the tile and of the whole mosaic
    margin : smallest number of pixels around the tile, inside the mosaic
    kernel : of drizzle
    scale : largest number of mosaic pixels per exposure pixel, along an axis
    """
    return tile.grown(max(margin, math.ceil((_REACH[kernel] + 1) * max(scale, 1.0)) + 1)).within(grid)


def place(
    arrays: Mapping[str, Any], pixmap: Any, used: Box, window: Box, resampler: Any, *, clipped: bool
) -> tuple[dict[str, Any], StoredMap]:
    """Shift the map of a member to a window of the mosaic, keeping the corners of its pixels bitwise.

    Parameters
    ----------
    arrays : of the same pixels as the map
    pixmap : ndarray (ny, nx, 2), x and y in the whole mosaic [pixels]
    used : pixels of the map to drizzle; the others are neighbours
    window : of the mosaic
    resampler : whose kernel and pixfrac decide whether corners are means of centres
    clipped : whether drizzle clips the outline of the member at the border of the window, as it does at the border of
        a mosaic; otherwise it processes all pixels ``used``, if `scanned_whole`

    Returns
    -------
    arrays, map : with added rings, see `survey.steps.image3.corners`
    """
    import numpy as np

    corner, free = (window.x0, window.y0), not clipped and scanned_whole(resampler.kernel, resampler.pixfrac, pixmap)
    exact = resampler.kernel == "square" and resampler.pixfrac == 1 and np.isfinite(pixmap).all()
    moved = exact_map(pixmap, corner) if exact else pixmap - np.array(corner, float)
    if free and not exact:
        moved = np.pad(moved, ((BEFORE, AFTER), (BEFORE, AFTER), (0, 0)), constant_values=np.nan)
    if exact or free:
        arrays = {name: None if values is None else padded(values) for name, values in arrays.items()}
        used = used.moved(-BEFORE, -BEFORE)
    if free:
        # drizzle does not clip an outline of which a corner has no position, and omits pixels of which a corner has
        # none: here, those after the last used row and column.
        last = (slice(None, used.y1 + AFTER), slice(None, used.x1 + AFTER))
        moved, arrays = moved[last], {name: None if values is None else values[last] for name, values in arrays.items()}
        none = -1 if exact else -AFTER
        moved[none:], moved[:, none:] = np.nan, np.nan
        used = Box(used.x0, used.y0, used.x1 + AFTER, used.y1 + AFTER)
    ny, nx = moved.shape[:2]
    return dict(arrays), StoredMap(moved, bounding_box(used, Box(0, 0, nx, ny)))


def blot_map(pixmap: Any, window: Box) -> Any:
    """A map for blot, counted from the corner of a window, after rounding to single precision as blot does."""
    import numpy as np

    return pixmap.astype(np.float32).astype(np.float64) - (float(window.x0), float(window.y0))


def pixel_map(wcs: Any, grid_wcs: Any, shape: tuple[int, int], stepsize: float, order: int) -> Any:
    """Positions of an exposure's pixels on a grid: (ny, nx, 2) float64, x and y [pixels]; NaN outside of its WCS."""
    from stcal.resample.utils import calc_pixmap

    # Applying a bounding box takes a tenth of the time; one around all pixel centres changes nothing.
    ((left, right), (bottom, top)) = wcs.bounding_box or ((-0.5, shape[1]), (-0.5, shape[0]))
    whole = left <= 0 and bottom <= 0 and right >= shape[1] - 1 and top >= shape[0] - 1
    disabled = "both" if whole and stepsize == 1 else "to"
    return calc_pixmap(wcs, grid_wcs, shape, disable_bbox=disabled, stepsize=stepsize, order=order)


def touching(pixmap: Any, box: Box, kernel: str = "square", scale: float = 1.0) -> Box | None:
    """The box of an exposure's pixels that can overlap a box of the mosaic; None if there are none.

    Parameters
    ----------
    pixmap : ndarray (ny, nx, 2), can be a memory map; one in sixteen rows is read
    box : pixels of the mosaic
    kernel : of drizzle
    scale : largest number of mosaic pixels per exposure pixel, along an axis
    """
    import numpy as np

    ny, nx = pixmap.shape[:2]
    rows, columns = (np.unique(np.append(np.arange(0, n, _COARSE), n - 1)) for n in (ny, nx))
    coarse = np.asarray(pixmap[rows])[:, columns]
    pad = (_COARSE + _REACH[kernel] + 1) * max(scale, 1.0) + 1
    near = (coarse[..., 0] > box.x0 - pad) & (coarse[..., 0] < box.x1 + pad)
    near &= (coarse[..., 1] > box.y0 - pad) & (coarse[..., 1] < box.y1 + pad)
    if not near.any():
        return None
    y, x = rows[near.any(axis=1)], columns[near.any(axis=0)]
    return Box(int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1).grown(_COARSE).within(Box(0, 0, nx, ny))


def reach(pixmap: Any, used: Box) -> Box:
    """The box of mosaic pixels around the outline that drizzle computes for the pixels ``used`` of an exposure.

    drizzle processes the pixels inside this outline, clipped to its output. The outline is made of straight lines, so
    clipping omits some pixels along an edge that distortion bends. A window with the whole outline clips nothing, and
    its pixels are those of a mosaic that contains the whole exposure.
    """
    import numpy as np

    ys, xs = [used.y0, used.y1 - 1], [used.x0, used.x1 - 1]
    corners = np.array([pixmap[y, x] for y in ys for x in xs])
    if not np.isfinite(corners).all():
        corners = np.asarray(pixmap[used.slices]).reshape(-1, 2)
    low, high = np.floor(np.nanmin(corners, axis=0)), np.ceil(np.nanmax(corners, axis=0))
    return Box(int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1).grown(EDGE_PX)


def left_out(pixmap: Any, used: Box, grid: Box, ratio: float) -> Any:
    """Pixels that drizzle omits of an exposure that crosses the border of the mosaic: ndarray (ny, nx) of bool.

    drizzle clips the exposure along a straight line, and so omits some pixels that distortion puts inside, along the
    border and along the edges of the exposure that cross it. They are found by drizzling groups of pixels that are too
    far apart to reach the same output pixel.

    Parameters
    ----------
    pixmap : ndarray (ny, nx, 2), x and y in the mosaic [pixels]
    used : pixels of the exposure inside the bounding box of its WCS
    grid : the whole mosaic
    ratio : side of a mosaic pixel [exposure pixels]
    """
    import numpy as np

    window = reach(pixmap, used).within(grid)
    missed = np.zeros(pixmap.shape[:2], bool)
    if not window.pixels:
        return missed
    ny, nx = window.shape
    local = np.asarray(pixmap) - (window.x0, window.y0)
    # Distance of pixel centres from the nearest border of the mosaic, positive inside.
    with np.errstate(invalid="ignore"):
        depth = np.full(missed.shape, np.inf)
        for axis, (low, high) in enumerate(((grid.x0, grid.x1), (grid.y0, grid.y1))):
            depth = np.fmin(depth, np.fmin(pixmap[..., axis] - low + 0.5, high - 0.5 - pixmap[..., axis]))
    half = 0.75 / ratio
    missed |= depth <= -half  # kernels that reach farther than a pixel would take them
    where = np.zeros_like(missed)
    where[used.slices] = depth[used.slices] < LINE_PX
    band = math.ceil(LINE_PX * max(ratio, 1.0))
    for edge in (np.s_[:band], np.s_[-band:], np.s_[:, :band], np.s_[:, -band:]):
        where[used.slices][edge] = True
    where &= np.isfinite(local).all(axis=2) & (depth > -half)
    rows, columns = np.nonzero(where)
    x = np.clip(np.floor(local[rows, columns, 0] + 0.5), 0, nx - 1).astype(int)
    y = np.clip(np.floor(local[rows, columns, 1] + 0.5), 0, ny - 1).astype(int)
    step = int(np.ceil(2 * (half + 1) * ratio)) + 1
    seen = np.zeros(len(rows), bool)
    lattice = rows % step * step + columns % step
    for first in range(0, step * step, FLAG_BITS):
        chosen = (lattice >= first) & (lattice < first + FLAG_BITS)
        bits = np.zeros(missed.shape, np.uint32)
        bits[rows[chosen], columns[chosen]] = np.uint32(1) << (lattice[chosen] - first).astype(np.uint32)
        flags = _flags(local, used, window, bits, ratio)
        seen[chosen] = (flags[y[chosen], x[chosen]] & bits[rows[chosen], columns[chosen]]) != 0
    missed[rows, columns] = ~seen
    return missed


def _flags(local: Any, used: Box, window: Box, bits: Any, ratio: float) -> Any:
    """DQ flags of pixels, drizzled with a kernel of one and a half pixels, which reaches the edge of a pixel."""
    import numpy as np
    from drizzle.resample import Drizzle

    driz = Drizzle(kernel="turbo", out_shape=window.shape, disable_ctx=True, out_dq=np.zeros(window.shape, np.uint32))
    driz.add_image(
        np.ones(bits.shape, np.float32),
        exptime=1.0,
        pixmap=local,
        dq=bits,
        weight_map=(bits != 0).astype(np.float32),
        pixel_scale_ratio=ratio / 1.5,
        xmin=used.x0,
        xmax=used.x1 - 1,
        ymin=used.y0,
        ymax=used.y1 - 1,
    )
    return driz.out_dq


def with_neighbours(box: Box, shape: tuple[int, int]) -> Box:
    """A box of an exposure's pixels, with the neighbours that drizzle needs for the corners of the outermost."""
    return box.grown(_NEIGHBOURS + 1).within(Box(0, 0, shape[1], shape[0]))


def bounding_box(used: Box, window: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """A WCS bounding box that stcal converts to exactly the pixels ``used``, counted from the corner of a window."""
    inner = used.moved(window.x0, window.y0)
    return (inner.x0 - 0.5, inner.x1 - 0.6), (inner.y0 - 0.5, inner.y1 - 0.6)


def resampler_parameters(resample: Any) -> dict[str, Any]:
    """Keywords of a resampler, from the parameters of a resample step, without the grid."""
    pars = {name: value for name, value in resample.get_drizpars().items() if name not in ("output_wcs", "wcs_pars")}
    return pars | {
        "enable_ctx": resample.enable_ctx,
        "enable_var": resample.enable_err,
        "report_var": resample.report_var,
        "compute_err": "from_var" if resample.enable_err else None,
    }


@cache
def window_resampler() -> type:
    """The class that drizzles onto a window; defined on first use, since importing its base takes seconds."""
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    class WindowResampler(ResampleImage):  # type: ignore[misc]
        """`ResampleImage` for a `Window` and members that are dictionaries, as in stcal.

        Variances are computed in the box around a member. The pipeline does so in the whole output, of which the rest
        does not change.
        """

        def add_model(self, model: Mapping[str, Any]) -> None:
            Resample.add_model(self, model)

        def finalize(self) -> None:
            Resample.finalize(self)

        def resample_variance_arrays(self, model: Any, pixmap: Any, **pars: Any) -> None:
            import numpy as np

            ny, nx = self.output_array_shape
            # The reach is in exposure pixels, which can be several pixels of the mosaic.
            margin = EDGE_PX + int(np.ceil(_REACH[self.kernel] * max(1 / (self.pixel_scale_ratio or 1.0), 1.0)))
            with np.errstate(invalid="ignore"):
                x0, y0 = (int(max(np.nanmin(pixmap[..., axis]) - margin, 0)) for axis in (0, 1))
                x1, y1 = (int(max(np.nanmax(pixmap[..., axis]) + margin, 0)) for axis in (0, 1))
            box = Box(x0, y0, x1, y1).within(Box(0, 0, nx, ny))
            if not box.pixels:
                return
            part = _Part(self, box)
            Resample.resample_variance_arrays(part, model=model, pixmap=pixmap - (box.x0, box.y0), **pars)

    class _Part(Resample):  # type: ignore[misc]
        """A box of a window, with views of its sums."""

        def __init__(self, whole: Any, box: Box):
            self.pixfrac, self.kernel, self.weight_type = whole.pixfrac, whole.kernel, whole.weight_type
            self._output_array_shape = box.shape
            self._variance_info = {
                name: {key: info[key][box.slices] for key in ("wsum", "wt")}
                for name, info in whole._variance_info.items()
            }

    return WindowResampler


@cache
def bare_resampler() -> type:
    """The class that computes the pipeline's output grid and header, without pixels."""
    from drizzle.resample import Drizzle
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    class BareResampler(ResampleImage):  # type: ignore[misc]
        """`ResampleImage` with arrays of one pixel, for the grid and the header of a mosaic."""

        @property
        def output_array_shape(self) -> tuple[int, int]:
            return (1, 1)

        def reset_arrays(self, n_input_models: int | None = None) -> None:
            self._output_model = self.create_output_model()
            self._driz = Drizzle(
                kernel=self.kernel,
                fillval=self.fillval,
                out_shape=(1, 1),
                max_ctx_id=None if n_input_models is None else n_input_models - 1,
                disable_ctx=not self._enable_ctx,
            )
            if self._enable_var:
                self.init_variance_arrays()
            self.init_time_counters()
            self._finalized = False
            self.output_jwst_model = None

        def add_model(self, model: Any) -> None:
            """Add the header of a member: times, pointings, blended keywords."""
            values = self.input_model_to_dict(model, self.weight_type, False, None)
            self._n_res_models += 1
            self._compute_pixel_scale_ratio(values)
            if values["group_id"] not in self._group_ids:
                self.update_time(values)
                self._group_ids.append(values["group_id"])
            if self.output_jwst_model is None:
                self.output_jwst_model = self.create_output_jwst_model(ref_input_model=model)
            if self.blendheaders:
                self._blender.accumulate(model)

        def finish_scale(self, model: Any) -> None:
            """Compute the pixel scale ratio from the first member, as for a custom grid."""
            Resample._compute_pixel_scale_ratio(self, self.input_model_to_dict(model, self.weight_type, False, None))

    return BareResampler


def grid_of(members: Any, output_wcs: Any, wcs_pars: Mapping[str, Any] | None) -> dict[str, Any]:
    """The grid that the pipeline would choose: WCS, pixel scale [arcsec] and its ratio to that of the first member.

    Parameters
    ----------
    members : library of skeletons
    output_wcs : as read by `load_custom_wcs` of the pipeline, or None
    wcs_pars : as returned by `get_drizpars` of the resample step
    """
    made = bare_resampler()(members, output_wcs=output_wcs, wcs_pars=wcs_pars, blendheaders=False)
    if made.pixel_scale_ratio is None:
        with members:
            first = members.borrow(0)
            made.finish_scale(first)
            members.shelve(first, 0, modify=False)
    return {
        "wcs": made.output_wcs,
        "pixel_scale": made.output_pixel_scale,
        "pixel_scale_ratio": made.pixel_scale_ratio,
    }
