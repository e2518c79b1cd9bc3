"""From the light of the sky to raw counts: one exposure of one detector, read up the ramp.

Light and dark current fill the pixels; the charge is read through the non-linear output, the bias, and the noise of the
readout. What the pipeline's Detector1 undoes, in its order: superbias, reference pixels, linearity, dark.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from survey.errors import ConfigError
from survey.simulate.artifacts import (
    cosmic_ray_deposits,
    draw_snowballs,
    has_wisps,
    snowball_charge,
    striping,
    wisp_template,
)
from survey.simulate.detector import AMPLIFIER_WIDTH, DO_NOT_USE, FRAME, REFERENCE_PIXEL, Detector, Window
from survey.simulate.readout import Timing, readout_timing
from survey.simulate.scene import Artifacts, Readout

ADC_MAX = 65535
COSMIC_RAY = np.dtype(
    [("x", "i4"), ("y", "i4"), ("integration", "i4"), ("group", "i4"), ("electrons", "f8"), ("sigma", "f8"),
     ("detectable", "?")]
)  # fmt: skip
SNOWBALL_HIT = np.dtype([("x", "f8"), ("y", "f8"), ("radius", "f8"), ("integration", "i4"), ("group", "i4")])


@dataclass(frozen=True)
class Ramp:
    """Raw counts and the truth beside them.

    data : (nints, ngroups, ny, nx) uint16 [DN]
    zeroframe : (nints, ny, nx) uint16 [DN], the first frame of each integration; None if the pattern averages nothing
    cosmic_rays : structured array (n,): x, y, integration, group (the first that holds the charge, or most of it if it
        came between averaged frames), electrons, sigma (the step from the group before over the noise of such a
        step), detectable (False: first group, reference, dead or unusable pixel, or saturated by then)
    snowballs : structured array (n,): x, y, radius [pixels], integration, group
    amplitudes : what was planted, name -> number
    saturated : (ny, nx) bool, reached the saturation level in any integration
    """

    data: np.ndarray
    zeroframe: np.ndarray | None
    cosmic_rays: np.ndarray
    snowballs: np.ndarray
    saturated: np.ndarray
    amplitudes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """What of the sky an exposure sees: a window of a detector, through a filter."""

    detector: Detector
    window: Window
    filter_name: str

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the window."""
        return self.window.ny, self.window.nx


def make_ramp(
    sky_rate: np.ndarray,
    view: View,
    readout: Readout,
    artifacts: Artifacts,
    rng: np.random.Generator,
    residual: np.ndarray | None = None,
) -> Ramp:
    """Expose a detector to the sky and read it.

    Parameters
    ----------
    sky_rate : ndarray of the view's shape (ny, nx), float [e-/s]
        The sky's surface brightness in each pixel, as the charge rate that it makes in a pixel of nominal area and
        response 1: before the flat field. Not negative.
    view : detector, filter, and where the array lies in the full frame
    residual : ndarray (ny, nx), float [e-], or None
        Charge that pixels saturated in the exposure before held; part of it leaks out in this one.

    Returns
    -------
    Ramp

    Raises
    ------
    ConfigError
        The shape of an array is not the window's, or a pattern or subarray is unknown.
    """
    for name, array in (("sky_rate", sky_rate), ("residual", residual)):
        if array is not None and array.shape != view.shape:
            raise ConfigError(
                f"{view.detector.name}: {name} has shape {array.shape}, expected that of the window, {view.shape}."
            )
    exposure = _Exposure(
        _cut(view), readout_timing(readout.pattern, _subarray_name(view.window)), readout.groups, artifacts, rng
    )
    light, amplitudes = _light(sky_rate, view, artifacts, rng)
    rate = light * exposure.pixels["response"]
    rate += exposure.pixels["dark"]
    leak = _persistence(residual, exposure)
    amplitudes["persistence_e"] = 0.0 if leak is None else float(leak.charge.max(initial=0.0))

    data = np.empty((readout.integrations, readout.groups, *view.shape), np.uint16)
    zeroframe = np.empty((readout.integrations, *view.shape), np.uint16) if exposure.timing.nframes > 1 else None
    saturated = np.zeros(view.shape, bool)
    hits, balls = [], []
    for integration in range(readout.integrations):
        shocks = _draw_shocks(view.shape, exposure)
        first = _integrate(data[integration], rate, leak, shocks, exposure)
        if zeroframe is not None:
            zeroframe[integration] = first
        reached = _saturated_from(data[integration], exposure.pixels["saturation"])
        hits.append(_hit_table(shocks, integration, rate, reached, exposure))
        balls.append(_snowball_table(shocks, integration, exposure))
        saturated |= reached < readout.groups
        leak = None  # released in the first integration
    cosmic_rays, snowballs = np.concatenate(hits), np.concatenate(balls)
    amplitudes |= {
        "striping_e": artifacts.striping.amplitude_e if artifacts.striping.enabled else 0.0,
        "bias_drift_dn": float(exposure.pixels["drift"]),
        "cosmic_ray_pixels": len(cosmic_rays),
        "snowballs": len(snowballs),
    }
    return Ramp(data, zeroframe, cosmic_rays, snowballs, saturated, amplitudes)


