"""How long tasks wait for a worker that can hold them."""

from __future__ import annotations

from survey.models import Task
from survey.scheduling.waiting import WorkerTimeout


def task(name: str) -> Task:
    return Task(key=f"a/{name}", step="a", subject=name, filter="F200W", settings={})


def test_only_what_finds_no_worker_for_the_whole_time_is_given_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("survey.scheduling.waiting.time.monotonic", lambda: now[0])
    timeout = WorkerTimeout(60.0)
    small, large = (task("small"), 1.0), (task("large"), 8.0)
    assert not timeout.is_due
    now[0] = 5.0
    assert timeout.is_due
    assert timeout.expired([small, large], {"w": 4.0}) == {}
    now[0] = 64.0
    assert timeout.expired([small, large], {"w": 4.0}) == {}
    now[0] = 65.0
    given_up = timeout.expired([small, large], {"w": 4.0})
    assert list(given_up) == ["a/large"]
    assert "memory_gb = 8.0" in given_up["a/large"]
    assert "the largest that is there has 4.0" in given_up["a/large"]
    assert "limits.workers_minutes" in given_up["a/large"]


def test_a_worker_that_comes_and_goes_restarts_the_wait(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("survey.scheduling.waiting.time.monotonic", lambda: now[0])
    timeout = WorkerTimeout(60.0)
    ready = [(task("any"), 0.0)]
    for now[0], workers in ((5.0, {}), (50.0, {"w": 0.0}), (55.0, {}), (100.0, {})):
        assert timeout.expired(ready, workers) == {}
    now[0] = 116.0
    (said,) = timeout.expired(ready, {}).values()
    assert "there is no worker at all" in said
