"""Paths of products: what one may look like, and that it leads nowhere but into the workspace.

The workspace's own folders (``stage2``) may be links, to a larger disk. What lies in them may not be reached through
links: a link that somebody else, or another program, left there would let a product be written or removed elsewhere.
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
    """Why a path is not that of a product in a workspace; '' when it is."""
    folder, *rest = parts = path.split("/")
    if folder not in PRODUCT_FOLDERS or not rest or len(parts) > MAX_PARTS or not all(map(plain_name, parts)):
        known = ", ".join(PRODUCT_FOLDERS)
        return f"{shown(path, ascii_only=True)} is not the path of a product; expected plain names below {known}"
    return ""


def inside(root: Path, path: str) -> Path:
    """Where a product lies. It may itself be a link, or nothing at all; see `is_file` and `is_folder`.

    Raises
    ------
    ValueError
        The path leads, or a link on its way may lead, out of the workspace.
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
    """Whether a path is a regular file itself: no link to one, no pipe, no device."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder itself, and no link to one."""
    return stat.S_ISDIR(_mode(path))


def discard(root: Path, path: str) -> None:
    """Remove a product's file, or the link in its place; whatever lies elsewhere, and folders, stay."""
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
