"""Versions of the installed packages that make pixels."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("jwst", "stcal", "crds")


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return tuple(found.items())


def installed_versions() -> dict[str, str]:
    """Versions of the packages that make pixels, as they are installed here."""
    return dict(_versions())
