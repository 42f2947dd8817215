"""The bytes of a reply are those that the protocol's clients read back."""

import json
import math

import numpy as np

from dynvid.serving.answer import OUTPUTS, http_body, raw_bytes, tensors

ANSWER = {
    "label": "läuft", "class_index": -1, "confidence": 0.1 + 0.2, "checkpoint": 3, "gmacs": 1e-9, "status": "ok",
    "queue_ms": 1.5, "decode_ms": 0.0, "compute_ms": float("nan"), "warnings": ["short", ""],
}  # fmt: skip


def read_back(raw, datatype):
    """Return the values of a binary tensor, as clients read them."""
    if datatype != "BYTES":
        return np.frombuffer(raw, {"INT32": "<i4", "FP64": "<f8"}[datatype]).tolist()
    found = []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        found, raw = [*found, raw[4 : 4 + length]], raw[4 + length :]
    return found


def same(one, other):
    return all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))


def test_binary_outputs_are_the_tensors():
    for name, tensor in tensors(ANSWER).items():
        assert same(read_back(raw_bytes(ANSWER, name), OUTPUTS[name]), tensor.ravel().tolist()), name
        assert tensor.shape == (1, 2 if name == "warnings" else 1)
    assert raw_bytes({**ANSWER, "warnings": []}, "warnings") == b""


def test_a_body_of_json_and_bytes():
    body, length = http_body(ANSWER, [(name, False) for name in OUTPUTS], id="7", model_name="m")
    found = json.loads(body)
    assert length is None and (found["id"], found["model_name"]) == ("7", "m")
    assert [one["name"] for one in found["outputs"]] == list(OUTPUTS)
    by_name = {one["name"]: one for one in found["outputs"]}
    assert by_name["label"] == {"name": "label", "shape": [1, 1], "datatype": "BYTES", "data": ["läuft"]}
    assert by_name["confidence"]["data"] == [0.30000000000000004] and math.isnan(by_name["compute_ms"]["data"][0])
    assert (by_name["warnings"]["shape"], by_name["warnings"]["data"]) == ([1, 2], ["short", ""])
    body, length = http_body(ANSWER, [("label", True), ("checkpoint", False), ("gmacs", True)])
    outputs = json.loads(body[:length])["outputs"]
    assert [one.get("parameters", {}).get("binary_data_size") for one in outputs] == [10, None, 8]
    assert outputs[1]["data"] == [3] and "data" not in outputs[0]
    assert body[length:] == raw_bytes(ANSWER, "label") + raw_bytes(ANSWER, "gmacs")
