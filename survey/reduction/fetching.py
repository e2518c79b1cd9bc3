"""Fetch raw files for a run: those that are missing, and those that were removed to make room and are needed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from survey.archive import held as archive_held
from survey.config.model import SurveyConfig
from survey.errors import DownloadError
from survey.models import UNAVAILABLE, Exposure
from survey.reduction.inputs import fetch
from survey.reduction.options import Callbacks
from survey.reduction.selection import select


def fetch_some(
    config: SurveyConfig, callbacks: Callbacks, exposures: Sequence[Exposure], wanted: Sequence[Exposure]
) -> tuple[tuple[Exposure, ...], dict[str, str]]:
    """Fetch the raw files of some exposures, or link them.

    Parameters
    ----------
    exposures : all that a run is about
    wanted : those of them to fetch

    Returns
    -------
    exposures : all of them; those that were fetched with sha256 and facts of the header
    missing : exposure -> why its file could not be fetched
    """
    bare = [replace(item, sha256=None, absent="") if item.absent else item for item in wanted]
    missing: dict[str, str] = {}
    try:
        good = fetch(config, bare, progress=callbacks.progress, say=callbacks.say) if bare else ()
    except DownloadError as error:
        for line in str(error).splitlines():
            callbacks.say(line)
        good = select(config, archive_held.known(bare, config.folders.raw), complete=False)
        missing = error.missing
    by_name = {exposure.name: exposure for exposure in good}
    return tuple(by_name.get(exposure.name, exposure) for exposure in exposures), missing


def fetch_again(
    config: SurveyConfig,
    callbacks: Callbacks,
    exposures: Sequence[Exposure],
    needed: Sequence[Exposure],
    missing: Mapping[str, str],
) -> tuple[tuple[Exposure, ...], dict[str, str]]:
    """Fetch raw files that `survey tidy` removed and that tasks have to read.

    Parameters
    ----------
    exposures : all that a run is about
    needed : those of them whose raw files are not there, and are read
    missing : exposures whose files could not be fetched before -> why

    Returns
    -------
    exposures : all of them; without sha256 where the file cannot be had
    missing : exposure -> why its file could not be fetched
    """
    again = [exposure for exposure in needed if exposure.name not in missing]
    if again:
        gb = sum(exposure.size or 0 for exposure in again) / 1e9
        callbacks.say(f"{len(again)} raw files that survey tidy removed are fetched again ({gb:.2f} GB)")
    found, more = fetch_some(config, callbacks, exposures, again)
    names = {exposure.name for exposure in needed} & {*missing, *more}
    lost = [replace(item, sha256=None, absent=UNAVAILABLE) if item.name in names else item for item in found]
    return tuple(lost), more
