"""Rewrite the temporal shift: put it into the convolutions that read it, instead of a copy.

The shift of a tensor x replaces some channels, mostly the first, by those of the frame before: ``concat(moved, rest of
x)``. A 1x1 convolution of that is the sum of two.
"""

from __future__ import annotations

from typing import NamedTuple

from onnx import NodeProto, helper

from .graph import Graph
from .pointwise import INPUTS, OUTPUTS, is_dense, is_pointwise, other_weights, sum_of, weights_of, weights_without
from .slice_pushdown import Shapes, slice_bounds

_CHANNELS = 1  # axis of a tensor [frames, channels, height, width]


class _Shift(NamedTuple):
    """A concatenation, ``joined``, that replaces channels [start, stop) of ``whole`` by ``moved``."""

    joined: str
    whole: str
    moved: str
    start: int
    stop: int


class _Halves(NamedTuple):
    """Channels [start, stop) of a tensor, and its other channels, as two tensors."""

    some: str
    rest: str
    start: int
    stop: int


def fold_shift(graph: Graph) -> None:
    """Fold the shift into the 1x1 convolutions that read it.

    ``conv(concat(moved, rest of x))`` becomes ``conv(x) + conv(moved)``, where the first convolution has zero weights
    for the channels that are replaced. So x is not copied, and onnxruntime keeps it in the blocked layout.
    """
    readers, others = graph.readers(), dict[str, list[NodeProto]]()
    for shift in _shifts(graph):
        for convolution in readers[shift.joined]:
            weights, bounds = convolution.input[1], (shift.start, shift.stop)
            kept = shift.whole, weights_without(graph, weights, *bounds)
            moved = shift.moved, weights_of(graph, weights, INPUTS, *bounds)
            others[convolution.output[0]] = sum_of(convolution, kept, moved)
    graph.replace(others)


def split_at_shift(graph: Graph) -> None:
    """Compute what is shifted in two: the channels that the shift moves, and the rest. Then nothing slices it.

    ``conv(concat(moved, rest of x))`` becomes ``conv(rest of x) + conv(moved)``. This needs a sum of convolutions, such
    as the end of a residual block; any other tensor stays whole.
    """
    shapes, readers = graph.shapes(), graph.readers()
    split, others, same = _Splitting(graph), dict[str, list[NodeProto]](), dict[str, str]()
    halves: dict[str, _Halves] = {}
    for shift in _shifts(graph):
        bounds = shift.start, shift.stop
        if shift.whole in halves or not split.can(shift.whole, bounds):
            continue
        nodes = split.nodes(shift.whole, bounds)
        some, rest = split.names[shift.whole]
        halves[shift.whole] = _Halves(some, rest, *bounds)
        halves[shift.joined] = _Halves(shift.moved, rest, *bounds)
        others[shift.whole] = [*nodes, *_joined(graph, shift.whole, halves[shift.whole], shapes)]
        for reader in readers[shift.whole]:
            if slice_bounds(graph, reader, _CHANNELS, shapes) == bounds and reader.output[0] not in graph.outputs:
                same[reader.output[0]] = some
    for node in graph.nodes:
        node.input[:] = [same.get(tensor, tensor) for tensor in node.input]
    graph.replace(others)
    graph.replace(
        {
            node.output[0]: _sum_of_halves(graph, node, halves[node.input[0]])
            for node in graph.nodes
            if is_pointwise(graph, node) and node.input[0] in halves
        }
    )


