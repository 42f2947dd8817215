"""What onnxruntime leaves in the plain layout though it could stay blocked, as its convolutions read and write it.

Blocked, a tensor [frames, channels, height, width] lies in memory as [frames, channels / block, height, width, block]: as many
bytes. A segment that was optimised alone brings the features that it hands on into the plain layout, and the next one brings
them back: here both are left out, and nothing but the segments' graphs knows. And to take the channels that are shifted,
onnxruntime brings whole tensors into the plain layout: here whole blocks are taken, and only these are brought.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ..runtime.backends.ort import share_pool

_DOMAIN = "com.microsoft.nchwc"
_FRAMES, _CHANNELS = 0, 1  # axes of a tensor [frames, channels, height, width]
_LARGEST_BLOCK = 16


def use_blocked_layout(model: ModelProto) -> tuple[str, ...]:
    """Let a segment's optimised graph stay blocked where it can; return the names of the ports that carry features blocked.

    These are all fp32 features with channels in whole blocks, so every segment of a route that was optimised for the same
    processor takes them alike. None where onnxruntime has no blocked layout for this processor.
    """
    if all(node.domain != _DOMAIN for node in model.graph.node):
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


def block_size() -> int:
    """Return how many channels this processor's blocks have, as onnxruntime shows on a tensor."""
    import onnxruntime

    shape = [1, 4 * _LARGEST_BLOCK, 1, 2]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=_DOMAIN)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "probe", ports[:1], ports[1:]), opset_imports=opsets, ir_version=10
    )
    options = onnxruntime.SessionOptions()
    share_pool(onnxruntime, None)
    options.use_per_session_threads = False
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=False
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
            for node in self.nodes
            if node.op_type == "ReorderOutput" and _channels(node) % _LARGEST_BLOCK == 0
        }

    def read_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Take these inputs as blocked: whoever reads them plain reads a plain copy."""
        for port in ports:
            plain = f"{port.name}.plain"
            self._rename({port.name: plain}, written=False)
            self.nodes.insert(0, _to_plain(port.name, plain, _shape(port)[1]))
            self._blocked[plain] = port.name

    def join_blocked(self, outputs: set[str]) -> None:
        """Join frames of blocked tensors blocked, and leave out whatever brings a tensor back into the blocked layout."""
        wanted = outputs | {node.input[0] for node in self.nodes if node.op_type == "ReorderInput"}
        channels = {node.output[0]: _channels(node) for node in self.nodes if node.op_type == "ReorderOutput"}
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
        back = {node.output[0]: node.input[0] for node in self.nodes if node.op_type == "ReorderInput"}
        self._rename({tensor: self._blocked[plain] for tensor, plain in back.items() if plain in self._blocked}, False)

    def slice_blocked(self) -> None:
        """Take channels in whole blocks from a blocked tensor, and only these into the plain layout."""
        channels = {node.output[0]: _channels(node) for node in self.nodes if node.op_type == "ReorderOutput"}
        taken: set[str] = set()
        found: list[NodeProto] = []
        for node in self.nodes:
            ends = self._channel_slice(node)
            if ends is None or node.input[0] not in self._blocked:
                found.append(node)
                continue
            plain, (start, stop) = node.input[0], ends
            first = start - start % _LARGEST_BLOCK
            last = min(channels[plain], stop + -stop % _LARGEST_BLOCK)
            name = f"{plain}.{first}-{last}"
            if name not in taken:
                taken.add(name)
                found.append(self._slice(self._blocked[plain], f"{name}.blocked", first, last))
                found.append(_to_plain(f"{name}.blocked", name, last - first))
            found.append(self._slice(name, node.output[0], start - first, min(stop, channels[plain]) - first))
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
        bounds = []
        for number in (start, stop, _CHANNELS, 1):
            name = f"blocked.int64.{number}"
            if name not in self._constants:
                self._constants[name] = numpy_helper.from_array(np.array([number], np.int64), name)
                self.new_constants.append(self._constants[name])
            bounds.append(name)
        return helper.make_node("Slice", [tensor, *bounds], [output])

    def write_blocked(self, ports: Iterable[ValueInfoProto]) -> None:
        """Write these outputs blocked: whoever reads them plain reads a plain copy."""
        done: set[str] = set()
        for port in ports:
            plain, blocked = f"{port.name}.plain", self._blocked.get(port.name)
            self._rename({port.name: plain}, written=True)
            # neither an input nor another output can be this output, too
            if blocked is not None and blocked not in done and any(blocked in node.output for node in self.nodes):
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
    """Return whether a port is a feature that passes blocked: fp32 [frames, channels, height, width], channels in whole blocks."""
    shape = _shape(port)
    return (
        ".feature" in port.name
        and port.type.tensor_type.elem_type == TensorProto.FLOAT
        and len(shape) == 4
        and shape[1] % _LARGEST_BLOCK == 0
    )


def _shape(port: ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in port.type.tensor_type.shape.dim]


def _channels(node: NodeProto) -> int:
    return int(helper.get_node_attr_value(node, "channels"))


def _to_plain(blocked: str, plain: str, channels: int) -> NodeProto:
    return helper.make_node("ReorderOutput", [blocked], [plain], domain=_DOMAIN, channels=channels)
