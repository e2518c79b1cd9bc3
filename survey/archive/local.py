"""Read exposures from the headers of raw files: of a folder in place of an archive, and of files that were downloaded.

Only headers are read (primary and SCI), never pixels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from survey.archive.compressed import decompressed, is_compressed, plain_name
from survey.archive.headers import DamagedFileError, Header
from survey.archive.ledger import Entry, Ledger, signature
from survey.archive.local_files import UNCAL, find_files
from survey.archive.modes import other_mode
from survey.archive.pointing import KEYWORDS, pointing_faults, read_pointing_faults
from survey.archive.rows import footprint, text, whole
from survey.archive.structure import Hdu, read_hdus
from survey.errors import ConfigError, NoExposuresError, ProductNameError
from survey.models import Exposure
from survey.names import ExposureName, split_file
from survey.nircam import PUPIL_FILTERS, sees

FACTS = ("filter", "pupil", "subarray", "start_mjd", "groups", "integrations", "footprint", "pointing")
_WCS = (
    *(f"{name}{axis}" for name in ("CRVAL", "CRPIX", "CDELT", "NAXIS") for axis in (1, 2)),
    *(f"PC{row}_{column}" for row in (1, 2) for column in (1, 2)),
)
COMPRESSED = "compressed"  # in the facts of an entry: signature of the file that was decompressed
_MJD = ("EXPSTART", "MJD-BEG")
_KEYWORDS = (
    *("EXP_TYPE", "DETECTOR", "PROGRAM", "OBSERVTN", "VISIT", "FILTER", "PUPIL", "SUBARRAY", "CORONMSK"),
    *(*_MJD, "NGROUPS", "NINTS", *KEYWORDS),
)


def find_exposures(
    folder: Path | str,
    program: int | None = None,
    *,
    observations: Collection[int] | None = None,
    filters: Collection[str] | None = None,
    cache: Ledger | None = None,
) -> tuple[tuple[Exposure, ...], dict[str, str]]:
    """As `search`, without the exposures that are not imaging."""
    found = search(folder, program, observations=observations, filters=filters, cache=cache)
    return found.exposures, found.faults


@dataclass(frozen=True)
class Found:
    """Exposures in a folder."""

    exposures: tuple[Exposure, ...]  # in the order of their names; ``uri`` is the file's path
    faults: dict[str, str]  # file name -> why it was left out, for names of raw files that cannot be used
    left_out: tuple[Exposure, ...] = ()  # not NIRCam imaging; ``excluded`` is the cause


def search(
    folder: Path | str,
    program: int | None = None,
    *,
    observations: Collection[int] | None = None,
    filters: Collection[str] | None = None,
    cache: Ledger | None = None,
) -> Found:
    """NIRCam imaging exposures among the ``*_uncal.fits`` of a folder and its subfolders; links are followed.

    Parameters
    ----------
    folder : of raw files
    program, observations, filters : wanted; None: all
    cache : a ledger of files that were linked before: unchanged ones are not opened again. It is only read, since a
        plan does not lock the workspace

    Raises
    ------
    ConfigError
        No such folder.
    NoExposuresError
        No exposure matches; the message lists what the folder has, also of other kinds of files.
    """
    folder = Path(folder).absolute()
    try:
        files = find_files(folder)
    except OSError as error:
        raise ConfigError(f"archive.local: {folder}: {error.strerror}; expected a folder of *{UNCAL}.") from error
    wanted = None if filters is None else {name.upper() for name in filters}
    found: list[Exposure] = []
    left_out: list[Exposure] = []
    faults = {name: cause for name, cause in files.faults.items() if _is_wanted(name, program, observations)}
    for path in files.raw:
        try:
            name = _named(plain_name(path))
            if (program is not None and name.program != program) or (
                observations and name.observation not in observations
            ):
                continue
            if path.exists() and not path.is_file():  # a pipe or a device would be waited for without end
                raise DamagedFileError("is not a file.")
            exposure = _cached(path, cache)
            other = None if exposure is not None else _other(path, name)
        except (DamagedFileError, ProductNameError, OSError) as error:
            faults[path.name] = str(error).removeprefix(f"{path.name}: ")
            continue
        if exposure is not None:
            found.append(exposure)
        elif other is not None and (wanted is None or other.filter in ("", *wanted)):
            left_out.append(other)
    exposures = tuple(item for item in found if wanted is None or item.filter in wanted)
    if not exposures:
        more = f", filters {sorted(wanted)}" if wanted else ""
        more += f", observations {sorted(observations)}" if observations else ""
        there = ", ".join(sorted({item.filter for item in found})) or "none"
        bad = "".join(f"\n{name}: {cause}" for name, cause in sorted(faults.items()))
        also = f" There are also {files.seen} files." if files.seen else ""
        also += f" {len(left_out)} exposures are not imaging, such as {left_out[0].name}." if left_out else ""
        raise NoExposuresError(
            f"{folder}: none of {len(files.raw)} *{UNCAL} files fits program {program}{more}; "
            f"NIRCam imaging found: {there}.{also}{bad}",
            bool(found),
        )
    return Found(exposures, faults, tuple(left_out))


def _is_wanted(filename: str, program: int | None, observations: Collection[int] | None) -> bool:
    """Whether a file is one of a program's observations, by its name; True for names that are no exposure's."""
    try:
        name = _named(filename.removesuffix(".gz"))
    except ProductNameError:
        return True
    return (program is None or name.program == program) and (not observations or name.observation in observations)


def _other(path: Path, name: ExposureName) -> Exposure | None:
    """An exposure that is not imaging, excluded with the cause; None if its header does not tell a cause."""
    with decompressed(path) as plain:
        primary = read_hdus(plain)[0].header.values(_KEYWORDS)
    cause = other_mode(primary, name.detector)
    filter_name = text(primary.get("FILTER")).upper()
    if not cause:
        cause = f"FILTER {filter_name or 'unknown'} is not one of {name.detector}"
    base = (str(name), name.program, name.observation, name.visit, name.detector, filter_name)
    return Exposure(*base, uri=str(path), excluded=f"{cause}.")


def read_exposure(path: Path | str) -> Exposure | None:
    """The exposure in a raw file, by its headers; None when it is complete but not NIRCam imaging.

    Raises
    ------
    DamagedFileError
        Not a complete FITS file, or its header is of another exposure than its name.
    ProductNameError
        The file's name does not follow the archive's grammar.
    OSError
        The file cannot be read.
    """
    path = Path(path)
    _named(plain_name(path))
    with decompressed(path) as plain:
        return exposure_from_headers(path, read_hdus(plain), plain_name(path))


def exposure_from_headers(path: Path, hdus: tuple[Hdu, ...], filename: str | None = None) -> Exposure | None:
    """As `read_exposure`, from headers that were read before; ``filename`` is the final one of a part file."""
    name = _named(filename or path.name)
    primary, science = hdus[0].header.values(_KEYWORDS), _science(hdus)
    _check_identity(primary, name)
    if other_mode(primary, name.detector):
        return None
    filter_name, pupil = _passband(text(primary.get("FILTER")).upper(), text(primary.get("PUPIL")).upper())
    if not sees(name.detector, filter_name):
        return None
    return Exposure(
        name=str(name),
        program=name.program,
        observation=name.observation,
        visit=name.visit,
        detector=name.detector,
        filter=filter_name,
        pupil=pupil,
        subarray=text(primary.get("SUBARRAY")).upper() or "FULL",
        start_mjd=next((float(primary[key]) for key in _MJD if isinstance(primary.get(key), (int, float))), None),
        groups=whole(primary.get("NGROUPS")),
        integrations=whole(primary.get("NINTS")),
        pointing=pointing_faults(primary),
        uri=str(path),
        size=hdus[-1].end,
        footprint=footprint(science.values(("S_REGION",)).get("S_REGION")) or _by_wcs(science),
    )


def facts(exposure: Exposure) -> dict[str, Any]:
    """What a header adds to the archive's row, as JSON types for the ledger."""
    values = asdict(exposure)
    return {key: values[key] for key in FACTS}


