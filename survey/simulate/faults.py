"""Faults that the simulated archive can be told to have, per URL pattern and number of times.

A fault file for ``survey serve DIR --faults FILE`` is a YAML (or JSON) list of objects with the fields of `Fault`:

    - {match: "nrcb1_uncal", kind: error, status: 503, times: 2}
    - {match: "POST .*Mast.Caom.Products", kind: executing, times: 3}
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from survey.errors import ConfigError

Kind = Literal[
    "error",  # answer `status`, with Retry-After when `retry_after` is set
    "html",  # an HTML page with status 200 in place of the answer
    "delay",  # answer after `seconds`
    "silence",  # accept the request and answer nothing for `seconds`, then close
    "drip",  # the body `bytes` bytes at a time, `seconds` apart
    "drip_headers",  # one more header line every `seconds`, and never a body
    "reset",  # reset the connection after `bytes` of the body (before the headers when 0)
    "short",  # close the connection in order after `bytes` of the body
    "wrong_length",  # Content-Length says `bytes` more than there is (less when negative); the body ends there
    "ignore_range",  # 200 and the whole file to a Range request
    "wrong_range",  # 206 that starts `bytes` later than asked for
    "empty",  # 200 and a body of no bytes
    "unsized",  # no Content-Length; the connection is closed in order after `bytes` of the body
    "gzip",  # a body packed with gzip, whatever was asked for
    "bomb",  # a body packed with gzip that unpacks to `bytes` zeros
    "corrupt",  # a body of the right length with wrong bytes from offset `bytes` on
    "executing",  # portal requests: EXECUTING in place of the answer
    "portal_error",  # portal requests: status ERROR
    "redirect",  # 302 to `location`
    "row",  # archive rows whose text matches: set these `columns`
]
_ROW_KINDS = ("row",)


class Fault(BaseModel):
    """One fault: which requests it strikes, how, and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    match: str = Field("", description="regular expression, searched in 'METHOD path?query service', decoded")
    times: int | None = Field(None, ge=1, description="strikes this often, then never again; default: for ever")
    status: int = Field(503, ge=400, le=599)
    retry_after: str | None = Field(None, description="value of the Retry-After header")
    seconds: float = Field(3600.0, ge=0, description="[s]")
    bytes: int = 0
    location: str = ""
    columns: dict[str, Any] = Field(default_factory=dict)

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from error
        return value

    @property
    def strikes_rows(self) -> bool:
        return self.kind in _ROW_KINDS


class FaultPlan:
    """The faults of a running server; counts how often each has struck. Safe for threads."""

    def __init__(self, faults: Iterable[Fault] = ()):
        self._lock = threading.Lock()
        self._left: list[list[Any]] = [[fault, fault.times] for fault in faults]

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._left.extend([fault, fault.times] for fault in faults)

    def clear(self) -> None:
        with self._lock:
            self._left.clear()

    def take(self, request: str) -> Fault | None:
        """The first fault that still strikes this request, one strike used up."""
        with self._lock:
            for entry in self._left:
                fault, left = entry
                if fault.strikes_rows or left == 0 or not re.search(fault.match, request):
                    continue
                if left is not None:
                    entry[1] = left - 1
                return fault
        return None

    def strike_row(self, row: dict[str, Any], text: str) -> dict[str, Any]:
        """A row as the archive will tell it: columns replaced by the faults whose pattern the text matches."""
        with self._lock:
            for fault, _ in self._left:
                if fault.strikes_rows and re.search(fault.match, text):
                    row = {**row, **fault.columns}
        return row


def load_faults(path: Path | str) -> list[Fault]:
    """Read a fault file.

    Raises
    ------
    ConfigError
        The file cannot be read, is no list, or an entry is wrong; every fault is named.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable fault file: {error}") from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: expected a list of faults, found {type(entries).__name__}.")
    faults, wrong = [], []
    for number, entry in enumerate(entries, 1):
        try:
            faults.append(Fault.model_validate(entry))
        except ValidationError as error:
            wrong += [f"{path}: fault {number}: {_shown(item)}" for item in error.errors()]
    if wrong:
        raise ConfigError([*wrong, f"Kinds of fault: {', '.join(get_args(Kind))}."])
    return faults


def _shown(item: Any) -> str:
    return f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
