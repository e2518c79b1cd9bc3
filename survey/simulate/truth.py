"""The truth beside a simulated observatory's data: what was planted, in files a test can hold against a measurement."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from survey.simulate.exposures import Shot
from survey.simulate.geometry import Attitude
from survey.simulate.ramps import Ramp

POINTING_COLUMNS = ("v2_ref", "v3_ref", "header_ra", "header_dec", "header_roll", "true_ra", "true_dec", "true_roll")
_UNITS = dict(zip(POINTING_COLUMNS, ("arcsec", "arcsec", *["deg"] * 6), strict=True))


@dataclass
class Truth:
    """Collects what is planted, exposure by exposure, and writes it."""

    sources: Table
    names: list[str] = field(default_factory=list)
    pointings: list[tuple[float, ...]] = field(default_factory=list)
    cosmic_rays: list[Table] = field(default_factory=list)
    snowballs: list[Table] = field(default_factory=list)
    amplitudes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, shot: Shot, at: tuple[float, float], zodiacal_e_s: float, ramp: Ramp) -> None:
        """One detector's exposure; ``at`` is its aperture's (V2, V3) [arcsec], where its header has the pointing."""
        self.names.append(name)
        self.pointings.append((*at, *_told(shot.header.at(*at)), *_told(shot.true.at(*at))))
        self.cosmic_rays.append(_named(name, ramp.cosmic_rays))
        self.snowballs.append(_named(name, ramp.snowballs))
        planted = {key: _plain(value) for key, value in ramp.amplitudes.items()}
        self.amplitudes[name] = {"zodiacal_e_s": zodiacal_e_s, **planted}

    def write(self, directory: Path) -> None:
        """Write sources.ecsv, pointings.ecsv, cosmic_rays.ecsv, snowballs.ecsv and amplitudes.json."""
        directory.mkdir(parents=True, exist_ok=True)
        pointings = Table(np.array(self.pointings), names=POINTING_COLUMNS)
        for column, unit in _UNITS.items():
            pointings[column].unit = unit
        pointings.add_column(self.names, name="exposure", index=0)
        tables = {
            "sources": self.sources,
            "pointings": pointings,
            "cosmic_rays": _stack(self.cosmic_rays),
            "snowballs": _stack(self.snowballs),
        }
        for stem, table in tables.items():
            table.write(directory / f"{stem}.ecsv", format="ascii.ecsv", overwrite=True)
        text = json.dumps(self.amplitudes, indent=1, sort_keys=True)
        (directory / "amplitudes.json").write_text(text + "\n")


def _told(attitude: Attitude) -> tuple[float, float, float]:
    return attitude.ra, attitude.dec, attitude.roll


def _named(name: str, rows: np.ndarray) -> Table:
    """A structured array as a table with the exposure's name in front; charges to a tenth of an electron."""
    table = Table(rows)
    for column in table.colnames:
        if table[column].dtype.kind == "f":
            table[column] = np.round(table[column], 2)
    table.add_column(np.full(len(rows), name), name="exposure", index=0)
    return table


def _stack(tables: list[Table]) -> Table:
    """All rows, in order; plain arrays, since a stack of many empty tables is no special case for them."""
    return Table({column: np.concatenate([table[column] for table in tables]) for column in tables[0].colnames})


def _plain(value: Any) -> Any:
    """A number as JSON has it, to nine digits."""
    return float(f"{float(value):.9g}") if isinstance(value, (float, np.floating)) else int(value)
