"""Rewrite INT8 graphs for CPUs: unsigned activations, with the same values at the same scale.

x86's byte products take one unsigned and one signed factor. onnxruntime folds a ReLU into quantisation if 0 is the
least value, and OpenVINO computes wrong results if activations are signed. TensorRT requires signed ones, so bundles
hold signed.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .graph import Graph

_OF_SIGNED = 128  # the zero point if values may be negative: q + 128 now means what q meant

_PASSED_ON = {"DequantizeLinear", "MaxPool", "Pad", "QuantizeLinear", "Reshape", "Slice"}
_OF_ALL = {"Add", "Concat"}


def uint8_activations(graph: Graph) -> None:
    """Quantise activations to unsigned bytes; graphs without INT8 stay unchanged.

    A tensor that is never negative gets zero point 0, and so twice the range; any other gets 128.
    """
    never_negative = _never_negative(graph)
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        if graph.constants[node.input[2]].data_type != TensorProto.INT8 or node.input[0] in graph.constants:
            continue
        zero = 0 if node.input[0] in never_negative else _OF_SIGNED
        node.input[2] = graph.constant(f"uint8.{zero}", np.array(zero, np.uint8))
    graph.replace({})


def _never_negative(graph: Graph) -> set[str]:
    """Return the tensors that the preceding nodes show to hold no negative value."""
    found: set[str] = set()
    for node in graph.nodes:
        sources = node.input if node.op_type in _OF_ALL else node.input[:1]
        if node.op_type == "Relu" or (
            node.op_type in _PASSED_ON | _OF_ALL and all(source in found for source in sources)
        ):
            found.update(node.output)
    return found
