"""Prefetch the frames of many videos: each part shortly before the segment that needs it runs.

A part is the set of new frames that one segment of a video needs. Threads, each with its own decoder, read parts in
this order: parts that are certainly needed; first parts of new videos, as long as few await admission; parts of the
next segment of videos that may still leave before it (speculative reads). So if decoding is the bottleneck, nothing
is decoded in vain.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import FramesError, UsageError
from ...grid.preprocessing import Preprocessing
from .decoder import Decoder
from .fetched_video import FetchedVideo
from .frames import FrameSource
from .remote import is_uri


@dataclass(frozen=True, slots=True)
class Part:
    """The frames of one segment, and what was known about the video once they were read.

    Attributes:
        frames: [frames, 3, crop, crop] in permuted order.
        decoded: number of frames that the decoder processed for this part.
        frames_decoded, frames_total, damaged, warnings, decode_ms: as ``FrameSource``.
    """

    frames: NDArray[np.float32]
    decoded: int
    frames_decoded: int
    frames_total: int
    damaged: bool
    warnings: tuple[str, ...]
    decode_ms: float


class Reading:
    """A video that is being read; only ``Prefetcher`` changes it.

    Attributes:
        video: a file, or its frames.
        parts: parts that were read but not used yet, by segment (1-based); an exception if reading failed.
    """

    __slots__ = ("_asked", "_begun", "_certain", "_dropped", "_source", "_waits", "_worker", "parts", "video")

    def __init__(self, video: os.PathLike[str] | FrameSource) -> None:
        self.video = video
        self.parts: dict[int, Part | Exception] = {}
        self._asked = 0  # the last segment whose part was requested
        self._certain = True  # whether that part is certainly needed
        self._begun = False  # whether a thread has started reading it
        self._waits = False  # whether it counts as awaiting admission
        self._dropped = False
        self._worker = 0
        self._source: FrameSource | None = None


class Prefetcher:
    """Threads that read the videos' parts.

    Args:
        preprocessing: applied to the frames.
        num_samples: number of frames sampled from a video.
        samples: for each segment, the numbers of its new frames, in temporal order from 0; empty if it reads none.
        threads: number of reader threads, at least 1. Each starts a decoder's child process at its first video file.
        ahead: limit on videos awaiting admission and on speculative reads; 0 allows one waiting video and no
            speculation.
        open_decoder: returns a decoder; each thread gets its own.

    Attributes:
        changed: the condition whose lock guards everything here, and in the prefetcher's user; notified when a part
            was read.
        ready: readings whose first part was read, until they are admitted or dropped.
        frames_in_vain: number of frames decoded for parts that were never used.
        most_held: the most parts held at once.
        fault: what ended a thread unexpectedly.

    Raises:
        UsageError: If a number is too low.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        num_samples: int,
        samples: Sequence[Sequence[int]],
        threads: int,
        ahead: int,
        open_decoder: Callable[[], Decoder] = Decoder,
    ) -> None:
        if threads < 1 or ahead < 0:
            raise UsageError(f"{threads} decoders, {ahead} videos prefetched: expected at least 1 decoder and 0 videos")
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self.ready: deque[Reading] = deque()
        self.frames_in_vain = self.most_held = 0
        self.fault: BaseException | None = None
        self._preprocessing, self._num_samples = preprocessing, num_samples
        self._samples = samples
        self._most_waiting, self._most_ahead = max(1, ahead), ahead
        self._open_decoder = open_decoder
        self._waiting = self._ahead = self._held = 0
        self._new: deque[Reading] = deque()
        # one queue per thread: a video belongs to the decoder that has it open
        self._certain: list[deque[Reading]] = [deque() for _ in range(threads)]
        self._perhaps: list[deque[Reading]] = [deque() for _ in range(threads)]
        self._to_close: list[deque[FrameSource]] = [deque() for _ in range(threads)]
        self._work_for = [threading.Condition(lock) for _ in range(threads)]
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"reader {worker}", daemon=True)
            for worker in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    # the methods below are called under the lock

    def add(self, video: os.PathLike[str] | FrameSource) -> Reading:
        """Return the reading of a video and queue its first part."""
        reading = Reading(video)
        reading._asked = 1
        self._new.append(reading)
        self._wake_all()
        return reading

    @property
    def unread(self) -> bool:
        """Whether a reading is neither ready nor admitted."""
        return bool(self._new) or self._waiting > len(self.ready)

    def admit(self, reading: Reading) -> None:
        """Note that a ready video now has a slot."""
        self.ready.remove(reading)
        reading._waits = False
        self._waiting -= 1
        if self._new:
            self._wake_all()

    def want(self, reading: Reading, index: int, certain: bool) -> None:
        """Request the part of segment ``index``, if it has one, or mark it as certainly needed.

        The part requested before must have been read.
        """
        if not self._samples[index - 1] or reading._dropped:
            return
        if reading._asked < index:
            reading._asked, reading._certain, reading._begun = index, certain, False
            (self._certain if certain else self._perhaps)[reading._worker].append(reading)
        elif certain and not reading._certain:
            reading._certain = True
            if reading._begun:
                self._ahead -= 1
                self._wake_all()
                return
            self._certain[reading._worker].append(reading)
        self._work_for[reading._worker].notify()

    def has(self, reading: Reading, index: int) -> bool:
        """Return whether segment ``index`` has its part or needs none."""
        return not self._samples[index - 1] or index in reading.parts

    def used(self, reading: Reading, index: int) -> None:
        """Release a part, if any, after its segment has run on it."""
        if reading.parts.pop(index, None) is not None:
            self._held -= 1

    def drop(self, reading: Reading) -> None:
        """Stop reading a video; what was read but not used was read in vain."""
        if reading._dropped:
            return
        reading._dropped = True
        if reading._waits:
            reading._waits = False
            self._waiting -= 1
            if reading in self.ready:
                self.ready.remove(reading)
        if reading._begun and not reading._certain:
            self._ahead -= 1
        for part in reading.parts.values():
            self._held -= 1
            self.frames_in_vain += part.decoded if isinstance(part, Part) else 0
        reading.parts.clear()
        self._let_go(reading)
        self._wake_all()

    # without the lock

    def close(self) -> None:
        """End the threads and their decoders; waits for reads in progress, each for at most the decoder's timeout."""
        with self.changed:
            self._closed = True
            self._wake_all()
        for thread in self._threads:
            thread.join()

    def _work(self, worker: int) -> None:
        try:
            with self._open_decoder() as decoder:
                while (task := self._next(worker)) is not None:
                    if isinstance(task, Reading):
                        self._keep(task, self._read(decoder, task))
                    else:
                        task.close()
        except BaseException as fault:  # raised by whoever waits for parts
            with self.changed:
                self.fault = fault
                self.changed.notify_all()

    def _next(self, worker: int) -> Reading | FrameSource | None:
        """Wait for work; None at the end."""
        with self.changed:
            while not self._closed:
                if self._to_close[worker]:
                    return self._to_close[worker].popleft()
                reading = _first(self._certain[worker])
                if reading is None and self._waiting < self._most_waiting:
                    reading = _first(self._new)
                    if reading is not None:
                        reading._worker, reading._waits = worker, True
                        self._waiting += 1
                if reading is None and self._ahead < self._most_ahead:
                    reading = _first(self._perhaps[worker])
                    self._ahead += reading is not None
                if reading is not None:
                    reading._begun = True
                    return reading
                self._work_for[worker].wait()
            return None

    def _read(self, decoder: Decoder, reading: Reading) -> Part | Exception:
        source = reading._source
        try:
            if source is None:
                source = self._open(decoder, reading)
            before = source.frames_decoded
            frames = source.read(self._samples[reading._asked - 1])
            wanted = (len(self._samples[reading._asked - 1]), 3, *[self._preprocessing.crop] * 2)
            if frames.shape != wanted or frames.dtype != np.float32:
                raise FramesError(
                    f"frames {frames.dtype} {list(frames.shape)} of {reading.video}: expected float32 {list(wanted)}"
                )
        except Exception as error:  # a caller's frames may raise anything; it answers only this video
            return error
        decoded = source.frames_decoded
        return Part(
            frames,
            decoded - before,
            decoded,
            source.frames_total,
            source.damaged,
            tuple(source.warnings),
            source.decode_ms,
        )

    def _open(self, decoder: Decoder, reading: Reading) -> FrameSource:
        if not isinstance(reading.video, (str, os.PathLike)):
            return reading.video
        open_file = partial(decoder.open, preprocessing=self._preprocessing, num_samples=self._num_samples)
        source = FetchedVideo(str(reading.video), open_file) if is_uri(reading.video) else open_file(reading.video)
        with self.changed:
            reading._source = source
        return source

    def _keep(self, reading: Reading, part: Part | Exception) -> None:
        with self.changed:
            if reading._dropped:
                self.frames_in_vain += part.decoded if isinstance(part, Part) else 0
                self._let_go(reading)
                return
            reading.parts[reading._asked] = part
            self._held += 1
            self.most_held = max(self.most_held, self._held)
            if reading._asked == 1:
                self.ready.append(reading)
            self.changed.notify_all()

    def _wake_all(self) -> None:
        for work in self._work_for:
            work.notify()

    def _let_go(self, reading: Reading) -> None:
        """Have the reading's own thread close its source, if a decoder opened it."""
        if reading._source is not None:
            self._to_close[reading._worker].append(reading._source)
            reading._source = None


def _first(queue: deque[Reading]) -> Reading | None:
    """Remove and return the first reading whose part is still unread; those that became certain are in two queues."""
    while queue:
        reading = queue.popleft()
        if not reading._dropped and not reading._begun:
            return reading
    return None
