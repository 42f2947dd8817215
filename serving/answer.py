"""An answer on its way to a client: as JSON between the processes, and as tensors of the Open Inference Protocol.

KServe's and Triton's own classes for outputs take longer than the rest of a reply, so their bytes are made here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
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
        values = _values(answer, name)
        if datatype == "BYTES":
            values = [value.encode() for value in values]
        found[name] = np.array(values, _DTYPES[datatype]).reshape(1, -1)
    return found


def http_body(answer: Mapping[str, Any], wanted: Sequence[tuple[str, bool]], **more: Any) -> tuple[bytes, int | None]:
    """Return the body of a reply over HTTP, and the length of its JSON if binary tensors follow.

    Args:
        answer: in the form of ``to_json``.
        wanted: the outputs in order, each with whether as bytes after the JSON.
        more: what the JSON has beside ``outputs``.
    """
    outputs, binary = list[dict[str, Any]](), list[bytes]()
    for name, as_bytes in wanted:
        values = _values(answer, name)
        output: dict[str, Any] = {"name": name, "shape": [1, len(values)], "datatype": OUTPUTS[name]}
        if as_bytes:
            binary.append(raw_bytes(answer, name))
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    head = json.dumps({**more, "outputs": outputs}).encode()
    return (b"".join([head, *binary]), len(head)) if binary else (head, None)


def raw_bytes(answer: Mapping[str, Any], name: str) -> bytes:
    """Return an output's bytes in the protocol's binary form: little-endian; texts with their lengths before them."""
    values = _values(answer, name)
    if OUTPUTS[name] == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(values)}{'i' if OUTPUTS[name] == 'INT32' else 'd'}", *values)


def _values(answer: Mapping[str, Any], name: str) -> list[Any]:
    return list(answer[name]) if name == "warnings" else [answer[name]]
