"""Videos on disk to records: what ``dynvid classify`` prints, one a video."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..grid.errors import InputRefusedError
from ..grid.manifest import Manifest
from .decoder import Decoder
from .session import Prediction, Session


def classify_files(
    session: Session, videos: Iterable[Path], decoder: Decoder, trace: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield one record a video, in the order given; a video that cannot be read gets a record that says why.

    ``status`` is ``ok``, ``numeric_error``, or ``damaged`` where no frame could be had for an answer; then ``error`` says
    why and everything about the answer is None. ``logits`` is there with ``trace`` only.
    """
    manifest = session.executor.bundle.manifest
    for path in videos:
        try:
            with decoder.open(path, manifest.preprocessing, manifest.grid.num_frames) as source:
                prediction = session.classify(source, trace)
        except InputRefusedError as error:
            yield unanswered(path, str(error))
            continue
        yield record(path, prediction, manifest, trace)


def record(path: Path, prediction: Prediction, manifest: Manifest, trace: bool) -> dict[str, Any]:
    """Return a prediction in JSON types, with the video's name and its label; a logit that is no number is None."""
    fields = asdict(prediction)
    del fields["probabilities"], fields["segment_ms"]  # the softmax of the logits; their sum is latency_ms
    logits = [[v if math.isfinite(v) else None for v in z.tolist()] for z in fields.pop("logits")]
    index = prediction.class_index
    return {
        "video": str(path),
        "label": None if index is None else manifest.label(index),
        "error": None,
        **fields,
        "warnings": list(prediction.warnings),
        **({"logits": logits} if trace else {}),
    }


def unanswered(path: Path, error: str) -> dict[str, Any]:
    """Return the record of a video that gave no answer."""
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
