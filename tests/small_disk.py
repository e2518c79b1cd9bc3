"""Small real disks for tests: a tmpfs that can be filled, made larger, or made read-only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """A mounted tmpfs."""

    def __init__(self, path: Path):
        self.path = path

    def remount(self, *options: str) -> None:
        _mount("-o", ",".join(["remount", *options]), str(self.path))

    def fill(self, leave_bytes: int = 0) -> Path:
        """Take all its room but so much; the file that does so is returned."""
        path = self.path / ".filler"
        free = os.statvfs(self.path)
        with open(path, "wb", buffering=0) as stream, contextlib.suppress(OSError):
            left = free.f_bavail * free.f_frsize - leave_bytes
            while left > 0:
                left -= stream.write(b"x" * min(left, 65536))
        return path


@contextlib.contextmanager
def mounted(path: Path, size: str) -> Iterator[Disk]:
    """A tmpfs of a size such as '2m' at a path; OSError where none may be mounted."""
    path.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _mount(*arguments: str) -> None:
    if shutil.which("mount") is None:
        raise OSError("there is no mount command")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


@pytest.fixture
def small_disk(tmp_path):
    """A function: size -> Disk; the test is skipped where tmpfs cannot be mounted (without root)."""
    with contextlib.ExitStack() as stack:

        def make(size: str, name: str = "disk") -> Disk:
            try:
                return stack.enter_context(mounted(tmp_path / name, size))
            except OSError as error:
                pytest.skip(f"no small disk can be mounted here: {error}")

        yield make
