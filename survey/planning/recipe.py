"""What can be said of a config before anything starts: by the installed pipeline's steps, and by the engines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from survey.config.model import SurveyConfig
from survey.config.pipeline_spec import missing_files
from survey.config.sections import SCALES_ARCSEC
from survey.planning.tiled import faults as tiled_faults
from survey.steps.registry import REGISTRY, check_chain


def check(config: SurveyConfig) -> tuple[dict[str, dict[str, Any]], dict[str, Any], list[str]]:
    """Check everything of a config that the installed pipeline has a say in.

    Returns
    -------
    chain : {step: settings}, per exposure
    image3 : settings of Image3, the config's grid included
    faults : list of str
    """
    chain, faults = check_chain(config.steps)
    mosaic = config.mosaic
    given = {**mosaic.image3, "resample": {**_mapping(mosaic.image3.get("resample")), **mosaic.grid}}
    twice = sorted(set(_mapping(mosaic.image3.get("resample"))) & set(mosaic.grid))
    faults += [
        f"mosaic.image3.resample.{name}: {name!r} is also given by mosaic's own grid; write it once." for name in twice
    ]
    image3, found = REGISTRY["image3"].settings(given if given["resample"] else mosaic.image3, "mosaic.image3")
    faults += found
    faults += _grid_faults(_mapping(image3.get("resample")), "mosaic.image3.resample")
    if mosaic.engine == "tiled":
        faults += tiled_faults(image3)
    else:
        faults += [f"mosaic.{name}: only 'engine: tiled' can do this." for name in ("alignment", "align_to")
                   if getattr(mosaic, name) is not None]  # fmt: skip
    if mosaic.align_to is not None:
        others = ["abs_refcat"] if str(_mapping(image3.get("tweakreg")).get("abs_refcat") or "").strip() else []
        others += ["mosaic.alignment"] if mosaic.alignment is not None else []
        faults += [f"mosaic.align_to: {name} is given as well; an alignment has one reference." for name in others]
    if mosaic.align_to is not None and config.filters is not None and mosaic.align_to not in config.filters:
        faults.append(f"mosaic.align_to: {mosaic.align_to} is not among the config's filters.")
    return chain, image3, faults


def _grid_faults(resample: Mapping[str, Any], where: str) -> list[str]:
    """Scales and positions that no mosaic of this instrument has: most are slips of the unit."""
    low, high = SCALES_ARCSEC
    found = []
    for name, least, most in (("pixel_scale", low, high), ("pixel_scale_ratio", low / 0.1, high / 0.01)):
        value = resample.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            found.append(f"{where}.{name}: {value}: expected {least:g} to {most:g}.")
    crval = resample.get("crval")
    if isinstance(crval, list | tuple) and len(crval) == 2 and not (0 <= crval[0] < 360 and -90 <= crval[1] <= 90):
        found.append(f"{where}.crval: {list(crval)} is not on the sky.")
    return found


def not_there(config: SurveyConfig, chain: Mapping[str, Any], image3: Mapping[str, Any]) -> list[str]:
    """Faults for files and folders that a config names, and that are not there."""
    alignment = {} if config.mosaic.alignment is None else {"alignment": str(config.mosaic.alignment)}
    faults = missing_files(chain, "steps") + missing_files(image3, "mosaic.image3") + missing_files(alignment, "mosaic")
    place = config.workspace
    if os.path.exists(place) and not os.path.isdir(place):
        faults.append(f"workspace: {place}: is no folder; expected one, or a name that is free.")
    if config.archive.local is not None and not config.archive.local.is_dir():
        faults.append(f"archive.local: {config.archive.local}: no such folder; expected one of *_uncal.fits.")
    return faults


def mosaics_follow(config: SurveyConfig) -> bool:
    """Whether the config's steps end in what a mosaic is made of."""
    chain = list(check(config)[0])
    return bool(chain) and REGISTRY[chain[-1]].produces == REGISTRY["association"].accepts


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
