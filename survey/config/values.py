"""Types of values that configs and deploy files share: paths, addresses and texts with environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from survey.credentials import TOKEN
from survey.messages import nearest, shown
from survey.nircam import FILTERS

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def expand(text: str) -> str:
    """Replace ``${NAME}`` by an environment variable, ``${NAME:-default}`` by the default if it is unset or empty.

    Raises
    ------
    ValueError
        A variable is not set and has no default, or is the archive's token.
    """

    def value(match: re.Match[str]) -> str:
        if match["name"] == TOKEN:  # it would be written to every record
            raise ValueError(f"{TOKEN} is a secret that is read from the environment; remove it from the config.")
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise ValueError(f"environment variable {match['name']} is not set; set it, or write its value.")
        return found

    return _VARIABLE.sub(value, text)


def _expanded(value: Any) -> Any:
    return expand(str(value)) if isinstance(value, (str, Path)) else value


MAX_PATH_BYTES = 4096  # of Linux


def _as_path(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    text = expand(str(value))
    if not text.strip():
        raise ValueError("a path must not be empty.")
    try:
        if len(os.fsencode(text)) >= MAX_PATH_BYTES or any(len(os.fsencode(part)) > 255 for part in Path(text).parts):
            raise ValueError(f"{shown(text)}: the path is too long.")
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)}: the path holds characters that no file system accepts.") from None
    if not text.isprintable():
        raise ValueError(f"{shown(text)}: a path must not hold control characters.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # '~name' of an unknown user
        raise ValueError(f"{shown(text)}: {error}") from None


def _known_filter(value: str) -> str:
    known = [*FILTERS]
    if value not in known:
        raise ValueError(f"{shown(value)} is not a NIRCam filter{nearest(value, known)}")
    return value


ConfigPath = Annotated[Path, BeforeValidator(_as_path)]
Server = Annotated[str, BeforeValidator(_expanded)]
Filter = Annotated[str, AfterValidator(_known_filter)]


def program_numbers(value: Any) -> int | tuple[int, ...]:
    """A program number, or several; a list of one is that number.

    Raises
    ------
    ValueError
        An entry is no program number, or is listed twice.
    """
    if not isinstance(value, list | tuple):
        return _number(value, 99999, "a program number from 1 to 99999, such as 1345, or a list of them")
    if not value:
        raise ValueError("the list is empty; expected at least one program number, such as 1345.")
    found = tuple(_number(item, 99999, "a program number from 1 to 99999, such as 1345") for item in value)
    twice = sorted({item for item in found if found.count(item) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(str, twice))} is listed twice; each program once.")
    return found if len(found) > 1 else found[0]


def observation_numbers(
    value: Any, programs: Sequence[int]
) -> tuple[int, ...] | dict[int, tuple[int, ...] | None] | None:
    """Observations of one program, or by program; of one program, a mapping is a list.

    Raises
    ------
    ValueError
        An entry is no observation number, or of a program that is not in the config.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        if len(programs) > 1 and isinstance(value, list | tuple):
            every = ", ".join(f"{program}: {list(value) if program == programs[0] else 'null'}" for program in programs)
            raise ValueError(f"{shown(value)}: of which program? Write a mapping, such as {{{every}}}.")
        return _observations(value)
    found: dict[int, tuple[int, ...] | None] = {}
    for key, numbers in value.items():
        program = int(key) if isinstance(key, str) and key.isdecimal() else key
        if programs and program not in programs:
            raise ValueError(f"{shown(key)}: is not a program of this config; it has {', '.join(map(str, programs))}.")
        found[program] = None if numbers is None else _observations(numbers)
    return found.get(programs[0]) if len(programs) == 1 else found


def _observations(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{shown(value)}: expected a list of observation numbers, such as [1, 2].")
    try:
        found = tuple(_number(item, 999, "whole numbers from 1 to 999") for item in value)
    except ValueError as error:
        raise ValueError(f"{shown(list(value))}: {error}") from None
    if not found or len(set(found)) != len(found):
        raise ValueError(f"{list(found)}: expected numbers from 1 to 999, each once, at least one.")
    return found


def _number(value: Any, largest: int, expected: str) -> int:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{shown(value)}: expected {expected}.")
    return value


class Section(BaseModel):
    """A mapping of the config; unknown keys are errors.

    A field's description gives its unit in brackets, and ``examples`` hold values as YAML reads them: the reference in
    docs/ is made from both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def name_of_code(value: Any) -> Any:
    """'module:Class' for a class or function, which Python code can give in place of its name; else the value.

    Raises
    ------
    ValueError
        Tasks cannot import it: it is defined inside of a function, or in a script or notebook.
    """
    if isinstance(value, Mapping):
        return {name_of_code(key): name_of_code(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(name_of_code(item) for item in value)
    if not isinstance(value, type | FunctionType):
        return value
    if value.__module__ == "__main__" or "<" in value.__qualname__:
        where = "a script or notebook" if value.__module__ == "__main__" else "a function"
        raise ValueError(
            f"{value.__qualname__} is defined inside of {where}, from which tasks cannot import it; put it into a "
            "module of an installed package."
        )
    return f"{value.__module__}:{value.__qualname__}"


Parameters = Annotated[dict[str, Any], BeforeValidator(name_of_code)]
