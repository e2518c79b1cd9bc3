"""Inputs that nobody of this project wrote, made by hypothesis, and what reads them: for the quick and the long fuzz.

A reader may refuse an input with the errors that it documents; anything else is a crash. `TARGETS` names every reader.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from hypothesis import strategies as st
from observatory import write_raw

import survey.cli.main
from survey.archive.headers import DamagedFileError, read_primary_header
from survey.archive.http import retry_after_seconds
from survey.archive.ledger import Ledger
from survey.archive.local import read_exposure
from survey.archive.rows import merge, needed, read_parent, read_product
from survey.archive.structure import check_structure
from survey.errors import ConfigError, ProductNameError
from survey.models import Product, TaskRecord, to_json
from survey.mosaics.association_files import read_association
from survey.names import parse_exposure, parse_mosaic, split_file
from survey.reduction.load import load_config
from survey.references.lookup import KEYWORDS
from survey.workspace.records import read_record, record_path

EXPOSURE = "jw01345001001_02201_00001_nrcb1"
PRODUCT = "jw01345-o001_t001_nircam_clear-f200w"
EXIT_CODES = {0, 1, 2, 3, 4, 5, 130}

CONFIG: dict[str, Any] = {
    "survey": "fuzz",
    "program": 1345,
    "observations": [1, 2],
    "filters": ["F200W", "F444W"],
    "archive": {"local": "raw", "timeout_seconds": 5, "downloads": 2},
    "references": {"server": None, "context": "jwst_0001.pmap", "cache": "crds"},
    "steps": [{"detector1": {"jump": {"rejection_threshold": 4.0}}}, "subtract_striping", {"image2": {}}],
    "mosaic": {
        "engine": "tiled", "tile": 512, "per": ["filter"], "crval_deg": [214.8, 52.8], "crpix": [1.0, 2.0],
        "shape": [100, 90], "kernel": "square", "max_missing": 1,
        "image3": {"tweakreg": {"expand_refcat": True}, "resample": {"fillval": "NAN"}},
    },
    "workspace": "ws",
}  # fmt: skip
ASSOCIATION: dict[str, Any] = {
    "asn_type": "image3",
    "asn_rule": "x",
    "products": [
        {"name": PRODUCT, "members": [{"expname": f"{EXPOSURE}_cal.fits", "exptype": "science"},
                                      {"expname": f"{EXPOSURE[:-1]}2_cal.fits", "exptype": "science"}]},
    ],
}  # fmt: skip
_RECORD = to_json(
    TaskRecord(
        f"detector1/{EXPOSURE}", "detector1", EXPOSURE, "F200W", "0" * 64, "complete",
        (Product(f"stage1/{EXPOSURE}_rate.fits", "1" * 64, 10),), {f"raw/{EXPOSURE}_uncal.fits": "2" * 64},
        {"jump": {}}, {"jump": {"skip": False}}, {"gain": "g.fits"}, {"g.fits": "3" * 40}, (), "jwst_0001.pmap",
        {"jwst": "3.0.0"}, 1.5, 1.0, 0.5, 1.0, 1.0, "host", "2026-01-01T00:00:00Z", 1, {"rms": 0.5}, "", "",
    )
)  # fmt: skip
RECORD: dict[str, Any] = json.loads(json.dumps(_RECORD))
OBSERVATION: dict[str, Any] = {
    "obs_id": PRODUCT, "obsid": "90000001", "instrument_name": "NIRCAM/IMAGE", "filters": "F200W;CLEAR",
    "calib_level": 3, "s_region": "POLYGON ICRS 1 2 3 4 5 6", "t_min": 59934.5, "proposal_id": "1345",
    "obs_collection": "JWST", "dataproduct_type": "image",
}  # fmt: skip
FILE_ROW: dict[str, Any] = {
    "obsID": "90000002", "parent_obsid": "90000001", "dataURI": f"mast:JWST/product/{EXPOSURE}_uncal.fits",
    "productType": "SCIENCE", "productSubGroupDescription": "UNCAL", "calib_level": 1, "size": 14400,
    "productFilename": f"{EXPOSURE}_uncal.fits", "filters": "F200W;CLEAR",
}  # fmt: skip
LEDGER_LINE = {"name": f"{EXPOSURE}_uncal.fits", "size": 1, "sha256": "0" * 64, "uri": "x", "stat": [1, 2, 3, 4],
               "facts": {"filter": "F200W", "footprint": [[1, 2], [3, 4], [5, 6]]}}  # fmt: skip

ODD = ["", " ", "..", "../../etc/passwd", "/", "\0", "a\0b", "\ud800", "\x1b[2J", "\u202e", "jw\u0661", "NaN", "inf",
       "1e400", "0x10", "~", "~nobody", "${NONE}", "${", "*x", "&x", "!!python/name:os.system", "<<", "null", "a" * 300,
       "latest", "F200X", "imge2", f"{EXPOSURE}_cal.fits", PRODUCT, EXPOSURE]  # fmt: skip
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 10**9, 10**30, -(10**30), 2**63])
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(ODD)
)
_keys = st.text(max_size=8) | st.sampled_from([*ODD, "name", "settings", "skip", "jump", "steps", "0"])
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3), max_leaves=6
)


@st.composite
def changed(draw: st.DrawFn, base: Any, most: int = 4) -> Any:
    """A copy of plain values with some places replaced, removed, added to, or renamed by a letter."""
    document = {"top": copy.deepcopy(base)}
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(document))
        holder, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(["replace", "replace", "remove", "add", "rename"]))
        if action == "replace" or (holder is document and action != "add"):
            holder[key] = draw(_values)
        elif action == "remove":
            del holder[key]
        elif action == "add" and isinstance(holder[key], dict):
            holder[key][draw(_keys)] = draw(_values)
        elif action == "add" and isinstance(holder[key], list):
            holder[key].append(draw(_values))
        elif isinstance(holder, dict) and holder is not document:
            letter = draw(st.integers(0, max(0, len(str(key)) - 1)))
            holder[str(key)[:letter] + str(key)[letter + 1 :]] = holder.pop(key)
    return document["top"]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


@st.composite
def spliced(draw: st.DrawFn, base: bytes) -> bytes:
    """Bytes with some parts cut out, repeated, overwritten or put in."""
    content = base
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 8, 80, 2880])))
        piece = draw(st.binary(max_size=8) | st.sampled_from([text.encode("utf-8", "replace") for text in ODD]))
        piece = draw(st.sampled_from([piece, b"", content[start:end] * 2]))
        content = content[:start] + piece + content[end:]
    return content


def _as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _as_yaml(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value, sort_keys=False).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return _as_json(value)


@cache
def _raw_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_raw(Path(folder) / "x.fits", EXPOSURE, "NRCB1", "F200W")


def _files(base: Any, dump: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    return changed(base).map(dump) | spliced(dump(base)) | st.binary(max_size=60)


# --- readers: value, folder -> None; what they document as refusal is caught, the rest is a crash ---------------------


def read_a_config(content: bytes, folder: Path) -> None:
    path = folder / "c.yaml"
    path.write_bytes(content)
    try:
        load_config(path)
    except ConfigError as error:
        assert error.faults and str(error).replace("\n", "").isprintable(), str(error)
        assert all(fault.startswith(str(path)) for fault in error.faults), error.faults


def read_an_association(content: bytes, folder: Path) -> None:
    path = folder / "a_asn.json"
    path.write_bytes(content)
    try:
        found = read_association(path)
    except ConfigError as error:
        assert str(error).replace("\n", "").isprintable(), str(error)
        return
    assert all(str(parse_exposure(member)) == member for member in found.members)


def read_a_name(text: str, _folder: Path) -> None:
    for reader in (split_file, parse_exposure, parse_mosaic):
        with contextlib.suppress(ProductNameError):
            reader(text)


def read_a_record(content: bytes, folder: Path) -> None:
    path = record_path(folder, RECORD["key"])
    path.write_bytes(content)
    with contextlib.suppress(ValueError):
        record = read_record(path)
        json.dumps(to_json(record))
        assert record.key == RECORD["key"]


def read_rows(rows: tuple[Any, Any], _folder: Path) -> None:
    first, second = rows
    parent = read_parent(first, 1345) if isinstance(first, dict) else None
    good = read_parent(OBSERVATION, 1345)
    assert good is not None
    for one in (good, parent):
        if one is not None and isinstance(second, dict):
            needed([one, good], [1], {"F200W"})
            exposure = read_product(second, one, 1345)
            if exposure is not None:
                assert str(parse_exposure(exposure.name)) == exposure.name
                merge(exposure, exposure, one.is_exposure)


def read_a_fits_file(content: bytes, folder: Path) -> None:
    path = folder / f"{EXPOSURE}_uncal.fits"
    path.write_bytes(content)
    with contextlib.suppress(DamagedFileError):
        check_structure(path)
        read_exposure(path)
    with contextlib.suppress(DamagedFileError):
        read_primary_header(path).values(KEYWORDS.values())


def read_a_reply(header: str, _folder: Path) -> None:
    assert retry_after_seconds(header) >= 0


def read_a_ledger(content: bytes, folder: Path) -> None:
    (folder / "ledger.jsonl").write_bytes(content)
    for name in (ledger := Ledger(folder / "ledger.jsonl")).names():
        assert ledger.get(name) is not None


def command(folder: Path, *arguments: str) -> int:
    """The real entry point in this process; its streams are those of a terminal: UTF-8, strict on standard output."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["survey", *arguments]),
        mock.patch.object(survey.cli.main.signal, "signal"),
        mock.patch.object(survey.cli.main.gc, "freeze"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            survey.cli.main.console()
        except SystemExit as error:
            code = int(error.code or 0)
    out.flush()
    err.flush()
    said = err.buffer.getvalue().decode()
    assert code in EXIT_CODES and "Traceback" not in said, said
    assert code == 0 or said.strip(), f"exit code {code} without a word"
    return code


def run_on_a_config(content: bytes, folder: Path) -> None:
    (folder / "c.yaml").write_bytes(content)
    command(folder, "status", "c.yaml", "--workspace", str(folder / "ws"))


def run_on_an_association(content: bytes, folder: Path) -> None:
    (folder / "c.yaml").write_bytes(_as_yaml(CONFIG))
    (folder / "a_asn.json").write_bytes(content)
    assert command(folder, "mosaic", "c.yaml", "--asn", "a_asn.json", "--workspace", str(folder / "ws")) == 2


def run_on_a_record(content: bytes, folder: Path) -> None:
    (folder / "c.yaml").write_bytes(_as_yaml(CONFIG))
    records = folder / "ws" / "records"
    records.mkdir(parents=True, exist_ok=True)
    record_path(records, RECORD["key"]).write_bytes(content)
    for arguments in (["status"], ["status", "--json"], ["verify"], ["explain", f"{EXPOSURE}_rate.fits"]):
        command(folder, arguments[0], "c.yaml", *arguments[1:], "--workspace", str(folder / "ws"))


@dataclass(frozen=True)
class Target:
    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], None]
    quick: int = 60  # examples of the quick form


