"""Compute blocks a second time on the way back, instead of keeping what their gradient needs (Chen et al., 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_blocks(blocks: nn.ModuleList) -> None:
    """Have every block keep only its input in training; results, gradients and statistics stay the same."""
    for block in blocks:
        block.forward = _Recomputed(block)


class _Recomputed:
    """The forward function of a block."""

    def __init__(self, block: nn.Module) -> None:
        self._block, self._forward = block, block.forward

    def __call__(self, *inputs: Any) -> Any:
        if not self._block.training:
            return self._forward(*inputs)
        return checkpoint(
            self._forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _same_norms(self._block))
        )


@contextmanager
def _same_norms(block: nn.Module) -> Iterator[None]:
    """Keep the statistics of BatchNorm, which the first computation has updated already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    known = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, momentum, count in known:
            norm.momentum, norm.num_batches_tracked = momentum, count
