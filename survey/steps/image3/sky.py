"""Sky levels: statistics of each exposure in its overlaps, then the solution of skymatch from these statistics.

`stcal.skymatch` calls a method of an image for its sky in an overlap. One task per exposure calls it beforehand and
stores the results. The solution then reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from survey.errors import TaskError
from survey.models import Notice
from survey.mosaics.layouts import Layout
from survey.steps.alignment import NO_SKY
from survey.steps.base import Job, Outcome, Step
from survey.steps.image3 import files
from survey.steps.image3.levels import SKIPPED_LEVEL, Level, Measured, SkyLevels, Statistics
from survey.steps.image3.members import apply_meta, read_description
from survey.steps.image3.numbers import typed, untyped
from survey.steps.image3.parts import parameters, part

Border = Sequence[Sequence[float]]  # right ascensions, declinations [deg]


def run(job: Job, step: Step) -> Outcome:
    """Measure the sky of an exposure, in all of it and in its overlaps with other exposures.

    Inputs: cal file, aligned description, layout. Product: ``<exposure>_<acid>_skystat.json``.
    """
    from stdatamodels.jwst import datamodels

    cal, aligned, layout_path = job.inputs
    layout = files.read_layout(layout_path)
    skymatch = part(job, "skymatch")
    found = Statistics()
    if not skymatch.skip and skymatch.skymethod != "user":
        number = next(index for index, member in enumerate(layout.members) if member.name == job.settings["exposure"])
        with datamodels.open(cal) as model:
            described = read_description(aligned)
            apply_meta(model, {key: value for key, value in described.meta.items() if ".background." in key})
            model.meta.wcs = described.wcs
            found = measure(model, skymatch, layout, number)
    path = job.path / files.SKY_STATISTICS.name(job.subject)
    found.write(path)
    return Outcome(((path.name, f"{step.folder}/{path.name}"),), {"skymatch": parameters(skymatch)})


def measure(model: Any, skymatch: Any, layout: Layout, number: int) -> Statistics:
    """Statistics of an exposure that stcal's skymatch needs; ``number`` is its index in the layout."""
    from astropy.nddata.bitmask import interpret_bit_flags
    from stcal.skymatch import SkyStats
    from stdatamodels.jwst.datamodels.dqflags import pixel

    skymatch._dqbits = interpret_bit_flags(skymatch.dqbits, flag_name_map=pixel)
    skymatch._skystat = SkyStats(
        skystat=skymatch.skystat,
        lower=skymatch.lower,
        upper=skymatch.upper,
        nclip=skymatch.nclip,
        lsig=skymatch.lsigma,
        usig=skymatch.usigma,
        binwidth=skymatch.binwidth,
    )
    image = skymatch._imodel2skyim(model, number)
    found = Statistics(typed(image.sky))
    if "match" in skymatch.skymethod:
        borders = [member.aligned.sky_border for member in layout.members]
        for group, indices in enumerate(layout.groups):
            if number in indices or not any(_near(borders[number], borders[index]) for index in indices):
                continue
            others = [_outline(borders[index]) for index in indices]
            overlap = others[0] if len(others) == 1 else _group_class()(others, group)
            found.overlaps[str(group)] = _plain(image.calc_sky(overlap=overlap, delta=False))
    if skymatch.skymethod != "match":
        found.whole = _plain(image.calc_sky(overlap=None, delta=False))
    return found


def border(wcs: Any, shape: tuple[int, int], stepsize: int | None) -> list[list[float]]:
    """The outline of an exposure on the sky, as computed by skymatch."""
    import numpy as np
    from stcal.skymatch import SkyImage

    drawn: list[Any] = []

    def draw(x: Any, y: Any, **pars: Any) -> Any:
        drawn.append(wcs(x, y, **pars))
        return drawn[-1]

    empty = np.broadcast_to(np.zeros((), bool), shape)
    SkyImage(image=empty, mask=empty, wcs_fwd=draw, wcs_inv=None, skystat=None, stepsize=stepsize)
    return [[float(value) for value in values] for values in drawn[-1]]


def solve(job: Job, step: Step) -> Outcome:
    """Solve the sky levels of all members from their statistics.

    Inputs: layout, then the statistics of each member, in order. Product: ``<product>_sky.json`` with {exposure:
    {level, status, deltas}}; deltas are to be subtracted from the pixels, in order.
    """
    layout_path, *paths = job.inputs
    layout = files.read_layout(layout_path)
    skymatch = part(job, "skymatch")
    names = [member.name for member in layout.members]
    found: dict[str, Level]
    if skymatch.skip:
        found = dict.fromkeys(names, SKIPPED_LEVEL)
    elif skymatch.skymethod == "user":
        found = _user_levels(skymatch, names, layout)
    else:
        found = _solve(skymatch, layout, [Statistics.read(path) for path in paths])
    path = job.path / files.SKY.name(job.subject)
    SkyLevels(skymatch.skymethod, skymatch.subtract, found).write(path)
    lost = () if skymatch.skip else tuple(name for name, item in found.items() if not item.is_matched)
    levels = [item.level[0] for item in found.values() if item.level is not None]
    return Outcome(
        ((path.name, f"{step.folder}/{path.name}"),),
        {"skymatch": parameters(skymatch)},
        {"matched": len(levels), "largest_level": max(levels, default=0.0)},
        notices=(Notice("skymatch", True, NO_SKY, lost),) if lost else (),
    )


