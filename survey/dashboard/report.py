"""The page and dask's performance report as one HTML file, without the folders of source files."""

from __future__ import annotations

import html
import re

# Folders before the name of a source file: dask's report shows them in its profiles.
_SOURCE_FOLDERS = re.compile(r"(?:/|\\u002f)(?:[\w.@+~-]+/)+(?=[\w-]+\.pyx?\b)", re.ASCII)
_TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Survey report</title><style>
html, body {{ margin: 0; height: 100%; font-family: Helvetica, Arial, sans-serif; }}
nav {{ height: 42px; background: #eee; display: flex; gap: 4px; padding-left: 12px; }}
nav label {{ padding: 11px 16px; cursor: pointer; font-size: 17px; }}
iframe {{ border: 0; width: 100%; height: calc(100% - 46px); display: none; }}
input {{ position: absolute; opacity: 0; }}
#show-page:checked ~ nav label[for=show-page], #show-dask:checked ~ nav label[for=show-dask] {{ background: #eaaa6d; }}
#show-page:checked ~ #page, #show-dask:checked ~ #dask {{ display: block; }}
</style></head><body>
<input type="radio" name="part" id="show-page" checked><input type="radio" name="part" id="show-dask">
<nav><label for="show-page">Survey</label><label for="show-dask">Dask performance</label></nav>
<iframe id="page" title="Survey" srcdoc="{page}"></iframe>
<iframe id="dask" title="Dask performance" srcdoc="{report}"></iframe>
</body></html>
"""


def joined(page: str, report: str) -> str:
    """One HTML document of two, each in its own frame."""
    parts = [_SOURCE_FOLDERS.sub("", text) for text in (page, report)]
    return _TEMPLATE.format(page=html.escape(parts[0], quote=True), report=html.escape(parts[1], quote=True))
