"""The tasks of a mosaic that the pipeline's own Image3 makes in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from survey.models import Task
from survey.planning.mosaic_tasks import Draft, MosaicTasks
from survey.steps.costs import FLOAT_GB, Work, image_gb

ZARR_CHUNK = 2048


@dataclass(frozen=True)
class StockMosaic(MosaicTasks):
    """Makes the tasks of one association."""

    def tasks(self, asn: Task, members: Sequence[Task]) -> list[Task]:
        """Image3 and the copy for xarray; ``members``: the tasks that made the members' cal files, in order."""
        work = self._work()
        image3 = self.task(Draft("image3", self.product, [asn, *members], self.image3, work=work, missing=self.missing))
        settings = {
            "filter": self.association.filter,
            "group": self.group,
            "members": [task.subject for task in members],
            "missing": list(self.missing),
            "chunk": ZARR_CHUNK,
        }
        return [image3, self.task(Draft("mosaic", self.product, [image3], settings, work=work, missing=self.missing))]

    def _work(self) -> Work:
        """All members, and the mosaic: without a grid in the config it is taken to hold its members side by side, half
        of each covered by others, and never less than one of them.
        """
        images = tuple(image_gb(exposure) for exposure in self.exposures.values())
        shape = self.config.shape
        mosaic = FLOAT_GB * shape[0] * shape[1] if shape else max(sum(images) / 2, max(images, default=0.0))
        return Work(images_gb=images, window_gb=mosaic, members=len(images))
