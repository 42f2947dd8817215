"""The loop around a scheduler: admits videos that were read, runs launches, and answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from ...grid.errors import BackendError, DeadlineError, ResourceError
from ..execution.executor import Executor
from ..exit_histogram import ExitHistogram
from ..exits import ExitRule
from ..prediction import Answer, VideoInFlight
from ..scheduling.queues import Ended, Launch, Wait
from ..scheduling.scheduler import Scheduler, Stats
from ..scheduling.slots import Slot
from ..video.prefetch import Part, Prefetcher, Reading

Videos = set[VideoInFlight]
Parts = dict[VideoInFlight, Part | None]
"""The frames of each video for one segment; None if the segment reads none."""


class StreamLoop:
    """Serves videos. Only the thread that owns the executor may call ``step``; other methods are for any thread.

    Args:
        executor: runs the launches.
        rule: decides who leaves.
        new_scheduler: returns a scheduler on the executor's slots.
        reader: reads the frames; the loop uses its lock too.

    Attributes:
        rule: as given; a new one applies from the next launch on.
        tally: exits and confidences of the videos answered, without numeric errors and videos cut by a deadline.
        stats: the scheduler's counts.
        unanswered: videos by their readings.
        stopped: set under the lock to end ``step``.
    """

    def __init__(
        self, executor: Executor, rule: ExitRule, new_scheduler: Callable[[], Scheduler], reader: Prefetcher
    ) -> None:
        self._executor, self.rule, self._new_scheduler, self._reader = executor, rule, new_scheduler, reader
        self._scheduler = new_scheduler()
        self.stats: Stats = self._scheduler.stats
        self.tally = ExitHistogram(len(executor.route.cells))
        self.unanswered: dict[Reading, VideoInFlight] = {}
        self.stopped = False
        costs, route = executor.bundle.manifest.costs, executor.route
        self._macs = [costs.checkpoint(route, k) for k in range(1, len(route.cells) + 1)]
        self._full_macs = costs.checkpoint(route.full, 1)
        self._cancelled: deque[VideoInFlight] = deque()
        self._flush_wanted = self._flushed = False

    def add(self, video: VideoInFlight) -> None:
        """Take a video in, under the same hold of the lock that added its reading to the reader."""
        self.unanswered[video.reading] = video

    def cancel(self, video: VideoInFlight) -> None:
        """Drop a video whose future was cancelled; its slot is freed once no launch holds it."""
        with self._reader.changed:
            video.cancelled = True
            self._cancelled.append(video)
            self._reader.drop(video.reading)
            self._reader.changed.notify_all()

    def flush(self) -> None:
        """Declare that no more videos come for now: once all are admitted, batches stop waiting to fill up."""
        with self._reader.changed:
            self._flush_wanted = True
            self._reader.changed.notify_all()

    def step(self) -> bool:
        """Run the next launch, or wait until there may be one; return whether to continue.

        Raises:
            BaseException: What ended a reader thread, or a programming error.
        """
        with self._reader.changed:
            self._drop_cancelled()
            refused = self._admit()
            if self._flush_wanted and not self._reader.ready and not self._reader.unread:
                self._flush_wanted, self._flushed = False, True
                self._scheduler.flush()
            now = time.monotonic()
            step = self._scheduler.next(now)
            ended = self._scheduler.take_ended()
            if step is None:  # the flushed videos have ended: continue with those that came since
                self._scheduler, self._flushed = self._new_scheduler(), False
                self._scheduler.stats = self.stats
            elif isinstance(step, Wait) and not refused and not ended:
                self._wait(None if step.until is None else step.until - now)
        for video in refused:
            self.settle(video, video.error)
        self._answer(ended)
        if isinstance(step, Launch):
            self._run(step)
        return not self.stopped

    def settle(self, video: VideoInFlight, outcome: Answer | BaseException | None) -> None:
        """Give a video its outcome, once, and forget it; None if its future was cancelled."""
        with self._reader.changed:
            self._reader.drop(video.reading)
            self.unanswered.pop(video.reading, None)
            first, video.settled = not video.settled, True
        if first and video.future.set_running_or_notify_cancel():
            if isinstance(outcome, Answer):
                video.future.set_result(outcome)
            else:
                video.future.set_exception(outcome)

    def _wait(self, seconds: float | None) -> None:
        if self._reader.fault is not None:
            raise self._reader.fault
        if not self.stopped:
            self._reader.changed.wait(seconds)

    def _admit(self) -> list[VideoInFlight]:
        """Offer videos to the scheduler while there are slots; return those whose first frames could not be read."""
        refused = []
        for reading in list(self._reader.ready):
            video, part = self.unanswered[reading], reading.parts[1]
            if isinstance(part, Exception):
                video.error = part
                self._reader.drop(reading)
                refused.append(video)
            elif self._scheduler.slots.free and not self._flushed:
                self._reader.admit(reading)
                self._scheduler.offer(video, time.monotonic(), video.deadline)
        return refused

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            video = self._cancelled.popleft()
            self._scheduler.cancel(video)
            self.settle(video, None)

    def _run(self, launch: Launch) -> None:
        """Run a launch for those of its videos that can continue, and hand it back to the scheduler."""
        index, videos = launch.segment, [cast(VideoInFlight, ticket.video) for ticket in launch.tickets]
        with self._reader.changed:
            while not self.stopped and not all(v.cancelled or self._reader.has(v.reading, index) for v in videos):
                self._wait(None)
            if self.stopped:
                return
            parts = {v: v.reading.parts.get(index) for v in videos if not v.cancelled}
            self._read_on(parts, index + 1, certain=False)
        unread = {video for video, part in parts.items() if isinstance(part, Exception)}
        for video in unread:
            video.error = cast(Exception, parts.pop(video))  # becomes its answer
        slots = {video: ticket.slot for video, ticket in zip(videos, launch.tickets, strict=True)}
        left, failed = self._run_videos(index, slots, cast(Parts, parts)) if parts else (Videos(), Videos())
        with self._reader.changed:
            self._drop_cancelled()
            ended = self._scheduler.update(launch, time.monotonic(), left | unread, failed)
            done = [video for video in parts if video not in failed]
            for video in done:
                self._reader.used(video.reading, index)
            self._read_on((video for video in done if video not in left), index + 1, certain=True)
        self._answer(ended)

    def _run_videos(self, index: int, slots: Mapping[VideoInFlight, Slot], parts: Parts) -> tuple[Videos, Videos]:
        """Run a segment for the videos of ``parts``; return those that leave, and those that failed."""
        started = time.perf_counter()
        frames = [part.frames for part in parts.values() if part is not None]
        try:
            logits, probabilities = self._executor.run(index, [slots[v] for v in parts], frames or None)
        except (BackendError, ResourceError) as error:
            for video in parts:
                video.error = error  # becomes its answer if it fails alone
            return Videos(), set(parts)
        verdicts = [self.rule.judge(index, z, p) for z, p in zip(logits, probabilities, strict=True)]
        milliseconds = (time.perf_counter() - started) * 1e3 / len(parts)
        for (video, part), verdict, z, p in zip(parts.items(), verdicts, logits, probabilities, strict=True):
            video.part = part or video.part
            video.pass_checkpoint(verdict, z, p, milliseconds)
        is_last = index == len(self._executor.segments)
        return {
            v for v, verdict in zip(parts, verdicts, strict=True) if verdict.leaves and (is_last or not v.trace)
        }, Videos()

    def _read_on(self, videos: Iterable[VideoInFlight], index: int, certain: bool) -> None:
        """Request the frames of segment ``index``, if there is one."""
        if index <= len(self._executor.segments):
            for video in videos:
                self._reader.want(video.reading, index, certain)

    def _answer(self, ended: Iterable[Ended]) -> None:
        for end in ended:
            video = cast(VideoInFlight, end.video)
            if end.status == "late":
                fault = (
                    f"no checkpoint was passed by its deadline, {end.at - end.arrived:.3f} s after its frames were read"
                )
                self.settle(video, DeadlineError(f"video '{video}': {fault}. Give more time, or fewer videos at once."))
            elif video.error is not None:
                self.settle(video, video.error)
            else:
                answer = video.answer(end, self._macs, self._full_macs, self._executor.bundle.manifest)
                if answer.confidence is not None and not answer.cut:
                    self.tally.add(answer.checkpoint, answer.confidence)
                self.settle(video, answer)
