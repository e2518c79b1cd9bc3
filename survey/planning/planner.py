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
from survey.digest import digest
from survey.errors import ConfigError, ReferencesError
from survey.models import Association, CatalogFile, Exposure, Plan, Task
from survey.mosaics.layouts import Layout
from survey.mosaics.predictions import predict
from survey.names import FIRST_PASS, association_id, final_name, first_pass_name, is_first_pass
from survey.nircam import native_scale_arcsec
from survey.planning.grids import given_grid
from survey.planning.memory import Memory
from survey.planning.mosaic_list import group_name, in_order, mosaics_of, reference_of
from survey.planning.passes import PlannedMosaic, association_of_first_pass, needed_by, of_first_pass, planned_mosaic
from survey.planning.recipe import Recipe, recipe_of
from survey.planning.stock import StockMosaic
from survey.planning.tiled import TiledMosaic, group_numbers
from survey.steps.base import Step
from survey.steps.image3 import files
from survey.steps.registry import GIVEN, REGISTRY, mosaic_steps, row_for, row_of
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
    def _with_packages(self) -> dict[str, dict[str, str]]:
        """Step that runs other people's code -> versions, with those of its packages."""
        return {name: self.versions | dict(more) for name, more in self.recipe.packages.items()}

    @cached_property
    def _types(self) -> dict[tuple[str, tuple[str, ...]], tuple[str, ...]]:
        """Step and the parameter files that CRDS has for it -> reference types in use."""
        return {}

    def exposure_tasks(self, exposure: Exposure) -> list[Task]:
        """The chain of one exposure, from its raw file to what the mosaics take; of two passes, what both share."""
        tasks: list[Task] = []
        for name, settings in self.recipe.shared_chain.items():
            step = row_for(name, settings)
            tasks.append(self._exposure_task(step, exposure, settings, tasks[-1:], file=f"raw/{exposure.file}"))
        ends = self.recipe.makes_mosaics and not self.recipe.mask_step
        return [*tasks, *self._engine_tasks(exposure, tasks[-1])] if ends else tasks

    def first_pass_tasks(self, exposure: Exposure, shared: Sequence[Task]) -> list[Task]:
        """The chain of an exposure in the first pass, after the tasks that both passes share."""
        named, tasks = of_first_pass(exposure), [shared[-1]]
        for name, settings in self.recipe.second_chain.items():
            if not row_for(name, settings).masks:
                tasks.append(self._exposure_task(row_for(name, settings), named, settings, tasks[-1:]))
        return [*tasks[1:], *self._engine_tasks(named, tasks[-1])]

    def second_pass_tasks(
        self, exposure: Exposure, shared: Sequence[Task], first: Sequence[PlannedMosaic]
    ) -> list[Task]:
        """The chain of an exposure in the second pass, after the tasks that both passes share.

        Parameters
        ----------
        exposure : by its own name
        shared : tasks of the steps before the source mask
        first : the mosaics of the first pass that its mask depends on, first the one in which it is aligned
        """
        mask = self._mask_task(exposure, first)
        tasks = [shared[-1]]
        for name, settings in self.recipe.second_chain.items():
            row = row_for(name, settings)
            if not row.masks:
                before = [tasks[-1], mask] if row.takes_mask else tasks[-1:]
                tasks.append(self._exposure_task(row, exposure, settings, before))
        return [mask, *tasks[1:], *self._engine_tasks(exposure, tasks[-1])]

    def _mask_task(self, exposure: Exposure, first: Sequence[PlannedMosaic]) -> Task:
        """The task that makes the source mask of an exposure from the tiles that it can overlap."""
        row, own = REGISTRY[self.recipe.mask_step], first[0]
        acid = association_id(own.association.product)
        reads = [files.WCS.path(files.member_subject(first_pass_name(exposure.name), acid))]
        inputs, products = [own.align], []
        for mosaic in first:
            tiles = mosaic.near(exposure, self.config.mosaic.tile)
            if tiles:
                product = mosaic.association.product
                inputs += [task for task in (mosaic.align, *tiles) if task not in inputs]
                reads += [files.GRID.path(product), *(files.DETECTED.path(task.subject) for task in tiles)]
                products.append(product)
        return self._exposure_task(row, exposure, {"mosaics": products, "acid": acid}, inputs, reads=reads)

    def given_tasks(self, exposure: Exposure) -> list[Task]:
        """The chain of a calibrated file from outside the workspace; ``exposure.uri`` is its path."""
        given = self._exposure_task(GIVEN, exposure, {}, [], file=exposure.uri)
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
        self,
        step: Step,
        exposure: Exposure,
        settings: Mapping[str, Any],
        before: Sequence[Task],
        *,
        file: str = "",
        reads: Sequence[str] = (),
    ) -> Task:
        """A task on the products of the tasks before it, or, for the first of a chain, on a file.

        ``reads`` as in `Task.reads`.
        """
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
            reads=tuple(reads),
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
        catalog = self._catalog(final_name(association.product), [final_name(name) for name in present])
        if self.config.mosaic.engine == "stock":
            stock = StockMosaic(*pars, self._finish, catalog)
            asn = stock.associate(list(cals.values()))
            return [asn, *stock.tasks(asn, list(cals.values()))], []
        tiled = TiledMosaic(*pars, self._finish, catalog, detection=self._detection(association))
        asn = tiled.associate(list(cals.values()))
        align = tiled.align(asn, [chains[name][-1] for name in present], reference)
        if layout is not None and [member.name for member in layout.members] != present:
            layout = None
        if layout is not None and (not align.digest or layout.digest != align.digest):
            # Of an earlier alignment: the best guess at the next one's, unless the config now asks for another grid.
            layout = replace(layout, digest="") if self._is_on_this_grid(layout) else None
        if layout is None:
            layout = self._predict(list(members.values()), association.group_ids)
        if layout is None or self._is_aligned_only(association):
            return [asn, align], []
        return [asn, align], tiled.pixels(layout, asn, align, cals)

    def _detection(self, association: Association) -> dict[str, Any] | None:
        """Parameters of the search for sources in a mosaic of a first pass; None for any other mosaic."""
        if not is_first_pass(association.product):
            return None
        given = self.recipe.chain[self.recipe.mask_step]
        return {name: value for name, value in given.items() if name != "filters"}

    def _is_aligned_only(self, association: Association) -> bool:
        """Whether a mosaic of a first pass is made only to align its exposures: no mask is made from it."""
        wanted = self.recipe.mask_filters
        return is_first_pass(association.product) and bool(wanted) and association.filter not in wanted

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
        digests |= {path: self.overrides.get(path, "") for path in row_of(task).parameter_files(task.settings)}
        found, unknown = self._references_of(task, final_name(exposure))
        sha1 = {} if self.references is None else {name: self.references.files[name] for name in found.values()}
        pending = next((f"{name} is not there yet" for name, value in digests.items() if not value), "") or unknown
        task = replace(
            task,
            first_pass=FIRST_PASS in task.subject,
            digests=digests,
            references=found,
            sha1=sha1,
            versions=self._with_packages.get(task.step, self.versions),
            context=self.config.references.context,
            unknown=pending,
            memory_gb=self.memory.corrected(task),
            estimate_gb=task.memory_gb,
        )
        return task if pending else replace(task, digest=task_digest(task))

    def _references_of(self, task: Task, exposure: str) -> tuple[dict[str, str], str]:
        row = row_of(task)
        if not row.step_class:
            return {}, ""
        if self.references is None:
            return {}, "references were not looked up yet"
        try:
            pars = tuple(self.references.for_step(exposure, row.pars_types(task.settings)))
            # All tasks of a step have one set of settings; only the parameter files may differ between exposures.
            key = (task.step, pars)
            if key not in self._types:
                self._types[key] = row.reference_types(task.settings, pars)
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
    usable = [exposure for exposure in exposures if not exposure.fault]
    for exposure in usable:
        chains[exposure.name] = planner.exposure_tasks(exposure)
        tasks += chains[exposure.name]
    associations = mosaics_of(config, exposures)
    wanted = config.mosaic.align_to
    if wanted is not None and associations and all(item.filter != wanted for item in associations):
        there = ", ".join(sorted({item.filter for item in associations}))
        raise ConfigError(f"mosaic.align_to: there is no exposure of {wanted}; there are {there}.")
    first: tuple[Association, ...] = ()
    if planner.recipe.mask_step:
        first = tuple(association_of_first_pass(item, group_name(item)) for item in associations)
        named = [of_first_pass(exposure) for exposure in usable]
        early = {
            new.name: planner.first_pass_tasks(old, chains[old.name]) for old, new in zip(usable, named, strict=True)
        }
        tasks += [task for chain in early.values() for task in chain]
        made = _mosaics(planner, first, early, named, layouts or {})
        tasks += [task for found in made.values() for task in found.tasks]
        for exposure in usable:
            needed = needed_by(exposure, first, planner.recipe.mask_filters)
            late = planner.second_pass_tasks(exposure, chains[exposure.name], [made[item.product] for item in needed])
            tasks += late
            chains[exposure.name] += late
    for found in _mosaics(planner, associations, chains, exposures, layouts or {}).values():
        tasks += found.tasks
    return Plan(tuple(tasks), tuple(exposures), associations, config.references.context, left_out, first)


