"""Layouts that alignments left in a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from survey.grid import Layout


def read_layout(root: Path, product: str) -> Layout | None:
    """The layout of a mosaic; None when there is none, or none that can be read."""
    try:
        return Layout.from_json(json.loads((root / "stage3" / f"{product}_layout.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_layouts(root: Path, products: Iterable[str]) -> dict[str, Layout]:
    """Layouts by product, of those that are there."""
    found = {product: read_layout(root, product) for product in products}
    return {product: layout for product, layout in found.items() if layout is not None}
