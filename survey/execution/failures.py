"""Classify failures: which are worth another try, why a child process ended, and why a task was skipped.

A failure has one of four classes, which `TaskError.retry` and ``TaskRecord.error_class`` hold:

'again'   it may pass: dask tries the task again
'memory'  the task ran out of memory: `survey.scheduling.task_queue` tries it once more, with more memory
'disk'    the disk is full: the run stops
'never'   another try would fail alike
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from pathlib import Path

from survey.errors import TaskError
from survey.execution.children import Usage
from survey.models import SKIPPED, TaskRecord
from survey.workspace.files import DISK_FULL_TEXTS, is_disk_full

_TEMPORARY = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT)
_MEMORY_TEXTS = ("MemoryError", "ArrayMemoryError", "Cannot allocate memory")
# A child that ended without a result, with less than this free, ended because the disk was full.
_FULL_BYTES = 1_000_000
_LOG_TAIL_LINES = 12
_BECAUSE = "not run, because "  # begins the error of a skipped task, in records of all versions
_SIGBUS, _SIGKILL, _SIGTERM = 7, 9, 15


def failure_class(error: BaseException) -> str:
    """The class of an error that a step raised: 'again', 'memory', 'disk' or 'never'."""
    if isinstance(error, TaskError):
        return error.retry
    if is_disk_full(error):
        return "disk"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "memory"
    return "again" if isinstance(error, OSError) and error.errno in _TEMPORARY else "never"


def cause_of_exit(usage: Usage, log: Path) -> tuple[str, str]:
    """Why a child ended without a result: a message, and the class of the failure.

    Parameters
    ----------
    usage : exit status and memory of the child
    log : its log, whose last lines the message quotes
    """
    if usage.over_gb:
        return f"used {usage.over_gb:.1f} GB of memory, limit {usage.limit_gb:.1f} GB, and was ended.", "memory"
    lines = _last_lines(log)
    shown = "".join(f"\n    {line[:200]}" for line in lines)
    how = (
        f"was ended by signal {-usage.status}" if usage.status < 0 else f"ended with code {usage.status} and no result"
    )
    cause = f"its process {how}; see {log.name}.{shown}"
    tail = "\n".join(lines)
    if any(text in tail for text in DISK_FULL_TEXTS) or _is_out_of_space(log.parent):
        return f"no space left on the workspace's disk; {cause}", "disk"
    # The kernel sends SIGKILL when memory runs out. A person may have sent it as well: one more try does no harm.
    if usage.status == -_SIGKILL or any(text in tail for text in _MEMORY_TEXTS):
        return cause, "memory"
    # SIGTERM: a batch system ends the job. SIGBUS: a network file system could not read a page of a file.
    return cause, "again" if usage.status in (-_SIGTERM, -_SIGBUS) else "never"


def skip_reason(lost: TaskRecord) -> str:
    """The error of a task that is skipped because it depends on one that failed or was skipped.

    It names the first cause: of a chain of skipped tasks, the one that failed. `root_cause` reads it.
    """
    if lost.status == SKIPPED and lost.error.startswith(_BECAUSE):
        return lost.error
    return f"{_BECAUSE}{lost.key} {lost.status}: {lost.error}"


def root_cause(error: str) -> str:
    """The first cause in the error of a skipped task; another error is returned as it is.

    Records of earlier versions may name every task of a chain; the last one counts.
    """
    cause = error.rpartition(_BECAUSE)[2]
    key, _, rest = cause.partition(" failed: ")
    return rest if rest.startswith(f"{key}: ") else cause


def _is_out_of_space(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < _FULL_BYTES
    return False


def _last_lines(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return []
