"""The telescope's point-spread function, one per filter: diffraction by the segmented mirror, over the filter's band.

The pupil is 18 hexagonal segments with a central hole; no wavefront errors and no struts. The image is computed within
``HALF_SIZE`` pixels of the source and normalised there: the 1 to 3 per cent of the light that the real telescope throws
further out is folded in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from survey.errors import ConfigError
from survey.simulate.geometry import ARCSEC

HALF_SIZE = 64  # pixels on each side of the central one
PHASES = 8  # fine samples per pixel
PIXEL_ARCSEC = {"SHORT": 0.0311, "LONG": 0.0629}
JITTER_ARCSEC = 0.006  # rms per axis of the line of sight
SEGMENT_PITCH_M = 1.327
SEGMENT_FLAT_M = 1.32  # flat to flat
_PUPIL_M, _PUPIL_SAMPLES = 6.8, 340
_WAVELENGTHS = 5
_WIDTHS = {"W": 0.22, "M": 0.10, "N": 0.01}  # band over central wavelength


@dataclass(frozen=True, eq=False)
class Psf:
    """What a pixel receives of a star, at every sub-pixel phase.

    bank : (PHASES + 1, PHASES + 1, n, n) float32, n = 2 HALF_SIZE + 1; in ``bank[b, a]`` the star is b / PHASES pixels
        above and a / PHASES right of the central pixel's centre; each sums to 1
    fine : (m, m) float64, not integrated over pixels, PHASES samples a pixel, centred; sums to 1
    """

    filter_name: str
    pixel_arcsec: float
    bank: np.ndarray
    fine: np.ndarray

    def stamp(self, fraction_x: float, fraction_y: float) -> np.ndarray:
        """Image (n, n) of a star of flux 1 at 0 <= fraction < 1 pixel from the central pixel's centre.

        Linear between the phases, so the centroid is exact, and the core is wider by at most (1 / 16 pixel)^2.
        """
        (a, u), (b, v) = (divmod(f * PHASES, 1.0) for f in (fraction_x, fraction_y))
        i, j = int(a), int(b)
        lower = (1 - u) * self.bank[j, i] + u * self.bank[j, i + 1]
        upper = (1 - u) * self.bank[j + 1, i] + u * self.bank[j + 1, i + 1]
        return (1 - v) * lower + v * upper


@lru_cache(maxsize=16)
def load_psf(filter_name: str) -> Psf:
    """The PSF of a filter on its channel's pixels.

    Raises
    ------
    ConfigError
        Not a NIRCam wide, medium or narrow filter.
    """
    wavelength_um, width, channel = passband(filter_name)
    pixel = PIXEL_ARCSEC[channel]
    reach = (HALF_SIZE + 1) * PHASES + PHASES // 2 + 1
    theta = np.arange(-reach, reach + 1) * (pixel / PHASES * ARCSEC)
    fine = np.zeros((theta.size, theta.size))
    for wavelength in wavelength_um * (1 + width * (np.arange(_WAVELENGTHS) + 0.5 - _WAVELENGTHS / 2) / _WAVELENGTHS):
        fine += _diffraction(theta, wavelength * 1e-6)
    fine = _blur(fine, JITTER_ARCSEC / pixel * PHASES)
    integrated = _over_pixels(_over_pixels(fine).T).T
    bank = _phase_bank(integrated)
    return Psf(filter_name, pixel, bank, fine / fine.sum())


def passband(filter_name: str) -> tuple[float, float, str]:
    """Central wavelength [micron], relative width and channel of a NIRCam filter, from its name.

    Raises
    ------
    ConfigError
        Not a NIRCam wide, medium or narrow filter.
    """
    digits, kind = filter_name[1:4], filter_name[4:]
    if filter_name[:1] != "F" or not (digits.isascii() and digits.isdigit()) or kind not in _WIDTHS:
        raise ConfigError(f"filter {filter_name!r}: expected a NIRCam filter such as F200W or F410M.")
    wavelength = int(digits) / 100
    return wavelength, _WIDTHS[kind], "SHORT" if wavelength < 2.4 else "LONG"


@lru_cache(maxsize=1)
def pupil() -> np.ndarray:
    """The mirror, (340, 340) float64 of 0 and 1, 2 cm a sample."""
    x = (np.arange(_PUPIL_SAMPLES) - (_PUPIL_SAMPLES - 1) / 2) * (_PUPIL_M / _PUPIL_SAMPLES)
    x, y = np.meshgrid(x, x)
    mirror = np.zeros(x.shape)
    for q in range(-2, 3):
        for r in range(max(-2, -2 - q), min(2, 2 - q) + 1):
            if (q, r) != (0, 0):
                centre_x = SEGMENT_PITCH_M * np.sqrt(3) / 2 * q
                centre_y = SEGMENT_PITCH_M * (r + q / 2)
                mirror += _hexagon(x - centre_x, y - centre_y)
    return np.minimum(mirror, 1.0)


def _hexagon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    half = SEGMENT_FLAT_M / 2
    slant = np.sqrt(3) / 2
    return (np.abs(y) <= half) & (np.abs(slant * x + y / 2) <= half) & (np.abs(slant * x - y / 2) <= half)


def _diffraction(theta: np.ndarray, wavelength_m: float) -> np.ndarray:
    """|Fourier transform of the pupil|^2 at the angles theta [rad] of both axes, as two matrix products; sums to 1."""
    position = (np.arange(_PUPIL_SAMPLES) - (_PUPIL_SAMPLES - 1) / 2) * (_PUPIL_M / _PUPIL_SAMPLES)
    kernel = np.exp(-2j * np.pi / wavelength_m * np.outer(theta, position))
    intensity = np.abs(kernel @ pupil() @ kernel.T) ** 2
    return intensity / intensity.sum()


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, sigma)


def _over_pixels(fine: np.ndarray) -> np.ndarray:
    """Integral over a pixel along the first axis by the trapezoid rule; PHASES / 2 samples shorter on each side."""
    half = PHASES // 2
    rows = fine.shape[0] - 2 * half
    weights = np.ones(PHASES + 1)
    weights[[0, -1]] = 0.5
    total = np.zeros((rows, fine.shape[1]))
    for k, weight in enumerate(weights):
        total += weight * fine[k : k + rows]
    return total / PHASES


def _phase_bank(integrated: np.ndarray) -> np.ndarray:
    """Cut the pixel-integrated PSF into whole-pixel stamps, one per phase, each normalised to 1."""
    size = 2 * HALF_SIZE + 1
    centre = integrated.shape[0] // 2
    bank = np.empty((PHASES + 1, PHASES + 1, size, size), np.float32)
    for j in range(PHASES + 1):
        for i in range(PHASES + 1):
            rows = centre - j + PHASES * np.arange(-HALF_SIZE, HALF_SIZE + 1)
            columns = centre - i + PHASES * np.arange(-HALF_SIZE, HALF_SIZE + 1)
            stamp = integrated[np.ix_(rows, columns)]
            bank[j, i] = stamp / stamp.sum()
    return bank
