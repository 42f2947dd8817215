"""What one video did on the route: cells, frames, checkpoints, and what they cost. The data behind every picture of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...grid.errors import VideoError
from ...grid.manifest import Manifest
from ...grid.preprocessing import Preprocessing, sample_frames
from ...grid.thresholds import Thresholds
from ...runtime.confidence import confidence
from ...runtime.exits import ExitRule
from ...runtime.model import Model
from ...runtime.prediction import Answer
from ...runtime.video.decoder import Decoder
from ...runtime.video.frames import SampledFrames
from ...runtime.video.listing import ListedVideo
from ..grid_shown import GridShown, grid_of
from ..thumbnail import thumbnail

MOST = 50
"""Videos on one page; ``dynvid report`` shows more."""

TOP = 3
"""Classes named at a checkpoint."""


@dataclass(frozen=True)
class FrameShown:
    """A sampled frame. A short video has fewer frames than samples, so one may be several samples.

    Attributes:
        frame: number in the video, from 0.
        samples: its places among the sampled frames in time, from 0.
        input_set: place in the order of reading of the first set that holds it; ``segment``: the one that reads it.
        state: ``used`` for the answer; ``passed``: decoded on the way to others, and not used; ``unread``: not decoded.
    """

    frame: int
    samples: tuple[int, ...]
    input_set: int
    segment: int
    state: Literal["used", "passed", "unread"]


@dataclass(frozen=True)
class CheckpointShown:
    """What a checkpoint said, and what it takes to get there.

    Attributes:
        index: 1-based; ``input_set``, ``block``: its cell.
        passed: whether the video came here before it had its answer; the others ran for this page only.
        label, confidence: None if an output is NaN or infinite.
        threshold: None: it always answers, or there are no thresholds.
        leaves: whether the answer may be given here.
        top: the most probable classes with their probabilities, scaled as the confidence.
        segment_gmacs, segment_ms: of the segment that leads here; ``gmacs``, ``ms``: of all up to here.
    """

    index: int
    input_set: int
    block: int
    passed: bool
    label: str | None
    confidence: float | None
    threshold: float | None
    leaves: bool
    top: tuple[tuple[str, float], ...]
    segment_gmacs: float
    segment_ms: float
    gmacs: float
    ms: float


@dataclass(frozen=True)
class Explanation:
    """One video's way.

    Attributes:
        video: as it was given; ``listed_label``: its label, None if it is not known.
        answer: of the run that is shown.
        static_gmacs: of the static network.
        grid, frames, checkpoints: what was computed, looked at and said; frames in time order.
        images: the frames as ``data:`` addresses of JPEGs, in the order of ``frames``.
        static: whether the bundle is static: it answers once, from all frames.
    """

    video: str
    listed_label: str | None
    answer: Answer
    static_gmacs: float
    grid: GridShown
    frames: tuple[FrameShown, ...]
    checkpoints: tuple[CheckpointShown, ...]
    images: tuple[str, ...]
    static: bool = False

    @property
    def right(self) -> bool | None:
        """Whether the answer is the label; None where one of them is not known."""
        return None if None in (self.listed_label, self.answer.label) else self.answer.label == self.listed_label

    @property
    def exit(self) -> CheckpointShown:
        """The checkpoint that answered."""
        return self.checkpoints[self.answer.checkpoint - 1]

    @property
    def last(self) -> CheckpointShown:
        """The last checkpoint of the route."""
        return self.checkpoints[-1]

    @property
    def used(self) -> int:
        """How many frames the answer used."""
        return sum(frame.state == "used" for frame in self.frames)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the images as JSON types."""
        answer = self.answer
        fields = asdict(self)
        del fields["answer"], fields["images"]
        return {
            **fields,
            "right": self.right,
            "status": answer.status,
            "label": answer.label,
            "confidence": answer.confidence,
            "checkpoint": answer.checkpoint,
            "gmacs": answer.gmacs,
            "fraction": answer.fraction,
            "latency_ms": answer.latency_ms,
            "decode_ms": answer.decode_ms,
            "frames_decoded": answer.frames_decoded,
            "frames_total": answer.frames_total,
            "damaged": answer.damaged,
            "warnings": list(answer.warnings),
        }


@dataclass(frozen=True)
class Unexplained:
    """A video without an answer, and why."""

    video: str
    error: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


def explain_videos(model: Model, videos: Sequence[ListedVideo]) -> Iterator[Explanation | Unexplained]:
    """Yield what each video did, in order: each is classified to the end of the route, then its frames are drawn.

    Times are those of the run that is shown; one run before it warms the model up.

    Raises:
        VideoError: If a file changes meanwhile; if there is only one video, also if it cannot be read.
        UsageError, BackendError, ResourceError: As ``Model.classify``.
    """
    paths = [video.path for video in videos]
    for _, answer in model.classify_many(paths, ordered=True, trace=True):
        if isinstance(answer, Answer):
            break  # the model is warm
    with Decoder() as decoder:
        for listed, (_, answer) in zip(videos, model.classify_many(paths, ordered=True, trace=True), strict=True):
            if isinstance(answer, Answer):
                yield _explanation(model, decoder, listed, answer)
            elif len(videos) == 1:
                raise answer.error
            else:
                yield Unexplained(str(listed.path), str(answer.error))


