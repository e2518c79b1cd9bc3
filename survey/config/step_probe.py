"""The child process that imports other people's steps: ``python -m survey.config.step_probe``.

Planning imports neither the pipeline nor packages that use it. Whether a class can be imported, is a Step, and which
parameters and reference files it has, is found out here: names on standard input, one JSON document on standard output
(`survey.config.probes` reads it).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterable, Mapping
from typing import Any

from survey.config.code_versions import find_module
from survey.isolation import own_home

_FIRST_PARAMETER = re.compile(r"Parameters\n-+\n\S+ *:(?P<type>.*(?:\n[ \t]+.*)?)")
_MODEL = re.compile(r"\b(\w*Model|ModelContainer|ModelLibrary)\b")
_LEVEL_3 = ("Image3Pipeline", "Spec3Pipeline", "Tso3Pipeline", "Coron3Pipeline", "Ami3Pipeline")


class ProbeError(Exception):
    """A name that is no Step, pipeline or function; the message says why."""


def probe(name: str) -> dict[str, Any]:
    """What there is to know about a Step, pipeline or function, given as 'module:Class' or 'package.Class'.

    Raises
    ------
    ProbeError
    """
    module_name, dot, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    if not dot:
        raise ProbeError(f"{name!r} names no module; write 'package.module:Class'")
    top = module_name.partition(".")[0]
    if find_module(top) is None:
        raise ProbeError(f"package {top!r} is not installed")
    found = getattr(_import(module_name), attribute, None)
    if found is None:
        known = ", ".join(_steps_of(sys.modules[module_name])) or "none"
        raise ProbeError(f"module {module_name!r} has no {attribute!r}; its Steps: {known}")
    if isinstance(found, types.FunctionType):
        return {"kind": "function", "path": f"{found.__module__}:{found.__qualname__}"}
    return _facts(name, found)


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ProbeError(f"importing {name!r} failed: {type(error).__name__}: {error}") from error


def _steps_of(module: types.ModuleType) -> list[str]:
    from stpipe import Step

    return [name for name, item in vars(module).items() if inspect.isclass(item) and issubclass(item, Step)][:12]


def _facts(name: str, found: Any) -> dict[str, Any]:
    """What there is to know about a class."""
    from stpipe import Pipeline, Step

    if not isinstance(found, type):
        raise ProbeError(f"{name!r} is of type {type(found).__name__}; expected a subclass of stpipe.Step")
    if not issubclass(found, Step):
        raise ProbeError(f"class {name!r} is no subclass of stpipe.Step")
    step: Any = found
    if step.process is Step.process:
        raise ProbeError(f"class {name!r} has no method 'process'")
    try:
        spec = spec_of(step)
        _check_spec(spec)
    except Exception as error:
        raise ProbeError(f"the spec of {name!r} cannot be read: {type(error).__name__}: {error}") from error
    is_pipeline = issubclass(step, Pipeline)
    ancestors = [_path(item) for item in step.__mro__]
    return {
        "kind": "pipeline" if is_pipeline else "step",
        "path": _path(step),
        "alias": step.class_alias,
        "ancestors": ancestors,
        "models": _models(step),
        "level": 3 if _is_of_level_3(ancestors) else 0,
        "hooks": sorted(_own_hooks(step)) if is_pipeline else [],
        "spec": spec,
    }


def spec_of(found: Any) -> dict[str, Any]:
    """Parameters, reference types and steps of a Step class, as in `survey.config.pipeline_spec.StepSpec`."""
    checks = found.load_spec_file()
    steps = getattr(found, "step_defs", {})
    references = () if isinstance(found.reference_file_types, property) else found.reference_file_types  # a pipeline's
    return {
        "path": _path(found),
        "alias": found.class_alias,
        "parameters": {key: str(checks[key]) for key in checks.scalars},
        "reference_types": list(references),
        "pars_type": found.get_config_reftype(),
        "steps": {key: spec_of(step) for key, step in steps.items()},
    }


def _check_spec(spec: Mapping[str, Any]) -> None:
    """Check that the checks of a spec can be read, and that defaults pass them.

    Raises
    ------
    ValueError
    """
    from configobj.validate import ValidateError, Validator, VdtMissingValue

    own = ("input_file", "output_file", "is_datamodel", "is_string_or_datamodel")  # of stpipe
    validator = Validator({name: lambda value, *_, **__: value for name in own})
    for name, check in spec["parameters"].items():
        try:
            validator.check(check, None, missing=True)
        except VdtMissingValue:
            continue  # it has no default
        except ValidateError as error:
            raise ValueError(f"{name} = {check}: {error}") from error
    for below in spec["steps"].values():
        _check_spec(below)


def _path(found: Any) -> str:
    return f"{found.__module__}:{found.__qualname__}"


def _models(found: Any) -> list[str]:
    """Data models that a Step's documentation names as its input: ['RampModel']; [] when it names none."""
    match = _FIRST_PARAMETER.search(inspect.getdoc(found.process) or "")
    return sorted(set(_MODEL.findall(match["type"]))) if match is not None else []


def _is_of_level_3(ancestors: Iterable[str]) -> bool:
    """Whether a class is, or derives from, a step of the pipelines that combine exposures."""
    of_jwst = {path for path in ancestors if path.startswith("jwst.") and not path.startswith("jwst.stpipe.")}
    if not of_jwst:
        return False
    import jwst.pipeline

    pipelines = (getattr(jwst.pipeline, name, None) for name in _LEVEL_3)
    return any(_path(step) in of_jwst for cls in pipelines if cls is not None for step in cls.step_defs.values())


def _own_hooks(pipeline: Any) -> set[str]:
    """Steps that a pipeline class adds as hooks by itself."""
    with contextlib.suppress(Exception):
        made = pipeline()
        steps = [made, *(getattr(made, name, None) for name in pipeline.step_defs)]
        kinds = ("_pre_hooks", "_post_hooks")
        return {_path(type(hook)) for step in steps for kind in kinds for hook in getattr(step, kind, ())}
    return set()


def listed(entry_point: str) -> list[list[Any]]:
    """What the function of an entry point 'module:function' lists: class name, alias, whether it is a pipeline."""
    module_name, _, function = entry_point.partition(":")
    try:
        return [list(item) for item in getattr(_import(module_name), function)()]
    except ProbeError:
        raise
    except Exception as error:
        raise ProbeError(f"{entry_point} failed: {type(error).__name__}: {error}") from error


def _answers(names: Iterable[str], ask: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = ask(name)
        except ProbeError as error:
            found[name] = {"error": str(error)}
    return found


def main() -> None:
    """Answer the request on standard input. What imports print goes to standard error."""
    request: Mapping[str, list[str]] = json.loads(sys.stdin.read())
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="survey-home-") as home:
        own_home(home)
        found = {"steps": _answers(request["steps"], probe), "entry_points": _answers(request["entry_points"], listed)}
    with answer:
        json.dump(found, answer)


if __name__ == "__main__":
    main()
    os._exit(0)  # what a package left running must not keep this process
