"""Folders of a workspace, and the run that may write to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from survey.errors import ConfigError, TaskError
from survey.workspace.files import disk_full_named
from survey.workspace.lock import LOCK, current_holder, hold, read_holder

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}", re.ASCII)
FOLDERS = ("raw", "stage1", "stage2", "stage3", "asn", "mosaics", "records", "reports", "logs")


@dataclass(frozen=True)
class Workspace:
    """Paths of a workspace; `create` makes the folders."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.abspath(self.root)))

    def create(self) -> None:
        """Create the folders.

        Raises
        ------
        ConfigError, DiskFullError
            They cannot be created.
        """
        with self._refused():
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def sweep(self, older_than_seconds: float, run: str = "") -> int:
        """Remove folders of killed tasks; call it only while holding the lock.

        Parameters
        ----------
        older_than_seconds : remove folders of at least this age
        run : name of a run whose tasks have all ended; its folders are removed whatever their age

        Returns
        -------
        removed : number of folders
        """
        removed = 0
        for path in self.leftovers():
            with contextlib.suppress(OSError):
                old = time.time() - path.stat().st_mtime >= older_than_seconds
                if old or (run and _run_of(path) == run):
                    shutil.rmtree(path)
                    removed += 1
        return removed

    def leftovers(self) -> list[Path]:
        """Folders of running and killed tasks: '.<step>.<subject>.<8 hexadecimal digits>'."""
        places = [self.root / name for name in ("stage1", "stage2", "stage3", "asn", "mosaics", "mosaics/mosaics.zarr")]
        return [
            path
            for place in places
            if not place.is_symlink() or place.parent == self.root
            for path in place.glob(".*")
            if _LEFTOVER.fullmatch(path.name) and path.is_dir()
        ]

    @property
    def holder(self) -> str:
        """The run that uses the workspace now, '' if there is none. Takes no lock: a run may begin right afterwards."""
        return str(current_holder(self.root) or "")

    def is_held_by(self, run: str) -> bool:
        """Whether the run of this name holds the workspace; tasks of an earlier, killed run must not write any more.

        True for '', the run of tasks that are executed without one.
        """
        holder = read_holder(self.root) if run else None
        return not run or (holder is not None and holder.run == run)

    def check_run(self, key: str, run: str) -> None:
        """Stop a task whose run no longer holds the workspace, such as a killed run whose worker goes on.

        Raises
        ------
        TaskError
            Of class 'again': a network file system may show the note of the lock late.
        """
        if not self.is_held_by(run):
            raise TaskError(f"{key}: its run no longer holds {self.root}; nothing is written.", retry="again")

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            with disk_full_named(self.root):
                yield
        except OSError as error:
            raise ConfigError(
                f"workspace {self.root}: {error.strerror or error}. Expected a folder that can be written: "
                "correct that, or use another --workspace."
            ) from error

    def folder(self, name: str) -> Path:
        return self.root / name

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def references(self) -> Path:
        """The reference files of each exposure, as found by the last sync."""
        return self.root / "references.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[str]:
        """Hold the workspace for one run; yields the name of the run. See `survey.workspace.lock`.

        Raises
        ------
        WorkspaceBusyError
            Another run holds it; the message names its host and process, and when it started.
        """
        with self._refused():
            self.root.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.root / LOCK, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))
        with hold(self.root) as run:
            yield run


def _run_of(leftover: Path) -> str:
    """Name of the run whose task made a folder; '' if unknown."""
    try:
        return str(json.loads((leftover / "job.json").read_text())["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
