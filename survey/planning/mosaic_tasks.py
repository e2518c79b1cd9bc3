"""What the planners of both engines share: the tasks of one association."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from survey.config.sections import MosaicConfig
from survey.models import Association, CatalogFile, Exposure, Task
from survey.mosaics.grid import Tile
from survey.steps.costs import Work
from survey.steps.registry import ASSOCIATION, REGISTRY

Finish = Callable[..., Task]  # task, tasks of its inputs, exposure that references are looked up for[, files]


@dataclass(frozen=True)
class Draft:
    """What is particular to one task of a mosaic."""

    step: str
    subject: str
    inputs: Sequence[Task]
    settings: Mapping[str, Any] = field(default_factory=dict)
    reads: Sequence[str] = ()  # see `Task.reads`
    work: Work = field(default_factory=Work)
    tile: Tile | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class MosaicTasks:
    """Makes the tasks of one association. ``finish`` adds references and digest to a task."""

    association: Association
    config: MosaicConfig
    image3: Mapping[str, Any]  # parameters of Image3's steps
    exposures: Mapping[str, Exposure]  # the members that are available, in the association's order
    missing: tuple[str, ...]
    group: str  # of mosaics.zarr
    finish: Finish
    catalog: CatalogFile | None = None  # that tweakreg reads

    @property
    def product(self) -> str:
        return self.association.product

    def associate(self, cals: Sequence[Task]) -> Task:
        """The task of the association; ``cals``: the tasks that made its members, in its order."""
        settings = {
            "filter": self.association.filter,
            "field": self.association.field,
            "program": self.association.program,
            "members": list(self.exposures),
        }
        settings |= self._supplied()
        return self.task(Draft(ASSOCIATION.name, self.product, cals, settings, missing=self.missing))

    def _supplied(self) -> dict[str, Any]:
        """What the file of an association from outside says of its members, as far as the pipeline reads it."""
        groups = {name: value for name, value in self.association.group_ids.items() if name in self.exposures}
        catalogs = {name: list(file) for name, file in self.association.catalogs.items() if name in self.exposures}
        found = {"group_ids": groups, "catalogs": catalogs, "pool": self.association.pool}
        return {name: value for name, value in found.items() if value}

    def task(self, draft: Draft) -> Task:
        """The task of a draft, with its cost by the formula of its step."""
        row = REGISTRY[draft.step]
        cost = row.cost(draft.work)
        catalog = self.catalog if row.aligns else None
        task = Task(
            key=f"{draft.step}/{draft.subject}",
            step=draft.step,
            subject=draft.subject,
            filter=self.association.filter,
            settings=draft.settings,
            inputs=tuple(item.key for item in draft.inputs),
            files=() if catalog is None else (catalog.file,),
            reads=tuple(draft.reads),
            missing=draft.missing,
            memory_gb=cost.memory_gb,
            cpu_seconds=cost.cpu_seconds,
            disk_gb=cost.disk_gb,
            mosaic=self.product,
            tile=draft.tile,
            must_align=row.aligns and self.config.require_alignment,
        )
        first = next(iter(self.exposures), "")
        if catalog is None:
            return self.finish(task, draft.inputs, first)
        return self.finish(task, draft.inputs, first, {catalog.file: catalog.sha256})
