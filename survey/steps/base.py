"""What a step is: its row in the registry, the job that a child process gets, and what it hands back."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from survey.config.pipeline_spec import StepSpec, check_settings, read_spec, types_in_use, with_files
from survey.config.values import expand
from survey.errors import TaskError
from survey.messages import shown, unquoted
from survey.models import Exposure
from survey.mosaics.grid import Box, Tile
from survey.steps.costs import Cost, Formula, small, work_on

MEMBER = "cal"  # suffix of the exposures that an association lists


@dataclass(frozen=True)
class Job:
    """One task as a child process gets it: paths and settings, no arrays."""

    key: str
    step: str
    subject: str
    digest: str
    survey: str
    inputs: tuple[str, ...]  # absolute paths of the products that the task's inputs made, in the task's order
    folder: str  # an empty folder of its own; what stays in `products` is published, the rest is removed
    settings: Mapping[str, Any]
    references: Mapping[str, str] = field(default_factory=dict)  # reference type -> file name, as planned
    context: str = ""
    missing: tuple[str, ...] = ()
    root: str = ""  # of the workspace
    run: str = ""  # name of the run that holds the workspace
    mosaic: str = ""  # as the task's
    tile: Tile | None = None  # as the task's

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """A job from its JSON, as `asdict` makes it."""
        tile = data["tile"]
        lists = {name: tuple(data[name]) for name in ("inputs", "missing")}
        return cls(**{**data, **lists, "tile": tile and Tile(tile["ix"], tile["iy"], Box(**tile["box"]))})

    @property
    def own_tile(self) -> Tile:
        """The tile of a job whose unit is a tile.

        Raises
        ------
        TaskError
            It has none.
        """
        if self.tile is None:
            raise TaskError(f"{self.key}: the task has no tile.")
        return self.tile

    @property
    def path(self) -> Path:
        return Path(self.folder)


@dataclass(frozen=True)
class Outcome:
    """What a step made: files or folders inside the job's folder, and where they belong in the workspace."""

    # (path inside the job's folder, path inside the workspace); a symbolic link is published and not recorded
    products: tuple[tuple[str, str], ...]
    resolved: Mapping[str, Any] = field(default_factory=dict)  # every parameter as the pipeline ran it
    measurements: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)  # processor and libraries: see `survey.isolation.machine`
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that may change last bits of pixels


class Unit(StrEnum):
    """What one task of a step works on."""

    EXPOSURE = "exposure"
    GROUP = "group"  # exposures of one moment, by several detectors
    TILE = "tile"
    MOSAIC = "mosaic"


@dataclass(frozen=True)
class Step:
    """A row of the registry: everything that the rest of the package needs to know of a step.

    ``run`` names the function that a child process calls, 'module:function', so that a plan imports neither it nor the
    pipeline. ``step_class`` names the stpipe class whose parameters the config may set, ``parts`` the steps of
    a pipeline class that are run here, when they are not all.
    """

    name: str
    version: int  # bump it when a change of this project's code changes the step's pixels
    unit: Unit
    accepts: str  # suffix of the product it reads
    produces: str  # suffix of the product it makes
    folder: str  # of its products in the workspace
    run: str
    step_class: str = ""
    parts: tuple[str, ...] = ()  # steps of that pipeline class that it runs; (): all of them
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where they differ from the pipeline's own

    # Where its tasks belong
    chained: bool = False  # a config may list it in `steps`
    external: bool = False  # takes a file that was made elsewhere; no config plans it
    per_mosaic: bool = False  # a task belongs to one mosaic; otherwise an exposure's task serves all its mosaics
    engine: Literal["", "stock", "tiled"] = ""  # the value of `mosaic.engine` that it needs

    # What its products are
    corrects: bool = False  # the product is of the kind that it accepts: a corrected rate is a rate
    intermediate: bool = False  # the products are deleted once the mosaic is complete
    lays_out: bool = False  # the product is the layout of a mosaic
    needs_layout: bool = False  # which tasks there are follows from the layout
    commits: bool = False  # its publication makes a group of mosaics.zarr complete
    assembled_by: str = ""  # of tiles: the step that makes a mosaic of them, and reads them where they are published
    replaces: tuple[str, ...] = ()  # steps of the other engine, some of whose products have the same paths

    # What it costs
    cost: Formula = small

    # How it is shown
    advice: str = ""  # what a user can do when no worker has the memory for it
    color: str = "#6c757d"  # on the dashboard

    @property
    def makes_tiles(self) -> bool:
        """Whether its products are pixels of the mosaic, a tile of them."""
        return bool(self.assembled_by)

    @property
    def makes_members(self) -> bool:
        """Whether its product is what an association lists."""
        return self.produces == MEMBER

    @property
    def spec(self) -> StepSpec | None:
        return read_spec(self.step_class) if self.step_class else None

    def settings(self, given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
        """The settings that a task carries, and what is wrong with those given."""
        if self.spec is None:
            none = f"{self.name} takes no parameters, got"
            return {}, [f"{where}.{unquoted(name)}: {none} {shown(name)}." for name in given]
        clean, faults = check_settings(self.spec, given, where)
        try:
            return _merge(self.defaults, with_files(clean, _absolute)), faults
        except ValueError as error:
            return _merge(self.defaults, clean), [*faults, f"{where}: {error}"]

    def reference_types(self, settings: Mapping[str, Any], pars: Container[str] = ()) -> tuple[str, ...]:
        """CRDS types that a task with these settings can read; see `types_in_use`."""
        if self.spec is None:
            return ()
        if not self.parts:
            return types_in_use(self.spec, settings, pars)
        found = {f"pars-{self.spec.class_name.lower()}"}
        for name in self.parts:
            found.update(types_in_use(self.spec.steps[name], settings.get(name, {}), pars))
        return tuple(sorted(found))

    def cost_of(self, exposure: Exposure) -> Cost:
        """What a task on one exposure is predicted to take."""
        return self.cost(work_on(exposure))


def _absolute(path: str) -> str:
    """A path that a parameter names, expanded and absolute: a worker has another current folder."""
    return str(Path(expand(path)).expanduser().absolute())


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
