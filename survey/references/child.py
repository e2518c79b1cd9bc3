"""The environment of processes that use crds, and the call of the one that survey starts itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from survey.errors import AccessRefusedError, ReferencesError, ServiceUnreachableError
from survey.isolation import NETWORK, isolated
from survey.references.record import References

# crds takes a URL with this word for "there is no server": it fails at once, without a socket, and reads its cache.
NO_SERVER = "https://jwst-serverless.stsci.edu"

START_SECONDS = 300.0  # to import crds: 2 s, or a minute when ten processes do so on two cores


def worker_environment(references: References) -> dict[str, str]:
    """Environment variables under which crds reads this cache and context, writes nothing and opens no socket."""
    return _environment(Path(references.cache)) | {"CRDS_CONTEXT": references.context, "CRDS_READONLY_CACHE": "1"}


def _environment(cache: Path, server: str = NO_SERVER) -> dict[str, str]:
    """Every variable that moves crds' cache or server is set, so that none of a user's own shines through."""
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


def run_crds(
    request: Mapping[str, Any], cache: Path | None, server: str | None, limit_seconds: float
) -> dict[str, Any]:
    """One request to the crds library in a child process; its failures become this package's errors."""
    folder = cache or Path(os.devnull)
    environment = isolated(os.environ, keep=NETWORK)
    environment |= _environment(folder, server or NO_SERVER) | {"CRDS_READONLY_CACHE": "1"}
    environment["CRDS_CLIENT_TIMEOUT_SECONDS"] = str(max(1, int(limit_seconds)))
    if server is not None:
        environment |= {"CRDS_CLIENT_RETRY_COUNT": "3", "CRDS_CLIENT_RETRY_DELAY_SECONDS": "1"}
    where = server or f"the CRDS cache {folder}"
    command = [sys.executable, "-P", "-m", "survey.references.lookup"]
    with tempfile.TemporaryFile() as errors:
        try:
            status, told = _ask(command, json.dumps(request).encode(), environment, errors, limit_seconds)
        except TimeoutError as error:
            kind = ReferencesError if server is None else ServiceUnreachableError
            raise kind(f"{where}: {error}. Run again later.") from error
        try:
            answer = json.loads(told)
        except ValueError as error:
            tail = errors.read().decode(errors="replace")[-400:] if errors.seek(0) == 0 else ""
            raise ReferencesError(f"{where}: the crds library ended with status {status}: {tail}") from error
    if "error" in answer:
        _raise(answer, where)
    return answer


def _ask(
    command: Sequence[str], request: bytes, environment: Mapping[str, str], errors: IO[bytes], limit_seconds: float
) -> tuple[int, bytes]:
    """Exit status and standard output of a child. Its clock starts with its first byte: the time that the imports take
    on a busy machine is no silence of a server.

    Raises
    ------
    TimeoutError
        It was not done in time, and was killed.
    """
    late: list[str] = []

    def end(said: str) -> None:
        late.append(said)
        process.kill()

    def timer(seconds: float, said: str) -> threading.Timer:
        started = threading.Timer(seconds, end, [said])
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
            told = process.stdout.read(1)
            watch.cancel()
            watch = timer(limit_seconds, f"no answer within {limit_seconds:.0f} s")
            told += process.stdout.read()
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
    if late and status != 0:
        raise TimeoutError(late[0])
    return status, told


def _raise(answer: Mapping[str, str], where: str) -> None:
    message = f"{where}: {answer['error'][:600]}"
    if answer["kind"] == "access":
        raise AccessRefusedError(message)
    if answer["kind"] == "unreachable":
        raise ServiceUnreachableError(f"{message}. Run again later, or set references.server: null (the cache alone).")
    raise ReferencesError(message)
