"""The range pass: run every video once along the route, cell by cell, and record its largest activations.

Videos are decoded one at a time. Only the largest values of each are kept, in a journal, and counted. So memory does
not grow with the number of videos, an interrupted pass resumes, and neither order nor batching can change the result.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...calibration.scores.journal import Journal
from ...calibration.scores.scoring import by_content
from ...grid.errors import FramesError, RangesError, TooFewVideosError, VideoError
from ...runtime.execution.executor import Executor
from ...runtime.exits import ExitRule
from ...runtime.video.decoder import Decoder
from ...runtime.video.frames import FrameSource
from ...runtime.video.listing import ListedVideo
from .ranges import Ranges, read_ranges

LOG = logging.getLogger("dynvid")

Floats = NDArray[np.float32]

LEAST_VIDEOS = 32
"""With fewer videos, the largest activation of a layer would be a matter of chance."""

FLOOR = 64
"""Videos that run to the end regardless of thresholds, those with the smallest sha256: late cells need ranges too."""

QUANTILE = 0.95
"""Share of videos whose largest value is within the range: covering the rest would coarsen the steps for all."""

_NOT_REACHED = -1.0
_DIGEST = 32  # bytes of a sha256


class LargestValues:
    """The largest absolute value of one tensor per video, counted by sign, exponent and seven bits: within 1 %."""

    def __init__(self) -> None:
        self._videos: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count one video; a negative value means that the video did not reach the tensor."""
        if value >= 0:
            self._videos[int(np.float32(value).view(np.uint32)) >> 16] += 1

    def quantile(self, share: float) -> float:
        """Return a bound that at least ``share`` of the videos stay within; 0 if all had 0, or none was counted."""
        wanted, seen = share * self._videos.total(), 0
        for place in sorted(self._videos):
            seen += self._videos[place]
            if seen >= wanted:
                return float(np.uint32((place + 1) << 16).view(np.float32)) if place else 0.0
        return 0.0


def find_ranges(
    executor: Executor,
    tensors: Mapping[str, Sequence[str]],
    videos: Sequence[ListedVideo],
    keep: Path,
    decoder: Decoder,
    thresholds: tuple[float | None, ...] | None = None,
) -> Ranges:
    """Return the ranges of a bundle on the videos of a list.

    Args:
        executor: of the observed bundle (``range_observers``), whose cells have the output ``SUBGRAPH.largest``.
        tensors: the tensors that it reports, by subgraph.
        videos: of the list; labels are not used. Videos that cannot be read are skipped.
        keep: the file that the ranges are read from if it exists, and otherwise written to.
        decoder: of the videos.
        thresholds: the exit thresholds, except for ``FLOOR`` videos; None: each video runs to the end of the route.

    Raises:
        TooFewVideosError: If fewer than ``LEAST_VIDEOS`` are listed or readable.
        RangesError: If an activation is NaN or infinite, or most videos have a single colour in all frames.
        StaleRangesError: If ``keep`` holds the ranges of something else.
        StaleScoresError: If the journal of an interrupted pass does.
        ListError, ResourceError, BackendError: If reading, writing or running fails.
    """
    require_videos(len(videos))
    bundle, route = executor.bundle, executor.route
    files = by_content(videos)
    data = hashlib.sha256("".join(f"{name}\n" for name in sorted(files)).encode()).hexdigest()
    if keep.exists():
        return read_ranges(keep, bundle.sha256, data, thresholds)
    to_the_end = set(sorted(files)[:FLOOR]) if thresholds is not None else set(files)
    rule = ExitRule(route, thresholds, None)
    places = [(subgraph, tensor) for subgraph, names in sorted(tensors.items()) for tensor in names]
    belongs_to = {
        "bundle": bundle.sha256,
        "data": data,
        "tensors": len(places),
        "thresholds": None if thresholds is None else list(thresholds),
    }
    met = [LargestValues() for _ in places]
    reached, plain, done = np.zeros(len(route.cells), np.int64), 0, set()
    size = _DIGEST + 4 * (2 + len(places))
    path = keep.with_name(keep.name + ".journal")
    with Journal(path, belongs_to, size, "--ranges") as journal:

        def take(record: bytes) -> None:
            nonlocal plain
            exit_at, one_colour, *_ = values = np.frombuffer(record[_DIGEST:], np.float32)
            reached[: int(exit_at)] += 1
            plain += int(one_colour)
            for counts, value in zip(met, values[2:].tolist(), strict=True):
                counts.add(value)
            done.add(record[:_DIGEST].hex())

        for record in journal.records:
            take(record)
        journal.records.clear()
        for number, (name, video) in enumerate(files.items(), 1):
            if name not in done:
                try:
                    with decoder.open(
                        video.path, bundle.manifest.preprocessing, bundle.manifest.grid.num_frames
                    ) as source:
                        row = _watch_one(
                            executor, source, None if name in to_the_end else rule, tensors, str(video.path)
                        )
                except (VideoError, FramesError):
                    row = np.array([0, 0, *[_NOT_REACHED] * len(places)], np.float32)
                record = bytes.fromhex(name) + row.tobytes()
                journal.append(record)
                take(record)
            LOG.debug(f"{number}/{len(files)} videos observed")
        require_videos(int(reached[0]), len(files))
        _require_variety(plain, int(reached[0]))
        found: dict[str, dict[str, float]] = {name: {} for name in sorted(tensors)}
        for (subgraph, tensor), counts in zip(places, met, strict=True):
            found[subgraph][tensor] = counts.quantile(QUANTILE)
        ranges = Ranges(bundle.sha256, data, int(reached[0]), thresholds, tuple(reached.tolist()), found)
        ranges.write(keep)
        path.unlink()
    return ranges


