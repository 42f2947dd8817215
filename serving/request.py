"""What a request to a service may hold: one video, as an encoded clip or as frames, and how long it may take.

The wire format is that of the Open Inference Protocol v2 with Triton's extensions for binary tensors, for a raw body
and for timeouts. Nothing here needs a server.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..grid.errors import RequestError, UsageError
from .answer import OUTPUTS

CLIP, FRAMES = "clip", "frames"
WANTED = (
    f"Expected one input: {CLIP!r}, BYTES [1, 1], an encoded video; or {FRAMES!r}, UINT8 [1, frames, height, width, 3]."
)

_LENGTH = struct.Struct("<I")
_IGNORED = {"binary_data_output"}  # parameters that concern the form of the answer
_MOST_NUMBERS = 1_000_000  # bytes
_MOST_TIMEOUT_US = 3_600_000_000


@dataclass(frozen=True)
class Output:
    """An output that the client asked for; ``binary`` says whether as bytes after the JSON."""

    name: str
    binary: bool


@dataclass(frozen=True)
class Request:
    """One video to classify.

    Attributes:
        payload: the encoded clip, or the bytes of the frames.
        shape: of the frames, [frames, height, width, 3]; None: an encoded clip.
        timeout_s: how long the client waits for the answer; None: as long as the service allows.
        id: the client's name for it.
        outputs: what is to be answered; empty: everything.
        binary: whether outputs are answered as bytes after the JSON, if ``outputs`` does not say.
    """

    payload: bytes | memoryview
    shape: tuple[int, int, int, int] | None = None
    timeout_s: float | None = None
    id: str = ""
    outputs: tuple[Output, ...] = field(default=())
    binary: bool = False


def read_body(body: bytes, json_length: int | None) -> Request:
    """Return the request of an HTTP body.

    Args:
        body: JSON, which a binary tensor may follow.
        json_length: of the JSON; 0: the body is one raw clip; None: all of it is JSON.

    Raises:
        RequestError: If it is malformed.
    """
    json_length = len(body) or 1 if json_length is None else json_length
    if not 0 <= json_length <= max(len(body), 1):
        raise RequestError(
            f"Inference-Header-Content-Length is {json_length}, and the body has {len(body)} bytes: expected the length "
            "of the JSON that the body begins with, or 0 for a body that is a clip."
        )
    view = memoryview(body)
    if json_length == 0:
        return Request(_non_empty(view))
    try:
        head = json.loads(bytes(view[:json_length]))
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON, or its header Inference-Header-Content-Length is wrong.") from None
    if not isinstance(head, dict):
        raise RequestError("the JSON of the body is not an object. " + WANTED)
    tensor = _only(head.get("inputs"))
    parameters = _object(tensor.get("parameters"))
    if "data" in tensor:
        data: Any = tensor["data"]
    else:
        size = parameters.get("binary_data_size")
        if type(size) is not int or size != len(view) - json_length:
            raise RequestError(
                f"binary_data_size is {_shown(size)}, and {len(view) - json_length} bytes follow the JSON: expected "
                "their number."
            )
        data = view[json_length:]
    return read_tensor(
        tensor.get("name"),
        tensor.get("datatype"),
        tensor.get("shape"),
        data,
        parameters=_object(head.get("parameters")),
        outputs=head.get("outputs") or (),
        id=head.get("id") or "",
    )


def read_tensor(
    name: object,
    datatype: object,
    shape: object,
    data: object,
    *,
    parameters: Mapping[str, Any],
    outputs: object = (),
    id: object = "",
) -> Request:
    """Return the request for one input tensor.

    Args:
        name: as the client gave it.
        datatype: as the client gave it.
        shape: as the client gave it.
        data: the tensor's bytes; or a list, of numbers, or of one element.
        parameters: of the request: ``timeout``, in microseconds, and ``binary_data_output``.
        outputs: the requested outputs, as the client gave them.
        id: the client's name for it.

    Raises:
        RequestError: If they do not go together.
    """
    if not isinstance(id, str) or len(id) > 1024:
        raise RequestError("the id of the request is not a text of at most 1024 characters.")
    if any("\ud800" <= one <= "\udfff" for one in id):  # JSON can hold half a character, and UTF-8 cannot
        raise RequestError("the id of the request holds half a character (a lone surrogate).")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise RequestError(f"input {_shown(name)} has the shape {_shown(shape)}. " + WANTED)
    if name == CLIP and datatype == "BYTES" and math.prod(shape) == 1:
        payload, frames = _non_empty(_one_element(data)), None
    elif name == FRAMES and datatype == "UINT8" and len(shape) in (4, 5) and shape[-1] == 3:
        if len(shape) == 5 and shape.pop(0) != 1:
            raise RequestError("a request is one video, so the first dimension of frames [1, ...] is 1.")
        payload, frames = _non_empty(_bytes_of(data)), (shape[0], shape[1], shape[2], 3)
        if len(payload) != math.prod(frames):
            raise RequestError(f"frames of shape {list(frames)} have {len(payload)} bytes, not {math.prod(frames)}.")
    else:
        raise RequestError(
            f"input {_shown(name)} is {_shown(datatype)} of shape {_shown(shape)}. " + WANTED,
        )
    return Request(
        payload,
        frames,
        _timeout_s(parameters),
        id,
        _outputs(outputs, binary := parameters.get("binary_data_output") is True),
        binary,
    )


class Contents(Protocol):
    """The values of a tensor in protocol buffers, one by one."""

    bytes_contents: Sequence[bytes]

    def ByteSize(self) -> int:
        """Return how many bytes they take."""


def require_few_numbers(contents: Iterable[Contents]) -> None:
    """Check that tensors hold no more than 1 MB beside texts, since numbers one by one are slow to read.

    Raises:
        RequestError: If they do.
    """
    size = sum(one.ByteSize() - sum(map(len, one.bytes_contents)) for one in contents)
    if size > _MOST_NUMBERS:
        raise RequestError(
            f"the contents of the tensors take {size} bytes: expected at most {_MOST_NUMBERS}. Send raw_input_contents."
        )


class Parameter(Protocol):
    """A parameter in protocol buffers."""

    def WhichOneof(self, group: str) -> str | None:
        """Return the field that is set."""


def parameters_of(found: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return parameters in protocol buffers as those in JSON.

    Raises:
        RequestError: If one holds nothing that is known.
    """
    values: dict[str, Any] = {}
    for name, parameter in found.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise RequestError(
                f"parameter {_shown(name)} has no value that is known: expected an int64, a bool or a text."
            )
        values[name] = getattr(parameter, kind)
    return values


