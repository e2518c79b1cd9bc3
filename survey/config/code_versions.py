"""Versions of the packages that other people's steps come from: part of the digest of every task that runs them.

An installed package has a version that stands for its code. The code of one that is installed in development mode
(`pip install --editable`), or that is only on PYTHONPATH, changes without one: the sha256 of its files is used as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from survey.digest import file_sha256

NOT_FOUND = "not found"


def code_versions(modules: Iterable[str]) -> dict[str, str]:
    """Name and version of the packages that modules belong to.

    Parameters
    ----------
    modules : names of modules, such as 'snowblind.jump_plus'

    Returns
    -------
    versions : {distribution: version}. For one in development mode, 'version sha256:...'; for a module outside of any
        distribution, {top-level name: 'sha256:...'}, or 'not found'.
    """
    found: dict[str, str] = {}
    for top in sorted({module.partition(".")[0] for module in modules}):
        owners = _distributions(top)
        if not owners or not all(map(_is_installed, owners)):
            name = owners[0].name if owners else top
            version = f"{owners[0].version} " if owners else ""
            found[name] = f"{version}{_source_hash(top)}"
        else:
            found |= {owner.name: owner.version for owner in owners}
    return found


def find_module(name: str) -> ModuleSpec | None:
    """Find a top-level module without importing it, where the processes that run tasks find it.

    They import nothing from the current folder, unless PYTHONPATH names it.
    """
    for finder in sys.meta_path:
        path = search_path() if finder is PathFinder else None
        search = getattr(finder, "find_spec", None)
        spec = search(name, path) if search is not None else None
        if spec is not None:
            return spec
    return None


def search_path() -> list[str]:
    """Folders in which tasks look for modules: `sys.path` without the current folder."""
    given = {folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(folder)}
    here = os.path.realpath(os.curdir)
    return [folder for folder in sys.path if folder and (folder in given or os.path.realpath(folder) != here)]


@cache
def _distributions(top: str) -> tuple[importlib.metadata.Distribution, ...]:
    """Distributions that a top-level module belongs to; a look at all that are installed takes a second."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        same = importlib.metadata.distribution(top)
        listed = (same.read_text("top_level.txt") or "").split()
        if top in listed or top in {path.parts[0] for path in same.files or ()}:
            return (same,)
    owners = importlib.metadata.packages_distributions().get(top, ())
    return tuple(importlib.metadata.distribution(name) for name in sorted(set(owners)))


def _is_installed(distribution: importlib.metadata.Distribution) -> bool:
    """Whether its version stands for its code: files were copied from a wheel, and are listed."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        origin = {}
    return distribution.read_text("RECORD") is not None and not origin.get("dir_info", {}).get("editable", False)


def _source_hash(top: str) -> str:
    """'sha256:...' of the files of a package or of a single module, without hidden and compiled ones."""
    spec = find_module(top)
    if spec is None:
        return NOT_FOUND
    folders = list(spec.submodule_search_locations or ())
    if not folders:
        return f"sha256:{file_sha256(spec.origin)}" if spec.origin and os.path.isfile(spec.origin) else NOT_FOUND
    hasher = hashlib.sha256()
    for name, path in sorted(_files(folders)):
        hasher.update(f"{name}\0{file_sha256(path)}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{hasher.hexdigest()}"


def _files(folders: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for parent, inside, names in os.walk(folder):
            inside[:] = [name for name in inside if name != "__pycache__" and not name.startswith(".")]
            for name in names:
                path = Path(parent, name)
                if not name.startswith(".") and path.suffix not in (".pyc", ".pyo") and path.is_file():
                    yield path.relative_to(folder).as_posix(), path
