"""The CRDS server of a simulated observatory: JSON-RPC and files, for the unmodified crds client.

A folder holds ``catalog.json``, ``mappings/jwst/*`` and ``references/jwst/nircam/*``. Requests arrive already parsed
(`CrdsServer.handle`), so that any HTTP server can mount it.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from survey.errors import ConfigError

OBSERVATORY = "jwst"
JSON_TYPE = "application/json"
_MAPPING = re.compile(r"[\w-]+\.[pir]map", re.ASCII)
_PLAIN_NAME = re.compile(r"[\w.+-]+", re.ASCII)
_FOLDERS = {"mappings": ("mappings/jwst",), "references": ("references/jwst/nircam", "references/jwst")}

Response = tuple[int, str, bytes | Path]


class RpcError(Exception):
    """A call that the server answers with an error instead of a result."""


class CrdsServer:
    """Answers for one folder. The catalogue is read at every call, so that a rebuilt folder is served as it is.

    Parameters
    ----------
    folder : Path to the ``crds`` folder of a simulated observatory.

    Raises
    ------
    ConfigError
        The folder has no readable ``catalog.json``.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self._catalog()

    def handle(self, method: str, path: str, body: bytes, base_url: str) -> Response:
        """Answer one request.

        Parameters
        ----------
        method : 'GET', 'HEAD' or 'POST'
        path : below the mount: ``/json/<call>/<id>/``, or a file below ``/mappings`` or ``/references`` (with or
            without ``/unchecked_get`` before it, with or without the instrument's folder)
        body : of the request
        base_url : of the mount, as the client sees it: ``http://localhost:8080/crds``

        Returns
        -------
        status, content type, and the body or the path of the file to send
        """
        parts = [part for part in path.split("?")[0].split("/") if part]
        if parts[:1] == ["json"]:
            if method != "POST":
                return 405, "text/plain", b"POST a JSON-RPC call.\n"
            return self._call(parts, body, base_url.rstrip("/"))
        if method not in ("GET", "HEAD"):
            return 405, "text/plain", b"Files are read with GET.\n"
        found = self._file(parts)
        if found is None:
            return 404, "text/plain", b"No such file.\n"
        return 200, "application/octet-stream", found

    def _call(self, parts: list[str], body: bytes, base_url: str) -> Response:
        identity = None
        try:
            request = json.loads(body)
            identity = request.get("id")
            name, params = str(request["method"]), request.get("params") or []
            if len(parts) > 1 and parts[1] != name:
                raise RpcError(f"the path names {parts[1]!r}, the body {name!r}.")
            call = self._calls(base_url).get(name)
            if call is None:
                raise RpcError(f"{name}: not offered by the simulated CRDS server.")
            result = call(**params) if isinstance(params, dict) else call(*params)
            answer: dict[str, Any] = {"result": result, "error": None, "id": identity}
        except (ValueError, KeyError, AttributeError, TypeError, RpcError) as error:
            message = f"{type(error).__name__}: {error}"
            answer = {
                "result": None,
                "error": {"code": 500, "message": message, "name": "OtherError", "data": None},
                "id": identity,
            }
        return 200, JSON_TYPE, json.dumps(answer).encode()

    def _calls(self, base_url: str) -> dict[str, Callable[..., Any]]:
        catalog = self._catalog()
        files: dict[str, dict[str, Any]] = catalog["files"]

        def closure(context: str) -> list[str]:
            return self._closure(_plain(context), files)

        def listed(want_mappings: bool, pattern: str) -> list[str]:
            names = (name for name in files if bool(_MAPPING.fullmatch(name)) == want_mappings)
            return sorted(fnmatch.filter(names, pattern))

        def url(context: str, name: str) -> str:
            if name not in files:
                raise RpcError(f"{name}: not known to this CRDS server.")
            kind = "mappings" if _MAPPING.fullmatch(name) else "references"
            return f"{base_url}/unchecked_get/{kind}/jwst/{name}"

        return {
            "get_server_info": lambda: _server_info(catalog, base_url),
            "get_default_context": lambda observatory=OBSERVATORY, state=None: _default(catalog),
            "get_build_context": lambda observatory=OBSERVATORY, version=None: _default(catalog),
            "get_context_by_date": lambda date, observatory=OBSERVATORY: _default(catalog),
            "get_context_history": lambda observatory=OBSERVATORY: [
                [f"2026-01-{day:02d} 00:00:00", name, "simulated"] for day, name in enumerate(catalog["contexts"], 1)
            ],
            "get_remote_context": lambda observatory, pipeline: _default(catalog),
            "push_remote_context": lambda *ignored: None,
            "get_file_info_map": lambda observatory, names=None, fields=None: _info_map(files, names, fields),
            "get_file_info": lambda context, name: _info_map(files, [name], None)[name],
            "get_mapping_names": closure,
            "get_reference_names": lambda context: self._reference_names(closure(context)),
            "get_required_parkeys": lambda context: self._parkeys(closure(context)),
            "list_mappings": lambda observatory=OBSERVATORY, pattern="*": listed(True, pattern),
            "list_references": lambda observatory=OBSERVATORY, pattern="*": listed(False, pattern),
            "get_url": url,
            "get_mapping_url": url,
            "get_reference_url": url,
        }

    def _catalog(self) -> dict[str, Any]:
        path = self.folder / "catalog.json"
        try:
            catalog = json.loads(path.read_text(encoding="utf-8"))
            contexts, files = catalog["contexts"], catalog["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}: not the catalogue of a simulated CRDS ({type(error).__name__}: {error}). "
                "Make the folder with: survey simulate DIR"
            ) from error
        if not contexts or not isinstance(files, dict):
            raise ConfigError(f"{path}: expected a list of contexts and an object of files.")
        return catalog

    def _file(self, parts: list[str]) -> Path | None:
        """The file behind a path, or None: only plain names that the catalogue lists are ever opened."""
        parts = parts[1:] if parts[:1] == ["unchecked_get"] else parts
        if len(parts) < 2 or parts[0] not in _FOLDERS or parts[1:-1] not in ([], ["jwst"], ["jwst", "nircam"]):
            return None
        name = parts[-1]
        if not _PLAIN_NAME.fullmatch(name) or name not in self._catalog()["files"]:
            return None
        for folder in _FOLDERS[parts[0]]:
            path = self.folder / folder / name
            if path.is_file():
                return path
        return None

    def _text(self, mapping: str) -> str:
        try:
            return (self.folder / "mappings" / OBSERVATORY / mapping).read_text(encoding="utf-8")
        except OSError as error:
            raise RpcError(f"{mapping}: not known to this CRDS server.") from error

    def _closure(self, root: str, files: dict[str, Any]) -> list[str]:
        """A mapping and everything below it, parents first."""
        if root not in files:
            raise RpcError(f"{root}: not a context of this CRDS server.")
        names, queue = [], [root]
        while queue:
            name = queue.pop(0)
            if name in names:
                continue
            names.append(name)
            if not name.endswith(".rmap"):
                queue.extend(value for value in _strings(self._text(name), "selector") if _MAPPING.fullmatch(value))
        return names

    def _reference_names(self, mappings: list[str]) -> list[str]:
        known = self._catalog()["files"]
        rules = (name for name in mappings if name.endswith(".rmap"))
        return sorted({value for name in rules for value in _strings(self._text(name), "selector") if value in known})

    def _parkeys(self, mappings: list[str]) -> dict[str, list[str]]:
        keys: dict[str, set[str]] = {}
        for name in mappings:
            if name.endswith(".rmap"):
                header = ast.literal_eval(_assigned(self._text(name), "header"))
                flat = {key for group in header["parkey"] for key in ((group,) if isinstance(group, str) else group)}
                keys.setdefault(header["instrument"].lower(), set()).update(flat)
        return {instrument: sorted(names) for instrument, names in keys.items()}


