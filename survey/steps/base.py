"""The types of a step: its row in the registry, the job of a child process, and the outcome of a job."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Literal

from survey.config.hooks import check_hooks, hook_types, hooks_in, own_hook_types
from survey.config.pipeline_spec import (
    StepSpec,
    check_settings,
    override_files,
    parse_spec,
    read_spec,
    types_in_use,
    with_files,
)
from survey.config.probes import probe
from survey.config.values import expand
from survey.errors import TaskError
from survey.messages import shown, unquoted
from survey.models import Exposure, Notice
from survey.mosaics.grid import Box, Tile
from survey.steps.costs import Cost, Formula, small, work_on

MEMBER = "cal"  # suffix of the exposures that an association lists
# Settings of a task that are no parameters of a Step.
CLASS = "class"  # facts of another package's Step that is a step of its own: see `survey.steps.foreign`
PIPELINE = "pipeline"  # 'module:Class' of a pipeline that takes the place of the row's


@dataclass(frozen=True)
class Job:
    """A task as it is given to a child process: paths and settings, no arrays."""

    key: str
    step: str
    subject: str
    digest: str
    survey: str
    inputs: tuple[str, ...]  # absolute paths of the products that the task reads, in its order
    folder: str  # empty, for this job; products are moved from it, the rest is removed
    settings: Mapping[str, Any]
    references: Mapping[str, str] = field(default_factory=dict)  # reference type -> file name, as planned
    context: str = ""
    missing: tuple[str, ...] = ()
    root: str = ""  # of the workspace
    run: str = ""  # name of the run that holds the workspace
    mosaic: str = ""  # as the task's
    tile: Tile | None = None  # as the task's
    must_align: bool = False  # as the task's

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Read a job from the JSON of `dataclasses.asdict`."""
        tile = data["tile"]
        lists = {name: tuple(data[name]) for name in ("inputs", "missing")}
        return cls(**{**data, **lists, "tile": tile and Tile(tile["ix"], tile["iy"], Box(**tile["box"]))})

    @property
    def own_tile(self) -> Tile:
        """The tile of a job whose unit is a tile.

        Raises
        ------
        TaskError
            The task has none.
        """
        if self.tile is None:
            raise TaskError(f"{self.key}: the task has no tile.")
        return self.tile

    @property
    def path(self) -> Path:
        return Path(self.folder)


@dataclass(frozen=True)
class Outcome:
    """What a step made: files or folders in the folder of the job, and their places in the workspace."""

    # (path in the job's folder, path in the workspace); symbolic links are published, but not recorded
    products: tuple[tuple[str, str], ...]
    resolved: Mapping[str, Any] = field(default_factory=dict)  # every parameter, as used by the pipeline
    measurements: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)  # processor and libraries: see `survey.isolation.machine`
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that may change last bits of pixels
    notices: tuple[Notice, ...] = ()  # what steps of Image3 did not do


class Unit(StrEnum):
    """What a task of a step works on."""

    EXPOSURE = "exposure"
    GROUP = "group"  # exposures taken at the same time by several detectors
    TILE = "tile"
    MOSAIC = "mosaic"


