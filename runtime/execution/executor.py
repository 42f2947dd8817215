"""The executor runs one segment of a route at a time, for any group of videos that have reached it.

A segment is run by a program: fused (one graph or engine per segment) or composed of the bundle's cells.

A call works on its own buffers. Before it, the rows of its videos are copied there from the state store; after it,
the outputs are copied back. So videos can be rebatched at every checkpoint. A call for one video works on its row of
the store directly, if the backend can prepare a call for each row. A call that fails leaves its videos' state
unchanged.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...grid.bundle import Bundle
from ...grid.errors import UsageError
from ...grid.manifest import Precision
from ...grid.route import Route
from ...grid.segments import FusedSegment, fused_segments
from ...grid.tensors import TensorSpec
from ..backends.base import Backend, Call, Program, Value
from ..scheduling.batch_cost import Cost
from ..scheduling.slots import Slot, SlotError
from ..video.frames import FrameSource
from .composed import CELLS, Cells, ComposedProgram, compose
from .state_store import Key, Kind, StateStore, kind_of

Floats = NDArray[np.float32]

_TIMED_CALLS = 3


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The call of one segment for one number of rows, and its views of the buffers."""

    rows: int
    call: Call
    frames: Value | None
    inputs: Mapping[Key, Value]  # to copy to before the call; empty if it works on the store
    outputs: Mapping[Key, Value]  # to copy from after the call
    answers: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """The results of videos that walk a route together, at one checkpoint.

    Attributes:
        index: of the checkpoint and its segment, 1-based.
        slots: of the videos.
        frames: frames read for the segment, of each video [frames, 3, crop, crop] in permuted order; empty if it
            needs none.
        logits: [videos, classes], and ``probabilities``; without heads [videos, 0].
        compute_ms: compute time of the segment, from when its frames are written until its answers are on the host.
    """

    index: int
    slots: tuple[Slot, ...]
    frames: list[Floats]
    logits: Floats
    probabilities: Floats
    compute_ms: float


