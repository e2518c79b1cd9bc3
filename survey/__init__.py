"""Distributed reduction of JWST imaging surveys, from a program number to science-ready mosaics.

import survey
config = survey.load_config("configs/demo.yaml")
plan = survey.plan(config, survey.find_exposures(config))
run = survey.run(config, client=client)      # any dask Client
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module. Resolved on first use: `survey --help` must not wait for what it does not need.
_PUBLIC = {
    "SurveyConfig": "survey.config",
    "load_config": "survey.admission",
    "find_exposures": "survey.inputs",
    "held_exposures": "survey.inputs",
    "fetch": "survey.inputs",
    "sync_references": "survey.inputs",
    "plan": "survey.reduction",
    "run": "survey.reduction",
    "mosaic": "survey.reduction",
    "plan_states": "survey.inspection",
    "status": "survey.inspection",
    "explain": "survey.inspection",
    "verify": "survey.inspection",
    "cutout": "survey.mosaics",
    "exposures_at": "survey.mosaics",
    "open_mosaic": "survey.mosaics",
    "read_wcs": "survey.mosaics",
    "SurveyError": "survey.errors",
}

__all__ = [
    "SurveyConfig",
    "SurveyError",
    "__version__",
    "cutout",
    "explain",
    "exposures_at",
    "fetch",
    "find_exposures",
    "held_exposures",
    "load_config",
    "mosaic",
    "open_mosaic",
    "plan",
    "plan_states",
    "read_wcs",
    "run",
    "status",
    "sync_references",
    "verify",
]

if TYPE_CHECKING:
    from survey.admission import load_config
    from survey.config import SurveyConfig
    from survey.errors import SurveyError
    from survey.inputs import fetch, find_exposures, held_exposures, sync_references
    from survey.inspection import explain, plan_states, status, verify
    from survey.mosaics import cutout, exposures_at, open_mosaic, read_wcs
    from survey.reduction import mosaic, plan, run


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'survey' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
