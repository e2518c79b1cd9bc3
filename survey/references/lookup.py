"""The child process that uses the crds library: ``python -m survey.references.lookup``.

crds memoises its context and server information per process, reads a dozen environment variables, waits on sockets and
ends the process when it fails. In a child with an environment of its own and a deadline, none of that reaches the
caller. One request on stdin, one answer on stdout (`survey.references.messages`); crds logs to stderr.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import sys
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from survey.archive.attempts import PassingError, Watch, first_reply
from survey.archive.headers import read_primary_header
from survey.archive.http import retry_after_seconds
from survey.archive.proxies import answerer, errors_within, fault_of_proxy, fault_of_status, for_urllib
from survey.messages import shown
from survey.references.messages import (
    NOT_APPLICABLE,
    NOT_FOUND,
    Best,
    BestRequest,
    Catalog,
    CatalogRequest,
    Failure,
    Message,
    decode,
    encode,
)

T = TypeVar("T")

OBSERVATORY = "jwst"
RETRIES = 2  # of a request to the server
_DATE, _TIME = "META.OBSERVATION.DATE", "META.OBSERVATION.TIME"
_USE_AFTER = re.compile(r"""['"](\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2})['"]""", re.ASCII)
_NETWORK_ERRORS = {
    *("URLError", "TimeoutError", "HTTPException", "ConnectionError", "SSLError"),
    *("JSONDecodeError", "CrdsNetworkError"),
}
_SAMPLES = {"mappings": "any.pmap", "references": "any.fits"}
# What CRDS rules match on. Others are looked up in the schema; a test compares this table with it.
KEYWORDS = {
    "META.CALIBRATION_SOFTWARE_VERSION": "CAL_VER",
    "META.EXPOSURE.NGROUPS": "NGROUPS",
    "META.EXPOSURE.NOUTPUTS": "NOUTPUTS",
    "META.EXPOSURE.READPATT": "READPATT",
    "META.EXPOSURE.TYPE": "EXP_TYPE",
    "META.INSTRUMENT.BAND": "BAND",
    "META.INSTRUMENT.CHANNEL": "CHANNEL",
    "META.INSTRUMENT.CORONAGRAPH": "CORONMSK",
    "META.INSTRUMENT.DETECTOR": "DETECTOR",
    "META.INSTRUMENT.FILTER": "FILTER",
    "META.INSTRUMENT.GRATING": "GRATING",
    "META.INSTRUMENT.LAMP_MODE": "OPMODE",
    "META.INSTRUMENT.LAMP_STATE": "LAMP",
    "META.INSTRUMENT.MODULE": "MODULE",
    "META.INSTRUMENT.NAME": "INSTRUME",
    "META.INSTRUMENT.PUPIL": "PUPIL",
    "META.MODEL_TYPE": "DATAMODL",
    "META.OBSERVATION.DATE": "DATE-OBS",
    "META.OBSERVATION.TIME": "TIME-OBS",
    "META.SUBARRAY.NAME": "SUBARRAY",
    "META.VISIT.CROWDED_FIELD": "CROWDFLD",
    "META.VISIT.TSOVISIT": "TSOVISIT",
    "META.VISIT.TYPE": "VISITYPE",
}
NO_KEYWORD = frozenset({"META.INSTRUMENT.EXP_TYPE", "REFTYPE"})  # asked for by rules, unknown to the data models


def keywords(paths: Iterable[str]) -> dict[str, str]:
    """FITS keyword of each data model path (upper case). A path that the data models do not know is left out."""
    wanted = set(paths)
    if wanted <= KEYWORDS.keys() | NO_KEYWORD:
        return {path: KEYWORDS[path] for path in wanted - NO_KEYWORD}
    known = keywords_of_schema()
    return {path: known[path] for path in wanted if path in known}


def keywords_of_schema() -> dict[str, str]:
    """Data model path (upper case) -> FITS keyword, read from the data models' core schema (an import of 1.5 s)."""
    from stdatamodels.jwst import datamodels

    found: dict[str, str] = {}

    def walk(schema: Mapping[str, Any], path: str) -> None:
        if "fits_keyword" in schema:
            found.setdefault(path, schema["fits_keyword"].upper())
        for branch in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
            walk(branch, path)
        for name, item in schema.get("properties", {}).items():
            walk(item, f"{path}.{name.upper()}" if path else name.upper())

    walk(datamodels.JwstDataModel().schema, "")
    return found


