"""The proof of fused segments: they compute what the cells compute, at every checkpoint and in all that they hand on.

The cells are proved against PyTorch at export. This proof compares graphs with graphs, and needs no PyTorch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...grid.manifest import Precision
from ...grid.segments import FusedSegment, fused_full, fused_segments
from ...runtime.backends.optimised_graph import OptimisedGraph, unpack
from ...runtime.backends.registry import open_backend
from ...runtime.execution.composed import Cells
from ...runtime.execution.executor import Executor
from ...runtime.session import ArraySource
from ..engines.segment_graphs import EngineGraphs
from .clips import proof_clips
from .tolerances import Rounding, relative, require, require_bits, require_softmax, rounded, tolerance

LOG = logging.getLogger("dynvid")

_WITHIN_RANGES = np.float32(0.25)
"""Contrast of the clips for INT8: noise of full contrast may exceed ranges measured on videos."""
BATCH = 3
CLIPS = 4

Arrays = dict[str, NDArray[Any]]  # by output port, [batch, ...]
Floats = NDArray[np.float32]


def prove_fused(graphs: EngineGraphs, clips: Floats) -> dict[str, Any]:
    """Return how far a bundle's fused segments, and ``full``, are from its cells on onnxruntime's CPU provider.

    Differences are those of the worst clip, in standard deviations of the tensor (averaged over the clips). Answers
    count by their largest difference, tensors handed on by the root mean square, because the largest of 100,000
    half-precision roundings grows with their number. Videos also run among others, and must match their own results
    alone bit by bit.

    Args:
        graphs: of a proved bundle, which need not be on disk. They lend the graphs to prove.
        clips: preprocessed videos in temporal order, [clips, l, 3, crop, crop], all different.

    Raises:
        ProofError: With the first segment and tensor that differ.
    """
    bundle, precision, backend = graphs.bundle, graphs.precision, open_backend("onnxruntime")
    manifest = bundle.manifest
    segments, full = fused_segments(manifest, precision), fused_full(manifest, precision)
    for segment in (*segments, full):
        LOG.info(f"{precision}: fusing {segment.name}")
        graphs.lend(segment)

    def alone_and_among_others(whole: bool) -> list[list[Arrays]]:
        route, parts = (manifest.route.full, (full,)) if whole else (manifest.route, segments)
        layouts = [unpack(graphs.lend(part)) for part in parts]
        executor = Executor(bundle, backend, precision, graphs.lend, route=route)
        alone = [_run(executor, clip[None], layouts) for clip in clips]
        executor = Executor(bundle, backend, precision, graphs.lend, BATCH, [[BATCH]] * len(parts), route)
        rows = np.arange(BATCH) % len(clips)
        for segment, together in zip(parts, _run(executor, clips[rows], layouts), strict=True):
            for row, clip in enumerate(rows):
                own = {port: values[row : row + 1] for port, values in together.items()}
                where = f"{segment.name} ({precision}): a video alone and among others"
                require_bits(alone[clip][segment.index - 1], own, where)
        return alone

    LOG.info(f"{precision}: the cells, {len(clips)} clips")
    # not specialised, as in the fused graph: then both are optimised alike, and bits can be compared
    cells = Executor(bundle, backend, precision, Cells(specialised=False))
    expected = [_run(cells, clip[None], [None] * len(segments)) for clip in clips]
    LOG.info(f"{precision}: {len(segments)} fused segments and full, alone and {BATCH} at once")
    rounding = Rounding.of(manifest.proof)
    bounds = rounding.tolerances(precision, len(manifest.route_cells))
    handed_on = {name: tolerance(precision, figure) for name, figure in rounding.handed_on(manifest).items()}
    errors = _errors(segments, expected, alone_and_among_others(False), precision, bounds, handed_on)
    # the static network must answer what the last checkpoint answers
    last = [[{port: clip[-1][port] for port in ("logits", "probabilities")}] for clip in expected]
    (of_full,) = _errors((full,), last, alone_and_among_others(True), precision, bounds[-1:], {})
    return {
        "clips": len(clips),
        "reference": "the cells, onnxruntime CPUExecutionProvider, each video alone",
        "bounds": rounded(bounds),
        "checkpoints": rounded([e["logits"] for e in errors]),
        "handed_on": rounded([max((e[port] for port in e if port.startswith("out.")), default=0.0) for e in errors]),
        "full": rounded([of_full["logits"]])[0],
        "alone_and_among_others": "the same to the last bit",
    }


def prove_segments(graphs: EngineGraphs) -> None:
    """Prove the fused segments of a bundle on dynvid's own clips, before engines are built from them.

    Args:
        graphs: of the segments.

    Raises:
        ProofError: As ``prove_fused``.
    """
    manifest = graphs.bundle.manifest
    clips = proof_clips(CLIPS, manifest.grid.num_frames, manifest.preprocessing)
    if graphs.precision == "int8":  # beyond the ranges, signed and unsigned activations clip at different values
        clips *= _WITHIN_RANGES
    prove_fused(graphs, clips)


def _errors(
    segments: Sequence[FusedSegment],
    expected: list[list[Arrays]],
    found: list[list[Arrays]],
    precision: Precision,
    bounds: Sequence[float],
    handed_on: Mapping[str, float],
) -> list[dict[str, float]]:
    """Return for each segment the error of every port except the probabilities.

    Args:
        segments: of the route.
        expected: outputs of the cells, [clips][segments].
        found: those of the fused segments, likewise.
        precision: of the segments.
        bounds: tolerance of the logits of each segment.
        handed_on: tolerance of everything handed on, by name.

    Raises:
        ProofError: With the first port beyond its tolerance.
    """
    errors: list[dict[str, float]] = []
    for segment, wanted, got, bound in zip(
        segments, zip(*expected, strict=True), zip(*found, strict=True), bounds, strict=True
    ):
        errors.append({})
        where = f"{segment.name} ({precision})"
        for outputs in got:
            require_softmax(outputs, where)
        for spec in segment.outputs:
            if spec.name == "probabilities":
                continue
            pairs = [(w[spec.name].astype(np.float64), g[spec.name]) for w, g in zip(wanted, got, strict=True)]
            with np.errstate(invalid="ignore"):  # infinity minus infinity gives NaN, which exceeds every bound
                is_handed_on = spec.name.startswith("out.")
                norms = [np.sqrt(np.square(g - w).mean()) if is_handed_on else np.abs(g - w).max() for w, g in pairs]
                error = relative(float(np.max(norms)), float(np.mean([w.std() for w, _ in pairs])))
            limit = handed_on[spec.name.removeprefix("out.")] if is_handed_on else bound
            require(error <= limit, f"{where}, {spec.name}", error, limit, precision)
            errors[-1][spec.name] = error
    return errors


def _run(executor: Executor, clips: Floats, layouts: Sequence[OptimisedGraph | None]) -> list[Arrays]:
    """Return all segments' outputs, in the plain layout, for clips in temporal order, [batch, l, 3, crop, crop]."""
    found = []
    for at, layout in zip(executor.walk([ArraySource(clip) for clip in clips]), layouts, strict=True):
        outputs = {"logits": at.logits, "probabilities": at.probabilities, **executor.store.read(at.index, at.slots)}
        found.append({port: layout.plain(port, v) if layout else v for port, v in outputs.items()})
    return found
