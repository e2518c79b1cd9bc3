"""Provenance: all records as one xarray Dataset in provenance.zarr, and the lineage of a product.

The JSON files in ``records/`` are the source; the Dataset is made from them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survey.digest import digest, tree_sha256
from survey.models import TaskRecord, to_json
from survey.workspace.files import sync_folder, sync_tree, write_link

if TYPE_CHECKING:
    import xarray as xr

STORE = "provenance.zarr"
SNAPSHOTS = ".provenance"
NAMED_DIGITS = 32  # of its sha256, in the name of a snapshot
IDENTITY = "records_digest"  # attribute of a snapshot
# The same for any number of tasks, so that rows keep their place: a reader whose snapshot is replaced still gets the
# rows that it asked for.
CHUNK_ROWS = 16384

_TEXT = tuple("key step subject filter status digest host job started error error_class context".split())
_NUMBERS = ("seconds", "cpu_seconds", "peak_memory_gb", "memory_gb")  # float64
_PACKAGES = ("jwst", "stcal", "crds", "survey")  # a column each: jwst_version, ...
_JSON = tuple(
    "inputs settings resolved references sha1 missing products measurements versions machine environment "
    "notices".split()
)


# --- the run as a Dataset ---------------------------------------------------------------------------------------


def to_dataset(records: Iterable[TaskRecord], attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Records as one Dataset along the dimension ``task``, in the given order.

    Text is stored as str objects, numbers as float64 with the unit in ``attrs['units']``, ``attempts`` as int64, and
    nested fields (inputs, settings, resolved, references, products, measurements) as JSON text.
    """
    import numpy as np
    import xarray as xr

    rows = list(records)
    columns: dict[str, Any] = {name: _text(getattr(row, name) for row in rows) for name in _TEXT}
    columns |= {name: np.array([getattr(row, name) for row in rows], dtype="float64") for name in _NUMBERS}
    columns["attempts"] = np.array([row.attempts for row in rows], dtype="int64")
    columns |= {f"{name}_version": _text(row.versions.get(name, "") for row in rows) for name in _PACKAGES}
    plain = [to_json(row) for row in rows]
    columns |= {name: _text(json.dumps(row[name], sort_keys=True) for row in plain) for name in _JSON}
    dataset = xr.Dataset({name: ("task", column) for name, column in columns.items()}, attrs=dict(attrs or {}))
    for name in _NUMBERS:
        dataset[name].attrs["units"] = "GB" if name.endswith("_gb") else "s"
    return dataset.assign_coords(task=columns["key"])


def publish(workspace: Path, dataset: xr.Dataset) -> Path:
    """Replace ``provenance.zarr`` atomically: a reader, or a crash, sees the old dataset or the new one.

    A complete snapshot is written below ``.provenance/``. Then ``provenance.zarr``, a relative symbolic link, is
    switched to it, and older snapshots are removed.
    """
    folder = workspace / SNAPSHOTS
    if folder.is_symlink():  # never write to, or clear, what it leads to
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    link = workspace / STORE
    part = folder / f"{_next_number(folder):06d}-{uuid.uuid4().hex[:8]}.zarr"
    try:
        dataset.to_zarr(part, mode="w", zarr_format=3, consolidated=False, encoding=_encoding(dataset))
        sync_tree(part)
        snapshot = part.with_name(f"{part.stem.partition('-')[0]}-{tree_sha256(part)[0][:NAMED_DIGITS]}.zarr")
        os.rename(part, snapshot)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if link.is_dir() and not link.is_symlink():  # a copied workspace whose link became a folder
        shutil.rmtree(link)
    for stale in workspace.glob(f".{STORE}.*.part"):  # link of a killed process
        stale.unlink(missing_ok=True)
    write_link(link, os.path.join(SNAPSHOTS, snapshot.name))
    sync_folder(workspace)
    for old in filter(_is_snapshot, folder.iterdir()):
        if old.name != snapshot.name:
            shutil.rmtree(old, ignore_errors=True)
    return link


def fault(workspace: Path) -> str:
    """How ``provenance.zarr`` differs from what was written; '' if it does not, or was not written yet.

    The name of a snapshot holds the start of its sha256. A snapshot without ``provenance.zarr`` means that the link was
    removed.
    """
    link = workspace / STORE
    try:
        if not os.path.lexists(link):
            written = any(map(_is_whole, (workspace / SNAPSHOTS).glob("*.zarr")))
            return f"is missing, and {SNAPSHOTS} holds its content; run again to write it anew" if written else ""
        if link.exists() and not (link / "zarr.json").is_file():
            return "holds no Dataset; run again to write it anew"
        snapshot = link.resolve(strict=True)
        named, found = snapshot.stem.rpartition("-")[2], tree_sha256(snapshot)[0]
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}; run again to write it anew"
    if len(named) < NAMED_DIGITS or found.startswith(named):  # shorter: an earlier version, or a copied workspace
        return ""
    return "was changed since it was written; run again to write it anew"