class Executor:
    """Runs segments of a route for videos in the state store.

    Args:
        bundle: the bundle.
        backend: the backend.
        precision: of the segments.
        programs: what the backend runs: a function that returns a segment's ONNX model or engine, or the bundle's
            cells.
        slots: most videos in flight.
        buckets: of each segment, the ascending numbers of rows of its calls; other batch sizes are padded to the next
            larger one. None: one video per call.
        route: over the bundle's blocks and heads; None: the bundle's own.
        heads: False: no segment answers; for measuring.

    Attributes:
        bundle, backend, precision, buckets: as given.
        route: the route that is run.
        segments: of the route, in order.
        is_fused: whether each segment is one graph or engine instead of cells.
        store: the state store.
        frames_s, copies_s, calls_s: seconds on the host so far for writing frames, for copies from and to the store,
            and for calls until their answers are on the host. On a GPU, copies are queued and count as calls.

    Raises:
        UsageError: If the bundle has no subgraphs of ``precision``, or ``slots`` or ``buckets`` are invalid.
        BackendError: If a segment does not load.
        ResourceError: If the backend has no memory for the tensors.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: Precision = "fp32",
        programs: Callable[[FusedSegment], bytes] | Cells = CELLS,
        slots: int = 1,
        buckets: Sequence[Sequence[int]] | None = None,
        route: Route | None = None,
        heads: bool = True,
    ) -> None:
        manifest = bundle.manifest
        bundle.require(precision)
        self.bundle = bundle
        self.backend = backend
        self.precision: Precision = precision
        self.route = route or manifest.route
        self.segments = fused_segments(manifest, precision, self.route, heads)
        self.is_fused = not isinstance(programs, Cells)
        self.buckets = tuple(map(tuple, [[1]] * len(self.segments) if buckets is None else buckets))
        if len(self.buckets) != len(self.segments):
            raise UsageError(
                f"buckets of {len(self.buckets)} segments: expected {len(self.segments)} lists, one per segment"
            )
        for index, sizes in enumerate(self.buckets, 1):
            if not sizes or sizes[0] < 1 or any(b <= a for a, b in pairwise(sizes)):
                raise UsageError(f"buckets {list(sizes)} of segment {index}: expected ascending numbers, at least 1")
        self.store = StateStore(backend, self.segments, slots)
        self.frames_s = self.copies_s = self.calls_s = 0.0
        self._programs: Sequence[Program] = (
            compose(bundle, backend, precision, self.route, self.segments, programs)
            if isinstance(programs, Cells)
            else _load(backend, programs, self.segments)
        )
        self._inputs = self._buffers([segment.inputs for segment in self.segments])
        self._outputs = self._buffers([segment.outputs for segment in self.segments])
        largest = max(sizes[-1] for sizes in self.buckets)
        shapes = {kind[1] for kind in self._inputs if kind[0] == "frames"}
        self._staged = {shape: np.zeros((largest, *shape), np.float32) for shape in shapes}  # on the host
        self._prepared: dict[tuple[int, int], _Prepared] = {}
        self._on_row: dict[tuple[int, int], _Prepared | None] = {}

    def walk(self, sources: Sequence[FrameSource]) -> Generator[CheckpointResult]:
        """Run videos together along the route; yield their results at each checkpoint.

        Frames are read segment by segment. Close the generator to stop early; the videos' slots are then free again.

        Raises:
            SlotError: If there are not enough slots.
            VideoError: If a frame that is needed cannot be decoded.
            BackendError: If a call fails.
        """
        slots: list[Slot] = []
        order = self.bundle.manifest.grid.frame_order
        try:
            for _ in sources:
                slot = self.store.slots.acquire()
                if slot is None:
                    raise SlotError(f"{len(sources)} videos: expected at most {self.store.slots.count}, one per slot")
                slots.append(slot)
            for index, segment in enumerate(self.segments, 1):
                samples = order[segment.start : segment.stop]
                frames = [source.read(samples) for source in sources] if samples else []
                started, written_s = time.perf_counter(), self.frames_s
                answers = self.run(index, slots, frames or None)
                seconds = time.perf_counter() - started - (self.frames_s - written_s)
                yield CheckpointResult(index, tuple(slots), frames, *answers, seconds * 1e3)
        finally:
            for slot in slots:
                self.store.slots.release(slot)

    def tap(self, index: int, port: str) -> NDArray[np.generic] | None:
        """Return what a cell wrote to ``port`` when segment ``index`` (1-based) last ran, for one video: [1, ...].

        Of features it returns only those of the segment's new frames, [1, frames, ...]. None if the segment does not
        run that cell.

        Raises:
            UsageError: If segments are fused: only their ports can be seen.
        """
        program = self._programs[index - 1]
        if not isinstance(program, ComposedProgram):
            raise UsageError(f"port {port!r} lies inside a fused segment: expected an executor of the bundle's cells")
        value = program.tap(port)
        return None if value is None else self.backend.read(value)

    def run(self, index: int, slots: Sequence[Slot], frames: Sequence[Floats] | None) -> tuple[Floats, Floats]:
        """Run one segment for some videos; return logits and probabilities, each [videos, classes].

        Args:
            index: of the segment, 1-based.
            slots: of the videos, which have run all earlier segments.
            frames: the segment's new frames of each video, [frames, 3, crop, crop] in permuted order; None if it
                reads none.

        Raises:
            SlotError: If a slot is not held, or given twice.
            UsageError: If there are no videos or more than the largest bucket holds, or the frames do not fit.
            BackendError: If the call fails; the videos' state is then unchanged.
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
        answers = [answer[: len(rows)].copy() for answer in self.backend.fetch(prepared.answers)]
        answered = time.perf_counter()
        self.store.scatter(prepared.outputs, rows)
        self.frames_s += written - started
        self.calls_s += answered - gathered
        self.copies_s += gathered - written + time.perf_counter() - answered
        if self.segments[index - 1].head is None:
            return np.empty((len(rows), 0), np.float32), np.empty((len(rows), 0), np.float32)
        return answers[0], answers[1]

    def time_call(self, index: int, rows: int) -> float:
        """Return the median seconds of three calls of segment ``index`` with ``rows`` rows, one of its buckets."""
        self.time_once(index, rows)
        return statistics.median(self.time_once(index, rows) for _ in range(_TIMED_CALLS))

    def time_once(self, index: int, rows: int) -> float:
        """Return the seconds of one call, until its answers are on the host; it reuses the last frames and states."""
        prepared = self._prepare(index, rows)
        started = time.perf_counter()
        prepared.call()
        self.backend.fetch(prepared.answers)
        return time.perf_counter() - started

    def measured_cost(self) -> Cost:
        """Return t_k(n), measured at the smallest and the largest bucket of each segment and linear in between."""
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
        """Return the call of a segment for these rows: for one row on the store itself if possible, else on buffers."""
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
        return _Prepared(1, call, inputs.get("frames"), {}, {}, _answers(outputs))

    def _prepare(self, index: int, rows: int) -> _Prepared:
        """Return the call of a segment for this number of rows, prepared once."""
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
                _answers(outputs),
            )
        return self._prepared[index, rows]

    def _buffers(self, ports: Sequence[Sequence[TensorSpec]]) -> dict[Kind, Value]:
        """Return a tensor for each kind of port, with enough rows for the largest bucket of any segment that has it."""
        rows: dict[Kind, int] = {}
        for specs, sizes in zip(ports, self.buckets, strict=True):
            for spec in specs:
                rows[kind_of(spec)] = max(rows.get(kind_of(spec), 0), sizes[-1])
        return {kind: self.backend.zeros((count, *kind[1]), kind[2]) for kind, count in rows.items()}


def _answers(outputs: Mapping[str, Value]) -> tuple[Value, ...]:
    """Return the outputs to wait for: the answers, or without a head the features, if there are any."""
    return tuple(outputs[port] for port in ("logits", "probabilities", "features") if port in outputs)


def _load(backend: Backend, load: Callable[[FusedSegment], bytes], segments: Sequence[FusedSegment]) -> list[Program]:
    """Return the program of each segment, in order.

    Load the last segment first, since it runs the most blocks: its memory peak comes while nothing else is loaded. This
    matters if a backend shares weights.
    """
    return [backend.load(load(segment), segment, segment.name) for segment in reversed(segments)][::-1]
