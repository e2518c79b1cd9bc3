"""Persistence across exposures: what a detector remembers of saturated pixels, over filters, visits and programs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from survey.simulate.sections import Persistence

PERSISTENCE = np.dtype([("source", "U64"), ("pixels", "i4"), ("electrons", "f8")])
LEAST_ELECTRONS = 0.1  # released in an exposure; pixels with less are not counted to a predecessor


@dataclass
class TrapMemory:
    """Charge trapped in the pixels of one detector, which is released exponentially.

    A pixel that saturates has its traps filled to ``fraction`` of its well, whatever they held before.
    """

    settings: Persistence
    well: np.ndarray  # (ny, nx) [e-]
    trapped: np.ndarray = field(init=False)  # (ny, nx) float64 [e-], at the time `clock`
    clock: float = 0.0  # [s]
    last: np.ndarray = field(init=False)  # (ny, nx) int, number of the exposure that filled a pixel; -1: none
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trapped = np.zeros(self.well.shape)
        self.last = np.full(self.well.shape, -1)

    def at(self, time: float) -> np.ndarray:
        """Charge still trapped at a later time [s], (ny, nx) [e-]."""
        return self.trapped * np.exp(-(time - self.clock) / self.settings.decay_s)

    def saturate(self, name: str, saturated: np.ndarray, end: float) -> None:
        """Fill the traps of the pixels that an exposure saturated, which ended at a time [s]."""
        self.trapped = np.where(saturated, self.settings.fraction * self.well, self.at(end))
        self.last = np.where(saturated, len(self.names), self.last)
        self.names.append(name)
        self.clock = end

    def by_source(self, time: float, duration: float) -> np.ndarray:
        """What an exposure at a time [s] receives from each earlier one: rows of `PERSISTENCE`."""
        released = self.at(time) * -np.expm1(-duration / self.settings.decay_s)
        rows = []
        for number in np.unique(self.last[released >= LEAST_ELECTRONS]):
            chosen = (self.last == number) & (released >= LEAST_ELECTRONS)
            rows.append((self.names[number], int(chosen.sum()), float(released[chosen].sum())))
        return np.array(rows, PERSISTENCE)