class _Splitting:
    """Computes tensors in halves.

    Attributes:
        names: of the halves, (some, rest), by the tensor that they make up.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._writers = graph, graph.writers()
        self._bounds: dict[str, tuple[int, int]] = {}
        self.names: dict[str, tuple[str, str]] = {}

    def can(self, tensor: str, bounds: tuple[int, int]) -> bool:
        """Return whether a tensor is a sum of convolutions, or of tensors that are split there already."""
        if tensor in self.names:
            return self._bounds[tensor] == bounds
        node = self._writers.get(tensor)
        if node is None or tensor in self._graph.outputs:
            return False
        if node.op_type in ("Add", "Relu"):
            return all(self.can(source, bounds) for source in node.input)
        return is_dense(self._graph, node)

    def nodes(self, tensor: str, bounds: tuple[int, int]) -> list[NodeProto]:
        """Return the nodes that compute the halves of a tensor, unless they exist."""
        if tensor in self.names:
            return []
        node = self._writers[tensor]
        sources = () if node.op_type == "Conv" else tuple(node.input)
        found = [new for source in sources for new in self.nodes(source, bounds)]
        self._bounds[tensor], self.names[tensor] = bounds, (f"{tensor}.some", f"{tensor}.rest")
        for place, weights in enumerate((weights_of, other_weights)):
            half = NodeProto()
            half.CopyFrom(node)
            half.name, half.output[:] = f"{node.name}.half{place}", [self.names[tensor][place]]
            if sources:
                half.input[:] = [self.names[source][place] for source in sources]
            else:
                half.input[1:] = [weights(self._graph, name, OUTPUTS, *bounds) for name in node.input[1:]]
            found.append(half)
        return found


def _joined(graph: Graph, whole: str, halves: _Halves, shapes: Shapes) -> list[NodeProto]:
    """Return the nodes that put a tensor together, for those that read all its channels."""
    if halves.start == 0:
        return [helper.make_node("Concat", halves[:2], [whole], f"{whole}.join", axis=_CHANNELS)]
    before, after = f"{whole}.before", f"{whole}.after"
    ends = (before, 0, halves.start), (after, halves.start, shapes[whole][_CHANNELS])
    return [
        *(
            helper.make_node("Slice", [halves.rest, *(graph.sizes(n) for n in (*numbers, _CHANNELS, 1))], [name], name)
            for name, *numbers in ends
        ),
        helper.make_node("Concat", [before, halves.some, after], [whole], f"{whole}.join", axis=_CHANNELS),
    ]


def _sum_of_halves(graph: Graph, convolution: NodeProto, halves: _Halves) -> list[NodeProto]:
    weights, bounds = convolution.input[1], (halves.start, halves.stop)
    rest = halves.rest, other_weights(graph, weights, INPUTS, *bounds)
    return sum_of(convolution, rest, (halves.some, weights_of(graph, weights, INPUTS, *bounds)))


def _shifts(graph: Graph) -> list[_Shift]:
    """Return the shifts that only 1x1 convolutions read, in order."""
    shapes, writers, readers = graph.shapes(), graph.writers(), graph.readers()
    found = [_shift_of(graph, node, shapes, writers) for node in graph.nodes]
    return [
        shift
        for shift in found
        if shift is not None
        and shift.joined not in graph.outputs
        and all(is_pointwise(graph, reader) for reader in readers.get(shift.joined, []))
    ]


def _shift_of(graph: Graph, node: NodeProto, shapes: Shapes, writers: dict[str, NodeProto]) -> _Shift | None:
    """Return the shift that a node completes; None for any other node."""
    if node.op_type != "Concat" or node.attribute[0].i != _CHANNELS or len(shapes[node.output[0]]) != 4:
        return None
    wholes, strangers, place = set(), [], 0
    for tensor in node.input:
        stop = place + shapes[tensor][_CHANNELS]
        writer = writers.get(tensor)
        if writer is not None and slice_bounds(graph, writer, _CHANNELS, shapes) == (place, stop):
            wholes.add(writer.input[0])
        else:
            strangers.append((tensor, place, stop))
        place = stop
    if len(wholes) != 1 or len(strangers) != 1:
        return None
    (whole,) = wholes
    (joined,) = node.output
    return _Shift(joined, whole, *strangers[0]) if shapes[whole] == shapes[joined] else None
