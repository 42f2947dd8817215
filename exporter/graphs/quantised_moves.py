"""Rewrite INT8 graphs so that values which are only moved stay quantised.

A variant is quantised cell by cell, just before its convolutions and additions. So a tensor may be quantised, sliced,
joined, and quantised again to the same scale, which changes nothing; and it may be pooled before it is quantised,
although the largest of some values is the same value before and after.
"""

from __future__ import annotations

from onnx import NodeProto

from .graph import Graph

MOVES = ("Concat", "Identity", "MaxPool", "Pad", "Reshape", "Slice")
"""Operators whose results are values that they read, and zeros."""


def quantised_moves(graph: Graph) -> None:
    """Drop quantising that changes no value, and quantise before max pooling instead of after."""
    _drop_repeated(graph)
    _quantise_before_pooling(graph)


def _drop_repeated(graph: Graph) -> None:
    """Drop each QuantizeLinear and DequantizeLinear of values that came from a DequantizeLinear of the same scale.

    Only where the zero point is 0: OpenVINO 2026.4.1 computes a convolution in fp32 if it reads a concatenation whose
    zero point is another, and is not quantised again.
    """
    writers, same = graph.writers(), dict[str, str]()
    scales: dict[str, tuple[float, ...]] = {}  # scale and zero point of tensors whose values are rounded so
    for node in graph.nodes:
        node.input[:] = [same.get(tensor, tensor) for tensor in node.input]
        (written, *_) = node.output
        if node.op_type == "DequantizeLinear" and node.input[0] in writers:
            scale = scales[written] = _scale(graph, node)
            unquantised = writers[node.input[0]].input[0]
            if scales.get(unquantised) == scale and not any(scale[1:]) and written not in graph.outputs:
                same[written] = unquantised
        elif node.op_type in MOVES:
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            found = {scales.get(source) for source in sources}
            scale_of_all = found.pop()
            if scale_of_all is not None and not found:
                scales[written] = scale_of_all
    graph.replace({})


def _quantise_before_pooling(graph: Graph) -> None:
    """Quantise what is pooled instead of the result: a convolution can write bytes, and bytes are pooled faster."""
    writers, readers = graph.writers(), graph.readers()
    others: dict[str, list[NodeProto]] = {}
    for quantise in graph.nodes:
        pool = writers.get(quantise.input[0])
        if quantise.op_type != "QuantizeLinear" or pool is None or pool.op_type != "MaxPool":
            continue
        (dequantise, *more) = readers[quantise.output[0]]
        if more or len(readers[pool.output[0]]) > 1 or {pool.output[0], dequantise.output[0]} & set(graph.outputs):
            continue
        pair, pooled = [NodeProto(), NodeProto()], NodeProto()
        for new, old in zip((*pair, pooled), (quantise, dequantise, pool), strict=True):
            new.CopyFrom(old)
        pair[0].input[0] = pool.input[0]
        pair[1].output[0] = pooled.input[0] = f"{dequantise.output[0]}.unpooled"
        pooled.output[0] = dequantise.output[0]
        others[dequantise.output[0]] = [*pair, pooled]
        others[quantise.output[0]] = []
    graph.replace(others)


def _scale(graph: Graph, node: NodeProto) -> tuple[float, ...]:
    """Return the scale, and the zero point if there is one, of a node that dequantises activations."""
    return tuple(value.item() for value in map(graph.value, node.input[1:]) if value is not None)
