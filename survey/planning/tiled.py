"""The tasks of a tiled mosaic: Image3 per exposure and per tile.

    sources (exposure) -> align (association) -> sky (exposure) -> skymatch (association)
      -> pixmap (exposure) -> outlier_i2d (group) -> median (tile) -> outliers (exposure) -> drizzle (tile)
      -> assemble (association) -> source_catalog

What stands behind the alignment depends on the grids that it lays out. Before it has run they are predicted from
footprints: the tasks then have no digest yet, and a run makes them again from the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from survey.config.sections import MosaicConfig
from survey.models import Association, Exposure, Task
from survey.mosaics.grid import Layout, Tile, places
from survey.names import parse_mosaic
from survey.steps.base import PIPELINE_GB, frame_gb

NOT_ALIGNED = "the alignment was not solved yet"
STEPS = ("align", "sky", "skymatch", "pixmap", "outlier_i2d", "median", "outliers", "drizzle", "assemble",
         "source_catalog")  # fmt: skip
# Parameters of Image3's steps that lay out the grids; the others do not make the alignment anew.
GRID_PARAMETERS = ("pixel_scale", "pixel_scale_ratio", "crval", "crpix", "rotation", "output_shape", "output_wcs")
MAP_PARAMETERS = ("pixmap_stepsize", "pixmap_order")
# What this engine cannot do as the pipeline does.
REFUSED: dict[str, dict[str, tuple[Any, str]]] = {
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

Finish = Callable[[Task, Sequence[Task], str], Task]


@dataclass(frozen=True)
class TiledMosaic:
    """Makes the tasks of one association. ``finish`` adds references and digest to a task."""

    association: Association
    config: MosaicConfig
    image3: Mapping[str, Any]
    exposures: Mapping[str, Exposure]
    missing: tuple[str, ...]
    group: str
    finish: Finish

    @property
    def product(self) -> str:
        return self.association.product

    @property
    def acid(self) -> str:
        return parse_mosaic(self.product).acid

    def _settings(self, *names: str, only: Sequence[str] = ()) -> dict[str, Any]:
        """Parameters of parts of Image3, all or some of them."""
        found = {name: dict(self.image3.get(name, {})) for name in names}
        if only:
            found = {name: {key: value for key, value in pars.items() if key in only} for name, pars in found.items()}
        return {name: pars for name, pars in found.items() if pars}

    def _task(self, step: str, subject: str, settings: dict[str, Any], inputs: Sequence[Task], **more: Any) -> Task:
        first = next(iter(self.exposures), "")
        task = Task(
            key=f"{step}/{subject}",
            step=step,
            subject=subject,
            filter=self.association.filter,
            settings=settings,
            inputs=tuple(item.key for item in inputs),
            missing=self.missing if step in ("align", "assemble") else (),
            mosaic=self.product,
            **more,
        )
        return self.finish(task, inputs, first)

    def align(self, asn: Task, members: Sequence[Task], reference: Task | None) -> Task:
        """The task that solves the alignment.

        Parameters
        ----------
        asn : the association's task
        members : the sources tasks of its members, in its order
        reference : the align task of the filter that this one aligns to
        """
        settings: dict[str, Any] = self._settings("tweakreg") | self._settings("resample", only=GRID_PARAMETERS)
        settings |= self._settings("skymatch", only=("stepsize",)) | {"acid": self.acid}
        reads = [f"asn/{self.product}_asn.json"]
        for task in members:
            reads += [f"stage3/{task.subject}_member.asdf", f"stage3/{task.subject}_cat.ecsv"]
        inputs = [asn, *members]
        if self.config.alignment is not None:
            settings["alignment"] = str(self.config.alignment.absolute())
        if reference is not None:
            settings["reference"] = f"{reference.subject}_sources.ecsv"
            reads.append(f"stage3/{settings['reference']}")
            inputs.append(reference)
        count = len(members)
        return self._task(
            "align", self.product, settings, inputs, reads=tuple(reads), memory_gb=PIPELINE_GB + 0.4 + 0.002 * count,
            cpu_seconds=5.0 + 0.4 * count,
        )  # fmt: skip

    def pixels(self, layout: Layout, asn: Task, align: Task, cals: Mapping[str, Task]) -> list[Task]:
        """Everything behind the alignment, in an order in which each task stands behind its inputs."""
        if not layout.digest or layout.digest != align.digest:
            return replace(self, finish=_not_aligned)._pixels(layout, asn, align, cals)
        return self._pixels(layout, asn, align, cals)

    def _pixels(self, layout: Layout, asn: Task, align: Task, cals: Mapping[str, Task]) -> list[Task]:
        member_tasks = [cals[member.name] for member in layout.members]
        sky = [self._sky(index, layout, cal, align) for index, cal in enumerate(member_tasks)]
        levels = self._skymatch(layout, align, sky)
        maps = [self._pixmap(index, layout, align) for index in range(len(layout.members))]
        groups, medians = [], {}
        if self._finds_outliers:
            groups = [self._group(number, layout, member_tasks, maps, levels, align)
                      for number in range(len(layout.groups))]  # fmt: skip
            medians = {(tile.ix, tile.iy): self._median(tile, numbers, layout, groups, align)
                       for tile, numbers in layout.outlier_tiles(self.config.tile).items()}  # fmt: skip
        flags = [self._flag(index, layout, cal, maps[index], levels, align, medians)
                 for index, cal in enumerate(member_tasks)]  # fmt: skip
        tiles = [self._drizzle(tile, indices, layout, flags, maps, levels, align)
                 for tile, indices in layout.final_tiles(self.config.tile).items()]  # fmt: skip
        whole = self._assemble(layout, asn, align, flags, tiles)
        made = [*sky, levels, *maps, *groups, *medians.values(), *flags, *tiles, whole]
        if not _skips(self.image3, "source_catalog"):
            made.append(self._catalogue(layout, whole))
        return made

    @property
    def _finds_outliers(self) -> bool:
        return len(self.exposures) > 1 and not _skips(self.image3, "outlier_detection")

    def _subject(self, layout: Layout, index: int) -> str:
        return f"{layout.members[index].name}_{self.acid}"

    def _layout(self) -> str:
        return f"stage3/{self.product}_layout.json"

    def _plane(self, layout: Layout, index: int) -> float:
        return frame_gb(self.exposures[layout.members[index].name])

    def _sky(self, index: int, layout: Layout, cal: Task, align: Task) -> Task:
        subject, plane = self._subject(layout, index), self._plane(layout, index)
        reads = (f"stage2/{cal.subject}_cal.fits", f"stage3/{subject}_wcs.asdf", self._layout())
        settings = self._settings("skymatch") | {"exposure": cal.subject}
        return self._task("sky", subject, settings, [cal, align], reads=reads,
                          memory_gb=PIPELINE_GB + 0.2 + 20 * plane, cpu_seconds=1 + 60 * plane)  # fmt: skip

    def _skymatch(self, layout: Layout, align: Task, sky: Sequence[Task]) -> Task:
        reads = (self._layout(), *(f"stage3/{task.subject}_skystat.json" for task in sky))
        return self._task("skymatch", self.product, self._settings("skymatch"), [align, *sky], reads=reads,
                          memory_gb=PIPELINE_GB + 0.2 + 4e-8 * len(sky) ** 2 * 20, cpu_seconds=1.0)  # fmt: skip

    def _pixmap(self, index: int, layout: Layout, align: Task) -> Task:
        subject, plane = self._subject(layout, index), self._plane(layout, index)
        settings = self._settings("resample", "outlier_detection", only=MAP_PARAMETERS)
        reads = (f"stage3/{subject}_wcs.asdf", f"stage3/{self.product}_grid.asdf", self._layout())
        settings |= {"outliers": self._finds_outliers}
        settings["outliermap"] = self._finds_outliers and self._outlier_suffix(layout) == "outliermap"
        return self._task("pixmap", subject, settings, [align], reads=reads,
                          memory_gb=PIPELINE_GB + 0.2 + 40 * plane, cpu_seconds=1 + 250 * plane)  # fmt: skip

    def _outlier_suffix(self, layout: Layout) -> str:
        """Which of an exposure's pixel maps outlier detection reads."""
        steps = [tuple(float(self.image3.get(name, {}).get(key) or 1) for key in MAP_PARAMETERS)
                 for name in ("resample", "outlier_detection")]  # fmt: skip
        return "pixmap" if layout.shared and steps[0] == steps[1] else "outliermap"

    def _outlier_map(self, layout: Layout, index: int) -> str:
        return f"stage3/{self._subject(layout, index)}_{self._outlier_suffix(layout)}.npy"

    def _group_subject(self, number: int) -> str:
        return f"{self.product}_g{number:05d}"

    def _group(
        self, number: int, layout: Layout, cals: Sequence[Task], maps: Sequence[Task], levels: Task, align: Task
    ) -> Task:
        indices = layout.groups[number]
        reads = [self._layout(), f"stage3/{self.product}_sky.json"]
        for index in indices:
            reads += [f"stage2/{cals[index].subject}_cal.fits", self._outlier_map(layout, index)]
        box = layout.group_box(indices)
        window, plane = 4e-9 * (box.pixels if box else 0), max(self._plane(layout, index) for index in indices)
        inputs = [align, levels, *(cals[index] for index in indices), *(maps[index] for index in indices)]
        settings = self._settings("outlier_detection") | {"members": list(indices)}
        return self._task("outlier_i2d", self._group_subject(number), settings, inputs, reads=tuple(reads),
                          memory_gb=PIPELINE_GB + 0.2 + 8 * window + 20 * plane,
                          cpu_seconds=1 + 150 * plane * len(indices) + 40 * window)  # fmt: skip

    def _median(self, tile: Tile, numbers: Sequence[int], layout: Layout, groups: Sequence[Task], align: Task) -> Task:
        reads = (self._layout(), *(f"stage3/{groups[number].subject}_outlier_i2d.npy" for number in numbers))
        settings = {"box": [tile.box.x0, tile.box.y0, tile.box.x1, tile.box.y1], "groups": list(numbers)}
        stack = 4e-9 * tile.box.pixels * len(numbers)
        return self._task("median", f"{self.product}_{tile.name}", settings,
                          [align, *(groups[number] for number in numbers)], reads=reads, tile=tile,
                          memory_gb=PIPELINE_GB + 0.2 + 3 * min(stack, 0.27), cpu_seconds=1 + 60 * stack)  # fmt: skip

    def _flag(
        self, index: int, layout: Layout, cal: Task, pixmap: Task, levels: Task, align: Task,
        medians: Mapping[tuple[int, int], Task],
    ) -> Task:  # fmt: skip
        subject, plane = self._subject(layout, index), self._plane(layout, index)
        box = layout.members[index].outlier
        touched = () if box is None else places(layout.outlier_shape, self.config.tile, box.grown(1))
        near = {place: medians[place] for place in touched if place in medians}
        reads = (self._layout(), f"stage3/{self.product}_sky.json", f"stage3/{subject}_wcs.asdf",
                 f"stage2/{cal.subject}_cal.fits", *([self._outlier_map(layout, index)] if medians else ()),
                 *(f"stage3/{task.subject}_median.npy" for task in near.values()))  # fmt: skip
        settings = self._settings("outlier_detection") | {
            "index": index, "side": self.config.tile, "tiles": [list(place) for place in near],
        }  # fmt: skip
        return self._task("outliers", subject, settings, [align, levels, cal, pixmap, *near.values()], reads=reads,
                          memory_gb=PIPELINE_GB + 0.3 + 45 * plane, cpu_seconds=2 + 120 * plane)  # fmt: skip

    def _drizzle(
        self, tile: Tile, indices: Sequence[int], layout: Layout, flags: Sequence[Task], maps: Sequence[Task],
        levels: Task, align: Task,
    ) -> Task:  # fmt: skip
        reads = [self._layout(), f"stage3/{self.product}_sky.json"]
        for index in indices:
            subject = self._subject(layout, index)
            reads += [f"stage3/{subject}_{suffix}" for suffix in ("crf.fits", "pixmap.npy", "leftout.npy")]
        settings = self._settings("resample") | {
            "ix": tile.ix, "iy": tile.iy, "box": [tile.box.x0, tile.box.y0, tile.box.x1, tile.box.y1],
            "side": self.config.tile, "margin": self.config.margin, "members": list(indices), "group": self.group,
            "acid": self.acid,
        }  # fmt: skip
        inputs = [align, levels, *(flags[index] for index in indices), *(maps[index] for index in indices)]
        window = 4e-9 * tile.box.grown(self.config.margin).pixels
        planes = [self._plane(layout, index) for index in indices]
        return self._task("drizzle", f"{self.product}_{tile.name}", settings, inputs, reads=tuple(reads), tile=tile,
                          memory_gb=PIPELINE_GB + 0.3 + 26 * window + 25 * max(planes),
                          cpu_seconds=2 + 200 * sum(planes))  # fmt: skip

    def _assemble(self, layout: Layout, asn: Task, align: Task, flags: Sequence[Task], tiles: Sequence[Task]) -> Task:
        reads = (f"asn/{self.product}_asn.json", self._layout(), f"stage3/{self.product}_grid.asdf",
                 *(f"stage3/{task.subject}_crf.fits" for task in flags))  # fmt: skip
        settings = self._settings("resample") | {
            "filter": self.association.filter, "group": self.group, "side": self.config.tile,
            "members": [member.name for member in layout.members],
            "tiles": [[task.settings["ix"], task.settings["iy"]] for task in tiles],
        }  # fmt: skip
        ny, nx = layout.final_shape
        band = 4e-9 * min(self.config.tile, ny) * nx
        planes = (len(flags) - 1) // 32 + 1
        return self._task("assemble", self.product, settings, [asn, align, *flags, *tiles], reads=reads,
                          memory_gb=PIPELINE_GB + 0.4 + band * (4 + planes) + 0.001 * len(flags),
                          cpu_seconds=5 + 0.5 * len(flags) + 40e-9 * ny * nx)  # fmt: skip

    def _catalogue(self, layout: Layout, whole: Task) -> Task:
        ny, nx = layout.final_shape
        plane = 4e-9 * ny * nx
        reads = (f"mosaics/{self.product}_i2d.fits",)
        return self._task("source_catalog", self.product, self._settings("source_catalog"), [whole], reads=reads,
                          memory_gb=PIPELINE_GB + 0.5 + 40 * plane, cpu_seconds=5 + 1500 * plane)  # fmt: skip


def _not_aligned(task: Task, _inputs: Sequence[Task], _exposure: str) -> Task:
    """A task that is a guess: it has no digest, and hashing what it may stand on would take a large plan's time."""
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
    sky = image3.get("skymatch", {})
    if sky.get("skymethod") == "global+match" and sky.get("subtract"):
        found.append(
            "mosaic.image3.skymatch.subtract: 'global+match' with 'subtract' measures the sky of pixels that were "
            "changed in between. Leave it out (drizzling takes the sky off all the same), or write 'engine: stock'."
        )
    return found


def group_numbers(names: Sequence[str]) -> list[int]:
    """Number of the group of each exposure: those whose names differ in the detector alone share one."""
    stems = [name.rpartition("_")[0].partition("-seg")[0] for name in names]
    order = {stem: number for number, stem in enumerate(dict.fromkeys(stems))}
    return [order[stem] for stem in stems]


def _skips(image3: Mapping[str, Any], step: str) -> bool:
    return image3.get(step, {}).get("skip") is True
