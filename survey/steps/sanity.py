"""Reject files without usable pixels: raw ramps before the first step, and the product of every step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from survey.errors import TaskError

DO_NOT_USE = 1  # in a DQ array
RAMP_AXES = 4  # integrations, groups, y, x
ROWS = 1024  # of a mosaic that are read at a time


def check_ramp(path: Path, key: str) -> None:
    """Reject a raw ramp without a valid signal.

    From a ramp of NaN, jwst 3.0.0 makes an image of zeros without a flag.

    Raises
    ------
    TaskError
        The ramp differs from its header, has no samples, holds NaN or infinity, or is constant.
    """
    from astropy.io import fits

    # Unsigned integers are stored with an offset, which does not matter here.
    with fits.open(path, memmap=True, do_not_scale_image_data=True) as hdus:
        ramp = hdus["SCI"].data
        fault = ramp_fault(ramp) or shape_fault(ramp.shape, hdus[0].header)
        del ramp
    if fault:
        raise TaskError(
            f"{key}: {path.name} {fault} Leave the exposure out by 'exclude:' in the config, or "
            "allow for it by mosaic.max_missing."
        )


def ramp_fault(ramp: np.ndarray | None) -> str:
    """What is wrong with a ramp (integrations, groups, y, x), for a message; '' if it may be valid."""
    if ramp is None or ramp.ndim != RAMP_AXES or not ramp.size:
        shape = "nothing" if ramp is None else f"an array of shape {ramp.shape}"
        return f"holds {shape}, expected integrations x groups x rows x columns with at least one of each."
    if ramp.dtype.kind == "f":
        bad = int(ramp.size - np.count_nonzero(np.isfinite(ramp)))
        if bad:
            return f"has {bad} of {ramp.size} samples that are NaN or infinite; raw samples are counts."
    first = ramp[:, :1] if ramp.shape[1] > 1 else ramp[:, :1, :1, :1]
    if all(np.array_equal(ramp[:, group : group + 1], np.broadcast_to(first, ramp[:, :1].shape))
           for group in range(ramp.shape[1])):  # fmt: skip
        return f"never changes: its {ramp.shape[1]} group(s) hold the same counts throughout."
    return ""


def shape_fault(shape: tuple[int, ...], header: Mapping[str, Any]) -> str:
    """How the shape of a ramp differs from its primary header, for a message; '' if it does not.

    A segment of an exposure holds only some of its integrations.
    """
    integrations, *rest = shape
    for keyword, found in zip(("NGROUPS", "SUBSIZE2", "SUBSIZE1"), rest, strict=True):
        declared = header.get(keyword)
        if isinstance(declared, int) and declared != found:
            return f"declares {keyword} = {declared} and holds {found}."
    declared = header.get("NINTS")
    if isinstance(declared, int) and declared < integrations:
        return f"declares NINTS = {declared} and holds {integrations}."
    return ""


def check_image(path: Path, key: str) -> float:
    """Reject a product without usable pixels.

    Returns
    -------
    usable : fraction of pixels that are finite and not flagged DO_NOT_USE

    Raises
    ------
    TaskError
        There is no usable pixel, or all of them have the same value.
    """
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        image = hdus["SCI"].data
        flags = hdus["DQ"].data if "DQ" in hdus else None
    if image is None or not image.size:
        raise TaskError(f"{key}: {path.name} holds no pixels.")
    usable = np.isfinite(image)
    if flags is not None and flags.shape == image.shape:
        usable &= (flags & DO_NOT_USE) == 0
    good = image[usable]
    if not good.size:
        raise TaskError(f"{key}: no pixel of {path.name} is usable: all {image.size} are NaN or flagged DO_NOT_USE.")
    if good.size > 1 and good.min() == good.max():
        raise TaskError(f"{key}: all {good.size} usable pixels of {path.name} have the value {good[0]:g}.")
    return good.size / image.size


EMPTY = (
    "no pixel of the mosaic has data. Its grid may miss the exposures: compare crval_deg, crpix, rotation_deg and "
    "shape in the section mosaic of the config with the footprints that 'survey plan --json' lists; or all pixels of "
    "the exposures on it may be flagged."
)


def check_covered(path: Path, subject: str) -> None:
    """Reject a mosaic in which no pixel has a weight.

    Raises
    ------
    TaskError
        All weights are zero.
    """
    from astropy.io import fits

    with fits.open(path, memmap=True) as hdus:
        weights = hdus["WHT"].data
        if not any(np.any(weights[row : row + ROWS] > 0) for row in range(0, weights.shape[0], ROWS)):
            raise TaskError(f"{subject}: {EMPTY}")
        del weights
