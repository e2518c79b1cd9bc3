"""The truth beside a simulated observatory's data: what was planted, in files that tests hold against measurements.

`Truth` writes it; `read_truth` reads it back. Below DIR/truth:

    sources.ecsv            stars and galaxies: positions, fluxes, shapes
    pointings.ecsv          the header's and the true pointing of each exposure
    cosmic_rays.ecsv        every pixel hit
    snowballs.ecsv          one row per snowball
    amplitudes.json         exposure -> name -> amplitude, with its unit in the name
    images/<exposure>.fits.gz  one extension per artifact: what it adds to the slope [DN/s]

and, if the scene has such artifacts:

    bad_pixels.ecsv         new bad pixels of each exposure, and whether each is bad in it
    trails.ecsv             moving objects
    persistence.ecsv        charge that an exposure receives from each earlier one
    pointing_faults.ecsv    headers that are wrong
    halos.ecsv, variables.ecsv
    flats/<detector>_<filter>.fits.gz  true flat over the flat in CRDS

All pixels are 0-based and of the array in the file.
"""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from survey.errors import ConfigError
from survey.simulate.exposures import Shot
from survey.simulate.geometry import AberratedAttitude, Attitude
from survey.simulate.ramps import Ramp
from survey.simulate.scene import PointingFault
from survey.simulate.shocks import planted_snowball

POINTING_COLUMNS = ("v2_ref", "v3_ref", "header_ra", "header_dec", "header_roll", "true_ra", "true_dec", "true_roll")
ABERRATION_COLUMNS = ("va_scale", "va_shift_v2", "va_shift_v3")
_UNITS = dict(zip(POINTING_COLUMNS, ("arcsec", "arcsec", *["deg"] * 6), strict=True))
_UNITS |= {"va_shift_v2": "mas", "va_shift_v3": "mas"}


@dataclass
class Truth:
    """Collects what is planted, exposure by exposure, and writes it."""

    sources: Table
    names: list[str] = field(default_factory=list)
    pointings: list[tuple[float, ...]] = field(default_factory=list)
    cosmic_rays: list[Table] = field(default_factory=list)
    snowballs: list[Table] = field(default_factory=list)
    amplitudes: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, list[Table]] = field(default_factory=dict)  # tables of artifacts that few scenes have

    def add(self, name: str, shot: Shot, at: tuple[float, float], zodiacal_e_s: float, ramp: Ramp) -> None:
        """One detector's exposure; ``at`` is its aperture's (V2, V3) [arcsec], where its header has the pointing."""
        self.names.append(name)
        row: tuple[float, ...] = (*at, *_told(shot.header.at(*at)), *_told(shot.true.at(*at)))
        if isinstance(shot.true, AberratedAttitude):
            row += (shot.va_scale, *(1000 * value for value in shot.true.pipeline_shift(*at)))
        self.pointings.append(row)
        self.cosmic_rays.append(_named(name, ramp.cosmic_rays))
        self.snowballs.append(_named(name, ramp.snowballs))
        planted = {key: _plain(value) for key, value in ramp.amplitudes.items()}
        self.amplitudes[name] = {"zodiacal_e_s": zodiacal_e_s, **planted}
        self.add_rows("bad_pixels", name, ramp.bad_pixels)
        if ramp.trail is not None:
            self.add_rows("trails", name, ramp.trail.row())

    def add_rows(self, table: str, name: str, rows: np.ndarray) -> None:
        """Rows of one exposure for the file ``table``.ecsv; none leave the scene without that file."""
        if len(rows):
            self.others.setdefault(table, []).append(_named(name, rows, digits=5))

    def add_faults(self, name: str, faults: list[PointingFault]) -> None:
        """What is wrong with the pointing in an exposure's header."""
        rows = [(*fault.shift_mas, fault.roll_arcsec, json.dumps(fault.matching())) for fault in faults]
        columns = [("east_mas", "f8"), ("north_mas", "f8"), ("roll_arcsec", "f8"), ("matching", "U96")]
        self.add_rows("pointing_faults", name, np.array(rows, columns))

    def write(self, directory: Path) -> None:
        """Write all tables and amplitudes.json."""
        directory.mkdir(parents=True, exist_ok=True)
        columns = (*POINTING_COLUMNS, *ABERRATION_COLUMNS)[: len(self.pointings[0])]
        pointings = Table(np.array(self.pointings), names=columns)
        for column in columns:
            pointings[column].unit = _UNITS.get(column)
        pointings.add_column(self.names, name="exposure", index=0)
        tables = {
            "sources": self.sources,
            "pointings": pointings,
            "cosmic_rays": _stack(self.cosmic_rays),
            "snowballs": _stack(self.snowballs),
            **{stem: _stack(parts) for stem, parts in self.others.items()},
        }
        for stem, table in tables.items():
            table.write(directory / f"{stem}.ecsv", format="ascii.ecsv", overwrite=True)
        text = json.dumps(self.amplitudes, indent=1, sort_keys=True)
        (directory / "amplitudes.json").write_text(text + "\n")


