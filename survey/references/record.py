"""The result of a CRDS look-up: reference files of each exposure, kept as JSON so that a rerun skips the look-up."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from survey.archive.headers import DamagedFileError, read_primary_header
from survey.digest import digest, file_sha1
from survey.errors import ReferencesError
from survey.models import CatalogFile
from survey.references.cache import plain_path, stat_signature
from survey.references.messages import NOT_FOUND
from survey.workspace.files import disk_full_named, write_file

_FORMAT = 1


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

    raw: Mapping[str, Path]  # exposure name -> raw file
    context: str
    cache: Path
    types: tuple[str, ...] | None

    def key(self, by_content: bool = False) -> str:
        """Digest of the question; raw files enter by size, times and inode, or by the content of their headers."""
        versions = {name: importlib.metadata.version(name) for name in ("crds", "jwst")}
        look = _header_sha1 if by_content else stat_signature
        seen = {name: [str(path), look(Path(path))] for name, path in self.raw.items()}
        return digest([_FORMAT, self.context, str(self.cache), list(self.types or ()), versions, seen])


def _header_sha1(path: Path) -> str:
    """SHA-1 of a FITS file's primary header, which is all that a look-up reads; '' when there is none."""
    try:
        return hashlib.sha1(read_primary_header(path).content).hexdigest()
    except (OSError, DamagedFileError):
        return ""


def _held_stats(references: References) -> dict[str, list[int] | None]:
    """Stat signatures of every file of a result, and of crds' own configuration."""
    paths = {*references.paths.values(), *(f"mappings/jwst/{name}" for name in references.mappings)}
    paths |= {"config/jwst/server_config"}
    return {path: stat_signature(Path(references.cache) / path) for path in sorted(paths)}


def read_record(record: Path | None, question: Question) -> References | None:
    """The result in a record, if it is for the same question and no file of the cache changed since; else None.

    Files of which only the times changed are read again, and their content decides.
    """
    try:
        content = json.loads(Path(record).read_text(encoding="ascii")) if record is not None else {}
        if "references" not in content:
            return None
        if content.get("key") != question.key() and content.get("content_key") != question.key(by_content=True):
            return None
        references = References.from_json(content["references"])
        if references.cache != str(question.cache) or not all(map(plain_path, references.paths.values())):
            return None
        stats = _held_stats(references)
        stats.pop("config/jwst/server_config")
        sha1 = {references.paths[name]: value for name, value in references.files.items()}
        sha1 |= {f"mappings/jwst/{name}": value for name, value in references.mappings.items()}
        for path, stat in stats.items():
            if stat is None or (content["stats"].get(path) != stat and file_sha1(question.cache / path) != sha1[path]):
                return None
        return references if (question.cache / "config" / "jwst" / "server_config").exists() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ReferencesError):
        return None  # missing or damaged: to be looked up again


def write_record(record: Path, question: Question, references: References) -> None:
    """Keep a result for `read_record`.

    Raises
    ------
    DiskFullError, OSError
        The record cannot be written.
    """
    keys = {"key": question.key(), "content_key": question.key(by_content=True)}
    content: dict[str, Any] = {**keys, "references": references.to_json(), "stats": _held_stats(references)}
    with disk_full_named(record.parent):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_file(record, json.dumps(content))
