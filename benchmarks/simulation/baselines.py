"""Baselines for the scheduler: batches that are never re-formed, and an oracle that nothing beats."""

from __future__ import annotations

import heapq

import numpy as np

from .cost_tables import CostTable
from .outcome import Exits, Floats, SimulatedRun


def serve_batches(
    table: CostTable, exits: Exits, batch: int, arrivals: Floats | None = None, *, compact: bool
) -> SimulatedRun:
    """Simulate videos in batches that are formed on arrival and never re-formed.

    Args:
        table: of costs.
        exits: [videos], 1-based.
        batch: the most videos in one call.
        arrivals: [videos], seconds, ascending; None: all at once.
        compact: whether a call holds only the batch's survivors; otherwise all its videos until the last one exits.
    """
    arrived = np.zeros(len(exits)) if arrivals is None else arrivals
    times = [[0.0, *(table.ms(k, n) / 1e3 for n in range(1, batch + 1))] for k in range(1, len(table.segments) + 1)]
    answered = np.zeros(len(exits))
    now = busy = 0.0
    start = calls = 0
    while start < len(exits):
        now = max(now, float(arrived[start]))
        stop = min(start + batch, int(np.searchsorted(arrived, now, side="right")))
        own = exits[start:stop]
        for segment in range(1, int(own.max()) + 1):
            seconds = times[segment - 1][int((own >= segment).sum()) if compact else len(own)]
            now, busy = now + seconds, busy + seconds
            answered[start:stop][own == segment] = now
        start, calls = stop, calls + 1
    policy = "compaction only" if compact else "no compaction"
    return SimulatedRun(policy, answered - arrived, exits, now, busy, (len(exits) / calls,))


def oracle(
    table: CostTable, exits: Exits, batch: int, arrivals: Floats | None = None, streams: int = 1
) -> SimulatedRun:
    """Return the bound: every segment at its best batch size for exactly its survivors, in parallel ``streams``.

    Each video takes only its share of such batches, first come, first served; in a real batch each video takes the
    time of the whole batch. So latencies under load are a bound that cannot be reached if large batches are best.
    """
    best = [min(table.ms(k, n) / n for n in range(1, batch + 1)) / 1e3 for k in range(1, len(table.segments) + 1)]
    arrived = np.zeros(len(exits)) if arrivals is None else arrivals
    takes = np.cumsum(best)[exits - 1]
    answered, free = np.zeros(len(exits)), [0.0] * streams
    for place, (at, seconds) in enumerate(zip(arrived.tolist(), takes.tolist(), strict=True)):
        answered[place] = max(at, free[0]) + seconds
        heapq.heapreplace(free, answered[place])
    return SimulatedRun("oracle", answered - arrived, exits, float(answered.max()), float(takes.sum()))
