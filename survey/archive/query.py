"""Find the exposures of a program in the archive, by astroquery's Observations.

The archive lists NIRCam imaging as level-3 observations. The uncal files are in their product lists, each with the
filter of its observation. Rows per exposure are accepted as well, and add time and footprint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from survey.archive.attempts import Watch
from survey.archive.client import ask, bounded, observations_client
from survey.archive.rows import Parent, Row, merge, needed, read_parent, read_product, text
from survey.errors import NoExposuresError
from survey.models import Exposure
from survey.nircam import INSTRUMENT, passband

BATCH = 8  # observation ids per product list: long lists time out at the archive


def find_exposures(
    program: int,
    *,
    server: str,
    observations: Collection[int] | None = None,
    filters: Collection[str] | None = None,
    timeout_seconds: float = 60.0,
    retries: int = 3,
) -> tuple[Exposure, ...]:
    """Ask an archive for a program's imaging exposures, in the order of their names.

    No token is sent: the lists are public, also those of proprietary files.

    Parameters
    ----------
    program : number, as in the names: 1345
    server : root URL, https://mast.stsci.edu
    observations, filters : wanted; None: all
    timeout_seconds : longest time without a complete reply, over all attempts at it [s]
    retries : further attempts at each request, after errors that may pass

    Raises
    ------
    ServiceUnreachableError
        No answer, nothing but server errors, or no reply of the portal's form.
    AccessRefusedError
        401 or 403.
    NoExposuresError
        No exposure matches; the message lists what the archive has.
    """
    return find_program(
        program, server=server, observations=observations, filters=filters, timeout_seconds=timeout_seconds,
        retries=retries,
    ).exposures  # fmt: skip


@dataclass(frozen=True)
class Outline:
    """A polygon that the archive gives for an observation row: an exposure's, or that of a whole mosaic."""

    filter: str
    observation: int | None  # None for a row over several observations
    corners: tuple[tuple[float, float], ...]  # right ascension and declination [deg]


@dataclass(frozen=True)
class Program:
    """What an archive lists of a program's imaging."""

    exposures: tuple[Exposure, ...]
    outlines: tuple[Outline, ...]  # of the observation rows that list these exposures


def find_program(
    program: int,
    *,
    server: str,
    observations: Collection[int] | None = None,
    filters: Collection[str] | None = None,
    timeout_seconds: float = 60.0,
    retries: int = 3,
) -> Program:
    """As `find_exposures`, with the outlines on the sky of the rows that list them."""
    import astroquery.mast  # noqa: F401 - takes seconds, which must not count as the server's

    server = server.rstrip("/")
    wanted = None if filters is None else {name.upper() for name in filters}
    query = _Query(program, server, retries)
    parents = bounded(server, timeout_seconds, query.parents)
    chosen = needed(parents, observations, wanted)
    found = bounded(server, timeout_seconds, lambda watch: query.exposures(watch, chosen))
    exposures = tuple(
        exposure
        for _, exposure in sorted(found.items())
        if observations is None or exposure.observation in observations
    )
    if not exposures:
        raise NoExposuresError(_nothing(program, server, parents, observations, wanted), bool(parents))
    outlines = (Outline(row.filter, row.observation, corners) for row in chosen for corners in row.regions)
    return Program(exposures, tuple(outlines))


class _Query:
    """The requests of one search."""

    def __init__(self, program: int, server: str, retries: int):
        self.program, self.server, self.retries = program, server, retries

    def parents(self, watch: Watch) -> list[Parent]:
        """Observation rows that may list exposures of the program."""
        client = observations_client(self.server, watch, self.retries)
        criteria: dict[str, Any] = {
            "proposal_id": str(self.program),
            "obs_collection": "JWST",
            "instrument_name": f"{INSTRUMENT}*",
            "dataproduct_type": "image",
        }
        rows = ask(self.server, lambda: client.query_criteria_async(**criteria))
        return [parent for row in rows if (parent := read_parent(row, self.program)) is not None]

    def exposures(self, watch: Watch, parents: list[Parent]) -> dict[str, Exposure]:
        """Exposures by name from the product lists of these rows."""
        client = observations_client(self.server, watch, self.retries)
        by_id = {parent.obsid: parent for parent in parents}
        found: dict[str, Exposure] = {}
        for batch in _batches(list(by_id), BATCH):
            rows = ask(self.server, lambda batch=batch: client.get_product_list_async(batch))  # type: ignore[misc]
            for row in rows:
                parent = _parent_of(row, by_id, batch)
                exposure = parent and read_product(row, parent, self.program)
                if not exposure or not parent:
                    continue
                known = found.get(exposure.name)
                found[exposure.name] = exposure if known is None else merge(known, exposure, parent.is_exposure)
        return found


def _batches(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _parent_of(row: Row, by_id: dict[str, Parent], batch: list[str]) -> Parent | None:
    """The observation that a product row belongs to: by its parent's id, its own id, or else its filters."""
    for column in ("parent_obsid", "obsID"):
        if parent := by_id.get(text(row.get(column))):
            return parent
    if text(row.get("parent_obsid")):
        return None
    pair = passband(text(row.get("filters")).split(";"))
    fitting = [by_id[obsid] for obsid in batch if pair in (None, (by_id[obsid].filter, by_id[obsid].pupil))]
    optics = {(parent.filter, parent.pupil, parent.subarray) for parent in fitting}
    return fitting[0] if len(optics) == 1 else None


def _nothing(
    program: int, server: str, parents: list[Parent], observations: Collection[int] | None, filters: set[str] | None
) -> str:
    if not parents:
        return f"program {program}: {server} has no NIRCam imaging of it. Check program and archive.server."
    there = ", ".join(sorted({parent.filter for parent in parents}))
    seen = sorted({parent.observation for parent in parents if parent.observation is not None})
    asked = [f"filters {', '.join(sorted(filters))}"] if filters is not None else []
    asked += [f"observations {', '.join(map(str, sorted(observations)))}"] if observations is not None else []
    return (
        f"program {program}: no uncal exposure at {server} fits {' and '.join(asked) or 'the program'}; "
        f"it has filters {there} in observations {', '.join(map(str, seen)) or 'unknown'}. "
        "Change filters or observations."
    )
