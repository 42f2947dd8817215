"""What takes videos in and answers them, many at once: one stream, or several as one."""

from __future__ import annotations

import queue
from abc import abstractmethod
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from ...grid.errors import DynvidError
from ..closing import Closing
from ..prediction import Answer
from ..video.frames import FrameSource

Video = TypeVar("Video", bound=Path | FrameSource)


class StreamBase(Closing):
    """Videos go in one by one, from any thread, and answers come out as they are ready; a context manager."""

    @property
    @abstractmethod
    def most(self) -> int:
        """Videos to have in it at once, so that nothing waits for want of one."""

    @property
    @abstractmethod
    def fault(self) -> BaseException | None:
        """What ended it before it was closed; None."""

    @abstractmethod
    def submit(self, video: Path | FrameSource, deadline_s: float | None = None, trace: bool = False) -> Future[Answer]:
        """Return the future answer for one video; for any thread, and for ``asyncio.wrap_future``.

        Cancelling it works until it is done, and frees the video's slot once no launch holds it. Its exception is what
        reading the video, or its last launch alone, raised, or ``DeadlineError`` where it passed no checkpoint in time.

        Args:
            video: a file, or its frames by temporal sample number; they are read in another thread and not closed.
            deadline_s: from now; only in mode ``deadline``.
            trace: run it to the end of the route; the answer is that of the checkpoint that decides, with the logits of all.

        Raises:
            UsageError: If it is closed, or another mode is given a deadline.
        """

    @abstractmethod
    def flush(self) -> None:
        """Say that no more videos come for now: once all that came are admitted, no batch is kept waiting for company.

        What is submitted meanwhile is served after those.
        """

    @abstractmethod
    def close(self) -> None:
        """Give everything back, child processes too; waits for the launch and the parts that are under way.

        Videos without an answer are cancelled.
        """

    def classify(
        self, videos: Iterable[Video], deadline_s: float | None = None, trace: bool = False
    ) -> Generator[tuple[Video, Answer | DynvidError], None, None]:
        """Yield each video with its answer as soon as it has one, or with the error why it has none.

        No more videos are taken from ``videos`` than are in flight or read ahead. Whoever stops iterating cancels the rest.

        Args:
            videos: files, or frames, see ``submit``.
            deadline_s: for each, from when it is taken; only in mode ``deadline``.
            trace: see ``submit``.

        Raises:
            UsageError: As ``submit``.
            BaseException: What ended it, or what was raised by frames that the caller gave.
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