_names = st.sampled_from([f"{EXPOSURE}_uncal.fits", f"{PRODUCT}_i2d.fits", EXPOSURE, PRODUCT])
TARGETS = {
    "config": Target(_files(CONFIG, _as_yaml) | changed(CONFIG).map(_as_json), read_a_config, 100),
    "association": Target(_files(ASSOCIATION, _as_json), read_an_association),
    "name": Target(
        st.text(max_size=60) | _names.flatmap(lambda name: spliced(name.encode()).map(lambda it: it.decode("latin-1"))),
        read_a_name,
    ),
    "record": Target(_files(RECORD, _as_json), read_a_record),
    "row": Target(st.tuples(changed(OBSERVATION), changed(FILE_ROW)), read_rows),
    "fits": Target(
        st.deferred(lambda: spliced(_raw_file()) | st.binary(max_size=60)), read_a_fits_file
    ),
    "reply": Target(
        st.text(max_size=40) | spliced(b"Wed, 21 Oct 2026 07:28:00 GMT").map(lambda it: it.decode("latin-1")),
        read_a_reply,
    ),
    "ledger": Target(_files(LEDGER_LINE, _as_json), read_a_ledger),
    "command: config": Target(_files(CONFIG, _as_yaml), run_on_a_config, 20),
    "command: association": Target(_files(ASSOCIATION, _as_json), run_on_an_association, 15),
    "command: record": Target(_files(RECORD, _as_json), run_on_a_record, 15),
}  # fmt: skip
