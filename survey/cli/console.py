"""Output that all commands share: messages on standard error, results as text or JSON on standard output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

from survey.credentials import scrub

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else there.")


# Control characters except tab and line feed, and those that change the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def say(text: str) -> None:
    """Print a message on standard error."""
    click.echo(shown(text), err=True)


def emit(document: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result on standard output: the document as JSON, or the text."""
    click.echo(shown(json.dumps(document, indent=1, default=str) if as_json else text()))


def shown(text: str) -> str:
    """Text that is safe to print: without control characters and without the archive's token."""
    return _CONTROL.sub("?", scrub(text))
