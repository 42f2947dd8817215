"""Fused segments: the ports of a segment that runs as one graph, derived from the liveness of tensors along the route.

Segments hand on only what a later one reads: boundary features of input sets that the next block has not seen, states
of blocks that will run again, and embeddings of heads that will answer again.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError
from .manifest import Manifest, Precision, Subgraph
from .route import Route, Span
from .tensors import Dimension, TensorSpec

FUSION = 7
"""Version of the fused graphs and their rewrites; engines of other versions are rebuilt."""


@dataclass(frozen=True)
class FusedSegment:
    """One segment of a route as one graph, for any batch size and a fixed number of frames.

    Attributes:
        name: ``segment1`` and so on, or ``full``; ``spans1`` and so on without heads, ``part1`` along another route.
        index: the segment's place in its route, 1-based.
        start: its new frames are ``[start, stop)`` of the permuted order; none if they are equal.
        stop: see ``start``.
        spans: of the segment.
        head: the subgraph that answers; None without heads.
        inputs: ``frames`` [batch, stop - start, 3, crop, crop] if there are new ones, then ``in.NAME`` for every
            tensor handed on that it reads.
        outputs: ``logits`` and ``probabilities`` [batch, classes], then ``out.NAME`` for every tensor that it hands
            on. Without a head, ``features`` [batch, frames, channels, height, width] instead, if it reaches the last
            block.
    """

    name: str
    index: int
    start: int
    stop: int
    spans: tuple[Span, ...]
    head: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def fused_segments(
    manifest: Manifest, precision: Precision, route: Route | None = None, heads: bool = True
) -> tuple[FusedSegment, ...]:
    """Return the fused segments of a route.

    Args:
        manifest: of the bundle.
        precision: of the graphs.
        route: None: the bundle's own; otherwise any route over the bundle's blocks and heads.
        heads: whether segments answer; segments without heads are only for measuring.

    Raises:
        UsageError: If the bundle lacks a block or head of the route.
    """
    if route is None or route.cells == manifest.route.cells:
        route, name = manifest.route, "segment" if heads else "spans"
    elif route.cells == manifest.route.full.cells and heads:
        return (fused_full(manifest, precision),)
    else:
        name = "part"
    return tuple(_fuse(manifest, route, k, precision, f"{name}{k}", heads) for k in range(1, len(route.cells) + 1))


def fused_full(manifest: Manifest, precision: Precision) -> FusedSegment:
    """Return the static network, the route's last checkpoint alone, as one segment called ``full``."""
    return _fuse(manifest, manifest.route.full, 1, precision, "full")


def feature_name(feature: TensorSpec) -> str:
    """Return the name under which a boundary feature is handed on."""
    return feature.name


def state_name(block: int, port: str) -> str:
    """Return the name under which the state of input port ``state_in.POINT`` of a block is handed on."""
    return f"block{block}.{port.replace('state_in.', 'state.', 1)}"


def embeddings_name(block: int) -> str:
    """Return the name under which a head's embeddings are handed on."""
    return f"block{block}.embeddings"


