"""Read pixels of an exposure, or of a window of it, for stcal's resampler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from survey.mosaics.arrays import ARRAYS
from survey.mosaics.grid import Box
from survey.mosaics.layouts import Member
from survey.steps.image3.levels import SkyLevels

_BY_ATTRIBUTE = {array.attribute: array for array in ARRAYS.values()}


def read_arrays(path: Path | str, names: Iterable[str], box: Box | None = None) -> dict[str, Any]:
    """Read arrays of a cal or crf file in native byte order: float32, dq uint32; None for missing ones.

    Parameters
    ----------
    names : as in the pipeline's datamodels: data, dq, err, var_rnoise, ...
    box : pixels to read; default: all
    """
    import numpy as np
    from astropy.io import fits

    found: dict[str, Any] = {}
    with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
        for name in names:
            array = _BY_ATTRIBUTE[name]
            if array.extension not in hdus:
                found[name] = None
                continue
            hdu = hdus[array.extension]
            # Read whole rows: of parts, astropy reads each row separately.
            values = hdu.data if box is None else hdu.section[box.y0 : box.y1, :][:, box.x0 : box.x1]
            found[name] = np.ascontiguousarray(values, array.dtype)
    return found


def member_model(member: Member, sky: SkyLevels, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """A member as the dictionary that stcal's resampler expects, without its 'wcs'.

    Parameters
    ----------
    member : of the layout
    sky : levels of all members
    arrays : as returned by `read_arrays`
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
