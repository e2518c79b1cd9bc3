"""Parameters of the installed pipeline's steps, read from their source without importing them.

Importing jwst.pipeline takes 6 to 12 s. Every Step declares its parameters in a literal ``spec`` (configobj), its
sub-steps in ``step_defs`` and its reference types in ``reference_file_types``, which `ast` reads. A test compares the
result with the imported classes.
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

from survey.config.values import expand
from survey.messages import did_you_mean, nearest, shown, unquoted
from survey.names import plain_name

# Base classes of every Step, with the parameters that all steps share.
_ROOTS = ("stpipe.step:Step", "jwst.stpipe.core:JwstStep")
PIPELINES = tuple(f"jwst.pipeline.calwebb_{name.lower()}:{name}Pipeline" for name in ("Detector1", "Image2", "Image3"))
# Set by survey: a config that changes inputs or outputs would hide products from the records.
RESERVED = frozenset(
    {"output_dir", "output_file", "output_ext", "output_use_model", "output_use_index", "search_output_file"}
    | {"input_dir", "suffix", "config_file", "class", "name", "pre_hooks", "post_hooks"}
)
# Parameters whose value becomes part of the name of a file that a step writes.
OUTPUT_NAMES = frozenset({"catalog_format", "dark_output", "int_name", "opt_name", "save_persistence"})


@dataclass(frozen=True)
class StepSpec:
    """What a Step class accepts."""

    path: str  # 'jwst.jump.jump_step:JumpStep'
    alias: str | None
    parameters: Mapping[str, str]  # name -> configobj check, such as "float(default=4.0,min=0)"
    reference_types: tuple[str, ...] = ()
    steps: Mapping[str, StepSpec] = field(default_factory=dict)
    pars_type: str | None = None  # CRDS type of its parameter file; None: by its name; '': it has none
    foreign: bool = False  # of a package that is neither the pipeline's nor this one

    @property
    def class_name(self) -> str:
        return self.path.rpartition(":")[2]

    @cached_property
    def pars_types(self) -> tuple[str, ...]:
        """CRDS types of the parameter files of this class and its steps, such as 'pars-jumpstep'."""
        return (*self.own_pars, *(name for step in self.steps.values() for name in step.pars_types))

    @property
    def own_pars(self) -> tuple[str, ...]:
        """CRDS type of the parameter file of this class, without its steps."""
        name = f"pars-{self.class_name.lower()}" if self.pars_type is None else self.pars_type
        return (name,) if name else ()

    @cached_property
    def all_reference_types(self) -> tuple[str, ...]:
        """Reference types of this class and its steps, sorted; without pars types."""
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
        The module or class is not installed, or its source is not as expected.
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
    parameters.update(_spec_of(values.get("spec")))
    if "reference_file_types" in values:
        types = tuple(ast.literal_eval(values["reference_file_types"]))
    for name in types:
        parameters[f"override_{name}"] = "is_string_or_datamodel(default=None)"
    alias = values.get("class_alias")
    steps = _sub_steps(module_name, module, values.get("step_defs"))
    return StepSpec(path, ast.literal_eval(alias) if alias else None, parameters, types, steps)


# The same, for the class that a task runs; a step inside a pipeline may be skipped.
RESERVED_ABOVE = frozenset({"save_results", "skip"})
CheckHooks = Callable[[Any, str], tuple[list[Any], list[str]]]


def check_settings(
    spec: StepSpec, settings: Mapping[str, Any], where: str, *, inside: bool = False, hooks: CheckHooks | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Check settings against the parameters of a Step and of its steps.

    Parameters
    ----------
    spec : what the installed class accepts
    settings : parameter -> value; step name -> {parameter: value} for a pipeline
    where : key that messages start with, such as "steps.detector1"
    inside : the settings are those of a step inside a pipeline
    hooks : checks a value of pre_hooks and post_hooks; default: they are refused

    Returns
    -------
    settings : values as the pipeline will see them; a number given as text becomes a number
    faults : messages; empty if all settings are valid
    """
    clean: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in settings.items():
        if name in spec.steps:
            if not isinstance(value, Mapping):
                got = shown(value)
                faults.append(f"{where}.{name}: {name!r} is a step; expected a mapping of parameters, found {got}.")
                continue
            clean[name], below = check_settings(spec.steps[name], value, f"{where}.{name}", inside=True, hooks=hooks)
            faults += below
            continue
        if name in ("pre_hooks", "post_hooks") and hooks is not None:
            clean[name], below = hooks(value, f"{where}.{name}")
            faults += below
            continue
        if name in RESERVED_ABOVE and not inside:
            faults.append(
                f"{where}.{name}: {name!r} is set by survey; remove it. To skip a step, remove it from 'steps'."
            )
            continue
        try:
            clean[name] = _check_value(spec, name, value)
        except ValueError as error:
            faults.append(f"{where}.{unquoted(name)}: {error}")
    return clean, faults


