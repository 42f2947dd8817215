"""The table t_k(n), measured: milliseconds of one call of each segment, and of the static network, for n videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ..runtime.batch_executor import BatchExecutor
from .cost_tables import CostTable
from .timing import SegmentTime

STATIC = 0
"""Index of the static network among segments."""


def measure_calls(
    along: BatchExecutor, static: BatchExecutor, batches: Sequence[int], seconds: float, report: Callable[[str], None]
) -> list[SegmentTime]:
    """Return the time of every call, index 0 for the static network, all measured in turn.

    Args:
        along: executor of the bundle's route, with ``batches`` as the buckets of every segment.
        static: of the full route, with the same buckets.
        batches: numbers of videos.
        seconds: to take, about; every call is made five times at least and 50 times at most.
        report: gets a line about each step.
    """
    calls = [(index, n) for index in range(len(along.segments) + 1) for n in batches]

    def call(index: int, n: int) -> float:
        executor, segment = (static, 1) if index == STATIC else (along, index)
        return executor.time_once(segment, n)

    once = 0.0
    for index, n in calls:
        report(f"t_k(n): warming up segment {index} x {n}")
        started = time.perf_counter()
        call(index, n)
        call(index, n)
        once += (time.perf_counter() - started) / 2
    rounds = int(np.clip(seconds / max(once, 1e-9), 5, 50))
    rng, samples = np.random.default_rng(0), np.zeros((rounds, len(calls)))
    for number in range(rounds):
        report(f"t_k(n): round {number + 1}/{rounds}")
        for place in rng.permutation(len(calls)).tolist():
            samples[number, place] = call(*calls[place]) * 1e3
    entries = []
    for (index, n), column in zip(calls, samples.T, strict=True):
        p25, median, p75 = np.percentile(column, [25, 50, 75]).tolist()
        entries.append(SegmentTime(index, n, median, p25, p75))
    return entries


def cost_table(entries: Sequence[SegmentTime], source: str) -> CostTable:
    """Return the measured times as a table of costs."""
    rows: dict[int, list[tuple[int, float]]] = {}
    for entry in sorted(entries, key=lambda e: (e.index, e.batch)):
        rows.setdefault(entry.index, []).append((entry.batch, entry.median_ms))
    static = tuple(rows.pop(STATIC))
    return CostTable(tuple(tuple(rows[k]) for k in sorted(rows)), static, source)
