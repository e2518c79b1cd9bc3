"""Find and verify the raw files that a workspace has, by its ledger; files that were touched are read again."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from survey.archive.compressed import is_compressed
from survey.archive.ledger import LEDGER, Entry, Ledger, signature
from survey.archive.local import with_entry, with_facts
from survey.archive.raw import rejection
from survey.digest import file_sha256
from survey.errors import ProductNameError
from survey.messages import shown
from survey.models import LOST, REMOVED, Exposure
from survey.names import ExposureName, split_file


def known(exposures: Iterable[Exposure], directory: Path) -> tuple[Exposure, ...]:
    """Add sha256 and header facts from the ledger to exposures whose file is unchanged.

    An exposure whose file has changed, or is missing, is returned as it is: `fetch` will handle it. One whose file was
    found to be of another mode is excluded.
    """
    ledger = Ledger(directory / LEDGER)
    found = (_with_entry(exposure, ledger.get(exposure.file), directory / exposure.file) for exposure in exposures)
    return tuple(replace(item, excluded=item.excluded or rejection(item, ledger)) for item in found)


def expected(
    exposures: Iterable[Exposure], directory: Path, remembered: Mapping[str, str], local: bool = False
) -> tuple[Exposure, ...]:
    """Add the sha256 that a run will find, for a plan: of files that are there, or as recorded for others.

    Parameters
    ----------
    exposures : of an archive's rows or a folder
    directory : ``raw/`` of the workspace
    remembered : sha256 by file name, of files that tasks have read and that the ledger may not have
    local : ``uri`` is the path of a file, which a run links and verifies

    Returns
    -------
    exposures : with ``absent`` where the file is missing or was changed, and the sha256 is the recorded one
    """
    ledger = Ledger(directory / LEDGER)
    return tuple(
        _expected(exposure, ledger.get(exposure.file), directory, remembered.get(exposure.file, ""), local)
        for exposure in exposures
    )


def _expected(
    exposure: Exposure, entry: Entry | None, directory: Path, sha256: str = "", local: bool = False
) -> Exposure:
    local = local and not is_compressed(exposure.uri)  # the content of a compressed file is copied
    place = Path(exposure.uri) if local else directory / exposure.file
    if exposure.fault or exposure.excluded or exposure.sha256 or exposure.absent:
        return exposure
    if entry is None or not entry.sha256:
        if not sha256:
            return exposure
        size = place.stat().st_size if place.is_file() else exposure.size or 0
        entry = Entry(exposure.file, size, sha256, exposure.uri, (0, 0, 0, 0))
    found = _with_entry(exposure, entry, place)
    if found.sha256:
        return found
    if local:  # a run takes the file as it is
        with contextlib.suppress(OSError):
            return replace(exposure, sha256=file_sha256(place))
        return exposure
    kept = header_path(directory, entry.name)
    if entry.removed and not os.path.lexists(place) and kept.is_file():
        return replace(with_entry(exposure, entry, kept), absent=REMOVED)
    return replace(with_facts(exposure, entry.facts, entry.sha256, entry.size), absent=LOST)


def header_path(directory: Path, name: str) -> Path:
    """Where ``raw/`` keeps the primary header of a file that was removed to make room; CRDS's rules read it."""
    return directory / "headers" / name


def held(directory: Path) -> tuple[Exposure, ...]:
    """Every exposure whose unchanged file is in a workspace's ``raw/``, in the order of their names."""
    return tuple(exposure for exposure in recorded(directory) if exposure.is_held)


def recorded(directory: Path) -> tuple[Exposure, ...]:
    """Every exposure in the ledger of a workspace's ``raw/``, also those whose files are gone; see `expected`."""
    found = (_expected(bare, entry, directory) for bare, entry in _listed(Ledger(directory / LEDGER)))
    return tuple(exposure for exposure in found if exposure.sha256)


def rejected(directory: Path) -> tuple[Exposure, ...]:
    """Every exposure whose file was found to be of another mode than its row says; ``excluded`` is the cause."""
    return tuple(
        replace(bare, excluded=entry.cause, filter=str(entry.facts.get("filter") or ""))
        for bare, entry in _listed(Ledger(directory / LEDGER))
        if entry.cause
    )


def forget(directory: Path) -> int:
    """Forget which files were found to be of another mode, so that they are fetched again; their number."""
    ledger = Ledger(directory / LEDGER)
    found = [entry for _, entry in _listed(ledger) if entry.cause]
    for entry in found:
        ledger.append(replace(entry, cause=""))
    return len(found)


def _listed(ledger: Ledger) -> Iterator[tuple[Exposure, Entry]]:
    """The entries of raw files, with the exposure that each is of."""
    for name in sorted(ledger.names()):
        try:
            parsed, suffix = split_file(name)
        except ProductNameError:
            continue
        entry = ledger.get(name)
        if suffix == "uncal" and entry is not None and isinstance(parsed, ExposureName):
            base = (str(parsed), parsed.program, parsed.observation, parsed.visit, parsed.detector, "")
            yield Exposure(*base, uri=entry.uri, size=entry.size), entry


def verify(directory: Path) -> dict[str, str]:
    """Compare every raw file with the ledger, byte by byte.

    Returns
    -------
    faults : 'raw/<name>' -> what is wrong with it
    """
    ledger = Ledger(directory / LEDGER)
    faults = {}
    for name in sorted(ledger.names()):
        entry = ledger.get(name)
        if entry is None or not entry.sha256:
            continue
        path = directory / name
        if entry.removed and not os.path.lexists(path):
            continue
        try:
            split_file(name)
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, "not a file")
            sha256 = file_sha256(path)
        except ProductNameError:
            faults[f"raw/{LEDGER}"] = (
                f"has a line for {shown(name, ascii_only=True)}, which is not the name of a raw file"
            )
            continue
        except OSError as error:
            faults[f"raw/{name}"] = f"cannot be read: {error.strerror or error}"
            continue
        if sha256 != entry.sha256:
            faults[f"raw/{name}"] = f"sha256 is {sha256[:12]}..., expected {entry.sha256[:12]}... by the ledger"
    return faults


def _with_entry(exposure: Exposure, entry: Entry | None, path: Path) -> Exposure:
    if entry is None or not entry.sha256:
        return exposure
    try:
        found = signature(path)
        # A touched or copied file is read: no product depends on its times.
        unchanged = found == entry.stat or (found[0] == entry.size and file_sha256(path) == entry.sha256)
    except OSError:
        return exposure
    return with_entry(exposure, entry, path) if unchanged else exposure
