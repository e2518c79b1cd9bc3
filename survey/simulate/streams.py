"""Random numbers of one exposure: one generator for each purpose, and Poisson draws that never shift the next ones.

With separate streams a scene in which one artifact is switched off has the same noise as the scene with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from survey.simulate.detector import stream

_EXACT_BELOW = 16.0  # mean below which the Poisson distribution is summed; the expansion above is good to 0.01 count
_MOST_COUNTS = 80  # P(n > 80) for a mean of 16 is below the resolution of a double


@dataclass
class Streams:
    """The generators of one exposure.

    Parameters
    ----------
    seed : seed of the scene
    exposure : name that the streams depend on, such as that of the exposure and detector
    shared : one generator for everything that earlier versions drew from one; None: a generator for each purpose
    """

    seed: int
    exposure: str
    shared: np.random.Generator | None = None
    _own: dict[str, np.random.Generator] = field(default_factory=dict)

    def of(self, purpose: str) -> np.random.Generator:
        """The generator of a purpose that earlier versions had as well, such as 'read noise'."""
        return self.own(purpose) if self.shared is None else self.shared

    def own(self, purpose: str) -> np.random.Generator:
        """The generator of a purpose, never the shared one; a second call continues it."""
        if purpose not in self._own:
            self._own[purpose] = stream(self.seed, self.exposure, purpose)
        return self._own[purpose]

    def photons(self, expected: np.ndarray) -> np.ndarray:
        """Poisson counts for a mean, both (ny, nx).

        With separate streams every pixel uses one random number: a change of the mean in one pixel changes no other.
        """
        if self.shared is not None:
            return self.shared.poisson(expected)
        return poisson_counts(expected, self.own("photons").random(expected.shape))


def poisson_counts(expected: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Quantiles of the Poisson distribution, float32.

    Parameters
    ----------
    expected : ndarray, means, not negative
    uniform : ndarray of the same shape, in [0, 1)

    Returns
    -------
    counts : ndarray of the same shape; rises with the mean for the same uniform number. Exact for means below 16,
        within one count of the quantile above.
    """
    counts = np.zeros(expected.shape, np.float32)
    few = expected < _EXACT_BELOW
    counts[few] = _summed(expected[few].astype(float), uniform[few])
    many = ~few
    mean, z = expected[many].astype(float), ndtri(np.maximum(uniform[many], 1e-300))
    root = np.sqrt(mean)
    # Cornish-Fisher expansion of the quantile; the half count makes the rounding one to the next whole number
    value = mean + z * root + (z**2 - 1) / 6 + (z - z**3) / (72 * root)
    counts[many] = np.maximum(np.floor(value + 0.5), 0)
    return counts


def _summed(mean: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The smallest n whose cumulative probability exceeds ``uniform``; (n,) arrays."""
    counts = np.zeros(mean.shape, np.float32)
    term = np.exp(-mean)
    total = term.copy()
    index = np.flatnonzero(uniform >= total)
    mean, uniform, term, total = mean[index], uniform[index], term[index], total[index]
    for number in range(1, _MOST_COUNTS + 1):
        if not len(index):
            break
        counts[index] = number
        term = term * mean / number
        total = total + term
        left = uniform >= total
        index, mean, uniform, term, total = index[left], mean[left], uniform[left], term[left], total[left]
    return counts
