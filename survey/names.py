"""Product names of the JWST archive: parse and build.

Level 1 and 2, one file per exposure and detector:
    jw<ppppp><ooo><vvv>_<gg><s><aa>_<eeeee>(-seg<NNN>)_<detector>_<suffix>.fits
Level 3, one product per association:
    jw<ppppp>-<acid>_t<NNN>(-epoch<N>)_<instr>_<optical elements>(-<subarray>)_<suffix>.<ext>

p program, o observation, v visit, g visit group, s parallel sequence, a activity (base 36), e exposure. Of products of
a target in one epoch, the id of the association can be missing: jw<ppppp>-t<NNN>-epoch<N>_...
What a first pass makes of an exposure or a mosaic has that name with ``-pass1`` after it (`first_pass_name`).
Source: JWST user documentation, "File naming conventions and data products".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256

from survey.errors import ProductNameError
from survey.messages import shown

# re.ASCII: only ASCII digits count. Always used with fullmatch, since `$` accepts a trailing newline.
_EXPOSURE = re.compile(
    r"jw(?P<program>\d{5})(?P<observation>\d{3})(?P<visit>\d{3})"
    r"_(?P<group>\d{2})(?P<sequence>\d)(?P<activity>[0-9a-z]{2})"
    r"_(?P<exposure>\d{5})(?:-seg(?P<segment>\d{3}))?_(?P<detector>[a-z0-9]{3,10})",
    re.ASCII,
)
_MOSAIC = re.compile(
    r"jw(?P<program>\d{5})-(?:(?P<acid>[oacr]\d{3,4})_)?t(?P<target>\d{3})(?:-epoch(?P<epoch>0|[1-9]\d{0,3}))?"
    r"_(?P<instrument>[a-z]{3,8})_(?P<elements>[a-z0-9]{1,16}-[a-z0-9]{1,16})"
    r"(?:-(?!pass1$)(?P<subarray>[a-z0-9]{1,24}))?(?P<first>-pass1)?",
    re.ASCII,
)
FIRST_PASS = "-pass1"  # after the name of an exposure or a mosaic
# ASCII only: no look-alikes, no invisible characters, and one spelling of each name.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)
_SUFFIX = re.compile(r"(?=.{1,32}$)[a-z][a-z0-9]*(?:-[a-z0-9]+)*", re.ASCII)
MAX_FREE_NAME = 100
# Free names that would be confused with those of exposures, groups or tiles.
_NOT_FREE = re.compile(r"jw\d{11}_.*|.*_(?:g\d+|x\d+y\d+)", re.ASCII)
_ID = re.compile(r"(?:[oacr]\d{3,4}|t\d{3}-epoch\d+)", re.ASCII)
_MAX_SLUG = 40


@dataclass(frozen=True, slots=True)
class ExposureName:
    """An exposure of one detector, without suffix; ``str()`` is the name."""

    program: int
    observation: int
    visit: int
    group: str
    sequence: str
    activity: str
    exposure: int
    detector: str
    segment: int | None = None

    def __str__(self) -> str:
        segment = "" if self.segment is None else f"-seg{self.segment:03d}"
        return (
            f"jw{self.program:05d}{self.observation:03d}{self.visit:03d}_{self.group}{self.sequence}{self.activity}"
            f"_{self.exposure:05d}{segment}_{self.detector.lower()}"
        )

    def file(self, suffix: str) -> str:
        """File name of this exposure's product, e.g. ``file('rate')``."""
        return f"{self}_{suffix}.fits"


@dataclass(frozen=True, slots=True)
class MosaicName:
    """A level-3 product, without suffix; ``str()`` is the name."""

    program: int
    acid: str  # id of the association, such as 'o001'; '' if the name has none
    target: int
    instrument: str
    elements: str
    subarray: str | None = None
    epoch: int | None = None
    first_pass: bool = False  # the mosaic of a first pass

    def __str__(self) -> str:
        acid = f"{self.acid}_" if self.acid else ""
        epoch = "" if self.epoch is None else f"-epoch{self.epoch}"
        end = (f"-{self.subarray.lower()}" if self.subarray else "") + (FIRST_PASS if self.first_pass else "")
        return f"jw{self.program:05d}-{acid}t{self.target:03d}{epoch}_{self.instrument}_{self.elements}{end}"

    def file(self, suffix: str, extension: str = "fits") -> str:
        return f"{self}_{suffix}.{extension}"


