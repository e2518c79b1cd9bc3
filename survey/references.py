"""CRDS references: pin a context, sync it and the best references once, verify them, and keep workers off the network.

Every look-up by the crds library happens in a child process (`survey.reference_lookup`); every file is fetched and
verified here (`survey.reference_cache`). Workers get a read-only cache, an explicit context and no server.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from survey.digest import digest
from survey.errors import AccessRefusedError, ConfigError, ReferencesError, ServiceError, ServiceUnreachableError
from survey.reference_cache import Cache, Wanted, out_of_space, plain_name, stat_signature

log = logging.getLogger(__name__)

PIPELINES = ("Detector1Pipeline", "Image2Pipeline", "Image3Pipeline")
NOT_APPLICABLE = "N/A"
NOT_FOUND = "NOT FOUND"
# crds takes a URL with this word for "there is no server": it fails at once, without a socket, and reads its cache.
NO_SERVER = "https://jwst-serverless.stsci.edu"
LOCK_WAIT_SECONDS = 1800.0  # a first sync of a large survey takes this long
LOOKUP_SECONDS = 600.0  # offline, bounded by the machine alone
_CONTEXT = re.compile(r"jwst_\d{4,}\.pmap", re.ASCII)
_RECORD_FORMAT = 1


class ReferencesSettings(Protocol):
    """What is read of a config's ``references`` section (``timeout_seconds`` is optional, default 60)."""

    @property
    def server(self) -> str | None: ...
    @property
    def context(self) -> str: ...
    @property
    def cache(self) -> Path: ...


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
        return cls(**{**data, "groups": tuple(data["groups"])})


def pin(context: str | None, server: str | None = None, timeout_seconds: float = 10.0) -> str:
    """The context, if it is pinned: ``jwst_1584.pmap``.

    Raises
    ------
    ConfigError
        Anything else ('latest', 'jwst-edit', a date, nothing); the message gives the name to write instead, as the
        server tells it within ``timeout_seconds``.
    """
    if isinstance(context, str) and _CONTEXT.fullmatch(context):
        return context
    advice = "a name such as jwst_1584.pmap"
    if server is not None:
        try:
            advice = _run({"do": "catalog", "context": None}, None, server, timeout_seconds)["operational"] or advice
        except (ServiceError, ReferencesError) as error:
            log.debug("no context to suggest: %s", error)
    raise ConfigError(
        f"references.context: {context!r} is not a pinned context: it means other rules tomorrow. Write {advice}"
    )


def reference_types(pipelines: Iterable[str] = PIPELINES) -> tuple[str, ...]:
    """CRDS types that pipelines and their steps may ask for, ``pars-*`` included, from the installed jwst's source."""
    from survey.pipeline_spec import read_spec

    types: set[str] = set()
    for name in pipelines:
        spec = read_spec(f"jwst.pipeline.calwebb_{name.removesuffix('Pipeline').lower()}:{name}")
        types.update(spec.all_reference_types, spec.pars_types)
    return tuple(sorted(types))


def sync(
    raw: Mapping[str, Path],
    settings: ReferencesSettings,
    *,
    types: Iterable[str] | None = None,
    record: Path | None = None,
) -> References:
    """Bring the pinned context and the best references of exposures into the cache, verified.

    When nothing changed since the last sync (raw files, context, types, every file in the cache), the record is the
    answer: nothing is asked and crds is not imported.

    Parameters
    ----------
    raw : exposure name -> raw file, of which the primary header is read
    settings : server, context, cache
    types : reference types; default: all that Detector1, Image2 and Image3 and their steps may ask for
    record : JSON file of the workspace that remembers the answer

    Raises
    ------
    ConfigError
        A context that is not pinned or not known to the server; a cache that belongs to another server.
    ServiceUnreachableError, AccessRefusedError
        The server, and the cache does not suffice without it.
    ReferencesError
        Files that are missing or damaged and could not be had; headers that could not be read.
    DiskFullError
        No space left.
    """
    timeout = float(getattr(settings, "timeout_seconds", 60.0))
    context = pin(settings.context, settings.server, min(10.0, timeout))
    cache = Cache(Path(settings.cache).expanduser().absolute())
    wanted = tuple(sorted(set(types))) if types is not None else None
    key = _record_key(raw, context, cache.folder, wanted)
    remembered = _read_record(record, key, cache.folder)
    if remembered is not None:
        return remembered
    wanted = reference_types() if wanted is None else wanted
    with cache.locked(LOCK_WAIT_SECONDS):
        try:
            urls = _sync_mappings(cache, context, settings.server, timeout)
            found = _look_up(cache, context, wanted, raw)
            _sync_references(cache, found, urls, timeout)
        finally:
            cache.save_ledger()
        references = _references(cache, context, found)
    if record is not None:
        _write_record(record, key, references)
    return references


