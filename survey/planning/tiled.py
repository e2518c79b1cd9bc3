"""The tasks of a tiled mosaic: Image3 per exposure and per tile.

    sources (exposure) -> align (association) -> sky (exposure) -> skymatch (association)
      -> pixmap (exposure) -> outlier_i2d (group) -> median (tile) -> outliers (exposure) -> drizzle (tile)
      -> assemble (association) -> source_catalog

The tasks after the alignment depend on the grids that it lays out. Before it has run, the grids are predicted from
footprints: the tasks then have no digest, and a run plans them again from the layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from survey.config.hooks import HOOKS
from survey.models import Task
from survey.mosaics.grid import Tile, places
from survey.mosaics.layouts import Layout, Member
from survey.names import association_id
from survey.planning.mosaic_tasks import Draft, MosaicTasks
from survey.steps.costs import FLOAT_GB, Work, image_gb
from survey.steps.image3 import files
from survey.steps.registry import row_of

DETECTION_BORDER_PX = 64  # around a tile, in which sources are searched for as well
NOT_ALIGNED = "the alignment was not solved yet"
# Parameters of Image3's steps that lay out the grids; the others do not make the alignment anew.
GRID_PARAMETERS = ("pixel_scale", "pixel_scale_ratio", "crval", "crpix", "rotation", "output_shape", "output_wcs")
MAP_PARAMETERS = ("pixmap_stepsize", "pixmap_order")
# What this engine cannot do as the pipeline does.
REFUSED: dict[str, dict[str, tuple[Any, str]]] = {
    "assign_mtwcs": {"save_results": (False, "the WCS of exposures are in stage3/*_wcs.asdf and in the crf files")},
    "tweakreg": {
        "save_results": (False, "aligned exposures are the crf files, and their WCS in stage3/*_wcs.asdf"),
        "save_abs_catalog": (False, "the tiled engine keeps no copy of a reference catalogue"),
    },
    "skymatch": {"save_results": (False, "sky levels are in stage3/*_sky.json and in the crf files")},
    "outlier_detection": {
        "resample_data": (True, "the tiled engine compares exposures with a resampled median"),
        "save_intermediate_results": (False, "the tiled engine keeps drizzled groups and medians in its own form"),
    },
    "resample": {
        "single": (False, "a mosaic holds all its members"),
        "skip": (False, "there would be no mosaic"),
    },
}


@dataclass(frozen=True)
class TiledMosaic(MosaicTasks):
    """Makes the tasks of one association: `align`, and `pixels` for what comes after it.

    With ``detection`` it is a mosaic of a first pass, which is not assembled: its tiles are searched for sources.
    """

    detection: Mapping[str, Any] | None = None  # parameters of the search; see `survey.steps.image3.source_masks`

    @cached_property
    def acid(self) -> str:
        """The association's id: 'a3001'."""
        return association_id(self.product)

    def parameters(self, *names: str, only: Sequence[str] = ()) -> dict[str, Any]:
        """Parameters of parts of Image3, all or some of them."""
        found = {name: dict(self.image3.get(name, {})) for name in names}
        if only:
            found = {name: {key: value for key, value in pars.items() if key in only} for name, pars in found.items()}
        return {name: pars for name, pars in found.items() if pars}

    def skips(self, part: str) -> bool:
        return self.image3.get(part, {}).get("skip") is True

    def align(self, asn: Task, members: Sequence[Task], reference: Task | None) -> Task:
        """The task that solves the alignment.

        Parameters
        ----------
        asn : the association's task
        members : the sources tasks of its members, in its order
        reference : the align task of the filter that this one aligns to
        """
        settings: dict[str, Any] = self.parameters("assign_mtwcs", "tweakreg")
        settings |= self.parameters("resample", only=GRID_PARAMETERS)
        settings |= self.parameters("skymatch", only=("stepsize",)) | {"acid": self.acid}
        reads = [files.ASSOCIATION.path(self.product)]
        for task in members:
            reads += [files.DESCRIPTION.path(task.subject), files.CATALOG.path(task.subject)]
        inputs = [asn, *members]
        if self.config.alignment is not None:
            settings["alignment"] = str(self.config.alignment.absolute())
        if reference is not None:
            settings["reference"] = files.SOURCES.name(reference.subject)
            reads.append(files.SOURCES.path(reference.subject))
            inputs.append(reference)
        work = Work(members=len(members))
        return self.task(Draft("align", self.product, inputs, settings, reads, work, missing=self.missing))

    def pixels(self, layout: Layout, asn: Task, align: Task, cals: Mapping[str, Task]) -> list[Task]:
        """Every task after the alignment, each after its inputs.

        Parameters
        ----------
        layout : of the alignment, or predicted: tasks then have no digest
        asn, align : tasks of the association and its alignment
        cals : the task that made each member's cal file, by exposure
        """
        known = layout.digest and layout.digest == align.digest
        mosaic = self if known else replace(self, finish=_not_aligned)
        members = tuple(
            _Member(index, place, cals[place.name], files.member_subject(place.name, self.acid),
                    image_gb(self.exposures[place.name]))
            for index, place in enumerate(layout.members)
        )  # fmt: skip
        return _Pixels(mosaic, layout, members, asn, align).tasks()


