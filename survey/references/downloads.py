"""Downloads of CRDS files into part files: several at a time, with a watch on their progress."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from survey.errors import AccessRefusedError, DiskFullError, ReferencesError, ServiceUnreachableError

DOWNLOADS_AT_ONCE = 4
ATTEMPTS = 3
RETRY_SECONDS = 0.5  # before the second attempt; twice as long before each other
# A transfer that brings less than this in one silence limit is a drip, not a download.
LEAST_BYTES = 16 * 1024
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Wanted:
    """A file that the cache should hold. ``size`` and ``sha1`` are None where no server information tells them."""

    name: str
    path: str  # below the cache, '/' between folders
    size: int | None = None
    sha1: str | None = None

    @property
    def is_mapping(self) -> bool:
        return self.name.endswith((".pmap", ".imap", ".rmap"))


class Downloads:
    """Threads that download into part files, and a watch on their progress.

    The threads are daemons and the watch is outside of them: a server that drips its header one byte at a time holds a
    thread for ever, but not the caller.
    """

    def __init__(self, folder: Path, files: Mapping[str, Wanted], silence_seconds: float):
        self.folder, self.silence_seconds = folder, silence_seconds
        self.todo: queue.SimpleQueue = queue.SimpleQueue()
        self.done: queue.SimpleQueue = queue.SimpleQueue()
        self.count = len(files)
        self.bytes = 0
        self.stopped = threading.Event()
        self.parts: list[Path] = []
        for item in files.items():
            self.todo.put(item)

    def __enter__(self) -> Downloads:
        for _ in range(min(DOWNLOADS_AT_ONCE, self.count)):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        for part in list(self.parts):
            part.unlink(missing_ok=True)

    def results(self) -> Iterator[tuple[Wanted, Path | None, Exception | None]]:
        """File, part file and error of each download as it ends."""
        ended, seen, since = 0, 0, time.monotonic()
        while ended < self.count:
            try:
                result = self.done.get(timeout=min(0.5, self.silence_seconds))
                ended, since = ended + 1, time.monotonic()
                yield result
            except queue.Empty:
                if self.bytes - seen >= LEAST_BYTES:
                    seen, since = self.bytes, time.monotonic()
                elif time.monotonic() - since > self.silence_seconds:
                    raise ServiceUnreachableError(
                        f"the CRDS server sent {self.bytes - seen} bytes in {self.silence_seconds:.0f} s; given up. "
                        "Run again later: what was fetched is kept."
                    ) from None

    def _work(self) -> None:
        while not self.stopped.is_set():
            try:
                url, wanted = self.todo.get_nowait()
            except queue.Empty:
                return
            part = self.folder / f".part-{uuid.uuid4().hex}"
            self.parts.append(part)
            error: Exception | None = None
            for attempt in range(ATTEMPTS):
                if attempt and self.stopped.wait(RETRY_SECONDS * 2 ** (attempt - 1)):
                    return
                error = self._transfer(url, part, wanted.size)
                if error is None or not _worth_another_try(error):
                    break
            self.done.put((wanted, part if error is None else None, error))

    def _transfer(self, url: str, part: Path, size: int | None = None) -> Exception | None:
        try:
            with urllib.request.urlopen(url, timeout=self.silence_seconds) as answer, open(part, "wb") as stream:
                while not self.stopped.is_set() and (block := answer.read1(_READ_BYTES)):
                    stream.write(block)
                    self.bytes += len(block)
                    if size is not None and stream.tell() > size:
                        return ValueError(f"more than the {size} bytes that the server lists")
                stream.flush()
                os.fsync(stream.fileno())
            length = answer.headers.get("Content-Length")
            if length is not None and part.stat().st_size != int(length):
                return ConnectionError(f"{part.stat().st_size} of {length} bytes came")
            return None
        except (OSError, http.client.HTTPException, ValueError) as error:
            return error


def _worth_another_try(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return not (isinstance(error, OSError) and error.errno in OUT_OF_SPACE)


def raise_for(faults: Mapping[str, Exception], kept: int, url: str) -> None:
    """Turn single faults into the error that tells what to do."""
    if not faults:
        return
    where = urllib.parse.urlsplit(url)._replace(path="", query="").geturl()
    first = next(iter(faults.values()))
    if any(isinstance(error, urllib.error.HTTPError) and error.code in (401, 403) for error in faults.values()):
        raise AccessRefusedError(f"{where} refuses {', '.join(sorted(faults)[:3])}: {first}.")
    if kept == 0 and all(isinstance(error, OSError) and _worth_another_try(error) for error in faults.values()):
        raise ServiceUnreachableError(f"{where} sent none of {len(faults)} CRDS files: {first}. Run again later.")
    lines = [f"{name}: {error}" for name, error in sorted(faults.items())]
    raise ReferencesError(
        f"{len(lines)} CRDS file(s) could not be had from {where}; the others are kept:\n" + "\n".join(lines)
    )


@contextlib.contextmanager
def out_of_space(folder: Path) -> Iterator[None]:
    """Turn a full disk into DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise DiskFullError(f"{folder}: no space left. Free some and run again; what is there is kept.") from error
        raise
