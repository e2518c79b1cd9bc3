"""The sky of a scene: a catalogue of stars and galaxies, and its image on a detector.

The catalogue is drawn from the scene's seed alone, so every filter and detector sees the same sky.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from scipy.signal import fftconvolve
from scipy.special import gammaincinv

from survey.errors import ConfigError
from survey.simulate import geometry
from survey.simulate.detector import Detector, stream
from survey.simulate.geometry import Aim, Attitude, Window
from survey.simulate.psf import HALF_SIZE, PHASES, Psf, load_psf, passband
from survey.simulate.scene import Galaxies, Scene, Stars

AB_ZERO_UJY = 23.9  # AB magnitude of 1 uJy
REFERENCE_UM = 2.0  # wavelength at which mag_ab holds
DEFAULT_ZODIACAL_MJY_SR = 0.2
STAR_COLOUR = (0.8, 0.5)  # mean and rms of d mag_ab / d log10 wavelength: stars are blue here
GALAXY_COLOUR = (-0.6, 0.8)
EDGE_RADII = 6.0  # a galaxy ends at this many half-light radii; its flux is what lies within
_TRIES_PER_POINT = 50
GALAXY_SAMPLES = 4  # per pixel and axis
GALAXY_PSF_HALF = 32  # pixels: galaxies are blurred by the inner part of the PSF, which holds 98 per cent of its light


def draw_sources(scene: Scene) -> Table:
    """The scene's sources, stars first.

    Returns
    -------
    Table
        id; kind ('star' or 'galaxy'); ra, dec [deg, ICRS]; mag_ab at 2 micron; flux_<FILTER> [uJy] for each filter of
        the scene; half_light [arcsec, major axis], sersic, axis_ratio, position_angle [deg, north to east] (0 for
        stars, axis ratio 1). The bright stars come last. With proper motions also pm_ra, pm_dec [mas/yr], along the
        sky; positions are those at the scene's start.
    """
    stars, galaxies, bright = scene.sky.stars, scene.sky.galaxies, scene.sky.bright_stars
    star = _draw(scene, stars, STAR_COLOUR, stars.separation_arcsec, stream(scene.seed, "sky", "stars"))
    rng = stream(scene.seed, "sky", "galaxies")
    galaxy = _draw(scene, galaxies, GALAXY_COLOUR, 0.0, rng)
    more = _draw_bright(scene)
    n, extra = galaxies.number, bright.number if bright.enabled else 0
    low, high = np.log(galaxies.half_light_arcsec)
    shapes = {
        "half_light": np.exp(rng.uniform(low, high, n)),
        "sersic": rng.uniform(*galaxies.sersic_index, n),
        "axis_ratio": rng.uniform(0.3, 1.0, n),
        "position_angle": rng.uniform(0.0, 180.0, n),
    }
    table = Table()
    table["id"] = np.arange(1, stars.number + n + extra + 1)
    table["kind"] = ["star"] * stars.number + ["galaxy"] * n + ["star"] * extra
    for name in ("ra", "dec", "mag_ab"):
        table[name] = np.concatenate([star[name], galaxy[name], more[name]])
    colour = np.concatenate([star["colour"], galaxy["colour"], more["colour"]])
    for filter_name in scene.filters:
        mag = table["mag_ab"] + colour * np.log10(passband(filter_name)[0] / REFERENCE_UM)
        table[f"flux_{filter_name}"] = 10 ** (0.4 * (AB_ZERO_UJY - mag))
        table[f"flux_{filter_name}"].unit = "uJy"
    for name, values in shapes.items():
        point = 1.0 if name == "axis_ratio" else 0.0
        table[name] = np.concatenate([np.full(stars.number, point), values, np.full(extra, point)])
    for name, unit in (("ra", "deg"), ("dec", "deg"), ("half_light", "arcsec"), ("position_angle", "deg")):
        table[name].unit = unit
    if scene.sky.proper_motions.enabled:
        _add_motions(table, scene)
    return table


def _draw_bright(scene: Scene) -> dict[str, np.ndarray]:
    settings = scene.sky.bright_stars
    kind = Stars(
        number=settings.number if settings.enabled else 0, bright_mag=settings.bright_mag,
        faint_mag=settings.faint_mag, slope=0.0,
    )  # fmt: skip
    return _draw(scene, kind, STAR_COLOUR, 0.0, stream(scene.seed, "sky", "bright stars"))


def _add_motions(table: Table, scene: Scene) -> None:
    """Add proper motions of the stars, normal deviates along each axis; galaxies rest."""
    drawn = stream(scene.seed, "sky", "proper motions").normal(0, scene.sky.proper_motions.rms_mas_yr, (2, len(table)))
    for name, values in zip(("pm_ra", "pm_dec"), drawn, strict=True):
        table[name] = np.where(table["kind"] == "star", values, 0.0)
        table[name].unit = "mas/yr"


def _draw(
    scene: Scene, kind: Stars | Galaxies, colour: tuple[float, float], separation: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Positions on a disc about the target, magnitudes with counts rising as 10^(slope mag), colours."""
    east, north = scatter(kind.number, scene.sky.radius_arcsec, separation, rng)
    ra, dec = Attitude(0.0, 0.0, scene.ra_deg, scene.dec_deg, 0.0).to_sky(east, north)
    u = rng.uniform(0, 1, kind.number)
    if kind.slope == 0:
        mag = kind.bright_mag + u * (kind.faint_mag - kind.bright_mag)
    else:
        low, high = 10 ** (kind.slope * kind.bright_mag), 10 ** (kind.slope * kind.faint_mag)
        mag = np.log10(low + u * (high - low)) / kind.slope
    return {"ra": ra, "dec": dec, "mag_ab": mag, "colour": rng.normal(*colour, kind.number)}


