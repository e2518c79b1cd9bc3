"""A simulated observatory as an archive and a CRDS server on loopback, for the unmodified clients.

    with serve("observatory") as server:
        print(server.url, server.crds_url)

Answers the MAST portal protocol (``/portal/...columnsconfig``, ``/api/v0/invoke``, ``/whoami``), file downloads with
HEAD and Range (``/api/v0.1/Download/file?uri=``), mounts the CRDS part below ``/crds``, and answers queries for
reference catalogues below ``/webservices``.
Faults: see `survey.simulate.faults`.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from survey.errors import ConfigError
from survey.simulate import mast
from survey.simulate.catalog_service import ADDRESS, CatalogService
from survey.simulate.crds_server import CrdsServer
from survey.simulate.faults import Fault, FaultPlan
from survey.simulate.http import DOWNLOAD_PATH, Handler, HttpServer

SIMULATED_TOKEN = "simulated-token"  # opens the proprietary observations unless serve() is told another


class RecordedRequest(NamedTuple):
    """One request as it was answered; ``status`` is 0 when no answer was given."""

    method: str
    path: str  # with the query, decoded
    status: int


@dataclass(frozen=True)
class ServerSettings:
    """What the archive does besides its faults."""

    token: str | None = SIMULATED_TOKEN  # None: nobody gets proprietary files
    page_size: int | None = 200  # at most so many rows a page, whatever the client asks; None: as it asks
    per_exposure: bool = False  # rows per exposure beside the level-3 rows
    executing: int = 0  # so many EXECUTING replies before each answer


class ObservatoryServer:
    """A running server; a context manager that stops it. ``requests`` lists what was asked and answered."""

    def __init__(self, directory: Path | str, port: int, settings: ServerSettings, faults: Iterable[Fault] = ()):
        self.directory = Path(directory)
        self.settings = settings
        self.archive = mast.build_archive(mast.load_exposures(self.directory), per_exposure=settings.per_exposure)
        self.catalogs = CatalogService(self.directory)
        self.faults = FaultPlan(faults)
        self.requests: list[RecordedRequest] = []
        self.stopping = threading.Event()
        self._polls: dict[str, int] = {}
        self._lock = threading.Lock()
        self._crds: CrdsServer | None = None
        try:
            self._http = HttpServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port}: cannot listen on 127.0.0.1 ({error}). Name another --port.") from error
        self._http.observatory = self
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://localhost:{self._http.server_address[1]}"

    @property
    def crds_url(self) -> str:
        return f"{self.url}/crds"

    @property
    def catalogs_url(self) -> str:
        """Address of the astrometric service, for the variable ASTROMETRIC_CATALOG_URL."""
        return f"{self.url}/webservices"

    @property
    def addresses(self) -> dict[str, str]:
        """Of the archive, the CRDS server and the astrometric service."""
        return {"archive": self.url, "crds": self.crds_url, "catalogs": self.catalogs_url}

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables, for configs and for the pipeline."""
        names = {"archive": "SURVEY_ARCHIVE_URL", "crds": "SURVEY_CRDS_URL", "catalogs": ADDRESS}
        return {names[key]: url for key, url in self.addresses.items()}

    def start(self) -> ObservatoryServer:
        """Serve from a background thread."""
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="observatory", daemon=True)
        self._thread.start()
        return self

    def serve_forever(self) -> None:
        """Serve in this thread until interrupted."""
        try:
            self._http.serve_forever(0.2)
        finally:
            self.stopping.set()
            self._http.server_close()

    def stop(self) -> None:
        self.stopping.set()
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._thread = None
        self._http.server_close()

    def __enter__(self) -> ObservatoryServer:
        return self if self._thread is not None else self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def record(self, method: str, path: str) -> int:
        """Note a request that has come in; returns its number in ``requests``."""
        with self._lock:
            self.requests.append(RecordedRequest(method, path, 0))
            return len(self.requests) - 1

    def record_status(self, number: int, status: int) -> None:
        """Note what a request is answered, before the client can know it."""
        with self._lock:
            self.requests[number] = self.requests[number]._replace(status=status)

    def downloads(self, name: str = "") -> list[RecordedRequest]:
        """GETs of files whose URL holds ``name``."""
        with self._lock:
            requests = list(self.requests)
        return [item for item in requests if item.method == "GET" and DOWNLOAD_PATH in item.path and name in item.path]

    def crds(self) -> CrdsServer | None:
        """The CRDS part, None when the folder has none."""
        with self._lock:
            if self._crds is None:
                with contextlib.suppress(ConfigError):
                    self._crds = CrdsServer(self.directory / "crds")
            return self._crds

    def must_wait(self, request: str) -> bool:
        """Whether this poll of a portal request is to be answered EXECUTING."""
        with self._lock:
            polls = self._polls.get(request, 0)
            self._polls[request] = polls + 1
            return polls < self.settings.executing

    def invoke(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one portal request (the JSON of the form field ``request``)."""
        service, params = str(request.get("service")), request.get("params") or {}
        page, size = int(request.get("page") or 1), int(request.get("pagesize") or 50_000)
        if self.settings.page_size is not None:
            size = min(size, self.settings.page_size)
        if service == "Mast.Caom.Filtered":
            rows = mast.filter_rows(self.archive.observations, params.get("filters") or ())
            rows = [self.faults.strike_row(row, str(row["obs_id"])) for row in rows]
            if params.get("columns") == "COUNT_BIG(*)":
                return mast.page_of([{"Column1": len(rows)}], {"Column1": "int"}, 1, 1)
            return mast.page_of(rows, mast.OBSERVATION_COLUMNS, page, size)
        if service == "Mast.Caom.Products":
            wanted = [item.strip() for item in str(params.get("obsid", "")).split(",")]
            rows = [row for item in wanted for row in self.archive.products.get(item, ())]
            reply = mast.page_of(rows, mast.PRODUCT_COLUMNS, page, size)
            # Only what is told: a list of 80,000 rows goes out in 400 pages.
            reply["data"] = [self.faults.strike_row(row, str(row["dataURI"])) for row in reply["data"]]
            return reply
        return {"status": "ERROR", "msg": f"Unknown service {service}.", "data": [], "fields": []}


def serve(
    directory: Path | str, port: int = 0, *, faults: Iterable[Fault] = (), settings: ServerSettings | None = None,
    **changes: Any,
) -> ObservatoryServer:  # fmt: skip
    """Serve a simulated observatory's folder on 127.0.0.1 from a background thread.

    Parameters
    ----------
    directory : made by ``survey simulate``
    port : 0 takes a free one
    faults : see `survey.simulate.faults`
    settings, changes : `ServerSettings`, or its fields by name: ``serve(folder, token="secret", page_size=20)``

    Raises
    ------
    ConfigError
        The folder is no simulated observatory, or the port is taken.
    """
    return ObservatoryServer(directory, port, settings or ServerSettings(**changes), faults).start()


def serve_forever(directory: Path | str, port: int = 0, *, faults: Iterable[Fault] = (), **changes: Any) -> None:
    """Serve in the foreground; the first line on stdout is JSON with the two URLs. Ends at an interrupt."""
    server = ObservatoryServer(directory, port, ServerSettings(**changes), faults)
    print(json.dumps(server.addresses), flush=True)
    server.serve_forever()
