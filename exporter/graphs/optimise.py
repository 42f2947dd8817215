"""Optimise a graph once, when its engine is built, instead of each time onnxruntime loads it.

onnxruntime fuses nodes and reorders weights for this processor's convolutions. ``blocked_layout`` also lets features
pass between segments in that order. The result fits only processors with the same vector instructions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from ...grid.errors import BackendError
from ...runtime.backends.onnxruntime import first_line, ort_errors, session_options
from ...runtime.backends.optimised_graph import OptimisedGraph, pack, weight_name
from .blocked_layout import block_size, use_blocked_layout
from .graph import Graph

_LEAST_BYTES = 1024
"""Least size of a shared weight. Smaller ones stay in the model, where shapes and axes must be."""


def optimise(content: bytes, blocked: bool = True) -> bytes:
    """Return an ONNX model as the installed onnxruntime optimises it, apart from its weights; see ``optimised_graph``.

    Args:
        content: the model.
        blocked: let features pass between segments in the blocked layout.

    Raises:
        BackendError: If onnxruntime refuses the model.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="dynvid-optimise-") as folder:
        written = Path(folder) / "optimised.onnx"
        options = session_options(onnxruntime, 1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(written)
        options.log_severity_level = 4  # it warns that the graph fits this kind of processor only; the key says so
        try:
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=False)
        except ort_errors() as error:
            raise BackendError(
                f"onnxruntime {onnxruntime.__version__} cannot optimise a graph: {first_line(error)}. "
                "Run 'dynvid doctor'."
            ) from None
        graph = Graph.read(written.read_bytes())
    ports = use_blocked_layout(graph) if blocked else ()
    return pack(_apart(graph)._replace(blocked=ports, block=block_size() if ports else 1))


def _apart(graph: Graph) -> OptimisedGraph:
    """Return the graph's model and its weights, each weight once, named after its contents.

    onnxruntime numbers and orders what it adds differently each time; here equal graphs become equal bytes.
    """
    names: dict[str, str] = {}
    kept: dict[str, TensorProto] = {}
    weights: dict[str, NDArray[Any]] = {}
    for tensor in graph.constants.values():
        value = numpy_helper.to_array(tensor)
        name = names[tensor.name] = weight_name(value)
        if value.nbytes < _LEAST_BYTES:
            kept[name] = numpy_helper.from_array(value, name)
        else:
            weights[name] = value
            kept[name] = _elsewhere(tensor, name, value.nbytes)
    graph.nodes, graph.constants = _in_order(graph), dict(sorted(kept.items()))
    for place, node in enumerate(graph.nodes):
        for turn, tensor in enumerate(node.output):
            names.setdefault(tensor, tensor if tensor in graph.ports or not tensor else f"{place}.{turn}")
        node.name = f"{place}.{node.op_type}"
    graph.rename(names)
    return OptimisedGraph(graph.model().SerializeToString(deterministic=True), dict(sorted(weights.items())), (), 1)


def _in_order(graph: Graph) -> list[NodeProto]:
    """Return the nodes, each after those that it reads from, in the order met on the way back from the outputs.

    Outputs that need the fewest nodes come first. So what a segment hands on is written early, and its memory is freed.
    """
    writers = graph.writers()
    outputs = sorted(graph.outputs, key=lambda name: len(_back_from([name], writers)))
    return _back_from(outputs, writers)


def _back_from(tensors: Sequence[str], writers: Mapping[str, NodeProto]) -> list[NodeProto]:
    """Return the nodes that these tensors need, each after those that it reads from."""
    found: dict[str, NodeProto] = {}  # by first output
    waiting = list(reversed(tensors))
    while waiting:
        node = writers.get(waiting[-1])
        if node is None or node.output[0] in found:
            waiting.pop()
            continue
        before = [t for t in node.input if t in writers and writers[t].output[0] not in found]
        if before:
            waiting += reversed(before)
        else:
            found[node.output[0]] = node
    return list(found.values())


def _elsewhere(tensor: TensorProto, name: str, size: int) -> TensorProto:
    """Return a tensor whose contents are supplied when the model is loaded."""
    found = TensorProto(name=name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(size))):
        entry = found.external_data.add()
        entry.key, entry.value = key, value
    return found
