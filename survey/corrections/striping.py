"""Subtract 1/f noise: readout noise that is correlated along the fast axis and leaves stripes in a rate image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jwst.lib.reffile_utils import get_subarray_model
from jwst.stpipe import Step
from scipy.ndimage import binary_dilation
from stdatamodels.jwst import datamodels
from stdatamodels.jwst.datamodels import dqflags

from survey.masks import read_masks

log = logging.getLogger(__name__)

__all__ = ["SourceMask", "StripingSettings", "SubtractStripingStep", "measure_striping", "source_mask"]

MAD_TO_SIGMA = 1.4826  # of a normal distribution
_CLIP_ROUNDS = 5


def source_mask(image, good, n_sigma, grow):
    """Mark pixels that are brighter than the sky.

    Parameters
    ----------
    image : ndarray (ny, nx), float
    good : ndarray (ny, nx), bool; True = has data
    n_sigma : float; a pixel this many robust standard deviations above the median is a source
    grow : int; pixels by which the mask grows on all sides [pixels]

    Returns
    -------
    mask : ndarray (ny, nx), bool; True = source. All False if no pixel is good.
    """
    sky = good & np.isfinite(image)
    for _ in range(_CLIP_ROUNDS):
        if not sky.any():
            return np.zeros(image.shape, bool)
        middle = np.median(image[sky])
        sigma = MAD_TO_SIGMA * np.median(np.abs(image[sky] - middle))
        sky &= image < middle + n_sigma * sigma if sigma > 0 else True
    with np.errstate(invalid="ignore"):
        mask = good & (image > middle + n_sigma * sigma)
    return binary_dilation(mask, iterations=grow) if grow else mask


@dataclass(frozen=True)
class StripingSettings:
    """Parameters of `measure_striping`."""

    n_sigma: float = 2.0  # see `source_mask`
    grow: int = 2  # see `source_mask` [pixels]
    min_pixels: int = 50  # rows with fewer usable pixels in an amplifier are not corrected there


class SourceMask(NamedTuple):
    """Where sources are, from elsewhere than the image itself."""

    sources: np.ndarray  # (ny, nx), bool; True = light of a source
    covered: np.ndarray  # (ny, nx), bool; True = it is known whether there is a source


def measure_striping(sci, good, flat, amplifiers, settings=None, known=None):
    """Measure the stripe of every row in every amplifier, on a flat-fielded copy with sources masked.

    Flat-fielding removes the structure that sky light has on the detector; the stripes are subtracted from the rate.

    Parameters
    ----------
    sci : ndarray (ny, nx), float32 [DN/s]; NaN = no data
    good : ndarray (ny, nx), bool; True = use
    flat : ndarray (ny, nx), float32; response relative to 1; not positive or NaN = do not use
    amplifiers : int; equal blocks of columns that are read out side by side: 4 on a full frame, 1 on most subarrays
    settings : StripingSettings, optional; how sources are masked, and which rows are measured
    known : SourceMask, optional; sources are masked on the image itself where it does not cover the image

    Returns
    -------
    stripes : ndarray (ny, nx), float32 [DN/s]; to be subtracted from ``sci``. The median over the rows of an amplifier
        is zero, so that the sky level is kept. A uniform image gives zeros.

    Raises
    ------
    ValueError
        Shapes differ, also that of ``known``, or the columns do not divide into the amplifiers.

    References
    ----------
    Bagley et al. 2023, ApJL 946, L12, section 3.2 (CEERS NIRCam reduction).
    """
    settings = settings or StripingSettings()
    if not sci.shape == good.shape == flat.shape:
        raise ValueError(f"sci {sci.shape}, good {good.shape} and flat {flat.shape} must have one shape.")
    if known is not None and not sci.shape == known.sources.shape == known.covered.shape:
        raise ValueError(f"sci {sci.shape} and its source mask {known.sources.shape} must have one shape.")
    if sci.shape[1] % amplifiers:
        raise ValueError(f"{sci.shape[1]} columns do not divide into {amplifiers} amplifiers.")
    usable = good & np.isfinite(sci) & np.isfinite(flat) & (flat > 0)
    flattened = np.divide(sci, flat, out=np.full(sci.shape, np.nan, np.float32), where=usable)
    if known is None or not known.covered.all():
        # A bright stripe would be masked as a source: subtract first medians before the mask is made.
        rough = _row_medians(np.where(usable, flattened, np.nan), amplifiers, settings.min_pixels)
        sources = source_mask(flattened - rough, usable, settings.n_sigma, settings.grow)
        sources = sources if known is None else np.where(known.covered, known.sources, sources)
    else:
        sources = known.sources
    sky = usable & ~sources
    return _row_medians(np.where(sky, flattened, np.nan), amplifiers, settings.min_pixels)


def _row_medians(image, amplifiers, min_pixels):
    """Median of every row in every amplifier, minus the amplifier's median, in the shape of the image; 0 for rows with
    too few pixels.
    """
    stripes = np.zeros((image.shape[0], amplifiers), np.float32)
    for number, block in enumerate(np.split(image, amplifiers, axis=1)):
        enough = np.isfinite(block).sum(axis=1) >= min_pixels
        if enough.any():
            rows = np.nanmedian(block[enough], axis=1)
            stripes[enough, number] = rows - np.median(rows)
    return np.repeat(stripes, image.shape[1] // amplifiers, axis=1)


class SubtractStripingStep(Step):
    """Subtract 1/f striping from a rate image, for each row of each amplifier."""

    class_alias = "subtract_striping"

    spec = """
        n_sigma = float(default=2.0, min=0.0) # Pixels this far above the sky are sources [standard deviations]
        grow = integer(default=2, min=0) # Pixels by which the source mask grows
        min_pixels = integer(default=50, min=1) # Rows with fewer usable pixels in an amplifier are not corrected
        mask_file = string(default=None) # File of a source mask; default: sources are masked on the image itself
        suffix = string(default='striping')
    """

    reference_file_types = ["flat"]

    def process(self, input_data):
        """Return a copy of a rate image without its striping.

        Parameters
        ----------
        input_data : str or ImageModel; a rate product

        Returns
        -------
        ImageModel
        """
        with datamodels.open(input_data) as model:
            result = model.copy()
        good = (result.dq & dqflags.pixel["DO_NOT_USE"]) == 0
        name = self.get_reference_file(result, "flat")
        flat = np.ones(result.data.shape, np.float32)
        if name != "N/A":
            with datamodels.open(name) as reference:
                flat = np.array(get_subarray_model(result, reference).data)
        amplifiers = int(result.meta.exposure.noutputs or 1)
        settings = StripingSettings(self.n_sigma, self.grow, self.min_pixels)
        known = None
        if self.mask_file is not None:
            masks, _ = read_masks(self.mask_file)
            known = SourceMask(masks["source"], masks["covered"])
            log.info("Sources from %s, which covers %.4g of the image", self.mask_file, known.covered.mean())
        stripes = measure_striping(result.data, good, flat, amplifiers, settings, known)
        result.data = result.data - stripes
        log.info("Striping: rms %.4g DN/s over %d amplifier(s)", float(np.std(stripes)), amplifiers)
        return result
