"""A grid that holds polygons on the sky, and the fields that polygons form. Pure, without numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from survey.mosaics.sky_plane import LinearWcs, Point, mean_direction, project, separation_deg, unproject

MARGIN_ARCSEC = 3.0  # around all polygons: alignment moves exposures, and their edges are not straight
FAR_DEG = 0.25  # a wider gap parts two fields: it is three times NIRCam's field of view
NORTH_UP = 1.05  # a rotated rectangle is taken when the north-up one has this much more area
SIDE_STEP_PX = 10  # sides are multiples of it
_CELL_DEG = 0.01  # polygons whose centres are this close count as one when fields are looked for
_ANGLE_STEP_DEG = 0.1
_PLACES = 5  # decimals of the reference position [deg]: 0.04 arcsec


def hull(points: Iterable[Point]) -> list[Point]:
    """Convex hull of points on a plane, counterclockwise (Andrew's monotone chain)."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered
    chains = []
    for way in (ordered, ordered[::-1]):
        chain: list[Point] = []
        for point in way:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        chains.append(chain[:-1])
    return chains[0] + chains[1]


def _turn(first: Point, second: Point, third: Point) -> float:
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (third[0] - first[0])


def sky_hull(points: Sequence[Point]) -> list[Point]:
    """Convex hull of sky positions [deg], all within some degrees."""
    centre = mean_direction(points)
    return [unproject(point, centre, 1.0, 0.0) for point in hull(project(point, centre, 1.0, 0.0) for point in points)]


def smallest_rotation_deg(points: Sequence[Point]) -> float:
    """Position angle of the y axis of the smallest rectangle around sky positions, from -45 to 45 [deg].

    One of the rectangle's sides is on a side of the convex hull. North up is preferred to a small gain.
    """
    centre = mean_direction(points)
    corners = hull(project(point, centre, 1.0, 0.0) for point in points)
    sides = zip(corners, [*corners[1:], *corners[:1]], strict=True)
    angles = [math.degrees(math.atan2(second[1] - first[1], second[0] - first[0])) for first, second in sides]
    steps = {round(((angle + 45) % 90 - 45) / _ANGLE_STEP_DEG) for angle in angles}
    areas = {step * _ANGLE_STEP_DEG: _area(corners, step * _ANGLE_STEP_DEG) for step in sorted(steps)}
    best = min(areas, key=lambda angle: areas[angle])
    return 0.0 if _area(corners, 0.0) <= NORTH_UP * areas[best] else round(best, 1)


def _area(points: Iterable[Point], angle_deg: float) -> float:
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    turned = [(x * cos + y * sin, y * cos - x * sin) for x, y in points]
    (xs, ys) = zip(*turned, strict=True)
    return (max(xs) - min(xs)) * (max(ys) - min(ys))


def enclosing_grid(
    points: Sequence[Point], pixel_scale_arcsec: float, margin_arcsec: float = MARGIN_ARCSEC
) -> LinearWcs:
    """A grid that holds sky positions: the smallest rectangle around them, with a margin on each side.

    Parameters
    ----------
    points : at least one, all within some degrees of each other (right ascension, declination) [deg]
    pixel_scale_arcsec : side of a pixel
    margin_arcsec : at least this much on each side

    Returns
    -------
    The reference pixel is the grid's centre; reference position and rotation are rounded.
    """
    rotation = smallest_rotation_deg(points)
    centre = mean_direction(points)
    for _ in range(3):  # the centre of the rectangle becomes the tangent point
        xs, ys = zip(*(project(point, centre, pixel_scale_arcsec, rotation) for point in points), strict=True)
        middle = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        ra, dec = unproject(middle, centre, pixel_scale_arcsec, rotation)
        centre = round(ra, _PLACES) % 360, round(dec, _PLACES)
    xs, ys = zip(*(project(point, centre, pixel_scale_arcsec, rotation) for point in points), strict=True)
    margin = margin_arcsec / pixel_scale_arcsec
    nx, ny = _side(max(-min(xs), max(xs)) + margin), _side(max(-min(ys), max(ys)) + margin)
    return LinearWcs(centre, ((nx - 1) / 2, (ny - 1) / 2), pixel_scale_arcsec, rotation, (nx, ny))


def _side(half_px: float) -> int:
    return SIDE_STEP_PX * math.ceil(2 * half_px / SIDE_STEP_PX)


def fields(polygons: Sequence[Sequence[Point]], far_deg: float = FAR_DEG) -> list[list[int]]:
    """Indices of the polygons of each field: gaps between the polygons of a field are at most ``far_deg``.

    The largest field is the first. A polygon counts as the circle around its centre that holds it.
    """
    cells: dict[tuple[int, int], list[int]] = {}
    circles: dict[tuple[int, int], tuple[Point, float]] = {}
    for index, polygon in enumerate(polygons):
        centre = mean_direction(polygon)
        radius = max(separation_deg(centre, point) for point in polygon)
        turn = math.cos(math.radians(centre[1]))
        cell = round(centre[0] * turn / _CELL_DEG), round(centre[1] / _CELL_DEG)
        cells.setdefault(cell, []).append(index)
        circles[cell] = centre, max(radius, circles.get(cell, (centre, 0.0))[1])
    found: list[list[int]] = []
    left = list(cells)
    while left:
        field, edge = [], [left.pop()]
        while edge:
            cell = edge.pop()
            field += cells[cell]
            near = [other for other in left if _gap_deg(circles[cell], circles[other]) <= far_deg]
            left = [other for other in left if other not in near]
            edge += near
        found.append(sorted(field))
    return sorted(found, key=lambda field: (-len(field), field))


def _gap_deg(first: tuple[Point, float], second: tuple[Point, float]) -> float:
    return separation_deg(first[0], second[0]) - first[1] - second[1]
