"""One file over HTTP, once: resume where that is safe, check what arrives, say precisely why it failed.

The next attempt, and whether there is one, is the fetcher's business (`survey.archive.fetch`).
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urljoin, urlsplit

from survey.archive.client import is_loopback, shown_cause
from survey.archive.replies import PACKED, PackedBodyError, packing, retry_after_seconds, unpacked
from survey.credentials import scrub
from survey.models import Exposure

DOWNLOAD_PATH = "/api/v0.1/Download/file"
_READ_BYTES = 1 << 18
_MAX_REDIRECTS = 5
_FITS = b"SIMPLE  ="
MAX_FILE_BYTES = 16 * 1000**3  # the archive cuts exposures into segments of about 2 GB
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", re.ASCII)

Failure = Literal["server", "file", "refused", "final"]


@dataclass(frozen=True)
class FetchSettings:
    """How files are fetched."""

    downloads: int = 4  # at the same time
    retries: int = 4  # further attempts per file, after errors that may pass
    timeout_seconds: float = 60.0  # without progress, until a file or the server is given up
    min_bytes_per_second: float = 5000.0  # a body that is slower over a third of the timeout makes no progress
    backoff_seconds: float = 0.5  # before the second attempt; doubles
    max_wait_seconds: float = 20.0  # longest pause between attempts that the server did not ask for

    @property
    def stall_seconds(self) -> float:
        """Longest silence within one attempt [s]."""
        return self.timeout_seconds / 3


class TransferError(Exception):
    """A file that did not arrive.

    ``failure`` is 'server' (errors of the server or the way to it: may pass), 'file' (what came is not the file: may
    pass), 'refused' (401, 403) or 'final'. ``wait_seconds`` is what the server asked for.
    """

    def __init__(self, cause: str, failure: Failure, wait_seconds: float = 0.0):
        super().__init__(cause)
        self.failure = failure
        self.wait_seconds = wait_seconds


class Part:
    """The part file of a download and the validator of the body that it holds: ``.<name>.part`` and ``.part.tag``."""

    def __init__(self, directory: Path, filename: str):
        self.path = directory / f".{filename}.part"
        self._tag = directory / f".{filename}.part.tag"

    @property
    def size(self) -> int:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0  # never through a link

    @property
    def tag(self) -> str:
        try:
            return self._tag.read_text(encoding="ascii")
        except (OSError, ValueError):
            return ""

    def start(self, tag: str) -> None:
        """Empty part for a body with this validator ('' for none)."""
        self.discard()
        self.path.touch()
        if tag:
            self._tag.write_text(tag, encoding="ascii")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)

    def drop_tag(self) -> None:
        """After the part was given its final name."""
        self._tag.unlink(missing_ok=True)


class Connection:
    """Requests to one archive from one thread. The token goes to the archive's own origin and nowhere else."""

    def __init__(self, server: str, token: str | None, settings: FetchSettings):
        import requests

        self.server = server.rstrip("/")
        self._origin = _origin(self.server)
        safe = urlsplit(self.server).scheme == "https" or is_loopback(self.server)
        self._token = token if safe else None
        self._settings = settings
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        if is_loopback(self.server):
            self._session.trust_env = False

    def open(self, uri: str, headers: dict[str, str]) -> Any:
        """GET a product; redirects are followed by hand. The response's body is not read yet.

        Raises
        ------
        TransferError
            No connection, no answer in time, or redirected in circles.
        """
        import requests

        url = f"{self.server}{DOWNLOAD_PATH}?uri={quote(uri, safe=':/')}"
        stall = self._settings.stall_seconds
        for _ in range(_MAX_REDIRECTS + 1):
            sent = {"Accept-Encoding": "identity", **headers}
            if self._token and _origin(url) == self._origin:
                sent["Cookie"] = f"mast_token={self._token}"
            try:
                response = self._session.get(
                    url, headers=sent, stream=True, allow_redirects=False, timeout=(min(15.0, stall), stall)
                )
            except (requests.RequestException, ValueError) as error:
                raise TransferError(shown_cause(error), "server") from error
            if response.status_code not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
            if urlsplit(url).scheme not in ("http", "https"):
                break
        raise TransferError("redirected too often, or to no web address.", "final")

    def is_told(self, text: str) -> bool:
        """Whether a server's words hold the token that it was sent."""
        return scrub(text, self._token or "") != text

    def close(self) -> None:
        self._session.close()


def download(
    connection: Connection,
    exposure: Exposure,
    part: Part,
    settings: FetchSettings,
    on_bytes: Callable[[int, int | None], bool],
) -> None:
    """Bring the part file to its full length, resuming what is there.

    Parameters
    ----------
    on_bytes : called with bytes so far and in total (None: unknown); False stops the transfer

    Raises
    ------
    TransferError
        The file did not arrive whole. A part that can be resumed stays.
    OSError
        The part cannot be written.
    """
    if exposure.size is not None and exposure.size > MAX_FILE_BYTES:
        raise TransferError(f"the archive's row says {exposure.size} bytes; no exposure is so large.", "final")
    offset = part.size
    if exposure.size is not None and offset > exposure.size:
        part.discard()
        offset = 0
    if offset and offset == exposure.size:
        return
    headers = {}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if part.tag:
            headers["If-Range"] = part.tag
    response = connection.open(exposure.uri, headers)
    try:
        _check_status(response, exposure)
        if response.status_code == 416:
            _check_nothing_left(response, part, offset)
            return
        encoding, tag = packing(response.headers.get("Content-Encoding")), _validator(response)
        if encoding:
            offset, total = _packed_extent(part, encoding)
        else:
            offset, total = _body_extent(response, part, offset, "" if connection.is_told(tag) else tag)
        if None not in (total, exposure.size) and total != exposure.size:
            part.discard()
            raise TransferError(f"the server sends {total} bytes, the archive's row says {exposure.size}.", "file")
        limit = exposure.size or MAX_FILE_BYTES
        blocks = unpacked(_blocks(response), encoding, limit) if encoding else _blocks(response)
        received = _receive(blocks, part, offset, total, settings, on_bytes)
    except PackedBodyError as error:
        part.discard()  # a packed body cannot be resumed
        raise TransferError(f"the body came packed, and {error}", "file") from error
    finally:
        response.close()
    expected = total if total is not None else exposure.size
    if expected is None and received > MAX_FILE_BYTES:
        part.discard()
        raise TransferError(f"more than {MAX_FILE_BYTES} bytes came; no exposure is so large.", "final")
    if expected is not None and received > expected:
        part.discard()
    if expected is not None and received != expected:
        raise TransferError(f"the body ended after {received} of {expected} bytes.", "server")