def _server_info(catalog: dict[str, Any], base_url: str) -> dict[str, Any]:
    """What crds asks first, with the fields that it reads and writes into its cache."""
    version = importlib.metadata.version("crds")
    return {
        "observatory": OBSERVATORY,
        "latest_context": catalog["contexts"][-1],
        "operational_context": _default(catalog),
        "edit_context": catalog["contexts"][-1],
        "bad_files": "",
        "bad_files_list": [],
        "force_remote_mode": False,
        "crds_version": {"str": version, "name": version},
        "mappings": sorted(name for name in catalog["files"] if _MAPPING.fullmatch(name)),
        "last_synced": "2026-01-01 00:00:00",
        "reference_url": {OBSERVATORY: f"{base_url}/unchecked_get/references/jwst"},
        "mapping_url": {OBSERVATORY: f"{base_url}/unchecked_get/mappings/jwst"},
    }


def _default(catalog: dict[str, Any]) -> str:
    return catalog.get("operational") or catalog["contexts"][-1]


def _info_map(files: dict[str, Any], names: list[str] | None, fields: list[str] | None) -> dict[str, Any]:
    """Information per file, sizes as strings like the real server's; an unknown file is said so in place of its own."""
    answer: dict[str, Any] = {}
    for name in files if names is None else names:
        if name not in files:
            answer[name] = "NOT FOUND"
            continue
        info = {"filename": name, **{key: str(value) for key, value in files[name].items()}}
        answer[name] = info if fields is None else {key: info.get(key, "") for key in fields}
    return answer


def _plain(name: Any) -> str:
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
        raise RpcError(f"{ascii(name)}: not a plain file name.")
    return name


def _assigned(text: str, name: str) -> ast.expr:
    """The expression that a mapping assigns to ``header`` or ``selector``; mappings are Python literals and calls."""
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise RpcError(f"a mapping that is not one: {error}") from error
    for statement in statements:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == name:
            return statement.value
    raise RpcError(f"a mapping without {name!r}.")


def _strings(text: str, name: str) -> list[str]:
    nodes = ast.walk(_assigned(text, name))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
