"""Keep segments in onnxruntime's blocked layout, in which its convolutions read and write, where it would leave it.

In the blocked layout, a tensor [frames, channels, height, width] lies in memory as [frames, channels / block, height,
width, block], in the same number of bytes. A segment optimised on its own converts the features that it hands on to
the plain layout, and the next segment converts them back. Here both conversions are removed; only the segments'
graphs know. Operations that give the same result in both layouts stay blocked too: slicing whole blocks of channels,
which the shift does, and joining frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from ...runtime.backends.onnxruntime import session_options
from .graph import Graph, attributes_of

_DOMAIN = "com.microsoft.nchwc"
_FRAMES, _CHANNELS = 0, 1  # axes of a tensor [frames, channels, height, width]
_LARGEST_BLOCK = 16
_WITH_BATCH = 5  # dimensions of a port [1, frames, channels, height, width]
_FEATURE = re.compile(r"(in|out)\.block\d+\.feature\d+")

Bounds = tuple[int, int]  # start and stop


def use_blocked_layout(graph: Graph) -> tuple[str, ...]:
    """Keep a segment's optimised graph blocked where possible; return the names of the ports that are blocked.

    These are the fp32 features of one video whose channels fill whole blocks of 16. Only the port and the processor
    decide, never the rest of the graph, so all segments of a route agree about a feature. Nothing changes if
    onnxruntime has no blocked layout for this processor.
    """
    if block_size() == 1:
        return ()
    layout = _Layout(graph)
    inputs, outputs = (
        [port for port in map(graph.ports.__getitem__, names) if _is_blocked(port)]
        for names in (graph.inputs, graph.outputs)
    )
    layout.read_blocked(inputs)
    layout.stay_blocked({value.name for value in outputs})
    layout.write_blocked(outputs)
    return tuple(value.name for value in (*inputs, *outputs))


@cache
def block_size() -> int:
    """Return the channels per block on this processor, measured on a tensor by onnxruntime; 1 if it has no blocks."""
    import onnxruntime

    shape = [1, 4 * _LARGEST_BLOCK, 1, 2]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=_DOMAIN)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "probe", ports[:1], ports[1:]), opset_imports=opsets, ir_version=10
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),
        session_options(onnxruntime, 1),
        providers=["CPUExecutionProvider"],
        enable_fallback=False,
    )
    (blocked,) = session.run(None, {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)})
    return int(np.flatnonzero(blocked.ravel() == 1)[0])  # the second pixel follows the first pixel's channels


class _Layout:
    """A graph, and which of its plain tensors also exist in the blocked layout."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        whole = [n for n in self._reorders("ReorderOutput") if not _channels(n) % _LARGEST_BLOCK]
        self._blocked = {node.output[0]: node.input[0] for node in whole}
        self._channels = {node.output[0]: _channels(node) for node in whole}  # channels of the tensors in _blocked
        self._taken: set[str] = set()  # blocked slices

    def read_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Declare these inputs as blocked; nodes that read them plain get a plain copy."""
        for port in ports:
            shape, plain, blocked = _shape(port), f"{port.name}.plain", port.name
            self._graph.rename({port.name: plain})
            if len(shape) == _WITH_BATCH:  # the graph kept the batch of one
                blocked = f"{port.name}.frames"
                self._graph.nodes.insert(0, self._reshape(port.name, blocked, shape[1:]))
                self._graph.nodes.insert(1, _to_plain(blocked, f"{plain}.frames", shape[-3]))
                self._graph.nodes.insert(2, self._reshape(f"{plain}.frames", plain, shape))
            else:
                self._graph.nodes.insert(0, _to_plain(blocked, plain, shape[-3]))
                self._blocked[plain], self._channels[plain] = blocked, shape[-3]

    def stay_blocked(self, outputs: set[str]) -> None:
        """Let channel slices, and nodes that join frames, read and write blocked tensors."""
        wanted = outputs | {node.input[0] for node in self._reorders("ReorderInput")}
        nodes, self._graph.nodes = self._graph.nodes, []
        for node in nodes:
            taken = self._channel_slice(node)
            if taken is not None and node.input[0] in self._blocked:
                self._slice_blocked(node, *taken)
            elif self._joins_frames(node) and node.output[0] in wanted and self._blocked.keys() & set(node.input):
                self._join_blocked(node)
            else:
                self._graph.nodes.append(node)
        back = {node.output[0]: self._blocked.get(node.input[0]) for node in self._reorders("ReorderInput")}
        same = {tensor: blocked for tensor, blocked in back.items() if blocked not in (None, tensor)}
        self._graph.nodes = [node for node in self._graph.nodes if node.output[0] not in same]
        self._graph.rename(same)

    def _slice_blocked(self, node: NodeProto, channels: Bounds, frames: Bounds | None) -> None:
        """Slice whole blocks from a blocked tensor, and convert only the wanted channels to the plain layout."""
        source, (start, stop), block = node.input[0], channels, block_size()
        stop, first = min(stop, self._channels[source]), start - start % block
        # no extra block: onnxruntime converts a tensor to the plain layout only if it has exactly the blocks it needs
        bounds = {_CHANNELS: (first, stop + -stop % block)} | ({_FRAMES: frames} if frames else {})
        name = "-".join(map(str, (f"{source}.blocked", *(number for pair in bounds.values() for number in pair))))
        if name not in self._taken:
            self._taken.add(name)
            self._graph.nodes.append(self._slice(self._blocked[source], name, bounds))
        if start == first:  # the conversion drops the channels from stop on
            self._add_plain(name, node.output[0], stop - first)
        else:
            self._graph.nodes.append(_to_plain(name, f"{node.output[0]}.more", stop - first))
            self._graph.nodes.append(
                self._slice(f"{node.output[0]}.more", node.output[0], {_CHANNELS: (start - first, stop - first)})
            )

    def _join_blocked(self, node: NodeProto) -> None:
        """Join the frames of blocked tensors; plain inputs are converted to the blocked layout."""
        (plain,), inputs = node.output, list(node.input)
        channels = next(self._channels[tensor] for tensor in inputs if tensor in self._blocked)
        for place in range(len(inputs) if node.op_type == "Concat" else 1):
            tensor = inputs[place]
            if tensor not in self._blocked:
                self._blocked[tensor], self._channels[tensor] = f"{tensor}.blocked", channels
                self._graph.nodes.append(
                    helper.make_node("ReorderInput", [tensor], [self._blocked[tensor]], domain=_DOMAIN)
                )
            inputs[place] = self._blocked[tensor]
        joined = NodeProto()
        joined.CopyFrom(node)
        joined.input[:], joined.output[:] = inputs, [f"{plain}.blocked"]
        self._graph.nodes.append(joined)
        self._add_plain(joined.output[0], plain, channels)

    def _add_plain(self, blocked: str, plain: str, channels: int) -> None:
        """Add a plain copy of a tensor, and remember the pair if it has whole blocks."""
        self._graph.nodes.append(_to_plain(blocked, plain, channels))
        if not channels % _LARGEST_BLOCK:
            self._blocked[plain], self._channels[plain] = blocked, channels

    def _joins_frames(self, node: NodeProto) -> bool:
        """Return whether a node joins tensors, or zeros and a tensor, along the frames."""
        if node.op_type == "Concat":
            return bool(attributes_of(node)["axis"] == _FRAMES)
        pads = self._graph.value(node.input[1]) if node.op_type == "Pad" and len(node.input) == 2 else None
        if pads is None:
            return False
        zeros = attributes_of(node).get("mode", b"constant") == b"constant"
        return zeros and pads.size == 8 and not np.delete(pads, [_FRAMES, _FRAMES + 4]).any()

    def _channel_slice(self, node: NodeProto) -> tuple[Bounds, Bounds | None] | None:
        """Return start and stop of the contiguous channels that a node takes, and of the frames unless it takes all.

        None for any other node.
        """
        if node.op_type != "Slice" or len(node.input) != 5 or not self._graph.constants.keys() >= set(node.input[1:]):
            return None
        values = (self._graph.value(name) for name in node.input[1:])
        starts, stops, axes, steps = (value.tolist() for value in values if value is not None)
        bounds = dict(zip(axes, zip(starts, stops, strict=True), strict=True))
        if set(steps) != {1} or _CHANNELS not in bounds or not bounds.keys() <= {_CHANNELS, _FRAMES}:
            return None
        start, stop = bounds[_CHANNELS]
        return ((start, stop), bounds.get(_FRAMES)) if 0 <= start < stop else None

    def _slice(self, tensor: str, output: str, bounds: dict[int, Bounds]) -> NodeProto:
        starts, stops = zip(*bounds.values(), strict=True)
        numbers = [self._graph.sizes(*values) for values in (starts, stops, bounds, [1] * len(bounds))]
        return helper.make_node("Slice", [tensor, *numbers], [output])

    def _reshape(self, tensor: str, output: str, shape: list[int]) -> NodeProto:
        return helper.make_node("Reshape", [tensor, self._graph.sizes(*shape)], [output])

    def _reorders(self, operator: str) -> list[NodeProto]:
        """Return the nodes that convert to or from [frames, channels, height, width]; others have channels last."""
        return [
            node
            for node in self._graph.nodes
            if node.op_type == operator and not attributes_of(node).get("channels_last")
        ]

    def write_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Write these outputs blocked; nodes that read them plain get a plain copy."""
        done: set[str] = set()
        for port in ports:
            plain, blocked = f"{port.name}.plain", self._blocked.get(port.name)
            self._rename(port.name, plain)
            shape = _shape(port)
            if len(shape) == _WITH_BATCH:
                frames = [f"{port.name}.{layout}.frames" for layout in ("plain", "blocked")]
                self._graph.nodes.append(self._reshape(plain, frames[0], shape[1:]))
                self._graph.nodes.append(helper.make_node("ReorderInput", frames[:1], frames[1:], domain=_DOMAIN))
                self._graph.nodes.append(self._reshape(frames[1], port.name, shape))
            # an input or another output cannot also be this output
            elif blocked is not None and blocked not in done and blocked in self._graph.writers():
                self._rename(blocked, port.name)
            else:
                self._graph.nodes.append(helper.make_node("ReorderInput", [plain], [port.name], domain=_DOMAIN))
            done.add(port.name)

    def _rename(self, old: str, new: str) -> None:
        self._graph.rename({old: new})
        self._blocked = {plain: new if blocked == old else blocked for plain, blocked in self._blocked.items()}


def _is_blocked(port: ValueInfoProto) -> bool:
    """Return whether a port carries a blocked tensor.

    It does for an fp32 feature of one video, [frames, ...] or [1, frames, ...], whose channels fill whole blocks.
    """
    shape = _shape(port)
    return (
        _FEATURE.fullmatch(port.name) is not None
        and port.type.tensor_type.elem_type == TensorProto.FLOAT
        and all(shape)
        and (len(shape) < _WITH_BATCH or shape[0] == 1)
        and shape[-3] % _LARGEST_BLOCK == 0
    )


def _shape(port: ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in port.type.tensor_type.shape.dim]


def _channels(node: NodeProto) -> int:
    return int(attributes_of(node)["channels"])


def _to_plain(blocked: str, plain: str, channels: int) -> NodeProto:
    return helper.make_node("ReorderOutput", [blocked], [plain], domain=_DOMAIN, channels=channels)
