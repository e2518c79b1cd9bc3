"""The ledger of ``raw/``: size, sha256, times and header facts of each file, one JSON line an entry, appended only.

The last line of a file counts. A line that a crash truncated, or that holds other values, is skipped.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LEDGER = "ledger.jsonl"

_MAX_TEXT = 80  # of an element's or a subarray's name
_MAX_CAUSE = 500
_MAX_COUNT = 2**31  # of groups and integrations
_MAX_NUMBER = 1e9  # of a date [MJD] or a coordinate [deg]

Signature = tuple[int, int, int, int]


def signature(path: Path | str) -> Signature:
    """Size, mtime [ns], ctime [ns] and inode of a file, or of a link's target: they change with every write."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True)
class Entry:
    """A file as it was verified."""

    name: str  # file name
    size: int  # bytes
    sha256: str  # '' when only its header was read
    uri: str  # where it came from
    stat: Signature
    facts: Mapping[str, Any] = field(default_factory=dict)  # of its header; see survey.archive.local.facts
    cause: str = ""  # why the file is not used and not kept; then sha256 is '' and facts are those of the archive's row
    removed: bool = False  # by `survey tidy`, to make room


class Ledger:
    """The entries of a ledger's file, by name. Threads may share it; the workspace's lock admits one process."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._ends_whole = True
        self._read()

    def get(self, name: str) -> Entry | None:
        """The entry of a file name, or None."""
        return self._entries.get(name)

    def names(self) -> tuple[str, ...]:
        """All file names that have an entry."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: Entry, *, durable: bool = True) -> None:
        """Add an entry; ``durable`` waits until it is on the disk."""
        line = json.dumps(asdict(entry), separators=(",", ":")) + "\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Never through a link, which may lead to another user's file.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            with os.fdopen(descriptor, "ab") as stream:
                if not self._ends_whole:  # end the truncated line first
                    stream.write(b"\n")
                stream.write(line.encode("utf-8"))
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            self._ends_whole = True
            self._entries[entry.name] = entry

    def _read(self) -> None:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return
        self._ends_whole = not text or text.endswith(b"\n")
        for line in text.split(b"\n"):
            entry = _parsed(line)
            if entry is not None:
                self._entries[entry.name] = entry


def _parsed(line: bytes) -> Entry | None:
    try:
        data = json.loads(line)
        size, mtime, ctime, inode = (int(value) for value in data["stat"])
        facts, cause = data.get("facts") or {}, data.get("cause") or ""
        if not _sound(facts) or not isinstance(cause, str) or len(cause) > _MAX_CAUSE or not cause.isprintable():
            return None
        return Entry(
            str(data["name"]),
            int(data["size"]),
            str(data["sha256"]),
            str(data["uri"]),
            (size, mtime, ctime, inode),
            facts,
            cause,
            data.get("removed") is True,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _sound(facts: Any) -> bool:
    """Whether each fact has the type and range that a plan expects."""
    if not isinstance(facts, dict):
        return False
    given = {key: value for key, value in facts.items() if value is not None}
    texts = (given.get(key, "") for key in ("filter", "pupil", "subarray", "pointing"))
    counts = (given.get(key, 1) for key in ("groups", "integrations"))
    corners = given.get("footprint", [])
    return (
        all(isinstance(value, str) and len(value) <= _MAX_TEXT and value.isascii() for value in texts)
        and all(type(value) is int and 0 <= value < _MAX_COUNT for value in counts)
        and _is_number(given.get("start_mjd", 0.0))
        and isinstance(corners, list)
        and all(isinstance(corner, list) and len(corner) == 2 and all(map(_is_number, corner)) for corner in corners)
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _MAX_NUMBER  # false for NaN
