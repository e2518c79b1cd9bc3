"""New bad pixels, which the mask in CRDS does not have, and a flat field that differs from the one in CRDS."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

from survey.simulate.detector import FRAME, Detector, Window, stream
from survey.simulate.sections import BadPixels, FlatError
from survey.simulate.streams import Streams

NEW_BAD_PIXEL = np.dtype([("x", "i4"), ("y", "i4"), ("kind", "U4"), ("value", "f8"), ("intermittent", "?")])
BAD_PIXEL_STATE = np.dtype([*NEW_BAD_PIXEL.descr, ("bad", "?")])
_FWHM = 2.3548  # full width at half maximum of a Gaussian over its sigma


@lru_cache(maxsize=2)
def new_bad_pixels(detector: Detector, settings: BadPixels) -> np.ndarray:
    """All new bad pixels of a detector.

    Returns
    -------
    pixels : structured array (n,): x, y of the full frame, kind 'hot' or 'open', value (dark current [e-/s] of a hot
        pixel, relative signal of an open one), intermittent
    """
    rng = stream(detector.seed, detector.name, "new bad pixels")
    chance = rng.random((FRAME, FRAME), np.float32)
    good = detector.mask == 0
    hot = good & (chance < settings.hot_fraction)
    unconnected = good & (chance >= 1 - settings.open_fraction)
    (low, high), (least, most) = settings.hot_e_s, settings.open_response
    parts = []
    for kind, chosen in (("hot", hot), ("open", unconnected)):
        y, x = np.nonzero(chosen)
        part = np.zeros(len(x), NEW_BAD_PIXEL)
        part["x"], part["y"], part["kind"] = x, y, kind
        drawn = stream(detector.seed, detector.name, f"new {kind} pixels").random((2, len(x)))
        part["value"] = low * (high / low) ** drawn[0] if kind == "hot" else least + drawn[0] * (most - least)
        part["intermittent"] = drawn[1] < settings.intermittent_share
        parts.append(part)
    found = np.concatenate(parts)
    found.setflags(write=False)
    return found


def bad_pixel_states(detector: Detector, window: Window, settings: BadPixels, streams: Streams) -> np.ndarray:
    """The new bad pixels in a window, and which of them are bad in this exposure.

    Returns
    -------
    states : structured array (n,) as of `new_bad_pixels`, x and y of the window, and bad
    """
    if not settings.enabled:
        return np.zeros(0, BAD_PIXEL_STATE)
    pixels = new_bad_pixels(detector, settings)
    chance = streams.own("bad pixels").random(len(pixels))
    states = np.zeros(len(pixels), BAD_PIXEL_STATE)
    for name in NEW_BAD_PIXEL.names or ():
        states[name] = pixels[name]
    states["bad"] = ~pixels["intermittent"] | (chance < settings.duty)
    states["x"] -= window.x0
    states["y"] -= window.y0
    inside = (states["x"] >= 0) & (states["x"] < window.nx) & (states["y"] >= 0) & (states["y"] < window.ny)
    return states[inside]


@lru_cache(maxsize=4)
def flat_ratio(detector: str, filter_name: str, seed: int, settings: FlatError) -> np.ndarray:
    """True flat over the flat in CRDS, full frame (2048, 2048) float32: smooth, mean 1."""
    noise = stream(seed, detector, filter_name, "flat error").standard_normal((FRAME, FRAME), np.float32)
    sigma = settings.scale_px / _FWHM
    rows, columns = fft.fftfreq(FRAME)[:, None], fft.rfftfreq(FRAME)[None, :]
    smoothing = np.exp(-2 * (np.pi * sigma) ** 2 * (rows**2 + columns**2)).astype(np.float32)
    pattern = fft.irfft2(fft.rfft2(noise) * smoothing, s=noise.shape)
    pattern -= pattern.mean()
    pattern /= pattern.std()
    ratio = (1 + settings.rms * np.clip(pattern, -4, 4)).astype(np.float32)
    ratio.setflags(write=False)
    return ratio
