"""The executor: all tensors of one video, and every call of its route prepared on them once.

A route is fixed, so which frames, features and states each call reads and writes is known before the first video:
nothing is allocated or copied between two calls. Memory is what the segments need, no more:

* a feature buffer holds the input sets that its block has computed and the next one has not read yet;
* a state is two tensors, read and written in turn (never one tensor for both), zeros at the start of a video;
* a head's state holds one embedding a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..grid.bundle import Bundle
from ..grid.errors import UsageError
from ..grid.manifest import Precision, Subgraph
from ..grid.route import Route, Span
from .backends.base import Backend, Call, Program, Value
from .composed import frame_weights


@dataclass(frozen=True, slots=True)
class PreparedSegment:
    """The calls of one segment.

    ``frames`` is where its new frames go, [1, frames, 3, crop, crop], for the positions ``[start, stop)`` of the
    permuted order; None where the segment reads no new frame. ``blocks`` makes the calls of ``spans`` as fast as the
    backend can. ``answers`` are the head's outputs, by port.
    """

    start: int
    stop: int
    frames: Value | None
    spans: tuple[Call, ...]
    blocks: Call
    head: Call
    answers: Mapping[str, Value]

    @property
    def logits(self) -> Value:
        """Of the checkpoint, [1, classes]."""
        return self.answers["logits"]

    @property
    def probabilities(self) -> Value:
        """Of the checkpoint, [1, classes]."""
        return self.answers["probabilities"]


class Executor:
    """Runs one video at a time along the bundle's route."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: Precision = "fp32",
        route: Route | None = None,
        load: Callable[[Subgraph], bytes] | None = None,
    ) -> None:
        """Load every subgraph that the route needs and prepare its calls.

        Args:
            bundle: the bundle.
            backend: what computes.
            precision: of the subgraphs.
            route: another route over the bundle's blocks and heads; None for the bundle's own.
            load: returns what the backend runs for a subgraph, where that is not its graph: an engine.

        Raises:
            UsageError: If the bundle has no subgraphs of ``precision``, or no head where ``route`` needs one.
            HashError, BackendError: If a subgraph has changed or does not load.
        """
        manifest = bundle.manifest
        bundle.require(precision)
        self.bundle = bundle
        self.backend = backend
        self.precision: Precision = precision
        self.route = route or manifest.route
        self._size = manifest.grid.frames_per_set
        self._subgraphs = _subgraphs_of(bundle, self.route)
        self._programs: dict[str, Program] = {}
        for subgraph in {s.name: s for s in self._subgraphs.values()}.values():
            variant = subgraph.variant(precision)
            content = bundle.read(variant) if load is None else load(subgraph)
            self._programs[subgraph.name] = backend.load(content, variant, subgraph.name, self._frames_of(subgraph))
        self._features = self._feature_buffers()
        self.states: dict[tuple[int, str], tuple[Value, Value]] = {}  # (block, input port) -> two tensors
        self._handed_on: set[tuple[int, str]] = set()
        self._zeros: dict[tuple[int, str], Value] = {}
        self._turn: dict[str, int] = {}  # last use of a subgraph's states, from 0; -1 at the border
        self.segments = tuple(self._prepare(k) for k in range(1, len(self.route.cells) + 1))

    def run_spans(self, segment: PreparedSegment) -> None:
        """Run the blocks of a segment, whose frames have been written."""
        segment.blocks()

    def answer(self, segment: PreparedSegment) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the head of a segment; return logits and probabilities, each [1, classes], valid until the next video."""
        segment.head()
        logits, probabilities = self.backend.fetch([segment.logits, segment.probabilities])
        return logits, probabilities

    def last_features(self, index: int) -> tuple[int, int, NDArray[np.generic]] | None:
        """Return what segment ``index`` (1-based) computed of the last block's last feature, after it has run.

        ``(start, stop, values)``: frames [start, stop) of the permuted order, [frames, channels, height, width]; None
        where the segment does not reach the last block.
        """
        block = max(self.route.head_blocks)
        start, stop = self.route.progress(index - 1, block), self.route.progress(index, block)
        if start == stop:
            return None
        feature = self._subgraphs["head", len(self.route.cells)].variant(self.precision).inputs[0].name
        values = self.backend.read(self._sets(feature, 0, stop - start))
        return start * self._size, stop * self._size, values[0]

    def handed_on(self) -> set[tuple[int, str]]:
        """Return the states that some call of this route reads after another has written them."""
        return set(self._handed_on)

    # preparation

    def _frames_of(self, subgraph: Subgraph) -> int | None:
        """Return the frames of every call of a block on this route; None where they differ, and for a head."""
        spans = (s for segment in self.route.segments for s in segment.spans if s.block == subgraph.block)
        lengths = {span.stop - span.start for span in spans}
        return lengths.pop() * self._size if subgraph.kind == "block" and len(lengths) == 1 else None

    def _feature_buffers(self) -> dict[str, Value]:
        """Return a tensor for every feature, long enough for the sets that wait for the next block."""
        buffers: dict[str, Value] = {}
        for block in range(max(self.route.head_blocks) + 1):
            variant = self._subgraphs["block", block].variant(self.precision)
            states = {state.output for state in self._subgraphs["block", block].states}
            segments = range(1, len(self.route.cells) + 1)
            sets = max(self.route.progress(k, block) - self._base(k, block) for k in segments)
            for spec in variant.outputs:
                if spec.name not in states:
                    buffers[spec.name] = self.backend.zeros(spec.concrete(1, sets * self._size), spec.dtype)
            if block == 0:
                spec = variant.inputs[0]
                sets = max(self.route.progress(k, 0) - self.route.progress(k - 1, 0) for k in segments)
                buffers[spec.name] = self.backend.zeros(spec.concrete(1, sets * self._size), spec.dtype)
        return buffers

    def _base(self, index: int, block: int) -> int:
        """Return the input set at the start of ``block``'s feature buffers during segment ``index``.

        Those before it have been read by the next block in an earlier segment. A block whose successor never runs
        keeps one segment's sets, for its head.
        """
        if block == max(self.route.head_blocks):
            return self.route.progress(index - 1, block)
        return self.route.progress(index - 1, block + 1)

    def _prepare(self, index: int) -> PreparedSegment:
        route, size = self.route, self._size
        start, stop = route.progress(index - 1, 0) * size, route.progress(index, 0) * size
        spans = tuple(self._prepare_span(index, span) for span in route.segments[index - 1].spans)
        frames_name = self._subgraphs["block", 0].variant(self.precision).inputs[0].name
        frames = None
        if stop > start:
            frames = self.backend.frames(self._features[frames_name], 0, stop - start)
        head, answers = self._prepare_head(index)
        record = self.backend.record
        return PreparedSegment(start, stop, frames, spans, record(spans), record([head]), answers)

    def _prepare_span(self, index: int, span: Span) -> Call:
        subgraph = self._subgraphs["block", span.block]
        variant = subgraph.variant(self.precision)
        if span.start == self.bundle.manifest.grid.border:
            self._turn[_owner(subgraph)] = -1  # zeros again
        inputs, outputs = self._states_of(subgraph)
        base_in = self.route.progress(index - 1, 0) if span.block == 0 else self._base(index, span.block - 1)
        for spec in variant.inputs:
            if spec.name not in inputs:
                inputs[spec.name] = self._sets(spec.name, span.start - base_in, span.stop - base_in)
        base_out = self._base(index, span.block)
        for spec in variant.outputs:
            if spec.name not in outputs:
                outputs[spec.name] = self._sets(spec.name, span.start - base_out, span.stop - base_out)
        return self._programs[subgraph.name].prepare(inputs, outputs)

    def _prepare_head(self, index: int) -> tuple[Call, Mapping[str, Value]]:
        subgraph = self._subgraphs["head", index]
        variant = subgraph.variant(self.precision)
        block, size = subgraph.block, self._size
        inputs, outputs = self._states_of(subgraph)
        base = self._base(index, block)
        feature, weights = variant.inputs[0], next(s for s in variant.inputs if s.name == "frame_weights")
        start, stop = self.route.embedded(index - 1, block), self.route.embedded(index, block)
        inputs[feature.name] = self._sets(feature.name, start - base, stop - base)
        inputs[weights.name] = self.backend.zeros(weights.concrete(1, 1), weights.dtype)
        self.backend.write(inputs[weights.name], frame_weights(stop * size, self.bundle.manifest.grid.num_frames))
        for spec in variant.outputs:
            if spec.name not in outputs:
                outputs[spec.name] = self.backend.zeros(spec.concrete(1, 1), spec.dtype)
        call = self._programs[subgraph.name].prepare(inputs, outputs)
        return call, outputs

    def _sets(self, name: str, start: int, stop: int) -> Value:
        return self.backend.frames(self._features[name], start * self._size, stop * self._size)

    def _states_of(self, subgraph: Subgraph) -> tuple[dict[str, Value], dict[str, Value]]:
        """Return the tensors that the next call of ``subgraph`` reads and writes its states in."""
        variant = subgraph.variant(self.precision)
        owner = _owner(subgraph)
        turn = self._turn[owner] = self._turn.get(owner, -1) + 1
        inputs: dict[str, Value] = {}
        outputs: dict[str, Value] = {}
        for state in subgraph.states:
            spec = next(s for s in variant.inputs if s.name == state.input)
            key = (subgraph.block, state.input)
            if key not in self.states:
                shape = spec.concrete(1, 1)
                self._zeros[key] = self.backend.zeros(shape, spec.dtype)
                self.states[key] = (self.backend.zeros(shape, spec.dtype), self.backend.zeros(shape, spec.dtype))
            pair = self.states[key]
            if turn > 0:
                self._handed_on.add(key)
            inputs[state.input] = self._zeros[key] if turn == 0 else pair[turn % 2]
            outputs[state.output] = pair[(turn + 1) % 2]
        return inputs, outputs


def _owner(subgraph: Subgraph) -> str:
    """Return whose states these are: the heads of one block hand the same embeddings on, whatever their linear layer."""
    return f"{subgraph.kind}{subgraph.block}"


def _subgraphs_of(bundle: Bundle, route: Route) -> Mapping[tuple[str, int], Subgraph]:
    """Return the subgraph of each block, and of the head at each checkpoint of ``route``."""
    manifest = bundle.manifest
    found: dict[tuple[str, int], Subgraph] = {}
    for block in range(max(route.head_blocks) + 1):
        name = manifest.cells[0][block]
        if name is None:
            raise UsageError(f"route reaches block {block}: bundle {str(bundle.root)!r} ends before it. Export again.")
        found["block", block] = manifest.subgraph(name)
    own = route.cells == manifest.route.cells
    for index, cell in enumerate(route.cells, 1):
        here = dict.fromkeys(
            name for name, c in zip(manifest.heads, manifest.route.cells, strict=True) if c.block == cell.block
        )
        if own:
            here = dict.fromkeys([manifest.heads[index - 1]])
        if len(here) != 1:
            raise UsageError(
                f"checkpoint {index} at {cell}: bundle {str(bundle.root)!r} has {len(here)} heads on that block, expected "
                "one. Export again with --route."
            )
        found["head", index] = manifest.subgraph(next(iter(here)))
    return found
