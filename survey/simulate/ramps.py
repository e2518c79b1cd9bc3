"""From the light of the sky to raw counts: one exposure of one detector, read up the ramp.

Light and dark current fill the pixels; the charge is read through the non-linear output, the bias, and the noise of the
readout. What the pipeline's Detector1 undoes, in its order: superbias, reference pixels, linearity, dark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from survey.errors import ConfigError
from survey.simulate.artifacts import has_wisps, wisp_template
from survey.simulate.badpixels import BAD_PIXEL_STATE, bad_pixel_states, flat_ratio
from survey.simulate.detector import DO_NOT_USE, FRAME, REFERENCE_PIXEL, Detector, Window
from survey.simulate.light import diffuse_light
from survey.simulate.patterns import PatternNoise, Slopes, amplifier_values
from survey.simulate.readout import Timing, readout_timing
from survey.simulate.scene import Artifacts, Readout
from survey.simulate.shocks import Shocks, draw_shocks
from survey.simulate.streams import Streams
from survey.simulate.trails import Trail, draw_trail
from survey.simulate.wisps import wisp_components, wisp_strengths

ADC_MAX = 65535


@dataclass(frozen=True)
class Ramp:
    """Raw counts and the truth beside them.

    data : (nints, ngroups, ny, nx) uint16 [DN]
    zeroframe : (nints, ny, nx) uint16 [DN], the first frame of each integration; None if the pattern averages nothing
    cosmic_rays : structured array (n,): x, y, integration, group (the first that holds the charge, or most of it if it
        came between averaged frames), electrons, sigma (the step from the group before over the noise of such a
        step), detectable (False: first group, reference, dead or unusable pixel, or saturated by then)
    snowballs : structured array (n,): x, y, radius [pixels], integration, group; with tails also their parameters
    saturated : (ny, nx) bool, reached the saturation level in any integration
    amplitudes : what was planted, name -> number or text
    images : artifact -> (ny, nx) float32 [DN/s], what it adds to the slope of the ramp
    bad_pixels : structured array (n,), new bad pixels in the window and their state, as of `bad_pixel_states`
    trail : the moving object, or None
    """

    data: np.ndarray
    zeroframe: np.ndarray | None
    cosmic_rays: np.ndarray
    snowballs: np.ndarray
    saturated: np.ndarray
    amplitudes: dict[str, float | str] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    bad_pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, BAD_PIXEL_STATE))
    trail: Trail | None = None


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
    sky_rate: np.ndarray | Mapping[str, np.ndarray],
    view: View,
    readout: Readout,
    artifacts: Artifacts,
    rng: np.random.Generator | Streams,
    residual: np.ndarray | None = None,
) -> Ramp:
    """Expose a detector to the sky and read it.

    Parameters
    ----------
    sky_rate : ndarray of the view's shape (ny, nx), float [e-/s]
        The sky's surface brightness in each pixel, as the charge rate that it makes in a pixel of nominal area and
        response 1: before the flat field. Not negative. A mapping has 'sky' and further light of the sky by name, whose
        share of the slope the ramp's images then have.
    view : detector, filter, and where the array lies in the full frame
    rng : the generators of the exposure; a single generator is used for everything that earlier versions drew
    residual : ndarray (ny, nx), float [e-], or None
        Charge that pixels saturated in the exposure before held; part of it leaks out in this one. With persistence
        across exposures: the charge that is still trapped when this exposure starts.

    Returns
    -------
    Ramp

    Raises
    ------
    ConfigError
        The shape of an array is not the window's, or a pattern or subarray is unknown.
    """
    skies = sky_rate if isinstance(sky_rate, Mapping) else {"sky_rate": sky_rate}
    for name, array in (*skies.items(), ("residual", residual)):
        if array is not None and array.shape != view.shape:
            raise ConfigError(
                f"{view.detector.name}: {name} has shape {array.shape}, expected that of the window, {view.shape}."
            )
    streams = rng if isinstance(rng, Streams) else Streams(view.detector.seed, "", rng)
    timing = readout_timing(readout.pattern, _subarray_name(view.window))
    bad = bad_pixel_states(view.detector, view.window, artifacts.bad_pixels, streams)
    pixels = _cut(view, artifacts, bad)
    patterns = PatternNoise(artifacts, streams, pixels["reference"], float(pixels["mean_gain"]))
    exposure = _Exposure(pixels, timing, streams, patterns, Slopes(timing, readout.groups, readout.integrations))
    light, planted, amplitudes = _light(next(iter(skies.values())), view, artifacts, streams)
    for name, image in list(skies.items())[1:]:
        planted[name] = image
        light += image
    rate = light * pixels["response"]
    rate += pixels["dark"]
    passing = _passing_light(view, artifacts, exposure, residual)
    leak, trail = passing.get("persistence"), passing.get("trail")
    amplitudes["persistence_e"] = float(leak.charge.max(initial=0.0)) if isinstance(leak, _Leak) else 0.0

    ramp = _expose_integrations(rate, list(passing.values()), exposure, readout, artifacts)
    amplitudes |= {
        "striping_e": artifacts.striping.amplitude_e if artifacts.striping.enabled else 0.0,
        "bias_drift_dn": float(pixels["drift"]),
        "cosmic_ray_pixels": len(ramp.cosmic_rays),
        "snowballs": len(ramp.snowballs),
    }
    images = {name: image * pixels["response"] / pixels["gain"] for name, image in planted.items()}
    for name, moving in passing.items():
        images[name] = moving.released(0.0, exposure.seconds) / np.float32(exposure.seconds) / pixels["gain"]
    return replace(
        ramp,
        amplitudes=amplitudes,
        images=exposure.slopes.images | images,
        bad_pixels=bad,
        trail=trail if isinstance(trail, Trail) else None,
    )


def _expose_integrations(
    rate: np.ndarray, passing: list[_Leak | Trail], exposure: _Exposure, readout: Readout, artifacts: Artifacts
) -> Ramp:
    """Expose and read all integrations: a Ramp without amplitudes and images."""
    data = np.empty((readout.integrations, readout.groups, *rate.shape), np.uint16)
    zeroframe = np.empty((readout.integrations, *rate.shape), np.uint16) if exposure.timing.nframes > 1 else None
    saturated = np.zeros(rate.shape, bool)
    hits, balls = [], []
    for integration in range(readout.integrations):
        later = integration * (exposure.seconds + exposure.timing.frame_s)
        now = [light.later(later) for light in passing] if integration else passing
        shocks = draw_shocks(rate.shape, exposure.timing, readout.groups, artifacts, exposure.streams)
        first = _integrate(data[integration], rate, now, shocks, exposure)
        if zeroframe is not None:
            zeroframe[integration] = first
        reached = _saturated_from(data[integration], exposure.pixels["saturation"])
        hits.append(shocks.hit_table(integration, rate, reached, exposure.pixels))
        balls.append(shocks.snowball_table(integration))
        saturated |= reached < readout.groups
    return Ramp(data, zeroframe, np.concatenate(hits), np.concatenate(balls), saturated)


@dataclass(frozen=True)
class _Exposure:
    """What the integrations of one exposure have in common."""

    pixels: dict[str, np.ndarray]  # of `_cut`
    timing: Timing
    streams: Streams
    patterns: PatternNoise
    slopes: Slopes

    @property
    def seconds(self) -> float:
        """Time from the reset to the last read of an integration [s]."""
        return self.timing.read_seconds(self.timing.frames(self.slopes.groups - 1)[-1])


@dataclass(frozen=True)
class _Leak:
    """Persistence: charge [e-] that is released from the start of an exposure on, decaying exponentially.

    total_s : the charge is released within this time; infinite: it is what is trapped at the start
    """

    charge: np.ndarray
    decay_s: float
    total_s: float

    def released(self, start_s: float, end_s: float) -> np.ndarray:
        share = np.exp(-start_s / self.decay_s) - np.exp(-end_s / self.decay_s)
        return self.charge * np.float32(share / -np.expm1(-self.total_s / self.decay_s))

    def later(self, seconds: float) -> _Leak:
        """The rest after a time; nothing if all of it is released in the first integration."""
        left = np.exp(-seconds / self.decay_s) if np.isinf(self.total_s) else 0.0
        return replace(self, charge=self.charge * np.float32(left))


def _subarray_name(window: Window) -> str:
    return "FULL" if window.nx == FRAME else f"SUB{window.nx}"


def _cut(view: View, artifacts: Artifacts, bad: np.ndarray) -> dict[str, np.ndarray]:
    """What the window's pixels are like: arrays (ny, nx) by name; ``bad`` as of `bad_pixel_states`."""
    detector, cut = view.detector, view.window.slices
    mask = detector.mask[cut]
    bordered = bool((mask & REFERENCE_PIXEL).any())
    response = detector.response[cut] * detector.flat(view.filter_name)[cut]
    if artifacts.flat_error.enabled:
        response *= flat_ratio(detector.name, view.filter_name, detector.seed, artifacts.flat_error)[cut]
    pixels = {
        "response": response,
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
    hot, unconnected = (bad[bad["bad"] & (bad["kind"] == kind)] for kind in ("hot", "open"))
    if len(hot):
        pixels["dark"] = pixels["dark"].copy()
        pixels["dark"][hot["y"], hot["x"]] += hot["value"].astype(np.float32)
    if len(unconnected):
        pixels["signal"] = np.ones(view.shape, np.float32)  # share of the charge that the output shows
        pixels["signal"][unconnected["y"], unconnected["x"]] = unconnected["value"]
    return pixels


def _light(
    sky_rate: np.ndarray, view: View, artifacts: Artifacts, streams: Streams
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float | str]]:
    """The sky and the scattered light before the flat field.

    Returns
    -------
    light : (ny, nx) float32 [e-/s], all of it
    planted : artifact -> (ny, nx) float32 [e-/s]
    amplitudes : of the artifacts, with the unit in the name
    """
    light = np.array(sky_rate, np.float32)
    np.maximum(light, 0, out=light)
    planted, amplitudes = _wisps(view, artifacts, streams)
    unit = np.float32(view.detector.electrons_per_mjy_sr(view.filter_name))
    for name, image in diffuse_light(view.shape, artifacts, streams).items():
        planted[name] = unit * image
        amplitudes[f"{name}_mjy_sr"] = float(image.max())
    for image in planted.values():
        light += image
    return light, planted, amplitudes


