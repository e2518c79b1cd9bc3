"""Sky positions on a tangent plane, and grids of square pixels on one. Pure, without numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

ARCSEC = 1 / 3600  # [deg]
Point = tuple[float, float]


def mean_direction(points: Iterable[Point]) -> Point:
    """Mean direction of sky positions (right ascension, declination) [deg]."""
    x = y = z = 0.0
    for ra, dec in points:
        a, d = math.radians(ra), math.radians(dec)
        x, y, z = x + math.cos(d) * math.cos(a), y + math.cos(d) * math.sin(a), z + math.sin(d)
    return math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))


def separation_deg(first: Point, second: Point) -> float:
    """Angle between two sky positions [deg]."""
    (a1, d1), (a2, d2) = ([math.radians(value) for value in point] for point in (first, second))
    half = math.sin((d2 - d1) / 2) ** 2 + math.cos(d1) * math.cos(d2) * math.sin((a2 - a1) / 2) ** 2
    return math.degrees(2 * math.asin(min(1.0, math.sqrt(half))))


def project(point: Point, tangent: Point, scale_arcsec: float, rotation_deg: float) -> Point:
    """Gnomonic projection to pixels (x, y), counted from the tangent point.

    The y axis is at a position angle of ``rotation_deg``, north over east. Points 90 degrees or more away
    cannot be projected: they are placed far outside.
    """
    ra, dec = (math.radians(value) for value in point)
    ra0, dec0 = (math.radians(value) for value in tangent)
    depth = math.sin(dec0) * math.sin(dec) + math.cos(dec0) * math.cos(dec) * math.cos(ra - ra0)
    depth = max(depth, 1e-3)
    east = math.cos(dec) * math.sin(ra - ra0) / depth
    north = (math.cos(dec0) * math.sin(dec) - math.sin(dec0) * math.cos(dec) * math.cos(ra - ra0)) / depth
    angle = math.radians(rotation_deg)
    unit = math.radians(scale_arcsec * ARCSEC)
    x = -east * math.cos(angle) + north * math.sin(angle)
    y = east * math.sin(angle) + north * math.cos(angle)
    return x / unit, y / unit


def unproject(pixel: Point, tangent: Point, scale_arcsec: float, rotation_deg: float) -> Point:
    """Sky position (right ascension, declination) [deg] of a pixel; the inverse of `project`."""
    unit = math.radians(scale_arcsec * ARCSEC)
    angle = math.radians(rotation_deg)
    x, y = pixel[0] * unit, pixel[1] * unit
    east = -x * math.cos(angle) + y * math.sin(angle)
    north = x * math.sin(angle) + y * math.cos(angle)
    ra0, dec0 = (math.radians(value) for value in tangent)
    depth = math.cos(dec0) - north * math.sin(dec0)
    ra = ra0 + math.atan2(east, depth)
    dec = math.atan2(math.sin(dec0) + north * math.cos(dec0), math.hypot(depth, east))
    return math.degrees(ra) % 360, math.degrees(dec)


@dataclass(frozen=True, slots=True)
class LinearWcs:
    """A grid of square pixels on a tangent plane."""

    crval_deg: Point  # right ascension and declination of crpix [deg]
    crpix: Point  # reference pixel x, y; 0-based
    pixel_scale_arcsec: float
    rotation_deg: float  # position angle of the y axis, north over east
    shape: tuple[int, int]  # nx, ny

    @property
    def centre_deg(self) -> Point:
        """Sky position of the grid's centre [deg]."""
        offset = (self.shape[0] - 1) / 2 - self.crpix[0], (self.shape[1] - 1) / 2 - self.crpix[1]
        return unproject(offset, self.crval_deg, self.pixel_scale_arcsec, self.rotation_deg)

    def pixel_of(self, point: Point) -> Point:
        """Pixel (x, y) of a sky position [deg], 0-based."""
        x, y = project(point, self.crval_deg, self.pixel_scale_arcsec, self.rotation_deg)
        return x + self.crpix[0], y + self.crpix[1]

    def holds(self, points: Iterable[Point], tolerance_arcsec: float = 0.0) -> bool:
        """Whether all sky positions are on pixels of the grid, or beyond its border by no more than a tolerance."""
        nx, ny = self.shape
        low = -0.5 - tolerance_arcsec / self.pixel_scale_arcsec
        pixels = [self.pixel_of(point) for point in points]
        return all(low <= x <= nx - 1 - low and low <= y <= ny - 1 - low for x, y in pixels)

    def is_close(self, other: LinearWcs) -> bool:
        """Whether both are one grid, to a millionth of a pixel."""
        tolerance = 1e-6 * self.pixel_scale_arcsec * ARCSEC  # [deg]
        pairs = [
            *((a, b, tolerance) for a, b in zip(self.crval_deg, other.crval_deg, strict=True)),
            *((a, b, 1e-6) for a, b in zip(self.crpix, other.crpix, strict=True)),
            (self.pixel_scale_arcsec, other.pixel_scale_arcsec, 1e-9 * self.pixel_scale_arcsec),
            (self.rotation_deg, other.rotation_deg, 1e-8),
        ]
        return self.shape == other.shape and all(abs(a - b) <= allowed for a, b, allowed in pairs)

    @classmethod
    def from_resample(cls, grid: Mapping[str, Any]) -> LinearWcs:
        """From parameters of the pipeline's resample step, all five of which are given."""
        crval, crpix, shape = grid["crval"], grid["crpix"], grid["output_shape"]
        return cls(
            (float(crval[0]), float(crval[1])), (float(crpix[0]), float(crpix[1])), float(grid["pixel_scale"]),
            float(grid["rotation"]), (int(shape[0]), int(shape[1])),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LinearWcs:
        """Read a grid; KeyError, TypeError or ValueError if the data are not one."""
        (ra, dec), (x, y), (nx, ny) = (data[name] for name in ("crval_deg", "crpix", "shape"))
        scale, rotation = float(data["pixel_scale_arcsec"]), float(data["rotation_deg"])
        return cls((float(ra), float(dec)), (float(x), float(y)), scale, rotation, (int(nx), int(ny)))
