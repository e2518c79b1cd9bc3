"""Noise of the readout that makes patterns: stripes, columns, even and odd columns, amplifier offsets.

Each is drawn for every read, and summed up as the slope image that it puts into a fitted ramp: the truth of each kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from survey.simulate.artifacts import striping
from survey.simulate.detector import AMPLIFIER_WIDTH, FRAME
from survey.simulate.readout import Timing
from survey.simulate.sections import Artifacts
from survey.simulate.streams import Streams


@dataclass(frozen=True)
class PatternNoise:
    """The pattern noise of an exposure.

    reference : ndarray (ny, nx), bool: reference pixels, which show stripes only
    mean_gain : [e-/DN]
    """

    artifacts: Artifacts
    streams: Streams
    reference: np.ndarray
    mean_gain: float

    def read(self) -> dict[str, np.ndarray]:
        """Patterns of the next read by name, (ny, nx) float32 [DN]; only those that are switched on."""
        shape, found = self.reference.shape, {}
        settings = self.artifacts
        if settings.striping.enabled:
            unit = np.float32(settings.striping.amplitude_e) / np.float32(self.mean_gain)
            found["striping"] = unit * striping(shape, self.streams.of("striping"))
        if settings.column_noise.enabled:
            rng = self.streams.own("column noise")
            found["column_noise"] = self._columns(settings.column_noise.amplitude_e, rng.standard_normal(shape[1]))
        if settings.even_odd_noise.enabled:
            offsets = self._per_amplifier(self.streams.own("even-odd noise"))
            sign = np.where(np.arange(shape[1]) % 2 == 0, 1.0, -1.0)
            found["even_odd_noise"] = self._columns(settings.even_odd_noise.amplitude_e, offsets * sign)
        if settings.amplifier_offsets.enabled:
            offsets = self._per_amplifier(self.streams.own("amplifier offsets"))
            found["amplifier_offsets"] = self._columns(settings.amplifier_offsets.amplitude_e, offsets)
        return found

    def _columns(self, amplitude_e: float, values: Any) -> np.ndarray:
        """One value a column as an image [DN]; 0 on reference pixels."""
        row = (amplitude_e / self.mean_gain * values).astype(np.float32)
        return np.where(self.reference, np.float32(0), row)

    def _per_amplifier(self, rng: np.random.Generator) -> np.ndarray:
        return amplifier_values(self.reference.shape[1], rng)


def amplifier_values(nx: int, rng: np.random.Generator) -> np.ndarray:
    """A normal deviate of each column's amplifier, (nx,) float32; a subarray has one amplifier."""
    amplifiers = nx // AMPLIFIER_WIDTH if nx == FRAME else 1
    return np.repeat(rng.standard_normal(amplifiers).astype(np.float32), nx // amplifiers)


@dataclass
class Slopes:
    """Sums up what patterns add to the fitted slope of a ramp.

    The slope is that of an unweighted straight line through all groups of an integration, averaged over integrations.
    """

    timing: Timing
    groups: int
    integrations: int
    images: dict[str, np.ndarray] = field(default_factory=dict)  # (ny, nx) float32 [DN/s]

    def add(self, patterns: dict[str, np.ndarray], group: int) -> None:
        """Add one read [DN] of a group."""
        weight = np.float32(self._weights()[group] / (self.timing.nframes * self.integrations))
        for name, image in patterns.items():
            if name not in self.images:
                self.images[name] = np.zeros(image.shape, np.float32)
            self.images[name] += weight * image

    def _weights(self) -> np.ndarray:
        """Weights (groups,) of the groups' values in the slope [1/s]."""
        seconds = np.array([self.timing.mean_seconds(group) for group in range(self.groups)])
        seconds -= seconds.mean()
        return seconds / np.sum(seconds**2)
