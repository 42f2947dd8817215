"""The reference: the plain PyTorch network's logits for one video at a time, and how large its activations get."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...grid.errors import ProofError
from ...models.network import VideoNetwork

LOG = logging.getLogger("dynvid")

FP16_LIMIT = 1e4  # well below half precision's 65504

Floats = NDArray[np.float32]


class Reference:
    """The logits of some clips, each computed on first use, so that a failure on one clip shows after one clip.

    Args:
        network: the whole network, in eval mode.
        clips: preprocessed videos in temporal order, [clips, l, 3, crop, crop].

    Attributes:
        network, clips: as given.
        ranges: the largest absolute activation so far anywhere in each block and head, by name (``block0``, ``head0``).
    """

    def __init__(self, network: VideoNetwork, clips: Floats) -> None:
        self.network, self.clips = network, clips
        self.ranges: dict[str, float] = {}
        self._seen: list[Observation] = []

    @property
    def ordered(self) -> Floats:
        """The clips in permuted order."""
        return self.clips[:, list(self.network.grid.frame_order)]

    @property
    def last_features(self) -> Floats:
        """The last block's output for the first clip, [l, channels, height, width] in permuted order."""
        self.logits(1)
        return self._seen[0].last_features

    def logits(self, count: int | None = None) -> Floats:
        """Return the logits of the first ``count`` clips (None: all), [clips, checkpoints, classes].

        Raises:
            ProofError: If an activation is NaN or infinite.
        """
        count = len(self.clips) if count is None else count
        for index in range(len(self._seen), count):
            LOG.debug(f"PyTorch reference {index + 1}/{len(self.clips)}")
            seen = observe(self.network, self.clips[index])
            self._seen.append(seen if index == 0 else replace(seen, last_features=seen.last_features[:0]))
            self.ranges = {name: max(self.ranges.get(name, 0.0), value) for name, value in seen.ranges.items()}
        return np.stack([seen.logits for seen in self._seen[:count]])


@dataclass(frozen=True)
class Observation:
    """What the plain network computes for one clip.

    Attributes:
        logits: of every checkpoint, [checkpoints, classes].
        ranges: the largest absolute activation anywhere in each block and head, by name (``block0``, ``head0``).
        last_features: what the last block hands to its head, [l, channels, height, width] in permuted order.
    """

    logits: Floats
    ranges: dict[str, float]
    last_features: Floats


@torch.no_grad()
def observe(network: VideoNetwork, clip: Floats) -> Observation:
    """Return what the network computes for one clip.

    Args:
        network: the whole network, in eval mode.
        clip: a preprocessed video in temporal order, [l, 3, crop, crop].

    Raises:
        ProofError: If an activation is NaN or infinite.
    """
    ranges: dict[str, float] = defaultdict(float)
    parts = {f"block{block}": module for block, module in enumerate(network.blocks)}
    parts |= {f"head{block}": head for block, head in network.heads.items()}
    watchers = {name: _watcher(ranges, name) for name in parts}
    handles = [
        module.register_forward_hook(watchers[name]) for name, part in parts.items() for module in part.modules()
    ]
    last: list[Tensor] = []
    block = network.blocks[max(network.route.head_blocks)]
    handles.append(block.register_forward_hook(lambda _module, _inputs, output: last.append(output[-1])))
    try:
        logits = torch.cat(network(torch.from_numpy(clip[list(network.grid.frame_order)])[None]))
    finally:
        for handle in handles:
            handle.remove()
    return Observation(logits.numpy(), dict(ranges), last[0].numpy())


def _watcher(ranges: dict[str, float], name: str) -> Callable[[nn.Module, object, object], None]:
    """Return a hook for all modules of one part. A value that a container returns unchanged is measured only once."""
    seen: tuple[Tensor, int] | None = None  # the tensor itself, because its address might be reused

    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal seen
        for value in output if isinstance(output, tuple) else (output,):
            if isinstance(value, Tensor):
                if seen is not None and value is seen[0] and value._version == seen[1]:
                    continue
                seen = value, value._version
                least, most = torch.aminmax(value)
                largest = max(-float(least), float(most))
                if not math.isfinite(largest):
                    raise ProofError(
                        f"the PyTorch network computes NaN or infinity in {name} on the proof clips: its weights "
                        "overflow; use an earlier training checkpoint"
                    )
                ranges[name] = max(ranges[name], largest)

    return hook