def types_in_use(spec: StepSpec, settings: Mapping[str, Any], pars: Container[str] = ()) -> tuple[str, ...]:
    """CRDS types that a run with these settings can read, without those of skipped steps and overridden ones.

    Parameters
    ----------
    spec, settings : as in `check_settings`
    pars : 'pars-*' types for which CRDS has a file. Such a file can turn on a step that is off by default, so a step
        counts as skipped by default only if neither it nor its pipeline has one.

    Returns
    -------
    types : sorted, with 'pars-*' types
    """
    types = {*spec.own_pars, *(kind for kind in spec.reference_types if settings.get(f"override_{kind}") is None)}
    for name, step in spec.steps.items():
        given = settings.get(name, {})
        switch = given.get("skip") if isinstance(given, Mapping) else None
        set_by_crds = any(kind in pars for kind in (*spec.own_pars, *step.own_pars))
        off_by_default = "default=True" in step.parameters.get("skip", "") and not set_by_crds
        if switch is True or (switch is None and off_by_default):
            types.update(step.own_pars)
        else:
            types.update(types_in_use(step, given if isinstance(given, Mapping) else {}, pars))
    return tuple(sorted(types))


# Parameters, besides ``override_<type>``, whose value is a file or a list of files that pixels depend on; 'alignment'
# is a key of the config.
FILE_PARAMETERS = frozenset(
    {"abs_refcat", "catfile", "skylist", "output_wcs", "alignment", "bkg_list", "wfss_mask", "persistence_array_file"}
    | {"user_mask", "user_supplied_dq", "user_supplied_flat", "user_supplied_reffile", "user_background"}
    | {"mask_file"}
)
# Values of abs_refcat that are not files: catalogues of the service that tweakreg asks.
ONLINE_CATALOGUES = ("GAIAREFCAT", "GAIADR3", "GAIADR2", "GAIADR1")


def named_files(name: str, value: Any) -> list[str]:
    """Paths of files or folders in the value of a parameter; empty for other parameters.

    A parameter of another package's Step names a file if its value is an absolute path, which `check_settings` makes.
    """
    if isinstance(value, Mapping):  # a hook with parameters
        return override_files(value)
    if isinstance(value, list | tuple):
        return [path for item in value for path in named_files(name, item)]
    if not isinstance(value, str) or not value.strip():
        return []
    if name.startswith("override_"):
        return [value] if value != "N/A" else []
    is_file = name in FILE_PARAMETERS and not (name == "abs_refcat" and value.strip().upper() in ONLINE_CATALOGUES)
    return [value] if is_file or value.startswith("/") else []


def override_files(settings: Mapping[str, Any]) -> list[str]:
    """Paths in the values of ``override_<type>`` and `FILE_PARAMETERS`, at any depth."""
    found: list[str] = []
    for name, value in settings.items():
        found += override_files(value) if isinstance(value, Mapping) else named_files(name, value)
    return sorted(set(found))


def with_files(settings: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Settings with a function applied to every path in them, at any depth."""
    return {name: _with_files(name, value, change) for name, value in settings.items()}


def _with_files(name: str, value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return with_files(value, change)
    if isinstance(value, list | tuple):
        return [_with_files(name, item, change) for item in value]
    return change(value) if named_files(name, value) else value


def missing_files(settings: Mapping[str, Any], where: str) -> list[str]:
    """Messages about files and folders that settings name, at any depth, and that do not exist."""
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
        raise ValueError(f"{name!r} is set by survey and cannot be changed; remove it.")
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
            raise ValidateError("it is part of the name of a product: expected a plain file name")
        return _path_or_text(clean) if spec.foreign and isinstance(clean, str) else clean
    except (ValidateError, VdtMissingValue, OverflowError, TypeError) as error:
        said = f"{name} = {shown(value)} does not match {check[:300]}: {str(error)[:200]}"
        raise ValueError(f"{said}{_close_option(check, value)}") from error


def _path_or_text(value: str) -> str:
    """A text that names a file, or a path of a folder, as an absolute path; other text as it is."""
    path = Path(expand(value)).expanduser()
    return str(path.absolute()) if path.is_file() or ("/" in value and path.exists()) else value


def _close_option(check: str, value: Any) -> str:
    """The option that a value resembles, for a message; '' for parameters without options."""
    options = re.findall(r"""['"]([^'"]+)['"]""", check) if check.startswith("option(") else []
    return did_you_mean(value, options)


def _as_configobj(value: Any) -> Any:
    """A value of the types that configobj checks: text, numbers, booleans and lists of text."""
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValidateError("expected a path or 'N/A'")
    return value


# The two checks that stpipe adds to those of configobj. A config holds text where stpipe also accepts a datamodel.
_VALIDATOR = Validator({"output_file": _text, "is_string_or_datamodel": _text})


@cache
def _parse(module_name: str) -> ast.Module:
    return ast.parse(_source_file(module_name).read_text(encoding="utf-8"))


@cache
def _source_file(module_name: str) -> Path:
    """The source file of a module, found without importing its packages."""
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
    raise LookupError(f"{path}: the module has no such class.")


def _class_values(node: ast.ClassDef) -> dict[str, ast.expr]:
    """Class attributes assigned in the body of a class."""
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
        # jwst.stpipe also exports JwstStep and JwstPipeline as Step and Pipeline.
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


def _spec_of(node: ast.expr | None) -> dict[str, str]:
    if node is None:
        return {}
    # The spec of tweakreg is an f-string with values in comments only; they are left empty.
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return parse_spec(text)


def parse_spec(text: str) -> dict[str, str]:
    """Parameters of a ``spec``, the text in which stpipe declares them: name -> check."""
    return dict(ConfigObj(text.splitlines(), interpolation=False, list_values=False))
