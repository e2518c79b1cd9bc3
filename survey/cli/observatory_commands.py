"""Commands of the simulated observatory: make one, and serve it as an archive and a CRDS server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from survey.cli.console import JSON, emit, say
from survey.errors import ConfigError


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--scene", type=click.Path(path_type=Path), help="Scene file; default: the demo scene's values.")
@click.option("--seed", type=click.IntRange(min=0), help="Random seed; overrides the scene's.")
@JSON
def simulate(directory: Path, scene: Path | None, seed: int | None, as_json: bool) -> None:
    """Simulate a small observatory: raw exposures, true sources, CRDS rules and reference files.

    Example: survey simulate runs/observatory --scene configs/scenes/demo.yaml
    """
    from survey.simulate.observatory import build
    from survey.simulate.scene import Scene, load_scene

    chosen = load_scene(scene, seed) if scene else Scene(**({} if seed is None else {"seed": seed}))
    build(directory, chosen, progress=lambda done, total, name: say(f"{done}/{total} {name}"))
    exposures = json.loads((directory / "exposures.json").read_text())
    summary = {"directory": str(directory), "program": chosen.program, "exposures": len(exposures)}
    emit(summary, as_json, lambda: f"{len(exposures)} exposures of program {chosen.program} in {directory}")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on loopback; default: a free one.")
@click.option(
    "--faults",
    type=click.Path(path_type=Path),
    help="YAML file of faults that the servers make, to test how a run handles them.",
)
@click.option("--per-exposure", is_flag=True, help="List a row per exposure in addition to the level-3 rows.")
@click.option("--page-size", type=click.IntRange(min=1), default=200, help="Largest number of rows in a page.")
@click.option("--token", default="simulated-token", help="Token that opens proprietary files.", show_default=True)
def serve(directory: Path, command: tuple[str, ...], port: int, faults: Path | None, **settings: Any) -> None:
    """Serve DIRECTORY as an archive (MAST protocol) and a CRDS server on loopback.

    With a COMMAND after '--', serve only while it runs, with SURVEY_ARCHIVE_URL, SURVEY_CRDS_URL and
    ASTROMETRIC_CATALOG_URL set for it, and end with its exit code.

    Example: survey serve runs/observatory -- survey run configs/demo.yaml
    """
    from survey.simulate.faults import load_faults
    from survey.simulate.server import ServerSettings
    from survey.simulate.server import serve as start

    planted = load_faults(faults) if faults else ()
    with start(directory, port, faults=planted, settings=ServerSettings(**settings)) as server:
        click.echo(json.dumps(server.addresses))
        sys.stdout.flush()
        if command:
            environment = {**os.environ, **server.environment}
            sys.exit(_run_command(command, environment))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()


def _run_command(command: tuple[str, ...], environment: dict[str, str]) -> int:
    """Run a command to its end. It receives Control-C itself, so that it is ignored here."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise ConfigError(f"{command[0]}: {error.strerror}") from error
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
