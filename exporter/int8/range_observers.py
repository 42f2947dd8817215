"""Add outputs to cells that report their largest activations, for measuring the ranges of INT8."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from ...grid.bundle import Bundle
from ...grid.manifest import Subgraph, Variant
from ...grid.tensors import Dimension, TensorSpec
from .quantized_graph import activations


class ObservedCells(NamedTuple):
    """A bundle, in memory, whose fp32 subgraphs have one more output; and the tensors that it reports, by subgraph.

    The output ``SUBGRAPH.largest`` is the largest absolute value of each tensor: for a block in every frame, [batch,
    frames, tensors], for a head in all frames of the call, [batch, tensors].
    """

    bundle: Bundle
    tensors: dict[str, tuple[str, ...]]


def observe_ranges(bundle: Bundle) -> ObservedCells:
    """Return ``bundle`` with observers on the activations that its INT8 variants would quantise.

    Raises:
        HashError: If a file of the bundle has changed.
    """
    held, subgraphs, tensors = {}, [], {}
    for subgraph in bundle.manifest.subgraphs:
        variant = subgraph.variant("fp32")
        model = onnx.load_model_from_string(bundle.read(variant))
        names = activations(model)
        if names:
            variant = replace(variant, outputs=(*variant.outputs, _add_output(model, subgraph, names)))
        content = model.SerializeToString(deterministic=True)
        held[variant.file] = content
        tensors[subgraph.name] = names
        sized = Variant(
            variant.file, hashlib.sha256(content).hexdigest(), len(content), variant.inputs, variant.outputs
        )
        subgraphs.append(replace(subgraph, variants={"fp32": sized}))
    manifest = replace(bundle.manifest, subgraphs=tuple(subgraphs), precisions=("fp32",), fp32_only=())
    return ObservedCells(Bundle(bundle.root, manifest, bundle.sha256, held), tensors)


def _add_output(model: ModelProto, subgraph: Subgraph, names: Sequence[str]) -> TensorSpec:
    """Add the output for tensors ``names`` [batch x frames, channels, height, width] to a graph; return its port."""
    graph, port = model.graph, f"{subgraph.name}.largest"

    def constant(name: str, values: Sequence[int]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{port}.{name}"))
        return f"{port}.{name}"

    axes, last = constant("axes", [1, 2, 3]), constant("last", [1])
    for place, name in enumerate(names):
        graph.node.append(helper.make_node("Abs", [name], [f"{port}.abs{place}"]))
        graph.node.append(
            helper.make_node("ReduceMax", [f"{port}.abs{place}", axes], [f"{port}.row{place}"], keepdims=0)
        )
        graph.node.append(helper.make_node("Unsqueeze", [f"{port}.row{place}", last], [f"{port}.column{place}"]))
    columns = [f"{port}.column{place}" for place in range(len(names))]
    graph.node.append(helper.make_node("Concat", columns, [f"{port}.rows"], axis=1))
    graph.node.append(helper.make_node("Shape", [graph.input[0].name], [f"{port}.calls"], start=0, end=2))
    graph.node.append(
        helper.make_node("Concat", [f"{port}.calls", constant("count", [len(names)])], [f"{port}.shape"], axis=0)
    )
    frames = port if subgraph.kind == "block" else f"{port}.frames"
    graph.node.append(helper.make_node("Reshape", [f"{port}.rows", f"{port}.shape"], [frames]))
    if subgraph.kind == "head":
        graph.node.append(helper.make_node("ReduceMax", [frames, last], [port], keepdims=0))
    rest: tuple[Dimension, ...] = ("frames", len(names)) if subgraph.kind == "block" else (len(names),)
    shape: tuple[Dimension, ...] = ("batch", *rest)
    graph.output.append(helper.make_tensor_value_info(port, onnx.TensorProto.FLOAT, shape))
    return TensorSpec(port, "float32", shape)
