"""What a stream answers for one video, and what it keeps about the video until then."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..grid.manifest import Manifest
from .exits import Verdict
from .scheduling.queues import Ended
from .session import Prediction
from .video.prefetch import Part, Reading


@dataclass(frozen=True)
class Answer(Prediction):
    """A stream's prediction.

    ``segment_ms`` holds the video's even share of each of its launches, and ``latency_ms`` is their sum. Summed over
    all videos, they give the time that the backend was busy. With ``trace``, ``segment_ms`` covers all segments and
    ``latency_ms`` those up to the deciding checkpoint. Fields about the source are as of the last part that was used,
    so only the times depend on prefetching.

    Attributes:
        cut: whether the deadline left no time for the next segment, so that the last checkpoint passed answers.
        waited_ms: time in launch queues.
        elapsed_ms: time from ``submit`` to the answer, everything included.
    """

    cut: bool
    waited_ms: float
    elapsed_ms: float


class VideoInFlight:
    """A video between ``submit`` and its answer.

    Attributes:
        reading: the reading of its frames.
        submitted, deadline: seconds; None: no deadline.
        future: the future answer.
        part: the last part that was used.
        verdict: that of the first checkpoint at which the video was to leave, else of the last checkpoint passed.
        error: why reading it, or its last launch, failed.
        trace: whether it runs to the end of the route even if an earlier checkpoint decides.
        cancelled: whether nobody waits for the answer any more.
        settled: whether the future is done.
    """

    def __init__(self, reading: Reading, submitted: float, deadline: float | None, trace: bool = False) -> None:
        self.reading, self.submitted, self.deadline, self.trace = reading, submitted, deadline, trace
        self.future: Future[Answer] = Future()
        self.part: Part | None = None
        self.verdict: Verdict | None = None
        self.error: Exception | None = None
        self.cancelled = self.settled = False
        self._logits: list[NDArray[np.float32]] = []
        self._probabilities: list[NDArray[np.float32]] = []
        self._segment_ms: list[float] = []
        self._decided = 0  # the checkpoint that gave the verdict
        self._deciding_part: Part | None = None  # ``part`` at that checkpoint

    def __str__(self) -> str:
        return str(self.reading.video)

    def pass_checkpoint(
        self, verdict: Verdict, logits: NDArray[np.float32], probabilities: NDArray[np.float32], milliseconds: float
    ) -> None:
        """Keep the results of a launch for this video; both arrays are [classes]."""
        self.error = None
        if self.verdict is None or not self.verdict.leaves:
            self.verdict, self._decided, self._deciding_part = verdict, len(self._logits) + 1, self.part
        self._logits.append(logits)
        self._probabilities.append(probabilities)
        self._segment_ms.append(milliseconds)

    def answer(self, ended: Ended, macs: Sequence[int], full_macs: int, manifest: Manifest) -> Answer:
        """Return the answer of a video that passed at least one checkpoint.

        Args:
            ended: how it ended.
            macs: multiply-adds up to each checkpoint.
            full_macs: multiply-adds of the full route.
            manifest: names the classes.
        """
        part, verdict = self._deciding_part, self.verdict
        assert part is not None
        assert verdict is not None
        return Answer(
            status="numeric_error" if verdict.class_index is None else "ok",
            label=None if verdict.class_index is None else manifest.label(verdict.class_index),
            class_index=verdict.class_index,
            confidence=verdict.confidence,
            checkpoint=self._decided,
            gmacs=macs[self._decided - 1] / 1e9,
            fraction=macs[self._decided - 1] / full_macs,
            latency_ms=sum(self._segment_ms[: self._decided]),
            decode_ms=part.decode_ms,
            frames_decoded=part.frames_decoded,
            frames_total=part.frames_total,
            damaged=part.damaged,
            warnings=part.warnings,
            logits=tuple(self._logits),
            probabilities=tuple(self._probabilities),
            segment_ms=tuple(self._segment_ms),
            cut=ended.status == "cut",
            waited_ms=ended.waited * 1e3,
            elapsed_ms=(ended.at - self.submitted) * 1e3,
        )
