"""MobileNetV2 (Sandler et al., 2018) in four blocks, with the online temporal shift: a network outside dynvid.

As in TSM (Lin et al., 2019), the shift acts on the input of every inverted residual that has an identity path,
which stays unshifted.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynvid.models.network import Features, HeadConfig, conv_embedding, linear_embedding
from dynvid.models.shift import Shift

# block by block: (expansion, channels, layers, stride of the first); MobileNetV2's table 2, cut where the size halves
STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 2)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
STEM_CHANNELS = 32
HEAD_WIDTH = 256


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out)]  # adjacent in a Sequential, so that the export folds them


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise 3x3, projection 1x1; beside an identity where sizes allow."""

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.identity = stride == 1 and channels == out
        expand = [*_conv(channels, inner, 1), nn.ReLU6()] if expansion > 1 else []
        self.net = nn.Sequential(
            *expand, *_conv(inner, inner, 3, stride, groups=inner), nn.ReLU6(), *_conv(inner, out, 1)
        )

    def forward(self, x: Tensor, shift: Shift, point: str) -> Tensor:
        """Return [rows, out, height / stride, width / stride]."""
        if not self.identity:
            return self.net(x)
        return x + self.net(shift(x, point))


class Block(nn.ModuleList):
    """Inverted residuals, after the stem where the block is the first."""

    def forward(self, features: Features, shift: Shift) -> Features:
        """Return one tensor."""
        (x,) = features
        for index, layer in enumerate(self):
            x = layer(x, shift, f"layer{index}") if isinstance(layer, InvertedResidual) else layer(x)
        return (x,)


class MobileVideo:
    """MobileNetV2 as a backbone; heads sit on the last three blocks."""

    def __init__(self, width: float) -> None:
        channels = _divisible(STEM_CHANNELS * width)
        layers: list[nn.Module] = [nn.Sequential(*_conv(3, channels, 3, stride=2), nn.ReLU6())]
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        for stages in STAGES:
            for expansion, base, count, first_stride in stages:
                for index in range(count):
                    out, stride = _divisible(base * width), first_stride if index == 0 else 1
                    layers.append(InvertedResidual(channels, out, expansion, stride))
                    channels = out
            self.blocks.append(Block(layers))
            self.channels.append(channels)
            layers = []
        self.head_blocks = (1, 2, 3)

    def embedding(self, block: int, head: HeadConfig) -> tuple[nn.Module, int]:
        """Return the embedding of a block's output, and its width."""
        if head.style == "linear":
            return linear_embedding(), self.channels[block]
        width = head.width or HEAD_WIDTH
        return conv_embedding(self.channels[block], width), width

    def paper_macs(self, crop: int, classes: int) -> None:
        """Return None: dynvid counts the convolutions of the blocks."""
        return None


def _divisible(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8, so that a shift div of 8 moves at least one channel."""
    return max(8, int(channels + 4) // 8 * 8)


def mobile_video(width: float = 1.0) -> MobileVideo:
    """Return the backbone; ``width`` multiplies every layer's channels."""
    return MobileVideo(width)
