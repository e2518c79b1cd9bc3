"""Outlier detection in parts: pixel maps, a drizzled image of each group, medians of tiles, flags of exposures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.mosaics.grid import Box, tile_at
from survey.mosaics.layouts import Layout
from survey.names import association_id
from survey.steps.base import Job, Outcome, Step
from survey.steps.image3 import files
from survey.steps.image3.arrays import member_model, read_arrays
from survey.steps.image3.levels import SkyLevels
from survey.steps.image3.members import apply_meta, read_description, used_pixels
from survey.steps.image3.numbers import untyped
from survey.steps.image3.parts import parameters, part
from survey.steps.image3.resampling import (
    StoredMap,
    Window,
    blot_map,
    bounding_box,
    left_out,
    pixel_map,
    place,
    reach,
    window_resampler,
)
from survey.steps.image3.sky import set_background
from survey.steps.image3.wcs_files import read_trees
from survey.steps.pipeline import is_simulated, stamp

# Pixels of a stack of images that are in memory at the same time for a median; 4 bytes each, and nanmedian copies rows.
STACK_PIXELS = 64 * 1024 * 1024


def map_pixels(job: Job, step: Step) -> Outcome:
    """Compute the positions of an exposure's pixels in the mosaic, and on the outlier grid if that differs.

    Inputs: aligned description, grids, layout. Products: ``<exposure>_<acid>_pixmap.npy``, (ny, nx, 2) float64;
    ``..._leftout.npy``, see `left_out`, empty for an exposure inside the mosaic; and ``..._outliermap.npy`` if the
    outlier grid differs.

    Raises
    ------
    TaskError
        A parameter file needs a map that was not planned.
    """
    import numpy as np

    aligned, grid_path, layout_path = job.inputs
    layout, described = files.read_layout(layout_path), read_description(aligned)
    resample, detection = part(job, "resample"), part(job, "outlier_detection")
    steps = (float(resample.pixmap_stepsize), int(resample.pixmap_order))
    outlier_steps = (float(detection.pixmap_stepsize), int(detection.pixmap_order))
    one = layout.shared and steps == outlier_steps
    grids = {key: tree["wcs"] for key, tree in read_trees(grid_path).items()}
    wanted = {files.PIXMAP: ("final", steps)}
    expected = bool(job.settings["outliermap"])
    if bool(job.settings["outliers"]) and not (one or expected or detection.skip):
        raise TaskError(
            f"{job.subject}: a CRDS parameter file sets different pixel maps for resample and outlier_detection: "
            f"(pixmap_stepsize, pixmap_order) = {steps} and {outlier_steps}. Set both steps' values in mosaic.image3."
        )
    if expected:
        wanted[files.OUTLIER_MAP] = ("final" if layout.shared else "outlier", outlier_steps)
    made = {file: pixel_map(described.wcs, grids[grid], described.shape, *pars)
            for file, (grid, pars) in wanted.items()}  # fmt: skip
    ny, nx = layout.final_shape
    used = used_pixels(described)
    made[files.LEFT_OUT] = np.zeros((0, 0), bool)
    if not reach(made[files.PIXMAP], used).inside(Box(0, 0, nx, ny)):
        ratio = untyped(layout.scales["final"].ratio) or 1.0
        made[files.LEFT_OUT] = left_out(made[files.PIXMAP], used, Box(0, 0, nx, ny), ratio)
    products = []
    for file, values in made.items():
        name = file.name(job.subject)
        np.save(job.path / name, values)
        products.append((name, f"{step.folder}/{name}"))
    return Outcome(tuple(products), {"resample": parameters(resample), "outlier_detection": parameters(detection)})


def outlier_map(inputs: files.Inputs, subject: str) -> str:
    """Path of a member's map onto the outlier grid; that of the mosaic, if both grids are the same."""
    own = inputs.has(files.OUTLIER_MAP, subject)
    return inputs.path(files.OUTLIER_MAP if own else files.PIXMAP, subject)


