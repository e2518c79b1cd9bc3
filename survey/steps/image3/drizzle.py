"""Drizzle one tile of a mosaic from the members that overlap it, in the order of the association."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from survey.mosaics.arrays import ARRAYS, CONTEXT_BITS, context_planes
from survey.mosaics.grid import Box, Tile
from survey.mosaics.layouts import Layout
from survey.mosaics.tiles import create, write_tile
from survey.steps.base import Job, Outcome, Step
from survey.steps.image3 import files
from survey.steps.image3.arrays import member_model, read_arrays
from survey.steps.image3.levels import SkyLevels
from survey.steps.image3.numbers import untyped
from survey.steps.image3.parts import parameters, part
from survey.steps.image3.resampling import (
    Window,
    place,
    reach,
    resampler_parameters,
    scanned_whole,
    touching,
    window_around,
    window_resampler,
    with_neighbours,
)
from survey.steps.sanity import DO_NOT_USE

_ARRAYS = ("data", "dq", "var_rnoise", "var_poisson", "var_flat")


def array_names(resample: Any) -> list[str]:
    """Arrays of the mosaic, by the parameters of the resample step."""
    names = ["sci", "wht"]
    names += ["con"] if resample.enable_ctx else []
    names += ["err"] if resample.enable_err else []
    names += ["var_poisson", "var_rnoise", "var_flat"] if resample.enable_err and resample.report_var else []
    return names + (["dq"] if resample.propagate_dq else [])


def fill_value(resample: Any) -> float:
    """Value of pixels without data, by the parameter of the resample step."""
    text = str(resample.fillval).strip().upper()
    return float("nan") if text in ("NAN", "INDEF", "NONE", "") else float(text)


def run(job: Job, step: Step) -> Outcome:
    """Drizzle one tile and write its chunks.

    Inputs: layout, sky, then crf file and pixel map of each member that overlaps the tile. Products: a chunk file of
    each array in the zarr group; none if no pixel of the tile has data.
    """
    layout = files.read_layout(job.inputs[0])
    sky = SkyLevels.read(job.inputs[1])
    resample = part(job, "resample")
    tile = job.own_tile
    names = array_names(resample)
    touched = _touching(job, resample, layout, tile)
    ny, nx = layout.final_shape
    window = window_around(tile.box, int(job.settings["margin"]), Box(0, 0, nx, ny), resample.kernel, _scale(layout))
    for member in touched:
        window = window if member.outline is None else window.around(member.outline)
    added = [member.index for member in touched]
    products: list[tuple[str, str]] = []
    covered = 0
    if added:  # the boxes of members can overlap the tile without any of their pixels
        resampler = _drizzle(job, resample, layout, sky, touched, window)
        resampler.finalize()
        inner = tile.box.moved(window.x0, window.y0).slices
        arrays = _arrays(resampler.output_model, names, inner, added, len(layout.members))
        covered = int((arrays["wht"] != 0).sum())
        if covered:
            side, fill = int(job.settings["side"]), fill_value(resample)
            planes = context_planes(len(layout.members))
            root = create(job.path / "store", layout.final_shape, side, names, planes, fill)
            chunks = write_tile(root, tile, arrays)
            group = str(job.settings["group"])
            products = [(f"store/{file}", f"{step.folder}/mosaics.zarr/{group}/{file}") for file in chunks]
    measured = {"members": len(added), "covered": covered, "pixels": tile.box.pixels}
    return Outcome(tuple(products), {"resample": parameters(resample)}, measured)


@dataclass(frozen=True)
class _Touching:
    """A member that overlaps the tile."""

    index: int  # in the association
    crf: str
    pixmap: Any  # on disk
    leftout: Any  # on disk; see `left_out`
    used: Box  # its pixels that can overlap the tile
    outline: Box | None  # pixels of the mosaic around these, if drizzle must not clip them; see `scanned_whole`


def _touching(job: Job, resample: Any, layout: Layout, tile: Tile) -> list[_Touching]:
    """The members that overlap a tile, in the order of the association."""
    import numpy as np

    inputs = files.Inputs(job.inputs)
    acid = str(job.settings["acid"])
    found = []
    for index in map(int, job.settings["members"]):
        subject = files.member_subject(layout.members[index].name, acid)
        pixmap = np.load(inputs.path(files.PIXMAP, subject), mmap_mode="r")
        used = touching(pixmap, tile.box, resample.kernel, _scale(layout))
        used = None if used is None else used.within(layout.members[index].aligned.used)
        if used is not None and used.pixels:
            leftout = np.load(inputs.path(files.LEFT_OUT, subject), mmap_mode="r")
            near = pixmap[with_neighbours(used, layout.members[index].aligned.shape).slices]
            outline = None if scanned_whole(resample.kernel, resample.pixfrac, near) else reach(pixmap, used)
            found.append(_Touching(index, inputs.path(files.CRF, subject), pixmap, leftout, used, outline))
    return found


def _scale(layout: Layout) -> float:
    """Pixels of the mosaic per pixel of an exposure, along an axis."""
    return 1.0 / (untyped(layout.scales["final"].ratio) or 1.0)


def _drizzle(job: Job, resample: Any, layout: Layout, sky: SkyLevels, touched: list[_Touching], window: Box) -> Any:
    """The resampler of a window, after adding the members that overlap its tile."""
    import numpy as np

    pars = resampler_parameters(resample)
    pars |= {"blendheaders": False, "pixmap_stepsize": 1, "pixmap_order": 1}  # since the maps were computed before
    output = {
        "wcs": Window(window),
        "pixel_scale": untyped(layout.scales["final"].arcsec),
        "pixel_scale_ratio": untyped(layout.scales["final"].ratio),
    }
    resampler = window_resampler()(touched, output_wcs=output, **pars)
    for member in touched:
        exposure = layout.members[member.index]
        read = with_neighbours(member.used, exposure.aligned.shape)
        arrays = read_arrays(member.crf, _ARRAYS, read)
        _match(member.crf, arrays, read)
        if member.leftout.size:
            arrays["dq"][member.leftout[read.slices]] |= DO_NOT_USE
        used = member.used.moved(read.x0, read.y0)
        arrays, stored = place(arrays, np.asarray(member.pixmap[read.slices]), used, window, resampler, clipped=False)
        resampler.add_model(member_model(exposure, sky, arrays) | {"wcs": stored})
    return resampler


def _match(path: str, arrays: dict[str, Any], read: Box) -> None:
    """Make NaN and DO_NOT_USE agree, as the resample step does, unless outlier detection has done it before."""
    from astropy.io import fits

    if fits.getval(path, "S_OUTLIR", ext=0) == "COMPLETE":
        return
    from jwst.lib.pipe_utils import match_nans_and_flags
    from stdatamodels.jwst.datamodels import ImageModel

    model = ImageModel()
    for name, values in {**arrays, **read_arrays(path, ("err",), read)}.items():
        if values is not None:
            setattr(model, name, values)
    match_nans_and_flags(model)
    arrays.update({name: getattr(model, name) for name, values in arrays.items() if values is not None})


def _arrays(
    model: dict[str, Any], names: list[str], inner: tuple[slice, slice], added: list[int], members: int
) -> dict[str, Any]:
    """Pixels of the tile without its margin; context bits are those of the association's members."""
    import numpy as np

    found = {}
    for name in names:
        if name == "con":
            local = np.ascontiguousarray(model["con"][(slice(None), *inner)]).view(np.uint32)
            found[name] = context_of_all(local, added, members)
        else:
            found[name] = np.ascontiguousarray(model[ARRAYS[name].attribute][inner], ARRAYS[name].dtype)
    return found


def context_of_all(local: Any, added: list[int], members: int) -> Any:
    """Context planes for all members, from those for the members of a tile.

    Parameters
    ----------
    local : ndarray (planes, ny, nx), uint32; bit i of plane p: member 32 p + i of the tile
    added : index in the association of each member of the tile
    members : number of members of the association

    Returns
    -------
    whole : ndarray (planes, ny, nx), uint32; bit i of plane p: member 32 p + i of the association
    """
    import numpy as np

    whole = np.zeros((context_planes(members), *local.shape[1:]), np.uint32)
    if added == list(range(len(added))):
        whole[: len(local)] = local[: len(whole)]
        return whole
    for own, index in enumerate(added):
        bits = (local[own // CONTEXT_BITS] >> np.uint32(own % CONTEXT_BITS)) & np.uint32(1)
        whole[index // CONTEXT_BITS] |= bits << np.uint32(index % CONTEXT_BITS)
    return whole
