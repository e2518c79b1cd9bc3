"""The part that talks to the crds library: a short-lived child process, ``python -m survey.references.lookup``.

crds memoises its context and server information per process, reads a dozen environment variables, waits on sockets and
ends the process when it is unhappy. In a child with an environment of its own and a deadline, none of that reaches
the caller. One JSON request on stdin, one JSON answer on stdout; crds logs to stderr.

Requests: ``{"do": "catalog", "context"}`` asks the server (the crds client's own calls) for the context's mappings and
for what it knows of every file; ``{"do": "best", "context", "types", "exposures": {name: raw file}}`` evaluates the
rules offline, from the cache.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OBSERVATORY = "jwst"
NOT_APPLICABLE = "N/A"
_DATE, _TIME = "META.OBSERVATION.DATE", "META.OBSERVATION.TIME"
_USE_AFTER = re.compile(r"""['"](\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2})['"]""", re.ASCII)
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
_BLOCK_BYTES = 2880  # of a FITS header
_CARD_BYTES = 80
_MAX_BLOCKS = 1000  # a header beyond 36,000 cards is not one


def read_primary_header(path: Path | str) -> dict[str, str | bool | int | float]:
    """Keywords of a FITS file's primary header; the data are not touched.

    Faster than a full parser (0.5 ms for 300 cards), which counts for 13,000 exposures. Undefined values, comments and
    continuations of long texts are left out; of a repeated keyword the first counts.

    Raises
    ------
    ValueError
        Not FITS, or a header without END.
    OSError
        The file cannot be read.
    """
    cards: dict[str, str | bool | int | float] = {}
    with open(path, "rb") as stream:
        for number in range(_MAX_BLOCKS):
            block = stream.read(_BLOCK_BYTES)
            if len(block) < _BLOCK_BYTES or (number == 0 and not block.startswith(b"SIMPLE  =")):
                raise ValueError(f"{path}: not a FITS file, or cut off within its header.")
            text = block.decode("ascii", errors="replace")
            for start in range(0, _BLOCK_BYTES, _CARD_BYTES):
                keyword = text[start : start + 8].rstrip()
                if keyword == "END":
                    return cards
                if text[start + 8 : start + 10] == "= ":
                    value = _card_value(text[start + 10 : start + _CARD_BYTES])
                    if value is not None:
                        cards.setdefault(keyword, value)
    raise ValueError(f"{path}: a FITS header without END.")


