"""Measurements by known answers, without signal, and on bad input."""

from __future__ import annotations

import numpy as np
import pytest
from quality import (
    MeasurementError,
    annulus_medians,
    aperture_sums,
    centroids,
    coverage_fraction,
    depth,
    flux_ratio,
    position_residuals,
    robust_scatter,
)


def gaussian(shape, x, y, sigma, flux):
    rows, columns = np.indices(shape)
    return flux * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def test_scatter_of_normal_values_is_their_standard_deviation():
    values = np.random.default_rng(1).normal(3.0, 2.0, 20_000)
    # The MAD of n normal values has a relative error of 1.17 / sqrt(n) = 0.8%; five of these.
    assert robust_scatter(values) == pytest.approx(2.0, rel=0.04)


def test_scatter_ignores_outliers_and_missing_values():
    values = np.concatenate([np.arange(101.0), [1e9, np.nan]])
    assert robust_scatter(values) == pytest.approx(1.482602218505602 * 25.5)  # of 102 values: the median of |v - 50.5|
    assert np.isnan(robust_scatter([np.nan]))


def test_offset_and_scatter_are_told_apart():
    rng = np.random.default_rng(2)
    true = rng.uniform(0, 100, (5000, 2))
    shift = np.array([0.5, -0.25])
    residuals = position_residuals(true + shift + rng.normal(0, 0.1, true.shape), true)
    assert residuals.number == 5000
    # Median of n: 1.25 sigma / sqrt(n) = 0.0018; five of these.
    assert residuals.offset_x == pytest.approx(0.5, abs=0.009)
    assert residuals.offset_y == pytest.approx(-0.25, abs=0.009)
    assert residuals.offset == pytest.approx(np.hypot(0.5, 0.25), abs=0.01)
    assert residuals.scatter == pytest.approx(0.1, rel=0.06)
    assert residuals.rms == pytest.approx(0.1, rel=0.05)


def test_equal_positions_have_no_residual():
    residuals = position_residuals([[1.0, 2.0]], [[1.0, 2.0]])
    assert (residuals.offset, residuals.scatter, residuals.rms) == (0.0, 0.0, 0.0)


def test_no_pairs_have_no_residual():
    with pytest.raises(MeasurementError, match="no source was matched"):
        position_residuals([[np.nan, 0.0]], [[1.0, 0.0]])


@pytest.mark.parametrize("x, y", [(20.0, 20.0), (20.5, 19.5), (20.31, 19.87)])
def test_centroid_of_a_gaussian_is_its_centre(x, y):
    image = gaussian((41, 41), x, y, 1.5, 100.0)
    found_x, found_y = centroids(image, [20.0], [20.0], sigma=1.5)
    # The window ends at 3 sigma on whole pixels: what it cuts off unevenly is below 1e-3 pixel.
    assert found_x[0] == pytest.approx(x, abs=1e-3)
    assert found_y[0] == pytest.approx(y, abs=1e-3)


def test_no_light_and_missing_data_have_no_centroid():
    image = gaussian((41, 41), 20, 20, 1.5, 100.0)
    image[20, 21] = np.nan
    found_x, _ = centroids(image, [20.0, 1.0], [20.0, 1.0], sigma=1.5)
    assert np.isnan(found_x).all()
    assert np.isnan(centroids(np.zeros((41, 41)), [20.0], [20.0], 1.5)[0]).all()


@pytest.mark.parametrize("radius", [3.0, 5.5])
def test_aperture_of_a_flat_image_holds_its_area(radius):
    sums = aperture_sums(np.full((31, 31), 2.0), [15.0, 14.63], [15.0, 15.21], radius)
    assert sums == pytest.approx(2 * np.pi * radius**2, rel=1e-12)


def test_aperture_beyond_the_edge_or_on_missing_data_has_no_sum():
    image = np.ones((31, 31))
    image[15, 15] = np.nan
    assert np.isnan(aperture_sums(image, [15.0, 1.0, np.nan], [15.0, 15.0, 15.0], 3.0)).all()
    image[15, 15] = 1.0
    image[0, 0] = np.nan  # not in the aperture
    assert np.isfinite(aperture_sums(image, [15.0], [15.0], 3.0)).all()


def test_background_is_the_median_of_the_ring():
    image = np.full((41, 41), 3.0) + gaussian((41, 41), 20, 20, 1.5, 1000.0)
    image[20, 30] = 1e6  # a neighbour in the ring
    # At eight sigma the source itself is down by exp(-32).
    assert annulus_medians(image, [20.0], [20.0], 12, 15)[0] == pytest.approx(3.0, abs=1e-9)
    image[:, :] = np.nan
    assert np.isnan(annulus_medians(image, [20.0, 2.0], [20.0, 2.0], 8, 12)).all()


def test_flux_ratio_is_the_median_of_the_usable_pairs():
    median, scatter, number = flux_ratio([1.1, 2.2, 3.3, np.nan, 5.0], [1.0, 2.0, 3.0, 4.0, 0.0])
    assert (median, number) == (pytest.approx(1.1), 3)
    assert scatter == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(MeasurementError, match="no source"):
        flux_ratio([np.nan], [1.0])


def test_depth_of_white_noise_is_that_of_its_aperture():
    image = np.random.default_rng(3).normal(0.0, 0.01, (700, 700))
    flux, magnitude = depth(image, np.ones(image.shape, bool), radius=3.0, pixel_sr=1e-14)
    # Pixels on the rim count by the square of their share, and outliers are clipped: a little less than this.
    expected = 5 * 0.01 * np.sqrt(np.pi * 3.0**2) * 1e-14 * 1e12
    assert flux == pytest.approx(expected, rel=0.08)
    assert magnitude == pytest.approx(23.9 - 2.5 * np.log10(flux), abs=1e-3)
    assert depth(image, np.ones(image.shape, bool), radius=3.0, pixel_sr=1e-14) == (flux, magnitude)


def test_depth_takes_apertures_on_empty_sky_alone():
    rng = np.random.default_rng(4)
    image = rng.normal(0.0, 0.01, (240, 240))
    empty = np.ones(image.shape, bool)
    image[:120] += rng.uniform(0, 100, (120, 240))
    image[200:, 200:] = np.nan
    empty[:120] = False
    flux, _ = depth(image, empty, radius=3.0, pixel_sr=1e-14)
    # 120 x 240 pixels hold some 1000 independent apertures: 1 / sqrt(2000) = 2%; the clipped rim as above.
    assert flux == pytest.approx(5 * 0.01 * np.sqrt(np.pi * 9) * 1e-2, rel=0.12)


@pytest.mark.parametrize("empty", [np.zeros((50, 50), bool), np.indices((50, 50)).sum(axis=0) % 2 == 0])
def test_depth_needs_empty_sky(empty):
    with pytest.raises(MeasurementError, match=r"no aperture of radius 3\.0 pixels fits"):
        depth(np.zeros((50, 50)), empty, radius=3.0, pixel_sr=1e-14)


def test_coverage_counts_pixels_with_data_and_weight():
    image = np.array([[1.0, np.nan], [0.0, 2.0]])
    weight = np.array([[1.0, 1.0], [np.nan, 0.0]])
    assert coverage_fraction(image, weight) == 0.25
    assert coverage_fraction(np.zeros((0, 0)), np.zeros((0, 0))) == 0.0
