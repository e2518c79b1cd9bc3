"""The registry of steps, in the order of the pipeline. A new step or correction is one row here.

Steps of exposures:

detector1            uncal -> rate      the pipeline's Detector1
source_mask          tiles... -> mask   where sources are, from the mosaics of a first pass
subtract_striping    rate -> striping   1/f noise (a correction of this package)
image2               rate -> cal        the pipeline's Image2
given                cal -> cal         a calibrated exposure that was made elsewhere

Image3 in parts, for mosaics that do not fit into the memory of one machine (`engine: tiled`):
sources              cal -> cat         sources by tweakreg; header and WCS without pixels (exposure)
association          cal... -> asn      members of a mosaic; for both engines
align                cat... -> layout   alignment by tweakreg, and the grids (mosaic)
sky                  cal -> skystat     sky statistics of skymatch (exposure)
skymatch             skystat... -> sky  sky levels (mosaic)
pixmap               wcs -> pixmap      pixel maps onto the grids (exposure)
outlier_i2d          cal... -> outlier_i2d   exposures of a group, drizzled (group)
median               outlier_i2d... -> median   median of the groups (tile)
outliers             cal -> crf         outlier flags (exposure)
drizzle              crf... -> chunks in mosaics.zarr   pixels of the mosaic (tile)
detect               chunks -> detected sources in the mosaic of a first pass (tile)
assemble             chunks -> i2d      header, FITS file and metadata of the zarr group (mosaic)
source_catalog       i2d -> cat         source catalogue and segmentation map (mosaic)

Image3 in one process (`engine: stock`):
image3               asn -> i2d         the pipeline's Image3
mosaic               i2d -> zarr        zarr group for xarray
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from survey.config.sections import StepConfig
from survey.messages import did_you_mean, nearest, shown, unquoted
from survey.models import Task, TaskRecord
from survey.steps import costs
from survey.steps.base import CLASS, Job, Step, Unit
from survey.steps.foreign import check_foreign, check_pipeline, foreign_row, names_a_step, registered_aliases

# How the mosaics of a first pass are searched for sources: see `survey.steps.image3.source_masks.Detection`.
DETECTION = {"n_sigma": 2.0, "smooth_arcsec": 0.06, "min_pixels": 5, "grow_arcsec": 0.1}
_MASK_PARAMETERS = f"""
    n_sigma = float(default={DETECTION["n_sigma"]}, min=0.5) # Height above the background [standard deviations]
    smooth_arcsec = float(default={DETECTION["smooth_arcsec"]}, min=0.0) # Standard deviation of the Gaussian [arcsec]
    min_pixels = integer(default={DETECTION["min_pixels"]}, min=1) # Smallest number of connected pixels of the mosaic
    grow_arcsec = float(default={DETECTION["grow_arcsec"]}, min=0.0) # Radius by which each source grows [arcsec]
    filters = force_list(default=None) # Filters whose mosaics are searched; default: the filter of the exposure
