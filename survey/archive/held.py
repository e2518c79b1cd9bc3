"""Find and verify the raw files that a workspace has, by its ledger; files that were touched are read again."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from survey.archive.ledger import LEDGER, Entry, Ledger, signature
from survey.archive.local import with_entry
from survey.archive.raw import rejection
from survey.digest import file_sha256
from survey.errors import ProductNameError
from survey.messages import shown
from survey.models import Exposure
from survey.names import ExposureName, split_file


def known(exposures: Iterable[Exposure], directory: Path) -> tuple[Exposure, ...]:
    """Add sha256 and header facts from the ledger to exposures whose file is unchanged.

    An exposure whose file has changed, or is missing, is returned as it is: `fetch` will handle it. One whose file was
    found to be of another mode is excluded.
    """
    ledger = Ledger(directory / LEDGER)
    found = (_with_entry(exposure, ledger.get(exposure.file), directory) for exposure in exposures)
    return tuple(replace(item, excluded=item.excluded or rejection(item, ledger)) for item in found)


def held(directory: Path) -> tuple[Exposure, ...]:
    """Every exposure whose unchanged file is in a workspace's ``raw/``, in the order of their names."""
    found = (_with_entry(bare, entry, directory) for bare, entry in _listed(Ledger(directory / LEDGER)))
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


def _with_entry(exposure: Exposure, entry: Entry | None, directory: Path) -> Exposure:
    if entry is None or not entry.sha256:
        return exposure
    path = directory / entry.name
    try:
        found = signature(path)
        # A touched or copied file is read: no product depends on its times.
        unchanged = found == entry.stat or (found[0] == entry.size and file_sha256(path) == entry.sha256)
    except OSError:
        return exposure
    return with_entry(exposure, entry, path) if unchanged else exposure
