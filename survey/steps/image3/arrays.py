"""Pixels of an exposure's file, or of a window of it, as the dictionary that stcal's resampler takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from survey.mosaics.grid import Box
from survey.mosaics.layouts import Member
from survey.steps.image3.levels import SkyLevels

NAMES = {"data": "SCI", "dq": "DQ", "err": "ERR", "var_rnoise": "VAR_RNOISE", "var_poisson": "VAR_POISSON",
         "var_flat": "VAR_FLAT"}  # fmt: skip


def read_arrays(path: Path | str, names: Iterable[str], box: Box | None = None) -> dict[str, Any]:
    """Arrays of a cal or crf file in native byte order: float32, dq uint32; None for those it does not have.

    Parameters
    ----------
    names : keys of `NAMES`
    box : pixels to read; default: all
    """
    import numpy as np
    from astropy.io import fits

    found: dict[str, Any] = {}
    with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
        for name in names:
            if NAMES[name] not in hdus:
                found[name] = None
                continue
            hdu = hdus[NAMES[name]]
            # Whole rows: astropy reads a part of rows one by one.
            values = hdu.data if box is None else hdu.section[box.y0 : box.y1, :][:, box.x0 : box.x1]
            found[name] = np.ascontiguousarray(values, np.uint32 if name == "dq" else np.float32)
    return found


def member_model(member: Member, sky: SkyLevels, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """A member as stcal's resampler takes it, but for its 'wcs'.

    Parameters
    ----------
    member : of the layout
    sky : the levels of all members
    arrays : of `read_arrays`
    """
    found, aligned = sky.members[member.name], member.aligned
    return {
        **arrays,
        "exposure_time": aligned.exposure_time,
        "start_time": aligned.start_time,
        "end_time": aligned.end_time,
        "duration": aligned.duration,
        "measurement_time": aligned.measurement_time,
        "pixelarea_steradians": aligned.pixelarea_steradians,
        "filename": aligned.filename,
        "group_id": aligned.group_id,
        "level": found.value if found.is_matched else None,
        "subtracted": sky.subtracted if found.is_matched else None,
    }
