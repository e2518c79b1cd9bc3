"""Small calibrated exposures, and Image3 on them in this process: the pipeline's own, and the tasks of both engines.

No reference file is read: the exposures are made up, with a WCS like those of the pipeline, and sources are not
catalogued.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.models import Association, Exposure, Task
from survey.planning.planner import Planner, plan
from survey.planning.supplied import group_of, plan_of
from survey.reduction.inputs import override_digests
from survey.steps.base import Job
from survey.steps.registry import REGISTRY

SIDE = 128
SCALE_ARCSEC = 0.031
V2_REF, V3_REF = 120.0, -527.0
CENTRE = (150.0, 2.0)  # degrees
SETTINGS: dict[str, Any] = {"source_catalog": {"skip": True}, "tweakreg": {"minobj": 5, "abs_minobj": 5}}


def name_of(number: int, detector: str = "nrcb1") -> str:
    return f"jw01345001001_02201_{number:05d}_{detector}"


def stars_on(offset: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stars of the field on an exposure: x, y [0-based pixels], and flux."""
    stars = np.random.default_rng(7)
    x, y = stars.uniform(-0.9 * SIDE, 0.9 * SIDE, (160, 2)).T - np.array(offset)[:, None] + SIDE / 2
    flux = stars.uniform(30, 300, len(x))
    inside = (x > -8) & (y > -8) & (x < SIDE + 8) & (y < SIDE + 8)
    return x[inside], y[inside], flux[inside]


def write_cal(
    path: Path, number: int, offset: tuple[float, float], *, error: tuple[float, float] = (0, 0), **meta: Any
) -> Path:
    """A calibrated exposure of a field of stars.

    Parameters
    ----------
    path : of the file
    number : of the exposure in its name
    offset : of its pointing from the field's centre, x and y [pixels]
    error : by which its WCS is wrong [pixels]
    meta : further header values: ``target__type="MOVING"`` is meta.target.type
    """
    import gwcs
    from astropy import units as u
    from astropy.coordinates import ICRS
    from astropy.modeling.models import Identity, Scale, Shift
    from gwcs import coordinate_frames as frames
    from jwst.assign_wcs.pointing import v23tosky
    from jwst.assign_wcs.util import update_s_region_imaging
    from stdatamodels.jwst.datamodels import ImageModel

    random = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    data = random.normal(0.4 + 0.05 * number, 0.02, (SIDE, SIDE))
    for px, py, flux in zip(*stars_on(offset), strict=True):
        data += flux / 20 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 1.1**2))
    hits = random.integers(0, SIDE, (2, 12))
    data[hits[0], hits[1]] += 40.0  # cosmic rays
    model = ImageModel(data.astype(np.float32))
    for array in ("err", "var_poisson", "var_rnoise", "var_flat"):
        setattr(model, array, np.full((SIDE, SIDE), 0.02 if array == "err" else 0.0002, np.float32))
    model.dq = np.zeros((SIDE, SIDE), np.uint32)
    name = path.name.rpartition("_")[0]
    values = {
        "instrument.name": "NIRCAM", "instrument.detector": "NRCB1", "instrument.filter": "F200W",
        "instrument.pupil": "CLEAR", "instrument.channel": "SHORT", "instrument.module": "B",
        "exposure.type": "NRC_IMAGE", "exposure.start_time": 59934.5 + number / 100,
        "exposure.end_time": 59934.501 + number / 100, "exposure.exposure_time": 100.0, "exposure.duration": 110.0,
        "exposure.measurement_time": 90.0, "exposure.effective_exposure_time": 100.0,
        "observation.program_number": "01345", "observation.observation_number": "001",
        "observation.visit_number": "001", "observation.visit_group": "02", "observation.sequence_id": "2",
        "observation.activity_id": "01", "observation.exposure_number": f"{number:05d}",
        "observation.date": "2022-12-21", "observation.time": "12:00:00", "bunit_data": "MJy/sr",
        "photometry.pixelarea_steradians": 2.26e-14, "photometry.pixelarea_arcsecsq": SCALE_ARCSEC**2,
        "wcsinfo.v2_ref": V2_REF, "wcsinfo.v3_ref": V3_REF, "wcsinfo.roll_ref": 30.0, "wcsinfo.vparity": -1,
        "wcsinfo.v3yangle": 0.0, "wcsinfo.ra_ref": CENTRE[0], "wcsinfo.dec_ref": CENTRE[1], "wcsinfo.wcsaxes": 2,
        "coordinates.reference_frame": "ICRS",
    }  # fmt: skip
    for key, value in {**values, **{key.replace("__", "."): value for key, value in meta.items()}}.items():
        model[f"meta.{key}"] = value
    shift = [offset[axis] - SIDE / 2 + error[axis] for axis in (0, 1)]
    detector = (Shift(shift[0]) & Shift(shift[1])) | (Scale(-SCALE_ARCSEC) & Scale(SCALE_ARCSEC))
    detector = detector | (Shift(V2_REF) & Shift(V3_REF))
    made = gwcs.WCS(
        [
            (frames.Frame2D(name="detector", unit=(u.pix, u.pix)), detector),
            (frames.Frame2D(name="v2v3", unit=(u.arcsec, u.arcsec)), Identity(2)),
            (frames.Frame2D(name="v2v3vacorr", unit=(u.arcsec, u.arcsec)), v23tosky(model)),
            (frames.CelestialFrame(name="world", reference_frame=ICRS()), None),
        ]
    )
    made.bounding_box = ((-0.5, SIDE - 0.5), (-0.5, SIDE - 0.5))
    model.meta.wcs = made
    update_s_region_imaging(model)
    model.meta.filename = path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    assert name == name_of(number, name.rpartition("_")[2])
    return path


