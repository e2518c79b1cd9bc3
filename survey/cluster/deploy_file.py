"""Read a deploy file: every fault at once, with its line and the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from survey.cluster.deploy import CLUSTER_ADDRESS, KINDS, AddressSite, LocalSite, SiteConfig
from survey.config.yaml_file import MAX_FAULTS, Document, Place, keys_of, read_document
from survey.errors import ConfigError
from survey.messages import did_you_mean, shown, unquoted

LOCAL = "local"


def load_site(path: Path | str) -> SiteConfig:
    """Read a deploy file.

    Raises
    ------
    ConfigError
        The file cannot be read, is not a mapping, or has faults; each with file, line and what is expected.
    """
    document = read_document(path, example="kind: local")
    kind = document.data.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        site, found = _read(document, kind)
        faults = list(found.values())
    else:
        site, faults = None, [_kind_fault(document), *_faults_without_kind(document)]
    faults = [*document.faults, *faults[:MAX_FAULTS]]
    if site is None or faults:
        raise ConfigError(faults)
    return site


def site_of(where: str | None) -> SiteConfig:
    """The deploy file that ``--cluster`` names, or the one that a missing value, 'local' or an address stands for.

    Raises
    ------
    ConfigError
        It is neither of them nor the name of a file, or the file has faults.
    """
    if where is None or where == LOCAL:
        return LocalSite(kind="local")
    if CLUSTER_ADDRESS.fullmatch(where):
        return AddressSite(kind="address", address=where)
    if where and Path(where).is_file():
        return load_site(where)
    raise ConfigError(
        f"--cluster {where}: expected 'local' or an address such as tcp://127.0.0.1:8786, or a deploy file; there is "
        "no file of that name."
    )


def _read(document: Document, kind: str) -> tuple[SiteConfig | None, dict[Place, str]]:
    """The deploy file as one of a kind, and its faults by place."""
    model = KINDS[kind]
    faults: dict[Place, str] = {}
    site = None
    try:
        site = model(**{**document.data, "kind": kind})
    except ValidationError as error:
        for item in error.errors(include_url=False):
            place = tuple(part for part in item["loc"] if part != "[key]")  # pydantic's own mark of a mapping's key
            faults[place] = _message(document, {**item, "loc": place}, kind)
    for place, message in model.group_faults(document.data):
        faults.setdefault(place, f"{document.locate(place)}: {'.'.join(map(unquoted, place))}: {message}")
    return site, faults


def _message(document: Document, item: Mapping[str, Any], kind: str) -> str:
    """A fault that pydantic found, with file and line. Of a key of other kinds, it names these."""
    *above, name = item["loc"] or ("",)
    others = [other for other, model in KINDS.items() if name in keys_of(model, tuple(above))]
    if item["type"] == "extra_forbidden" and others:
        place = ".".join(map(unquoted, item["loc"]))
        return f"{document.locate(item['loc'])}: {place}: is not a key of kind {kind}, only of {', '.join(others)}."
    message = ""
    if item["type"] in ("dict_type", "mapping_type", "model_type"):
        message = f"expected a mapping of keys, found {shown(item['input'])}."
    elif item["type"] == "too_short":
        message = "expected at least one group, such as 'ordinary: {memory_gb: 4}'."
    return document.fault({**item, "type": "value_error", "msg": message} if message else item, KINDS[kind])


def _near_kind(document: Document) -> list[str]:
    """The kind that a file nearly names; empty when there is none."""
    return difflib.get_close_matches(str(document.data.get("kind", ""))[:80].lower(), KINDS, n=1, cutoff=0.5)


def _kind_fault(document: Document) -> str:
    message = "is required and missing."
    if "kind" in document.data:
        kind = document.data["kind"]
        message = f"{shown(kind)} is not a kind{did_you_mean(str(kind).lower(), KINDS) or '.'}"
    return f"{document.locate(['kind'])}: kind: {message} Known kinds: {', '.join(KINDS)}."


def _faults_without_kind(document: Document) -> Iterator[str]:
    """Faults of a file without a known kind: of the kind that it nearly names, else those that every kind has."""
    near = _near_kind(document)
    read = {kind: _read(document, kind)[1] for kind in near or KINDS}
    found = list(read.values())
    for place in dict.fromkeys(place for faults in found for place in faults):
        # A fault further up hides it: a file of kind address has no groups, and so no faults in them.
        if all(any(place[: len(other)] == other for other in faults) for faults in found):
            messages = [faults[place] for faults in found if place in faults]
            about_value = [text for text in messages if "unknown key" not in text and "is not a key" not in text]
            if about_value or near:
                yield (about_value or messages)[0]
            else:
                yield _unknown_key(document, place, [KINDS[kind] for kind, faults in read.items() if place in faults])


def _unknown_key(document: Document, place: Place, models: Sequence[type[SiteConfig]]) -> str:
    """The fault of a key that no kind has; a near key is suggested only if all of these kinds have it."""
    common = set.intersection(*(set(keys_of(model, place[:-1])) for model in models))
    name = ".".join(map(unquoted, place))
    return (
        f"{document.locate(place)}: {name}: unknown key{did_you_mean(place[-1], sorted(common)) or ' of every kind.'}"
    )