def _wisps(view: View, artifacts: Artifacts, streams: Streams) -> tuple[dict[str, np.ndarray], dict[str, float | str]]:
    settings, detector, cut = artifacts.wisps, view.detector, view.window.slices
    if not settings.enabled or not has_wisps(detector.name, view.filter_name):
        return {}, {"wisps_e_s": 0.0}
    if settings.components == 1 and settings.templates == "builtin":
        # Their brightness depends on where the telescope points: it changes from exposure to exposure
        amplitude = settings.amplitude_e_s * streams.of("wisps").uniform(0.7, 1.3)
        image = np.float32(amplitude) * wisp_template(detector.name, detector.seed)[cut]
        return {"wisps": image}, {"wisps_e_s": float(amplitude)}
    strengths = wisp_strengths(settings, streams)
    templates, source = wisp_components(settings, detector.name, view.filter_name, detector.seed)
    image = np.zeros(view.shape, np.float32)
    amplitudes: dict[str, float | str] = {"wisp_templates": source}
    for number, (strength, template) in enumerate(zip(strengths, templates, strict=False)):
        image += np.float32(strength) * template[cut]
        amplitudes["wisps_e_s" if number == 0 else f"wisps_{number + 1}_e_s"] = float(strength)
    return {"wisps": image}, amplitudes


