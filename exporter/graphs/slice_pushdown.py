"""Rewrite the shift's slices: take frames before tensors are joined, and together with their channels.

The shift joins the frame handed over, or zeros, with the first channels of all frames. Its convolution reads all
frames of the result but the last, and the last is handed over. Done one after another, this copies those channels
three times.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, helper

from .graph import Graph, attributes_of

FRAMES, CHANNELS = 0, 1  # axes of a tensor [frames, channels, height, width]

Shapes = dict[str, list[int]]
Part = tuple[str | None, int]  # a tensor and its frames; None: zeros
Piece = tuple[str | None, int, int]  # frames [start, stop) of a part


def slice_pushdown(graph: Graph) -> None:
    """Slice the parts of joined frames, not the whole; if a part is a channel slice of a tensor, slice that tensor."""
    shapes, writers = graph.shapes(), graph.writers()
    others: dict[str, list[NodeProto]] = {}
    for node in graph.nodes:
        taken = slice_bounds(graph, node, FRAMES, shapes)
        if taken is None:
            continue
        pieces = _within(_joined(graph, writers.get(node.input[0]), shapes), *taken)
        nodes, tensors, zeros = [], list[str](), 0
        for tensor, start, stop in pieces:
            if tensor is None:
                zeros += stop - start
            elif (start, stop) == (0, shapes[tensor][FRAMES]):
                tensors.append(tensor)
            else:
                tensors.append(f"{node.output[0]}.part{len(tensors)}")
                nodes.append(_slice(graph, writers.get(tensor), tensor, start, stop, tensors[-1], shapes))
        if not nodes:  # copies no less than before
            continue
        if zeros:
            pads = graph.constant(f"pads.{zeros}", np.array([zeros, *[0] * 7], np.int64))
            nodes.append(helper.make_node("Pad", [tensors[0], pads], node.output, f"{node.name}.pad"))
        elif len(tensors) == 1:
            nodes[0].output[:] = node.output
        else:
            nodes.append(helper.make_node("Concat", tensors, node.output, f"{node.name}.join", axis=FRAMES))
        others[node.output[0]] = nodes
    graph.replace(others)


def _joined(graph: Graph, node: NodeProto | None, shapes: Shapes) -> list[Part]:
    """Return what a node joins along the frames, in order: tensors, or zeros and a tensor; empty for other nodes."""
    if node is None:
        return []
    if node.op_type == "Concat" and attributes_of(node)["axis"] % 4 == FRAMES:
        computed = not graph.constants.keys() & set(node.input)
        return [(tensor, shapes[tensor][FRAMES]) for tensor in node.input] if computed else []
    pads = graph.value(node.input[1]) if node.op_type == "Pad" and len(node.input) == 2 else None
    if pads is None or pads[0] < 1 or pads[1:].any() or node.attribute:
        return []
    return [(None, int(pads[0])), (node.input[0], shapes[node.input[0]][FRAMES])]


def _within(parts: list[Part], start: int, stop: int) -> list[Piece]:
    """Return the pieces of frames [start, stop) of the concatenated ``parts``."""
    found, place = list[Piece](), 0
    for tensor, frames in parts:
        first, last = max(start - place, 0), min(stop - place, frames)
        if first < last:
            found.append((tensor, first, last))
        place += frames
    return found


def _slice(
    graph: Graph, writer: NodeProto | None, tensor: str, start: int, stop: int, output: str, shapes: Shapes
) -> NodeProto:
    """Return a node that takes frames [start, stop) of a tensor."""
    bounds, axes = [(start, stop)], [FRAMES]
    channels = None if writer is None else slice_bounds(graph, writer, CHANNELS, shapes)
    if writer is not None and channels is not None:
        tensor, bounds, axes = writer.input[0], [*bounds, channels], [FRAMES, CHANNELS]
    return slice_node(graph, tensor, bounds, axes, output)


def slice_node(
    graph: Graph, tensor: str, bounds: Sequence[tuple[int, int]], axes: Sequence[int], output: str
) -> NodeProto:
    """Return a node that takes [start, stop) along each of the axes of a tensor."""
    starts, stops = zip(*bounds, strict=True)
    numbers = [graph.sizes(*values) for values in (starts, stops, axes, [1] * len(axes))]
    return helper.make_node("Slice", [tensor, *numbers], [output], output)


def slice_bounds(graph: Graph, node: NodeProto, axis: int, shapes: Shapes) -> tuple[int, int] | None:
    """Return start and stop of what a node slices along one axis of [frames, ...] only; None for any other node."""
    if node.op_type != "Slice" or len(node.input) != 5 or len(shapes.get(node.input[0], [])) != 4:
        return None
    values = [graph.value(name) for name in node.input[1:]]
    size = shapes[node.input[0]][axis]
    if any(value is None or value.size != 1 for value in values) or size < 1:
        return None
    start, stop, axes, step = (int(value[0]) for value in values if value is not None)
    if (axes % 4, step) != (axis, 1):
        return None
    return slice(start, stop).indices(size)[:2]
