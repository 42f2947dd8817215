"""A graph that is being rewritten: its nodes, its constants, and what is known about its tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes


class Graph:
    """An ONNX model under construction.

    Attributes:
        nodes: in topological order.
        constants: by name.
        ports: inputs and outputs, by name.
        outputs: names of the outputs.
    """

    def __init__(self, content: bytes) -> None:
        self._model = onnx.load_model_from_string(content)
        graph = self._model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.ports = {value.name: value for value in (*graph.input, *graph.output)}
        self.outputs = [value.name for value in graph.output]

    def value(self, name: str) -> NDArray[Any] | None:
        """Return a constant's value, None if ``name`` is computed."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Define the constant ``name`` as ``value`` unless it exists; return ``name``."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def sizes(self, *sizes: int) -> str:
        """Return the name of an int64 constant with these numbers, for shapes, axes and bounds."""
        return self.constant(f"int64.{'x'.join(map(str, sizes))}", np.array(sizes, np.int64))

    def writers(self) -> dict[str, NodeProto]:
        """Return the node that writes each computed tensor."""
        return {tensor: node for node in self.nodes for tensor in node.output}

    def readers(self) -> dict[str, list[NodeProto]]:
        """Return the nodes that read each tensor."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for tensor in node.input:
                found.setdefault(tensor, []).append(node)
        return found

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every tensor, with -1 for unknown sizes."""
        known = infer_shapes(self.model(), check_type=True, strict_mode=True, data_prop=True).graph
        values = {v.name: v.type.tensor_type.shape.dim for v in (*known.input, *known.value_info, *known.output)}
        return {name: [d.dim_value or -1 for d in shape] for name, shape in values.items()}

    def replace(self, others: dict[str, list[NodeProto]]) -> None:
        """Replace the nodes that write these tensors, and drop what no output needs."""
        needed, kept = set(self.outputs), []
        nodes = [new for old in self.nodes for new in others.get(old.output[0], [old])]
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: tensor for name, tensor in self.constants.items() if name in needed}

    def model(self) -> onnx.ModelProto:
        """Return the model in its current state."""
        model, old = onnx.ModelProto(), self._model
        model.ir_version, model.producer_name = old.ir_version, old.producer_name
        model.opset_import.extend(old.opset_import)
        inputs, outputs = ([self.ports[v.name] for v in values] for values in (old.graph.input, old.graph.output))
        graph = helper.make_graph(self.nodes, old.graph.name, inputs, outputs, list(self.constants.values()))
        model.graph.CopyFrom(graph)
        return model


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
