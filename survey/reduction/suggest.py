"""A complete config for a program, suggested from what the archive lists of it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from survey import __version__
from survey import references as crds_references
from survey.archive.query import Program, find_program
from survey.config.commented import write_commented
from survey.errors import ConfigError, ReferencesError, ServiceError, SurveyError
from survey.reduction.options import Say, silent
from survey.reduction.suggested_grid import GridChoice, choose_grid, count, pixel_scale_arcsec

TIMEOUT_SECONDS = 45.0  # as the default of archive.timeout_seconds
# Advice of `survey.archive`, which names keys of a config -> the same with the options of a command without a config.
OPTIONS = {
    "Check program and archive.server": "Check the program's number and --server",
    "Check archive.server": "Check --server",
    "Try again later, or lengthen archive.timeout_seconds": "Check --server; try again later",
    "Change filters or observations": "Change --filter or --observation",
}
MAX_CATALOGUE_PX = 2e8  # the source catalogue of a larger mosaic takes more than 32 GB
# Recommended settings, as of the CEERS team (Bagley et al. 2023, ApJL 946, L12).
JUMP = {
    "rejection_threshold": 4.0,
    "four_group_rejection_threshold": 5.0,
    "three_group_rejection_threshold": 6.0,
    "expand_large_events": True,
    "min_jump_area": 6.0,
    "max_extended_radius": 200,
}
STEPS: tuple[dict[str, Any], ...] = ({"detector1": {"jump": JUMP}}, {"subtract_striping": {}}, {"image2": {}})
STEP_NOTES = (
    "  detector1: jumps above 4 sigma, 5 and 6 in ramps of four and three groups; expand_large_events: snowballs",
    "  subtract_striping: removes 1/f noise from rate images",
)
IMAGE3: dict[str, Any] = {
    "tweakreg": {"expand_refcat": True},
    "skymatch": {"skymethod": "match"},
    "outlier_detection": {"snr": "5.0 4.0", "scale": "1.2 0.7", "maskpt": 0.7},
}
IMAGE3_NOTES = (
    "  tweakreg: without expand_refcat, exposures that miss the first group stay unaligned, without a warning",
    "  source_catalog: is skipped for large mosaics, since it takes 160 bytes of memory a pixel",
)


@dataclass(frozen=True)
class Server:
    """A server's address, and the text that the config has for it: the address, or a variable with a default."""

    url: str
    written: str


@dataclass(frozen=True)
class Request:
    """What to suggest a config for."""

    program: int
    archive: Server
    crds: Server
    cache: str  # folder of reference files, as the config has it
    workspace: str
    observations: tuple[int, ...] | None = None  # None: all that the archive has
    filters: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Suggestion:
    """A config as text, and what it was made from."""

    text: str
    counts: Mapping[str, Mapping[int, int]]  # filter -> observation -> exposures
    choice: GridChoice
    context: str | None
    notes: tuple[str, ...]  # what a user has to fill in or to decide


def survey_name(program: int) -> str:
    return f"jw{program:05d}"


def suggest(request: Request, *, say: Say = silent) -> Suggestion:
    """Ask the archive for a program's exposures and the CRDS server for its context, and write a config.

    Parameters
    ----------
    request : the program, and the servers to ask
    say : called with messages

    Raises
    ------
    ServiceError
        The archive does not answer, or refuses. A CRDS server that does not leaves a placeholder in the config.
    ConfigError
        The archive lists no NIRCam imaging of the program, or none of these observations and filters.
    """
    try:
        found = find_program(
            request.program, server=request.archive.url, observations=request.observations, filters=request.filters,
            timeout_seconds=TIMEOUT_SECONDS,
        )  # fmt: skip
    except ServiceError as error:
        raise type(error)(_with_options(error)) from error
    except SurveyError as error:
        raise ConfigError(_with_options(error)) from error
    say(f"{len(found.exposures)} exposures of program {request.program}")
    try:
        context: str | None = crds_references.operational_context(request.crds.url)
    except (ServiceError, ReferencesError) as error:
        say(str(error))
        context = None
    return write(request, found, context)


def _with_options(error: SurveyError) -> str:
    """The message of an error, with the options of the command in place of the keys of a config."""
    message = str(error)
    for keys, options in OPTIONS.items():
        message = message.replace(keys, options)
    return message


def write(request: Request, found: Program, context: str | None) -> Suggestion:
    """The config for exposures that were found; without a context it has a placeholder."""
    counts, choice = count(found), choose_grid(found)
    notes = list(choice.warnings)
    if context is None:
        notes.append(
            f"references.context is not filled in, since {request.crds.url} did not give its operational context. "
            "Write the name of the context that you want."
        )
    text = write_commented(_values(request, counts, choice, context), _notes(request, counts, choice, context))
    return Suggestion(text, counts, choice, context, tuple(notes))


def _values(
    request: Request, counts: Mapping[str, Mapping[int, int]], choice: GridChoice, context: str | None
) -> dict[str, Any]:
    grid = choice.grid
    mosaic: dict[str, Any] = {
        "per": choice.per[0] if len(choice.per) == 1 else choice.per,
        "pixel_scale_arcsec": pixel_scale_arcsec(counts),
    }
    if grid is not None:
        mosaic |= {name: getattr(grid, name) for name in ("crval_deg", "crpix", "rotation_deg", "shape")}
    is_large = grid is None or grid.shape[0] * grid.shape[1] > MAX_CATALOGUE_PX
    image3 = {**IMAGE3, **({"source_catalog": {"skip": True}} if is_large else {})}
    return {
        "survey": survey_name(request.program),
        "program": request.program,
        "observations": sorted({number for row in counts.values() for number in row}),
        "filters": list(counts),
        "archive": {"server": request.archive.written},
        "references": {
            "server": request.crds.written,
            "context": context or crds_references.PLACEHOLDER,
            "cache": request.cache,
        },
        "steps": STEPS,
        "mosaic": mosaic | {"pixfrac": 1.0, "kernel": "square", "weight": "ivm", "image3": image3},
        "workspace": request.workspace,
    }


def _notes(
    request: Request, counts: Mapping[str, Mapping[int, int]], choice: GridChoice, context: str | None
) -> dict[str, Sequence[str]]:
    today = datetime.datetime.now(datetime.UTC).date()
    by_observation: dict[int, dict[str, int]] = {}
    for name, row in counts.items():
        for number, exposures in row.items():
            by_observation.setdefault(number, {})[name] = exposures
    return {
        "": (
            f"NIRCam imaging of JWST program {request.program}, as listed by {request.archive.url} on {today}.",
            f"Written by 'survey init' of survey {__version__}. 'survey plan' shows what it takes.",
        ),
        "observations": [
            f"  {number}: {_exposures(sum(row.values()))} ({', '.join(f'{name} {row[name]}' for name in row)})"
            for number, row in sorted(by_observation.items())
        ],
        "filters": [f"  {name}: {_exposures(sum(row.values()))}" for name, row in counts.items()],
        "references.context": (
            f"the operational context of the server on {today}" if context
            else f"NOT FILLED IN, since {request.crds.url} gave no name. Write that of the context that you want",
        ),
        "steps": STEP_NOTES,
        "mosaic.per": choice.per_comments,
        "mosaic.pixel_scale_arcsec": ("  one scale for all filters, so that their pixels are aligned",),
        "mosaic.crval_deg": [f"  {line}" for line in choice.comments],
        "mosaic.image3": IMAGE3_NOTES,
    }  # fmt: skip


def _exposures(number: int) -> str:
    return f"{number} exposure{'s' if number != 1 else ''}"
