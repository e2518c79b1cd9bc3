"""Downloads of CRDS files into part files: several at a time, with a watch on their progress."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from survey.archive.replies import retry_after_seconds
from survey.digest import file_sha1
from survey.errors import AccessRefusedError, DiskFullError, ReferencesError, ServiceUnreachableError

DOWNLOADS_AT_ONCE = 4
ATTEMPTS = 3
RETRY_SECONDS = 0.5  # before the second attempt; twice as long before each other
LEAST_BYTES_PER_SECOND = 5000.0  # a transfer that brings less is a drip, not a download
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


@dataclass
class _Job:
    url: str
    wanted: Wanted
    part: Path
    attempts: int = 0
    not_before: float = 0.0
    error: Exception | None = None


class Downloads:
    """Threads that download into part files and verify them, and a watch on their progress.

    A file that fails in a way that may pass goes back to the end of the queue. The threads are daemons and the watch is
    outside of them: a server that drips its header one byte at a time holds a thread for ever, but not the caller.
    """

    def __init__(self, folder: Path, files: Mapping[str, Wanted], silence_seconds: float):
        self.folder, self.silence_seconds = folder, silence_seconds
        self.jobs = [_Job(url, wanted, folder / f".part-{uuid.uuid4().hex}") for url, wanted in files.items()]
        self.todo: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.bytes = 0
        self.stopped = threading.Event()
        self._leaving = threading.Lock()  # no part file is made behind the last look at them
        for job in self.jobs:
            self.todo.put(job)

    def __enter__(self) -> Downloads:
        for _ in range(min(DOWNLOADS_AT_ONCE, len(self.jobs))):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._leaving:
            self.stopped.set()
        for job in self.jobs:
            job.part.unlink(missing_ok=True)

    def _open(self, part: Path) -> BinaryIO:
        with self._leaving:
            if self.stopped.is_set():
                raise InterruptedError("nobody waits for this file any more")
            return open(part, "wb")

    def results(self) -> Iterator[tuple[Wanted, Path, Exception | None]]:
        """File, part file and error of each download as it ends; all that are left when nothing comes any more."""
        waiting, seen, since = {job.url: job for job in self.jobs}, 0, time.monotonic()
        while waiting:
            try:
                job = self.done.get(timeout=min(0.5, self.silence_seconds))
            except queue.Empty:
                now = time.monotonic()
                if self.bytes - seen >= LEAST_BYTES_PER_SECOND * self.silence_seconds:
                    seen, since = self.bytes, now
                elif now - since > self.silence_seconds:
                    self.stopped.set()
                    break
            else:
                del waiting[job.url]
                since = time.monotonic()
                yield job.wanted, job.part, job.error
        for job in waiting.values():
            cause = f" (last: {job.error})" if job.error is not None else ""
            said = f"{self.bytes - seen} bytes of all files in {self.silence_seconds:.0f} s; given up{cause}"
            yield job.wanted, job.part, TimeoutError(said)

    def _work(self) -> None:
        while not self.stopped.is_set():
            try:
                job = self.todo.get(timeout=0.1)
            except queue.Empty:
                continue
            if job.not_before > time.monotonic():
                self.todo.put(job)
                self.stopped.wait(0.05)
                continue
            job.attempts += 1
            job.error = self._transfer(job.url, job.part, job.wanted.size) or _unlike(job.wanted, job.part)
            if job.error is None or job.attempts >= ATTEMPTS or not _worth_another_try(job.error):
                self.done.put(job)
            else:
                pause = max(RETRY_SECONDS * 2 ** (job.attempts - 1), _asked_seconds(job.error))
                job.not_before = time.monotonic() + min(pause, self.silence_seconds)
                self.todo.put(job)

    def _transfer(self, url: str, part: Path, listed: int | None) -> Exception | None:
        # A third of the limit: silence in one file leaves time for another attempt, and for the other files.
        stall = self.silence_seconds / 3
        try:
            with urllib.request.urlopen(url, timeout=stall) as answer, self._open(part) as stream:
                if "html" in answer.headers.get("Content-Type", "").lower():
                    return ConnectionError("an HTML page came in place of the file")
                size, mark_bytes, mark_time = 0, 0, time.monotonic()
                while not self.stopped.is_set() and (block := answer.read1(_READ_BYTES)):
                    stream.write(block)
                    size, now = size + len(block), time.monotonic()
                    self.bytes += len(block)
                    if listed is not None and size > listed:
                        return WrongFileError(f"more than the {listed} bytes that the server lists")
                    if size - mark_bytes >= LEAST_BYTES_PER_SECOND * stall:
                        mark_bytes, mark_time = size, now
                    elif now - mark_time > stall:
                        return TimeoutError(f"{size - mark_bytes} bytes in {now - mark_time:.0f} s: the server drips")
                stream.flush()
                os.fsync(stream.fileno())
            length = answer.headers.get("Content-Length")
            if length is not None and part.stat().st_size != int(length):
                return ConnectionError(f"{part.stat().st_size} of {length} bytes came")
            return None
        except (OSError, http.client.HTTPException, ValueError) as error:
            return error


class WrongFileError(Exception):
    """What came is not the file that was wanted."""


def _unlike(wanted: Wanted, part: Path) -> Exception | None:
    """Why a part file is not what was wanted; None when it is, as far as anyone can tell."""
    try:
        size, found = part.stat().st_size, file_sha1(part)
        if (wanted.size is not None and size != wanted.size) or (wanted.sha1 is not None and found != wanted.sha1):
            said = f"{size} bytes with SHA-1 {found}, the server lists {wanted.size} and {wanted.sha1}"
            return WrongFileError(said)
        if wanted.is_mapping and not mapping_is_whole(part):
            return WrongFileError("its own sha1sum does not fit its text")
    except OSError as error:
        return error
    return WrongFileError("an empty file came") if not size else None


def mapping_is_whole(path: Path) -> bool:
    """Whether a mapping's own ``sha1sum`` is the SHA-1 of its text without the line that holds it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError:
        return False
    rest = "".join(line for line in lines if "sha1sum" not in line)
    listed = re.search(r"'sha1sum'\s*:\s*'([0-9a-f]{40})'", "".join(line for line in lines if "sha1sum" in line))
    return listed is not None and hashlib.sha1(rest.encode("utf-8")).hexdigest() == listed.group(1)


def _worth_another_try(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    return not (isinstance(error, OSError) and error.errno in OUT_OF_SPACE)


def _asked_seconds(error: Exception) -> float:
    asked = isinstance(error, urllib.error.HTTPError) and error.headers.get("Retry-After")
    return retry_after_seconds(asked) if asked else 0.0


def raise_for(faults: Mapping[str, Exception], kept: int, url: str) -> None:
    """Turn single faults into the error that tells what to do."""
    if not faults:
        return
    where = urllib.parse.urlsplit(url)._replace(path="", query="").geturl()
    first = next(iter(faults.values()))
    if any(isinstance(error, urllib.error.HTTPError) and error.code in (401, 403) for error in faults.values()):
        raise AccessRefusedError(f"{where} refuses {', '.join(sorted(faults))}: {first}.")
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
