"""Requests to the process that uses the crds library (`survey.references.lookup`), and its answers, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

NOT_APPLICABLE = "N/A"
NOT_FOUND = "NOT FOUND"


@dataclass(frozen=True)
class CatalogRequest:
    """What a server has: its addresses and operational context; with a context, also the rules of that."""

    context: str | None
    limit_seconds: float  # for all requests to the server together


@dataclass(frozen=True)
class Catalog:
    """What a server has."""

    operational: str | None  # context
    urls: Mapping[str, str]  # 'mappings' and 'references' -> address of their folder
    mappings: Sequence[str] = ()  # rule files of the context
    sizes: Mapping[str, int] = field(default_factory=dict)  # file -> bytes, as the server lists them
    sha1s: Mapping[str, str] = field(default_factory=dict)  # file -> SHA-1, as the server lists them
    info: str = ""  # text of crds' own ``server_config``


@dataclass(frozen=True)
class BestRequest:
    """The best references of exposures by the rules of a context, from the cache alone."""

    context: str
    types: Sequence[str]
    exposures: Mapping[str, str]  # name -> raw file, of which the primary header is read


@dataclass(frozen=True)
class Best:
    """The best references of exposures."""

    groups: Sequence[Mapping[str, str]]  # reference type -> file, 'N/A' or 'NOT FOUND <why>'
    exposures: Mapping[str, int]  # name -> index of its group
    faults: Mapping[str, str]  # exposure -> why its header could not be read
    mappings: Sequence[str]  # rule files that were used
    paths: Mapping[str, str]  # reference file -> path below the cache
    sizes: Mapping[str, int]  # file -> bytes, as the cached server information lists them
    sha1s: Mapping[str, str]  # file -> SHA-1, as the cached server information lists them
    bad: Sequence[str]  # files that the server information calls scientifically invalid


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: 'access', 'unreachable', 'refused' (by the server) or 'cache' (a file is missing)."""

    kind: str
    error: str


Message = CatalogRequest | Catalog | BestRequest | Best | Failure
_KINDS = {kind.__name__: kind for kind in (CatalogRequest, Catalog, BestRequest, Best, Failure)}


def encode(message: Message) -> str:
    """A message as JSON."""
    return json.dumps({"message": type(message).__name__, **asdict(message)})


def decode(text: str | bytes) -> Message:
    """The message in a JSON text.

    Raises
    ------
    ValueError
        It is not one.
    """
    try:
        values = json.loads(text)
        return _KINDS[values.pop("message")](**values)  # type: ignore[no-any-return]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a message of the CRDS process: {error}") from error