def _mosaics(
    planner: Planner,
    associations: Sequence[Association],
    chains: Mapping[str, Sequence[Task]],
    exposures: Iterable[Exposure],
    layouts: Mapping[str, Layout],
) -> dict[str, PlannedMosaic]:
    """The tasks of mosaics by product, those that others are aligned to first."""
    by_name = {exposure.name: exposure for exposure in exposures}
    found: dict[str, PlannedMosaic] = {}
    for association in in_order(planner.config, associations):
        wanted = reference_of(planner.config, association, associations)
        reference = found[wanted].align if wanted in found else None
        layout = layouts.get(association.product)
        first, rest = planner.mosaic_tasks(association, chains, by_name, association.lost, layout, reference)
        found[association.product] = planned_mosaic(association, [*first, *rest], first[-1], layout)
    return found


def _cal(chain: Sequence[Task]) -> Task:
    """The task of a chain that makes what an association is made of."""
    return next(task for task in reversed(chain) if row_of(task).makes_members)


def task_digest(task: Task) -> str:
    """The digest of a task: everything that its pixels depend on."""
    return digest(
        {
            "step": task.step,
            "version": row_of(task).version,
            "subject": task.subject,
            "settings": dict(task.settings),
            "inputs": dict(task.digests),
            "versions": dict(task.versions),
            "references": {kind: task.sha1[name] for kind, name in task.references.items()},
            "missing": list(task.missing),
        }
    )
