"""Progress: plain lines that count, and bars on a terminal."""

from __future__ import annotations

import pytest
from stub_steps import exposure

import survey.cli.progress
from survey.cli.progress import DownloadProgress, TaskProgress
from survey.dashboard.markup import clock
from survey.models import COMPLETE, FAILED, SKIPPED, Plan, Task, TaskRecord


def make_plan(count: int) -> Plan:
    names = [exposure(number).name for number in range(count)]
    tasks = [Task(f"{step}/{name}", step, name, "F200W", {}) for name in names for step in ("detector1", "image2")]
    return Plan(tuple(tasks), (), ())


def record(task: Task, status: str = COMPLETE, **facts) -> TaskRecord:
    return TaskRecord(task.key, task.step, task.subject, task.filter, "", status, **facts)


def test_a_line_when_a_step_is_done_and_for_each_failure():
    lines: list[str] = []
    plan = make_plan(2)
    with TaskProgress(lines.append, terminal=False) as progress:
        note = progress.watch(plan)
        note(record(plan.tasks[0], seconds=30.0), False)
        note(record(plan.tasks[1], FAILED, error="broken"), False)
        note(record(plan.tasks[2], seconds=30.0), False)
        note(record(plan.tasks[3], SKIPPED, error="not run"), False)
    assert lines[0] == f"FAILED {plan.tasks[1].key}: broken"
    assert lines[1].startswith("detector1: 2/2 ")
    assert lines[1].endswith("/min")  # nothing is left: no time left
    assert lines[2:] == [f"skipped {plan.tasks[3].key}: not run", "image2: 2/2"]


def test_what_was_reused_is_not_taken_for_speed():
    lines: list[str] = []
    plan = make_plan(1)
    note = TaskProgress(lines.append, terminal=False).watch(plan)
    note(record(plan.tasks[0], seconds=30.0), True)
    assert lines == ["detector1: 1/1"]


def test_unfinished_steps_are_shown_now_and_then(monkeypatch):
    lines: list[str] = []
    now = [1000.0]
    monkeypatch.setattr(survey.cli.progress.time, "monotonic", lambda: now[0])
    plan = make_plan(10)
    note = TaskProgress(lines.append, terminal=False).watch(plan)
    for number in range(4):
        now[0] += 10.0
        note(record(plan.tasks[2 * number], seconds=10.0), False)
    # One task in 10 s since the first began: 6 a minute, 60 s for the last six.
    assert lines == ["detector1: 2/10 6.0/min, 80 s left", "detector1: 4/10 6.0/min, 60 s left"]


def test_bars_on_a_terminal(capsys):
    plan = make_plan(2)
    with TaskProgress(print, terminal=True) as progress:
        note = progress.watch(plan)
        for task in plan:
            note(record(task), False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "detector1" in err
    assert "2/2" in err


def test_bytes_of_all_downloads_together(monkeypatch):
    lines: list[str] = []
    now = [0.0]
    monkeypatch.setattr(survey.cli.progress.time, "monotonic", lambda: now[0])
    progress = DownloadProgress(lines.append)
    progress("a", 100_000_000, 500_000_000)
    now[0] = 20.0
    progress("b", 400_000_000, None)
    assert lines == ["fetch: 2 files, 0.500 GB"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (1e5, "27.8 h")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
