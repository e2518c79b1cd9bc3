"""Parameters that the installed pipeline's steps accept, read from their source without importing them.

Importing jwst.pipeline takes seconds; a config must be refused in less. Every Step declares its parameters in a literal
``spec`` (configobj), its sub-steps in ``step_defs`` and its reference types in ``reference_file_types``: `ast` reads
these. A test compares the result with what the imported classes say.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from configobj import ConfigObj
from configobj.validate import ValidateError, Validator, VdtMissingValue

from survey.messages import did_you_mean, nearest, shown, unquoted
from survey.names import plain_name

# Every Step descends from these two; they hold the parameters that all steps share.
_ROOTS = ("stpipe.step:Step", "jwst.stpipe.core:JwstStep")
# The pipeline gets its inputs and outputs from survey: a config that redirects them would hide products from the
# records.
RESERVED = frozenset(
    {"output_dir", "output_file", "output_ext", "output_use_model", "output_use_index", "search_output_file"}
    | {"input_dir", "suffix", "config_file", "class", "name", "pre_hooks", "post_hooks"}
)


# Parameters whose value becomes part of the name of a file that a step writes.
OUTPUT_NAMES = frozenset({"catalog_format", "dark_output", "int_name", "opt_name", "save_persistence"})


@dataclass(frozen=True)
class StepSpec:
    """What one Step class accepts."""

    path: str  # 'jwst.jump.jump_step:JumpStep'
    alias: str | None
    parameters: Mapping[str, str]  # name -> configobj check, such as "float(default=4.0,min=0)"
    reference_types: tuple[str, ...] = ()
    steps: Mapping[str, StepSpec] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        return self.path.rpartition(":")[2]

    @cached_property
    def pars_types(self) -> tuple[str, ...]:
        """CRDS types of the parameter files that this class and its steps read, e.g. 'pars-jumpstep'."""
        own = f"pars-{self.class_name.lower()}"
        return (own, *(name for step in self.steps.values() for name in step.pars_types))

    @cached_property
    def all_reference_types(self) -> tuple[str, ...]:
        """Reference types of this class and of its steps, sorted, each once; without pars types."""
        types = set(self.reference_types)
        for step in self.steps.values():
            types.update(step.all_reference_types)
        return tuple(sorted(types))


@cache
def read_spec(path: str) -> StepSpec:
    """Read a Step or Pipeline class, given as 'module:Class', from its source.

    Raises
    ------
    LookupError
        The module or class is not installed, or is not written in the way that this reader knows.
    """
    module_name, _, class_name = path.partition(":")
    module = _parse(module_name)
    node = _class_node(module, class_name, path)
    parameters: dict[str, str] = {}
    types: tuple[str, ...] = ()
    for base in _bases(module_name, module, node):
        inherited = read_spec(base)
        parameters.update(inherited.parameters)
        types = inherited.reference_types or types
    values = _class_values(node)
    parameters.update(_parse_spec(values.get("spec")))
    if "reference_file_types" in values:
        types = tuple(ast.literal_eval(values["reference_file_types"]))
    for name in types:
        parameters[f"override_{name}"] = "is_string_or_datamodel(default=None)"
    alias = values.get("class_alias")
    steps = _sub_steps(module_name, module, values.get("step_defs"))
    return StepSpec(path, ast.literal_eval(alias) if alias else None, parameters, types, steps)


# Of a whole task: survey saves its results, and a step that is not wanted is left out of the config's steps.
RESERVED_ABOVE = frozenset({"save_results", "skip"})


def check_settings(
    spec: StepSpec, settings: Mapping[str, Any], where: str, *, inside: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Check settings against a Step's parameters, and its steps' parameters.

    Parameters
    ----------
    spec : what the installed class accepts
    settings : parameter -> value; step name -> {parameter: value} for a pipeline
    where : the place that a message starts with, such as "steps.detector1"
    inside : the settings are those of a step inside a pipeline

    Returns
    -------
    settings : dict with the values as the pipeline will see them (a number given as text becomes a number)
    faults : list of str; empty when all is well
    """
    clean: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in settings.items():
        if name in spec.steps:
            if not isinstance(value, Mapping):
                got = shown(value)
                faults.append(f"{where}.{name}: {name!r} is a step and takes a mapping of parameters, got {got}.")
                continue
            clean[name], below = check_settings(spec.steps[name], value, f"{where}.{name}", inside=True)
            faults += below
            continue
        if name in RESERVED_ABOVE and not inside:
            faults.append(
                f"{where}.{name}: {name!r} is set by survey itself; leave a step out of the config to skip it."
            )
            continue
        try:
            clean[name] = _check_value(spec, name, value)
        except ValueError as error:
            faults.append(f"{where}.{unquoted(name)}: {error}")
    return clean, faults