class _Rules:
    """The rules of a context, and what they choose for exposures, offline.

    Exposures with equal parameters share one look-up; dates count only by the interval between two of the rules'
    use-after dates in which they fall.
    """

    def __init__(self, context: str, types: Iterable[str]):
        from crds.core import rmap

        self._rules = rmap.asmapping(context, cached=True)
        self._types = [name.lower() for name in types]
        self._needed: dict[str, tuple[dict[str, str], list[str] | None]] = {}  # by instrument
        self._seen: dict[tuple[str, ...], int] = {}
        self.groups: list[dict[str, str]] = []
        self.mappings = {context}
        self.paths: dict[str, str] = {}

    def group_of(self, path: str) -> int:
        """Index of the group of references of a raw file.

        Raises
        ------
        OSError, ValueError
            Its header cannot be read, or names no instrument.
        """
        from crds.core import utils

        primary = read_primary_header(path)
        instrument = (primary.text("INSTRUME") or "").lower()
        if not re.fullmatch(r"[a-z]{1,20}", instrument):  # it becomes a folder's name
            raise ValueError(f"INSTRUME is {shown(instrument)}, not the name of an instrument")
        needed, dates = self._parameters(instrument)
        values = primary.values(needed.values())
        facts = {name: values[keyword] for name, keyword in needed.items() if keyword in values}
        facts["META.INSTRUMENT.NAME"] = instrument.upper()
        minimal = self._rules.minimize_header(utils.condition_header(facts))
        key = (instrument, *_group_key(minimal, dates))
        if key not in self._seen:
            self._seen[key] = len(self.groups)
            found = self._rules.get_best_references(minimal, include=self._types)
            self.groups.append({kind: _plain_result(found.get(kind)) for kind in self._types})
            self.paths.update(_paths(self.groups[-1].values(), instrument))
        return self._seen[key]

    def _parameters(self, instrument: str) -> tuple[dict[str, str], list[str] | None]:
        """As `_needed`, once for each instrument."""
        if instrument not in self._needed:
            chosen = self._rules.get_imap(instrument)
            self._needed[instrument] = _needed(chosen)
            self.mappings.update(chosen.mapping_names())
        return self._needed[instrument]


def best(request: BestRequest) -> Best:
    """Best references of exposures by the rules of a context, offline."""
    rules = _Rules(request.context, request.types)
    exposures: dict[str, int] = {}
    faults: dict[str, str] = {}
    for name, path in request.exposures.items():
        try:
            exposures[name] = rules.group_of(path)
        except (OSError, ValueError) as error:
            faults[name] = f"{type(error).__name__}: {error}"
    mappings = sorted(rules.mappings)
    names = [*mappings, *rules.paths]
    info = _cached_server_info()
    bad = sorted(set(info.get("bad_files_list") or ()) & set(names))
    return Best(rules.groups, exposures, faults, mappings, rules.paths, *_listed(_metadata(info), names), bad)


def _needed(imap: Any) -> tuple[dict[str, str], list[str] | None]:
    """Header parameters that an instrument's rules read (path -> keyword), and their use-after dates, sorted.

    None in place of the dates when a rule uses the date in another way than UseAfter: then every date counts by itself.
    """
    from crds.core import config

    dates: set[str] = set()
    simple = True
    for rule in imap.selections.normal_values():
        simple &= tuple(rule.header["classes"]) == ("Match", "UseAfter")
        text = Path(config.locate_mapping(rule.basename)).read_text(encoding="utf-8")
        simple &= "META.OBSERVATION" not in re.sub(r"'parkey'\s*:.*", "", text)
        dates.update(_USE_AFTER.findall(text))
    return keywords(key.upper() for key in imap.get_required_parkeys()), sorted(dates) if simple else None


def _group_key(minimal: Mapping[str, str], dates: list[str] | None) -> tuple[str, ...]:
    if dates is None:
        return tuple(minimal[key] for key in sorted(minimal))
    when = f"{minimal.get(_DATE, '')} {minimal.get(_TIME, '')}"
    rest = (minimal[key] for key in sorted(minimal) if key not in (_DATE, _TIME))
    return (str(bisect.bisect_right(dates, when)), *rest)


def _plain_result(found: Any) -> str:
    """crds' answer for one type: a file name, 'N/A' for a type that does not apply, or 'NOT FOUND <why>'."""
    if found is None or (isinstance(found, str) and found.upper() in (NOT_APPLICABLE, f"{NOT_FOUND} {NOT_APPLICABLE}")):
        return NOT_APPLICABLE
    return str(found)


def _paths(names: Iterable[str], instrument: str) -> dict[str, str]:
    """Where a cache holds these reference files: flat, or by instrument."""
    from crds.core import config

    flat = config.get_crds_ref_subdir_mode(OBSERVATORY) == "flat"
    folder = f"references/{OBSERVATORY}" if flat else f"references/{OBSERVATORY}/{instrument}"
    return {name: f"{folder}/{name}" for name in names if name != NOT_APPLICABLE and not name.startswith(NOT_FOUND)}


