"""Verified download of a program's raw files, several at a time.

A file that fails in a way that may pass goes back to the end of the queue, so that one bad file holds up no good one.
The server is given up as a whole when nothing but failures comes from it, or nothing at all.
"""

from __future__ import annotations

import errno
import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from survey.archive.ledger import LEDGER, Ledger
from survey.archive.raw import kept, publish
from survey.archive.structure import DamagedFileError
from survey.archive.transfer import MAX_FILE_BYTES, Connection, FetchSettings, Part, TransferError, download
from survey.credentials import scrub
from survey.errors import (
    AccessRefusedError,
    ConfigError,
    DiskFullError,
    DownloadError,
    ServiceUnreachableError,
    SurveyError,
)
from survey.models import Exposure
from survey.names import parse_exposure

Progress = Callable[[str, int, int | None], None]  # name, bytes so far, bytes in total

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class FetchReport:
    """What `fetch` found and did."""

    exposures: tuple[Exposure, ...]  # whose files are whole, with sha256 and facts of their headers; in input order
    fetched: tuple[str, ...] = ()  # names of those that were downloaded now
    missing: dict[str, str] = field(default_factory=dict)  # name -> cause
    refused: dict[str, str] = field(default_factory=dict)  # name -> cause, 401 or 403
    bytes: int = 0  # downloaded now

    @property
    def error(self) -> SurveyError | None:
        """What a command ends with when files are missing: refused ones first; None when all are there."""
        if self.refused:
            lines = [f"{len(self.refused)} file(s) refused; the others are kept:"]
            lines += [f"{name}: {cause}" for name, cause in sorted(self.refused.items())]
            others = str(DownloadError(self.missing)).splitlines() if self.missing else []
            return AccessRefusedError("\n".join([*lines, *others]))
        return DownloadError(self.missing) if self.missing else None


def fetch(
    exposures: Sequence[Exposure],
    directory: Path | str,
    *,
    server: str,
    token: str | None = None,
    settings: FetchSettings | None = None,
    progress: Progress | None = None,
) -> FetchReport:
    """Bring the raw files of these exposures into a folder, and verify those that are there.

    Single files that cannot be had do not stop the others: they are in the report, whose ``error`` is to be raised by
    whoever needs all.

    Parameters
    ----------
    directory : ``raw/`` of the workspace; made if need be
    server : root URL of the archive
    token : MAST_API_TOKEN, sent to this server alone and over TLS or loopback alone
    progress : called from several threads

    Raises
    ------
    ServiceUnreachableError
        The server gives no answer, or nothing but server errors; what arrived is kept.
    DiskFullError
        The file system has no space left for the files.
    ConfigError
        The token holds characters that no header may.
    """
    settings = settings or FetchSettings()
    directory = Path(directory)
    for exposure in exposures:
        parse_exposure(exposure.name)  # a name becomes a path: never one that the grammar does not know
    token = _checked_token(token)
    directory.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(directory / LEDGER)
    with ThreadPoolExecutor(settings.downloads) as pool:
        verified = list(pool.map(lambda exposure: kept(exposure, directory, ledger), exposures))
    there = {exposure.name: exposure for exposure in verified if exposure is not None}
    wanted = [exposure for exposure in exposures if exposure.name not in there]
    _check_space(wanted, directory)
    downloads = _Downloads(wanted, directory, ledger, server, token, settings, progress, bool(there))
    if wanted:
        downloads.run()
    there |= downloads.done
    ordered = tuple(there[exposure.name] for exposure in exposures if exposure.name in there)
    return FetchReport(
        ordered, tuple(sorted(downloads.done)), downloads.missing, downloads.refused, downloads.bytes_done
    )


def _checked_token(token: str | None) -> str | None:
    token = (token or "").strip()
    if token and not (token.isascii() and token.isprintable() and not set(token) & set(' ",;\\')):
        raise ConfigError("MAST_API_TOKEN holds characters that no token has. Copy it again from the archive's page.")
    return token or None


def _check_space(wanted: Sequence[Exposure], directory: Path) -> None:
    real = [item for item in wanted if (item.size or 0) <= MAX_FILE_BYTES]  # the transfer refuses the others
    needed = sum(max(0, (item.size or 0) - Part(directory, item.file).size) for item in real)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise DiskFullError(
            f"{directory}: {needed / 1e9:.2f} GB to fetch, {free / 1e9:.2f} GB free. "
            "Make room, or take another --workspace."
        )


@dataclass
class _Job:
    exposure: Exposure
    attempts: int = 0
    not_before: float = 0.0
    silent_seconds: float = 0.0  # spent in attempts that ended in failures of the server
    last_progress: float = 0.0  # of the attempt under way
    last_bytes: int = 0
    cause: str = ""
    abandoned: bool = False


