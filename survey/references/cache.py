"""The files of a CRDS cache: verified against size and SHA-1, complete under their names, written under one lock.

A ledger in the cache (``survey-ledger.json``) keeps what was verified, with size, times and inode of the file at that
time: a file with the same values is not read again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from survey.archive.download import FetchSettings, Part, RemoteFile, Source
from survey.archive.transfers import Outcome, Transfers, WrongFileError
from survey.digest import file_sha1
from survey.errors import AccessRefusedError, ConfigError, ReferencesError
from survey.messages import shown
from survey.workspace.files import disk_full_named, replace_file, write_file

log = logging.getLogger(__name__)

LEDGER = "survey-ledger.json"
LOCK = "survey.lock"
LOOPBACK = "loopback"
RETRIES = 2  # of a file
BACKOFF_SECONDS = 0.5  # before the second attempt; doubles
_PLAIN_NAME = re.compile(r"\w[\w.+-]{0,199}", re.ASCII)

Stat = list[int]


@dataclass(frozen=True)
class Wanted:
    """A file that the cache should hold. ``size`` and ``sha1`` are None where the server lists none."""

    name: str
    path: str  # below the cache, '/' between folders
    size: int | None = None  # bytes
    sha1: str | None = None

    @property
    def is_mapping(self) -> bool:
        """Whether it is a file of rules."""
        return self.name.endswith((".pmap", ".imap", ".rmap"))


@dataclass(frozen=True)
class Verified:
    """A file as it was verified."""

    sha1: str
    stat: Stat


@dataclass(frozen=True)
class Ledger:
    """Files that were verified, by their path below the cache, and the server that they came from."""

    server: str | None = None
    files: Mapping[str, Verified] = field(default_factory=dict)


def stat_signature(path: Path) -> Stat | None:
    """Size, modification and change time [ns] and inode: equal as long as the file is not touched. None: no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def plain_name(name: str) -> str:
    """Check that a name may become a path, and return it.

    Raises
    ------
    ReferencesError
        It holds a folder, a leading dot or a control character.
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise ReferencesError(
            f"{shown(name, ascii_only=True)}: not a plain file name; the CRDS server or the rules that give it are bad."
        )
    return name


def plain_path(path: str) -> str:
    """Check that each part of a path below the cache is a plain name, and return it; errors as in `plain_name`."""
    return "/".join(plain_name(part) for part in path.split("/"))


def server_identity(url: str | None) -> str | None:
    """The host of a server; servers on this machine count as one, since their ports change at every start."""
    if not url or "serverless" in url:
        return None
    host = (urllib.parse.urlsplit(url).hostname or "").lower()
    return LOOPBACK if host == "localhost" or host.startswith("127.") or host == "::1" else host


class Cache:
    """A CRDS cache folder (CRDS_PATH), in crds' own layout."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ledger = self._read_ledger()
        self.fresh: dict[str, Verified] = {}  # verified by this process, not yet in the ledger's file
        self.server = self.ledger.server

    @contextlib.contextmanager
    def locked(self, wait_seconds: float) -> Iterator[None]:
        """Hold the lock of the cache for one writer. Reading needs no lock, nor does a read-only cache.

        Raises
        ------
        ReferencesError
            Another process held it for all of ``wait_seconds``.
        """
        lock = self._acquire(wait_seconds)
        try:
            self.ledger = self._read_ledger()
            if lock is not None:
                for part in (*self.folder.glob(".*.part"), *self.folder.glob(".*.part.tag")):  # of killed processes
                    part.unlink(missing_ok=True)
            yield
        finally:
            if lock is not None:
                lock.release()

    def _acquire(self, wait_seconds: float) -> FileLock | None:
        with disk_full_named(self.folder):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self.folder / LOCK)
                lock.acquire(timeout=0)
                return lock
            except FileExistsError as error:
                raise ConfigError(f"references.cache: {self.folder} is a file; expected a folder.") from error
            except Timeout:
                log.info("waiting for another process that syncs %s", self.folder)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                return None
            try:
                lock.acquire(timeout=wait_seconds)
            except Timeout as error:
                raise ReferencesError(
                    f"{self.folder}: another process has been syncing this cache for {wait_seconds:.0f} s. "
                    "Wait until it ends, or set references.cache to another folder."
                ) from error
            return lock

    @property
    def writable(self) -> bool:
        """Whether files can be added."""
        return os.access(self.folder, os.W_OK)

    def check_server(self, url: str) -> None:
        """Refuse a cache of another server, which may have other files of the same names.

        Raises
        ------
        ConfigError
            The ledger, or crds' own server information in the cache, names another host.
        """
        known, wanted = self.ledger.server or self._crds_server(), server_identity(url)
        if known is not None and known != wanted:
            raise ConfigError(
                f"references.cache: {self.folder} was filled from {known}, references.server is {url}. "
                "A cache holds the files of one server: set another folder, or the server that it was filled from."
            )
        self.server = wanted

    def fault(self, wanted: Wanted) -> str | None:
        """What is wrong with a file in the cache, or None. A file that had to be read enters the ledger."""
        path = self.folder / wanted.path
        stat = stat_signature(path)
        if stat is None:
            return "missing"
        if wanted.size is not None and stat[0] != wanted.size:
            return f"{stat[0]} bytes, expected {wanted.size}"
        entry = self.entry(wanted.path)
        if entry and entry.stat == stat and wanted.sha1 in (None, entry.sha1):
            return None
        found = file_sha1(path)
        expected = wanted.sha1 or (entry.sha1 if entry else None)
        if expected is not None and found != expected:
            return f"SHA-1 {found}, expected {expected}"
        if wanted.is_mapping and not mapping_is_whole(path):
            return "its own sha1sum does not match its text"
        if expected is None and stat[0] == 0:
            return "empty"
        self.fresh[wanted.path] = Verified(found, stat)
        return None

    def entry(self, path: str) -> Verified | None:
        """A file as it was last verified, or None."""
        return self.fresh.get(path) or self.ledger.files.get(path)

    def write_config(self, name: str, text: str) -> None:
        """Write a file below config/jwst, as crds reads it."""
        self._publish(self.folder / "config" / "jwst" / name, text)

    def save_ledger(self, wait_seconds: float) -> None:
        """Add newly verified files to the ledger's file, if the cache can be written."""
        if not self.writable or not (self.fresh or self.ledger.server != self.server):
            return
        with self.locked(wait_seconds):
            files = {path: asdict(entry) for path, entry in {**self.ledger.files, **self.fresh}.items()}
            content = {"server": self.server or self.ledger.server, "files": files}
            self._publish(self.folder / LEDGER, json.dumps(content, indent=1, sort_keys=True))
            self.ledger, self.fresh = self._read_ledger(), {}

    def fetch(self, files: Mapping[str, Wanted], timeout_seconds: float, held: int = 0) -> None:
        """Download files (URL -> file), verify them, and rename them into place.

        Parameters
        ----------
        timeout_seconds : without progress, until a file or the server is given up
        held : files of the same kind that the cache has: then those that cannot be fetched are single files, and no
            sign that the server is gone

        Raises
        ------
        ServiceUnreachableError
            No file came: no progress within the time limit, or nothing but server errors.
        AccessRefusedError
            401 or 403.
        ReferencesError
            Single files that could not be fetched; the others are kept.
        DiskFullError
            No space left.
        """
        if not files:
            return
        log.info("fetching %d CRDS files into %s", len(files), self.folder)
        server = urllib.parse.urlsplit(next(iter(files)))._replace(path="", query="").geturl()
        settings = FetchSettings(retries=RETRIES, timeout_seconds=timeout_seconds, backoff_seconds=BACKOFF_SECONDS)
        wanted = {item.name: item for item in files.values()}
        remote = [RemoteFile(item.name, url, Part(self.folder, item.name), item.size) for url, item in files.items()]

        def accept(file: RemoteFile) -> None:
            self._accept(wanted[file.name], file.part)

        try:
            outcome = Transfers(remote, Source(server), settings, accept, has_others=held > 0).run()
        finally:
            for file in remote:
                file.part.discard()
        _raise_for(outcome, server)

    def _accept(self, wanted: Wanted, part: Part) -> None:
        """Verify a complete part file and give it its name.

        Raises
        ------
        WrongFileError
            It is not what the server lists.
        OSError
            It cannot be read or renamed.
        """
        size, sha1 = part.size, file_sha1(part.path)
        if (wanted.size is not None and size != wanted.size) or (wanted.sha1 is not None and sha1 != wanted.sha1):
            raise WrongFileError(
                f"{size} bytes with SHA-1 {sha1} came, the server lists {wanted.size} and {wanted.sha1}"
            )
        if wanted.is_mapping and not mapping_is_whole(part.path):
            raise WrongFileError("its own sha1sum does not match its text")
        if not size:
            raise WrongFileError("an empty file came")
        path = self.folder / wanted.path
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(part.path, path)
        stat = stat_signature(path)
        if stat is not None:
            self.fresh[wanted.path] = Verified(sha1, stat)

    def _publish(self, path: Path, content: str) -> None:
        with disk_full_named(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content)

    def _read_ledger(self) -> Ledger:
        try:
            content = json.loads((self.folder / LEDGER).read_text(encoding="ascii"))
            files = {
                str(path): Verified(str(entry["sha1"]), [int(value) for value in entry["stat"]])
                for path, entry in content["files"].items()
            }
            return Ledger(content["server"], files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Ledger()  # missing or damaged: every file is read again

    def _crds_server(self) -> str | None:
        """The server that crds itself noted in the cache; one field of a large text."""
        try:
            text = (self.folder / "config" / "jwst" / "server_config").read_text(encoding="utf-8")
        except OSError:
            return None
        match = re.search(r"'server'\s*:\s*'([^']*)'", text)
        return server_identity(match.group(1)) if match else None


def mapping_is_whole(path: Path) -> bool:
    """Whether a mapping's own ``sha1sum`` is the SHA-1 of its text without the line that holds it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError:
        return False
    rest = "".join(line for line in lines if "sha1sum" not in line)
    listed = re.search(r"'sha1sum'\s*:\s*'([0-9a-f]{40})'", "".join(line for line in lines if "sha1sum" in line))
    return listed is not None and hashlib.sha1(rest.encode("utf-8")).hexdigest() == listed.group(1)


def _raise_for(outcome: Outcome[None], server: str) -> None:
    """Raise the error that lists the files which are missing, if any are."""
    if outcome.refused:
        cause = next(iter(outcome.refused.values()))
        raise AccessRefusedError(f"{server} refuses {', '.join(sorted(outcome.refused))}: {cause}.")
    if outcome.missing:
        lines = [f"{name}: {cause}" for name, cause in sorted(outcome.missing.items())]
        raise ReferencesError(
            f"{len(lines)} CRDS file(s) could not be fetched from {server}; the others are kept:\n" + "\n".join(lines)
        )