"""
_IMAGE3 = "jwst.pipeline.calwebb_image3:Image3Pipeline"


def _part(name: str, accepts: str, produces: str, run: str, **more: Any) -> Step:
    """A row for a part of Image3, of the tiled engine."""
    facts: dict[str, Any] = {"version": 1, "folder": "stage3", "needs_layout": not more.get("lays_out"), **more}
    return Step(
        name=name,
        accepts=accepts,
        produces=produces,
        run=f"survey.steps.image3.{run}",
        step_class=_IMAGE3 if more.get("parts") else "",
        per_mosaic=True,
        engine="tiled",
        **facts,
    )


_ROWS = (
    Step(
        name="detector1",
        version=1,
        unit=Unit.EXPOSURE,
        accepts="uncal",
        produces="rate",
        folder="stage1",
        run="survey.steps.exposure:run",
        step_class="jwst.pipeline.calwebb_detector1:Detector1Pipeline",
        chained=True,
        replaceable=True,
        cost=costs.ramps(gb=16.0, seconds=280.0, planes=costs.RATE_PLANES),
        color="#1f4e79",
    ),
    Step(
        name="source_mask",
        version=1,
        unit=Unit.EXPOSURE,
        accepts="rate",
        produces="mask",
        folder="stage1",
        run="survey.steps.image3.source_masks:mask_exposure",
        parameters=_MASK_PARAMETERS,
        defaults=DETECTION,
        chained=True,
        masks=True,
        cost=costs.source_mask,
        color="#4f7f3f",
    ),
    Step(
        name="subtract_striping",
        version=2,
        unit=Unit.EXPOSURE,
        accepts="rate",
        produces="striping",
        folder="stage1",
        run="survey.steps.exposure:run",
        step_class="survey.corrections.striping:SubtractStripingStep",
        chained=True,
        corrects=True,
        takes_mask=True,
        cost=costs.ramps(gb=4.0, seconds=20.0, planes=costs.RATE_PLANES),
        color="#35699f",
    ),
    Step(
        name="image2",
        version=1,
        unit=Unit.EXPOSURE,
        accepts="rate",
        produces="cal",
        folder="stage2",
        run="survey.steps.exposure:run",
        step_class="jwst.pipeline.calwebb_image2:Image2Pipeline",
        # Drizzling every single exposure takes longer than the rest of Image2, and mosaics do not use it.
        defaults={"resample": {"skip": True}},
        chained=True,
        replaceable=True,
        cost=costs.ramps(gb=10.0, seconds=30.0, planes=costs.CAL_PLANES),
        color="#5b9bd5",
    ),
    Step(
        name="given",
        version=1,
        unit=Unit.EXPOSURE,
        accepts="cal",
        produces="cal",
        folder="stage2",
        run="survey.steps.given:run",
        external=True,
        cost=costs.copy,
        color="#9cc3e6",
    ),
    Step(
        name="sources",
        version=1,
        unit=Unit.EXPOSURE,
        accepts="cal",
        produces="cat",
        folder="stage3",
        run="survey.steps.image3.sources:run",
        step_class=_IMAGE3,
        parts=("tweakreg",),
        engine="tiled",
        cost=costs.sources,
        color="#1e6b4c",
    ),
    Step(
        name="association",
        version=1,
        unit=Unit.MOSAIC,
        accepts="cal",
        produces="asn",
        folder="asn",
        run="survey.steps.association:run",
        per_mosaic=True,
        kept=True,
        color="#7a8288",
    ),
    _part(
        "align", "asn", "layout", "align:run",
        unit=Unit.MOSAIC, parts=("tweakreg", "resample", "skymatch"), aligns=True, lays_out=True, kept=True,
        cost=costs.align, color="#3c9a72",
    ),
    _part(
        "sky", "cal", "skystat", "sky:run",
        unit=Unit.EXPOSURE, parts=("skymatch",),
        cost=costs.sky, color="#76c2a0",
    ),
    _part(
        "skymatch", "skystat", "sky", "sky:solve",
        unit=Unit.MOSAIC, parts=("skymatch",),
        cost=costs.skymatch, color="#a9dcc5",
    ),
    _part(
        "pixmap", "wcs", "pixmap", "outliers:map_pixels",
        unit=Unit.EXPOSURE, parts=("resample", "outlier_detection"), intermediate=True,
        cost=costs.pixmap, color="#8a6508",
    ),
    _part(
        "outlier_i2d", "cal", "outlier_i2d", "outliers:drizzle_group",
        unit=Unit.GROUP, parts=("outlier_detection",), intermediate=True,
        cost=costs.outlier_i2d, color="#c08a1e",
    ),
    _part(
        "median", "outlier_i2d", "median", "outliers:median_tile",
        unit=Unit.TILE, intermediate=True,
        cost=costs.median, color="#e3b553",
    ),
    _part(
        "outliers", "cal", "crf", "outliers:flag",
        unit=Unit.EXPOSURE, parts=("outlier_detection",), replaces=("image3",),
        cost=costs.outliers, color="#d9772b",
    ),
    _part(
        "drizzle", "crf", "zarr", "drizzle:run",
        unit=Unit.TILE, folder="mosaics", parts=("resample",), assembled_by="assemble", replaces=("mosaic",),
        cost=costs.drizzle, color="#6a3d8f",
    ),
    Step(
        name="detect",
        version=1,
        unit=Unit.TILE,
        accepts="zarr",
        produces="detected",
        folder="stage3",
        run="survey.steps.image3.source_masks:detect_tile",
        per_mosaic=True,
        engine="tiled",
        needs_layout=True,
        first_pass=True,
        kept=True,
        cost=costs.detect,
        color="#7fae6f",
    ),
    _part(
        "assemble", "zarr", "i2d", "assemble:run",
        unit=Unit.MOSAIC, folder="mosaics", parts=("resample",), commits=True, replaces=("image3", "mosaic"),
        cost=costs.assemble, color="#9a66bd",
    ),
    _part(
        "source_catalog", "i2d", "cat", "assemble:catalogue",
        unit=Unit.MOSAIC, folder="mosaics", parts=("source_catalog",), replaces=("image3",),
        cost=costs.source_catalog, color="#c5a5dc",
        advice="It holds the whole mosaic: skip it with 'source_catalog: {skip: true}', or use a larger worker.",
    ),
    Step(
        name="image3",
        version=1,
        unit=Unit.MOSAIC,
        accepts="asn",
        produces="i2d",
        folder="mosaics",
        run="survey.steps.stock:run_image3",
        step_class=_IMAGE3,
        per_mosaic=True,
        engine="stock",
        aligns=True,
        replaces=("assemble", "source_catalog", "outliers"),
        cost=costs.image3,
        color="#6a3d8f",
    ),
    Step(
        name="mosaic",
        version=2,  # 2: dq keeps all its bits
        unit=Unit.MOSAIC,
        accepts="i2d",
        produces="zarr",
        folder="mosaics",
        run="survey.steps.stock:write_zarr",
        per_mosaic=True,
        engine="stock",
        commits=True,
        replaces=("assemble", "drizzle"),
        cost=costs.zarr_copy,
        color="#9a66bd",
    ),
)  # fmt: skip

REGISTRY: dict[str, Step] = {step.name: step for step in _ROWS}
# Rows that planners look up.
LAST_OF_FIRST_PASS = next(step.name for step in _ROWS if step.first_pass)
GIVEN, ASSOCIATION, IMAGE3 = (REGISTRY[name] for name in ("given", "association", "image3"))


# For records of other versions, and damaged ones.
_UNKNOWN = Step(name="", version=0, unit=Unit.EXPOSURE, accepts="", produces="", folder="", run="")


def row_of(item: Task | TaskRecord | Job) -> Step:
    """The row of a task's or record's step; an empty row for a step of another version of this software."""
    return row_for(item.step, item.settings)


def row_for(name: str, settings: Mapping[str, Any]) -> Step:
    """The row of a step by the settings of its tasks, which describe a Step of another package."""
    facts = settings.get(CLASS)
    return foreign_row(name, facts) if name not in REGISTRY and isinstance(facts, Mapping) else row_named(name)


def row_named(name: str) -> Step:
    """The row of a step; of a Step of another package, a row that only says that it works on exposures."""
    return REGISTRY.get(name, _UNKNOWN)


def mosaic_of(record: TaskRecord) -> str:
    """Level-3 product that a record belongs to; '' for a record that belongs to no mosaic."""
    unit = row_of(record).unit
    if record.mosaic or unit is Unit.EXPOSURE:
        return record.mosaic
    # Records of version 0.1 have it in the subject: '<product>', '<product>_x003y012' or '<product>_g00012'.
    return record.subject if unit is Unit.MOSAIC else record.subject.rpartition("_")[0]


def mosaic_steps(engine: str) -> tuple[str, ...]:
    """Names of the steps that make mosaics with an engine, in order."""
    return tuple(
        name
        for name, step in REGISTRY.items()
        if not step.first_pass and (step.engine == engine or (step.per_mosaic and not step.engine))
    )


def is_intermediate(task: Task) -> bool:
    """Whether the products of a task are deleted once what they are needed for is complete."""
    step = row_of(task)
    return not step.kept if task.first_pass else step.intermediate


def check_chain(chain: Sequence[StepConfig]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Check the list of steps in a config: names, order, accepted products and parameters.

    Returns
    -------
    settings : {step name: settings with defaults}, in order
    faults : messages; empty if all steps are valid
    """
    settings: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    known = [name for name, step in REGISTRY.items() if step.chained]
    suffixes = {step.produces: step.name for step in REGISTRY.values()}
    kind = "uncal"
    for entry in chain:
        step = REGISTRY.get(entry.name) if entry.name in known else None
        if step is None:
            if not names_a_step(entry.name):
                names = [*known, *registered_aliases()]
                hint = did_you_mean(entry.name, names) or nearest(entry.name, known)
                faults.append(f"steps.{unquoted(entry.name)}: {shown(entry.name)} is not a step of an exposure{hint}")
                continue
            step, clean, found = check_foreign(entry, kind, suffixes, settings, REGISTRY)
            faults += found
            if step is not None:
                settings[step.name] = clean
                suffixes[step.produces] = step.name
            continue
        if step.accepts != kind:
            before = next((name for name in known if REGISTRY[name].produces == step.accepts), None)
            hint = f" Add {before!r} before it in steps." if before else ""
            faults.append(f"steps.{step.name}: {step.name!r} accepts {step.accepts}, got {kind}.{hint}")
        kind = kind if step.masks else step.kind
        given, found = check_pipeline(step, entry.settings)
        faults += found
        settings[step.name], found = step.settings(given, f"steps.{step.name}")
        faults += found
    return settings, [*faults, *_mask_faults([*settings])]


def _mask_faults(names: Sequence[str]) -> list[str]:
    """What is wrong with a chain that makes a source mask."""
    mask = next((name for name in names if row_named(name).masks), None)
    if mask is None:
        return []
    after = names[names.index(mask) + 1 :]
    if any(row_named(name).takes_mask for name in after):
        return []
    readers = ", ".join(name for name, step in REGISTRY.items() if step.takes_mask)
    return [f"steps.{mask}: no step after it reads the mask. Put one of these after it, or remove it: {readers}."]