def parse_exposure(name: str) -> ExposureName:
    """Read an exposure name without suffix, such as ``jw01345001001_02201_00001_nrcblong``.

    Raises
    ------
    ProductNameError
        The name does not follow the naming scheme.
    """
    match = _EXPOSURE.fullmatch(name)
    if match is None:
        raise ProductNameError(
            f"{shown(name, ascii_only=True)}: not an exposure name of the archive; expected "
            "jw<ppppp><ooo><vvv>_<gg><s><aa>_<eeeee>(-seg<NNN>)_<detector>."
        )
    part = match.groupdict()
    return ExposureName(
        program=int(part["program"]),
        observation=int(part["observation"]),
        visit=int(part["visit"]),
        group=part["group"],
        sequence=part["sequence"],
        activity=part["activity"],
        exposure=int(part["exposure"]),
        detector=part["detector"].upper(),
        segment=None if part["segment"] is None else int(part["segment"]),
    )


def parse_mosaic(name: str) -> MosaicName:
    """Read a level-3 product name without suffix, such as ``jw01345-o001_t001_nircam_clear-f200w``.

    Raises
    ------
    ProductNameError
        The name does not follow the naming scheme.
    """
    match = _MOSAIC.fullmatch(name)
    if match is None:
        raise ProductNameError(
            f"{shown(name, ascii_only=True)}: not a level-3 product name of the archive; expected "
            "jw<ppppp>-<acid>_t<NNN>(-epoch<N>)_<instr>_<optical elements>(-<subarray>)."
        )
    part = match.groupdict()
    return MosaicName(
        int(part["program"]),
        part["acid"] or "",
        int(part["target"]),
        part["instrument"],
        part["elements"],
        part["subarray"],
        None if part["epoch"] is None else int(part["epoch"]),
        part["first"] is not None,
    )


def is_free_name(name: str) -> bool:
    """Whether the product of a given association can have this name, which does not follow the archive's scheme."""
    short = plain_name(name) and len(name) <= MAX_FREE_NAME
    return short and _MOSAIC.fullmatch(name) is None and _NOT_FREE.fullmatch(name) is None


def association_id(product: str) -> str:
    """The part of a product's name that names of its files per exposure and of its zarr group have: 'a3001'.

    Of a free name it is the name in lower case with dashes, and a hash of the name where that changes it.

    Raises
    ------
    ProductNameError
        The name is neither a level-3 product of the archive nor a free name.
    """
    if not is_free_name(product):
        name = parse_mosaic(product)
        return name.acid or f"t{name.target:03d}" + ("" if name.epoch is None else f"-epoch{name.epoch}")
    slug = re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-")[:_MAX_SLUG]
    if slug == product and not _ID.fullmatch(slug):
        return slug
    return f"{slug}-{sha256(product.encode()).hexdigest()[:8]}"


def split_file(filename: str) -> tuple[ExposureName | MosaicName, str]:
    """Split the file name of a product: ``..._nrca3_uncal.fits`` -> (name, 'uncal').

    Raises
    ------
    ProductNameError
        Anything that is not a plain file name of the naming scheme, such as a path or a name with control characters.
    """
    stem, _, extension = filename.rpartition(".")
    root, _, suffix = stem.rpartition("_")
    if extension not in ("fits", "json", "ecsv", "asdf", "jpg") or not _SUFFIX.fullmatch(suffix):
        raise ProductNameError(f"{shown(filename, ascii_only=True)}: not a product file name of the archive.")
    if _EXPOSURE.fullmatch(root):
        return parse_exposure(root), suffix
    return parse_mosaic(root), suffix


def optical_elements(filter_name: str, pupil: str) -> str:
    """Filter and pupil as in level-3 product names, in alphabetical order: ('F200W', 'CLEAR') -> 'clear-f200w'."""
    return "-".join(sorted((filter_name.lower(), pupil.lower())))


def observation_label(program: int, observation: int, programs: Collection[int]) -> str:
    """An observation in a message: '3', or '1345:3' among observations of several programs."""
    return str(observation) if len(programs) < 2 else f"{program}:{observation}"


def programs_of(names: Iterable[str]) -> list[int]:
    """Programs of exposures by their names, each once."""
    return sorted({parse_exposure(name).program for name in names})


def first_pass_name(name: str) -> str:
    """Name of what a first pass makes of an exposure or a mosaic: jw01345001001_02201_00001_nrca1-pass1."""
    return f"{name}{FIRST_PASS}"


def is_first_pass(name: str) -> bool:
    """Whether an exposure or a mosaic has the name that it gets in a first pass."""
    return name.endswith(FIRST_PASS)


def final_name(name: str) -> str:
    """Name of the exposure or mosaic itself, for a name that may be of a first pass."""
    return name.removesuffix(FIRST_PASS)


def plain_name(name: str) -> bool:
    """Whether a name is a plain ASCII file name: no folder, no leading dot or dash, no special characters."""
    return _PLAIN.fullmatch(name) is not None
