"""Inputs of a reduction: exposures, their raw files, and the reference files that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from survey import references as crds_references
from survey.archive import held as archive_held
from survey.archive import local as archive_local
from survey.archive.ledger import LEDGER, Ledger
from survey.config.model import SurveyConfig
from survey.config.pipeline_spec import override_files
from survey.credentials import token
from survey.errors import ConfigError, DownloadError, NoExposuresError, ProductNameError, ReferencesError, SurveyError
from survey.models import LOST, REMOVED, Exposure
from survey.names import ExposureName, split_file
from survey.planning.recipe import recipe_of
from survey.reduction.options import Progress, Say, silent
from survey.reduction.selection import select
from survey.references import References
from survey.steps.parameter_files import content_digest
from survey.steps.registry import IMAGE3, row_for
from survey.workspace.folders import Workspace

MAX_SHOWN = 20  # faults of one kind in a message


def find_exposures(config: SurveyConfig, *, say: Say = silent) -> tuple[Exposure, ...]:
    """Find the programs' exposures in the archive, or in the folder of raw files that the config names.

    For files in the workspace, sha256, time, number of groups and footprint are taken from the ledger of downloads.
    Exposures that the config excludes, or whose files were found to be of another mode, have ``excluded`` set.

    Raises
    ------
    ServiceError
        The archive cannot be reached or refuses.
    NoExposuresError
        No exposure matches the config, or one of its programs has no imaging.
    ConfigError
        A pattern of ``exclude`` matches no exposure.
    """
    found: list[Exposure] = []
    absent: list[NoExposuresError] = []
    for program in config.programs:
        try:
            found += _of_program(config, program, say)
        except NoExposuresError as error:  # one of several programs may lack a filter
            absent.append(error)
            if not error.has_imaging:
                raise
    if not found:
        raise NoExposuresError("\n".join(map(str, absent)), has_imaging=True)
    for nothing in absent:
        say(str(nothing))
    found.sort(key=lambda item: item.name)
    if config.archive.local is not None:
        return select(config, archive_held.expected(found, config.folders.raw, {}, local=True))
    known = archive_held.known(found, config.folders.raw)
    # A file that is gone is fetched again: what its header said decides, too.
    chosen = select(config, archive_held.expected(known, config.folders.raw, {}))
    return tuple(replace(item, excluded=choice.excluded) for item, choice in zip(known, chosen, strict=True))


def _of_program(config: SurveyConfig, program: int, say: Say) -> list[Exposure]:
    """Exposures of one of the config's programs, as its rows or headers describe them."""
    archive, observations = config.archive, config.observations_of(program)
    if archive.local is not None:
        listed = archive_local.search(
            archive.local,
            program,
            observations=observations,
            filters=config.filters,
            cache=Ledger(config.folders.raw / LEDGER),
        )
        for name, cause in listed.faults.items():
            say(f"{name}: {cause}")
        return [*listed.exposures, *listed.left_out, *_unreadable(config, program, listed.faults)]
    from survey.archive.query import find_exposures as ask_archive

    return list(
        ask_archive(
            program,
            server=archive.server,
            observations=observations,
            filters=config.filters,
            timeout_seconds=archive.timeout_seconds,
            retries=archive.retries,
        )
    )


def _unreadable(config: SurveyConfig, program: int, faults: Mapping[str, str]) -> list[Exposure]:
    """Files of a program that cannot be read, as exposures with a fault and without a filter."""
    found = []
    for filename, cause in faults.items():
        try:
            name, suffix = split_file(filename)
        except ProductNameError:
            continue
        if not isinstance(name, ExposureName) or suffix != "uncal" or name.program != program:
            continue
        if config.includes(program, name.observation):
            base = (str(name), name.program, name.observation, name.visit, name.detector, "")
            found.append(Exposure(*base, fault=cause))
    return found


