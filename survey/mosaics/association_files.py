"""Read and write level-3 association files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from survey.errors import ConfigError, ProductNameError
from survey.messages import shown
from survey.models import Association
from survey.names import ExposureName, MosaicName, parse_exposure, parse_mosaic
from survey.nircam import DETECTORS, passband
from survey.workspace.files import write_file

ASN_TYPE = "image3"  # of a level-3 imaging association
MAX_FILE_BYTES = 8 * 1024 * 1024  # 20,000 members are 2 MB
MAX_MEMBERS = 20_000
MAX_FAULTS = 50  # that are listed of one file

_EXPOSURE_FILE = re.compile(r"(?P<name>[a-z0-9_-]{1,80}?)(?:_cal|_[oacr]\d{3,4}_crf)\.fits", re.ASCII)


def write_association(association: Association, folder: Path) -> Path:
    """Write ``<product>_asn.json`` with `jwst.associations`; members are listed as plain names of their cal files."""
    from jwst.associations.asn_from_list import asn_from_list
    from jwst.associations.lib.rules_level3 import Asn_Lv3Image

    name = parse_mosaic(association.product)
    made = asn_from_list(
        [f"{member}_cal.fits" for member in association.members], product_name=association.product, rule=Asn_Lv3Image
    )
    made["asn_type"] = ASN_TYPE
    made["program"] = f"{name.program:05d}"
    made["asn_id"] = name.acid
    made["target"] = f"t{name.target:03d}"
    _, text = made.dump(format="json")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{association.product}_asn.json"
    write_file(path, text + "\n", durable=False)
    return path


def read_association(path: Path | str) -> Association:
    """Read an existing level-3 association; its members keep their order.

    Members must be plain names of NIRCam cal or crf files: a name with a folder is rejected. Pool, rule and constraints
    are ignored.

    Raises
    ------
    ConfigError
        The file has faults; the message lists up to 50.
    """
    path = Path(path)
    data = _read_json(path)
    faults: list[str] = []
    product, members = _read_product(data, faults)
    name = _read_name(product, faults)
    exposures = [_read_member(number, member, faults) for number, member in enumerate(members, 1)]
    names = [str(exposure) for exposure in exposures if exposure is not None]
    faults += [f"member {member}: is listed {count} times." for member, count in Counter(names).items() if count > 1]
    if faults or name is None:
        shown = faults[:MAX_FAULTS]
        if len(faults) > len(shown):
            shown.append(f"and {len(faults) - len(shown)} more.")
        raise ConfigError([f"{path.name}: {fault}" for fault in shown])
    return Association(
        product=str(name),
        filter=_filter_of(name.elements),
        field=name.acid if name.acid.startswith("o") else "all",
        members=tuple(names),
        program=name.program,
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
    if kind != ASN_TYPE:
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
    if product is None and faults:
        return None
    try:
        name = parse_mosaic(product) if isinstance(product, str) else None
    except ProductNameError as error:
        faults += [f"product name {fault}" for fault in error.faults]
        return None
    if name is None:
        faults.append(f"product name: found {shown(product)}, expected a text.")
    elif name.instrument != "nircam":
        faults.append(f"product name {product}: instrument {name.instrument!r}, expected 'nircam'.")
    return name


def _read_member(number: int, member: Any, faults: list[str]) -> ExposureName | None:
    if not isinstance(member, dict) or not isinstance(member.get("expname"), str):
        faults.append(f"member {number}: expected an object with a text 'expname', found {shown(member)}.")
        return None
    file, kind = member["expname"], member.get("exptype")
    if kind != "science":
        faults.append(f"member {number}: exptype {shown(kind)}, expected 'science'.")
    match = _EXPOSURE_FILE.fullmatch(file)
    try:
        name = parse_exposure(match["name"]) if match else None
    except ProductNameError:
        name = None
    if name is None or name.detector not in DETECTORS:
        faults.append(
            f"member {number}: {shown(file, ascii_only=True)}, expected the plain file name of a NIRCam exposure, "
            "such as jw01345001001_02201_00001_nrcb1_cal.fits."
        )
        return None
    return name
