"""What a client may send, and one line for everything else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvid.grid.errors import RequestError
from dynvid.serving.request import Output, Request, parameters_of, read_body, read_tensor, require_few_numbers

FRAMES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(1, 2, 4, 5, 3)


def body(tensor, payload=b"", **request):
    """Return an HTTP body with a binary tensor, and the length of its JSON."""
    tensor = {"parameters": {"binary_data_size": len(payload)}, **tensor}
    head = json.dumps({"inputs": [tensor], **request}).encode()
    return head + payload, len(head)


def clip(payload):
    return {"name": "clip", "shape": [1, 1], "datatype": "BYTES"}, len(payload).to_bytes(4, "little") + payload


def frames(array=FRAMES):
    return {"name": "frames", "shape": list(array.shape), "datatype": "UINT8"}, array.tobytes()


def test_a_clip_comes_as_a_binary_tensor_or_as_the_body():
    assert read_body(*body(*clip(b"video"))).payload == b"video"
    raw = read_body(b"video", 0)
    assert (raw.payload, raw.shape, raw.timeout_s) == (b"video", None, None)


@pytest.mark.parametrize("array", [FRAMES, FRAMES[0]])
def test_frames_come_with_or_without_the_batch_of_one(array):
    request = read_body(*body(*frames(array)))
    assert request.shape == (2, 4, 5, 3) and request.payload == FRAMES.tobytes()


def test_frames_may_be_json():
    tensor = {**frames()[0], "data": FRAMES.tolist()}
    found = read_body(json.dumps({"inputs": [tensor]}).encode(), None)
    assert found == Request(FRAMES.tobytes(), (2, 4, 5, 3))


def test_timeout_id_and_outputs_are_read():
    wanted = [{"name": "label"}, {"name": "gmacs", "parameters": {"binary_data": False}}]
    parameters = {"timeout": 250_000, "binary_data_output": True}
    found = read_body(*body(*clip(b"v"), id="7", outputs=wanted, parameters=parameters))
    assert (found.timeout_s, found.id, found.binary) == (0.25, "7", True)
    assert found.outputs == (Output("label", True), Output("gmacs", False))


CLIP, PAYLOAD = clip(b"video")
TENSOR, PIXELS = frames()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ((b"", None), "is not JSON"),
        ((b"{}", None), "a request is one video"),
        ((b"[" * 100_000, None), "is not JSON"),
        ((b"{}", 9), "Inference-Header-Content-Length is 9, and the body has 2 bytes"),
        ((b"", 0), "the video is empty"),
        (body(CLIP, PAYLOAD[:-1]), "is not one element"),
        (body(CLIP, b"\0\0\0\0"), "the video is empty"),
        (body({**CLIP, "shape": [2]}, PAYLOAD), r"'clip' is 'BYTES' of shape \[2\]"),
        (body({**CLIP, "data": ["text"]}), "JSON, which holds no video"),
        (body({**TENSOR, "shape": [2, 2, 4, 5, 3]}, PIXELS), "the first dimension"),
        (body({**TENSOR, "shape": [1, 3, 4, 5, 3]}, PIXELS), "have 120 bytes, not 180"),
        (body({**TENSOR, "shape": [1, 0, 4, 5, 3]}), "the video is empty"),
        (body({**TENSOR, "shape": [1, -1, 4, 5, 3]}, PIXELS), "has the shape"),
        (body({**TENSOR, "shape": [1 << 40] * 4}, PIXELS), "has the shape"),
        (body({**TENSOR, "datatype": "FP32"}, PIXELS), "'frames' is 'FP32'"),
        (body({**TENSOR, "data": [256] * 120}), "not a number from 0 to 255"),
        (body({**TENSOR, "data": [True] * 120}), "not a number from 0 to 255"),
        (body({**TENSOR, "parameters": {"binary_data_size": 7}}, PIXELS), "binary_data_size is 7, and 120 bytes"),
        (body(CLIP, PAYLOAD, parameters={"timeout": -1}), "timeout -1: expected microseconds"),
        (body(CLIP, PAYLOAD, parameters={"timeout": True}), "timeout True"),
        (body(CLIP, PAYLOAD, parameters={"priority": 1}), "parameter 'priority' is not known"),
        (body(CLIP, PAYLOAD, outputs=[{"name": "logits"}]), "output 'logits' is not known. Expected label,"),
        (
            body(CLIP, PAYLOAD, outputs=[{"name": "label", "parameters": {"classification": 3}}]),
            "'classification' of output",
        ),
        (body(CLIP, PAYLOAD, outputs=5), "outputs are not a list"),
        (body(CLIP, PAYLOAD, id="\ud800"), "half a character"),
        (body(CLIP, PAYLOAD, id=5), "the id of the request is not a text"),
    ],
)
def test_anything_else_is_refused_in_words(sent, said):
    with pytest.raises(RequestError, match=said):
        read_body(*sent)


def test_a_message_shows_little_of_what_was_sent():
    with pytest.raises(RequestError) as caught:
        read_body(*body({"name": "x" * 10_000, "shape": [1], "datatype": "UINT8"}, b"secret"))
    assert len(str(caught.value)) < 400


JSON = st.sampled_from(
    [
        None, True, -1, 2.5, 1 << 70, "x", [], {}, [1], [[{}]], "BYTES", {"a": 1}, {"timeout": 5}, {"timeout": "5"},
        {"binary_data_size": 3}, {"binary_data_size": None}, [{"name": "label"}], [{"name": ["label"]}], [{"parameters": 1}],
    ]
)  # fmt: skip


@given(
    tensor=st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["clip", "frames"]) | JSON, "datatype": st.sampled_from(["BYTES", "UINT8"]) | JSON,
            "shape": st.lists(st.integers(-1, 4), max_size=6) | JSON, "data": JSON, "parameters": JSON,
        },
    ),
    request=st.fixed_dictionaries({}, optional={"id": JSON, "parameters": JSON, "outputs": JSON}),
    payload=st.binary(max_size=12),
)  # fmt: skip
def test_no_request_raises_anything_but_a_refusal(tensor, request, payload):
    head = json.dumps({"inputs": [tensor], **request}).encode()
    try:
        found = read_body(head + payload, len(head))
    except RequestError:
        return
    assert found.payload


def test_a_tensor_of_bytes_may_be_a_list_as_from_protocol_buffers():
    assert read_tensor("clip", "BYTES", [1, 1], [b"video"], parameters={}).payload == b"video"


def test_numbers_one_by_one_have_a_limit_and_a_clip_does_not_count():
    class Contents:
        def __init__(self, numbers, clip=b""):
            self.bytes_contents, self._size = [clip], numbers + len(clip)

        def ByteSize(self):
            return self._size

    require_few_numbers([Contents(900_000), Contents(0, bytes(5_000_000))])
    with pytest.raises(RequestError, match="take 1000001 bytes"):
        require_few_numbers([Contents(1_000_000), Contents(1, b"clip")])


def test_parameters_of_every_kind_are_read_from_protocol_buffers():
    class Parameter:
        uint64_param, double_param = 250_000, 2.5

        def __init__(self, kind):
            self._kind = kind

        def WhichOneof(self, group):
            return self._kind

    found = parameters_of({"timeout": Parameter("uint64_param")})
    assert read_tensor("clip", "BYTES", [1, 1], [b"v"], parameters=found).timeout_s == 0.25
    found = parameters_of({"timeout": Parameter("double_param")})
    with pytest.raises(RequestError, match="timeout 2.5"):
        read_tensor("clip", "BYTES", [1, 1], [b"v"], parameters=found)
    with pytest.raises(RequestError, match="no value that is known"):
        parameters_of({"timeout": Parameter(None)})
