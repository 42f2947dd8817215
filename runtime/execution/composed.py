"""Composed programs: a segment run as the bundle's own cells, span by span, with the ports of the fused segment.

Spans of one call exchange data through buffers that all segments and videos share, because calls run one after another.
Data that outlives the call goes through the segment's ports, as in a fused graph. A program handles one video per call;
several rows are computed in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...grid.bundle import Bundle
from ...grid.errors import BackendError
from ...grid.manifest import Precision, Subgraph
from ...grid.route import Route, Span
from ...grid.segments import FusedSegment, block_of, embeddings_name, feature_name, features_of, head_at, state_name
from ...grid.tensors import DType
from ..backends.base import Backend, Call, Program, Value, in_turn

Values = Mapping[str, Value]


@dataclass(frozen=True)
class Cells:
    """How the bundle's cells are loaded.

    Attributes:
        load: returns what the backend runs for a subgraph; None: its own graph.
        specialised: let the backend compile a block for a fixed number of frames, if all its spans on the route have
            the same number. Such a block may round differently from one for any number.
    """

    load: Callable[[Subgraph], bytes] | None = None
    specialised: bool = True


CELLS = Cells()
"""The bundle's own graphs, specialised for speed."""


def compose(
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    route: Route,
    segments: Sequence[FusedSegment],
    cells: Cells = CELLS,
) -> list[ComposedProgram]:
    """Return the program of each segment, composed of the bundle's cells.

    Args:
        bundle: the bundle.
        backend: the backend.
        precision: of the subgraphs.
        route: the route of the segments.
        segments: the programs have the ports of these.
        cells: how the cells are loaded.

    Raises:
        HashError, BackendError: If a subgraph has changed or does not load.
    """
    loaded = _LoadedCells(bundle, backend, precision, route, cells)
    loaded.load_all(segments)
    return [ComposedProgram(loaded, segment) for segment in segments]


class ComposedProgram:
    """One segment of a route; see ``Program``."""

    def __init__(self, cells: _LoadedCells, segment: FusedSegment) -> None:
        self._cells, self._segment = cells, segment
        self._taps: dict[str, Value] = {}

    def prepare(self, inputs: Values, outputs: Values) -> Call:
        """Return a call on these tensors [rows, ...], by port, that computes their rows in turn.

        Raises:
            BackendError: If there are several rows and the backend has no views of single rows.
        """
        rows = next(iter(outputs.values())).shape[0]
        if rows == 1:
            return self._cells.call(self._segment, inputs, outputs, self._taps)
        calls = []
        for row in range(rows):
            own = [{port: self._cells.backend.row(v, row) for port, v in ports.items()} for ports in (inputs, outputs)]
            if any(value is None for ports in own for value in ports.values()):
                raise BackendError(
                    f"backend {self._cells.backend.name!r} runs cells for one video per call, not for {rows}: "
                    "build engines, or leave --batch out"
                )
            calls.append(self._cells.call(self._segment, own[0], own[1], self._taps))
        return in_turn(calls)

    def tap(self, port: str) -> Value | None:
        """Return what a cell's output ``port`` holds after the call that was prepared last; None if no such cell runs.

        Of features [1, frames, ...] it returns only the new frames. Other segments and calls write to the same tensor.
        """
        return self._taps.get(port)


