"""Find raw files in a folder of any depth, as people have them: links, copies, and files of other kinds."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from survey.archive.compressed import SUFFIX, plain_name
from survey.digest import file_sha256

UNCAL = "_uncal.fits"
_SUFFIX = re.compile(r"(_[a-z0-9]+\.(?:fits|asdf)(?:\.gz)?)$", re.ASCII)
MAX_KINDS = 6  # in a message


@dataclass(frozen=True)
class Files:
    """What a folder holds."""

    raw: tuple[Path, ...] = ()  # each raw file once, in the order of their names
    faults: dict[str, str] = field(default_factory=dict)  # file name -> why it cannot be used
    others: Counter[str] = field(default_factory=Counter)  # suffix of other files -> number

    @property
    def seen(self) -> str:
        """What there is besides raw files, for a message: '12 _rate.fits and 3 _cal.fits'; '' for nothing."""
        kinds = [f"{number} {suffix}" for suffix, number in self.others.most_common(MAX_KINDS)]
        return kinds[0] if len(kinds) == 1 else " and ".join([", ".join(kinds[:-1]), kinds[-1]]) if kinds else ""


def find_files(folder: Path) -> Files:
    """The raw files in a folder and its subfolders; links are followed.

    A raw file may be compressed (``.fits.gz``). One that is there more than once counts once if all copies are equal,
    and is at fault otherwise.

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    os.scandir(folder).close()
    named: dict[str, list[Path]] = {}
    compressed: dict[str, list[Path]] = {}
    faults: dict[str, str] = {}
    others: Counter[str] = Counter()
    for path in _walk(folder):
        if path.name.endswith(UNCAL):
            named.setdefault(path.name, []).append(path)
        elif path.name.endswith(UNCAL + SUFFIX):
            compressed.setdefault(plain_name(path), []).append(path)
        elif match := _SUFFIX.search(path.name):
            others[match[1]] += 1
    named = compressed | named  # a compressed file is not read beside the same one without compression
    raw = []
    for name, paths in sorted(named.items()):
        chosen, *copies = _distinct(paths)
        different = next((path for path in copies if not _is_equal(chosen, path)), None)
        if different is None:
            raw.append(chosen)
        else:
            faults[name] = f"is there twice with different content: {chosen} and {different}; keep one of them."
    return Files(tuple(raw), faults, others)


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, without hidden ones; a folder that links lead to again is visited once."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """One path of each file, not that of a link where there is another; the least deep first."""
    ordered = sorted(paths, key=lambda path: (path.is_symlink(), len(path.parts), str(path)))
    return list({os.path.realpath(path): path for path in reversed(ordered)}.values())[::-1]


def _is_equal(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and file_sha256(one) == file_sha256(other)
    except OSError:
        return False
