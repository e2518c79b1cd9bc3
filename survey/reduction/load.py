"""A config is read and checked whole, and refused with every fault at once, before anything starts."""

from __future__ import annotations

from pathlib import Path

from survey import references as crds_references
from survey.config.model import SurveyConfig, read_config
from survey.errors import ConfigError
from survey.messages import nearest
from survey.planning.recipe import checked, path_faults
from survey.planning.tiled import STEPS as TILED


def load_config(
    path: Path | str,
    *,
    workspace: Path | str | None = None,
    context: str | None = None,
    until: str | None = None,
    cluster: str | None = None,
    tls: Path | None = None,
    insecure: bool = False,
) -> SurveyConfig:
    """Read a config file and check it, all of it at once: keys, values, steps, parameters, context.

    Parameters
    ----------
    path : YAML file
    workspace, context : replace the file's, as ``--workspace`` and ``--context`` do
    until, cluster, tls, insecure : of a run that is to follow

    Raises
    ------
    ConfigError
        Every fault, with file, line and the nearest name that is known.
    """

    def faults(config: SurveyConfig) -> list[str]:
        return config_faults(config, until, cluster, tls, insecure)

    return read_config(path, workspace=workspace, context=context, check=faults)


def check_config(
    config: SurveyConfig,
    *,
    until: str | None = None,
    cluster: str | None = None,
    tls: Path | None = None,
    insecure: bool = False,
) -> None:
    """Refuse what can be refused before anything starts, all of it at once.

    Raises
    ------
    ConfigError
        Wrong steps, parameters, context, last step, cluster address or certificates; every fault is named.
    """
    faults = config_faults(config, until, cluster, tls, insecure)
    if faults:
        raise ConfigError(config.located(faults))


def config_faults(
    config: SurveyConfig,
    until: str | None = None,
    cluster: str | None = None,
    tls: Path | None = None,
    insecure: bool = False,
) -> list[str]:
    """What is wrong with a config whose keys and values are those of the model."""
    recipe = checked(config)
    faults = [*recipe.faults, *path_faults(config)]
    behind = (
        ["sources", "association", *TILED] if config.mosaic.engine == "tiled" else ["association", "image3", "mosaic"]
    )
    mosaics = behind if recipe.makes_mosaics else []
    if until is not None and until not in [*recipe.chain, *mosaics]:
        faults.append(f"--until {until}: not a step of this config{nearest(until, [*recipe.chain, *mosaics])}")
    if cluster not in (None, "local") or tls is not None:
        from survey.cluster.addresses import cluster_faults

        faults += cluster_faults(cluster, tls, insecure)
    try:
        crds_references.pin(config.references.context, config.references.server)
    except ConfigError as error:
        faults += error.faults
    return faults
