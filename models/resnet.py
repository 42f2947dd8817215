"""ResNet with bottlenecks (He et al., 2016), v1.5 as in torchvision unless asked: stem, res2, res3, res4, res5.

The online shift acts on the input of conv1 of every bottleneck; the identity path is not shifted (TSM's residual
shift, Lin et al., 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..grid.errors import NetworkError
from .network import Features, HeadConfig, conv_embedding, linear_embedding
from .shift import Shift

EXPANSION = 4
HEAD_WIDTH = 256


@dataclass(frozen=True)
class ResNetOptions:
    """A ResNet.

    Attributes:
        layers: the number of bottlenecks in each stage.
        width: of the first stage's 3x3 convolutions.
        stride_in_1x1: a stage's stride lies in its first 1x1 convolution, as in Caffe's ResNets, not in the 3x3 one.
        dilated: so many of the last stages dilate their 3x3 convolutions instead of striding, as torchvision's
            ``replace_stride_with_dilation``.
    """

    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stride_in_1x1: bool = False
    dilated: int = 0

    def __post_init__(self) -> None:
        """Accept lists, as JSON gives them, and reject empty stages."""
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers or min(self.layers) < 1 or self.width < 1:
            raise NetworkError(f"ResNet layers {self.layers}, width {self.width}: expected at least 1 everywhere")
        if not 0 <= self.dilated < len(self.layers):
            raise NetworkError(
                f"{self.dilated} dilated stages: expected 0 to {len(self.layers) - 1}, since the first has no stride"
            )


class Stem(nn.Module):
    """conv 7x7 stride 2, BatchNorm, ReLU, max-pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def forward(self, features: Features, shift: Shift) -> Features:
        """Return one tensor [rows, width, height / 4, width / 4]."""
        (x,) = features
        return (self.net(x),)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside an identity or projection."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int = 1, stride_in_1x1: bool = False) -> None:
        super().__init__()
        out = width * EXPANSION
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 1, stride=first, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride=second, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The last BatchNorm of the residual path."""
        last = self.residual[-1]
        assert isinstance(last, nn.BatchNorm2d)
        return last

    def forward(self, x: Tensor, shift: Shift, point: str) -> Tensor:
        """Return [rows, 4 * width, height / stride, width / stride]; only the residual path is shifted."""
        identity = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.residual(shift(x, point)) + identity)


class Stage(nn.ModuleList):
    """The bottlenecks of one stage."""

    def forward(self, features: Features, shift: Shift) -> Features:
        """Return one tensor."""
        (x,) = features
        for index, bottleneck in enumerate(self):
            x = bottleneck(x, shift, f"conv{index}")
        return (x,)


class ResNet:
    """ResNet as a backbone; the last three blocks may have heads (paper, section 4)."""

    def __init__(self, options: ResNetOptions) -> None:
        self.blocks = nn.ModuleList([Stem(options.width)])
        self.channels = [options.width]
        dilation = 1
        for stage, count in enumerate(options.layers):
            width, stride, before = options.width * 2**stage, 1 if stage == 0 else 2, dilation
            if stage >= len(options.layers) - options.dilated:
                dilation, stride = dilation * stride, 1
            modules = [Bottleneck(self.channels[-1], width, stride, before, options.stride_in_1x1)]
            modules += [Bottleneck(width * EXPANSION, width, 1, dilation) for _ in range(count - 1)]
            self.blocks.append(Stage(modules))
            self.channels.append(width * EXPANSION)
        # start training near the identity, so that depth does not amplify small differences (Zhang et al., 2019)
        for module in self.blocks.modules():
            if isinstance(module, Bottleneck):
                nn.init.constant_(module.norm.weight, sum(options.layers) ** -0.5)
        self.head_blocks = tuple(range(len(self.blocks)))[-3:]

    def embedding(self, block: int, head: HeadConfig) -> tuple[nn.Module, int]:
        """Return the embedding of a block's output, 256 wide with ``conv`` heads unless the head config differs."""
        if head.style == "linear":
            return linear_embedding(), self.channels[block]
        width = head.width or HEAD_WIDTH
        return conv_embedding(self.channels[block], width), width

    def paper_macs(self, crop: int, classes: int) -> None:
        """Return None: the paper counted the convolutions of the blocks."""
        return None
