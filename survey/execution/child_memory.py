"""Memory of a process and its descendants, from Linux's /proc. On other systems it is unknown, and reported as 0.

Anonymous and shared memory count. Pages of files do not: the kernel drops them when it needs memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
_KB = 1024


def family(pid: int) -> list[int]:
    """A process and its descendants, each after its parent; empty when the process has ended or there is no /proc."""
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
    """Memory that processes hold together [GB].

    Parameters
    ----------
    pids : processes; those that have ended count as 0
    exact : count a page that several processes share (after a fork) once; this takes the kernel some ms per GB.
        Otherwise it counts once for each of them
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
