"""Download one file over HTTP, one attempt: resume where that is safe, check what arrives, name what went wrong.

`survey.archive.transfers` decides about further attempts.
"""

from __future__ import annotations

import re
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin, urlsplit

from survey.archive.attempts import LEAST_BYTES_PER_SECOND, SHARES, Attempt, Pace
from survey.archive.http import BodyError, body_blocks, is_loopback, may_pass, origin, retry_after_seconds, shown_cause
from survey.archive.proxies import answerer, fault_of_proxy, fault_of_status, malformed, through
from survey.credentials import scrub

MAX_FILE_BYTES = 16 * 1000**3  # the archive cuts exposures into segments of about 2 GB
_MAX_REDIRECTS = 5
_CONNECT_SECONDS = 15.0
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", re.ASCII)

Failure = Literal["server", "file", "refused", "final"]
OnBytes = Callable[[int, int | None], None]  # bytes so far, bytes in total (None: unknown)


@dataclass(frozen=True)
class FetchSettings:
    """How files are fetched."""

    downloads: int = 4  # at the same time
    retries: int = 4  # further attempts per file, after errors that may pass
    timeout_seconds: float = 60.0  # without progress, until a file or the server is given up
    min_bytes_per_second: float = LEAST_BYTES_PER_SECOND  # a slower body makes no progress
    backoff_seconds: float = 0.5  # before the second attempt; doubles
    max_wait_seconds: float = 20.0  # longest pause between attempts that the server did not ask for

    @property
    def stall_seconds(self) -> float:
        """Longest silence within one attempt [s]."""
        return self.timeout_seconds / SHARES

    @property
    def least_bytes(self) -> float:
        """Bytes within the longest silence that count as progress."""
        return self.min_bytes_per_second * self.stall_seconds


@dataclass(frozen=True)
class Source:
    """A server and the token for it, which is sent to this server's origin alone, over TLS or on this machine."""

    server: str
    token: str | None = None


class Part:
    """The part file of a download, and the validator of the body in it: ``.<name>.part`` and ``.<name>.part.tag``."""

    def __init__(self, directory: Path, filename: str):
        self.filename = filename
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
        """ETag or Last-Modified of the body, '' for none."""
        try:
            return self._tag.read_text(encoding="ascii")
        except (OSError, ValueError):
            return ""

    def start(self, tag: str) -> None:
        """Begin an empty part for a body with this validator ('' for none)."""
        self.discard()
        self.path.touch()
        if tag:
            self._tag.write_text(tag, encoding="ascii")

    def discard(self) -> None:
        """Remove part and validator."""
        self.path.unlink(missing_ok=True)
        self.drop_tag()

    def drop_tag(self) -> None:
        """Remove the validator, after the part was given its final name."""
        self._tag.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch, and what is known of it beforehand."""

    name: str  # in results, messages and progress
    url: str
    part: Part  # where its bytes go until they are all there
    size: int | None = None  # bytes; None: unknown
    begins_with: bytes = b""  # so that a web page in its place is seen at the first bytes
    when_refused: str = ""  # what a user can do about 401 and 403


class TransferError(Exception):
    """A file that did not arrive.

    ``failure`` is 'server' (of the server or the way to it: may pass), 'file' (what came is not the file: may pass),
    'refused' (401, 403) or 'final'. ``wait_seconds`` is what the server asked for.
    """

    def __init__(self, cause: str, failure: Failure, wait_seconds: float = 0.0):
        super().__init__(cause)
        self.failure = failure
        self.wait_seconds = wait_seconds


class Connection:
    """Requests to one server from one thread."""

    def __init__(self, source: Source, settings: FetchSettings):
        import requests

        self._origin = origin(source.server)
        safe = urlsplit(source.server).scheme == "https" or is_loopback(source.server)
        self._token = source.token if safe else None
        self._settings = settings
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        if self._origin[0] == "https":
            self._session.mount("https://", _system_certificates())
        if is_loopback(source.server):
            self._session.trust_env = False

    def open(self, url: str, headers: dict[str, str]) -> Any:
        """GET a file; redirects are followed by hand, since the token must not follow them. No body is read yet.

        Raises
        ------
        TransferError
            No connection, no answer in time, or redirected in circles.
        """
        import requests

        stall = self._settings.stall_seconds
        for _ in range(_MAX_REDIRECTS + 1):
            if fault := malformed(url):
                raise TransferError(fault, "server")
            sent = {"Accept-Encoding": "identity", **headers}
            if self._token and origin(url) == self._origin:
                sent["Cookie"] = f"mast_token={self._token}"
            try:
                response = self._session.get(
                    url,
                    headers=sent,
                    stream=True,
                    allow_redirects=False,
                    timeout=(min(_CONNECT_SECONDS, stall), stall),
                )
            except (requests.RequestException, ValueError) as error:
                cause = fault_of_proxy(url, error) or f"{shown_cause(error)}{through(url)}"
                raise TransferError(cause, "server") from error
            if response.status_code not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
            if urlsplit(url).scheme not in ("http", "https"):
                break
        raise TransferError("redirected too often, or to no web address.", "final")

    def holds_token(self, text: str) -> bool:
        """Whether a server's text holds the token that it was sent."""
        return scrub(text, self._token or "") != text

    def close(self) -> None:
        self._session.close()


