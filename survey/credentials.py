"""The archive's token: an environment variable that the fetcher reads. Nobody is told it, no process inherits it, no
address of a server holds one.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping

TOKEN = "MAST_API_TOKEN"
MASK = "***"
_LEAST = 4  # characters; what is shorter is no secret, and would blot out half of every message
_seen: set[str] = set()  # tokens of this process's life: also while `hidden` no message may hold one


def token() -> str | None:
    """The token of this process, or None."""
    found = os.environ.get(TOKEN, "").strip()
    if len(found) >= _LEAST:
        _seen.add(found)
    return found or None


def scrub(text: str, secret: str | None = None) -> str:
    """A text without this process's token, and without another one if it is given; as it is, or as a web page or an
    address would write it.
    """
    token()
    secrets = _seen | {secret} if secret and len(secret) >= _LEAST else _seen
    for item in secrets:
        for spelling in {item, urllib.parse.quote(item, safe=""), urllib.parse.quote(item), html.escape(item)}:
            text = text.replace(spelling, MASK)
    return text


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that has no business with the archive."""
    return {name: value for name, value in environment.items() if name != TOKEN}


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Take the token out of this process's environment while others are started that would inherit it."""
    token()
    kept = os.environ.pop(TOKEN, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[TOKEN] = kept


def server_address(value: str) -> str:
    """An archive's or reference server's address without a slash at its end.

    Raises
    ------
    ValueError
        It is none, or holds a user name.
    """
    if not re.fullmatch(r"https?://[^\s/@]+(/[^\s@]*)?", value):
        raise ValueError(f"{value!r}: expected http(s)://host, without a user name or token.")
    try:
        parts = urllib.parse.urlsplit(value)
        host, port = parts.hostname or "", parts.port
        if not host or port == 0:
            raise ValueError("no host or port")
        if ":" not in host:
            host.encode("idna")
    except ValueError as error:
        raise ValueError(f"{value!r}: no web server can have this address ({error}).") from error
    return value.rstrip("/")
