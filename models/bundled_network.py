"""The network that a bundle was exported from, from its training checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..grid.manifest import Manifest
from .layouts import load_training_checkpoint
from .network import VideoNetwork


def network_of(manifest: Manifest, training_checkpoint: Path, labels: Sequence[str] | None = None) -> VideoNetwork:
    """Return the network of the training checkpoint that a bundle was exported from, with the bundle's options.

    Route, shift, frames and what else a file may leave unsaid are the bundle's; ``labels`` are for a file without them.

    Raises:
        TrainingCheckpointError: If it cannot be read.
    """
    said, options = manifest.network["shift"], manifest.network["options"]
    return load_training_checkpoint(
        training_checkpoint,
        route=" ".join(f"{n},{m}" for n, m in manifest.route_cells),
        shift=said["enabled"],
        num_frames=manifest.grid.num_frames,
        weights=manifest.weights,
        labels=labels,
        shift_div=said["div"] if said["enabled"] else None,
        stride_in_1x1=options.get("stride_in_1x1"),
        dilated=options.get("dilated"),
        static=manifest.static,
    ).network
