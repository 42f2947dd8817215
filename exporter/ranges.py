"""Ranges of activations, which decide what may be half precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..models.network import VideoNetwork

FP16_LIMIT = 1e4  # well below half precision's 65504


@torch.no_grad()
def measure_ranges(network: VideoNetwork, clips: Iterable[Tensor]) -> dict[str, float]:
    """Return the largest absolute activation inside every block and head, by subgraph name (``block0``, ``head0``).

    Args:
        network: the whole network, in eval mode.
        clips: preprocessed videos in temporal order, each [l, 3, crop, crop].
    """
    found: dict[str, float] = defaultdict(float)
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: object, output: object) -> None:
            for value in output if isinstance(output, tuple) else (output,):
                if isinstance(value, Tensor):
                    found[name] = max(found[name], float(value.abs().max()))

        handles.extend(part.register_forward_hook(hook) for part in module.modules())

    for block, module in enumerate(network.blocks):
        watch(f"block{block}", module)
    for block, head in network.heads.items():
        watch(f"head{block}", head)
    try:
        for clip in clips:
            network(clip[list(network.grid.frame_order)][None])
    finally:
        for handle in handles:
            handle.remove()
    return dict(found)
