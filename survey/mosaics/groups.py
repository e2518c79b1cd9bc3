"""Mosaics as zarr groups: write one from an i2d file, open it with xarray, and cut out a part by sky position.

xr.open_zarr("mosaics/mosaics.zarr", group="F444W", consolidated=False)["sci"]
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survey.errors import ConfigError, TaskError
from survey.messages import shown
from survey.mosaics.arrays import ARRAYS, create_group
from survey.workspace.files import replace_folder, sync_tree, write_file

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Header
    from astropy.wcs import WCS

ROOT_METADATA = b'{\n  "attributes": {},\n  "zarr_format": 3,\n  "node_type": "group"\n}'
CHUNK_PX = 2048  # 16 MB a float32 chunk
SCHEMA = 1  # of the group's arrays and attributes
_WCS_CARD = re.compile(
    r"WCSAXES|NAXIS[12]|C(?:TYPE|UNIT|RPIX|RVAL|DELT)[12]|(?:PC|CD)[12]_[12]|LONPOLE|LATPOLE|RADESYS|EQUINOX"
)
_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
# Keywords of the primary header that are copied to the attributes of a group.
_PRIMARY = {"SURVEY": "survey", "SVYDIGST": "digest", "CRDS_CTX": "context", "CAL_VER": "jwst_version",
            "FILTER": "filter", "PUPIL": "pupil", "SIMULATD": "simulated"}  # fmt: skip


def write_group(
    i2d: Path, store: Path, group: str, *, chunk: int = CHUNK_PX, attrs: Mapping[str, Any] | None = None
) -> Path:
    """Write an i2d file as one group of a zarr store; returns the group's folder.

    The arrays are those of `survey.mosaics.arrays`: float32 (y, x) with NaN for no data; ``con`` is uint32 (plane, y,
    x) with bit i of plane p set where member 32 p + i contributes, and ``dq`` uint32. One band of ``chunk`` rows is in
    memory at a time. The group is replaced atomically.

    Parameters
    ----------
    i2d : FITS file with SCI, WHT and CON; ERR, VAR_* and DQ are optional
    store : folder of the zarr store; created if missing
    group : name, such as the filter
    chunk : pixels on a side of a chunk
    attrs : JSON types, added to the group's attributes

    Raises
    ------
    TaskError
        The file is not a mosaic: an extension is missing or of another shape, or there is no celestial WCS.
    ConfigError
        ``group`` is not a plain name, or ``chunk`` is not positive.
    """
    if not _GROUP_NAME.fullmatch(group):
        raise ConfigError(f"group {shown(group)}: expected letters, digits, '_' and '-', such as F444W.")
    if chunk < 1:
        raise ConfigError(f"chunk {chunk}: expected a positive number of pixels.")
    ensure_store(store)
    for stale in store.glob(f".{group}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    part = store / f".{group}.{uuid.uuid4().hex[:8]}.part"
    try:
        _write(Path(i2d), part, chunk, dict(attrs or {}))
        sync_tree(part)
        replace_folder(part, store / group)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return store / group


def ensure_store(store: Path) -> None:
    """Create the root group of a store, so that zarr can list its groups; one that was changed is replaced.

    Raises
    ------
    ConfigError
        The store is a link.
    """
    if store.is_symlink():
        raise ConfigError(f"{store}: is a link; expected a folder of the workspace. Remove the link.")
    path = store / "zarr.json"
    store.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != ROOT_METADATA:
        write_file(path, ROOT_METADATA, durable=False)


def open_group(store: Path | str, group: str) -> xr.Dataset:
    """Open a mosaic; pixels are read when they are used.

    Raises
    ------
    ConfigError
        There is no such group, or it is incomplete.
    """
    import xarray as xr

    folder = Path(store) / group
    if not _GROUP_NAME.fullmatch(group) or not (folder / "zarr.json").is_file():
        there = sorted(path.parent.name for path in Path(store).glob("[!.]*/zarr.json"))
        raise ConfigError(f"{store}: no mosaic {shown(group)}; there are {', '.join(there) or 'none'}.")
    dataset = xr.open_zarr(store, group=group, consolidated=False, chunks=None, zarr_format=3)
    if dataset.attrs.get("complete") is not True:
        raise ConfigError(f"{folder}: is incomplete; remove it and run again.")
    return dataset


def open_mosaic(folder: Path | str) -> xr.Dataset:
    """Open a mosaic by the folder of its group, such as mosaics/mosaics.zarr/F444W; see `open_group`."""
    return open_group(Path(folder).parent, Path(folder).name)


def read_wcs(mosaic: xr.Dataset | xr.DataArray) -> WCS:
    """The celestial WCS of a mosaic, of one of its arrays, or of a cutout; the first pixel is (0, 0)."""
    from astropy.wcs import WCS

    return WCS(_header(mosaic))


def cutout(
    store: Path | str,
    group: str,
    ra: float,
    dec: float,
    *,
    size_px: int | None = None,
    size_arcsec: float | None = None,
) -> xr.Dataset:
    """Cut out a square around a sky position, with its own WCS, clipped at the edge of the mosaic.

    Parameters
    ----------
    ra, dec : ICRS [deg]
    size_px, size_arcsec : side of the square; give one of the two

    Returns
    -------
    cutout : Dataset whose pixels are read when they are used

    Raises
    ------
    ConfigError
        Neither or both sizes are given, there is no such group, or the square lies outside of the mosaic.
    """
    import numpy as np

    if (size_px is None) == (size_arcsec is None):
        raise ConfigError("cutout: give either size_px or size_arcsec.")
    mosaic = open_group(store, group)
    if size_px is None:
        size_px = round(float(size_arcsec or 0) / float(mosaic.attrs["pixel_scale_arcsec"]))
    if size_px < 1:
        raise ConfigError(f"cutout: a side of {size_px} pixels; expected at least 1.")
    x, y = (float(value) for value in read_wcs(mosaic).all_world2pix(ra, dec, 0))
    ny, nx = mosaic["sci"].shape
    inside = np.isfinite(x) and np.isfinite(y) and -size_px / 2 < x + 0.5 < nx + size_px / 2
    if not inside or not -size_px / 2 < y + 0.5 < ny + size_px / 2:
        raise ConfigError(
            f"cutout: ({ra}, {dec}) deg is at pixel ({x:.1f}, {y:.1f}), outside of {group}'s {nx} x {ny}."
        )
    left, bottom = (int(np.floor(value + 0.5 - (size_px - 1) / 2)) for value in (x, y))
    columns = slice(max(left, 0), min(left + size_px, nx))
    rows = slice(max(bottom, 0), min(bottom + size_px, ny))
    if columns.start >= columns.stop or rows.start >= rows.stop:
        raise ConfigError(f"cutout: ({ra}, {dec}) deg: the square has no pixel of {group}.")
    return _shift_wcs(mosaic.isel(x=columns, y=rows), columns, rows)


def exposures_at(mosaic: xr.Dataset | Path | str, ra: float, dec: float) -> tuple[str, ...]:
    """Names of the exposures that contribute to the pixel at a sky position, by the context planes.

    Parameters
    ----------
    mosaic : as opened by `open_group` or xarray, a cutout of it, or the folder of a group: mosaics/mosaics.zarr/F444W
    ra, dec : ICRS [deg]

    Returns
    -------
    names : in the association's order; empty where no exposure contributes

    Raises
    ------
    ConfigError
        The position is outside of the mosaic, or the mosaic has no context planes.
    """
    import numpy as np

    found = open_mosaic(mosaic) if isinstance(mosaic, (str, Path)) else mosaic
    if "con" not in found:
        raise ConfigError("exposures_at: this mosaic has no context planes (enable_ctx: false).")
    x, y = (float(value) for value in read_wcs(found).all_world2pix(ra, dec, 0))
    ny, nx = found["sci"].shape
    if not (np.isfinite(x) and np.isfinite(y) and -0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5):
        raise ConfigError(f"exposures_at: ({ra}, {dec}) deg is at pixel ({x:.1f}, {y:.1f}), outside of {nx} x {ny}.")
    context = found["con"][..., int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]
    words = np.atleast_1d(context.values).astype("<u4")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")  # one for each member, then those not used
    return tuple(name for name, bit in zip(found.attrs["members"], bits, strict=False) if bit)


# --- writing ----------------------------------------------------------------------------------------------------


def _write(i2d: Path, folder: Path, chunk: int, attrs: dict[str, Any]) -> None:
    from astropy.io import fits

    try:
        opened = fits.open(i2d, memmap=False, lazy_load_hdus=True)
    except OSError as error:
        raise TaskError(f"{i2d.name}: not a FITS file ({error}).") from error
    with opened as hdus:
        shape = _check(i2d.name, hdus)
        found = group_attributes(hdus, i2d.name, shape)
        shapes = {name: hdus[array.extension].shape for name, array in ARRAYS.items() if array.extension in hdus}
        root = create_group(folder, shapes, (min(chunk, shape[0]), min(chunk, shape[1])), {"wht": float("nan")})
        for name in shapes:
            root[name].attrs.update(found["arrays"][name])
            _copy(hdus[ARRAYS[name].extension], root[name], chunk)
        root.attrs.update(found["group"] | attrs)
        root.attrs["complete"] = True  # last: a group without it is incomplete


def group_attributes(hdus: Any, source: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Attributes of a group and of its arrays, from the headers of an i2d file.

    Returns
    -------
    attributes : {"group": {...}, "arrays": {name: {...}}}
    """
    header, primary = hdus["SCI"].header, hdus[0].header
    cards = {card.keyword: card.value for card in header.cards if _WCS_CARD.fullmatch(card.keyword)}
    text, unit = _to_text(cards), str(header.get("BUNIT", "MJy/sr")).strip()
    units = {0: "", 1: unit, 2: f"({unit})**2"}
    facts = {name: _plain(primary[key]) for key, name in _PRIMARY.items() if key in primary}
    facts |= {"units": unit, "source": source, "shape": [int(side) for side in shape], "schema": SCHEMA}
    facts |= {"wcs": cards, "wcs_header": text, "pixel_scale_arcsec": _pixel_scale(cards)}
    arrays = {name: {"units": units[array.unit_power], "wcs_header": text} for name, array in ARRAYS.items()}
    return {"group": facts, "arrays": arrays}


