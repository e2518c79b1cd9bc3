"""Checks of product paths: plain names below the workspace's folders, reached through no link.

The folders of the workspace themselves (``stage2``) may be links, to a larger disk. Links in them are not followed:
they could make a product be written or removed outside of the workspace.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from survey.messages import shown
from survey.names import plain_name

PRODUCT_FOLDERS = ("stage1", "stage2", "stage3", "asn", "mosaics")
MAX_PARTS = 12


def product_fault(path: str) -> str:
    """Why a path is not the path of a product, for a message; '' if it is."""
    folder, *rest = parts = path.split("/")
    if folder not in PRODUCT_FOLDERS or not rest or len(parts) > MAX_PARTS or not all(map(plain_name, parts)):
        known = ", ".join(PRODUCT_FOLDERS)
        return f"{shown(path, ascii_only=True)} is not the path of a product; expected plain names below {known}"
    return ""


def inside(root: Path, path: str) -> Path:
    """The path of a product in a workspace. It need not exist, and may be a link; see `is_file` and `is_folder`.

    Raises
    ------
    ValueError
        The path is not that of a product, or one of its folders is a link.
    """
    fault = product_fault(path)
    if fault:
        raise ValueError(fault)
    parts = path.split("/")
    place = os.path.join(root, parts[0])
    for part in parts[1:-1]:
        place = os.path.join(place, part)
        if os.path.islink(place):
            raise ValueError(f"{place} is a link; expected a folder of the workspace. Remove the link")
    return Path(place, parts[-1])


def is_file(path: Path) -> bool:
    """Whether a path is a regular file: not a link to one, a pipe or a device."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder: not a link to one."""
    return stat.S_ISDIR(_mode(path))


def discard(root: Path, path: str) -> None:
    """Remove the file of a product, or a link in its place; folders, and files outside of the workspace, are kept."""
    try:
        place = inside(root, path)
    except ValueError:
        return
    if not is_folder(place):
        place.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except (OSError, ValueError):
        return 0
