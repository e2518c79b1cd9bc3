"""The result of a CRDS look-up: reference files of each exposure, kept as JSON so that a rerun skips the look-up."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from survey.archive.headers import DamagedFileError, read_primary_header
from survey.digest import file_sha1
from survey.errors import ReferencesError
from survey.models import CatalogFile
from survey.references.cache import plain_path, stat_signature
from survey.references.messages import NOT_FOUND
from survey.workspace.files import disk_full_named, write_file

_FORMAT = 2
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ReferencesError)


@dataclass(frozen=True)
class References:
    """The reference files of a set of exposures under one context. Plain JSON types."""

    context: str
    cache: str
    groups: tuple[Mapping[str, str], ...]  # reference type -> file, 'N/A' or 'NOT FOUND <why>'
    exposures: Mapping[str, int]  # exposure name -> its group
    files: Mapping[str, str]  # reference file -> SHA-1
    paths: Mapping[str, str]  # reference file -> path below the cache
    mappings: Mapping[str, str]  # rule file -> SHA-1
    # Of mosaics whose alignment needs one: product -> {first exposure: file}. Not part of the record of a look-up.
    catalogs: Mapping[str, Mapping[str, CatalogFile]] = field(default_factory=dict, compare=False)

    def of(self, exposure: str) -> Mapping[str, str]:
        """All types of one exposure: file, 'N/A' or 'NOT FOUND <why>'.

        Raises
        ------
        ReferencesError
            The exposure was not part of the sync.
        """
        if exposure not in self.exposures:
            raise ReferencesError(f"{exposure}: no references were looked up for it; run: survey refs CONFIG")
        return self.groups[self.exposures[exposure]]

    def for_step(self, exposure: str, types: Iterable[str]) -> dict[str, str]:
        """Reference type -> file name, of the types for which the rules name a file."""
        found = self.of(exposure)
        return {kind: found[kind] for kind in sorted(types) if found.get(kind) in self.files}

    def not_found(self, exposure: str, types: Iterable[str]) -> dict[str, str]:
        """Types for which the rules should name a file and do not -> why. A step that needs one of them fails."""
        found = self.of(exposure)
        return {kind: found[kind] for kind in sorted(types) if found.get(kind, "").startswith(NOT_FOUND)}

    def only(self, names: Iterable[str]) -> References:
        """The references of some of the exposures."""
        exposures = {name: self.exposures[name] for name in names}
        used = sorted(set(exposures.values()))
        groups = tuple(self.groups[number] for number in used)
        files = {name for group in groups for name in group.values()}
        return replace(
            self,
            groups=groups,
            exposures={name: used.index(number) for name, number in exposures.items()},
            files={name: sha1 for name, sha1 in self.files.items() if name in files},
            paths={name: path for name, path in self.paths.items() if name in files},
        )

    def joined(self, other: References) -> References:
        """These references and those of further exposures, under the same context."""
        shift = len(self.groups)
        return replace(
            self,
            groups=(*self.groups, *other.groups),
            exposures={**self.exposures, **{name: shift + number for name, number in other.exposures.items()}},
            files={**self.files, **other.files},
            paths={**self.paths, **other.paths},
            mappings={**self.mappings, **other.mappings},
        )

    def path(self, file: str) -> Path:
        """Where the cache holds a reference file."""
        return Path(self.cache) / self.paths[file]

    def to_json(self) -> dict[str, Any]:
        """The fields as values that JSON knows."""
        return {name: value for name, value in asdict(self).items() if name != "catalogs"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> References:
        """The references in a JSON document.

        Raises
        ------
        TypeError, ValueError
            It does not hold references.
        """
        found = cls(**{**data, "groups": tuple(data["groups"])})
        texts = (*found.groups, found.files, found.paths, found.mappings)
        if not all(
            isinstance(names, dict) and all(isinstance(name, str) for name in names.values()) for names in texts
        ):
            raise ValueError("groups, files, paths and mappings: expected a text for each name")
        known = range(len(found.groups))
        if not all(type(group) is int and group in known for group in found.exposures.values()):
            raise ValueError(f"exposures: expected the number of one of {len(known)} groups for each")
        return found


@dataclass(frozen=True)
class Question:
    """What a result depends on, except the files in the cache."""

    # Exposure name -> file whose primary header is read; None: the file is gone, and the recorded answer counts.
    raw: Mapping[str, Path | None]
    context: str
    cache: Path
    types: tuple[str, ...] | None

    @property
    def asked(self) -> dict[str, Any]:
        """The question without its exposures, as JSON. Folders are no part of it: a moved workspace asks the same."""
        versions = {name: importlib.metadata.version(name) for name in ("crds", "jwst")}
        return {"format": _FORMAT, "context": self.context, "types": list(self.types or ()), "versions": versions}


def _header_sha1(path: Path) -> str:
    """SHA-1 of a FITS file's primary header, which is all that a look-up reads; '' when there is none."""
    try:
        return hashlib.sha1(read_primary_header(path).content).hexdigest()
    except (OSError, DamagedFileError):
        return ""


