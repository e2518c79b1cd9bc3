"""The workspace: where every product lies, and the lock that keeps a second run out."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from survey.errors import ConfigError, DiskFullError, WorkspaceBusyError

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}", re.ASCII)
FOLDERS = ("raw", "stage1", "stage2", "stage3", "asn", "mosaics", "records", "reports", "logs")


@dataclass(frozen=True)
class Workspace:
    """Paths of a workspace; nothing is made until `create`."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.abspath(self.root)))

    def create(self) -> None:
        """Make the folders; ConfigError when they cannot be made."""
        with self._refused():
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def sweep(self, older_than_seconds: float) -> int:
        """Remove what tasks that were killed left beside the products; only the holder of the lock may.

        Returns
        -------
        removed : number of folders
        """
        removed = 0
        for path in self.leftovers():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime >= older_than_seconds:
                    shutil.rmtree(path)
                    removed += 1
        return removed

    def leftovers(self) -> list[Path]:
        """Folders of tasks that are under way or were killed: '.<step>.<subject>.<8 hexadecimal digits>'."""
        places = [self.root / name for name in ("stage1", "stage2", "stage3", "asn", "mosaics", "mosaics/mosaics.zarr")]
        return [
            path
            for place in places
            if not place.is_symlink() or place.parent == self.root
            for path in place.glob(".*")
            if _LEFTOVER.fullmatch(path.name) and path.is_dir()
        ]

    @property
    def is_locked(self) -> bool:
        """Whether a run holds the workspace now."""
        if not (self.root / ".lock").exists():
            return False
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            lock.acquire()
        except (Timeout, OSError):
            return True
        lock.release()
        return False

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(f"{self.root}: {error.strerror}; make room and run again.") from error
            raise ConfigError(f"workspace {self.root}: {error.strerror or error}.") from error

    def folder(self, name: str) -> Path:
        return self.root / name

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.zarr"

    @property
    def references(self) -> Path:
        """Which reference file each exposure takes, as the last sync found it."""
        return self.root / "references.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for one run.

        The operating system drops the lock with its holder, so that a dead run leaves none.

        Raises
        ------
        WorkspaceBusyError
            Another run holds it; the message says which host and process, and since when.
        """
        with self._refused():
            self.root.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.root / ".lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))
        holder = self.root / ".lock.json"
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise WorkspaceBusyError(
                f"{self.root}: in use by {_holder(holder)}. Wait for it, or stop it, and run again."
            ) from error
        try:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            holder.unlink(missing_ok=True)  # of a dead run; or a link, through which nothing is written
            holder.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": now}))
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


def _holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text())
        return f"process {int(facts['pid'])} on {facts['host']}, since {facts['start']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