def types_in_use(spec: StepSpec, settings: Mapping[str, Any], pars: Container[str] = ()) -> tuple[str, ...]:
    """CRDS types that a run with these settings can read: those of steps that are skipped are left out,
    and those that a setting overrides.

    Parameters
    ----------
    spec, settings : as in `check_settings`
    pars : 'pars-*' types for which CRDS has a file. Such a file can switch a step on that is off by default, so a step
        counts as skipped by default only when neither it nor the class above it has one.

    Returns
    -------
    types : sorted, each once; 'pars-*' types included
    """
    own = f"pars-{spec.class_name.lower()}"
    types = {own, *(kind for kind in spec.reference_types if settings.get(f"override_{kind}") is None)}
    for name, step in spec.steps.items():
        given = settings.get(name, {})
        switch = given.get("skip") if isinstance(given, Mapping) else None
        told_by_crds = own in pars or f"pars-{step.class_name.lower()}" in pars
        off_by_default = "default=True" in step.parameters.get("skip", "") and not told_by_crds
        if switch is True or (switch is None and off_by_default):
            types.add(f"pars-{step.class_name.lower()}")
        else:
            types.update(types_in_use(step, given if isinstance(given, Mapping) else {}, pars))
    return tuple(sorted(types))


# Parameters beside ``override_<type>`` whose value is a file, or a list of files, that pixels stand on; 'alignment' is
# this project's own.
FILE_PARAMETERS = frozenset(
    {"abs_refcat", "catfile", "skylist", "output_wcs", "alignment", "bkg_list", "wfss_mask", "persistence_array_file"}
    | {"user_mask", "user_supplied_dq", "user_supplied_flat", "user_supplied_reffile", "user_background"}
)
ONLINE_CATALOGUES = "GAIA"  # what names that are no file begin with


def named_files(name: str, value: Any) -> list[str]:
    """The paths of files, or of folders of them, in a parameter's value; none when it is not of that kind."""
    if isinstance(value, list | tuple):
        return [path for item in value for path in named_files(name, item)]
    if not isinstance(value, str) or not value.strip():
        return []
    if name.startswith("override_"):
        return [value] if value != "N/A" else []
    is_file = name in FILE_PARAMETERS and not value.strip().upper().startswith(ONLINE_CATALOGUES)
    return [value] if is_file else []


def override_files(settings: Mapping[str, Any]) -> list[str]:
    """Paths that parameters name, at any depth: ``override_<type>`` and `FILE_PARAMETERS`."""
    found: list[str] = []
    for name, value in settings.items():
        found += override_files(value) if isinstance(value, Mapping) else named_files(name, value)
    return sorted(set(found))


