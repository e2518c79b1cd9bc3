"""What disturbs a ramp besides its own noise: cosmic rays, snowballs, 1/f noise, wisps.

Each function draws one kind of disturbance with the generator that it is given. Charges in electrons; x and y are
0-based pixels of the array at hand.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

from survey.nircam import WISP_DETECTORS
from survey.simulate.detector import AMPLIFIER_WIDTH, FRAME, WISP_FILTERS, stream
from survey.simulate.scene import CosmicRays, Snowballs

PIXEL_CM = 18e-4
TRACK_STEPS = 24  # points of charge along a track; a track is a few pixels long
TRACK_MEAN_PIXELS = 1.5  # mean projected length, exponential
DIFFUSION_PIXELS = 0.25  # rms spread of the charge on its way to the pixel
CHARGE_SCATTER = 1.0  # sigma of ln(charge): the flight distribution spans three decades
COMMON_SHARE = 0.7  # of the variance of 1/f noise that all amplifiers of a full frame share
LINE_OVERHEAD_PIXELS = 12  # pixel times between two rows
CORE_SHARE = 0.4  # of a snowball's radius that is saturated

# The corner (x, y) at the centre of the module, in half frames from the middle
_WISP_CORNER = {"NRCA3": (-1, 1), "NRCA4": (-1, -1), "NRCB3": (1, -1), "NRCB4": (1, 1)}

DEPOSIT = np.dtype([("time", "f8"), ("x", "i4"), ("y", "i4"), ("electrons", "f8")])
SNOWBALL = np.dtype([("time", "f8"), ("x", "f8"), ("y", "f8"), ("radius", "f8")])


def cosmic_ray_deposits(
    shape: tuple[int, int], seconds: float, settings: CosmicRays, rng: np.random.Generator
) -> np.ndarray:
    """Charge left by the hits of one integration, pixel by pixel.

    Parameters
    ----------
    shape : (ny, nx)
    seconds : length of the integration [s]; hits come at any time in it

    Returns
    -------
    deposits : structured array (n,) of time [s], x, y, electrons (whole numbers, at least 1). The pixels of one hit
        share their time.
    """
    ny, nx = shape
    hits = rng.poisson(settings.rate_per_cm2_s * PIXEL_CM**2 * nx * ny * seconds)
    when = np.sort(rng.uniform(0, seconds, hits))
    charge = rng.lognormal(np.log(settings.mean_electrons) - CHARGE_SCATTER**2 / 2, CHARGE_SCATTER, hits)
    start = rng.uniform((-0.5, -0.5), (nx - 0.5, ny - 0.5), (hits, 2))
    angle, length = rng.uniform(0, 2 * np.pi, hits), rng.exponential(TRACK_MEAN_PIXELS, hits)
    reach = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    steps = (np.arange(TRACK_STEPS) + 0.5) / TRACK_STEPS
    points = start[:, None, :] + steps[None, :, None] * reach[:, None, :]
    points += rng.normal(0, DIFFUSION_PIXELS, points.shape)
    pixel = np.rint(points).astype(np.int64)
    hit = np.repeat(np.arange(hits), TRACK_STEPS)
    x, y = pixel[..., 0].ravel(), pixel[..., 1].ravel()
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    cell, inverse = np.unique(((hit * ny + y) * nx + x)[inside], return_inverse=True)
    electrons = np.rint(np.bincount(inverse, (charge[hit] / TRACK_STEPS)[inside], minlength=len(cell)))
    deposits = np.zeros(len(cell), DEPOSIT)
    deposits["time"] = when[cell // (nx * ny)] if len(cell) else 0.0
    deposits["y"], deposits["x"] = (cell // nx) % ny, cell % nx
    deposits["electrons"] = electrons
    return deposits[electrons >= 1]


def draw_snowballs(shape: tuple[int, int], seconds: float, settings: Snowballs, rng: np.random.Generator) -> np.ndarray:
    """Snowballs of one integration: structured array (n,) of time [s], centre x, y and radius [pixels]."""
    ny, nx = shape
    number = rng.poisson(settings.rate_per_detector_s * seconds * nx * ny / FRAME**2)
    balls = np.zeros(number, SNOWBALL)
    balls["time"] = np.sort(rng.uniform(0, seconds, number))
    balls["x"], balls["y"] = rng.uniform(0, nx, number), rng.uniform(0, ny, number)
    balls["radius"] = rng.uniform(*settings.radius_px, number)
    return balls


def snowball_charge(shape: tuple[int, int], x: float, y: float, radius: float, core_electrons: float) -> np.ndarray:
    """Charge of one snowball, (ny, nx) float32 [e-]: a flat core, and a halo that falls to nothing at the radius."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(columns - x, rows - y)
    core = CORE_SHARE * radius
    halo = 0.05 * core_electrons * np.exp(-4 * (distance - core) / (radius - core))
    charge = np.where(distance <= core, core_electrons, np.where(distance <= radius, halo, 0.0))
    return charge.astype(np.float32)


