"""The plan of a route, before anything is built: cells, segments, spans and cost."""

from __future__ import annotations

from typing import Any

from .costs import Costs
from .route import Route


def plan(network: str, classes: int, parameters: int, route: Route, costs: Costs) -> dict[str, Any]:
    """Return the plan of a route, as ``dynvid plan --json`` prints it. GMACs are multiply-adds / 1e9.

    ``set_order`` has the place in time of each input set, in the order of reading. ``fraction`` is a checkpoint's share of ``full``, the last checkpoint alone. It may exceed 1, because a dynamic
    route computes every head it passes. ``frame_gmacs`` is one frame through all blocks and the last head.
    """
    full = route.full
    last = route.cells[-1].block
    full_macs = costs.checkpoint(full, 1)
    indices = range(1, len(route.cells) + 1)
    frame_macs = sum(costs.block_macs[: last + 1]) + costs.embed_macs[last] + costs.answer_macs[last]
    return {
        "network": network,
        "classes": classes,
        "parameters": parameters,
        "grid": {
            "input_sets": route.grid.input_sets,
            "blocks": route.grid.blocks,
            "frames_per_set": route.grid.frames_per_set,
            "set_order": list(route.grid.set_order),
        },
        "frame_gmacs": frame_macs / 1e9,
        "checkpoints": [
            {
                "index": k,
                "input_set": route.cells[k - 1].input_set,
                "block": route.cells[k - 1].block,
                "gmacs": costs.checkpoint(route, k) / 1e9,
                "paper_gmacs": costs.paper_checkpoint(route, k) / 1e9,
                "fraction": costs.checkpoint(route, k) / full_macs,
            }
            for k in indices
        ],
        "segments": [
            {
                "index": k,
                "spans": [{"block": s.block, "start": s.start, "stop": s.stop} for s in route.segments[k - 1].spans],
                "gmacs": costs.segment(route, k) / 1e9,
            }
            for k in indices
        ],
        "full": {"gmacs": full_macs / 1e9, "paper_gmacs": costs.paper_checkpoint(full, 1) / 1e9},
    }
