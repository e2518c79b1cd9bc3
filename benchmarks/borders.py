"""The tiled engine's pixels at the borders of a mosaic: ``python benchmarks/borders.py [--cases 200] [--seed 1]``.

Made-up exposures, with random rotations, offsets, pixel scales and distortions, are put across the borders and corners
of a mosaic. Each mosaic is drizzled whole by the pipeline's resampler, and tile by tile as the tiled engine does it.
Printed, for each kind of geometry and setting of the resample step: elements compared, and those that differ by array,
of which beyond the last digits (more than 5e-7 relative, or in one of the two only), within 2 pixels of the mosaic's
border, and within 2 pixels of a tile's.

``--corners`` counts differing corners of pixels instead, without drizzling: 1e-14 pixels of a corner change one mosaic
pixel in millions, so that a difference is found in far fewer cases.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from measure import ROOT, say

sys.path.insert(0, str(ROOT / "tests"))
from drizzled import ARRAYS, distorted, left_outs, member, tile_alone, whole

from survey.mosaics.grid import Box, tiles
from survey.steps.image3.corners import corners_of, exact_map
from survey.steps.image3.drizzle import context_of_all
from survey.steps.image3.resampling import window_around

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "exptime": {"weight_type": "exptime"},
    "point": {"kernel": "point"},
    "gaussian": {"kernel": "gaussian"},
    "lanczos3": {"kernel": "lanczos3"},
    "turbo": {"kernel": "turbo"},
    "pixfrac 0.8": {"pixfrac": 0.8},
}
# How much a detector of 2048 pixels bends, as a quadratic term.
NIRCAM_BEND = 20 / 2048**2
LAST_DIGITS = 5e-7
NEAR_PX = 2


@dataclass(frozen=True)
class Case:
    """A mosaic of shape (ny, nx), the pixel maps of its exposures, and the side of its tiles."""

    shape: tuple[int, int]
    maps: list[Any]
    scale: float  # mosaic pixels per exposure pixel
    side: int

    @property
    def used(self) -> Box:
        ny, nx = self.maps[0].shape[:2]
        return Box(0, 0, nx, ny)


@dataclass
class Found:
    cases: int = 0
    elements: Counter[str] = field(default_factory=Counter)
    unequal: Counter[str] = field(default_factory=Counter)
    far_off: int = 0
    at_border: int = 0
    at_tile: int = 0
    at_fault: list[int] = field(default_factory=list)  # numbers of cases


def _across(rng: np.random.Generator, shape: tuple[int, int], pixmap: Any) -> Any:
    """A map moved so that its exposure crosses one border, or a corner, of a mosaic."""
    low, high = pixmap.min((0, 1)), pixmap.max((0, 1))
    size = np.array(shape[::-1], float)
    start = rng.uniform(-high + 4, size - low - 4)
    crossed = [int(rng.integers(2))] if rng.integers(3) else [0, 1]
    for axis in crossed:
        edge = -0.5 if rng.integers(2) else size[axis] - 0.5
        start[axis] = edge - (low[axis] + rng.uniform(0.02, 0.98) * (high[axis] - low[axis]))
        if not rng.integers(4):  # half-integer or integer positions
            start[axis] = np.round(2 * start[axis]) / 2
    return pixmap + start


def small(rng: np.random.Generator) -> Case:
    """Exposures of about 100 pixels, in any orientation."""
    shape = (int(rng.integers(40, 260)), int(rng.integers(40, 260)))
    frame, scale = (int(rng.integers(48, 160)), int(rng.integers(48, 160))), float(rng.choice([0.5, 0.97, 1.0, 2.03]))
    turn = float(rng.choice([0.0, rng.uniform(-0.05, 0.05), rng.uniform(0, 2 * np.pi)]))
    bend = float(rng.choice([0.0, NIRCAM_BEND, 3e-5]))
    maps = [_across(rng, shape, distorted(frame, (0, 0), turn + 0.01 * n, scale, bend)) for n in range(2)]
    return Case(shape, maps, scale, int(rng.choice([32, 70, 300])))


def long(rng: np.random.Generator) -> Case:
    """Strips of exposures of up to 2048 pixels, as NIRCam's, along or across a border."""
    frame = (int(rng.integers(30, 60)), int(rng.integers(700, 2048)))
    shape = (int(rng.integers(60, 200)), int(rng.integers(900, 2500)))
    if rng.integers(2):
        frame, shape = frame[::-1], shape[::-1]
    scale, turn = float(rng.choice([0.5, 0.97, 1.03])), float(rng.uniform(-0.02, 0.02))
    maps = [_across(rng, shape, distorted(frame, (0, 0), turn + 0.003 * n, scale, NIRCAM_BEND)) for n in range(2)]
    return Case(shape, maps, scale, int(rng.choice([128, 512, 4096])))


def far(rng: np.random.Generator) -> Case:
    """Exposures across the last border of a mosaic of 30,000 pixels, where coordinates have the fewest digits."""
    shape = (int(rng.integers(60, 90)), int(rng.integers(29000, 33500)))
    case = small(rng)
    last = np.array([shape[1] - case.shape[1], 0.0])
    maps = [pixmap + last for pixmap in case.maps]
    if rng.integers(2):
        shape, maps = shape[::-1], [np.ascontiguousarray(pixmap[..., ::-1].swapaxes(0, 1)) for pixmap in maps]
    return Case(shape, maps, case.scale, int(rng.choice([100, 1024, 40000])))


