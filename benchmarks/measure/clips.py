"""The clips that a benchmark classifies: preprocessed and in memory, to measure inference apart from decoding."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...calibration.scores.scoring import class_labels
from ...grid.errors import UsageError
from ...grid.manifest import Manifest
from ...runtime.closing import Closing
from ...runtime.video.decoder import Decoder
from ...runtime.video.listing import read_list
from ..report.report import Decode

LOG = logging.getLogger("dynvid")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Clips:
    """Preprocessed videos.

    Attributes:
        frames: in permuted order, [clips, l, 3, crop, crop].
        labels: class of each, [clips]; None if unknown.
        source: what they are, for the reader.
        decode: time that reading them took; None if nothing was decoded.
        paths: their files; empty if there are none.
    """

    frames: Floats
    labels: NDArray[np.int64] | None
    source: str
    decode: Decode | None
    paths: tuple[Path, ...] = ()

    def sources(self, manifest: Manifest) -> list[InOrder]:
        """Return each clip as a source of frames."""
        return [InOrder(clip, manifest.grid.frame_order) for clip in self.frames]


class InOrder(Closing):
    """A clip in permuted order as a source of frames: a segment's frames are contiguous, so none is copied."""

    def __init__(self, frames: Floats, order: Sequence[int]) -> None:
        """Take ``frames`` [l, 3, crop, crop], where frame ``order[i]`` is at position i."""
        self._frames, self._place = frames, {sample: place for place, sample in enumerate(order)}
        self.frames_total = len(frames)
        self.frames_decoded = 0
        self.damaged = False
        self.warnings: list[str] = []
        self.decode_ms = 0.0

    def read(self, samples: Sequence[int]) -> Floats:
        """Return a view [frames, 3, crop, crop] of samples that are consecutive in permuted order."""
        start = self._place[samples[0]]
        return self._frames[start : start + len(samples)]

    def close(self) -> None:
        """Do nothing."""


def random_clips(manifest: Manifest, count: int, seed: int = 0) -> Clips:
    """Return clips of noise, each with its own contrast and colour, so that no two get the same answer.

    Raises:
        UsageError: If there would be fewer than two per checkpoint.
    """
    _require_enough(count, manifest)
    rng, size = np.random.default_rng(seed), manifest.preprocessing.crop
    shape = (count, manifest.grid.num_frames, 3, size, size)
    frames = np.empty(shape, np.float32)
    for clip in frames:
        clip[:] = rng.standard_normal(shape[1:], np.float32) * np.float32(rng.uniform(0.3, 1.5))
        clip += rng.uniform(-1, 1, (1, 3, 1, 1)).astype(np.float32)
    return Clips(frames, None, f"{count} clips of noise", None)


def read_clips(path: Path, manifest: Manifest, most: int) -> Clips:
    """Return the first ``most`` videos of a LIST, fully decoded, one after another.

    Raises:
        ListError: If the list cannot be read, has labels for only some videos, or has one that is not a class.
        InputRefusedError: If a video cannot be read.
        UsageError: As ``random_clips``.
    """
    videos = read_list(path)[:most]
    _require_enough(len(videos), manifest)
    known = class_labels(videos, manifest)
    labels = None if None in known else np.array(known, np.int64)
    order, frames, times = manifest.grid.frame_order, [], []
    with Decoder() as decoder:
        for number, video in enumerate(videos, 1):
            LOG.debug(f"decoding {number}/{len(videos)}")
            with decoder.open(video.path, manifest.preprocessing, manifest.grid.num_frames) as source:
                frames.append(source.read(order))
                times.append(source.decode_ms)
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    decode = Decode(len(times), float(np.mean(times)), p50, p99)
    paths = tuple(video.path for video in videos)
    return Clips(np.stack(frames), labels, f"{len(videos)} videos of {path.name}", decode, paths)


def _require_enough(count: int, manifest: Manifest) -> None:
    least = 2 * len(manifest.route_cells)
    if count < least:
        raise UsageError(f"{count} clips: expected at least {least}, two per checkpoint")
