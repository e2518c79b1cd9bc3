"""Diffuse light that does not come from the sky behind a pixel: gradients, bands of scattered light, claws.

Images are surface brightness [MJy/sr] over a window, before the flat field; each is drawn for one exposure.
"""

from __future__ import annotations

import numpy as np

from survey.simulate.sections import Artifacts, Claw, ScatteredStripe
from survey.simulate.streams import Streams

CLAW_BANDS = 4
_FWHM = 2.3548  # full width at half maximum of a Gaussian over its sigma


def diffuse_light(shape: tuple[int, int], artifacts: Artifacts, streams: Streams) -> dict[str, np.ndarray]:
    """The kinds of diffuse light that an exposure has.

    Returns
    -------
    images : name of the artifact -> (ny, nx) float32 [MJy/sr], not negative
    """
    found = {}
    if artifacts.sky_gradient.enabled:
        rng = streams.own("sky gradient")
        found["sky_gradient"] = _ramp(shape, artifacts.sky_gradient.amplitude_mjy_sr, rng)
    stripe, claw = artifacts.scattered_stripe, artifacts.claw
    if stripe.enabled:
        rng = streams.own("scattered stripe")
        if rng.random() < stripe.share:
            found["scattered_stripe"] = _band(shape, stripe, rng)
    if claw.enabled:
        rng = streams.own("claw")
        if rng.random() < claw.share:
            found["claw"] = _claw(shape, claw, rng)
    return found


def _axes(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (ny, 1) and columns (1, nx), from the middle of the array [pixels]."""
    ny, nx = shape
    return (np.arange(ny) - (ny - 1) / 2)[:, None], (np.arange(nx) - (nx - 1) / 2)[None, :]


def _ramp(shape: tuple[int, int], amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """A plane that rises from 0 to the amplitude across the array."""
    rows, columns = _axes(shape)
    angle = rng.uniform(0, 2 * np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    low, high = along.min(), along.max()
    return (amplitude * (along - low) / max(high - low, 1.0)).astype(np.float32)


def _band(shape: tuple[int, int], settings: ScatteredStripe, rng: np.random.Generator) -> np.ndarray:
    """A straight Gaussian band through a random point of the array."""
    rows, columns = _axes(shape)
    ny, nx = shape
    y, x, angle = rng.uniform(-0.3, 0.3) * ny, rng.uniform(-0.3, 0.3) * nx, rng.uniform(0, np.pi)
    across = (columns - x) * np.sin(angle) - (rows - y) * np.cos(angle)
    return (settings.amplitude_mjy_sr * _gauss(across, settings.width_px)).astype(np.float32)


def _claw(shape: tuple[int, int], settings: Claw, rng: np.random.Generator) -> np.ndarray:
    """Arcs about points beside the array, which fade along their length; the first is the brightest."""
    rows, columns = _axes(shape)
    size = max(shape)
    angle = rng.uniform(0, 2 * np.pi)
    image = np.zeros(shape)
    for number in range(CLAW_BANDS):
        turn, distance, radius = rng.normal(0, 0.06), rng.uniform(0.9, 1.1), rng.uniform(0.75, 1.15)
        x, y = size * distance * np.cos(angle + turn), size * distance * np.sin(angle + turn)
        off = np.hypot(columns - x, rows - y) - size * (0.9 if number == 0 else radius)
        fade = np.exp(-(((columns * np.sin(angle) - rows * np.cos(angle)) / (0.4 * size)) ** 2))
        image += 0.6**number * _gauss(off, settings.width_px) * fade
    return (settings.amplitude_mjy_sr * image / max(image.max(), 1e-6)).astype(np.float32)


def _gauss(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance * _FWHM / width) ** 2) / 2)
