"""The environment of processes that use crds, and the call of the one that survey starts itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from survey.credentials import without
from survey.errors import AccessRefusedError, ReferencesError, ServiceUnreachableError
from survey.references.record import References

# crds takes a URL with this word for "there is no server": it fails at once, without a socket, and reads its cache.
NO_SERVER = "https://jwst-serverless.stsci.edu"


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
    environment = {name: value for name, value in without(os.environ).items() if not name.startswith("CRDS_")}
    environment |= _environment(folder, server or NO_SERVER) | {"CRDS_READONLY_CACHE": "1"}
    environment["CRDS_CLIENT_TIMEOUT_SECONDS"] = str(max(1, int(limit_seconds)))
    if server is not None:
        environment |= {"CRDS_CLIENT_RETRY_COUNT": "3", "CRDS_CLIENT_RETRY_DELAY_SECONDS": "1"}
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    where = server or f"the CRDS cache {folder}"
    command = [sys.executable, "-P", "-m", "survey.references.lookup"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), env=environment, capture_output=True, timeout=limit_seconds
        )
    except subprocess.TimeoutExpired as error:
        kind = ReferencesError if server is None else ServiceUnreachableError
        raise kind(f"{where}: no answer within {limit_seconds:.0f} s. Run again later.") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        tail = done.stderr.decode(errors="replace")[-400:]
        raise ReferencesError(f"{where}: the crds library ended with status {done.returncode}: {tail}") from error
    if "error" in answer:
        _raise(answer, where)
    return answer


def _raise(answer: Mapping[str, str], where: str) -> None:
    message = f"{where}: {answer['error'][:600]}"
    if answer["kind"] == "access":
        raise AccessRefusedError(message)
    if answer["kind"] == "unreachable":
        raise ServiceUnreachableError(f"{message}. Run again later, or set references.server: null (the cache alone).")
    raise ReferencesError(message)
