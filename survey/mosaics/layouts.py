"""Layouts that alignments left in a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from survey.mosaics.grid import Layout
from survey.workspace.paths import is_file

FOLDER, SUFFIX = "stage3", "layout.json"  # of the file: <product>_layout.json
MAX_LAYOUT_BYTES = 256 * 1024 * 1024  # 20,000 members are 40 MB


def read_layout(root: Path, product: str) -> Layout | None:
    """The layout of a mosaic; None when there is none, or none that can be read."""
    path = root / FOLDER / f"{product}_{SUFFIX}"
    try:
        if not is_file(path) or path.stat().st_size > MAX_LAYOUT_BYTES:
            return None
        return Layout.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def read_layouts(root: Path, products: Iterable[str]) -> dict[str, Layout]:
    """Layouts by product, of those that are there."""
    found = {product: read_layout(root, product) for product in products}
    return {product: layout for product, layout in found.items() if layout is not None}