@dataclass(frozen=True)
class _Member:
    """An exposure of a mosaic that is laid out."""

    index: int  # in the association
    place: Member
    cal: Task  # that made its cal file
    subject: str  # of its tasks in this mosaic
    image_gb: float  # one float32 image of it

    @property
    def file(self) -> str:
        """Its calibrated file, in the workspace."""
        return row_of(self.cal).path(self.cal.subject)


@dataclass(frozen=True)
class _Pixels:
    """The tasks after the alignment: `tasks` is their order, each method makes one task of the step of its name."""

    mosaic: TiledMosaic
    layout: Layout
    members: tuple[_Member, ...]
    asn: Task
    alignment: Task

    def tasks(self) -> list[Task]:
        side = self.mosaic.config.tile
        sky = [self.sky(member) for member in self.members]
        levels = self.skymatch(sky)
        maps = [self.pixmap(member) for member in self.members]
        groups: list[Task] = []
        medians: dict[tuple[int, int], Task] = {}
        if self.finds_outliers:
            groups = [self.outlier_i2d(number, maps, levels) for number in range(len(self.layout.groups))]
            medians = {(tile.ix, tile.iy): self.median(tile, numbers, groups)
                       for tile, numbers in self.layout.outlier_tiles(side).items()}  # fmt: skip
        flags = [self.outliers(member, maps[member.index], levels, medians) for member in self.members]
        tiles = [
            self.drizzle(tile, indices, levels, flags, maps) for tile, indices in self.layout.final_tiles(side).items()
        ]
        if self.mosaic.detection is not None:
            return [*sky, levels, *maps, *groups, *medians.values(), *flags, *tiles, *self.detect(tiles)]
        whole = self.assemble(flags, tiles)
        made = [*sky, levels, *maps, *groups, *medians.values(), *flags, *tiles, whole]
        return made if self.mosaic.skips("source_catalog") else [*made, self.source_catalog(whole)]

    def sky(self, member: _Member) -> Task:
        settings = self.mosaic.parameters("skymatch") | {"exposure": member.cal.subject}
        reads = (member.file, files.WCS.path(member.subject), self.layout_file)
        inputs = [member.cal, self.alignment]
        return self.mosaic.task(Draft("sky", member.subject, inputs, settings, reads, self.work([member])))

    def skymatch(self, sky: Sequence[Task]) -> Task:
        settings = self.mosaic.parameters("skymatch")
        if settings.get("skymatch", {}).get("skymethod", "match") not in ("match", "user"):
            settings["level"] = "float"  # levels of these methods had another type before, and so other last bits
        reads = (self.layout_file, *(files.SKY_STATISTICS.path(task.subject) for task in sky))
        return self.mosaic.task(Draft("skymatch", self.product, [self.alignment, *sky], settings, reads, self.work()))

    def pixmap(self, member: _Member) -> Task:
        settings = self.mosaic.parameters("resample", "outlier_detection", only=MAP_PARAMETERS)
        settings["outliers"] = self.finds_outliers
        settings["outliermap"] = self.finds_outliers and self.outlier_map is files.OUTLIER_MAP
        reads = (files.WCS.path(member.subject), files.GRID.path(self.product), self.layout_file)
        return self.mosaic.task(Draft("pixmap", member.subject, [self.alignment], settings, reads, self.work([member])))

    def outlier_i2d(self, number: int, maps: Sequence[Task], levels: Task) -> Task:
        indices = self.layout.groups[number]
        members = [self.members[index] for index in indices]
        inputs = [self.alignment, levels, *(item.cal for item in members), *(maps[index] for index in indices)]
        settings = self.mosaic.parameters("outlier_detection") | {"members": list(indices)}
        reads = [self.layout_file, self.sky_file]
        for member in members:
            reads += [member.file, self.outlier_map.path(member.subject)]
        box = self.layout.group_box(indices)
        work = self.work(members, window=0 if box is None else box.pixels)
        subject = files.group_subject(self.product, number)
        return self.mosaic.task(Draft("outlier_i2d", subject, inputs, settings, reads, work))

    def median(self, tile: Tile, numbers: Sequence[int], groups: Sequence[Task]) -> Task:
        touching = [groups[number] for number in numbers]
        settings = {"box": _edges(tile), "groups": list(numbers)}
        reads = (self.layout_file, *(files.GROUP_I2D.path(task.subject) for task in touching))
        work = self.work(window=tile.box.pixels, output=tile.box.pixels, layers=len(numbers))
        subject = files.tile_subject(self.product, tile.name)
        return self.mosaic.task(Draft("median", subject, [self.alignment, *touching], settings, reads, work, tile))

    def outliers(self, member: _Member, pixmap: Task, levels: Task, medians: Mapping[tuple[int, int], Task]) -> Task:
        box, side = member.place.outlier, self.mosaic.config.tile
        touched = () if box is None else places(self.layout.outlier_shape, side, box.grown(1))
        near = {place: medians[place] for place in touched if place in medians}
        settings = self.mosaic.parameters("outlier_detection") | {
            "index": member.index, "side": side, "tiles": [list(place) for place in near],
        }  # fmt: skip
        reads = [self.layout_file, self.sky_file, files.WCS.path(member.subject), member.file]
        reads += [self.outlier_map.path(member.subject)] if medians else []
        reads += [files.MEDIAN.path(task.subject) for task in near.values()]
        inputs = [self.alignment, levels, member.cal, pixmap, *near.values()]
        return self.mosaic.task(Draft("outliers", member.subject, inputs, settings, reads, self.work([member])))

    def drizzle(
        self, tile: Tile, indices: Sequence[int], levels: Task, flags: Sequence[Task], maps: Sequence[Task]
    ) -> Task:
        config, members = self.mosaic.config, [self.members[index] for index in indices]
        inputs = [self.alignment, levels, *(flags[index] for index in indices), *(maps[index] for index in indices)]
        settings = self.mosaic.parameters("resample") | {
            "ix": tile.ix, "iy": tile.iy, "box": _edges(tile), "side": config.tile, "margin": config.margin,
            "members": list(indices), "group": self.mosaic.group, "acid": self.mosaic.acid,
        }  # fmt: skip
        reads = [self.layout_file, self.sky_file]
        for member in members:
            reads += [file.path(member.subject) for file in (files.CRF, files.PIXMAP, files.LEFT_OUT)]
        work = self.work(members, window=tile.box.grown(config.margin).pixels, output=tile.box.pixels)
        subject = files.tile_subject(self.product, tile.name)
        return self.mosaic.task(Draft("drizzle", subject, inputs, settings, reads, work, tile))

    def detect(self, tiles: Sequence[Task]) -> list[Task]:
        """The search for sources in each tile, and in a border that its neighbours hold."""
        by_place = {(task.tile.ix, task.tile.iy): task for task in tiles if task.tile is not None}
        found = []
        for (ix, iy), task in by_place.items():
            tile = task.tile
            assert tile is not None
            near = [by_place[place] for place in ((ix + x, iy + y) for y in (-1, 0, 1) for x in (-1, 0, 1))
                    if place in by_place]  # fmt: skip
            settings = {**(self.mosaic.detection or {}), "group": self.mosaic.group, "box": _edges(tile),
                        "side": self.mosaic.config.tile}  # fmt: skip
            work = self.work(window=tile.box.grown(DETECTION_BORDER_PX).pixels, output=tile.box.pixels)
            draft = Draft("detect", task.subject, [self.alignment, *near], settings, (self.layout_file,), work, tile)
            found.append(self.mosaic.task(draft))
        return found

    def assemble(self, flags: Sequence[Task], tiles: Sequence[Task]) -> Task:
        side, (ny, nx) = self.mosaic.config.tile, self.layout.final_shape
        settings = self.mosaic.parameters("resample") | {
            "filter": self.mosaic.association.filter, "group": self.mosaic.group, "side": side,
            "members": [member.place.name for member in self.members],
            "tiles": [[task.tile.ix, task.tile.iy] for task in tiles if task.tile is not None],
        }  # fmt: skip
        reads = [files.ASSOCIATION.path(self.product), self.layout_file, files.GRID.path(self.product)]
        reads += [files.CRF.path(task.subject) for task in flags]
        inputs = [self.asn, self.alignment, *flags, *tiles]
        work = self.work(window=min(side, ny) * nx, output=ny * nx)
        missing = self.mosaic.missing
        return self.mosaic.task(Draft("assemble", self.product, inputs, settings, reads, work, missing=missing))

    def source_catalog(self, whole: Task) -> Task:
        ny, nx = self.layout.final_shape
        settings, reads = self.mosaic.parameters("source_catalog"), (files.I2D.path(self.product),)
        return self.mosaic.task(
            Draft("source_catalog", self.product, [whole], settings, reads, self.work(output=ny * nx))
        )

    # --- what they share ------------------------------------------------------------------------------------------

    @property
    def product(self) -> str:
        return self.mosaic.product

    @property
    def layout_file(self) -> str:
        return files.LAYOUT.path(self.product)

    @property
    def sky_file(self) -> str:
        return files.SKY.path(self.product)

    @cached_property
    def finds_outliers(self) -> bool:
        return len(self.mosaic.exposures) > 1 and not self.mosaic.skips("outlier_detection")

    @cached_property
    def outlier_map(self) -> files.File:
        """Which of an exposure's pixel maps outlier detection reads."""
        steps = [tuple(float(self.mosaic.image3.get(name, {}).get(key) or 1) for key in MAP_PARAMETERS)
                 for name in ("resample", "outlier_detection")]  # fmt: skip
        return files.PIXMAP if self.layout.shared and steps[0] == steps[1] else files.OUTLIER_MAP

    def work(self, members: Sequence[_Member] = (), *, window: int = 0, output: int = 0, layers: int = 0) -> Work:
        """The work on some members, and on so many pixels of the mosaic: computed in a window, and published."""
        images = tuple(member.image_gb for member in members)
        return Work(0.0, images, FLOAT_GB * window, FLOAT_GB * output, layers, len(self.members))


