"""Faults of the user's settings of dask, found without importing dask, which they would prevent."""

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
_SECTIONS = ("distributed", "jobqueue")  # that hold settings by name


def setting_files(environment: Mapping[str, str]) -> list[Path]:
    """Files from which dask reads its settings, in its order; folders that cannot be read are left out, as by dask."""
    folders = [
        Path(environment.get("DASK_ROOT_CONFIG", "/etc/dask")),
        *(Path(prefix, "etc", "dask") for prefix in (sys.prefix, *site.PREFIXES)),
        Path(os.path.expanduser("~"), ".config", "dask"),
        *([Path(environment["DASK_CONFIG"])] if "DASK_CONFIG" in environment else []),
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
    """Files and variables with which dask cannot be imported, each with its fault; empty when there are none."""
    faults = []
    for path in setting_files(environment):
        try:
            content = yaml.safe_load(path.read_text())
        except OSError:  # dask skips it, too
            continue
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            faults.append(_fault(str(path), f"not YAML ({' '.join(str(error).split())[:200]})"))
            continue
        if content is not None and not isinstance(content, dict):
            faults.append(_fault(str(path), f"expected names and values, found a {type(content).__name__}"))
        faults += (_fault(str(path), problem) for problem in _section_faults(content))
    for name in _SECTIONS:
        if f"DASK_{name.upper()}" in environment:
            faults.append(_fault(f"DASK_{name.upper()}", "expected a setting's whole name, such as DASK_A__B"))
    return faults


def _fault(where: str, problem: str) -> str:
    return f"{where}: dask cannot use these settings: {problem}. Correct or remove it."


def _section_faults(content: Any) -> Iterator[str]:
    for name in _SECTIONS if isinstance(content, dict) else ():
        section = content.get(name)
        if section is not None and not isinstance(section, dict):
            yield f"{name}: expected names and values, found {str(section)[:40]!r}"


def where_set(key: str, environment: Mapping[str, str]) -> str:
    """The variable or the file that sets one of dask's settings, such as 'temporary-directory'; '' for none."""
    names = (name for name in environment if name.startswith("DASK_") and _plain(name[5:].replace("__", ".")) == key)
    if name := next(names, None):
        return name
    for path in reversed(setting_files(environment)):
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
