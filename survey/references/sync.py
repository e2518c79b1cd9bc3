"""Sync a CRDS cache: the rules of one pinned context and the best references of some exposures, verified."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from survey.digest import file_sha1
from survey.errors import ConfigError, ReferencesError, ServiceError, ServiceUnreachableError
from survey.messages import shown
from survey.references.cache import Cache, Wanted, plain_name, plain_path
from survey.references.child import ask_best, ask_catalog
from survey.references.messages import NOT_FOUND, Best, BestRequest, Catalog
from survey.references.record import Question, References, read_answers, read_record, write_record

log = logging.getLogger(__name__)

PIPELINES = ("Detector1Pipeline", "Image2Pipeline", "Image3Pipeline")
_BAD = ("RULES", "REFERENCES")
LOCK_WAIT_SECONDS = 1800.0  # a first sync of a large survey takes this long
LOOKUP_SECONDS = 600.0  # offline, bounded by the machine alone
ADVICE_SECONDS = 20.0  # to look up the name to write in place of "latest": a bad config is refused within 30 s
PLACEHOLDER = "jwst_NNNN.pmap"  # where the name of a context has to be written
_CONTEXT = re.compile(r"jwst_\d{4,}\.pmap", re.ASCII)


class ReferencesSettings(Protocol):
    """The settings of a config's ``references`` section that are used here."""

    @property
    def server(self) -> str | None: ...
    @property
    def context(self) -> str: ...
    @property
    def cache(self) -> Path: ...
    @property
    def timeout_seconds(self) -> float: ...


def pin(context: str | None, server: str | None = None, timeout_seconds: float = ADVICE_SECONDS) -> str:
    """Check that a context is pinned, such as ``jwst_1584.pmap``, and return it.

    Raises
    ------
    ConfigError
        Anything else ('latest', 'jwst-edit', a date, nothing); the message names the server's operational context, if
        the server answers within ``timeout_seconds``. Of a placeholder, it gives an example.
    """
    if isinstance(context, str) and _CONTEXT.fullmatch(context):
        return context
    if context == PLACEHOLDER:
        raise ConfigError(f"references.context: is not filled in ({PLACEHOLDER}). Write a name such as jwst_1584.pmap.")
    advice = "a name such as jwst_1584.pmap"
    if server is not None:
        try:
            advice = operational_context(server, timeout_seconds)
        except (ServiceError, ReferencesError) as error:
            log.debug("no context to suggest: %s", error)
    raise ConfigError(
        f"references.context: {context!r} is not a pinned context: its rules change with time. Write {advice}"
    )


def operational_context(server: str, timeout_seconds: float = ADVICE_SECONDS) -> str:
    """Name of the context that a CRDS server recommends at present, such as jwst_1584.pmap.

    Raises
    ------
    ServiceError
        The server does not answer within ``timeout_seconds``, or refuses.
    ReferencesError
        Its reply names no context.
    """
    name = ask_catalog(None, None, server, timeout_seconds).operational
    if not isinstance(name, str) or not _CONTEXT.fullmatch(name):
        found = shown(name, ascii_only=True)
        raise ReferencesError(f"{server}: its operational context is {found}; expected jwst_NNNN.pmap.")
    return name


def reference_types(pipelines: Iterable[str] = PIPELINES) -> tuple[str, ...]:
    """CRDS types that pipelines and their steps may ask for, ``pars-*`` included, from the installed jwst's source."""
    from survey.config.pipeline_spec import read_spec

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
    """Fetch and verify the rules of the pinned context and the best references of exposures.

    When nothing changed since the last sync (raw files, context, types, every file in the cache), the record of it is
    returned: no server is asked and crds is not imported.

    Parameters
    ----------
    raw : exposure name -> raw file, of which the primary header is read
    settings : server, context, cache
    types : reference types; default: all that Detector1, Image2 and Image3 and their steps may ask for
    record : JSON file of the workspace that keeps the result

    Raises
    ------
    ConfigError
        A context that is not pinned or not known to the server; a cache that belongs to another server.
    ServiceUnreachableError, AccessRefusedError
        The server fails, and the cache lacks files.
    ReferencesError
        Files that are missing or damaged and could not be fetched; headers that could not be read.
    DiskFullError
        No space left.
    """
    timeout = settings.timeout_seconds
    context = pin(settings.context, settings.server, min(ADVICE_SECONDS, timeout))
    cache = Cache(Path(settings.cache).expanduser().absolute())
    wanted = tuple(sorted(set(types))) if types is not None else None
    question = Question(raw, context, cache.folder, wanted)
    kept = read_record(record, question)
    if kept is not None:
        return kept
    wanted = reference_types() if wanted is None else wanted
    urls = _sync_mappings(cache, context, settings.server, timeout)
    found = _look_up(cache, context, wanted, raw)
    _sync_references(cache, found, urls, timeout)
    cache.save_ledger(LOCK_WAIT_SECONDS)
    references = _references(cache, context, found)
    if record is not None:
        write_record(record, question, references)
    return references


