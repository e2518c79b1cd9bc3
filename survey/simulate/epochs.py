"""How the sky changes with time: variable sources and proper motions; and the reference catalogue of its stars."""

from __future__ import annotations

import numpy as np
from astropy.table import Table, vstack
from astropy.time import Time

from survey.simulate.detector import stream
from survey.simulate.geometry import Attitude
from survey.simulate.scene import Scene
from survey.simulate.sky import AB_ZERO_UJY, scatter

MAS_PER_DEG = 3.6e6


def draw_variables(scene: Scene) -> Table:
    """The variable sources: id, ra, dec [deg], and the AB magnitude in each epoch that has one, mag_epoch_<N>."""
    settings = scene.sky.variables
    number = settings.number if settings.enabled else 0
    rng = stream(scene.seed, "sky", "variables")
    east, north = scatter(number, settings.radius_arcsec, 0.0, rng)
    ra, dec = Attitude(0.0, 0.0, scene.ra_deg, scene.dec_deg, 0.0).to_sky(east, north)
    table = Table({"id": np.arange(1, number + 1), "ra": ra, "dec": dec})
    table["ra"].unit = table["dec"].unit = "deg"
    for epoch, mag in sorted(settings.mag_ab.items()):
        table[f"mag_epoch_{epoch}"] = np.full(number, mag)
    return table


def sources_at(scene: Scene, sources: Table, variables: Table, start: str, epoch: int) -> Table:
    """The sources as an exposure sees them: stars moved to its time, and the variables that shine in its epoch.

    Parameters
    ----------
    sources : of `sky.draw_sources`
    start : time of the exposure, ISO 8601 UTC
    """
    moved = sources
    if "pm_ra" in sources.colnames:
        years = julian_year(start) - julian_year(scene.start)
        moved = sources.copy()
        moved["ra"], moved["dec"] = move(sources, years)
    column = f"mag_epoch_{epoch}"
    if not len(variables) or column not in variables.colnames:
        return moved
    shining = Table({"id": np.zeros(len(variables), int), "kind": ["star"] * len(variables)})
    for name in ("ra", "dec"):
        shining[name] = variables[name]
    for name in (name for name in sources.colnames if name.startswith("flux_")):
        shining[name] = 10 ** (0.4 * (AB_ZERO_UJY - variables[column]))
        shining[name].unit = "uJy"
    for name in ("half_light", "sersic", "axis_ratio", "position_angle"):
        shining[name] = 1.0 if name == "axis_ratio" else 0.0
    return vstack([moved[shining.colnames], shining], metadata_conflicts="silent")


def julian_year(time: str) -> float:
    """Julian year of a UTC time."""
    return float(Time(time, scale="utc").jyear)


def move(sources: Table, years: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions (ra, dec) [deg] after some years of proper motion."""
    dec = np.asarray(sources["dec"], float)
    motion = (np.asarray(sources[name], float) * years / MAS_PER_DEG for name in ("pm_ra", "pm_dec"))
    along_ra, along_dec = motion
    return np.asarray(sources["ra"], float) + along_ra / np.cos(np.radians(dec)), dec + along_dec


def reference_catalogue(scene: Scene, sources: Table) -> Table:
    """Positions of the stars as a survey of an earlier epoch has them, with its errors.

    Returns
    -------
    Table
        id (of the source), ra, dec [deg] at ref_epoch, ra_error, dec_error [mas], pmra, pmdec [mas/yr, along the
        sky], pmra_error, pmdec_error [mas/yr], mag_ab, ref_epoch [Julian year]. Errors rise with magnitude as
        10^(error_slope mag); deviates of all stars are drawn, so limits change no error.
    """
    settings = scene.reference_catalogue
    stars = sources[sources["kind"] == "star"]
    rng = stream(scene.seed, "reference catalogue")
    chance, drawn = rng.random(len(stars)), rng.standard_normal((4, len(stars)))
    mag = np.asarray(stars["mag_ab"], float)
    growth = 10 ** (settings.error_slope * (mag - settings.faint_mag))
    error = np.maximum(settings.floor_mas, settings.error_mas * growth)
    motion_error = settings.motion_error_mas_yr * growth
    if "pm_ra" not in stars.colnames:
        stars["pm_ra"], stars["pm_dec"] = 0.0, 0.0
    ra, dec = move(stars, settings.epoch - julian_year(scene.start))
    east, north = (settings.offset_mas[axis] + error * drawn[axis] for axis in (0, 1))
    table = Table({"id": np.array(stars["id"], int)})
    table["ra"] = np.round(ra + east / MAS_PER_DEG / np.cos(np.radians(dec)), 11)
    table["dec"] = np.round(dec + north / MAS_PER_DEG, 11)
    for name, values in (("ra_error", error), ("dec_error", error)):
        table[name] = np.round(values, 4)
    table["pmra"] = np.round(np.asarray(stars["pm_ra"], float) + motion_error * drawn[2], 4)
    table["pmdec"] = np.round(np.asarray(stars["pm_dec"], float) + motion_error * drawn[3], 4)
    for name in ("pmra_error", "pmdec_error"):
        table[name] = np.round(motion_error, 4)
    table["mag_ab"] = np.round(mag, 4)
    table["ref_epoch"] = np.full(len(stars), settings.epoch)
    units = {"ra": "deg", "dec": "deg", "ra_error": "mas", "dec_error": "mas", "ref_epoch": "yr"}
    for name in table.colnames:
        table[name].unit = units.get(name, "mas/yr" if name.startswith("pm") else None)
    listed = (mag >= settings.bright_mag) & (mag <= settings.faint_mag) & (chance < settings.completeness)
    return table[listed]
