"""Turn rows of the archive into exposures. Values are checked; a row with impossible values is left out.

Rows are dicts of JSON values as the portal sends them; any of them may be missing, None or of another type.

An exposure's ``filter`` is the element that defines its passband. NIRCam has narrow filters in its pupil wheel, used
with a wide one in the filter wheel: F150W2 with F162M is filter F162M, ``pupil`` F150W2. Sorted, the pair is the
archive's name of the optical elements either way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from survey.errors import ProductNameError
from survey.models import Exposure
from survey.names import ExposureName, MosaicName, parse_exposure, parse_mosaic, split_file
from survey.nircam import DETECTORS, passband, sees

Row = Mapping[str, Any]

URI_FOLDER = "mast:JWST/product/"
_NUMBER = re.compile(r"[-+]?\d+(?:\.0*)?", re.ASCII)


@dataclass(frozen=True)
class Parent:
    """An observation row: what it has in common with the exposures of its product list."""

    obsid: str
    name: MosaicName | ExposureName
    filter: str
    pupil: str
    subarray: str
    start_mjd: float | None = None  # of rows per exposure alone
    footprint: tuple[tuple[float, float], ...] | None = None  # of rows per exposure alone
    regions: tuple[tuple[tuple[float, float], ...], ...] = ()  # polygons of the row: of the exposure, or of the mosaic

    @property
    def is_exposure(self) -> bool:
        return isinstance(self.name, ExposureName)

    @property
    def observation(self) -> int | None:
        """Observation number; None for a row over several observations."""
        if isinstance(self.name, ExposureName):
            return self.name.observation
        return int(self.name.acid[1:]) if self.name.acid.startswith("o") else None


def text(value: Any) -> str:
    """A row's value as text: '' for None; a whole number without its fraction."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def whole(value: Any) -> int | None:
    """A row's value as an integer ('42', 42.0 and 42 are 42), or None for anything else."""
    if isinstance(value, bool) or not _NUMBER.fullmatch(shown := text(value)) or len(shown) > 18:
        return None
    return int(shown.split(".")[0])


def real(value: Any) -> float | None:
    """A row's value as a finite float, or None for anything else."""
    try:
        number = float(text(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def footprint(region: Any) -> tuple[tuple[float, float], ...] | None:
    """Corners (ra, dec) [deg, ICRS] of an ``s_region`` that is one polygon; None for anything else."""
    words = text(region).split()
    if not words or words[0].upper() != "POLYGON":
        return None
    if len(words) > 1 and words[1].upper() in ("ICRS", "J2000", "FK5"):
        words = words[1:]
    numbers = [real(word) for word in words[1:]]
    values = [number for number in numbers if number is not None]
    if len(values) != len(numbers) or len(values) % 2 or len(values) < 6:
        return None
    corners = tuple(zip(values[::2], values[1::2], strict=True))
    if len(corners) > 3 and corners[0] == corners[-1]:
        corners = corners[:-1]
    return corners if all(-90 <= dec <= 90 and -360 <= ra <= 720 for ra, dec in corners) else None


def footprints(region: Any) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The polygons of an ``s_region``, as `footprint` reads each; mosaics with gaps have several."""
    parts = re.split(r"(?=\bPOLYGON\b)", text(region), flags=re.IGNORECASE)
    return tuple(corners for part in parts if (corners := footprint(part)) is not None)


def read_parent(row: Row, program: int) -> Parent | None:
    """An observation row that may list NIRCam imaging exposures of the program; None for every other row."""
    level, row_program = whole(row.get("calib_level")), whole(row.get("proposal_id"))
    if (level is not None and level < 0) or row_program not in (None, program):
        return None
    instrument = text(row.get("instrument_name")).upper()
    obsid, shown = text(row.get("obsid")), text(row.get("obs_id"))
    if instrument not in ("NIRCAM", "NIRCAM/IMAGE") or not obsid.isdecimal():
        return None
    try:
        name: MosaicName | ExposureName = parse_mosaic(shown)
    except ProductNameError:
        try:
            name = parse_exposure(shown)
        except ProductNameError:
            return None
    if name.program != program:
        return None
    regions = footprints(row.get("s_region"))
    if isinstance(name, MosaicName):
        pair = passband(name.elements.split("-")) if name.instrument == "nircam" else None
        return pair and Parent(obsid, name, *pair, (name.subarray or "FULL").upper(), regions=regions)
    pair = passband(text(row.get("filters")).split(";"))
    corners, start = footprint(row.get("s_region")), real(row.get("t_min"))
    return pair and Parent(obsid, name, *pair, "", start if start and start > 0 else None, corners, regions)


def needed(
    parents: Iterable[Parent], observations: Collection[int] | None, filters: Collection[str] | None
) -> list[Parent]:
    """Select the rows whose product lists are to be requested, in the order of their names.

    Rows over several observations (c1000) repeat the files of rows per observation: they are selected only for optical
    elements that no row per observation has.
    """
    unique = {parent.obsid: parent for parent in parents}
    chosen = [
        parent
        for parent in unique.values()
        if (filters is None or parent.filter in filters)
        and (observations is None or parent.observation is None or parent.observation in observations)
    ]
    listed = {(parent.filter, parent.pupil, parent.subarray) for parent in chosen if parent.observation is not None}
    return sorted(
        (
            parent
            for parent in chosen
            if parent.observation is not None or (parent.filter, parent.pupil, parent.subarray) not in listed
        ),
        key=lambda parent: (str(parent.name), parent.obsid),
    )


def read_product(row: Row, parent: Parent, program: int) -> Exposure | None:
    """The exposure of a product row; None when the row is anything but a NIRCam imaging uncal file of the program."""
    if text(row.get("productType")).upper() != "SCIENCE" or text(row.get("productSubGroupDescription")) != "UNCAL":
        return None
    level, uri = whole(row.get("calib_level")), text(row.get("dataURI"))
    if (level is not None and level < 0) or not uri.startswith(URI_FOLDER) or not uri.endswith("_uncal.fits"):
        return None
    try:
        name, suffix = split_file(uri.removeprefix(URI_FOLDER))
    except ProductNameError:
        return None
    if not isinstance(name, ExposureName) or suffix != "uncal" or name.program != program:
        return None
    if name.detector not in DETECTORS or not sees(name.detector, parent.filter):
        return None
    size = whole(row.get("size"))
    exposure = Exposure(
        name=str(name),
        program=name.program,
        observation=name.observation,
        visit=name.visit,
        detector=name.detector,
        filter=parent.filter,
        pupil=parent.pupil,
        subarray=parent.subarray or "FULL",
        uri=uri,
        size=size if size is not None and size > 0 else None,
        outlines=parent.regions,
    )
    if parent.is_exposure and str(parent.name) == exposure.name:
        exposure = replace(exposure, start_mjd=parent.start_mjd, footprint=parent.footprint)
    return exposure


def merge(first: Exposure, second: Exposure, second_is_own_row: bool) -> Exposure:
    """Combine two rows of one file: a size from the one that has it, time and footprint from the exposure's own row."""
    extra: dict[str, Any] = {}
    if first.size is None:
        extra["size"] = second.size
    if second_is_own_row:
        extra |= {"start_mjd": second.start_mjd, "footprint": second.footprint}
    return replace(first, **extra)
