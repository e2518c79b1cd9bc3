"""Write a config as YAML with a comment for every key, taken from the model's descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from survey.config.model import SurveyConfig

Notes = Mapping[str, Sequence[str]]  # dotted place of a key, or '' for the head -> further lines of comment


def write_commented(values: Mapping[str, Any], notes: Notes) -> str:
    """The text of a config with every key of the model.

    Parameters
    ----------
    values : by key, sections as mappings; keys that are left out get their defaults
    notes : comments below the descriptions
    """
    head = [*_comment(notes[""]), ""] if "" in notes else []
    lines = [*head, *_section(SurveyConfig, values, notes, "")]
    return "\n".join(lines) + "\n"


def _section(model: type[BaseModel], values: Mapping[str, Any], notes: Notes, place: str) -> Iterator[str]:
    indent = "  " * (place.count(".") if place else 0)
    for name, field in model.model_fields.items():
        where = f"{place}{name}"
        yield from (f"{indent}{line}" for line in _comment([field.description or name, *notes.get(where, ())]))
        inner = _model_of(field)
        if inner is not None:
            yield f"{indent}{name}:"
            yield from _section(inner, values.get(name, {}), notes, f"{where}.")
            continue
        value = values[name] if name in values else _default(field)
        if _is_nested(value):
            yield f"{indent}{name}:"
            yield from (f"{indent}  {line}" for line in _entries(value))
        else:
            yield f"{indent}{name}: {flow(value)}"


def _comment(lines: Sequence[str]) -> list[str]:
    return [f"# {line}".rstrip() for line in lines]


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a section; None for a field that is a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value


def _is_nested(value: Any) -> bool:
    """Whether a value is a list or a mapping of steps with parameters, written over several lines."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return bool(items) and all(isinstance(item, Mapping) for item in items)


def _entries(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each step with its parameters."""
    items = (
        value.items() if isinstance(value, Mapping) else ((key, pars) for entry in value for key, pars in entry.items())
    )
    mark = "" if isinstance(value, Mapping) else "- "
    for key, pars in items:
        yield f"{mark}{key}: {flow(pars)}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, Path):
        value = str(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
