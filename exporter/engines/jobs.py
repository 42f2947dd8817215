"""The engines that a bundle needs: one per subgraph of its route, one per fused segment, and one for ``full``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...calibration.choosing.thresholds import exit_quotas
from ...grid.bundle import Bundle
from ...grid.engines.key import Profile
from ...grid.errors import CensusError, UsageError
from ...grid.manifest import Manifest, Precision, Subgraph, Variant
from ...grid.segments import FUSION, FusedSegment, fused_full, fused_segments
from ...grid.tensors import DType, TensorSpec

EXPECTED_Q = 1.2  # the paper's exit distribution, if no other is known
ANY_BATCH = Profile((1, 1, 4096), None)
"""For graphs that take any number of videos. Optimised for one: on a CPU, more gain nothing (docs/lab/engines.md)."""


@dataclass(frozen=True)
class EngineJob:
    """One engine to build. It has the ports of its graph.

    Attributes:
        name: of the subgraph or fused segment.
        source: what its graph is made from.
        profiles: shapes to build for; the first is for one video at a time.
        parts: its subgraphs, each with the dtype that its convolutions compute in.
        states: pairs of ports, (input, output), that hand a state from one call to the next.
    """

    name: str
    source: Variant | FusedSegment
    profiles: tuple[Profile, ...]
    parts: tuple[tuple[str, DType], ...]
    states: tuple[tuple[str, str], ...]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a call reads."""
        return self.source.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a call writes."""
        return self.source.outputs

    @property
    def fusion(self) -> int:
        """Version of the fused graphs; 0 for a plain subgraph."""
        return FUSION if isinstance(self.source, FusedSegment) else 0


def jobs(
    bundle: Bundle, precision: Precision, max_batch: int = 1, expected: Sequence[int] | None = None
) -> tuple[EngineJob, ...]:
    """Return the engines that the bundle's route needs: plain subgraphs first, then its fused segments, then ``full``.

    Each has a profile for one video and, if ``max_batch`` is above 1, one for up to that many, optimised for the
    number that are still running there. The frames of a plain subgraph range from its smallest call on the route over
    its largest to that of ``full``; those of a fused segment are fixed.

    Args:
        bundle: the bundle.
        precision: of the graphs.
        max_batch: most videos in one call.
        expected: number of videos that enter each segment of the route, of ``max_batch`` that start; None: as they
            leave with q = 1.2.

    Raises:
        UsageError: If the bundle has no graphs of ``precision``, or a number is out of range.
        CensusError: If a tensor is written in one dtype and read in another.
    """
    manifest, route = bundle.manifest, bundle.manifest.route
    bundle.require(precision)
    if not 1 <= max_batch <= 4096:
        raise UsageError(f"batch of at most {max_batch} videos: expected 1 to 4096")
    entering = survivors(len(route.cells), max_batch) if expected is None else tuple(expected)
    if len(entering) != len(route.cells) or not all(1 <= n <= max_batch for n in entering):
        raise UsageError(
            f"expected videos {list(entering)}: expected {len(route.cells)} numbers from 1 to {max_batch}, one per "
            "segment"
        )
    found = []
    for subgraph in manifest.subgraphs:
        calls = _calls(manifest, subgraph)
        if not calls:
            continue
        frames, segment = max(calls, key=lambda call: call[0])
        whole = _whole(manifest, subgraph)
        sizes = [n for n, _ in calls] + whole
        reach = (min(sizes), frames, max(sizes))
        states = tuple((state.input, state.output) for state in subgraph.states)
        found.append(
            EngineJob(
                subgraph.name,
                subgraph.variant(precision),
                _profiles(entering[segment - 1], max_batch, reach),
                _parts(manifest, precision, [subgraph]),
                states,
            )
        )
    for fused, videos in zip(fused_segments(manifest, precision), entering, strict=True):
        found.append(_fused_job(manifest, fused, precision, _profiles(videos, max_batch, None)))
    full = _profiles(max_batch, max_batch, None)
    found.append(_fused_job(manifest, fused_full(manifest, precision), precision, full))
    _require_one_dtype(found)
    return tuple(found)


def fused_jobs(bundle: Bundle, precision: Precision) -> tuple[EngineJob, ...]:
    """Return the engines of the route's fused segments and of ``full``, for runtimes of ONNX graphs of any batch.

    Raises:
        UsageError, CensusError: As ``jobs``.
    """
    manifest = bundle.manifest
    bundle.require(precision)
    fused = (*fused_segments(manifest, precision), fused_full(manifest, precision))
    found = tuple(_fused_job(manifest, segment, precision, (ANY_BATCH,)) for segment in fused)
    _require_one_dtype(found)
    return found


def survivors(segments: int, videos: int, q: float = EXPECTED_Q) -> tuple[int, ...]:
    """Return how many of ``videos`` enter each segment, at least 1, if exits follow a geometric distribution."""
    quotas = exit_quotas(q, segments, videos)
    return tuple(max(1, videos - int(quotas[:k].sum())) for k in range(segments))


def _profiles(expected: int, max_batch: int, frames: tuple[int, int, int] | None) -> tuple[Profile, ...]:
    one = Profile((1, 1, 1), frames)
    return (one,) if max_batch == 1 else (one, Profile((1, expected, max_batch), frames))


def _fused_job(
    manifest: Manifest, fused: FusedSegment, precision: Precision, profiles: tuple[Profile, ...]
) -> EngineJob:
    names = dict.fromkeys(manifest.cells[0][span.block] for span in fused.spans)
    parts = [manifest.subgraph(name) for name in (*names, fused.head) if name is not None]
    return EngineJob(fused.name, fused, profiles, _parts(manifest, precision, parts), ())


def _parts(manifest: Manifest, precision: Precision, parts: Sequence[Subgraph]) -> tuple[tuple[str, DType], ...]:
    kept = set(manifest.fp32_only) if precision == "fp16" else {f"{part.kind}{part.block}" for part in parts}
    return tuple((p.name, "float32" if f"{p.kind}{p.block}" in kept else "float16") for p in parts)


def _calls(manifest: Manifest, subgraph: Subgraph) -> list[tuple[int, int]]:
    """Return the number of frames of every call of a subgraph along the route, each with its segment's index."""
    route, size = manifest.route, manifest.grid.frames_per_set
    if subgraph.kind == "block":
        spans = [(span, segment.index) for segment in route.segments for span in segment.spans]
        return [((span.stop - span.start) * size, index) for span, index in spans if span.block == subgraph.block]
    return [
        ((route.embedded(k, subgraph.block) - route.embedded(k - 1, subgraph.block)) * size, k)
        for k, head in enumerate(manifest.heads, 1)
        if head == subgraph.name
    ]


