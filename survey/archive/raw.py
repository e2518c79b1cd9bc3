"""Verify and publish the files in ``raw/``, and link those of a user's folder.

A file under its final name is complete. It is accepted without reading while its size, times and inode are those of its
ledger entry; otherwise its sha256 decides.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from survey.archive.compressed import decompress, is_compressed
from survey.archive.headers import DamagedFileError, OtherModeError
from survey.archive.ledger import LEDGER, Entry, Ledger, signature
from survey.archive.local import COMPRESSED, exposure_from_headers, facts, is_of, with_entry, with_facts
from survey.archive.structure import check_structure
from survey.digest import file_sha256
from survey.errors import ProductNameError
from survey.models import Exposure
from survey.nircam import IMAGING, PUPIL_FILTERS
from survey.workspace.files import replace_file, write_link
from survey.workspace.paths import is_file


def kept(exposure: Exposure, directory: Path, ledger: Ledger) -> Exposure | None:
    """The exposure with the facts of its file; None when the file is missing or damaged, and must be fetched."""
    path = directory / exposure.file
    try:
        stat = signature(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    if not path.is_file():  # a pipe or a device would be waited for without end
        return None
    entry = ledger.get(exposure.file)
    if entry is None or not entry.sha256:
        return _adopted(exposure, path, ledger)
    if entry.stat == stat:
        return with_entry(exposure, entry, path)
    if file_sha256(path) != entry.sha256:
        return None
    ledger.append(Entry(entry.name, stat[0], entry.sha256, entry.uri, stat, entry.facts))
    return with_entry(exposure, entry, path)


def _adopted(exposure: Exposure, path: Path, ledger: Ledger) -> Exposure | None:
    """Accept a file without ledger entry (after a crash, or copied there by the user) if it passes the checks."""
    if exposure.size is not None and path.stat().st_size != exposure.size:
        return None
    try:
        return record(exposure, path, ledger)
    except OtherModeError as error:
        return reject(exposure, path.stat().st_size, str(error), ledger)
    except DamagedFileError:
        return None


def record(exposure: Exposure, path: Path, ledger: Ledger) -> Exposure:
    """Check a file under its final name and add it to the ledger.

    Raises
    ------
    DamagedFileError
        It is not a complete FITS file, or not this exposure.
    """
    stat = signature(path)
    found = checked_facts(path, exposure)
    sha256 = file_sha256(path)
    ledger.append(Entry(exposure.file, stat[0], sha256, exposure.uri, stat, found))
    return with_facts(exposure, found, sha256, stat[0])


def reject(exposure: Exposure, size: int, cause: str, ledger: Ledger) -> Exposure:
    """Remember that the file of a row is of another mode, so that it is not fetched again; the exposure, excluded."""
    row = {"filter": exposure.filter, "pupil": exposure.pupil}
    ledger.append(Entry(exposure.file, size, "", exposure.uri, (0, 0, 0, 0), row, cause))
    return replace(exposure, excluded=cause)


def rejection(exposure: Exposure, ledger: Ledger) -> str:
    """Why the file of a row is not used, if that was found before; '' if the row or the size of its file has changed.

    `survey.archive.held.forget` removes the memory.
    """
    entry = ledger.get(exposure.file)
    if entry is None or not entry.cause or exposure.size not in (None, entry.size):
        return ""
    row = (entry.facts.get("filter"), entry.facts.get("pupil"))
    return entry.cause if not exposure.filter or row == (exposure.filter, exposure.pupil) else ""


def checked_facts(path: Path, exposure: Exposure) -> dict[str, object]:
    """Facts of a file's header, after a check of the file against its row; errors as in `record`.

    The error is an OtherModeError if the file is complete and of this exposure, but not as its row lists it.
    """
    hdus = check_structure(path)
    primary, found = hdus[0].header, exposure_from_headers(path, hdus, exposure.file)
    if found is None:
        kind, filter_name = primary.text("EXP_TYPE"), primary.text("FILTER")
        if filter_name or (kind and kind.upper() not in IMAGING):
            raise OtherModeError(
                f"is not a NIRCam image of {exposure.detector} by its header (EXP_TYPE {kind}, FILTER {filter_name})."
            )
        return {}  # a header without a filter cannot differ from the row
    if exposure.filter and found.filter != exposure.filter:
        raise OtherModeError(f"holds filter {found.filter} by its header, expected {exposure.filter} by its row.")
    # A row may name the narrow filter alone, without the wide one in the other wheel.
    is_partial = exposure.pupil == "CLEAR" and exposure.filter in PUPIL_FILTERS
    if primary.text("PUPIL") and exposure.pupil and not is_partial and found.pupil != exposure.pupil:
        raise OtherModeError(f"holds pupil {found.pupil} by its header, expected {exposure.pupil} by its row.")
    return facts(found)


def publish(
    exposure: Exposure, part: Path, directory: Path, ledger: Ledger, more: Mapping[str, object] | None = None
) -> Exposure:
    """Check a complete part file, flush it to disk, give it its final name, and add it to the ledger.

    Parameters
    ----------
    exposure : of the file
    part : the file
    directory : ``raw/`` of the workspace
    more : facts for the ledger, beside those of the header

    Raises
    ------
    DamagedFileError
        The part is not a complete FITS file, or not this exposure; it keeps its own name.
    """
    found = checked_facts(part, exposure)
    sha256 = file_sha256(part)
    path = directory / exposure.file
    replace_file(part, path)
    stat = signature(path)
    ledger.append(Entry(exposure.file, stat[0], sha256, exposure.uri, stat, {**found, **(more or {})}))
    return with_facts(exposure, found, sha256, stat[0])


def link_local(
    exposures: Iterable[Exposure],
    directory: Path | str,
    *,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> tuple[tuple[Exposure, ...], dict[str, str]]:
    """Link files of a folder into ``raw/`` by symbolic links, with the checks of a download; decompress the others.

    The files are never written to. One that changes later has another size, time or inode than in the ledger: it is
    hashed again, and products made from it are stale. (Hard links would not work across file systems; copies would
    double the terabyte of a survey.)

    Returns
    -------
    exposures : those whose file is complete, with sha256
    missing : exposure name -> why it is not linked
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(directory / LEDGER)
    good: list[Exposure] = []
    missing: dict[str, str] = {}
    for exposure in exposures:
        try:
            good.append(_linked(exposure, directory, ledger))
        except (DamagedFileError, ProductNameError) as error:
            missing[exposure.name] = f"{exposure.uri}: {error}"
        except OSError as error:
            missing[exposure.name] = f"{exposure.uri}: {error.strerror or error}"
        if progress is not None:
            progress(exposure.name, exposure.size or 0, exposure.size)
    return tuple(good), missing


