"""Versions of the installed packages that make pixels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

# Part of every digest: products are made again with another version.
DIGESTED = ("jwst", "stcal", "crds")
# They compute pixels as well, but their releases rarely change any. Not part of a digest: they are recorded with each
# task, and `survey plan` reports products that were made with other versions.
RECORDED = (
    *("numpy", "scipy", "astropy", "stpipe", "stdatamodels", "asdf", "gwcs", "tweakwcs", "drizzle", "photutils"),
    *("spherical-geometry", "scikit-image"),
)


@cache
def _versions(names: tuple[str, ...]) -> Mapping[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return MappingProxyType(found)


def installed_versions() -> dict[str, str]:
    """Installed versions of the packages that are part of every digest, by name."""
    return dict(_versions(DIGESTED))


def recorded_versions() -> dict[str, str]:
    """Installed versions of further packages that make pixels, by name."""
    return dict(_versions(RECORDED))
