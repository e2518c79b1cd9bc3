"""Give tweakreg the reference catalogue that was fetched before, in place of the service that it would ask.

stcal asks the service by `requests.get` for a cone and an epoch, and reads the text that comes. As long as `served`
lasts, it gets the rows of a stored reply that lie in its cone, with the head of that reply. So tweakreg works with the
rows that the service would have sent, and no task needs the network.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from survey.errors import TaskError
from survey.references.catalogs import Cone

FOLDER = "catalogs"  # of the workspace
NO_ROWS = "No data records found\n"


def stored_catalog(paths: Sequence[str]) -> tuple[str | None, list[str]]:
    """The stored catalogue among the input files of a job, or None, and the other files in their order."""
    found = next((path for path in paths if Path(path).parent.name == FOLDER), None)
    return found, [path for path in paths if path != found]


@contextlib.contextmanager
def served(path: str | None) -> Iterator[None]:
    """Answer the queries of tweakreg from a stored catalogue, in this process; without one, no query is answered."""
    from stcal.tweakreg import astrometric_utils

    real, real_s3 = astrometric_utils.requests, astrometric_utils.get_s3_catalog
    astrometric_utils.requests = SimpleNamespace(get=_Service(path).get, exceptions=real.exceptions)
    astrometric_utils.get_s3_catalog = _refused
    try:
        yield
    finally:
        astrometric_utils.requests, astrometric_utils.get_s3_catalog = real, real_s3


def _refused(*_arguments: Any, **_keywords: Any) -> Any:
    raise TaskError("abs_refcat names a catalogue in a public bucket; a task asks no server. Name GAIADR3, or a file.")


@dataclass(frozen=True)
class _Service:
    """In place of the module `requests`, of which tweakreg uses ``get``."""

    path: str | None

    def get(self, url: str, **_options: Any) -> Any:
        """The reply for the address of a query: an object with ``content`` [bytes].

        Raises
        ------
        TaskError
            The stored catalogue is not of this query.
        """
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        if self.path is None:
            raise TaskError(f"tweakreg asks for the catalogue {asked.get('CAT')}, which was not fetched. Run again.")
        path = Path(self.path)
        self._check(asked, json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        text = path.read_text(encoding="utf-8")
        return SimpleNamespace(content=rows_in_cone(text, _cone(asked)).encode())

    def _check(self, asked: Mapping[str, str], kept: Mapping[str, Any]) -> None:
        name = Path(str(self.path)).name
        if (asked["CAT"], float(asked.get("EPOCH", "nan"))) != (kept["catalog"], kept["epoch"]):
            raise TaskError(
                f"{name} is {kept['catalog']} at epoch {kept['epoch']}, tweakreg asks for {asked['CAT']} at "
                f"{asked.get('EPOCH')}. Run 'survey refs' again."
            )
        if not Cone(*(float(kept[key]) for key in ("ra_deg", "dec_deg", "radius_deg"))).holds(_cone(asked)):
            raise TaskError(
                f"{name} does not hold all of the aligned exposures: the footprints in the headers of their raw files "
                "are wrong. Leave out those that are far off, or give abs_refcat a file."
            )


def _cone(asked: Mapping[str, str]) -> Cone:
    return Cone(float(asked["RA"]), float(asked["DEC"]), float(asked["SR"]))


def rows_in_cone(text: str, cone: Cone) -> str:
    """The lines of a catalogue that lie in a cone, in their order, after its comments and its header.

    Parameters
    ----------
    text : CSV with comments in lines that begin with '#', and the columns 'ra' and 'dec' [deg]
    cone : its edge belongs to it
    """
    kept: list[str] = []
    places: tuple[int, int] | None = None
    found = 0
    for line in text.splitlines(keepends=True):
        if line.startswith("#") or not line.strip():
            kept.append(line)
            continue
        values = next(csv.reader([line]))
        if places is None:
            if "ra" not in values:  # 'No data records'
                return text
            places = values.index("ra"), values.index("dec")
            kept.append(line)
        elif cone.reaches(float(values[places[0]]), float(values[places[1]])):
            kept.append(line)
            found += 1
    return "".join(kept) if found else NO_ROWS
