"""Reading ahead: the frames of many videos, each part read before the segment that needs it runs, and hardly more.

A part of a video is the new frames of one segment. Threads read parts, each with a decoder of its own, in this order: parts
that are needed for certain; first parts of new videos, as long as few wait for admission; parts of the next segment of
videos that may still leave before it. So where decoding is the bottleneck nothing is decoded in vain.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import FramesError, UsageError
from ...grid.preprocessing import Preprocessing
from .decoder import Decoder
from .frames import FrameSource


@dataclass(frozen=True, slots=True)
class Part:
    """The frames of one segment, and what was known of the video when they had been read.

    Attributes:
        frames: [frames, 3, crop, crop] in permuted order.
        decoded: frames that the decoder went through for this part.
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
        parts: that were read and not used yet, by segment (1-based); an exception where reading failed.
    """

    __slots__ = ("_asked", "_begun", "_certain", "_dropped", "_source", "_waits", "_worker", "parts", "video")

    def __init__(self, video: Path | FrameSource) -> None:
        self.video = video
        self.parts: dict[int, Part | Exception] = {}
        self._asked = 0  # the last segment whose part was asked for
        self._certain = True  # whether that part is needed for certain
        self._begun = False  # whether a thread has begun to read it
        self._waits = False  # counts as waiting for admission
        self._dropped = False
        self._worker = 0
        self._source: FrameSource | None = None


class Prefetcher:
    """Threads that read the videos' parts.

    Args:
        preprocessing: of the frames.
        num_samples: frames that are sampled from a video.
        samples: of each segment, the numbers of its new frames, in temporal order from 0; none where it reads none.
        threads: that read, at least 1; each starts a decoder's child process when it meets the first video file.
        ahead: most videos whose first part waits for admission, and most whose next part is read before it is certain
            that it is needed; 0: one, and none.
        open_decoder: returns a decoder, for each thread its own.

    Attributes:
        changed: holds the lock of everything here, and of whoever uses it; notified when a part was read.
        ready: readings whose first part was read, until they are admitted or dropped.
        frames_in_vain: that a decoder went through for parts that nothing used.
        most_held: the most parts that were held at once.
        fault: what ended a thread that should not have ended.

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
            raise UsageError(f"{threads} decoders, {ahead} videos read ahead: expected at least 1, and at least 0")
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
        # one queue a thread: a video belongs to the decoder that has it open
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

    def add(self, video: Path | FrameSource) -> Reading:
        """Return the reading of a video, whose first part will be read."""
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
        """Note that a video that was ready has a slot now."""
        self.ready.remove(reading)
        reading._waits = False
        self._waiting -= 1
        if self._new:
            self._wake_all()

    def want(self, reading: Reading, index: int, certain: bool) -> None:
        """Ask for the part of segment ``index`` where it has one, or say that it is certain now to be needed.

        The part asked for before must be there.
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
        """Return whether segment ``index`` need not wait for its part."""
        return not self._samples[index - 1] or index in reading.parts

    def used(self, reading: Reading, index: int) -> None:
        """Let go of a part that its segment has run on, if it has one."""
        if reading.parts.pop(index, None) is not None:
            self._held -= 1

    def drop(self, reading: Reading) -> None:
        """Read no more of a video; what was read and not used was read in vain."""
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
        """End the threads and their decoders; waits for the parts that are being read, each as long as a decoder may take."""
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
        except BaseException as fault:  # not swallowed: whoever waits for parts raises it
            with self.changed:
                self.fault = fault
                self.changed.notify_all()

    def _next(self, worker: int) -> Reading | FrameSource | None:
        """Wait for something to do; None: the end."""
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
        except Exception as error:  # a caller's frames may raise anything: it is this video's answer, and no other's
            return error
        decoded = source.frames_decoded
        return Part(
            frames, decoded - before, decoded, source.frames_total, source.damaged, tuple(source.warnings), source.decode_ms
        )  # fmt: skip

    def _open(self, decoder: Decoder, reading: Reading) -> FrameSource:
        if not isinstance(reading.video, (str, os.PathLike)):
            return reading.video
        source = decoder.open(reading.video, self._preprocessing, self._num_samples)
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
        """Have the source of a reading closed by its own thread, where a decoder opened it."""
        if reading._source is not None:
            self._to_close[reading._worker].append(reading._source)
            reading._source = None


def _first(queue: deque[Reading]) -> Reading | None:
    """Take out the first reading whose part is still to be read; those that became certain are in two queues."""
    while queue:
        reading = queue.popleft()
        if not reading._dropped and not reading._begun:
            return reading
    return None
