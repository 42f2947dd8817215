"""One subgraph to one ONNX model: named ports, dynamic batch and frames, no paths of this machine, same bytes twice."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from ..grid.errors import LintError
from ..grid.tensors import TensorSpec
from .subgraphs import Subgraph

OPSET = 20
# sizes of the example; never 1, which torch.export would burn in
_EXAMPLE_BATCH, _EXAMPLE_FRAMES = 2, 3

# operators that couple the rows of a batch, or hide control flow
_FORBIDDEN = {"If", "Loop", "Scan", "DynamicQuantizeLinear", "NonZero", "Unique", "BatchNormalization", "RandomNormal"}
_REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd", "ArgMax", "ArgMin"}
_TORCH = {"float32": torch.float32, "float16": torch.float16}
_ONNX = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}


def to_onnx(subgraph: Subgraph) -> bytes:
    """Return ``subgraph`` as the bytes of a self-contained, linted ONNX model.

    Raises:
        LintError: If the graph holds what a bundle must not hold, or its ports are not the declared ones.
    """
    examples = tuple(_example(spec) for spec in subgraph.inputs)
    dims = {
        "batch": torch.export.Dim("batch", min=1, max=4096),
        "frames": torch.export.Dim("frames", min=1, max=4096),
    }
    shapes = tuple(
        {axis: dims[d] for axis, d in enumerate(spec.shape) if isinstance(d, str)} for spec in subgraph.inputs
    )
    varargs = subgraph.kind == "block"  # its forward takes *tensors
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            subgraph.module.eval(),
            examples,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(shapes,) if varargs else shapes,
            input_names=[spec.name for spec in subgraph.inputs],
            output_names=[spec.name for spec in subgraph.outputs],
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = clean(program.model_proto, subgraph.outputs)
    lint(model, subgraph.name, subgraph.inputs, subgraph.outputs)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def clean(model: onnx.ModelProto, outputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """Return ``model`` without stack traces, local paths and names of tools, and with its declared axis names."""
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
        LintError: Naming the subgraph, what was found, and where.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LintError(f"{name}: not a valid ONNX model: {str(error).splitlines()[0]}") from None
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            raise LintError(f"{name}: operator domain {opset.domain!r}: a bundle holds standard operators only")
    if model.functions:
        raise LintError(f"{name}: {len(model.functions)} model-local functions: a bundle holds none")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise LintError(f"{name}: tensor {tensor.name!r} lies outside the file: a bundle holds no external data")
    if model.graph.sparse_initializer:
        raise LintError(f"{name}: sparse tensors: a bundle holds dense ones only")
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        has_body = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
        if node.op_type in _FORBIDDEN or has_body:
            raise LintError(
                f"{name}: operator {node.op_type} ({node.name}): it couples the videos of a batch or hides control "
                "flow; a block may look at one video only"
            )
        if node.op_type in _REDUCTIONS and _reduces_batch(node, constants):
            raise LintError(
                f"{name}: operator {node.op_type} ({node.name}) reduces over the batch; a block may look at one video only"
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
            raise LintError(f"{name}: {kind} {odd[0]} instead of {odd[1]}: the export changed a port")
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
    return True  # no axes: all of them; computed axes: not ours


def _example(spec: TensorSpec) -> Tensor:
    shape = spec.concrete(_EXAMPLE_BATCH, _EXAMPLE_FRAMES)
    return torch.zeros(shape, dtype=_TORCH[spec.dtype])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress lines and its harmless warnings about axis names."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
