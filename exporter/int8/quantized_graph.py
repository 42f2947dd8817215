"""Quantise one subgraph's graph to INT8, with Q/DQ pairs between convolutions that strongly typed TensorRT can parse.

onnxruntime's quantiser inserts the pairs. Activations and weights are symmetric, weights have one scale per output
channel, and biases stay fp32. Ports stay fp32 too, so an INT8 variant can replace its fp32 graph anywhere in a route.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, shape_inference

from ...grid.manifest import Variant
from ..graphs.lint import clean, lint

QUANTISED = ("Conv", "Add")
"""Operators whose inputs are quantised. Outputs are not: an Add or ReLU reads them and is quantised afterwards."""

_ROWS_RANK = 4  # [batch x frames, channels, height, width]


def activations(model: ModelProto) -> tuple[str, ...]:
    """Return the tensors to quantise in this graph, [batch x frames, channels, height, width], in order."""
    ranks = _ranks(model)
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in QUANTISED:
            found |= dict.fromkeys(tensor for tensor in _read(node) if ranks.get(tensor) == _ROWS_RANK)
    return tuple(found)


def convolutions(model: ModelProto, largest: Mapping[str, float]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a graph's convolutions, in order: those that can be in INT8, and those that cannot.

    A convolution cannot if its input is not among the graph's ``activations``, or has range 0.
    """
    all_ = [node for node in model.graph.node if node.op_type == "Conv"]
    can = tuple(node.name for node in all_ if largest.get(node.input[0], 0) > 0)
    return can, tuple(node.name for node in all_ if node.name not in can)


def quantise(
    content: bytes, variant: Variant, name: str, largest: Mapping[str, float], kept: Collection[str] = ()
) -> bytes:
    """Return the INT8 variant of a subgraph's fp32 graph; the same arguments give the same bytes.

    Args:
        content: the graph.
        variant: its ports, which the INT8 variant shares.
        name: of the subgraph, for errors.
        largest: largest absolute value of each of its ``activations``; nodes that read one of 0 stay in fp32.
        kept: convolutions that stay in fp32.

    Raises:
        LintError: If the result is not what a bundle may hold.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    model = onnx.load_model_from_string(content)
    unscaled = {
        node.name
        for node in model.graph.node
        if node.op_type in QUANTISED and not all(largest.get(tensor, 0) > 0 for tensor in _read(node))
    }
    ranges: dict[str, Any] = {
        tensor: (np.float32(-value), np.float32(value)) for tensor, value in largest.items() if value > 0
    }
    quantiser = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(unscaled.union(kept)),
        op_types_to_quantize=list(QUANTISED),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(QUANTISED),
        },
    )
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it recommends preprocessing that the export has already done
    try:
        quantiser.quantize_model()
        quantiser.model.topological_sort()
    finally:
        logging.getLogger().setLevel(level)
    twin = clean(quantiser.model.model, variant.outputs)
    _read_unrounded(twin, unscaled.union(kept))
    lint(twin, f"{name} int8", variant.inputs, variant.outputs)
    return twin.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def _read_unrounded(model: ModelProto, names: Collection[str]) -> None:
    """Let the nodes ``names`` read unquantised tensors again; the quantiser changes all readers of a tensor alike."""
    writers = {tensor: node for node in model.graph.node for tensor in node.output}
    for node in model.graph.node:
        if node.name in names:
            for place, tensor in enumerate(node.input):
                pair = writers.get(tensor)
                if pair is not None and pair.op_type == "DequantizeLinear" and pair.input[0] in writers:
                    node.input[place] = writers[pair.input[0]].input[0]


def _read(node: NodeProto) -> Sequence[str]:
    """Return the activations that a node reads."""
    return tuple(node.input[:1] if node.op_type == "Conv" else node.input)


def _ranks(model: ModelProto) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
