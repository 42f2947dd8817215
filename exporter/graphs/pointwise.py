"""1x1 convolutions of some channels, and the sum of two such convolutions."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from .graph import Graph, attributes_of

OUTPUTS, INPUTS = 0, 1  # axes of a convolution's weights; a bias has the first one only


def is_pointwise(graph: Graph, node: NodeProto) -> bool:
    """Return whether a node is a 1x1 convolution that sums over all channels of its input."""
    return is_dense(graph, node) and list(graph.constants[node.input[1]].dims[2:]) == [1, 1]


def is_dense(graph: Graph, node: NodeProto) -> bool:
    """Return whether a node is a convolution with constant weights that sums over all channels of its input."""
    return node.op_type == "Conv" and node.input[1] in graph.constants and attributes_of(node).get("group", 1) == 1


def weights_of(graph: Graph, name: str, axis: int, start: int, stop: int) -> str:
    """Return the weights for channels [start, stop) of a convolution's inputs or outputs."""
    weight = graph.value(name)
    assert weight is not None
    return graph.constant(f"{name}.{axis}.{start}-{stop}", np.take(weight, range(start, stop), axis))


def other_weights(graph: Graph, name: str, axis: int, start: int, stop: int) -> str:
    """Return the weights for all other channels."""
    weight = graph.value(name)
    assert weight is not None
    return graph.constant(f"{name}.{axis}.but.{start}-{stop}", np.delete(weight, slice(start, stop), axis))


def weights_without(graph: Graph, name: str, start: int, stop: int) -> str:
    """Return the weights with zeros for input channels [start, stop)."""
    weight = graph.value(name)
    assert weight is not None
    kept = np.array(weight)
    kept[:, start:stop] = 0
    return graph.constant(f"{name}.without.{start}-{stop}", kept)


def sum_of(convolution: NodeProto, first: tuple[str, str], second: tuple[str, str]) -> list[NodeProto]:
    """Return the nodes that replace a convolution by a sum of two, each of (input, weights); the first has the bias."""
    nodes, bias = [], list(convolution.input[2:])
    for number, inputs in enumerate(((*first, *bias), second), 1):
        node = NodeProto()
        node.CopyFrom(convolution)
        node.name, node.input[:], node.output[:] = (
            f"{convolution.name}.{number}",
            inputs,
            [f"{convolution.output[0]}.{number}"],
        )
        nodes.append(node)
    written = [node.output[0] for node in nodes]
    return [*nodes, helper.make_node("Add", written, convolution.output, f"{convolution.name}.sum")]
