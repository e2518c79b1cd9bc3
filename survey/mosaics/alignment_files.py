"""Find the aligned WCS of exposures among the files of a folder, by their names, without reading them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# Any file of an exposure: '<exposure>_tweakreg.asdf', '<exposure>_a3001_wcs.asdf', '<exposure>_cal.fits'.
_NAME = re.compile(
    r"(?P<exposure>jw[0-9]{11}_[0-9a-z]{5}_[0-9]{5}(?:-seg[0-9]{3})?_[a-z0-9]{3,10})_(?P<rest>[A-Za-z0-9._+-]{1,60})"
    r"\.(?P<kind>asdf|fits)",
    re.ASCII,
)
# Products that hold no aligned WCS: of our own steps, and of the pipeline.
_OTHERS = ("member", "uncal", "ramp", "rate", "rateints", "striping", "dark", "trapsfilled", "calints", "i2d", "segm")
MAX_NAMES = 3  # of exposures in a message


def alignment_files(folder: Path) -> dict[str, list[Path]]:
    """Files of a folder that may hold the aligned WCS of an exposure, by exposure, sorted by name.

    A crf file beside the WCS file of the same alignment, as in a workspace's stage3, is not counted.

    Raises
    ------
    OSError
        The folder cannot be read.
    """
    found: dict[str, list[Path]] = {}
    names = sorted(os.listdir(folder))
    there = set(names)
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or re.split(r"[_.]", match["rest"])[-1] in _OTHERS:
            continue
        if name.endswith("_crf.fits") and f"{name.removesuffix('_crf.fits')}_wcs.asdf" in there:
            continue
        found.setdefault(match["exposure"], []).append(folder / name)
    return found


def choose(folder: Path, names: Sequence[str], what: str = "") -> tuple[dict[str, Path], list[str]]:
    """The file with the aligned WCS of each exposure.

    Parameters
    ----------
    folder : of the config's ``mosaic.alignment``
    names : of the exposures
    what : whose members they are, for messages

    Returns
    -------
    paths : by exposure; without those of the messages
    faults : messages about exposures that have no file, or several
    """
    try:
        there = alignment_files(folder)
    except OSError as error:
        return {}, [f"mosaic.alignment: {folder}: cannot be read ({error.strerror})."]
    faults = []
    missing = [name for name in names if name not in there]
    if missing:
        faults.append(
            f"mosaic.alignment: {folder}: {len(missing)} of {len(names)} members{what and f' of {what}'} have no file "
            f"with an aligned WCS: {some(missing)}. Expected one for each, such as {missing[0]}_wcs.asdf or "
            f"{missing[0]}_tweakreg.asdf. Add them, leave these exposures out, or remove mosaic.alignment, so that the "
            "alignment is solved."
        )
    several = {name: there[name] for name in names if len(there.get(name, [])) > 1}
    faults += [
        f"mosaic.alignment: {folder}: {len(paths)} files could hold the aligned WCS of {name}: "
        f"{some([path.name for path in paths])}. Keep one of them there."
        for name, paths in list(several.items())[:MAX_NAMES]
    ]
    if len(several) > MAX_NAMES:
        faults.append(f"mosaic.alignment: {folder}: {len(several) - MAX_NAMES} more exposures have several files.")
    return {name: there[name][0] for name in names if name in there and name not in several}, faults


def some(names: Iterable[str]) -> str:
    """Some of the names, for a message, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMES} more" if len(listed) > MAX_NAMES else ""
    return ", ".join(listed[:MAX_NAMES]) + more