def with_facts(exposure: Exposure, found: Mapping[str, Any], sha256: str | None, size: int) -> Exposure:
    """The exposure with the facts of its file, which take precedence over those of its row."""
    known = {key: found[key] for key in FACTS if found.get(key) is not None}
    if "footprint" in known:
        known["footprint"] = tuple((float(ra), float(dec)) for ra, dec in known["footprint"])
    return replace(exposure, sha256=sha256, size=size, **known)


def with_entry(exposure: Exposure, entry: Entry, path: Path) -> Exposure:
    """The exposure with the facts of its file's entry; entries of earlier versions lack those of the pointing."""
    found = entry.facts
    if "pointing" not in found:
        found = {**found, "pointing": read_pointing_faults(path)}
    return with_facts(exposure, found, entry.sha256 or None, entry.size)


def _cached(path: Path, cache: Ledger | None) -> Exposure | None:
    """As `read_exposure`, from the ledger when the file is unchanged since it was read."""
    entry = cache.get(plain_name(path)) if cache is not None else None
    if entry is not None and entry.uri == str(path) and is_of(entry, path) and entry.facts:
        name = _named(plain_name(path))
        bare = Exposure(
            str(name), name.program, name.observation, name.visit, name.detector, "", uri=str(path), size=entry.size
        )
        return with_entry(bare, entry, path)
    return read_exposure(path)


