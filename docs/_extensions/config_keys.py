"""The directive ``config-keys``: every key of a pydantic model, with type, unit, default, description and example.

    ```{config-keys} survey.config.model:SurveyConfig
    :section: mosaic
    ```

``:section:`` is the dotted place of a mapping inside the model, ``:prefix:`` replaces it in the keys' names, and
``:skip:`` names keys that are described elsewhere. Keys that are mappings of their own get a link to their section.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_UNIT = re.compile(r"\s*\[(?P<unit>[^\]]+)\]")
_TYPES = {Any: "object", str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


@dataclass(frozen=True)
class Key:
    """One key of a config as the reference shows it."""

    name: str
    kind: str
    unit: str
    default: str
    description: str
    examples: tuple[str, ...]


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """The keys of one mapping, in order; mappings below it are one key each."""
    for name, field in model.model_fields.items():
        text = field.description or ""
        unit = _UNIT.search(text)
        yield Key(
            name=f"{prefix}{name}",
            kind=_kind(field),
            unit=unit["unit"] if unit else "",
            default=_default(field),
            description=_UNIT.sub("", text, count=1).strip(),
            examples=tuple(_yaml(item) for item in field.examples or ()),
        )


def is_section(field: FieldInfo) -> bool:
    """Whether a key holds one mapping with keys of its own."""
    return inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)


def find_model(model: type[BaseModel], section: str) -> type[BaseModel]:
    """The model of a mapping by its dotted place, through lists, mappings by name and optional values."""
    for part in filter(None, section.split(".")):
        (model,) = _models(model.model_fields[part].annotation)
    return model


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Pydantic models that a type mentions."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for item in typing.get_args(annotation) for model in _models(item)]


def _kind(field: FieldInfo) -> str:
    """The type in words, with its limits."""
    text = _words(field.annotation)
    limits = [item for item in field.metadata if type(item).__name__ in ("Gt", "Ge", "Lt", "Le")]
    shown = {"Gt": "above {}", "Ge": "{} or more", "Lt": "below {}", "Le": "{} or less"}
    bounds = [shown[type(item).__name__].format(getattr(item, type(item).__name__.lower())) for item in limits]
    return ", ".join([text, *bounds])


def _words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is typing.Literal:
        return " | ".join(f"``{item}``" for item in arguments)
    if origin in (typing.Union, types.UnionType):
        words = [_words(item) for item in arguments if item is not type(None)]
        return " or ".join(words) + (" or null" if type(None) in arguments else "")
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_words(arguments[0])}s" if arguments[0] in (int, float) else f"list of {_words(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)} {_words(arguments[0])}s"
    if origin in (dict, collections.abc.Mapping):
        below = _words(arguments[1])
        return "mapping" if below == "object" else f"mapping of name to {below}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "mapping"
    return _TYPES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    """The default as it would be written in YAML; empty for a required key."""
    if field.is_required():
        return ""
    value = field.default
    if value is PydanticUndefined:
        value = field.default_factory() if field.default_factory else None  # type: ignore[call-arg]
    if isinstance(value, BaseModel):
        written = value.model_dump(mode="json", exclude_unset=True)
        return _yaml(written) if written else "the defaults of its keys"
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return _yaml([getattr(item, "name", str(item)) for item in value])
    return _yaml(value)


def _yaml(value: Any) -> str:
    """A value as one line of YAML."""
    import yaml

    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("...").strip()


class ConfigKeys(SphinxDirective):
    """Write one ``confval`` per key."""

    required_arguments = 1
    option_spec: typing.ClassVar = {"section": str, "prefix": str, "skip": str}

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].partition(":")
        self.env.note_dependency(importlib.import_module(module).__file__ or module)
        section = self.options.get("section", "")
        model = find_model(getattr(importlib.import_module(module), name), section)
        prefix = self.options.get("prefix", f"{section}." if section else "")
        skipped = set(self.options.get("skip", "").split())
        lines: list[str] = []
        for key in keys(model, prefix):
            if key.name.removeprefix(prefix) not in skipped:
                lines += [*_shown(key), ""]
        found = nodes.container()
        self.state.nested_parse(StringList(lines, source=str(self.get_source_info()[0])), self.content_offset, found)
        return found.children


class StepsTable(SphinxDirective):
    """The steps that a config may list, from the registry."""

    def run(self) -> list[nodes.Node]:
        from survey.steps.registry import REGISTRY

        lines = ["| step | from | to | what runs |", "|---|---|---|---|"]
        for step in REGISTRY.values():
            if step.chained:
                name = step.step_class.rpartition(":")[2]
                lines.append(f"| `{step.name}` | {step.accepts} | {step.produces} | `{name}` |")
        found = nodes.container()
        self.state.nested_parse(StringList(lines, source=str(self.get_source_info()[0])), self.content_offset, found)
        return found.children


def _shown(key: Key) -> list[str]:
    """Markdown of one key: what it is in one line, what it means, and how it is written."""
    facts = [_as_markdown(key.kind)]
    facts += [f"unit: {key.unit}"] if key.unit else []
    facts += [f"default: `{key.default}`" if key.default else "**required**"]
    lines = [f"::::{{confval}} {key.name}", "", f"{' · '.join(facts)}", "", _sentence(key.description), ""]
    last = key.name.rpartition(".")[2]
    if key.examples:
        lines += ["Example: " + ", ".join(f"`{last}: {item}`" for item in key.examples)]
    return [*lines, "::::"]


def _as_markdown(text: str) -> str:
    return text.replace("``", "`")


def _sentence(text: str) -> str:
    """A description as a sentence, with what looks like code kept as it is."""
    text = (
        re.sub(r"(?<![`\w])(\$\{[A-Z_]+\}|\*_?[a-z_.]+|'[^']+')(?![`\w])", r"`\1`", text)
        .replace("`'", "`")
        .replace("'`", "`")
    )
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", ":")) or not text else f"{text}."


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("steps-table", StepsTable)
    return {"version": "1", "parallel_read_safe": True}
