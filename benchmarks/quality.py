"""Measurements of finished mosaics as functions of arrays: positions, photometry, depth, coverage.

Pixel coordinates are 0-based with whole numbers at pixel centres. Apertures, rings and depth are those of photutils;
scatter is astropy's ``mad_std``, the standard deviation of a normal distribution with the same median absolute
deviation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from astropy.stats import mad_std
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture
from photutils.utils import ImageDepth

from survey.errors import SurveyError

UJY_PER_MJY_SR = 1e12  # times the solid angle of a pixel [sr]: MJy/sr -> uJy per pixel
AB_ZERO_UJY = 23.9  # AB magnitude of 1 uJy
DEPTH_APERTURES, DEPTH_ROUNDS = 500, 10
_CENTROID_ROUNDS = 30
_CENTROID_STEP_PX = 1e-4  # converged


class MeasurementError(SurveyError):
    """The data do not allow the measurement that was asked for."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """Measured minus true positions: how far off the whole field is, and how much each source besides."""

    number: int
    offset_x: float  # median; the units are those of the positions
    offset_y: float
    scatter_x: float  # robust, about the median
    scatter_y: float
    rms: float  # per axis, about the median, of all sources: outliers count in full

    @property
    def offset(self) -> float:
        return float(np.hypot(self.offset_x, self.offset_y))

    @property
    def scatter(self) -> float:
        """Per axis: root mean square of the two."""
        return float(np.hypot(self.scatter_x, self.scatter_y) / np.sqrt(2))


def robust_scatter(values):
    """`astropy.stats.mad_std` of the values that are not NaN; NaN when there are none."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(mad_std(values)) if values.size else float("nan")


def position_residuals(measured, true):
    """How far paired positions differ.

    Parameters
    ----------
    measured, true : ndarray (n, 2), float [pixel or arcsec]; row by row the same source; rows with NaN are left out

    Returns
    -------
    Residuals, in the units of the positions

    Raises
    ------
    MeasurementError
        No pair is left.
    """
    difference = np.asarray(measured, float).reshape(-1, 2) - np.asarray(true, float).reshape(-1, 2)
    difference = difference[np.isfinite(difference).all(axis=1)]
    if not len(difference):
        raise MeasurementError("no source was matched; enlarge the radius, or check that both lists show one field.")
    middle = np.median(difference, axis=0)
    rms = float(np.sqrt(np.mean((difference - middle) ** 2)))
    scatter = [robust_scatter(column) for column in difference.T]
    return Residuals(len(difference), float(middle[0]), float(middle[1]), scatter[0], scatter[1], rms)


def centroids(image, x, y, sigma):
    """Centres of sources by a Gaussian window that moves to each source's centre (the XWIN of SExtractor).

    Unbiased for a source that is symmetric about its centre, wherever the centre falls in its pixel, when ``sigma`` is
    about that of the source.

    By hand, since photutils has this centroid only in `SourceCatalog`, with a window from each source's own half-light
    radius, which noise changes from source to source. Its `centroid_2dg` fits a Gaussian, which the wings of a star
    are not.

    Parameters
    ----------
    image : ndarray (ny, nx), float, its background subtracted; NaN = no data
    x, y : ndarray (n,), float; where to start [pixel]
    sigma : float; of the window [pixel]

    Returns
    -------
    x, y : ndarray (n,), float [pixel]; NaN where data are missing within 3 sigma, where there is no light, or where the
        window wanders more than 3 sigma from its start

    References
    ----------
    Bertin, SExtractor documentation, "Windowed positional parameters".
    """
    found = [_centroid(image, float(a), float(b), sigma) for a, b in zip(x, y, strict=True)]
    return np.array([place[0] for place in found]), np.array([place[1] for place in found])


def aperture_sums(image, x, y, radius):
    """Sums over circular apertures, each pixel weighted by its exact overlap.

    Parameters
    ----------
    image : ndarray (ny, nx), float; NaN = no data
    x, y : ndarray (n,), float; centres [pixel]
    radius : float [pixel]

    Returns
    -------
    sums : ndarray (n,), float64; NaN where the aperture leaves the image or holds a pixel without data
    """
    good, framed, centres = _framed(image, x, y, radius)
    sums = np.full(len(good), np.nan)
    if good.any():
        sums[good] = CircularAperture(centres, radius).do_photometry(framed)[0]
    return sums


