"""Read a YAML file: its values, the line of every key, and faults with file and line.

Size, depth and number of values are limited, and tags and aliases are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from survey.errors import ConfigError
from survey.messages import did_you_mean, nearest, shown, unquoted

MAX_BYTES = 1_000_000
MAX_DEPTH = 100  # a config has at most 6 levels
MAX_NODES = 20_000  # keys and values; ten times the largest sensible config
MAX_FAULTS = 100  # that are listed of one file
MAX_MESSAGE = 500  # characters of one fault

Place = tuple[str | int, ...]

_OCTAL = re.compile(r"0[0-7_]+")
# The Python loader takes a minute for a megabyte.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """A YAML mapping and the lines of its parts."""

    path: Path
    data: Mapping[str, Any]
    lines: Mapping[Place, int]  # 1-based, of every key and list entry
    faults: tuple[str, ...] = ()  # keys that are given twice, octal numbers

    def locate(self, place: Sequence[str | int]) -> str:
        """``file:line`` of a key, or of the deepest part of its path that is in the file."""
        whole = tuple(place)
        for end in range(len(whole), 0, -1):
            if whole[:end] in self.lines:
                return f"{self.path}:{self.lines[whole[:end]]}"
        return str(self.path)

    def located(self, fault: str) -> str:
        """Put file and line before a message that starts with a dotted key, such as ``mosaic.image3.resample: ...``.

        The entries of a list of mappings with one key each are found by that key: ``steps.detector1.jump``.
        """
        place = fault.partition(": ")[0]
        if place.startswith("--"):
            return fault
        return f"{self.locate(self._place(place.split('.')))}: {fault}"

    def _place(self, parts: Sequence[str]) -> Place:
        """The deepest place in the file that a dotted key names; keys may hold dots themselves: package.Class."""
        place: Place = ()
        while parts:
            ends = (end for end in range(len(parts), 0, -1) if (*place, ".".join(parts[:end])) in self.lines)
            end = next(ends, 0)
            if not end:
                break
            place, parts = (*place, ".".join(parts[:end])), parts[end:]
        return place

    def fault(self, item: Mapping[str, Any], model: Any) -> str:
        """An error of a pydantic model as a message with file and line."""
        place = tuple(item["loc"])
        name = ".".join(map(unquoted, place))
        message = str(item["msg"]).removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key{nearest(place[-1], keys_of(model, place[:-1]))}"
        elif item["type"] == "missing":
            message = "is required and missing."
        elif item["type"] == "literal_error":
            expected = item["ctx"]["expected"]
            hint = did_you_mean(item["input"], re.findall("'([^']*)'", expected)) or "."
            message = f"expected {expected}, found {shown(item['input'])}{hint}"
        elif item["type"] != "value_error":
            message = f"{message} (found {shown(item.get('input'))})"
        return f"{self.locate(place)}: {name}: {message[:MAX_MESSAGE]}" if name else f"{self.path}: {message}"


def read_document(path: Path | str, example: str = "survey: egs-demo") -> Document:
    """Read a YAML file whose top is a mapping. Keys become text.

    Aliases, of which a few lines can expand to gigabytes, and tags that create Python objects are rejected.

    Parameters
    ----------
    path : file to read
    example : a line of such a file, for the message about one that is empty or not a mapping

    Raises
    ------
    ConfigError
        The file cannot be read, is too large or too deep, or is not a YAML mapping.
    """
    path = Path(path)
    text = _read_text(path)
    try:
        _check_events(path, text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
        found: dict[Place, int] = {}
        faults = [] if node is None else list(_walk(node, (), found))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}{_line_of(error)}: not valid YAML: {_said(error)}") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(data, dict):
        if data is None:
            raise ConfigError(f"{path}: is empty; expected a mapping such as '{example}'.")
        raise ConfigError(f"{path}: expected a mapping such as '{example}', found {shown(data)}.")
    plain = {str(key): value for key, value in data.items()}
    return Document(path, plain, found, tuple(f"{path}:{line}: {said}" for line, said in faults))


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; expected a config.")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: cannot be read: it is not UTF-8 text ({error.reason}).") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {cause}.") from error


def _check_events(path: Path, text: str) -> None:
    """Reject what would be costly to construct, before anything is constructed."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}:{line}: not valid YAML here: aliases (*name) are not accepted; write it out.")
        if isinstance(event, (yaml.CollectionStartEvent, yaml.CollectionEndEvent)):
            depth += 1 if isinstance(event, yaml.CollectionStartEvent) else -1
        if depth > MAX_DEPTH or number > MAX_NODES:
            limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_NODES} values"
            raise ConfigError(f"{path}:{line}: not valid YAML for a config: more than {limit}.")


def _walk(node: yaml.Node, path: Place, lines: dict[Place, int]) -> Iterator[tuple[int, str]]:
    """Store the line of every key and list entry; yields line and message of keys given twice and octal numbers."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(getattr(key, "value", "")), key.start_mark.line + 1
            if name in seen:
                yield line, f"{'.'.join(map(unquoted, (*path, name)))}: is given twice; first in line {seen[name]}."
            seen[name] = line
            lines[(*path, name)] = line
            yield from _walk(value, (*path, name), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            if isinstance(value, yaml.ScalarNode):
                lines.setdefault((*path, str(value.value)), value.start_mark.line + 1)
            elif isinstance(value, yaml.MappingNode) and len(value.value) == 1 and len(path) == 1:
                for _ in _walk(value, path, lines):  # by its only key; faults in it are reported below
                    pass
            yield from _walk(value, (*path, index), lines)
    elif node.tag == "tag:yaml.org,2002:int" and _OCTAL.fullmatch(node.value):
        meant = node.value.replace("_", "").lstrip("0") or "0"
        place = ".".join(str(part) if isinstance(part, int) else unquoted(part) for part in path)
        said = f"{place}: {node.value}: YAML reads a number with a leading zero as octal; write {meant}."
        yield node.start_mark.line + 1, said


def keys_of(model: Any, place: Place) -> list[str]:
    """Known keys of the section at a place of a pydantic model."""
    for part in place:
        fields = getattr(model, "model_fields", {})
        inside = fields[part].annotation if part in fields else model  # else: a name in a mapping of sections
        model = next((item for item in (inside, *get_args(inside)) if hasattr(item, "model_fields")), inside)
    return list(getattr(model, "model_fields", {}))


def _line_of(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f":{mark.line + 1}" if mark is not None else ""


def _said(error: yaml.MarkedYAMLError) -> str:
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{' '.join(said.split())[:300]}."
