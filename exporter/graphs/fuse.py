"""Fuse a segment into one ONNX model: its cells' graphs, at fixed numbers of frames, joined.

Every span is an instance of its block's graph, and all instances of a block share its weights. Features wait in order
until the next block takes them. So a span needs no position in the video: it takes the next frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.shape_inference import InferenceError

from ...grid.bundle import Bundle
from ...grid.errors import LintError
from ...grid.manifest import Precision, Subgraph
from ...grid.route import Span
from ...grid.segments import FusedSegment, block_of, embeddings_name, feature_name, features_of, state_name
from ...grid.tensors import TensorSpec
from ...runtime.execution.composed import frame_weights
from .graph import Graph, rename
from .lint import clean, lint

_FRAMES_AXIS = 1


def fuse(bundle: Bundle, segment: FusedSegment, precision: Precision) -> bytes:
    """Return ``segment`` of the bundle's route as the bytes of a self-contained, linted ONNX model.

    Its ports are the segment's, in order; batch is its only dynamic dimension. It computes what its spans and its
    head compute one after another, without anything that no later segment reads. The same bundle gives the same
    bytes. A cell's nodes keep their names, prefixed by the cell's: ``block1.0-4/NAME`` for input sets 0 to 3,
    ``head1/NAME``.

    Raises:
        HashError: If a file of the bundle has changed.
        LintError: If a cell's graph cannot be joined, or the result holds what a bundle must not hold.
    """
    graph = _SegmentGraph(bundle, segment, precision)
    for span in segment.spans:
        graph.add_span(span)
    graph.end()
    model = clean(graph.model(), segment.outputs)
    lint(model, segment.name, segment.inputs, segment.outputs)
    return model.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


class _Piece(NamedTuple):
    """A tensor [batch, frames, ...] and its number of frames."""

    tensor: str
    frames: int


class _SegmentGraph(Graph):
    """A fused graph that grows cell by cell.

    Tensors handed on between segments or spans are held as pieces in the order of their frames, under their names in
    ``grid.segments``. A state that is not held is all zeros.
    """

    def __init__(self, bundle: Bundle, segment: FusedSegment, precision: Precision) -> None:
        inputs, outputs = ([_value(spec) for spec in specs] for specs in (segment.inputs, segment.outputs))
        opset = helper.make_opsetid("", bundle.manifest.opset)
        super().__init__(helper.make_model(helper.make_graph([], segment.name, inputs, outputs), opset_imports=[opset]))
        self._bundle = bundle
        self._segment = segment
        self._precision: Precision = precision
        self._size = bundle.manifest.grid.frames_per_set
        self._held = {
            spec.name.removeprefix("in."): [_Piece(spec.name, int(spec.shape[_FRAMES_AXIS]))] for spec in segment.inputs
        }

    def add_span(self, span: Span) -> None:
        """Run a block over the next frames that wait for it."""
        block = block_of(self._bundle.manifest, span.block)
        states = {state.input: state_name(span.block, state.input) for state in block.states}
        if span.start == self._bundle.manifest.grid.border:
            for name in states.values():
                self._held.pop(name, None)
        frames = (span.stop - span.start) * self._size
        feeds = {
            spec.name: self._state(states[spec.name]) if spec.name in states else self._take(feature_name(spec), frames)
            for spec in block.variant(self._precision).inputs
        }
        written = self._add_cell(block, f"{block.name}.{span.start}-{span.stop}", frames, feeds)
        for state in block.states:
            self._held[states[state.input]] = [_Piece(written[state.output], 0)]
        for spec in features_of(block, self._precision):
            self._held.setdefault(feature_name(spec), []).append(_Piece(written[spec.name], frames))

    def end(self) -> None:
        """Add the head, or without one keep what a head would read; name the outputs, and drop what they do not need."""
        manifest = self._bundle.manifest
        if self._segment.head is not None:
            self._add_head(manifest.subgraph(self._segment.head))
        else:
            feature = manifest.subgraph(manifest.heads[-1]).variant(self._precision).inputs[0]
            self._held["features"] = self._held.get(feature_name(feature), [])
        self.rename({self._join(self._held[s.name.removeprefix("out.")]): s.name for s in self._segment.outputs})
        self.nodes = list(self._without_reshapes(_shapes(self, self._segment.name)))
        self.replace({})

    def _add_head(self, head: Subgraph) -> None:
        """Answer from the frames that the last block has just computed and those embedded before."""
        manifest = self._bundle.manifest
        spans = [span for span in self._segment.spans if span.block == head.block]
        feature, *embeddings, weights = head.variant(self._precision).inputs
        new = self._held[feature_name(feature)][-len(spans) :]
        seen = spans[-1].stop * self._size
        feeds = {
            feature.name: self._join(new),
            **{spec.name: self._state(embeddings_name(head.block)) for spec in embeddings},
            weights.name: self.constant("frame_weights", frame_weights(seen, manifest.grid.num_frames)),
        }
        written = self._add_cell(head, head.name, sum(piece.frames for piece in new), feeds)
        for state in head.states:
            self._held[embeddings_name(head.block)] = [_Piece(written[state.output], 0)]
        for name in ("logits", "probabilities"):
            self._held[name] = [_Piece(written[name], 0)]

    # tensors

    def _state(self, name: str) -> str | None:
        """Return the tensor of a state, None if it is all zeros."""
        return self._held[name][0].tensor if name in self._held else None

    def _take(self, name: str, frames: int) -> str:
        """Return the next ``frames`` frames of a feature and remove them from those waiting."""
        waiting, taken = self._held[name], []
        while frames:
            piece = waiting.pop(0)
            if piece.frames > frames:
                waiting.insert(0, self._slice(piece, frames, piece.frames))
                piece = self._slice(piece, 0, frames)
            taken.append(piece)
            frames -= piece.frames
        return self._join(taken)

    def _slice(self, piece: _Piece, start: int, stop: int) -> _Piece:
        bounds = [self.sizes(n) for n in (start, stop, _FRAMES_AXIS)]
        return _Piece(self._add("Slice", [piece.tensor, *bounds], f"{piece.tensor}.{start}-{stop}"), stop - start)

    def _join(self, pieces: Sequence[_Piece]) -> str:
        tensors = [piece.tensor for piece in pieces]
        return tensors[0] if len(tensors) == 1 else self._add("Concat", tensors, "+".join(tensors), axis=_FRAMES_AXIS)

    # nodes

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        if not any(output in node.output for node in self.nodes):
            self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def _add_cell(self, subgraph: Subgraph, place: str, frames: int, feeds: Mapping[str, str | None]) -> dict[str, str]:
        """Append an instance of a cell's graph; return the tensors of its ports.

        Args:
            subgraph: the cell's subgraph.
            place: name of the instance, unique in the segment.
            frames: number of frames in this call.
            feeds: the tensor of every input port, None for a state at zeros.
        """
        variant = subgraph.variant(self._precision)
        zeros = [spec for spec in variant.inputs if feeds[spec.name] is None]
        cell = _cell(self._bundle.read(variant), place, frames, zeros)
        self.ir_version = cell.ir_version
        names = {port: tensor for port, tensor in feeds.items() if tensor is not None}
        for tensor in cell.constants.values():
            names[tensor.name] = tensor.name = f"{subgraph.name}/{tensor.name}"
            self.constants[tensor.name] = tensor
        for node in cell.nodes:
            names |= {tensor: f"{place}/{tensor}" for tensor in node.output if tensor}
            node.name = f"{place}/{node.name or node.output[0]}"
            rename(node, names)
            self.nodes.append(node)
        return names

    def _without_reshapes(self, shapes: Mapping[str, list[int]]) -> Iterable[NodeProto]:
        """Yield the nodes without reshapes that cancel out: rows to frames at a cell's end, back at the next."""
        sources: dict[str, str] = {}
        same: dict[str, str] = {}
        for node in self.nodes:
            rename(node, same)
            target = self.value(node.input[1]) if node.op_type == "Reshape" else None
            if target is not None:
                source = node.input[0] = sources.get(node.input[0], node.input[0])
                (output,) = node.output
                # a reshape leaves at most one size open, so shapes that look equal are equal
                if target.tolist() == shapes.get(source) and output not in self.outputs:
                    same[output] = source
                    continue
                sources[output] = source
            yield node


