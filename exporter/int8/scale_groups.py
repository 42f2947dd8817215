"""Scale groups: tensors of a bundle's fp32 graphs that carry the same values and so share one INT8 scale.

Anything that only moves values stays in the group: operators that slice, join, pad or reshape, the path from a state's
output to its input at the next call, and the path of a feature from one block to the next block and to its heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import onnx
from onnx import ModelProto

from ...grid.bundle import Bundle
from ..graphs.quantised_moves import MOVES


class Tensor(NamedTuple):
    """A tensor of a subgraph's graph."""

    subgraph: str
    name: str


class ScaleGroups:
    """The scale groups of a bundle.

    Args:
        graphs: the fp32 graphs of the bundle's subgraphs, by name.
        bundle: its manifest says which states and features they hand on.
    """

    def __init__(self, graphs: Mapping[str, ModelProto], bundle: Bundle) -> None:
        self._next: dict[Tensor, Tensor] = {}  # towards the tensor that represents the group
        writers: dict[str, Tensor] = {}
        for subgraph in bundle.manifest.subgraphs:
            graph = graphs[subgraph.name].graph
            for moved, source in _moves(graph):
                self._join(Tensor(subgraph.name, moved), Tensor(subgraph.name, source))
            for state in subgraph.states:
                self._join(Tensor(subgraph.name, state.output), Tensor(subgraph.name, state.input))
            if subgraph.kind == "block":
                writers |= {value.name: Tensor(subgraph.name, value.name) for value in graph.output}
            for value in graph.input:
                if value.name in writers:
                    self._join(Tensor(subgraph.name, value.name), writers[value.name])

    def of(self, tensor: Tensor) -> Tensor:
        """Return the tensor that represents the scale group of ``tensor``."""
        while tensor in self._next:
            tensor = self._next[tensor]
        return tensor

    def _join(self, one: Tensor, other: Tensor) -> None:
        one, other = self.of(one), self.of(other)
        if one != other:
            self._next[max(one, other)] = min(one, other)


def _moves(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Yield (result, source) of every operator that only moves values."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in MOVES:
            for source in node.input if node.op_type == "Concat" else node.input[:1]:
                if source not in constants:
                    yield node.output[0], source
