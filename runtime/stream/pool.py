"""Several streams as one: one executor per core uses a CPU better than one executor on all cores.

A call of a few frames cannot keep many threads busy, and between two calls only one thread works. Also, a video that
runs to the end of the route delays only the videos of its own stream.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack

from ...grid.errors import UsageError
from ..prediction import Answer
from ..video.frames import FrameSource
from .in_flight import StreamBase
from .stream import Stream


class StreamPool(StreamBase):
    """Streams of the same bundle and thresholds; each video goes to the stream that has the fewest.

    Args:
        open_stream: returns a stream.
        count: number of streams.

    Attributes:
        streams: as opened.

    Raises:
        UsageError: If ``count`` is below 1.
        DynvidError: As ``open_stream``.
    """

    def __init__(self, open_stream: Callable[[], Stream], count: int) -> None:
        if count < 1:
            raise UsageError(f"{count} streams: expected at least 1")
        with ExitStack() as opened:
            self.streams = tuple(opened.enter_context(open_stream()) for _ in range(count))
            self._open = opened.pop_all()
        self._lock = threading.Lock()
        self._held = [0] * count

    @property
    def most(self) -> int:
        """Most videos in flight or prefetched, in all streams."""
        return sum(stream.most for stream in self.streams)

    @property
    def fault(self) -> BaseException | None:
        """What ended one of the streams."""
        return next((stream.fault for stream in self.streams if stream.fault is not None), None)

    def submit(
        self, video: os.PathLike[str] | FrameSource, deadline_s: float | None = None, trace: bool = False
    ) -> Future[Answer]:
        """Return a future for the answer to one video; see ``StreamBase``."""
        with self._lock:
            place = min(range(len(self.streams)), key=self._held.__getitem__)
            self._held[place] += 1

        def leave(_: Future[Answer] | None = None) -> None:
            with self._lock:
                self._held[place] -= 1

        try:
            future = self.streams[place].submit(video, deadline_s, trace)
        except BaseException:
            leave()
            raise
        future.add_done_callback(leave)
        return future

    def flush(self) -> None:
        """Declare to every stream that no more videos come for now."""
        for stream in self.streams:
            stream.flush()

    def close(self) -> None:
        """Close every stream."""
        self._open.close()
