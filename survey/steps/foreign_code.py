"""Run code of other packages inside of a task: load their classes, add their hooks, check what they return."""

from __future__ import annotations

import errno
import importlib
import inspect
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from survey.config.hooks import HOOKS, hooks_in, parse_hook
from survey.errors import TaskError
from survey.steps.base import CLASS, PIPELINE

_SKIPPED = "SKIPPED"
# Of an OSError that says what is wrong with a file, and not with the machine.
_FILE_ERRORS = (None, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


def load(path: str) -> Any:
    """The class or function 'module:Class'."""
    module_name, _, name = path.partition(":")
    return getattr(importlib.import_module(module_name), name)


def path_of(cls: Any) -> str:
    """'module:Class' of a class or function."""
    return f"{cls.__module__}:{cls.__qualname__}"


def without_hooks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters among the settings of a task, at any depth: without hooks, and without what names its class."""
    return {
        name: without_hooks(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in (*HOOKS, CLASS, PIPELINE)
    }


def add_hooks(config: Any, settings: Mapping[str, Any], steps: Container[str]) -> None:
    """Put the hooks of a task's settings into the config of a Step or pipeline.

    Parameters
    ----------
    config : ConfigObj, changed in place
    settings : of the task
    steps : names of the steps of the pipeline
    """
    for name in HOOKS:
        if settings.get(name):
            config[name] = [_hook(entry) for entry in settings[name]]
    for name, below in settings.items():
        if name in steps and isinstance(below, Mapping) and any(hooks_in(below)):
            section = config.setdefault("steps", {}).setdefault(name, {})
            add_hooks(section, below, ())


def _hook(entry: Any) -> Any:
    """A hook as stpipe takes it: a name; a class, for a Step with parameters.

    stpipe itself takes parameters in the name, but not those with a dot, such as 1.5.
    """
    path, parameters = parse_hook(entry)
    if not parameters:
        return path.replace(":", ".")
    cls = load(path)

    def start(self: Any, name: Any = None, parent: Any = None, **keywords: Any) -> None:
        cls.__init__(self, name, parent=parent, **{**keywords, **parameters})

    return type(cls.__name__, (cls,), {"__init__": start, "__module__": cls.__module__, "__doc__": cls.__doc__})


def check_result(instance: Any, result: Any) -> None:
    """Reject what a Step of another package returned, unless it is one data model.

    Raises
    ------
    TaskError
        Of class 'never': nothing, a list, another type, or an image that the Step skipped.
    """
    from stpipe.datamodel import AbstractDataModel

    name = path_of(type(instance))
    if result is None:
        raise TaskError(f"{name} returned nothing; expected the corrected image. A Step has to return its result.")
    if isinstance(result, list | tuple):
        raise TaskError(f"{name} returned a list of {len(result)}; expected one image.")
    if not isinstance(result, AbstractDataModel):
        raise TaskError(f"{name} returned {type(result).__name__}; expected a data model, the corrected image.")
    status = getattr(getattr(result.meta, "cal_step", None), instance.class_alias or "", None)
    if instance.skip or status == _SKIPPED:
        raise TaskError(
            f"{name} skipped this exposure and says why in its log; remove it from 'steps', or change its parameters."
        )


def hook_at_fault(error: BaseException) -> str:
    """Which hook raised an exception, from its traceback: 'post_hooks of JumpStep: module:Class'; '' for none."""
    trace = error.__traceback__
    while trace is not None:
        caller, trace = trace.tb_frame, trace.tb_next
        if trace is None or caller.f_code.co_name != "run":
            continue
        for kind in ("pre_hook", "post_hook"):
            hook = caller.f_locals.get(kind)
            if hook is not None and trace.tb_frame.f_locals.get("self") is hook:
                return f"{kind}s of {type(caller.f_locals['self']).__name__}: {_named(hook)}"
    return ""


def _named(hook: Any) -> str:
    function = getattr(hook, "_func", None)  # stpipe wraps a function in a Step
    return path_of(function) if inspect.isfunction(function) else path_of(type(hook))


def is_about_a_file(error: OSError) -> bool:
    """Whether another try would fail alike."""
    return error.errno in _FILE_ERRORS


def new_files(folder: Path) -> list[str]:
    """Files below a folder, by their relative names, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
