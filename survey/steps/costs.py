"""What a task costs: peak memory, CPU time and the size of its products, by a formula for each step.

A formula is linear in the float32 images and ramps that a task handles (`Work`), all in GB = 1e9 bytes: an image of a
full frame is 0.0168 GB, its ramp of nine groups 0.151 GB. Plans, progress and the scheduler use the results; pixels do
not depend on them. After a run, measured peaks correct the memory (`survey.planning.memory`).

The numbers are for jwst 3.0.0. They were fitted to full frames of the simulated field, and leave room above what was
measured, since a task with too little memory fails: Detector1 holds 2.55 GB with nine groups (2.9 by the formula) and
takes 21 to 29 CPU s (43). Of a tiled mosaic of four full frames the tasks took, in CPU s, measured and by the formula:
sources 20 and 27, pixmap 15 and 21, outliers 8 and 16, sky 5 and 8. On frames of 320 x 320 pixels every task holds 0.20
to 0.31 GB, where the formulas give 0.5 to 1.1. ``benchmarks/image3.py`` prints both for every step of a mosaic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from survey.models import Exposure
from survey.mosaics.arrays import context_planes
from survey.nircam import FULL_SIDE, SUBARRAY_SIDES

FLOAT_GB = 4e-9  # a float32
PIPELINE_GB = 0.5  # a process with the pipeline imported, before it opens a file
# Bytes of a mosaic's pixel: sci, err, wht, con and three variances. In zarr, compression takes some of it off again.
MOSAIC_BYTES = 28
MOSAIC_PLANES = MOSAIC_BYTES / 4
# float32 images of an exposure that a product holds: SCI, ERR, DQ and variances; a cal and a crf file also have the
# area and the flat's variance.
RATE_PLANES, CAL_PLANES = 5.2, 7.3


@dataclass(frozen=True, slots=True)
class Work:
    """How much a task handles. Sizes are those of float32 arrays [GB]."""

    ramp_gb: float = 0.0  # the exposure's ramp
    images_gb: tuple[float, ...] = ()  # one image of each exposure that it reads
    window_gb: float = 0.0  # one image of the window of the mosaic that it computes, margins included
    output_gb: float = 0.0  # one image of the pixels that it publishes
    layers: int = 0  # images of the window that are stacked
    members: int = 0  # exposures of the mosaic

    @property
    def image_gb(self) -> float:
        """One image of its largest exposure."""
        return max(self.images_gb, default=0.0)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a task is predicted to take."""

    memory_gb: float  # peak of its process [GB]
    cpu_seconds: float
    disk_gb: float = 0.0  # of its products [GB]


Formula = Callable[[Work], Cost]


def work_on(exposure: Exposure) -> Work:
    """The work of a task on one exposure."""
    return Work(ramp_gb=ramp_gb(exposure), images_gb=(image_gb(exposure),))


def ramp_gb(exposure: Exposure) -> float:
    """Size of an exposure's ramp as float32 [GB]: from its header's facts, else from its file's size.

    The file holds 2 bytes a sample; without either, a full-frame exposure of ten groups is assumed.
    """
    side = SUBARRAY_SIDES.get(exposure.subarray)
    if exposure.groups and exposure.integrations and side:
        return FLOAT_GB * side * side * exposure.groups * exposure.integrations
    if exposure.size:
        return FLOAT_GB / 2 * exposure.size
    return FLOAT_GB * FULL_SIDE**2 * 10


def image_gb(exposure: Exposure) -> float:
    """Size of one float32 image of an exposure [GB]; a full frame is assumed for a subarray that is not known."""
    return FLOAT_GB * SUBARRAY_SIDES.get(exposure.subarray, FULL_SIDE) ** 2


def small(_work: Work) -> Cost:
    """A task that reads and writes next to nothing."""
    return Cost(PIPELINE_GB, 0.0)


# --- exposures ----------------------------------------------------------------------------------------------------


def ramps(gb: float, seconds: float, planes: float) -> Formula:
    """The formula of a step that works on ramps or rates.

    Parameters
    ----------
    gb : peak memory per GB of the ramp
    seconds : CPU time per GB of the ramp [s]
    planes : float32 images of the exposure that its products hold
    """

    def formula(work: Work) -> Cost:
        memory = round(PIPELINE_GB + gb * work.ramp_gb, 3)
        return Cost(memory, 1.0 + seconds * work.ramp_gb, planes * work.image_gb)

    return formula


def foreign(work: Work) -> Cost:
    """Another package's Step on an image. Its cost is not known before it ran; later runs reserve what was measured."""
    return Cost(round(PIPELINE_GB + 0.5 + 40 * work.image_gb, 3), 2.0 + 400 * work.image_gb, CAL_PLANES * work.image_gb)


def copy(work: Work) -> Cost:
    """A calibrated file that is copied."""
    return Cost(PIPELINE_GB, 0.0, CAL_PLANES * work.image_gb)


