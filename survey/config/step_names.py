"""Names of the Steps that installed packages register with stpipe, found without importing the packages.

A package registers a function by an entry point of the group ``stpipe.steps``. The function returns a list of class
names and aliases, which `ast` reads from its source; a list that is computed is asked of a child process.
"""

from __future__ import annotations

import ast
import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from survey.config.code_versions import find_module
from survey.messages import did_you_mean, shown

GROUP = "stpipe.steps"
MAX_NAME = 200  # characters of 'package.module:Class'


@dataclass(frozen=True)
class Registered:
    """A Step or pipeline as a package registers it."""

    class_name: str  # 'snowblind.JumpPlusStep'
    alias: str  # 'jump_plus', or ''
    is_pipeline: bool
    package: str  # name of the distribution

    @property
    def names(self) -> tuple[str, ...]:
        """By which a config can name it: its alias, also after 'package::', and the name of its class."""
        short = self.class_name.replace(":", ".").rpartition(".")[2]
        return tuple(name for word in (self.alias, short) if word for name in (word, f"{self.package}::{word}"))


@dataclass(frozen=True)
class EntryPoint:
    """An entry point of the group, and what its function lists; None when that cannot be read."""

    package: str
    value: str  # 'snowblind:_get_steps'
    steps: tuple[Registered, ...] | None


@cache
def entry_points() -> tuple[EntryPoint, ...]:
    """The entry points of all installed packages."""
    found = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else point.name
        found[package, point.value] = EntryPoint(package, point.value, _read(package, point.value))
    return tuple(found.values())


def full_name(name: str, ask: Callable[[str], list[list[Any]]]) -> str:
    """'package.Class' or 'module:Class' of a Step that a config names.

    Parameters
    ----------
    name : an alias or class name that a package registers, 'package::alias', 'package.Class' or 'package.module:Class'
    ask : what an entry point lists whose function cannot be read; raises LookupError

    Raises
    ------
    LookupError
        No package registers the name, or several do; the message says so.
    """
    if is_full_name(name):
        return name
    if "::" not in name and ("." in name or ":" in name):
        raise LookupError(f"{shown(name)}: expected a class such as 'package.Class' or 'package.module:Class'")
    known, faults = _known(ask, name)
    matches = {item.class_name: item for item in known if name in item.names}
    if len(matches) == 1:
        return next(iter(matches))
    if matches:
        owners = " and ".join(f"{item.package} ({item.class_name})" for item in matches.values())
        first = next(iter(matches.values()))
        module, _, short = first.class_name.replace(":", ".").rpartition(".")
        raise LookupError(
            f"{shown(name)} is registered by {owners}; write the class that is meant, such as '{module}:{short}'"
        )
    hint = did_you_mean(name, [item.alias for item in known])
    more = "".join(f"; {fault}" for fault in faults)
    raise LookupError(f"no installed package registers a Step {shown(name)}{hint}{more}")


def is_full_name(name: str) -> bool:
    """Whether a text is written as 'package.Class' or 'package.module:Class'."""
    module, colon, attribute = name.partition(":")
    words = [*module.split("."), *([attribute] if colon else [])]
    return len(words) >= 2 and len(name) <= MAX_NAME and all(word.isidentifier() and word.isascii() for word in words)


def is_registered(name: str) -> bool:
    """Whether a package lists a name, or could do so in a list that cannot be read."""
    return any(point.steps is None or any(name in item.names for item in point.steps) for point in entry_points())


def _known(ask: Callable[[str], list[list[Any]]], name: str) -> tuple[list[Registered], list[str]]:
    found: list[Registered] = []
    faults: list[str] = []
    for point in entry_points():
        if point.steps is not None:
            found += point.steps
            continue
        try:
            found += _registered(point.package, ask(point.value))
        except LookupError as error:
            faults.append(f"the entry point of package {point.package} cannot be used: {error}")
    return found, faults


def _registered(package: str, items: Iterable[Any]) -> list[Registered]:
    made = []
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 3 or not isinstance(item[0], str):
            raise LookupError(f"its list holds {item!r}; expected (class name, alias, whether it is a pipeline)")
        made.append(Registered(item[0], item[1] or "", bool(item[2]), package))
    return made


def _read(package: str, value: str) -> tuple[Registered, ...] | None:
    """What the function of an entry point returns, if that is a literal; None if it has to be called."""
    module_name, _, function = value.partition(":")
    try:
        tree = ast.parse(_source(module_name).read_text(encoding="utf-8"))
        body = next(item for item in tree.body if isinstance(item, ast.FunctionDef) and item.name == function).body
        (answer,) = [item for item in body if isinstance(item, ast.Return)]
        if any(not isinstance(item, ast.Return | ast.Expr) for item in body) or answer.value is None:
            return None
        return tuple(_registered(package, ast.literal_eval(answer.value)))
    except (OSError, ValueError, SyntaxError, StopIteration, LookupError, TypeError):
        return None


def _source(module_name: str) -> Path:
    """The source file of a module."""
    top, *rest = module_name.split(".")
    spec = find_module(top)
    if spec is None or spec.origin is None:
        raise LookupError(f"package {top!r} is not installed")
    if not spec.submodule_search_locations:
        return Path(spec.origin)
    base = Path(next(iter(spec.submodule_search_locations)), *rest)
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