def best_references(
    context: str, cache: Path, raw: Mapping[str, Path], types: Iterable[str] | None = None
) -> References:
    """What another context would choose for the same exposures, from the mappings in the cache alone.

    Nothing is fetched: ``files`` holds a SHA-1 for those that the cache knows, and '' for the others.

    Raises
    ------
    ReferencesError
        The context's mappings are not all in the cache.
    """
    held = Cache(Path(cache).expanduser().absolute())
    wanted = reference_types() if types is None else tuple(sorted(set(types)))
    found = _look_up(held, pin(context), wanted, raw)
    return _references(held, context, found)


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


def worker_environment(references: References) -> dict[str, str]:
    """Environment variables under which crds reads this cache and context, writes nothing and opens no socket."""
    return _environment(Path(references.cache)) | {"CRDS_CONTEXT": references.context, "CRDS_READONLY_CACHE": "1"}


def _environment(cache: Path, server: str = NO_SERVER) -> dict[str, str]:
    """Every variable that moves crds' cache or server is set, so that none of a user's own shines through."""
    uris = {f"CRDS_{kind}_URI": "none" for kind in ("CONFIG", "MAPPING", "REFERENCE", "PICKLE")}
    folders = {
        f"CRDS_{kind}PATH_SINGLE": str(cache / name / "jwst")
        for kind, name in (("MAP", "mappings"), ("REF", "references"), ("CFG", "config"))
    }
    return {
        "CRDS_PATH": str(cache),
        "CRDS_SERVER_URL": server,
        "CRDS_OBSERVATORY": "jwst",
        "CRDS_MODE": "auto",
        "CRDS_CLIENT_RETRY_COUNT": "1",
        "CRDS_S3_ENABLED": "0",
        "CRDS_USE_PICKLED_CONTEXTS": "0",
        "CRDS_IGNORE_MAPPING_CHECKSUM": "0",
        **uris,
        **folders,
    }


def _run(request: Mapping[str, Any], cache: Path | None, server: str | None, limit_seconds: float) -> dict[str, Any]:
    """One request to the crds library in a child process; its failures become this package's errors."""
    folder = cache or Path(os.devnull)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRDS_")}
    environment |= _environment(folder, server or NO_SERVER) | {"CRDS_READONLY_CACHE": "1"}
    environment["CRDS_CLIENT_TIMEOUT_SECONDS"] = str(max(1, int(limit_seconds)))
    if server is not None:
        environment |= {"CRDS_CLIENT_RETRY_COUNT": "3", "CRDS_CLIENT_RETRY_DELAY_SECONDS": "1"}
    package = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    where = server or f"the CRDS cache {folder}"
    command = [sys.executable, "-P", "-m", "survey.reference_lookup"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), env=environment, capture_output=True, timeout=limit_seconds
        )
    except subprocess.TimeoutExpired as error:
        kind = ReferencesError if server is None else ServiceUnreachableError
        raise kind(f"{where}: no answer within {limit_seconds:.0f} s. Run again later.") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        tail = done.stderr.decode(errors="replace")[-400:]
        raise ReferencesError(f"{where}: the crds library ended with status {done.returncode}: {tail}") from error
    if "error" in answer:
        _raise(answer, where)
    return answer


def _raise(answer: Mapping[str, str], where: str) -> None:
    message = f"{where}: {answer['error'][:600]}"
    if answer["kind"] == "access":
        raise AccessRefusedError(message)
    if answer["kind"] == "unreachable":
        raise ServiceUnreachableError(f"{message}. Run again later, or set references.server: null (the cache alone).")
    raise ReferencesError(message)


def _sync_mappings(cache: Cache, context: str, server: str | None, timeout: float) -> dict[str, str] | None:
    """Bring the context's rules into the cache; the server's URLs, or None where the cache must do alone."""
    if server is None:
        return None
    cache.check_server(server)
    try:
        catalog = _run({"do": "catalog", "context": context}, cache.folder, server, timeout)
    except ServiceUnreachableError as error:
        if not (cache.folder / "mappings" / "jwst" / context).exists():
            raise
        log.warning("%s; going on with what the cache holds", error)
        return None
    except ReferencesError as error:
        raise ConfigError(f"references.context: {context} is not to be had from {error}") from error
    names = [plain_name(name) for name in catalog["mappings"]]
    files = [Wanted(name, f"mappings/jwst/{name}", *_known(catalog, name)) for name in names]
    _fetch_faulty(cache, files, catalog["urls"], timeout)
    if cache.writable:
        cache.write_config("server_config", catalog["info"])
        if not (cache.folder / "config" / "jwst" / "ref_cache_subdir_mode").exists() and not _has_references(cache):
            cache.write_config("ref_cache_subdir_mode", "instrument")
    return catalog["urls"]


def _has_references(cache: Cache) -> bool:
    return (cache.folder / "references").exists()


def _known(answer: Mapping[str, Any], name: str) -> tuple[int | None, str | None]:
    """Size and SHA-1 of a file as the server lists it, or None twice."""
    row = answer["known"].get(name, {})
    return row.get("size"), row.get("sha1sum")