@dataclass(frozen=True)
class _Exposure:
    """What the integrations of one exposure have in common."""

    pixels: dict[str, np.ndarray]  # of `_cut`
    timing: Timing
    groups: int
    artifacts: Artifacts
    rng: np.random.Generator

    @property
    def seconds(self) -> float:
        """Time from the reset to the last read of an integration [s]."""
        return self.timing.read_seconds(self.timing.frames(self.groups - 1)[-1])


@dataclass(frozen=True)
class _Leak:
    """Persistence: charge [e-] that an exposure releases, and how it is spread over the time of the exposure."""

    charge: np.ndarray
    decay_s: float
    total_s: float

    def released(self, start_s: float, end_s: float) -> np.ndarray:
        share = np.exp(-start_s / self.decay_s) - np.exp(-end_s / self.decay_s)
        return self.charge * np.float32(share / -np.expm1(-self.total_s / self.decay_s))


@dataclass(frozen=True)
class _Shocks:
    """Charge that comes at once, sorted by time: pixels of cosmic rays, and snowballs (with their core's charge)."""

    deposits: np.ndarray
    snowballs: np.ndarray
    core_electrons: float


def _subarray_name(window: Window) -> str:
    return "FULL" if window.nx == FRAME else f"SUB{window.nx}"


def _cut(view: View) -> dict[str, np.ndarray]:
    """What the window's pixels are like: arrays (ny, nx) by name."""
    detector, cut = view.detector, view.window.slices
    mask = detector.mask[cut]
    bordered = bool((mask & REFERENCE_PIXEL).any())
    return {
        "response": detector.response[cut] * detector.flat(view.filter_name)[cut],
        "dark": detector.dark[cut],
        "gain": detector.gain[cut],
        "read_noise": detector.read_noise[cut],
        "bias": detector.superbias[cut],
        "saturation": detector.saturation[cut],
        "well": detector.well[cut],
        "quadratic": detector.quadratic[cut],
        "cubic": np.float32(detector.cubic),
        "drift": np.float32(detector.settings.bias_drift_dn if bordered else 0.0),
        "mean_gain": np.float32(detector.settings.gain),
        "reference": (mask & REFERENCE_PIXEL) != 0,
        "useless": (mask & (REFERENCE_PIXEL | DO_NOT_USE)) != 0,
    }


def _light(
    sky_rate: np.ndarray, view: View, artifacts: Artifacts, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, float]]:
    """The sky and the scattered light, (ny, nx) float32 [e-/s], and the wisps' amplitude in this exposure."""
    light = np.array(sky_rate, np.float32)
    np.maximum(light, 0, out=light)
    if not artifacts.wisps.enabled or not has_wisps(view.detector.name, view.filter_name):
        return light, {"wisps_e_s": 0.0}
    # Their brightness depends on where the telescope points: it changes from exposure to exposure
    amplitude = artifacts.wisps.amplitude_e_s * rng.uniform(0.7, 1.3)
    light += np.float32(amplitude) * wisp_template(view.detector.name, view.detector.seed)[view.window.slices]
    return light, {"wisps_e_s": float(amplitude)}


def _persistence(residual: np.ndarray | None, exposure: _Exposure) -> _Leak | None:
    settings = exposure.artifacts.persistence
    if residual is None or not settings.enabled:
        return None
    return _Leak((settings.fraction * residual).astype(np.float32), settings.decay_s, exposure.seconds)


def _draw_shocks(shape: tuple[int, int], exposure: _Exposure) -> _Shocks:
    seconds, rng = exposure.seconds, exposure.rng
    rays, balls = exposure.artifacts.cosmic_rays, exposure.artifacts.snowballs
    return _Shocks(
        cosmic_ray_deposits(shape, seconds if rays.enabled else 0.0, rays, rng),
        draw_snowballs(shape, seconds if balls.enabled else 0.0, balls, rng),
        balls.core_electrons,
    )


def _integrate(
    data: np.ndarray, rate: np.ndarray, leak: _Leak | None, shocks: _Shocks, exposure: _Exposure
) -> np.ndarray:
    """Fill ``data`` (ngroups, ny, nx) with one integration; returns its first frame, (ny, nx) uint16."""
    timing = exposure.timing
    charge = np.zeros(rate.shape, np.float32)
    start_s = 0.0
    for group in range(len(data)):
        total = np.zeros(rate.shape, np.float32)
        for frame in timing.frames(group):
            end_s = timing.read_seconds(frame)
            expected = rate * np.float32(end_s - start_s)
            if leak is not None:
                expected += leak.released(start_s, end_s)
            charge += exposure.rng.poisson(expected)
            _add_shocks(charge, shocks, start_s, end_s)
            counts = _read(charge, exposure)
            if frame == 0:
                first = counts.astype(np.uint16)
            total += counts
            start_s = end_s
        data[group] = np.rint(total / timing.nframes)
    return first


