"""One subgraph to one ONNX model: named ports, dynamic batch and frames, no paths of this machine, same bytes twice."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from ..grid.tensors import TensorSpec
from .graph_rules import clean, lint
from .subgraphs import Subgraph

OPSET = 20
# sizes of the example; never 1, which torch.export would burn in
_EXAMPLE_BATCH, _EXAMPLE_FRAMES = 2, 3

_TORCH = {"float32": torch.float32, "float16": torch.float16}


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
    with _quiet(), _one_registry(), torch.no_grad():
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


def in_half(content: bytes, subgraph: Subgraph) -> bytes:
    """Return the graph of a block in half precision, made from that in fp32: the same nodes, weights and ports rounded.

    So it need not be traced again; what was folded into weights was folded in fp32.

    Args:
        content: the graph in fp32.
        subgraph: the block in half precision, for which ``may_be_rounded`` holds.

    Raises:
        LintError: If the graph is not what it should be.
    """
    model = onnx.load_model_from_string(content)
    held = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in (*model.graph.initializer, *held):
        if tensor.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):  # infinity, as of torch; measured errors then keep the block in fp32
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    lint(model, subgraph.name, subgraph.inputs, subgraph.outputs)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def may_be_rounded(subgraph: Subgraph) -> bool:
    """Return whether ``in_half`` makes the graph that torch would: of a block with ports in half precision throughout.

    Its modules must be dynvid's own or torch's. Another one may say in its code what stays fp32 inside (``x.float()``), and the fp32
    graph does not show that.
    """
    dtypes = {spec.dtype for spec in (*subgraph.inputs, *subgraph.outputs)}
    if subgraph.kind != "block" or subgraph.precision != "fp16" or dtypes != {"float16"}:
        return False
    return all(type(module).__module__.startswith(("dynvid.", "torch.")) for module in subgraph.module.modules())


@contextlib.contextmanager
def _one_registry() -> Iterator[None]:
    """Let torch build its table of operators once, not for every graph; a torch that has it elsewhere builds them all."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        own = ONNXRegistry.__dict__["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return
    kept = staticmethod(functools.partial(_registry, ONNXRegistry.from_torchlib))
    setattr(ONNXRegistry, "from_torchlib", kept)  # noqa: B010
    try:
        yield
    finally:
        setattr(ONNXRegistry, "from_torchlib", own)  # noqa: B010


@functools.cache
def _registry(build: Callable[..., object], *arguments: object, **options: object) -> object:
    return build(*arguments, **options)


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
