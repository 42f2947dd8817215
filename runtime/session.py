"""A session classifies videos one after another, each along the route until a checkpoint is confident."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..grid.bundle import Bundle
from ..grid.errors import FramesError
from ..grid.manifest import Precision
from ..grid.route import Route
from ..grid.segments import FusedSegment
from .backends.base import Backend
from .closing import Closing
from .execution.composed import CELLS, Cells
from .execution.executor import CheckpointResult, Executor
from .exit_histogram import ExitHistogram
from .exits import ExitRule
from .video.frames import FrameSource

Status = Literal["ok", "numeric_error"]


@dataclass(frozen=True)
class Prediction:
    """A session's result for one video.

    Attributes:
        status: ``ok``, or ``numeric_error`` if a checkpoint gave NaN or infinity: then no class is named.
        label: name of the predicted class, or its number as text if the bundle has no names.
        class_index: the predicted class.
        confidence: its probability, scaled if the session has temperatures.
        checkpoint: the one that answered, 1-based.
        gmacs: multiply-adds up to it, in 1e9; ``fraction``: the same as a share of the full route's.
        latency_ms: compute time up to it; ``segment_ms``: compute time of every segment that ran; ``decode_ms``: time
            spent reading, decoding and preparing frames.
        frames_decoded: frames that the decoder processed; ``frames_total``: frames in the video.
        damaged: whether part of the video is missing or wrong; ``warnings`` says what.
        logits: of the checkpoints that ran, each [classes]; ``probabilities``: their softmax, never scaled.
        error: always None here; see ``Unanswered``.
    """

    error: ClassVar[None] = None
    status: Status
    label: str | None
    class_index: int | None
    confidence: float | None
    checkpoint: int
    gmacs: float
    fraction: float
    latency_ms: float
    decode_ms: float
    frames_decoded: int
    frames_total: int
    damaged: bool
    warnings: tuple[str, ...]
    logits: tuple[NDArray[np.float32], ...]
    probabilities: tuple[NDArray[np.float32], ...]
    segment_ms: tuple[float, ...]


class ArraySource(Closing):
    """Frames that are already preprocessed: finite float32 [l, 3, crop, crop] in temporal order."""

    def __init__(self, frames: NDArray[np.float32]) -> None:
        if frames.dtype != np.float32 or frames.ndim != 4 or not np.isfinite(frames).all():
            raise FramesError(
                f"frames {frames.dtype} {list(frames.shape)}: "
                "expected finite float32 [l, 3, height, width] in temporal order"
            )
        self._frames = frames
        self.frames_total = len(frames)
        self.frames_decoded = 0
        self.damaged = False
        self.warnings: list[str] = []
        self.decode_ms = 0.0

    def read(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Return the frames [frames, 3, height, width] with these temporal sample numbers."""
        self.frames_decoded += len(samples)
        return self._frames[list(samples)]

    def close(self) -> None:
        """Do nothing."""


class Session:
    """Classifies one video after another on an executor. Threads that share it take turns.

    Args:
        executor: runs the route.
        thresholds: one per checkpoint, the last None; None: every video runs to the end of its route.
        temperatures: one per checkpoint, those that the thresholds were chosen with; None: confidences stay unscaled.

    Attributes:
        tally: exits and confidences of the videos classified so far, without numeric errors.

    Raises:
        ThresholdsError: If the thresholds or temperatures do not fit the route.
    """

    def __init__(
        self,
        executor: Executor,
        thresholds: Sequence[float | None] | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> None:
        self.executor, self.route = executor, executor.route
        self.rule = ExitRule(self.route, thresholds, temperatures)
        self.tally = ExitHistogram(len(self.route.cells))
        costs = executor.bundle.manifest.costs
        self._macs = [costs.checkpoint(self.route, k) for k in range(1, len(self.route.cells) + 1)]
        self._full_macs = costs.checkpoint(self.route.full, 1)
        self._turn = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        backend: Backend,
        thresholds: Sequence[float | None] | None = None,
        precision: Precision = "fp32",
        route: Route | None = None,
        temperatures: Sequence[float] | None = None,
        programs: Callable[[FusedSegment], bytes] | Cells = CELLS,
    ) -> Session:
        """Return a session with an executor of its own, for one video at a time.

        See ``Executor`` and ``Session`` for arguments and errors.
        """
        return cls(Executor(bundle, backend, precision, programs, route=route), thresholds, temperatures)

    def classify(self, source: FrameSource, trace: bool = False) -> Prediction:
        """Return the prediction for one video.

        Frames are read segment by segment, so a video that exits early is not read to its end.

        Args:
            source: the video's frames, by temporal sample number.
            trace: run every checkpoint; the result stays that of the deciding one.

        Raises:
            VideoError: If a frame that is needed cannot be decoded.
            BackendError: If the backend fails.
        """
        with self._turn, closing(self.executor.walk([source])) as walk:
            return self._follow(walk, source, trace)

    def _follow(self, walk: Iterator[CheckpointResult], source: FrameSource, trace: bool) -> Prediction:
        decided, passed = None, list[CheckpointResult]()
        manifest = self.executor.bundle.manifest
        for at in walk:
            passed.append(at)
            verdict = self.rule.judge(at.index, at.logits[0], at.probabilities[0])
            if decided is None and verdict.leaves:
                decided = Prediction(
                    status="numeric_error" if verdict.confidence is None else "ok",
                    label=None if verdict.class_index is None else manifest.label(verdict.class_index),
                    class_index=verdict.class_index,
                    confidence=verdict.confidence,
                    checkpoint=at.index,
                    gmacs=self._macs[at.index - 1] / 1e9,
                    fraction=self._macs[at.index - 1] / self._full_macs,
                    latency_ms=sum(one.compute_ms for one in passed),
                    decode_ms=source.decode_ms,
                    frames_decoded=source.frames_decoded,
                    frames_total=source.frames_total,
                    damaged=source.damaged,
                    warnings=tuple(source.warnings),
                    logits=(),
                    probabilities=(),
                    segment_ms=(),
                )
                if verdict.confidence is not None:
                    self.tally.add(at.index, verdict.confidence)
            if decided is not None and not trace:
                break
        assert decided is not None  # the last checkpoint always answers
        return replace(
            decided,
            logits=tuple(one.logits[0] for one in passed),
            probabilities=tuple(one.probabilities[0] for one in passed),
            segment_ms=tuple(one.compute_ms for one in passed),
        )
