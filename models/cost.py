"""Measure the cost of a network's parts on meta tensors, so that nothing is computed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..grid.costs import Costs
from .network import Backbone, Features, HeadConfig, VideoNetwork
from .shift import ShiftConfig, WholeShift

if TYPE_CHECKING:
    from collections.abc import Callable


def _macs(run: Callable[[], Any]) -> tuple[int, Any]:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        result = run()
    return counter.get_total_flops() // 2, result  # the counter counts a multiply-add as two


def measure_costs(network: VideoNetwork) -> Costs:
    """Return the multiply-adds of every part of ``network``, for frames of its crop size."""
    crop = network.config.preprocessing.crop
    meta = copy.deepcopy(network).to("meta").eval()
    features: Features = (torch.empty(1, 3, crop, crop, device="meta"),)
    blocks, embeds, answers = [], [], []
    for block, module in enumerate(meta.blocks):
        shift = WholeShift(network.config.shift, block, 1)
        macs, features = _macs(lambda m=module, f=features, s=shift: m(f, s))  # type: ignore[misc]
        blocks.append(macs)
        if str(block) not in meta.heads:
            embeds.append(0)
            answers.append(0)
            continue
        head = meta.head(block)
        macs, embedding = _macs(lambda h=head, f=features: h.embed(f[-1]))  # type: ignore[misc]
        embeds.append(macs)
        linear = next(iter(head.classifiers.values()))
        answers.append(_macs(lambda c=linear, e=embedding: c(e))[0])  # type: ignore[misc]
    paper = network.paper_macs(crop, network.config.classes)
    cumulative = tuple(sum(blocks[: m + 1]) for m in range(len(blocks)))
    return Costs(tuple(blocks), tuple(embeds), tuple(answers), cumulative if paper is None else paper)


def op_counter(backbone: Backbone, crop: int, classes: int) -> tuple[int, ...]:
    """Return the one-frame cost of blocks 0..m with one head on each, as counted by MSDNet-PyTorch's op counter.

    Convolutions count their multiply-adds, ReLUs one per element, poolings outputs x window, linear layers weights
    and biases; nothing else counts.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.ReLU):
            total += output[0].numel()
        elif isinstance(module, nn.MaxPool2d):
            assert isinstance(module.kernel_size, int)
            total += output[0].numel() * module.kernel_size**2
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            total += inputs[0][0].numel()  # one output, whose window is the whole plane
        elif isinstance(module, nn.Linear):
            total += module.weight.numel() + module.bias.numel()

    def watched(module: nn.Module) -> nn.Module:
        module = copy.deepcopy(module).to("meta").eval()
        for part in module.modules():
            part.register_forward_hook(count)
        return module

    features: Features = (torch.empty(1, 3, crop, crop, device="meta"),)
    cumulative = []
    no_shift = ShiftConfig(enabled=False)
    with torch.no_grad():
        for block, module in enumerate(backbone.blocks):
            features = watched(module)(features, WholeShift(no_shift, block, 1))
            embed, width = backbone.embedding(block, HeadConfig())
            watched(nn.Sequential(embed, nn.Linear(width, classes)))(features[-1])
            cumulative.append(total)
    return tuple(cumulative)
