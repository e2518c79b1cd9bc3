"""The workspace: where every product lies, and who may write there."""

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
    """Paths of a workspace; nothing is made until `create`."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.abspath(self.root)))

    def create(self) -> None:
        """Make the folders; ConfigError when they cannot be made."""
        with self._refused():
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def sweep(self, older_than_seconds: float, run: str = "") -> int:
        """Remove what tasks that were killed left beside the products; only the holder of the lock may.

        Parameters
        ----------
        older_than_seconds : age of the folders that go in any case
        run : name of a run whose tasks have all ended: its folders go whatever their age

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
    def holder(self) -> str:
        """Who runs in the workspace now, '' when nobody does. Looks, and takes no lock: a run may begin meanwhile."""
        return str(current_holder(self.root) or "")

    def is_held_by(self, run: str) -> bool:
        """Whether the run of this name holds the workspace: tasks of a killed one must not write into the next one's.

        '' stands for tasks of no run.
        """
        holder = read_holder(self.root) if run else None
        return not run or (holder is not None and holder.run == run)

    def check_run(self, key: str, run: str) -> None:
        """Refuse a task of a run that was killed and left its worker behind.

        Raises
        ------
        TaskError
            Class 'again': where a network file system shows the note late, another try may see it.
        """
        if not self.is_held_by(run):
            raise TaskError(f"{key}: its run no longer holds {self.root}; nothing is written there.", retry="again")

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            with disk_full_named(self.root):
                yield
        except OSError as error:
            raise ConfigError(
                f"workspace {self.root}: {error.strerror or error}. It must be a folder that can be written: see to "
                "that, or take another --workspace."
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
        """Which reference file each exposure takes, as the last sync found it."""
        return self.root / "references.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[str]:
        """Hold the workspace for one run; gives the run's own name. See `survey.workspace.lock`.

        Raises
        ------
        WorkspaceBusyError
            Another run holds it; the message says which host and process, and since when.
        """
        with self._refused():
            self.root.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.root / LOCK, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))
        with hold(self.root) as run:
            yield run


def _run_of(leftover: Path) -> str:
    """Name of the run whose task made a folder; '' when that cannot be told."""
    try:
        return str(json.loads((leftover / "job.json").read_text())["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
