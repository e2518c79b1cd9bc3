"""Settings of the Sphinx site: ``make docs`` builds it into docs/_build/html, without network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_extensions"))

from survey import __version__  # noqa: E402

project = "jwst-survey"
author = "jwst-survey developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_click",
    "api_pages",
    "config_keys",
    "plain_docstrings",
]
exclude_patterns = ["_build", "_extensions", "_figures"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
smartquotes = False  # options start with two hyphens
default_role = "py:obj"  # `name` in a docstring: a link where there is such an object

myst_enable_extensions = ["deflist", "colon_fence", "fieldlist"]
myst_heading_anchors = 3

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
maximum_signature_line_length = 90
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "pydata_sphinx_theme"
html_title = f"jwst-survey {version}"
html_static_path = ["_static"]
html_css_files = ["survey.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}

# Files of the repository's top that are pages here as well, and link to each other there.
_PAGES = {
    "ARCHITECTURE.md": "docs/explanation/architecture.md",
    "CONTRIBUTING.md": "docs/development/contributing.md",
    "CHANGELOG.md": "docs/development/changelog.md",
}


def _link_pages(app, relative_path, parent, content):
    for name, page in _PAGES.items():
        content[0] = content[0].replace(f"]({name})", f"]({page})")


def setup(app):
    app.connect("include-read", _link_pages)
