"""Make the graphs of the fp16 set from those in fp32, so that nothing is traced twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, MutableSequence, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..graphs.lint import lint
from .subgraphs import SubgraphModule

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_PORTS = {"float32": _FLOAT, "float16": _HALF}


def may_be_rounded(subgraph: SubgraphModule) -> bool:
    """Return whether ``in_half`` gives the same graph as torch.

    It always does for what computes in fp32, since only the ports can be half precision. Otherwise all modules must
    be dynvid's or torch's: another module may decide in its code what stays fp32 inside (``x.float()``), which the
    fp32 graph does not show.
    """
    modules = subgraph.module.modules()
    return subgraph.precision == "fp32" or all(type(m).__module__.startswith(("dynvid.", "torch.")) for m in modules)


def in_half(content: bytes, subgraph: SubgraphModule) -> bytes:
    """Return the graph of an fp16 subgraph: the same nodes, rounded weights, and a cast wherever precisions meet.

    A block in half precision computes in it throughout, a head only until it has embedded its frames. What was folded
    into weights was folded in fp32.

    Args:
        content: the subgraph's graph in fp32.
        subgraph: one for which ``may_be_rounded`` holds.

    Raises:
        LintError: If the graph is not what it should be.
    """
    model = onnx.load_model_from_string(content)
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    floats = {
        value.name for value in (*inferred, *graph.input, *graph.output) if value.type.tensor_type.elem_type == _FLOAT
    }
    own = list(_precisions(graph.node, subgraph))
    held: dict[str, int] = {spec.name: _PORTS[spec.dtype] for spec in subgraph.inputs}
    held |= {value: own[index] for index, node in enumerate(graph.node) for value in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == _FLOAT}
    readers: defaultdict[str, set[int]] = defaultdict(set)
    nodes: list[NodeProto] = []
    for index, node in enumerate(graph.node):
        for value in node.input:
            readers[value].add(own[index])
            to = f"{value}.{'half' if own[index] == _HALF else 'single'}"
            if value in floats and held[value] != own[index] and node.op_type != "Shape":
                if to not in held:
                    nodes.append(_cast(value, to, own[index]))
                    held[to] = own[index]
                _replace(node.input, value, to)
        for attribute in node.attribute:
            if own[index] == _HALF and attribute.HasField("t") and attribute.t.data_type == _FLOAT:
                attribute.t.CopyFrom(_rounded(attribute.t, attribute.t.name))
        nodes.append(node)
    for name, tensor in weights.items():
        if readers[name] == {_HALF}:
            tensor.CopyFrom(_rounded(tensor, name))
        elif _HALF in readers[name]:
            graph.initializer.append(_rounded(tensor, f"{name}.half"))
            for index, node in enumerate(graph.node):
                if own[index] == _HALF:
                    _replace(node.input, name, f"{name}.half")
    for spec in subgraph.outputs:
        if held[spec.name] != _PORTS[spec.dtype]:
            uncast = f"{spec.name}.{'half' if held[spec.name] == _HALF else 'single'}"
            for node in nodes:
                _replace(node.input, spec.name, uncast)
                _replace(node.output, spec.name, uncast)
            nodes.append(_cast(uncast, spec.name, _PORTS[spec.dtype]))
    del graph.node[:]
    graph.node.extend(nodes)
    for port, spec in zip((*graph.input, *graph.output), (*subgraph.inputs, *subgraph.outputs), strict=True):
        port.type.tensor_type.elem_type = _PORTS[spec.dtype]
    lint(model, subgraph.name, subgraph.inputs, subgraph.outputs)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def _precisions(nodes: Sequence[NodeProto], subgraph: SubgraphModule) -> Iterator[int]:
    """Yield the precision that each node computes in: FLOAT or FLOAT16."""
    wide = {spec.name for spec in subgraph.inputs[1:]} if subgraph.kind == "head" else set()
    for node in nodes:
        if subgraph.precision == "fp32" or (node.op_type != "Shape" and wide.intersection(node.input)):
            wide.update(node.output)
            yield _FLOAT
        else:
            yield _HALF


def _rounded(tensor: TensorProto, name: str) -> TensorProto:
    with np.errstate(over="ignore"):  # gives infinity, as torch does; the measured errors then keep the block in fp32
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name)


def _cast(value: str, result: str, dtype: int) -> NodeProto:
    return helper.make_node("Cast", [value], [result], f"cast_{result}", to=dtype)


def _replace(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
