"""The arrays of a mosaic: their names, types, fill values and units, in the zarr group and in the i2d file.

Both engines write these arrays, and `create_group` is the only place that lays them out in zarr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAN = float("nan")
CONTEXT_BITS = 32  # members in a plane of con


@dataclass(frozen=True)
class Array:
    """One array of a mosaic, of shape (ny, nx), or (planes, ny, nx) if it has planes."""

    name: str  # in the zarr group; in capitals, the extension of the FITS file
    dtype: str  # in the zarr group
    fill: float  # of pixels that no chunk holds
    unit_power: int  # its unit is the science unit to this power
    required: bool = False  # an i2d file without it is not a mosaic
    planes: bool = False  # context: bit i of plane p is set where member 32 p + i contributes

    @property
    def extension(self) -> str:
        """EXTNAME in the i2d file."""
        return self.name.upper()

    @property
    def attribute(self) -> str:
        """Name in the pipeline's datamodels."""
        return "data" if self.name == "sci" else self.name


ARRAYS: dict[str, Array] = {
    array.name: array
    for array in (
        Array("sci", "float32", NAN, 1, required=True),
        Array("err", "float32", NAN, 1),
        Array("wht", "float32", 0.0, 0, required=True),
        Array("con", "uint32", 0, 0, required=True, planes=True),
        Array("var_poisson", "float32", NAN, 2),
        Array("var_rnoise", "float32", NAN, 2),
        Array("var_flat", "float32", NAN, 2),
        Array("dq", "uint32", 0, 0),
    )
}


def context_planes(members: int) -> int:
    """Number of planes of con."""
    return (members - 1) // CONTEXT_BITS + 1


def create_group(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], chunk: tuple[int, int], fills: Mapping[str, float]
) -> Any:
    """Create a zarr group with arrays that hold no chunk yet; returns the zarr group, opened for writing.

    Parameters
    ----------
    folder : of the group; what is there is removed
    shapes : array -> shape, of names in `ARRAYS`
    chunk : rows and columns of a chunk; a chunk holds one plane
    fills : array -> fill value, where it is not that of `ARRAYS`
    """
    import zarr

    root = zarr.open_group(folder, mode="w", zarr_format=3)
    for name, shape in shapes.items():
        planes = len(shape) == 3
        root.create_array(
            name,
            shape=shape,
            chunks=(1, *chunk) if planes else chunk,
            dtype=ARRAYS[name].dtype,
            fill_value=fills.get(name, ARRAYS[name].fill),
            dimension_names=("plane", "y", "x") if planes else ("y", "x"),
        )
    return root
