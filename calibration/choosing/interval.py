"""95 % confidence intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # 97.5 % quantile of the normal distribution

Interval = tuple[float, float]


def of_share(hits: float, total: int) -> Interval:
    """Return the interval of a share, given ``hits`` out of ``total`` (Wilson 1927)."""
    share, spread = hits / total, Z * Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def of_mean(values: NDArray[np.floating], chosen_on: int = 0) -> Interval:
    """Return the interval of the mean of ``values`` [videos], assuming a normal distribution.

    Args:
        values: one per video.
        chosen_on: number of other videos on which the mean was set to a target. Then the interval is that of the
            difference from this target, and includes the chance of both draws.
    """
    variance = float(values.var(ddof=1)) if len(values) > 1 else 0.0
    half = Z * math.sqrt(variance * (1 / len(values) + (1 / chosen_on if chosen_on else 0)))
    mean = float(values.mean())
    return mean - half, mean + half


def of_paired_difference(gained: int, lost: int, total: int) -> Interval:
    """Return the interval of ``(lost - gained) / total``, where ``gained`` and ``lost`` of ``total`` pairs differ.

    It adds half a pair of each kind (Agresti and Min 2005), so that seeing no difference does not imply certainty.
    """
    one, other, n = gained + 0.5, lost + 0.5, total + 2
    middle = (other - one) / n
    half = Z * math.sqrt(((one + other) / n - middle**2) / n)
    return max(-1.0, middle - half), min(1.0, middle + half)
