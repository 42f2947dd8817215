"""A graph that is being edited: its nodes, its constants, and what is known about its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

_LARGE_BYTES = 1024
"""A constant of this size is a weight: no shape depends on its values, and copying them takes most of the time."""


class Graph:
    """An ONNX model under construction; fusing, rewriting and optimising all edit it.

    Attributes:
        nodes: in topological order.
        constants: by name.
        ports: inputs and outputs, by name.
        inputs, outputs: their names.
        ir_version: of the format.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.ir_version, self._name, self._producer = model.ir_version, graph.name, model.producer_name
        self._opsets = list(model.opset_import)
        self.inputs = [value.name for value in graph.input]
        self.nodes: list[NodeProto] = list(graph.node)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.ports = {value.name: value for value in (*graph.input, *graph.output)}
        self.outputs = [value.name for value in graph.output]

    @classmethod
    def read(cls, content: bytes) -> Graph:
        """Return the graph of a model's bytes."""
        return cls(onnx.load_model_from_string(content))

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
        return {tensor: node for node in self.nodes for tensor in node.output if tensor}

    def readers(self) -> dict[str, list[NodeProto]]:
        """Return the nodes that read each tensor."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for tensor in node.input:
                found.setdefault(tensor, []).append(node)
        return found

    def shapes(self) -> dict[str, list[int]]:
        """Return the shape of every tensor that is no constant, with -1 for unknown sizes; [] for an unknown rank.

        Raises:
            InferenceError: If the nodes do not fit together.
        """
        large = [t for t in self.constants.values() if t.ByteSize() >= _LARGE_BYTES]
        declared = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large]
        small = [t for t in self.constants.values() if t.ByteSize() < _LARGE_BYTES]
        known = infer_shapes(self._model(declared, small), check_type=True, strict_mode=True, data_prop=True).graph
        values = {v.name: v.type.tensor_type.shape.dim for v in (*known.input, *known.value_info, *known.output)}
        return {
            name: [d.dim_value or -1 for d in shape] for name, shape in values.items() if name not in self.constants
        }

    def rename(self, names: Mapping[str, str]) -> None:
        """Rename tensors wherever nodes read or write them."""
        for node in self.nodes:
            rename(node, names)

    def replace(self, others: Mapping[str, list[NodeProto]]) -> None:
        """Replace the nodes that write these tensors, and drop what no output needs."""
        needed, kept = set(self.outputs), []
        nodes = [new for old in self.nodes for new in others.get(old.output[0], [old])]
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: tensor for name, tensor in self.constants.items() if name in needed}

    def model(self) -> ModelProto:
        """Return the model in its current state."""
        return self._model([], list(self.constants.values()))

    def _model(self, more_inputs: Sequence[ValueInfoProto], constants: Sequence[TensorProto]) -> ModelProto:
        model = ModelProto(ir_version=self.ir_version, producer_name=self._producer, opset_import=self._opsets)
        graph = model.graph
        graph.name = self._name
        graph.node.extend(self.nodes)
        graph.input.extend([*(self.ports[name] for name in self.inputs), *more_inputs])
        graph.output.extend(self.ports[name] for name in self.outputs)
        graph.initializer.extend(constants)
        return model


def rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Rename the tensors that a node reads or writes."""
    for tensors in (node.input, node.output):
        tensors[:] = [names.get(tensor, tensor) for tensor in tensors]


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