def _cached_server_info() -> dict[str, Any]:
    """The server information of the last sync; empty when the cache has none."""
    import ast

    from crds.core import config

    try:
        text = Path(config.locate_config("server_config", OBSERVATORY)).read_text(encoding="utf-8")
        info = ast.literal_eval(text)
    except (OSError, ValueError, SyntaxError):
        return {}
    return info if isinstance(info, dict) else {}


def _metadata(info: Mapping[str, Any]) -> Mapping[str, Any]:
    from crds.client import proxy

    try:
        return dict(proxy.crds_decode(info["download_metadata"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _listed(metadata: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, int], dict[str, str]]:
    """Size [bytes] and SHA-1 of files, of those for which the server lists both."""
    sizes: dict[str, int] = {}
    sha1s: dict[str, str] = {}
    for name in names:
        row = metadata.get(name)
        size, sha1 = (row.get("size"), row.get("sha1sum")) if isinstance(row, dict) else (None, None)
        if str(size).isdigit() and sha1 not in (None, "", "none"):
            sizes[name], sha1s[name] = int(str(size)), str(sha1)
    return sizes, sha1s


def catalog(request: CatalogRequest) -> Catalog:
    """Ask the server, by the calls of the crds client, what it has."""
    from crds.client import api

    watch = Watch(request.limit_seconds)
    info = dict(_asked(api.get_server_info, watch))
    operational = info.get("operational_context")
    urls = {kind: str(api.get_flex_uri(name, OBSERVATORY)).rpartition("/")[0] for kind, name in _SAMPLES.items()}
    if request.context is None:
        return Catalog(operational, urls)
    names = sorted(_asked(lambda: api.get_mapping_names(request.context), watch))
    return Catalog(operational, urls, names, *_listed(api.get_download_metadata(), names), repr(info))


def _asked(call: Callable[[], T], watch: Watch) -> T:
    """The reply to a call of the crds client, which is made again where that may help."""

    def once(_attempt: object) -> T:
        try:
            return call()
        except Exception as error:
            if _kind(error) != "unreachable":
                raise
            raise PassingError(str(error), error, _asked_seconds(error)) from error

    return first_reply(once, watch, RETRIES)


def _asked_seconds(error: BaseException) -> float:
    """What the server's Retry-After asks for."""
    from urllib.error import HTTPError

    reply = next((link for link in _chain(error) if isinstance(link, HTTPError)), None)
    return retry_after_seconds(reply.headers.get("Retry-After")) if reply is not None else 0.0


def _answer(request: Message) -> Message:
    """Answer a request; a failure, SystemExit included, becomes a `Failure`."""
    try:
        if isinstance(request, CatalogRequest):
            return catalog(request)
        if isinstance(request, BestRequest):
            return best(request)
        raise TypeError(f"{type(request).__name__} is no request")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the process's only way to report it
        return Failure(_kind(error), _fault_of_proxy(error) or f"{type(error).__name__}: {error}")


def _fault_of_proxy(error: BaseException) -> str:
    """What is wrong with the proxy through which the server was asked; '' for nothing, or none."""
    from urllib.error import HTTPError

    server = os.environ.get("CRDS_SERVER_URL", "")
    reply = next((link for link in errors_within(error) if isinstance(link, HTTPError)), None)
    if reply is not None:
        said = f"the server{proxy} answered HTTP {reply.code}" if (proxy := answerer(server)) else ""
        return fault_of_status(server, reply.code) or said
    return fault_of_proxy(server, error) if _kind(error) == "unreachable" else ""


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that it was raised from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _kind(error: BaseException) -> str:
    """The kind of a `Failure`."""
    from urllib.error import HTTPError

    chain = _chain(error)
    status = next((link.code for link in chain if isinstance(link, HTTPError)), None)
    if status in (401, 403):
        return "access"
    names = {base.__name__ for link in chain for base in type(link).__mro__}
    if status is not None or names & _NETWORK_ERRORS:
        return "unreachable"
    if "ServiceError" in names:
        return "refused"
    return "cache"


def main() -> None:
    """Answer the request on stdin. What a library prints goes to stderr: stdout holds the answer alone."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    request = decode(sys.stdin.read())
    proxies = urllib.request.getproxies() | for_urllib(os.environ)
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler(proxies)))
    with contextlib.suppress(Exception, SystemExit):  # a failure of the import becomes the answer below
        import crds.client.api
        import crds.core.rmap  # noqa: F401
    with os.fdopen(stdout, "w") as stream:
        stream.write("\n")  # from now on the caller counts the seconds
        stream.flush()
        stream.write(encode(_answer(request)))


if __name__ == "__main__":
    main()
