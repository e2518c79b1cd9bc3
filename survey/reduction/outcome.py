"""What a run ended with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from survey.models import COMPLETE, FAILED, SKIPPED, TaskRecord


@dataclass(frozen=True)
class Run:
    """What a run ended with."""

    records: tuple[TaskRecord, ...]
    reused: frozenset[str] = frozenset()
    missing: Mapping[str, str] = field(default_factory=dict)  # raw file -> why it could not be had

    @property
    def failed(self) -> tuple[TaskRecord, ...]:
        return tuple(record for record in self.records if record.status in (FAILED, SKIPPED))

    @property
    def ran(self) -> tuple[TaskRecord, ...]:
        """Records of the tasks that this run ran itself."""
        return tuple(item for item in self.records if item.key not in self.reused and item.status == COMPLETE)

    @property
    def products(self) -> tuple[str, ...]:
        return tuple(
            product.path for record in self.records if record.status == COMPLETE for product in record.products
        )

    @property
    def incomplete_mosaics(self) -> tuple[TaskRecord, ...]:
        """Mosaics that were made without some of their members."""
        return tuple(record for record in self.records if record.status == COMPLETE and record.missing)
