"""Start the child process that uses the crds library, and set the environment of other processes that use it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from survey.archive.http import is_loopback
from survey.archive.proxies import malformed, through
from survey.credentials import scrub
from survey.errors import AccessRefusedError, ReferencesError, ServiceUnreachableError
from survey.isolation import NETWORK, isolated
from survey.references.messages import Best, BestRequest, Catalog, CatalogRequest, Failure, Message, decode, encode
from survey.references.record import References

# crds takes a URL with this word for "there is no server": it fails at once, without a socket, and reads its cache.
NO_SERVER = "https://jwst-serverless.stsci.edu"

START_SECONDS = 300.0  # to import crds: 2 s, or a minute when ten processes do so on two cores


def worker_environment(references: References) -> dict[str, str]:
    """Environment variables with which crds reads this cache and context, writes nothing and opens no socket."""
    return _environment(Path(references.cache)) | {"CRDS_CONTEXT": references.context, "CRDS_READONLY_CACHE": "1"}


def _environment(cache: Path, server: str = NO_SERVER) -> dict[str, str]:
    """Values of every variable that moves crds' cache or server, so that none of the user's own has an effect."""
    uris = {f"CRDS_{kind}_URI": "none" for kind in ("CONFIG", "MAPPING", "REFERENCE", "PICKLE")}
    folders = {
        f"CRDS_{kind}PATH_SINGLE": str(cache / name / "jwst")
        for kind, name in (("MAP", "mappings"), ("REF", "references"), ("CFG", "config"))
    }
    return {
        "CRDS_PATH": str(cache),
        "CRDS_SERVER_URL": server,
        "CRDS_OBSERVATORY": "jwst",
        "CRDS_MODE": "auto",
        "CRDS_CLIENT_RETRY_COUNT": "1",
        "CRDS_S3_ENABLED": "0",
        "CRDS_USE_PICKLED_CONTEXTS": "0",
        "CRDS_IGNORE_MAPPING_CHECKSUM": "0",
        **uris,
        **folders,
    }


def ask_catalog(context: str | None, cache: Path | None, server: str, limit_seconds: float) -> Catalog:
    """Ask a CRDS server what it has; see `Catalog`.

    Raises
    ------
    ServiceUnreachableError, AccessRefusedError
        No answer within the limit, or 401 or 403.
    ReferencesError
        The server refuses the request: it does not know the context.
    """
    answer = _run(CatalogRequest(context, limit_seconds), cache, server, limit_seconds)
    if not isinstance(answer, Catalog):
        raise ReferencesError(f"{server}: the crds library gave no catalog.")
    return answer


def ask_best(request: BestRequest, cache: Path, limit_seconds: float) -> Best:
    """The best references of exposures by the rules in a cache; see `Best`.

    Raises
    ------
    ReferencesError
        Rules that are missing or damaged, or no answer within the limit.
    """
    answer = _run(request, cache, None, limit_seconds)
    if not isinstance(answer, Best):
        raise ReferencesError(f"{cache}: the crds library gave no references.")
    return answer


def _run(request: Message, cache: Path | None, server: str | None, limit_seconds: float) -> Message:
    """Send one request to a child process; a `Failure` becomes one of this package's errors."""
    folder = cache or Path(os.devnull)
    if server is not None and (fault := malformed(server)):
        raise ServiceUnreachableError(f"{server}: {fault}")
    environment = isolated(os.environ, keep=NETWORK)
    if server is not None and is_loopback(server):
        environment["no_proxy"] = "*"  # no proxy between this machine and itself, as for the archive
    environment |= _environment(folder, server or NO_SERVER) | {"CRDS_READONLY_CACHE": "1"}
    # Of a socket; the child makes other attempts beside one that is silent.
    environment["CRDS_CLIENT_TIMEOUT_SECONDS"] = str(max(1, int(limit_seconds)))
    where = server or f"the CRDS cache {folder}"
    command = [sys.executable, "-P", "-m", "survey.references.lookup"]
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryDirectory(prefix="survey-home-") as home:
        environment["HOME"] = home  # no .crds.ini, nor settings of astropy
        try:
            status, reply = _ask(command, encode(request).encode(), environment, errors, limit_seconds)
        except TimeoutError as error:
            kind = ReferencesError if server is None else ServiceUnreachableError
            raise kind(f"{where}: {error}{through(server) if server else ''}. Run again later.") from error
        try:
            answer = decode(reply)
        except ValueError as error:
            tail = errors.read().decode(errors="replace")[-400:] if errors.seek(0) == 0 else ""
            raise ReferencesError(f"{where}: the crds library ended with status {status}: {tail}") from error
    if isinstance(answer, Failure):
        _raise(answer, where, has_cache=cache is not None)
    return answer


def _ask(
    command: Sequence[str], request: bytes, environment: Mapping[str, str], errors: IO[bytes], limit_seconds: float
) -> tuple[int, bytes]:
    """Exit status and standard output of a child.

    The time limit starts with its first byte: the time that the imports take on a busy machine is not the server's.

    Raises
    ------
    TimeoutError
        It was not done in time and was killed.
    """
    late: list[str] = []

    def end(cause: str) -> None:
        late.append(cause)
        process.kill()

    def timer(seconds: float, cause: str) -> threading.Timer:
        started = threading.Timer(seconds, end, [cause])
        started.daemon = True
        started.start()
        return started

    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=dict(environment)) as process:
        assert process.stdin is not None and process.stdout is not None
        watch = timer(START_SECONDS, f"the crds library was not loaded within {START_SECONDS:.0f} s")
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(request)
                process.stdin.close()
            reply = process.stdout.read(1)
            watch.cancel()
            watch = timer(limit_seconds, f"no answer within {limit_seconds:.0f} s")
            reply += process.stdout.read()
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
    if late and status != 0:
        raise TimeoutError(late[0])
    return status, reply


def _raise(failure: Failure, where: str, *, has_cache: bool) -> None:
    message = f"{where}: {scrub(failure.error)[:600].rstrip('.')}"
    if failure.kind == "access":
        raise AccessRefusedError(message)
    if failure.kind == "unreachable":
        advice = ", or set references.server: null (the cache alone)" if has_cache else ""
        raise ServiceUnreachableError(f"{message}. Run again later{advice}.")
    raise ReferencesError(message)