def _add_shocks(charge: np.ndarray, shocks: _Shocks, start_s: float, end_s: float) -> None:
    """Add to the charge (in place) what came between two times; reference pixels collect it too, and don't show it."""
    came = (shocks.deposits["time"] >= start_s) & (shocks.deposits["time"] < end_s)
    now = shocks.deposits[came]
    np.add.at(charge, (now["y"], now["x"]), now["electrons"].astype(np.float32))
    for ball in shocks.snowballs:
        if start_s <= ball["time"] < end_s:
            charge += snowball_charge(charge.shape, ball["x"], ball["y"], ball["radius"], shocks.core_electrons)


def _read(charge: np.ndarray, exposure: _Exposure) -> np.ndarray:
    """One read of the charge [e-]: counts of the converter, (ny, nx) float32, whole numbers in 0-65535."""
    pixels, artifacts, rng = exposure.pixels, exposure.artifacts, exposure.rng
    counts = measured_counts(charge / pixels["gain"], pixels["quadratic"], pixels["cubic"])
    counts[pixels["reference"]] = 0.0
    counts += pixels["bias"]
    np.minimum(counts, pixels["well"], out=counts)
    counts += pixels["read_noise"] * rng.standard_normal(charge.shape, np.float32)
    if artifacts.striping.enabled:
        counts += np.float32(artifacts.striping.amplitude_e) / pixels["mean_gain"] * striping(charge.shape, rng)
    if pixels["drift"] > 0:
        counts += pixels["drift"] * _drift(charge.shape[1], rng)
    return np.clip(np.rint(counts), 0, ADC_MAX)


def _drift(nx: int, rng: np.random.Generator) -> np.ndarray:
    """Offset of each column's amplifier in one read, (nx,) float32, unit rms; a subarray has one amplifier."""
    amplifiers = nx // AMPLIFIER_WIDTH if nx == FRAME else 1
    return np.repeat(rng.standard_normal(amplifiers).astype(np.float32), nx // amplifiers)


def measured_counts(true_counts: np.ndarray, quadratic: np.ndarray, cubic: float | np.ndarray) -> np.ndarray:
    """What the non-linear output shows: solves m + quadratic m^2 + cubic m^3 = true for m.

    Parameters
    ----------
    true_counts : ndarray (ny, nx), float32 [DN], bias-free, not negative
    quadratic : ndarray (ny, nx) [1/DN]; cubic : float [1/DN^2]; both not negative

    Returns
    -------
    measured : ndarray (ny, nx), float32 [DN]. Newton's method from above; after four steps the residue is below
        float32's resolution for losses up to 20%.
    """
    measured = true_counts.astype(np.float32)
    twice, thrice = 2 * quadratic, np.float32(3 * cubic)
    for _ in range(4):
        value = measured * (1 + measured * (quadratic + np.float32(cubic) * measured))
        measured -= (value - true_counts) / (1 + measured * (twice + thrice * measured))
    return measured


def _saturated_from(data: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """First group at or above the saturation level, (ny, nx) int; the number of groups where none is."""
    above = data >= saturation
    return np.where(above.any(axis=0), above.argmax(axis=0), len(data))


def _hit_table(
    shocks: _Shocks, integration: int, rate: np.ndarray, saturated_from: np.ndarray, exposure: _Exposure
) -> np.ndarray:
    """The truth about the cosmic rays of one integration; hits of one pixel in one group are one row."""
    deposits, pixels, timing = shocks.deposits, exposure.pixels, exposure.timing
    group, share = timing.landing(deposits["time"], exposure.groups)
    ny, nx = rate.shape
    cell, inverse = np.unique((group * ny + deposits["y"]) * nx + deposits["x"], return_inverse=True)
    table = np.zeros(len(cell), COSMIC_RAY)
    x, y, first = cell % nx, (cell // nx) % ny, cell // (nx * ny)
    table["x"], table["y"], table["group"], table["integration"] = x, y, first, integration
    table["electrons"] = np.bincount(inverse, deposits["electrons"], minlength=len(cell))
    step = np.bincount(inverse, share * deposits["electrons"], minlength=len(cell))
    read_noise_e = (pixels["read_noise"] * pixels["gain"])[y, x]
    variance = 2 * read_noise_e.astype(float) ** 2 / timing.nframes + rate[y, x].astype(float) * timing.group_s
    table["sigma"] = step / np.sqrt(variance)
    table["detectable"] = (first > 0) & ~pixels["useless"][y, x] & (saturated_from[y, x] > first)
    return table


def _snowball_table(shocks: _Shocks, integration: int, exposure: _Exposure) -> np.ndarray:
    table = np.zeros(len(shocks.snowballs), SNOWBALL_HIT)
    for name in ("x", "y", "radius"):
        table[name] = shocks.snowballs[name]
    group, _ = exposure.timing.landing(shocks.snowballs["time"], exposure.groups)
    table["integration"], table["group"] = integration, group
    return table