def _solve(skymatch: Any, layout: Layout, measured: Sequence[Statistics]) -> dict[str, Level]:
    from stcal.skymatch import skymatch as match

    members = [_recorded_class()(item, member.name) for item, member in zip(measured, layout.members, strict=True)]
    images = []
    for number, indices in enumerate(layout.groups):
        for index in indices:
            members[index].number = number
        images.append(
            members[indices[0]] if len(indices) == 1 else _group_class()([members[i] for i in indices], number)
        )
    match(images, skymethod=skymatch.skymethod, match_down=skymatch.match_down, subtract=skymatch.subtract)
    return {
        # A datamodel keeps a level as a float of Python; pixels minus it are in single precision.
        member.sky_id: Level(typed(float(member.sky)), deltas=tuple(member.image.deltas))
        if member.is_sky_valid
        else SKIPPED_LEVEL
        for member in members
    }


def _user_levels(skymatch: Any, names: Sequence[str], layout: Layout) -> dict[str, Level]:
    """Levels from the list in the config, read by the step itself; it needs only the names of the models."""
    from jwst.datamodels import ModelLibrary
    from stdatamodels.jwst.datamodels import ImageModel

    models = []
    for member in layout.members:
        model = ImageModel((1, 1))
        model.meta.filename = member.aligned.filename
        models.append(model)
    subtract, skymatch.subtract = skymatch.subtract, False
    library = skymatch.run(ModelLibrary(models))
    skymatch.subtract = subtract
    found = {}
    with library:
        for name, model in zip(names, library, strict=True):
            level = typed(model.meta.background.level)
            found[name] = Level(level, deltas=(level,) if subtract else ())
            library.shelve(model, modify=False)
    return found


def set_background(model: Any, sky: SkyLevels, name: str) -> None:
    """Write the sky level of a member to its datamodel, and subtract it from the pixels if the config says so."""
    found = sky.members[name]
    if found.is_matched:
        model.meta.background.method = sky.method
        model.meta.background.level = found.value
        model.meta.background.subtracted = sky.subtracted
        for delta in found.subtractions:
            model.data -= delta
    model.meta.cal_step.skymatch = found.status


class _Deltas:
    """A replacement for the pixels of an image, which stores the values that skymatch subtracts."""

    def __init__(self) -> None:
        self.deltas: list[Any] = []

    def __isub__(self, delta: Any) -> _Deltas:
        self.deltas.append(typed(delta))
        return self


@cache
def _recorded_class() -> type:
    from stcal.skymatch import SkyImage

    class Recorded(SkyImage):  # type: ignore[misc]
        """An image with stored statistics."""

        def __init__(self, measured: Statistics, name: str):
            self._measured = measured
            self.sky_id = name
            self.sky = untyped(measured.start)
            self.is_sky_valid = False
            self.image = _Deltas()
            self.number = -1

        def calc_sky(self, overlap: Any = None, delta: bool = True) -> tuple[float | None, int, float]:
            if overlap is None:
                found = self._measured.whole
            else:
                number = overlap.number if isinstance(overlap, Recorded) else overlap.sky_id
                found = self._measured.overlaps.get(str(number))
            if found is None or found[0] is None:
                return None, 0, 0.0
            sky = untyped(found[0])
            return sky - self.sky if delta else sky, found[1], found[2]

    return Recorded


@cache
def _group_class() -> type:
    from stcal.skymatch import SkyGroup

    class Group(SkyGroup):  # type: ignore[misc]
        """A group without the union of its outlines, which takes long to compute and is not used."""

        def __init__(self, images: Sequence[Any], sky_id: int):
            self._images = images
            self.sky_id = sky_id
            self._sky = 0.0

    return Group


def _outline(found: Border) -> Any:
    """An image with an outline only."""
    import numpy as np
    from stcal.skymatch import SkyImage

    ra, dec = (np.array(values) for values in found)
    empty = np.zeros((1, 1), bool)
    return SkyImage(image=empty, mask=empty, wcs_fwd=lambda *_x, **_k: (ra, dec), wcs_inv=None, skystat=None)


def _near(first: Border, second: Border) -> bool:
    """Whether two outlines may overlap, by the circles around them."""
    one, other = _circle(first), _circle(second)
    return math.dist(one[0], other[0]) <= 1.01 * (one[1] + other[1]) + 1e-9


def _circle(found: Border) -> tuple[tuple[float, float, float], float]:
    points = []
    for ra, dec in zip(*found, strict=True):
        a, d = math.radians(ra), math.radians(dec)
        points.append((math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)))
    middle = tuple(sum(values) / len(points) for values in zip(*points, strict=True))
    return (middle[0], middle[1], middle[2]), max(math.dist(middle, point) for point in points)


def _plain(found: tuple[Any, Any, Any]) -> Measured:
    sky, pixels, area = found
    if sky is None:
        return None, 0, 0.0
    if not math.isfinite(sky):
        raise TaskError(f"sky statistics returned {sky}, expected a finite number.")
    return typed(sky), int(pixels), float(area)
