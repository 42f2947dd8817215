"""Choose thresholds from the confidences of every exit: MSDNet's rule of a geometric exit distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import UsageError
from ...grid.thresholds import Rule

ThresholdVector = tuple[float | None, ...]


def exit_quotas(q: float, num_exits: int, num_videos: int) -> NDArray[np.int64]:
    """Return how many of ``num_videos`` should leave at each exit, [exits]: exit k gets a share in proportion to q^k.

    They are the differences of ``floor(num_videos * cumulative share)``, so they sum to ``num_videos`` (MSDNet's
    adaptive inference; the paper's Table 2 is q = 1.2).

    Raises:
        UsageError: If q is not a positive number.
    """
    if not 0 < q < np.inf:
        raise UsageError(f"q {q}: expected a positive ratio, such as 1.2")
    weights = q ** np.arange(1, num_exits + 1, dtype=np.float64)
    cumulative = np.floor(num_videos * (np.cumsum(weights) / weights.sum())).astype(np.int64)
    cumulative[-1] = num_videos
    quotas: NDArray[np.int64] = np.diff(cumulative, prepend=0)
    return quotas


@dataclass(frozen=True)
class ChosenExits:
    """Thresholds, and what they do on the videos they were chosen on.

    Attributes:
        q: ratio of one exit's share to the share before, under the geometric rule; None where thresholds were optimised.
        thresholds: one an exit, the last None; 1.0 closes an exit.
        quotas: videos that q asks for at each exit; None without q.
        counts: videos that leave there; they differ from ``quotas`` where confidences tie.
    """

    q: float | None
    thresholds: ThresholdVector
    quotas: tuple[int, ...] | None
    counts: tuple[int, ...]

    @property
    def rule(self) -> Rule:
        """``geometric`` (the paper's) or ``optimal``."""
        return "optimal" if self.q is None else "geometric"

    @property
    def closed(self) -> list[int]:
        """The checkpoints at which no video can leave, 1-based."""
        return [k for k, threshold in enumerate(self.thresholds, 1) if threshold == 1.0]


def chosen_exits(confidences: NDArray[np.floating], thresholds: ThresholdVector) -> ChosenExits:
    """Return optimised ``thresholds`` with what they do on these videos, [exits, videos]."""
    counts = np.bincount(exits(confidences, thresholds), minlength=len(thresholds))
    return ChosenExits(None, thresholds, None, tuple(counts.tolist()))


class RankedConfidences:
    """The confidences of every exit, sorted once, so that the thresholds for any q follow quickly."""

    def __init__(self, confidences: NDArray[np.float32]) -> None:
        """Sort ``confidences``, the highest probability of every exit and video, [exits, videos]."""
        self.confidences = confidences.astype(np.float64)
        self.order = np.argsort(-self.confidences, axis=1, kind="stable")

    @cached_property
    def ranked(self) -> NDArray[np.float64]:
        """Confidences of every exit, descending, [exits, videos]."""
        return np.take_along_axis(self.confidences, self.order, axis=1)

    @cached_property
    def ties(self) -> list[NDArray[np.int64]]:
        """For each exit the places in ``ranked`` after which no threshold lies: the next confidence is the same."""
        return [np.flatnonzero(row[:-1] == row[1:]) for row in self.ranked]

    def choose(self, q: float) -> ChosenExits:
        """Return the thresholds whose exits' shares follow q^k on these videos.

        Exit by exit, the most confident of the remaining videos leave: the threshold lies midway between the last of
        them and the next. If these two tie, it goes to the side of the tie that is nearer to the quota and still lets
        some video leave. A quota of 0 closes the exit (threshold 1).
        """
        num_exits, num_videos = self.confidences.shape
        quotas = exit_quotas(q, num_exits, num_videos)
        staying = np.ones(num_videos, bool)
        thresholds: list[float | None] = []
        counts: list[int] = []
        for k in range(num_exits - 1):
            order = self.order[k]
            ranked = self.confidences[k, order[staying[order]]]  # of the remaining videos, descending
            threshold, count = _cut(ranked, int(quotas[k]))
            thresholds.append(threshold)
            counts.append(count)
            staying &= ~(self.confidences[k] > threshold)
        counts.append(int(staying.sum()))
        return ChosenExits(q, (*thresholds, None), tuple(quotas.tolist()), tuple(counts))


def _cut(ranked: NDArray[np.float64], quota: int) -> tuple[float, int]:
    """Return a threshold that about ``quota`` of the descending values exceed, and how many do."""
    if quota <= 0 or len(ranked) == 0:
        return 1.0, 0
    last = ranked[min(quota, len(ranked)) - 1]
    above = int(np.searchsorted(-ranked, -last, side="left"))  # values above the tie with the last one to leave
    through = int(np.searchsorted(-ranked, -last, side="right"))  # the same including the whole tie
    count = above if above > 0 and quota - above < through - quota else through
    return midway(ranked, count), count


def midway(ranked: NDArray[np.float64], count: int) -> float:
    """Return the threshold that the first ``count`` of descending values exceed; 1, which none does, for a count of 0."""
    if count == 0:
        return 1.0
    lower = ranked[count] if count < len(ranked) else 0.0
    return float((ranked[count - 1] + lower) / 2)


def geometric_thresholds(confidences: NDArray[np.float32], q: float) -> ThresholdVector:
    """Return one threshold per exit, the last None, for which the exits' shares follow q^k on these videos.

    Args:
        confidences: the highest probability of every exit and video, [exits, videos].
        q: ratio of one exit's share to the previous exit's share; above 1 favours late exits.
    """
    return RankedConfidences(confidences).choose(q).thresholds


def exits(confidences: NDArray[np.floating], thresholds: ThresholdVector) -> NDArray[np.int64]:
    """Return the exit of every video, [videos], zero-based: the first whose confidence exceeds its threshold, strictly."""
    limits = np.array([np.inf if t is None else t for t in thresholds])
    passed = confidences.astype(np.float64) > limits[:, None]
    passed[-1] = True
    first: NDArray[np.int64] = passed.argmax(axis=0)
    return first
