"""Turn videos on disk into records: one per video, as ``dynvid classify`` prints them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..grid.errors import InputRefusedError, UsageError
from .results_file import Results
from .session import Prediction

_ALWAYS_ALLOWED = 20  # failures: of a few dead files, no share says anything


def record(path: Path, prediction: Prediction, trace: bool) -> dict[str, Any]:
    """Return a prediction as JSON types, with the video's name and label. Logits that are not finite become None.

    ``status`` is ``ok``, ``numeric_error``, or ``damaged`` if no frames could be read (``unanswered``). For a damaged
    video ``error`` says why and all fields of the answer are None. ``logits`` is included only with ``trace``.
    """
    fields = asdict(prediction)
    del fields["probabilities"], fields["segment_ms"]  # derivable: the softmax of the logits, and latency_ms is the sum
    logits = [[v if math.isfinite(v) else None for v in z.tolist()] for z in fields.pop("logits")]
    return {
        "video": str(path),
        "label": fields.pop("label"),
        "error": None,
        **fields,
        "warnings": list(prediction.warnings),
        **({"logits": logits} if trace else {}),
    }


def unanswered(path: Path, error: str) -> dict[str, Any]:
    """Return the record of a video that has no answer."""
    nothing = ("label", "class_index", "confidence", "checkpoint", "gmacs", "fraction", "latency_ms", "decode_ms")
    return {
        "video": str(path),
        "status": "damaged",
        "error": error,
        **dict.fromkeys(nothing),
        "frames_decoded": 0,
        "frames_total": 0,
        "damaged": True,
        "warnings": [],
    }


@dataclass
class Failures:
    """How many videos were tried and failed so far, and how many may fail. It stops a run that cannot succeed.

    The limit is a share of the whole list, not of those tried so far: a few dead files at its start stop nothing.

    Attributes:
        most: share of the videos that may fail; 20 videos always may.
        videos: of the run, tried or not.
        tried: videos that have a record; ``failed``: those whose status is not ``ok``.
    """

    most: float
    videos: int
    tried: int = 0
    failed: int = 0

    @classmethod
    def of(cls, results: Results | None, most: float, videos: int) -> Failures:
        """Return the count to resume with: that of the results so far."""
        return cls(most, videos) if results is None else cls(most, videos, len(results.done), len(results.failed))

    def add(self, record: dict[str, Any]) -> None:
        """Count a record."""
        self.tried += 1
        self.failed += record["status"] != "ok"

    @property
    def too_many(self) -> bool:
        """Whether more than 20 videos failed: all that were tried, or more than the allowed share of the list."""
        hopeless = self.failed == self.tried or self.failed / self.videos > self.most
        return self.failed > _ALWAYS_ALLOWED and self.most < 1 and hopeless

    def partial(self, output: Path | None) -> str | None:
        """Return a message about the videos without an answer; None if all were answered.

        Raises:
            InputRefusedError: If no video has an answer.
        """
        where = "above" if output is None else str(output)
        if self.failed and self.failed == self.tried:
            stopped = f"; stopped there, of {self.videos} videos" if self.tried < self.videos else ""
            raise InputRefusedError(
                f"no video could be classified ({self.failed} of {self.tried} failed, see {where}){stopped}"
            )
        if self.tried < self.videos:
            remedy = "leave them out" if output is None else "repair them and add --retry-failed"
            return (
                f"stopped after {self.tried} of {self.videos} videos: {self.failed} could not be classified, more than "
                f"--max-failures {self.most:g} allows. See {where}; {remedy}, or go on with --max-failures 1"
            )
        return f"{self.failed} of {self.tried} videos could not be classified, see {where}" if self.failed else None


def classify_rest(
    classify: Callable[[Iterable[Path]], Generator[dict[str, Any], None, None]],
    videos: Sequence[Path],
    failures: Failures,
    results: Results | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Classify the videos that have no line in ``results``; yield each record after writing its line.

    Ends early if too many fail; ``failures`` keeps the count.

    Raises:
        ResourceError: If the disk is full.
    """
    left = videos if results is None else [video for video in videos if str(video) not in results.done]
    with closing(classify(left)) as records:
        while not failures.too_many and (record := next(records, None)) is not None:
            failures.add(record)
            if results is not None:
                results.append(record)
            yield record


def each_once(videos: Iterable[Path]) -> list[Path]:
    """Return the videos in order, without those whose path occurred before."""
    first: dict[str, Path] = {}
    for video in videos:
        first.setdefault(os.path.abspath(video), video)
    return list(first.values())


def parse_shard(text: str) -> tuple[int, int]:
    """Parse 'i/n', 1 <= i <= n, as (i, n).

    Raises:
        UsageError: For anything else.
    """
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"--shard {text!r}: expected i/n with i from 1 to n, such as 1/4")
    return index, count


def shard_of(videos: Sequence[Path], index: int, count: int) -> list[Path]:
    """Return shard ``index`` of ``count``, 1-based, in the order given.

    A shard is every ``count``-th of the videos sorted by path. Shards are disjoint, cover all videos and differ by at
    most one in size, whatever order each process receives the videos in.
    """
    by_path = sorted(range(len(videos)), key=lambda position: str(videos[position]))
    return [videos[position] for position in sorted(by_path[index - 1 :: count])]
