"""The dtype census: the dtypes that a parsed network's layers and ports compute in, checked against what was requested.

An engine cannot be inspected without a GPU. But a strongly typed network is built in exactly the types it was parsed
with, so these are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ...grid.errors import CensusError
from ...grid.manifest import Precision
from ...grid.tensors import Ports
from ...runtime.backends.tensorrt_api import Api
from ..graphs.quantised_moves import MOVES

if TYPE_CHECKING:
    from .jobs import EngineJob

Census = dict[str, dict[str, Any]]
Layer = tuple[str, str, str]
"""A layer's name, kind and dtype."""

# by the names that TensorRT and ONNX use
_KINDS = {
    "CONVOLUTION": "convolution",
    "Conv": "convolution",
    "MATRIX_MULTIPLY": "matrix_multiply",
    "Gemm": "matrix_multiply",
    "MatMul": "matrix_multiply",
}
_PART = re.compile(r"(.+?)(\.\d+-\d+)?/")  # node names in a fused graph: block0.0-2/NAME, head0/NAME


def census_of(api: Api, network: Any) -> Census:
    """Return a parsed network's layers by kind and dtype, and its ports' dtypes by name; see ``_count``."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    int8 = {
        layer.get_output(0).name
        for layer in layers
        if layer.type.name == "DEQUANTIZE" and api.dtype(layer.get_input(0).dtype) == "int8"
    }

    def counted() -> Iterator[Layer]:
        for layer in layers:
            kind, dtype = _KINDS.get(layer.type.name, "other"), api.dtype(layer.get_output(0).dtype)
            # constant weights are no input, or an input without a tensor
            inputs = [layer.get_input(i) for i in range(layer.num_inputs)] if kind == "convolution" else []
            is_int8 = len(inputs) > 1 and all(tensor is not None and tensor.name in int8 for tensor in inputs[:2])
            yield layer.name, kind, "int8" if is_int8 else dtype

    ports = [{t.name: api.dtype(t.dtype) for t in tensors} for tensors in (_inputs(network), _outputs(network))]
    return _count(counted(), *ports)


def graph_census(graph: bytes) -> Census:
    """Return the same census of an ONNX model's nodes."""
    import onnx

    found = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph)).graph
    dtypes = {
        value.name: str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        for value in (*found.input, *found.value_info, *found.output)
    }
    int8: set[str] = set()
    for node in found.node:
        sources = node.input if node.op_type == "Concat" else node.input[:1]
        if node.op_type == "DequantizeLinear" or (node.op_type in MOVES and int8.issuperset(sources)):
            int8.add(node.output[0])

    def counted() -> Iterator[Layer]:
        for node in found.node:
            kind = _KINDS.get(node.op_type, "other")
            is_int8 = kind == "convolution" and int8.issuperset(node.input[:2])
            yield node.name, kind, "int8" if is_int8 else dtypes[node.output[0]]

    return _count(counted(), *({v.name: dtypes[v.name] for v in values} for values in (found.input, found.output)))


def _count(layers: Iterable[Layer], inputs: dict[str, str], outputs: dict[str, str]) -> Census:
    """Count layers by kind and dtype; add the dtype of every port by name.

    ``{"convolution": {"float16": 7}, "matrix_multiply": .., "other": .., "inputs": {"frames": "float16"}, "outputs":
    ..}``, and for a fused segment its convolutions by subgraph, ``"parts": {"block0": {"float16": 7}}``. Layers that
    only compute shapes, in integers, are left out.
    """
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in (*dict.fromkeys(_KINDS.values()), "other")}
    parts: dict[str, Counter[str]] = {}
    for name, kind, dtype in layers:
        if kind != "other" or dtype in ("float32", "float16"):
            counts[kind][dtype] += 1
        part = _PART.match(name)
        if kind == "convolution" and part:
            parts.setdefault(part[1], Counter())[dtype] += 1
    census: Census = {kind: dict(sorted(counter.items())) for kind, counter in counts.items()}
    census["parts"] = {part: dict(sorted(counter.items())) for part, counter in sorted(parts.items())}
    return {**census, "inputs": inputs, "outputs": outputs}


def require_ports(api: Api, network: Any, ports: Ports, name: str) -> None:
    """Check that a parsed network has the declared ports: names, dtypes and dimensions, in any order.

    Raises:
        CensusError: With the first port that differs.
    """
    for side, tensors, specs in (
        ("input", _inputs(network), ports.inputs),
        ("output", _outputs(network), ports.outputs),
    ):
        have = {t.name: (api.dtype(t.dtype), tuple(t.shape)) for t in tensors}
        want = {s.name: (s.dtype, tuple(-1 if isinstance(d, str) else d for d in s.shape)) for s in specs}
        for port in (*want, *have):
            found, declared = (_port(side.get(port)) for side in (have, want))
            if found != declared:
                raise CensusError(
                    f"{name}: {side} {port} of the graph is {found}, but the bundle declares {declared}. "
                    "Run 'dynvid export' again."
                )


def _port(port: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if port is None else f"{port[0]} {list(port[1])}"


def require_census(census: Census, job: EngineJob, precision: Precision) -> None:
    """Check that a network computes in the requested precision, and that its ports have the declared dtypes.

    In fp32 every layer is float32. In fp16 every convolution is float16, except in the subgraphs that the manifest
    keeps in fp32. For INT8, see also ``require_int8``.

    Raises:
        CensusError: With what was counted and what was expected.
    """
    for side, specs in (("inputs", job.inputs), ("outputs", job.outputs)):
        declared = {spec.name: spec.dtype for spec in specs}
        if census[side] != declared:
            raise CensusError(
                f"{job.name} {precision}: {side} {census[side]}, expected {declared}. Run 'dynvid export' again."
            )
    expected = dict(job.parts)
    convolutions = census["convolution"]
    attributed = sum(sum(counts.values()) for counts in census["parts"].values())
    if precision == "int8":
        holds = set(convolutions) <= {"int8", "float32"}
    elif precision == "fp32":
        holds = all(set(census[kind]) <= {"float32"} for kind in ("convolution", "matrix_multiply", "other"))
    elif len(set(expected.values())) == 1:
        holds = set(convolutions) <= set(expected.values())
    else:
        kinds = {part: set(counts) for part, counts in census["parts"].items()}
        holds = attributed == sum(convolutions.values()) and all(
            found == {expected.get(part)} for part, found in kinds.items()
        )
    if not holds:
        counted = {kind: census[kind] for kind in ("convolution", "matrix_multiply", "other", "parts") if census[kind]}
        what = "every layer" if precision == "fp32" else "the convolutions"
        raise CensusError(
            f"{job.name} {precision}: layers {counted}, expected {what} of {expected}. Run 'dynvid export' again."
        )


def require_int8(census: Census, graph: Census, job: EngineJob, whole: bool) -> None:
    """Check that a network's INT8 convolutions are those of its graph; unless ``whole``, none is valid too.

    Raises:
        CensusError: With what was counted and what was expected.
    """
    found, expected = (one["convolution"].get("int8", 0) for one in (census, graph))
    if found != expected and (whole or found):
        raise CensusError(
            f"{job.name} int8: {found} convolutions in INT8, expected the {expected} of its graph. Run 'dynvid "
            "quantize' again."
        )


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(i) for i in range(network.num_inputs)]


def _outputs(network: Any) -> list[Any]:
    return [network.get_output(i) for i in range(network.num_outputs)]