def scatter(n: int, radius: float, separation: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw n points uniformly on a disc, none closer than ``separation`` to another; (n,) each.

    Raises
    ------
    ConfigError
        The disc has no room for so many.
    """
    points = np.empty((n, 2))
    placed = 0
    for _ in range(_TRIES_PER_POINT * n):
        if placed == n:
            break
        r, angle = radius * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        point = r * np.sin(angle), r * np.cos(angle)
        if separation == 0 or np.all(np.hypot(*(points[:placed] - point).T) >= separation):
            points[placed] = point
            placed += 1
    if placed < n:
        raise ConfigError(
            f"sky: {n} stars at least {separation} arcsec apart do not fit within {radius} arcsec (placed {placed}). "
            "Lower number or separation_arcsec, or raise radius_arcsec."
        )
    return points[:, 0], points[:, 1]


def zodiacal_mjy_sr(scene: Scene, filter_name: str) -> float:
    """Surface brightness of the zodiacal light in a filter."""
    return scene.sky.zodiacal_mjy_sr.get(filter_name, DEFAULT_ZODIACAL_MJY_SR)


def sky_rate(
    sources: Table,
    detector: Detector,
    window: Window,
    filter_name: str,
    attitude: Aim,
    zodiacal: float,
) -> np.ndarray:
    """The sky on a detector, as `ramps.make_ramp` wants it.

    Parameters
    ----------
    sources : Table as of `draw_sources`
    attitude : the true one
    zodiacal : float [MJy/sr]

    Returns
    -------
    ndarray (ny, nx), float64 [e-/s]
        Surface brightness as the rate it makes in a pixel of nominal area: a star's light, weighted with the true
        pixel area, sums to its flux; the zodiacal light is uniform.
    """
    flux = flux_image(sources, detector.name, window, filter_name, attitude)
    rate = flux * detector.electrons_per_ujy(filter_name) / detector.relative_area[window.slices]
    return rate + zodiacal * detector.electrons_per_mjy_sr(filter_name)


def flux_image(sources: Table, detector: str, window: Window, filter_name: str, attitude: Aim) -> np.ndarray:
    """Flux of the sources in each pixel of a window, (ny, nx) float64 [uJy]."""
    psf = load_psf(filter_name)
    ra, dec = np.asarray(sources["ra"], float), np.asarray(sources["dec"], float)
    x, y = geometry.v2v3_to_pixel(detector, *attitude.from_sky(ra, dec))
    x, y = x - window.x0, y - window.y0
    flux = np.asarray(sources[f"flux_{filter_name}"], float)
    reach = HALF_SIZE + EDGE_RADII * np.asarray(sources["half_light"], float) / psf.pixel_arcsec
    near = (x > -reach) & (x < window.nx + reach) & (y > -reach) & (y < window.ny + reach)
    image = np.zeros((window.ny, window.nx))
    for i in np.flatnonzero(near):
        column, row = int(np.floor(x[i])), int(np.floor(y[i]))
        fraction = (x[i] - column, y[i] - row)
        if sources["kind"][i] == "star":
            stamp = psf.stamp(*fraction)
        else:
            to_sky = pixel_to_east_north(detector, window, x[i], y[i], attitude)
            stamp = galaxy_stamp(sources[i], psf, fraction, to_sky)
        add_stamp(image, stamp, column, row, flux[i])
    return image


def add_stamp(image: np.ndarray, stamp: np.ndarray, column: int, row: int, flux: float) -> None:
    """Add a stamp of odd size whose central pixel is (column, row), as far as it lies on the image, in place."""
    half = stamp.shape[0] // 2
    x0, y0 = column - half, row - half
    left, bottom = max(x0, 0), max(y0, 0)
    right, top = min(x0 + stamp.shape[1], image.shape[1]), min(y0 + stamp.shape[0], image.shape[0])
    if left < right and bottom < top:
        image[bottom:top, left:right] += flux * stamp[bottom - y0 : top - y0, left - x0 : right - x0]


def pixel_to_east_north(detector: str, window: Window, x: float, y: float, attitude: Aim) -> np.ndarray:
    """Matrix (2, 2): pixel offsets -> (east, north) offsets [arcsec] at a point of a window."""
    px = np.array([x - 0.5, x + 0.5, x, x]) + window.x0
    py = np.array([y, y, y - 0.5, y + 0.5]) + window.y0
    ra, dec = attitude.to_sky(*geometry.pixel_to_v2v3(detector, px, py))
    scale = np.array([np.cos(np.radians(dec.mean())), 1.0]) * 3600
    ra = (ra - ra[0] + 180) % 360 - 180
    along_x, along_y = (np.array([ra[b] - ra[a], dec[b] - dec[a]]) * scale for a, b in ((0, 1), (2, 3)))
    return np.column_stack([along_x, along_y])


def galaxy_stamp(source: Any, psf: Psf, fraction: tuple[float, float], to_sky: np.ndarray) -> np.ndarray:
    """A Sersic profile of flux 1, convolved with the PSF and integrated over pixels.

    Parameters
    ----------
    source : row with half_light [arcsec], sersic, axis_ratio, position_angle [deg]
    fraction : (x, y) of the centre from the central pixel's centre [pixels]
    to_sky : ndarray (2, 2), pixel offset -> (east, north) [arcsec]

    Returns
    -------
    ndarray (m, m), m odd; sums to 1
    """
    half = int(np.ceil(EDGE_RADII * float(source["half_light"]) / psf.pixel_arcsec)) + 1
    samples = (2 * half + 1) * GALAXY_SAMPLES
    offset = (np.arange(samples) + 0.5) / GALAXY_SAMPLES - half - 0.5
    dx, dy = np.meshgrid(offset - fraction[0], offset - fraction[1])
    east, north = to_sky[0, 0] * dx + to_sky[0, 1] * dy, to_sky[1, 0] * dx + to_sky[1, 1] * dy
    profile = sersic(
        east, north, float(source["half_light"]), float(source["sersic"]), float(source["axis_ratio"]),
        float(source["position_angle"]),
    )  # fmt: skip
    blurred = fftconvolve(profile, _coarse(psf), mode="full")
    # the convolution is as wide as both together: pad to whole pixels
    side = 2 * (half + GALAXY_PSF_HALF) + 1
    missing = side * GALAXY_SAMPLES - blurred.shape[0]
    blurred = np.pad(blurred, (missing // 2, missing - missing // 2))
    stamp = blurred.reshape(side, GALAXY_SAMPLES, side, GALAXY_SAMPLES).sum(axis=(1, 3))
    return stamp / stamp.sum()


def _coarse(psf: Psf) -> np.ndarray:
    """The PSF at GALAXY_SAMPLES a pixel, of odd size, centred: averaged over fine samples so that no light is lost."""
    step = PHASES // GALAXY_SAMPLES
    weights = np.array([0.5] + [1.0] * (step - 1) + [0.5]) / step
    centre, reach = psf.fine.shape[0] // 2, GALAXY_PSF_HALF * GALAXY_SAMPLES - GALAXY_SAMPLES // 2
    at = centre + step * np.arange(-reach, reach + 1)
    shift = np.arange(step + 1) - step // 2
    rows = sum(weight * psf.fine[at + k] for weight, k in zip(weights, shift, strict=True))
    coarse = sum(weight * rows[:, at + k] for weight, k in zip(weights, shift, strict=True))
    return coarse / coarse.sum()


def sersic(
    east: np.ndarray, north: np.ndarray, half_light: float, index: float, axis_ratio: float, position_angle: float
) -> np.ndarray:
    """Sersic profile exp(-b (r / half_light)^(1 / index)) in arbitrary units, 0 beyond EDGE_RADII half-light radii.

    half_light [arcsec] is along the major axis, whose position angle [deg] runs north to east; b makes half the light
    of the unbounded profile lie within it (Ciotti 1991).
    """
    angle = np.radians(position_angle)
    major = east * np.sin(angle) + north * np.cos(angle)
    minor = east * np.cos(angle) - north * np.sin(angle)
    radius = np.hypot(major, minor / axis_ratio) / half_light
    profile = np.exp(-gammaincinv(2 * index, 0.5) * (radius ** (1 / index)))
    return np.where(radius <= EDGE_RADII, profile, 0.0)
