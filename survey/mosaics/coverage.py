"""How exposures lie on a grid: inside, partly inside or outside, and how far away. Pure, without numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from survey.mosaics.enclosing import fields
from survey.mosaics.sky_plane import LinearWcs, Point, mean_direction, project, separation_deg, unproject

Polygon = Sequence[Point]

# Farther from the grid's reference position, a tangent plane is no use: such an exposure is outside of every grid.
MAX_ANGLE_DEG = 60.0
# A mosaic of more than this many times the pixels of its members, and of more than SMALL_GRID_PIXELS, is not made.
ABSURD_AREAS = 100.0
SMALL_GRID_PIXELS = 64e6


@dataclass(frozen=True)
class Coverage:
    """Which exposures a grid holds."""

    cut: tuple[str, ...] = ()  # exposures of which a part is outside
    missed: tuple[str, ...] = ()  # exposures that are outside
    outside: float = 0.0  # fraction of the area of all exposures that is outside
    gap_deg: float = 0.0  # smallest angle between the grid's border and an exposure outside; 0 without one


def coverage(wcs: LinearWcs, polygons: Mapping[str, Sequence[Polygon]], tolerance_arcsec: float = 0.0) -> Coverage:
    """Find the exposures that a grid cuts or misses.

    Parameters
    ----------
    wcs : the grid
    polygons : name of an exposure -> its footprint, or polygons that hold it; (right ascension, declination) [deg]
    tolerance_arcsec : an exposure that is outside by no more than this counts as inside

    Returns
    -------
    coverage : an exposure that touches the grid only within the tolerance is cut, not missed
    """
    cut, missed, gaps = [], [], []
    inside = whole = 0.0
    for name, parts in polygons.items():
        placed = [_place(wcs, part, tolerance_arcsec) for part in parts]
        inside += sum(item.inside for item in placed)
        whole += sum(item.area for item in placed)
        if not any(item.touches for item in placed):
            missed.append(name)
            gaps += [border_gap_deg(wcs, part) for part in parts]
        elif not all(item.is_held for item in placed):
            cut.append(name)
    outside = 1.0 - inside / whole if whole else 0.0
    return Coverage(tuple(cut), tuple(missed), outside, min(gaps, default=0.0))


@dataclass(frozen=True)
class _Place:
    """A polygon on a grid."""

    area: float  # this and the next in units of the grid's pixels
    inside: float  # of its area, that on the grid
    is_held: bool  # this and the next to the tolerance
    touches: bool


def _place(wcs: LinearWcs, polygon: Polygon, tolerance_arcsec: float) -> _Place:
    centre = mean_direction(polygon)
    area = _area([project(point, centre, wcs.pixel_scale_arcsec, 0.0) for point in polygon])
    if _is_far(wcs, polygon):
        return _Place(area, 0.0, False, False)
    if wcs.holds(polygon):
        return _Place(area, area, True, True)
    pixels = [wcs.pixel_of(point) for point in polygon]
    inside = area * _held(wcs, pixels, 0.0) / (_area(pixels) or 1.0)
    return _Place(area, inside, wcs.holds(polygon, tolerance_arcsec), bool(_held(wcs, pixels, tolerance_arcsec)))


def _held(wcs: LinearWcs, pixels: list[Point], tolerance_arcsec: float) -> float:
    """Area of the part of a polygon that is on a grid or within a tolerance of it [pixels]."""
    pad = 0.5 + tolerance_arcsec / wcs.pixel_scale_arcsec
    nx, ny = wcs.shape
    return _area(_clipped(pixels, (-pad, -pad), (nx - 1 + pad, ny - 1 + pad)))


def border_gap_deg(wcs: LinearWcs, polygon: Polygon) -> float:
    """Smallest angle between a corner of a polygon and the border of a grid [deg]; 0 for a corner on the grid."""
    if _is_far(wcs, polygon):
        return min(separation_deg(wcs.centre_deg, point) for point in polygon)
    nx, ny = wcs.shape
    gaps = []
    for point in polygon:
        x, y = wcs.pixel_of(point)
        nearest = min(max(x, -0.5), nx - 0.5) - wcs.crpix[0], min(max(y, -0.5), ny - 0.5) - wcs.crpix[1]
        border = unproject(nearest, wcs.crval_deg, wcs.pixel_scale_arcsec, wcs.rotation_deg)
        gaps.append(separation_deg(point, border))
    return min(gaps)


def _is_far(wcs: LinearWcs, polygon: Polygon) -> bool:
    return any(separation_deg(wcs.crval_deg, point) > MAX_ANGLE_DEG for point in polygon)


def _clipped(polygon: list[Point], low: Point, high: Point) -> list[Point]:
    """The part of a polygon inside a box (the algorithm of Sutherland and Hodgman)."""
    for axis, edge, sign in ((0, low[0], 1.0), (0, high[0], -1.0), (1, low[1], 1.0), (1, high[1], -1.0)):
        kept: list[Point] = []
        for first, second in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
            before, after = sign * (first[axis] - edge), sign * (second[axis] - edge)
            if before >= 0:
                kept.append(first)
            if (before > 0 > after) or (before < 0 < after):
                part = before / (before - after)
                kept.append((first[0] + part * (second[0] - first[0]), first[1] + part * (second[1] - first[1])))
        polygon = kept
    return polygon


def _area(polygon: Sequence[Point]) -> float:
    pairs = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2


@dataclass(frozen=True)
class Field:
    """Exposures that are close to each other on the sky."""

    names: tuple[str, ...]
    centre_deg: Point


def fields_of(polygons: Mapping[str, Sequence[Polygon]]) -> list[Field]:
    """The fields that exposures form, the largest first; see `survey.mosaics.enclosing.fields`."""
    names, parts = [], []
    for name, polygon in ((name, polygon) for name, own in polygons.items() for polygon in own):
        names.append(name)
        parts.append(polygon)
    found = []
    for indices in fields(parts):
        centre = mean_direction([point for index in indices for point in parts[index]])
        found.append(Field(tuple(dict.fromkeys(names[index] for index in indices)), centre))
    return found


def farthest_deg(found: Sequence[Field]) -> float:
    """Largest angle between the centre of the first field and those of the others [deg]."""
    return max((separation_deg(found[0].centre_deg, item.centre_deg) for item in found[1:]), default=0.0)


def is_nearly_empty(pixels: float, covered: float) -> bool:
    """Whether a mosaic is far larger than its members, by the pixels of both: one of them has another pointing."""
    return pixels > max(SMALL_GRID_PIXELS, ABSURD_AREAS * covered)


def angle_text(angle_deg: float) -> str:
    """An angle for a message: in degrees, below 0.1 degrees in arcsec."""
    return f"{angle_deg:.2f} deg" if angle_deg >= 0.1 else f"{angle_deg * 3600:.1f} arcsec"


def fields_text(found: Sequence[Field], labels: Mapping[str, str]) -> list[str]:
    """One text for each field: its position, its observations and the number of its exposures.

    Parameters
    ----------
    found : of `fields_of`
    labels : name of an exposure -> its observation, as a user writes it
    """
    texts = []
    for number, item in enumerate(found, 1):
        observations = _in_order(labels[name] for name in item.names)
        ra, dec = item.centre_deg
        many = f"{len(item.names)} exposure{'s' if len(item.names) != 1 else ''}"
        noun = "observation" if len(observations) == 1 else "observations"
        texts.append(
            f"field {number} around {round(ra, 4) % 360:.4f} {dec:.4f} deg ({noun} {', '.join(observations)}; {many})"
        )
    return texts


def how_to_split(found: Sequence[Field], labels: Mapping[str, str]) -> str:
    """What to write in the config to get a mosaic of each field."""
    sets = [_in_order(labels[name] for name in item.names) for item in found]
    shared = [label for label in sets[0] if any(label in others for others in sets[1:])]
    each = " and ".join(f"'observations: {_as_yaml(numbers)}'" for numbers in sets[:4])
    if shared:
        return (
            f"Observation {', '.join(shared)} has exposures in more than one field: write one config for each field, "
            "and leave the exposures of the others out by 'exclude:'."
        )
    return (
        "Make one mosaic of each observation by 'per: [filter, observation]' in the section mosaic, or write one "
        f"config for each field: {each}{', ...' if len(sets) > 4 else ''}."
    )


def _as_yaml(labels: Sequence[str]) -> str:
    """Observations as the config has them: [1, 2], or {1345: [1, 2], 2079: [3]} for several programs."""
    if not any(":" in label for label in labels):
        return f"[{', '.join(labels)}]"
    programs: dict[str, list[str]] = {}
    for label in labels:
        program, _, number = label.partition(":")
        programs.setdefault(program, []).append(number)
    return "{" + ", ".join(f"{program}: [{', '.join(numbers)}]" for program, numbers in programs.items()) + "}"


def _in_order(labels: Iterable[str]) -> list[str]:
    return sorted(set(labels), key=lambda label: [(len(part), part) for part in label.split(":")])
