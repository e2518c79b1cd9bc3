"""astroquery's Observations, unmodified, bound to any server and with limits of time, size and number.

astroquery fixes its URLs when it is imported, polls without delay, and sets no timeout. Here each query gets its own
client object with its own URLs and column cache, and a session whose requests are bounded and repeated.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from survey.archive.attempts import Attempt, GivenUpError, PassingError, Watch, first_reply
from survey.archive.http import BodyError, body_blocks, is_loopback, may_pass, retry_after_seconds, shown_cause
from survey.archive.proxies import answerer, fault_of_proxy, fault_of_status, malformed, through
from survey.credentials import scrub
from survey.errors import AccessRefusedError, ServiceUnreachableError, SurveyError

T = TypeVar("T")

MAX_REPLY_BYTES = 256 * 1024 * 1024  # a product list of 13,000 exposures is about 100 MB
MAX_PAGES = 2000  # of one query: a server that never reaches its last page is given up
_CONNECT_SECONDS = 15.0


def bounded(server: str, seconds: float, work: Callable[[Watch], T]) -> T:
    """Run ``work`` in its own thread, and give it up when the server sends no complete reply for ``seconds``.

    A thread of its own bounds what no socket timeout does: name look-ups, and headers or bodies that come byte by byte.

    Raises
    ------
    ServiceUnreachableError
        No complete reply within the limit.
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
            f"{server}: no complete answer within {seconds:g} s{through(server)}{cause}. "
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
    portal.TIMEOUT = math.inf  # it would count from the first page of many; the watch counts from the last one
    portal._column_configs = {}  # a class attribute otherwise: shared between servers
    session = client._session
    if is_loopback(server):
        session.trust_env = False  # no proxy between this machine and itself
    session.request = _BoundedRequest(session.request, server, watch, retries)
    return client


class _BoundedRequest:
    """``session.request`` with several attempts, a bounded body, and a pause between polls.

    Another attempt follows a failed connection, 5xx, 429 (after what Retry-After asks for, within the watch's limit), a
    truncated or damaged body, a page in place of JSON, the portal's status ERROR, and a share of the limit in which
    nothing came.
    """

    def __init__(self, request: Callable[..., Any], server: str, watch: Watch, retries: int):
        self._request, self._server, self._watch, self._retries = request, server, watch, retries
        self._polls = 0
        self._pages = 0

    def __call__(self, method: str, url: str, **options: Any) -> Any:
        if self._polls:
            self._watch.pause(min(2.0, 0.1 * 2 ** min(self._polls, 6)))
        reply = first_reply(lambda attempt: self._once(attempt, method, url, options), self._watch, self._retries)
        return self._counted(reply)

    def _once(self, attempt: Attempt, method: str, url: str, options: dict[str, Any]) -> Any:
        """One attempt: a reply of the portal, whose ``json()`` is read.

        Raises
        ------
        PassingError
            A failure that another attempt may not have.
        ServiceUnreachableError, AccessRefusedError
            Any other failure.
        """
        import requests

        left = max(1.0, self._watch.left)
        options = options | {"timeout": (min(_CONNECT_SECONDS, left), left), "stream": True, "allow_redirects": True}
        if wrong := malformed(url):
            raise ServiceUnreachableError(f"{self._server}: {wrong}")
        try:
            response = self._request(method, url, **options)
            attempt.pace.restart(0)
            try:
                content = b"".join(self._body(response, attempt))
            finally:
                response.close()
        except (requests.RequestException, BodyError) as error:
            cause = shown_cause(error)
            said = fault_of_proxy(url, error) or f"cannot be reached{through(url)} ({cause}). Check archive.server."
            unreachable = ServiceUnreachableError(f"{self._server}: {said}")
            if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)):
                raise unreachable from error
            raise PassingError(cause, unreachable) from error
        response._content, response._content_consumed = content, True
        if response.status_code in (401, 403):
            raise AccessRefusedError(f"{self._server}{answerer(url)}: refused the query (HTTP {response.status_code}).")
        fault = fault_of_status(url, response.status_code) or self._fault(response, answerer(url))
        if fault is None:
            return response
        failure = ServiceUnreachableError(f"{self._server}: {fault}")
        if response.status_code < 400 or may_pass(response.status_code):
            raise PassingError(fault, failure, retry_after_seconds(response.headers.get("Retry-After")))
        raise failure

    def _body(self, response: Any, attempt: Attempt) -> list[bytes]:
        blocks: list[bytes] = []
        size = 0
        for block in body_blocks(response):
            if attempt.is_over or self._watch.given_up.is_set():
                raise GivenUpError
            size += len(block)
            if size > MAX_REPLY_BYTES:
                raise ServiceUnreachableError(
                    f"{self._server}: a reply holds more than {MAX_REPLY_BYTES} bytes. Check archive.server."
                )
            blocks.append(block)
            attempt.pace.reached(size)
        return blocks

    def _fault(self, response: Any, proxy: str) -> str | None:
        """What is wrong with a reply; None for one of the portal's. Its JSON is parsed once, here.

        Parameters
        ----------
        proxy : that may have answered in the portal's place; see `survey.archive.proxies.answerer`
        """
        if response.status_code >= 400:
            who = f"the server{proxy} " if proxy else ""
            return (
                f"{who}answered HTTP {response.status_code} ({scrub(str(response.reason))}) to the query. "
                "Check archive.server; try again later."
            )
        kind = response.headers.get("Content-Type", "no content type")
        if response.content.lstrip()[:1] != b"{":
            return (
                f"answered with a page ({scrub(kind)}), expected JSON of the MAST portal. "
                "Check archive.server; it may be a proxy or a maintenance page that answers."
            )
        try:
            value = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            return (
                f"answered with JSON that is truncated or damaged, {len(response.content)} bytes "
                f"({str(error)[:100]}). Try again later."
            )
        response.json = lambda **_: value
        if value.get("status") == "ERROR":
            return f"the portal reports ERROR: {str(value.get('msg') or 'no message')[:300]} Try again later."
        return None

    def _counted(self, response: Any) -> Any:
        """Count a reply of the portal: one more poll, or one more page."""
        if response.json().get("status") == "EXECUTING":
            self._polls += 1
            self._watch.cause = "the portal reports EXECUTING"
            return response
        self._polls = 0
        self._pages += 1
        self._watch.progress()
        if self._pages > MAX_PAGES:
            raise ServiceUnreachableError(f"{self._server}: more than {MAX_PAGES} pages of rows; given up.")
        return response


def ask(server: str, request: Callable[[], list[Any]]) -> list[dict[str, Any]]:
    """Rows of an asynchronous astroquery call, all pages, as dicts of JSON values; entries that are no rows are left
    out.

    Raises
    ------
    ServiceUnreachableError
        The portal reports ERROR, or its reply is not of the portal's form.
    """
    try:
        rows: list[dict[str, Any]] = []
        for response in request():
            reply = response.json()
            if reply.get("status") != "COMPLETE":
                said = scrub(str(reply.get("msg") or ""))[:300]
                state = scrub(str(reply.get("status")))[:80]
                raise ServiceUnreachableError(
                    f"{server}: the portal reports {state}: {said or 'no message'}. Try again later."
                )
            rows += [row for row in reply.get("data") or () if isinstance(row, dict)]
        return rows
    except (GivenUpError, SurveyError):
        raise
    except Exception as error:  # what astroquery raises for a reply of another form
        raise ServiceUnreachableError(
            f"{server}: its reply is not of the MAST portal's form ({shown_cause(error)}). Check archive.server."
        ) from error
