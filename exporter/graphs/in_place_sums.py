"""Rewrite the states that a segment hands on, so that OpenVINO can add residuals in place.

OpenVINO adds a tensor to a convolution's result in the tensor's own memory, but only if all its other readers come
before the sum. A state handed on does not: it is cut from the tensor, and nothing that leads to the sum reads it. So
both it and the channels that the shift moves are cut from a copy of those channels.
"""

from __future__ import annotations

from onnx import NodeProto

from .graph import Graph
from .slice_pushdown import CHANNELS, FRAMES, slice_node

Cut = tuple[tuple[int, int], tuple[int, int]]  # frames and channels, each [start, stop)


def in_place_sums(graph: Graph) -> None:
    """Cut each state and the frames that are moved with it from one tensor, if the state's tensor is added later."""
    shapes, readers, cuts = graph.shapes(), graph.readers(), {node.output[0]: _cut(graph, node) for node in graph.nodes}
    others: dict[str, list[NodeProto]] = {}
    for state in graph.nodes:
        cut = cuts[state.output[0]]
        if cut is None or state.output[0] not in graph.outputs:
            continue
        (source, *_), (_, (start, stop)) = state.input, cut
        fellows = [
            node
            for node in readers[source]
            if (found := cuts[node.output[0]]) is not None and found[1] == cut[1] and node is not state
        ]
        if not fellows or not any(node.op_type == "Add" for node in readers[source]):
            continue
        name = f"{source}.{start}-{stop}"
        first = min((state, *fellows), key=graph.nodes.index)
        for node in (state, *fellows):
            bounds = cuts[node.output[0]]
            assert bounds is not None
            made = slice_node(graph, name, [bounds[0], (0, stop - start)], [FRAMES, CHANNELS], node.output[0])
            others[node.output[0]] = [made]
        # all frames are named too: OpenVINO makes slices of channels alone into one split, which is slower
        every = (0, shapes[source][FRAMES]), (start, stop)
        others[first.output[0]].insert(0, slice_node(graph, source, every, [FRAMES, CHANNELS], name))
    graph.replace(others)


def _cut(graph: Graph, node: NodeProto) -> Cut | None:
    """Return what a node slices from frames and channels [frames, channels, height, width]; None for other nodes."""
    if node.op_type != "Slice" or len(node.input) != 5:
        return None
    values = [graph.value(name) for name in node.input[1:]]
    if any(value is None for value in values):
        return None
    starts, stops, axes, steps = (value.tolist() for value in values if value is not None)
    if axes != [FRAMES, CHANNELS] or steps != [1, 1] or min(*starts, *stops) < 0:
        return None
    return (starts[0], stops[0]), (starts[1], stops[1])
