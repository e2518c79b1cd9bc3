"""Two passes: mosaics that are made first, and the source masks that the exposures of the second pass get from them.

A config with the step `source_mask` has two passes. The steps before it are run once. In the first pass the other steps
follow without it, and the mosaics of the filters that masks are made from are drizzled and searched for sources. In the
second pass each exposure gets a mask from these mosaics, which its steps after `source_mask` can read. Exposures and
mosaics of the first pass have names of their own (`survey.names.first_pass_name`), so that the same steps make them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from survey.models import Association, Exposure, Task
from survey.mosaics.grid import Box, places
from survey.mosaics.layouts import Layout
from survey.names import first_pass_name
from survey.steps.registry import row_of

# Footprints are corners by the telescope's pointing, which the alignment moves.
FOOTPRINT_PAD_ARCSEC = 5.0


def of_first_pass(exposure: Exposure) -> Exposure:
    """An exposure as it is named in the first pass."""
    return replace(exposure, name=first_pass_name(exposure.name))


def association_of_first_pass(association: Association, group: str) -> Association:
    """An association as it is named in the first pass.

    Parameters
    ----------
    association : of the second pass
    group : its group in mosaics.zarr
    """
    return replace(
        association,
        product=first_pass_name(association.product),
        members=tuple(first_pass_name(name) for name in association.members),
        group=first_pass_name(group),
    )


@dataclass(frozen=True)
class PlannedMosaic:
    """The tasks of a mosaic."""

    association: Association
    align: Task  # the last task before the layout is needed
    layout: Layout | None  # of this very alignment; None: it was not solved yet, and tiles are predicted
    tasks: tuple[Task, ...]
    error: str = ""  # why it is not made

    @cached_property
    def detected(self) -> dict[tuple[int, int], Task]:
        """The tasks that search the tiles of a mosaic of a first pass, by column and row of the tile."""
        found = [task for task in self.tasks if row_of(task).first_pass]
        return {(task.tile.ix, task.tile.iy): task for task in found if task.tile is not None}

    def near(self, exposure: Exposure, side: int) -> list[Task]:
        """The searches of the tiles that an exposure can overlap, by its place in the mosaic or else its footprint.

        Parameters
        ----------
        exposure : by its own name
        side : of a tile [pixels]
        """
        box = self._box(exposure)
        if box is None or self.layout is None:
            return list(self.detected.values())
        return [self.detected[place] for place in places(self.layout.final_shape, side, box) if place in self.detected]

    def _box(self, exposure: Exposure) -> Box | None:
        """The box of an exposure on the grid; None if it is not known."""
        if self.layout is None:
            return None
        name = first_pass_name(exposure.name)
        member = next((item for item in self.layout.members if item.name == name), None)
        if member is not None:
            return member.final or Box(0, 0, 0, 0)
        wcs = self.layout.final_wcs
        if wcs is None or exposure.footprint is None:
            return None
        xs, ys = zip(*(wcs.pixel_of(corner) for corner in exposure.footprint), strict=True)
        pad = FOOTPRINT_PAD_ARCSEC / wcs.pixel_scale_arcsec
        return Box(int(min(xs) - pad), int(min(ys) - pad), int(max(xs) + pad) + 1, int(max(ys) + pad) + 1)


def needed_by(exposure: Exposure, associations: Iterable[Association], filters: Sequence[str]) -> list[Association]:
    """The mosaics of the first pass that the mask of an exposure depends on.

    Parameters
    ----------
    exposure : by its own name
    associations : of the first pass
    filters : whose mosaics are searched for sources; (): the exposure's own

    Returns
    -------
    needed : first the one in which the exposure is aligned, then others that are searched, of the same field
    """
    every, name = list(associations), first_pass_name(exposure.name)
    own = [item for item in every if name in item.members]
    fields = {item.field for item in own}
    return own + [item for item in every if item not in own and item.filter in filters and item.field in fields]


def planned_mosaic(
    association: Association, tasks: Sequence[Task], align: Task, layout: Layout | None, error: str = ""
) -> PlannedMosaic:
    """A mosaic with its tasks; the layout is kept if it is that of the mosaic's alignment."""
    valid = layout is not None and layout.digest and layout.digest == align.digest
    return PlannedMosaic(association, align, layout if valid else None, tuple(tasks), error)
