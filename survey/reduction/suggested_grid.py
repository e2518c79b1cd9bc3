"""The grid that a suggested config gets, from what the archive says of where exposures are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from survey.archive.query import Outline, Program
from survey.mosaics.enclosing import enclosing_grid, fields
from survey.mosaics.sky_plane import LinearWcs, separation_deg
from survey.nircam import FILTERS, SHORT

SHORT_SCALE_ARCSEC, LONG_SCALE_ARCSEC = 0.03, 0.06  # near the detectors' own
MINOR = 0.02  # fields with at most this share of all outlines are left outside of the grid


@dataclass(frozen=True)
class Field:
    """Exposures that lie together on the sky, and the grid that holds them."""

    grid: LinearWcs
    observations: tuple[int, ...]
    outlines: int

    @property
    def text(self) -> str:
        ra, dec = self.grid.crval_deg
        numbers = ", ".join(map(str, self.observations)) or "unknown"
        return f"around {ra:.4f} {dec:.4f} deg, observations {numbers}"

    def distance_deg(self, other: Field) -> float:
        return separation_deg(self.grid.crval_deg, other.grid.crval_deg)


@dataclass(frozen=True)
class GridChoice:
    """A grid for all mosaics or, where fields are far apart, none; and what a user should know of it."""

    grid: LinearWcs | None
    fields: tuple[Field, ...] = ()
    per: tuple[str, ...] = ("filter",)
    comments: tuple[str, ...] = ()  # on the grid
    per_comments: tuple[str, ...] = ()  # on what a mosaic is made of
    warnings: tuple[str, ...] = ()


def pixel_scale_arcsec(filters: Iterable[str]) -> float:
    """Pixel scale of one grid for these filters [arcsec]."""
    return SHORT_SCALE_ARCSEC if set(filters) & set(SHORT.filters) else LONG_SCALE_ARCSEC


def outlines_of(found: Program) -> tuple[list[Outline], list[str]]:
    """Polygons that hold a program's exposures.

    The footprint of an exposure where the archive gives it, else the outline of the mosaics that list the exposure.

    Returns
    -------
    outlines : of exposures and mosaics
    unknown : filters and observations of which the archive gives neither
    """
    own = [Outline(item.filter, item.observation, item.footprint) for item in found.exposures if item.footprint]
    bare = {(item.filter, item.observation) for item in found.exposures if not item.footprint}
    names = {name for name, _ in bare}
    listed = [item for item in found.outlines if (item.filter, item.observation) in bare
              or (item.observation is None and item.filter in names)]  # fmt: skip
    known = {(item.filter, item.observation) for item in listed}
    unknown = sorted((name, number) for name, number in bare if not known & {(name, number), (name, None)})
    return own + listed, [f"{name} of observation {number}" for name, number in unknown]


def choose_grid(found: Program) -> GridChoice:
    """The grid that holds all of a program's exposures, when they are in one field."""
    outlines, unknown = outlines_of(found)
    if not outlines:
        text = (
            "the archive's rows have no footprints, so no grid is suggested; after 'survey fetch', 'survey plan' "
            "predicts one from the headers"
        )
        return GridChoice(None, comments=(text,), warnings=(text,))
    missing = tuple(f"neither a footprint nor an outline in the archive's rows: {name}" for name in unknown)
    scale = pixel_scale_arcsec(item.filter for item in found.exposures)
    parts = _fields(outlines, scale)
    main, others = parts[0], parts[1:]
    apart = tuple(f"field {number}: {item.text}, {main.distance_deg(item):.2f} deg from field 1"
                  for number, item in enumerate(others, 2))  # fmt: skip
    if sum(item.outlines for item in others) > MINOR * len(outlines):
        return _several(parts, found, missing)
    nx, ny = main.grid.shape
    size = f"{nx * ny / 1e6:.1f} million pixels, {4e-9 * nx * ny:.3f} GB for each plane of a mosaic"
    number = f"all {len(outlines)}" if not others else f"{main.outlines} of {len(outlines)}"
    bare = sum(not item.footprint for item in found.exposures)
    comments = [f"holds {number} outlines that the archive gives, with a margin; {size}"]
    if bare:
        comments.append(
            f"the archive's rows have no footprint of {bare} of {len(found.exposures)} exposures: "
            "the outlines of the mosaics that list them count"
        )
    outside = tuple(f"outside of the grid: {text}" for text in apart)
    return GridChoice(main.grid, parts, comments=(*comments, *outside, *missing), warnings=(*outside, *missing))


def _several(parts: tuple[Field, ...], found: Program, missing: tuple[str, ...]) -> GridChoice:
    """No grid for fields that are far apart, but advice."""
    program = found.exposures[0].program
    farthest = max(parts[0].distance_deg(item) for item in parts[1:])
    text = f"{len(parts)} fields, up to {farthest:.2f} deg from the largest"
    lines = [
        f"{text}: a grid that holds all of them would be mostly empty.",
        "So there is one mosaic per filter and observation, each on a grid that the pipeline chooses.",
        "For one grid per field, write one config per field:",
    ]
    for number, item in enumerate(parts, 1):
        options = " ".join(f"--observation {observation}" for observation in item.observations)
        lines.append(f"  field {number}, {item.text}: survey init {program} {options}".rstrip())
    warnings = (f"{text}: the config makes one mosaic per filter and observation; see mosaic.per in it", *missing)
    comments = ("the pipeline's choice for each mosaic, since the fields are far apart", *missing)
    return GridChoice(None, parts, ("filter", "observation"), comments, tuple(lines), warnings)


def _fields(outlines: Sequence[Outline], scale_arcsec: float) -> tuple[Field, ...]:
    made = []
    for indices in fields([item.corners for item in outlines]):
        members = [outlines[index] for index in indices]
        points = [point for item in members for point in item.corners]
        observations = sorted({item.observation for item in members if item.observation is not None})
        made.append(Field(enclosing_grid(points, scale_arcsec), tuple(observations), len(members)))
    return tuple(made)


def count(found: Program) -> dict[str, dict[int, int]]:
    """Numbers of exposures by filter, in the order of wavelengths, and observation."""
    counts: dict[str, dict[int, int]] = {}
    for item in sorted(found.exposures, key=lambda item: (FILTERS.index(item.filter), item.observation)):
        row = counts.setdefault(item.filter, {})
        row[item.observation] = row.get(item.observation, 0) + 1
    return counts
