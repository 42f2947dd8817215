"""Rules for the ONNX graphs of a bundle: what they may hold, and which names they must not carry. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ...grid.errors import LintError
from ...grid.tensors import TensorSpec

# operators that couple the rows of a batch, or hide control flow
_FORBIDDEN = {"If", "Loop", "Scan", "DynamicQuantizeLinear", "NonZero", "Unique", "BatchNormalization", "RandomNormal"}
_REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd", "ArgMax", "ArgMin"}
_ONNX = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}


def clean(model: onnx.ModelProto, outputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """Return ``model`` without stack traces, local paths and tool names, and with its declared axis names."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    model.producer_name, model.producer_version = "dynvid", ""
    model.graph.name = "subgraph"
    for item in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for value, spec in zip(model.graph.output, outputs, strict=True):
        for dimension, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(size, str):
                dimension.dim_param = size
            else:
                dimension.dim_value = size
    return model


def lint(model: onnx.ModelProto, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that ``model`` holds only what a bundle may hold, and has the declared ports.

    Raises:
        LintError: With the subgraph, what was found, and where.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LintError(f"{name}: not a valid ONNX model: {str(error).splitlines()[0]}") from None
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            raise LintError(f"{name}: operator domain {opset.domain!r}: a bundle may hold standard operators only")
    if model.functions:
        raise LintError(f"{name}: {len(model.functions)} model-local functions: a bundle may hold none")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise LintError(f"{name}: tensor {tensor.name!r} lies outside the file: a bundle may hold no external data")
    if model.graph.sparse_initializer:
        raise LintError(f"{name}: sparse tensors: a bundle may hold dense ones only")
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        has_body = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        if node.op_type in _FORBIDDEN or has_body:
            raise LintError(
                f"{name}: operator {node.op_type} ({node.name}) couples the videos of a batch or hides control flow; a "
                "block may use one video only"
            )
        if node.op_type in _REDUCTIONS and _reduces_batch(node, constants):
            raise LintError(
                f"{name}: operator {node.op_type} ({node.name}) reduces over the batch; a block may use one video only"
            )
    for kind, values, specs in (("input", model.graph.input, inputs), ("output", model.graph.output, outputs)):
        have = [
            (
                v.name,
                v.type.tensor_type.elem_type,
                tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in values
        ]
        want = [(s.name, _ONNX[s.dtype], s.shape) for s in specs]
        if have != want:
            odd = next(((h, w) for h, w in zip(have, want, strict=False) if h != w), (len(have), len(want)))
            raise LintError(f"{name}: {kind} {odd[0]}, expected {odd[1]}: the export changed a port")
    passed_through = {v.name for v in model.graph.input} & {v.name for v in model.graph.output}
    produced = {out for node in model.graph.node for out in node.output}
    if passed_through or not {v.name for v in model.graph.output} <= produced:
        raise LintError(f"{name}: an output is an input passed through: a state would never change")


def _reduces_batch(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if "axis" in attributes:
        return bool(attributes["axis"] == 0)
    if len(node.input) > 1 and node.input[1] in constants:
        return 0 in np.atleast_1d(onnx.numpy_helper.to_array(constants[node.input[1]]))
    return True  # no axes means all axes; computed axes are not ours
