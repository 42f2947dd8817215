"""Base class of what classifies many videos at once: one stream, or several as one."""

from __future__ import annotations

import os
import queue
from abc import abstractmethod
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from typing import TypeVar

from ...grid.errors import DynvidError
from ..closing import Closing
from ..prediction import Answer
from ..video.frames import FrameSource

Video = TypeVar("Video", bound=os.PathLike[str] | FrameSource)


class StreamBase(Closing):
    """Videos are submitted from any thread, and answers come as they are ready; a context manager."""

    @property
    @abstractmethod
    def most(self) -> int:
        """How many videos to keep in it so that it never runs short."""

    @property
    @abstractmethod
    def fault(self) -> BaseException | None:
        """The exception that ended it before it was closed; None if there was none."""

    @abstractmethod
    def submit(
        self, video: os.PathLike[str] | FrameSource, deadline_s: float | None = None, trace: bool = False
    ) -> Future[Answer]:
        """Return a future for the answer to one video, usable from any thread and with ``asyncio.wrap_future``.

        It can be cancelled until it is done, which frees the video's slot once no launch holds it. Its exception is
        what reading the video raised, or its last launch alone, or ``DeadlineError`` if it passed no checkpoint in
        time.

        Args:
            video: a file, or its frames by temporal sample number, which another thread reads and nobody closes.
            deadline_s: seconds from now; only in mode ``deadline``.
            trace: run the video to the end of the route. The answer is still the deciding checkpoint's, with the
                logits of all.

        Raises:
            UsageError: If it is closed, or a deadline is given in another mode.
        """

    @abstractmethod
    def flush(self) -> None:
        """Declare that no more videos come for now: once those submitted are admitted, batches stop waiting to fill up.

        Videos submitted meanwhile are served afterwards.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything, including child processes; waits for the launch and the reads in progress.

        Videos without an answer are cancelled.
        """

    def classify(
        self, videos: Iterable[Video], deadline_s: float | None = None, trace: bool = False
    ) -> Generator[tuple[Video, Answer | DynvidError], None, None]:
        """Yield each video as soon as it is done, with its answer, or with the error if it has none.

        Only as many videos are taken from ``videos`` as are in flight or prefetched. If you stop iterating, the rest
        are cancelled.

        Args:
            videos: files, or frames, see ``submit``.
            deadline_s: for each video, seconds from when it is taken; only in mode ``deadline``.
            trace: see ``submit``.

        Raises:
            UsageError: As ``submit``.
            BaseException: What ended the stream, or what the caller's own frames raised.
        """
        done: queue.SimpleQueue[Future[Answer]] = queue.SimpleQueue()
        pending: dict[Future[Answer], Video] = {}
        waiting = iter(videos)
        more = True
        try:
            while True:
                while more and len(pending) < self.most:
                    video = next(waiting, None)
                    if video is None:
                        more = False
                        self.flush()
                    else:
                        future = self.submit(video, deadline_s, trace)
                        pending[future] = video
                        future.add_done_callback(done.put)
                if not pending:
                    return
                future = done.get()
                error = future.exception()
                if error is not None and (self.fault is not None or not isinstance(error, DynvidError)):
                    raise error
                yield pending.pop(future), error or future.result()
        finally:
            for future in pending:
                future.cancel()