def _check(name: str, hdus: Any) -> tuple[int, int]:
    extensions = [array.extension for array in ARRAYS.values()]
    missing = [array.extension for array in ARRAYS.values() if array.required and array.extension not in hdus]
    if missing:
        raise TaskError(f"{name}: no extension {', '.join(missing)}; expected an i2d file of the pipeline.")
    shape = hdus["SCI"].shape
    odd = {key: hdus[key].shape for key in extensions if key in hdus and hdus[key].shape[-2:] != shape}
    if len(shape) != 2 or 0 in shape or odd:
        raise TaskError(f"{name}: SCI has shape {shape}, and {odd or 'no other'} differ; expected one image shape.")
    header = hdus["SCI"].header
    kinds = [str(header.get(f"CTYPE{axis}", "")) for axis in (1, 2)]
    if not (kinds[0].startswith("RA--") and kinds[1].startswith("DEC-")):
        raise TaskError(f"{name}: SCI has the axes {kinds}, expected a celestial WCS (RA---TAN, DEC--TAN).")
    return shape


def _copy(hdu: Any, array: Any, chunk: int) -> None:
    """Copy pixels in bands of whole chunks; signed integers of CON keep their bits."""
    ny, nx = hdu.shape[-2:]
    for plane in range(hdu.shape[0]) if len(hdu.shape) == 3 else (None,):
        for y in range(0, ny, chunk):
            rows = slice(y, min(y + chunk, ny))
            band = hdu.section[rows, :] if plane is None else hdu.section[plane, rows, :]
            for x in range(0, nx, chunk):
                block = band[:, x : x + chunk].astype(array.dtype)
                where = (rows, slice(x, x + block.shape[1]))
                array[where if plane is None else (plane, *where)] = block


