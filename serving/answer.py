"""An answer on its way to a client: as JSON between the processes, and as tensors of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.prediction import Answer

OUTPUTS = {
    "label": "BYTES",
    "class_index": "INT32",
    "confidence": "FP64",
    "checkpoint": "INT32",
    "gmacs": "FP64",
    "status": "BYTES",
    "queue_ms": "FP64",
    "decode_ms": "FP64",
    "compute_ms": "FP64",
    "warnings": "BYTES",
}
"""Each output and its datatype; all are [1, 1] but ``warnings``, which is [1, number of warnings]."""

_DTYPES = {"BYTES": np.object_, "INT32": np.int32, "FP64": np.float64}


def to_json(answer: Answer) -> dict[str, Any]:
    """Return what a client is told, as JSON types that keep every bit.

    ``status`` is ``ok``, ``cut`` if the timeout left no time for a later checkpoint, or ``numeric_error``. The last
    has no class: the label is empty, the class -1 and the confidence NaN. ``queue_ms`` is the time in the queues of
    the model; a service adds that in its own.
    """
    no_class = answer.class_index is None
    return {
        "label": "" if answer.label is None else answer.label,
        "class_index": -1 if answer.class_index is None else answer.class_index,
        "confidence": float("nan") if answer.confidence is None else float(answer.confidence),
        "checkpoint": answer.checkpoint,
        "gmacs": answer.gmacs,
        "status": "numeric_error" if no_class else "cut" if answer.cut else "ok",
        "queue_ms": answer.waited_ms,
        "decode_ms": answer.decode_ms,
        "compute_ms": answer.latency_ms,
        "warnings": list(answer.warnings),
    }


def tensors(answer: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the outputs of an answer in the form of ``to_json``."""
    found: dict[str, NDArray[Any]] = {}
    for name, datatype in OUTPUTS.items():
        values = answer[name] if name == "warnings" else [answer[name]]
        if datatype == "BYTES":
            values = [value.encode() for value in values]
        found[name] = np.array(values, _DTYPES[datatype]).reshape(1, -1)
    return found
