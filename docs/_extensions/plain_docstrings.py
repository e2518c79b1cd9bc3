"""Let docstrings that are written for a terminal pass Sphinx: tables by alignment become literal blocks."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_ALIGNED = re.compile(r"\S {2,}\S")
_UNDERLINE = re.compile(r"^\s*(-{3,}|={3,})\s*$")
_GLOB = re.compile(r"(?<![\\*`])\*(?=[_./\w])")


def clean(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite ``lines`` in place, before numpydoc reads them."""
    sections = any(_UNDERLINE.match(line) for line in lines)  # of numpydoc
    blocks = [[line] for line in lines] if sections else _paragraphs(lines)
    lines[:] = [line for block in blocks for line in _shown(block)]


def _paragraphs(lines: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        else:
            found += [[line], []]
    return [block for block in found if block]


def _shown(block: list[str]) -> list[str]:
    """A paragraph as it is, or as a literal block when its lines are aligned or indented by hand."""
    first, *rest = block
    is_list = first.lstrip().startswith(("- ", "* ", ".. ", ">>>"))
    ragged = any(line.startswith(" ") != first.startswith(" ") for line in rest)
    if len(block) > 1 and not is_list and (ragged or any(_ALIGNED.search(line) for line in block)):
        return ["::", "", *(f"    {line}" for line in block), ""]
    return [_escaped(line) for line in block]


def _escaped(line: str) -> str:
    """Asterisks of file patterns are no emphasis, an underscore at a word's end is no link."""
    if "``" in line:
        return line
    line = re.sub(r"(?<=\w)_(?=[^\w`]|$)", r"\\_", line)
    lonely = len(re.findall(r"(?<![\\*])\*(?!\*)", line)) % 2 == 1
    return re.sub(r"(?<![\\*])\*(?!\*)", r"\\*", line) if lonely else _GLOB.sub(r"\\*", line)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", clean, priority=100)  # numpydoc has 500
    return {"version": "1", "parallel_read_safe": True}
