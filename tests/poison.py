"""Exposures that are wrong in themselves, each made of a good one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits


def rewrite(good: Path, path: Path, change: Callable[[fits.HDUList], None]) -> None:
    with fits.open(good, memmap=False) as hdus:
        own = fits.HDUList([hdu.copy() for hdu in hdus])
    own[0].header["FILENAME"] = path.name
    change(own)
    own.writeto(path)


def _set(keyword: str, value: object) -> Callable[[Path, Path], None]:
    return lambda good, path: rewrite(good, path, lambda hdus: hdus[0].header.set(keyword, value))


def _ramp(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    def put(hdus: fits.HDUList) -> None:
        hdus["SCI"].data = change(hdus["SCI"].data)

    return lambda good, path: rewrite(good, path, put)


def cut_short(good: Path, path: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def flip_bits(good: Path, path: Path) -> None:
    """In a thousandth of the samples, one bit: the file keeps its size and structure."""
    rng = np.random.default_rng(11)
    with fits.open(good) as hdus:
        place = hdus["SCI"].fileinfo()
        size = hdus["SCI"].data.nbytes
    content = bytearray(good.read_bytes())
    for at in rng.integers(0, size, size // 2000):
        content[place["datLoc"] + at] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


# What it is -> function of a good file and the new one's path.
POISON: dict[str, Callable[[Path, Path], None]] = {
    "NaN ramp": _ramp(lambda ramp: np.full(ramp.shape, np.nan, "float32")),
    "zero ramp": _ramp(np.zeros_like),
    "zero groups": _set("NGROUPS", 0),
    "no groups at all": _ramp(lambda ramp: ramp[:, :0]),
    "wrong detector": _set("DETECTOR", "NRCALONG"),
    "truncated": cut_short,
    "bit-flipped": flip_bits,
}


def make_poison(good: Path, folder: Path, first_number: int = 11) -> dict[str, str]:
    """Put one exposure of each kind into a folder; returns what it is -> exposure name."""
    made = {}
    for number, (what, make) in enumerate(POISON.items(), first_number):
        path = folder / good.name.replace("_00001_", f"_{number:05d}_")
        make(good, path)
        made[what] = path.name.removesuffix("_uncal.fits")
    return made
