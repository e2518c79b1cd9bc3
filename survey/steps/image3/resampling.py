"""The pipeline's resampler on a window of a grid, and without arrays: its grid and its header.

stcal's `calc_pixmap` asks a WCS for sky positions and another for pixels. Here the first answers with pixels of the
mosaic, which were computed once, stored, and moved to a window, and the second hands them on.

Only what is imported from jwst and stcal makes pixels; a contract test holds the names that are overridden here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

from survey.mosaics.grid import Box
from survey.steps.image3.corners import BEFORE, exact_map, padded

# The kernels reach this far around a pixel's centre, in input pixels, and interpolation needs one neighbour more.
_REACH = {"square": 1, "point": 1, "turbo": 1, "gaussian": 4, "lanczos2": 3, "lanczos3": 4}
_NEIGHBOURS = 2
# Around the pixels that a window of an exposure falls on: its corners lie half an exposure pixel further out.
EDGE_PX = 8
# Distortion bends a straight line across a detector by less than this [mosaic pixels].
LINE_PX = 64
FLAG_BITS = 32
_COARSE = 16
_SPATIAL = SimpleNamespace(naxes=2, axes_type=("SPATIAL", "SPATIAL"))


class StoredMap:
    """Stands for the WCS of an exposure, or of a window of it: its 'sky' is the mosaic's pixels."""

    output_frame = _SPATIAL

    def __init__(self, pixmap: Any, bounding_box: tuple[tuple[float, float], tuple[float, float]] | None = None):
        self._pixmap = pixmap
        self.bounding_box = bounding_box
        self.array_shape = pixmap.shape[:2]

    def pixel_to_world_values(self, _x: Any, _y: Any) -> tuple[Any, Any]:
        return self._pixmap[..., 0], self._pixmap[..., 1]


class Window:
    """Stands for the WCS of a window of the mosaic, to which stored maps were moved before."""

    output_frame = _SPATIAL
    bounding_box = None

    def __init__(self, box: Box):
        self.array_shape = box.shape
        self.pixel_shape = box.shape[::-1]

    def world_to_pixel_values(self, x: Any, y: Any) -> tuple[Any, Any]:
        return x, y


def place(
    arrays: Mapping[str, Any], pixmap: Any, used: Box, window: Box, resampler: Any
) -> tuple[dict[str, Any], StoredMap]:
    """Arrays of a member and its map, moved to a window of the mosaic so that corners stay to the bit.

    Parameters
    ----------
    arrays : of the same pixels as the map
    pixmap : ndarray (ny, nx, 2), pixels of the whole mosaic
    used : the pixels of the map to drizzle; the others are there as neighbours
    window : of the mosaic
    resampler : the one that will take them: its kernel and pixfrac say whether corners are means of centres
    """
    import numpy as np

    if resampler.kernel == "square" and resampler.pixfrac == 1 and np.isfinite(pixmap).all():
        moved = exact_map(pixmap, (window.x0, window.y0))
        arrays = {name: None if values is None else padded(values) for name, values in arrays.items()}
        used = used.moved(-BEFORE, -BEFORE)
    else:
        moved = pixmap - (float(window.x0), float(window.y0))
    ny, nx = moved.shape[:2]
    return dict(arrays), StoredMap(moved, bounding_box(used, Box(0, 0, nx, ny)))


def blot_map(pixmap: Any, window: Box) -> Any:
    """A map for blot, counted from a window's corner: blot rounds to single precision before it looks where it is."""
    import numpy as np

    return pixmap.astype(np.float32).astype(np.float64) - (float(window.x0), float(window.y0))


def pixel_map(wcs: Any, grid_wcs: Any, shape: tuple[int, int], stepsize: float, order: int) -> Any:
    """Pixels of the grid that an exposure's pixels fall on: (ny, nx, 2) float64, x and y, NaN outside of its WCS."""
    from stcal.resample.utils import calc_pixmap

    # A bounding box costs a tenth of the time; one that holds every pixel's centre changes none of them.
    ((left, right), (bottom, top)) = wcs.bounding_box or ((-0.5, shape[1]), (-0.5, shape[0]))
    whole = left <= 0 and bottom <= 0 and right >= shape[1] - 1 and top >= shape[0] - 1
    disabled = "both" if whole and stepsize == 1 else "to"
    return calc_pixmap(wcs, grid_wcs, shape, disable_bbox=disabled, stepsize=stepsize, order=order)