def recall(
    raw: Mapping[str, Path | None],
    settings: ReferencesSettings,
    record: Path,
    types: Iterable[str] | None = None,
    *,
    ask_server: bool = False,
) -> References | None:
    """The references that a `sync` would find now, for a plan: no reference file is fetched, no workspace written.

    The answers of the last sync count for exposures whose headers are unchanged; others are looked up by the rules in
    the cache.

    Parameters
    ----------
    raw : exposure name -> file with its primary header; None: the file is gone, and only a recorded answer counts
    settings, record, types : see `sync`
    ask_server : fetch the rules of the context, if the cache does not have them

    Returns
    -------
    references : of those exposures for which they could be found; None if there are none
    """
    cache = Cache(Path(settings.cache).expanduser().absolute())
    wanted = tuple(sorted(set(types))) if types is not None else None
    question = Question(raw, settings.context, cache.folder, wanted)
    known = read_answers(record, question)
    answered = known.exposures if known is not None else {}
    left = {name: path for name, path in raw.items() if path is not None and name not in answered}
    if not left:
        return known
    try:
        has_rules = (cache.folder / "mappings" / "jwst" / settings.context).exists()
        if not has_rules:
            if not ask_server or settings.server is None:
                return known
            _sync_mappings(cache, settings.context, settings.server, settings.timeout_seconds)
        found = _look_up(cache, settings.context, wanted or reference_types(), left, is_strict=False)
    except (ReferencesError, ServiceError, ConfigError, OSError) as error:
        log.info("references are not looked up: %s", error)
        return known
    foreseen = _foreseen(cache, settings.context, found)
    return foreseen if known is None else known.joined(foreseen)


def _foreseen(cache: Cache, context: str, found: Best) -> References:
    """The result that a sync would have, without its exposures whose files have no known SHA-1."""
    files = {}
    for name, path in sorted(found.paths.items()):
        entry = cache.entry(path)
        sha1 = found.sha1s.get(name) or (entry.sha1 if entry is not None else "")
        if not sha1 and (cache.folder / path).is_file():
            sha1 = file_sha1(cache.folder / path)
        if sha1:
            files[name] = sha1
    whole = [all(name in files or name not in found.paths for name in group.values()) for group in found.groups]
    references = References(
        context=context,
        cache=str(cache.folder),
        groups=tuple(found.groups),
        exposures=found.exposures,
        files=files,
        paths={name: found.paths[name] for name in files},
        mappings={},
    )
    return references.only([name for name, number in found.exposures.items() if whole[number]])


def _sync_mappings(cache: Cache, context: str, server: str | None, timeout: float) -> Mapping[str, str] | None:
    """Fetch the context's rules; the server's addresses of files, or None when only the cache is to be used."""
    if server is None:
        return None
    cache.check_server(server)
    try:
        catalog = ask_catalog(context, cache.folder, server, timeout)
    except ServiceUnreachableError as error:
        if not (cache.folder / "mappings" / "jwst" / context).exists():
            raise
        log.warning("%s; only files of the cache are used", error)
        return None
    except ReferencesError as error:
        raise ConfigError(f"references.context: {context} is not available from {error}") from error
    odd = [url for url in catalog.urls.values() if not str(url).startswith(("http://", "https://"))]
    if odd:
        raise ReferencesError(
            f"{server}: gives {shown(odd[0], ascii_only=True)} as the address of its files; expected http(s)://..."
        )
    files = [_wanted(catalog, name, f"mappings/jwst/{name}") for name in catalog.mappings]
    complete(cache, files, catalog.urls, timeout)
    if cache.writable:
        cache.write_config("server_config", catalog.info)
        if not (cache.folder / "config" / "jwst" / "ref_cache_subdir_mode").exists() and not _has_references(cache):
            cache.write_config("ref_cache_subdir_mode", "instrument")
    return catalog.urls


def _has_references(cache: Cache) -> bool:
    return (cache.folder / "references").exists()


def _wanted(listed: Catalog | Best, name: str, path: str) -> Wanted:
    """A file with the size and SHA-1 that the server lists, if it does."""
    return Wanted(plain_name(name), plain_path(path), listed.sizes.get(name), listed.sha1s.get(name))


