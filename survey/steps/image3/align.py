"""Align the exposures of an association from their catalogues and WCS, and compute the grids of its mosaic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.models import Notice
from survey.mosaics.alignment_files import choose
from survey.mosaics.coverage import angle_text, farthest_deg, fields_of, fields_text, how_to_split, is_nearly_empty
from survey.mosaics.grid import Box
from survey.mosaics.layouts import Aligned, Layout, Member, Scale
from survey.mosaics.sky_plane import mean_direction, separation_deg
from survey.names import final_name, observation_label, parse_exposure
from survey.steps.alignment import check, skipped, watched
from survey.steps.base import Job, Outcome, Step
from survey.steps.image3 import files
from survey.steps.image3.members import (
    Description,
    describe,
    library,
    read_alignment,
    read_description,
    skeleton,
    used_pixels,
    write_description,
)
from survey.steps.image3.moving import follow, is_moving
from survey.steps.image3.numbers import typed
from survey.steps.image3.parts import parameters, part
from survey.steps.image3.resampling import grid_of
from survey.steps.image3.sky import border
from survey.steps.image3.sources import read_catalogue, reads_listed_catalogues
from survey.steps.image3.wcs_files import linear_wcs, write_trees
from survey.steps.reference_catalog import served, stored_catalog

# The edge of an exposure is sampled in steps of this many pixels. The box around it is grown for the curvature of the
# edge between two samples and for the reach of kernels.
EDGE_STEP_PX = 16
BOX_PAD_PX = 8
OPPOSITE_DEG = 80.0  # from the grid's reference position: a tangent plane shows the other half of the sky mirrored


@dataclass(frozen=True)
class _Exposure:
    """An aligned member."""

    name: str
    group_id: str  # as named by the pipeline's library
    described: Description


def run(job: Job, step: Step) -> Outcome:
    """Align the members and compute the grids of outlier detection and of the mosaic.

    Inputs: the association, then description and catalogue of each member. Products: the description of each member
    with the aligned WCS (``<exposure>_<acid>_wcs.asdf``), the grids, the layout, and the catalogue of all aligned
    sources, to which other filters can be aligned.

    Raises
    ------
    TaskError
        Exposures are too far apart to be in one mosaic, or outside of the grid that the config gives; or tweakreg did
        not align all of them and the config requires it.
    """
    _, (association_path, *paths) = stored_catalog(job.inputs)
    association = json.loads(Path(association_path).read_text())
    association["table_name"] = Path(association_path).name
    names = [files.CAL.subject(item["expname"]) for item in association["products"][0]["members"]]
    inputs = files.Inputs(paths)
    catalogues = {name: Path(inputs.path(files.CATALOG, name)) for name in names}
    catalogues |= _listed_catalogues(job, Path(association_path), association, names)
    before = [read_description(inputs.path(files.DESCRIPTION, name)) for name in names]
    members = library([skeleton(found) for found in before], association)
    groups = [str(member["group_id"]) for member in members.asn["products"][0]["members"]]
    given = _given_alignment(job, names)
    step_name = "tweakreg"
    if not given and is_moving(before[0].meta):
        step_name = "assign_mtwcs"
        resolved, members, notices = follow(job, members, names)
    else:
        resolved, members, notices = _align(job, members, names, catalogues, given)
    if job.must_align:
        check(notices, len(names))
    after = [_Exposure(*found) for found in zip(names, groups, _describe(members, before), strict=True)]
    output = job.path / "products"
    output.mkdir()
    for item in after:
        subject = files.member_subject(item.name, str(job.settings["acid"]))
        write_description(output / files.WCS.name(subject), item.described)
    resample = part(job, "resample")
    layout = lay_out(job, resample, members, after, output)
    (output / files.LAYOUT.name(job.subject)).write_text(json.dumps(layout.to_json()))
    sources = _write_sources(output / files.SOURCES.name(job.subject), after, catalogues)
    products = tuple((f"products/{path.name}", f"{step.folder}/{path.name}") for path in sorted(output.iterdir()))
    measured = {
        "members": len(names),
        "groups": len(set(groups)),
        "corrected": layout.corrected,
        "sources": sources,
        "nx": layout.final_shape[1],
        "ny": layout.final_shape[0],
        "outside": sum(member.final is None for member in layout.members),
    }
    return Outcome(products, {step_name: resolved, "resample": parameters(resample)}, measured, notices=notices)


def _listed_catalogues(job: Job, path: Path, association: Mapping[str, Any], names: Sequence[str]) -> dict[str, Path]:
    """Catalogues that an association from outside lists, if the config has tweakreg use them."""
    tweakreg = part(job, "tweakreg")
    if not reads_listed_catalogues(tweakreg):
        return {}
    listed = [member.get("tweakreg_catalog") for member in association["products"][0]["members"]]
    return {name: path.parent / file for name, file in zip(names, listed, strict=True) if file}


def _given_alignment(job: Job, names: Sequence[str]) -> dict[str, Description]:
    """Read aligned WCS from the folder in the config; see `survey.mosaics.alignment_files`.

    Raises
    ------
    TaskError
        A member has no file in the folder, or several, or its file holds no WCS.
    """
    folder = job.settings.get("alignment")
    if not folder:
        return {}
    own = [final_name(name) for name in names]  # both passes take the same files
    paths, faults = choose(Path(str(folder)), own, job.subject)
    if faults:
        raise TaskError(" ".join(faults))
    return {name: read_alignment(paths[final_name(name)]) for name in names}


def _align(
    job: Job,
    members: Any,
    names: Sequence[str],
    catalogues: Mapping[str, Path],
    given: Mapping[str, Description],
) -> tuple[dict[str, Any], Any, tuple[Notice, ...]]:
    """Run tweakreg on skeletons with the catalogues of the step `sources`; it does not search for sources itself."""
    from jwst.stpipe.utilities import record_step_status

    tweakreg = part(job, "tweakreg")
    resolved = parameters(tweakreg)
    if given:
        _take(members, names, given)
        given_alignment = {**resolved, "alignment": str(job.settings["alignment"])}
        return given_alignment, members, (skipped("mosaic.alignment gives the WCS", names),)
    reference = str(job.settings.get("reference") or "")  # the mosaic of another filter, by its product name
    if reference:  # whatever a parameter file of CRDS says; a config cannot have both
        tweakreg.abs_refcat = files.Inputs(job.inputs).path(files.SOURCES, files.SOURCES.subject(reference))
        resolved["abs_refcat"] = Path(tweakreg.abs_refcat).name
    save = bool(tweakreg.save_catalogs)
    tweakreg.output_dir = str(job.path)
    if tweakreg.skip:  # a single step does not check it; the pipeline would
        record_step_status(members, "tweakreg", status="SKIPPED")
        notices: tuple[Notice, ...] = (skipped("its parameter skip is true", names),)
    else:
        lines = []
        for index, name in enumerate(names):
            link = job.path / f"{index}_cat{catalogues[name].suffix}"
            link.symlink_to(catalogues[name])
            with members:
                model = members.borrow(index)
                lines.append(f"{model.meta.filename} {link.name}")
                members.shelve(model, index, modify=False)
        catfile = job.path / "catfile.txt"
        catfile.write_text("\n".join(lines) + "\n")
        tweakreg.use_custom_catalogs, tweakreg.catfile = True, str(catfile)
        catalog, _ = stored_catalog(job.inputs)
        with served(catalog), watched() as found:
            members = tweakreg.run(members)
        notices = found.notices(names)
    with members:
        for index, name in enumerate(names):
            model = members.borrow(index)
            model.meta.tweakreg_catalog = files.CATALOG.name(name) if save and not tweakreg.skip else None
            members.shelve(model, index)
    return resolved, members, notices


def _take(members: Any, names: Sequence[str], given: Mapping[str, Description]) -> None:
    """Set the WCS and header keywords of an earlier alignment."""
    from jwst.assign_wcs.util import update_s_region_imaging

    with members:
        for index, name in enumerate(names):
            model = members.borrow(index)
            model.meta.wcs = given[name].wcs
            for key, value in given[name].meta.items():
                if key.startswith(("meta.wcsinfo.", "meta.cal_step.tweakreg")):
                    model[key] = value
            update_s_region_imaging(model)
            members.shelve(model, index)


def _describe(members: Any, before: Sequence[Description]) -> list[Description]:
    found = []
    with members:
        for index, old in enumerate(before):
            model = members.borrow(index)
            described = describe(model)
            if model.meta.tweakreg_catalog:
                described.meta["meta.tweakreg_catalog"] = model.meta.tweakreg_catalog
            found.append(Description(described.meta, described.wcs, old.shape))
            members.shelve(model, index, modify=False)
    return found


def lay_out(job: Job, resample: Any, members: Any, found: Sequence[_Exposure], output: Path) -> Layout:
    """Compute the grids that the pipeline would choose, and the box of each member on them.

    Parameters
    ----------
    members : library of aligned skeletons
    found : the same exposures, in the same order
    output : folder of the file with the grids

    Raises
    ------
    TaskError
        The mosaic would be nearly empty, or the grid misses all members.
    """
    pars = resample.get_drizpars()
    own = {name: value for name, value in pars["wcs_pars"].items() if value is not None}
    shared = pars["output_wcs"] is None and own in ({}, {"pixel_scale_ratio": 1.0})
    outlier = grid_of(members, None, None)
    final = outlier if shared else grid_of(members, pars["output_wcs"], pars["wcs_pars"])
    if pars["wcs_pars"].get("output_shape") is None and pars["output_wcs"] is None:
        _check_size(job.subject, final, found)
        _check_size(job.subject, outlier, found)
    grids = {"final": final} if shared else {"final": final, "outlier": outlier}
    plain = {key: {name: value if name == "wcs" else typed(value) for name, value in grid.items()}
             for key, grid in grids.items()}  # fmt: skip
    write_trees(output / files.GRID.name(job.subject), plain)
    order = list(dict.fromkeys(item.group_id for item in found))
    stepsize = part(job, "skymatch").stepsize
    made = []
    for item in found:
        final_box = _box(item.described, final["wcs"])
        outlier_box = final_box if shared else _box(item.described, outlier["wcs"])
        made.append(Member(item.name, order.index(item.group_id), outlier_box, final_box, _aligned(item, stepsize)))
    scales = {key: Scale(typed(grid["pixel_scale"]), typed(grid["pixel_scale_ratio"])) for key, grid in grids.items()}
    shapes = [(int(ny), int(nx)) for ny, nx in (grid["wcs"].array_shape for grid in (outlier, final))]
    layout = Layout(
        shapes[0], shapes[1], shared, tuple(made), job.digest, scales,
        linear_wcs(final["wcs"]),
        sum("v2v3corr" in item.described.wcs.available_frames for item in found),
    )  # fmt: skip
    _check_place(job.subject, final, layout, found)
    return layout


def _aligned(exposure: _Exposure, stepsize: int | None) -> Aligned:
    """Facts of a member for later steps; ``stepsize`` is the parameter of skymatch, along the outline [pixels]."""
    found = exposure.described
    times = {
        key: found.meta.get(f"meta.exposure.{key}")
        for key in ("exposure_time", "start_time", "end_time", "duration", "measurement_time")
    }
    return Aligned(
        group_id=exposure.group_id,
        shape=found.shape,
        used=used_pixels(found),
        sky_border=border(found.wcs, found.shape, stepsize),
        filename=found.meta.get("meta.filename"),
        pixelarea_steradians=found.meta.get("meta.photometry.pixelarea_steradians"),
        **times,
    )


def _box(found: Description, grid_wcs: Any) -> Box | None:
    """The box of an exposure on a grid; None if it is outside."""
    import numpy as np

    ny, nx = found.shape
    rows, columns = grid_wcs.array_shape
    middle, centre = ((float(a), float(d)) for a, d in (
        found.wcs((nx - 1) / 2, (ny - 1) / 2, with_bounding_box=False),
        grid_wcs((columns - 1) / 2, (rows - 1) / 2, with_bounding_box=False),
    ))  # fmt: skip
    if separation_deg(middle, centre) > OPPOSITE_DEG:
        return None
    xs, ys = (np.linspace(-0.5, n - 0.5, n // EDGE_STEP_PX + 2) for n in (nx, ny))
    x = np.concatenate([xs, xs, np.full_like(ys, -0.5), np.full_like(ys, nx - 0.5)])
    y = np.concatenate([np.full_like(xs, -0.5), np.full_like(xs, ny - 0.5), ys, ys])
    u, v = grid_wcs.invert(*found.wcs(x, y, with_bounding_box=False), with_bounding_box=False)
    if not (np.isfinite(u).all() and np.isfinite(v).all()):
        return None
    low, high = (np.floor([u.min(), v.min()]), np.ceil([u.max(), v.max()]))
    box = Box(int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1).grown(BOX_PAD_PX)
    inside = box.within(Box(0, 0, int(columns), int(rows)))
    return inside if inside.pixels else None


def _check_size(subject: str, grid: Mapping[str, Any], found: Sequence[_Exposure]) -> None:
    """TaskError for a grid that is far larger than its exposures; see `lay_out`."""
    ny, nx = (int(side) for side in grid["wcs"].array_shape)
    ratio = grid["pixel_scale_ratio"] or 1.0
    covered = sum(item.described.shape[0] * item.described.shape[1] for item in found) / ratio**2
    if not is_nearly_empty(ny * nx, covered):
        return
    polygons, labels = _outlines(found)
    fields = fields_of(polygons)
    raise TaskError(
        f"{subject}: a mosaic of {nx} x {ny} pixels for {len(found)} exposures would be nearly empty. They are in "
        f"{len(fields)} fields, up to {angle_text(farthest_deg(fields))} apart: "
        f"{'; '.join(fields_text(fields, labels))}. {how_to_split(fields, labels)}"
    )


def _check_place(subject: str, grid: Mapping[str, Any], layout: Layout, found: Sequence[_Exposure]) -> None:
    """TaskError for a grid that none of the aligned exposures touches."""
    if any(member.final is not None for member in layout.members):
        return
    polygons, _ = _outlines(found)
    ny, nx = (int(side) for side in grid["wcs"].array_shape)
    ra, dec = (float(value) for value in grid["wcs"]((nx - 1) / 2, (ny - 1) / 2, with_bounding_box=False))
    middle = mean_direction([point for parts in polygons.values() for polygon in parts for point in polygon])
    nearest = min(polygons, key=lambda name: min(separation_deg((ra, dec), point) for point in polygons[name][0]))
    raise TaskError(
        f"{subject}: the grid of {nx} x {ny} pixels around {ra:.4f} {dec:.4f} deg misses all {len(found)} aligned "
        f"exposures, which are around {middle[0]:.4f} {middle[1]:.4f} deg, "
        f"{angle_text(separation_deg((ra, dec), middle))} away; the nearest is {nearest}. Correct crval_deg, crpix, "
        "rotation_deg and shape in the section mosaic of the config ('survey init' suggests a grid), or remove them."
    )


def _outlines(found: Sequence[_Exposure]) -> tuple[dict[str, list[list[tuple[float, float]]]], dict[str, str]]:
    """Corners of each aligned exposure on the sky [deg], and the observation that it is of."""
    names = {item.name: parse_exposure(item.name) for item in found}
    programs = {name.program for name in names.values()}
    labels = {key: observation_label(name.program, name.observation, programs) for key, name in names.items()}
    polygons = {}
    for item in found:
        ny, nx = item.described.shape
        corners = item.described.wcs(
            [-0.5, nx - 0.5, nx - 0.5, -0.5], [-0.5, -0.5, ny - 0.5, ny - 0.5], with_bounding_box=False
        )
        polygons[item.name] = [[(float(ra), float(dec)) for ra, dec in zip(*corners, strict=True)]]
    return polygons, labels


def _write_sources(path: Path, found: Sequence[_Exposure], catalogues: Mapping[str, Path]) -> int:
    """Write the aligned sources of all members, brightest first: RA, DEC [deg], flux. Returns their number."""
    import numpy as np
    from astropy.coordinates import SkyCoord, search_around_sky
    from astropy.table import Table
    from astropy.units import arcsec, deg

    ras, decs, fluxes = [], [], []
    for item in found:
        table = read_catalogue(catalogues[item.name])
        if len(table):
            ra, dec = item.described.wcs(np.asarray(table["x"], float), np.asarray(table["y"], float))
            ras.append(ra)
            decs.append(dec)
            fluxes.append(np.asarray(table["flux"], float) if "flux" in table.colnames else np.ones(len(table)))
    if not ras:
        Table({"RA": np.zeros(0), "DEC": np.zeros(0), "flux": np.zeros(0)}).write(path, format="ascii.ecsv")
        return 0
    ra, dec, flux = (np.concatenate(values) for values in (ras, decs, fluxes))
    good = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(flux)
    order = np.argsort(-flux[good], kind="stable")
    ra, dec, flux = (values[good][order] for values in (ra, dec, flux))
    sky = SkyCoord(ra * deg, dec * deg)
    first, second, _, _ = search_around_sky(sky, sky, 0.5 * arcsec)
    keep = np.ones(len(ra), bool)
    keep[second[first < second]] = False  # a source beside a brighter one is the same source in another exposure
    Table({"RA": ra[keep], "DEC": dec[keep], "flux": flux[keep]}).write(path, format="ascii.ecsv")
    return int(keep.sum())
