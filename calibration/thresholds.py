"""Thresholds from the confidences of every exit: MSDNet's rule of a geometric exit distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..grid.errors import UsageError


def exit_quotas(q: float, num_exits: int, num_videos: int) -> NDArray[np.int64]:
    """Return how many of ``num_videos`` leave at each exit, [exits], where exit k gets a share of q^k.

    The differences of ``floor(num_videos * cumulative share)``; they sum to ``num_videos`` (MSDNet, section 4.3;
    the paper's Table 2 is q = 1.2).

    Raises:
        UsageError: If q is not positive.
    """
    if not q > 0:
        raise UsageError(f"q {q}: expected a positive ratio")
    weights = q ** np.arange(1, num_exits + 1, dtype=np.float64)
    cumulative = np.floor(num_videos * np.cumsum(weights) / weights.sum() + 1e-9).astype(np.int64)
    quotas: NDArray[np.int64] = np.diff(cumulative, prepend=0)
    return quotas


def geometric_thresholds(confidences: NDArray[np.float32], q: float) -> tuple[float | None, ...]:
    """Return one threshold an exit, the last None, so that the exits' shares follow q^k on these videos.

    Exit by exit, the most confident of the videos still there leave: the threshold lies midway between the last of
    them and the next. A quota of none closes the exit (threshold 1).

    Args:
        confidences: the highest probability of every exit and video, [exits, videos].
        q: ratio of one exit's share to the share before; above 1 favours late exits.
    """
    num_exits, num_videos = confidences.shape
    staying = np.ones(num_videos, bool)
    thresholds: list[float | None] = []
    for k, quota in enumerate(exit_quotas(q, num_exits, num_videos)[:-1]):
        ranked = np.sort(confidences[k, staying].astype(np.float64))[::-1]
        if quota == 0 or len(ranked) == 0:
            threshold = 1.0
        elif quota >= len(ranked):
            threshold = float(np.nextafter(ranked[-1], 0.0))
        else:
            threshold = float((ranked[quota - 1] + ranked[quota]) / 2)
        thresholds.append(threshold)
        staying &= ~(confidences[k] > threshold)
    return (*thresholds, None)


def exits(confidences: NDArray[np.float32], thresholds: tuple[float | None, ...]) -> NDArray[np.int64]:
    """Return the exit of every video, [videos], zero-based: the first whose confidence exceeds its threshold."""
    limits = np.array([np.inf if t is None else t for t in thresholds])
    passed = confidences.astype(np.float64) > limits[:, None]
    passed[-1] = True
    first: NDArray[np.int64] = passed.argmax(axis=0)
    return first
