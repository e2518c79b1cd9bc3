"""Config + exposures -> Plan: pure, before a pixel is read, and without dask or the pipeline.

A task's digest depends on its step's name and version, its settings, the digests of its inputs, the sha256 of the raw
file, the versions of jwst, stcal and crds, and the sha1 of each reference file of the step. The name of the CRDS
context is not part of it: two contexts that give a task the same files give the same pixels, and a new context makes
again only what it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from survey.config.model import SurveyConfig
from survey.config.pipeline_spec import override_files
from survey.digest import digest
from survey.errors import ConfigError, ReferencesError
from survey.models import Association, CatalogFile, Exposure, Plan, Task
from survey.mosaics.layouts import Layout
from survey.mosaics.predictions import predict
from survey.names import association_id
from survey.nircam import native_scale_arcsec, sees
from survey.planning.associations import WHOLE_SURVEY, group
from survey.planning.grids import given_grid
from survey.planning.memory import Memory
from survey.planning.recipe import Recipe, recipe_of
from survey.planning.stock import StockMosaic
from survey.planning.tiled import TiledMosaic, group_numbers
from survey.steps.base import Step
from survey.steps.costs import image_gb, ramp_gb
from survey.steps.registry import GIVEN, REGISTRY, mosaic_steps
from survey.versions import installed_versions


class References(Protocol):
    """What a plan asks of `survey.references`."""

    @property
    def context(self) -> str: ...

    def for_step(self, exposure: str, types: Sequence[str]) -> Mapping[str, str]:
        """Reference type -> file name; ReferencesError for an exposure that was not looked up."""
        ...

    @property
    def files(self) -> Mapping[str, str]:
        """File name -> sha1."""
        ...


@dataclass(frozen=True)
class Planner:
    """Makes tasks. Holds what is the same for all of them."""

    config: SurveyConfig
    references: References | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)  # path of an override file -> sha256
    memory: Memory = field(default_factory=Memory)

    @cached_property
    def recipe(self) -> Recipe:
        return recipe_of(self.config)

    @cached_property
    def versions(self) -> dict[str, str]:
        return installed_versions()

    @cached_property
    def _types(self) -> dict[tuple[str, tuple[str, ...]], tuple[str, ...]]:
        """Step and the parameter files that CRDS has for it -> reference types in use."""
        return {}

    def exposure_tasks(self, exposure: Exposure) -> list[Task]:
        """The chain of one exposure, from its raw file to what the mosaics take."""
        tasks: list[Task] = []
        for name, settings in self.recipe.chain.items():
            tasks.append(self._exposure_task(REGISTRY[name], exposure, settings, tasks[-1:], f"raw/{exposure.file}"))
        return [*tasks, *self._engine_tasks(exposure, tasks[-1])] if self.recipe.makes_mosaics else tasks

    def given_tasks(self, exposure: Exposure) -> list[Task]:
        """The chain of a calibrated file from outside the workspace; ``exposure.uri`` is its path."""
        given = self._exposure_task(GIVEN, exposure, {}, [], exposure.uri)
        return [given, *self._engine_tasks(exposure, given)]

    def _engine_tasks(self, exposure: Exposure, cal: Task) -> list[Task]:
        """Tasks of an exposure that the engine needs, and that serve every mosaic."""
        steps = [REGISTRY[name] for name in mosaic_steps(self.config.mosaic.engine)]
        image3 = self.recipe.image3
        return [
            self._exposure_task(step, exposure, {name: image3[name] for name in step.parts if image3.get(name)}, [cal])
            for step in steps
            if not step.per_mosaic
        ]

    def _exposure_task(
        self, step: Step, exposure: Exposure, settings: Mapping[str, Any], before: Sequence[Task], file: str = ""
    ) -> Task:
        """A task on the product of the task before it, or, for the first of a chain, on a file."""
        raw = {} if before else {file: exposure.sha256 or ""}
        cost = step.cost_of(exposure)
        task = Task(
            key=f"{step.name}/{exposure.name}",
            step=step.name,
            subject=exposure.name,
            filter=exposure.filter,
            settings=settings,
            inputs=tuple(item.key for item in before),
            files=tuple(raw),
            memory_gb=cost.memory_gb,
            cpu_seconds=cost.cpu_seconds,
            disk_gb=cost.disk_gb,
        )
        return self._finish(task, before, exposure.name, raw)

    def mosaic_tasks(
        self,
        association: Association,
        chains: Mapping[str, Sequence[Task]],
        exposures: Mapping[str, Exposure],
        missing: Sequence[str] = (),
        layout: Layout | None = None,
        reference: Task | None = None,
    ) -> tuple[list[Task], list[Task]]:
        """The tasks of one mosaic, each after its inputs.

        Parameters
        ----------
        association : with all its members
        chains : the tasks of each member that is there
        exposures : by name, the members at least
        missing : names of members that are not there
        layout : of the tiled engine's alignment, once it was solved
        reference : the align task of the filter that this one aligns to

        Returns
        -------
        first, rest : the rest of a tiled mosaic can run when the first are done; without a layout it is a prediction
        """
        present = [name for name in association.members if name in chains]
        cals = {name: _cal(chains[name]) for name in present}
        members = {name: exposures[name] for name in present}
        pars = (association, self.config.mosaic, self.recipe.image3, members, tuple(missing), group_name(association))
        catalog = self._catalog(association.product, present)
        if self.config.mosaic.engine == "stock":
            stock = StockMosaic(*pars, self._finish, catalog)
            asn = stock.associate(list(cals.values()))
            return [asn, *stock.tasks(asn, list(cals.values()))], []
        tiled = TiledMosaic(*pars, self._finish, catalog)
        asn = tiled.associate(list(cals.values()))
        align = tiled.align(asn, [chains[name][-1] for name in present], reference)
        if layout is not None and [member.name for member in layout.members] != present:
            layout = None
        if layout is not None and (not align.digest or layout.digest != align.digest):
            # Of an earlier alignment: the best guess at the next one's, unless the config now asks for another grid.
            layout = replace(layout, digest="") if self._is_on_this_grid(layout) else None
        if layout is None:
            layout = self._predict(list(members.values()), association.group_ids)
        return [asn, align], tiled.pixels(layout, asn, align, cals) if layout else []

    def _catalog(self, product: str, members: Sequence[str]) -> CatalogFile | None:
        """The online catalogue to which a mosaic is aligned; positions in it are at the epoch of the first member."""
        wanted: Mapping[str, CatalogFile] = getattr(self.references, "catalogs", {}).get(product, {})
        if not wanted or not members:
            return None
        return wanted.get(members[0], CatalogFile(f"the reference catalogue for {members[0]}"))

    def _is_on_this_grid(self, layout: Layout) -> bool:
        """Whether a layout has the grid that the config gives; True when it gives none."""
        wanted = given_grid(self.recipe.image3.get("resample", {}))
        if wanted is None:
            return True
        if layout.final_wcs is None:
            return layout.final_shape == wanted.shape[::-1]
        return layout.final_wcs.is_close(wanted)

    def _predict(self, members: Sequence[Exposure], groups: Mapping[str, str]) -> Layout | None:
        if not members:
            return None
        grid = self.recipe.image3.get("resample", {})
        numbers = group_numbers([exposure.name for exposure in members], groups)
        return predict(members, numbers, grid, native_scale_arcsec(members[0].detector))

    def _finish(
        self, task: Task, inputs: Iterable[Task], exposure: str = "", raw: Mapping[str, str] | None = None
    ) -> Task:
        """Add references, versions and the digest; say what is not known yet."""
        digests = {**{item.key: item.digest for item in inputs}, **(raw or {})}
        digests |= {path: self.overrides.get(path, "") for path in override_files(task.settings)}
        found, unknown = self._references_of(task, exposure)
        sha1 = {} if self.references is None else {name: self.references.files[name] for name in found.values()}
        pending = next((f"{name} is not there yet" for name, value in digests.items() if not value), "") or unknown
        task = replace(
            task,
            digests=digests,
            references=found,
            sha1=sha1,
            versions=self.versions,
            context=self.config.references.context,
            unknown=pending,
            memory_gb=self.memory.corrected(task),
            estimate_gb=task.memory_gb,
        )
        return task if pending else replace(task, digest=task_digest(task))

    def _references_of(self, task: Task, exposure: str) -> tuple[dict[str, str], str]:
        spec = REGISTRY[task.step].spec
        if spec is None:
            return {}, ""
        if self.references is None:
            return {}, "references were not looked up yet"
        try:
            pars = tuple(self.references.for_step(exposure, spec.pars_types))
            # All tasks of a step have one set of settings; only the parameter files may differ between exposures.
            key = (task.step, pars)
            if key not in self._types:
                self._types[key] = REGISTRY[task.step].reference_types(task.settings, pars)
            found = self.references.for_step(exposure, self._types[key])
        except ReferencesError:
            return {}, f"references of {exposure} were not looked up yet"
        return dict(found), ""


def plan(
    config: SurveyConfig,
    exposures: Sequence[Exposure],
    references: References | None = None,
    overrides: Mapping[str, str] | None = None,
    layouts: Mapping[str, Layout] | None = None,
    memory: Memory | None = None,
) -> Plan:
    """List every task of a survey, each with the digest of what it would make.

    Parameters
    ----------
    config : what to reduce
    exposures : what `survey.find_exposures` found
    references : what `survey.references` looked up; without it, and for raw files that are not there, a task has no
        digest and says why in ``unknown``
    overrides : path of an override file -> its sha256
    layouts : product -> what its alignment laid out; without it, tiles are predicted from footprints
    memory : what earlier runs measured

    Raises
    ------
    ConfigError
        The steps or parameters are wrong (every fault named), or the engine is not available.
    """
    planner = Planner(config, references, overrides or {}, memory or Memory())
    left_out = tuple(exposure for exposure in exposures if exposure.excluded)
    exposures = [exposure for exposure in exposures if not exposure.excluded]
    tasks: list[Task] = []
    chains: dict[str, list[Task]] = {}
    for exposure in exposures:
        if not exposure.fault:
            chains[exposure.name] = planner.exposure_tasks(exposure)
            tasks += chains[exposure.name]
    by_name = {exposure.name: exposure for exposure in exposures}
    associations = mosaics_of(config, exposures)
    wanted = config.mosaic.align_to
    if wanted is not None and associations and all(item.filter != wanted for item in associations):
        there = ", ".join(sorted({item.filter for item in associations}))
        raise ConfigError(f"mosaic.align_to: there is no exposure of {wanted}; there are {there}.")
    aligned: dict[str, Task] = {}
    for association in in_order(config, associations):
        reference = aligned.get(reference_of(config, association, associations) or "")
        layout = (layouts or {}).get(association.product)
        first, rest = planner.mosaic_tasks(association, chains, by_name, association.lost, layout, reference)
        aligned[association.product] = first[-1]
        tasks += [*first, *rest]
    return Plan(tuple(tasks), tuple(exposures), associations, config.references.context, left_out)


def reference_of(config: SurveyConfig, association: Association, others: Iterable[Association]) -> str | None:
    """Product of the association that this one is aligned to: of the filter that the config names, and its field."""
    wanted = config.mosaic.align_to
    if config.mosaic.engine != "tiled" or wanted is None or association.filter == wanted:
        return None
    same = [item for item in others if item.filter == wanted and _are_joined(config, item, association)]
    near = [item for item in same if item.field == association.field] or same
    return near[0].product if near else None


def _are_joined(config: SurveyConfig, first: Association, second: Association) -> bool:
    """Whether two mosaics are of the same programs; those of a whole survey of several programs are."""
    return first.program == second.program or (len(config.programs) > 1 and first.field == second.field == "all")


def in_order(config: SurveyConfig, associations: Iterable[Association]) -> list[Association]:
    """Associations, those that others are aligned to first."""
    return sorted(associations, key=lambda item: item.filter != config.mosaic.align_to)


def _cal(chain: Sequence[Task]) -> Task:
    """The task of a chain that makes what an association is made of."""
    return next(task for task in reversed(chain) if REGISTRY[task.step].makes_members)


def steps_until(made: Plan, until: str | None) -> tuple[str, ...]:
    """Names of a plan's steps in order, up to ``until``; all of them when it is None. Steps after an alignment are
    among them, also when their tasks are not known yet.

    Raises
    ------
    ConfigError
        The plan has no such step.
    """
    planned = dict.fromkeys(task.step for task in made)
    engine = next((REGISTRY[name].engine for name in planned if REGISTRY[name].engine), "")
    added = mosaic_steps(engine) if engine else ()
    names = (*(name for name in planned if name not in added), *added)
    if until is None:
        return names
    if until not in names:
        raise ConfigError(f"--until {until}: the plan has no such step; its steps are {', '.join(names)}.")
    return names[: names.index(until) + 1]


def mosaics_of(config: SurveyConfig, exposures: Sequence[Exposure]) -> tuple[Association, ...]:
    """The associations that a config asks for; none when its steps end before the calibrated images."""
    if not recipe_of(config).makes_mosaics:
        return ()
    exposures = [exposure for exposure in exposures if not exposure.excluded]
    made = group([exposure for exposure in exposures if not exposure.fault], config.mosaic.per, config.programs)
    faulty = [exposure for exposure in exposures if exposure.fault]
    return tuple(replace(item, lost=_lost(config, item, faulty)) for item in made)


def _lost(config: SurveyConfig, association: Association, faulty: Iterable[Exposure]) -> tuple[str, ...]:
    """Exposures that cannot be used and would be members: by their filter, or, where that is not known, detector."""
    programs = config.programs if association.field == "all" else (association.program,)
    return tuple(
        sorted(
            exposure.name
            for exposure in faulty
            if exposure.filter in ("", association.filter)
            and sees(exposure.detector, association.filter)
            and exposure.program in {association.program, *programs}
            and association.field in ("all", f"o{exposure.observation:03d}")
        )
    )


def task_digest(task: Task) -> str:
    """The digest of a task: everything that its pixels depend on."""
    return digest(
        {
            "step": task.step,
            "version": REGISTRY[task.step].version,
            "subject": task.subject,
            "settings": dict(task.settings),
            "inputs": dict(task.digests),
            "versions": dict(task.versions),
            "references": {kind: task.sha1[name] for kind, name in task.references.items()},
            "missing": list(task.missing),
        }
    )


def group_name(association: Association) -> str:
    """Zarr group of a mosaic: its filter, and for any but the whole survey's the association's id: F444W-o001.

    An association from outside names its own.
    """
    if association.group:
        return association.group
    acid = association_id(association.product)
    return association.filter if acid == WHOLE_SURVEY else f"{association.filter}-{acid}"


def total_gb(exposures: Iterable[Exposure]) -> float:
    """What the products of these exposures will take on disk, roughly [GB]: raw, rate, cal and crf.

    A rate file holds 6 float32 planes, a cal and a crf 10 each.
    """
    return sum(ramp_gb(exposure) / 2 + 26 * image_gb(exposure) for exposure in exposures)
