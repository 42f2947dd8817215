"""Which blocks and heads stay fp32 in the fp16 set: those whose measured range or error requires it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends.base import Backend
from .draft import Draft
from .proof import load_programs, measure_subgraphs, route_errors, traced_logits
from .reference import FP16_LIMIT
from .subgraphs import Subgraph
from .tolerances import BOUND, SHARE

Floats = NDArray[np.float32]
Reasons = dict[str, dict[str, Any]]
"""By name (``block0``, ``head0``): ``because`` (range, error or route), ``value`` (None: NaN or infinity), ``limit``."""


def choose(
    draft: Draft,
    ranges: Mapping[str, float],
    clips: Floats,
    reference: Floats,
    backend: Backend,
    report: Callable[[str], None],
) -> Reasons:
    """Add the fp16 set to ``draft``, and return what stays fp32 in it, and why.

    In turn, until nothing is left to do:

    * range: an activation exceeds ``FP16_LIMIT``.
    * error: the subgraph's own error exceeds its ``SHARE`` of the proof's bound. A head that still does so in fp32 errs
      because the feature it reads is half precision, so that its block stays fp32 as well.
    * route: the logits' error exceeds its share, though no subgraph's own error does. Then the first block that is still
      half precision stays fp32: what it rounds, every block after it may amplify.

    Args:
        draft: holds the fp32 subgraphs.
        ranges: largest activation of every block and head.
        clips: of the proof, in temporal order, [clips, l, 3, crop, crop].
        reference: the whole network's logits for them, [clips, checkpoints, classes].
        backend: onnxruntime on the CPU.
        report: gets a line about each step.
    """
    reasons = {name: _reason("range", value, FP16_LIMIT) for name, value in ranges.items() if value > FP16_LIMIT}
    while True:
        draft.add("fp16", sorted(reasons))
        report("fp16: which subgraphs need fp32")
        more = _by_error(draft, set(reasons), clips, backend) or _by_route(
            draft, set(reasons), clips, reference, backend
        )
        if not more:
            return reasons
        for name, reason in more.items():
            report(f"{name} stays fp32: {reason['because']} {reason['value']}, at most {reason['limit']:g} for fp16")
        reasons |= more


def _by_error(draft: Draft, kept: set[str], clips: Floats, backend: Backend) -> Reasons:
    limit, parts = SHARE["error"] * BOUND["fp16"], draft.parts["fp16"]
    programs = load_programs(parts, draft.bundle(), backend, "fp16")
    ordered = clips[:, list(draft.network.grid.frame_order)]
    errors = measure_subgraphs(draft.parts["fp32"], parts, programs, backend, ordered)
    found: dict[str, float] = {}
    for part in parts:
        place = part.place if part.place not in kept else f"block{part.block}"
        if errors[part.name] > limit and place not in kept:
            found[place] = max(found.get(place, 0.0), errors[part.name])
    return {place: _reason("error", error, limit) for place, error in found.items()}


def _by_route(draft: Draft, kept: set[str], clips: Floats, reference: Floats, backend: Backend) -> Reasons:
    limit = SHARE["route"] * BOUND["fp16"]
    half = [part for part in draft.parts["fp16"] if part.place not in kept]
    error = float(route_errors(traced_logits(draft.bundle(), backend, "fp16", clips), reference).max())
    if error <= limit or not half:
        return {}
    return {min(half, key=_blocks_first).place: _reason("route", error, limit)}


def _blocks_first(part: Subgraph) -> tuple[bool, int]:
    return part.kind == "head", part.block


def _reason(because: Literal["range", "error", "route"], value: float, limit: float) -> dict[str, Any]:
    return {"because": because, "value": float(f"{value:.3g}") if math.isfinite(value) else None, "limit": limit}
