"""The layout of a mosaic: its grids and the place of each member on them, written as JSON by the alignment.

Before the alignment it is predicted: see `survey.mosaics.predictions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from survey.mosaics.grid import Box, Tile, touched
from survey.mosaics.sky_plane import LinearWcs
from survey.workspace.files import write_file
from survey.workspace.paths import is_file

FOLDER, SUFFIX = "stage3", "layout.json"  # of the file: <product>_layout.json
COPIES = "records/layouts"  # folder of copies
MAX_LAYOUT_BYTES = 256 * 1024 * 1024  # 20,000 members are 40 MB
MAX_SIDE_PX = 1_000_000  # of a grid in a file: 8 degrees at 0.03 arcsec; a damaged one could have too many tiles


@dataclass(frozen=True, slots=True)
class Aligned:
    """Facts of an exposure, besides its pixels, that steps after the alignment need."""

    group_id: str  # as the pipeline names the group
    shape: tuple[int, int]  # (ny, nx) of its image
    used: Box  # its pixels inside the bounding box of its WCS, which drizzle uses
    sky_border: Sequence[Sequence[float]]  # its outline: right ascensions, declinations [deg]
    # Header values; None if missing
    filename: str | None
    exposure_time: float | None  # this and the next four: [s], or MJD
    start_time: float | None
    end_time: float | None
    duration: float | None
    measurement_time: float | None
    pixelarea_steradians: float | None


@dataclass(frozen=True, slots=True)
class Member:
    """An exposure of a mosaic. A box is None if the exposure is outside of the grid."""

    name: str
    group: int  # exposures taken at the same time by several detectors form a group
    outlier: Box | None  # on the grid of outlier detection
    final: Box | None  # on the grid of the mosaic
    found: Aligned | None = None  # None in a prediction

    @property
    def aligned(self) -> Aligned:
        """The facts that the alignment found.

        Raises
        ------
        ValueError
            The layout is a prediction.
        """
        if self.found is None:
            raise ValueError(f"{self.name}: is not aligned yet; its place is a prediction.")
        return self.found


@dataclass(frozen=True, slots=True)
class Scale:
    """Pixel scale of a grid; numbers with their type, as written by `survey.steps.image3.numbers`."""

    arcsec: list[Any] | None  # side of a pixel [arcsec]
    ratio: list[Any] | None  # side of a pixel over that of the first member


@dataclass(frozen=True)
class Layout:
    """Grids and members of a mosaic.

    ``digest`` is that of the alignment task; '' for a prediction from footprints.
    """

    outlier_shape: tuple[int, int]  # (ny, nx) of the grid of outlier detection, the pipeline's default grid
    final_shape: tuple[int, int]  # (ny, nx) of the mosaic
    shared: bool  # both grids are the same
    members: tuple[Member, ...]
    digest: str = ""
    scales: Mapping[str, Scale] = field(default_factory=dict)  # of the grids 'final' and, if not shared, 'outlier'
    final_wcs: LinearWcs | None = None  # of the mosaic; None for a prediction, and if it is not linear
    corrected: int = 0  # members whose WCS the alignment corrected

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """Indices of the members of each group, in the order of their first members."""
        found: dict[int, list[int]] = {}
        for index, member in enumerate(self.members):
            found.setdefault(member.group, []).append(index)
        return [tuple(indices) for indices in found.values()]

    def group_box(self, indices: Iterable[int]) -> Box | None:
        """The box of a group of members on the grid of outlier detection."""
        boxes = [box for index in indices if (box := self.members[index].outlier) is not None]
        whole: Box | None = None
        for box in boxes:
            whole = box if whole is None else whole.around(box)
        return whole

    def final_tiles(self, side: int) -> dict[Tile, tuple[int, ...]]:
        """Tiles of the mosaic that members overlap, with the indices of these members."""
        return touched(self.final_shape, side, [member.final for member in self.members])

    def outlier_tiles(self, side: int) -> dict[Tile, tuple[int, ...]]:
        """Tiles of the outlier grid that groups overlap, with the indices of these groups."""
        return touched(self.outlier_shape, side, [self.group_box(indices) for indices in self.groups])

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON types, for `from_json`."""
        names = ("name", "group", "outlier", "final")
        facts: dict[str, Any] = {}
        if self.members and all(member.found is not None for member in self.members):
            facts = {
                "members": [_facts(member.aligned) for member in self.members],
                "pixel_scale_ratio": {name: scale.ratio for name, scale in self.scales.items()},
                "pixel_scale": {name: scale.arcsec for name, scale in self.scales.items()},
                "wcs": None if self.final_wcs is None else self.final_wcs.to_json(),
                "group_ids": [member.aligned.group_id for member in self.members],
                "corrected": self.corrected,
            }
        return {
            "outlier_shape": self.outlier_shape,
            "final_shape": self.final_shape,
            "shared": self.shared,
            "members": [{name: _plain(getattr(member, name)) for name in names} for member in self.members],
            "digest": self.digest,
            "facts": facts,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Read a layout; KeyError, TypeError or ValueError if the data are not one."""
        facts, items = data["facts"], data["members"]
        found: list[Aligned | None] = [None] * len(items)
        if "members" in facts:
            pairs = zip(facts["members"], facts["group_ids"], strict=True)
            found = [_aligned(values, group_id) for values, group_id in pairs]
        members = tuple(
            Member(str(item["name"]), int(item["group"]), _box(item["outlier"]), _box(item["final"]), aligned)
            for item, aligned in zip(items, found, strict=True)
        )
        shapes = [_shape(data[key]) for key in ("outlier_shape", "final_shape")]
        ratios = facts.get("pixel_scale_ratio", {})
        scales = {name: Scale(facts["pixel_scale"][name], ratio) for name, ratio in ratios.items()}
        return cls(
            shapes[0], shapes[1], bool(data["shared"]), members, str(data["digest"]), scales, _wcs(facts.get("wcs")),
            int(facts.get("corrected", 0)),
        )  # fmt: skip


_EXPOSURE = ("exposure_time", "start_time", "end_time", "duration", "measurement_time")


def _facts(aligned: Aligned) -> dict[str, Any]:
    """An aligned member as JSON types, without its group, which is in a list of its own."""
    used = aligned.used
    return {
        **{name: getattr(aligned, name) for name in _EXPOSURE},
        "filename": aligned.filename,
        "pixelarea_steradians": aligned.pixelarea_steradians,
        "shape": list(aligned.shape),
        "range": [used.x0, used.y0, used.x1, used.y1],
        "sky_border": aligned.sky_border,
    }


def _aligned(values: Mapping[str, Any], group_id: str) -> Aligned:
    names = (*_EXPOSURE, "filename", "pixelarea_steradians", "sky_border")
    ny, nx = values["shape"]
    return Aligned(
        group_id=group_id,
        shape=(int(ny), int(nx)),
        used=Box(*(int(edge) for edge in values["range"])),
        **{name: values[name] for name in names},
    )


def _wcs(values: Any) -> LinearWcs | None:
    """The grid of a mosaic; None if it is not linear, or missing as in layouts of version 0.1."""
    try:
        return LinearWcs.from_json(values)
    except (KeyError, TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Box) else value


def _box(value: Mapping[str, int] | None) -> Box | None:
    if value is None:
        return None
    if not all(type(edge) is int and abs(edge) <= MAX_SIDE_PX for edge in value.values()):
        raise ValueError(f"box: found {value}, expected whole pixels of at most {MAX_SIDE_PX}")
    return Box(**value)


def _shape(value: Sequence[Any]) -> tuple[int, int]:
    ny, nx = value
    if not all(type(side) is int and 0 <= side <= MAX_SIDE_PX for side in (ny, nx)):
        raise ValueError(f"shape: found {value}, expected two sides of at most {MAX_SIDE_PX} pixels")
    return ny, nx


def read_layout(root: Path, product: str) -> Layout | None:
    """The layout of a mosaic, or its copy beside the records; None if there is neither, or they cannot be read."""
    name = f"{product}_{SUFFIX}"
    return _read(root / FOLDER / name) or _read(root / COPIES / name)


def copy_layout(root: Path, product: str) -> None:
    """Keep a copy of a mosaic's layout beside the records.

    Without it, what depends on an alignment whose file was removed could not be planned, though it is done.
    """
    name = f"{product}_{SUFFIX}"
    (root / COPIES).mkdir(parents=True, exist_ok=True)
    write_file(root / COPIES / name, (root / FOLDER / name).read_bytes(), durable=False)


def _read(path: Path) -> Layout | None:
    try:
        if not is_file(path) or path.stat().st_size > MAX_LAYOUT_BYTES:
            return None
        return Layout.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def read_layouts(root: Path, products: Iterable[str]) -> dict[str, Layout]:
    """The layouts that exist, by product."""
    found = {product: read_layout(root, product) for product in products}
    return {product: layout for product, layout in found.items() if layout is not None}
