"""Results of simulated videos, and the videos themselves: where they exit and when they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import UsageError

Floats = NDArray[np.float64]
Exits = NDArray[np.int64]


@dataclass(frozen=True)
class SimulatedRun:
    """The results for some videos.

    Attributes:
        policy: what served them.
        latency_s: [videos], from arrival to answer.
        checkpoints: [videos], the checkpoint that answered, 1-based; 0 if none did.
        seconds: from time 0 to the last answer.
        busy_s: seconds of that spent computing.
        fills: by segment, mean videos per launch.
        wait_s: by segment, mean wait in its queue.
        missed: number of videos without an answer by their deadline.
        in_flight: most videos that held a slot at once.
    """

    policy: str
    latency_s: Floats
    checkpoints: Exits
    seconds: float
    busy_s: float
    fills: tuple[float, ...] = ()
    wait_s: tuple[float, ...] = ()
    missed: int = 0
    in_flight: int = 0

    @property
    def videos_per_s(self) -> float:
        """Throughput in videos per second."""
        return len(self.latency_s) / self.seconds

    def p_s(self, percent: float) -> float:
        """Return a percentile of the latency in seconds."""
        return float(np.percentile(self.latency_s, percent))

    @property
    def growth(self) -> float:
        """Mean latency of the last quarter of the videos divided by that of the second; about 1 if no queue grows."""
        second, last = np.array_split(self.latency_s, 4)[1::2]
        return float(last.mean() / second.mean())

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "policy": self.policy,
            "videos": len(self.latency_s),
            "videos_per_s": self.videos_per_s,
            "mean_ms": float(self.latency_s.mean()) * 1e3,
            **{f"p{p}_ms": self.p_s(p) * 1e3 for p in (50, 90, 99)},
            "utilisation": self.busy_s / self.seconds,
            "fills": list(self.fills),
            "wait_ms": [s * 1e3 for s in self.wait_s],
            "missed": self.missed,
            "in_flight": self.in_flight,
        }


def geometric_shares(exits: int, q: float) -> Floats:
    """Return the shares of the exits, each ``q`` times the previous one (paper, section 4)."""
    weights = q ** np.arange(exits, dtype=np.float64)
    shares: Floats = weights / weights.sum()
    return shares


def parse_shares(text: str, exits: int) -> Floats:
    """Return the shares of text like ``0.1,0.2,0.7``.

    Raises:
        UsageError: If it is not ``exits`` numbers.
    """
    try:
        shares = np.array([float(item) for item in text.split(",")])
    except ValueError:
        shares = np.zeros(0)
    if len(shares) != exits:
        raise UsageError(f"shares {text!r}: expected {exits} numbers separated by commas, one per exit")
    return shares


def draw_exits(shares: Sequence[float] | Floats, videos: int, seed: int = 0) -> Exits:
    """Return the exit of each video, 1-based, in random order; each exit's count matches its share to within one.

    Raises:
        UsageError: If the shares are negative or do not sum to 1.
    """
    p = np.asarray(shares, np.float64)
    if p.size == 0 or p.min() < 0 or abs(p.sum() - 1) > 1e-6:
        raise UsageError(f"shares {p.tolist()}: expected one per exit, none negative, with sum 1")
    stops = np.round(np.cumsum(p / p.sum()) * videos).astype(np.int64)
    exits = np.searchsorted(stops, np.arange(videos), side="right") + 1
    return np.random.default_rng(seed).permutation(exits)


def poisson_arrivals(rate: float, videos: int, seed: int = 0) -> Floats:
    """Return arrival times in seconds at ``rate`` videos per second."""
    return np.cumsum(np.random.default_rng([seed, 1]).exponential(1 / rate, videos))
