"""Objects that move through the field during an exposure: satellites and asteroids."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from survey.simulate.psf import PIXEL_ARCSEC, Psf, load_psf, passband
from survey.simulate.sections import Trails
from survey.simulate.sky import AB_ZERO_UJY, add_stamp
from survey.simulate.streams import Streams

TRAIL = np.dtype([(n, "f8") for n in ("x", "y", "vx", "vy", "rate_e_s", "mag_ab", "speed_arcsec_s")])
STEP_PIXELS = 0.5  # the trail is a row of images of the object, this far apart


@dataclass(frozen=True, eq=False)
class Trail:
    """One object's way over a window.

    x, y [pixels of the window] : where it is at the exposure's start
    vx, vy [pixels/s]
    rate_e_s : charge rate of its whole light before the flat field
    mag_ab, speed_arcsec_s : what was drawn
    response : (ny, nx), relative charge that light leaves in each pixel
    """

    x: float
    y: float
    vx: float
    vy: float
    rate_e_s: float
    mag_ab: float
    speed_arcsec_s: float
    psf: Psf
    response: np.ndarray

    def released(self, start_s: float, end_s: float) -> np.ndarray:
        """Mean charge that it leaves between two times since the exposure's start, (ny, nx) float32 [e-]."""
        ny, nx = self.response.shape
        image = np.zeros((ny, nx), np.float32)
        speed = np.hypot(self.vx, self.vy)
        steps = max(1, int(np.ceil(speed * (end_s - start_s) / STEP_PIXELS)))
        times = start_s + (np.arange(steps) + 0.5) * (end_s - start_s) / steps
        share = self.rate_e_s * (end_s - start_s) / steps
        half = self.psf.bank.shape[-1] // 2
        for x, y in zip(self.x + self.vx * times, self.y + self.vy * times, strict=True):
            if -half <= x < nx + half and -half <= y < ny + half:
                column, row = int(np.floor(x)), int(np.floor(y))
                add_stamp(image, self.psf.stamp(float(x) - column, float(y) - row), column, row, share)
        return image * self.response

    def row(self) -> np.ndarray:
        """The truth about it, one row: where it is at the start [pixels], velocity [pixels/s], brightness, speed."""
        row = (self.x, self.y, self.vx, self.vy, self.rate_e_s, self.mag_ab, self.speed_arcsec_s)
        return np.array([row], TRAIL)

    def later(self, seconds: float) -> Trail:
        """The same object, its times counted from ``seconds`` after the exposure's start."""
        return replace(self, x=self.x + self.vx * seconds, y=self.y + self.vy * seconds)


def draw_trail(
    settings: Trails, filter_name: str, electrons_per_ujy: float, response: np.ndarray, seconds: float, streams: Streams
) -> Trail | None:
    """The object that crosses an exposure, if one does.

    Parameters
    ----------
    electrons_per_ujy : charge rate of a source before the flat [e-/s per uJy]
    response : ndarray (ny, nx)
    seconds : length of an integration [s]; the object is on the array at some time in it
    """
    if not settings.enabled:
        return None
    rng = streams.own("trail")
    chance, mag, speed, angle, time = rng.random(), rng.random(), rng.random(), rng.uniform(0, 2 * np.pi), rng.random()
    ny, nx = response.shape
    x, y = rng.uniform(0, nx - 1), rng.uniform(0, ny - 1)
    if chance >= settings.share:
        return None
    bright, faint = settings.mag_ab
    slow, fast = settings.speed_arcsec_s
    mag_ab, arcsec_s = bright + mag * (faint - bright), slow * (fast / slow) ** speed
    pixels_s = arcsec_s / PIXEL_ARCSEC[passband(filter_name)[2]]
    vx, vy = pixels_s * np.cos(angle), pixels_s * np.sin(angle)
    rate = 10 ** (0.4 * (AB_ZERO_UJY - mag_ab)) * electrons_per_ujy
    at = time * seconds
    return Trail(x - vx * at, y - vy * at, vx, vy, rate, mag_ab, arcsec_s, load_psf(filter_name), response)