# --- WCS --------------------------------------------------------------------------------------------------------


def _to_text(cards: Mapping[str, Any]) -> str:
    """Header cards as text, for ``WCS(fits.Header.fromstring(text))``."""
    from astropy.io import fits

    # A header with NAXIS1 needs NAXIS.
    return fits.Header([("NAXIS", 2), *cards.items()]).tostring(endcard=False, padding=False)


def _header(mosaic: xr.Dataset | xr.DataArray) -> Header:
    from astropy.io import fits

    text = mosaic.attrs.get("wcs_header")
    if not isinstance(text, str):
        raise ConfigError("the attribute 'wcs_header' is missing; expected a mosaic, or one of its arrays.")
    return fits.Header.fromstring(text)


def _pixel_scale(cards: Mapping[str, Any]) -> float:
    """Square root of the area of the reference pixel [arcsec]."""
    from astropy.io import fits
    from astropy.wcs import WCS
    from astropy.wcs.utils import proj_plane_pixel_area

    return float(proj_plane_pixel_area(WCS(fits.Header.fromstring(_to_text(cards)))) ** 0.5 * 3600)


def _shift_wcs(mosaic: xr.Dataset, columns: slice, rows: slice) -> xr.Dataset:
    cards = dict(mosaic.attrs["wcs"])
    cards |= {"CRPIX1": cards["CRPIX1"] - columns.start, "CRPIX2": cards["CRPIX2"] - rows.start}
    cards |= {"NAXIS1": columns.stop - columns.start, "NAXIS2": rows.stop - rows.start}
    text = _to_text(cards)
    shape = [cards["NAXIS2"], cards["NAXIS1"]]
    window = {"wcs": cards, "wcs_header": text, "shape": shape, "corner": [rows.start, columns.start]}
    made = mosaic.assign_attrs(window)
    for name in made.data_vars:
        made[name] = made[name].assign_attrs(wcs_header=text)
    return made


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) else str(value)
