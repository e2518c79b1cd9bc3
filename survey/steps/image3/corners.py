"""Pixel maps whose corners are, to the bit, those of the whole mosaic, wherever a window of it begins.

The square kernel takes an exposure pixel's corners as means of four pixel centres, in double precision. On a mosaic of
thousands of pixels these means are rounded; counted from a window's corner the numbers are smaller and are rounded
elsewhere. The corners then differ by 1e-12 pixel, and one mosaic pixel in ten thousand in its last bit.

So the rounded corners of the whole mosaic are computed here as drizzle does, and centres are found of which they are
the exact means, in sums that need no rounding. These centres differ from the true ones by some 1e-9 pixel,
and nothing looks at them but the means.
"""

from __future__ import annotations

from typing import Any

# Rings of centres that are added around a window's: a corner needs one on each side, and drizzle takes the short way
# to a pixel's corners only with two behind it.
BEFORE, BEHIND = 1, 2


def exact_map(pixmap: Any, corner: tuple[int, int]) -> Any:
    """A window of a pixel map, counted from a corner, with added rings of centres.

    Parameters
    ----------
    pixmap : ndarray (ny, nx, 2), float64, finite: pixels of the whole mosaic
    corner : x, y of the output's first pixel

    Returns
    -------
    moved : ndarray (ny + 3, nx + 3, 2); ``moved[1 + y, 1 + x]`` stands for ``pixmap[y, x]``
    """
    import numpy as np

    made = [_axis(np.ascontiguousarray(pixmap[..., axis]), float(corner[axis])) for axis in (0, 1)]
    return np.stack(made, axis=-1)


def padded(values: Any) -> Any:
    """An array of the window with the rings that `exact_map` adds; they hold zero."""
    import numpy as np

    return np.pad(values, (BEFORE, BEHIND))


def _axis(centres: Any, start: float) -> Any:
    import numpy as np

    ring = np.pad(centres, BEFORE, mode="reflect", reflect_type="odd")
    made = _with_means(ring, corners_of(centres), start)
    return np.pad(made, (0, BEHIND - BEFORE), mode="reflect", reflect_type="odd")


def corners_of(centres: Any) -> Any:
    """Corners of pixels as drizzle's square kernel finds them for pixfrac 1: (ny, nx) -> (ny + 1, nx + 1).

    Inside, the mean of four centres; along the edge, extrapolated from the nearest four. Sums are in drizzle's order.
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
    """Corners behind the given rows and columns, from the four centres that are nearest."""
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
    """Centres whose means are the given corners, exactly, counted from ``start``.

    One centre after another makes up for the error of its corner, given the three others of its cell. Numbers have more
    digits behind the point where they are small, so this goes from large coordinates to small ones: each centre then
    has the digits that its corner asks for.
    """
    import numpy as np

    rising = [axis for axis in (0, 1) if ring.take(-1, axis).mean() > ring.take(0, axis).mean()]
    ring, corners = np.flip(ring, tuple(rising)), np.flip(corners, tuple(rising))
    made = ring - start
    unit = np.spacing(np.maximum(np.abs(ring), np.abs(made)))
    unit *= 4  # a fourth of a centre, its part in a mean, has then no more digits than the mean itself
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