KINDS = {"small": small, "long": long, "far": far}


def compare(case: Case, number: int, found: Found, pars: dict[str, Any]) -> None:
    """Drizzle a case whole and by tiles, and count."""
    members = [member(10 * number + n, pixmap) for n, pixmap in enumerate(case.maps)]
    ratio = 1 / case.scale
    leftout = left_outs(members, case.used, case.shape, ratio)
    mosaic = whole(members, case.used, case.shape, ratio, **pars)
    mosaic["con"] = mosaic["con"].view("u4")
    found.cases += 1
    for tile in tiles(case.shape, case.side):
        made, inner, added = tile_alone(members, case.used, tile.box, case.shape, ratio, leftout, **pars)
        covered = mosaic["wht"][tile.box.slices] != 0
        if not added:
            found.unequal["wht"] += int(covered.sum())
            continue
        local = np.ascontiguousarray(made["con"][(slice(None), *inner)]).view("u4")
        parts = {name: made[name][inner] for name in ARRAYS if mosaic.get(name) is not None}
        parts["con"] = context_of_all(local, added, len(members))
        for name, ours in parts.items():
            theirs = mosaic[name][(..., *tile.box.slices)]
            _count(found, name, ours, theirs, int(covered.sum()), tile.box, case)
            if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f") and number not in found.at_fault:
                found.at_fault.append(number)


def _count(found: Found, name: str, ours: Any, theirs: Any, covered: int, box: Box, case: Case) -> None:
    found.elements[name] += covered
    same = (ours == theirs) | ((ours != ours) & (theirs != theirs))
    if same.all():
        return
    found.unequal[name] += int((~same).sum())
    y, x = np.nonzero(~same)[-2:]
    one, other = ours[~same].astype(float), theirs[~same].astype(float)
    found.far_off += int((~(np.abs(one - other) <= LAST_DIGITS * np.abs(other))).sum())
    rows, columns = box.shape
    inside = np.min([x, y, columns - 1 - x, rows - 1 - y], axis=0)
    found.at_tile += int((inside < NEAR_PX).sum())
    x, y = x + box.x0, y + box.y0
    found.at_border += int((np.min([x, y, case.shape[1] - 1 - x, case.shape[0] - 1 - y], axis=0) < NEAR_PX).sum())


def compare_corners(case: Case, found: Found) -> None:
    """Count corners that a tile's window changes, of pixels that overlap the tile."""
    for pixmap in case.maps:
        wanted = np.stack([corners_of(np.ascontiguousarray(pixmap[..., axis])) for axis in (0, 1)], axis=-1)
        for tile in tiles(case.shape, case.side):
            near = _corners_of_pixels_in(wanted, tile.box)
            if not near.any():
                continue
            window = window_around(tile.box, 8, Box(0, 0, case.shape[1], case.shape[0]), "square", case.scale)
            moved = exact_map(pixmap, (window.x0, window.y0))[:-1, :-1] * 0.25
            means = moved[:-1, :-1] + moved[:-1, 1:] + moved[1:, :-1] + moved[1:, 1:]
            found.elements["corners"] += 2 * int(near.sum())
            found.unequal["corners"] += int((means + np.array([window.x0, window.y0]) != wanted)[near].sum())
    found.cases += 1


def _corners_of_pixels_in(corners: Any, box: Box) -> Any:
    """Which corners belong to a pixel that overlaps a box: (ny + 1, nx + 1) of bool."""
    four = np.stack([corners[:-1, :-1], corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]])
    inside = (four.max(axis=0) > np.array([box.x0, box.y0]) - 0.5) & (
        four.min(axis=0) < np.array([box.x1, box.y1]) - 0.5
    )
    near = np.zeros(corners.shape[:2], bool)
    pixels = inside.all(axis=-1)
    for part in (near[:-1, :-1], near[:-1, 1:], near[1:, :-1], near[1:, 1:]):
        part |= pixels
    return near


def survey(kind: str, pars: dict[str, Any], given: argparse.Namespace) -> Found:
    found = Found()
    for number in range(given.first, given.first + given.cases):
        case = KINDS[kind](np.random.default_rng([given.seed, number]))
        if given.corners:
            compare_corners(case, found)
        else:
            compare(case, number, found, pars)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="of each kind of geometry and each setting")
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["default"])
    parser.add_argument("--corners", action="store_true", help="compare corners of pixels only")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    results: dict[str, dict[str, Any]] = {}
    for setting in given.settings:
        for kind in given.kinds:
            start = time.monotonic()
            found = survey(kind, SETTINGS[setting], given)
            unequal = {name: count for name, count in found.unequal.items() if count}
            results[f"{kind}, {setting}"] = {
                "cases": found.cases, "elements": found.elements.total(), "unequal": unequal, "far_off": found.far_off,
                "at_border": found.at_border, "at_tile": found.at_tile,
                "at_fault": found.at_fault[:20], "seconds": round(time.monotonic() - start),
            }  # fmt: skip
            say(f"{kind}, {setting}: {results[f'{kind}, {setting}']}")
    if given.json:
        print(json.dumps(results, indent=1))
        return
    for label, row in results.items():
        print(f"{label:24s}{row['cases']} mosaics, {row['elements']} elements; unequal: {row['unequal'] or 'none'}")


if __name__ == "__main__":
    main()
