"""The astrometric service of a simulated observatory: stars of its sky within a cone, as tweakreg asks for them.

The catalogue is that of the planted stars, each with a proper motion. Without an epoch, or for a star without a proper
motion, a position is that of the catalogue's own epoch; with one, it is moved to it. On the day of the scene, the moved
positions are those that were planted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PATH = "/webservices/vo/CatalogSearch.aspx"
ADDRESS = "ASTROMETRIC_CATALOG_URL"  # variable in which the pipeline looks for the service
CATALOGS = ("GAIAREFCAT", "GAIADR3", "GAIADR2", "GAIADR1")
EPOCH = 2016.0  # of the catalogue
COLUMNS = ("objID", "ra", "raErr", "dec", "decErr", "mag", "epoch", "pmra", "pmraErr", "pmdec", "pmdecErr")
WITHOUT_MOTION = 12  # of one star in so many, the catalogue has no proper motion
MOTIONS_MAS = (-9.0, 4.0, -2.0, 7.5, 0.0, -5.0, 1.0)  # per year, in turn


@dataclass(frozen=True)
class Star:
    """A star as planted [deg], and its proper motion [mas per year]."""

    number: int
    ra: float
    dec: float
    mag: float
    motion: tuple[float, float] | None


class CatalogService:
    """Answers the queries of one observatory; ``directory`` was made by ``survey simulate``."""

    def __init__(self, directory: Path):
        self._directory = directory

    def answer(self, asked: Mapping[str, str]) -> str:
        """The reply to a query: CSV with a comment in its first line.

        Raises
        ------
        KeyError, ValueError
            A value is missing, or is no number; or there is no such catalogue.
        """
        ra, dec, radius = (float(asked[name]) for name in ("RA", "DEC", "SR"))
        epoch = float(asked["EPOCH"]) if "EPOCH" in asked else None
        if asked["CAT"] not in CATALOGS:
            raise ValueError(f"no catalogue {asked['CAT']}")
        rows = [line for star in self._stars if (line := self._line(star, epoch, (ra, dec, radius)))]
        if not rows:
            return "No data records found\n"
        head = f"# Objects found : {len(rows)} , {asked['CAT']}, ConeSearch: RA={ra} DEC={dec} SR={radius},OK"
        return "\n".join([head, ",".join(COLUMNS), *rows]) + "\n"

    def _line(self, star: Star, epoch: float | None, cone: tuple[float, float, float]) -> str:
        """A row of the reply; '' for a star outside of the cone."""
        wanted = EPOCH if epoch is None or star.motion is None else epoch
        east, north = star.motion or (0.0, 0.0)
        years = wanted - self._scene_epoch
        dec = star.dec + years * north / 3.6e6
        ra = (star.ra + years * east / 3.6e6 / math.cos(math.radians(star.dec))) % 360
        if _separation_deg((ra, dec), cone[:2]) > cone[2]:
            return ""
        motion = ("", "", "", "") if star.motion is None else (east, 0.02, north, 0.02)
        values = (10_000_000 + star.number, f"{ra:.12f}", 0.05, f"{dec:.12f}", 0.05, f"{star.mag:.4f}", wanted, *motion)
        return ",".join(map(str, values))

    @cached_property
    def _stars(self) -> list[Star]:
        from astropy.table import Table

        table = Table.read(self._directory / "truth" / "sources.ecsv")
        found = []
        for row in table[table["kind"] == "star"]:
            number = int(row["id"])
            motion = (MOTIONS_MAS[number % 7], MOTIONS_MAS[(3 * number + 1) % 7]) if number % WITHOUT_MOTION else None
            found.append(Star(number, float(row["ra"]), float(row["dec"]), float(row["mag_ab"]), motion))
        return found

    @cached_property
    def _scene_epoch(self) -> float:
        import yaml
        from astropy.time import Time

        scene = yaml.safe_load((self._directory / "scene.yaml").read_text(encoding="utf-8"))
        return float(Time(str(scene["start"]).partition("T")[0]).decimalyear)


def _separation_deg(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    (a1, d1), (a2, d2) = ([math.radians(value) for value in point] for point in (one, other))
    half = math.sin((d2 - d1) / 2) ** 2 + math.cos(d1) * math.cos(d2) * math.sin((a2 - a1) / 2) ** 2
    return math.degrees(2 * math.asin(min(1.0, math.sqrt(half))))
