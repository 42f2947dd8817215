"""The ports that a manifest declares, against its blocks, heads, states, classes and frames."""

from __future__ import annotations

from .manifest import Manifest, Stored, Subgraph, Variant
from .manifest_parts import NetworkPart
from .storage.strict_json import StrictJsonError
from .tensors import Dimension, DType, TensorSpec


def require(condition: bool, reason: str) -> None:
    """Raise ``StrictJsonError`` with ``reason`` unless the condition holds."""
    if not condition:
        raise StrictJsonError(reason)


def _states(subgraph: Subgraph, variant: Variant, prefix: tuple[str, str]) -> list[TensorSpec]:
    """Check that every state is a pair of ports of one name, shape and dtype, each once; return its input ports."""
    inputs, outputs = ({s.name: s for s in ports} for ports in (variant.inputs, variant.outputs))
    found = []
    for state in subgraph.states:
        name = f"{subgraph.name}: state {state.input} -> {state.output}"
        require(state.input in inputs and state.output in outputs, f"{name} has no port")
        read, written = inputs[state.input], outputs[state.output]
        same = (read.shape, read.dtype) == (written.shape, written.dtype)
        require(same, f"{name} reads {read.dtype} {list(read.shape)} but writes {written.dtype} {list(written.shape)}")
        point = state.input.removeprefix(prefix[0])
        fits = (state.input, state.output) == (prefix[0] + point, prefix[1] + point)
        require(fits, f"{name}, expected {prefix[0]}NAME -> {prefix[1]}NAME")
        found.append(read)
    require(len({s.name for s in found}) == len(found), f"{subgraph.name}: two states share a port")
    return found


def check_blocks(manifest: Manifest, network: NetworkPart, precision: Stored) -> None:
    """Check that every block reads what the one before hands on, and its own states.

    Raises:
        StrictJsonError: With the contradiction.
    """
    crop, shift = manifest.preprocessing.crop, network.shift
    blocks = [manifest.subgraph(name) for name in manifest.cells[0] if name is not None]
    halves = [precision == "fp16" and f"block{s.block}" not in manifest.fp32_only for s in blocks]
    front: tuple[Dimension, ...] = ("batch", manifest.frames)
    wanted: tuple[TensorSpec, ...] = (TensorSpec("frames", _dtype(halves[0]), (*front, 3, crop, crop)),)
    points: list[str] = []
    for block, half, next_half in zip(blocks, halves, [*halves[1:], halves[-1]], strict=True):
        variant = block.variants[precision]
        states = _states(block, variant, (f"state_in.{block.block}.", f"state_out.{block.block}."))
        for state in states:
            fits = len(state.shape) == 5 and state.shape[1] == shift.stride and state.dtype == _dtype(half)
            require(fits, f"{block.name}: state {state.name} is {state.dtype} {list(state.shape)}")
        points += [state.name.removeprefix("state_in.") for state in states]
        inside = len(variant.inputs) - len(states)
        require(
            variant.inputs[:inside] == wanted,
            f"{block.name}: it reads {_named(variant.inputs[:inside])}, expected {_named(wanted)} and its states",
        )
        wanted = variant.outputs[: len(variant.outputs) - len(states)]
        written = {state.output for state in block.states}
        require(bool(wanted) and not written & {s.name for s in wanted}, f"{block.name}: it hands on no features")
        for feature in wanted:
            fits = feature.shape[:2] == front and len(feature.shape) == 5
            fits = fits and feature.dtype == _dtype(half and next_half)
            require(fits, f"{block.name}: feature {feature.name} is {feature.dtype} {list(feature.shape)}")
    if manifest.static:  # its shift has no states
        return
    require(shift.enabled or not points, f"network: the shift is off, but there are states {', '.join(points[:3])}")
    require(not shift.enabled or shift.points is not None or bool(points), "network: the shift is on, but has no state")
    if shift.enabled and shift.points is not None:
        numbers = {str(block.block) for block in blocks}
        reached = [point for point in shift.points if point.split(".")[0] in numbers]
        require(
            sorted(reached) == sorted(points), f"network: shift points {reached[:3]}… are not the states {points[:3]}…"
        )


def check_heads(manifest: Manifest, precision: Stored) -> None:
    """Check that every head reads its block's last feature and the frames seen, and answers for every class.

    Raises:
        StrictJsonError: With the contradiction.
    """
    classes, frames = manifest.classes, manifest.grid.num_frames
    for head in (s for s in manifest.subgraphs if s.kind == "head"):
        block, variant = manifest.subgraph(manifest.cells[0][head.block] or ""), head.variants[precision]
        wanted, words = (0, "none") if manifest.static else (1, "one, of the frames seen")
        require(len(head.states) == wanted, f"{head.name}: {len(head.states)} states, expected {words}")
        states = _states(head, variant, (f"embeddings_in.{head.block}", f"embeddings_out.{head.block}"))
        width = states[0].shape[-1] if states else manifest.costs.answer_macs[head.block] // classes
        require(
            isinstance(width, int) and width * classes == manifest.costs.answer_macs[head.block],
            f"{head.name}: {width} channels for {classes} classes, but answer_macs "
            f"{manifest.costs.answer_macs[head.block]}",
        )
        handed = {s.output for s in block.states}
        features = [s for s in block.variants[precision].outputs if s.name not in handed]
        answers = tuple(TensorSpec(name, "float32", ("batch", classes)) for name in ("logits", "probabilities"))
        read = (
            features[-1],
            *(TensorSpec(state.name, "float32", ("batch", frames, width)) for state in states),
            TensorSpec("frame_weights", "float32", ("batch", 1, frames)),
        )
        written = (*answers, *(TensorSpec(s.output, "float32", ("batch", frames, width)) for s in head.states))
        for way, ports, expected in (("reads", variant.inputs, read), ("writes", variant.outputs, written)):
            require(ports == expected, f"{head.name}: it {way} {_named(ports)}, expected {_named(expected)}")


def _dtype(half: bool) -> DType:
    return "float16" if half else "float32"


def _named(ports: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{port.name} {port.dtype} {list(port.shape)}" for port in ports) or "nothing"