def _cell(content: bytes, place: str, frames: int, zeros: Sequence[TensorSpec]) -> Graph:
    """Return a cell's graph for ``frames`` frames, with the states ``zeros`` at zeros.

    Sizes computed from input shapes become constants, except for the batch.
    """
    graph = Graph.read(content)
    for value in graph.ports.values():
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "frames":
                dimension.dim_value = frames
    shapes = _shapes(graph, place)
    for node in graph.nodes:
        shape = shapes.get(node.output[0])
        if node.op_type == "Reshape" and shape and shape.count(-1) <= 1:
            node.input[1] = graph.constant(f"{node.output[0]}.{frames}.shape", np.array(shape, np.int64))
    graph.replace({})
    for spec in zeros:
        pads = np.zeros(2 * len(spec.shape), np.int64)
        pads[_FRAMES_AXIS] = spec.shape[_FRAMES_AXIS]
        graph.constant(f"{spec.name}.zeros", pads)
        graph.replace({n.output[0]: [_padded(n, spec.name, place)] for n in graph.readers().get(spec.name, [])})
    return graph


def _padded(node: NodeProto, state: str, place: str) -> NodeProto:
    """Return the equivalent of ``node``, which joins a state and the new frames, for a state of zeros."""
    joins = node.op_type == "Concat" and helper.get_node_attr_value(node, "axis") == _FRAMES_AXIS
    if not joins or len(node.input) != 2 or node.input[0] != state:
        raise LintError(
            f"{place}: operator {node.op_type} ({node.name}) reads the state {state}: "
            "expected a Concat of the state and the new frames along the frame axis. Export again."
        )
    return helper.make_node("Pad", [node.input[1], f"{state}.zeros"], node.output, node.name)


def _shapes(graph: Graph, name: str) -> dict[str, list[int]]:
    """Return the shapes of a graph's tensors; ``name`` is for errors."""
    try:
        return graph.shapes()
    except InferenceError as error:
        raise LintError(f"{name}: its cells do not fit together: {str(error).splitlines()[0]}. Export again.") from None


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)
