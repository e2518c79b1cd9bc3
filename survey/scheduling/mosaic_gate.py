"""Decide when the tasks of each mosaic can be submitted, and when the mosaic is not made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from survey.execution.failures import skip_reason
from survey.models import COMPLETE, Association, Plan, Task, TaskRecord
from survey.mosaics.layouts import Layout, read_layout
from survey.names import first_pass_name, is_first_pass
from survey.planning.mosaic_list import reference_of
from survey.planning.passes import PlannedMosaic, needed_by, of_first_pass, planned_mosaic
from survey.planning.planner import Planner
from survey.planning.selection import is_selected
from survey.steps.alignment import refusal_of
from survey.steps.registry import LAST_OF_FIRST_PASS, row_named, row_of

MAX_NAMES = 5  # of missing members in a message


@dataclass(frozen=True)
class Ready:
    """Tasks that can be submitted or, when there is an error, are to be recorded as skipped."""

    tasks: tuple[Task, ...]  # each after its inputs
    product: str = ""  # of the mosaic that they belong to; '': of an exposure
    error: str = ""  # why they are not run
    layout_known: bool = False  # they are all that the mosaic will have after its alignment
    keeps_done: bool = False  # those that an earlier run completed are not recorded as skipped


@dataclass(frozen=True)
class _Started:
    """A mosaic whose first half is submitted."""

    association: Association
    chains: Mapping[str, Sequence[Task]]  # of the members that are complete
    missing: tuple[str, ...]
    align: Task
    reference: Task | None  # the align task of the mosaic that this one is aligned to


class MosaicGate:
    """The mosaics of a plan, and what each waits for.

    1. A mosaic waits until every member is decided: its exposure's last task is complete, failed or skipped. When
       more members are missing than ``mosaic.max_missing`` allows, its tasks are skipped.
    2. With ``mosaic.align_to``, a mosaic of another filter then waits for the alignment of the mosaic that it is
       aligned to. When that failed, it goes on, and its own alignment is skipped.
    3. The first half is the association and, with the tiled engine, the alignment. The stock engine has no other half.
    4. The second half depends on the layout that the alignment writes, so its tasks are planned only then.

    In two passes an exposure's tasks from the source mask on wait until the tasks of the mosaics of the first pass that
    the mask depends on are known: they are planned then. When such a mosaic is not made, they are skipped.

    Tell it of each decided task with `ready_after`, which returns what can go on. It submits nothing itself.

    Parameters
    ----------
    plan, planner : the planner makes a mosaic's tasks for the members that are there
    chains : tasks of each exposure by its name, in order
    steps : names of the steps that are run
    root : the workspace, in which alignments leave their layouts
    """

    def __init__(
        self, plan: Plan, planner: Planner, chains: Mapping[str, Sequence[Task]], steps: Sequence[str], root: Path
    ):
        self.submitted: dict[str, list[Task]] = {}  # product -> the tasks that were let through, to be run
        self._plan = plan
        self._planner = planner
        self._chains = chains
        self._steps = frozenset(steps)
        self._root = root
        self._exposures = {exposure.name: exposure for exposure in plan.exposures}
        self._exposures |= {item.name: item for item in map(of_first_pass, plan.exposures) if plan.first_pass}
        self._first: dict[str, PlannedMosaic] = {}  # mosaics of the first pass whose tasks are known or skipped
        self._masked: dict[str, list[str]] = {}  # exposure -> the mosaics of the first pass that its mask depends on
        self._lost: set[str] = set()  # exposures that failed or were skipped
        self._undecided: dict[str, set[str]] = {}  # product -> members
        self._members: dict[str, str] = {}  # key of an exposure's last task -> the exposure
        self._products: dict[str, list[Association]] = {}  # exposure -> the mosaics that it is a member of
        self._aligning: dict[str, _Started] = {}  # key of an align task -> its mosaic
        self._aligned: dict[str, Task] = {}  # product -> its align task, once that is decided
        self._held: dict[str, list[Association]] = {}  # product -> mosaics that wait for its alignment
        if any(row_named(name).per_mosaic and not row_named(name).first_pass for name in steps):
            for association in plan.associations:
                self._wait_for_members(association)
        if LAST_OF_FIRST_PASS in self._steps:
            for association in plan.first_pass:
                self._wait_for_members(association)
        filters = planner.recipe.mask_filters
        for name, chain in chains.items() if plan.first_pass else ():
            if any(row_of(task).masks for task in chain):
                needed = needed_by(self._exposures[name], plan.first_pass, filters)
                self._masked[name] = [association.product for association in needed]

    def ready_at_start(self) -> list[Ready]:
        """The tasks of exposures that wait for no mosaic."""
        return [Ready(tuple(self._before_mask(chain))) for chain in self._chains.values()]

    @property
    def seen(self) -> Iterator[Task]:
        """The tasks that were let through, as they were planned last."""
        yield from (task for chain in self._chains.values() for task in chain)
        yield from (task for tasks in self.submitted.values() for task in tasks)

    def ready_after(self, record: TaskRecord) -> list[Ready]:
        """What can go on, now that a task is decided."""
        ready: list[Ready] = []
        can_start = deque(self._with_all_members(record))
        started = self._aligning.pop(record.key, None)
        if started is not None:
            ready.append(self._second_half(started, record))
            ready += self._second_pass(started.association.product)
            can_start.extend(self._release(started.association.product, started.align))
        while can_start:
            association = can_start.popleft()
            others = self._plan.first_pass if is_first_pass(association.product) else self._plan.associations
            wanted = reference_of(self._planner.config, association, others)
            if wanted is not None and wanted not in self._aligned and self._aligns:
                self._held.setdefault(wanted, []).append(association)
                continue
            first, align = self._first_half(association, self._aligned.get(wanted or ""))
            ready.append(first)
            ready += self._second_pass(association.product) if first.error else []
            if first.error and align is not None:
                can_start.extend(self._release(association.product, align))
        return ready

    @property
    def _aligns(self) -> bool:
        """Whether alignments are among the steps that are run."""
        return any(row_named(name).lays_out for name in self._steps)

    def _wait_for_members(self, association: Association) -> None:
        self._undecided[association.product] = set(association.members)
        for name in association.members:
            self._members[self._chains[name][-1].key] = name
            self._products.setdefault(name, []).append(association)

    def _with_all_members(self, record: TaskRecord) -> list[Association]:
        """Associations whose last undecided member this task decides."""
        name = self._members.pop(record.key, None)
        if name is None:
            return []
        if record.status != COMPLETE:
            self._lost.add(name)
        associations = self._products.pop(name)
        for association in associations:
            self._undecided[association.product].discard(name)
        return [association for association in associations if not self._undecided[association.product]]

    def _first_half(self, association: Association, reference: Task | None) -> tuple[Ready, Task | None]:
        """The tasks up to the alignment, and the align task, which the stock engine does not have."""
        lost = [name for name in association.members if name in self._lost]
        missing = tuple(sorted([*lost, *association.lost]))
        chains = {name: self._chains[name] for name in association.members if name not in self._lost}
        first, rest = self._planner.mosaic_tasks(association, chains, self._exposures, missing, None, reference)
        align = first[-1] if row_of(first[-1]).lays_out else None
        allowed = self._planner.config.mosaic.max_missing
        if missing and (len(missing) > allowed or not chains):
            error = _too_many_missing(missing, len(association.members) + len(association.lost), allowed)
            if align is not None:
                self._note(association, [*first, *rest], align, None, error)
            return self._let_through(association.product, [*first, *rest], error, layout_known=True), align
        if align is not None:
            self._aligning[align.key] = _Started(association, chains, missing, align, reference)
        return self._let_through(association.product, first), align

    def _second_half(self, started: _Started, record: TaskRecord) -> Ready:
        """The tasks after the alignment. After a failed one they are those that were predicted, to be skipped.

        They are skipped as well after an alignment of an earlier run that left exposures unaligned, if the config now
        requires all of them to be aligned.
        """
        product, complete = started.association.product, record.status == COMPLETE
        error = "" if complete else skip_reason(record)
        refused = refusal_of(started.align, record) if complete else ""
        layout = read_layout(self._root, product) if complete else None
        _, rest = self._planner.mosaic_tasks(
            started.association, started.chains, self._exposures, started.missing, layout, started.reference
        )
        self._note(
            started.association, [*self.submitted.get(product, ()), *rest], started.align, layout, error or refused
        )
        ready = self._let_through(product, rest, error or refused, layout_known=True)
        return replace(ready, keeps_done=bool(refused))

    def _note(
        self, association: Association, tasks: Sequence[Task], align: Task, layout: Layout | None, error: str
    ) -> None:
        """Keep a mosaic of the first pass for the masks."""
        if is_first_pass(association.product):
            self._first[association.product] = planned_mosaic(association, tasks, align, layout, error)

    def _before_mask(self, chain: Sequence[Task]) -> list[Task]:
        """The tasks of an exposure before its source mask; all of them if it has none."""
        masks = [index for index, task in enumerate(chain) if row_of(task).masks]
        return list(chain[: masks[0]] if masks else chain)

    def _second_pass(self, product: str) -> list[Ready]:
        """The second pass of exposures for which a mosaic of the first pass was the last that they waited for."""
        ready = []
        for name, products in list(self._masked.items()):
            if product in products and all(item in self._first for item in products):
                del self._masked[name]
                ready.append(self._with_mask(name, [self._first[item] for item in products]))
        return ready

    def _with_mask(self, name: str, needed: Sequence[PlannedMosaic]) -> Ready:
        shared = self._before_mask(self._chains[name])
        late = self._planner.second_pass_tasks(self._exposures[name], shared, needed)
        late = [task for task in late if is_selected(task, self._steps)]
        self._chains = {**self._chains, name: [*shared, *late]}
        error = next((f"{item.association.product}: {item.error}" for item in needed if item.error), "")
        if first_pass_name(name) in self._lost:
            error = f"{first_pass_name(name)} failed in the first pass, so that there is no mask for {name}."
        return Ready(tuple(late), error=error)

    def _release(self, product: str, align: Task) -> list[Association]:
        """Mosaics that waited for this one's alignment, whatever its end."""
        self._aligned[product] = align
        return self._held.pop(product, [])

    def _let_through(self, product: str, tasks: Iterable[Task], error: str = "", layout_known: bool = False) -> Ready:
        chosen = tuple(task for task in tasks if is_selected(task, self._steps))
        if not error:
            self.submitted.setdefault(product, []).extend(chosen)
        return Ready(chosen, product, error, layout_known)


def _too_many_missing(missing: Sequence[str], total: int, allowed: int) -> str:
    names = ", ".join(missing[:MAX_NAMES]) + (", ..." if len(missing) > MAX_NAMES else "")
    return f"{len(missing)} of {total} members missing ({names}); mosaic.max_missing allows {allowed}."
