"""Frozen records that the packages exchange: exposures, associations, tasks, plans, task records.

They hold JSON types only: no arrays, no datamodels, no open files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from survey.mosaics.grid import Tile

COMPLETE = "complete"
SKIPPED = "skipped"
FAILED = "failed"
TWEAKREG = "tweakreg"  # the pipeline's step that aligns exposures
LOST = "lost"  # of a raw file: it is missing or was changed, and a run fetches it again
REMOVED = "removed"  # of a raw file: `survey tidy` removed it, and a run fetches it again only if a task reads it
UNAVAILABLE = "unavailable"  # of a raw file: a task reads it, and it could not be fetched again
_STRICT = {"strict": True, "allow_inf_nan": False}  # how pydantic reads a record: survey.workspace.records


def _state(record: Any) -> list[Any]:
    """Values of the fields, for pickle. The method of dataclasses looks the fields up each time, which took a fifth of
    the time of scheduling.
    """
    return [getattr(record, name) for name in record.__slots__]


def _restore(record: Any, state: list[Any]) -> None:
    for name, value in zip(record.__slots__, state, strict=True):
        object.__setattr__(record, name, value)


@dataclass(frozen=True, slots=True)
class Exposure:
    """One detector's raw file, as described by an archive row or by its header.

    What a row does not state is None until the file is there; rows of level-3 products have neither time nor footprint.
    """

    name: str  # without suffix: jw01345001001_02201_00001_nrcblong
    program: int
    observation: int
    visit: int
    detector: str  # upper case: NRCBLONG
    filter: str  # F444W; '' when unknown
    pupil: str = "CLEAR"
    subarray: str = "FULL"
    start_mjd: float | None = None  # UTC
    groups: int | None = None
    integrations: int | None = None
    uri: str = ""  # mast:JWST/product/..., or a path
    size: int | None = None  # bytes, according to the archive
    footprint: tuple[tuple[float, float], ...] | None = None  # ICRS corners (ra, dec) [deg]
    sha256: str | None = None  # of the verified raw file, once downloaded
    pointing: str | None = None  # what may be wrong with it; '': nothing. See `survey.archive.pointing`
    # Polygons of the archive's mosaic that lists it, one of which holds it; ICRS (ra, dec) [deg]
    outlines: tuple[tuple[tuple[float, float], ...], ...] = ()
    fault: str = ""  # why it cannot be used (damaged file, missing references); its filter may be unknown then
    # Why it is not part of the survey: the config excludes it, or its file is of another mode than the archive lists.
    # Unlike one with a fault, it is not missing from its mosaic.
    excluded: str = ""
    # LOST or REMOVED: the raw file is not there, and `sha256` is the recorded one, which a fetch is expected to bring.
    # UNAVAILABLE: there is none.
    absent: str = ""

    @property
    def is_held(self) -> bool:
        """Whether its verified raw file is there."""
        return bool(self.sha256) and not self.absent

    @property
    def file(self) -> str:
        """Name of the raw file."""
        return f"{self.name}_uncal.fits"

    @property
    def polygons(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """Its footprint or, where that is not known, the polygons one of which holds it; () if neither is known."""
        return (self.footprint,) if self.footprint else self.outlines

    @property
    def is_given(self) -> bool:
        """Whether it is a calibrated file that was made elsewhere; ``uri`` is its path."""
        return bool(self.uri) and "_uncal." not in self.uri.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ListedMember:
    """A member of an association from outside, as its file lists it."""

    name: str  # of the exposure
    file: str  # its 'expname', relative to the folder of the association or of calibrated files
    group_id: str = ""  # members with one id are aligned and matched together; '': by the member's header
    catalog: str | None = None  # its 'tweakreg_catalog'; '' asks for a search of sources


@dataclass(frozen=True, slots=True)
class Association:
    """A level-3 association: the calibrated exposures that make one mosaic."""

    product: str  # level-3 product name without suffix, or a free name of an association from outside
    filter: str  # '' for a free name until the members' headers are read
    field: str  # 'all', or the observation: 'o001'
    members: tuple[str, ...]  # exposure names, in the order of the association file
    program: int = 0
    group: str = ""  # in mosaics.zarr; '': named after the product
    lost: tuple[str, ...] = ()  # exposures that belong to the mosaic, but whose files cannot be read
    # Of an association from outside
    listed: tuple[ListedMember, ...] = dataclasses.field(default=(), compare=False)  # in the order of `members`
    # Catalogues of sources that tweakreg is to read: member -> path, sha256
    catalogs: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict, compare=False)
    pool: str = dataclasses.field(default="", compare=False)  # its 'asn_pool'
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)  # what its file asks for and is not used

    @property
    def group_ids(self) -> dict[str, str]:
        """Groups that the file of an association from outside gives to its members."""
        return {member.name: member.group_id for member in self.listed if member.group_id}


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """A reference catalogue that tweakreg reads from the workspace."""

    file: str  # relative to the workspace
    sha256: str = ""  # '' until it is fetched


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work: a step applied to a subject (an exposure, a group, a tile or a mosaic).

    ``mosaic`` and ``tile`` name what the products are part of; they are neither settings nor part of the digest.
    ``digest`` is '' while something that it depends on is unknown (a raw file that is not downloaded, references that
    were not looked up); ``unknown`` then names it.
    """

    __getstate__ = _state
    __setstate__ = _restore

    key: str  # '<step>/<subject>'
    step: str
    subject: str
    filter: str
    settings: Mapping[str, Any]
    inputs: tuple[str, ...] = ()  # keys of other tasks
    files: tuple[str, ...] = ()  # inputs that are not products of tasks, relative to the workspace
    references: Mapping[str, str] = field(default_factory=dict)  # reference type -> file name; without 'N/A'
    sha1: Mapping[str, str] = field(default_factory=dict)  # reference file name -> sha1
    digests: Mapping[str, str] = field(default_factory=dict)  # of the inputs: key or file -> digest or sha256
    versions: Mapping[str, str] = field(default_factory=dict)
    # Products that it reads, in this order, relative to the workspace. Empty: the product of each input with the suffix
    # that its step produces.
    reads: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # members without which the mosaic is made
    context: str = ""
    digest: str = ""
    unknown: str = ""
    memory_gb: float = 1.0  # that the scheduler reserves
    estimate_gb: float = 0.0  # by the step, before past runs correct it
    cpu_seconds: float = 0.0  # estimate
    disk_gb: float = 0.0  # of its products, estimate
    retries: int = 2
    mosaic: str = ""  # the level-3 product that it is part of; '' for tasks of an exposure that serve every mosaic
    tile: Tile | None = None  # of that mosaic, or of its grid for outlier detection
    must_align: bool = False  # it fails if tweakreg does not align every member; changes no product: not in the digest
    first_pass: bool = False  # of the pass whose mosaics only the masks of the second pass are made from


