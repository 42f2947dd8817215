"""MSDNet (Huang et al., 2018, "Multi-Scale Dense Networks"): dense layers at several scales, exits in depth.

Parameter names within a block are those of MSDNet-PyTorch, so its training checkpoints load by renaming only heads.
The online shift acts at the coarsest scale, on the input of ``conv_normal`` only, in every layer but the initial one
(paper, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..grid.errors import NetworkError
from .network import Features, HeadConfig, conv_embedding, linear_embedding
from .shift import Shift


@dataclass(frozen=True)
class MSDNetOptions:
    """An MSDNet. The defaults are the paper's 38-layer network.

    Attributes:
        layers: dense layers of each block.
        channels: channels of the finest scale after the initial layer.
        growth: channels that a layer adds at the finest scale.
        growth_factors: multiplier of ``channels`` and ``growth`` at each scale, finest first.
        bottleneck_factors: multiplier of the bottleneck's width at each scale.
        bottleneck: whether 3x3 convolutions are preceded by 1x1 ones.
        prune: ``max``: scales are dropped at equal intervals of depth; ``min``: as late as possible.
        reduction: share of channels kept by the transition after a dropped scale (``max``), or after each
            third of the depth (``min``).
        stem: ``imagenet``: 7x7 stride 2 and max-pooling; ``cifar``: 3x3.
    """

    layers: tuple[int, ...] = (7, 7, 7, 7, 7)
    channels: int = 32
    growth: int = 16
    growth_factors: tuple[int, ...] = (1, 2, 4, 4)
    bottleneck_factors: tuple[int, ...] = (1, 2, 4, 4)
    bottleneck: bool = True
    prune: Literal["max", "min"] = "max"
    reduction: float = 0.5
    stem: Literal["imagenet", "cifar"] = "imagenet"

    def __post_init__(self) -> None:
        """Accept lists, as JSON gives them, and reject impossible networks."""
        for name in ("layers", "growth_factors", "bottleneck_factors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.layers or min(self.layers) < 1 or len(self.growth_factors) != len(self.bottleneck_factors):
            raise NetworkError(
                f"MSDNet layers {self.layers}, growth_factors {self.growth_factors}, bottleneck_factors "
                f"{self.bottleneck_factors}: expected at least one layer per block, and one factor per scale in both"
            )
        sizes = (self.channels, self.growth, *self.growth_factors, *self.bottleneck_factors)
        if not all(1 <= size <= 65536 for size in sizes) or not 0 <= self.reduction <= 1:
            raise NetworkError(
                f"MSDNet channels {self.channels}, growth {self.growth}, growth_factors {self.growth_factors}, "
                f"bottleneck_factors {self.bottleneck_factors}, reduction {self.reduction}: expected sizes of 1 to "
                "65536 and a reduction in [0, 1]"
            )
        if any(self.growth * factor % 2 for factor in self.growth_factors[1:]):
            raise NetworkError(
                f"MSDNet growth {self.growth}, growth_factors {self.growth_factors}: a coarser scale takes half of "
                "its new channels from the finer one, so its growth x factor must be even"
            )
        if self.prune not in ("max", "min") or self.stem not in ("imagenet", "cifar"):
            raise NetworkError(
                f"MSDNet prune {self.prune!r}, stem {self.stem!r}: expected max or min, imagenet or cifar"
            )

    @property
    def scales(self) -> int:
        """The number of scales."""
        return len(self.growth_factors)

    def scales_at(self, layer: int) -> tuple[int, int]:
        """Return how many scales enter and leave a layer (1-based over the whole depth)."""
        total = sum(self.layers)
        if self.prune == "min":
            return min(self.scales, total - layer + 2), min(self.scales, total - layer + 1)
        interval = math.ceil(total / self.scales)
        return self.scales - max(0, layer - 2) // interval, self.scales - (layer - 1) // interval

    def reduces_after(self, layer: int) -> bool:
        """Return whether a transition follows a layer (1-based)."""
        if self.reduction <= 0:
            return False
        if self.prune == "min":
            return layer in (sum(self.layers) // 3, 2 * sum(self.layers) // 3)
        scales_in, scales_out = self.scales_at(layer)
        return scales_in > scales_out


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    ]


class ConvBasic(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, channels: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.net = nn.Sequential(*_conv(channels, out, kernel, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, out, height / stride, width / stride]."""
        result: Tensor = self.net(x)
        return result