def fetch(
    config: SurveyConfig,
    exposures: Sequence[Exposure] | None = None,
    *,
    progress: Progress | None = None,
    say: Say = silent,
) -> tuple[Exposure, ...]:
    """Download missing raw files into the workspace, or link those of a folder, and verify all of them.

    Parameters
    ----------
    exposures : of `find_exposures`; default: found here
    progress, say : called with the progress of downloads, and with messages

    Returns
    -------
    exposures : with the sha256 of each file, and the facts of its header; then those that are left out, with the cause
        in ``excluded``: a file that turns out to be of another mode is not kept. Faults of the pointing are known from
        headers alone: such a file is fetched and kept, though the config excludes it

    Raises
    ------
    DownloadError
        Some files could not be fetched; they are named, the others are kept.
    ServiceError, DiskFullError
    """
    from survey.archive.download import FetchSettings
    from survey.archive.fetch import fetch as download
    from survey.archive.raw import link_local

    wanted = find_exposures(config, say=say) if exposures is None else tuple(exposures)
    workspace = config.folders
    workspace.create()
    if config.archive.local is not None:
        left_out = tuple(exposure for exposure in wanted if exposure.excluded)
        wanted = tuple(exposure for exposure in wanted if not exposure.excluded)
        readable = [exposure for exposure in wanted if not exposure.fault]
        good, missing = link_local(readable, workspace.raw, progress=progress)
        missing |= {exposure.name: exposure.fault for exposure in wanted if exposure.fault}
        if missing:
            raise DownloadError(missing)
        return select(config, (*good, *left_out), complete=False)
    settings = FetchSettings(
        downloads=config.archive.downloads,
        retries=config.archive.retries,
        timeout_seconds=config.archive.timeout_seconds,
    )
    report = download(
        wanted,
        workspace.raw,
        server=config.archive.server,
        token=token(),
        settings=settings,
        progress=progress,
    )
    if report.error is not None:
        raise report.error
    return select(config, (*report.exposures, *report.left_out), complete=False)


def forget_rejected(config: SurveyConfig) -> int:
    """Forget which files in the workspace were found to be of another mode, so that `fetch` downloads them again."""
    return archive_held.forget(config.folders.raw)


def sync_references(config: SurveyConfig, exposures: Sequence[Exposure]) -> References:
    """Fetch and verify the CRDS context and the reference files of exposures; see `survey.references.sync`.

    Exposures for which the context has no file are not an error here, unless all of them are: see `unreferenced`.

    Raises
    ------
    ReferencesError
        A file could not be fetched or verified, or no exposure has all the files that it needs.
    """
    workspace = config.folders
    try:
        found = crds_references.sync(
            raw_files(workspace, exposures),
            config.references,
            types=types_needed(config),
            record=workspace.references,
        )
    except ConfigError as error:
        raise ConfigError(config.located(error.faults)) from error
    faults = unreferenced(config, exposures, found)
    if len(faults) == len(exposures):
        raise ReferencesError("\n".join(f"{name}: {why}" for name, why in sorted(faults.items())[:MAX_SHOWN]))
    return found


def unreferenced(config: SurveyConfig, exposures: Sequence[Exposure], found: References) -> dict[str, str]:
    """Find exposures that lack a reference file of a type that one of the config's steps needs.

    Returns
    -------
    faults : name of the exposure -> step, type and context
    """
    chain = recipe_of(config).chain
    faults = {}
    for exposure in exposures:
        if exposure.is_given or exposure.name not in found.exposures:
            continue
        for name, settings in chain.items():
            lacking = found.not_found(exposure.name, row_for(name, settings).reference_types(settings))
            if lacking:
                kind = min(lacking)
                faults[exposure.name] = (
                    f"step {name!r} needs a {kind} file; context {found.context} has none: {lacking[kind]}"
                )
                break
    return faults


