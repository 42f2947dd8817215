"""Choose the blocks and heads that stay fp32 in the fp16 set, because their measured range or error requires it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from ..runtime.backends.base import Backend
from .proof.equivalence import SplitLogits, prove_route, route_errors
from .proof.reference import FP16_LIMIT, Reference
from .proof.subgraph_equivalence import SIZES, load_programs, prove_subgraphs
from .proof.tolerances import BOUND, SHARE, Rounding, require
from .split.bundle_builder import BundleBuilder, Key, key_of
from .split.subgraphs import SubgraphModule

LOG = logging.getLogger("dynvid")

FEW = 2
"""Number of clips for trying how many blocks stay fp32. The choice is then checked on all of the proof's clips."""
Reasons = dict[str, dict[str, Any]]
"""By name (``block0``, ``head0``): ``because`` (range, error, route), ``value`` (None: NaN or infinity), ``limit``."""


def choose(
    draft: BundleBuilder,
    reference: Reference,
    backend: Backend,
    figures: Mapping[str, Any],
) -> tuple[Reasons, dict[str, Any]]:
    """Add the fp16 set to ``draft``; return what stays fp32 in it and why, and the figures of its proof.

    Three rules apply in turn, until none finds anything:

    * range: an activation exceeds ``FP16_LIMIT``. * error: the subgraph's own error exceeds its ``SHARE`` of the
    proof's bound. If a head still exceeds it in fp32, the
      half-precision feature that it reads is the cause, so that feature's block stays fp32 as well.
    * route: the error of the logits exceeds its share although no subgraph's own error does. Then the first blocks
    that are
      still half precision stay fp32, as few as suffice, because all later blocks may amplify their rounding.

    Each form of a subgraph is measured and proved only once.

    Args:
        draft: holds the fp32 subgraphs, and the largest activation of every block and head.
        reference: of the whole network.
        backend: onnxruntime on the CPU.
        figures: of the fp32 set's proof.

    Raises:
        ProofError: If the set is not equal to the network within its tolerances, whatever stays fp32.
    """
    reasons = {name: _reason("range", value, FP16_LIMIT) for name, value in draft.ranges.items() if value > FP16_LIMIT}
    proved = {key_of(part): figures["fp32"]["subgraphs"][part.name] for part in draft.parts["fp32"]}
    while True:
        draft.add("fp16", sorted(reasons))
        LOG.info("fp16: checking which subgraphs need fp32")
        more = _by_error(draft, set(reasons), reference, backend, proved)
        if not more:
            split = SplitLogits(draft.bundle(), backend, "fp16", reference.clips)
            more = _by_route(draft, set(reasons), split, reference)
        if not more:
            errors = {part.name: proved[key_of(part)] for part in draft.parts["fp16"]}
            for name, error in errors.items():
                require(error <= BOUND["fp16"], f"{name} (fp16)", error, BOUND["fp16"], "fp16")
            return reasons, {"subgraphs": errors, **prove_route(split, reference, Rounding.of(figures))}
        for name, reason in more.items():
            LOG.info(f"{name} stays fp32: {reason['because']} {reason['value']}, at most {reason['limit']:g} for fp16")
        reasons |= more


def _by_error(
    draft: BundleBuilder, kept: set[str], reference: Reference, backend: Backend, proved: dict[Key, float]
) -> Reasons:
    limit, parts = SHARE["error"] * BOUND["fp16"], draft.parts["fp16"]
    new = {part.name for part in parts if key_of(part) not in proved}
    if not new:
        return {}
    # nothing more can stay fp32 for these, so their error may use the whole bound
    bounds = {part.name: BOUND["fp16"] if {part.place, f"block{part.block}"} <= kept else limit for part in parts}
    programs = load_programs(parts, draft.bundle(), backend, "fp16")
    beyond: dict[str, float] = {}
    errors = prove_subgraphs(
        draft.parts["fp32"], parts, programs, backend, reference.ordered, SIZES, "fp16",
        lambda _, name, __: bounds[name], new, beyond,
    )  # fmt: skip
    found: dict[str, float] = {}
    for part in parts:
        if part.name in beyond:
            require(bounds[part.name] == limit, f"{part.name} (fp16)", beyond[part.name], bounds[part.name], "fp16")
            place = part.place if part.place not in kept else f"block{part.block}"
            found[place] = max(found.get(place, 0.0), beyond[part.name])
        elif part.name in new:
            proved[key_of(part)] = errors[part.name]
    return {place: _reason("error", error, limit) for place, error in found.items()}


def _by_route(draft: BundleBuilder, kept: set[str], split: SplitLogits, reference: Reference) -> Reasons:
    limit = SHARE["route"] * BOUND["fp16"]
    half = [part for part in draft.parts["fp16"] if part.place not in kept]
    places = list(dict.fromkeys(part.place for part in sorted(half, key=_blocks_first)))

    def error_of(made: SplitLogits, clips: int) -> float:
        return float(route_errors(made.first(clips), reference.logits(clips)).max())

    error = error_of(split, FEW)
    if error <= limit:
        error = error_of(split, len(reference.clips))
    if error <= limit or not half:
        return {}
    least, most = 1, len(places)  # number of places that stay fp32
    while least < most:
        middle = (least + most) // 2
        LOG.info(f"fp16: trying {middle} more in fp32")
        draft.add("fp16", sorted({*kept, *places[:middle]}))
        enough = error_of(SplitLogits(draft.bundle(), split.backend, "fp16", reference.clips), FEW) <= limit
        least, most = (least, middle) if enough else (middle + 1, most)
    return {place: _reason("route", error, limit) for place in places[:least]}


def _blocks_first(part: SubgraphModule) -> tuple[bool, int]:
    return part.kind == "head", part.block


def _reason(because: Literal["range", "error", "route"], value: float, limit: float) -> dict[str, Any]:
    return {"because": because, "value": float(f"{value:.3g}") if math.isfinite(value) else None, "limit": limit}