def drizzle_group(job: Job, step: Step) -> Outcome:
    """Drizzle the exposures of a group onto the outlier grid; pixels of low weight become NaN.

    Inputs: layout, sky, then cal file and pixel maps of each member. Product: ``<subject>_outlier_i2d.npy``, float32,
    in the group's box of the layout.
    """
    import numpy as np
    from stcal.outlier_detection.utils import compute_weight_threshold

    layout = files.read_layout(job.inputs[0])
    sky = SkyLevels.read(job.inputs[1])
    detection = part(job, "outlier_detection")
    indices = [int(index) for index in job.settings["members"]]
    box = layout.group_box(indices)
    path = job.path / files.GROUP_I2D.name(job.subject)
    outcome = ((path.name, f"{step.folder}/{path.name}"),)
    if detection.skip or box is None or len(layout.members) < 2:
        np.save(path, np.full((0, 0), np.nan, np.float32))
        return Outcome(outcome, {"outlier_detection": parameters(detection)}, {"pixels": 0})
    resampler = _outlier_resampler(detection, layout, box, indices)
    inputs, acid = files.Inputs(job.inputs), association_id(job.mosaic)
    for index in indices:
        member = layout.members[index]
        if member.outlier is None:
            continue
        pixmap = np.load(outlier_map(inputs, files.member_subject(member.name, acid)))
        arrays = read_arrays(inputs.calibrated(member.name), ("data", "dq", "var_rnoise"))
        for delta in sky.members[member.name].subtractions:
            arrays["data"] -= delta
        arrays, stored = place(arrays, pixmap, member.aligned.used, box, resampler, clipped=True)
        resampler.add_model(member_model(member, sky, arrays) | {"wcs": stored})
    resampler.finalize()
    data, weight = resampler.output_model["data"], resampler.output_model["wht"]
    threshold = compute_weight_threshold(weight, detection.maskpt)
    data[weight < threshold] = np.nan
    np.save(path, data)
    measured = {"pixels": int(np.isfinite(data).sum()), "weight_threshold": float(threshold)}
    return Outcome(outcome, {"outlier_detection": parameters(detection)}, measured)


def _outlier_resampler(detection: Any, layout: Layout, box: Box, indices: list[int]) -> Any:
    scale = layout.scales["final" if layout.shared else "outlier"]
    output = {
        "wcs": Window(box),
        "pixel_scale": untyped(scale.arcsec),
        "pixel_scale_ratio": untyped(scale.ratio),
    }
    return window_resampler()(
        indices,
        output_wcs=output,
        blendheaders=False,
        weight_type=detection.weight_type,
        pixfrac=detection.pixfrac,
        kernel=detection.kernel,
        fillval=detection.fillval,
        good_bits=detection.good_bits,
        enable_ctx=False,
        enable_var=False,
        compute_err=None,
    )


