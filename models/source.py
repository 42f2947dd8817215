"""Plan from any source: a network's name, a training checkpoint, or a bundle."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..grid.bundle import Bundle
from ..grid.errors import UsageError
from ..grid.packages import packages
from ..grid.plan import plan
from ..grid.route import parse_route, static_route

LOG = logging.getLogger("dynvid")

READING = {
    "layout": "auto",
    "network": None,
    "shift": None,
    "weights": None,
    "shift_div": None,
    "stride_in_1x1": None,
    "dilated": None,
    "static": False,
}
"""What may be said about a training checkpoint, as for ``load_training_checkpoint``, and what says nothing."""


def plan_of(
    source: str,
    route: str | None = None,
    classes: int | None = None,
    frames: int | None = None,
    head: str | None = None,
    reading: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Return the plan of a network's route, as ``grid.plan.plan``; nothing is built.

    Args:
        source: a registered network, or the path of a training checkpoint or bundle.
        route: joint, depth, input, full, or cells; None: the source's own, joint for a network.
        classes: of a network (default 400), or expected in a training checkpoint.
        frames: sampled frames l of a network or of a public layout (default 16).
        head: conv or linear, for a network (default conv).
        reading: how a training checkpoint is to be read, by names of ``READING``.

    Raises:
        UsageError, RouteError, NetworkError: If these do not go together.
        TrainingCheckpointError, ManifestError: If a file is not one that dynvid knows.
    """
    said = [f"--{name.replace('_', '-')}" for name, value in (reading or {}).items() if value != READING[name]]
    if (Path(source) / "manifest.json").exists():
        if said:
            raise UsageError(f"{source!r} is a bundle: its export fixed {said[0]}, leave it out")
        if (classes, frames, head) != (None, None, None):
            raise UsageError(f"{source!r} is a bundle: its export fixed --classes, --frames and --head, leave them out")
        manifest = Bundle.open(Path(source)).manifest
        read = static_route if manifest.static else parse_route
        chosen = manifest.route if route is None else read(route, manifest.grid, manifest.route.head_blocks)
        return plan(manifest.network["network"], manifest.classes, manifest.parameters, chosen, manifest.costs)
    with packages("export,cpu"):
        import torch

        from .config_json import from_json
        from .cost import measure_costs
        from .layouts import load_training_checkpoint
        from .registry import build, registered
    if source in registered() or not Path(source).exists():
        if said and source in registered():
            raise UsageError(
                f"{said[0]} says how a training checkpoint is read, and {source!r} is a network: leave it out"
            )
        if frames is not None and (frames < 1 or frames % 8):
            raise UsageError(f"--frames {frames}: expected a multiple of the 8 input sets")
        per_set = 2 if frames is None else frames // 8
        classes = 400 if classes is None else classes
        table = {"network": source, "classes": classes, "frames_per_set": per_set, "head": {"style": head or "conv"}}
        with torch.device("meta"):
            network = build(from_json(table if route is None else {**table, "route": route}))
    elif head is not None:
        raise UsageError(f"--head {head}: {source!r} already has its heads, leave it out")
    else:
        options: dict[str, Any] = dict(reading or {})
        loaded = load_training_checkpoint(Path(source), route=route, classes=classes, num_frames=frames, **options)
        for line in (*loaded.warnings, *loaded.assumed):
            LOG.warning(line)
        network = loaded.network
    parameters = sum(p.numel() for p in network.parameters())
    return plan(network.config.network, network.config.classes, parameters, network.route, measure_costs(network))
