"""The user's own files of settings for dask, zarr and astropy, which prevent their import if they are damaged.

They are read here as those packages read them, without importing them.
"""

from __future__ import annotations

import contextlib
import os
import site
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_EXTENSIONS = (".json", ".yaml", ".yml")
_SECTIONS = {"dask": ("distributed", "jobqueue"), "zarr": ("array", "codecs")}  # that hold settings by name
_ASTROPY_FILES = ("astropy.cfg", "astroquery.cfg")


def setting_files(package: str, environment: Mapping[str, str]) -> list[Path]:
    """Files from which dask or zarr reads its settings, in its order. Folders that cannot be read are left out.

    Parameters
    ----------
    package : 'dask' or 'zarr'
    """
    own, root = f"{package.upper()}_CONFIG", f"{package.upper()}_ROOT_CONFIG"
    folders = [
        Path(environment.get(root, f"/etc/{package}")),
        *(Path(prefix, "etc", package) for prefix in (sys.prefix, *site.PREFIXES)),
        Path(os.path.expanduser("~"), ".config", package),
        *([Path(environment[own])] if own in environment else []),
    ]
    found: list[Path] = []
    for folder in folders:
        try:
            found += (
                sorted(path for path in folder.iterdir() if path.suffix.lower() in _EXTENSIONS)
                if folder.is_dir()
                else [folder]
            )
        except OSError:
            continue
    return list(dict.fromkeys(found))


def setting_faults(environment: Mapping[str, str]) -> list[str]:
    """Files and variables with which dask, zarr or astropy cannot be imported, each with its fault."""
    faults = []
    for package, sections in _SECTIONS.items():
        for path in setting_files(package, environment):
            faults += [_fault(str(path), package, problem) for problem in _problems(path, sections)]
        for name in (f"{package}_{section}".upper() for section in sections):
            if name in environment:
                faults.append(_fault(name, package, "expected a setting's whole name, such as DASK_A__B"))
    return faults + [_fault(str(path), "astropy", problem) for path, problem in _astropy_problems(environment)]


def _fault(where: str, package: str, problem: str) -> str:
    return f"{where}: {package} cannot use these settings: {problem}. Correct or remove it."


def _problems(path: Path, sections: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with a YAML file of settings."""
    try:
        content: Any = yaml.safe_load(path.read_text())
    except OSError:  # skipped by the packages, too
        return
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        yield f"not YAML ({' '.join(str(error).split())[:200]})"
        return
    if content is not None and not isinstance(content, dict):
        yield f"expected names and values, found a {type(content).__name__}"
    for name in sections if isinstance(content, dict) else ():
        section = content.get(name)
        if section is not None and not isinstance(section, dict):
            yield f"{name}: expected names and values, found {str(section)[:40]!r}"


def _astropy_problems(environment: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Files of settings of astropy and astroquery that cannot be parsed, and why."""
    from configobj import ConfigObj, ConfigObjError

    home = Path(os.path.expanduser("~"))
    folders = [home / ".astropy" / "config", home / ".config" / "astropy"]
    folders += [Path(environment["ASTROPY_CONFIG_DIR"])] if environment.get("ASTROPY_CONFIG_DIR") else []
    folders += [Path(environment["XDG_CONFIG_HOME"], "astropy")] if environment.get("XDG_CONFIG_HOME") else []
    for path in (folder / name for folder in folders for name in _ASTROPY_FILES):
        try:
            ConfigObj(str(path), interpolation=False, file_error=True)
        except OSError:
            continue
        except (ConfigObjError, ValueError) as error:
            yield path, " ".join(str(error).split())[:200].rstrip(".")


def where_set(key: str, environment: Mapping[str, str]) -> str:
    """The variable or the file that sets one of dask's settings, such as 'temporary-directory'; '' for none."""
    names = (name for name in environment if name.startswith("DASK_") and _plain(name[5:].replace("__", ".")) == key)
    if name := next(names, None):
        return name
    for path in reversed(setting_files("dask", environment)):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            found = yaml.safe_load(path.read_text())
            for part in key.split("."):
                named = {_plain(str(item)): value for item, value in found.items()} if isinstance(found, dict) else {}
                found = named.get(part)
            if found is not None:
                return str(path)
    return ""


def _plain(name: str) -> str:
    """A setting's name as dask compares it: '_' and '-' are the same."""
    return name.lower().replace("_", "-")
