"""Whether the grids of a plan hold the exposures of their mosaics: faults that stop a run, and warnings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from survey.models import Association, Exposure, Plan
from survey.mosaics.coverage import (
    Field,
    angle_text,
    border_gap_deg,
    farthest_deg,
    fields_of,
    fields_text,
    how_to_split,
    is_nearly_empty,
)
from survey.mosaics.sky_plane import ARCSEC, LinearWcs, mean_direction, separation_deg
from survey.names import observation_label
from survey.planning.grids import ALIGNMENT, CONFIG, TOLERANCE_ARCSEC, Grid, polygons_of
from survey.steps.costs import FLOAT_GB, image_gb

SHOWN = 12  # exposures in a warning
_KEYS = ("crval_deg", "crpix", "rotation_deg", "shape")  # of the config, which place a grid


@dataclass(frozen=True)
class Placement:
    """What is wrong with the grids of a plan."""

    faults: tuple[str, ...] = ()  # mosaics that would have no pixel, or be nearly empty; each starts with a config key
    warnings: tuple[str, ...] = ()  # mosaics that lose exposures or parts of them


def placement(
    made: Plan, grids: Mapping[str, Grid | None], resample: Mapping[str, Any], makes: Mapping[str, Any]
) -> Placement:
    """Compare the grid of each mosaic with the footprints of its members.

    Parameters
    ----------
    made : the plan
    grids : product -> grid; see `survey.planning.grids`
    resample : parameters of the pipeline's resample step, the config's grid included
    makes : keys of the config's section mosaic that are given, for the place that a fault names
    """
    by_name = {exposure.name: exposure for exposure in made.exposures}
    faults: list[str] = []
    warnings: list[str] = []
    for association in made.associations:
        grid = grids.get(association.product)
        members = [by_name[name] for name in association.members]
        known = [item for item in members if item.polygons]
        if not known:
            continue
        if grid is not None and grid.source == CONFIG:
            fault = _missed_by(grid, association, known, members, makes)
            faults += [fault] if fault else []
            warnings += [] if fault else _lost(grid, association, known)
            continue
        fault = _beyond_reach(resample, association, known, members, makes)
        if not fault and (grid is None or grid.source != ALIGNMENT):
            fault, warning = _apart(grid, association, known, resample)
            warnings += [warning] if warning else []
        faults += [fault] if fault else []
    return Placement(tuple(faults), tuple(warnings))


def _missed_by(
    grid: Grid,
    association: Association,
    known: Sequence[Exposure],
    members: Sequence[Exposure],
    makes: Mapping[str, Any],
) -> str:
    """The fault of a grid that no exposure of the mosaic touches; '' if one does, or may."""
    if len(grid.held.missed) < len(members):
        return ""
    return _elsewhere(grid.wcs, grid.held.gap_deg, association, known, makes)


def _beyond_reach(
    resample: Mapping[str, Any],
    association: Association,
    known: Sequence[Exposure],
    members: Sequence[Exposure],
    makes: Mapping[str, Any],
) -> str:
    """The fault of a grid whose position and size are given, whatever the scale and rotation that are not."""
    crval, crpix, shape = (resample.get(name) for name in ("crval", "crpix", "output_shape"))
    if not (crval and crpix and shape) or len(known) < len(members):
        return ""
    scale = float(resample.get("pixel_scale") or 0.1 * float(resample.get("pixel_scale_ratio") or 1.0))
    wcs = LinearWcs(
        (float(crval[0]), float(crval[1])), (float(crpix[0]), float(crpix[1])), scale, 0.0,
        (int(shape[0]), int(shape[1])),
    )  # fmt: skip
    corners = [(x, y) for x in (-0.5, wcs.shape[0] - 0.5) for y in (-0.5, wcs.shape[1] - 0.5)]
    radius = max(((x - wcs.crpix[0]) ** 2 + (y - wcs.crpix[1]) ** 2) ** 0.5 for x, y in corners) * scale * ARCSEC
    gaps = [
        separation_deg(wcs.crval_deg, (middle := mean_direction(polygon)))
        - max(separation_deg(middle, point) for point in polygon)
        for item in known
        for polygon in item.polygons
    ]
    if min(gaps) <= radius + TOLERANCE_ARCSEC * ARCSEC:
        return ""
    gap = min(border_gap_deg(wcs, polygon) for item in known for polygon in item.polygons)
    return _elsewhere(wcs, gap, association, known, makes)


def _elsewhere(
    wcs: LinearWcs, gap_deg: float, association: Association, known: Sequence[Exposure], makes: Mapping[str, Any]
) -> str:
    middle = mean_direction([point for item in known for polygon in item.polygons for point in polygon])
    apart = separation_deg(wcs.centre_deg, middle)
    given = [key for key in _KEYS if makes.get(key) is not None]
    key = "mosaic.crval_deg" if "crval_deg" in given else "mosaic.image3.resample.crval"
    remove = f"remove {_listed(given)}" if given else "remove the grid from mosaic.image3.resample"
    ra, dec = wcs.centre_deg
    other = "" if association.field == "all" else " Or leave this observation out by 'observations:'."
    many = f"all {len(known)} exposures" if len(known) > 1 else "the only exposure"
    return (
        f"{key}: the grid misses {many} of {association.product}. Its centre is at {ra:.4f} {dec:.4f} deg, theirs at "
        f"{middle[0]:.4f} {middle[1]:.4f} deg, {angle_text(apart)} away; the nearest exposure is "
        f"{angle_text(gap_deg)} from its border. 'survey init {association.program}' writes a config with a grid that "
        f"holds them: take crval_deg, crpix, rotation_deg and shape from it; or {remove}, and the pipeline chooses a "
        f"grid.{other}"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lost(grid: Grid, association: Association, known: Sequence[Exposure]) -> list[str]:
    """Warnings of a grid that loses exposures or parts of them."""
    held, total = grid.held, len(known)
    if not held.missed and not held.cut:
        return []
    own = {item.name for item in known if item.footprint}
    part = f"{100 * held.outside:.1f} % of the area of " + ("all exposures" if own else "the archive's outlines")
    counts = [f"{len(names)} of {total} exposures {word}" for names, word in
              ((held.missed, "outside"), (held.cut, "partly outside" if own else "possibly partly outside"))
              if names]  # fmt: skip
    lines = [f"the grid of {association.product} does not hold all exposures: {', '.join(counts)}; {part} is lost"]
    if held.missed:
        gap = angle_text(held.gap_deg)
        lines.append(f"outside the grid of {association.product}, by {gap} or more: {_named(held.missed)}")
        lines += _missed_fields(grid, association, known)
    if held.cut and own:
        lines.append(f"partly outside the grid of {association.product}: {_named(held.cut)}")
    return lines


def _missed_fields(grid: Grid, association: Association, known: Sequence[Exposure]) -> list[str]:
    """Where exposures outside the grid are, if they form a field of their own."""
    found, labels = _fields(known)
    if len(found) < 2:
        return []
    ra, dec = grid.wcs.centre_deg
    lost = set(grid.held.missed)
    apart = [(text, separation_deg((ra, dec), item.centre_deg)) for text, item in
             zip(fields_text(found, labels), found, strict=True) if lost.issuperset(item.names)]  # fmt: skip
    texts = [f"{text}, {angle_text(angle)} from the grid's centre" for text, angle in apart]
    if not texts:
        return []
    return [f"{association.product} has {len(found)} fields: {'; '.join(texts)}. {how_to_split(found, labels)}"]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _fields(known: Sequence[Exposure]) -> tuple[list[Field], dict[str, str]]:
    """The fields of exposures whose place is known, and the observation of each as a user writes it."""
    programs = {item.program for item in known}
    labels = {item.name: observation_label(item.program, item.observation, programs) for item in known}
    # An exposure that may be in any of several outlines belongs to no field that is known.
    return fields_of({name: found for name, found in polygons_of(known).items() if len(found) == 1}), labels


def _apart(
    grid: Grid | None, association: Association, known: Sequence[Exposure], resample: Mapping[str, Any]
) -> tuple[str, str]:
    """The fault, or else the warning, of a mosaic of fields that are far apart, on a grid that holds all of them."""
    if resample.get("output_shape") is not None or resample.get("output_wcs") is not None:
        return "", ""
    found, labels = _fields(known)
    if len(found) < 2:
        return "", ""
    what = (
        f"the exposures of {association.product} are in {len(found)} fields, up to {angle_text(farthest_deg(found))} "
        f"apart: {'; '.join(fields_text(found, labels))}."
    )
    pixels = _pixels(grid, found, known)
    covered = sum(image_gb(item) / FLOAT_GB for item in known)
    advice = how_to_split(found, labels)
    if is_nearly_empty(pixels, covered):
        return f"mosaic.per: {what} A grid that holds all of them would be nearly empty. {advice}", ""
    return "", f"{what} One grid holds all of them, and most of it is empty. {advice}"


def _pixels(grid: Grid | None, found: Sequence[Field], known: Sequence[Exposure]) -> float:
    """Pixels of a grid that holds all fields; by their distance if the grid is not predicted."""
    if grid is not None:
        return float(grid.wcs.shape[0] * grid.wcs.shape[1])
    side = max(separation_deg(found[0].centre_deg, item.centre_deg) for item in found) / (0.06 * ARCSEC)
    return side * side / 2
