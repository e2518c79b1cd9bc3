"""Faint exponential halos about galaxies."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from scipy.special import gammaincinv

from survey.simulate import geometry
from survey.simulate.detector import Detector, Window, stream
from survey.simulate.geometry import Aim
from survey.simulate.scene import Scene
from survey.simulate.sky import AB_ZERO_UJY, EDGE_RADII, pixel_to_east_north

_EXPONENT = float(gammaincinv(2.0, 0.5))  # half the light of an exponential profile lies within the half-light radius


def draw_halos(scene: Scene, sources: Table) -> Table:
    """Choose the galaxies that have a halo.

    Returns
    -------
    Table
        source (id of the galaxy), ra, dec [deg], mag_arcsec2 (AB, at the half-light radius), half_light [arcsec,
        major axis], axis_ratio, position_angle [deg]
    """
    settings = scene.sky.halos
    galaxies = sources[sources["kind"] == "galaxy"]
    chance = stream(scene.seed, "sky", "halos").random(len(galaxies))
    chosen = galaxies[chance < (settings.share if settings.enabled else 0.0)]
    table = Table({"source": np.array(chosen["id"], int)})
    for name in ("ra", "dec"):
        table[name] = chosen[name]
    table["mag_arcsec2"] = np.full(len(chosen), settings.mag_arcsec2)
    table["half_light"] = np.full(len(chosen), settings.half_light_arcsec)
    table["axis_ratio"], table["position_angle"] = chosen["axis_ratio"], chosen["position_angle"]
    table["half_light"].unit = "arcsec"
    return table


def halo_rate(halos: Table, detector: Detector, window: Window, filter_name: str, attitude: Aim) -> np.ndarray:
    """The halos' light on a window, as the rate that it makes in a pixel of nominal area, (ny, nx) float32 [e-/s].

    The profile is not convolved with the PSF, which is 40 times smaller.
    """
    rate = np.zeros((window.ny, window.nx), np.float32)
    if not len(halos):
        return rate
    electrons = detector.electrons_per_ujy(filter_name) * detector.pixel_area_arcsec2
    ra, dec = np.asarray(halos["ra"], float), np.asarray(halos["dec"], float)
    x, y = geometry.v2v3_to_pixel(detector.name, *attitude.from_sky(ra, dec))
    x, y = x - window.x0, y - window.y0
    reach = EDGE_RADII * np.asarray(halos["half_light"], float) / np.sqrt(detector.pixel_area_arcsec2)
    for i in np.flatnonzero((x > -reach) & (x < window.nx + reach) & (y > -reach) & (y < window.ny + reach)):
        left, right = max(0, int(x[i] - reach[i])), min(window.nx, int(x[i] + reach[i]) + 2)
        bottom, top = max(0, int(y[i] - reach[i])), min(window.ny, int(y[i] + reach[i]) + 2)
        matrix = pixel_to_east_north(detector.name, window, float(x[i]), float(y[i]), attitude)
        dx, dy = np.arange(left, right)[None, :] - x[i], np.arange(bottom, top)[:, None] - y[i]
        east, north = (matrix[axis, 0] * dx + matrix[axis, 1] * dy for axis in (0, 1))
        rate[bottom:top, left:right] += electrons * _brightness(halos[int(i)], east, north)
    return rate


def _brightness(halo: Table.Row, east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Surface brightness [uJy/arcsec2] at offsets from the centre [arcsec]."""
    angle = np.radians(halo["position_angle"])
    major = east * np.sin(angle) + north * np.cos(angle)
    minor = east * np.cos(angle) - north * np.sin(angle)
    radius = np.hypot(major, minor / halo["axis_ratio"]) / halo["half_light"]
    at_half_light = 10 ** (0.4 * (AB_ZERO_UJY - halo["mag_arcsec2"]))
    return np.where(radius <= EDGE_RADII, at_half_light * np.exp(-_EXPONENT * (radius - 1)), 0.0)