def _whole(manifest: Manifest, subgraph: Subgraph) -> list[int]:
    """Return the number of frames of every call of a subgraph along ``full``."""
    full, size = manifest.route.full, manifest.grid.frames_per_set
    if subgraph.kind == "block":
        return [(s.stop - s.start) * size for s in full.segments[0].spans if s.block == subgraph.block]
    return [full.embedded(1, subgraph.block) * size] if subgraph.name == manifest.heads[-1] else []


def _require_one_dtype(found: Sequence[EngineJob]) -> None:
    """Check that a tensor handed from one call to another has the same dtype where it is written and where it is read.

    Raises:
        CensusError: With the tensor and both dtypes.
    """
    for plain in (True, False):
        written: dict[str, tuple[str, str]] = {}
        some = [job for job in found if (job.fusion == 0) == plain]
        for job in some:
            renamed = {output: given for given, output in job.states}
            for spec in job.outputs:
                name = renamed.get(spec.name, spec.name.removeprefix("out."))
                written[name] = (spec.dtype, job.name)
        for job in some:
            for spec in job.inputs:
                dtype, writer = written.get(spec.name.removeprefix("in."), (spec.dtype, ""))
                if dtype != spec.dtype:
                    raise CensusError(
                        f"{spec.name}: {writer} writes it in {dtype} but {job.name} reads it in {spec.dtype}, "
                        "expected one dtype. Run 'dynvid export' again."
                    )