class ProvenanceWriter:
    """Writes provenance.zarr while a run goes on.

    Parameters
    ----------
    workspace : folder of ``provenance.zarr``
    survey : name of the survey
    config : the resolved config, as JSON types; stored in the attributes of the Dataset
    records : records of tasks that were done before
    interval_seconds : shortest time between snapshots; longer if a snapshot takes so long that all of them would take
        more than about a twentieth of the run
    """

    def __init__(
        self,
        workspace: Path,
        survey: str,
        config: Mapping[str, Any],
        records: Iterable[TaskRecord] = (),
        interval_seconds: float = 5.0,
    ):
        self._workspace = workspace
        self._records = {record.key: record for record in records}
        self._attrs = {
            "survey": survey,
            "config": json.dumps(config, sort_keys=True),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._interval = interval_seconds
        self._wait = interval_seconds
        self._last = time.monotonic()
        self._changed = True

    def add(self, record: TaskRecord) -> None:
        """Add a record; writes a snapshot if enough time has passed since the last one."""
        self._records[record.key] = record
        self._changed = True
        if time.monotonic() - self._last >= self._wait:
            self.snapshot()

    def snapshot(self) -> None:
        """Publish the records so far."""
        began = time.monotonic()
        attrs = {**self._attrs, IDENTITY: self._identity()}
        publish(self._workspace, to_dataset(self._records.values(), attrs))
        self._last = time.monotonic()
        self._wait = max(self._interval, 20 * (self._last - began))
        self._changed = False

    def close(self) -> None:
        """Publish a last snapshot, unless the published one holds the same records."""
        if self._changed and (_stored_identity(self._workspace) != self._identity() or fault(self._workspace)):
            self.snapshot()

    def _identity(self) -> str:
        """Digest of the records and the config, stored with the snapshot that holds them."""
        rows = sorted((row.key, row.digest, row.status, row.started, row.error) for row in self._records.values())
        return digest([rows, self._attrs["survey"], self._attrs["config"]])

    def __enter__(self) -> ProvenanceWriter:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _stored_identity(workspace: Path) -> str | None:
    """The identity of the published snapshot; read without xarray, whose import takes a second."""
    try:
        metadata = json.loads((workspace / STORE / "zarr.json").read_bytes())
        return str(metadata["attributes"][IDENTITY])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- lineage ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lineage:
    """How a product was made: its record (None for a raw file), and the lineages of its inputs."""

    name: str  # key of the record, or the file's name
    record: TaskRecord | None
    digest: str  # as recorded by the product made from it; '' for the product itself
    parents: tuple[Lineage, ...] = ()

    def walk(self) -> Iterator[tuple[int, Lineage]]:
        """Yield (depth, node) for every node once, inputs after the product; tasks share inputs."""
        seen: set[str] = set()
        waiting: list[tuple[int, Lineage]] = [(0, self)]
        while waiting:
            depth, node = waiting.pop()
            if node.name in seen:
                continue
            seen.add(node.name)
            yield depth, node
            waiting += [(depth + 1, parent) for parent in reversed(node.parents)]

    def raw_files(self) -> tuple[str, ...]:
        """The raw files at the ends of the tree, sorted."""
        return tuple(sorted({node.name for _, node in self.walk() if node.record is None}))


def lineage(records: Mapping[str, TaskRecord], product: str) -> Lineage:
    """Trace a product back to its raw files.

    Parameters
    ----------
    records : by key
    product : path relative to the workspace (``mosaics/x_i2d.fits``, ``mosaics/mosaics.zarr/F444W``), a file name
        alone, or a record's key

    Raises
    ------
    KeyError
        No record has such a product; the message suggests similar names.
    """
    return _node(records, _maker(records, product.rstrip("/")), "", {})


def _maker(records: Mapping[str, TaskRecord], product: str) -> str:
    if product in records:
        return product
    made = {item.path: key for key, record in records.items() for item in record.products}
    if product in made:
        return made[product]
    same = sorted(path for path in made if path.rpartition("/")[2] == product)
    if len(same) == 1:
        return made[same[0]]
    if same:
        raise KeyError(f"{product}: {len(same)} products have this name ({', '.join(same[:4])}); give the path.")
    import difflib

    close = difflib.get_close_matches(product, made, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise KeyError(f"{product}: not a product of any of the {len(records)} records.{hint}")


def _node(records: Mapping[str, TaskRecord], name: str, digest: str, made: dict[str, Lineage | None]) -> Lineage:
    """``made`` holds the nodes so far; None marks one in progress, so that a cycle in the records ends."""
    record = records.get(name)
    known = made.get(name)
    if known is not None:
        return known
    if record is None or name in made:
        return Lineage(name, None, digest)
    made[name] = None
    parents = tuple(_node(records, parent, value, made) for parent, value in sorted(record.inputs.items()))
    node = made[name] = Lineage(name, record, digest, parents)
    return node


# --- storage ----------------------------------------------------------------------------------------------------


def _text(values: Iterable[str]) -> Any:
    import numpy as np

    # Objects become variable-length strings of zarr; zarr 3 does not specify fixed-width Unicode yet.
    return np.array(list(values), dtype=object)


def _encoding(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    return {str(name): {"chunks": (CHUNK_ROWS,)} for name in dataset.variables}


def _is_whole(path: Path) -> bool:
    """Whether a snapshot is complete: its name then holds its sha256."""
    return _is_snapshot(path) and len(path.stem.partition("-")[2]) == NAMED_DIGITS


def _is_snapshot(path: Path) -> bool:
    digits = rf"[0-9a-f]{{8}}|[0-9a-f]{{{NAMED_DIGITS}}}"  # random while it is written, then of its sha256
    return re.fullmatch(rf"\d{{6,}}-({digits})\.zarr", path.name, re.ASCII) is not None


def _next_number(folder: Path) -> int:
    numbers = [path.name.partition("-")[0] for path in folder.iterdir()]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=0)
