"""Facts of NIRCam: detectors, channels, filters, pupils and pixel scales.

No other module states them. Another instrument needs a second module like this one.

Sources: JWST user documentation, "NIRCam Detector Overview" and "NIRCam Filters"; pixel scales from SIAF, rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

INSTRUMENT = "NIRCAM"  # as in the header keyword INSTRUME
IMAGING = ("NRC_IMAGE",)  # values of EXP_TYPE of exposures that can be part of a mosaic


@dataclass(frozen=True)
class Channel:
    """One of the two channels after the dichroic, with its detectors and filters."""

    name: str  # as in the header keyword CHANNEL
    detectors: tuple[str, ...]
    filters: tuple[str, ...]
    pixel_scale_arcsec: float  # side of a pixel on the sky, to 1 %


SHORT = Channel(
    name="SHORT",
    detectors=tuple(f"NRC{module}{chip}" for module in "AB" for chip in "1234"),
    filters=tuple("F070W F090W F115W F140M F150W F150W2 F162M F164N F182M F187N F200W F210M F212N".split()),
    pixel_scale_arcsec=0.031,
)
LONG = Channel(
    name="LONG",
    detectors=("NRCALONG", "NRCBLONG"),
    filters=tuple(
        "F250M F277W F300M F322W2 F323N F335M F356W F360M F405N F410M F430M F444W F460M F466N F470N F480M".split()
    ),
    pixel_scale_arcsec=0.063,
)
DETECTORS = tuple(f"NRC{module}{chip}" for module in "AB" for chip in ("1", "2", "3", "4", "LONG"))
FILTERS = (*SHORT.filters, *LONG.filters)
# Filters in the pupil wheel. Each is used together with a wide filter in the filter wheel, and defines the passband.
PUPIL_FILTERS = ("F162M", "F164N", "F323N", "F405N", "F466N", "F470N")
# Detectors that see scattered light ("wisps") in short-wave filters.
WISP_DETECTORS = ("NRCA3", "NRCA4", "NRCB3", "NRCB4")
# Pixels on a side of the square subarrays; the keyword is SUBARRAY.
FULL_SIDE = 2048
SUBARRAY_SIDES = {"FULL": FULL_SIDE, "SUB640": 640, "SUB400P": 400, "SUB320": 320, "SUB160": 160, "SUB160P": 160,
                  "SUB64P": 64}  # fmt: skip


def channel_of(detector: str) -> Channel:
    """The channel of a detector."""
    return LONG if detector.upper().endswith("LONG") else SHORT


def sees(detector: str, filter_name: str) -> bool:
    """Whether a detector belongs to the channel of a filter."""
    return filter_name in channel_of(detector).filters


def native_scale_arcsec(detector: str) -> float:
    """Side of a detector's pixels on the sky, to 1 % [arcsec]."""
    return channel_of(detector).pixel_scale_arcsec


def passband(elements: Iterable[str]) -> tuple[str, str] | None:
    """Filter that defines the passband of an imaging pair, and the other element; None if it is not NIRCam imaging.

    ('clear', 'f200w') -> ('F200W', 'CLEAR');  ('F150W2', 'F162M') -> ('F162M', 'F150W2')
    """
    names = sorted({name.strip().upper() for name in elements if name.strip()})
    others = [name for name in names if name != "CLEAR"]
    if len(others) == 1 and others[0] in FILTERS:
        return others[0], "CLEAR"
    if len(others) != 2 or len(names) != 2 or not set(others).issubset(FILTERS):
        return None
    narrow = [name for name in others if name in PUPIL_FILTERS]
    if len(narrow) != 1:
        return None
    return narrow[0], next(name for name in others if name != narrow[0])