class _Downloads:
    """The queue, its workers (daemon threads: one that hangs in a header is left behind), and what came of it."""

    def __init__(
        self, wanted: Sequence[Exposure], directory: Path, ledger: Ledger, server: str, token: str | None,
        settings: FetchSettings, progress: Progress | None, has_kept: bool,
    ):  # fmt: skip
        self._directory, self._ledger, self._server, self._token = directory, ledger, server, token
        self._settings, self._progress, self._has_kept = settings, progress, has_kept
        self._change = threading.Condition()
        self._fresh = [_Job(exposure) for exposure in reversed(wanted)]  # never tried; the next one last
        self._again: list[_Job] = []
        self._active: list[_Job] = []
        self._fatal: BaseException | None = None
        self._failures = 0  # of the server, one after another, over all files
        self._not_before = 0.0
        self._asked_seconds = 0.0  # that the server asked us to wait since the last success
        self._last_progress = time.monotonic()
        self._unreachable: dict[str, str] = {}
        self._random = random.Random()
        self.done: dict[str, Exposure] = {}
        self.missing: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.bytes_done = 0

    def run(self) -> None:
        """Work until every file is there or given up.

        Raises
        ------
        ServiceUnreachableError, DiskFullError
            As in `fetch`.
        """
        threads = [self._start_worker() for _ in range(min(self._settings.downloads, len(self._fresh)))]
        try:
            with self._change:
                while not self._is_over():
                    self._change.wait(0.1)
                    self._watch()
        finally:
            with self._change:
                self._fresh, self._again = [], []
                for job in self._active:
                    job.abandoned = True
                self._change.notify_all()
        for thread in threads:
            thread.join(0.1)
        if self._fatal is not None:
            raise self._fatal
        if self._unreachable and not self.done and not self._has_kept and self.missing == self._unreachable:
            raise self._unreachable_error()

    def _start_worker(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="archive-fetch", daemon=True)
        thread.start()
        return thread

    def _is_over(self) -> bool:
        return self._fatal is not None or not (self._fresh or self._again or self._active)

    def _work(self) -> None:
        try:
            self._serve_queue()
        except BaseException as error:  # noqa: BLE001 - a fault of ours: handed to the caller's thread
            with self._change:
                self._fatal = self._fatal or error
                self._change.notify_all()

    def _serve_queue(self) -> None:
        connection = Connection(self._server, self._token, self._settings)
        try:
            while (job := self._take()) is not None:
                started = time.monotonic()
                try:
                    exposure = self._attempt(connection, job)
                except TransferError as error:
                    self._put_back(job, error, time.monotonic() - started)
                except OSError as error:
                    self._broken_disk(job, error)
                else:
                    self._finish(job, exposure)
                if job.abandoned:
                    return
        finally:
            connection.close()

    def _take(self) -> _Job | None:
        """The next job, when its time has come; None when there is nothing left to do."""
        with self._change:
            while not self._is_over():
                now = time.monotonic()
                ready = self._choose(now)
                if ready is not None:
                    self._active.append(ready)
                    ready.attempts += 1
                    ready.last_progress = now
                    return ready
                self._change.wait(0.05)
            return None

    def _choose(self, now: float) -> _Job | None:
        if now < self._not_before:
            return None
        if self._fresh:
            # While everything fails, look elsewhere: neighbours in the list may all stand in one broken folder.
            troubled = self._failures >= self._settings.downloads
            return self._fresh.pop(self._random.randrange(len(self._fresh)) if troubled else -1)
        first = min(self._again, key=lambda job: job.not_before, default=None)
        if first is None or first.not_before > now:
            return None
        self._again.remove(first)
        return first

    def _attempt(self, connection: Connection, job: _Job) -> Exposure:
        exposure, part = job.exposure, Part(self._directory, job.exposure.file)

        def on_bytes(done: int, total: int | None) -> bool:
            if done - job.last_bytes >= self._settings.min_bytes_per_second * self._settings.stall_seconds:
                job.last_bytes, job.last_progress = done, time.monotonic()
                self._last_progress = job.last_progress
            if self._progress is not None:
                self._progress(exposure.name, done, total if total is not None else exposure.size)
            return not job.abandoned

        job.last_bytes = part.size
        download(connection, exposure, part, self._settings, on_bytes)
        if job.abandoned:
            raise TransferError("stopped.", "final")
        size = part.size
        try:
            published = publish(exposure, part.path, self._directory, self._ledger)
        except DamagedFileError as error:
            part.discard()
            raise TransferError(f"what came {error}", "file") from error
        part.drop_tag()
        with self._change:
            self.bytes_done += size
        return published

    def _finish(self, job: _Job, exposure: Exposure) -> None:
        with self._change:
            if job.abandoned:
                return
            self._active.remove(job)
            self.done[exposure.name] = exposure
            self._failures, self._asked_seconds = 0, 0.0
            self._last_progress = time.monotonic()
            self._change.notify_all()

    def _put_back(self, job: _Job, error: TransferError, seconds: float) -> None:
        """Decide about a failed attempt: again later, or given up; and about the server as a whole."""
        settings, name, now = self._settings, job.exposure.name, time.monotonic()
        with self._change:
            if job.abandoned:
                return
            self._active.remove(job)
            job.cause = scrub(str(error), self._token or "")
            if error.failure == "refused":
                self.refused[name] = job.cause
            elif error.failure == "final":
                self.missing[name] = job.cause
            patient = True
            if error.failure != "server":
                self._failures, self._last_progress = 0, now
            else:
                self._failures += 1
                job.silent_seconds += seconds
                patient = self._slow_down(error.wait_seconds, now)
            if error.failure in ("server", "file"):
                spent = job.silent_seconds >= settings.timeout_seconds or not patient
                if job.attempts > settings.retries or spent:
                    self._give_up(job, error.failure == "server")
                else:
                    pause = settings.backoff_seconds * 2 ** (job.attempts - 1) * self._random.uniform(0.5, 1.0)
                    job.not_before = max(self._not_before, now + min(settings.max_wait_seconds, pause))
                    self._again.append(job)
            if self._failures > settings.downloads * (settings.retries + 1):
                self._conclude()
            self._change.notify_all()

    def _slow_down(self, asked_seconds: float, now: float) -> bool:
        """Hold all workers while the server asks for it, or while nothing but failures comes.

        Retry-After is kept, as long as all that was asked for since the last success is within the time limit; what is
        beyond is cut. False when the server goes on asking after the limit.
        """
        settings = self._settings
        rounds = self._failures // settings.downloads
        pause = settings.backoff_seconds * 2 ** (rounds - 1) if rounds else 0.0
        held = max(self._not_before, now)
        left = max(0.0, settings.timeout_seconds - self._asked_seconds)
        more = min(left, max(0.0, now + asked_seconds - held))
        waits_already = self._not_before > now  # for another file's answer of the same moment
        self._not_before = max(held + more, now + min(settings.max_wait_seconds, pause))
        if more:
            self._asked_seconds += more
            self._last_progress = max(self._last_progress, held + more)
        return not asked_seconds or left > 0.01 or waits_already

    def _give_up(self, job: _Job, by_server: bool) -> None:
        self.missing[job.exposure.name] = f"{job.cause} ({job.attempts} attempts)"
        if by_server:
            self._unreachable[job.exposure.name] = self.missing[job.exposure.name]

    def _watch(self) -> None:
        """Abandon attempts that hang where no timeout reaches, and a server that makes no progress at all."""
        now, limit = time.monotonic(), self._settings.timeout_seconds
        for job in [job for job in self._active if now - job.last_progress > limit]:
            self._abandon(job)
            self._start_worker()
        if now - self._last_progress > limit + 1.0:
            self._conclude()

    def _abandon(self, job: _Job) -> None:
        job.abandoned = True
        self._active.remove(job)
        job.cause = job.cause or f"no progress within {self._settings.timeout_seconds:g} s."
        self._give_up(job, True)

    def _conclude(self) -> None:
        """Nothing comes any more: the server is gone, or only files are left that it does not give."""
        untried = bool(self._fresh)
        for job in list(self._active):
            self._abandon(job)
        for job in self._again:
            self._give_up(job, True)
        self._fresh, self._again = [], []
        if untried or not (self.done or self._has_kept):
            self._fatal = self._unreachable_error()

    def _unreachable_error(self) -> ServiceUnreachableError:
        tried = sorted({cause for cause in self._unreachable.values() if not cause.startswith(" (")})
        return ServiceUnreachableError(
            f"{self._server}: gives no files ({tried[0] if tried else 'no answer'}). "
            f"{len(self.done)} arrived and are kept; try again later, the download will go on from there."
        )

    def _broken_disk(self, job: _Job, error: OSError) -> None:
        with self._change:
            if job.abandoned:
                return
            self._active.remove(job)
            if error.errno in _DISK_FULL:
                self._fatal = DiskFullError(
                    f"{self._directory}: no space left while writing {job.exposure.file}. Make room and run again: "
                    "what arrived is kept."
                )
            else:
                self.missing[job.exposure.name] = f"cannot be written ({error.strerror or error})."
            self._change.notify_all()
