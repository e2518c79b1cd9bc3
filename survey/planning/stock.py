"""The tasks of a mosaic that the pipeline's own Image3 makes in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from survey.config.sections import MosaicConfig
from survey.models import Association, Exposure, Task
from survey.steps.base import PIPELINE_GB, frame_gb

# Measured with jwst 3.0.0 on full-frame exposures: 33 CPU seconds and 0.35 GB a member (16.8 MB a plane).
SECONDS_PER_PLANE_GB = 2000.0
MEMBER_PLANES = 21
# Planes of the mosaic that drizzle, the median and the variances hold at once, each float32.
MOSAIC_PLANES = 24
ZARR_CHUNK = 2048

Finish = Callable[[Task, Sequence[Task], str], Task]


@dataclass(frozen=True)
class StockMosaic:
    """Makes the tasks of one association. ``finish`` adds references and digest to a task."""

    association: Association
    config: MosaicConfig
    image3: Mapping[str, Any]
    exposures: Mapping[str, Exposure]
    missing: tuple[str, ...]
    group: str
    finish: Finish

    def tasks(self, asn: Task, members: Sequence[Task]) -> list[Task]:
        """Image3 and the copy for xarray; ``members``: the tasks that made the members' cal files, in order."""
        product, present = self.association.product, [task.subject for task in members]
        memory, seconds = self._cost([frame_gb(self.exposures[name]) for name in present])
        image3 = Task(
            key=f"image3/{product}",
            step="image3",
            subject=product,
            filter=self.association.filter,
            settings=self.image3,
            inputs=(asn.key, *(task.key for task in members)),
            missing=self.missing,
            memory_gb=memory,
            cpu_seconds=seconds,
            mosaic=product,
        )
        image3 = self.finish(image3, [asn, *members], present[0] if present else "")
        store = Task(
            key=f"mosaic/{product}",
            step="mosaic",
            subject=product,
            filter=self.association.filter,
            settings={
                "filter": self.association.filter,
                "group": self.group,
                "members": present,
                "missing": list(self.missing),
                "chunk": ZARR_CHUNK,
            },
            inputs=(image3.key,),
            missing=self.missing,
            memory_gb=PIPELINE_GB + 0.5,
            mosaic=product,
        )
        return [image3, self.finish(store, [image3], "")]

    def _cost(self, planes: Sequence[float]) -> tuple[float, float]:
        """Predicted peak memory [GB] and CPU time [s]; ``planes``: one float32 plane of each member [GB]."""
        shape = self.config.shape
        # Without a grid the mosaic is taken to hold its members side by side, and never less than one of them.
        mosaic = 4e-9 * shape[0] * shape[1] if shape else max(sum(planes) / 2, max(planes, default=0.0))
        memory = PIPELINE_GB + 1.0 + MEMBER_PLANES * sum(planes) + MOSAIC_PLANES * mosaic
        return round(memory, 3), 20.0 + SECONDS_PER_PLANE_GB * sum(planes)
