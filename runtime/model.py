"""An open bundle, ready to classify videos from any thread."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..grid.bundle import Bundle
from ..grid.errors import DynvidError, InputRefusedError, QueueFullError, UsageError
from ..grid.manifest import Precision
from ..grid.thresholds import Thresholds
from .argument_checks import require_count, require_share
from .prediction import Answer
from .results.list_run import run_list
from .results.records import file_of, record, unanswered
from .results.run import Run
from .results.summary import Summary
from .stream.pool import StreamPool
from .video.frames import FrameArray, FrameSource
from .video.listing import ListedVideo

Video = str | os.PathLike[str] | NDArray[Any]
Item = TypeVar("Item", bound=Video)


@dataclass(frozen=True)
class Unanswered:
    """What ``Model.classify_many`` yields for a video that has no answer. All fields of an answer are None.

    Attributes:
        error: the reason.
        status: ``damaged``.
    """

    error: DynvidError
    status: str = "damaged"
    label: None = None
    class_index: None = None
    confidence: None = None
    checkpoint: None = None
    gmacs: None = None


class Model:
    """A bundle opened on a backend; a context manager. ``dynvid.load`` opens one.

    Threads may share a model, but processes may not: using it after a fork, or pickling it, is an error. A model that
    is not closed is closed when it is garbage-collected.

    Attributes:
        bundle: as opened.
        backend: name of the backend.
        precision: of the graphs.
        thresholds: the exit thresholds; None: every video runs to the end.
        runs: what computes, in words.
        is_fused: whether each segment is one graph or engine. Its results differ from the cells' in the last bits.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: str,
        precision: Precision,
        thresholds: Thresholds | None,
        streams: StreamPool,
        runs: str,
        max_pending: int,
    ) -> None:
        self.bundle, self.backend, self.precision, self.thresholds = bundle, backend, precision, thresholds
        self.runs, self.is_fused = runs, streams.streams[0].executor.is_fused
        self._streams, self._process, self._max_pending = streams, os.getpid(), max_pending
        self._pending, self._lock = 0, threading.Lock()
        self._finalizer = weakref.finalize(self, streams.close)

    @property
    def most_in_flight(self) -> int:
        """How many videos to keep submitted so that it never runs short."""
        return self._open().most

    @property
    def fills(self) -> list[list[int]]:
        """Number of calls by segment and by how many videos they took, so far, of all streams: ``fills[k - 1][n]``."""
        each = [stream.stats.fills for stream in self._open().streams]
        return [[sum(counts) for counts in zip(*rows, strict=True)] for rows in zip(*each, strict=True)]

    def classify(self, video: Video, *, trace: bool = False) -> Answer:
        """Return the answer for one video.

        Args:
            video: a file, or frames in temporal order: raw uint8 [frames, height, width, 3] as in the file, or
                preprocessed float32 [l, 3, crop, crop].
            trace: run the video to the end of the route. The answer is still the deciding checkpoint's, with the
                logits of all checkpoints.

        Raises:
            VideoError, FramesError: If the video cannot be read.
            UsageError: If the model is closed, or belongs to another process.
            BackendError, ResourceError: If computing fails.
        """
        future = self._open().submit(self._source(video), None, trace)
        self._streams.flush()
        return future.result()

    def submit(self, video: Video, *, deadline_s: float | None = None, trace: bool = False) -> Future[Answer]:
        """Return a future for the answer to one video; it works with ``asyncio.wrap_future``.

        Args:
            video: as for ``classify``.
            deadline_s: seconds from now; only if the model was loaded with ``mode="deadline"``.
            trace: as for ``classify``.

        Raises:
            QueueFullError: If ``max_pending`` videos are still waiting for their answers.
            UsageError: As ``classify``.
        """
        streams, source = self._open(), self._source(video)
        with self._lock:
            if self._pending >= self._max_pending:
                raise QueueFullError(
                    f"{self._pending} videos are waiting for answers, expected at most {self._max_pending}: "
                    "wait for some, or load with a larger max_pending"
                )
            self._pending += 1

        def leave(_: Future[Answer] | None = None) -> None:
            with self._lock:
                self._pending -= 1

        try:
            future = streams.submit(source, deadline_s, trace)
        except BaseException:
            leave()
            raise
        future.add_done_callback(leave)
        return future

    def classify_many(
        self, videos: Iterable[Item], *, ordered: bool = False, trace: bool = False
    ) -> Generator[tuple[Item, Answer | Unanswered], None, None]:
        """Yield each video with its answer, as they finish or in the order given; an unreadable video yields ``error``.

        ``videos`` may be endless: only as many are taken from it as are in flight or prefetched. If you stop
        iterating, the rest are cancelled.

        Args:
            videos: each as for ``classify``.
            ordered: yield answers in the order of ``videos``.
            trace: as for ``classify``.

        Raises:
            UsageError, BackendError, ResourceError: As ``classify``.
        """
        if isinstance(videos, (str, os.PathLike, np.ndarray)):
            raise UsageError("classify_many takes several videos: give a list of them, or use classify for one")
        return self._in_order(videos, trace) if ordered else self._as_they_finish(videos, trace)

    def records(self, rows: Iterable[ListedVideo], *, trace: bool = False) -> Generator[dict[str, Any], None, None]:
        """Yield the record of each row of a LIST as it finishes: what ``classify_list`` writes, as JSON types.

        Args:
            rows: taken as they are needed; it may be endless.
            trace: as for ``classify``; records then have ``logits``.

        Raises:
            UsageError, BackendError, ResourceError: As ``classify``.
        """
        files: dict[int, dict[str, int] | None] = {}  # as they are before they are read, by the id of the row

        def taken() -> Generator[ListedVideo]:
            for row in rows:
                files[id(row)] = file_of(str(row))
                yield row

        with closing(self._open().classify(taken(), None, trace)) as answers:
            for row, answer in answers:
                file = files.pop(id(row), None) or file_of(str(row))  # popped: it is given twice
                if isinstance(answer, InputRefusedError):
                    yield unanswered(row, str(answer), file)
                elif isinstance(answer, DynvidError):
                    raise answer
                else:
                    yield record(row, answer, trace, file)

    def classify_list(
        self,
        videos: str | os.PathLike[str] | Sequence[Path | ListedVideo],
        output: str | os.PathLike[str] | None = None,
        *,
        shard: tuple[int, int] = (1, 1),
        max_failures: float = 0.05,
        retry_failed: bool = False,
        trace: bool = False,
        on_record: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Summary:
        """Classify the videos of a LIST and write one record per video, as ``dynvid classify`` does.

        After an interruption, the same call resumes where the last one stopped, and warns so in the log ``dynvid``, which
        also counts the videos (DEBUG). Lines are written as videos finish.

        Args:
            videos: a LIST (docs/reference/list.md), its rows (``open_list`` names columns), or paths.
            output: a file, JSON Lines or, by its suffix, parquet; None: nothing is written.
            shard: (i, n): the i-th of n shards, 1-based, of the videos sorted by path.
            max_failures: the share of all videos that may fail; 20 always may. The run stops if more fail; 1: never.
            retry_failed: try videos again that failed in an earlier run.
            trace: as for ``classify``; lines then have ``logits``.
            on_record: called with each record as it arrives.

        Returns:
            How many videos there are, were tried and failed, the accuracy where the list has labels, and the exits; as a
            string one line. ``partial`` tells of the videos without an answer.

        Raises:
            ListError: If the list cannot be used.
            ResultsError, StaleResultsError: If ``output`` holds something else.
            UsageError, BackendError, ResourceError: As ``classify``, and if the disk is full.
        """
        self._open()
        require_share("max_failures", max_failures)
        part, parts = (require_count("shard", number) for number in shard)
        if part > parts:
            raise UsageError(f"shard {part} of {parts}: expected (i, n) with i from 1 to n")
        manifest = self.bundle.manifest
        return run_list(
            lambda rows: self.records(rows, trace=trace),
            videos,
            manifest.class_names,
            None if output is None else Path(output),
            self.run(trace=trace, shard=shard),
            max_failures,
            retry_failed,
            on_record,
        )

    def run(self, *, trace: bool = False, shard: tuple[int, int] = (1, 1)) -> Run:
        """Return what decides the answers of this model, over no videos yet."""
        chosen = self.thresholds
        return Run(
            self.bundle.sha256,
            chosen.thresholds if chosen else None,
            chosen.temperatures if chosen else None,
            self.precision,
            self.backend,
            trace,
            0,
            "",
            shard,
            self.is_fused,
        )

    def close(self) -> None:
        """Release everything, including threads and child processes; videos without an answer are cancelled."""
        if self._process == os.getpid():
            self._finalizer()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a model cannot be pickled, since it holds threads and memory: open the bundle in that process"
        )

    def _open(self) -> StreamPool:
        if self._process != os.getpid():
            raise UsageError(
                f"this model was opened in process {self._process}, but this is process {os.getpid()}: "
                "open it after the fork"
            )
        if not self._finalizer.alive:
            raise UsageError("this model is closed: load it again")
        return self._streams

    def _source(self, video: Video) -> os.PathLike[str] | FrameSource:
        manifest = self.bundle.manifest
        if isinstance(video, np.ndarray):
            return FrameArray(video, manifest.preprocessing, manifest.grid.num_frames)
        if not isinstance(video, (str, os.PathLike)):
            raise UsageError(f"a video of type {type(video).__name__}: expected a path, or an array of frames")
        return ListedVideo.of(os.fspath(video))

    def _as_they_finish(self, videos: Iterable[Item], trace: bool) -> Generator[tuple[Item, Answer | Unanswered]]:
        given: dict[int, Item] = {}  # by the id of its source

        def sources() -> Generator[os.PathLike[str] | FrameSource]:
            for video in videos:
                try:
                    source = self._source(video)
                except InputRefusedError as error:
                    source = _Refused(error)
                given[id(source)] = video
                yield source

        with closing(self._open().classify(sources(), None, trace)) as answers:
            for source, answer in answers:
                yield given.pop(id(source)), _answer_or_error(answer)

    def _in_order(self, videos: Iterable[Item], trace: bool) -> Generator[tuple[Item, Answer | Unanswered]]:
        streams, pending = self._open(), deque[tuple[Item, Future[Answer] | InputRefusedError]]()
        waiting, more = iter(videos), True
        try:
            while True:
                while more and len(pending) < streams.most:
                    for video in waiting:
                        try:
                            pending.append((video, streams.submit(self._source(video), None, trace)))
                        except InputRefusedError as error:
                            pending.append((video, error))
                        break
                    else:
                        more = False
                        streams.flush()
                if not pending:
                    return
                video, future = pending.popleft()
                if isinstance(future, InputRefusedError):
                    yield video, Unanswered(future)
                    continue
                fault = future.exception()
                if fault is not None and not isinstance(fault, DynvidError):
                    raise fault
                yield video, _answer_or_error(future.result() if fault is None else fault)
        finally:
            for _, left in pending:
                if isinstance(left, Future):
                    left.cancel()


class _Refused:
    """Frames that cannot be used, queued so that their error arrives in turn."""

    frames_total = frames_decoded = 0
    damaged, decode_ms = True, 0.0

    def __init__(self, error: InputRefusedError) -> None:
        self._error, self.warnings = error, list[str]()

    def read(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Raise the error."""
        raise self._error

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> _Refused:
        return self

    def __exit__(self, *fault: object) -> None:
        """Do nothing."""


def _answer_or_error(answer: Answer | BaseException) -> Answer | Unanswered:
    if isinstance(answer, InputRefusedError):
        return Unanswered(answer)
    if isinstance(answer, BaseException):
        raise answer
    return answer
