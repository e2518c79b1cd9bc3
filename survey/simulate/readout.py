"""How NIRCam reads: frames, groups and their times.

Source: JWST user documentation, "NIRCam detector readout patterns" and "NIRCam detector subarrays".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from survey.errors import ConfigError

# NIRCam readout patterns: frames averaged in a group, frames dropped between groups
PATTERNS = {
    "RAPID": (1, 0),
    "BRIGHT1": (1, 1),
    "BRIGHT2": (2, 0),
    "SHALLOW2": (2, 3),
    "SHALLOW4": (4, 1),
    "MEDIUM2": (2, 8),
    "MEDIUM8": (8, 2),
    "DEEP2": (2, 18),
    "DEEP8": (8, 12),
}
FRAME_SECONDS = {"FULL": 10.73677, "SUB640": 4.18584, "SUB320": 1.06904}


@dataclass(frozen=True)
class Timing:
    """How a pattern reads: frames averaged and dropped, seconds per frame and per group."""

    nframes: int
    groupgap: int
    frame_s: float
    group_s: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.nframes, self.groupgap, self.frame_s, self.group_s))

    def frames(self, group: int) -> range:
        """The frames averaged in a group, 0-based count since the reset."""
        first = group * (self.nframes + self.groupgap)
        return range(first, first + self.nframes)

    def read_seconds(self, frame: int) -> float:
        """Time since the reset at which a frame is read [s]."""
        return self.frame_s * (frame + 1)

    def landing(self, seconds: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a charge that came at these times since the reset [s] shows in an integration of ``groups`` groups.

        Returns
        -------
        group : ndarray of int, the group whose step from the one before holds most of it
        share : ndarray of float, how much of it: less than 1 where it came between two averaged frames
        """
        frame = np.floor(np.asarray(seconds) / self.frame_s).astype(np.int64)
        group, phase = np.divmod(frame, self.nframes + self.groupgap)
        dropped = phase >= self.nframes
        group = group + dropped
        share = np.where(dropped, 1.0, (self.nframes - phase) / self.nframes)
        later = (share < 0.5) & (group < groups - 1)
        return group + later, np.where(later, 1 - share, share)

    def mean_seconds(self, group: int) -> float:
        """Mean time since the reset of the frames of a group [s]; frame k is read k + 1 frame times after it."""
        frames = self.frames(group)
        return self.frame_s * (1 + (frames[0] + frames[-1]) / 2)


def readout_timing(pattern: str, subarray: str) -> Timing:
    """Frames and times of a readout pattern on a subarray; unpacks as (nframes, groupgap, frame_s, group_s).

    Raises
    ------
    ConfigError
        A pattern or subarray that NIRCam, or this simulator, does not have.
    """
    if pattern not in PATTERNS:
        raise ConfigError(f"readout pattern {pattern!r}: expected one of {', '.join(PATTERNS)}.")
    if subarray not in FRAME_SECONDS:
        raise ConfigError(f"subarray {subarray!r}: expected one of {', '.join(FRAME_SECONDS)}.")
    nframes, groupgap = PATTERNS[pattern]
    frame_s = FRAME_SECONDS[subarray]
    return Timing(nframes, groupgap, frame_s, frame_s * (nframes + groupgap))
