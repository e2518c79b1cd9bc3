"""Contents of the files that parameters name: reference files, catalogues, masks, WCS files, and lists of files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from survey.digest import digest, file_sha256
from survey.mosaics.alignment_files import alignment_files

MAX_LIST_BYTES = 4_000_000  # size of a catfile of 20,000 exposures
_BINARY = (".fits", ".asdf", ".ecsv")


def content_digest(path: Path) -> str:
    """A digest of what a parameter names, by content.

    That of a text file with two columns, such as a catfile, includes the files that the second column names. That of a
    folder of alignments includes all its files of exposures that can hold an aligned WCS, that of another folder all
    its files.

    Raises
    ------
    OSError
        It cannot be read.
    """
    if path.is_dir():
        known = [item for items in alignment_files(path).values() for item in items]
        aligned = sorted({*path.glob("*_wcs.asdf"), *known})
        if aligned:
            return digest({item.name: known_sha256(item) for item in aligned})
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return digest({item.relative_to(path).as_posix(): known_sha256(item) for item in files})
    listed = {str(item): known_sha256(item) for _, item in listed_files(path) if item.is_file()}
    own = known_sha256(path)
    return digest({"file": own, "lists": listed}) if listed else own


def listed_files(path: Path) -> list[tuple[int, Path]]:
    """Number of a line, and the path in its second column, of each line of a text file that has two columns."""
    lines = [(number, line.split()) for number, line in enumerate(_lines(path), 1)]
    return [(number, path.parent / words[1]) for number, words in lines if len(words) == 2 and words[0][:1] != "#"]


def _lines(path: Path) -> list[str]:
    """Lines of a small text file; empty for any other file."""
    try:
        if path.suffix in _BINARY or path.stat().st_size > MAX_LIST_BYTES:
            return []
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


@lru_cache(maxsize=4096)
def _sha256_of(path: str, _identity: tuple[int, int, int]) -> str:
    return file_sha256(Path(path))


def known_sha256(path: Path) -> str:
    """sha256 of a file; a process computes it once, as long as inode, size and time of the file stay the same."""
    found = path.stat()
    return _sha256_of(str(path), (found.st_ino, found.st_size, found.st_mtime_ns))