def write_images(path: Path, images: dict[str, np.ndarray], unit: str) -> None:
    """Write named images (ny, nx) as extensions of one gzipped FITS file; the same bytes each time."""
    if not images:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    hdus: list[Any] = [fits.PrimaryHDU()]
    for name, image in sorted(images.items()):
        hdus.append(fits.ImageHDU(np.asarray(image, np.float32), fits.Header({"BUNIT": unit}), name=name.upper()))
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    path.write_bytes(gzip.compress(content.getvalue(), 4, mtime=0))


@dataclass(frozen=True)
class StoredTruth:
    """The truth of an observatory on disk."""

    folder: Path

    @property
    def amplitudes(self) -> dict[str, dict[str, Any]]:
        """Exposure -> name -> amplitude; the unit is the end of the name."""
        return dict(json.loads((self.folder / "amplitudes.json").read_text()))

    def table(self, stem: str) -> Table:
        """A table by the name of its file without ``.ecsv``; empty if the scene has no such artifact."""
        path = self.folder / f"{stem}.ecsv"
        return Table.read(path, format="ascii.ecsv") if path.is_file() else Table()

    def rows(self, stem: str, exposure: str) -> Table:
        """The rows of one exposure in a table."""
        table = self.table(stem)
        return table[table["exposure"] == exposure] if len(table) else table

    def images(self, exposure: str) -> list[str]:
        """Names of the artifacts that an exposure has images of."""
        path = self._images(exposure)
        if not path.is_file():
            return []
        with fits.open(path) as hdus:
            return [hdu.name.lower() for hdu in hdus[1:]]

    def image(self, exposure: str, artifact: str) -> np.ndarray:
        """What an artifact adds to the slope of an exposure, (ny, nx) float32 [DN/s].

        Raises
        ------
        ConfigError
            The exposure has no such image; names those that there are.
        """
        found = self.images(exposure)
        if artifact not in found:
            raise ConfigError(
                f"{self._images(exposure)}: no image of {artifact!r}; there is {', '.join(found) or 'none'}."
            )
        return _plane(self._images(exposure), artifact.upper())

    def flat_ratio(self, detector: str, filter_name: str) -> np.ndarray:
        """True flat over the flat in CRDS on the scene's array, (ny, nx) float32; 1 if the scene has no flat error."""
        path = self.folder / "flats" / f"{detector.lower()}_{filter_name.lower()}.fits.gz"
        return _plane(path, "RATIO") if path.is_file() else np.ones((1, 1), np.float32)

    def snowball_charge(self, exposure: str, shape: tuple[int, int], core_electrons: float = 0.0) -> np.ndarray:
        """Charge of all snowballs of an exposure, (ny, nx) float32 [e-].

        ``core_electrons`` is that of the scene for snowballs without tails; those with tails have it in their rows.
        """
        charge = np.zeros(shape, np.float32)
        for row in self.rows("snowballs", exposure).as_array():
            charge += planted_snowball(shape, row, core_electrons)
        return charge

    def _images(self, exposure: str) -> Path:
        return self.folder / "images" / f"{exposure}.fits.gz"


def read_truth(observatory: Path | str) -> StoredTruth:
    """The truth of a simulated observatory's folder.

    Raises
    ------
    ConfigError
        The folder has no truth.
    """
    folder = Path(observatory) / "truth"
    if not (folder / "amplitudes.json").is_file():
        raise ConfigError(f"{folder}: no truth of a simulated observatory. Make one with: survey simulate DIR")
    return StoredTruth(folder)


def _plane(path: Path, name: str) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.array(hdus[name].data, np.float32)


def _told(attitude: Attitude) -> tuple[float, float, float]:
    return attitude.ra, attitude.dec, attitude.roll


def _named(name: str, rows: np.ndarray, digits: int = 2) -> Table:
    """A structured array as a table with the exposure's name in front; real numbers to some digits."""
    table = Table(rows)
    for column in table.colnames:
        if table[column].dtype.kind == "f":
            table[column] = np.round(table[column], digits)
    table.add_column(np.full(len(rows), name), name="exposure", index=0)
    return table


def _stack(tables: list[Table]) -> Table:
    """All rows, in order; plain arrays, since a stack of many empty tables is no special case for them."""
    return Table({column: np.concatenate([table[column] for table in tables]) for column in tables[0].colnames})


def _plain(value: Any) -> Any:
    """A number as JSON has it, to nine digits; text as it is."""
    if isinstance(value, str):
        return value
    return float(f"{float(value):.9g}") if isinstance(value, (float, np.floating)) else int(value)
