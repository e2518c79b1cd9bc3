"""astroquery's Observations, unmodified, bound to any server and unable to wait for ever.

astroquery fixes its URLs when it is imported, polls without delay, and sets no timeout. Here each query gets its own
client object with its own URLs and column cache, and a session whose requests are bounded in time, size and number.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from survey.archive.replies import PACKED, PackedBodyError, packing, retry_after_seconds, unpacked
from survey.credentials import scrub
from survey.errors import AccessRefusedError, ServiceUnreachableError, SurveyError

T = TypeVar("T")

MAX_REPLY_BYTES = 256 * 1024 * 1024  # a product list of 13,000 exposures is about 100 MB
MAX_PAGES = 2000  # of one query: a server that never reaches its last page is given up
_CONNECT_SECONDS = 15.0
_RETRY_STATUS = (429, 500, 502, 503, 504)


class _GivenUpError(Exception):
    """The query was given up by its caller; ends the thread that still works on it."""


@dataclass
class Watch:
    """Time since the server's last complete reply; shared by the thread that asks and the one that waits."""

    limit_seconds: float
    last_progress: float = field(default_factory=time.monotonic)
    cause: str = ""  # of the last failed attempt
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def left(self) -> float:
        return self.last_progress + self.limit_seconds - time.monotonic()

    def progress(self) -> None:
        self.last_progress = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Sleep, at most to the limit.

        Raises
        ------
        _GivenUpError
            The caller no longer waits.
        """
        if self.given_up.wait(min(seconds, max(0.0, self.left) + 0.1)):
            raise _GivenUpError


def is_loopback(server: str) -> bool:
    return (urlsplit(server).hostname or "") in ("localhost", "127.0.0.1", "::1")


def bounded(server: str, seconds: float, work: Callable[[Watch], T]) -> T:
    """Run ``work`` in its own thread, and give it up when the server makes no progress for ``seconds``.

    A thread of its own bounds what no socket timeout does: name look-ups, headers or bodies that drip.

    Raises
    ------
    ServiceUnreachableError
        No progress within the limit.
    """
    watch = Watch(seconds)
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(watch), None))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, whatever it is
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="archive-query", daemon=True)
    thread.start()
    try:
        while thread.is_alive() and watch.left > 0:
            thread.join(min(0.2, max(0.0, watch.left)))
    finally:
        watch.given_up.set()
    if not outcome:
        cause = f" (last: {watch.cause.rstrip('.')})" if watch.cause else ""
        raise ServiceUnreachableError(
            f"{server}: no complete answer within {seconds:g} s{cause}. "
            "Try again later, or lengthen archive.timeout_seconds."
        )
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def observations_client(server: str, watch: Watch, retries: int) -> Any:
    """A fresh `astroquery.mast.ObservationsClass` that asks ``server`` alone and keeps to the watch's limit."""
    from astroquery.mast import ObservationsClass

    client = ObservationsClass()
    portal = client._portal_api_connection
    portal.MAST_REQUEST_URL = f"{server}/api/v0/invoke"
    portal.COLUMNS_CONFIG_URL = f"{server}/portal/Mashup/Mashup.asmx/columnsconfig"
    portal.TIMEOUT = watch.limit_seconds
    portal._column_configs = {}  # a class attribute otherwise: shared between servers
    session = client._session
    if is_loopback(server):
        session.trust_env = False  # no proxy between this machine and itself
    session.request = _BoundedRequest(session.request, server, watch, retries)
    return client


