"""Steps and pipelines of other packages: how a config names them, and where they can stand.

A Step that an installed package registers with stpipe, or that is named as 'package.module:Class', can stand between
Detector1 and Image2, where it gets a rate, or after Image2, where it gets a cal. It returns one image of the same
shape, which the next step takes. A pipeline can take the place of Detector1 or Image2.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from survey.config.hooks import written_hooks
from survey.config.probes import Probe, probe, probe_all
from survey.config.sections import StepConfig
from survey.config.step_names import entry_points, is_full_name, is_registered
from survey.messages import shown, unquoted
from survey.steps import costs
from survey.steps.base import CLASS, MEMBER, PIPELINE, Step, Unit

_FOLDERS = {"rate": "stage1", MEMBER: "stage2"}
_SUFFIX = re.compile(r"(?=.{1,32}$)[a-z][a-z0-9]*(?:-[a-z0-9]+)*", re.ASCII)
# Of files that the pipeline's steps write beside their product, or that are in a workspace.
_TAKEN = ("uncal", "rateints", "calints", "ramp", "jump", "i2d", "crf", "segm", "wcs", "member", "trapsfilled")
_LEVEL_2 = "jwst.pipeline.calwebb_image2:Image2Pipeline"
_STAGES = {"detector1": "jwst.pipeline.calwebb_detector1:Detector1Pipeline", "image2": _LEVEL_2}


def foreign_row(name: str, facts: Mapping[str, Any]) -> Step:
    """The row of another package's Step.

    Parameters
    ----------
    name : of the step, in task keys and file names of records
    facts : 'path' of the class, what it 'accepts' (rate or cal), and the 'suffix' of its product
    """
    accepts = str(facts["accepts"])
    return Step(
        name=name,
        version=1,
        unit=Unit.EXPOSURE,
        accepts=accepts,
        produces=str(facts["suffix"]),
        folder=_FOLDERS.get(accepts, "stage1"),
        run="survey.steps.exposure:run",
        step_class=str(facts["path"]),
        corrects=True,
        foreign=True,
        cost=costs.foreign,
    )


def names_a_step(name: str) -> bool:
    """Whether a name in a config may be that of another package's Step."""
    return is_full_name(name) or is_registered(name)


def registered_aliases() -> list[str]:
    """Aliases of the Steps that installed packages list."""
    return [item.alias for point in entry_points() for item in point.steps or () if item.alias]


def probe_names(chain: Iterable[StepConfig], own: Collection[str], image3: Mapping[str, Any]) -> None:
    """Ask about all that a config names of other packages, in one process.

    Parameters
    ----------
    chain : the config's steps
    own : names of the steps of this package
    image3 : parameters of Image3's steps
    """
    names = written_hooks(image3)
    for entry in chain:
        names += written_hooks(entry.settings)
        names += [entry.name] if entry.name not in own and names_a_step(entry.name) else []
        names += [str(entry.settings[PIPELINE])] if entry.name in _STAGES and entry.settings.get(PIPELINE) else []
    if names:
        probe_all(names)


Chain = Mapping[str, Mapping[str, Any]]  # step -> settings


def check_foreign(
    entry: StepConfig, kind: str, suffixes: Mapping[str, str], chain: Chain, own: Collection[str]
) -> tuple[Step | None, dict[str, Any], list[str]]:
    """Check an entry of the config's steps that names another package's Step.

    Parameters
    ----------
    entry : of the config
    kind : of the product that it gets: uncal, rate or cal
    suffixes : those of other steps -> name of the step
    chain : settings of the steps before it
    own : names of the steps of this package

    Returns
    -------
    row : None if the Step cannot be used
    settings : of its tasks
    faults : messages
    """
    where = f"steps.{unquoted(entry.name)}"
    try:
        found = probe(entry.name)
    except LookupError as error:
        return None, {}, [f"{where}: {error}"]
    fault = _unfit(found, kind)
    if any(settings.get(CLASS, {}).get("path") == found.path for settings in chain.values()):
        fault = f"{found.path} is in steps twice; each step runs once per exposure."
    if fault:
        return None, {}, [f"{where}: {fault}"]
    suffix, faults = _suffix(found, entry.settings.get("suffix"), suffixes)
    facts = {"path": found.path, "accepts": kind if kind in _FOLDERS else "rate", "suffix": suffix}
    row = foreign_row(_name(found, {*own, *chain}), facts)
    given = {key: value for key, value in entry.settings.items() if key != "suffix"}
    clean, wrong = row.settings(given, where)
    return row, {CLASS: facts, **clean}, [*(f"{where}: {fault}" for fault in faults), *wrong]


