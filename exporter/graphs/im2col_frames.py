"""Rewrite convolutions with few output pixels per frame as one matrix product over the pixels of all frames.

onnxruntime convolves frame by frame and reads the weights again each time. If a frame has few pixels, as in the heads
of an MSDNet, reading takes longer than multiplying, even more so if the weights must come from memory each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from .graph import Graph, attributes_of

_FEW_PIXELS, _MANY_BYTES = 4, 1 << 20
"""Most pixels per frame, if the weights have at least this many bytes and so exceed a core's own cache."""
_BYTES_OF_MEMORY = 32 << 20
"""Weights of this size come from memory, so the rewrite pays for any number of pixels."""


def im2col_frames(graph: Graph) -> None:
    """Run such convolutions as 1x1 convolutions over one row of pixels, those of all frames.

    A pixel's channels are what the kernel sees from there, 9 x channels for a 3x3 kernel, with zeros beyond the
    frame's edges.
    """
    shapes, readers = graph.shapes(), graph.readers()
    others: dict[str, list[NodeProto]] = {}
    for node in graph.nodes:
        if _gains(graph, node, shapes):
            after = readers.get(node.output[0], [])
            alone = [n.op_type for n in after] == ["Relu"] and node.output[0] not in graph.outputs
            relu = after[0] if alone else None
            others[(relu or node).output[0]] = _joined(graph, node, relu, shapes)
    graph.replace(others)


def _gains(graph: Graph, node: NodeProto, shapes: dict[str, list[int]]) -> bool:
    """Return whether a node is a convolution that is faster over all frames at once."""
    if node.op_type != "Conv" or node.input[1] not in graph.constants:
        return False
    weight, written = graph.constants[node.input[1]], shapes[node.output[0]]
    attributes = attributes_of(node)
    if (
        weight.data_type != TensorProto.FLOAT
        or len(written) != 4
        or min(*shapes[node.input[0]], *written) < 1  # unknown
        or list(weight.dims[2:]) == [1, 1]
        or attributes.get("group", 1) != 1
        or any(dilation != 1 for dilation in attributes.get("dilations", ()))
        or attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return False
    size, pixels = 4 * int(np.prod(weight.dims)), written[2] * written[3]
    return size >= _BYTES_OF_MEMORY or (size >= _MANY_BYTES and pixels <= _FEW_PIXELS)


def _joined(graph: Graph, node: NodeProto, relu: NodeProto | None, shapes: dict[str, list[int]]) -> list[NodeProto]:
    """Return the nodes that replace a convolution and the ReLU, if any, that is its only reader."""
    read, (frames, channels, height, width) = shapes[node.input[0]], shapes[node.output[0]]
    weight = graph.value(node.input[1])
    assert weight is not None
    kernel = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(channels, -1, 1, 1)
    joined = graph.constant(f"{node.input[1]}.joined", kernel)
    places = graph.constant(f"{node.name}.places", _places(node, read, weight.shape[2:]))
    zero = graph.constant(f"{node.name}.zero", np.zeros((1, read[1]), np.float32))

    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Reshape", [graph.sizes(-1, read[1])], {}),
        ("Concat", [zero], {"axis": 0}),
        ("Gather", [places], {"axis": 0}),
        ("Reshape", [graph.sizes(1, 1, frames * height * width, kernel.shape[1])], {}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Conv", [joined, *node.input[2:]], {}),
        *([] if relu is None else [("Relu", list[str](), dict[str, Any]())]),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Reshape", [graph.sizes(frames, height, width, channels)], {}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
    ]
    nodes, tensor = [], node.input[0]
    for number, (operator, more, attributes) in enumerate(steps):
        name = f"{node.name}.{number}"
        nodes.append(helper.make_node(operator, [tensor, *more], [name], name, **attributes))
        tensor = name
    nodes[-1].output[:] = (relu or node).output
    return nodes


def _places(node: NodeProto, read: list[int], kernel: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the pixel under each tap of the kernel, [frames x height x width x taps]; one past the last is zero."""
    frames, _, height, width = read
    attributes = attributes_of(node)
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    down, along = attributes.get("strides", [1, 1])
    pixels = np.arange(frames * height * width).reshape(frames, height, width)
    padded = np.pad(pixels, ((0, 0), (top, bottom), (left, right)), constant_values=pixels.size)
    return sliding_window_view(padded, kernel, axis=(1, 2))[:, ::down, ::along].ravel()