def write_asn(path: Path, files: Iterable[str], product: str, **attributes: Sequence[Any]) -> Path:
    """An association of files; ``attributes`` are further attributes of its members, None where they have none."""
    rows = [{"expname": file, "exptype": "science"} for file in files]
    for key, values in attributes.items():
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[key] = value
    text = {"asn_type": "image3", "asn_rule": "DMS_Level3_Base", "asn_id": "a3001", "program": "01345",
            "asn_pool": "none", "products": [{"name": product, "members": rows}]}  # fmt: skip
    path.write_text(json.dumps(text))
    return path


def pipeline(asn: Path, output: Path, settings: Mapping[str, Mapping[str, Any]]) -> Path:
    """Image3 of the pipeline on an association; returns the folder of its products."""
    from jwst.pipeline import Image3Pipeline

    output.mkdir()
    made = Image3Pipeline()
    for step, values in {**SETTINGS, **settings}.items():
        for key, value in {**SETTINGS.get(step, {}), **values}.items():
            setattr(getattr(made, step), key, value)
    made.output_dir, made.save_results = str(output), True
    made.run(str(asn))
    return output


class NoReferences:
    """References of steps that read none."""

    context = "jwst_0001.pmap"
    files: Mapping[str, str] = {}

    def for_step(self, exposure: str, types: Sequence[str]) -> dict[str, str]:
        return {}


def survey_config(root: Path, engine: str, settings: Mapping[str, Mapping[str, Any]], **mosaic: Any) -> SurveyConfig:
    image3 = {step: {**SETTINGS.get(step, {}), **settings.get(step, {})} for step in {**SETTINGS, **settings}}
    return SurveyConfig(
        survey="t", program=1345, workspace=str(root),
        mosaic={"engine": engine, "tile": 64, "image3": image3, **mosaic},
        references={"server": None, "context": "jwst_0001.pmap", "cache": str(root / "crds")},
    )  # fmt: skip


def exposures_of(paths: Iterable[Path]) -> list[Exposure]:
    """Calibrated files as given exposures, without looking at them."""
    names = {path: path.name.rpartition("_")[0] for path in paths}
    return [
        Exposure(name, 1345, 1, 1, name.rpartition("_")[2].upper(), "F200W", uri=str(path), sha256=file_sha256(path))
        for path, name in names.items()
    ]


def run(config: SurveyConfig, association: Association, given: Sequence[Exposure]) -> Path:
    """Run all tasks of an association in this process; returns the workspace."""
    from dataclasses import replace

    from survey.planning.tiled import NOT_ALIGNED

    planner, workspace = Planner(config, NoReferences(), override_digests(config)), config.folders
    workspace.create()
    association = replace(association, group=group_of(association, {}))
    made: dict[str, list[Path]] = {}
    with workspace.lock() as name:
        for _ in range(2):
            for task in plan_of(plan(config, []), association, planner, given):
                if task.key not in made and task.unknown != NOT_ALIGNED:
                    assert task.digest, f"{task.key}: {task.unknown}"
                    made[task.key] = _run(task, workspace.root, name, made)
    return workspace.root


def _run(task: Task, root: Path, name: str, made: Mapping[str, list[Path]]) -> list[Path]:
    step = REGISTRY[task.step]
    sources = [str(root / file) for file in task.reads] or [str(file) for file in task.files]
    if not sources:
        sources = [str(path) for key in task.inputs for path in made[key]
                   if f"_{REGISTRY[key.split('/')[0]].produces}." in path.name]  # fmt: skip
    folder = root / "jobs" / task.key.replace("/", ".")
    folder.mkdir(parents=True)
    job = Job(task.key, task.step, task.subject, task.digest, "t", tuple(sources), str(folder), task.settings,
              {}, task.context, task.missing, str(root), name, task.mosaic, task.tile)  # fmt: skip
    module, _, function = step.run.partition(":")
    outcome = getattr(importlib.import_module(module), function)(job, step)
    published = []
    for source, target in outcome.products:
        place = root / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(folder / source, place)
        if not place.is_symlink():
            published.append(place)
    return published


def planes(path: Path) -> dict[str, bytes]:
    """Bytes of every image of a FITS file."""
    with fits.open(path) as hdus:
        return {f"{hdu.name},{hdu.ver}": hdu.data.tobytes() for hdu in hdus if hdu.is_image and hdu.data is not None}


def keywords(path: Path) -> dict[str, Any]:
    """Keywords of the primary header and of SCI that say how a mosaic was made."""
    names = ("NAXIS1", "NAXIS2", "TEXPTIME", "EXPTIME", "XPOSURE", "NDRIZ", "S_TWKREG", "S_MTWCS", "S_SKYMAT",
             "S_OUTLIR", "S_RESAMP", "CRVAL1", "CRVAL2")  # fmt: skip
    with fits.open(path) as hdus:
        headers = [hdus[0].header, hdus["SCI"].header]
    return {name: header[name] for header in headers for name in names if name in header}
