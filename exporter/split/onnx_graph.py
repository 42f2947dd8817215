"""Export one subgraph to one ONNX model: named ports, dynamic batch and frames, no local paths, reproducible bytes."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...grid.tensors import TensorSpec
from ..graphs.lint import clean, lint
from .subgraphs import SubgraphModule

OPSET = 20
# sizes of the example; never 1, which torch.export would hard-code
_EXAMPLE_BATCH, _EXAMPLE_FRAMES = 2, 3

_TORCH = {"float32": torch.float32, "float16": torch.float16}


def to_onnx(subgraph: SubgraphModule) -> bytes:
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
    with quiet(), _one_registry(), _no_collection(), torch.no_grad():
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


@contextlib.contextmanager
def _one_registry() -> Iterator[None]:
    """Let torch build its operator table once instead of per graph; has no effect if this torch keeps it elsewhere."""
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


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection: tracing creates so many objects that it takes a seventh of an export."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _example(spec: TensorSpec) -> Tensor:
    shape = spec.concrete(_EXAMPLE_BATCH, _EXAMPLE_FRAMES)
    return torch.zeros(shape, dtype=_TORCH[spec.dtype])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
