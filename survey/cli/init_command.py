"""`survey init`: write a config for a program."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from survey.cli.console import JSON, emit, say
from survey.errors import ConfigError
from survey.nircam import FILTERS
from survey.workspace.files import is_disk_full

if TYPE_CHECKING:
    from survey.reduction.suggest import Server, Suggestion

ARCHIVE, CRDS = "https://mast.stsci.edu", "https://jwst-crds.stsci.edu"
CACHE = "${CRDS_PATH:-crds_cache}"


class FilterName(click.Choice[str]):
    """A filter of the instrument, in upper or lower case."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value.upper(), param, ctx)


OBSERVATION = click.option(
    "--observation", "observations", multiple=True, type=click.IntRange(1, 999), metavar="NUMBER",
    help="Observation to take; may be repeated. Default: all.",
)  # fmt: skip
FILTER = click.option(
    "--filter", "filters", multiple=True, type=FilterName(FILTERS), metavar="NAME",
    help="Filter to take, such as F200W; may be repeated. Default: all.",
)  # fmt: skip


@click.command()
@click.argument("program", type=click.IntRange(1, 99999))
@click.option("--output", type=click.Path(path_type=Path), help="File to write; default: jwPPPPP.yaml.")
@click.option("--server", help=f"Archive to ask; default: $SURVEY_ARCHIVE_URL, or {ARCHIVE}.")
@click.option("--crds-server", help=f"CRDS server to ask; default: $SURVEY_CRDS_URL, or {CRDS}.")
@OBSERVATION
@FILTER
@click.option("--workspace", type=click.Path(path_type=Path), help="Folder of all products; default: runs/jwPPPPP.")
@JSON
def init(program: int, output: Path | None, workspace: Path | None, as_json: bool, **asked: Any) -> None:
    """Ask the archive for a PROGRAM and write a complete config for it, with a comment on each key.

    Filters and observations are those that the archive lists, the grid holds all footprints that it gives, the steps
    are the recommended ones, and the CRDS context is the one that the CRDS server recommends now. An existing file is
    kept.

    Example: survey init 1345 --output ceers.yaml
    """
    from survey.reduction.suggest import Request, suggest, survey_name
    from survey.workspace.files import create_file

    path = output or Path(f"{survey_name(program)}.yaml")
    _check_output(path)
    folder = str(workspace or Path("runs") / survey_name(program))
    crds = _server(asked["crds_server"], "SURVEY_CRDS_URL", CRDS, "--crds-server")
    request = Request(
        program,
        archive=_server(asked["server"], "SURVEY_ARCHIVE_URL", ARCHIVE, "--server"),
        crds=crds,
        cache=CACHE if crds.url == CRDS else f"{folder}-crds",
        workspace=folder,
        observations=tuple(sorted(set(asked["observations"]))) or None,
        filters=tuple(dict.fromkeys(asked["filters"])) or None,
    )
    made = suggest(request, say=say)
    if not create_file(path, made.text):
        raise ConfigError(f"{path}: exists, and is not overwritten. Give another --output.")
    emit(_document(path, made), as_json, lambda: _text(path, made))
    for note in made.notes:
        say(f"note: {note}")


def _check_output(path: Path) -> None:
    """Refuse before the archive is asked."""
    if os.path.lexists(path):
        raise ConfigError(f"{path}: exists, and is not overwritten. Give another --output.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: folder {path.parent} does not exist. Make it, or give another --output.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        if is_disk_full(error):
            raise
        cause = error.strerror or type(error).__name__
        raise ConfigError(f"{path}: cannot be written in {path.parent} ({cause}). Give another --output.") from error


def _server(given: str | None, variable: str, default: str, option: str) -> Server:
    """A server's address: as given, of the environment, or the default."""
    from survey.credentials import server_address
    from survey.reduction.suggest import Server

    found = given or os.environ.get(variable) or default
    try:
        url = server_address(found).rstrip("/")
    except ValueError as error:
        raise ConfigError(f"{option if given else variable}: {error}") from error
    return Server(url, url if given or not os.environ.get(variable) else f"${{{variable}:-{url}}}")


def _document(path: Path, made: Suggestion) -> dict[str, Any]:
    return {
        "file": str(path),
        "exposures": {name: sum(row.values()) for name, row in made.counts.items()},
        "observations": {str(number): {name: row[number] for name, row in made.counts.items() if number in row}
                         for number in sorted({number for row in made.counts.values() for number in row})},
        "grid": None if made.choice.grid is None else made.choice.grid.to_json(),
        "fields": [{"observations": list(item.observations), **item.grid.to_json()} for item in made.choice.fields],
        "context": made.context,
        "notes": list(made.notes),
    }  # fmt: skip


def _text(path: Path, made: Suggestion) -> str:
    numbers = {name: sum(row.values()) for name, row in made.counts.items()}
    lines = [f"{path}: {sum(numbers.values())} exposures ({', '.join(f'{name} {numbers[name]}' for name in numbers)})"]
    if made.choice.grid is not None:
        grid = made.choice.grid
        lines.append(
            f"grid: {grid.shape[0]} x {grid.shape[1]} pixels of {grid.pixel_scale_arcsec:g} arcsec around "
            f"{grid.crval_deg[0]:.5f} {grid.crval_deg[1]:.5f} deg, rotation {grid.rotation_deg:g} deg"
        )
    if made.context is None:
        lines.append(f"next: write references.context in {path}, then survey plan {path}")
        return "\n".join(lines)
    return "\n".join([*lines, f"next: survey plan {path}"])
