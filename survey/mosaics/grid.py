"""The output grid of a mosaic: its tiles, which members touch which tile, and a layout that holds both.

Pure arithmetic on pixel boxes. Tiles are windows of one grid by whole pixels, so a tile's pixels are the mosaic's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from survey.models import Exposure
from survey.mosaics.sky_plane import LinearWcs, mean_direction, project

# A footprint's corners leave out the bulge of its edges, and alignment moves exposures by less than this [pixels].
PREDICTION_PAD_PX = 32
MAX_SIDE_PX = 1_000_000  # of a grid in a file: 8 degrees at 0.03 arcsec; the tiles of a damaged one would have no end


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels x0 <= x < x1, y0 <= y < y1 of a grid."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx), as of an array."""
        return max(self.y1 - self.y0, 0), max(self.x1 - self.x0, 0)

    @property
    def pixels(self) -> int:
        ny, nx = self.shape
        return ny * nx

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, for an array of the whole grid."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grown(self, margin: int) -> Box:
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin)

    def within(self, other: Box) -> Box:
        """The part that two boxes share; without pixels when they share none."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Box(x0, y0, max(min(self.x1, other.x1), x0), max(min(self.y1, other.y1), y0))

    def inside(self, other: Box) -> bool:
        return self.within(other) == self

    def around(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))

    def moved(self, x: int, y: int) -> Box:
        """The same pixels, counted from (x, y)."""
        return Box(self.x0 - x, self.y0 - y, self.x1 - x, self.y1 - y)


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a grid: column ix, row iy, and the pixels that are its own."""

    ix: int
    iy: int
    box: Box

    @property
    def name(self) -> str:
        return f"x{self.ix:03d}y{self.iy:03d}"


@dataclass(frozen=True, slots=True)
class Member:
    """An exposure of a mosaic, as far as tiles go. A box is None where the exposure misses the grid."""

    name: str
    group: int  # exposures of one moment, of several detectors, share a group
    outlier: Box | None  # on the grid of outlier detection
    final: Box | None  # on the mosaic's