class ConvBN(nn.Module):
    """A 3x3 convolution after an optional 1x1 bottleneck."""

    def __init__(self, channels: int, out: int, stride: int, bottleneck: int | None) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        if bottleneck is not None:
            inner = min(channels, bottleneck * out)
            parts += _conv(channels, inner, 1)
            channels = inner
        self.net = nn.Sequential(*parts, *_conv(channels, out, 3, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, out, height / stride, width / stride]."""
        result: Tensor = self.net(x)
        return result


class ConvNormal(nn.Module):
    """New features of the finest scale, from that scale only."""

    def __init__(self, channels: int, out: int, bottleneck: int | None) -> None:
        super().__init__()
        self.conv_normal = ConvBN(channels, out, 1, bottleneck)

    def forward(self, same: Tensor, shifted: Tensor) -> Tensor:
        """Return ``same`` and the convolution of ``shifted``, concatenated along the channels."""
        return torch.cat([same, self.conv_normal(shifted)], dim=1)


class ConvDownNormal(nn.Module):
    """New features of a coarser scale: half from the finer one, half from its own."""

    def __init__(
        self, finer: int, channels: int, out: int, bottleneck_finer: int | None, bottleneck: int | None
    ) -> None:
        super().__init__()
        self.conv_down = ConvBN(finer, out // 2, 2, bottleneck_finer)
        self.conv_normal = ConvBN(channels, out // 2, 1, bottleneck)

    def forward(self, finer: Tensor, same: Tensor, shifted: Tensor) -> Tensor:
        """Return ``same``, the features from ``finer``, and those from ``shifted``, concatenated along the channels."""
        return torch.cat([same, self.conv_down(finer), self.conv_normal(shifted)], dim=1)


class FirstLayer(nn.Module):
    """The initial layer: the frame at every scale."""

    def __init__(self, options: MSDNetOptions) -> None:
        super().__init__()
        widths = [options.channels * factor for factor in options.growth_factors]
        stem: nn.Module
        if options.stem == "imagenet":
            stem = nn.Sequential(
                nn.Conv2d(3, widths[0], 7, stride=2, padding=3),
                nn.BatchNorm2d(widths[0]),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, stride=2, padding=1),
            )
        else:
            stem = ConvBasic(3, widths[0])
        coarser = [ConvBasic(a, b, 3, 2) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList([stem, *coarser])

    def forward(self, features: Features, shift: Shift) -> Features:
        """Return one tensor per scale, finest first."""
        (x,) = features
        scales = []
        for layer in self.layers:
            x = layer(x)
            scales.append(x)
        return tuple(scales)


class MSDNetLayer(nn.Module):
    """One dense layer at all remaining scales; drops the finest one when the schedule says so."""

    def __init__(self, channels: int, options: MSDNetOptions, scales_in: int, scales_out: int) -> None:
        super().__init__()
        self.drops = scales_in > scales_out
        first = options.scales - scales_out
        factors, growth = options.growth_factors, options.growth
        bottlenecks = [f if options.bottleneck else None for f in options.bottleneck_factors]
        self.layers = nn.ModuleList()
        for scale in range(first, options.scales):
            width, out = channels * factors[scale], growth * factors[scale]
            if scale == first and not self.drops:
                self.layers.append(ConvNormal(width, out, bottlenecks[scale]))
            else:
                finer = channels * factors[scale - 1]
                self.layers.append(ConvDownNormal(finer, width, out, bottlenecks[scale - 1], bottlenecks[scale]))

    def forward(self, features: Features, shift: Shift, point: str) -> Features:
        """Return one tensor per remaining scale, finest first; only the coarsest one's own input is shifted."""
        shifted = (*features[:-1], shift(features[-1], point))
        offset = 1 if self.drops else 0
        out = []
        for i, layer in enumerate(self.layers, offset):
            finer = () if i == 0 else (features[i - 1],)
            out.append(layer(*finer, features[i], shifted[i]))
        return tuple(out)


class Transition(nn.Module):
    """1x1 convolutions that reduce the channels of every scale."""

    def __init__(self, channels: int, out: int, options: MSDNetOptions, scales: int) -> None:
        super().__init__()
        factors = options.growth_factors[options.scales - scales :]
        self.m = nn.ModuleList([ConvBasic(channels * f, out * f, 1) for f in factors])

    def forward(self, features: Features) -> Features:
        """Return one tensor per scale."""
        return tuple(conv(x) for conv, x in zip(self.m, features, strict=True))


class MSDNetBlock(nn.ModuleList):
    """The layers and transitions of one block; the last block keeps only the coarsest scale."""

    def __init__(self, modules: Sequence[nn.Module], last: bool) -> None:
        super().__init__(modules)
        self.last = last

    def forward(self, features: Features, shift: Shift) -> Features:
        """Return the features of every scale that a later block reads, finest first."""
        for name, module in self.named_children():
            if isinstance(module, MSDNetLayer):
                features = module(features, shift, f"layer{name}")
            elif isinstance(module, Transition):
                features = module(features)
            else:
                features = module(features, shift)
        return features[-1:] if self.last else features


class MSDNet:
    """MSDNet as a backbone; every block may have a head."""

    def __init__(self, options: MSDNetOptions) -> None:
        self.options = options
        self.blocks = nn.ModuleList()
        self.coarsest_channels: list[int] = []
        self.head_blocks = tuple(range(len(options.layers)))
        channels, depth = options.channels, 0
        for index, count in enumerate(options.layers):
            modules: list[nn.Module] = [FirstLayer(options)] if index == 0 else []
            for _ in range(count):
                depth += 1
                scales_in, scales_out = options.scales_at(depth)
                modules.append(MSDNetLayer(channels, options, scales_in, scales_out))
                channels += options.growth
                if options.reduces_after(depth):
                    reduced = math.floor(options.reduction * channels)
                    modules.append(Transition(channels, reduced, options, scales_out))
                    channels = reduced
            self.blocks.append(MSDNetBlock(modules, last=index == len(options.layers) - 1))
            self.coarsest_channels.append(channels * options.growth_factors[-1])

    def embedding(self, block: int, head: HeadConfig) -> tuple[nn.Module, int]:
        """Return the embedding of the coarsest scale, as wide as that scale unless the head config says otherwise."""
        channels = self.coarsest_channels[block]
        if head.style == "linear":
            return linear_embedding(), channels
        width = head.width or channels
        return conv_embedding(channels, width), width

    def paper_macs(self, crop: int, classes: int) -> tuple[int, ...]:
        """Return the one-frame cost of blocks 0..m with one head on each, by MSDNet's op counter."""
        from .cost import op_counter  # imported here, because cost imports this module

        return op_counter(self, crop, classes)