def _look_up(cache: Cache, context: str, types: tuple[str, ...], raw: Mapping[str, Path]) -> dict[str, Any]:
    """Evaluate the rules for exposures, offline; verify the rules that were used."""
    request = {
        "do": "best",
        "context": context,
        "types": types,
        "exposures": {name: str(path) for name, path in raw.items()},
    }
    found = _run(request, cache.folder, None, LOOKUP_SECONDS)
    if found["faults"]:
        lines = [f"{name}: {why}" for name, why in sorted(found["faults"].items())]
        raise ReferencesError("raw files whose headers cannot be read; run: survey fetch CONFIG\n" + "\n".join(lines))
    faults = {}
    for name in found["mappings"]:
        why = cache.fault(Wanted(plain_name(name), f"mappings/jwst/{name}", *_known(found, name)))
        if why is not None:
            faults[name] = why
    _refuse(cache, faults)
    return found


def _sync_references(cache: Cache, found: Mapping[str, Any], urls: Mapping[str, str] | None, timeout: float) -> None:
    files = [Wanted(plain_name(name), path, *_known(found, name)) for name, path in sorted(found["paths"].items())]
    _fetch_faulty(cache, files, urls, timeout)
    if not (cache.folder / "config" / "jwst" / "server_config").exists():
        raise ReferencesError(
            f"{cache.folder}: config/jwst/server_config is missing, and crds cannot work offline without it. "
            "Set references.server once, or copy it from where the cache comes from."
        )


def _fetch_faulty(cache: Cache, files: list[Wanted], urls: Mapping[str, str] | None, timeout: float) -> None:
    """Fetch what is missing or damaged in the cache; without a server, say what it is."""
    faulty = {wanted.name: (wanted, why) for wanted in files if (why := cache.fault(wanted)) is not None}
    if not faulty:
        return
    if urls is None or not cache.writable:
        _refuse(cache, {name: why for name, (_, why) in faulty.items()})
        return
    for name, (_, why) in faulty.items():
        if why != "missing":
            log.warning("%s in %s is damaged (%s) and is fetched again", name, cache.folder, why)
    kind = {name: "mappings" if name.endswith("map") else "references" for name in faulty}
    cache.fetch({f"{urls[kind[name]]}/{name}": wanted for name, (wanted, _) in faulty.items()}, timeout)


def _refuse(cache: Cache, faults: Mapping[str, str]) -> None:
    if faults:
        lines = [f"{name}: {why}" for name, why in sorted(faults.items())]
        raise ReferencesError(
            f"{cache.folder}: {len(lines)} CRDS file(s) missing or damaged, and no server to fetch them from "
            "(or the cache is read-only). Set references.server, or complete the cache:\n" + "\n".join(lines)
        )


def _references(cache: Cache, context: str, found: Mapping[str, Any]) -> References:
    entries = cache.ledger.files
    return References(
        context=context,
        cache=str(cache.folder),
        groups=tuple(found["groups"]),
        exposures=found["exposures"],
        files={name: entries.get(path, {}).get("sha1", "") for name, path in sorted(found["paths"].items())},
        paths=dict(sorted(found["paths"].items())),
        mappings={name: cache.sha1(f"mappings/jwst/{name}") for name in found["mappings"]},
    )


def _record_key(raw: Mapping[str, Path], context: str, cache: Path, types: tuple[str, ...] | None) -> str:
    """Digest of all that an answer stands on, but the files in the cache."""
    versions = {name: importlib.metadata.version(name) for name in ("crds", "jwst")}
    seen = {name: [str(path), stat_signature(Path(path))] for name, path in raw.items()}
    return digest([_RECORD_FORMAT, context, str(cache), list(types or ()), versions, seen])


def _held_stats(references: References) -> dict[str, list[int] | None]:
    """Stat signatures of every file that an answer names, and of crds' own configuration."""
    paths = {*references.paths.values(), *(f"mappings/jwst/{name}" for name in references.mappings)}
    paths |= {"config/jwst/server_config"}
    return {path: stat_signature(Path(references.cache) / path) for path in sorted(paths)}


def _read_record(record: Path | None, key: str, cache: Path) -> References | None:
    """The remembered answer, if it was for the same question and no file of the cache changed since."""
    try:
        content = json.loads(Path(record).read_text(encoding="ascii")) if record is not None else {}
        if content.get("key") != key:
            return None
        references = References.from_json(content["references"])
        stats = _held_stats(references)
        stats.pop("config/jwst/server_config")
        held = all(stat is not None and content["stats"].get(path) == stat for path, stat in stats.items())
        return references if held and (cache / "config" / "jwst" / "server_config").exists() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none yet, or damaged: look up again


def _write_record(record: Path, key: str, references: References) -> None:
    content = {"key": key, "references": references.to_json(), "stats": _held_stats(references)}
    part = record.with_name(f".{record.name}.{os.getpid()}")
    with out_of_space(record.parent):
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(content), encoding="ascii")
            os.replace(part, record)
        finally:
            part.unlink(missing_ok=True)
