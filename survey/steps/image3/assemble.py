"""Assemble a mosaic from its tiles: header, FITS file and metadata of the zarr group; and its source catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.mosaics.arrays import ARRAYS, context_planes
from survey.mosaics.grid import Tile, tiles
from survey.mosaics.groups import group_attributes
from survey.mosaics.layouts import Layout
from survey.mosaics.tiles import create, empty_arrays, link_chunks, remove_old_chunks, stream_fits
from survey.names import programs_of
from survey.steps.base import Job, Outcome, Step
from survey.steps.image3 import files
from survey.steps.image3.drizzle import array_names, fill_value
from survey.steps.image3.numbers import untyped
from survey.steps.image3.parts import parameters, part
from survey.steps.image3.resampling import bare_resampler, resampler_parameters
from survey.steps.image3.wcs_files import read_trees
from survey.steps.pipeline import stamp_header
from survey.steps.sanity import EMPTY
from survey.workspace.folders import Workspace


class _Headers:
    """The crf files of an association, as the library that `ResampleImage` and `copy_asn_info_from_library` expect."""

    def __init__(self, paths: list[str], association: dict[str, Any]):
        self.paths = paths
        self.asn = association

    def __len__(self) -> int:
        return len(self.paths)

    def read_metadata(self, index: int) -> dict[str, Any]:
        from stdatamodels.jwst.datamodels import read_metadata

        return dict(read_metadata(self.paths[index]))


def run(job: Job, step: Step) -> Outcome:
    """Write the i2d file, and the metadata that complete the zarr group.

    Inputs: association, layout, grids, then the crf file of each member. Tiles are read from the workspace.

    Raises
    ------
    TaskError
        No pixel has data.
    """
    import zarr
    from astropy.io import fits

    asn_path, layout_path, grid_path, *crfs = job.inputs
    layout = files.read_layout(layout_path)
    association = {**json.loads(Path(asn_path).read_text()), "table_name": Path(asn_path).name}
    resample = part(job, "resample")
    names, group, side = array_names(resample), str(job.settings["group"]), int(job.settings["side"])
    store = Path(job.root) / step.folder / "mosaics.zarr"
    wanted = [tile for tile in tiles(layout.final_shape, side) if (tile.ix, tile.iy) in _touched(job)]
    planes, fill = context_planes(len(layout.members)), fill_value(resample)
    _remove_old_chunks(job, store / group, names, wanted, planes)
    made = create(job.path / "store", layout.final_shape, side, names, planes, fill)
    metadata = [path.relative_to(job.path / "store") for path in sorted((job.path / "store").rglob("zarr.json"))]
    view = create(job.path / "view", layout.final_shape, side, names, planes, fill)
    link_chunks(job.path / "view", store / group, names)
    if not any(path.is_file() for path in (store / group / "sci" / "c").rglob("*")):  # tiles without data have no chunk
        raise TaskError(f"{job.subject}: {EMPTY}")
    model = header(job, resample, layout, Path(grid_path), _Headers(crfs, association))
    i2d = job.path / files.I2D.name(job.subject)
    model.meta.filename = i2d.name
    whole = {name: (tuple(made[name].shape), "int32" if name == "con" else ARRAYS[name].dtype) for name in names}
    with empty_arrays(job.path, whole) as empty:
        for name, values in empty.items():
            setattr(model, ARRAYS[name].attribute, values)
        hdus = to_hdus(model, i2d)
        stamp_header(hdus[0].header, job, str(hdus[0].header.get("SIMULATD", "")).strip() == "T" or _simulated(crfs))
        hdus[0].header["SVYENGIN"] = ("tiled", "how Image3 was run")
        hdus[0].header["SVYNCORR"] = (layout.corrected, "members whose WCS the alignment corrected")
        stream_fits(i2d, hdus, {ARRAYS[name].extension: view[name] for name in names}, side)
        del hdus
    with fits.open(i2d, memmap=False, lazy_load_hdus=True) as written:  # numbers as rounded in the file
        attributes = group_attributes(written, i2d.name, layout.final_shape)
    extra = {
        "survey": job.survey,
        "digest": job.digest,
        "filter": job.settings["filter"],
        "members": [member.name for member in layout.members],
        "programs": programs_of(member.name for member in layout.members),
        "missing": list(job.missing),
        "tile": side,
    }
    root = zarr.open_group(job.path / "store", mode="r+")
    for name in names:
        root[name].attrs.update(attributes["arrays"][name])
    root.attrs.update({**attributes["group"], **extra, "complete": True})
    # Metadata of the group last: they mark it as complete.
    metadata.sort(key=lambda path: (len(path.parts) == 1, path))
    products = [(i2d.name, f"{step.folder}/{i2d.name}")]
    products += [(f"store/{path}", f"{step.folder}/mosaics.zarr/{group}/{path}") for path in metadata]
    measured = {
        "members": len(layout.members),
        "tiles": len(wanted),
        "nx": layout.final_shape[1],
        "ny": layout.final_shape[0],
    }
    return Outcome(tuple(products), {"resample": parameters(resample)}, measured)


def _remove_old_chunks(job: Job, group: Path, names: list[str], wanted: list[Tile], planes: int) -> None:
    """Remove chunks of earlier grids from the group, after the records of their tiles.

    Raises
    ------
    TaskError
        Another run holds the workspace.
    """
    workspace = Workspace(Path(job.root))
    workspace.check_run(job.key, job.run)
    known = {files.tile_subject(job.subject, tile.name) for tile in wanted}
    tile = re.compile(re.escape(f"drizzle.{job.subject}_") + r"x\d+y\d+(?:\.failed)?\.json")
    for path in workspace.records.glob(f"drizzle.{job.subject}_x*.json"):  # other products can start like this one
        subject = path.name.removeprefix("drizzle.").removesuffix(".json").removesuffix(".failed")
        if tile.fullmatch(path.name) and subject not in known:
            path.unlink(missing_ok=True)
    remove_old_chunks(group, names, wanted, planes)


def _touched(job: Job) -> set[tuple[int, int]]:
    return {(int(ix), int(iy)) for ix, iy in job.settings["tiles"]}


def _simulated(crfs: list[str]) -> bool:
    from survey.steps.pipeline import is_simulated

    return any(is_simulated(Path(path)) for path in crfs)


def header(job: Job, resample: Any, layout: Layout, grid_path: Path, members: _Headers) -> Any:
    """The datamodel that the pipeline's resample step makes, without pixels.

    Raises
    ------
    TaskError
        The mosaic has no members.
    """
    from jwst.resample.resample import copy_asn_info_from_library
    from stdatamodels.jwst import datamodels

    if not members.paths:
        raise TaskError(f"{job.subject}: the mosaic has no members.")
    tree = read_trees(grid_path)["final"]
    grid = {"wcs": tree["wcs"], **{name: untyped(tree[name]) for name in ("pixel_scale", "pixel_scale_ratio")}}
    made = bare_resampler()(members, output_wcs=grid, **resampler_parameters(resample))
    for index, path in enumerate(members.paths):
        with datamodels.open(path) as model:
            model.meta.group_id = layout.members[index].aligned.group_id
            made.add_model(model)
    made.finalize()
    result = made.output_jwst_model
    copy_asn_info_from_library(members, result)
    resample.finalize_result(result, [])
    return result


def to_hdus(model: Any, path: Path) -> Any:
    """The HDUs that a datamodel would save; arrays are not copied."""
    from stdatamodels import fits_support

    model.on_save(str(path))
    return fits_support.to_fits(model.instance, model.schema)


def catalogue(job: Job, step: Step) -> Outcome:
    """Make the source catalogue and segmentation map of a mosaic with the pipeline's step."""
    from stdatamodels.jwst import datamodels

    from survey.steps.pipeline import is_simulated, stamp

    finder = part(job, "source_catalog")
    if finder.skip:  # by a parameter file; a single step does not check it, the pipeline would
        return Outcome((), {"source_catalog": parameters(finder)}, {"products": 0})
    output = job.path / "products"
    output.mkdir()
    finder.output_dir, finder.save_results = str(output), True
    finder.output_file = job.subject
    with datamodels.open(job.inputs[0]) as model:
        finder.run(model)
    made = sorted(path for path in output.iterdir() if path.is_file())
    simulated = is_simulated(Path(job.inputs[0]))
    for path in made:
        if path.suffix == ".fits":
            stamp(path, job, simulated)
    products = tuple((f"products/{path.name}", f"{step.folder}/{path.name}") for path in made)
    return Outcome(products, {"source_catalog": parameters(finder)}, {"products": len(made)})
