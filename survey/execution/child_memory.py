"""Memory that a process and its descendants hold, as Linux's /proc tells; where there is none, nothing is known.

Counted is what cannot be given back: anonymous and shared memory. Pages of files, which the kernel drops when it needs
room, are not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
_KB = 1024


def family(pid: int) -> list[int]:
    """A process and all that descend from it, each behind its parent; empty when it is gone or nothing is known."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        process = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in (PROC / str(process) / "task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
            found.append(process)
    return found


def held_gb(pids: Iterable[int], exact: bool = False) -> float:
    """Memory that these processes hold together [GB].

    Parameters
    ----------
    pids : processes; those that are gone hold nothing
    exact : count each page once, in parts for those that share it after a fork. It takes the kernel some ms a GB;
        without it, each process counts in full
    """
    file, fields = ("smaps_rollup", ("Pss_Anon", "Pss_Shmem")) if exact else ("status", ("RssAnon", "RssShmem"))
    return sum(_kilobytes(PROC / str(pid) / file, fields) for pid in pids) * _KB / 1e9


def _kilobytes(path: Path, fields: tuple[str, ...]) -> int:
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                total += int(value.split()[0])
    return total