def _check_status(response: Any, exposure: Exposure) -> None:
    status = response.status_code
    if status in (401, 403):
        raise TransferError(
            f"HTTP {status}: observation {exposure.observation} of program {exposure.program} is not open to you. "
            "Set MAST_API_TOKEN to a valid token (https://auth.mast.stsci.edu/token), or leave the observation out.",
            "refused",
        )
    if status == 429 or status == 408 or status >= 500:
        raise TransferError(f"HTTP {status} {response.reason}", "server", _asked(response))
    if status not in (200, 206, 416):
        raise TransferError(f"HTTP {status} {response.reason}", "final")
    if status != 416 and "html" in response.headers.get("Content-Type", "").lower():
        raise TransferError("an HTML page came in place of the file.", "server")


def _asked(response: Any) -> float:
    return retry_after_seconds(response.headers.get("Retry-After"))


def _check_nothing_left(response: Any, part: Part, offset: int) -> None:
    """416 to a resume: the part is complete if the file's total is its size; otherwise it is of another file."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if offset and match and int(match[3]) == offset:
        return
    part.discard()
    raise TransferError("the server could not resume; starting again.", "file")


def _body_extent(response: Any, part: Part, offset: int, tag: str) -> tuple[int, int | None]:
    """Where the body starts in the file, and the file's total size; anything but a matching 206 starts again."""
    length = response.headers.get("Content-Length", "")
    left = int(length) if length.isdecimal() else None
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        known = match is not None and match[1] is not None
        fits = known and match is not None and int(match[1]) == offset and int(match[2]) + 1 == int(match[3])
        if not offset or not fits or match is None or (part.tag and tag and tag != part.tag):
            part.discard()
            raise TransferError(
                f"a resume at byte {offset} was answered with another range "
                f"({response.headers.get('Content-Range', 'none')}); starting again.",
                "file",
            )
        return offset, int(match[3])
    part.start(tag)
    return 0, left


def _packed_extent(part: Part, encoding: str) -> tuple[int, None]:
    """A proxy packed the body although that was not asked for: it starts at 0, and its length says nothing."""
    part.discard()
    if encoding not in PACKED:
        raise TransferError(f"the body came packed as {ascii(encoding[:40])}, which nobody asked for.", "file")
    part.start("")
    return 0, None


def _validator(response: Any) -> str:
    """What If-Range may hold: a strong ETag, or Last-Modified."""
    tag = str(response.headers.get("ETag", ""))
    if tag and not tag.startswith("W/"):
        return tag if tag.isascii() else ""
    modified = str(response.headers.get("Last-Modified", ""))
    return modified if modified.isascii() else ""


def _receive(
    blocks: Iterator[bytes],
    part: Part,
    offset: int,
    total: int | None,
    settings: FetchSettings,
    on_bytes: Callable[[int, int | None], bool],
) -> int:
    """Append the body to the part; returns the part's size."""
    mark_time, mark_bytes = time.monotonic(), offset
    wanted = settings.min_bytes_per_second * settings.stall_seconds
    with part.path.open("ab") as stream:
        for block in blocks:
            if not offset and not block.startswith(_FITS[: len(block)]):  # a page in disguise: not a byte is kept
                raise TransferError("what came does not begin as a FITS file.", "file")
            stream.write(block)
            offset += len(block)
            if not on_bytes(offset, total):
                raise TransferError("stopped.", "final")
            if offset > (MAX_FILE_BYTES if total is None else total):
                break
            now = time.monotonic()
            if offset - mark_bytes >= wanted:
                mark_time, mark_bytes = now, offset
            elif now - mark_time > settings.stall_seconds:
                raise TransferError(
                    f"{offset - mark_bytes} bytes in {now - mark_time:.0f} s: the server drips or is stuck.", "server"
                )
    return offset


def _blocks(response: Any) -> Iterator[bytes]:
    """Bytes of the body as they arrive: a read that waits for a full block would not see a drip."""
    import requests
    import urllib3

    raw = response.raw
    read = getattr(raw, "read1", None)
    try:
        while True:
            block = read(_READ_BYTES) if read is not None else raw.read(4096)
            if not block:
                return
            yield block
    except urllib3.exceptions.IncompleteRead:
        return  # the caller counts
    except (urllib3.exceptions.HTTPError, requests.RequestException, ConnectionError, TimeoutError) as error:
        raise TransferError(shown_cause(error), "server") from error


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default
