"""Turn videos on disk into records: one per video, as ``dynvid classify`` prints them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from ...grid.errors import UsageError
from ..session import Prediction
from ..video.listing import ListedVideo

T = TypeVar("T")


def record(row: ListedVideo, prediction: Prediction, trace: bool, file: dict[str, int] | None) -> dict[str, Any]:
    """Return a prediction as JSON types, with the video's name and labels. Logits that are not finite become None.

    ``label`` is the answer, ``listed_label`` that of the list, ``id`` is there if the list has ids, and ``file`` is as
    ``file_of`` returns it.

    ``status`` is ``ok``, ``numeric_error``, or ``damaged`` if no frames could be read (``unanswered``). For a damaged
    video ``error`` says why and all fields of the answer are None. ``logits`` is included only with ``trace``.
    """
    fields = asdict(prediction)
    del fields["probabilities"], fields["segment_ms"]  # derivable: the softmax of the logits, and latency_ms is the sum
    logits = [[v if math.isfinite(v) else None for v in z.tolist()] for z in fields.pop("logits")]
    return {
        **_named(row, file),
        "label": fields.pop("label"),
        "listed_label": row.label,
        "error": None,
        **fields,
        "warnings": list(prediction.warnings),
        **({"logits": logits} if trace else {}),
    }


def unanswered(row: ListedVideo, error: str, file: dict[str, int] | None) -> dict[str, Any]:
    """Return the record of a video that has no answer."""
    nothing = ("label", "class_index", "confidence", "checkpoint", "gmacs", "fraction", "latency_ms", "decode_ms")
    return {
        **_named(row, file),
        "listed_label": row.label,
        "status": "damaged",
        "error": error,
        **dict.fromkeys(nothing),
        "frames_decoded": 0,
        "frames_total": 0,
        "damaged": True,
        "warnings": [],
    }


def _named(row: ListedVideo, file: dict[str, int] | None) -> dict[str, Any]:
    return {"video": str(row), **({} if row.id is None else {"id": row.id}), "file": file}


def file_of(video: str) -> dict[str, int] | None:
    """Return size and time of change (ns) of a file, by which it is known again; None of a URI, or if there is none."""
    try:
        found = os.stat(video)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return {"bytes": found.st_size, "modified": found.st_mtime_ns}


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


def shard_of(videos: Sequence[T], index: int, count: int, path: Callable[[T], str] = str) -> list[T]:
    """Return shard ``index`` of ``count``, 1-based, in the order given; ``path`` gives a video's path.

    A shard is every ``count``-th of the videos sorted by path. Shards are disjoint, cover all videos and differ by at
    most one in size, whatever order each process receives the videos in.
    """
    by_path = sorted(range(len(videos)), key=lambda position: path(videos[position]))
    return [videos[position] for position in sorted(by_path[index - 1 :: count])]
