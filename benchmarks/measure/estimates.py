"""Medians of measured times, with 95 % bootstrap intervals (Efron 1979)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..report.report import Estimate

Floats = NDArray[np.float64]

_DRAWS = 2000


class Times:
    """Measured times of one kind of run, or their ratios to another kind's, in strata with known shares, one per exit.

    The figure is the sum of the strata's medians weighted by their shares. So a single slow sample does not move it,
    and the shares are those of the clips, whatever was drawn.

    Args:
        strata: (share, samples) pairs; those without samples must have share 0.
    """

    def __init__(self, strata: Sequence[tuple[float, Sequence[float] | Floats]]) -> None:
        self._strata = [(share, np.asarray(samples, np.float64)) for share, samples in strata if share > 0]
        if not self._strata or min(len(samples) for _, samples in self._strata) == 0:
            raise ValueError("a share without samples")

    @property
    def value(self) -> float:
        """The figure."""
        return float(sum(share * np.median(samples) for share, samples in self._strata))

    def draws(self) -> Floats:
        """Return the figures of resampled sets, each stratum resampled from its own samples."""
        rng, total = np.random.default_rng(0), np.zeros(_DRAWS)
        for share, samples in self._strata:
            total += share * np.median(samples[rng.integers(0, len(samples), (_DRAWS, len(samples)))], axis=1)
        return total

    def estimate(self) -> Estimate:
        """Return the figure with its interval."""
        return _interval(self.value, self.draws())

    def under(self, factor: float) -> Estimate:
        """Return ``factor`` divided by the figure, with its interval."""
        return _interval(factor / self.value, factor / self.draws())


def of_median(samples: Sequence[float]) -> Estimate:
    """Return the median of some samples with its interval."""
    return Times([(1.0, samples)]).estimate()


def of_mean(samples: Sequence[float] | Floats) -> Estimate:
    """Return the mean of some samples with its interval."""
    values, rng = np.asarray(samples, np.float64), np.random.default_rng(0)
    return _interval(float(values.mean()), values[rng.integers(0, len(values), (_DRAWS, len(values)))].mean(axis=1))


def _interval(value: float, draws: Floats) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return Estimate(value, min(low, value), max(high, value))
