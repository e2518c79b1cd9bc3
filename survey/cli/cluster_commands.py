"""Commands that start a cluster from a deploy file, and that make certificates for one."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import click

from survey.cli.console import JSON, emit
from survey.errors import ConfigError

POLL_SECONDS = 1.0  # between two checks of a running cluster


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--host", "hosts", multiple=True, help="Name or address of the scheduler; may be repeated.")
@click.option("--days", type=click.IntRange(1), default=365, show_default=True, help="Validity in days.")
@click.option("--force", is_flag=True, help="Replace the certificates in DIRECTORY; the old ones are then rejected.")
@JSON
def tls(directory: Path, hosts: tuple[str, ...], days: int, force: bool, as_json: bool) -> None:
    """Make the certificates of one deployment in DIRECTORY: for a scheduler, its workers and its clients.

    Example: survey tls certificates --host login1
    """
    from survey.cluster import tls as certificates

    ends = certificates.make(directory, hosts=hosts, days=days, force=force)
    folder = directory.absolute()
    commands = certificates.commands(folder, hosts[0] if hosts else "localhost")
    files = list(certificates.FILES)
    document = {"folder": str(folder), "files": files, "ends": ends.isoformat(), "commands": commands}
    text = (
        f"{folder}: certificates until {ends:%Y-%m-%d}, readable by you alone. Copy the folder to where they are used."
    )
    emit(document, as_json, lambda: "\n".join([text, *commands]))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the job scripts or manifests that would be submitted, and exit.")
@click.option(
    "--workspace", type=click.Path(path_type=Path), help="Folder in which jobs write their logs, below logs/."
)
@click.option("--tls", type=click.Path(path_type=Path), help="Folder of certificates; overrides the file's.")
@click.option("--insecure", is_flag=True, help="Accept a scheduler that is neither on this host nor protected by TLS.")
@JSON
def cluster(file: Path, dry_run: bool, workspace: Path | None, tls: Path | None, insecure: bool, as_json: bool) -> None:
    """Start the cluster of the deploy FILE and keep it running, or show what it would submit.

    The first line of output is JSON with the address for --cluster. Jobs are submitted when tasks arrive, and end after
    the last task. If no job can start, the command fails with the cause, as a run would.

    Example: survey cluster deploy/slurm.yaml --dry-run
    """
    from survey.cluster.dask_settings import load_dask

    load_dask()
    from survey.cluster.connect import connect, dashboard
    from survey.cluster.deploy_file import load_site
    from survey.cluster.preview import preview

    kind = load_site(file).kind
    if dry_run:
        documents = preview(file, str(workspace or "WORKSPACE"), tls)
        shown = [{"name": name, "text": text} for name, text in documents.items()]
        if kind == "kubernetes":
            made = f"# Made by `survey cluster {file} --dry-run`: change that file, not this one.\n"
            text = made + "---\n".join(f"# {name}\n{text}" for name, text in documents.items())
        else:
            text = "\n".join(f"# --- {name}\n{text}" for name, text in documents.items())
        emit({"file": str(file), "kind": kind, "documents": shown}, as_json, text.rstrip)
        return
    if kind in ("kubernetes", "address"):
        raise ConfigError(
            f"{file}: a cluster of kind {kind} is not started by this command; --dry-run prints what to apply."
        )
    folder = (workspace or Path(".")).absolute()
    with connect(str(file), log=folder / "logs" / "cluster.log", tls=tls, insecure=insecure) as client:
        click.echo(json.dumps({"scheduler": client.scheduler.address, "dashboard": dashboard(client)}))
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        while (trouble := getattr(client.cluster, "trouble", lambda: None)()) is None:
            time.sleep(POLL_SECONDS)
        raise trouble