def check_pipeline(step: Step, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Check the pipeline class that a config names for a stage, and replace its name by 'module:Class'."""
    wanted = given.get(PIPELINE)
    if not step.replaceable or wanted is None:
        return dict(given), []
    where = f"steps.{step.name}.{PIPELINE}"
    rest = {key: value for key, value in given.items() if key != PIPELINE}
    try:
        if not isinstance(wanted, str):
            raise LookupError(f"{shown(wanted)}: expected a class, such as 'snowblind.pipeline:Detector1Pipeline'")
        found = probe(wanted)
    except LookupError as error:
        return rest, [f"{where}: {error}"]
    others = {path for path in found.ancestors if re.match(r"jwst\.pipeline\.\w+:\w+Pipeline$", path)}
    if found.kind != "pipeline" or (others and _STAGES[step.name] not in others):
        return rest, [
            f"{where}: {found.path} is no pipeline that makes a {step.produces} file of a {step.accepts} file; "
            f"expected a subclass of {_STAGES[step.name]}, or another subclass of stpipe.Pipeline that does."
        ]
    return {**rest, PIPELINE: found.path}, []


def _unfit(found: Probe, kind: str) -> str:
    """Why a class cannot be a step of an exposure; '' if it can."""
    if found.kind == "function":
        return f"{found.path} is a function; a step is a class. A function can be a hook of a step."
    if found.kind == "pipeline":
        stage = "image2" if _LEVEL_2 in found.ancestors else "detector1"
        return f"{found.path} is a pipeline, not a Step. Write '{stage}: {{pipeline: \"{found.path}\"}}'."
    if found.needs_association:
        advice = " Parameters of Image3's steps are in mosaic.image3." if found.path.startswith("jwst.") else ""
        return f"{found.path} works on an association of exposures; a step of 'steps' gets one exposure.{advice}"
    if found.needs_ramp:
        return (
            f"{found.path} works on ramps, which exist inside of detector1 only. Make it a hook of one of its steps: "
            f"'detector1: {{jump: {{post_hooks: [\"{found.path}\"]}}}}'."
        )
    if kind not in _FOLDERS:
        return f"it accepts rate or cal, got {kind}. Add 'detector1' before it in steps."
    return ""


def _name(found: Probe, names: Collection[str]) -> str:
    """A plain name for the step: its alias, or the name of its class; with its package if a step has that name."""
    module, _, class_name = found.path.partition(":")
    alias = found.alias or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name)
    name = re.sub(r"[^a-z0-9]+", "_", alias.lower()).strip("_")
    return name if name not in names else f"{module.partition('.')[0].lower()}_{name}"


def _suffix(found: Probe, given: Any, suffixes: Mapping[str, str]) -> tuple[str, list[str]]:
    """The suffix of a Step's product: the config's, the default of its spec, or its alias."""
    alias = re.sub(r"[^a-z0-9]+", "-", _name(found, ()).lower())
    if given is not None:
        if not isinstance(given, str) or not _SUFFIX.fullmatch(given):
            return alias, [f"suffix {shown(given)}: expected lower-case letters, digits and '-', such as 'mine'."]
        wanted: Sequence[str] = (given,)
    else:
        own = re.search(r"default=['\"]([^'\"]+)['\"]", found.spec.parameters.get("suffix", "") if found.spec else "")
        wanted = [text for text in (own[1] if own else "", alias) if _SUFFIX.fullmatch(text)]
    free = [suffix for suffix in wanted if suffix not in suffixes and suffix not in _TAKEN]
    if free:
        return free[0], []
    names = " and ".join(map(repr, wanted)) or repr(alias)
    owner = next((suffixes[suffix] for suffix in wanted if suffix in suffixes), "")
    used = f"step {owner!r}" if owner else "a file of the pipeline"
    return alias, [f"its product would have the suffix {names}, as {used}; give it another one with 'suffix: name'."]
