"""Check, before anything runs, that the folder of aligned WCS that a config names has one for each member."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from survey.archive.headers import DamagedFileError, open_regular
from survey.archive.structure import MAX_TREE_BYTES, read_hdus
from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.models import Plan
from survey.mosaics.alignment_files import choose, some
from survey.steps.registry import REGISTRY

_MARK = b"gwcs/wcs-"  # tag of a gwcs in an ASDF tree
_BLOCK = b"\xd3BLK"  # begin of the binary blocks after the tree


def check_alignment(config: SurveyConfig, made: Plan, steps: Container[str] | None = None) -> None:
    """Check the files of ``mosaic.alignment`` against the members of a plan's mosaics.

    Parameters
    ----------
    config : what to reduce
    made : its plan
    steps : names of the steps that are run; without a step that lays out a mosaic nothing is checked

    Raises
    ------
    ConfigError
        Members have no file with an aligned WCS, or several files, or a file holds no WCS; all are named.
    """
    folder = config.mosaic.alignment
    if folder is None or (
        steps is not None and not any(step.lays_out and step.name in steps for step in REGISTRY.values())
    ):
        return
    faults: list[str] = []
    read: dict[Path, str] = {}
    for association in made.associations:
        paths, wrong = choose(folder, association.members, association.product)
        faults += wrong
        for path in paths.values():
            if path not in read:
                read[path] = _fault(path)
    without = [f"{path.name} ({fault})" for path, fault in read.items() if fault]
    if without:
        faults.append(
            f"mosaic.alignment: {folder}: {len(without)} files hold no WCS that can be used: {some(without)}. Expected "
            "ASDF files with a gwcs, or FITS files of the pipeline."
        )
    if faults:
        raise ConfigError(config.located(list(dict.fromkeys(faults))))


def _fault(path: Path) -> str:
    """Why a file holds no gwcs, by the text of its ASDF tree; '' if it seems to hold one."""
    try:
        tree = _asdf_of_fits(path) if path.suffix == ".fits" else _head(path, 0, MAX_TREE_BYTES)
    except (OSError, DamagedFileError) as error:
        return str(error)
    return "" if _MARK in tree.partition(_BLOCK)[0] else "no gwcs"


def _asdf_of_fits(path: Path) -> bytes:
    for hdu in read_hdus(path):
        if hdu.header.is_extension("ASDF"):
            return _head(path, hdu.header.end, min(hdu.data_bytes, MAX_TREE_BYTES))
    return b""


def _head(path: Path, start: int, size: int) -> bytes:
    with open_regular(path) as stream:
        stream.seek(start)
        return bytes(stream.read(size))