def median_tile(job: Job, step: Step) -> Outcome:
    """Compute the median of all groups in a tile of the outlier grid.

    Inputs: layout, then the drizzled groups that overlap the tile. Product: ``<subject>_median.npy``, float32. The
    stack is processed in bands of rows, so that memory does not depend on the number of groups.
    """
    import numpy as np

    layout = files.read_layout(job.inputs[0])
    tile = job.own_tile.box
    groups = [layout.group_box(layout.groups[int(number)]) for number in job.settings["groups"]]
    images = [np.load(path, mmap_mode="r") for path in job.inputs[1:]]
    ny, nx = tile.shape
    median = np.full((ny, nx), np.nan, np.float32)
    rows = max(1, STACK_PIXELS // max(nx * len(images), 1))
    for y in range(0, ny, rows):
        band = Box(tile.x0, tile.y0 + y, tile.x1, min(tile.y0 + y + rows, tile.y1))
        stack = []
        for image, box in zip(images, groups, strict=True):
            shared = band.within(box) if box is not None and image.size else None
            if shared is None or box is None or not shared.pixels:
                continue
            layer = np.full(band.shape, np.nan, np.float32)
            layer[shared.moved(band.x0, band.y0).slices] = image[shared.moved(box.x0, box.y0).slices]
            stack.append(layer)
        if stack:
            median[y : y + band.shape[0]] = nanmedian(np.stack(stack))
    path = job.path / files.MEDIAN.name(job.subject)
    np.save(path, median)
    return Outcome(((path.name, f"{step.folder}/{path.name}"),), {}, {"groups": len(images)})


def nanmedian(stack: Any) -> Any:
    """Median along the first axis, ignoring NaN; bitwise that of stcal's nanmedian3D, in a quarter of the time.

    Parameters
    ----------
    stack : ndarray (n, ny, nx), float32; sorted in place

    Returns
    -------
    median : ndarray (ny, nx), float32; NaN where all values are NaN
    """
    import numpy as np

    stack.sort(axis=0)  # NaN last
    count = np.count_nonzero(~np.isnan(stack), axis=0)
    low, high = (np.clip(index, 0, len(stack) - 1)[None] for index in ((count - 1) // 2, count // 2))
    first, second = (np.take_along_axis(stack, index, axis=0)[0] for index in (low, high))
    return np.where((low == high)[0], first, (first + second) / np.float32(2))


def flag(job: Job, step: Step) -> Outcome:
    """Flag the outliers of an exposure and write its crf file.

    Inputs: layout, sky, aligned description, cal file, pixel maps, then the medians of the tiles that it overlaps.
    """
    from jwst.outlier_detection.utils import _flag_resampled_model_crs
    from jwst.stpipe.utilities import query_step_status, record_step_status
    from stdatamodels.jwst import datamodels

    layout_path, sky_path, aligned, cal, *_ = job.inputs
    layout, described = files.read_layout(layout_path), read_description(aligned)
    sky = SkyLevels.read(sky_path)
    detection = part(job, "outlier_detection")
    index = int(job.settings["index"])
    name = layout.members[index].name
    flagged = 0
    with datamodels.open(cal) as model:
        apply_meta(model, described.meta)
        model.meta.wcs = described.wcs
        model.meta.group_id = layout.members[index].aligned.group_id
        set_background(model, sky, name)
        if detection.skip:
            record_step_status(model, "outlier_detection", status="SKIPPED")
        elif len(layout.members) < 2:
            record_step_status(model, "outlier_detection", False)
        else:
            before = _outliers(model)
            blotted = blot(model, layout, index, job)
            pars = [float(value) for text in (detection.snr, detection.scale) for value in text.split()]
            _flag_resampled_model_crs(model, blotted, None, *pars, detection.backg)
            flagged = _outliers(model) - before
        if query_step_status(model, "outlier_detection") not in ("SKIPPED", "FAILED"):
            record_step_status(model, "outlier_detection", True)
        detection.finalize_result(model, [])
        path = job.path / files.CRF.name(job.subject)
        model.save(path)
    stamp(path, job, is_simulated(Path(cal)))
    return Outcome(
        ((path.name, f"{step.folder}/{path.name}"),), {"outlier_detection": parameters(detection)}, {"flagged": flagged}
    )


def _outliers(model: Any) -> int:
    import numpy as np
    from stdatamodels.jwst.datamodels.dqflags import pixel

    return int(np.count_nonzero(model.dq & pixel["OUTLIER"]))


def blot(model: Any, layout: Layout, index: int, job: Job) -> Any:
    """The median image on the pixels of the exposure: (ny, nx) float32, NaN where there is no median."""
    import numpy as np
    from stcal.outlier_detection.utils import gwcs_blot

    member, inputs = layout.members[index], files.Inputs(job.inputs)
    if member.outlier is None:
        return np.full(model.data.shape, np.nan, np.float32)
    ny, nx = layout.outlier_shape
    box = member.outlier.grown(1).within(Box(0, 0, nx, ny))
    median = np.full(box.shape, np.nan, np.float32)
    for ix, iy in job.settings["tiles"]:
        tile = tile_at((ny, nx), int(job.settings["side"]), int(ix), int(iy))
        shared = tile.box.within(box)
        image = np.load(inputs.path(files.MEDIAN, files.tile_subject(job.mosaic, tile.name)), mmap_mode="r")
        median[shared.moved(box.x0, box.y0).slices] = image[shared.moved(tile.box.x0, tile.box.y0).slices]
    pixmap = np.load(outlier_map(inputs, job.subject))
    whole = Box(0, 0, member.aligned.shape[1], member.aligned.shape[0])
    own = StoredMap(blot_map(pixmap, box), bounding_box(member.aligned.used, whole))
    return gwcs_blot(
        median_data=median,
        median_wcs=Window(box),
        blot_shape=model.data.shape,
        blot_wcs=own,
        fillval=np.nan,
    )
