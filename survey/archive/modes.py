"""Judge by the values of a header whether an exposure is NIRCam imaging that can be part of a mosaic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from survey.archive.rows import text
from survey.nircam import DETECTORS, IMAGING

# Elements of the pupil wheel that are no filter of an image.
OTHER_PUPILS = {
    "WLP8": "a weak lens",
    "WLM8": "a weak lens",
    "GRISMR": "a grism",
    "GRISMC": "a grism",
    "GDHS0": "a Hartmann sensor",
    "GDHS60": "a Hartmann sensor",
    "MASKRND": "a coronagraph",
    "MASKBAR": "a coronagraph",
    "MASKIPR": "an imaging mask",
    "PINHOLES": "pinholes",
    "FLAT": "a lamp for flat fields",
}
KINDS = {
    "NRC_TACQ": "target acquisition",
    "NRC_TACONFIRM": "confirmation of a target acquisition",
    "NRC_CORON": "coronagraphy",
    "NRC_GRISM": "grism spectroscopy",
    "NRC_WFSS": "grism spectroscopy",
    "NRC_TSGRISM": "grism spectroscopy",
    "NRC_TSIMAGE": "a time series",
    "NRC_DARK": "a dark",
    "NRC_FLAT": "a flat field",
    "NRC_FOCUS": "focus",
    "NRC_LED": "a lamp",
}


def other_mode(primary: Mapping[str, Any], detector: str) -> str:
    """Why an exposure is not NIRCam imaging; '' if it is.

    Parameters
    ----------
    primary : values of EXP_TYPE, PUPIL and CORONMSK of the primary header
    detector : by the name of the file, in upper case
    """
    if detector not in DETECTORS:
        return f"detector {detector} is not one of NIRCam"
    kind, pupil = text(primary.get("EXP_TYPE")).upper(), text(primary.get("PUPIL")).upper()
    if kind and kind not in IMAGING:
        return f"EXP_TYPE {kind}{f', {KINDS[kind]}' if kind in KINDS else ''}, is not imaging"
    if pupil in OTHER_PUPILS:
        return f"PUPIL {pupil} is {OTHER_PUPILS[pupil]}, not a filter for imaging"
    mask = text(primary.get("CORONMSK")).upper()
    return f"CORONMSK {mask}: coronagraphy, not imaging" if mask not in ("", "NONE") else ""
