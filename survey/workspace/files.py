"""Atomic writes of files, folders and links: after a crash there is the old content or the new one.

New content is written under a temporary name in the same folder (``.<name>.<8 hexadecimal digits>.part``), flushed to
the disk and renamed. All modules that publish a file, a folder or a link do it here, and recognise a full disk by
`is_disk_full`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from survey.errors import DiskFullError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Texts of errors without a number, such as astropy's, and of logs.
DISK_FULL_TEXTS = ("No space left on device", "Not enough space on disk", "Disk quota exceeded")
# What a file system that cannot flush a folder answers; its renames are atomic all the same.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM)


def write_file(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file atomically; text as UTF-8.

    Parameters
    ----------
    path : its folder must exist; a file or link of this name is replaced
    durable : wait until content and name are on the disk

    Raises
    ------
    OSError
        The file cannot be written; the old one is unchanged, and no temporary file is left.
    """
    with _temporary(path) as part:
        _write(part, content, durable)
        os.replace(part, path)
    if durable:
        sync_folder(path.parent)


def create_file(path: Path, content: str | bytes) -> bool:
    """Create a file that must not exist, complete from its first moment, and wait until its content is on the disk.

    Of several processes that try at the same time, also on different hosts, one succeeds.

    Returns
    -------
    created : False when there is a file of this name

    Raises
    ------
    OSError
        The file cannot be written.
    """
    try:
        with _temporary(path) as part:
            _write(part, content)
            try:
                os.link(part, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links, where the file may be seen before its content
                _write(path, content)
            part.unlink(missing_ok=True)
    except FileExistsError:
        return False
    return True


def replace_file(part: Path, path: Path) -> None:
    """Give a finished file its final name: flush its bytes, rename it within the file system, flush the folder."""
    sync_file(part)
    os.replace(part, path)
    sync_folder(path.parent)


def replace_folder(part: Path, path: Path) -> None:
    """Give a finished folder its final name; flushes nothing.

    Only files are replaced by a rename. A folder in its place is moved aside first and removed afterwards, a link is
    removed.
    """
    if path.is_symlink():
        path.unlink()
    if not path.exists():
        os.rename(part, path)
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    os.rename(path, aside)
    os.rename(part, path)
    shutil.rmtree(aside, ignore_errors=True)


def write_link(path: Path, target: Path | str) -> None:
    """Write a symbolic link atomically; a file or link of its name is replaced."""
    with _temporary(path) as part:
        os.symlink(target, part)
        os.replace(part, path)


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    _sync(path)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can do that."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with everything below it, is on the disk; links are left out."""
    if path.is_symlink():
        return
    if not path.is_dir():
        sync_file(path)
        return
    for item in path.iterdir():
        sync_tree(item)
    sync_folder(path)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, means that a disk is full or a quota is reached."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and (
            cause.errno in _DISK_FULL or any(text in str(cause) for text in DISK_FULL_TEXTS)
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@contextlib.contextmanager
def disk_full_named(place: Path | str) -> Iterator[None]:
    """Raise DiskFullError (exit code 5), with the name of a place, for an OSError that means a full disk."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(f"{place}: {error.strerror or error}; make room and run again.") from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside a path; when the block fails, a file of this name is removed."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write(path: Path, content: str | bytes, durable: bool = True) -> None:
    with open(path, "xb") as stream:  # "x" follows no link
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)
        stream.flush()
        if durable:
            os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
