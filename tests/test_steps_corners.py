"""Corners of a window are the whole mosaic's, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from survey.steps.image3.corners import AFTER, BEFORE, corners_of, exact_map, padded
from survey.steps.image3.numbers import typed, untyped

# Where an exposure's first pixel falls on the mosaic, how it is turned, and where the window begins.
PLACES = [
    ((41000.3, 13000.7), 0.002, (40960, 12990)),
    ((5.2, 3.1), 0.0, (0, 0)),
    ((0.4, 700.0), 0.01, (-33, 690)),
    ((900.0, 1500.0), 0.6, (540, 1490)),
    ((2100.0, 30.0), -0.3, (2090, -80)),
    ((16380.0, 32760.0), 3.0, (15900, 32200)),
]


def distorted(origin, angle, ny=180, nx=210, scale=0.97):
    y, x = np.indices((ny, nx), dtype=float)
    x, y = x + 3e-5 * x**2 - 2e-5 * x * y, y + 4e-5 * y**2 + 1e-5 * x * y
    u = scale * (np.cos(angle) * x - np.sin(angle) * y) + origin[0]
    v = scale * (np.sin(angle) * x + np.cos(angle) * y) + origin[1]
    return np.stack([u, v], axis=-1)


def means(centres):
    """As drizzle adds four centres, for pixfrac 1."""
    return centres[:-1, :-1] * 0.25 + centres[:-1, 1:] * 0.25 + centres[1:, :-1] * 0.25 + centres[1:, 1:] * 0.25


@pytest.mark.parametrize(("origin", "angle", "start"), PLACES)
def test_means_are_the_mosaics_corners(origin, angle, start):
    pixmap = distorted(origin, angle)
    start = tuple(min(first, int(np.floor(pixmap[..., axis].min())) - 5) for axis, first in enumerate(start))
    moved = exact_map(pixmap, start)
    assert moved.shape == (180 + BEFORE + AFTER, 210 + BEFORE + AFTER, 2)
    for axis in (0, 1):
        wanted = corners_of(np.ascontiguousarray(pixmap[..., axis])) - start[axis]
        found = means(moved[:-1, :-1, axis])
        np.testing.assert_array_equal(found, wanted)
        inner = moved[BEFORE:-AFTER, BEFORE:-AFTER, axis]
        np.testing.assert_allclose(inner, pixmap[..., axis] - start[axis], rtol=0, atol=1e-7)


def test_moving_alone_would_not_do():
    """The test can fail: centres that are only moved have other means."""
    pixmap = distorted((41000.3, 13000.7), 0.002)
    centres = np.ascontiguousarray(pixmap[..., 0])
    plain = means(np.pad(centres - 40960.0, 1, mode="reflect", reflect_type="odd"))
    assert (plain != corners_of(centres) - 40960).mean() > 0.1


def test_corners_inside_and_along_the_edge():
    centres = np.arange(12.0).reshape(3, 4)
    found = corners_of(centres)
    np.testing.assert_array_equal(found[1:-1, 1:-1], means(centres))
    np.testing.assert_array_equal(found, np.add.outer(np.arange(-2.0, 14.0, 4.0), np.arange(-0.5, 4.5)))


def test_padding_adds_zeros():
    values = padded(np.ones((3, 4), np.uint32))
    assert values.shape == (6, 7) and values.dtype == np.uint32
    assert values[BEFORE:-AFTER, BEFORE:-AFTER].all() and values.sum() == 12


@pytest.mark.parametrize("value", [1.1, np.float64(1.1), np.float32(1.1), None])
def test_numbers_keep_their_type(value):
    found = untyped(typed(value))
    assert type(found) is type(value) and found == value
