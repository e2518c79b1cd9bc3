"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from survey.cli.console import JSON
from survey.reduction.options import RunOptions

Command = Callable[..., None]
NO_SERVER = click.option("--offline", is_flag=True, help="Without effect: this command never asks a server.")
OFFLINE = click.option("--offline", is_flag=True, help="Ask no server; use the raw files in the workspace.")


def _folder(_context: click.Context, _option: click.Parameter, value: str | None) -> Path | None:
    """The path of a folder; refuses an empty one, which would mean the current folder."""
    if value is not None and not value.strip():
        raise click.BadParameter("a path must not be empty.")
    return None if value is None else Path(value)


def config_options(command: Command) -> Command:
    """CONFIG, ``--workspace`` and ``--json``: of every command that reads a config."""
    config = click.argument("config", type=click.Path(path_type=Path))
    workspace = click.option(
        "--workspace", type=click.Path(), callback=_folder, help="Folder of all products; overrides the config's."
    )
    return config(workspace(JSON(command)))


def cluster_options(command: Command) -> Command:
    """``--cluster``, ``--tls`` and ``--insecure``; the command takes them as ``options``, a `RunOptions`."""

    @click.option(
        "--cluster", help="'local' (default), a deploy file, or a dask scheduler's address such as tls://login1:8786."
    )
    @click.option(
        "--tls", type=click.Path(path_type=Path), help="Folder of certificates for a tls:// address, by 'survey tls'."
    )
    @click.option(
        "--insecure", is_flag=True, help="Accept a scheduler that is neither on this host nor protected by TLS."
    )
    @functools.wraps(command)
    def collected(cluster: str | None, tls: Path | None, insecure: bool, **others: Any) -> None:
        command(options=RunOptions(cluster=cluster, tls=tls, insecure=insecure), **others)

    return collected
