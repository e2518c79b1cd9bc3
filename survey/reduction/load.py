"""Load a config file and check it, with the options of the run that follows, before anything starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from survey import references as crds_references
from survey.config.model import SurveyConfig, read_config
from survey.errors import ConfigError
from survey.messages import nearest
from survey.planning.recipe import checked, path_faults
from survey.reduction.options import RunOptions, combined
from survey.steps.registry import mosaic_steps
from survey.user_files import setting_faults


def load_config(
    path: Path | str,
    *,
    workspace: Path | str | None = None,
    context: str | None = None,
    options: RunOptions | None = None,
    **keywords: Any,
) -> SurveyConfig:
    """Read a config file and check all of it: keys, values, steps, parameters, context.

    Parameters
    ----------
    path : YAML file
    workspace, context : replace the file's, as ``--workspace`` and ``--context`` do
    options, keywords : of the run that follows, to be checked as well; see `survey.run`

    Raises
    ------
    ConfigError
        Every fault, with file, line and the nearest name that is known.
    """
    chosen, _ = combined(options, None, keywords)
    return read_config(path, workspace=workspace, context=context, check=lambda config: config_faults(config, chosen))


def check_config(config: SurveyConfig, options: RunOptions | None = None) -> None:
    """Check a config, and the options of its run, before anything starts.

    Raises
    ------
    ConfigError
        Wrong steps, parameters, context, last step, cluster address or certificates; every fault is named.
    """
    faults = config_faults(config, options or RunOptions())
    if faults:
        raise ConfigError(faults)


def config_faults(config: SurveyConfig, options: RunOptions) -> list[str]:
    """Faults of a config beyond those of its keys and values, and of the options of its run, with file and line."""
    recipe = checked(config)
    faults = [*recipe.faults, *path_faults(config)]
    mosaics = mosaic_steps(config.mosaic.engine) if recipe.makes_mosaics else ()
    until = options.until
    if until is not None and until not in [*recipe.chain, *mosaics]:
        faults.append(f"--until {until}: not a step of this config{nearest(until, [*recipe.chain, *mosaics])}")
    if options.remake is not None and options.remake not in [*recipe.chain, *mosaics]:
        near = nearest(options.remake, [*recipe.chain, *mosaics])
        faults.append(f"--remake {options.remake}: not a step of this config{near}")
    try:
        crds_references.pin(config.references.context, config.references.server)
    except ConfigError as error:
        faults += error.faults
    faults = [*config.located(faults), *setting_faults(os.environ)]
    if options.cluster not in (None, "local") or options.tls is not None:
        from survey.cluster.addresses import cluster_faults

        faults += cluster_faults(options.cluster, options.tls, options.insecure)  # name the deploy file
    return faults
