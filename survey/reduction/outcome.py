"""The result of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from survey.models import COMPLETE, FAILED, SKIPPED, Notice, TaskRecord


@dataclass(frozen=True)
class Run:
    """The result of a run: the records of its tasks, and the files that were missing."""

    records: tuple[TaskRecord, ...]
    reused: frozenset[str] = frozenset()  # keys of the tasks that were done before
    missing: Mapping[str, str] = field(default_factory=dict)  # raw file -> why it is not available
    left_out: Mapping[str, str] = field(default_factory=dict)  # exposure that is no part of the survey -> why
    warnings: tuple[str, ...] = ()  # of grids that lose exposures, and of pointings that may be wrong

    @property
    def failed(self) -> tuple[TaskRecord, ...]:
        """Records of the tasks that failed, and of those that were skipped after them."""
        return tuple(record for record in self.records if record.status in (FAILED, SKIPPED))

    @property
    def ran(self) -> tuple[TaskRecord, ...]:
        """Records of the tasks that this run completed itself."""
        return tuple(item for item in self.records if item.key not in self.reused and item.status == COMPLETE)

    @property
    def products(self) -> tuple[str, ...]:
        """Paths of all products, relative to the workspace."""
        return tuple(
            product.path for record in self.records if record.status == COMPLETE for product in record.products
        )

    @property
    def incomplete_mosaics(self) -> tuple[TaskRecord, ...]:
        """Records of mosaics that were made without some of their members."""
        return tuple(record for record in self.records if record.status == COMPLETE and record.missing)

    @property
    def notices(self) -> dict[str, tuple[Notice, ...]]:
        """What steps of Image3 did not do for members of mosaics that were made, by the mosaic's product."""
        return notices_of(self.records)

    @property
    def not_aligned(self) -> dict[str, dict[str, str]]:
        """Mosaics with exposures that tweakreg could not align -> these exposures, each with the reason."""
        return {record.mosaic: record.not_aligned for record in self.records if record.not_aligned}


def notices_of(records: Iterable[TaskRecord]) -> dict[str, tuple[Notice, ...]]:
    """The notices of complete records, by the product of the mosaic; a failed one says it in its error."""
    found: dict[str, tuple[Notice, ...]] = {}
    for record in records:
        if record.notices and record.status == COMPLETE:
            found[record.mosaic] = (*found.get(record.mosaic, ()), *record.notices)
    return found
