"""Classes of failure: what is worth another try, and what a dead process died of."""

from __future__ import annotations

import contextlib
import errno
import shutil
from pathlib import Path

from survey.errors import TaskError
from survey.execution.children import Usage
from survey.models import SKIPPED, TaskRecord
from survey.workspace.files import DISK_FULL_TEXTS, is_disk_full

_PASSING = (errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT)
_MEMORY_SIGNS = ("MemoryError", "ArrayMemoryError", "Cannot allocate memory")
# Less than this left where a child could not even leave its result: the disk is what it died of.
_FULL_BYTES = 1_000_000
_LOG_TAIL_LINES = 12
_BECAUSE = "not run, because "  # begins the error of a skipped task, in records of all versions
_SIGBUS, _SIGKILL, _SIGTERM = 7, 9, 15


def failure_class(error: BaseException) -> str:
    """'again', 'memory', 'disk' or 'never', from what a step raised."""
    if isinstance(error, TaskError):
        return error.retry
    if is_disk_full(error):
        return "disk"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "memory"
    return "again" if isinstance(error, OSError) and error.errno in _PASSING else "never"


def cause_of_death(usage: Usage, log: Path) -> tuple[str, str]:
    """Words for, and class of, a child's end that left no result."""
    if usage.over_gb:
        return f"used {usage.over_gb:.1f} GB of memory, limit {usage.limit_gb:.1f} GB, and was ended.", "memory"
    tail = _tail(log)
    shown = "".join(f"\n    {line[:200]}" for line in tail)
    how = (
        f"was ended by signal {-usage.status}" if usage.status < 0 else f"ended with code {usage.status} and no result"
    )
    cause = f"its process {how}; see {log.name}.{shown}"
    text = "\n".join(tail)
    if any(sign in text for sign in DISK_FULL_TEXTS) or _is_out_of_space(log.parent):
        return f"no space left on the workspace's disk; {cause}", "disk"
    # SIGKILL is what the kernel sends when memory runs out, and what a person may send: worth one try with more.
    if usage.status == -_SIGKILL or any(sign in text for sign in _MEMORY_SIGNS):
        return cause, "memory"
    # A batch system's warning, or a page of a file that a network file system could not give.
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


def _tail(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return []
