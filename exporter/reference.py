"""What the plain PyTorch network computes, one video alone: the logits to prove against, and how large activations get."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..grid.errors import ProofError
from ..models.network import VideoNetwork

FP16_LIMIT = 1e4  # well below half precision's 65504


@torch.no_grad()
def observe(
    network: VideoNetwork, clips: NDArray[np.float32], report: Callable[[str], None]
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return the logits of every clip and checkpoint, [clips, checkpoints, classes], and the range of every part.

    The range is the largest absolute activation anywhere inside a block or head, by name (``block0``, ``head0``).

    Raises:
        ProofError: If an activation is NaN or infinite.

    Args:
        network: the whole network, in eval mode.
        clips: preprocessed videos in temporal order, [clips, l, 3, crop, crop].
        report: gets a line about each clip.
    """
    ranges: dict[str, float] = defaultdict(float)
    parts = {f"block{block}": module for block, module in enumerate(network.blocks)}
    parts |= {f"head{block}": head for block, head in network.heads.items()}
    handles = [
        module.register_forward_hook(_watcher(ranges, name))
        for name, part in parts.items()
        for module in part.modules()
    ]
    order = list(network.grid.frame_order)
    logits = []
    try:
        for index, clip in enumerate(clips, 1):
            report(f"PyTorch reference {index}/{len(clips)}")
            logits.append(torch.cat(network(torch.from_numpy(clip[order])[None])).numpy())
    finally:
        for handle in handles:
            handle.remove()
    return np.stack(logits), dict(ranges)


def _watcher(ranges: dict[str, float], name: str) -> Callable[[nn.Module, object, object], None]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        for value in output if isinstance(output, tuple) else (output,):
            if isinstance(value, Tensor):
                largest = float(value.abs().max())
                if not math.isfinite(largest):
                    raise ProofError(
                        f"the PyTorch network computes NaN or infinity in {name} on the proof clips: its weights overflow; "
                        "use an earlier training checkpoint"
                    )
                ranges[name] = max(ranges[name], largest)

    return hook
