"""The command `survey`: read arguments, call `survey.reduction`, print the result as text or JSON."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from survey import __version__
from survey.cli import cluster_commands, init_command, observatory_commands, tidy_command
from survey.cli.console import emit, say, shown
from survey.cli.options import NO_SERVER, OFFLINE, cluster_options, config_options
from survey.errors import DiskFullError, InterruptedRunError, SurveyError
from survey.reduction.options import Callbacks, RunOptions
from survey.workspace.files import is_disk_full

if TYPE_CHECKING:
    from survey.config.model import SurveyConfig
    from survey.reduction.outcome import Run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="survey")
@click.option("-v", "--verbose", is_flag=True, help="Print debug messages on standard error.")
def main(verbose: bool) -> None:
    """Reduce JWST imaging surveys: from a program number to science-ready mosaics.

    Example: survey run configs/demo.yaml
    """
    level = logging.DEBUG if verbose else logging.WARNING
    handler = logging.StreamHandler()
    handler.setFormatter(_Scrubbed("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Scrubbed(logging.Formatter):
    """Formats log records of all libraries, with the archive's token removed."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


main.add_command(init_command.init)
main.add_command(observatory_commands.simulate)
main.add_command(observatory_commands.serve)
main.add_command(cluster_commands.cluster)
main.add_command(cluster_commands.tls)
main.add_command(tidy_command.tidy)


@main.command()
@config_options
@click.option(
    "--recheck", is_flag=True, help="Download files again that were left out, since they were of another mode."
)
def fetch(config: Path, workspace: Path | None, as_json: bool, recheck: bool) -> None:
    """Find the exposures in the archive, download missing raw files, and verify all of them.

    Example: survey fetch configs/demo.yaml
    """
    from survey.cli import tables
    from survey.cli.progress import DownloadProgress
    from survey.reduction import inputs
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace)
    with loaded.folders.lock():
        if recheck:
            inputs.forget_rejected(loaded)
        exposures = inputs.fetch(loaded, progress=DownloadProgress(say), say=say)
    files = {item.file: {"sha256": item.sha256, "size": item.size} for item in exposures if not item.excluded}
    left_out = {item.name: item.excluded for item in exposures if item.excluded}
    for line in tables.left_out_lines(left_out):
        say(line)
    emit(
        {"exposures": len(files), "files": files, "left_out": left_out},
        as_json,
        lambda: f"{len(files)} raw files verified in {loaded.workspace}/raw",
    )


@main.command()
@config_options
@click.option("--renew-catalogs", is_flag=True, help="Fetch online reference catalogues again, as they are now.")
def refs(config: Path, workspace: Path | None, as_json: bool, renew_catalogs: bool) -> None:
    """Fetch and verify the CRDS context and the reference files of the raw files in the workspace.

    Online reference catalogues to which tweakreg aligns mosaics are fetched as well, if the workspace lacks them.

    Example: survey refs configs/demo.yaml
    """
    from survey.reduction import inputs
    from survey.reduction.catalogs import sync_catalogs
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace)
    with loaded.folders.lock():
        exposures = inputs.held_exposures(loaded)
        if not exposures:
            raise inputs.no_raw_files(loaded)
        found = inputs.sync_references(loaded, exposures)
        found = sync_catalogs(loaded, exposures, found, renew=renew_catalogs, say=say)
    lacking = inputs.unreferenced(loaded, exposures, found)
    document = {
        "lacking": lacking,
        "context": found.context,
        "cache": found.cache,
        "references": dict(found.files),
        "mappings": dict(found.mappings),
        "catalogs": sorted({item.file for files in found.catalogs.values() for item in files.values()}),
    }
    emit(document, as_json, lambda: f"{found.context}: {len(found.files)} reference files verified in {found.cache}")
    for name, why in sorted(lacking.items()):
        say(f"{name}: {why}")
    if lacking:
        sys.exit(1)


@main.command()
@config_options
@click.option("--context", help="Show what another CRDS context would change, such as jwst_1600.pmap.")
@OFFLINE
def plan(config: Path, workspace: Path | None, as_json: bool, context: str | None, offline: bool) -> None:
    """Show which tasks would run, and why, without running any.

    A table counts tasks by step and filter. Below it are the mosaics with their grids, failures of earlier runs, the
    reasons to run tasks, and their cost. If the archive does not answer, the plan is made for the raw files in the
    workspace.

    Example: survey plan configs/ceers.yaml --context jwst_1600.pmap
    """
    from survey.cli import plan_report
    from survey.cli.tables import emit_blocks
    from survey.reduction import inputs, inspection, placement
    from survey.reduction import job as reduction
    from survey.reduction.load import load_config
    from survey.reduction.offline import WORKSPACE, Known, known_exposures, without_server

    loaded = load_config(config, workspace=workspace, context=context)
    if context is None:
        known = known_exposures(loaded, offline=offline, say=say)
        made = reduction.plan(loaded, known.exposures, ask_server=not offline)
    else:
        known = Known(inputs.held_exposures(loaded), WORKSPACE)
        references = inputs.look_up(without_server(loaded) if offline else loaded, known.exposures)
        made = reduction.plan(loaded, known.exposures, references)
    found = inspection.plan_states(loaded, made)
    room = inspection.plan_room(loaded, made, found)
    grids, warnings = placement.plan_grids(loaded, made), placement.placement_of(loaded, made).warnings
    notices = inspection.plan_notices(loaded, made)
    planned = plan_report.Planned(loaded, made, found, room, grids, known.source, warnings, notices)
    planned = replace(planned, differences=inspection.made_with(loaded, found))
    document = plan_report.plan_document(planned) if as_json else {}
    emit_blocks(document, as_json, lambda: plan_report.plan_blocks(planned))


