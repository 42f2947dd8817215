"""Measure the table t_k(n): milliseconds of one call of each segment, and of the static network, for n videos."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from ...runtime.execution.capacity import Limits
from ..segment_times import SegmentTime
from ..simulation.cost_tables import CostTable
from .contestants import Open

LOG = logging.getLogger("dynvid")

STATIC = 0
"""Index of the static network among segments."""


def measure_table(open_one: Open, segments: int, batch: int, streams: int, seconds: float) -> list[SegmentTime]:
    """Return the time of every call, index 0 for the static network, with all streams working at the same time.

    Each stream is a thread that opens its own backend, because a GPU belongs to one thread, and makes all calls in
    turn.

    Args:
        open_one: opens what ``classify`` runs.
        segments: of the route.
        batch: most videos in one call.
        streams: number of streams.
        seconds: approximate time to take; every call is made at least 5 and at most 50 times.

    Raises:
        DynvidError: If opening the backend or its executors fails, or a call does.
    """
    calls, limits = [(index, n) for index in range(segments + 1) for n in _sizes(batch)], Limits(batch)
    warm_s, all_warm = [0.0] * streams, threading.Barrier(streams)

    def measure(number: int) -> NDArray[np.float64]:
        """Return the milliseconds of one stream's calls, [rounds, calls]."""
        try:
            along = open_one(limits=limits)
            with closing(along.backend):
                static = open_one(backend=along.backend, limits=limits, full=True)

                def call(index: int, n: int) -> float:
                    return static.time_once(1, n) if index == STATIC else along.time_once(index, n)

                started = time.perf_counter()
                for index, n in calls * 2:
                    call(index, n)
                warm_s[number] = time.perf_counter() - started
                all_warm.wait()
                rounds = int(np.clip(2 * seconds / max(*warm_s, 1e-9), 5, 50))
                rng, samples = np.random.default_rng(number), np.zeros((rounds, len(calls)))
                for turn in range(rounds):
                    if number == 0:
                        LOG.debug(f"t_k(n): round {turn + 1}/{rounds}")
                    for place in rng.permutation(len(calls)).tolist():
                        samples[turn, place] = call(*calls[place]) * 1e3
                return samples
        except BaseException:
            all_warm.abort()  # otherwise the others would wait for ever
            raise

    LOG.info("t_k(n): warming up")
    with ThreadPoolExecutor(streams) as pool:
        running = [pool.submit(measure, number) for number in range(streams)]
    faults = [found.exception() for found in running]
    for fault in sorted(filter(None, faults), key=lambda one: isinstance(one, threading.BrokenBarrierError)):
        raise fault
    samples = np.concatenate([found.result() for found in running])
    entries = []
    for (index, n), column in zip(calls, samples.T, strict=True):
        p25, median, p75 = np.percentile(column, [25, 50, 75]).tolist()
        entries.append(SegmentTime(index, n, median, p25, p75))
    return entries


def cost_table(entries: Sequence[SegmentTime], source: str) -> CostTable:
    """Return the measured times as a cost table."""
    rows: dict[int, list[tuple[int, float]]] = {}
    for entry in sorted(entries, key=lambda e: (e.index, e.batch)):
        rows.setdefault(entry.index, []).append((entry.batch, entry.median_ms))
    static = tuple(rows.pop(STATIC))
    return CostTable(tuple(tuple(rows[k]) for k in sorted(rows)), static, source)


def _sizes(batch: int) -> list[int]:
    """Return the batch sizes to measure: all of few, every second or fourth of many, and the largest."""
    step = 1 if batch <= 4 else 2 if batch <= 16 else 4
    return sorted({1, *range(step, batch + 1, step), batch})