def _edges(tile: Tile) -> list[int]:
    return [tile.box.x0, tile.box.y0, tile.box.x1, tile.box.y1]


def _not_aligned(task: Task, _inputs: Sequence[Task], _exposure: str) -> Task:
    """A task that is a guess: it has no digest, and hashing what it may depend on would take a large plan's time."""
    return replace(task, unknown=NOT_ALIGNED)


def faults(image3: Mapping[str, Any]) -> list[str]:
    """What a config asks of Image3 that this engine cannot do."""
    found = []
    for step, pars in REFUSED.items():
        for name, (allowed, why) in pars.items():
            value = image3.get(step, {}).get(name, allowed)
            if value != allowed:
                found.append(
                    f"mosaic.image3.{step}.{name}: {name} = {value!r}: {why}. Leave it out, or write 'engine: stock'."
                )
    for step, pars in image3.items():
        hooks = {step: pars} if step in HOOKS else {f"{step}.{name}": pars.get(name) for name in HOOKS}
        found += [
            f"mosaic.image3.{name}: the tiled engine does the steps of Image3 in parts, where no hook can run. Leave "
            "it out, or write 'engine: stock'."
            for name, value in hooks.items()
            if value
        ]
    sky = image3.get("skymatch", {})
    if sky.get("skymethod") == "global+match" and sky.get("subtract"):
        found.append(
            "mosaic.image3.skymatch.subtract: 'global+match' with 'subtract' measures the sky of pixels that were "
            "changed in between. Leave it out (drizzling takes the sky off all the same), or write 'engine: stock'."
        )
    return found


def group_numbers(names: Sequence[str], given: Mapping[str, str] | None = None) -> list[int]:
    """Number of the group of each exposure: those whose names differ in the detector alone share one.

    ``given`` has the groups that an association gives to exposures, by name.
    """
    own = given or {}
    stems = [own.get(name, name.rpartition("_")[0].partition("-seg")[0]) for name in names]
    order = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    return [order[stem] for stem in stems]
