"""The table t_k(n), measured: milliseconds of one call of each segment, and of the static network, for n videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from ..grid.bundle import Bundle
from ..grid.fusion import FusedSegment
from ..grid.manifest import Precision
from ..runtime.backends.base import Backend
from ..runtime.batch_executor import BatchExecutor
from .cost_tables import CostTable
from .timing import SegmentTime

STATIC = 0
"""Index of the static network among segments."""


Lane = tuple[BatchExecutor, BatchExecutor]
"""What one stream runs: executors of the bundle's route and of the full one, the same buckets for every segment of both."""


def measure_table(
    bundle: Bundle, open_one: Callable[[], Backend], precision: Precision, load: Callable[[FusedSegment], bytes], batch: int, streams: int,
    seconds: float, report: Callable[[str], None],
) -> list[SegmentTime]:  # fmt: skip
    """Return the time of every call with up to ``batch`` videos, with as many streams at work as there will be.

    Args:
        bundle: the bundle.
        open_one: returns what computes, anew for each stream; closed at the end.
        precision: of the graphs.
        load: of fused segments.
        batch: most videos of one call.
        streams: how many.
        seconds: as ``measure_calls``.
        report: as ``measure_calls``.

    Raises:
        DynvidError: As opening the backend and its executors.
    """
    sizes = _sizes(batch)
    with ExitStack() as opened:
        lanes = []
        for _ in range(streams):
            backend = open_one()
            opened.callback(backend.close)
            along, static = (
                BatchExecutor(bundle, backend, precision, load, 1, [sizes] * segments, full=full)
                for full, segments in ((False, len(bundle.manifest.route.cells)), (True, 1))
            )
            lanes.append((along, static))
        return measure_calls(lanes, sizes, seconds, report)


def measure_calls(
    lanes: Sequence[Lane], batches: Sequence[int], seconds: float, report: Callable[[str], None]
) -> list[SegmentTime]:
    """Return the time of every call, index 0 for the static network, all measured in turn.

    Args:
        lanes: one for each stream; all are measured at once, as streams disturb one another.
        batches: the buckets: numbers of videos.
        seconds: to take, about; every call is made five times at least and 50 times at most.
        report: gets a line about each step.
    """
    calls = [(index, n) for index in range(len(lanes[0][0].segments) + 1) for n in batches]

    def call(lane: Lane, index: int, n: int) -> float:
        along, static = lane
        return static.time_once(1, n) if index == STATIC else along.time_once(index, n)

    def warm(lane: Lane) -> float:
        started = time.perf_counter()
        for index, n in calls * 2:
            call(lane, index, n)
        return (time.perf_counter() - started) / 2

    def measure(number: int) -> NDArray[np.float64]:
        rng, samples = np.random.default_rng(number), np.zeros((rounds, len(calls)))
        for turn in range(rounds):
            if number == 0:
                report(f"t_k(n): round {turn + 1}/{rounds}")
            for place in rng.permutation(len(calls)).tolist():
                samples[turn, place] = call(lanes[number], *calls[place]) * 1e3
        return samples

    with ThreadPoolExecutor(len(lanes)) as pool:
        report("t_k(n): warming up")
        rounds = int(np.clip(seconds / max(*pool.map(warm, lanes), 1e-9), 5, 50))
        samples = np.concatenate(list(pool.map(measure, range(len(lanes)))))
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


def _sizes(batch: int) -> list[int]:
    """Return the batches to measure: all of few, every second or fourth of many, and the largest."""
    step = 1 if batch <= 4 else 2 if batch <= 16 else 4
    return sorted({1, *range(step, batch + 1, step), batch})