def _passing_light(
    view: View, artifacts: Artifacts, exposure: _Exposure, residual: np.ndarray | None
) -> dict[str, _Leak | Trail]:
    """What changes during the exposure: persistence and a moving object, by name, if there are any."""
    found: dict[str, _Leak | Trail] = {}
    settings = artifacts.persistence
    if residual is not None and settings.enabled:
        if settings.across_exposures:
            found["persistence"] = _Leak(residual.astype(np.float32), settings.decay_s, np.inf)
        else:
            charge = (settings.fraction * residual).astype(np.float32)
            found["persistence"] = _Leak(charge, settings.decay_s, exposure.seconds)
    per_ujy = view.detector.electrons_per_ujy(view.filter_name)
    response = exposure.pixels["response"]
    trail = draw_trail(artifacts.trails, view.filter_name, per_ujy, response, exposure.seconds, exposure.streams)
    if trail is not None:
        found["trail"] = trail
    return found


def _integrate(
    data: np.ndarray, rate: np.ndarray, passing: list[_Leak | Trail], shocks: Shocks, exposure: _Exposure
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
            for light in passing:
                expected += light.released(start_s, end_s)
            charge += exposure.streams.photons(expected)
            shocks.add(charge, start_s, end_s)
            counts = _read(charge, exposure, group)
            if frame == 0:
                first = counts.astype(np.uint16)
            total += counts
            start_s = end_s
        data[group] = np.rint(total / timing.nframes)
    return first


def _read(charge: np.ndarray, exposure: _Exposure, group: int) -> np.ndarray:
    """One read of the charge [e-]: counts of the converter, (ny, nx) float32, whole numbers in 0-65535."""
    pixels, streams = exposure.pixels, exposure.streams
    shown = charge * pixels["signal"] if "signal" in pixels else charge
    counts = measured_counts(shown / pixels["gain"], pixels["quadratic"], pixels["cubic"])
    counts[pixels["reference"]] = 0.0
    counts += pixels["bias"]
    np.minimum(counts, pixels["well"], out=counts)
    counts += pixels["read_noise"] * streams.of("read noise").standard_normal(charge.shape, np.float32)
    patterns = exposure.patterns.read()
    for image in patterns.values():
        counts += image
    exposure.slopes.add(patterns, group)
    if pixels["drift"] > 0:
        counts += pixels["drift"] * amplifier_values(charge.shape[1], streams.of("bias drift"))
    return np.clip(np.rint(counts), 0, ADC_MAX)


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
