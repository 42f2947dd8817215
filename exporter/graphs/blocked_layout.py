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
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ...runtime.backends.onnxruntime import session_options
from .graph import attributes_of

_DOMAIN = "com.microsoft.nchwc"
_FRAMES, _CHANNELS = 0, 1  # axes of a tensor [frames, channels, height, width]
_LARGEST_BLOCK = 16
_WITH_BATCH = 5  # dimensions of a port [1, frames, channels, height, width]
_FEATURE = re.compile(r"(in|out)\.block\d+\.feature\d+")

Bounds = tuple[int, int]  # start and stop


def use_blocked_layout(model: ModelProto) -> tuple[str, ...]:
    """Keep a segment's optimised graph blocked where possible; return the names of the ports that are blocked.

    These are the fp32 features of one video whose channels fill whole blocks of 16. Only the port and the processor
    decide, never the rest of the graph, so all segments of a route agree about a feature. Nothing changes if
    onnxruntime has no blocked layout for this processor.
    """
    if block_size() == 1:
        return ()
    graph = _Graph(model)
    inputs = [value for value in model.graph.input if _is_blocked(value)]
    outputs = [value for value in model.graph.output if _is_blocked(value)]
    graph.read_blocked(inputs)
    graph.stay_blocked({value.name for value in outputs})
    graph.write_blocked(outputs)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.new_constants)
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


