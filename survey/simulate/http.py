"""The HTTP side of the simulated observatory: requests in, answers out, faults in between.

What is answered is the business of `survey.simulate.server`; here stand the wire formats: forms, ranges, cookies,
bodies in blocks, and every way in which a connection can go wrong.
"""

from __future__ import annotations

import gzip
import json
import socket
import struct
import zlib
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

from survey.simulate import catalog_service, mast
from survey.simulate.faults import Fault

if TYPE_CHECKING:
    from survey.simulate.server import ObservatoryServer

DOWNLOAD_PATH = "/api/v0.1/Download/file"
_BLOCK_BYTES = 256 * 1024
_MAX_BODY_BYTES = 64 * 1024 * 1024
_HTML = b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body>Back soon.</body></html>"


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    observatory: ObservatoryServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are everyday life for a server."""


class _DropConnection(Exception):
    """Ends the handling of a request without an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "SimulatedObservatory"
    sys_version = ""
    timeout = 600
    server: HttpServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: ``ObservatoryServer.requests`` keeps the record."""

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        self._fault: Fault | None = None
        shown = unquote_plus(self.path)
        self._number = self.server.observatory.record(self.command, shown)
        body = self._read_body()
        is_form = "x-www-form-urlencoded" in self._header("Content-Type")
        form = parse_qs(body.decode("utf-8", "replace")) if is_form else {}
        request = _portal_request(form)
        service = str(request.get("service", "")) if request else "".join(form.get("colConfigId", ()))
        try:
            self._fault = self.server.observatory.faults.take(f"{self.command} {shown} {service}".rstrip())
            if not self._struck():
                self._answer(body, form, request)
        except (_DropConnection, ConnectionError, TimeoutError):
            self.close_connection = True

    def _header(self, name: str) -> str:
        return self.headers.get(name) or ""

    def _read_body(self) -> bytes:
        length = self._header("Content-Length")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            return b""
        return self.rfile.read(int(length))

    def _struck(self) -> bool:
        """Apply a fault that stands in place of the answer; True when it did."""
        fault = self._fault
        if fault is None:
            return False
        if fault.kind == "error":
            headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else {}
            self._send(fault.status, "text/plain", b"A planted error.\n", headers)
        elif fault.kind == "html":
            self._send(200, "text/html", _HTML)
        elif fault.kind == "redirect":
            self._send(302, "text/plain", b"", {"Location": fault.location})
        elif fault.kind == "silence":
            self.server.observatory.stopping.wait(fault.seconds)
            raise _DropConnection
        elif fault.kind == "drip_headers":
            self._drip_headers(fault.seconds)
        elif fault.kind == "reset" and fault.bytes == 0:
            self._reset()
        elif fault.kind == "executing":
            self._json({"status": "EXECUTING", "msg": "", "data": [], "fields": []})
        elif fault.kind == "portal_error":
            self._json({"status": "ERROR", "msg": "A planted error.", "data": [], "fields": []})
        elif fault.kind == "empty":
            self._start(200, "application/octet-stream", 0, {})
        elif fault.kind == "bomb":
            self._bomb(fault.bytes)
        else:
            if fault.kind == "delay":
                self.server.observatory.stopping.wait(fault.seconds)
            return False
        return True

    def _answer(self, body: bytes, form: dict[str, list[str]], request: dict[str, Any] | None) -> None:
        url = urlsplit(self.path)
        if url.path == "/crds" or url.path.startswith("/crds/"):
            self._answer_crds(url.path.removeprefix("/crds") or "/", body)
        elif url.path == catalog_service.PATH:
            self._answer_catalog({name: values[0] for name, values in parse_qs(url.query).items()})
        elif url.path == DOWNLOAD_PATH:
            self._answer_download(parse_qs(url.query).get("uri", [""])[0])
        elif url.path == "/whoami":
            self._answer_whoami()
        elif url.path.endswith("/columnsconfig"):
            config = mast.column_config("".join(form.get("colConfigId", parse_qs(url.query).get("colConfigId", ()))))
            self._json(config or {})
        elif url.path == "/api/v0/invoke" and request is not None:
            self._answer_portal(request)
        else:
            self._send(404, "text/plain", b"Not found.\n")

    def _answer_portal(self, request: dict[str, Any]) -> None:
        observatory = self.server.observatory
        try:
            if observatory.must_wait(json.dumps(request, sort_keys=True)):
                answer: dict[str, Any] = {"status": "EXECUTING", "msg": "", "data": [], "fields": []}
            else:
                answer = observatory.invoke(request)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            answer = {"status": "ERROR", "msg": f"{type(error).__name__}: {error}", "data": [], "fields": []}
        self._json(answer)

    def _answer_whoami(self) -> None:
        known = self._has_token()
        attributes = {"display_name": "Simulated Observer"} if known else {}
        self._json({"anon": not known, "attrib": attributes, "ezid": "observer" if known else "anonymous"})

    def _answer_crds(self, path: str, body: bytes) -> None:
        crds = self.server.observatory.crds()
        if crds is None:
            self._send(404, "text/plain", b"This observatory has no CRDS part.\n")
            return
        base = f"http://{self._header('Host') or urlsplit(self.server.observatory.url).netloc}/crds"
        status, kind, answer = crds.handle(self.command, path, body, base)
        if isinstance(answer, Path):
            self._send_file(answer, kind)
        else:
            self._send(status, kind, answer)

    def _answer_catalog(self, asked: dict[str, str]) -> None:
        try:
            self._send(200, "text/csv", self.server.observatory.catalogs.answer(asked).encode())
        except (KeyError, ValueError) as error:
            self._send(400, "text/plain", f"{error}\n".encode())

    def _answer_download(self, uri: str) -> None:
        observatory = self.server.observatory
        name = uri.removeprefix("mast:JWST/product/")
        row = observatory.archive.exposures.get(name.removesuffix("_uncal.fits"))
        path = observatory.directory / "raw" / name
        if row is None or not name.endswith("_uncal.fits") or not path.is_file():
            self._send(404, "text/plain", b"No such product.\n")
        elif row.get("proprietary") and not self._has_token():
            self._send(401, "text/plain", b"Exclusive access; send a token.\n")
        else:
            self._send_file(path, "application/fits", f'"{row.get("sha256") or path.stat().st_mtime_ns}"')

    def _has_token(self) -> bool:
        token = self.server.observatory.settings.token
        if token is None:
            return False
        try:
            morsel = SimpleCookie(self._header("Cookie")).get("mast_token")
        except CookieError:
            morsel = None
        given = self._header("Authorization").split()
        return (morsel is not None and morsel.value == token) or (bool(given) and given[-1] == token)

    def _json(self, value: Any) -> None:
        self._send(200, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self._is("gzip"):
            self._send_packed(kind, body)
            return
        self._start(status, kind, len(body), headers or {})
        if self.command != "HEAD":
            self._write(iter((body,)), len(body))

    def _bomb(self, size: int) -> None:
        """A short gzip body that begins as a FITS file and unpacks to many zeros."""
        packer, zeros = zlib.compressobj(9, wbits=31), bytes(1 << 20)
        blocks = (b"SIMPLE  =" + zeros[9:], zeros)
        first, other = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for block in blocks)
        body = first + other * ((size >> 20) - 1)  # blocks that know nothing of each other; without the end's checksum
        self._start(200, "application/json", len(body), {"Content-Encoding": "gzip"})
        self.wfile.write(body)

    def _send_packed(self, kind: str, body: bytes) -> None:
        packed = gzip.compress(body, 1)
        self._start(200, kind, len(packed), {"Content-Encoding": "gzip"})
        if self.command != "HEAD":
            self._write(iter((packed,)), len(packed))

    def _send_file(self, path: Path, kind: str, tag: str | None = None) -> None:
        if self._is("gzip"):
            self._send_packed(kind, path.read_bytes())
            return
        size = path.stat().st_size
        start, end, status = 0, size, 200
        headers = {"Accept-Ranges": "bytes"} | ({"ETag": tag} if tag else {})
        wanted = _byte_range(self._header("Range"), size)
        if wanted is not None and self._header("If-Range") in ("", tag) and not self._is("ignore_range"):
            start, end = wanted
            status = 206
            if start >= end:
                self._send(416, "text/plain", b"", {"Content-Range": f"bytes */{size}"})
                return
            if self._is("wrong_range") and self._fault is not None:
                start = min(start + self._fault.bytes, size - 1)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self._start(status, kind, end - start, headers)
        if self.command != "HEAD":
            with path.open("rb") as stream:
                stream.seek(start)
                self._write(_blocks(stream, end - start), end - start)

    def _is(self, kind: str) -> bool:
        return self._fault is not None and self._fault.kind == kind

    def _start(self, status: int, kind: str, length: int, headers: dict[str, str]) -> None:
        if self._is("wrong_length") and self._fault is not None:
            length = max(0, length + self._fault.bytes)
            self.close_connection = True
        self.close_connection = self.close_connection or self._is("unsized")
        self.server.observatory.record_status(self._number, status)
        self.send_response(status)
        size = {} if self._is("unsized") else {"Content-Length": str(length)}
        for name, value in {"Content-Type": kind, **size, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _write(self, blocks: Iterable[bytes], length: int) -> None:
        """Send a body block by block, as the fault of this request wants it."""
        fault, sent = self._fault, 0
        stop = fault.bytes if fault is not None and fault.kind in ("reset", "short", "unsized") else length
        if fault is not None and fault.kind == "wrong_length" and fault.bytes < 0:
            stop = max(0, length + fault.bytes)
        for block in blocks:
            block = block[: stop - sent]
            if fault is not None and fault.kind == "corrupt":
                block = _corrupted(block, sent, fault.bytes)
            if fault is not None and fault.kind == "drip":
                self._drip(block, max(1, fault.bytes), fault.seconds)
            else:
                self.wfile.write(block)
            sent += len(block)
            if sent >= stop:
                break
        if fault is not None and fault.kind == "reset":
            self._reset()
        if fault is not None and fault.kind in ("short", "unsized"):
            raise _DropConnection

    def _drip(self, block: bytes, size: int, seconds: float) -> None:
        for start in range(0, len(block), size):
            self.wfile.write(block[start : start + size])
            self.wfile.flush()
            if self.server.observatory.stopping.wait(seconds):
                raise _DropConnection

    def _drip_headers(self, seconds: float) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        number = 0
        while not self.server.observatory.stopping.wait(seconds):
            number += 1
            self.wfile.write(f"X-Drop-{number}: 1\r\n".encode())
        raise _DropConnection

    def _reset(self) -> None:
        """Close with a TCP reset: linger of zero seconds."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise _DropConnection