def _card_value(field: str) -> str | bool | int | float | None:
    text = field.strip()
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        return match.group(1).replace("''", "'").rstrip() if match else None
    text = text.split("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    for kind in (int, float):
        try:
            return kind(text.replace("D", "E"))
        except ValueError:
            continue
    return text or None


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


def best(context: str, types: Iterable[str], exposures: Mapping[str, str]) -> dict[str, Any]:
    """Best references of exposures by the rules of a context, offline.

    Exposures with equal parameters share one look-up; dates count only by the interval between two of the rules'
    use-after dates in which they fall.

    Returns
    -------
    dict
        ``groups`` list of {type: file, 'N/A' or 'NOT FOUND <why>'}; ``exposures`` name -> index of its group;
        ``mappings`` that were used; ``paths`` reference file -> path below the cache; ``faults`` exposure -> why its
        header could not be read; ``known`` what the cached server information says of the files, and ``bad`` which
        of them it calls scientifically invalid.
    """
    from crds.core import rmap, utils

    rules = rmap.asmapping(context, cached=True)
    wanted = [name.lower() for name in types]
    answer: dict[str, Any] = {"groups": [], "exposures": {}, "mappings": {context}, "paths": {}, "faults": {}}
    instruments: dict[str, tuple[dict[str, str], list[str] | None]] = {}
    seen: dict[tuple[str, ...], int] = {}
    for name, path in exposures.items():
        try:
            header = read_primary_header(path)
            instrument = str(header["INSTRUME"]).lower()
            if not re.fullmatch(r"[a-z]{1,20}", instrument):  # it becomes a folder's name
                raise ValueError(f"INSTRUME is {ascii(instrument)[:80]}, which is no instrument")
        except (OSError, ValueError, KeyError) as error:
            answer["faults"][name] = f"{type(error).__name__}: {error}"
            continue
        if instrument not in instruments:
            chosen = rules.get_imap(instrument)
            instruments[instrument] = _needed(chosen)
            answer["mappings"].update(chosen.mapping_names())
        needed, dates = instruments[instrument]
        facts = {path: header[keyword] for path, keyword in needed.items() if keyword in header}
        facts["META.INSTRUMENT.NAME"] = instrument.upper()
        minimal = rules.minimize_header(utils.condition_header(facts))
        key = (instrument, *_group_key(minimal, dates))
        if key not in seen:
            seen[key] = len(answer["groups"])
            found = rules.get_best_references(minimal, include=wanted)
            answer["groups"].append({kind: _plain_result(found.get(kind)) for kind in wanted})
            answer["paths"].update(_paths(answer["groups"][-1].values(), instrument))
        answer["exposures"][name] = seen[key]
    answer["mappings"] = sorted(answer["mappings"])
    names = [*answer["mappings"], *answer["paths"]]
    info = _cached_server_info()
    answer["known"] = _facts(_metadata(info), names)
    answer["bad"] = sorted(set(info.get("bad_files_list") or ()) & set(names))
    return answer


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
    if found is None or (isinstance(found, str) and found.upper() in (NOT_APPLICABLE, "NOT FOUND N/A")):
        return NOT_APPLICABLE
    return str(found)


def _paths(names: Iterable[str], instrument: str) -> dict[str, str]:
    """Where a cache holds these reference files: flat, or by instrument."""
    from crds.core import config

    flat = config.get_crds_ref_subdir_mode(OBSERVATORY) == "flat"
    folder = f"references/{OBSERVATORY}" if flat else f"references/{OBSERVATORY}/{instrument}"
    return {name: f"{folder}/{name}" for name in names if name != NOT_APPLICABLE and not name.startswith("NOT FOUND")}


def _cached_server_info() -> dict[str, Any]:
    """What the server said when the cache was last synced; empty when the cache does not hold it."""
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


def _facts(metadata: Mapping[str, Any], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    rows = {name: metadata.get(name) for name in names}
    return {
        name: {"size": int(row["size"]), "sha1sum": str(row["sha1sum"])}
        for name, row in rows.items()
        if isinstance(row, dict) and str(row.get("size", "")).isdigit() and row.get("sha1sum") not in (None, "", "none")
    }


def catalog(context: str | None) -> dict[str, Any]:
    """Ask the server, through the crds client, what it has.

    Returns
    -------
    dict
        ``operational`` context; ``urls`` of mappings and references; and, with a context, ``info`` the text of a
        ``server_config``, ``mappings`` of the context's closure and ``known`` their size and sha1.
    """
    from crds.client import api

    info = dict(api.get_server_info())
    answer: dict[str, Any] = {
        "operational": info.get("operational_context"),
        "urls": {kind: api.get_flex_uri(name, OBSERVATORY).rpartition("/")[0] for kind, name in _SAMPLES.items()},
    }
    if context is not None:
        names = sorted(api.get_mapping_names(context))
        answer |= {"mappings": names, "known": _facts(api.get_download_metadata(), names), "info": repr(info)}
    return answer


_NETWORK_ERRORS = {"URLError", "TimeoutError", "HTTPException", "JSONDecodeError", "CrdsNetworkError"}
_SAMPLES = {"mappings": "any.pmap", "references": "any.fits"}


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one request; a failure becomes ``{"error": text, "kind": ...}``, SystemExit included."""
    try:
        if request["do"] == "catalog":
            return catalog(request["context"])
        return best(request["context"], request["types"], request["exposures"])
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the border of the process: everything becomes an answer
        return {"error": f"{type(error).__name__}: {error}", "kind": _kind(error)}


def _kind(error: BaseException) -> str:
    """'access', 'unreachable', 'refused' (the server answered with an error) or 'cache' (a file is missing or bad)."""
    from urllib.error import HTTPError

    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
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
    """Answer the request on stdin. Whatever a library prints goes to stderr: stdout holds the answer alone."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    with contextlib.suppress(Exception, SystemExit):  # what is wrong with it becomes an answer below
        import crds.client.api
        import crds.core.rmap  # noqa: F401
    with os.fdopen(stdout, "w") as stream:
        stream.write("\n")  # from now on the caller counts the seconds
        stream.flush()
        json.dump(_answer(request), stream)


if __name__ == "__main__":
    main()
