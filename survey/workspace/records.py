"""Records of tasks: one JSON file per task in ``records/``. A product without a record does not count."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from survey.messages import unquoted
from survey.models import COMPLETE, TaskRecord, to_json
from survey.workspace import paths
from survey.workspace.files import write_file

SEAL = "sha256"  # field with the checksum of the record's text without this field
MAX_RECORD_BYTES = 16 * 1024 * 1024  # a record has some kB; a larger file is not one


def record_path(folder: Path, key: str) -> Path:
    """The file of a task's record: ``detector1/jw01..._nrcb1`` -> ``<folder>/detector1.jw01..._nrcb1.json``."""
    return folder / f"{key.replace('/', '.')}.json"


def failure_path(folder: Path, key: str) -> Path:
    """The file of a task's failure, if its own file holds a complete record of other settings or inputs."""
    return folder / f"{key.replace('/', '.')}.failed.json"


def write_record(folder: Path, record: TaskRecord) -> Path:
    """Write a record atomically.

    A failed or skipped task does not replace a complete record, whose products still exist: it is written to
    `failure_path`. A complete record removes that file.

    Raises
    ------
    OSError
        The record cannot be written; no temporary file is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, beside = record_path(folder, record.key), failure_path(folder, record.key)
    if record.status != COMPLETE and _is_complete(path):
        return _write(beside, record)
    _write(path, record)
    beside.unlink(missing_ok=True)
    return path


def forget(folder: Path, keys: Iterable[str]) -> None:
    """Remove the records of tasks, so that these run again. Products stay until they are replaced."""
    for key in keys:
        record_path(folder, key).unlink(missing_ok=True)
        failure_path(folder, key).unlink(missing_ok=True)


def _is_complete(path: Path) -> bool:
    try:
        return read_record(path).status == COMPLETE
    except (OSError, ValueError):
        return False


def _write(path: Path, record: TaskRecord) -> Path:
    write_file(path, _sealed(to_json(record)))
    return path


def _sealed(content: Mapping[str, Any]) -> str:
    """The text of a record with the sha256 of its text."""
    return _text_of({**content, SEAL: hashlib.sha256(_text_of(content).encode()).hexdigest()})


def _text_of(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def seal_fault(path: Path) -> str:
    """How a record differs from what was written, by its checksum; '' if it does not.

    Of records from versions without a checksum, only the layout is compared. `survey verify` uses this; a run looks at
    a record's digest and products.

    Raises
    ------
    OSError, ValueError
        The record cannot be read, or is not JSON.
    """
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    bare = {name: value for name, value in content.items() if name != SEAL}
    strange = sorted(set(bare) - {item.name for item in fields(TaskRecord)})
    if strange:
        return f"holds the unknown field {strange[0]!r}: it was changed since it was written"
    whole = _sealed(bare) if SEAL in content else _text_of(bare)
    return "" if text == whole else "was changed since it was written: its sha256 differs"


def read_record(path: Path) -> TaskRecord:
    """Read one record.

    Raises
    ------
    ValueError
        The file is not a record, or not of the key in its name; the message says why.
    OSError
        The file cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name}: not a regular file.")
    if found.st_size > MAX_RECORD_BYTES:
        raise ValueError(f"{path.name}: larger than {MAX_RECORD_BYTES} bytes, not a task record.")
    try:
        record = parse_record(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if path.name not in (record_path(path.parent, record.key).name, failure_path(path.parent, record.key).name):
        raise ValueError(f"{path.name}: holds the record of {record.key!r}; the file was renamed or copied.")
    return record


def parse_record(content: bytes | str) -> TaskRecord:
    """A record from its JSON. Unknown fields are ignored, so that older versions can read newer records.

    Raises
    ------
    ValueError
        It is not JSON, lacks a required field, has one of another type, or a path that is not that of a product.
    """
    try:
        record = _reader().validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(unquoted, first["loc"]))
        raise ValueError(f"not a task record: {place}{': ' if place else ''}{first['msg']}") from error
    for product in record.products:
        if fault := paths.product_fault(product.path):
            raise ValueError(f"not a task record: {fault}")
    return record


@cache
def _reader() -> TypeAdapter[TaskRecord]:
    return TypeAdapter(TaskRecord)


@dataclass(frozen=True)
class Records:
    """The records of a workspace."""

    by_key: dict[str, TaskRecord]
    faults: dict[str, str]  # file name -> why it could not be read
    # Failed and skipped tasks that have a complete record of other settings or inputs in by_key.
    failures: dict[str, TaskRecord] = field(default_factory=dict)

    @property
    def latest(self) -> dict[str, TaskRecord]:
        """The last record of each task."""
        return {**self.by_key, **self.failures}


def read_records(folder: Path) -> Records:
    """Read every record of a folder. Files that are not records are listed as faults; a missing folder has none."""
    records: dict[str, TaskRecord] = {}
    faults: dict[str, str] = {}
    failures: dict[str, TaskRecord] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            record = read_record(path)
        except FileNotFoundError:
            continue  # replaced in the meantime
        except (ValueError, OSError) as error:
            faults[path.name] = str(error)
        else:
            beside = path.name == failure_path(folder, record.key).name
            (failures if beside else records)[record.key] = record
    return Records(records, faults, failures)
