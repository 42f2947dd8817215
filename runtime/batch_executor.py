"""The batch executor: one segment of the route at a time, for whichever videos come together there.

A call works on buffers of its own: before it the rows of its videos are copied there from the state store, after it what it
wrote is copied back. So videos can be batched anew at every checkpoint. A call for one video works on its row of the store
itself, where the backend can prepare a call for each row. A call that fails leaves the state of its videos as it was.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..grid.bundle import Bundle
from ..grid.errors import UsageError
from ..grid.fusion import FusedSegment, fused_segments
from ..grid.manifest import Precision
from ..grid.route import Route
from ..grid.tensors import TensorSpec
from .backends.base import Backend, Call, Program, Value
from .call_times import Cost
from .composed import compose
from .fused_executor import load_programs
from .slots import Slot
from .state_store import Key, Kind, StateStore, kind_of

Floats = NDArray[np.float32]

_TIMED_CALLS = 3


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The call of one segment for one number of rows, and the parts of the buffers that it works on."""

    rows: int
    call: Call
    frames: Value | None
    inputs: Mapping[Key, Value]  # to copy to before it; empty where it works on the store
    outputs: Mapping[Key, Value]  # and from after it
    answers: tuple[Value, Value]


class BatchExecutor:
    """Runs segments of the bundle's route for videos in the state store.

    Args:
        bundle: the bundle.
        backend: what computes.
        precision: of the segments.
        load: returns what the backend runs for a segment: its ONNX model, or an engine; None: the bundle's cells.
        slots: most videos in flight.
        buckets: of each segment, ascending numbers of rows that calls have; a batch between two is padded to the larger.
        route: over the bundle's blocks and heads; None: the bundle's own.

    Attributes:
        bundle, backend, precision, buckets: as given.
        route: that is run.
        segments: of the route, in order.
        is_fused: whether a segment is one graph or engine, not cells.
        store: the state store.
        frames_s, copies_s, calls_s: seconds on the host so far; writing frames, copying from and to the store, and making
            calls until their answers are on the host. On a GPU copies wait for their turn and count as calls.

    Raises:
        UsageError: If the bundle has no subgraphs of ``precision``, or ``slots`` or ``buckets`` are not usable.
        BackendError: If a segment does not load.
        ResourceError: If the backend has no memory for the tensors.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: Precision,
        load: Callable[[FusedSegment], bytes] | None,
        slots: int,
        buckets: Sequence[Sequence[int]],
        route: Route | None = None,
    ) -> None:
        manifest = bundle.manifest
        bundle.require(precision)
        self.bundle = bundle
        self.backend = backend
        self.precision: Precision = precision
        self.route = route or manifest.route
        self.segments = fused_segments(manifest, precision, self.route)
        self.is_fused = load is not None
        self.buckets = tuple(map(tuple, buckets))
        if len(self.buckets) != len(self.segments):
            raise UsageError(f"buckets of {len(self.buckets)} segments: expected {len(self.segments)}, one list each")
        for index, sizes in enumerate(self.buckets, 1):
            if not sizes or sizes[0] < 1 or any(b <= a for a, b in pairwise(sizes)):
                raise UsageError(f"buckets {list(sizes)} of segment {index}: expected ascending numbers, at least 1")
        self.store = StateStore(backend, self.segments, slots)
        self.frames_s = self.copies_s = self.calls_s = 0.0
        self._programs: Sequence[Program] = (
            compose(bundle, backend, precision, self.route, self.segments)
            if load is None
            else load_programs(backend, load, self.segments)
        )
        self._inputs = self._buffers([segment.inputs for segment in self.segments])
        self._outputs = self._buffers([segment.outputs for segment in self.segments])
        largest = max(sizes[-1] for sizes in self.buckets)
        shapes = {kind[1] for kind in self._inputs if kind[0] == "frames"}
        self._staged = {shape: np.zeros((largest, *shape), np.float32) for shape in shapes}  # on the host
        self._prepared: dict[tuple[int, int], _Prepared] = {}
        self._on_row: dict[tuple[int, int], _Prepared | None] = {}

    def run(self, index: int, slots: Sequence[Slot], frames: Sequence[Floats] | None) -> tuple[Floats, Floats]:
        """Run one segment for some videos; return logits and probabilities, each [videos, classes].

        Args:
            index: of the segment, 1-based.
            slots: of the videos, each of which has run the segments before.
            frames: the segment's new ones of each video, [frames, 3, crop, crop] in permuted order; None where it reads none.

        Raises:
            SlotError: If a slot is not held, or given twice.
            UsageError: If there are more videos than the largest bucket holds, or none, or the frames do not fit.
            BackendError: If the call fails; the videos' state is as it was.
        """
        rows = self.store.rows(slots)
        prepared = self._prepare_for(index, rows)
        padding = prepared.rows - len(rows)
        started = time.perf_counter()
        self._write_frames(index, prepared, frames, len(rows))
        written = time.perf_counter()
        self.store.gather([*rows, *rows[:1] * padding], prepared.inputs)
        self.store.writing(self.store.writes[index - 1].values(), rows)
        gathered = time.perf_counter()
        prepared.call()
        logits, probabilities = (answer[: len(rows)].copy() for answer in self.backend.fetch(prepared.answers))
        answered = time.perf_counter()
        self.store.scatter(prepared.outputs, rows)
        self.frames_s += written - started
        self.calls_s += answered - gathered
        self.copies_s += gathered - written + time.perf_counter() - answered
        return logits, probabilities

    def time_call(self, index: int, rows: int) -> float:
        """Return the seconds of one call of segment ``index`` with ``rows`` rows, one of its buckets; a median of three."""
        self.time_once(index, rows)
        return statistics.median(self.time_once(index, rows) for _ in range(_TIMED_CALLS))

    def time_once(self, index: int, rows: int) -> float:
        """Return the seconds of one call, until its answers are on the host; its frames and states are those before."""
        prepared = self._prepare(index, rows)
        started = time.perf_counter()
        prepared.call()
        self.backend.fetch(prepared.answers)
        return time.perf_counter() - started

    def measured_cost(self) -> Cost:
        """Return t_k(n), measured at the least and the largest bucket of each segment and on a straight line between."""
        ends = [
            (sizes[0], self.time_call(k, sizes[0]), sizes[-1], self.time_call(k, sizes[-1]))
            for k, sizes in enumerate(self.buckets, 1)
        ]

        def cost(index: int, rows: int) -> float:
            least, least_s, largest, largest_s = ends[index - 1]
            return least_s + (max(largest_s, least_s) - least_s) * (rows - least) / max(1, largest - least)

        return cost

    def _bucket(self, index: int, videos: int) -> int:
        sizes = self.buckets[index - 1]
        if not 1 <= videos <= sizes[-1]:
            raise UsageError(f"{videos} videos in a call of segment {index}: expected 1 to {sizes[-1]}")
        return sizes[bisect_left(sizes, videos)]

    def _write_frames(self, index: int, prepared: _Prepared, frames: Sequence[Floats] | None, videos: int) -> None:
        wanted = None if prepared.frames is None else [prepared.frames.shape[1:]] * videos
        found = None if frames is None else [video.shape for video in frames]
        if found != wanted:
            raise UsageError(f"frames {found} for {videos} videos in segment {index}: expected {wanted}")
        if frames is not None and prepared.rows == 1:
            self.backend.write(prepared.frames, frames[0][None])
        elif frames is not None:
            staged = self._staged[frames[0].shape][: prepared.rows]
            for row in range(prepared.rows):
                staged[row] = frames[row if row < videos else 0]
            self.backend.write(prepared.frames, staged)

    def _prepare_for(self, index: int, rows: Sequence[int]) -> _Prepared:
        """Return the call of a segment for these rows: on the store itself for one row, where that can be, else on buffers."""
        size = self._bucket(index, len(rows))
        if size > 1:
            return self._prepare(index, size)
        place = (index, rows[0])
        if place not in self._on_row:
            values = self.store.row(index, rows[0])
            self._on_row[place] = None if values is None else self._bind(index, *values)
        return self._on_row[place] or self._prepare(index, 1)

    def _bind(self, index: int, reads: Mapping[str, Value], writes: Mapping[str, Value]) -> _Prepared:
        """Return the call of a segment for one row on tensors of the store, by port."""
        segment = self.segments[index - 1]
        inputs = {s.name: self.backend.rows(self._inputs[kind_of(s)], 1) for s in segment.inputs if s.name not in reads}
        outputs = {
            s.name: self.backend.rows(self._outputs[kind_of(s)], 1) for s in segment.outputs if s.name not in writes
        }
        call = self.backend.record([self._programs[index - 1].prepare({**inputs, **reads}, {**outputs, **writes})])
        return _Prepared(1, call, inputs.get("frames"), {}, {}, (outputs["logits"], outputs["probabilities"]))

    def _prepare(self, index: int, rows: int) -> _Prepared:
        """Return the call of a segment for so many rows, prepared once."""
        if (index, rows) not in self._prepared:
            segment = self.segments[index - 1]
            inputs = {s.name: self.backend.rows(self._inputs[kind_of(s)], rows) for s in segment.inputs}
            outputs = {s.name: self.backend.rows(self._outputs[kind_of(s)], rows) for s in segment.outputs}
            reads, writes = self.store.reads[index - 1], self.store.writes[index - 1]
            call = self.backend.record([self._programs[index - 1].prepare(inputs, outputs)])
            self._prepared[index, rows] = _Prepared(
                rows,
                call,
                inputs.get("frames"),
                {key: inputs[port] for port, key in reads.items()},
                {key: outputs[port] for port, key in writes.items()},
                (outputs["logits"], outputs["probabilities"]),
            )
        return self._prepared[index, rows]

    def _buffers(self, ports: Sequence[Sequence[TensorSpec]]) -> dict[Kind, Value]:
        """Return a tensor for each kind of port, with rows for the largest bucket of a segment that has it."""
        rows: dict[Kind, int] = {}
        for specs, sizes in zip(ports, self.buckets, strict=True):
            for spec in specs:
                rows[kind_of(spec)] = max(rows.get(kind_of(spec), 0), sizes[-1])
        return {kind: self.backend.zeros((count, *kind[1]), kind[2]) for kind, count in rows.items()}