@dataclass(frozen=True)
class Step:
    """A row of the registry: all that other packages need to know about a step.

    ``run`` is the function that a child process calls, as 'module:function', so that planning does not import it.
    ``step_class`` is the stpipe class whose parameters the config can set, and ``parts`` are the steps of a pipeline
    class that are run.
    """

    name: str
    version: int  # raise it when a change of this package changes pixels
    unit: Unit
    accepts: str  # suffix of the product it reads
    produces: str  # suffix of the product it makes
    folder: str  # of its products in the workspace
    run: str
    step_class: str = ""
    parts: tuple[str, ...] = ()  # steps of the pipeline class that it runs; (): all
    defaults: Mapping[str, Any] = field(default_factory=dict)  # that differ from those of the pipeline
    parameters: str = ""  # without a class: what the config can set, as the `spec` of a stpipe Step

    # What its tasks belong to
    chained: bool = False  # can be listed in the config's `steps`
    replaceable: bool = False  # the config can name another pipeline class for it
    foreign: bool = False  # a Step of another package
    external: bool = False  # takes a file that was made elsewhere; is not planned from a config
    per_mosaic: bool = False  # a task belongs to one mosaic; otherwise a task of an exposure serves all mosaics
    engine: Literal["", "stock", "tiled"] = ""  # value of `mosaic.engine` that it belongs to

    # What its products are
    corrects: bool = False  # the product is of the kind that it accepts, such as a corrected rate
    masks: bool = False  # the product is a source mask made from the mosaics of a first pass; steps after it read it
    takes_mask: bool = False  # its class has a parameter `mask_file`, for the path of such a mask
    first_pass: bool = False  # it makes a part of a first pass, and is not planned for other mosaics
    kept: bool = False  # its products in a first pass are kept when the others are deleted: masks are made from them
    intermediate: bool = False  # the products are deleted once the mosaic is complete
    aligns: bool = False  # runs tweakreg on all members of a mosaic
    lays_out: bool = False  # the product is the layout of a mosaic
    needs_layout: bool = False  # its tasks can be planned only from the layout
    commits: bool = False  # completes a group of mosaics.zarr
    assembled_by: str = ""  # for tiles: the step that makes a mosaic of them, and reads them from the workspace
    replaces: tuple[str, ...] = ()  # steps of the other engine, whose products can have the same paths

    # What it costs
    cost: Formula = small

    # How it is shown
    advice: str = ""  # for users without a worker that has enough memory
    color: str = "#6c757d"  # on the dashboard

    @property
    def makes_tiles(self) -> bool:
        """Whether its products are tiles of the mosaic."""
        return bool(self.assembled_by)

    @property
    def makes_members(self) -> bool:
        """Whether its product can be a member of an association."""
        return self.kind == MEMBER

    @property
    def kind(self) -> str:
        """What its product is for the next step: a corrected rate is a rate."""
        return self.accepts if self.corrects else self.produces

    def path(self, subject: str) -> str:
        """Place in the workspace of the product that the next step reads."""
        return f"{self.folder}/{subject}_{self.produces}.fits"

    @property
    def spec(self) -> StepSpec | None:
        """What the config can set: the parameters of the class, or the row's own; None: nothing."""
        if self.parameters:
            return StepSpec(f"{self.run.partition(':')[0]}:{self.name}", None, parse_spec(self.parameters))
        if self.foreign:
            return probe(self.step_class).spec
        return read_spec(self.step_class) if self.step_class else None

    def spec_for(self, settings: Mapping[str, Any]) -> StepSpec | None:
        """What the class accepts that a task with these settings runs."""
        pipeline = settings.get(PIPELINE) if self.replaceable else None
        return probe(str(pipeline)).spec if pipeline else self.spec

    def settings(self, given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
        """Settings of a task with defaults, and messages about wrong ones."""
        spec = self.spec_for(given)
        if spec is None:
            none = f"{self.name} takes no parameters, got"
            return {}, [f"{where}.{unquoted(name)}: {none} {shown(name)}." for name in given]
        chosen = {PIPELINE: given[PIPELINE]} if self.replaceable and given.get(PIPELINE) else {}
        pars = {name: value for name, value in given.items() if not (self.replaceable and name == PIPELINE)}
        clean, faults = check_settings(spec, pars, where, hooks=partial(check_hooks, single=self.unit is Unit.EXPOSURE))
        defaults = {name: value for name, value in self.defaults.items() if name in (*spec.parameters, *spec.steps)}
        try:
            return _merge(defaults, chosen | with_files(clean, _absolute)), faults
        except ValueError as error:
            return _merge(defaults, chosen | clean), [*faults, f"{where}: {error}"]

    def parameter_files(self, settings: Mapping[str, Any]) -> list[str]:
        """Paths of files that parameters of a task name; without a class, its settings are no parameters."""
        return override_files(settings) if self.step_class else []

    def reference_types(self, settings: Mapping[str, Any], pars: Container[str] = ()) -> tuple[str, ...]:
        """CRDS types that a task with these settings can read; see `types_in_use`."""
        spec = self.spec_for(settings)
        if spec is None or not self.step_class:
            return ()
        found = hook_types(settings)
        if settings.get(PIPELINE) and self.replaceable:
            found |= own_hook_types(probe(str(settings[PIPELINE])))
        if not self.parts:
            return tuple(sorted(found.union(types_in_use(spec, settings, pars))))
        found.update(spec.own_pars)
        for name in self.parts:
            found.update(types_in_use(spec.steps[name], settings.get(name, {}), pars))
        return tuple(sorted(found))

    def pars_types(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """CRDS types of the parameter files that a task with these settings can read."""
        spec = self.spec_for(settings)
        return () if spec is None else spec.pars_types

    def cost_of(self, exposure: Exposure) -> Cost:
        """Predicted cost of a task on one exposure."""
        return self.cost(work_on(exposure))


def code_in(settings: Mapping[str, Any]) -> list[str]:
    """Modules of other packages that a task with these settings runs."""
    facts = settings.get(CLASS)
    paths = [facts["path"] if isinstance(facts, Mapping) else "", settings.get(PIPELINE) or ""]
    paths += [path for path, _ in hooks_in(settings)]
    return sorted({str(path).partition(":")[0] for path in paths if path})


def _absolute(path: str) -> str:
    """Expand a path in a parameter and make it absolute, since workers have other current folders."""
    return str(Path(expand(path)).expanduser().absolute())


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
