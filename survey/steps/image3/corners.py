"""Pixel maps of a window whose corners are bitwise those of the whole mosaic.

The square kernel computes the corners of an exposure's pixel as means of four pixel centres, in double precision. In a
mosaic of thousands of pixels these means are rounded. Counted from the corner of a window the numbers are smaller and
rounded differently: the corners differ by 1e-12 pixels, and one pixel of the mosaic in ten thousand in its last bit.

Here, the rounded corners of the whole mosaic are computed as drizzle does. Then centres are found whose means are
exactly these corners, in sums without rounding. They differ from the true centres by about 1e-9 pixels; only their
means are used.
"""

from __future__ import annotations

from typing import Any

# Rings of centres that are added around a window, before and after it. A corner needs one on each side; drizzle uses
# its fast computation of corners only for pixels with two after them.
BEFORE, AFTER = 1, 2


def exact_map(pixmap: Any, corner: tuple[int, int]) -> Any:
    """Pixel map of a window, counted from its corner, with added rings of centres.

    Parameters
    ----------
    pixmap : ndarray (ny, nx, 2), float64, finite; x and y in the whole mosaic [pixels]
    corner : x, y of the first pixel of the window

    Returns
    -------
    moved : ndarray (ny + 3, nx + 3, 2), float64; ``moved[1 + y, 1 + x]`` corresponds to ``pixmap[y, x]``
    """
    import numpy as np

    made = [_axis(np.ascontiguousarray(pixmap[..., axis]), float(corner[axis])) for axis in (0, 1)]
    return np.stack(made, axis=-1)


def padded(values: Any) -> Any:
    """An array of the window with the rings that `exact_map` adds, filled with zero."""
    import numpy as np

    return np.pad(values, (BEFORE, AFTER))


def _axis(centres: Any, start: float) -> Any:
    import numpy as np

    ring = np.pad(centres, BEFORE, mode="reflect", reflect_type="odd")
    made = _with_means(ring, corners_of(centres), start)
    return np.pad(made, (0, AFTER - BEFORE), mode="reflect", reflect_type="odd")


def corners_of(centres: Any) -> Any:
    """Corners of pixels as computed by drizzle's square kernel for pixfrac 1: (ny, nx) -> (ny + 1, nx + 1).

    The mean of four centres; along the edge, extrapolated from the nearest four. Sums are in the order of drizzle.
    """
    import numpy as np

    ny, nx = centres.shape
    found = np.empty((ny + 1, nx + 1))
    inner = found[1:-1, 1:-1]
    np.multiply(centres[:-1, :-1], 0.25, out=inner)
    for part in (centres[:-1, 1:], centres[1:, :-1], centres[1:, 1:]):
        inner += part * 0.25
    rows, columns = np.arange(-1, ny), np.arange(-1, nx)
    for row in (-1, ny - 1):
        found[row + 1] = _interpolated(centres, np.array([row]), columns)[0]
    for column in (-1, nx - 1):
        found[:, column + 1] = _interpolated(centres, rows, np.array([column]))[:, 0]
    return found


def _interpolated(centres: Any, rows: Any, columns: Any) -> Any:
    """Corners after the given rows and columns, from the four nearest centres."""
    import numpy as np

    ny, nx = centres.shape
    i, j = np.clip(columns, 0, nx - 2), np.clip(rows, 0, ny - 2)[:, None]
    x, y = columns + 0.5 - i, rows[:, None] + 0.5 - j
    x1, y1 = 1.0 - x, 1.0 - y
    total = centres[j, i] * x1 * y1
    total += centres[j, i + 1] * x * y1
    total += centres[j + 1, i] * x1 * y
    total += centres[j + 1, i + 1] * x * y
    return total


def _with_means(ring: Any, corners: Any, start: float) -> Any:
    """Centres whose means are exactly the given corners, counted from ``start``.

    Each centre in turn is changed by the error of its corner, given the three other centres around it. Small numbers
    have more digits after the point, so the order is from large coordinates to small ones: then each centre has the
    digits that its corner needs.
    """
    import numpy as np

    rising = [axis for axis in (0, 1) if ring.take(-1, axis).mean() > ring.take(0, axis).mean()]
    ring, corners = np.flip(ring, tuple(rising)), np.flip(corners, tuple(rising))
    made = ring - start
    unit = np.spacing(np.maximum(np.abs(ring), np.abs(made)))
    unit *= 4  # a quarter of a centre, its part of a mean, then has no more digits than the mean
    np.divide(ring, unit, out=made)
    np.rint(made, out=made)
    made *= unit
    made -= start
    error = (corners - start) * 4
    for rows, columns in ((slice(-1), slice(-1)), (slice(-1), slice(1, None)), (slice(1, None), slice(-1)),
                          (slice(1, None), slice(1, None))):  # fmt: skip
        error -= made[rows, columns]
    for axis in (1, 0):
        odd = (slice(None),) * axis + (slice(1, None, 2),)
        error[odd] *= -1
        np.cumsum(error, axis=axis, out=error)
        error[odd] *= -1
    made[1:, 1:] += error
    return np.flip(made, tuple(rising))
