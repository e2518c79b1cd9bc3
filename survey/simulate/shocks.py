"""Charge that comes at once: cosmic rays and snowballs of one integration, and the tables of what was planted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from survey.simulate.artifacts import (
    CORE_SHARE,
    SNOWBALL,
    cosmic_ray_deposits,
    draw_snowballs,
    snowball_charge,
)
from survey.simulate.readout import Timing
from survey.simulate.sections import Artifacts, Snowballs
from survey.simulate.streams import Streams

COSMIC_RAY = np.dtype(
    [("x", "i4"), ("y", "i4"), ("integration", "i4"), ("group", "i4"), ("electrons", "f8"), ("sigma", "f8"),
     ("detectable", "?")]
)  # fmt: skip
SNOWBALL_HIT = np.dtype([("x", "f8"), ("y", "f8"), ("radius", "f8"), ("integration", "i4"), ("group", "i4")])
TAILED_SNOWBALL = np.dtype([*SNOWBALL.descr, ("axis_ratio", "f8"), ("angle", "f8")])
TAILED_SNOWBALL_HIT = np.dtype(
    [*SNOWBALL_HIT.descr, ("axis_ratio", "f8"), ("angle", "f8"), ("core_electrons", "f8"), ("tail_electrons", "f8"),
     ("tail_slope", "f8"), ("reach", "f8")]
)  # fmt: skip


@dataclass(frozen=True)
class Shocks:
    """Charge that comes at once, sorted by time: pixels of cosmic rays, and snowballs."""

    deposits: np.ndarray
    snowballs: np.ndarray
    settings: Snowballs
    timing: Timing
    groups: int

    def add(self, charge: np.ndarray, start_s: float, end_s: float) -> None:
        """Add to the charge, in place, what came between two times. Reference pixels collect it and do not show it."""
        came = (self.deposits["time"] >= start_s) & (self.deposits["time"] < end_s)
        now = self.deposits[came]
        np.add.at(charge, (now["y"], now["x"]), now["electrons"].astype(np.float32))
        came = (self.snowballs["time"] >= start_s) & (self.snowballs["time"] < end_s)
        for row in self.snowball_table(0)[came]:
            charge += planted_snowball(charge.shape, row, self.settings.core_electrons)

    def hit_table(
        self, integration: int, rate: np.ndarray, saturated_from: np.ndarray, pixels: dict[str, np.ndarray]
    ) -> np.ndarray:
        """The truth about the cosmic rays; hits of one pixel in one group are one row.

        Parameters
        ----------
        rate : (ny, nx) [e-/s]
        saturated_from : (ny, nx) int, first saturated group; the number of groups where none is
        pixels : 'read_noise' [DN], 'gain' [e-/DN] and 'useless' (bool), (ny, nx) each
        """
        deposits, timing = self.deposits, self.timing
        group, share = timing.landing(deposits["time"], self.groups)
        ny, nx = rate.shape
        cell, inverse = np.unique((group * ny + deposits["y"]) * nx + deposits["x"], return_inverse=True)
        table = np.zeros(len(cell), COSMIC_RAY)
        x, y, first = cell % nx, (cell // nx) % ny, cell // (nx * ny)
        table["x"], table["y"], table["group"] = x, y, first
        table["integration"] = integration
        table["electrons"] = np.bincount(inverse, deposits["electrons"], minlength=len(cell))
        step = np.bincount(inverse, share * deposits["electrons"], minlength=len(cell))
        read_noise_e = (pixels["read_noise"] * pixels["gain"])[y, x]
        variance = 2 * read_noise_e.astype(float) ** 2 / timing.nframes + rate[y, x].astype(float) * timing.group_s
        table["sigma"] = step / np.sqrt(variance)
        table["detectable"] = (first > 0) & ~pixels["useless"][y, x] & (saturated_from[y, x] > first)
        return table

    def snowball_table(self, integration: int) -> np.ndarray:
        """The truth about the snowballs: `SNOWBALL_HIT`, or `TAILED_SNOWBALL_HIT` with tails, one row each."""
        tailed = self.settings.profile == "power_law"
        table = np.zeros(len(self.snowballs), TAILED_SNOWBALL_HIT if tailed else SNOWBALL_HIT)
        for name in ("x", "y", "radius", "axis_ratio", "angle") if tailed else ("x", "y", "radius"):
            table[name] = self.snowballs[name]
        table["integration"] = integration
        table["group"], _ = self.timing.landing(self.snowballs["time"], self.groups)
        if tailed:
            table["core_electrons"], table["tail_electrons"] = (
                self.settings.core_electrons,
                self.settings.tail_electrons,
            )
            table["tail_slope"] = self.settings.tail_slope
            table["reach"] = self.settings.tail_reach * table["radius"]
        return table


def draw_shocks(shape: tuple[int, int], timing: Timing, groups: int, artifacts: Artifacts, streams: Streams) -> Shocks:
    """Draw the cosmic rays and snowballs of one integration."""
    seconds = timing.read_seconds(timing.frames(groups - 1)[-1])
    rays, balls = artifacts.cosmic_rays, artifacts.snowballs
    deposits = cosmic_ray_deposits(shape, seconds if rays.enabled else 0.0, rays, streams.of("cosmic rays"))
    rng = streams.of("snowballs")
    found = draw_snowballs(shape, seconds if balls.enabled else 0.0, balls, rng)
    if balls.profile == "power_law":
        found = _with_tails(found, shape, timing.read_seconds(timing.frames(0)[-1]), balls, rng)
    return Shocks(deposits, found, balls, timing, groups)


def _with_tails(
    balls: np.ndarray, shape: tuple[int, int], first_s: float, settings: Snowballs, rng: np.random.Generator
) -> np.ndarray:
    """Draw what a snowball with a tail has besides, and move some to an edge and some into the first group."""
    n, (ny, nx) = len(balls), shape
    tailed = np.zeros(n, TAILED_SNOWBALL)
    for name in SNOWBALL.names or ():
        tailed[name] = balls[name]
    tailed["axis_ratio"], tailed["angle"] = rng.uniform(*settings.axis_ratio, n), rng.uniform(0, 180, n)
    early, early_time = rng.random(n) < settings.first_group_share, rng.uniform(0, first_s, n)
    tailed["time"] = np.where(early, early_time, balls["time"])
    at_edge, edge = rng.random(n) < settings.edge_share, rng.integers(0, 4, n)
    for side, axis, place in ((0, "x", 0.0), (1, "x", nx - 1.0), (2, "y", 0.0), (3, "y", ny - 1.0)):
        tailed[axis][at_edge & (edge == side)] = place
    return tailed[np.argsort(tailed["time"], kind="stable")]


def planted_snowball(shape: tuple[int, int], row: np.void, core_electrons: float = 0.0) -> np.ndarray:
    """Charge of one row of a table of snowballs, (ny, nx) float32 [e-].

    Parameters
    ----------
    row : of `SNOWBALL_HIT` or `TAILED_SNOWBALL_HIT`
    core_electrons : of the core [e-]; rows with a tail have their own
    """
    if "reach" not in (row.dtype.names or ()):
        return snowball_charge(shape, row["x"], row["y"], row["radius"], core_electrons)
    charge = np.zeros(shape, np.float32)
    reach, core = float(row["reach"]), CORE_SHARE * float(row["radius"])
    bottom, top = max(0, int(row["y"] - reach)), min(shape[0], int(row["y"] + reach) + 2)
    left, right = max(0, int(row["x"] - reach)), min(shape[1], int(row["x"] + reach) + 2)
    y, x = np.arange(bottom, top)[:, None] - row["y"], np.arange(left, right)[None, :] - row["x"]
    angle = np.radians(row["angle"])
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.maximum(np.hypot(along, across / max(float(row["axis_ratio"]), 0.05)) / core, 1e-9)
    slope = float(row["tail_slope"])
    tail = row["tail_electrons"] * (distance**-slope - (reach / core) ** -slope)
    charge[bottom:top, left:right] = np.where(distance <= 1, row["core_electrons"], np.maximum(tail, 0))
    return charge