@main.command()
@config_options
@cluster_options
@click.option("--until", metavar="STEP", help="Last step to run, such as image2.")
@click.option("--remake", metavar="STEP", help="Run this step and all later ones again, also where they are done.")
@click.option(
    "--report", is_flag=True, help="Save the survey page and dask's performance report as reports/dashboard.html."
)
def run(config: Path, workspace: Path | None, as_json: bool, options: RunOptions, **chosen: Any) -> None:
    """Run a survey: fetch raw files and reference files, then run all tasks that are not done.

    Example: survey run configs/demo.yaml --until image2 --report
    """
    from survey.cli.progress import DownloadProgress, TaskProgress
    from survey.reduction import job as reduction
    from survey.reduction.load import load_config

    options = replace(options, **chosen)  # until, remake, report
    loaded = load_config(config, workspace=workspace, options=options)
    with TaskProgress(say) as progress:
        done = reduction.run(loaded, options, Callbacks(progress.watch, DownloadProgress(say), say))
    _finish(loaded, done, as_json)


@main.command()
@config_options
@click.option("--asn", "association", required=True, type=click.Path(path_type=Path), help="Level-3 association file.")
@cluster_options
def mosaic(config: Path, workspace: Path | None, as_json: bool, association: Path, options: RunOptions) -> None:
    """Make the mosaic of an existing level-3 association.

    Example: survey mosaic configs/demo.yaml --asn my_asn.json
    """
    from survey.cli.progress import TaskProgress
    from survey.reduction import job as reduction
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace, options=options)
    with TaskProgress(say) as progress:
        done = reduction.mosaic(loaded, association, options, Callbacks(progress.watch, say=say))
    _finish(loaded, done, as_json)


@main.command()
@config_options
@NO_SERVER
def status(config: Path, workspace: Path | None, as_json: bool, offline: bool) -> None:
    """Show how many tasks are done, running, to run, failed or skipped, by step and filter, and causes of failures.

    Only the workspace is read, also during a run; no server is asked, with or without --offline.

    Example: survey status configs/demo.yaml --json
    """
    from survey.cli import status_report
    from survey.cli.tables import emit_blocks
    from survey.reduction import inspection
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace)
    try:
        # A plan of a large survey takes seconds, and a run keeps the numbers of its tasks itself.
        planned = inspection.Forecast() if loaded.folders.holder else inspection.forecast(loaded)
    except SurveyError as error:  # the records can be shown without a plan
        say(f"Tasks that were never run are not counted: {error}")
        planned = inspection.Forecast()
    document = status_report.status_document(loaded, inspection.status(loaded), planned.states)
    document |= {"left_out": dict(planned.left_out), "warnings": list(planned.warnings)}
    document |= planned.differences.to_json()
    emit_blocks(document, as_json, lambda: status_report.status_blocks(document, loaded.workspace, planned.differences))


@main.command()
@config_options
@click.argument("product")
def explain(config: Path, workspace: Path | None, as_json: bool, product: str) -> None:
    """Show how PRODUCT was made: inputs, settings, versions, reference files, and which of these have changed.

    Example: survey explain configs/demo.yaml jw01345-a3001_t001_nircam_clear-f444w-sub320_i2d.fits
    """
    from survey.cli import lineage_report
    from survey.reduction import inspection
    from survey.reduction.load import load_config

    loaded = load_config(config, workspace=workspace)
    tree, stale = inspection.explain(loaded, product)
    emit(lineage_report.lineage_document(tree, stale), as_json, lambda: lineage_report.lineage_text(tree, stale))


@main.command()
@config_options
def verify(config: Path, workspace: Path | None, as_json: bool) -> None:
    """Compare the sha256 of every file in the workspace with the recorded one.

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


def _finish(config: SurveyConfig, done: Run, as_json: bool) -> None:
    """Print the result of a run and its failures, and exit with 1 if there are any."""
    from survey.cli import run_report, tables

    document = run_report.run_document(config, done)
    emit(document, as_json, lambda: run_report.run_text(document))
    for record in done.failed:
        say(f"{record.status} {record.key}: {record.error.splitlines()[0] if record.error else ''}")
    for name, cause in sorted(done.missing.items()):
        say(f"missing {name}: {cause}")
    for line in tables.left_out_lines(done.left_out):
        say(line)
    for text in done.warnings:
        say(f"warning: {text}")
    for product, missing in document["incomplete"].items():
        say(f"{product}: made without {', '.join(missing)}")
    for line in run_report.notice_lines(document["notices"]):
        say(line)
    if done.failed or done.missing or (done.not_aligned and config.mosaic.require_alignment):
        sys.exit(1)


def console() -> NoReturn:
    """Entry point of the command: expected errors are printed without a traceback and give the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.excepthook = _show_unexpected
    # Imports and plans make many objects that stay in use: rare garbage collections save time.
    gc.set_threshold(50_000, 20, 20)
    try:
        main(standalone_mode=False)
        gc.freeze()  # no collection of them at exit either
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
        _fail(DiskFullError(f"{error.filename or 'workspace'}: {error.strerror or error}; make room and run again."))


def _show_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected error, with the archive's token removed."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip())


def _fail(error: SurveyError) -> NoReturn:
    for line in str(error).splitlines():
        say(line)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    console()
