"""Distributed reduction of JWST imaging surveys, from a program number to science-ready mosaics.

import survey
config = survey.load_config("configs/demo.yaml")
plan = survey.plan(config, survey.find_exposures(config))
run = survey.run(config, client=client)      # any dask Client
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

# Public name -> module. Resolved on first use: `survey --help` must not wait for what it does not need.
_PUBLIC = {
    "SurveyConfig": "survey.config.model",
    "RunOptions": "survey.reduction.options",
    "Callbacks": "survey.reduction.options",
    "load_config": "survey.reduction.load",
    "find_exposures": "survey.reduction.inputs",
    "held_exposures": "survey.reduction.inputs",
    "fetch": "survey.reduction.inputs",
    "sync_references": "survey.reduction.inputs",
    "plan": "survey.reduction.job",
    "run": "survey.reduction.job",
    "mosaic": "survey.reduction.job",
    "plan_states": "survey.reduction.inspection",
    "status": "survey.reduction.inspection",
    "explain": "survey.reduction.inspection",
    "verify": "survey.reduction.inspection",
    "cutout": "survey.mosaics.groups",
    "exposures_at": "survey.mosaics.groups",
    "open_mosaic": "survey.mosaics.groups",
    "read_wcs": "survey.mosaics.groups",
    "SurveyError": "survey.errors",
}

__all__ = [
    "Callbacks",
    "RunOptions",
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
    from survey.config.model import SurveyConfig
    from survey.errors import SurveyError
    from survey.mosaics.groups import cutout, exposures_at, open_mosaic, read_wcs
    from survey.reduction.inputs import fetch, find_exposures, held_exposures, sync_references
    from survey.reduction.inspection import explain, plan_states, status, verify
    from survey.reduction.job import mosaic, plan, run
    from survey.reduction.load import load_config
    from survey.reduction.options import Callbacks, RunOptions


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'survey' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