def annulus_medians(image, x, y, inner, outer):
    """Median of the pixels whose centres lie in a ring: the local background, with little of any neighbour.

    Parameters
    ----------
    image : ndarray (ny, nx), float; NaN = no data, left out
    x, y : ndarray (n,), float; centres [pixel]
    inner, outer : float; radii [pixel]

    Returns
    -------
    levels : ndarray (n,), float64; NaN where less than half of the ring lies in the image and has data
    """
    good, framed, centres = _framed(image, x, y, outer)
    levels = np.full(len(good), np.nan)
    if good.any():
        rings = CircularAnnulus(centres, inner, outer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of photutils, about pixels without data
            found = ApertureStats(framed, rings, sum_method="center")
            share = np.atleast_1d(found.center_aper_area.value) / rings.area
            levels[good] = np.where(share >= 0.5, np.atleast_1d(found.median), np.nan)
    return levels


def flux_ratio(measured, true):
    """Median of measured over true flux, its scatter, and how many sources it stands on.

    Parameters
    ----------
    measured, true : ndarray (n,), float, in one unit; pairs with NaN or a true flux that is not positive are left out

    Returns
    -------
    median, scatter : float
    number : int

    Raises
    ------
    MeasurementError
        No pair is left.
    """
    measured, true = np.asarray(measured, float), np.asarray(true, float)
    good = np.isfinite(measured) & np.isfinite(true) & (true > 0)
    if not good.any():
        raise MeasurementError("no source has both a measured and a true flux.")
    ratio = measured[good] / true[good]
    return float(np.median(ratio)), robust_scatter(ratio), int(good.sum())


def depth(image, empty, radius, pixel_sr, n_sigma=5.0):
    """Limiting flux of an aperture, from apertures on empty sky, by `photutils.utils.ImageDepth`.

    The scatter of the apertures' sums holds the correlated noise of drizzled pixels, which error arrays leave out.

    Parameters
    ----------
    image : ndarray (ny, nx), float [MJy/sr]; NaN = no data
    empty : ndarray (ny, nx), bool; True = has data and no source
    radius : float; of the aperture [pixel]
    pixel_sr : float; solid angle of a pixel [sr]
    n_sigma : float

    Returns
    -------
    flux_ujy : float; ``n_sigma`` times the scatter of the sums [uJy], without any aperture correction
    mag_ab : float; the same as an AB magnitude

    Raises
    ------
    MeasurementError
        No aperture fits on empty sky.
    """
    finder = ImageDepth(radius, n_sigma=n_sigma, n_apertures=DEPTH_APERTURES, n_iters=DEPTH_ROUNDS, seed=0,
                        zeropoint=AB_ZERO_UJY, progress_bar=False)  # fmt: skip
    usable = empty & np.isfinite(image)
    try:
        flux, magnitude = finder(np.where(usable, image, 0.0) * pixel_sr * UJY_PER_MJY_SR, ~usable)
    except ValueError as error:
        raise MeasurementError(
            f"no aperture of radius {radius} pixels fits on empty sky; take a smaller one."
        ) from error
    return float(flux), float(magnitude)


def coverage_fraction(image, weight):
    """Share of an image's pixels that hold data.

    Parameters
    ----------
    image : ndarray (ny, nx), float; NaN = no data
    weight : ndarray (ny, nx), float; 0 or NaN = no data

    Returns
    -------
    fraction : float, 0 to 1
    """
    return float(np.mean(np.isfinite(image) & (np.nan_to_num(weight) > 0))) if image.size else 0.0


def _centroid(image: np.ndarray, x: float, y: float, sigma: float) -> tuple[float, float]:
    nothing = (float("nan"), float("nan"))
    a, b = x, y
    for _ in range(_CENTROID_ROUNDS):
        cut = _stamp(image, a, b, int(np.ceil(3 * sigma)))
        if cut is None:
            return nothing
        stamp, dx, dy = cut
        weight = np.exp(-(dx**2 + dy**2) / (2 * sigma**2))
        weight[dx**2 + dy**2 > (3 * sigma) ** 2] = 0.0
        light = np.where(weight > 0, stamp * weight, 0.0)
        total = light.sum()
        if not total > 0:  # NaN as well
            return nothing
        # Twice the mean: window and source have about the same width, and the window pulls the mean half-way back.
        step_x, step_y = 2 * (light * dx).sum() / total, 2 * (light * dy).sum() / total
        a, b = a + step_x, b + step_y
        if np.hypot(a - x, b - y) > 3 * sigma:
            return nothing
        if np.hypot(step_x, step_y) < _CENTROID_STEP_PX:
            break
    return float(a), float(b)


def _stamp(image: np.ndarray, x: float, y: float, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The pixels within ``reach`` of the one that holds (x, y), and their distances from it; None beyond the edge."""
    if not (np.isfinite(x) and np.isfinite(y)):
        return None
    i, j = round(x), round(y)
    if i < reach or j < reach or i + reach >= image.shape[1] or j + reach >= image.shape[0]:
        return None
    offsets = np.arange(-reach, reach + 1)
    stamp = np.asarray(image[j - reach : j + reach + 1, i - reach : i + reach + 1], float)
    dx, dy = np.meshgrid(offsets + (i - x), offsets + (j - y))
    return stamp, dx, dy


def _framed(image, x, y, reach):
    """Which positions lie on the image; the image in a frame without data, ``reach`` wide; the positions in that."""
    places = np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1)
    nx, ny = image.shape[1], image.shape[0]
    good = ((places >= -0.5) & (places < (nx - 0.5, ny - 0.5))).all(axis=1)  # false for NaN
    width = int(np.ceil(reach)) + 1
    return good, np.pad(np.asarray(image, float), width, constant_values=np.nan), places[good] + width