def _look_up(
    cache: Cache, context: str, types: tuple[str, ...], raw: Mapping[str, Path], is_strict: bool = True
) -> Best:
    """Evaluate the rules for exposures, offline, and verify the rule files that were used.

    ``is_strict`` refuses exposures whose header cannot be read; otherwise they have no answer.
    """
    request = BestRequest(context, types, {name: str(path) for name, path in raw.items()})
    found = ask_best(request, cache.folder, LOOKUP_SECONDS)
    if found.faults and is_strict:
        lines = [f"{name}: {why}" for name, why in sorted(found.faults.items())]
        raise ReferencesError("headers of raw files cannot be read; run: survey fetch CONFIG\n" + "\n".join(lines))
    faults = {}
    for name in found.mappings:
        why = cache.fault(_wanted(found, name, f"mappings/jwst/{name}"))
        if why is not None:
            faults[name] = why
    _refuse(cache, faults)
    _refuse_bad(found.bad)
    for kind in sorted({kind for group in found.groups for kind, name in group.items() if name.startswith(NOT_FOUND)}):
        log.info("%s has no reference of type %s for some exposures; a step that needs one will fail", context, kind)
    return found


def _refuse_bad(names: Iterable[str]) -> None:
    """Refuse files that crds would refuse in every worker, unless the same environment variables allow them."""
    allowed = {kind: os.environ.get(f"CRDS_ALLOW_BAD_{kind}", "").lower() in ("1", "t", "true") for kind in _BAD}
    refused = [name for name in names if not allowed["RULES" if name.endswith("map") else "REFERENCES"]]
    if refused:
        raise ReferencesError(
            f"the CRDS server calls {', '.join(refused)} scientifically invalid. Choose another context, or set "
            "CRDS_ALLOW_BAD_RULES=1 or CRDS_ALLOW_BAD_REFERENCES=1."
        )


def _sync_references(cache: Cache, found: Best, urls: Mapping[str, str] | None, timeout: float) -> None:
    files = [_wanted(found, name, path) for name, path in sorted(found.paths.items())]
    complete(cache, files, urls, timeout)
    if not (cache.folder / "config" / "jwst" / "server_config").exists():
        raise ReferencesError(
            f"{cache.folder}: config/jwst/server_config is missing, and crds cannot work offline without it. "
            "Set references.server once, or copy the file from the cache that this one is a copy of."
        )


def complete(cache: Cache, files: list[Wanted], urls: Mapping[str, str] | None, timeout: float) -> None:
    """Fetch the files that are missing or damaged in the cache.

    Parameters
    ----------
    urls : addresses of the folders of 'mappings' and 'references'; None: no server

    Raises
    ------
    ReferencesError
        Files are missing or damaged, and there is no server or the cache is read-only; otherwise as in `Cache.fetch`.
    """
    faulty = _faulty(cache, files)
    if not faulty:
        return
    cache.folder.mkdir(parents=True, exist_ok=True)
    if urls is None or not cache.writable:
        _refuse(cache, {wanted.name: why for wanted, why in faulty})
        return
    with cache.locked(LOCK_WAIT_SECONDS):
        todo = {}
        for wanted, why in _faulty(cache, [wanted for wanted, _ in faulty]):  # another process may have been quicker
            if why != "missing":
                log.warning("%s in %s is damaged (%s) and is fetched again", wanted.name, cache.folder, why)
            todo[f"{urls['mappings' if wanted.is_mapping else 'references']}/{wanted.name}"] = wanted
        cache.fetch(todo, timeout, held=len(files) - len(todo))
    cache.save_ledger(LOCK_WAIT_SECONDS)


def _faulty(cache: Cache, files: Iterable[Wanted]) -> list[tuple[Wanted, str]]:
    return [(wanted, why) for wanted in files if (why := cache.fault(wanted)) is not None]


def _refuse(cache: Cache, faults: Mapping[str, str]) -> None:
    if faults:
        lines = [f"{name}: {why}" for name, why in sorted(faults.items())]
        raise ReferencesError(
            f"{cache.folder}: {len(lines)} CRDS file(s) missing or damaged, and no server to fetch them from "
            "(or the cache is read-only). Set references.server, or complete the cache:\n" + "\n".join(lines)
        )


def _references(cache: Cache, context: str, found: Best) -> References:
    def sha1(path: str) -> str:
        entry = cache.entry(path)
        return entry.sha1 if entry is not None else ""

    return References(
        context=context,
        cache=str(cache.folder),
        groups=tuple(found.groups),
        exposures=found.exposures,
        files={name: sha1(path) for name, path in sorted(found.paths.items())},
        paths=dict(sorted(found.paths.items())),
        mappings={name: sha1(f"mappings/jwst/{name}") for name in found.mappings},
    )