def _portal_request(form: dict[str, list[str]]) -> dict[str, Any] | None:
    """The portal request of a form; None when it holds none that can be read."""
    try:
        request = json.loads(form["request"][0])
    except (KeyError, ValueError):
        return None
    return request if isinstance(request, dict) else None


def _byte_range(header: str, size: int) -> tuple[int, int] | None:
    """``bytes=a-b`` as (start, end), end exclusive; None for no range, several, or one that makes no sense."""
    unit, _, value = header.partition("=")
    first, dash, last = value.strip().partition("-")
    if unit.strip() != "bytes" or not dash or "," in value:
        return None
    if not first:
        return (max(0, size - int(last)), size) if last.isdecimal() else None
    if not first.isdecimal() or (last and not last.isdecimal()):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _blocks(stream: Any, length: int) -> Iterable[bytes]:
    while length > 0:
        block = stream.read(min(_BLOCK_BYTES, length))
        if not block:
            return
        length -= len(block)
        yield block


def _corrupted(block: bytes, offset: int, first: int) -> bytes:
    """The block with every byte from file offset ``first`` on inverted, at most 64 of them."""
    start, end = max(0, first - offset), max(0, first + 64 - offset)
    return block[:start] + bytes(255 - value for value in block[start:end]) + block[end:]