def _watch_one(
    executor: Executor,
    source: FrameSource,
    rule: ExitRule | None,
    tensors: Mapping[str, Sequence[str]],
    video: str,
) -> Floats:
    """Return a video's last segment, whether all its frames have a single colour, and its largest activations."""
    met: dict[str, Floats] = {}
    last, one_colour = 0, True
    with closing(executor.walk([source])) as walk:
        for at in walk:
            last = at.index
            for frames in at.frames:
                one_colour &= bool((frames.min(axis=(0, 2, 3)) == frames.max(axis=(0, 2, 3))).all())
            for name, values in largest(executor, last, tensors).items():
                met[name] = np.maximum(met[name], values) if name in met else values
            if not np.isfinite(at.logits).all() or not all(np.isfinite(values).all() for values in met.values()):
                raise RangesError(
                    f"video {video!r}: an activation of segment {last} is NaN or infinite, expected finite values: "
                    "leave the video out, or use an earlier training checkpoint"
                )
            if rule is not None and rule.judge(last, at.logits[0], at.probabilities[0]).leaves:
                break
    rows = [met.get(name, np.full(len(names), _NOT_REACHED, np.float32)) for name, names in sorted(tensors.items())]
    return np.concatenate([np.array([last, one_colour], np.float32), *rows])


def largest(executor: Executor, index: int, tensors: Mapping[str, Sequence[str]]) -> dict[str, Floats]:
    """Return the largest activations of segment ``index`` after it has run: by subgraph, [tensors]."""
    found = {}
    for name, watched in tensors.items():
        values = executor.tap(index, f"{name}.largest") if watched else None  # a block's [1, frames, tensors]
        if values is not None:
            found[name] = values.reshape(-1, len(watched)).max(axis=0)
    return found


def require_videos(count: int, listed: int | None = None) -> None:
    """Check that this number of readable videos is enough for ranges.

    Raises:
        TooFewVideosError: If not.
    """
    if count < LEAST_VIDEOS:
        of = "" if listed is None else f" of {listed} can be read: that is too few"
        raise TooFewVideosError(
            f"{count} videos{of} for INT8's ranges: expected at least {LEAST_VIDEOS}, better 500, like those to be "
            "classified"
        )


def _require_variety(plain: int, videos: int) -> None:
    if 2 * plain > videos:
        raise RangesError(
            f"{plain} of {videos} videos have a single colour in all frames: expected videos like those to be "
            "classified"
        )
