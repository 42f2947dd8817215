"""A stream classifies many videos at once: their frames are read ahead, and survivors are batched anew at every checkpoint.

One thread owns the backend and drives the scheduler; others read frames. A video is answered as soon as it leaves, so
answers come in another order than the videos. A launch waits for the frames of all its videos: a file that keeps its decoder
busy holds others up, but no longer than the decoder's timeout.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ..grid.errors import DynvidError, UsageError
from .answer import Answer, VideoInFlight
from .batch_executor import BatchExecutor
from .call_times import Cost
from .decoder import Decoder
from .drive import Drive
from .exit_rule import ExitRule
from .frames import FrameSource
from .policies import Mode
from .read_ahead import ReadAhead
from .scheduler import Scheduler, Stats
from .tally import ExitTally

Video = TypeVar("Video", bound=Path | FrameSource)


class Stream:
    """Classifies videos; a context manager.

    Args:
        open_executor: returns the executor. It is called in the thread that owns it from then on, for a GPU belongs to one
            thread; its backend is closed with the stream.
        thresholds: one a checkpoint, the last None; None: every video runs to the end of its route.
        temperatures: one a checkpoint, as the thresholds were chosen with; None: confidences as they are.
        mode: of the scheduler; ``static`` needs an executor of the full route.
        cost: t_k(n), seconds; None: as the executor measures it now.
        patience_s: of the scheduler.
        decoders: threads that read frames, each with a child process for video files.
        ahead: videos that are read ahead, see ``ReadAhead``; None: as many as one call of segment 1 takes.
        open_decoder: returns a decoder.

    Attributes:
        executor: as opened.
        reader: what reads the frames.

    Raises:
        ThresholdsError, UsageError: If the arguments do not fit the route or one another.
        DynvidError: As ``open_executor``.
    """

    executor: BatchExecutor
    reader: ReadAhead

    def __init__(
        self,
        open_executor: Callable[[], BatchExecutor],
        thresholds: Sequence[float | None] | None = None,
        temperatures: Sequence[float] | None = None,
        *,
        mode: Mode = "throughput",
        cost: Cost | None = None,
        patience_s: float | None = None,
        decoders: int = 2,
        ahead: int | None = None,
        open_decoder: Callable[[], Decoder] = Decoder,
    ) -> None:
        self._mode: Mode = mode
        self._fault: BaseException | None = None

        def open_drive() -> None:
            executor, manifest = self.executor, self.executor.bundle.manifest
            rule = ExitRule(executor.route, thresholds, temperatures)
            seconds = executor.measured_cost() if cost is None else cost
            first = executor.buckets[0][-1] if ahead is None else ahead
            samples = [manifest.grid.frame_order[segment.start : segment.stop] for segment in executor.segments]

            def new_scheduler() -> Scheduler:
                return Scheduler(seconds, executor.buckets, executor.store.slots, mode, patience_s=patience_s)

            new_scheduler()  # its errors come before any thread starts
            self.reader = ReadAhead(
                manifest.preprocessing, manifest.grid.num_frames, samples, decoders, first, open_decoder
            )
            self._drive = Drive(executor, rule, new_scheduler, self.reader)
            self._most = executor.store.slots.count + first + decoders

        opened: Future[None] = Future()
        self._owner = threading.Thread(
            target=self._own, args=(open_executor, open_drive, opened), name="stream", daemon=True
        )
        self._owner.start()
        try:
            opened.result()
        except BaseException:  # Ctrl-C too: then it is still being opened
            opened.add_done_callback(lambda done: None if done.exception() else self._stop())
            raise
        atexit.register(self.close)

    @property
    def stats(self) -> Stats:
        """The scheduler's counts."""
        return self._drive.stats

    @property
    def tally(self) -> ExitTally:
        """Exits and confidences of the videos answered so far, but numeric errors and those that a deadline cut short."""
        return self._drive.tally

    def submit(self, video: Path | FrameSource, deadline_s: float | None = None) -> Future[Answer]:
        """Return the future answer for one video; for any thread, and for ``asyncio.wrap_future``.

        Cancelling it works until it is done, and frees the video's slot once no launch holds it. Its exception is what
        reading the video, or its last launch alone, raised, or ``DeadlineError`` where it passed no checkpoint in time.

        Args:
            video: a file, or its frames by temporal sample number; they are read in another thread and not closed.
            deadline_s: from now; only in mode ``deadline``.

        Raises:
            UsageError: If the stream is closed, or another mode is given a deadline.
        """
        if deadline_s is not None and self._mode != "deadline":
            raise UsageError(f"a deadline of {deadline_s} s in mode {self._mode!r}: use mode 'deadline'")
        now = time.monotonic()
        with self.reader.changed:
            if self._drive.stopped:
                why = "closed" if self._fault is None else f"at its end ({self._fault})"
                raise UsageError(f"the stream is {why}: open another one") from self._fault
            found = VideoInFlight(self.reader.add(video), now, None if deadline_s is None else now + deadline_s)
            self._drive.add(found)

        def forget(future: Future[Answer]) -> None:
            if future.cancelled():
                self._drive.cancel(found)

        found.future.add_done_callback(forget)
        return found.future

    def classify(
        self, videos: Iterable[Video], deadline_s: float | None = None
    ) -> Iterator[tuple[Video, Answer | DynvidError]]:
        """Yield each video with its answer as soon as it has one, or with the error why it has none.

        No more videos are taken from ``videos`` than are in flight or read ahead. Whoever stops iterating cancels the rest.

        Args:
            videos: files, or frames, see ``submit``.
            deadline_s: for each, from when it is taken; only in mode ``deadline``.

        Raises:
            UsageError: As ``submit``.
            BaseException: What ended the stream, or what was raised by frames that the caller gave.
        """
        done: queue.SimpleQueue[Future[Answer]] = queue.SimpleQueue()
        pending: dict[Future[Answer], Video] = {}
        waiting = iter(videos)
        more = True
        try:
            while True:
                while more and len(pending) < self._most:
                    video = next(waiting, None)
                    if video is None:
                        more = False
                        self.flush()
                    else:
                        future = self.submit(video, deadline_s)
                        pending[future] = video
                        future.add_done_callback(done.put)
                if not pending:
                    return
                future = done.get()
                error = future.exception()
                if error is not None and (self._fault is not None or not isinstance(error, DynvidError)):
                    raise error
                yield pending.pop(future), error or future.result()
        finally:
            for future in pending:
                future.cancel()

    def flush(self) -> None:
        """Say that no more videos come for now: once all that came are admitted, no batch is kept waiting for company.

        What is submitted meanwhile is served after those.
        """
        self._drive.flush()

    def close(self) -> None:
        """Give everything back, child processes too; waits for the launch and the parts that are under way.

        Videos without an answer are cancelled.
        """
        self._stop()
        if threading.current_thread() is not self._owner:
            self._owner.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _stop(self) -> None:
        with self.reader.changed:
            self._drive.stopped = True
            self.reader.changed.notify_all()

    def _own(
        self, open_executor: Callable[[], BatchExecutor], open_drive: Callable[[], None], opened: Future[None]
    ) -> None:
        try:
            with ExitStack() as stack:
                self.executor = open_executor()
                stack.callback(self.executor.backend.close)
                open_drive()
                stack.callback(self.reader.close)
                opened.set_result(None)
                while self._drive.step():
                    pass
        except BaseException as fault:  # not swallowed: the constructor, or every video without an answer, raises it
            if not opened.done():
                opened.set_exception(fault)
                return
            self._fault = fault
        self._stop()
        for video in list(self._drive.unanswered.values()):
            if self._fault is None:
                video.future.cancel()
            self._drive.settle(video, self._fault)