def is_of(entry: Entry, source: Path) -> bool:
    """Whether a user's file is unchanged since its entry was made; of a compressed one, the entry is of its content."""
    stat = signature(source)
    return entry.facts.get(COMPRESSED) == list(stat) if is_compressed(source) else entry.stat == stat


def _named(filename: str) -> ExposureName:
    name, suffix = split_file(filename)
    if not isinstance(name, ExposureName) or suffix != "uncal":
        raise ProductNameError(f"{filename}: not the name of a raw exposure, such as jw..._uncal.fits.")
    return name


def _science(hdus: tuple[Hdu, ...]) -> Header:
    for hdu in hdus[1:]:
        if hdu.header.is_extension("SCI"):
            return hdu.header
    raise DamagedFileError("has no SCI extension.")


def _by_wcs(science: Header) -> tuple[tuple[float, float], ...] | None:
    """Footprint by the linear WCS of a science header, for one without S_REGION; None if it has no such WCS."""
    found = {key: value for key, value in science.values(_WCS).items() if isinstance(value, int | float)}
    if not all(key in found for key in _WCS):
        return None
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = ([found[f"{name}{axis}"] for axis in (1, 2)]
                                                   for name in ("CRVAL", "CRPIX", "CDELT"))  # fmt: skip
    wcs.wcs.pc = [[found[f"PC{row}_{column}"] for column in (1, 2)] for row in (1, 2)]
    nx, ny = found["NAXIS1"], found["NAXIS2"]
    x, y = (0.5, nx + 0.5, nx + 0.5, 0.5), (0.5, 0.5, ny + 0.5, ny + 0.5)
    corners = zip(*wcs.all_pix2world(x, y, 1), strict=True)
    return tuple((float(ra), float(dec)) for ra, dec in corners)


def _check_identity(primary: Mapping[str, Any], name: ExposureName) -> None:
    """Check that detector, program, observation and visit of a header, where it has them, are those of the name."""
    detector = text(primary.get("DETECTOR")).upper()
    if detector and detector != name.detector:
        raise DamagedFileError(f"holds detector {detector} by its header, expected {name.detector} by its name.")
    numbers = {"PROGRAM": ("program", name.program), "OBSERVTN": ("observation", name.observation)}
    for keyword, (what, expected) in (numbers | {"VISIT": ("visit", name.visit)}).items():
        found = whole(primary.get(keyword))
        if found is not None and found != expected:
            raise DamagedFileError(f"holds {what} {found} by its header, expected {expected} by its name.")


def _passband(filter_name: str, pupil: str) -> tuple[str, str]:
    """The element that defines the passband, and the other one; see `survey.archive.rows`."""
    match = re.fullmatch(r"F\d{3}[WMN]2?", pupil)
    return (pupil, filter_name) if match and pupil in PUPIL_FILTERS else (filter_name, pupil or "CLEAR")