def _fuse(
    manifest: Manifest, route: Route, index: int, precision: Precision, name: str, heads: bool = True
) -> FusedSegment:
    size = manifest.grid.frames_per_set
    head = head_at(manifest, route, index)
    blocks = [block_of(manifest, m) for m in range(max(route.head_blocks) + 1)]
    start, stop = route.progress(index - 1, 0) * size, route.progress(index, 0) * size
    inputs: list[TensorSpec] = []
    if stop > start:
        frames = blocks[0].variant(precision).inputs[0]
        inputs.append(TensorSpec("frames", frames.dtype, ("batch", stop - start, *frames.shape[2:])))
    answers = [s for s in head.variant(precision).outputs if s.name in ("logits", "probabilities")]
    outputs = answers if heads else []
    for block in blocks:
        before, after = _live_features(route, index - 1, block.block), _live_features(route, index, block.block)
        for spec in features_of(block, precision):
            if before:
                inputs.append(_carried("in", feature_name(spec), spec, before * size))
            if after:
                outputs.append(_carried("out", feature_name(spec), spec, after * size))
        if route.progress(index, block.block) == route.progress(index - 1, block.block):
            continue
        specs = {s.name: s for s in block.variant(precision).inputs}
        for state in block.states:
            carried = state_name(block.block, state.input)
            if _state_lives(route, index - 1, block.block):
                inputs.append(_carried("in", carried, specs[state.input]))
            if _state_lives(route, index, block.block):
                outputs.append(_carried("out", carried, specs[state.input]))
    spans, last = route.segments[index - 1].spans, max(route.head_blocks)
    if not heads:
        new = (route.progress(index, last) - route.progress(index - 1, last)) * size
        if new:
            feature = head.variant(precision).inputs[0]
            outputs.append(TensorSpec("features", feature.dtype, _with_frames(feature, new)))
        return FusedSegment(name, index, start, stop, spans, None, tuple(inputs), tuple(outputs))
    checkpoints = [k for k, cell in enumerate(route.cells, 1) if cell.block == head.block]
    for state in head.states:
        embeddings = next(s for s in head.variant(precision).inputs if s.name == state.input)
        if index > checkpoints[0]:
            inputs.append(_carried("in", embeddings_name(head.block), embeddings))
        if index < checkpoints[-1]:
            outputs.append(_carried("out", embeddings_name(head.block), embeddings))
    return FusedSegment(name, index, start, stop, spans, head.name, tuple(inputs), tuple(outputs))


def block_of(manifest: Manifest, block: int) -> Subgraph:
    """Return the subgraph of a block.

    Raises:
        UsageError: If the bundle's own route does not reach it.
    """
    name = manifest.cells[0][block]
    if name is None:
        raise UsageError(f"the route reaches block {block}, but the bundle ends before it. Export again with --route.")
    return manifest.subgraph(name)


def head_at(manifest: Manifest, route: Route, index: int) -> Subgraph:
    """Return the head that answers at checkpoint ``index`` (1-based) of a route over the bundle's blocks.

    Raises:
        UsageError: If the bundle has none on that block, or several.
    """
    cell = route.cells[index - 1]
    names = {name for name, own in zip(manifest.heads, manifest.route.cells, strict=True) if own.block == cell.block}
    if route.cells == manifest.route.cells:
        names = {manifest.heads[index - 1]}
    elif cell == manifest.route.cells[-1]:
        names = {manifest.heads[-1]}
    if len(names) != 1:
        raise UsageError(
            f"checkpoint {index} at {cell}: the bundle has {len(names)} heads on that block, expected one. "
            "Export again with --route."
        )
    return manifest.subgraph(names.pop())


def features_of(block: Subgraph, precision: Precision) -> tuple[TensorSpec, ...]:
    """Return the features that a block hands to the next one, [batch, frames, channels, height, width]."""
    states = {state.output for state in block.states}
    return tuple(s for s in block.variant(precision).outputs if s.name not in states)


def _live_features(route: Route, index: int, block: int) -> int:
    """Return how many input sets of ``block``'s features wait for the next block after segment ``index``."""
    if block == max(route.head_blocks):
        return 0
    return route.progress(index, block) - route.progress(index, block + 1)


def _state_lives(route: Route, index: int, block: int) -> bool:
    """Return whether a span after segment ``index`` reads the states that ``block`` wrote until then."""
    done, last = route.progress(index, block), route.progress(len(route.cells), block)
    return 0 < done < last and done != route.grid.border


def _carried(way: str, name: str, spec: TensorSpec, frames: int | None = None) -> TensorSpec:
    return TensorSpec(f"{way}.{name}", spec.dtype, spec.shape if frames is None else _with_frames(spec, frames))


def _with_frames(spec: TensorSpec, frames: int) -> tuple[Dimension, ...]:
    return tuple(frames if dimension == "frames" else dimension for dimension in spec.shape)
