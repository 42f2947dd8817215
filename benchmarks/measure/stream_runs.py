"""Run many videos at once through a real stream, offline or as they arrive, and record where the time went."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ...runtime.closing import Closing
from ...runtime.execution.executor import Executor
from ...runtime.prediction import Answer
from ...runtime.scheduling.slots import Slot
from ...runtime.stream.pool import StreamPool
from ...runtime.stream.stream import Stream
from ..report.report import LaunchSpan
from ..simulation.cost_tables import CostTable
from ..simulation.outcome import Exits, Floats, SimulatedRun
from .clips import InOrder

MOST_LAUNCHES = 2000
"""Most launches of a run that are kept for the trace."""


class TimedExecutor(Executor):
    """An executor that records its launches.

    Attributes:
        launches: (segment, rows of the store, start, seconds) by ``time.perf_counter``.
        most_held: most slots held during a launch.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.launches: list[tuple[int, tuple[int, ...], float, float]] = []
        self.most_held = 0
        super().__init__(*arguments, **options)

    def run(
        self, index: int, slots: Sequence[Slot], frames: Sequence[NDArray[np.float32]] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run one segment, as every executor does."""
        started = time.perf_counter()
        answers = super().run(index, slots, frames)
        self.launches.append((index, tuple(s.index for s in slots), started, time.perf_counter() - started))
        self.most_held = max(self.most_held, self.store.slots.count - self.store.slots.free)
        return answers


@dataclass(frozen=True)
class Served:
    """The results of a stream.

    Attributes:
        run: latencies, exits and seconds.
        fills: [segment][n], number of launches with n videos.
        wait_ms: [segment], mean wait in its queue.
        in_flight: most videos that held a slot.
        frames_s, copies_s, calls_s: of the executor, as ``Executor``.
        filled_s: what the launches should have taken by t_k(n), without their padding; ``padded_s``: with it.
        launches: the first of them.
    """

    run: SimulatedRun
    fills: tuple[tuple[int, ...], ...]
    wait_ms: tuple[float, ...]
    in_flight: int
    frames_s: float
    copies_s: float
    calls_s: float
    filled_s: float
    padded_s: float
    launches: tuple[LaunchSpan, ...]


class _Counts(NamedTuple):
    """Launches by [segment, videos], seconds in queues by [segment], and seconds for frames, copies and calls."""

    fills: NDArray[np.int64]
    waited_s: Floats
    seconds: Floats


class Bed(Closing):
    """One or several streams, kept open for several runs on the same clips; a context manager.

    Args:
        open_executor: as ``Stream``; returns a ``TimedExecutor``.
        table: t_k(n).
        clips: to classify: frames in memory, or files.
        streams: number of streams.
        options: of ``Stream``.
    """

    def __init__(
        self,
        open_executor: Callable[[], Executor],
        table: CostTable,
        clips: Sequence[InOrder | Path],
        streams: int = 1,
        **options: Any,
    ) -> None:
        self._table, self._clips = table, clips

        def open_stream() -> Stream:
            return Stream(open_executor, cost=lambda k, n: table.ms(k, n) / 1e3, decoders=1, **options)

        self._intake = StreamPool(open_stream, streams)  # as in classify, even for one stream
        self._streams = self._intake.streams
        self._executors = [cast(TimedExecutor, stream.executor) for stream in self._streams]
        for _, answer in self._intake.classify(clips):  # warm-up
            _answered(answer)

    def close(self) -> None:
        """End the streams."""
        self._intake.close()

    def judge_by(self, thresholds: Sequence[float | None] | None, temperatures: Sequence[float] | None) -> None:
        """Use other thresholds from now on."""
        for stream in self._streams:
            stream.judge_by(thresholds, temperatures)

    def serve(self, name: str, order: Sequence[int], arrivals: Floats | None = None) -> Served:
        """Run some videos; return the results.

        Args:
            name: of the run.
            order: [videos], the clip that each is.
            arrivals: [videos], seconds, ascending; None: all present from the start.

        Raises:
            DynvidError: If a video has no answer.
        """
        before = self._counts()
        for executor in self._executors:
            executor.launches.clear()
            executor.most_held = 0
        begun = time.perf_counter()
        latency, exits, seconds = (
            self._offline(order, begun) if arrivals is None else self._arriving(order, arrivals, begun)
        )
        after = self._counts()
        counts = after.fills - before.fills
        videos = (counts * np.arange(counts.shape[1])).sum(axis=1)
        spent = after.waited_s - before.waited_s
        frames_s, copies_s, calls_s = (after.seconds - before.seconds).tolist()
        filled = padded = 0.0
        buckets = self._executors[0].buckets
        launches = sorted(
            (launch for executor in self._executors for launch in executor.launches), key=lambda one: one[2]
        )
        for index, rows, _, _ in launches:
            filled += self._table.ms(index, len(rows)) / 1e3
            padded += self._table.ms(index, next(size for size in buckets[index - 1] if size >= len(rows))) / 1e3
        return Served(
            SimulatedRun(name, latency, exits, seconds, calls_s),
            tuple(map(tuple, counts.tolist())),
            tuple((spent * 1e3 / np.maximum(1, videos)).tolist()),
            sum(executor.most_held for executor in self._executors),
            frames_s, copies_s, calls_s, filled, padded,
            tuple(
                LaunchSpan(name, index, rows, (start - begun) * 1e3, s * 1e3)
                for index, rows, start, s in launches[:MOST_LAUNCHES]
            ),
        )  # fmt: skip

    def _counts(self) -> _Counts:
        """Return the totals of all streams so far."""
        stats = [stream.stats for stream in self._streams]
        return _Counts(
            np.sum([s.fills for s in stats], axis=0),
            np.sum([s.waited_s for s in stats], axis=0),
            np.sum([(e.frames_s, e.copies_s, e.calls_s) for e in self._executors], axis=0),
        )

    def _offline(self, order: Sequence[int], begun: float) -> tuple[Floats, Exits, float]:
        latency, exits = [], []
        for _, answer in self._intake.classify(self._clips[clip] for clip in order):
            latency.append(time.perf_counter() - begun)
            exits.append(_answered(answer).checkpoint)
        return np.array(latency), np.array(exits), latency[-1]

    def _arriving(self, order: Sequence[int], arrivals: Floats, begun: float) -> tuple[Floats, Exits, float]:
        done = np.zeros(len(order))
        left = threading.Semaphore(0)
        futures: list[Future[Answer]] = []

        def note(place: int) -> None:
            done[place] = time.perf_counter() - begun
            left.release()

        for place, (clip, at) in enumerate(zip(order, arrivals.tolist(), strict=True)):
            ahead = begun + at - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            future = self._intake.submit(self._clips[clip])
            future.add_done_callback(lambda _, place=place: note(place))  # type: ignore[misc]
            futures.append(future)
        self._intake.flush()
        for _ in order:
            left.acquire()
        exits = np.array([_answered(future.exception() or future.result()).checkpoint for future in futures])
        return done - arrivals, exits, float(done.max())


def _answered(answer: Answer | BaseException) -> Answer:
    if isinstance(answer, BaseException):
        raise answer
    return answer