def _answered(question: Question, headers: Mapping[str, Any]) -> list[str]:
    """Exposures of a question whose headers are those of a record.

    A header is read only if size, times or inode of the file are not the recorded ones.
    """
    found = []
    for name, path in question.raw.items():
        known = headers.get(name)
        if known is None:
            continue
        if (
            path is None
            or stat_signature(path) == known["stat"]
            or (known["sha1"] and _header_sha1(path) == known["sha1"])
        ):
            found.append(name)
    return found


def _held_stats(references: References) -> dict[str, list[int] | None]:
    """Stat signatures of every file of a result, and of crds' own configuration."""
    paths = {*references.paths.values(), *(f"mappings/jwst/{name}" for name in references.mappings)}
    paths |= {"config/jwst/server_config"}
    return {path: stat_signature(Path(references.cache) / path) for path in sorted(paths)}


def _read(record: Path | None, question: Question) -> tuple[dict[str, Any], References] | None:
    """A record's content and its answers to a question, for the exposures that it has; None if it is for another one.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ReferencesError
        The record is missing or damaged.
    """
    content = json.loads(Path(record).read_text(encoding="ascii")) if record is not None else {}
    if content.get("asked") != question.asked:
        return None
    references = References.from_json(content["references"])
    if not all(map(plain_path, references.paths.values())):
        return None
    names = [name for name in _answered(question, content["headers"]) if name in references.exposures]
    return content, replace(references.only(names), cache=str(question.cache))


def read_record(record: Path | None, question: Question) -> References | None:
    """The result in a record, if it answers a question for all its exposures, and the cache has the same files.

    Workspace and cache may have been moved or copied. Files of which only the times changed are read again, and their
    content decides.
    """
    try:
        found = _read(record, question)
        if found is None or found[1].exposures.keys() != question.raw.keys():
            return None
        content, references = found
        stats = _held_stats(references)
        stats.pop("config/jwst/server_config")
        sha1 = {references.paths[name]: value for name, value in references.files.items()}
        sha1 |= {f"mappings/jwst/{name}": value for name, value in references.mappings.items()}
        for path, stat in stats.items():
            if stat is None or (content["stats"].get(path) != stat and file_sha1(question.cache / path) != sha1[path]):
                return None
        return references if (question.cache / "config" / "jwst" / "server_config").exists() else None
    except _DAMAGED:
        return None  # to be looked up again


def read_answers(record: Path | None, question: Question) -> References | None:
    """What a record answers to a question, for those exposures that it has; None if there are none.

    The files in the cache are not looked at: names and SHA-1 of reference files do not depend on them, and a run
    fetches those that are missing or damaged.
    """
    try:
        found = _read(record, question)
    except _DAMAGED:
        return None
    return None if found is None or not found[1].exposures else found[1]


def write_record(record: Path, question: Question, references: References) -> None:
    """Keep a result for `read_record`.

    Raises
    ------
    DiskFullError, OSError
        The record cannot be written.
    """
    files = {name: path for name, path in question.raw.items() if path is not None}
    content: dict[str, Any] = {
        "asked": question.asked,
        "headers": {name: {"sha1": _header_sha1(path), "stat": stat_signature(path)} for name, path in files.items()},
        "references": references.to_json(),
        "stats": _held_stats(references),
    }
    with disk_full_named(record.parent):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_file(record, json.dumps(content))