def look_up(config: SurveyConfig, exposures: Sequence[Exposure]) -> References:
    """Fetch and verify the reference files of exposures under the config's context, without recording them.

    Raises
    ------
    SurveyError
        There are no exposures.
    """
    if not exposures:
        raise no_raw_files(config)
    return crds_references.sync(raw_files(config.folders, exposures), config.references, types=types_needed(config))


def types_needed(config: SurveyConfig) -> tuple[str, ...] | None:
    """Reference types of the pipeline and of other people's steps; None when these need no further ones."""
    recipe = recipe_of(config)
    own = set(crds_references.reference_types()) if recipe.packages else set()
    settings = {**recipe.chain, IMAGE3.name: recipe.image3}
    types = {kind for name in recipe.packages for kind in row_for(name, settings[name]).reference_types(settings[name])}
    return tuple(sorted(own | types)) if types - own else None


def no_raw_files(config: SurveyConfig) -> SurveyError:
    """The error for a workspace without verified raw files of the config; there may be files that are not verified."""
    return SurveyError(
        f"{config.workspace}/raw: no verified raw files of this config. Run 'survey fetch', which also verifies files "
        "that are there."
    )


def held_exposures(config: SurveyConfig) -> tuple[Exposure, ...]:
    """The config's exposures whose verified raw files are in the workspace, as the ledger of downloads lists them.

    Also those whose raw files were removed by `survey tidy`; their headers are still there.
    """
    return tuple(item for item in listed_exposures(config) if not item.excluded and item.absent != LOST)


def listed_exposures(config: SurveyConfig) -> tuple[Exposure, ...]:
    """The exposures of `held_exposures`, those whose raw files are gone and will be fetched again, and excluded ones.

    ``excluded`` is the cause why an exposure is left out.
    """
    raw = config.folders.raw
    found = (
        exposure
        for exposure in (*archive_held.recorded(raw), *archive_held.rejected(raw))
        if config.includes(exposure.program, exposure.observation)
        and (config.filters is None or exposure.filter in config.filters)
    )
    return select(config, sorted(found, key=lambda item: item.name), complete=False)


def raw_files(workspace: Workspace, exposures: Sequence[Exposure]) -> dict[str, Path]:
    """Files from whose headers reference files are chosen: name of the exposure -> raw file, or supplied cal file.

    Of a raw file that was removed to make room it is the header that was kept.
    """
    return {name: path for name, path in header_files(workspace, exposures).items() if path is not None}


def header_files(workspace: Workspace, exposures: Sequence[Exposure]) -> dict[str, Path | None]:
    """As `raw_files`; None for exposures that are known, and whose header is not there."""
    found: dict[str, Path | None] = {}
    for exposure in exposures:
        if not exposure.sha256 or exposure.excluded:
            continue
        if exposure.is_given:
            found[exposure.name] = Path(exposure.uri)
        elif exposure.absent:
            kept = archive_held.header_path(workspace.raw, exposure.file)
            found[exposure.name] = kept if exposure.absent == REMOVED else None
        else:
            linked, source = workspace.raw / exposure.file, Path(exposure.uri)
            found[exposure.name] = linked if linked.exists() or not source.is_file() else source
    return found


def override_digests(config: SurveyConfig) -> dict[str, str]:
    """sha256 of every file that a parameter names: reference files, catalogues, WCS files, lists of sky levels.

    That of a catfile includes the catalogues that it lists, that of a folder of alignments all its files of exposures
    that can hold an aligned WCS.

    Raises
    ------
    ConfigError
        Files that do not exist; all are named.
    """
    recipe = recipe_of(config)
    alignment = config.mosaic.alignment
    folder = {} if alignment is None else {"alignment": str(alignment.absolute())}
    paths = override_files({**recipe.chain, "image3": recipe.image3, **folder})
    faults = [f"{path}: not found; a parameter of the config names it." for path in paths if not Path(path).exists()]
    if faults:
        raise ConfigError(faults)
    return {path: content_digest(Path(path)) for path in paths}
