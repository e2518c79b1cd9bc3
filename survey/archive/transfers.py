"""Download many files from one server, several at a time: the one queue for raw files and reference files.

A file that fails in a way that may pass goes back to the end of the queue, so that one bad file delays no good one.
The server is given up as a whole when it sends nothing but failures, or nothing at all.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from survey.archive.attempts import Attempt, GivenUpError, Pace
from survey.archive.download import Connection, FetchSettings, RemoteFile, Source, TransferError, download
from survey.credentials import scrub
from survey.errors import DiskFullError, ServiceUnreachableError
from survey.workspace.files import is_disk_full

T = TypeVar("T")

Progress = Callable[[str, int, int | None], None]  # name, bytes so far, bytes in total

_HANGS = 1.5  # stall times until an attempt that no timeout of a socket ends is ended from outside


class WrongFileError(Exception):
    """What came is not the file that was asked for; another attempt may bring it."""


@dataclass
class Outcome(Generic[T]):
    """What became of the files, by name."""

    done: dict[str, T] = field(default_factory=dict)  # what accepting the file returned
    missing: dict[str, str] = field(default_factory=dict)  # name -> cause
    refused: dict[str, str] = field(default_factory=dict)  # name -> cause, 401 or 403
    bytes: int = 0  # downloaded
    by_server: set[str] = field(default_factory=set)  # of the missing ones: those that the server failed to send


@dataclass(eq=False)
class Job:
    """A file in the queue."""

    file: RemoteFile
    attempts: int = 0
    not_before: float = 0.0
    silent_seconds: float = 0.0  # spent in attempts that ended in failures of the server
    cause: str = ""  # of the last failure


class JobQueue:
    """Files that wait for an attempt: those never tried, and those that are to be tried again."""

    def __init__(self, jobs: Sequence[Job]):
        self.fresh = list(reversed(jobs))  # the next one last
        self.again: list[Job] = []
        self._random = random.Random()

    def __len__(self) -> int:
        return len(self.fresh) + len(self.again)

    def take(self, now: float, is_troubled: bool) -> Job | None:
        """The next file whose time has come; None when there is none.

        While everything fails a file is taken at random: neighbours in the list may all be in one broken folder.
        """
        if self.fresh:
            return self.fresh.pop(self._random.randrange(len(self.fresh)) if is_troubled else -1)
        first = min(self.again, key=lambda job: job.not_before, default=None)
        if first is None or first.not_before > now:
            return None
        self.again.remove(first)
        return first

    def put_back(self, job: Job, not_before: float) -> None:
        """Try a file again, after those that wait already and not before this time."""
        job.not_before = not_before
        self.again.append(job)

    def clear(self) -> list[Job]:
        """Empty the queue; the files that were to be tried again."""
        left, self.fresh, self.again = self.again, [], []
        return left


class ServerHealth:
    """What the last replies show about a server: how long to leave it alone, and whether it is gone.

    Times are those of ``time.monotonic()`` [s].
    """

    def __init__(self, settings: FetchSettings, now: float):
        self._settings = settings
        self._failures = 0  # of the server, one after another, over all files
        self._asked_seconds = 0.0  # that it asked us to wait since the last success
        self._last_progress = now
        self.not_before = 0.0  # no request to it before this time

    @property
    def is_troubled(self) -> bool:
        """Whether as many attempts failed in a row as are made at the same time."""
        return self._failures >= self._settings.downloads

    def is_gone(self, now: float) -> bool:
        """Whether every attempt that a file has failed everywhere, or nothing came for the whole time limit."""
        settings = self._settings
        too_often = self._failures > settings.downloads * (settings.retries + 1)
        return too_often or now - self._last_progress > settings.timeout_seconds + 1.0

    def made_progress(self, now: float) -> None:
        """Note that bytes came."""
        self._last_progress = now

    def answered(self, now: float) -> None:
        """Note a reply that is no failure of the server."""
        self._failures, self._last_progress = 0, now

    def succeeded(self, now: float) -> None:
        """Note a whole file."""
        self.answered(now)
        self._asked_seconds = 0.0

    def failed(self, now: float, asked_seconds: float) -> bool:
        """Note a failure, and hold all requests while the server asks for it or sends nothing but failures.

        Retry-After is kept as long as all that was asked for since the last success is within the time limit; what is
        beyond is cut.

        Returns
        -------
        is_patient : False when the server asks for more time after the limit
        """
        self._failures += 1
        settings = self._settings
        rounds = self._failures // settings.downloads
        pause = settings.backoff_seconds * 2 ** (rounds - 1) if rounds else 0.0
        held = max(self.not_before, now)
        left = max(0.0, settings.timeout_seconds - self._asked_seconds)
        more = min(left, max(0.0, now + asked_seconds - held))
        waits_already = self.not_before > now  # for another file's answer of the same moment
        self.not_before = max(held + more, now + min(settings.max_wait_seconds, pause))
        if more:
            self._asked_seconds += more
            self._last_progress = max(self._last_progress, held + more)
        return not asked_seconds or left > 0.01 or waits_already


@dataclass(eq=False)
class _Run:
    """An attempt at one file, under way."""

    job: Job
    attempt: Attempt
    started: float
    bytes: int = 0  # of the complete file; before, 0
    is_accepting: bool = False  # the file is here and is being checked, which is not the server's time

    @property
    def hangs(self) -> bool:
        pace = self.attempt.pace
        return not self.is_accepting and pace.idle_seconds > _HANGS * pace.stall_seconds


class Transfers(Generic[T]):
    """Downloads of some files from one server, several at a time.

    Parameters
    ----------
    files : with distinct names
    accept : called in several threads with a file whose part is complete: checks it, gives it its final name, and
        returns what is wanted of it. Raises WrongFileError when what came is not the file, OSError for a disk's failure
    progress : called in several threads with name, bytes so far, bytes in total
    has_others : other files of this kind are here already; files that cannot be fetched are then single ones, and no
        sign that the server is gone
    """

    def __init__(
        self,
        files: Sequence[RemoteFile],
        source: Source,
        settings: FetchSettings,
        accept: Callable[[RemoteFile], T],
        progress: Progress | None = None,
        has_others: bool = False,
    ):
        self._source, self._settings = source, settings
        self._accept, self._progress, self._has_others = accept, progress, has_others
        self._change = threading.Condition()
        self._queue = JobQueue([Job(file) for file in files])
        self._running: list[_Run] = []
        self._health = ServerHealth(settings, time.monotonic())
        self._outcome: Outcome[T] = Outcome()
        self._fatal: BaseException | None = None
        self._random = random.Random()

    def run(self) -> Outcome[T]:
        """Work until every file is here or given up. To be called once.

        Raises
        ------
        ServiceUnreachableError
            The server gives no answer, or nothing but server errors; what arrived is kept.
        DiskFullError
            The file system has no space left.
        """
        # Daemon threads: one that a server holds up with endless headers must not hold up the process.
        threads = [self._start_worker() for _ in range(min(self._settings.downloads, len(self._queue)))]
        try:
            with self._change:
                while not self._is_over():
                    self._change.wait(0.1)
                    self._watch()
        finally:
            with self._change:
                self._queue.clear()
                for run in self._running:
                    run.attempt.end()
                self._change.notify_all()
        for thread in threads:
            thread.join(0.1)
        if self._fatal is not None:
            raise self._fatal
        outcome = self._outcome
        if outcome.by_server and not (outcome.done or self._has_others) and outcome.by_server == set(outcome.missing):
            raise self._unreachable_error()
        return outcome

    def _is_over(self) -> bool:
        return self._fatal is not None or not (self._queue or self._running)

    # --- the workers' threads

    def _start_worker(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="download", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        try:
            connection = Connection(self._source, self._settings)
            try:
                while (run := self._take()) is not None:
                    value, error = self._try(connection, run)
                    if not self._settle(run, value, error):
                        return
            finally:
                connection.close()
        except BaseException as error:  # noqa: BLE001 - a fault of this package: handed to the caller's thread
            with self._change:
                self._fatal = self._fatal or error
                self._change.notify_all()

    def _take(self) -> _Run | None:
        """An attempt at the next file, when its time has come; None when there is nothing left to do."""
        with self._change:
            while not self._is_over():
                now = time.monotonic()
                job = self._queue.take(now, self._health.is_troubled) if now >= self._health.not_before else None
                if job is not None:
                    job.attempts += 1
                    pace = Pace(self._settings.stall_seconds, self._settings.least_bytes, job.file.part.size)
                    self._running.append(_Run(job, Attempt(pace), now))
                    return self._running[-1]
                self._change.wait(0.05)
            return None

    def _try(self, connection: Connection, run: _Run) -> tuple[T | None, Exception | None]:
        """Download one file and have it accepted; what came of it, or the error."""
        file, attempt = run.job.file, run.attempt

        def on_bytes(done: int, total: int | None) -> None:
            if attempt.pace.reached(done):
                self._health.made_progress(time.monotonic())
            if self._progress is not None:
                self._progress(file.name, done, total if total is not None else file.size)

        try:
            download(connection, file, attempt, on_bytes)
            with attempt.writing():
                run.bytes, run.is_accepting = file.part.size, True
            return self._accept(file), None
        except WrongFileError as error:
            file.part.discard()
            return None, TransferError(str(error), "file")
        except (TransferError, GivenUpError, OSError) as error:
            return None, error

    def _settle(self, run: _Run, value: T | None, error: Exception | None) -> bool:
        """Note how an attempt ended; False when it was ended from outside, and another thread works in its place."""
        now = time.monotonic()
        with self._change:
            if run.attempt.is_over:
                return False
            self._running.remove(run)
            if isinstance(error, TransferError):
                self._failed(run.job, error, now - run.started)
            elif isinstance(error, OSError):
                self._failed_on_disk(run.job, error)
            else:
                self._outcome.done[run.job.file.name] = value  # type: ignore[assignment]
                self._outcome.bytes += run.bytes
                self._health.succeeded(now)
            self._change.notify_all()
        return True

    # --- decisions, made while the condition is held

    def _failed(self, job: Job, error: TransferError, seconds: float) -> None:
        """Decide about a failed attempt: again later, or given up; and about the server as a whole."""
        settings, outcome, now = self._settings, self._outcome, time.monotonic()
        job.cause = scrub(str(error), self._source.token or "")
        is_patient = True
        if error.failure == "server":
            job.silent_seconds += seconds
            is_patient = self._health.failed(now, error.wait_seconds)
        else:
            self._health.answered(now)
        if error.failure == "refused":
            outcome.refused[job.file.name] = job.cause
        elif error.failure == "final":
            outcome.missing[job.file.name] = job.cause
        elif job.attempts > settings.retries or job.silent_seconds >= settings.timeout_seconds or not is_patient:
            self._give_up(job, error.failure == "server")
        else:
            pause = settings.backoff_seconds * 2 ** (job.attempts - 1) * self._random.uniform(0.5, 1.0)
            self._queue.put_back(job, max(self._health.not_before, now + min(settings.max_wait_seconds, pause)))
        if self._health.is_gone(now):
            self._conclude()

    def _failed_on_disk(self, job: Job, error: OSError) -> None:
        part = job.file.part
        if is_disk_full(error):
            self._fatal = DiskFullError(
                f"{part.path.parent}: no space left while writing {part.filename}. Make room and run again: "
                "what arrived is kept."
            )
        else:
            self._outcome.missing[job.file.name] = f"cannot be written ({error.strerror or error})."

    def _give_up(self, job: Job, by_server: bool) -> None:
        name = job.file.name
        attempts = f"{job.attempts} attempt{'s' if job.attempts != 1 else ''}"
        self._outcome.missing[name] = f"{job.cause or self._no_progress()} ({attempts})"
        if by_server:
            self._outcome.by_server.add(name)

    def _no_progress(self) -> str:
        return f"no progress within {self._settings.timeout_seconds:g} s."

    def _watch(self) -> None:
        """End attempts that hang where no timeout of a socket reaches, and give up a server that sends nothing."""
        now = time.monotonic()
        for run in [run for run in self._running if run.hangs]:
            if run not in self._running:  # the server was given up meanwhile
                return
            run.attempt.end()
            self._running.remove(run)
            seconds = now - run.started
            self._failed(run.job, TransferError(f"no progress within {seconds:.0f} s.", "server"), seconds)
            self._start_worker()
        if any(run.is_accepting for run in self._running):
            self._health.made_progress(now)
        if self._health.is_gone(now):
            self._conclude()

    def _conclude(self) -> None:
        """Nothing comes any more: the server is gone, or only files are left that it does not send."""
        has_untried = bool(self._queue.fresh)
        for run in self._running:
            run.attempt.end()
            self._give_up(run.job, True)
        self._running.clear()
        for job in self._queue.clear():
            self._give_up(job, True)
        if has_untried or not (self._outcome.done or self._has_others):
            self._fatal = self._unreachable_error()

    def _unreachable_error(self) -> ServiceUnreachableError:
        causes = sorted(self._outcome.missing[name] for name in self._outcome.by_server)
        return ServiceUnreachableError(
            f"{self._source.server}: sends no files ({causes[0] if causes else 'no answer'}). "
            f"{len(self._outcome.done)} arrived and are kept. Run again later: the download continues from there."
        )
