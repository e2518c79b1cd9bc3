"""Pin a context, and bring it and the best references of exposures into the cache, once, before any work starts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from survey.errors import ConfigError, ReferencesError, ServiceError, ServiceUnreachableError
from survey.references.cache import Cache, Wanted, plain_name, plain_path
from survey.references.child import run_crds
from survey.references.record import NOT_FOUND, Question, References, read_record, write_record

log = logging.getLogger(__name__)

PIPELINES = ("Detector1Pipeline", "Image2Pipeline", "Image3Pipeline")
_BAD = ("RULES", "REFERENCES")
LOCK_WAIT_SECONDS = 1800.0  # a first sync of a large survey takes this long
LOOKUP_SECONDS = 600.0  # offline, bounded by the machine alone
ADVICE_SECONDS = 20.0  # for the name to write in place of "latest": a bad config is refused within half a minute
_CONTEXT = re.compile(r"jwst_\d{4,}\.pmap", re.ASCII)


class ReferencesSettings(Protocol):
    """What is read of a config's ``references`` section (``timeout_seconds`` is optional, default 60)."""

    @property
    def server(self) -> str | None: ...
    @property
    def context(self) -> str: ...
    @property
    def cache(self) -> Path: ...


def pin(context: str | None, server: str | None = None, timeout_seconds: float = ADVICE_SECONDS) -> str:
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
            advice = operational_context(server, timeout_seconds)
        except (ServiceError, ReferencesError) as error:
            log.debug("no context to suggest: %s", error)
    raise ConfigError(
        f"references.context: {context!r} is not a pinned context: it means other rules tomorrow. Write {advice}"
    )


def operational_context(server: str, timeout_seconds: float = ADVICE_SECONDS) -> str:
    """Name of the context that a CRDS server recommends now, such as jwst_1584.pmap.

    Raises
    ------
    ServiceError
        The server does not answer within ``timeout_seconds``, or refuses.
    ReferencesError
        Its answer names no context.
    """
    name = run_crds({"do": "catalog", "context": None}, None, server, timeout_seconds)["operational"]
    if not isinstance(name, str) or not _CONTEXT.fullmatch(name):
        raise ReferencesError(f"{server}: its operational context is {ascii(name)[:80]}; expected jwst_NNNN.pmap.")
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
    context = pin(settings.context, settings.server, min(ADVICE_SECONDS, timeout))
    cache = Cache(Path(settings.cache).expanduser().absolute())
    wanted = tuple(sorted(set(types))) if types is not None else None
    question = Question(raw, context, cache.folder, wanted)
    remembered = read_record(record, question)
    if remembered is not None:
        return remembered
    wanted = reference_types() if wanted is None else wanted
    urls = _sync_mappings(cache, context, settings.server, timeout)
    found = _look_up(cache, context, wanted, raw)
    _sync_references(cache, found, urls, timeout)
    cache.save_ledger(LOCK_WAIT_SECONDS)
    references = _references(cache, context, found)
    if record is not None:
        write_record(record, question, references)
    return references


def recall(raw: Mapping[str, Path], settings: ReferencesSettings, record: Path) -> References | None:
    """What the last `sync` of the same raw files and context found, if no file changed since; else None."""
    cache = Path(settings.cache).expanduser().absolute()
    return read_record(record, Question(raw, settings.context, cache, None))


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


def _sync_mappings(cache: Cache, context: str, server: str | None, timeout: float) -> dict[str, str] | None:
    """Bring the context's rules into the cache; the server's URLs, or None where the cache must do alone."""
    if server is None:
        return None
    cache.check_server(server)
    try:
        catalog = run_crds({"do": "catalog", "context": context}, cache.folder, server, timeout)
    except ServiceUnreachableError as error:
        if not (cache.folder / "mappings" / "jwst" / context).exists():
            raise
        log.warning("%s; going on with what the cache holds", error)
        return None
    except ReferencesError as error:
        raise ConfigError(f"references.context: {context} is not to be had from {error}") from error
    names = [plain_name(name) for name in catalog["mappings"]]
    odd = [url for url in catalog["urls"].values() if not str(url).startswith(("http://", "https://"))]
    if odd:
        raise ReferencesError(f"{server}: names {ascii(odd[0])[:120]} as the place of its files; expected http(s)://.")
    files = [Wanted(name, f"mappings/jwst/{name}", *_known(catalog, name)) for name in names]
    complete(cache, files, catalog["urls"], timeout)
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
    found = run_crds(request, cache.folder, None, LOOKUP_SECONDS)
    if found["faults"]:
        lines = [f"{name}: {why}" for name, why in sorted(found["faults"].items())]
        raise ReferencesError("raw files whose headers cannot be read; run: survey fetch CONFIG\n" + "\n".join(lines))
    faults = {}
    for name in found["mappings"]:
        why = cache.fault(Wanted(plain_name(name), f"mappings/jwst/{name}", *_known(found, name)))
        if why is not None:
            faults[name] = why
    _refuse(cache, faults)
    _refuse_bad(found["bad"])
    for kind in sorted(
        {kind for group in found["groups"] for kind, name in group.items() if name.startswith(NOT_FOUND)}
    ):
        log.info("%s names no reference of type %s for some exposures; a step that needs one will fail", context, kind)
    return found


def _refuse_bad(names: list[str]) -> None:
    """Refuse what crds would refuse in every worker, unless the same variables allow it."""
    allowed = {kind: os.environ.get(f"CRDS_ALLOW_BAD_{kind}", "").lower() in ("1", "t", "true") for kind in _BAD}
    refused = [name for name in names if not allowed["RULES" if name.endswith("map") else "REFERENCES"]]
    if refused:
        raise ReferencesError(
            f"the CRDS server calls {', '.join(refused)} scientifically invalid. Choose another context, or set "
            "CRDS_ALLOW_BAD_RULES=1 or CRDS_ALLOW_BAD_REFERENCES=1."
        )


def _sync_references(cache: Cache, found: Mapping[str, Any], urls: Mapping[str, str] | None, timeout: float) -> None:
    files = [
        Wanted(plain_name(name), plain_path(path), *_known(found, name))
        for name, path in sorted(found["paths"].items())
    ]
    complete(cache, files, urls, timeout)
    if not (cache.folder / "config" / "jwst" / "server_config").exists():
        raise ReferencesError(
            f"{cache.folder}: config/jwst/server_config is missing, and crds cannot work offline without it. "
            "Set references.server once, or copy it from where the cache comes from."
        )


def complete(cache: Cache, files: list[Wanted], urls: Mapping[str, str] | None, timeout: float) -> None:
    """Fetch what is missing or damaged in the cache; without a server, say what it is."""
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


def _references(cache: Cache, context: str, found: Mapping[str, Any]) -> References:
    sha1 = {path: (cache.entry(path) or {}).get("sha1", "") for path in found["paths"].values()}
    return References(
        context=context,
        cache=str(cache.folder),
        groups=tuple(found["groups"]),
        exposures=found["exposures"],
        files={name: sha1[path] for name, path in sorted(found["paths"].items())},
        paths=dict(sorted(found["paths"].items())),
        mappings={name: (cache.entry(f"mappings/jwst/{name}") or {})["sha1"] for name in found["mappings"]},
    )
