"""What can be said of a config before anything starts: by the installed pipeline's steps, and by the engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from survey.config import SurveyConfig
from survey.pipeline_spec import missing_files
from survey.steps import REGISTRY, check_chain
from survey.tiled import faults as tiled_faults


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


def not_there(config: SurveyConfig, chain: Mapping[str, Any], image3: Mapping[str, Any]) -> list[str]:
    """Faults for files and folders that a config names, and that are not there."""
    alignment = {} if config.mosaic.alignment is None else {"alignment": str(config.mosaic.alignment)}
    faults = missing_files(chain, "steps") + missing_files(image3, "mosaic.image3") + missing_files(alignment, "mosaic")
    if config.archive.local is not None and not config.archive.local.is_dir():
        faults.append(f"archive.local: {config.archive.local}: no such folder; expected one of *_uncal.fits.")
    return faults


def mosaics_follow(config: SurveyConfig) -> bool:
    """Whether the config's steps end in what a mosaic is made of."""
    chain = list(check(config)[0])
    return bool(chain) and REGISTRY[chain[-1]].produces == REGISTRY["association"].accepts


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
