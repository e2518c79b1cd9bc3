"""The exposures that a plan is made of: from the archive, or without one from the files in the workspace."""

from __future__ import annotations

from dataclasses import dataclass

from survey.config.model import SurveyConfig
from survey.errors import ServiceUnreachableError
from survey.models import Exposure
from survey.reduction.inputs import find_exposures, listed_exposures, no_raw_files
from survey.reduction.options import Say, silent

ARCHIVE, FOLDER, WORKSPACE = "archive", "folder", "workspace"


@dataclass(frozen=True)
class Known:
    """Exposures, and where they are known from."""

    exposures: tuple[Exposure, ...]
    source: str  # 'archive', 'folder' (archive.local) or 'workspace': raw files that were fetched before


def known_exposures(config: SurveyConfig, *, offline: bool = False, say: Say = silent) -> Known:
    """The program's exposures; when the archive does not answer, those whose raw files are in the workspace.

    Parameters
    ----------
    offline : ask no server
    say : takes the note that the archive did not answer

    Raises
    ------
    ServiceUnreachableError
        The archive does not answer, and the workspace has no raw files.
    ServiceError
        The archive refuses.
    SurveyError
        No exposure matches the config; with ``offline``, the workspace has no raw files.
    """
    if config.archive.local is not None:
        return Known(find_exposures(config, say=say), FOLDER)
    if offline:
        held = listed_exposures(config)
        if not held:
            raise no_raw_files(config)
        return Known(held, WORKSPACE)
    try:
        return Known(find_exposures(config, say=say), ARCHIVE)
    except ServiceUnreachableError as error:
        held = listed_exposures(config)
        if not held:
            raise
        say(
            f"{error}\nGoing on without the archive, with the {len(held)} exposures in {config.workspace}/raw; "
            "others of the program are not counted. --offline skips the attempt."
        )
        return Known(held, WORKSPACE)


def without_server(config: SurveyConfig) -> SurveyConfig:
    """The same config with a CRDS cache that no server fills."""
    return config.model_copy(update={"references": config.references.model_copy(update={"server": None})})
