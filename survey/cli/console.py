"""What all commands have in common: words for people on standard error, a document for scripts on standard output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import click

from survey.credentials import scrub

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else there.")


# Control characters but tab and line feed, and those that turn the direction of writing.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def say(text: str) -> None:
    """One line for people, on standard error; the archive's token never appears in it."""
    click.echo(shown(text), err=True)


def emit(document: Any, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(shown(json.dumps(document, indent=1, default=str) if as_json else text()))


def shown(text: str) -> str:
    """Words fit for a terminal: foreign ones neither steer it nor hold the archive's token."""
    return _STEERING.sub("?", scrub(text))
