"""Single steps of Image3, configured as the pipeline does.

A parameter is taken from the step's default, the step's CRDS parameter file, the pipeline's CRDS parameter file and the
config; later ones take precedence.
"""

from __future__ import annotations

import importlib
from typing import Any

from survey.errors import TaskError
from survey.steps.base import Job
from survey.steps.pipeline import plain, reject_remote_hooks

PIPELINE = "jwst.pipeline.calwebb_image3:Image3Pipeline"


def part(job: Job, name: str) -> Any:
    """Create a step of Image3, such as 'tweakreg', with the parameters of a job.

    Raises
    ------
    TaskError
        A planned parameter file is not in the cache; see also `reject_remote_hooks`.
    """
    from configobj import ConfigObj
    from stpipe.config_parser import merge_config

    cls = step_class(name)
    config = ConfigObj()
    for kind in (f"pars-{cls.__name__.lower()}", "pars-image3pipeline"):
        if kind in job.references:
            found = _load(job.references[kind])
            merge_config(config, found.get("steps", {}).get(name, ConfigObj()) if kind.endswith("pipeline") else found)
    merge_config(config, ConfigObj(dict(job.settings.get(name, {}))))
    for key in ("class", "name", "logcfg", "steps"):
        config.pop(key, None)
    reject_remote_hooks(config, f"{name}.")
    return cls.from_config_section(config, name=name)


def step_class(name: str) -> Any:
    """The class of a step of Image3."""
    module, _, pipeline = PIPELINE.partition(":")
    return getattr(importlib.import_module(module), pipeline).step_defs[name]


def parameters(step: Any) -> dict[str, Any]:
    """Every parameter of a step as JSON types, for the record."""
    return dict(plain(step.get_pars()))


def _load(file: str) -> Any:
    from crds.core import config as crds_config
    from stpipe.config_parser import load_config_file

    path = crds_config.locate_file(file, observatory="jwst")
    try:
        return load_config_file(str(path))
    except OSError as error:
        raise TaskError(f"{file}: not in the CRDS cache ({error}); run 'survey refs' again.") from error