def touching(pixmap: Any, box: Box, kernel: str = "square", scale: float = 1.0) -> Box | None:
    """The box of an exposure's pixels that can touch a box of the mosaic; None when there are none.

    Parameters
    ----------
    pixmap : ndarray (ny, nx, 2), may lie on disk: a sixteenth of its rows is read
    box : pixels of the mosaic
    kernel : of drizzle
    scale : mosaic pixels per exposure pixel, at most
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
    """The box of mosaic pixels around the outline that drizzle draws of an exposure's pixels ``used``.

    drizzle goes through the pixels inside that outline, clipped to its output. The clipped line is straight, and
    distortion bends what it stands for: clipped, it would leave out pixels along the exposure's edge. A window that
    holds the whole outline clips nothing, and its pixels are those of a mosaic that holds the whole exposure.
    """
    import numpy as np

    ys, xs = [used.y0, used.y1 - 1], [used.x0, used.x1 - 1]
    corners = np.array([pixmap[y, x] for y in ys for x in xs])
    if not np.isfinite(corners).all():
        corners = np.asarray(pixmap[used.slices]).reshape(-1, 2)
    low, high = np.floor(np.nanmin(corners, axis=0)), np.ceil(np.nanmax(corners, axis=0))
    return Box(int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1).grown(EDGE_PX)


def left_out(pixmap: Any, used: Box, grid: Box, ratio: float) -> Any:
    """Pixels of an exposure that crosses the mosaic's border which drizzle leaves out: ndarray (ny, nx) of bool.

    Along that border drizzle stops at a straight line, short of some pixels that distortion puts inside. Drizzle itself
    is asked which: a few pixels at a time, so far apart that no two reach one output pixel.

    Parameters
    ----------
    used : the exposure's pixels inside the bounding box of its WCS
    grid : the whole mosaic
    ratio : side of a mosaic pixel in exposure pixels
    """
    import numpy as np

    window = reach(pixmap, used).within(grid)
    missed = np.zeros(pixmap.shape[:2], bool)
    if not window.pixels:
        return missed
    ny, nx = window.shape
    local = np.asarray(pixmap) - (window.x0, window.y0)
    # How far inside the nearest border of the mosaic, not of the window, a pixel's centre lies.
    with np.errstate(invalid="ignore"):
        depth = np.full(missed.shape, np.inf)
        for axis, (low, high) in enumerate(((grid.x0, grid.x1), (grid.y0, grid.y1))):
            depth = np.fmin(depth, np.fmin(pixmap[..., axis] - low + 0.5, high - 0.5 - pixmap[..., axis]))
    half = 0.75 / ratio
    where = np.zeros_like(missed)
    where[used.slices] = True
    where &= np.isfinite(local).all(axis=2) & (depth > -half) & (depth < LINE_PX)
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
    """The flags that pixels leave on the output. The kernel is one and a half of a pixel's size, to reach its edge."""
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
    """A box of an exposure's pixels with those that drizzle needs to find the corners of the outermost."""
    return box.grown(_NEIGHBOURS + 1).within(Box(0, 0, shape[1], shape[0]))


def bounding_box(used: Box, window: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """The pixels ``used``, counted from a window's corner, as a WCS bounding box that stcal reads as just these."""
    inner = used.moved(window.x0, window.y0)
    return (inner.x0 - 0.5, inner.x1 - 0.6), (inner.y0 - 0.5, inner.y1 - 0.6)


def resampler_parameters(resample: Any) -> dict[str, Any]:
    """Keywords of a resampler, from a resample step, but for the grid."""
    pars = {name: value for name, value in resample.get_drizpars().items() if name not in ("output_wcs", "wcs_pars")}
    return pars | {
        "enable_ctx": resample.enable_ctx,
        "enable_var": resample.enable_err,
        "report_var": resample.report_var,
        "compute_err": "from_var" if resample.enable_err else None,
    }


@cache
def window_resampler() -> type:
    """The class that drizzles onto a window; made on first use, since its base takes seconds to import."""
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    class WindowResampler(ResampleImage):  # type: ignore[misc]
        """`ResampleImage` for members that are dictionaries, as stcal takes them, onto a `Window`.

        The variances of a member are worked on inside the box that the member touches; it is the whole window in the
        pipeline, where nothing else of the window changes.
        """

        def add_model(self, model: Mapping[str, Any]) -> None:
            Resample.add_model(self, model)

        def finalize(self) -> None:
            Resample.finalize(self)

        def resample_variance_arrays(self, model: Any, pixmap: Any, **pars: Any) -> None:
            import numpy as np

            ny, nx = self.output_array_shape
            # Kernels reach in exposure pixels, of which each may be several of the mosaic's.
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
        """A box of a window, with views of its running sums."""

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
    """The class that knows the pipeline's output grid and header and holds no pixels."""
    from drizzle.resample import Drizzle
    from jwst.resample.resample import ResampleImage
    from stcal.resample import Resample

    class BareResampler(ResampleImage):  # type: ignore[misc]
        """`ResampleImage` with arrays of one pixel: what it makes is the grid, and the header of a mosaic."""

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
            """Take the pixel scale ratio from the first member, as a custom grid does."""
            Resample._compute_pixel_scale_ratio(self, self.input_model_to_dict(model, self.weight_type, False, None))

    return BareResampler


def grid_of(members: Any, output_wcs: Any, wcs_pars: Mapping[str, Any] | None) -> dict[str, Any]:
    """The grid that the pipeline would choose: its WCS, pixel scale [arcsec] and ratio to the first member's pixels.

    Parameters
    ----------
    members : library of skeletons
    output_wcs : what the pipeline's `load_custom_wcs` read, or None
    wcs_pars : parameters of the resample step, as it hands them on
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
