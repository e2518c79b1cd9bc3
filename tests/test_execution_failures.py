"""Classes of failure, why a child process ended, and why a task was skipped."""

from __future__ import annotations

import errno
from collections import namedtuple
from dataclasses import replace

import pytest

from survey.errors import TaskError
from survey.execution import failures
from survey.execution.children import Usage
from survey.execution.failures import cause_of_exit, failure_class, root_cause, skip_reason
from survey.execution.task import blank_record, skipped_record
from survey.models import SKIPPED, Task
from survey.workspace.files import is_disk_full


def test_what_is_worth_another_try():
    assert failure_class(TaskError("x", retry="again")) == "again"
    assert failure_class(OSError(errno.ESTALE, "stale")) == "again"
    assert failure_class(MemoryError()) == failure_class(OSError(errno.ENOMEM, "no memory")) == "memory"
    assert failure_class(ValueError("x")) == failure_class(OSError(errno.ENOENT, "gone")) == "never"


def test_a_full_disk_is_found_behind_other_errors():
    """astropy raises an OSError without a number from the real one."""
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise OSError("Not enough space on disk: requested 100, available 1.") from None
    except OSError as error:
        assert is_disk_full(error) and failure_class(error) == "disk"
    try:
        try:
            raise OSError(errno.EDQUOT, "quota")
        except OSError as cause:
            raise RuntimeError("could not save") from cause
    except RuntimeError as error:
        assert failure_class(error) == "disk"
    assert not is_disk_full(OSError(errno.EACCES, "no"))


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (-9, "", "memory"),
        (-15, "", "again"),
        (-7, "", "again"),
        (-11, "", "never"),
        (70, "numpy.exceptions.ArrayMemoryError: Unable to allocate", "memory"),
        (70, "OSError: [Errno 28] No space left on device", "disk"),
        (70, "ValueError: x", "never"),
    ],
)
def test_causes_of_exit(tmp_path, status, text, expected):
    log = tmp_path / "a.log"
    log.write_text(f"first\n{text}\n")
    cause, retry = cause_of_exit(Usage(status, 1.0, 1.0, 0.1), log)
    assert retry == expected
    assert "a.log" in cause and text in cause


def test_a_child_without_result_or_log_on_a_full_disk_ended_because_of_it(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr(failures.shutil, "disk_usage", lambda _path: usage)
    assert cause_of_exit(Usage(70, 1.0, 1.0, 0.1), tmp_path / "none.log")[1] == "disk"


def test_a_skipped_task_names_the_first_cause():
    first, second, third = (
        Task(key=f"{step}/a", step=step, subject="a", filter="F200W", settings={}) for step in "abc"
    )
    failed = replace(blank_record(first), error="ValueError: bad pixels")
    skipped = skipped_record(second, failed)
    assert skipped.status == SKIPPED
    assert skipped.error == skip_reason(failed) == "not run, because a/a failed: ValueError: bad pixels"
    assert skipped_record(third, skipped).error == skipped.error
    assert root_cause(skipped.error) == "a/a failed: ValueError: bad pixels"


def test_the_first_cause_is_read_from_records_of_earlier_versions():
    error = "not run, because image2/a skipped: not run, because detector1/a failed: detector1/a: ValueError: bad"
    assert root_cause(error) == "detector1/a: ValueError: bad"
    assert root_cause("3 of 4 members missing (a, b, c)") == "3 of 4 members missing (a, b, c)"
