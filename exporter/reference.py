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

Floats = NDArray[np.float32]


class Reference:
    """The logits of some clips, each computed when it is first asked for: what fails on one clip fails after one.

    Args:
        network: the whole network, in eval mode.
        clips: preprocessed videos in temporal order, [clips, l, 3, crop, crop].
        report: gets a line about each clip.

    Attributes:
        network, clips: as given.
        ranges: the largest absolute activation so far anywhere inside each block and head, by name (``block0``, ``head0``).
    """

    def __init__(self, network: VideoNetwork, clips: Floats, report: Callable[[str], None] = lambda _: None) -> None:
        self.network, self.clips = network, clips
        self.ranges: dict[str, float] = {}
        self._report = report
        self._logits: list[Floats] = []

    def logits(self, count: int | None = None) -> Floats:
        """Return the logits of the first ``count`` clips, None: of all, [clips, checkpoints, classes].

        Raises:
            ProofError: If an activation is NaN or infinite.
        """
        count = len(self.clips) if count is None else count
        for index in range(len(self._logits), count):
            self._report(f"PyTorch reference {index + 1}/{len(self.clips)}")
            found, ranges = observe(self.network, self.clips[index : index + 1])
            self._logits.append(found[0])
            self.ranges = {name: max(self.ranges.get(name, 0.0), value) for name, value in ranges.items()}
        return np.stack(self._logits[:count])


@torch.no_grad()
def observe(
    network: VideoNetwork, clips: Floats, report: Callable[[str], None] = lambda _: None
) -> tuple[Floats, dict[str, float]]:
    """Return the logits of every clip and checkpoint, [clips, checkpoints, classes], and the range of every part.

    The range is the largest absolute activation anywhere inside a block or head, by name (``block0``, ``head0``).

    Args:
        network: the whole network, in eval mode.
        clips: preprocessed videos in temporal order, [clips, l, 3, crop, crop].
        report: gets a line about each clip.

    Raises:
        ProofError: If an activation is NaN or infinite.
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
            report(f"PyTorch on video {index}/{len(clips)}")
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