def pink_noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """1/f noise as one output sees it, (ny, nx) float32: unit rms over long times, zero mean.

    A time series with a power spectrum of 1/f, one sample per pixel time, cut into rows along the fast axis (x).
    """
    ny, nx = shape
    line = nx + LINE_OVERHEAD_PIXELS
    samples = fft.next_fast_len(ny * line, real=True)
    size = samples // 2 + 1
    spectrum = rng.standard_normal((2, size), np.float32)
    amplitude = np.zeros(size, np.float32)
    amplitude[1:] = 1 / np.sqrt(np.arange(1, size, dtype=np.float32))
    # irfft divides by the number of samples; each frequency holds two squares of unit variance, counted twice
    amplitude *= samples / (2 * np.sqrt(np.sum(amplitude.astype(np.float64) ** 2)))
    waves = (spectrum[0] + 1j * spectrum[1]) * amplitude
    series = fft.irfft(waves, samples)[: ny * line]
    return series.reshape(ny, line)[:, :nx].astype(np.float32)


def striping(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """1/f noise of one read, (ny, nx) float32, unit rms.

    A full frame is read by four amplifiers of 512 columns at the same time: part of the noise is common to them. A
    subarray is read by one.
    """
    ny, nx = shape
    if nx != FRAME:
        return pink_noise(shape, rng)
    section = (ny, AMPLIFIER_WIDTH)
    common = np.float32(COMMON_SHARE**0.5) * pink_noise(section, rng)
    own = np.float32((1 - COMMON_SHARE) ** 0.5)
    return np.hstack([common + own * pink_noise(section, rng) for _ in range(nx // AMPLIFIER_WIDTH)])


def has_wisps(detector: str, filter_name: str) -> bool:
    """Whether scattered light reaches this detector in this filter."""
    return detector in WISP_DETECTORS and filter_name in WISP_FILTERS


@lru_cache(maxsize=4)
def wisp_template(detector: str, seed: int, component: int = 0) -> np.ndarray:
    """Scattered light over the full frame, (2048, 2048) float32, peak 1: soft arcs, fixed for each detector.

    The first arc runs through the corner of the module's centre, where the small subarrays lie. Components have arcs
    of their own.
    """
    rng = stream(seed, detector, f"wisps {component}" if component else "wisps")
    axis = np.linspace(-1, 1, FRAME, dtype=np.float32)
    template = np.zeros((FRAME, FRAME), np.float32)
    for number in range(4):
        at_corner = number == 0
        middle = 0.85 * np.array(_WISP_CORNER[detector]) if at_corner else rng.uniform(-0.5, 0.5, 2)
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.5)
        width = rng.uniform(0.05, 0.08) if at_corner else rng.uniform(0.08, 0.25)
        centre = middle + radius * np.array([np.cos(angle), np.sin(angle)])
        template += _arc(axis, middle, centre, width)
    template /= template.max()
    template.setflags(write=False)
    return template


def _arc(axis: np.ndarray, middle: np.ndarray, centre: np.ndarray, width: float) -> np.ndarray:
    """A piece of a ring about ``centre`` through ``middle``, which fades away from there; all in units of ``axis``."""
    x, y = axis[None, :], axis[:, None]
    (mx, my), (cx, cy) = middle.astype(np.float32), centre.astype(np.float32)
    off_ring = (np.hypot(x - cx, y - cy) - np.hypot(mx - cx, my - cy)) / np.float32(width)
    away = ((x - mx) ** 2 + (y - my) ** 2) / np.float32(0.8**2)
    return np.exp(-(off_ring**2) - away)
