"""Source masks of exposures from the mosaics of a first pass: search the tiles, and map what was found to exposures.

A mosaic is deeper than each of its exposures, so that its mask holds the faint light that a mask drawn on one exposure
misses; corrections that fit the background would subtract that light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survey.masks import read_masks, write_masks
from survey.mosaics.arrays import context_planes
from survey.mosaics.grid import Box
from survey.mosaics.tiles import create, link_chunks
from survey.steps.base import Job, Outcome, Step
from survey.steps.image3 import files
from survey.steps.image3.members import read_description
from survey.steps.image3.wcs_files import read_trees

BORDER_PX = 64  # around a tile, in which sources are searched for as well; neighbours hold it
CLIP_SIGMA, CLIP_ROUNDS = 3.0, 10  # of the background of a tile
MAD_TO_SIGMA = 1.4826  # of a normal distribution
# Positions are computed on a grid of this step and interpolated linearly: within 0.01 pixels for NIRCam's distortion.
SAMPLE_PX = 8


@dataclass(frozen=True)
class Detection:
    """How sources are searched for in a mosaic; the parameters of the step `source_mask`."""

    n_sigma: float = 2.0  # height above the background, in standard deviations of the smoothed image
    smooth_px: float = 2.0  # standard deviation of the Gaussian [pixels]
    min_pixels: int = 5  # smallest number of connected pixels
    grow_px: float = 3.3  # radius by which each source grows [pixels]


def detect(image: Any, weight: Any, how: Detection) -> Any:
    """Find the pixels of sources in an image of the sky.

    The image is smoothed with weights. Background and noise are the clipped median and scatter of what is left, where
    the noise of a pixel is taken to scale with the inverse root of its weight.

    Parameters
    ----------
    image : ndarray (ny, nx), float; NaN = no data
    weight : ndarray (ny, nx), float; inverse variance up to a factor; 0 = no data

    Returns
    -------
    found : ndarray (ny, nx), bool; True = light of a source. All False without data.
    """
    import numpy as np
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label

    good = np.isfinite(image) & (weight > 0)
    if not good.any():
        return np.zeros(image.shape, bool)
    depth = np.where(good, weight, 0.0).astype(np.float64)
    total, covered = np.where(good, image, 0.0) * depth, depth
    if how.smooth_px > 0:
        total, covered = (gaussian_filter(values, how.smooth_px, mode="constant") for values in (total, depth))
    with np.errstate(invalid="ignore", divide="ignore"):
        smooth = np.where(good, total / covered, np.nan)
    root = np.sqrt(np.where(good, depth, 0.0) / np.median(depth[good]))
    sky, middle, sigma = good.copy(), 0.0, 0.0
    for _ in range(CLIP_ROUNDS):
        middle = float(np.median(smooth[sky]))
        sigma = MAD_TO_SIGMA * float(np.median(np.abs((smooth[sky] - middle) * root[sky])))
        with np.errstate(invalid="ignore"):
            kept = good & ((smooth - middle) * root < CLIP_SIGMA * sigma)
        if sigma == 0 or not kept.any() or (kept == sky).all():
            break
        sky = kept
    with np.errstate(invalid="ignore"):
        found = good & ((smooth - middle) * root > how.n_sigma * sigma)
    labels, count = label(found)
    if count and how.min_pixels > 1:
        found = (np.bincount(labels.ravel())[labels] >= how.min_pixels) & found
    if how.grow_px > 0 and found.any():
        found = distance_transform_edt(~found) <= how.grow_px
    return found


def detect_tile(job: Job, step: Step) -> Outcome:
    """Search a tile of a mosaic for sources.

    Inputs: the layout. The tile and its neighbours are read from the chunks in the workspace. Product: a file of
    `write_masks`: ``source``, and ``covered`` where the mosaic has data.
    """
    layout = files.read_layout(job.inputs[0])
    tile, side = job.own_tile, int(job.settings["side"])
    store = Path(job.root) / "mosaics" / "mosaics.zarr" / str(job.settings["group"])
    names = ["sci", "wht"]
    view = create(job.path / "view", layout.final_shape, side, names, context_planes(len(layout.members)))
    link_chunks(job.path / "view", store, names)
    ny, nx = layout.final_shape
    window = tile.box.grown(BORDER_PX).within(Box(0, 0, nx, ny))
    image, weight = (view[name][window.slices] for name in names)
    inner = tile.box.moved(window.x0, window.y0).slices
    scale = layout.final_wcs.pixel_scale_arcsec if layout.final_wcs else _scale_arcsec(layout)
    found = detect(image, weight, detection(job.settings, scale))[inner]
    covered = weight[inner] > 0
    target = job.path / files.DETECTED.name(job.subject)
    write_masks(target, {"source": found, "covered": covered}, (tile.box.x0, tile.box.y0))
    measured = {"covered": int(covered.sum()), "masked": int((found & covered).sum())}
    return Outcome(((target.name, f"{step.folder}/{target.name}"),), measurements=measured)


def detection(settings: Mapping[str, Any], scale_arcsec: float) -> Detection:
    """The search that settings ask for, in a mosaic with pixels of this side [arcsec]."""
    return Detection(
        float(settings["n_sigma"]),
        float(settings["smooth_arcsec"]) / scale_arcsec,
        int(settings["min_pixels"]),
        float(settings["grow_arcsec"]) / scale_arcsec,
    )


def _scale_arcsec(layout: Any) -> float:
    from survey.steps.image3.numbers import untyped

    return float(untyped(layout.scales["final"].arcsec))


def mask_exposure(job: Job, step: Step) -> Outcome:
    """Map the sources of mosaics to the pixels of an exposure.

    Inputs: the exposure's aligned WCS, then for each mosaic its grids and what was found in tiles that the exposure can
    overlap. Product: a file of `write_masks`: ``source``, and ``covered`` where one of the mosaics has data.
    """
    import numpy as np

    inputs = files.Inputs(job.inputs)
    described = read_description(job.inputs[0])
    sources, covered = np.zeros(described.shape, bool), np.zeros(described.shape, bool)
    for product in job.settings["mosaics"]:
        grid = read_trees(inputs.path(files.GRID, product))["final"]["wcs"]
        x, y = positions(described.wcs, described.shape, grid)
        for path in job.inputs:
            if not Path(path).name.startswith(f"{product}_x"):  # the grids, or another mosaic
                continue
            masks, (x0, y0) = read_masks(path)
            ny, nx = masks["source"].shape
            box = Box(x0, y0, x0 + nx, y0 + ny)
            inside = (x >= box.x0) & (x < box.x1) & (y >= box.y0) & (y < box.y1)
            place = (y[inside] - box.y0, x[inside] - box.x0)
            sources[inside] |= masks["source"][place]
            covered[inside] |= masks["covered"][place]
    target = job.path / f"{job.subject}_{step.produces}.npz"
    write_masks(target, {"source": sources, "covered": covered})
    measured = {"covered": round(float(covered.mean()), 4), "masked": round(float(sources.mean()), 4)}
    return Outcome(((target.name, f"{step.folder}/{target.name}"),), measurements=measured)


def positions(wcs: Any, shape: tuple[int, int], grid: Any) -> tuple[Any, Any]:
    """Pixel of a mosaic that holds the centre of each pixel of an exposure.

    Parameters
    ----------
    wcs, grid : gwcs.WCS of the exposure and of the mosaic
    shape : (ny, nx) of the exposure

    Returns
    -------
    x, y : ndarray (ny, nx), int64; -1 where the sky is not on the tangent plane of the mosaic
    """
    import numpy as np
    from scipy.interpolate import RegularGridInterpolator

    ny, nx = shape
    rows, columns = (np.unique(np.append(np.arange(0, side, SAMPLE_PX), side - 1)).astype(float) for side in shape)
    at_x, at_y = np.meshgrid(columns, rows)
    u, v = grid.invert(*wcs(at_x, at_y, with_bounding_box=False), with_bounding_box=False)
    axes = (rows, columns)
    points = np.stack(np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij"), axis=-1).reshape(-1, 2)
    found = []
    for values in (u, v):
        if min(ny, nx) > 1:
            fine = RegularGridInterpolator(axes, np.asarray(values))(points).reshape(shape)
        else:
            fine = np.asarray(values).reshape(shape)
        found.append(np.where(np.isfinite(fine), np.floor(fine + 0.5), -1).astype(np.int64))
    return found[0], found[1]
