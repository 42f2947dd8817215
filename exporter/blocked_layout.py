"""What onnxruntime leaves in the plain layout though it could stay blocked, as its convolutions read and write it.

Blocked, a tensor [frames, channels, height, width] lies in memory as [frames, channels / block, height, width, block]: as many
bytes. A segment that was optimised alone brings the features that it hands on into the plain layout, and the next one brings
them back: here both are left out, and nothing but the segments' graphs knows. And to take the channels that are shifted,
onnxruntime brings whole tensors into the plain layout: here whole blocks are taken, and only these are brought.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ..runtime.backends.ort import pooled_options

_DOMAIN = "com.microsoft.nchwc"
_FRAMES, _CHANNELS = 0, 1  # axes of a tensor [frames, channels, height, width]
_LARGEST_BLOCK = 16
_WITH_BATCH = 5  # dimensions of a port [1, frames, channels, height, width]
_FEATURE = re.compile(r"(in|out)\.block\d+\.feature\d+")


def use_blocked_layout(model: ModelProto) -> tuple[str, ...]:
    """Let a segment's optimised graph stay blocked where it can; return the names of the ports that carry features blocked.

    These are the fp32 features of one video with channels in whole blocks of 16. What decides is the port and the processor,
    never the rest of the graph: so the segments of a route take a feature alike. None where onnxruntime has no blocked layout
    for this processor.
    """
    if block_size() == 1:
        return ()
    graph = _Graph(model)
    inputs = [value for value in model.graph.input if _is_blocked(value)]
    outputs = [value for value in model.graph.output if _is_blocked(value)]
    graph.read_blocked(inputs)
    graph.join_blocked({value.name for value in outputs})
    graph.slice_blocked()
    graph.write_blocked(outputs)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.new_constants)
    return tuple(value.name for value in (*inputs, *outputs))


@cache
def block_size() -> int:
    """Return how many channels a block has on this processor, as onnxruntime shows on a tensor; 1 where it has no blocks."""
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
        pooled_options(onnxruntime),
        providers=["CPUExecutionProvider"],
        enable_fallback=False,
    )
    (blocked,) = session.run(None, {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)})
    return int(np.flatnonzero(blocked.ravel() == 1)[0])  # after the first pixel's channels comes the second pixel


class _Graph:
    """Nodes that are being changed, and which plain tensors are also there blocked.

    Attributes:
        nodes: in order.
        new_constants: that they read besides those of the model.
    """

    def __init__(self, model: ModelProto) -> None:
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.new_constants: list[TensorProto] = []
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._blocked = {
            node.output[0]: node.input[0]
            for node in self._reorders("ReorderOutput")
            if not _channels(node) % _LARGEST_BLOCK
        }

    def read_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Take these inputs as blocked: whoever reads them plain reads a plain copy."""
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
                self._blocked[plain] = blocked

    def join_blocked(self, outputs: set[str]) -> None:
        """Join frames of blocked tensors blocked, and leave out whatever brings a tensor back into the blocked layout."""
        wanted = outputs | {node.input[0] for node in self._reorders("ReorderInput")}
        channels = {node.output[0]: _channels(node) for node in self._reorders("ReorderOutput")}
        found: list[NodeProto] = []
        for node in self.nodes:
            (plain,) = node.output[:1]
            joins = node.op_type == "Concat" and helper.get_node_attr_value(node, "axis") == _FRAMES
            if joins and plain in wanted and all(tensor in self._blocked for tensor in node.input):
                joined = f"{plain}.blocked"
                channels[plain] = channels[node.input[0]]
                self._blocked[plain] = joined
                found.append(
                    helper.make_node("Concat", [self._blocked[tensor] for tensor in node.input], [joined], axis=_FRAMES)
                )
                node = _to_plain(joined, plain, channels[plain])
            found.append(node)
        self.nodes = found
        back = {node.output[0]: node.input[0] for node in self._reorders("ReorderInput")}
        self._rename({tensor: self._blocked[plain] for tensor, plain in back.items() if plain in self._blocked}, False)

    def slice_blocked(self) -> None:
        """Take channels in whole blocks from a blocked tensor, and only these into the plain layout."""
        channels = {node.output[0]: _channels(node) for node in self._reorders("ReorderOutput")}
        taken: set[str] = set()
        found: list[NodeProto] = []
        for node in self.nodes:
            ends = self._channel_slice(node)
            if ends is None or node.input[0] not in self._blocked:
                found.append(node)
                continue
            plain, start = node.input[0], ends[0]
            stop, first = min(ends[1], channels[plain]), start - start % _LARGEST_BLOCK
            last = stop + -stop % _LARGEST_BLOCK
            name = f"{plain}.{first}-{last}.blocked"
            if name not in taken:
                taken.add(name)
                found.append(self._slice(self._blocked[plain], name, first, last))
            if start == first:  # what is beyond stop stays behind
                found.append(_to_plain(name, node.output[0], stop - first))
            else:
                found.append(_to_plain(name, f"{node.output[0]}.more", stop - first))
                found.append(self._slice(f"{node.output[0]}.more", node.output[0], start - first, stop - first))
        self.nodes = found

    def _channel_slice(self, node: NodeProto) -> tuple[int, int] | None:
        """Return start and stop of the channels that a node takes, one after the other; None where it is another node."""
        if (
            node.op_type != "Slice"
            or len(node.input) != 5
            or not all(name in self._constants for name in node.input[1:])
        ):
            return None
        starts, stops, axes, steps = (numpy_helper.to_array(self._constants[name]).tolist() for name in node.input[1:])
        return (starts[0], stops[0]) if (axes, steps) == ([_CHANNELS], [1]) and 0 <= starts[0] < stops[0] else None

    def _slice(self, tensor: str, output: str, start: int, stop: int) -> NodeProto:
        bounds = [self._constant([number]) for number in (start, stop, _CHANNELS, 1)]
        return helper.make_node("Slice", [tensor, *bounds], [output])

    def _reshape(self, tensor: str, output: str, shape: list[int]) -> NodeProto:
        return helper.make_node("Reshape", [tensor, self._constant(shape)], [output])

    def _constant(self, value: list[int]) -> str:
        name = f"blocked.int64.{'x'.join(map(str, value))}"
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(value, np.int64), name)
            self.new_constants.append(self._constants[name])
        return name

    def _reorders(self, operator: str) -> list[NodeProto]:
        """Return the nodes between the blocked layout and [frames, channels, height, width]; others have channels last."""
        return [
            node
            for node in self.nodes
            if node.op_type == operator and not any(a.name == "channels_last" and a.i for a in node.attribute)
        ]

    def write_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Write these outputs blocked: whoever reads them plain reads a plain copy."""
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
            # neither an input nor another output can be this output, too
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
    """Return whether a port passes blocked: an fp32 feature of one video, [frames, ...] or [1, frames, ...], in whole blocks."""
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
    return int(helper.get_node_attr_value(node, "channels"))


def _to_plain(blocked: str, plain: str, channels: int) -> NodeProto:
    return helper.make_node("ReorderOutput", [blocked], [plain], domain=_DOMAIN, channels=channels)