def require_name(name: str) -> None:
    """Check the name of a model.

    Raises:
        UsageError: If it cannot be part of a URL, and of a path.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UsageError(f"--name {name!r}: expected letters, digits, '_', '-' and '.', as a folder may be called")


def _only(tensors: object) -> dict[str, Any]:
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise RequestError("a request is one video. " + WANTED)
    return tensors[0]


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    unknown = sorted(set(parameters) - _IGNORED - {"timeout"})
    if unknown:
        raise RequestError(f"parameter {_shown(unknown[0])} is not known: expected timeout, in microseconds.")
    timeout = parameters.get("timeout")
    if timeout is None or timeout == 0:  # 0: none, as Triton has it
        return None
    if type(timeout) is not int or not 0 < timeout <= _MOST_TIMEOUT_US:
        raise RequestError(f"timeout {_shown(timeout)}: expected microseconds, from 1 to {_MOST_TIMEOUT_US}.")
    return timeout / 1e6


def _outputs(outputs: object, binary: bool) -> tuple[Output, ...]:
    if not isinstance(outputs, Sequence) or len(outputs) > len(OUTPUTS):
        raise RequestError(f"outputs are not a list of at most {len(OUTPUTS)}.")
    found = []
    for one in outputs:
        name = _object(one).get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise RequestError(f"output {_shown(name)} is not known. Expected {', '.join(OUTPUTS)}.")
        parameters = _object(one.get("parameters"))
        if unknown := sorted(set(parameters) - {"binary_data"}):
            raise RequestError(f"parameter {_shown(unknown[0])} of output {name!r} is not known: leave it out.")
        found.append(Output(name, parameters.get("binary_data", binary) is True))
    return tuple(found)


def _object(found: object) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RequestError(f"{_shown(found)} stands where an object is expected.")
    return found


def _one_element(data: object) -> bytes | memoryview:
    """Return the bytes of a BYTES tensor of one element: its length as uint32, then the element."""
    if isinstance(data, (bytes, memoryview)):
        view = memoryview(data)
        if len(view) < _LENGTH.size or _LENGTH.unpack_from(view)[0] != len(view) - _LENGTH.size:
            raise RequestError(f"input {CLIP!r} is not one element: expected its length as uint32, then its bytes.")
        return view[_LENGTH.size :]
    while isinstance(data, list) and len(data) == 1:
        data = data[0]
    if isinstance(data, bytes):
        return data
    raise RequestError(f"input {CLIP!r} is JSON, which holds no video: send it as a binary tensor.")


def _bytes_of(data: object) -> bytes | memoryview:
    if isinstance(data, (bytes, memoryview)):
        return data
    flat: list[Any] = []
    stack = [iter((data,))]
    while stack:
        for one in stack[-1]:
            if isinstance(one, list):
                stack.append(iter(one))
                break
            flat.append(one)
        else:
            stack.pop()
    if not all(type(n) is int and 0 <= n <= 255 for n in flat):
        raise RequestError(f"input {FRAMES!r} holds something that is not a number from 0 to 255.")
    return bytes(flat)


def _non_empty(payload: bytes | memoryview) -> bytes | memoryview:
    if not payload:
        raise RequestError("the video is empty. " + WANTED)
    return payload


def _shown(found: object) -> str:
    """Return what the client sent, cut short, for a message."""
    text = repr(found)
    return text if len(text) <= 60 else text[:57] + "..."
