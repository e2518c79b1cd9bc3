"""The rows that the simulated archive tells: observations and products, as the MAST portal has them.

NIRCam imaging is told as level-3 rows (``jw01345-o001_t001_nircam_clear-f200w-sub320``) whose product lists hold every
member's products; with ``per_exposure`` also as one row per exposure. Around them stands what a real archive has too:
`c1000` rows that repeat the same files, planned rows, other instruments, previews, association and guide-star files.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from survey.errors import ConfigError
from survey.mosaics.enclosing import sky_hull
from survey.names import optical_elements

Row = dict[str, Any]

_TEXT, _REAL, _WHOLE = "string", "float", "int"
OBSERVATION_COLUMNS = {
    "intentType": _TEXT, "obs_collection": _TEXT, "provenance_name": _TEXT, "instrument_name": _TEXT,
    "project": _TEXT, "filters": _TEXT, "wavelength_region": _TEXT, "target_name": _TEXT,
    "target_classification": _TEXT, "obs_id": _TEXT, "s_ra": _REAL, "s_dec": _REAL, "dataproduct_type": _TEXT,
    "proposal_pi": _TEXT, "calib_level": _WHOLE, "t_min": _REAL, "t_max": _REAL, "t_exptime": _REAL,
    "em_min": _REAL, "em_max": _REAL, "obs_title": _TEXT, "t_obs_release": _REAL, "proposal_id": _TEXT,
    "proposal_type": _TEXT, "sequence_number": _WHOLE, "s_region": _TEXT, "jpegURL": _TEXT, "dataURL": _TEXT,
    "dataRights": _TEXT, "mtFlag": "boolean", "srcDen": _REAL, "obsid": _TEXT, "objID": _TEXT,
}  # fmt: skip
PRODUCT_COLUMNS = {
    "obsID": _TEXT, "obs_collection": _TEXT, "dataproduct_type": _TEXT, "obs_id": _TEXT, "description": _TEXT,
    "type": _TEXT, "dataURI": _TEXT, "productType": _TEXT, "productGroupDescription": _TEXT,
    "productSubGroupDescription": _TEXT, "productDocumentationURL": _TEXT, "project": _TEXT, "prvversion": _TEXT,
    "proposal_id": _TEXT, "productFilename": _TEXT, "size": _WHOLE, "parent_obsid": _TEXT, "dataRights": _TEXT,
    "calib_level": _WHOLE, "filters": _TEXT,
}  # fmt: skip
_CONTINUOUS = ("s_ra", "s_dec", "t_min", "t_max", "t_exptime", "em_min", "em_max", "t_obs_release", "srcDen")


@dataclass
class Archive:
    """All rows of a simulated archive; ``exposures`` by name as in ``exposures.json``."""

    exposures: dict[str, Row]
    observations: list[Row] = field(default_factory=list)
    products: dict[str, list[Row]] = field(default_factory=dict)  # obsid -> rows


def column_config(name: str) -> dict[str, dict[str, Any]] | None:
    """What ``columnsconfig`` answers for a service: column -> its description; None for a service not offered."""
    if "Products" in name:
        columns = PRODUCT_COLUMNS
    elif "Caom" in name:
        columns = OBSERVATION_COLUMNS
    else:
        return None
    config: dict[str, dict[str, Any]] = {}
    for column, kind in columns.items():
        config[column] = {"text": column, "type": kind, "vot.datatype": "double" if column in _CONTINUOUS else "char"}
        if kind == _WHOLE:
            config[column] |= {"vot.datatype": "int", "ignoreValue": -999}
    return config


def load_exposures(directory: Path) -> dict[str, Row]:
    """The exposures of a simulated observatory by name.

    Raises
    ------
    ConfigError
        The folder has no readable ``exposures.json``.
    """
    path = directory / "exposures.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {row["name"]: row for row in sorted(rows, key=lambda row: str(row["name"]))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not the exposure list of a simulated observatory ({type(error).__name__}: {error}). "
            "Make the folder with: survey simulate DIR"
        ) from error


def build_archive(exposures: dict[str, Row], *, per_exposure: bool = False) -> Archive:
    """Make all rows for these exposures.

    Parameters
    ----------
    exposures : by name, as `load_exposures` gives them
    per_exposure : also a level-2 row per exposure, with its time and footprint
    """
    archive = Archive(exposures)
    numbers = iter(range(90_000_001, 99_999_999))
    identity = {name: str(next(numbers)) for name in exposures}  # obsID of each exposure's own products
    grouped: dict[tuple[int, int, str, str, str], list[Row]] = {}
    programs: dict[tuple[int, str, str, str], list[Row]] = {}
    for row in exposures.values():
        optics = (row["filter"], row.get("pupil", "CLEAR"), row.get("subarray", "FULL"))
        grouped.setdefault((row["program"], row["observation"], *optics), []).append(row)
        programs.setdefault((row["program"], *optics), []).append(row)
    for (program, observation, *_), members in sorted(grouped.items()):
        _add_mosaic(archive, f"jw{program:05d}-o{observation:03d}", members, identity, str(next(numbers)))
    for (program, *_), members in sorted(programs.items()):
        _add_mosaic(archive, f"jw{program:05d}-c1000", members, identity, str(next(numbers)))
    if per_exposure:
        for row in exposures.values():
            _add_exposure(archive, row, identity)
    for program in sorted({row["program"] for row in exposures.values()}):
        _add_others(archive, program, next(iter(exposures.values())), numbers)
    return archive


def _add_mosaic(archive: Archive, stem: str, members: list[Row], identity: dict[str, str], obsid: str) -> None:
    first = members[0]
    elements = optical_elements(first["filter"], first.get("pupil", "CLEAR"))
    subarray = "" if first.get("subarray", "FULL") == "FULL" else f"-{first['subarray'].lower()}"
    name = f"{stem}_t001_nircam_{elements}{subarray}"
    observation = _observation(first, name, obsid, calib_level=3, s_region=_region(members), t_min=None)
    archive.observations.append(observation)
    rows = [_product(observation, obsid, _File(name, f"{name}_{suffix}", kind, group), obsid)
            for suffix, kind, group in (("i2d.fits", "SCIENCE", "I2D"), ("i2d.jpg", "PREVIEW", "I2D"),
                                        ("asn.json", "INFO", "ASN"), ("cat.ecsv", "SCIENCE", "CAT"))]  # fmt: skip
    for number, member in enumerate(members):
        rows += _exposure_products(observation, member, identity[member["name"]], obsid, with_size=number % 4 != 3)
    rows.append(dict(rows[-1]))  # the archive repeats rows
    rows.append(dict(next(row for row in rows if row["productSubGroupDescription"] == "UNCAL")))
    rows += _planned_products(observation, first, obsid)
    archive.products[obsid] = rows


def _add_exposure(archive: Archive, row: Row, identity: dict[str, str]) -> None:
    obsid = identity[row["name"]]
    start = row.get("start_mjd")
    observation = _observation(row, row["name"], obsid, calib_level=2, s_region=_region([row]), t_min=start)
    archive.observations.append(observation)
    archive.products[obsid] = _exposure_products(observation, row, obsid, obsid, with_size=True)


def _add_others(archive: Archive, program: int, like: Row, numbers: Iterator[int]) -> None:
    """Rows of the same program that are no NIRCam images, and what is only planned."""
    stem = f"jw{program:05d}"
    public = {**like, "program": program, "proprietary": False}
    grism = (f"{stem}-o005_t001_nircam_f444w-grismr", "NIRCAM/GRISM", "F444W;GRISMR", 3)
    others = (
        (f"{stem}-o003_t003_miri_f770w", "MIRI/IMAGE", "F770W", 3, f"{stem}003001_02101_00001_mirimage"),
        (f"{stem}-o004_s00001_nirspec_clear-prism", "NIRSPEC/MSA", "CLEAR;PRISM", 3, f"{stem}004001_03101_00001_nrs1"),
        (*grism, f"{stem}005001_02101_00001_nrcalong"),
        (f"{stem}006001_xx101_00001_nircam", "NIRCAM/IMAGE", like["filter"], -1, f"{stem}006001_xx101_00001_nrcb1"),
    )
    for name, instrument, filters, level, member in others:
        obsid = str(next(numbers))
        observation = _observation(public, name, obsid, calib_level=level, s_region=None, t_min=None)
        observation |= {"instrument_name": instrument, "filters": filters}
        archive.observations.append(observation)
        product = _product(observation, obsid, _File(member, f"{member}_uncal.fits", "SCIENCE", "UNCAL"), obsid)
        product["calib_level"] = level if level < 0 else 1
        archive.products[obsid] = [product]


def _observation(like: Row, name: str, obsid: str, *, calib_level: int, s_region: str | None, t_min: Any) -> Row:
    pupil = like.get("pupil", "CLEAR")
    return dict.fromkeys(OBSERVATION_COLUMNS) | {
        "intentType": "science",
        "obs_collection": "JWST",
        "provenance_name": "CALJWST",
        "instrument_name": "NIRCAM/IMAGE",
        "project": "JWST",
        "filters": like["filter"] if pupil == "CLEAR" else f"{like['filter']};{pupil}",
        "wavelength_region": "INFRARED",
        "target_name": like.get("target", ""),
        "obs_id": name,
        "s_ra": like.get("ra_deg"),
        "s_dec": like.get("dec_deg"),
        "dataproduct_type": "image",
        "calib_level": calib_level,
        "t_min": t_min,
        "t_exptime": like.get("exposure_time_s"),
        "proposal_id": str(like["program"]),
        "proposal_type": "ERS",
        "s_region": s_region,
        "dataURL": f"mast:JWST/product/{name}_i2d.fits" if calib_level == 3 else None,
        "dataRights": _rights(like),
        "mtFlag": False,
        "obsid": obsid,
        "objID": obsid,
    }


class _File(NamedTuple):
    """A file of the archive: the name of what it belongs to, its own name, and what kind of product it is."""

    owner: str
    name: str
    kind: str  # productType: SCIENCE, PREVIEW, INFO, AUXILIARY
    group: str  # productSubGroupDescription: UNCAL, RATE, CAL, I2D ...
    size: int | None = None  # [bytes]


def _product(observation: Row, identity: str, file: _File, parent: str) -> Row:
    return dict.fromkeys(PRODUCT_COLUMNS) | {
        "obsID": identity,
        "obs_collection": "JWST",
        "dataproduct_type": "image",
        "obs_id": file.owner,
        "description": "simulated",
        "type": "S",
        "dataURI": f"mast:JWST/product/{file.name}",
        "productType": file.kind,
        "productSubGroupDescription": file.group,
        "project": "CALJWST",
        "proposal_id": observation["proposal_id"],
        "productFilename": file.name,
        "size": file.size,
        "parent_obsid": parent,
        "dataRights": observation["dataRights"],
        "calib_level": {"UNCAL": 1, "RATE": 2, "CAL": 2}.get(file.group, 3),
        "filters": observation["filters"],
    }


def _exposure_products(observation: Row, row: Row, identity: str, parent: str, *, with_size: bool) -> list[Row]:
    name = row["name"]
    guide = f"jw{row['program']:05d}{row['observation']:03d}{row.get('visit', 1):03d}_gs-fg_2022355000000"
    files = (
        _File(name, f"{name}_uncal.fits", "SCIENCE", "UNCAL", row.get("size") if with_size else None),
        _File(name, f"{name}_uncal.jpg", "PREVIEW", "UNCAL", 4000),
        _File(name, f"{name}_rate.fits", "SCIENCE", "RATE", 8000),
        _File(name, f"{name}_cal.fits", "SCIENCE", "CAL", 9000),
        _File(name, f"{name}_cal.jpg", "PREVIEW", "CAL", None),
        _File(guide, f"{guide}_stream_cal.fits", "AUXILIARY", "GS-FG", 7000),
    )
    rights = {"dataRights": _rights(row)}  # the exposure's own, also in a c1000 row that joins observations
    return [_product(observation, identity, file, parent) | rights for file in files]


def _rights(row: Row) -> str:
    return "EXCLUSIVE_ACCESS" if row.get("proprietary") else "PUBLIC"


def _planned_products(observation: Row, like: Row, parent: str) -> list[Row]:
    name = f"jw{like['program']:05d}{like['observation']:03d}001_xx101_00001_{like['detector'].lower()}"
    row = _product(observation, parent, _File(name, f"{name}_uncal.fits", "SCIENCE", "UNCAL"), parent)
    return [row | {"calib_level": -1}]


def _region(rows: Iterable[Row]) -> str | None:
    """The outline of exposures: the footprint of one, a polygon around several."""
    footprints = [[(float(ra), float(dec)) for ra, dec in row["footprint"]] for row in rows if row.get("footprint")]
    corners = footprints[0] if len(footprints) == 1 else sky_hull([point for item in footprints for point in item])
    return "POLYGON ICRS " + " ".join(f"{ra:.9f} {dec:.9f}" for ra, dec in corners) if corners else None


def filter_rows(rows: Iterable[Row], filters: Iterable[Row]) -> list[Row]:
    """Rows that pass the portal's filters: values (ignoring case), free text with ``%``, or min and max."""
    kept = list(rows)
    for entry in filters:
        kept = [row for row in kept if _passes(row.get(entry["paramName"]), entry)]
    return kept


def _passes(value: Any, entry: Row) -> bool:
    text = "" if value is None else str(value).lower()
    free = entry.get("freeText")
    if free and fnmatch.fnmatchcase(text, free.lower().replace("%", "*")):
        return True
    for wanted in entry.get("values") or ():
        if isinstance(wanted, dict):
            if value is not None and float(wanted["min"]) <= float(value) <= float(wanted["max"]):
                return True
        elif text == str(wanted).lower():
            return True
    return False


def page_of(rows: list[Row], columns: dict[str, str], page: int, page_size: int) -> dict[str, Any]:
    """One page of the portal's answer, columns described and pages counted."""
    page, page_size = max(1, page), max(1, page_size)
    pages = max(1, -(-len(rows) // page_size))
    part = rows[(page - 1) * page_size : page * page_size]
    return {
        "status": "COMPLETE",
        "msg": "",
        "data": part,
        "fields": [{"name": name, "type": kind} for name, kind in columns.items()],
        "paging": {
            "page": page,
            "pageSize": page_size,
            "pagesFiltered": pages,
            "rows": len(part),
            "rowsFiltered": len(rows),
            "rowsTotal": len(rows),
        },
    }