def _explanation(model: Model, decoder: Decoder, listed: ListedVideo, answer: Answer) -> Explanation:
    manifest, route = model.bundle.manifest, model.bundle.manifest.route
    source = decoder.open(listed.path, manifest.preprocessing, manifest.grid.num_frames)
    with source:
        frames, images = _frames(listed.path, source, manifest, answer)
        numbers = sample_frames(source.frames_total, manifest.grid.num_frames)
    return Explanation(
        video=str(listed.path),
        listed_label=listed.label,
        answer=answer,
        static_gmacs=manifest.costs.checkpoint(route.full, 1) / 1e9,
        grid=grid_of(route, answer.checkpoint, numbers),
        frames=frames,
        checkpoints=tuple(_checkpoints(manifest, model.thresholds, answer)),
        images=images,
        static=manifest.static,
    )


def _frames(
    video: Path, source: SampledFrames, manifest: Manifest, answer: Answer
) -> tuple[tuple[FrameShown, ...], tuple[str, ...]]:
    """Read the frames as the run read them, segment by segment, then the others; return them in time order."""
    grid, route = manifest.grid, manifest.route
    order, pixels, segment_of = grid.frame_order, dict[int, NDArray[np.uint8]](), dict[int, int]()
    used, passed = set[int](), set[int]()
    for index in range(1, len(route.cells) + 1):
        start, stop = (route.progress(k, 0) * grid.frames_per_set for k in (index - 1, index))
        samples = order[start:stop]
        if samples:
            pixels |= zip(samples, _pixels(source, samples, manifest.preprocessing), strict=True)
            segment_of |= dict.fromkeys(samples, index)
        if index == answer.checkpoint:
            used, passed = set(pixels), set(source.passed)
            if (source.frames_total, source.frames_decoded) != (answer.frames_total, answer.frames_decoded):
                raise VideoError(f"video '{video}' changed while it was being explained: explain it again")
    samples_of = dict[int, list[int]]()
    for sample, number in enumerate(sample_frames(source.frames_total, grid.num_frames)):
        if sample in pixels:
            samples_of.setdefault(number, []).append(sample)
    frames = tuple(
        FrameShown(
            number,
            tuple(samples),
            min(map(order.index, samples)) // grid.frames_per_set,
            min(segment_of[sample] for sample in samples),
            "used" if used.intersection(samples) else "passed" if passed.intersection(samples) else "unread",
        )
        for number, samples in samples_of.items()
    )
    return frames, tuple(thumbnail(pixels[frame.samples[0]]) for frame in frames)


def _pixels(source: SampledFrames, samples: Sequence[int], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return RGB frames [frames, crop, crop, 3], also of an array that is preprocessed already."""
    if source.gives_pixels:
        return source.pixels(samples)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    given = source.read(samples).clip(-mean / std, (1 - mean) / std)  # it may hold any finite number
    shown = ((given * std + mean) * 255).clip(0, 255)
    pixels: NDArray[np.uint8] = np.rint(shown).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def _checkpoints(manifest: Manifest, thresholds: Thresholds | None, answer: Answer) -> Iterator[CheckpointShown]:
    route, costs = manifest.route, manifest.costs
    chosen = None if thresholds is None else thresholds.thresholds
    temperatures = None if thresholds is None else thresholds.temperatures
    rule = ExitRule(route, chosen, temperatures)
    for point, logits, probabilities in zip(route.checkpoints, answer.logits, answer.probabilities, strict=True):
        k = point.index
        verdict = rule.judge(k, logits, probabilities)
        yield CheckpointShown(
            index=k,
            input_set=point.cell.input_set,
            block=point.cell.block,
            passed=k <= answer.checkpoint,
            label=None if verdict.class_index is None else manifest.label(verdict.class_index),
            confidence=verdict.confidence,
            threshold=None if chosen is None else chosen[k - 1],
            leaves=verdict.leaves,
            top=() if verdict.confidence is None else _top(manifest, probabilities, temperatures, k),
            segment_gmacs=costs.segment(route, k) / 1e9,
            segment_ms=answer.segment_ms[k - 1],
            gmacs=costs.checkpoint(route, k) / 1e9,
            ms=math.fsum(answer.segment_ms[:k]),
        )


def _top(
    manifest: Manifest, probabilities: NDArray[np.float32], temperatures: Sequence[float] | None, index: int
) -> tuple[tuple[str, float], ...]:
    temperature = 1.0 if temperatures is None else temperatures[index - 1]
    sure = confidence(probabilities, temperature)
    order = np.argsort(-probabilities, kind="stable")[:TOP].tolist()
    scaled = (probabilities.astype(np.float64) / float(probabilities.max())) ** (1.0 / temperature) * sure
    return tuple((manifest.label(number), float(scaled[number])) for number in order)
