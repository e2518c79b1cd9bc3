"""The token of the MAST archive: read from the environment by the downloader, and kept out of logs, child processes and
server addresses.
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
_LEAST = 4  # characters; masking a shorter one would make messages unreadable
_seen: set[str] = set()  # tokens that this process has had; masked also while `hidden`


def token() -> str | None:
    """The token in the environment of this process, or None."""
    found = os.environ.get(TOKEN, "").strip()
    if len(found) >= _LEAST:
        _seen.add(found)
    return found or None


def scrub(text: str, secret: str | None = None) -> str:
    """Replace tokens in a text by `MASK`, also where they are escaped for HTML or a URL, and logins of proxies.

    Parameters
    ----------
    secret : another token to replace, besides those of this process
    """
    token()
    secrets = _seen | {secret} if secret and len(secret) >= _LEAST else _seen
    for item in secrets:
        for spelling in {item, urllib.parse.quote(item, safe=""), urllib.parse.quote(item), html.escape(item)}:
            text = text.replace(spelling, MASK)
    for login in _logins_of_proxies(os.environ):
        text = text.replace(f"{login}@", f"{MASK}@")
        password = login.partition(":")[2]
        if len(password) >= _LEAST:
            text = text.replace(password, MASK).replace(urllib.parse.unquote(password), MASK)
    return text


def _logins_of_proxies(environment: Mapping[str, str]) -> list[str]:
    """``user:password`` of the addresses of proxies in an environment."""
    found = [value for name, value in environment.items() if name.lower().endswith("_proxy") and "@" in value]
    return [value.rpartition("@")[0].rpartition("://")[2] for value in found]


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the token, for a process that does not need the archive."""
    return {name: value for name, value in environment.items() if name != TOKEN}


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Remove the token from the environment of this process while it starts others, which inherit the environment."""
    token()
    kept = os.environ.pop(TOKEN, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[TOKEN] = kept


def server_address(value: str) -> str:
    """The address of an archive or reference server, without a slash at its end.

    Raises
    ------
    ValueError
        It is not an http(s) address, or holds a user name.
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
        raise ValueError(f"{value!r}: not a valid address of a web server ({error}).") from error
    return value.rstrip("/")
