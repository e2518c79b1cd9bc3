"""Sections of YAML files as models: every fault at once, each with its file, its line and the nearest known key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from survey.credentials import TOKEN
from survey.errors import ConfigError
from survey.pipeline_spec import nearest

MAX_CONFIG_BYTES = 1_000_000
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def expand(text: str) -> str:
    """Replace ``${NAME}`` by an environment variable, ``${NAME:-default}`` by it or, when unset or empty, the default.

    Raises
    ------
    ValueError
        A variable is not set and has no default, or is the archive's token.
    """

    def value(match: re.Match[str]) -> str:
        if match["name"] == TOKEN:  # it would end up in every record
            raise ValueError(f"{TOKEN} is a secret: it is read from the environment, and stands in no config.")
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise ValueError(f"environment variable {match['name']} is not set; set it, or write the path itself.")
        return found

    return _VARIABLE.sub(value, text)


def _expanded(value: Any) -> Any:
    return expand(str(value)) if isinstance(value, (str, Path)) else value


def _as_path(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    text = expand(str(value))
    if not text.strip() or "\0" in text:
        raise ValueError("a path must not be empty.")
    return Path(text).expanduser()


Lines = dict[tuple[Any, ...], int]  # of a key's or list entry's place -> its line, 1-based
ConfigPath = Annotated[Path, BeforeValidator(_as_path)]
ExpandedText = Annotated[str, BeforeValidator(_expanded)]


class Section(BaseModel):
    """A mapping of the config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Section)


def read_mapping(path: Path, example: str) -> tuple[dict[str, Any], Lines]:
    """A YAML file's mapping, and the line of every key and list entry in it.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or is not a mapping such as ``example``.
    """
    text = _read_text(path)
    try:
        data = yaml.load(text, Loader=_StrictLoader)
        lines = _line_numbers(yaml.compose(text, Loader=_StrictLoader))
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping such as '{example}', found {type(data).__name__}.")
    return {str(key): value for key, value in data.items()}, lines


def build(model: type[Model], path: Path, data: dict[str, Any], lines: Lines) -> Model:
    """A section from what `read_mapping` found; ConfigError with file, line and nearest key of every fault."""
    try:
        return model(**data)
    except ValidationError as error:
        raise ConfigError([_fault(path, item, lines, model) for item in error.errors()]) from error


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases (a few lines of them expand to gigabytes) and without repeated keys (the first would be
    lost).
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(getattr(key, "value", ""))
            if name in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: key {name!r} stands twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is not a config.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _line_numbers(node: yaml.Node | None, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], int]:
    """Line (1-based) of every key and list entry of a YAML document."""
    lines: dict[tuple[Any, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, getattr(key, "value", ""))
            lines[here] = key.start_mark.line + 1
            lines |= _line_numbers(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            lines |= _line_numbers(value, (*path, index))
    return lines


def _fault(path: Path, item: Any, lines: Lines, model: type[Section]) -> str:
    place = tuple(item["loc"])
    line = next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), None)
    where = f"{path}:{line}" if line else f"{path}"
    name = ".".join(map(str, place))
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = f"unknown key{nearest(str(place[-1]), _keys_of(model, place[:-1]))}"
    elif item["type"] == "missing":
        message = "is required and missing."
    else:
        message = f"{message} (found {_shown(item.get('input'))})" if item["type"] != "value_error" else message
    return f"{where}: {name}: {message}" if name else f"{where}: {message}"


def _keys_of(model: Any, place: tuple[Any, ...]) -> list[str]:
    """Known keys of the section at a place."""
    for part in place:
        known = getattr(model, "model_fields", {})
        inside = known[part].annotation if part in known else model  # else: a name in a mapping of sections
        found = [item for item in (inside, *get_args(inside)) if isinstance(item, type) and issubclass(item, Section)]
        model = found[0] if found else inside
    return list(getattr(model, "model_fields", {}))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
