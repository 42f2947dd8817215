"""The static network without temporal shift as PyTorch exports it: what one would deploy who needs no early exits."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...models.network import VideoNetwork
from ...models.registry import build
from ...models.shift import ShiftConfig
from .onnx_graph import quiet


def unshifted(network: VideoNetwork) -> bytes:
    """Return ONNX of a network's run on all frames, without its shift, for one clip.

    Its input is ``frames`` [1, l, 3, crop, crop] in permuted order, its output ``logits`` [1, classes]. Nothing of it is
    rewritten: the graph is that of ``torch.onnx.export``.
    """
    plain = build(replace(network.config, shift=ShiftConfig(enabled=False)))
    plain.load_state_dict(network.state_dict())
    plain.with_last_checkpoint()
    crop = plain.config.preprocessing.crop
    clip = torch.zeros(1, plain.grid.num_frames, 3, crop, crop)
    file = io.BytesIO()
    with quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            _LastAnswer(plain).eval(), (clip,), input_names=["frames"], output_names=["logits"], dynamo=True
        )
        program.save(file)
    return file.getvalue()


class _LastAnswer(nn.Module):
    """The logits after all frames, [1, classes]."""

    def __init__(self, network: VideoNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.network(frames)[-1]
        return logits
