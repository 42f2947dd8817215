"""A stream classifies many videos at once: it prefetches their frames and rebatches survivors at every checkpoint.

One thread owns the backend and drives the scheduler; others read frames. A video is answered as soon as it leaves, so
answers do not come in the order of the videos. A launch waits for the frames of all its videos, so a file that keeps
its decoder busy delays others, but no longer than the decoder's timeout.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack

from ...grid.errors import UsageError
from ..argument_checks import require_seconds
from ..execution.executor import Executor
from ..exit_histogram import ExitHistogram
from ..exits import ExitRule
from ..prediction import Answer, VideoInFlight
from ..scheduling.batch_cost import Cost
from ..scheduling.policies import Mode
from ..scheduling.scheduler import Scheduler, Stats
from ..video.decoder import Decoder
from ..video.frames import FrameSource
from ..video.prefetch import Prefetcher
from .in_flight import StreamBase
from .loop import StreamLoop


class Stream(StreamBase):
    """Classifies videos; a context manager.

    Args:
        open_executor: returns the executor. It is called in the thread that then owns it, because a GPU belongs to one
            thread. The executor's backend is closed with the stream.
        thresholds: one per checkpoint, the last None; None: every video runs to the end of its route.
        temperatures: one per checkpoint, those that the thresholds were chosen with; None: confidences stay unscaled.
        mode: mode of the scheduler; ``static`` needs an executor of the full route.
        cost: t_k(n), seconds; None: what ``measure`` returns.
        patience_s: see ``Scheduler``.
        decoders: number of threads that read frames, each with a child process for video files.
        ahead: how many videos to prefetch, see ``Prefetcher``; None: as many as one call of segment 1 takes.
        open_decoder: returns a decoder.
        measure: returns t_k(n) of the executor; called in its thread, before the first video.

    Attributes:
        executor: as opened.
        reader: reads the frames.

    Raises:
        ThresholdsError, UsageError: If the arguments do not fit the route or one another.
        DynvidError: As ``open_executor``.
    """

    executor: Executor
    reader: Prefetcher

    def __init__(
        self,
        open_executor: Callable[[], Executor],
        thresholds: Sequence[float | None] | None = None,
        temperatures: Sequence[float] | None = None,
        *,
        mode: Mode = "throughput",
        cost: Cost | None = None,
        patience_s: float | None = None,
        decoders: int = 2,
        ahead: int | None = None,
        open_decoder: Callable[[], Decoder] = Decoder,
        measure: Callable[[Executor], Cost] = Executor.measured_cost,
    ) -> None:
        self._mode: Mode = mode
        self._fault: BaseException | None = None

        def open_drive() -> None:
            executor, manifest = self.executor, self.executor.bundle.manifest
            rule = ExitRule(executor.route, thresholds, temperatures)
            seconds = measure(executor) if cost is None else cost
            first = executor.buckets[0][-1] if ahead is None else ahead
            samples = [manifest.grid.frame_order[segment.start : segment.stop] for segment in executor.segments]

            def new_scheduler() -> Scheduler:
                return Scheduler(seconds, executor.buckets, executor.store.slots, mode, patience_s=patience_s)

            new_scheduler()  # raise its errors before any thread starts
            self.reader = Prefetcher(
                manifest.preprocessing, manifest.grid.num_frames, samples, decoders, first, open_decoder
            )
            self._drive = StreamLoop(executor, rule, new_scheduler, self.reader)
            self._most = executor.store.slots.count + first + decoders

        opened: Future[None] = Future()
        self._owner = threading.Thread(
            target=self._own, args=(open_executor, open_drive, opened), name="stream", daemon=True
        )
        self._owner.start()
        try:
            opened.result()
        except BaseException:  # Ctrl-C too, while it is still being opened
            opened.add_done_callback(lambda done: None if done.exception() else self._stop())
            if opened.done():
                self._owner.join()
            raise
        atexit.register(self.close)

    @property
    def most(self) -> int:
        """Most videos in flight or prefetched."""
        return self._most

    @property
    def fault(self) -> BaseException | None:
        """What ended the stream before it was closed."""
        return self._fault

    @property
    def stats(self) -> Stats:
        """The scheduler's counts."""
        return self._drive.stats

    @property
    def tally(self) -> ExitHistogram:
        """Exits and confidences of the videos answered so far, without numeric errors and videos cut by a deadline."""
        return self._drive.tally

    def judge_by(self, thresholds: Sequence[float | None] | None, temperatures: Sequence[float] | None = None) -> None:
        """Use other thresholds, for videos in flight from their next launch on.

        Raises:
            ThresholdsError: If they do not fit the route.
        """
        self._drive.rule = ExitRule(self.executor.route, thresholds, temperatures)

    def submit(
        self, video: os.PathLike[str] | FrameSource, deadline_s: float | None = None, trace: bool = False
    ) -> Future[Answer]:
        """Return a future for the answer to one video; see ``StreamBase``.

        Raises:
            UsageError: If the stream is closed, or the deadline is no number of seconds or not for its mode.
        """
        if deadline_s is not None and self._mode != "deadline":
            raise UsageError(f"a deadline of {deadline_s} s in mode {self._mode!r}: use mode 'deadline'")
        now = time.monotonic()
        due = None if deadline_s is None else now + require_seconds("deadline_s", deadline_s)
        with self.reader.changed:
            if self._drive.stopped:
                why = "closed" if self._fault is None else f"broken ({self._fault})"
                raise UsageError(f"the stream is {why}: open another one") from self._fault
            found = VideoInFlight(self.reader.add(video), now, due, trace)
            self._drive.add(found)

        def forget(future: Future[Answer]) -> None:
            if future.cancelled():
                self._drive.cancel(found)

        found.future.add_done_callback(forget)
        return found.future

    def flush(self) -> None:
        """Declare that no more videos come for now; see ``StreamBase``."""
        self._drive.flush()

    def close(self) -> None:
        """Release everything; see ``StreamBase``."""
        self._stop()
        if threading.current_thread() is not self._owner:
            self._owner.join()
        atexit.unregister(self.close)

    def _stop(self) -> None:
        with self.reader.changed:
            self._drive.stopped = True
            self.reader.changed.notify_all()

    def _own(self, open_executor: Callable[[], Executor], open_drive: Callable[[], None], opened: Future[None]) -> None:
        try:
            with ExitStack() as stack:
                self.executor = open_executor()
                stack.callback(self.executor.backend.close)
                open_drive()
                stack.callback(self.reader.close)
                opened.set_result(None)
                while self._drive.step():
                    pass
        except BaseException as fault:  # raised by the constructor, or by every unanswered video
            if not opened.done():
                opened.set_exception(fault)
                return
            self._fault = fault
        self._stop()
        for video in list(self._drive.unanswered.values()):
            if self._fault is None:
                video.future.cancel()
            self._drive.settle(video, self._fault)