def sources(work: Work) -> Cost:
    """Source finding: backgrounds, convolved images and segments of one exposure."""
    return Cost(round(PIPELINE_GB + 0.2 + 60.0 * work.image_gb, 3), 1.0 + 350.0 * work.image_gb)


def sky(work: Work) -> Cost:
    """Sky statistics of one exposure, which is opened whole."""
    return Cost(PIPELINE_GB + 0.2 + 20 * work.image_gb, 1 + 60 * work.image_gb)


def pixmap(work: Work) -> Cost:
    """Pixel maps of one exposure. A map has two float64 planes; those for drizzling and for outliers are published."""
    return Cost(PIPELINE_GB + 0.2 + 40 * work.image_gb, 1 + 250 * work.image_gb, 8.0 * work.image_gb)


def source_mask(work: Work) -> Cost:
    """The source mask of one exposure: positions of its pixels in the mosaic, in double precision."""
    return Cost(PIPELINE_GB + 0.2 + 12 * work.image_gb, 1 + 60 * work.image_gb, 0.01 * work.image_gb)


def outliers(work: Work) -> Cost:
    """Outlier flags of one exposure, from the median image as the exposure would have seen it."""
    return Cost(PIPELINE_GB + 0.3 + 45 * work.image_gb, 2 + 120 * work.image_gb, CAL_PLANES * work.image_gb)


# --- parts of a mosaic --------------------------------------------------------------------------------------------


def outlier_i2d(work: Work) -> Cost:
    """A group of exposures drizzled onto its window; one exposure is in memory at a time.

    On the disk the window holds one and a half images of each exposure.
    """
    images = len(work.images_gb)
    return Cost(
        PIPELINE_GB + 0.2 + 8 * work.window_gb + 20 * work.image_gb,
        1 + 150 * work.image_gb * images + 40 * work.window_gb,
        1.5 * images * work.image_gb,
    )


def median(work: Work) -> Cost:
    """The median of a stack of groups in one tile. At most 0.27 GB of the stack, some rows of it, are in memory."""
    stack = work.window_gb * work.layers
    return Cost(PIPELINE_GB + 0.2 + 3 * min(stack, 0.27), 1 + 60 * stack, work.output_gb)


def drizzle(work: Work) -> Cost:
    """A tile: running sums of its window, and one exposure at a time.

    Each further 32 members add a plane of `con` to the tile.
    """
    contexts = context_planes(len(work.images_gb)) - 1
    return Cost(
        PIPELINE_GB + 0.3 + 26 * work.window_gb + 25 * work.image_gb,
        2 + 200 * sum(work.images_gb),
        (MOSAIC_PLANES + contexts) * work.output_gb,
    )


def detect(work: Work) -> Cost:
    """Sources in a tile and the border around it, the window."""
    return Cost(PIPELINE_GB + 0.2 + 12 * work.window_gb, 1 + 60 * work.window_gb, 0.02 * work.output_gb)


# --- whole mosaics ------------------------------------------------------------------------------------------------


def align(work: Work) -> Cost:
    """Tweakreg on the members' catalogues and WCS, without pixels."""
    return Cost(PIPELINE_GB + 0.4 + 0.002 * work.members, 5.0 + 0.4 * work.members)


def skymatch(work: Work) -> Cost:
    """The solution of a system of members x members equations."""
    return Cost(PIPELINE_GB + 0.2 + 4e-8 * work.members**2 * 20, 1.0)


def assemble(work: Work) -> Cost:
    """The FITS file of a mosaic, streamed from the tiles a row of tiles at a time: the window.

    ``output_gb`` is one image of the whole mosaic; each 32 members take a plane of `con`.
    """
    contexts = context_planes(work.members)
    return Cost(
        PIPELINE_GB + 0.4 + work.window_gb * (4 + contexts) + 0.001 * work.members,
        5 + 0.5 * work.members + 10 * work.output_gb,
        MOSAIC_PLANES * work.output_gb,
    )


def source_catalog(work: Work) -> Cost:
    """The source catalogue of a whole mosaic, and its segmentation map. All of the mosaic is in memory."""
    return Cost(PIPELINE_GB + 0.5 + 40 * work.output_gb, 5 + 1500 * work.output_gb, work.output_gb)


def image3(work: Work) -> Cost:
    """The pipeline's Image3 in one process: all members and the mosaic are in memory.

    Measured on full frames: 33 CPU s and 0.35 GB a member. On the disk, each member leaves a crf file; the mosaic is
    taken to hold its members side by side, half of each covered by others.
    """
    images = sum(work.images_gb)
    return Cost(
        round(PIPELINE_GB + 1.0 + 21 * images + 24 * work.window_gb, 3),
        20.0 + 2000.0 * images,
        (MOSAIC_PLANES / 2 + CAL_PLANES) * images,
    )


def zarr_copy(work: Work) -> Cost:
    """A mosaic's FITS file copied to zarr, in bands of rows."""
    return Cost(PIPELINE_GB + 0.5, 0.0, MOSAIC_PLANES / 2 * sum(work.images_gb))