def _linked(exposure: Exposure, directory: Path, ledger: Ledger) -> Exposure:
    source, path = Path(exposure.uri), directory / exposure.file
    if is_compressed(source):
        return _decompressed(exposure, directory, ledger)
    stat = signature(source)
    entry = ledger.get(exposure.file)
    itself = path.exists() and not path.is_symlink() and path.samefile(source)  # archive.local is this very folder
    if not itself and not (path.is_symlink() and os.readlink(path) == str(source)):
        write_link(path, source)
    if entry is not None and entry.sha256 and entry.uri == exposure.uri and entry.stat == stat:
        return with_entry(exposure, entry, path)
    return record(exposure, path, ledger)


def _decompressed(exposure: Exposure, directory: Path, ledger: Ledger) -> Exposure:
    """The exposure of a compressed file, with a copy of its content in ``raw/`` that is made when it is not there."""
    source, path = Path(exposure.uri), directory / exposure.file
    entry = ledger.get(exposure.file)
    known = entry is not None and entry.sha256 and entry.uri == exposure.uri and is_of(entry, source)
    if entry is not None and known and is_file(path) and entry.stat == signature(path):
        return with_entry(exposure, entry, path)
    stat = list(signature(source))
    part = directory / f".{exposure.file}.part"
    try:
        with open(part, "wb") as target:
            decompress(source, target)
        return publish(exposure, part, directory, ledger, {COMPRESSED: stat})
    finally:
        part.unlink(missing_ok=True)