@dataclass(frozen=True, slots=True)
class Plan:
    """Tasks, each after those that it depends on, with the exposures and associations that they were made from."""

    tasks: tuple[Task, ...]
    exposures: tuple[Exposure, ...]
    associations: tuple[Association, ...]
    context: str = ""
    left_out: tuple[Exposure, ...] = ()  # exposures that are excluded; they are not among `exposures`
    first_pass: tuple[Association, ...] = ()  # mosaics that are made first, for masks; not among the associations

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, key: str) -> Task:
        for task in self.tasks:
            if task.key == key:
                return task
        raise KeyError(key)


@dataclass(frozen=True, slots=True)
class Product:
    """A published file or folder."""

    __pydantic_config__ = _STRICT
    __getstate__ = _state
    __setstate__ = _restore

    path: str  # relative to the workspace, '/' between folders
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Members of a mosaic that a step of Image3 left as they were, and why."""

    __pydantic_config__ = _STRICT
    __getstate__ = _state
    __setstate__ = _restore

    step: str  # of the pipeline: 'tweakreg', 'skymatch', 'outlier_detection'
    failed: bool  # the step tried and did not succeed; False: it was skipped, or had nothing to do
    reason: str  # continues '<step> left <members> as they were: '
    members: tuple[str, ...]  # names of exposures


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What one task did. ``status`` is 'complete', 'skipped' or 'failed'."""

    __pydantic_config__ = _STRICT
    __getstate__ = _state
    __setstate__ = _restore

    key: str
    step: str
    subject: str
    filter: str
    digest: str
    status: str
    products: tuple[Product, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)  # key or file -> digest or sha256
    settings: Mapping[str, Any] = field(default_factory=dict)  # as given
    resolved: Mapping[str, Any] = field(default_factory=dict)  # as used by the pipeline
    references: Mapping[str, str] = field(default_factory=dict)  # reference type -> file name
    sha1: Mapping[str, str] = field(default_factory=dict)  # reference file name -> sha1
    missing: tuple[str, ...] = ()  # members without which the mosaic was made
    context: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_gb: float = 0.0
    memory_gb: float = 0.0  # as predicted
    estimate_gb: float = 0.0  # by the step, without past runs
    host: str = ""
    job: str = ""  # batch job of the worker that ran it
    started: str = ""  # ISO 8601, UTC
    attempts: int = 1  # number of tries of this digest
    measurements: Mapping[str, float | None] = field(default_factory=dict)
    error: str = ""
    error_class: str = ""  # 'again', 'memory', 'never'
    log: str = ""  # relative to the workspace
    mosaic: str = ""  # the level-3 product that it belongs to; records of version 0.1 do not say
    machine: Mapping[str, str] = field(default_factory=dict)  # processor, its vector units, linear algebra libraries
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that may change last bits of pixels
    notices: tuple[Notice, ...] = ()  # what steps of Image3 did not do
    removed: str = ""  # when `survey tidy` removed its products, to make room: ISO 8601, UTC

    @property
    def not_aligned(self) -> dict[str, str]:
        """Exposures that tweakreg tried to align and could not, each with the reason."""
        failed = [item for item in self.notices if item.failed and item.step == TWEAKREG]
        return {name: item.reason for item in reversed(failed) for name in item.members}


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON types."""
    return asdict(record)
