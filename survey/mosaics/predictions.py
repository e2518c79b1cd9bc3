"""Predict the layout of a mosaic from footprints, before its exposures are aligned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from survey.models import Exposure
from survey.mosaics.grid import Box
from survey.mosaics.layouts import Layout, Member
from survey.mosaics.sky_plane import LinearWcs, mean_direction, project

# Edges of a footprint are curved, and alignment moves exposures: by less than this [pixels].
PREDICTION_PAD_PX = 32


def predict(
    exposures: Sequence[Exposure], groups: Sequence[int], grid: Mapping[str, Any], default_scale_arcsec: float
) -> Layout | None:
    """Predict the layout of a mosaic from footprints on tangent planes; None if footprints are unknown.

    Parameters
    ----------
    exposures : the members, in the association's order
    groups : number of the group of each exposure
    grid : parameters of the pipeline's resample step: pixel_scale, crval, crpix, rotation, output_shape (x, y)
    default_scale_arcsec : side of the detector's pixels [arcsec]
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
    """The grid of the mosaic that `predict` uses; None if footprints are unknown.

    Values that the config does not give are guesses: the pipeline chooses its own reference pixel and rotation.
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
    """Tangent point, pixel scale, rotation, reference pixel and shape (ny, nx), as given; else a guess or None."""
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
