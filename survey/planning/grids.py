"""The output grid of each mosaic of a plan: given by the config, known from an alignment, or predicted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from survey.models import Association, Exposure, Plan
from survey.mosaics.coverage import Coverage, coverage
from survey.mosaics.layouts import Layout
from survey.mosaics.predictions import predict_wcs
from survey.mosaics.sky_plane import LinearWcs, Point
from survey.nircam import native_scale_arcsec
from survey.steps.registry import row_of

CONFIG, ALIGNMENT, FOOTPRINTS = "config", "alignment", "footprints"
TOLERANCE_ARCSEC = 1.0  # a footprint is known to this accuracy before the alignment
# Parameters of the pipeline's resample step that fix a grid when all of them are given.
_COMPLETE = ("pixel_scale", "crval", "crpix", "rotation", "output_shape")


@dataclass(frozen=True)
class Grid:
    """The grid of one mosaic."""

    source: str  # 'config', 'alignment' or 'footprints'
    wcs: LinearWcs
    held: Coverage = field(default_factory=Coverage)  # by footprints, for a grid that the config gives

    def to_json(self) -> dict[str, Any]:
        held = self.held
        members = {"cut": list(held.cut), "missed": list(held.missed), "area_outside": round(held.outside, 4)}
        return {"source": self.source, **self.wcs.to_json(), **members}


def given_grid(resample: Mapping[str, Any]) -> LinearWcs | None:
    """The grid that parameters of the pipeline's resample step fix; None unless all five of them are given."""
    if any(resample.get(name) is None for name in _COMPLETE):
        return None
    return LinearWcs.from_resample(resample)


def grids(made: Plan, resample: Mapping[str, Any], layouts: Mapping[str, Layout]) -> dict[str, Grid | None]:
    """Grid of each mosaic by product; None where neither config, alignment nor footprints give one.

    Parameters
    ----------
    made : the plan
    resample : parameters of the pipeline's resample step, the config's grid included
    layouts : product -> what its alignment laid out
    """
    by_name = {exposure.name: exposure for exposure in made.exposures}
    aligned = {task.mosaic: task.digest for task in made if row_of(task).lays_out}
    found: dict[str, Grid | None] = {}
    for association in made.associations:
        layout = layouts.get(association.product)
        if layout is not None and layout.digest != aligned.get(association.product):
            layout = None  # of another alignment
        members = [by_name[name] for name in association.members]
        found[association.product] = _grid(association, members, resample, layout)
    return found


def _grid(
    association: Association, members: Sequence[Exposure], resample: Mapping[str, Any], layout: Layout | None
) -> Grid | None:
    wcs: LinearWcs | None = None
    source = ""
    if (given := given_grid(resample)) is not None:
        source, wcs = CONFIG, given
    elif layout is not None and layout.final_wcs is not None:
        source, wcs = ALIGNMENT, layout.final_wcs
    elif resample.get("output_wcs") is None and members:
        source, wcs = FOOTPRINTS, predict_wcs(members, resample, native_scale_arcsec(members[0].detector))
    if wcs is None:
        return None
    if source != CONFIG:
        return Grid(source, wcs)
    return Grid(source, wcs, coverage(wcs, polygons_of(members), TOLERANCE_ARCSEC))


def polygons_of(members: Iterable[Exposure]) -> dict[str, Sequence[Sequence[Point]]]:
    """Name of an exposure -> its footprint or outlines, of exposures of which they are known."""
    return {item.name: item.polygons for item in members if item.polygons}
