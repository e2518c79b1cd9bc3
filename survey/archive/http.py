"""What all HTTP requests of this package share: origins, bodies, Retry-After, and short descriptions of failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from survey.credentials import scrub

READ_BYTES = 1 << 18
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAX_CAUSE = 200  # characters


class BodyError(Exception):
    """A body that broke off; ``is_damaged`` when what came cannot be unpacked, so that a resume makes no sense."""

    def __init__(self, cause: str, is_damaged: bool = False):
        super().__init__(cause)
        self.is_damaged = is_damaged


def is_loopback(server: str) -> bool:
    """Whether an address is on this machine."""
    return (urlsplit(server).hostname or "") in _LOOPBACK


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address: what a token is bound to."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default


def retry_after_seconds(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 for a value that cannot be read."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return float(Retry().parse_retry_after(value or ""))
    except (InvalidHeader, ValueError, OverflowError, TypeError):
        return 0.0


def may_pass(status: int) -> bool:
    """Whether a request that was answered with this HTTP status may succeed later."""
    return status >= 500 or status in (408, 429)


def body_blocks(response: Any) -> Iterator[bytes]:
    """Bytes of a streamed body as they arrive, unpacked, at most `READ_BYTES` at a time.

    urllib3 unpacks what a proxy packed, and no further than it is asked to: a megabyte of gzip can hold a gigabyte, so
    the caller counts.

    Raises
    ------
    BodyError
        The body broke off, or its packing is damaged.
    """
    import urllib3

    try:
        while block := response.raw.read1(READ_BYTES, decode_content=True):
            yield block
    except urllib3.exceptions.DecodeError as error:
        raise BodyError(f"its packing is damaged ({shown_cause(error)})", is_damaged=True) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise BodyError(shown_cause(error)) from error


def shown_cause(error: BaseException) -> str:
    """The innermost cause of an error in a few words, without the token."""
    seen: BaseException = error
    while isinstance(inner := getattr(seen, "reason", None) or seen.__cause__ or seen.__context__, BaseException):
        seen = inner
    shown = scrub(f"{type(seen).__name__}: {seen}")
    return shown if len(shown) < _MAX_CAUSE else shown[: _MAX_CAUSE - 3] + "..."
