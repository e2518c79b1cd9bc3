"""Read and write level-3 association files."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from survey.errors import ConfigError, ProductNameError
from survey.messages import shown
from survey.models import Association, ListedMember
from survey.names import ExposureName, MosaicName, association_id, is_free_name, parse_exposure, parse_mosaic
from survey.nircam import DETECTORS, passband
from survey.workspace.files import write_file

ASN_TYPE = "image3"  # of a level-3 imaging association
ASN_TYPES = (ASN_TYPE, "None", "none")  # asn_from_list writes 'None'
SCIENCE = "science"  # the exptype that Image3 reads; it leaves out other members
# What jwst's ModelLibrary and tweakreg read of an association, of its product and of a member.
READ_KEYS = ("asn_id", "asn_pool", "products", "table_name")
READ_ATTRIBUTES = ("expname", "exptype", "group_id", "tweakreg_catalog")
# Attributes that the archive's associations have besides; the pipeline does not read them.
USUAL_ATTRIBUTES = ("exposerr", "asn_candidate")
MAX_FILE_BYTES = 8 * 1024 * 1024  # 20,000 members are 2 MB
MAX_MEMBERS = 20_000
MAX_FAULTS = 50  # that are listed of one file
MAX_NAMES = 3  # of members in a note

# Any name that starts with that of an exposure; products of these kinds are no calibrated images.
_EXPOSURE_FILE = re.compile(
    r"(?P<name>jw[0-9]{11}_[0-9a-z]{5}_[0-9]{5}(?:-seg[0-9]{3})?_[a-z0-9]{3,10})_(?P<suffix>[A-Za-z0-9._+-]{1,60})\.fits",
    re.ASCII,
)
_NOT_CALIBRATED = ("uncal", "ramp", "rate", "rateints", "dark", "trapsfilled", "calints", "i2d", "cat", "segm")
_TEXT = re.compile(r"[A-Za-z0-9][\x21-\x7e]{0,199}")


def write_association(association: Association, folder: Path, catalogs: Mapping[str, str] | None = None) -> Path:
    """Write ``<product>_asn.json`` with `jwst.associations`; members are listed as plain names of their cal files.

    Parameters
    ----------
    association : with the members' groups, if it comes from outside
    folder : created if missing
    catalogs : name of the file with a member's sources, relative to the folder
    """
    from jwst.associations.asn_from_list import asn_from_list
    from jwst.associations.lib.rules_level3 import Asn_Lv3Image

    made = asn_from_list(
        [f"{member}_cal.fits" for member in association.members], product_name=association.product, rule=Asn_Lv3Image
    )
    made["asn_type"] = ASN_TYPE
    made["program"] = f"{association.program:05d}"
    made["asn_id"] = association_id(association.product)
    if association.pool:
        made["asn_pool"] = association.pool
    if not is_free_name(association.product):
        made["target"] = f"t{parse_mosaic(association.product).target:03d}"
    groups = association.group_ids
    for name, member in zip(association.members, made["products"][0]["members"], strict=True):
        if name in groups:
            member["group_id"] = groups[name]
        if catalogs and name in catalogs:
            member["tweakreg_catalog"] = catalogs[name]
    _, text = made.dump(format="json")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{association.product}_asn.json"
    write_file(path, text + "\n", durable=False)
    return path


def read_association(path: Path | str, folder: Path | None = None) -> Association:
    """Read an existing level-3 association; its members keep their order.

    A member is the file of a calibrated NIRCam exposure, with any suffix, in the folder or a folder in it. Members
    whose exptype is not 'science' are left out, as the pipeline does. Rule and constraints are ignored.

    Parameters
    ----------
    path : of the association
    folder : of calibrated files; members can have absolute paths in it and in the folder of the association

    Returns
    -------
    association : ``notes`` says what was left out or ignored; ``filter`` is '' if the product has a free name

    Raises
    ------
    ConfigError
        The file has faults; the message lists up to 50.
    """
    path = Path(path)
    data = _read_json(path)
    faults: list[str] = []
    product, rows = _read_product(data, faults)
    name = _read_name(product, faults)
    notes: list[str] = []
    rows = _science(rows, faults, notes)
    places = [place.absolute() for place in (folder, path.parent) if place is not None]
    listed = [item for item in (_read_member(number, row, places, faults) for number, row in rows) if item is not None]
    counts = Counter(member.name for member in listed)
    faults += [f"member {member}: is listed {count} times." for member, count in counts.items() if count > 1]
    if faults or not (name or product):
        kept = faults[:MAX_FAULTS]
        if len(faults) > len(kept):
            kept.append(f"and {len(faults) - len(kept)} more.")
        raise ConfigError([f"{path.name}: {fault}" for fault in kept])
    notes += _ignored([row for _, row in rows])
    acid = "" if name is None else name.acid
    pool = data.get("asn_pool")
    return Association(
        product=str(name or product),
        filter="" if name is None else _filter_of(name.elements),
        field=acid if acid.startswith("o") else "all",
        members=tuple(member.name for member in listed),
        program=parse_exposure(listed[0].name).program if name is None else name.program,
        listed=tuple(listed),
        pool=pool if isinstance(pool, str) and pool != "none" and _TEXT.fullmatch(pool) else "",
        notes=tuple(f"{path.name}: {note}" for note in notes),
    )


def _filter_of(elements: str) -> str:
    """The filter that defines the passband of a pair of optical elements, as in `survey.models.Exposure`."""
    names = elements.upper().split("-")
    pair = passband(names)
    return pair[0] if pair else next((name for name in names if name != "CLEAR"), "CLEAR")


def _read_json(path: Path) -> Any:
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; expected a level-3 association (*_asn.json).")
        with open(path, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{path}: cannot be read ({error}).") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path.name}: larger than {MAX_FILE_BYTES} bytes; expected a level-3 association.")
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name}: not valid JSON ({error}).") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"the key {shown(twice[0])} is given twice in one object")
    return dict(pairs)


def _read_product(data: Any, faults: list[str]) -> tuple[Any, list[Any]]:
    """Name and members of the only product; (None, []) and a fault if there is none."""
    if not isinstance(data, dict):
        faults.append(f"found {type(data).__name__}, expected an object with 'products'.")
        return None, []
    kind = data.get("asn_type", ASN_TYPE)
    if kind not in ASN_TYPES:
        faults.append(f"asn_type: found {shown(kind)}, expected {ASN_TYPE!r}, a level-3 imaging association.")
    products = data.get("products")
    if not isinstance(products, list) or len(products) != 1 or not isinstance(products[0], dict):
        found = f"{len(products)} products" if isinstance(products, list) else type(products).__name__
        faults.append(f"products: found {found}, expected a list of one object; split the association.")
        return None, []
    members = products[0].get("members")
    if not isinstance(members, list) or not 1 <= len(members) <= MAX_MEMBERS:
        found = f"{len(members)} members" if isinstance(members, list) else type(members).__name__
        faults.append(f"members: found {found}, expected a list of 1 to {MAX_MEMBERS}.")
        members = []
    return products[0].get("name"), members


def _read_name(product: Any, faults: list[str]) -> MosaicName | None:
    """The name of the product; None if it is a free name, or a fault."""
    if product is None and faults:
        return None
    if not isinstance(product, str):
        faults.append(f"product name: found {shown(product)}, expected a text.")
        return None
    if is_free_name(product):
        return None
    try:
        name = parse_mosaic(product)
    except ProductNameError:
        faults.append(
            f"product name {shown(product, ascii_only=True)}: expected a level-3 product name of the archive, or a "
            "name of up to 100 letters, digits, '_', '-', '+' and '.', such as my_mosaic, that does not start like an "
            "exposure's or end like a tile's."
        )
        return None
    if name.instrument != "nircam":
        faults.append(f"product name {product}: instrument {name.instrument!r}, expected 'nircam'.")
    return name


def _science(rows: Sequence[Any], faults: list[str], notes: list[str]) -> list[tuple[int, Any]]:
    """The members that Image3 reads, with their numbers; a note names the others."""
    found, others = [], []
    for number, row in enumerate(rows, 1):
        kind = row.get("exptype") if isinstance(row, dict) else SCIENCE
        if isinstance(kind, str) and kind != SCIENCE and row.get("expname"):
            others.append((number, row))
        else:
            found.append((number, row))
    kinds = ", ".join(f"exptype {shown(row['exptype'])}" for _, row in others[:MAX_NAMES])
    if others and not found:
        faults.append(f"member {others[0][0]}: {kinds}, expected {SCIENCE!r}; no other member is left.")
    elif others:
        names = _some([shown(row["expname"], ascii_only=True) for _, row in others])
        notes.append(
            f"{len(others)} members are left out, as Image3 does, since they are not science: {names} ({kinds})."
        )
    return found


def _read_member(number: int, row: Any, folders: Sequence[Path], faults: list[str]) -> ListedMember | None:
    """A member of the file; None and a fault if it is wrong."""
    if not isinstance(row, dict) or not isinstance(row.get("expname"), str):
        faults.append(f"member {number}: expected an object with a text 'expname', found {shown(row)}.")
        return None
    if row.get("exptype") != SCIENCE:
        faults.append(f"member {number}: exptype {shown(row.get('exptype'))}, expected {SCIENCE!r}.")
    file = next((item for place in folders if (item := relative_file(row["expname"], place)) is not None), None)
    name = None if file is None else exposure_of(file)
    if file is None or name is None:
        faults.append(
            f"member {number}: {shown(row['expname'], ascii_only=True)}, expected the file of a calibrated NIRCam "
            "exposure in the association's folder, such as jw01345001001_02201_00001_nrcb1_cal.fits."
        )
        return None
    group, catalog = row.get("group_id", ""), row.get("tweakreg_catalog", "")
    if "group_id" in row and not (isinstance(group, str) and _TEXT.fullmatch(group)):
        faults.append(f"member {number} ({name}): group_id {shown(group)}, expected a text without spaces.")
        return None
    if "tweakreg_catalog" in row and not (catalog is None or isinstance(catalog, str)):
        faults.append(f"member {number} ({name}): tweakreg_catalog {shown(catalog)}, expected the name of a file.")
        return None
    listed = (catalog or "").strip() if "tweakreg_catalog" in row else None
    return ListedMember(str(name), file, group, listed)


def relative_file(file: str, folder: Path) -> str | None:
    """A file as it is listed, relative to a folder; None if its path leads out of the folder or is not plain.

    Links are not followed: the caller checks them before it opens the file.
    """
    if os.path.isabs(file):
        inside = os.path.relpath(os.path.normpath(file), os.path.normpath(folder)) if "\0" not in file else ".."
        return None if inside.split(os.sep)[0] == os.pardir else relative_file(Path(inside).as_posix(), folder)
    parts = file.split("/")
    if len(file) > 1000 or any(part in ("", "..") or not part.isprintable() or "\\" in part for part in parts):
        return None
    return posixpath.normpath(file)


def exposure_of(file: str) -> ExposureName | None:
    """The NIRCam exposure of a calibrated file, by the file's name; None if it is not one."""
    match = _EXPOSURE_FILE.fullmatch(posixpath.basename(file))
    if match is None or re.split(r"[_.]", match["suffix"])[-1] in _NOT_CALIBRATED:
        return None
    try:
        name = parse_exposure(match["name"])
    except ProductNameError:
        return None
    return name if name.detector in DETECTORS else None


def _ignored(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on attributes of members that the pipeline does not read."""
    known = (*READ_ATTRIBUTES, *USUAL_ATTRIBUTES)
    counts = Counter(key for row in rows for key in row if key not in known)
    return [
        f"{shown(key, ascii_only=True)} of {count} members is ignored: the pipeline does not read it."
        for key, count in sorted(counts.items())[:MAX_FAULTS]
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
