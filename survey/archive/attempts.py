"""Several attempts at one request within one time limit, so that a single fault of a server costs a part of it only.

An attempt that fails in a way that may pass is followed by another one after a pause. An attempt that brings nothing
for its share of the limit is kept, and another one is started beside it: the first complete reply counts. A server
that always answers late is therefore waited for until the limit, as if there were one attempt.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

SHARES = 3  # silent attempts that fit into a time limit
LEAST_BYTES_PER_SECOND = 5000.0  # a slower body makes no progress
_BACKOFF_SECONDS = 0.5  # before the second attempt; doubles
_LOOK_SECONDS = 0.05


class GivenUpError(Exception):
    """The caller no longer waits for a reply: ends the thread that still works on it."""


class PassingError(Exception):
    """An attempt failed in a way that may pass.

    Parameters
    ----------
    cause : in a few words
    error : to be raised when no attempt is left
    wait_seconds : what the server asked for
    """

    def __init__(self, cause: str, error: Exception, wait_seconds: float = 0.0):
        super().__init__(cause)
        self.error = error
        self.wait_seconds = wait_seconds


@dataclass
class Watch:
    """Time since a server's last complete reply; shared by the thread that asks and the one that waits."""

    limit_seconds: float
    last_progress: float = field(default_factory=time.monotonic)
    cause: str = ""  # of the last failed attempt
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def left(self) -> float:
        """Seconds until the limit; negative after it."""
        return self.last_progress + self.limit_seconds - time.monotonic()

    @property
    def share_seconds(self) -> float:
        """Longest silence of one attempt before another one is started."""
        return self.limit_seconds / SHARES

    def progress(self) -> None:
        """Note a complete reply."""
        self.last_progress = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Sleep, at most to the limit.

        Raises
        ------
        GivenUpError
            The caller no longer waits.
        """
        if self.given_up.wait(min(seconds, max(0.0, self.left) + 0.1)):
            raise GivenUpError


class Pace:
    """Progress of one transfer: bytes count only when they are as many as a usable connection brings before it stalls.

    Parameters
    ----------
    stall_seconds : longest time without progress
    least_bytes : that count as progress
    done : bytes that were there before
    """

    def __init__(self, stall_seconds: float, least_bytes: float, done: int = 0):
        self.stall_seconds, self._least_bytes = stall_seconds, least_bytes
        self.restart(done)

    def restart(self, done: int) -> None:
        """Count anew: the server has answered, and its body comes next."""
        self.done = self._bytes = done
        self._time = time.monotonic()

    def reached(self, done: int) -> bool:
        """Note the bytes so far; whether they count as progress."""
        self.done = done
        is_progress = done - self._bytes >= self._least_bytes
        if is_progress:
            self.restart(done)
        return is_progress

    @property
    def idle_seconds(self) -> float:
        """Time since the last progress."""
        return time.monotonic() - self._time

    @property
    def is_stalled(self) -> bool:
        """Whether the transfer is silent, or slower than the least rate."""
        return self.idle_seconds > self.stall_seconds

    @property
    def idle_bytes(self) -> int:
        """Bytes that came since the last progress."""
        return self.done - self._bytes


class Attempt:
    """One attempt under way, and whether its reply is still wanted."""

    def __init__(self, pace: Pace):
        self.pace = pace
        self.is_over = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off the end of this attempt while something is written for it.

        Raises
        ------
        GivenUpError
            The attempt is over.
        """
        with self._lock:
            if self.is_over:
                raise GivenUpError
            yield

    def end(self) -> None:
        """From now on nothing is written for this attempt, whatever its thread still receives."""
        with self._lock:
            self.is_over = True


Result = tuple[Attempt, T | None, BaseException | None]


def first_reply(ask: Callable[[Attempt], T], watch: Watch, retries: int) -> T:
    """Call ``ask`` in a thread of its own, again when it fails or brings nothing for its share, and return a reply.

    Parameters
    ----------
    ask : one attempt. It notes the bytes that it received in ``attempt.pace``, raises PassingError for what is worth
        another attempt, and ends by itself within the watch's limit or once ``attempt.is_over``
    retries : further attempts

    Raises
    ------
    GivenUpError
        The watch's caller no longer waits.
    Exception
        What ``ask`` raised; of a PassingError the error that it holds, once there is no other attempt.
    """
    results: queue.SimpleQueue[Result[T]] = queue.SimpleQueue()
    running: list[Attempt] = []
    try:
        for number in range(retries + 1):
            running.append(_start(ask, watch, results))
            is_last = number == retries
            while is_last or not all(attempt.pace.is_stalled for attempt in running):
                try:
                    attempt, reply, error = results.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    watch.pause(0.0)
                    continue
                running.remove(attempt)
                if error is None:
                    return reply  # type: ignore[return-value]
                if not isinstance(error, PassingError):
                    raise error
                watch.cause = str(error)
                if not is_last:
                    watch.pause(max(error.wait_seconds, _BACKOFF_SECONDS * 2**number * random.uniform(0.5, 1.0)))
                    break
                if not running:
                    raise error.error from error
        raise AssertionError("not reached: the last attempt returns or raises")
    finally:
        for attempt in running:
            attempt.end()


def _start(ask: Callable[[Attempt], T], watch: Watch, results: queue.SimpleQueue[Result[T]]) -> Attempt:
    attempt = Attempt(Pace(watch.share_seconds, LEAST_BYTES_PER_SECOND * watch.share_seconds))

    def run() -> None:
        try:
            results.put((attempt, ask(attempt), None))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, whatever it is
            results.put((attempt, None, error))

    threading.Thread(target=run, name="attempt", daemon=True).start()
    return attempt
