"""Hooks of the pipeline's steps: other Steps or functions that run before or after one (`pre_hooks`, `post_hooks`).

A hook is written as stpipe does, or with parameters as a mapping:

    post_hooks: ["snowblind.JumpPlusStep", "snowblind.SnowblindStep(growth_factor=1.5)"]
    post_hooks: [{snowblind.SnowblindStep: {growth_factor: 1.5}}]

In the settings of a task every hook is 'package.module:Class', or {'package.module:Class': parameters}.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from survey.config.pipeline_spec import StepSpec, check_settings, types_in_use
from survey.config.probes import Probe, probe
from survey.messages import shown

HOOKS = ("pre_hooks", "post_hooks")
_WRITTEN = re.compile(r"\s*(?P<name>[^\s()]+)\s*(?:\((?P<parameters>.*)\))?\s*", re.DOTALL)
# Set for a hook by the step that it belongs to.
_OF_THE_STEP = frozenset({"save_results", "skip"})


def parse_hook(entry: Any) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a hook.

    Raises
    ------
    ValueError
        It is written in another way.
    """
    expected = "expected a Step or function such as 'snowblind.JumpPlusStep'"
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, parameters = next(iter(entry.items()))
        if not isinstance(parameters, Mapping | None):
            raise ValueError(f"{shown(entry)}: expected a mapping of parameters, found {shown(parameters)}.")
        return str(name), {str(key): value for key, value in (parameters or {}).items()}
    if not isinstance(entry, str):
        raise ValueError(f"{shown(entry)}: {expected}.")
    match = _WRITTEN.fullmatch(entry)
    if match is None:
        raise ValueError(f"{shown(entry)}: {expected}; a command of the shell cannot be a hook.")
    return match["name"], _keywords(entry, match["parameters"] or "")


def _keywords(entry: str, text: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"dict({text}\n)", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(item.arg is None for item in call.keywords):
            raise ValueError
        return {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{shown(entry)}: expected parameters as in 'Step(name=1.5)'.") from error


def hooks_in(settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Class or function and parameters of every hook in the settings of a task, at any depth."""
    for name, value in settings.items():
        if name in HOOKS and isinstance(value, list | tuple):
            for entry in value:
                yield parse_hook(entry)
        elif isinstance(value, Mapping):
            yield from hooks_in(value)


def written_hooks(settings: Mapping[str, Any]) -> list[str]:
    """Names of the hooks in settings as a user wrote them, at any depth; those that cannot be read are left out."""
    found = []
    for name, value in settings.items():
        if name in HOOKS:
            for entry in value if isinstance(value, list | tuple) else [value]:
                try:
                    found.append(parse_hook(entry)[0])
                except ValueError:
                    continue
        elif isinstance(value, Mapping):
            found += written_hooks(value)
    return found


def check_hooks(value: Any, where: str, *, single: bool = True) -> tuple[list[Any], list[str]]:
    """Check the value of `pre_hooks` or `post_hooks`.

    Parameters
    ----------
    value : a hook or a list of them; None: no hooks
    where : key that messages start with, such as "steps.detector1.jump.post_hooks"
    single : the step that they belong to works on one exposure

    Returns
    -------
    hooks : as in the settings of a task
    faults : messages; empty if all hooks can be used
    """
    hooks: list[Any] = []
    faults: list[str] = []
    for entry in value if isinstance(value, list | tuple) else [] if value is None else [value]:
        try:
            name, parameters = parse_hook(entry)
            found = probe(name)
        except (ValueError, LookupError) as error:
            faults.append(f"{where}: {error}")
            continue
        clean, wrong = _check_parameters(found, parameters, where, single)
        faults += wrong
        hooks.append({found.path: clean} if clean else found.path)
    return hooks, faults


def _check_parameters(
    found: Probe, parameters: Mapping[str, Any], where: str, single: bool
) -> tuple[dict[str, Any], list[str]]:
    """Parameters of a hook as the class sees them, and what is wrong with it."""
    if found.spec is None:
        none = [f"{where}: function {found.path} takes no parameters, found {shown(dict(parameters))}."]
        return {}, none if parameters else []
    if found.kind == "pipeline":
        return {}, [f"{where}: {found.path} is a pipeline; a hook is a Step or a function."]
    if single and found.needs_association:
        return {}, [
            f"{where}: {found.path} works on an association of exposures; this step has one exposure. Use it as a "
            "hook of a step of mosaic.image3 with 'engine: stock'."
        ]
    faults = [f"{where}: {name!r} of a hook is set by the step that it belongs to; remove it."
              for name in sorted(_OF_THE_STEP & set(parameters))]  # fmt: skip
    clean, wrong = check_settings(found.spec, parameters, f"{where}.{found.spec.class_name}", inside=True)
    return clean, [*faults, *wrong]


def hook_types(settings: Mapping[str, Any]) -> set[str]:
    """Reference types that the hooks in the settings of a task can read. stpipe gives hooks no parameter files."""
    types: set[str] = set()
    for path, parameters in hooks_in(settings):
        types |= _types_of(probe(path).spec, parameters)
    return types


def own_hook_types(found: Probe) -> set[str]:
    """Reference types of the hooks that a pipeline class adds by itself."""
    types: set[str] = set()
    for path in found.hooks:
        types |= _types_of(probe(path).spec, {})
    return types


def _types_of(spec: StepSpec | None, parameters: Mapping[str, Any]) -> set[str]:
    return set() if spec is None else set(types_in_use(spec, parameters)) - set(spec.pars_types)
