"""Online reference catalogues of tweakreg: fetched before any task, and kept in the workspace.

The pipeline asks an astrometric service for a cone in the middle of its alignment, on a worker. Here a larger cone is
fetched beforehand: ``catalogs/<name>.csv`` is the reply of the service, byte by byte, and ``<name>.json`` beside it is
the query. `survey.steps.reference_catalog` gives tweakreg the part that it asks for.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from survey.archive.attempts import Attempt, GivenUpError, PassingError, Watch, first_reply
from survey.archive.client import bounded
from survey.archive.http import BodyError, body_blocks, is_loopback, may_pass, shown_cause
from survey.credentials import scrub
from survey.digest import file_sha256
from survey.errors import AccessRefusedError, ServiceUnreachableError
from survey.workspace.files import disk_full_named, write_file

ADDRESS = "ASTROMETRIC_CATALOG_URL"  # variable with the service's address, as the pipeline reads it
DEFAULT_ADDRESS = "https://gsss.stsci.edu/webservices"
SEARCH = "vo/CatalogSearch.aspx"
COLUMNS = ("ra", "dec", "mag", "objID", "epoch")  # that tweakreg needs
NO_ROWS = "No data records"  # begins the reply for an empty cone
MAX_BYTES = 512 * 1024 * 1024  # a million stars are 300 MB
RETRIES = 2
_CONNECT_SECONDS = 15.0
_MAX_PARS_BYTES = 1 << 20


@dataclass(frozen=True)
class Cone:
    """A circle on the sky [deg]."""

    ra_deg: float
    dec_deg: float
    radius_deg: float

    def holds(self, other: Cone) -> bool:
        """Whether another circle is inside of this one."""
        return self.distance_deg(other.ra_deg, other.dec_deg) + other.radius_deg <= self.radius_deg

    def reaches(self, ra_deg: float, dec_deg: float) -> bool:
        """Whether a position is inside of the circle or on its edge."""
        return self.distance_deg(ra_deg, dec_deg) <= self.radius_deg

    def distance_deg(self, ra_deg: float, dec_deg: float) -> float:
        """Angle between the centre and a position [deg]."""
        ra1, dec1, ra2, dec2 = map(math.radians, (self.ra_deg, self.dec_deg, ra_deg, dec_deg))
        half = math.sin((dec2 - dec1) / 2) ** 2 + math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
        return math.degrees(2 * math.asin(min(1.0, math.sqrt(half))))


@dataclass(frozen=True)
class Query:
    """What is asked of the service for one mosaic."""

    name: str  # of the file, without suffix
    catalog: str  # such as 'GAIADR3'
    date: str  # of the first exposure, 'YYYY-MM-DD': positions are moved to this epoch
    cone: Cone

    @property
    def epoch(self) -> float:
        """The date as a year, as tweakreg computes it."""
        from astropy.time import Time

        return float(Time(self.date).decimalyear)


@dataclass(frozen=True)
class Stored:
    """A catalogue in the workspace."""

    path: Path
    sha256: str
    rows: int


def recall(folder: Path, query: Query) -> Stored | None:
    """The catalogue of a query, if it was fetched and is as it came; a larger cone will do."""
    path = folder / f"{query.name}.csv"
    try:
        kept = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        cone = Cone(*(float(kept[name]) for name in ("ra_deg", "dec_deg", "radius_deg")))
        same = (kept["catalog"], kept["date"]) == (query.catalog, query.date) and cone.holds(query.cone)
        sha256 = file_sha256(path) if same else ""
        return Stored(path, sha256, int(kept["rows"])) if same and sha256 == kept["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing, damaged or of another query: to be fetched


def fetch(folder: Path, query: Query, timeout_seconds: float) -> Stored:
    """Ask the service for a catalogue, and keep its reply and the query.

    Raises
    ------
    ServiceUnreachableError, AccessRefusedError
        The service does not answer within the limit, refuses, or answers with something else than a catalogue.
    DiskFullError, OSError
        The files cannot be written.
    """
    service = (os.environ.get(ADDRESS) or DEFAULT_ADDRESS).rstrip("/")
    cone, epoch = query.cone, query.epoch
    url = (
        f"{service}/{SEARCH}?RA={cone.ra_deg}&DEC={cone.dec_deg}&EPOCH={epoch}"
        f"&SR={cone.radius_deg}&FORMAT=CSV&CAT={query.catalog}"
    )
    try:
        content = bounded(service, timeout_seconds, lambda watch: _ask(service, url, watch))
        columns, rows = _described(content, service)
    except ServiceUnreachableError as error:
        cause = str(error).replace("lengthen archive.timeout_seconds", "lengthen references.timeout_seconds")
        raise ServiceUnreachableError(
            f"{cause}\nThe reference catalogue {query.catalog} for {query.name} is missing: tweakreg's abs_refcat asks "
            f"for it. {ADDRESS} sets another service; abs_refcat also takes a file."
        ) from error
    path, sha256 = folder / f"{query.name}.csv", hashlib.sha256(content).hexdigest()
    kept = {
        "catalog": query.catalog, "date": query.date, "epoch": epoch, **asdict(cone), "service": scrub(service),
        "columns": columns, "rows": rows, "sha256": sha256,
        "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    with disk_full_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)  # never beside the bytes of another reply
        write_file(path, content)
        write_file(path.with_suffix(".json"), json.dumps(kept, indent=1) + "\n")
    return Stored(path, sha256, rows)


def faults(folder: Path) -> dict[str, str]:
    """Catalogues whose bytes are not those that came: name of the file -> what is wrong."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        csv_path = path.with_suffix(".csv")
        try:
            expected = str(json.loads(path.read_text(encoding="utf-8"))["sha256"])
            sha256 = file_sha256(csv_path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            found[csv_path.name] = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            continue
        if sha256 != expected:
            found[csv_path.name] = f"sha256 is {sha256[:12]}..., expected {expected[:12]}... by {path.name}"
    return found


def _ask(service: str, url: str, watch: Watch) -> bytes:
    import requests

    session = requests.Session()
    if is_loopback(service):
        session.trust_env = False  # no proxy between this machine and itself
    return first_reply(lambda attempt: _once(session, service, url, attempt, watch), watch, RETRIES)


def _once(session: Any, service: str, url: str, attempt: Attempt, watch: Watch) -> bytes:
    import requests

    left = max(1.0, watch.left)
    try:
        response = session.get(
            url, headers={"Content-Type": "text/csv"}, timeout=(min(_CONNECT_SECONDS, left), left), stream=True
        )
        attempt.pace.restart(0)
        try:
            content = b"".join(_blocks(response, service, attempt, watch))
        finally:
            response.close()
    except (requests.RequestException, BodyError) as error:
        cause = shown_cause(error)
        raise PassingError(cause, ServiceUnreachableError(f"{service}: cannot be reached ({cause}).")) from error
    if response.status_code in (401, 403):
        raise AccessRefusedError(f"{service}: refused the query (HTTP {response.status_code}).")
    if response.status_code >= 400:
        failure = ServiceUnreachableError(f"{service}: answered HTTP {response.status_code} to the query.")
        if may_pass(response.status_code):
            raise PassingError(f"HTTP {response.status_code}", failure)
        raise failure
    return content


def _blocks(response: Any, service: str, attempt: Attempt, watch: Watch) -> Iterable[bytes]:
    size = 0
    for block in body_blocks(response):
        if attempt.is_over or watch.given_up.is_set():
            raise GivenUpError
        size += len(block)
        if size > MAX_BYTES:
            raise ServiceUnreachableError(f"{service}: the catalogue holds more than {MAX_BYTES} bytes.")
        attempt.pace.reached(size)
        yield block


def _described(content: bytes, service: str) -> tuple[list[str], int]:
    """Columns and number of rows of a reply.

    Raises
    ------
    ServiceUnreachableError
        It is not a catalogue.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text.startswith(NO_ROWS):
        return [], 0
    rows = csv.reader(line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    columns = next(rows, [])
    if not set(COLUMNS) <= set(columns):
        begin = ascii(scrub(text[:60]))
        raise ServiceUnreachableError(
            f"{service}: answered {len(content)} bytes that are no catalogue ({begin}); expected the columns "
            f"{', '.join(COLUMNS)}."
        )
    return columns, sum(1 for _ in rows)


# --- parameters that a CRDS file sets ---------------------------------------------------------------------------


class _PlainLoader(yaml.SafeLoader):
    """Reads the YAML of an ASDF file; tagged objects are read as what they are made of."""


def _untagged(loader: _PlainLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_PlainLoader.add_multi_constructor("", _untagged)


def parameters_in(path: Path, step: str = "") -> dict[str, Any]:
    """Parameters in a parameter file of CRDS (ASDF), or those that a file of a pipeline has for one of its steps.

    Returns
    -------
    parameters : empty for a file that cannot be read; the task that reads it will say so
    """
    try:
        head = path.read_bytes()[:_MAX_PARS_BYTES].partition(b"\n...")[0]
        tree = yaml.load(head, Loader=_PlainLoader)
        if step:
            tree = next((item for item in tree.get("steps") or () if item.get("name") == step), {})
        return dict(tree.get("parameters") or {})
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError):
        return {}
