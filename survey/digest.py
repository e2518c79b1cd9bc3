"""Content digests: one canonical JSON, one sha256.

A task's digest decides whether it is done already. It is also the suffix of its dask key, the identity of its record,
and stored in the header of its products.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 4 * 1024 * 1024


def canonical_json(value: Any) -> str:
    """Text of a JSON value, independent of key order, white space and platform.

    Parameters
    ----------
    value : dict (string keys), list, tuple, str, int, float, bool or None, nested. A float that is a whole number is
        written as an integer, so that ``4`` and ``4.0`` are the same setting.

    Raises
    ------
    TypeError
        Any other type, or a key that is not a string.
    ValueError
        NaN or infinity.
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (64 hexadecimal digits) of the canonical JSON of a value; errors as in `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def file_sha256(path: Path | str) -> str:
    """sha256 of a file."""
    return _file_hash(path, "sha256")


def file_sha1(path: Path | str) -> str:
    """SHA-1 of a file, the checksum that CRDS lists."""
    return _file_hash(path, "sha1")


def tree_sha256(path: Path | str) -> tuple[str, int]:
    """sha256 and size in bytes of a folder that is one product, such as a zarr group.

    The hash covers the sorted relative paths and the sha256 of each file, not times, modes or empty folders.

    Raises
    ------
    OSError
        The path is not a folder, or cannot be read.
    ValueError
        The folder holds something else than files and folders, such as a symbolic link.
    """
    root = Path(path)
    hasher = hashlib.sha256()
    total = 0
    for name in sorted(_files_below(root, root)):
        file = root / name
        total += file.stat().st_size
        hasher.update(f"{name}\0{file_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest(), total


def _files_below(folder: Path, root: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            item = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(item, root)
            elif entry.is_file(follow_symlinks=False):
                yield item.relative_to(root).as_posix()
            else:
                raise ValueError(f"{item}: expected a file or a folder; products must not hold links or devices.")


def _file_hash(path: Path | str, algorithm: str) -> str:
    hasher = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical JSON; settings must be finite numbers.")
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is {type(key).__name__}, expected str.")
        # Most leaves are text, and a plan of a survey holds millions of them: no call for these.
        return {key: item if type(item) is str else _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [item if type(item) is str else _canonical(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical JSON.")
