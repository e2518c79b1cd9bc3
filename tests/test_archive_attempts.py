"""Attempts at one request, with fakes in place of requests."""

from __future__ import annotations

import threading
import time

import pytest

from survey.archive.attempts import GivenUpError, Pace, PassingError, Watch, first_reply


class Failure(Exception):
    """What a caller is to see of an attempt."""


def passing(cause="odd", wait=0.0):
    return PassingError(cause, Failure(cause), wait)


class Server:
    """Answers each request as a list says: an exception to raise, seconds to be silent, or a reply."""

    def __init__(self, *behaviour):
        self.behaviour, self.asked, self.lock = list(behaviour), [], threading.Lock()

    def __call__(self, attempt):
        with self.lock:
            number = len(self.asked)
            self.asked.append(time.monotonic())
        now = self.behaviour[min(number, len(self.behaviour) - 1)]
        if isinstance(now, Exception):
            raise now
        if isinstance(now, float):
            time.sleep(now)
        return number


def test_first_attempt_that_replies_is_the_only_one():
    server = Server("reply")
    assert first_reply(server, Watch(0.9), retries=4) == 0
    assert len(server.asked) == 1


def test_silent_attempt_costs_its_share():
    server = Server(5.0, "reply")
    start = time.monotonic()
    assert first_reply(server, Watch(0.9), retries=4) == 1
    assert 0.28 <= time.monotonic() - start < 0.8


def test_late_reply_of_the_first_attempt_still_counts():
    server = Server(0.5, 5.0)
    start = time.monotonic()
    assert first_reply(server, Watch(0.9), retries=1) == 0
    assert 0.45 <= time.monotonic() - start < 0.85 and len(server.asked) == 2


def test_attempt_that_makes_progress_is_left_alone():
    asked = []

    def slow(attempt):
        asked.append(attempt)
        for step in range(1, 9):  # 10 kB in 0.1 s; 5 kB a second is enough
            time.sleep(0.1)
            attempt.pace.reached(step * 10_000)
        return len(asked)

    assert first_reply(slow, Watch(0.9), retries=4) == 1


def test_failure_that_passes_is_followed_by_a_pause():
    server = Server(passing(wait=0.7), "reply")
    assert first_reply(server, Watch(5.0), retries=4) == 1
    assert server.asked[1] - server.asked[0] >= 0.7


def test_last_failure_is_raised_and_others_noted():
    watch = Watch(5.0)
    with pytest.raises(Failure, match="odd"):
        first_reply(Server(passing()), watch, retries=1)
    assert watch.cause == "odd"


def test_failure_of_the_last_attempt_waits_for_one_that_is_still_under_way():
    assert first_reply(Server(1.0, passing()), Watch(1.5), retries=1) == 0


def test_failure_that_stays_is_raised_at_once():
    server = Server(Failure("no"))
    with pytest.raises(Failure):
        first_reply(server, Watch(5.0), retries=4)
    assert len(server.asked) == 1


def test_caller_that_no_longer_waits_ends_it():
    watch, ended = Watch(0.9), []

    def silent(attempt):
        while not attempt.is_over:
            time.sleep(0.01)
        ended.append(attempt)

    threading.Timer(0.5, watch.given_up.set).start()
    with pytest.raises(GivenUpError):
        first_reply(silent, watch, retries=4)
    time.sleep(0.2)
    assert len(ended) == 2  # the second one was started after 0.3 s


def test_nothing_is_written_for_an_attempt_that_is_over():
    attempts = []

    def ask(attempt):
        attempts.append(attempt)
        return 1

    first_reply(ask, Watch(1.0), retries=0)
    with attempts[0].writing():
        pass
    attempts[0].end()
    with pytest.raises(GivenUpError), attempts[0].writing():
        pass


def test_bytes_below_the_least_rate_are_no_progress(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("survey.archive.attempts.time.monotonic", lambda: now[0])
    pace = Pace(5.0, 1000, done=500)
    now[0] = 5.0
    assert not pace.reached(1499) and not pace.is_stalled
    now[0] = 10.0
    assert (pace.idle_seconds, pace.idle_bytes) == (10.0, 999) and pace.is_stalled
    assert pace.reached(1500) and (pace.idle_seconds, pace.idle_bytes) == (0.0, 0) and not pace.is_stalled
