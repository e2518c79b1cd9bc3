"""The answer: which reference file each exposure gets, and the JSON record by which a rerun knows it without asking."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from survey.digest import digest, file_sha1
from survey.errors import ReferencesError
from survey.references.cache import plain_path, stat_signature
from survey.workspace.files import disk_full_named, write_file

NOT_APPLICABLE = "N/A"
NOT_FOUND = "NOT FOUND"
_FORMAT = 1
_BLOCK_BYTES = 2880  # of a FITS file
_MAX_BLOCKS = 1000  # of a primary header; those of the archive have about 20


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

    def sha1s(self, files: Iterable[str]) -> dict[str, str]:
        return {name: self.files[name] for name in sorted(set(files))}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> References:
        """Raises TypeError or ValueError for what is no answer."""
        found = cls(**{**data, "groups": tuple(data["groups"])})
        texts = (*found.groups, found.files, found.paths, found.mappings)
        if not all(
            isinstance(names, dict) and all(isinstance(name, str) for name in names.values()) for names in texts
        ):
            raise ValueError("groups, files, paths and mappings: expected names of files by names")
        known = range(len(found.groups))
        if not all(type(group) is int and group in known for group in found.exposures.values()):
            raise ValueError(f"exposures: expected the number of one of {len(known)} groups for each")
        return found


def changed(before: References, after: References) -> dict[str, dict[str, tuple[str, str]]]:
    """Exposure -> reference type -> (file before, file after), where two answers differ."""
    answer: dict[str, dict[str, tuple[str, str]]] = {}
    for name in before.exposures.keys() & after.exposures.keys():
        old, new = before.of(name), after.of(name)
        types = (kind for kind in sorted(old.keys() | new.keys()) if old.get(kind) != new.get(kind))
        differences = {kind: (old.get(kind, NOT_APPLICABLE), new.get(kind, NOT_APPLICABLE)) for kind in types}
        if differences:
            answer[name] = differences
    return dict(sorted(answer.items()))


@dataclass(frozen=True)
class Question:
    """All that an answer stands on, but the files in the cache."""

    raw: Mapping[str, Path]  # exposure name -> raw file
    context: str
    cache: Path
    types: tuple[str, ...] | None

    def key(self, by_content: bool = False) -> str:
        """Digest of the question: raw files by what the file system tells of them, or by their primary headers."""
        versions = {name: importlib.metadata.version(name) for name in ("crds", "jwst")}
        look = _header_sha1 if by_content else stat_signature
        seen = {name: [str(path), look(Path(path))] for name, path in self.raw.items()}
        return digest([_FORMAT, self.context, str(self.cache), list(self.types or ()), versions, seen])


def _header_sha1(path: Path) -> str:
    """SHA-1 of a FITS file's primary header, which is all that a lookup reads; '' when there is none."""
    hasher = hashlib.sha1()
    try:
        with open(path, "rb") as stream:
            for _ in range(_MAX_BLOCKS):
                block = stream.read(_BLOCK_BYTES)
                hasher.update(block)
                if len(block) < _BLOCK_BYTES or any(
                    block[at : at + 8] == b"END     " for at in range(0, _BLOCK_BYTES, 80)
                ):
                    return hasher.hexdigest()
    except OSError:
        pass
    return ""


def _held_stats(references: References) -> dict[str, list[int] | None]:
    """Stat signatures of every file that an answer names, and of crds' own configuration."""
    paths = {*references.paths.values(), *(f"mappings/jwst/{name}" for name in references.mappings)}
    paths |= {"config/jwst/server_config"}
    return {path: stat_signature(Path(references.cache) / path) for path in sorted(paths)}


def read_record(record: Path | None, question: Question) -> References | None:
    """The remembered answer, if it was for the same question and no file of the cache changed since.

    Files whose times alone changed are read again, and count as what they hold.
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
        return None  # none yet, or damaged: look up again


def write_record(record: Path, question: Question, references: References) -> None:
    keys = {"key": question.key(), "content_key": question.key(by_content=True)}
    content: dict[str, Any] = {**keys, "references": references.to_json(), "stats": _held_stats(references)}
    with disk_full_named(record.parent):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_file(record, json.dumps(content))
