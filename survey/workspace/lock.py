"""The lock of a workspace: one run at a time, also on network file systems.

Two files make it. ``.lock`` is locked through the operating system, which releases it when its process ends.
``.lock.json`` names the holder. On file systems whose locks are not shared between hosts it is the lock itself: only
one process can create it, and its holder updates its time regularly. A run takes over the file of a process of the same
host that has ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from survey.errors import WorkspaceBusyError
from survey.workspace.files import create_file

log = logging.getLogger(__name__)

LOCK = ".lock"
NOTE = ".lock.json"
BEAT_SECONDS = 30.0
WAIT_SECONDS = 0.5  # for a run that is just ending
_SAME_START_SECONDS = 2.0  # largest difference between two readings of the start of one process


@dataclass(frozen=True)
class Holder:
    """The process that holds a workspace."""

    host: str
    pid: int
    start: str  # of the run, ISO 8601, UTC
    run: str = ""  # its name; its tasks carry it too, to check that it still holds the workspace
    born: float = 0.0  # start of the process [Unix time], since process numbers are used again

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.start}"

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the process is still running; for a process of this host."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            born = process.create_time()
            # A killed process is a zombie until its parent collects it; with other threads it may still work.
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) and process.num_threads() <= 1:
                return False
        except psutil.AccessDenied:
            return self.pid != os.getpid()
        except (psutil.Error, ValueError, OverflowError):  # the last two: not a possible process number
            return False
        return self.pid != os.getpid() and (not self.born or abs(born - self.born) < _SAME_START_SECONDS)


def read_holder(root: Path) -> Holder | None:
    """The holder that ``.lock.json`` names; None if there is no such file, or it cannot be read."""
    try:
        if not stat.S_ISREG((root / NOTE).lstat().st_mode):
            return None
        facts = json.loads((root / NOTE).read_text())
        rest = str(facts.get("run", "")), float(facts.get("born", 0.0))
        return Holder(str(facts["host"]), int(facts["pid"]), str(facts["start"]), *rest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def current_holder(root: Path) -> Holder | None:
    """The holder of a workspace, unless it has ended. Takes no lock: a run may begin right afterwards."""
    found = read_holder(root)
    if found is None or (found.is_here and found.pid != os.getpid() and not found.is_alive):
        return None
    return found


@contextlib.contextmanager
def hold(root: Path) -> Iterator[str]:
    """Hold a workspace; yields the name of the run.

    Raises
    ------
    WorkspaceBusyError
        Another run holds it; the message names its host and process, when it started, and what to do.
    """
    lock = FileLock(root / LOCK)
    try:
        lock.acquire(timeout=WAIT_SECONDS, poll_interval=0.05)
    except Timeout as error:
        who = read_holder(root) or "another run"
        raise WorkspaceBusyError(f"{root}: in use by {who}. Wait for it, or stop it, and run again.") from error
    except (OSError, NotImplementedError) as error:
        if not (root / LOCK).exists():
            raise
        log.warning("%s: the file system does not support locks (%s); using only %s", root, error, NOTE)
    try:
        run = _write_note(root)
        stop = threading.Event()
        threading.Thread(target=_beat, args=(root, run, stop), daemon=True).start()
        try:
            yield run
        finally:
            stop.set()
            _remove_note(root, run)
    finally:
        lock.release()


def _write_note(root: Path) -> str:
    """Write ``.lock.json``, and take over that of a process of this host that has ended; returns the run's name."""
    import psutil

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run, born = uuid.uuid4().hex, psutil.Process().create_time()
    content = json.dumps(asdict(Holder(socket.gethostname(), os.getpid(), now, run, born))).encode()
    while not create_file(root / NOTE, content):
        found = read_holder(root)
        if found is not None and not found.is_here:
            raise WorkspaceBusyError(
                f"{root}: in use by {found}, last active {_silent_seconds(root):.0f} s ago (updated every "
                f"{BEAT_SECONDS:.0f} s). Wait for it, or stop it. If that process has ended, which cannot be checked "
                f"from {socket.gethostname()}, remove {root / NOTE} and run again."
            )
        if found is not None and found.is_alive:
            raise WorkspaceBusyError(f"{root}: in use by {found}. Wait for it, or stop it, and run again.")
        who = f"{found}, which has ended" if found else "a run that left no readable file"
        log.warning("%s: took over the lock of %s", root, who)
        (root / NOTE).unlink(missing_ok=True)
    return run


def _remove_note(root: Path, run: str) -> None:
    holder = read_holder(root)
    if holder is not None and holder.run == run:
        (root / NOTE).unlink(missing_ok=True)


def _beat(root: Path, run: str, stop: threading.Event) -> None:
    """Update the time of ``.lock.json`` as long as it is this run's."""
    while not stop.wait(BEAT_SECONDS):
        holder = read_holder(root)
        if holder is not None and holder.run == run:
            with contextlib.suppress(OSError):
                os.utime(root / NOTE)


def _silent_seconds(root: Path) -> float:
    """Time since the holder last updated ``.lock.json``, by the clock of the file system."""
    with contextlib.suppress(OSError):
        (root / LOCK).touch()
        return max(0.0, (root / LOCK).stat().st_mtime - (root / NOTE).stat().st_mtime)
    return 0.0