def _system_certificates() -> Any:
    """An adapter that accepts the system's authorities (SSL_CERT_FILE included) beside those of requests."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **options)

        def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
            return super().proxy_manager_for(*args, ssl_context=ssl.create_default_context(), **options)

    return Adapter()


def download(connection: Connection, file: RemoteFile, attempt: Attempt, on_bytes: OnBytes) -> None:
    """Complete the part of a file, resuming what is there.

    Parameters
    ----------
    on_bytes : called for each block, after it was written; notes progress in ``attempt.pace``

    Raises
    ------
    TransferError
        The file did not arrive whole. A part that can be resumed stays.
    OSError
        The part cannot be written.
    GivenUpError
        The attempt was ended from outside.
    """
    if file.size is not None and file.size > MAX_FILE_BYTES:
        raise TransferError(f"is listed with {file.size} bytes; no file of the archive is so large.", "final")
    part = file.part
    offset = part.size
    if file.size is not None and offset > file.size:
        part.discard()
        offset = 0
    if offset and offset == file.size:
        return
    headers = {}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if part.tag:
            headers["If-Range"] = part.tag
    response = connection.open(file.url, headers)
    try:
        _check_status(response, file)
        with attempt.writing():
            if response.status_code == 416:
                _check_nothing_left(response, part, offset)
                return
            tag = _validator(response)
            start, total = _extent(response, part, offset, "" if connection.holds_token(tag) else tag)
            attempt.pace.restart(start)
            if None not in (total, file.size) and total != file.size:
                part.discard()
                raise TransferError(f"the server sends {total} bytes, expected {file.size}.", "file")
        _receive(response, _Target(file, start, total), attempt, on_bytes)
    finally:
        response.close()


def _check_status(response: Any, file: RemoteFile) -> None:
    status = response.status_code
    if fault := fault_of_status(file.url, status):
        raise TransferError(fault, "server")
    who = f" of the server{proxy}" if (proxy := answerer(file.url)) else ""
    if status in (401, 403):
        raise TransferError(f"HTTP {status}{who}: {file.when_refused or response.reason}", "refused")
    if may_pass(status):
        asked = retry_after_seconds(response.headers.get("Retry-After"))
        raise TransferError(f"HTTP {status} {response.reason}{who}", "server", asked)
    if status not in (200, 206, 416):
        raise TransferError(f"HTTP {status} {response.reason}", "final")
    if status != 416 and "html" in response.headers.get("Content-Type", "").lower():
        raise TransferError("an HTML page came in place of the file.", "server")


def _check_nothing_left(response: Any, part: Part, offset: int) -> None:
    """416 to a resume: the part is complete if the file's total is its size; otherwise it is of another file."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if offset and match and int(match[3]) == offset:
        return
    part.discard()
    raise TransferError("the server could not resume; starting again.", "file")


def _extent(response: Any, part: Part, offset: int, tag: str) -> tuple[int, int | None]:
    """Where the body starts in the file, and the file's size; anything but a matching 206 starts from the beginning."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    is_packed = encoding not in ("", "identity")  # although that was not asked for: its length is not the file's
    length = response.headers.get("Content-Length", "")
    if response.status_code != 206:
        part.start("" if is_packed else tag)
        return 0, int(length) if length.isdecimal() and not is_packed else None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if (
        not offset
        or is_packed
        or match is None
        or match[1] is None
        or (int(match[1]), int(match[2]) + 1) != (offset, int(match[3]))
        or (part.tag and tag and tag != part.tag)
    ):
        part.discard()
        raise TransferError(
            f"a resume at byte {offset} was answered with another range "
            f"({response.headers.get('Content-Range', 'none')}); starting again.",
            "file",
        )
    return offset, int(match[3])


def _validator(response: Any) -> str:
    """What If-Range may hold: a strong ETag, or Last-Modified; '' for neither."""
    tag = str(response.headers.get("ETag", ""))
    if tag and not tag.startswith("W/"):
        return tag if tag.isascii() else ""
    modified = str(response.headers.get("Last-Modified", ""))
    return modified if modified.isascii() else ""


@dataclass(frozen=True)
class _Target:
    """Where a body goes."""

    file: RemoteFile
    start: int  # offset of the body in the file
    total: int | None  # size of the file as the response gives it

    @property
    def expected(self) -> int | None:
        return self.total if self.total is not None else self.file.size


def _receive(response: Any, target: _Target, attempt: Attempt, on_bytes: OnBytes) -> None:
    """Append the body to the part; errors as in `download`."""
    part, done, expected = target.file.part, target.start, target.expected
    limit = MAX_FILE_BYTES if expected is None else expected
    begins_with = target.file.begins_with
    with attempt.writing():
        stream = part.path.open("ab")
    try:
        with stream:
            for block in body_blocks(response):
                if not done and not block.startswith(begins_with[: len(block)]):
                    raise TransferError(f"what came does not begin with {begins_with.decode('ascii')!r}.", "file")
                done += len(block)
                if done > limit:
                    part.discard()
                    raise TransferError(f"more than {limit} bytes came.", "file")
                with attempt.writing():
                    stream.write(block)
                on_bytes(done, target.total)
                if attempt.pace.is_stalled:
                    raise TransferError(_slow(attempt.pace), "server")
    except BodyError as error:
        if error.is_damaged:
            part.discard()  # a packed body cannot be resumed
        cause = f"the body broke off after {done} of {expected or 'an unknown number of'} bytes: {error}"
        raise TransferError(cause, "file" if error.is_damaged else "server") from error
    if expected is not None and done != expected:
        raise TransferError(f"the body ended after {done} of {expected} bytes.", "server")


def _slow(pace: Pace) -> str:
    return f"{pace.idle_bytes} bytes in {pace.idle_seconds:.0f} s: the server is too slow or stuck."