@dataclass
class _LoadedCells:
    """The loaded subgraphs of a route, and the buffers that their calls share."""

    bundle: Bundle
    backend: Backend
    precision: Precision
    route: Route
    cells: Cells
    _programs: dict[str, Program] = field(default_factory=dict)
    _scratch: dict[tuple[str, tuple[int, ...]], Value] = field(default_factory=dict)  # by name and shape
    _zeros: dict[tuple[str, tuple[int, ...]], Value] = field(default_factory=dict)
    _weights: dict[int, Value] = field(default_factory=dict)  # by frames seen

    def call(self, segment: FusedSegment, inputs: Values, outputs: Values, taps: dict[str, Value]) -> Call:
        """Return the calls of one segment for one video, in order; fill ``taps`` with its inner outputs, by port."""
        k, size, calls = segment.index, self.bundle.manifest.grid.frames_per_set, list[Call]()
        before: dict[str, Value] = {}  # features of the previous block: all sets that it has for the next one
        base = self.route.progress(k - 1, 0)  # the first of these sets
        if segment.start < segment.stop:
            before = {block_of(self.bundle.manifest, 0).variant(self.precision).inputs[0].name: inputs["frames"]}
        for block in range(self.route.cells[k - 1].block + 1):
            subgraph = block_of(self.bundle.manifest, block)
            spans = [span for span in segment.spans if span.block == block]
            own, own_base, waiting = self._features(segment, subgraph, inputs, outputs)
            for port, value in waiting.items():
                front = self.backend.frames(own[port], 0, value.shape[1])
                calls.append(self._copy(value, front))
            states: dict[str, Value] = {}  # of the last span, by the port that reads them
            reads = {spec.name for spec in subgraph.variant(self.precision).inputs}
            before = {name: value for name, value in before.items() if name in reads}
            for place, span in enumerate(spans):
                read = {name: self._sets(v, span.start - base, span.stop - base) for name, v in before.items()}
                written = {name: self._sets(v, span.start - own_base, span.stop - own_base) for name, v in own.items()}
                came, states = self._states(segment, subgraph, span, states, inputs, outputs, place == len(spans) - 1)
                handed = {state.output: states[state.input] for state in subgraph.states}
                calls.append(self._program(subgraph).prepare({**read, **came}, {**written, **handed}))
            new = sum(span.stop - span.start for span in spans)
            if new:
                last = {name: self._sets(v, v.shape[1] // size - new, v.shape[1] // size) for name, v in own.items()}
                taps |= last
            if block == self.route.cells[k - 1].block and segment.head is not None:
                calls.append(self._head(segment, last, inputs, outputs, taps))
            before, base = own, own_base
        return in_turn(calls)

    def _features(
        self, segment: FusedSegment, block: Subgraph, inputs: Values, outputs: Values
    ) -> tuple[dict[str, Value], int, dict[str, Value]]:
        """Return the tensors of a block's features, the first input set in them, and what to copy to their front.

        They hold the sets that waited for the next block, which came with ``inputs``, and those computed now. They go
        to ``outputs`` if the next block has not begun; otherwise no later segment reads them.
        """
        k, size = segment.index, self.bundle.manifest.grid.frames_per_set
        found: dict[str, Value] = {}
        waiting: dict[str, Value] = {}
        start, stop = self.route.progress(k - 1, block.block), self.route.progress(k, block.block)
        shown = None  # the feature that a segment without a head outputs
        if "features" in outputs and block.block == max(self.route.head_blocks):
            shown = head_at(self.bundle.manifest, self.route, k).variant(self.precision).inputs[0].name
        for spec in features_of(block, self.precision):
            read, written = inputs.get(f"in.{feature_name(spec)}"), outputs.get(f"out.{feature_name(spec)}")
            if spec.name == shown:
                written = outputs["features"]
            base = start if read is None else start - read.shape[1] // size
            if start == stop and read is not None:  # nothing new
                found[spec.name] = read
                continue
            if written is None:
                buffer = self._shared(spec.name, spec.concrete(1, self._most_sets(block.block) * size), spec.dtype)
                found[spec.name] = self.backend.frames(buffer, 0, (stop - base) * size)
            else:
                found[spec.name] = written
            if read is not None:
                waiting[spec.name] = read
        return found, base, waiting

    def _states(
        self,
        segment: FusedSegment,
        block: Subgraph,
        span: Span,
        states: Values,
        inputs: Values,
        outputs: Values,
        is_last: bool,
    ) -> tuple[dict[str, Value], dict[str, Value]]:
        """Return the states that a span reads and the tensors that it writes them to, both by the reading port."""
        read: dict[str, Value] = {}
        written: dict[str, Value] = {}
        specs = {spec.name: spec for spec in block.variant(self.precision).inputs}
        for state in block.states:
            name, spec = state_name(block.block, state.input), specs[state.input]
            shape = spec.concrete(1, 1)
            begins = span.start in (0, self.bundle.manifest.grid.border)
            if begins:
                read[state.input] = self._nothing(name, shape, spec.dtype)
            else:
                read[state.input] = states[state.input] if states else inputs[f"in.{name}"]
            port = f"out.{name}"
            is_handed_on = is_last and port in outputs
            turn = f"{name}.{span.start}"  # two spans in one call write to separate tensors
            written[state.input] = outputs[port] if is_handed_on else self._shared(turn, shape, spec.dtype)
        return read, written

    def _head(
        self, segment: FusedSegment, features: Values, inputs: Values, outputs: Values, taps: dict[str, Value]
    ) -> Call:
        """Return the call of the head that answers at a segment's checkpoint, on the features that are new to it."""
        assert segment.head is not None
        head, grid = self.bundle.manifest.subgraph(segment.head), self.bundle.manifest.grid
        variant, specs = head.variant(self.precision), {s.name: s for s in head.variant(self.precision).inputs}
        feature, weights = variant.inputs[0], specs["frame_weights"]
        seen = self.route.embedded(segment.index, head.block) * grid.frames_per_set
        if seen not in self._weights:
            self._weights[seen] = self.backend.zeros(weights.concrete(1, 1), weights.dtype)
            self.backend.write(self._weights[seen], frame_weights(seen, grid.num_frames))
        came: dict[str, Value] = {}  # the embeddings of the frames seen before; a static network has none
        handed: dict[str, Value] = {}
        for state in head.states:
            spec, name = specs[state.input], embeddings_name(head.block)
            shape = spec.concrete(1, 1)
            read, written = inputs.get(f"in.{name}"), outputs.get(f"out.{name}")
            came[state.input] = self._nothing(name, shape, spec.dtype) if read is None else read
            handed[state.output] = self._shared(name, shape, spec.dtype) if written is None else written
        inside = {s.name: s for s in variant.outputs if s.name not in ("logits", "probabilities", *handed)}
        taps |= {name: self._shared(name, spec.concrete(1, 1), spec.dtype) for name, spec in inside.items()}
        return self._program(head).prepare(
            {feature.name: features[feature.name], **came, weights.name: self._weights[seen]},
            {
                "logits": outputs["logits"],
                "probabilities": outputs["probabilities"],
                **handed,
                **{port: taps[port] for port in inside},
            },
        )

    def load_all(self, segments: Sequence[FusedSegment]) -> None:
        """Load every block and head that the segments need."""
        for block in range(max(self.route.head_blocks) + 1):
            self._program(block_of(self.bundle.manifest, block))
        for segment in segments:
            if segment.head is not None:
                self._program(self.bundle.manifest.subgraph(segment.head))

    def _program(self, subgraph: Subgraph) -> Program:
        if subgraph.name not in self._programs:
            variant, frames = subgraph.variant(self.precision), None
            if self.cells.specialised and subgraph.kind == "block":
                spans = [s for segment in self.route.segments for s in segment.spans if s.block == subgraph.block]
                lengths = {(span.stop - span.start) * self.bundle.manifest.grid.frames_per_set for span in spans}
                frames = lengths.pop() if len(lengths) == 1 else None
            content = self.bundle.read(variant) if self.cells.load is None else self.cells.load(subgraph)
            self._programs[subgraph.name] = self.backend.load(content, variant, subgraph.name, frames)
        return self._programs[subgraph.name]

    def _most_sets(self, block: int) -> int:
        """Return the largest number of input sets of a block's features that any segment holds."""
        after = min(block + 1, max(self.route.head_blocks))
        return max(
            self.route.progress(k, block) - self.route.progress(k - 1, after)
            for k in range(1, len(self.route.cells) + 1)
        )

    def _sets(self, value: Value, start: int, stop: int) -> Value:
        size = self.bundle.manifest.grid.frames_per_set
        return self.backend.frames(value, start * size, stop * size)

    def _copy(self, value: Value, to: Value) -> Call:
        return lambda: self.backend.take(value, [0], to)

    def _shared(self, name: str, shape: tuple[int, ...], dtype: DType) -> Value:
        """Return the buffer of this name and shape, with arbitrary contents."""
        if (name, shape) not in self._scratch:
            self._scratch[name, shape] = self.backend.zeros(shape, dtype)
        return self._scratch[name, shape]

    def _nothing(self, name: str, shape: tuple[int, ...], dtype: DType) -> Value:
        """Return zeros that are never written to."""
        if (name, shape) not in self._zeros:
            self._zeros[name, shape] = self.backend.zeros(shape, dtype)
        return self._zeros[name, shape]


def frame_weights(seen: int, num_frames: int) -> NDArray[np.float32]:
    """Return [1, 1, l]: 1/seen in the last ``seen`` places, where a head's state holds the frames seen; 0 elsewhere."""
    weights = np.zeros((1, 1, num_frames), np.float32)
    weights[..., num_frames - seen :] = 1.0 / seen
    return weights
