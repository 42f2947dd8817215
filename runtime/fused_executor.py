"""The fused executor: the bundle's route as one graph a segment, for several videos at once.

Every segment writes tensors of its own and reads those of the segments before it. So nothing is copied between two
segments, no tensor is both read and written, and a segment may be run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..grid.bundle import Bundle
from ..grid.errors import UsageError
from ..grid.fusion import FusedSegment, fused_segments
from ..grid.manifest import Precision
from ..grid.route import Route
from .backends.base import Backend, Call, Program, Value


@dataclass(frozen=True, slots=True)
class PreparedFusedSegment:
    """One segment and its tensors.

    Attributes:
        start: its new frames are ``[start, stop)`` of the permuted order.
        stop: see ``start``.
        frames: where they go, [batch, stop - start, 3, crop, crop]; None where the segment reads no new frame.
        call: runs the spans and the head.
        recorded: the same, as fast as the backend can.
        outputs: what it writes, by port.
    """

    start: int
    stop: int
    frames: Value | None
    call: Call
    recorded: Call
    outputs: Mapping[str, Value]


class FusedExecutor:
    """Runs ``batch`` videos at a time along a route."""

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: Precision,
        load: Callable[[FusedSegment], bytes],
        batch: int = 1,
        route: Route | None = None,
        heads: bool = True,
    ) -> None:
        """Load every segment and prepare its call.

        Args:
            bundle: the bundle.
            backend: what computes.
            precision: of the segments.
            load: returns what the backend runs for a segment: its ONNX model, or an engine.
            batch: videos at once.
            route: None: the bundle's own; else its full one, or another that ``fused_segments`` can fuse.
            heads: False: no segment answers, and ``answer`` must not be called; for measuring.

        Raises:
            UsageError: If the bundle has no subgraphs of ``precision``, or ``batch`` is less than 1.
            BackendError: If a segment does not load.
        """
        manifest = bundle.manifest
        bundle.require(precision)
        if batch < 1:
            raise UsageError(f"batch {batch}: expected at least 1 video")
        self.bundle = bundle
        self.backend = backend
        self.precision: Precision = precision
        self.batch = batch
        self.route = route or manifest.route
        fused = fused_segments(manifest, precision, self.route, heads)
        self._handed_on: dict[str, Value] = {}  # by name, what the segments so far have written last
        self.segments = tuple(map(self._prepare, fused, load_programs(backend, load, fused)))

    def run_spans(self, segment: PreparedFusedSegment) -> None:
        """Run a segment, whose frames have been written; its head runs with its spans."""
        segment.recorded()

    def answer(self, segment: PreparedFusedSegment) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities of a segment that has run, each [batch, classes], valid until it runs again."""
        logits, probabilities = self.backend.fetch([segment.outputs["logits"], segment.outputs["probabilities"]])
        return logits, probabilities

    def _prepare(self, segment: FusedSegment, program: Program) -> PreparedFusedSegment:
        inputs, outputs = {}, {}
        for spec in segment.inputs:
            if spec.name == "frames":
                inputs[spec.name] = self.backend.zeros(spec.concrete(self.batch, 1), spec.dtype)
            else:
                inputs[spec.name] = self._handed_on[spec.name.removeprefix("in.")]
        for spec in segment.outputs:
            outputs[spec.name] = self.backend.zeros(spec.concrete(self.batch, 1), spec.dtype)
            self._handed_on[spec.name.removeprefix("out.")] = outputs[spec.name]
        call = program.prepare(inputs, outputs)
        recorded = self.backend.record([call])
        return PreparedFusedSegment(segment.start, segment.stop, inputs.get("frames"), call, recorded, outputs)


def load_programs(
    backend: Backend, load: Callable[[FusedSegment], bytes], segments: Sequence[FusedSegment]
) -> list[Program]:
    """Return the program of each segment, in order.

    The last one is loaded first: it runs the most blocks. So the most memory is needed at once while there is the least of
    others, where a backend shares weights.

    Raises:
        BackendError: If a segment does not load.
    """
    return [backend.load(load(segment), segment, segment.name) for segment in reversed(segments)][::-1]
