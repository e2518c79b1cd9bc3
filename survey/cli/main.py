"""The command `survey`: arguments in, text or one JSON document out. Nothing is decided here."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import click

from survey import __version__
from survey.cli import cluster_commands as hosting
from survey.cli.console import JSON, emit, say, shown
from survey.errors import ConfigError, DiskFullError, InterruptedRunError, SurveyError
from survey.workspace.files import is_disk_full

CONFIG = click.argument("config", type=click.Path(path_type=Path))


def _named(_context: click.Context, _option: click.Parameter, value: str | None) -> Path | None:
    """A folder's path; an empty one would mean the current folder."""
    if value is not None and not value.strip():
        raise click.BadParameter("a path must not be empty.")
    return None if value is None else Path(value)


WORKSPACE = click.option(
    "--workspace", type=click.Path(), callback=_named, help="Folder of all products; overrides the config's."
)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads a config."""
    return CONFIG(WORKSPACE(JSON(command)))


def where(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where tasks run."""
    cluster = click.option(
        "--cluster", help="'local' (default), a deploy file, or a dask scheduler's address such as tls://login1:8786."
    )
    certificates = click.option(
        "--tls", type=click.Path(path_type=Path), help="Folder of certificates for a tls:// address, by 'survey tls'."
    )
    insecure = click.option(
        "--insecure", is_flag=True, help="Take a scheduler that is neither on this host nor behind TLS."
    )
    return cluster(certificates(insecure(command)))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="survey")
