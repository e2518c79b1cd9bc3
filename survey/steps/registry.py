"""The registry of steps: name -> Step. A new step or correction is one row here.

detector1            uncal -> rate      the pipeline's Detector1
subtract_striping    rate -> striping   1/f noise (a correction of this project)
image2               rate -> cal        the pipeline's Image2
association          cal... -> asn      which exposures make a mosaic
image3               asn -> i2d         the pipeline's Image3, whole
mosaic               i2d -> zarr        for xarray

Image3 taken apart, for mosaics that outgrow one machine:
sources              cal -> cat         tweakreg's sources, and the exposure without pixels (exposure)
align                cat... -> layout   tweakreg's solution; the grids (association)
sky                  cal -> skystat     skymatch's statistics (exposure)
skymatch             skystat... -> sky  its solution (association)
pixmap               wcs -> pixmap      where pixels fall on the grids (exposure)
outlier_i2d          cal... -> outlier_i2d   (group of detectors)
median               outlier_i2d... -> median   (tile)
outliers             cal -> crf         (exposure)
drizzle              crf... -> chunks in mosaics.zarr   (tile)
assemble             chunks -> i2d      header, FITS file and commit mark (association)
source_catalog       i2d -> cat         source catalogue and segmentation map
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from survey.config.sections import StepConfig
from survey.config.yaml_file import nearest, plain, shown
from survey.steps.base import Step

_IMAGE3 = "jwst.pipeline.calwebb_image3:Image3Pipeline"


def _part(name: str, accepts: str, produces: str, run: str, *parts: str, folder: str = "stage3") -> Step:
    """The row of a part of Image3 that belongs to a mosaic."""
    return Step(
        name=name,
        version=1,
        scope="mosaic",
        accepts=accepts,
        produces=produces,
        folder=folder,
        run=run,
        step_class=_IMAGE3 if parts else "",
        parts=parts,
        transient=name in ("pixmap", "outlier_i2d", "median"),
    )


_ROWS = (
    Step(
        name="detector1",
        version=1,
        scope="exposure",
        accepts="uncal",
        produces="rate",
        folder="stage1",
        run="survey.steps.exposure:run",
        step_class="jwst.pipeline.calwebb_detector1:Detector1Pipeline",
        gb_per_input_gb=16.0,
        seconds_per_input_gb=280.0,
    ),
    Step(
        name="subtract_striping",
        version=2,
        scope="exposure",
        accepts="rate",
        produces="striping",
        folder="stage1",
        run="survey.steps.exposure:run",
        step_class="survey.corrections.striping:SubtractStripingStep",
        gb_per_input_gb=4.0,
        seconds_per_input_gb=20.0,
    ),
    Step(
        name="image2",
        version=1,
        scope="exposure",
        accepts="rate",
        produces="cal",
        folder="stage2",
        run="survey.steps.exposure:run",
        step_class="jwst.pipeline.calwebb_image2:Image2Pipeline",
        # A drizzled image of every single exposure costs more than Image2 itself, and the mosaic does not use it.
        defaults={"resample": {"skip": True}},
        gb_per_input_gb=10.0,
        seconds_per_input_gb=30.0,
    ),
    Step(
        name="given",
        version=1,
        scope="given",
        accepts="cal",
        produces="cal",
        folder="stage2",
        run="survey.steps.given:run",
    ),
    Step(
        name="association",
        version=1,
        scope="mosaic",
        accepts="cal",
        produces="asn",
        folder="asn",
        run="survey.steps.association:run",
    ),
    Step(
        name="image3",
        version=1,
        scope="mosaic",
        accepts="asn",
        produces="i2d",
        folder="mosaics",
        run="survey.steps.stock:run_image3",
        step_class=_IMAGE3,
    ),
    Step(
        name="mosaic",
        version=1,
        scope="mosaic",
        accepts="i2d",
        produces="zarr",
        folder="mosaics",
        run="survey.steps.stock:write_zarr",
    ),
    Step(
        name="sources",
        version=1,
        scope="exposure",
        accepts="cal",
        produces="cat",
        folder="stage3",
        run="survey.steps.image3.sources:run",
        step_class=_IMAGE3,
        parts=("tweakreg",),
        gb_per_input_gb=60.0,
        seconds_per_input_gb=350.0,
        chained=False,
    ),
    _part("align", "asn", "layout", "survey.steps.image3.align:run", "tweakreg", "resample", "skymatch"),
    _part("sky", "cal", "skystat", "survey.steps.image3.sky:run", "skymatch"),
    _part("skymatch", "skystat", "sky", "survey.steps.image3.sky:solve", "skymatch"),
    _part("pixmap", "wcs", "pixmap", "survey.steps.image3.outliers:map_pixels", "resample", "outlier_detection"),
    _part("outlier_i2d", "cal", "outlier_i2d", "survey.steps.image3.outliers:drizzle_group", "outlier_detection"),
    _part("median", "outlier_i2d", "median", "survey.steps.image3.outliers:median_tile"),
    _part("outliers", "cal", "crf", "survey.steps.image3.outliers:flag", "outlier_detection"),
    _part("drizzle", "crf", "zarr", "survey.steps.image3.drizzle:run", "resample", folder="mosaics"),
    _part("assemble", "zarr", "i2d", "survey.steps.image3.assemble:run", "resample", folder="mosaics"),
    _part("source_catalog", "i2d", "cat", "survey.steps.image3.assemble:catalogue", "source_catalog", folder="mosaics"),
)

REGISTRY: dict[str, Step] = {step.name: step for step in _ROWS}


def check_chain(chain: Sequence[StepConfig]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Check the config's list of steps: names, order, what each accepts, and every parameter.

    Returns
    -------
    settings : {step name: settings with defaults merged in}, in order
    faults : list of str; empty when all is well
    """
    settings: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    known = [name for name, step in REGISTRY.items() if step.scope == "exposure" and step.chained]
    suffix = "uncal"
    for entry in chain:
        step = REGISTRY.get(entry.name)
        if step is None or entry.name not in known:
            hint = nearest(entry.name, known)
            faults.append(f"steps.{plain(entry.name)}: {shown(entry.name)} is not a step of an exposure{hint}")
            continue
        if step.accepts != _kind(suffix):
            before = next((name for name in known if REGISTRY[name].produces == step.accepts), None)
            hint = f" Add {before!r} before it in steps." if before else ""
            faults.append(f"steps.{step.name}: {step.name!r} accepts {step.accepts}, got {_kind(suffix)}.{hint}")
        suffix = step.produces
        settings[step.name], found = step.settings(entry.settings, f"steps.{step.name}")
        faults += found
    return settings, faults


def _kind(suffix: str) -> str:
    """What a product is to the next step: a corrected rate is a rate."""
    step = next((step for step in REGISTRY.values() if step.produces == suffix), None)
    if step is not None and step.step_class.startswith("survey.corrections."):
        return step.accepts
    return suffix
