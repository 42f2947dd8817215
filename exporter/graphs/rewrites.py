"""Rewrites of a fused segment for CPU backends: faster, with the same ports, and equal up to rounding.

onnxruntime computes convolutions in a blocked layout, [frames, channels / 16, height, width, 16]. For anything that it
cannot do there, it copies to the plain layout and back. So it matters which operators lie between two convolutions, and
that it knows their shapes: it fuses an addition into a convolution only if it knows that the frame counts match.
OpenVINO computes with channels last throughout; there every slice and every concatenation of channels is a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, helper

from .graph import Graph, rename
from .im2col_frames import im2col_frames
from .in_place_sums import in_place_sums
from .pointwise import INPUTS, is_pointwise, sum_of, weights_of
from .quantised_moves import quantised_moves
from .shift import fold_shift, split_at_shift
from .slice_pushdown import slice_pushdown
from .uint8_activations import uint8_activations

_FRAMES_RANK = 5  # [batch, frames, channels, height, width]; without the batch it is 4
_CHANNELS = 1  # axis of a tensor [frames, channels, height, width]

Rewrite = Callable[[Graph], None]


def one_video(graph: Graph) -> None:
    """Fix the batch at one video, and drop its dimension from all tensors with frames.

    Then onnxruntime knows every shape, and a convolution reads or writes a port [frames, channels, height, width]
    directly, without a reshape that copies. The tensor in memory is the same. The dimension stays if any operator is
    not known to work without it.
    """
    for port in graph.ports.values():
        port.type.tensor_type.shape.dim[0].dim_value = 1
    shapes = graph.shapes()
    framed = {name for name, shape in shapes.items() if len(shape) == _FRAMES_RANK} - set(graph.constants)
    touched = [node for node in graph.nodes if framed.intersection((*node.input, *node.output))]
    if not all(_needs_no_batch(graph, node, shapes) for node in touched):
        return
    for node in touched:
        if node.op_type == "Reshape":
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output, node.name))
        elif node.op_type == "Concat":
            node.attribute[0].i = node.attribute[0].i % _FRAMES_RANK - 1
        elif node.op_type == "Slice":
            axes = graph.value(node.input[3])
            assert axes is not None
            node.input[3] = graph.constant(f"{node.input[3]}.4d", axes % _FRAMES_RANK - 1)
        elif node.op_type == "Pad":
            pads = graph.value(node.input[1])
            assert pads is not None
            node.input[1] = graph.constant(f"{node.input[1]}.4d", np.delete(pads, [0, _FRAMES_RANK]))
    for name in framed & set(graph.ports):
        del graph.ports[name].type.tensor_type.shape.dim[0]
    _without_identities(graph)


def split_concats(graph: Graph) -> None:
    """Let 1x1 convolutions read the parts of a growing concatenation, which then need not be made.

    ``conv(concat(base, new..))`` becomes ``conv(base) + conv(concat(new..))``. The base is what existed before the
    first layer; it stays the base until as many channels are new. Not applied if the convolutions write more channels
    than the base has, because then adding costs as much as copying.
    """
    shapes, readers = graph.shapes(), graph.readers()
    channels = {name: shape[_CHANNELS] for name, shape in shapes.items() if len(shape) == 4}
    parts: dict[str, tuple[str, list[str]]] = {}  # by concatenation: its base, and what is new
    others: dict[str, list[NodeProto]] = {}
    for node in graph.nodes:
        (joined, *_) = node.output
        if node.op_type == "Slice" and _lies_in_base(graph, node, parts, channels):
            node.input[0] = parts[node.input[0]][0]
        if node.op_type != "Concat" or joined not in channels or node.attribute[0].i != _CHANNELS:
            continue
        base, new = node.input[0], list(node.input[1:])
        if base in parts:
            longer = [*parts[base][1], *new]
            if sum(channels[tensor] for tensor in longer) <= channels[parts[base][0]]:
                base, new = parts[base][0], longer
        parts[joined] = base, new
        convolutions = [reader for reader in readers.get(joined, []) if is_pointwise(graph, reader)]
        if not convolutions or channels[base] < sum(channels[c.output[0]] for c in convolutions):
            others[joined] = [helper.make_node("Concat", [base, *new], [joined], node.name, axis=_CHANNELS)]
            continue
        rest, first = new[0], []
        if len(new) > 1:
            rest = f"{joined}.new"
            first = [helper.make_node("Concat", new, [rest], f"{node.name}.new", axis=_CHANNELS)]
        whole = helper.make_node("Concat", [base, rest], [joined], node.name, axis=_CHANNELS)
        others[joined] = [*first, whole]
        for convolution in convolutions:
            weight, count = convolution.input[1], channels[base]
            ends = (0, count), (count, channels[joined])
            weights = [weights_of(graph, weight, INPUTS, *bounds) for bounds in ends]
            others[convolution.output[0]] = sum_of(convolution, (base, weights[0]), (rest, weights[1]))
    graph.replace(others)


def flatten_concats(graph: Graph) -> None:
    """Merge a concatenation into its only reader, if that concatenates along the same axis: nothing is copied twice."""
    readers = graph.readers()
    joins = {n.output[0]: n for n in graph.nodes if n.op_type == "Concat"}
    for node in joins.values():  # in order, so what a node reads is already flat
        tensors: list[str] = []
        for tensor in node.input:
            inner = joins.get(tensor)
            if (
                inner is None
                or inner.attribute[0].i != node.attribute[0].i
                or len(readers[tensor]) > 1
                or tensor in graph.outputs
            ):
                tensors.append(tensor)
            else:
                tensors += inner.input
        node.input[:] = tensors
    graph.replace({})


REWRITES: Mapping[str, tuple[Rewrite, ...]] = {
    "onnxruntime": (
        one_video,
        fold_shift,
        split_concats,
        slice_pushdown,
        flatten_concats,
        im2col_frames,
        uint8_activations,
    ),
    "openvino": (
        one_video,
        uint8_activations,
        quantised_moves,
        split_at_shift,
        fold_shift,
        split_concats,
        slice_pushdown,
        in_place_sums,
        im2col_frames,
    ),
}
"""The rewrites of each CPU backend, in order. Those of convolutions pay only if shapes are known."""


def rewrite(content: bytes, rewrites: Sequence[Rewrite]) -> bytes:
    """Return the fused graph of a segment, rewritten; the same graph gives the same bytes.

    Its ports keep the segment's names and have its shapes for one video: [1, frames, ...] or [frames, ...].
    """
    graph = Graph.read(content)
    for one in rewrites:
        one(graph)
    model = graph.model()
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


# one_video


def _needs_no_batch(graph: Graph, node: NodeProto, shapes: dict[str, list[int]]) -> bool:
    """Return whether a node that reads or writes [1, frames, ...] can do the same on [frames, ...]."""
    if node.op_type == "Reshape":
        read, written = shapes[node.input[0]], shapes[node.output[0]]
        return [1, *read[-4:]] == [1, *written[-4:]] and {len(read), len(written)} <= {4, _FRAMES_RANK}
    if node.op_type == "Cast":
        return True
    if node.op_type == "Concat":
        return bool(node.attribute[0].i % _FRAMES_RANK)
    if node.op_type == "Slice":
        axes = graph.value(node.input[3]) if len(node.input) > 3 else None
        return axes is not None and bool((axes % _FRAMES_RANK).all())
    if node.op_type == "Pad":
        pads = graph.value(node.input[1]) if len(node.input) == 2 else None
        return pads is not None and pads.size == 2 * _FRAMES_RANK and not pads[[0, _FRAMES_RANK]].any()
    return False


def _without_identities(graph: Graph) -> None:
    """Remove every Identity, except one between an input and an output or between two outputs."""
    same: dict[str, str] = {}
    writers = graph.writers()
    for node in graph.nodes:
        if node.op_type != "Identity":
            continue
        source = same.get(node.input[0], node.input[0])
        if node.output[0] not in graph.outputs:
            same[node.output[0]] = source
        elif source in writers and source not in graph.outputs and same.get(source, source) == source:
            same |= {name: node.output[0] for name, other in same.items() if other == source}
            same[source] = node.output[0]
    for node in graph.nodes:
        if node.op_type == "Identity" and same.get(node.input[0], node.input[0]) == node.output[0]:
            node.output[0] = f"{node.name}.unread"
        rename(node, same)
    graph.nodes = [n for n in graph.nodes if n.op_type != "Identity" or n.input[0] != n.output[0]]
    graph.replace({})


# split_concats


def _lies_in_base(
    graph: Graph, node: NodeProto, parts: dict[str, tuple[str, list[str]]], channels: dict[str, int]
) -> bool:
    """Return whether a Slice only takes channels of a concatenation's base."""
    if node.input[0] not in parts or len(node.input) != 5:
        return False
    starts, stops, axes = (graph.value(node.input[place]) for place in (1, 2, 3))
    if starts is None or stops is None or axes is None or axes.tolist() != [_CHANNELS]:
        return False
    return 0 <= int(starts[0]) < int(stops[0]) <= channels[parts[node.input[0]][0]]
