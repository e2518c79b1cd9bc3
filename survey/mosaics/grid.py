"""Boxes of pixels, and the division of a mosaic's grid into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels x0 <= x < x1, y0 <= y < y1 of a grid."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx), the shape of an array."""
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
        """The intersection of two boxes; it has no pixels if they are apart."""
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
    """A tile of a grid: column ix, row iy, and its pixels without margin."""

    ix: int
    iy: int
    box: Box

    @property
    def name(self) -> str:
        return f"x{self.ix:03d}y{self.iy:03d}"


def tiles(shape: tuple[int, int], side: int) -> Iterator[Tile]:
    """All tiles of a grid of shape (ny, nx), row by row; tiles of the last row and column may be smaller."""
    ny, nx = shape
    for iy in range(-(-ny // side)):
        for ix in range(-(-nx // side)):
            yield tile_at(shape, side, ix, iy)


def tile_at(shape: tuple[int, int], side: int, ix: int, iy: int) -> Tile:
    """The tile of a grid of shape (ny, nx) in a column and row."""
    ny, nx = shape
    return Tile(ix, iy, Box(ix * side, iy * side, min((ix + 1) * side, nx), min((iy + 1) * side, ny)))


def touched(shape: tuple[int, int], side: int, boxes: Sequence[Box | None]) -> dict[Tile, tuple[int, ...]]:
    """Tiles that boxes overlap, row by row, with the indices of these boxes."""
    found: dict[tuple[int, int], list[int]] = {}
    for index, box in enumerate(boxes):
        for ix, iy in places(shape, side, box) if box is not None else ():
            found.setdefault((iy, ix), []).append(index)
    return {tile_at(shape, side, ix, iy): tuple(indices) for (iy, ix), indices in sorted(found.items())}


def places(shape: tuple[int, int], side: int, box: Box) -> Iterator[tuple[int, int]]:
    """Column and row of each tile of a grid of shape (ny, nx) that a box overlaps."""
    inside = box.within(Box(0, 0, shape[1], shape[0]))
    if not inside.pixels:
        return
    for iy in range(inside.y0 // side, (inside.y1 - 1) // side + 1):
        for ix in range(inside.x0 // side, (inside.x1 - 1) // side + 1):
            yield ix, iy