@click.option("-v", "--verbose", is_flag=True, help="More log lines on standard error.")
def main(verbose: bool) -> None:
    """Reduce JWST imaging surveys: from a program number to science-ready mosaics.

    Example: survey run configs/demo.yaml
    """
    level = logging.DEBUG if verbose else logging.WARNING
    handler = logging.StreamHandler()
    handler.setFormatter(_Scrubbed("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Scrubbed(logging.Formatter):
    """Log lines and tracebacks without the archive's token, whichever library writes them."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--scene", type=click.Path(path_type=Path), help="Scene file; default: the demo scene's values.")
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the scene's seed.")
@JSON
def simulate(directory: Path, scene: Path | None, seed: int | None, as_json: bool) -> None:
    """Make a small observatory: raw exposures, truth, CRDS rules and references.

    Example: survey simulate runs/observatory --scene configs/scenes/demo.yaml
    """
    from survey.simulate.observatory import build
    from survey.simulate.scene import Scene, load_scene

    chosen = load_scene(scene, seed) if scene else Scene(**({} if seed is None else {"seed": seed}))
    build(directory, chosen, progress=lambda done, total, name: say(f"{done}/{total} {name}"))
    exposures = json.loads((directory / "exposures.json").read_text())
    summary = {"directory": str(directory), "program": chosen.program, "exposures": len(exposures)}
    emit(summary, as_json, lambda: f"{len(exposures)} exposures of program {chosen.program} in {directory}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on loopback; default: a free one.")
@click.option(
    "--faults", type=click.Path(path_type=Path), help="File of faults to make, for trying how a run bears them."
)
@click.option("--per-exposure", is_flag=True, help="List a row per exposure beside the level-3 rows.")
@click.option("--page-size", type=click.IntRange(min=1), default=200, help="Rows a page at most.")
@click.option("--token", default="simulated-token", help="Token that opens proprietary files.", show_default=True)
def serve(
    directory: Path,
    command: tuple[str, ...],
    port: int,
    faults: Path | None,
    per_exposure: bool,
    page_size: int,
    token: str,
) -> None:
    """Serve DIRECTORY as an archive (MAST protocol) and a CRDS server on loopback.

    With a COMMAND behind '--', serve only while it runs, with SURVEY_ARCHIVE_URL and SURVEY_CRDS_URL set for it, and
    end with its exit code.

    Example: survey serve runs/observatory -- survey run configs/demo.yaml
    """
    from survey.simulate.faults import load_faults
    from survey.simulate.server import serve as start

    planted = load_faults(faults) if faults else ()
    switches: dict[str, Any] = {"per_exposure": per_exposure, "page_size": page_size, "token": token}
    with start(directory, port, faults=planted, **switches) as server:
        click.echo(json.dumps({"archive": server.url, "crds": server.crds_url}))
        sys.stdout.flush()
        if command:
            environment = {**os.environ, "SURVEY_ARCHIVE_URL": server.url, "SURVEY_CRDS_URL": server.crds_url}
            sys.exit(_run_command(command, environment))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()


main.add_command(hosting.cluster)
main.add_command(hosting.tls)


@main.command()
@common
def fetch(config: Path, workspace: Path | None, as_json: bool) -> None:
    """Query the archive, download what is missing, verify.

    Example: survey fetch configs/demo.yaml
    """
    from survey.cli.progress import DownloadProgress
    from survey.reduction import inputs
    from survey.reduction.load import load_config
    from survey.workspace.folders import Workspace

    loaded = load_config(config, workspace=workspace)
    with Workspace(loaded.workspace).lock():
        exposures = inputs.fetch(loaded, progress=DownloadProgress(say), say=say)
    files = {item.file: {"sha256": item.sha256, "size": item.size} for item in exposures}
    emit(
        {"exposures": len(files), "files": files},
        as_json,
        lambda: f"{len(files)} raw files verified in {loaded.workspace}/raw",
    )


@main.command()
@common
def refs(config: Path, workspace: Path | None, as_json: bool) -> None:
    """Sync and verify the CRDS context and the references that these exposures need.

    Example: survey refs configs/demo.yaml
    """
    from survey.reduction import inputs
    from survey.reduction.load import load_config
    from survey.workspace.folders import Workspace

    loaded = load_config(config, workspace=workspace)
    with Workspace(loaded.workspace).lock():
        exposures = inputs.held_exposures(loaded)
        if not exposures:
            raise SurveyError(f"{loaded.workspace}/raw: no verified raw files yet; run 'survey fetch {config}' first.")
        found = inputs.sync_references(loaded, exposures)
    lacking = inputs.unreferenced(loaded, exposures, found)
    document = {
        "lacking": lacking,
        "context": found.context,
        "cache": found.cache,
        "references": dict(found.files),
        "mappings": dict(found.mappings),
    }
    emit(document, as_json, lambda: f"{found.context}: {len(found.files)} reference files verified in {found.cache}")
    for name, why in sorted(lacking.items()):
        say(f"{name}: {why}")
    if lacking:
        sys.exit(1)


@main.command()
@common
@click.option("--context", help="What would change with this CRDS context, such as jwst_1600.pmap; nothing is run.")
def plan(config: Path, workspace: Path | None, as_json: bool, context: str | None) -> None:
    """Show what would run, and why; touches no pixel.

    Example: survey plan configs/ceers.yaml --context jwst_1600.pmap
    """
    from survey.cli import plan_report
    from survey.reduction import inputs, inspection
    from survey.reduction import job as reduction
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace, context=context)
    if context is None:
        made = reduction.plan(loaded, inputs.find_exposures(loaded, say=say))
    else:
        held = inputs.held_exposures(loaded)
        made = reduction.plan(loaded, held, inputs.look_up(loaded, held))
    found = inspection.plan_states(loaded, made)
    room = inspection.plan_room(loaded, made, found)
    document = plan_report.plan_document(made, found, room) if as_json else {}
    emit(document, as_json, lambda: plan_report.plan_text(loaded, made, found, room))


@main.command()
@common
@where
@click.option("--until", metavar="STEP", help="Last step to run, such as image2.")
@click.option(
    "--report", is_flag=True, help="Keep the survey page and dask's performance report in reports/dashboard.html."
)
def run(config: Path, workspace: Path | None, as_json: bool, until: str | None, report: bool, **place: Any) -> None:
    """The main job: fetch, references, then every step that is not already done.

    Example: survey run configs/demo.yaml --until image2 --report
    """
    from survey.cli.progress import DownloadProgress, TaskProgress
    from survey.reduction import job as reduction
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace, until=until, **place)
    with TaskProgress(say) as progress:
        done = reduction.run(
            loaded, **place, until=until, watch=progress.watch, progress=DownloadProgress(say), say=say, report=report
        )
    _finish(loaded, done, as_json)


@main.command()
@common
@click.option("--asn", "association", required=True, type=click.Path(path_type=Path), help="A level-3 association.")
@where
def mosaic(config: Path, workspace: Path | None, as_json: bool, association: Path, **place: Any) -> None:
    """Mosaic the members of an existing level-3 association.

    Example: survey mosaic configs/demo.yaml --asn my_asn.json
    """
    from survey.cli.progress import TaskProgress
    from survey.reduction import job as reduction
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace, **place)
    with TaskProgress(say) as progress:
        done = reduction.mosaic(loaded, association, **place, watch=progress.watch, say=say)
    _finish(loaded, done, as_json)


@main.command()
@common
def status(config: Path, workspace: Path | None, as_json: bool) -> None:
    """Show per step and filter what is done, running, failed or skipped, and why.

    Example: survey status configs/demo.yaml --json
    """
    from survey.cli import status_report
    from survey.reduction import inspection
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace)
    document = status_report.status_document(loaded, inspection.status(loaded))
    emit(document, as_json, lambda: status_report.status_text(document))


@main.command()
@common
@click.argument("product")
def explain(config: Path, workspace: Path | None, as_json: bool, product: str) -> None:
    """Show how PRODUCT was made: inputs, settings, versions, references, and what is stale.

    Example: survey explain configs/demo.yaml jw01345-a3001_t001_nircam_clear-f444w-sub320_i2d.fits
    """
    from survey.cli import lineage_report
    from survey.reduction import inspection
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace)
    tree, stale = inspection.explain(loaded, product)
    emit(lineage_report.lineage_document(tree, stale), as_json, lambda: lineage_report.lineage_text(tree, stale))


@main.command()
@common
def verify(config: Path, workspace: Path | None, as_json: bool) -> None:
    """Compare every product with its recorded sha256.

    Example: survey verify configs/demo.yaml
    """
    from survey.reduction import inspection
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace)
    faults = inspection.verify(loaded)
    for name, cause in sorted(faults.items()):
        say(f"{name}: {cause}")
    emit({"faults": faults}, as_json, lambda: f"{len(faults)} faults" if faults else "every product is as recorded")
    if faults:
        sys.exit(1)


def _finish(config: Any, done: Any, as_json: bool) -> None:
    """Print what a run made, name what it did not, and end with its exit code."""
    from survey.cli import run_report

    document = run_report.run_document(config, done)
    emit(document, as_json, lambda: run_report.run_text(document))
    for record in done.failed:
        say(f"{record.status} {record.key}: {record.error.splitlines()[0] if record.error else ''}")
    for name, cause in sorted(done.missing.items()):
        say(f"missing {name}: {cause}")
    for product, missing in document["incomplete"].items():
        say(f"{product}: made without {', '.join(missing)}")
    if done.failed or done.missing:
        sys.exit(1)


def _run_command(command: tuple[str, ...], environment: dict[str, str]) -> int:
    """Run a command to its end; Control-C reaches it as well, and is its to answer."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise ConfigError(f"{command[0]}: {error.strerror}") from error
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def console() -> NoReturn:
    """Entry point: every expected error ends with its exit code and without a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.excepthook = _show_unexpected
    # Imports and plans make many objects that all live on: looking for garbage among them is time lost.
    gc.set_threshold(50_000, 20, 20)
    try:
        main(standalone_mode=False)
        gc.freeze()  # and so is one more look at all of them on the way out
        sys.exit(0)
    except click.exceptions.Abort:
        _fail(InterruptedRunError("interrupted; run again to continue."))
    except KeyboardInterrupt:
        _fail(InterruptedRunError("interrupted; run again to continue."))
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except SurveyError as error:
        _fail(error)
    except OSError as error:
        if not is_disk_full(error):
            logging.getLogger(__name__).debug("not expected", exc_info=True)  # with --verbose
            _fail(SurveyError(f"{error.filename or type(error).__name__}: {error.strerror or error}."))
        _fail(DiskFullError(f"{error.filename or 'workspace'}: {error.strerror}; make room and run again."))


def _show_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of this program's own, in full but for the archive's token."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip())


def _fail(error: SurveyError) -> NoReturn:
    for line in str(error).splitlines():
        say(line)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    console()
