"""Cost of one call of a segment by batch size, and the best batch size for a given queue length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from ...grid.errors import UsageError

Cost = Callable[[int, int], float]
"""t_k(n): seconds of one call of segment k (1-based) with n rows, where n is one of the segment's buckets."""

MEANWHILE = 8
"""Videos that will have waited per video waiting now, because more arrive. From simulation at 0.4 to 0.9 load."""

_SAME = 1 + 1e-9  # quotients that are equal in theory differ by rounding


class CallTimes:
    """The calls of one segment.

    Lists are indexed by a number of videos, from 0 to ``largest``.

    Attributes:
        largest: the most videos that one call takes.
        full: the bucket with the least time per video, the largest of equals: the batch size worth waiting for.
        rows: the bucket that n videos are padded to.
        seconds: the duration of a call with n videos.
        cheapest_batch: how many of n waiting videos to take, at most ``full``, for the least time per video.
        efficiency: time per video of a full batch divided by that of the cheapest call; 1 from ``full`` on.

    Raises:
        UsageError: If the buckets are not ascending and at least 1, or a time is not above 0.
    """

    def __init__(self, segment: int, cost: Cost, buckets: Sequence[int]) -> None:
        if not buckets or buckets[0] < 1 or any(b <= a for a, b in pairwise(buckets)):
            raise UsageError(
                f"buckets {list(buckets)} of segment {segment}: expected ascending batch sizes, at least 1"
            )
        times = {bucket: cost(segment, bucket) for bucket in buckets}
        for bucket, seconds in times.items():
            if not 0 < seconds < math.inf:
                raise UsageError(f"segment {segment} takes {seconds} s for {bucket} rows: expected a time above 0")
        self.largest = buckets[-1]
        self.rows = [next(b for b in buckets if b >= n) for n in range(self.largest + 1)]
        self.seconds = [times[rows] for rows in self.rows]
        each = [math.inf] + [self.seconds[n] / n for n in range(1, self.largest + 1)]
        self.full = _cheapest(each)
        self.cheapest_batch, self.efficiency = [0], [0.0]
        for n in range(1, self.largest + 1):
            most = min(n, self.full)
            self.cheapest_batch.append(
                most if each[most] <= each[self.cheapest_batch[-1]] * _SAME else self.cheapest_batch[-1]
            )
            self.efficiency.append(min(1.0, each[self.full] / each[self.cheapest_batch[n]]))
        self._shortest_wait: dict[int, int] = {}

    def shortest_wait(self, waiting: int) -> int:
        """Return the batch size, at most ``full``, that minimises the wait of ``waiting`` and later videos."""
        if waiting not in self._shortest_wait:
            # calls of n videos end at t(n), 2 t(n), ...: on average at t(n) (waiting / n + 1) / 2
            ends = [math.inf] + [self.seconds[n] * (MEANWHILE * waiting / n + 1) for n in range(1, self.full + 1)]
            self._shortest_wait[waiting] = _cheapest(ends)
        return self._shortest_wait[waiting]


def _cheapest(prices: Sequence[float]) -> int:
    """Return the index of the lowest price, the last of equals."""
    least = min(prices) * _SAME
    return max(n for n, price in enumerate(prices) if price <= least)