def with_files(settings: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Settings with every path that a parameter names, at any depth, put through a function."""
    return {name: _with_files(name, value, change) for name, value in settings.items()}


def _with_files(name: str, value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return with_files(value, change)
    if isinstance(value, list | tuple):
        return [_with_files(name, item, change) for item in value]
    return change(value) if named_files(name, value) else value


def missing_files(settings: Mapping[str, Any], where: str) -> list[str]:
    """Faults for the files and folders that parameters name, at any depth, and that are not there."""
    found: list[str] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += missing_files(value, f"{where}.{name}")
            continue
        lost = [path for path in named_files(name, value) if not Path(path).exists()]
        found += [f"{where}.{name}: {shown(path)}: not found." for path in lost]
    return found


def _check_value(spec: StepSpec, name: str, value: Any) -> Any:
    if name in RESERVED:
        raise ValueError(f"{name!r} is set by survey itself and cannot be changed; leave it out.")
    if name not in spec.parameters:
        known = [key for key in (*spec.parameters, *spec.steps) if key not in RESERVED]
        raise ValueError(f"{spec.class_name} has no parameter {shown(name)}{nearest(name, known)}")
    if value is None:
        return None
    check = spec.parameters[name]
    try:
        clean = _VALIDATOR.check(check, _as_configobj(value))
        numbers = clean if isinstance(clean, list) else [clean]
        if not all(math.isfinite(item) for item in numbers if isinstance(item, float)):
            raise ValidateError("expected a finite number")
        if name in OUTPUT_NAMES and clean and not plain_name(str(clean)):
            raise ValidateError("it names a file that is written beside the other products: expected a plain file name")
        return clean
    except (ValidateError, VdtMissingValue, OverflowError, TypeError) as error:
        said = f"{name} = {shown(value)} does not fit {check[:300]}: {str(error)[:200]}"
        raise ValueError(f"{said}{_close_option(check, value)}") from error


def _close_option(check: str, value: Any) -> str:
    """'; did you mean ...?' for a value that is none of a parameter's options."""
    options = re.findall(r"""['"]([^'"]+)['"]""", check) if check.startswith("option(") else []
    return did_you_mean(value, options)


def _as_configobj(value: Any) -> Any:
    """configobj's checks know text, numbers, booleans and lists of text."""
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValidateError("expected a path or 'N/A'")
    return value


# The two checks that stpipe adds to configobj's own; a config holds text where stpipe would also take a datamodel.
_VALIDATOR = Validator({"output_file": _text, "is_string_or_datamodel": _text})


@cache
def _parse(module_name: str) -> ast.Module:
    return ast.parse(_source_file(module_name).read_text(encoding="utf-8"))


@cache
def _source_file(module_name: str) -> Path:
    """The source of a module, found without importing any package above it."""
    top, *rest = module_name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"package {top!r} is not installed.")
    base = Path(next(iter(spec.submodule_search_locations)), *rest)
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise LookupError(f"module {module_name!r} has no source file below {base.parent}.")


def _class_node(module: ast.Module, class_name: str, path: str) -> ast.ClassDef:
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return node
    raise LookupError(f"{path}: no such class in its module.")


def _class_values(node: ast.ClassDef) -> dict[str, ast.expr]:
    """Class attributes that are assigned in the body."""
    values: dict[str, ast.expr] = {}
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            values[item.targets[0].id] = item.value
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            values[item.target.id] = item.value
    return values


def _bases(module_name: str, module: ast.Module, node: ast.ClassDef) -> list[str]:
    if f"{module_name}:{node.name}" == _ROOTS[0]:
        return []
    if f"{module_name}:{node.name}" == _ROOTS[1]:
        return [_ROOTS[0]]
    found = []
    for base in node.bases:
        resolved = _resolve(module_name, module, base)
        name = resolved.rpartition(":")[2]
        # jwst.stpipe offers JwstStep and JwstPipeline under the names Step and Pipeline.
        found.append(_ROOTS[1] if name in ("Step", "Pipeline", "JwstStep", "JwstPipeline") else resolved)
    return found


def _sub_steps(module_name: str, module: ast.Module, node: ast.expr | None) -> dict[str, StepSpec]:
    if not isinstance(node, ast.Dict):
        return {}
    return {
        ast.literal_eval(key): read_spec(_resolve(module_name, module, value))
        for key, value in zip(node.keys, node.values, strict=True)
        if key is not None
    }


def _resolve(module_name: str, module: ast.Module, node: ast.expr) -> str:
    """'module:Class' of an expression such as ``jump_step.JumpStep`` or ``Step``."""
    owner = node.value if isinstance(node, ast.Attribute) else None
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    wanted = getattr(owner, "id", name)
    for item in module.body:
        if not isinstance(item, ast.ImportFrom) or item.module is None:
            continue
        for alias in item.names:
            if (alias.asname or alias.name) == wanted:
                return f"{item.module}.{alias.name}:{name}" if owner is not None else f"{item.module}:{alias.name}"
    return f"{module_name}:{name}"


def _parse_spec(node: ast.expr | None) -> dict[str, str]:
    if node is None:
        return {}
    # tweakreg's spec is an f-string whose holes stand in comments only; they are left empty.
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return dict(ConfigObj(text.splitlines(), interpolation=False, list_values=False))