class _Graph:
    """The nodes being changed, and which plain tensors also exist in the blocked layout.

    Attributes:
        nodes: in order.
        new_constants: constants that they read in addition to the model's.
    """

    def __init__(self, model: ModelProto) -> None:
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.new_constants: list[TensorProto] = []
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        whole = [n for n in self._reorders("ReorderOutput") if not _channels(n) % _LARGEST_BLOCK]
        self._blocked = {node.output[0]: node.input[0] for node in whole}
        self._channels = {node.output[0]: _channels(node) for node in whole}  # channels of the tensors in _blocked
        self._taken: set[str] = set()  # blocked slices

    def read_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Declare these inputs as blocked; nodes that read them plain get a plain copy."""
        for port in ports:
            shape, plain, blocked = _shape(port), f"{port.name}.plain", port.name
            self._rename({port.name: plain}, written=False)
            if len(shape) == _WITH_BATCH:  # the graph kept the batch of one
                blocked = f"{port.name}.frames"
                self.nodes.insert(0, self._reshape(port.name, blocked, shape[1:]))
                self.nodes.insert(1, _to_plain(blocked, f"{plain}.frames", shape[-3]))
                self.nodes.insert(2, self._reshape(f"{plain}.frames", plain, shape))
            else:
                self.nodes.insert(0, _to_plain(blocked, plain, shape[-3]))
                self._blocked[plain], self._channels[plain] = blocked, shape[-3]

    def stay_blocked(self, outputs: set[str]) -> None:
        """Let channel slices, and nodes that join frames, read and write blocked tensors."""
        wanted = outputs | {node.input[0] for node in self._reorders("ReorderInput")}
        nodes, self.nodes = self.nodes, []
        for node in nodes:
            taken = self._channel_slice(node)
            if taken is not None and node.input[0] in self._blocked:
                self._slice_blocked(node, *taken)
            elif self._joins_frames(node) and node.output[0] in wanted and self._blocked.keys() & set(node.input):
                self._join_blocked(node)
            else:
                self.nodes.append(node)
        back = {node.output[0]: node.input[0] for node in self._reorders("ReorderInput")}
        self._rename({tensor: self._blocked[plain] for tensor, plain in back.items() if plain in self._blocked}, False)

    def _slice_blocked(self, node: NodeProto, channels: Bounds, frames: Bounds | None) -> None:
        """Slice whole blocks from a blocked tensor, and convert only the wanted channels to the plain layout."""
        source, (start, stop), block = node.input[0], channels, block_size()
        stop, first = min(stop, self._channels[source]), start - start % block
        # no extra block: onnxruntime converts a tensor to the plain layout only if it has exactly the blocks it needs
        bounds = {_CHANNELS: (first, stop + -stop % block)} | ({_FRAMES: frames} if frames else {})
        name = "-".join(map(str, (f"{source}.blocked", *(number for pair in bounds.values() for number in pair))))
        if name not in self._taken:
            self._taken.add(name)
            self.nodes.append(self._slice(self._blocked[source], name, bounds))
        if start == first:  # the conversion drops the channels from stop on
            self._add_plain(name, node.output[0], stop - first)
        else:
            self.nodes.append(_to_plain(name, f"{node.output[0]}.more", stop - first))
            self.nodes.append(
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
                self.nodes.append(helper.make_node("ReorderInput", [tensor], [self._blocked[tensor]], domain=_DOMAIN))
            inputs[place] = self._blocked[tensor]
        joined = NodeProto()
        joined.CopyFrom(node)
        joined.input[:], joined.output[:] = inputs, [f"{plain}.blocked"]
        self.nodes.append(joined)
        self._add_plain(joined.output[0], plain, channels)

    def _add_plain(self, blocked: str, plain: str, channels: int) -> None:
        """Add a plain copy of a tensor, and remember the pair if it has whole blocks."""
        self.nodes.append(_to_plain(blocked, plain, channels))
        if not channels % _LARGEST_BLOCK:
            self._blocked[plain], self._channels[plain] = blocked, channels

    def _joins_frames(self, node: NodeProto) -> bool:
        """Return whether a node joins tensors, or zeros and a tensor, along the frames."""
        if node.op_type == "Concat":
            return bool(attributes_of(node)["axis"] == _FRAMES)
        if node.op_type != "Pad" or len(node.input) != 2 or node.input[1] not in self._constants:
            return False
        pads = numpy_helper.to_array(self._constants[node.input[1]])
        zeros = attributes_of(node).get("mode", b"constant") == b"constant"
        return zeros and pads.size == 8 and not np.delete(pads, [_FRAMES, _FRAMES + 4]).any()

    def _channel_slice(self, node: NodeProto) -> tuple[Bounds, Bounds | None] | None:
        """Return start and stop of the contiguous channels that a node takes, and of the frames unless it takes all.

        None for any other node.
        """
        if (
            node.op_type != "Slice"
            or len(node.input) != 5
            or not all(name in self._constants for name in node.input[1:])
        ):
            return None
        starts, stops, axes, steps = (numpy_helper.to_array(self._constants[name]).tolist() for name in node.input[1:])
        bounds = dict(zip(axes, zip(starts, stops, strict=True), strict=True))
        if set(steps) != {1} or _CHANNELS not in bounds or not bounds.keys() <= {_CHANNELS, _FRAMES}:
            return None
        start, stop = bounds[_CHANNELS]
        return ((start, stop), bounds.get(_FRAMES)) if 0 <= start < stop else None

    def _slice(self, tensor: str, output: str, bounds: dict[int, Bounds]) -> NodeProto:
        starts, stops = zip(*bounds.values(), strict=True)
        numbers = [self._constant(list(values)) for values in (starts, stops, bounds, [1] * len(bounds))]
        return helper.make_node("Slice", [tensor, *numbers], [output])

    def _reshape(self, tensor: str, output: str, shape: list[int]) -> NodeProto:
        return helper.make_node("Reshape", [tensor, self._constant(shape)], [output])

    def _constant(self, value: list[int]) -> str:
        name = f"blocked.int64.{'x'.join(map(str, value))}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(value, np.int64), name)
            self.new_constants.append(self._constants[name])
        return name

    def _reorders(self, operator: str) -> list[NodeProto]:
        """Return the nodes that convert to or from [frames, channels, height, width]; others have channels last."""
        return [
            node for node in self.nodes if node.op_type == operator and not attributes_of(node).get("channels_last")
        ]

    def write_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Write these outputs blocked; nodes that read them plain get a plain copy."""
        done: set[str] = set()
        for port in ports:
            plain, blocked = f"{port.name}.plain", self._blocked.get(port.name)
            self._rename({port.name: plain}, written=True)
            shape = _shape(port)
            if len(shape) == _WITH_BATCH:
                frames = [f"{port.name}.{layout}.frames" for layout in ("plain", "blocked")]
                self.nodes.append(self._reshape(plain, frames[0], shape[1:]))
                self.nodes.append(helper.make_node("ReorderInput", frames[:1], frames[1:], domain=_DOMAIN))
                self.nodes.append(self._reshape(frames[1], port.name, shape))
            # an input or another output cannot also be this output
            elif blocked is not None and blocked not in done and any(blocked in node.output for node in self.nodes):
                self._rename({blocked: port.name}, written=True)
            else:
                self.nodes.append(helper.make_node("ReorderInput", [plain], [port.name], domain=_DOMAIN))
            done.add(port.name)

    def _rename(self, names: dict[str, str], written: bool) -> None:
        for node in self.nodes:
            for tensors in (node.input, node.output) if written else (node.input,):
                tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
        if written:
            self._blocked = {plain: names.get(blocked, blocked) for plain, blocked in self._blocked.items()}


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
