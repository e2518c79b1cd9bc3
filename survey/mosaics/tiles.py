"""Tiles of a mosaic in its zarr group, and the FITS file that is streamed from them.

A tile is one chunk of each array, so that no two writers share a file; tiles without data are not written. The metadata
of the group, with the attribute ``complete``, are written last: without them, neither zarr nor xarray opens the group.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from survey.errors import TaskError
from survey.mosaics.arrays import ARRAYS, create_group
from survey.mosaics.grid import Box, Tile
from survey.workspace.files import sync_folder

BLOCK = 2880  # bytes of a FITS block
SIGN_BIT = 2**31


def create(
    folder: Path, shape: tuple[int, int], side: int, names: Sequence[str], planes: int, fill: float = float("nan")
) -> Any:
    """Create the group of a mosaic, whose chunks are tiles.

    Parameters
    ----------
    folder : of the group
    shape : (ny, nx) of the mosaic [pixels]
    side : of a tile [pixels]
    names : arrays of the group
    planes : of the context, con
    fill : value of sci where no tile has data
    """
    shapes = {name: (planes, *shape) if ARRAYS[name].planes else shape for name in names}
    return create_group(folder, shapes, (side, side), {"sci": fill})


def write_tile(root: Any, tile: Tile, arrays: Mapping[str, Any]) -> list[str]:
    """Write the arrays of a tile, one chunk each.

    A chunk is written even if it holds only the fill value, so that a tile has all of its files or none. Of con, only
    planes with bits are written.

    Returns
    -------
    files : paths of the chunk files, relative to the group's folder
    """
    import zarr

    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, values in arrays.items():
            if name != "con":
                root[name][tile.box.slices] = values
        planes = [plane for plane, bits in enumerate(arrays.get("con", ())) if bits.any()]
        for plane in planes:
            root["con"][(plane, *tile.box.slices)] = arrays["con"][plane].view("uint32")
    return chunk_files(list(arrays), tile, planes)


def chunk_files(names: Sequence[str], tile: Tile, planes: Iterable[int]) -> list[str]:
    """Paths of a tile's chunk files, relative to the group's folder; of con, those of the given planes."""
    made = [f"{name}/c/{tile.iy}/{tile.ix}" for name in names if name != "con"]
    return made + [f"con/c/{plane}/{tile.iy}/{tile.ix}" for plane in planes if "con" in names]


def link_chunks(folder: Path, group: Path, names: Iterable[str]) -> None:
    """Link the chunks of a group beside metadata of `create`, so that zarr can read them before the group is complete.

    Parameters
    ----------
    folder : with the metadata
    group : with the chunks
    names : arrays
    """
    for name in names:
        if (group / name / "c").is_dir():
            (folder / name / "c").symlink_to(group / name / "c")


def uncommit(group: Path) -> None:
    """Remove the metadata that make a group complete, before one of its tiles is replaced."""
    if (group / "zarr.json").exists():
        (group / "zarr.json").unlink(missing_ok=True)
        sync_folder(group)


def remove_old_chunks(group: Path, names: Sequence[str], wanted: Sequence[Tile], planes: int) -> int:
    """Remove chunks and arrays that do not belong to a mosaic, such as those of an earlier grid.

    Returns
    -------
    removed : number of files

    Raises
    ------
    TaskError
        The group is a link; nothing is removed through it.
    """
    if group.is_symlink() or group.parent.is_symlink():
        raise TaskError(f"{group}: the group or its store is a link, expected a folder of the workspace. Remove it.")
    keep = {file for tile in wanted for file in chunk_files(names, tile, range(planes))}
    keep |= {"zarr.json", *(f"{name}/zarr.json" for name in names)}
    removed = 0
    for path in sorted(group.rglob("*")):
        if path.is_file() and path.relative_to(group).as_posix() not in keep:
            path.unlink()
            removed += 1
    for path in sorted(group.glob("*")):
        if path.is_symlink():
            path.unlink()
        elif path.is_dir() and path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
    return removed


def bands(shape: tuple[int, int], rows: int) -> Iterator[Box]:
    """Divide a grid into bands of ``rows`` whole rows."""
    for y in range(0, shape[0], rows):
        yield Box(0, y, shape[1], min(y + rows, shape[0]))


def stream_fits(path: Path, hdus: Any, arrays: Mapping[str, Any], rows: int) -> None:
    """Write a FITS file whose images are read from zarr, one band of rows at a time.

    Parameters
    ----------
    path : of the file
    hdus : HDUList of astropy, with headers of the right shapes; data of the HDUs in ``arrays`` are not read
    arrays : extension name -> zarr array (y, x) or (plane, y, x)
    rows : rows of a band
    """
    with open(path, "wb") as stream:
        for hdu in hdus:
            if hdu.name not in arrays:
                _write_whole(stream, hdu)
                continue
            stream.write(hdu.header.tostring().encode("ascii"))
            size = 0
            for block in _blocks(arrays[hdu.name], rows, "BZERO" in hdu.header):
                stream.write(block)
                size += len(block)
            stream.write(b"\0" * (-size % BLOCK))


def _write_whole(stream: Any, hdu: Any) -> None:
    import io

    from astropy.io import fits

    # astropy writes the first HDU of a list as a primary one; that of an extension is dropped again.
    lone = fits.HDUList([hdu]) if isinstance(hdu, fits.PrimaryHDU) else fits.HDUList([fits.PrimaryHDU(), hdu])
    buffer = io.BytesIO()
    lone.writeto(buffer, output_verify="silentfix")
    content = buffer.getvalue()
    stream.write(content if isinstance(hdu, fits.PrimaryHDU) else content[_primary_bytes() :])


def _primary_bytes() -> int:
    from astropy.io import fits

    header = fits.PrimaryHDU().header
    header["EXTEND"] = True
    return len(header.tostring())


def _blocks(array: Any, rows: int, shifted: bool) -> Iterator[Any]:
    """Bytes of the bands as FITS stores them. ``shifted``: unsigned integers, stored 2**31 lower (BZERO)."""
    shape = array.shape[-2:]
    for plane in range(array.shape[0]) if len(array.shape) == 3 else (None,):
        for band in bands(shape, rows):
            values = array[band.slices] if plane is None else array[(plane, *band.slices)]
            if values.dtype.kind in "ui":
                values = (values ^ values.dtype.type(SIGN_BIT) if shifted else values).view("int32")
            yield values.astype(">i4" if values.dtype.kind == "i" else ">f4").tobytes()


@contextlib.contextmanager
def empty_arrays(folder: Path, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> Iterator[dict[str, Any]]:
    """Arrays for making a header that depends on their shapes; maps of sparse files take neither memory nor disk."""
    import numpy as np

    made, paths = {}, []
    try:
        for name, (shape, dtype) in shapes.items():
            path = folder / f".{name}.sparse"
            paths.append(path)
            made[name] = np.memmap(path, dtype=dtype, mode="w+", shape=shape)
        yield made
    finally:
        made.clear()
        for path in paths:
            path.unlink(missing_ok=True)
