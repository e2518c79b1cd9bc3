"""An association from outside: its plan, and its group in mosaics.zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from survey.errors import ConfigError
from survey.models import Association, Exposure, Plan, Task, TaskRecord
from survey.mosaics.layouts import read_layout
from survey.names import is_free_name
from survey.planning.mosaic_list import group_name
from survey.planning.planner import Planner
from survey.steps.registry import row_of


def group_of(association: Association, records: Mapping[str, TaskRecord]) -> str:
    """Zarr group for an association from outside: the first of filter, filter and id, and product that no other has.

    The filter alone is a group of the config's own mosaics: a product with a free name does not get it.
    """
    taken = {
        str(item.settings.get("group"))
        for item in records.values()
        if row_of(item).commits and item.subject != association.product
    }
    whole = group_name(association)
    names = (whole,) if is_free_name(association.product) else (association.filter, whole)
    return next((name for name in names if name not in taken), association.product)


def plan_of(made: Plan, association: Association, planner: Planner, given: Sequence[Exposure]) -> Plan:
    """The plan of one association: the chains of members with raw files, the given members, and the mosaic.

    Raises
    ------
    ConfigError
        The config asks for two passes.
    """
    if planner.recipe.mask_step:
        raise ConfigError(
            f"steps.{planner.recipe.mask_step}: a mosaic of a given association is made in one pass. Remove this step."
        )
    by_name = {exposure.name: exposure for exposure in (*made.exposures, *given)}
    names = set(association.members)
    tasks = [task for task in made if not task.mosaic and task.subject in names]
    for exposure in given:
        tasks += planner.given_tasks(exposure)
    chains: dict[str, list[Task]] = {}
    for task in tasks:
        chains.setdefault(task.subject, []).append(task)
    layout = read_layout(planner.config.folders.root, association.product)
    first, rest = planner.mosaic_tasks(association, chains, by_name, (), layout)
    tasks += [*first, *rest]
    exposures = tuple(by_name[name] for name in association.members)
    return replace(made, tasks=tuple(tasks), exposures=exposures, associations=(association,))