class _BoundedRequest:
    """``session.request`` with timeouts, retries, a bounded body, and a pause between polls.

    What may pass is tried again: no connection, 5xx, 429 (as late as Retry-After asks, within the watch's limit), a
    body that is cut short, a page in place of JSON, and the portal's own status ERROR.
    """

    def __init__(self, request: Callable[..., Any], server: str, watch: Watch, retries: int):
        self._request, self._server, self._watch, self._retries = request, server, watch, retries
        self._polls = 0
        self._pages = 0

    def __call__(self, method: str, url: str, **options: Any) -> Any:
        import requests

        if self._polls:
            self._watch.pause(min(2.0, 0.1 * 2 ** min(self._polls, 6)))
        for attempt in range(self._retries + 1):
            last, asked_seconds = attempt == self._retries, 0.0
            try:
                response = self._once(method, url, options)
            except requests.RequestException as error:
                if last or isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)):
                    raise ServiceUnreachableError(
                        f"{self._server}: cannot be reached ({shown_cause(error)}). Check archive.server."
                    ) from error
                self._watch.cause = shown_cause(error)
            else:
                if response.status_code in (401, 403):
                    raise AccessRefusedError(f"{self._server}: refused the query (HTTP {response.status_code}).")
                fault = self._fault(response)
                if fault is None:
                    return self._counted(response)
                may_pass = response.status_code < 400 or response.status_code in _RETRY_STATUS
                if last or not may_pass:
                    raise ServiceUnreachableError(f"{self._server}: {fault}")
                self._watch.cause = fault
                asked_seconds = retry_after_seconds(response.headers.get("Retry-After"))
            self._watch.pause(max(asked_seconds, 0.5 * 2**attempt * random.uniform(0.5, 1.0)))
        raise _GivenUpError  # not reached: the last attempt returns or raises

    def _once(self, method: str, url: str, options: dict[str, Any]) -> Any:
        if self._watch.given_up.is_set():
            raise _GivenUpError
        left = max(1.0, self._watch.left)
        options = options | {"timeout": (min(_CONNECT_SECONDS, left), left), "stream": True, "allow_redirects": True}
        response = self._request(method, url, **options)
        try:
            content = b"".join(self._body(response))
        finally:
            response.close()
        response._content, response._content_consumed = content, True
        return response

    def _body(self, response: Any) -> Iterator[bytes]:
        """The body in pieces, unpacked; a RequestException for one that is cut short, damaged or too large."""
        import requests
        import urllib3

        encoding = packing(response.headers.get("Content-Encoding"))
        blocks = response.raw.stream(1 << 18, decode_content=False)
        size = 0
        try:
            for part in unpacked(blocks, encoding, MAX_REPLY_BYTES) if encoding in PACKED else blocks:
                size += len(part)
                if self._watch.given_up.is_set():
                    raise _GivenUpError
                if size > MAX_REPLY_BYTES:
                    raise PackedBodyError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
                yield part
        except PackedBodyError as error:
            raise requests.exceptions.ContentDecodingError(str(error)) from None
        except urllib3.exceptions.HTTPError as error:
            raise requests.exceptions.ChunkedEncodingError(shown_cause(error)) from error

    def _fault(self, response: Any) -> str | None:
        """Why a reply is none of the portal's; None for one that is. Its JSON is read once, here."""
        if response.status_code >= 400:
            return (
                f"answered HTTP {response.status_code} ({scrub(str(response.reason))}) to the query. "
                "Check archive.server; try again later."
            )
        kind = response.headers.get("Content-Type", "no content type")
        if response.content.lstrip()[:1] != b"{":
            return (
                f"answered with a page ({scrub(kind)}), expected JSON of the MAST portal. "
                "Check archive.server; a proxy or a maintenance page may stand before the archive."
            )
        try:
            value = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            return (
                f"answered with JSON that is cut short or damaged, {len(response.content)} bytes "
                f"({str(error)[:100]}). Try again later."
            )
        response.json = lambda **_: value
        if value.get("status") == "ERROR":
            return f"the portal says ERROR: {str(value.get('msg') or 'no message')[:300]} Try again later."
        return None

    def _counted(self, response: Any) -> Any:
        """A reply of the portal: one more poll, or one more page."""
        if response.json().get("status") == "EXECUTING":
            self._polls += 1
            self._watch.cause = "the portal says EXECUTING"
            return response
        self._polls = 0
        self._pages += 1
        self._watch.progress()
        if self._pages > MAX_PAGES:
            raise ServiceUnreachableError(f"{self._server}: more than {MAX_PAGES} pages of rows; given up.")
        return response


def ask(server: str, request: Callable[[], list[Any]]) -> list[dict[str, Any]]:
    """Rows of an asynchronous astroquery call, all pages, as dicts of JSON values; odd entries left out.

    Raises
    ------
    ServiceUnreachableError
        The portal says ERROR, or its reply is not of the portal's form.
    """
    try:
        rows: list[dict[str, Any]] = []
        for response in request():
            reply = response.json()
            if reply.get("status") != "COMPLETE":
                said = scrub(str(reply.get("msg") or ""))[:300]
                state = scrub(str(reply.get("status")))[:80]
                raise ServiceUnreachableError(
                    f"{server}: the portal says {state}: {said or 'no message'}. Try again later."
                )
            rows += [row for row in reply.get("data") or () if isinstance(row, dict)]
        return rows
    except (_GivenUpError, SurveyError):
        raise
    except TimeoutError as error:
        raise ServiceUnreachableError(f"{server}: the portal did not finish the query in time ({error}).") from error
    except Exception as error:  # whatever astroquery makes of a reply that is none
        raise ServiceUnreachableError(
            f"{server}: its reply is not of the MAST portal's form ({shown_cause(error)}). Check archive.server."
        ) from error


def shown_cause(error: BaseException) -> str:
    """The innermost cause in a few words."""
    seen: BaseException = error
    while isinstance(inner := getattr(seen, "reason", None) or seen.__cause__ or seen.__context__, BaseException):
        seen = inner
    shown = scrub(f"{type(seen).__name__}: {seen}")
    return shown if len(shown) < 200 else shown[:197] + "..."