@dataclass(frozen=True)
class Layout:
    """Grids and members of one mosaic.

    ``digest`` is that of the alignment that it was computed with; '' marks a prediction from footprints.
    """

    outlier_shape: tuple[int, int]  # (ny, nx) of the grid of outlier detection: the pipeline's default one
    final_shape: tuple[int, int]  # (ny, nx) of the mosaic
    shared: bool  # both are one grid
    members: tuple[Member, ...]
    digest: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)  # what tasks need to know of the grids

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """Indices of the members of each group, in the order of their first members."""
        found: dict[int, list[int]] = {}
        for index, member in enumerate(self.members):
            found.setdefault(member.group, []).append(index)
        return [tuple(indices) for indices in found.values()]

    def group_box(self, indices: Iterable[int]) -> Box | None:
        """The box of a group on the grid of outlier detection."""
        boxes = [box for index in indices if (box := self.members[index].outlier) is not None]
        whole: Box | None = None
        for box in boxes:
            whole = box if whole is None else whole.around(box)
        return whole

    def final_tiles(self, side: int) -> dict[Tile, tuple[int, ...]]:
        """Tiles of the mosaic that members touch, with the indices of these members."""
        return touched(self.final_shape, side, [member.final for member in self.members])

    def outlier_tiles(self, side: int) -> dict[Tile, tuple[int, ...]]:
        """Tiles of the outlier grid that groups touch, with the indices of these groups."""
        return touched(self.outlier_shape, side, [self.group_box(indices) for indices in self.groups])

    @property
    def final_wcs(self) -> LinearWcs | None:
        """The mosaic's grid as its alignment wrote it; None for a prediction, and where it is not a linear one."""
        try:
            return LinearWcs.from_json(self.facts["wcs"])
        except (KeyError, TypeError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Raises KeyError, TypeError or ValueError for what is not a layout."""
        members = tuple(
            Member(str(item["name"]), int(item["group"]), _box(item["outlier"]), _box(item["final"]))
            for item in data["members"]
        )
        shapes = [_shape(data[key]) for key in ("outlier_shape", "final_shape")]
        return cls(shapes[0], shapes[1], bool(data["shared"]), members, str(data["digest"]), dict(data["facts"]))


def _box(value: Mapping[str, int] | None) -> Box | None:
    if value is None:
        return None
    if not all(type(edge) is int and abs(edge) <= MAX_SIDE_PX for edge in value.values()):
        raise ValueError(f"box: found {value}, expected whole pixels of at most {MAX_SIDE_PX}")
    return Box(**value)


def _shape(value: Sequence[Any]) -> tuple[int, int]:
    ny, nx = value
    if not all(type(side) is int and 0 <= side <= MAX_SIDE_PX for side in (ny, nx)):
        raise ValueError(f"shape: found {value}, expected two sides of at most {MAX_SIDE_PX} pixels")
    return ny, nx


def tiles(shape: tuple[int, int], side: int) -> Iterator[Tile]:
    """All tiles of a grid of shape (ny, nx), row by row; those of the last row and column may be smaller."""
    ny, nx = shape
    for iy in range(-(-ny // side)):
        for ix in range(-(-nx // side)):
            yield Tile(ix, iy, Box(ix * side, iy * side, min((ix + 1) * side, nx), min((iy + 1) * side, ny)))


def touched(shape: tuple[int, int], side: int, boxes: Sequence[Box | None]) -> dict[Tile, tuple[int, ...]]:
    """Tiles that boxes touch, in the grid's order, with the indices of the boxes that touch each."""
    ny, nx = shape
    found: dict[tuple[int, int], list[int]] = {}
    for index, box in enumerate(boxes):
        for ix, iy in places(shape, side, box) if box is not None else ():
            found.setdefault((iy, ix), []).append(index)
    made = {}
    for (iy, ix), indices in sorted(found.items()):
        box = Box(ix * side, iy * side, min((ix + 1) * side, nx), min((iy + 1) * side, ny))
        made[Tile(ix, iy, box)] = tuple(indices)
    return made


def places(shape: tuple[int, int], side: int, box: Box) -> Iterator[tuple[int, int]]:
    """Column and row of each tile of a grid of shape (ny, nx) that a box touches."""
    inside = box.within(Box(0, 0, shape[1], shape[0]))
    if not inside.pixels:
        return
    for iy in range(inside.y0 // side, (inside.y1 - 1) // side + 1):
        for ix in range(inside.x0 // side, (inside.x1 - 1) // side + 1):
            yield ix, iy


# --- before anything was aligned: from footprints ------------------------------------------------------------------


def predict(
    exposures: Sequence[Exposure], groups: Sequence[int], grid: Mapping[str, Any], default_scale_arcsec: float
) -> Layout | None:
    """The layout that a mosaic will have, roughly: from footprints, on tangent planes. None without footprints.

    Parameters
    ----------
    exposures : the members, in the association's order
    groups : number of the group of each
    grid : parameters of the pipeline's resample step: pixel_scale, crval, crpix, rotation, output_shape (x, y)
    default_scale_arcsec : of the detector's own pixels [arcsec]
    """
    footprints = [exposure.footprint for exposure in exposures]
    if not footprints or any(corners is None for corners in footprints):
        return None
    corners = [list(item) for item in footprints if item is not None]
    centre = mean_direction([point for item in corners for point in item])
    scale = default_scale_arcsec * float(grid.get("pixel_scale_ratio") or 1.0)
    outlier_shape, outlier = _boxes(corners, centre, default_scale_arcsec, 0.0, None, None)
    shared = not any(grid.get(name) is not None for name in ("pixel_scale", "crval", "crpix", "rotation"))
    shared = shared and grid.get("output_shape") is None and scale == default_scale_arcsec
    if shared:
        final_shape, final = outlier_shape, outlier
    else:
        final_shape, final = _boxes(corners, *_chosen(grid, centre, scale))
    members = [
        Member(exposure.name, groups[index], outlier[index], final[index]) for index, exposure in enumerate(exposures)
    ]
    return Layout(outlier_shape, final_shape, shared, tuple(members))


def predict_wcs(
    exposures: Sequence[Exposure], grid: Mapping[str, Any], default_scale_arcsec: float
) -> LinearWcs | None:
    """The mosaic's grid that `predict` works with; None without footprints.

    What the config leaves open is a guess: the pipeline chooses another reference pixel and its own rotation.
    """
    corners = [list(item.footprint) for item in exposures if item.footprint is not None]
    if not corners or len(corners) < len(exposures):
        return None
    centre = mean_direction([point for item in corners for point in item])
    scale = default_scale_arcsec * float(grid.get("pixel_scale_ratio") or 1.0)
    tangent, scale, rotation, crpix, given = _chosen(grid, centre, scale)
    planes = [[project(point, tangent, scale, rotation) for point in item] for item in corners]
    left, bottom, (ny, nx) = _window(planes, crpix, given)
    where = (float(-left), float(-bottom)) if crpix is None else (float(crpix[0]), float(crpix[1]))
    return LinearWcs(tangent, where, scale, rotation, (nx, ny))


def _chosen(
    grid: Mapping[str, Any], centre: tuple[float, float], scale_arcsec: float
) -> tuple[tuple[float, float], float, float, Sequence[float] | None, tuple[int, int] | None]:
    """Tangent point, pixel scale, rotation, reference pixel and shape (ny, nx): the config's, else a guess or None."""
    crval, shape = grid.get("crval"), grid.get("output_shape")
    return (
        (float(crval[0]), float(crval[1])) if crval else centre,
        float(grid.get("pixel_scale") or scale_arcsec),
        float(grid.get("rotation") or 0.0),
        grid.get("crpix"),
        (int(shape[1]), int(shape[0])) if shape else None,
    )


def _window(
    planes: Sequence[Sequence[tuple[float, float]]], crpix: Sequence[float] | None, shape: tuple[int, int] | None
) -> tuple[int, int, tuple[int, int]]:
    """First column and row of a grid, counted from the tangent point, and its shape (ny, nx)."""
    xs = [x for plane in planes for x, _ in plane]
    ys = [y for plane in planes for _, y in plane]
    left, bottom = math.floor(min(xs)), math.floor(min(ys))
    if crpix is not None:
        left, bottom = -round(float(crpix[0])), -round(float(crpix[1]))
    return left, bottom, shape or (math.ceil(max(ys)) - bottom + 1, math.ceil(max(xs)) - left + 1)


def _boxes(
    corners: Sequence[Sequence[tuple[float, float]]],
    tangent: tuple[float, float],
    scale_arcsec: float,
    rotation_deg: float,
    crpix: Sequence[float] | None,
    shape: tuple[int, int] | None,
) -> tuple[tuple[int, int], list[Box | None]]:
    """Shape (ny, nx) of a grid, and the box of each footprint on it."""
    planes = [[project(point, tangent, scale_arcsec, rotation_deg) for point in item] for item in corners]
    left, bottom, shape = _window(planes, crpix, shape)
    whole = Box(0, 0, shape[1], shape[0])
    boxes: list[Box | None] = []
    for plane in planes:
        xs, ys = [x - left for x, _ in plane], [y - bottom for _, y in plane]
        box = Box(math.floor(min(xs)), math.floor(min(ys)), math.ceil(max(xs)) + 1, math.ceil(max(ys)) + 1)
        inside = box.grown(PREDICTION_PAD_PX).within(whole)
        boxes.append(inside if inside.pixels else None)
    return shape, boxes
