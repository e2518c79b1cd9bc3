"""What all commands have in common: words for people on standard error, a document for scripts on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from survey.credentials import scrub

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else there.")


def say(text: str) -> None:
    """One line for people, on standard error; the archive's token never appears in it."""
    click.echo(scrub(text), err=True)


def emit(document: Any, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(scrub(json.dumps(document, indent=1, default=str) if as_json else text()))
