"""Where pixels look: SIAF distortion, subarray windows, attitude, and the header's pointing keywords.

Pixels are 0-based and in science (DMS) orientation throughout, pixel centres at whole numbers, as the pipeline's WCS
has them. V2, V3 are in arcsec, sky positions in degrees (ICRS), roll is the position angle of V3 (north to east).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
from astropy.modeling.models import AffineTransformation2D, Mapping, Polynomial2D, Shift
from scipy.interpolate import RectBivariateSpline

from survey.errors import ConfigError
from survey.nircam import DETECTORS

FULL_SIZE = 2048
ARCSEC = np.pi / 180 / 3600  # radians
_NEWTON_STEPS = 3  # the SIAF's inverse is good to 0.01 pixel; each step squares the error


@dataclass(frozen=True)
class Window:
    """A subarray's place in the full frame: 0-based start and size, science orientation."""

    x0: int
    y0: int
    nx: int
    ny: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) of the full frame."""
        return slice(self.y0, self.y0 + self.ny), slice(self.x0, self.x0 + self.nx)


@dataclass(frozen=True)
class Attitude:
    """Where the point (v2, v3) [arcsec] of the telescope looks, and the position angle of V3 there [deg]."""

    v2: float
    v3: float
    ra: float
    dec: float
    roll: float

    def matrix(self) -> np.ndarray:
        """Rotation (3, 3) from telescope to ICRS unit vectors; the same as the pipeline's v2v3 -> world."""
        return (
            _rotation(2, self.ra)
            @ _rotation(1, -self.dec)
            @ _rotation(0, -self.roll)
            @ _rotation(1, self.v3 / 3600)
            @ _rotation(2, -self.v2 / 3600)
        )

    def to_sky(self, v2: Any, v3: Any) -> tuple[np.ndarray, np.ndarray]:
        """(v2, v3) [arcsec] -> (ra, dec) [deg], ra in 0..360."""
        lon, lat = _angles(self.matrix() @ _unit(np.asarray(v2) / 3600, np.asarray(v3) / 3600))
        return lon % 360, lat

    def from_sky(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """(ra, dec) [deg] -> (v2, v3) [arcsec]."""
        lon, lat = _angles(self.matrix().T @ _unit(np.asarray(ra), np.asarray(dec)))
        return lon * 3600, lat * 3600

    def at(self, v2: float, v3: float) -> Attitude:
        """The same attitude, told at another point of the telescope's field."""
        ra, dec = self.to_sky(v2, v3)
        _, v3_axis = self._axes(v2, v3)
        east, north = _sky_axes(float(ra), float(dec))
        roll = np.degrees(np.arctan2(v3_axis @ east, v3_axis @ north)) % 360
        return Attitude(v2, v3, float(ra), float(dec), float(roll))

    def shifted(self, east_arcsec: float, north_arcsec: float, roll_deg: float) -> Attitude:
        """Moved on the sky along a great circle, and rolled about its reference point."""
        east, north = _sky_axes(self.ra, self.dec)
        centre = _unit(np.asarray(self.ra), np.asarray(self.dec))
        moved = centre + (east_arcsec * east + north_arcsec * north) * ARCSEC
        ra, dec = _angles(moved / np.linalg.norm(moved))
        return Attitude(self.v2, self.v3, float(ra % 360), float(dec), (self.roll + roll_deg) % 360)

    def _axes(self, v2: float, v3: float) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors on the sky along which V2 and V3 grow at (v2, v3)."""
        east, north = _sky_axes(v2 / 3600, v3 / 3600)
        return self.matrix() @ east, self.matrix() @ north


@dataclass(frozen=True)
class AberratedAttitude:
    """An attitude of a moving telescope: separations on the sky are ``scale`` times those that it sees.

    origin : (V2, V3) [arcsec] of the point where both agree
    """

    attitude: Attitude
    scale: float
    origin: tuple[float, float]

    def to_sky(self, v2: Any, v3: Any) -> tuple[np.ndarray, np.ndarray]:
        """(v2, v3) [arcsec] as the telescope sees it -> (ra, dec) [deg]."""
        return self.attitude.to_sky(*self._scaled(v2, v3, self.scale))

    def from_sky(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """(ra, dec) [deg] -> (v2, v3) [arcsec] as the telescope sees it."""
        return self._scaled(*self.attitude.from_sky(ra, dec), 1 / self.scale)

    def at(self, v2: float, v3: float) -> Attitude:
        """The attitude near a point, told there; other points are off by the aberration of their distance."""
        here = self.attitude.at(*(float(value) for value in self._scaled(v2, v3, self.scale)))
        return Attitude(v2, v3, here.ra, here.dec, here.roll)

    def pipeline_shift(self, v2: float, v3: float) -> tuple[float, float]:
        """What the jwst pipeline leaves: true minus its position of a detector with this reference point.

        It scales about the detector's own reference point, where the header has the unscaled attitude. The difference
        is the same over the whole detector: (scale - 1) (reference - origin), (V2, V3) [arcsec].
        """
        return (self.scale - 1) * (v2 - self.origin[0]), (self.scale - 1) * (v3 - self.origin[1])

    def _scaled(self, v2: Any, v3: Any, factor: float) -> tuple[Any, Any]:
        about_v2, about_v3 = self.origin
        return about_v2 + factor * (np.asarray(v2) - about_v2), about_v3 + factor * (np.asarray(v3) - about_v3)


Aim = Attitude | AberratedAttitude


def siaf_detector(detector: str) -> str:
    """The SIAF's name for a detector: NRCBLONG -> NRCB5.

    Raises
    ------
    ConfigError
        Not a NIRCam detector.
    """
    if detector not in DETECTORS:
        raise ConfigError(f"detector {detector!r}: not of NIRCam; expected one of {', '.join(DETECTORS)}.")
    return detector.replace("LONG", "5")


@lru_cache(maxsize=1)
def _siaf() -> Any:
    with _no_version_check():
        import pysiaf

    return pysiaf.Siaf("NIRCam")


@contextlib.contextmanager
def _no_version_check() -> Iterator[None]:
    """pysiaf asks GitHub for its newest version at import, without a time limit: refuse, so that nothing waits."""
    import requests

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise requests.ConnectionError("version check switched off")

    logger = logging.getLogger("pysiaf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with mock.patch.object(requests, "get", refuse):
            yield
    finally:
        logger.setLevel(level)


@lru_cache(maxsize=64)
def aperture(detector: str, subarray: str = "FULL") -> Any:
    """The pysiaf aperture of a detector's subarray, such as NRCB5_SUB320.

    Raises
    ------
    ConfigError
        The detector has no such subarray.
    """
    name = f"{siaf_detector(detector)}_{subarray.upper()}"
    siaf = _siaf()
    if name not in siaf.apernames:
        raise ConfigError(f"subarray {subarray!r} of {detector}: the SIAF has no aperture {name}.")
    return siaf[name]


@lru_cache(maxsize=64)
def window(detector: str, subarray: str = "FULL") -> Window:
    """A subarray's window in the detector's full frame, science orientation; SUBSTRT1 is ``x0 + 1``."""
    place = aperture(detector, subarray)
    x_det, y_det = place.corners("det")
    x_sci, y_sci = aperture(detector).det_to_sci(x_det, y_det)
    nx, ny = int(place.XSciSize), int(place.YSciSize)
    # Corners are outer edges in 1-based coordinates: the first pixel's number is the next whole one above its edge.
    # Where the SIAF's reference point is not on a half pixel (NRCB5's subarrays) the edges are not either.
    return Window(int(np.ceil(np.min(x_sci) - 1e-6)) - 1, int(np.ceil(np.min(y_sci) - 1e-6)) - 1, nx, ny)


def readout_axes(detector: str) -> tuple[int, int]:
    """FASTAXIS and SLOWAXIS of a detector: directions of its readout in science orientation.

    On the detector the fast direction is +x and the slow one +y; the SIAF's angle from detector to science orientation
    flips one of them.
    """
    return (1, -2) if round(float(aperture(detector).DetSciYAngle)) == 180 else (-1, 2)


@lru_cache(maxsize=16)
def distortion_model(detector: str) -> Any:
    """Full-frame pixel (0-based, science) -> (V2, V3) [arcsec], as the pipeline's distortion reference has it.

    The SIAF's polynomials, then the planar rotation from the ideal frame to V2V3. ``.inverse`` goes back and is set
    explicitly (the SIAF's own inverse polynomials, good to about 0.01 pixel).
    """
    full = aperture(detector)
    forward = _polynomials(full, "Sci2Idl")
    backward = _polynomials(full, "Idl2Sci")
    angle = np.radians(full.V3IdlYAngle)
    rotation = np.array(
        [[full.VIdlParity * np.cos(angle), np.sin(angle)], [-full.VIdlParity * np.sin(angle), np.cos(angle)]]
    )
    to_v2v3 = AffineTransformation2D(rotation, translation=[full.V2Ref, full.V3Ref])
    to_reference = Shift(1 - full.XSciRef) & Shift(1 - full.YSciRef)
    split = Mapping((0, 1, 0, 1))
    split_back = Mapping((0, 1, 0, 1))
    model = to_reference | split | forward | to_v2v3
    model.inverse = to_v2v3.inverse | split_back | backward | to_reference.inverse
    model.name = "distortion"
    return model


def _polynomials(full: Any, label: str) -> Any:
    """The SIAF's pair of polynomials ``label`` (Sci2Idl or Idl2Sci) as a model of two inputs, twice."""
    degree = int(full.Sci2IdlDeg)
    terms = [(i, j) for i in range(degree + 1) for j in range(i + 1)]

    def polynomial(axis: str) -> Any:
        return Polynomial2D(degree, **{f"c{i - j}_{j}": float(getattr(full, f"{label}{axis}{i}{j}")) for i, j in terms})

    return polynomial("X") & polynomial("Y")


def pixel_to_v2v3(detector: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Full-frame pixels -> (V2, V3) [arcsec]."""
    v2, v3 = distortion_model(detector)(np.asarray(x, float), np.asarray(y, float))
    return v2, v3


def v2v3_to_pixel(detector: str, v2: Any, v3: Any) -> tuple[np.ndarray, np.ndarray]:
    """(V2, V3) [arcsec] -> full-frame pixels, the exact inverse of `pixel_to_v2v3` near the detector.

    The SIAF's inverse polynomials, refined by Newton steps with a constant Jacobian of each point.
    """
    v2, v3 = np.asarray(v2, float), np.asarray(v3, float)
    x, y = distortion_model(detector).inverse(v2, v3)
    for _ in range(_NEWTON_STEPS):
        at_v2, at_v3 = pixel_to_v2v3(detector, x, y)
        (dv2_dx, dv3_dx), (dv2_dy, dv3_dy) = _jacobian(detector, x, y)
        determinant = dv2_dx * dv3_dy - dv2_dy * dv3_dx
        x = x + (dv3_dy * (v2 - at_v2) - dv2_dy * (v3 - at_v3)) / determinant
        y = y + (dv2_dx * (v3 - at_v3) - dv3_dx * (v2 - at_v2)) / determinant
    return x, y


def _jacobian(detector: str, x: Any, y: Any) -> tuple[Any, Any]:
    """Derivatives of (V2, V3) along x and along y [arcsec/pixel], by central differences of one pixel."""
    right, left = pixel_to_v2v3(detector, x + 0.5, y), pixel_to_v2v3(detector, x - 0.5, y)
    above, below = pixel_to_v2v3(detector, x, y + 0.5), pixel_to_v2v3(detector, x, y - 0.5)
    return (right[0] - left[0], right[1] - left[1]), (above[0] - below[0], above[1] - below[1])


def pixel_area_arcsec2(detector: str, x: Any, y: Any) -> np.ndarray:
    """Solid angle of pixels [arcsec2] at full-frame positions (any shape)."""
    (dv2_dx, dv3_dx), (dv2_dy, dv3_dy) = _jacobian(detector, np.asarray(x, float), np.asarray(y, float))
    return np.abs(dv2_dx * dv3_dy - dv2_dy * dv3_dx)


@lru_cache(maxsize=16)
def nominal_pixel_area_arcsec2(detector: str) -> float:
    """Solid angle [arcsec2] of the pixel at the full frame's reference point: what PIXAR_A2 says."""
    full = aperture(detector)
    return float(pixel_area_arcsec2(detector, full.XSciRef - 1, full.YSciRef - 1))


@lru_cache(maxsize=4)
def relative_pixel_area(detector: str) -> np.ndarray:
    """Full-frame map (2048, 2048) float32 of pixel area over the nominal one: the area reference. Read-only."""
    nodes = np.linspace(0, FULL_SIZE - 1, 65)  # a cubic spline through them follows the polynomial to 1e-8
    x, y = np.meshgrid(nodes, nodes)
    relative = pixel_area_arcsec2(detector, x, y) / nominal_pixel_area_arcsec2(detector)
    pixels = np.arange(FULL_SIZE)
    area = RectBivariateSpline(nodes, nodes, relative)(pixels, pixels).astype(np.float32)
    area.flags.writeable = False
    return area


def _rotation(axis: int, degrees: float) -> np.ndarray:
    """Right-handed rotation (3, 3) of vectors about axis 0, 1 or 2."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cos
    matrix[first, second], matrix[second, first] = -sin, sin
    return matrix


def _unit(lon_deg: np.ndarray, lat_deg: np.ndarray) -> np.ndarray:
    """Unit vectors, (3, ...) of angles in degrees."""
    lon, lat = np.radians(lon_deg), np.radians(lat_deg)
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _angles(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude [deg] of unit vectors (3, ...)."""
    x, y, z = vector
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def _sky_axes(lon_deg: float, lat_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors to the east and to the north at a point of the sphere."""
    lon, lat = np.radians(lon_deg), np.radians(lat_deg)
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    return east, north
