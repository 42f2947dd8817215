"""What the scheduler is compared with: batches that are never formed again, and an oracle that nothing beats."""

from __future__ import annotations

import heapq

import numpy as np

from .cost_tables import CostTable
from .outcome import Exits, Floats, SimulatedRun


def serve_batches(
    table: CostTable, exits: Exits, batch: int, arrivals: Floats | None = None, *, compact: bool
) -> SimulatedRun:
    """Return what becomes of the videos if batches are formed on arrival and never again.

    Args:
        table: of costs.
        exits: [videos], 1-based.
        batch: the most videos of one call.
        arrivals: [videos], seconds, ascending; None: all at once.
        compact: whether a call holds the batch's survivors only; else all its videos until the last one exits.
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
    """Return the bound: every segment at its best batch for exactly its survivors, in ``streams`` streams at once.

    A video takes its share of such batches and no longer, first come, first served; a real batch takes each of its videos
    the time of all of them. So latencies under load are a bound that nothing reaches where large batches are the best.
    """
    best = [min(table.ms(k, n) / n for n in range(1, batch + 1)) / 1e3 for k in range(1, len(table.segments) + 1)]
    arrived = np.zeros(len(exits)) if arrivals is None else arrivals
    takes = np.cumsum(best)[exits - 1]
    answered, free = np.zeros(len(exits)), [0.0] * streams
    for place, (at, seconds) in enumerate(zip(arrived.tolist(), takes.tolist(), strict=True)):
        answered[place] = max(at, free[0]) + seconds
        heapq.heapreplace(free, answered[place])
    return SimulatedRun("oracle", answered - arrived, exits, float(answered.max()), float(takes.sum()))
