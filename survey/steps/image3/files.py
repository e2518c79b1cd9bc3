"""Names of the files that the steps of a tiled mosaic exchange; the planner and the steps use these and no others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from survey.errors import TaskError
from survey.mosaics import layouts
from survey.mosaics.layouts import Layout


@dataclass(frozen=True)
class File:
    """A kind of file, one for each subject of a step."""

    suffix: str
    folder: str = "stage3"  # of the workspace

    def name(self, subject: str) -> str:
        return f"{subject}_{self.suffix}"

    def path(self, subject: str) -> str:
        """Its path in the workspace."""
        return f"{self.folder}/{subject}_{self.suffix}"

    def subject(self, name: str) -> str:
        """The subject in the name of a file of this kind.

        Raises
        ------
        ValueError
            The file is of another kind.
        """
        if not name.endswith(f"_{self.suffix}"):
            raise ValueError(f"{name}: expected a name that ends with _{self.suffix}.")
        return name.removesuffix(f"_{self.suffix}")


class Inputs:
    """The input files of a job, by kind and subject."""

    def __init__(self, paths: Iterable[str]):
        self._paths = {Path(path).name: path for path in paths}

    def has(self, file: File, subject: str) -> bool:
        return file.name(subject) in self._paths

    def path(self, file: File, subject: str) -> str:
        """Path of the file of a subject.

        Raises
        ------
        TaskError
            The file is not among the inputs.
        """
        name = file.name(subject)
        if name not in self._paths:
            raise TaskError(f"{name} is not among the {len(self._paths)} inputs of this task.")
        return self._paths[name]

    def calibrated(self, exposure: str) -> str:
        """Path of the calibrated file of an exposure, whatever the suffix of the step that made it.

        Raises
        ------
        TaskError
            There is none among the inputs.
        """
        for name, path in self._paths.items():
            if name.startswith(f"{exposure}_") and name.endswith(".fits"):
                return path
        raise TaskError(f"{exposure}: its calibrated file is not among the {len(self._paths)} inputs of this task.")


# Of an exposure, for all mosaics
CAL = File("cal.fits", "stage2")
CATALOG = File("cat.ecsv")  # sources: x, y [0-based pixels], flux
DESCRIPTION = File("member.asdf")  # header, WCS and shape, without pixels
# Of a mosaic
ASSOCIATION = File("asn.json", "asn")
LAYOUT = File(layouts.SUFFIX, layouts.FOLDER)
GRID = File("grid.asdf")  # WCS of the grids
SOURCES = File("sources.ecsv")  # aligned sources of all members: RA, DEC [deg], flux
SKY = File("sky.json")  # sky level of each member
I2D = File("i2d.fits", "mosaics")
# Of an exposure in a mosaic: `member_subject`
WCS = File("wcs.asdf")  # DESCRIPTION with the aligned WCS
SKY_STATISTICS = File("skystat.json")
PIXMAP = File("pixmap.npy")  # position of each of its pixels in the mosaic
OUTLIER_MAP = File("outliermap.npy")  # the same on the grid of outlier detection, if that differs
LEFT_OUT = File("leftout.npy")  # its pixels that drizzle omits at the border of the mosaic
CRF = File("crf.fits")
# Of a group and of a tile: `group_subject`, `tile_subject`
GROUP_I2D = File("outlier_i2d.npy")
MEDIAN = File("median.npy")
DETECTED = File("detected.npz")  # in a first pass: where sources are in a tile


def member_subject(exposure: str, acid: str) -> str:
    """Subject of a task on one exposure of a mosaic; ``acid`` is the association's id, such as 'a3001'."""
    return f"{exposure}_{acid}"


def group_subject(product: str, number: int) -> str:
    """Subject of a task on one group; ``number`` is its index in the layout."""
    return f"{product}_g{number:05d}"


def tile_subject(product: str, tile: str) -> str:
    """Subject of a task on one tile; ``tile`` is its name, such as 'x003y012'."""
    return f"{product}_{tile}"


def read_layout(path: str) -> Layout:
    """Read the layout that the alignment wrote."""
    return Layout.from_json(json.loads(Path(path).read_text()))
