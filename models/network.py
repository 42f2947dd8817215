"""A dynamic-inference video network: a backbone cut into blocks, and the heads of its checkpoints.

To add a network, provide a ``Backbone``: its blocks, the blocks that may have a head, and a head's embedding.
Everything else (shift, heads, checkpoints, the split, the cost) is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..grid.errors import NetworkError
from ..grid.preprocessing import Preprocessing
from ..grid.route import Route
from ..grid.topology import Cell, Grid
from .shift import Shift, ShiftConfig, TwoWayShift, WholeShift

Features = tuple[Tensor, ...]
Branch = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""Maps a block with checkpoints and its last feature to what its head reads, and what goes on to the next block."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The heads of a network.

    Attributes:
        style: ``conv``: two 3x3 convolutions with stride 2, then the global mean; ``linear``: the global mean only.
        width: channels of the convolutions; None for the network's own default.
        share_classifier: whether checkpoints on one block share the whole head; if False, only its embedding.
        dropout: probability in training, before the linear layer.
    """

    style: Literal["conv", "linear"] = "conv"
    width: int | None = None
    share_classifier: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Reject impossible heads."""
        if self.style not in ("conv", "linear") or not 0 <= self.dropout < 1:
            raise NetworkError(
                f"head style {self.style!r}, dropout {self.dropout}: expected 'conv' or 'linear', [0, 1)"
            )
        if self.width is not None and not 1 <= self.width <= 65536:
            raise NetworkError(f"head width {self.width}: expected 1 to 65536, or null for the network's own")


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that a training checkpoint says about its network, except the weights.

    ``heads`` are the blocks that have a head; ``options`` belong to the registered ``network`` only. A ``static``
    network answers once, from all frames in temporal order: TSN without the shift, TSM with it, both ways.
    """

    network: str
    classes: int
    grid: Grid
    route: tuple[Cell, ...]
    heads: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    shift: ShiftConfig = field(default_factory=ShiftConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] | None = None
    static: bool = False

    def __post_init__(self) -> None:
        """Reject class counts and labels that disagree, and static networks with a route."""
        if self.classes < 2:
            raise NetworkError(f"{self.classes} classes: expected at least 2")
        if self.labels is not None and len(self.labels) != self.classes:
            raise NetworkError(f"{len(self.labels)} labels for {self.classes} classes: give one label per class")
        if self.static:
            self._check_static()

    def _check_static(self) -> None:
        full = Cell(self.grid.input_sets - 1, max(self.heads))
        if self.route != (full,):
            raise NetworkError(
                f"route {' '.join(map(str, self.route))} of a static network: expected 'full', here {full}, since it "
                "answers once. Leave route out, or remove static."
            )
        if self.grid.permutation != "none":
            raise NetworkError(
                f"permutation {self.grid.permutation!r} of a static network: expected 'none', since it sees all frames "
                "in temporal order. Leave permutation out, or remove static."
            )
        if self.shift.enabled and self.shift.start_fold + TwoWayShift.folds > self.shift.div:
            raise NetworkError(
                f"shift div {self.shift.div}, start_fold {self.shift.start_fold} of a static network: expected "
                f"start_fold <= div - {TwoWayShift.folds}, since it shifts one fold from each side"
            )


class Backbone(Protocol):
    """What a network provides: blocks, the blocks that may have a head, and a head's embedding.

    A block is a module ``block(features, shift) -> features``. ``features`` is a tuple of tensors [batch * frames,
    channels, height, width], with the frames of a video together and in order. The first block gets one, the
    preprocessed frames. ``shift(rows, point)`` returns ``rows`` after the online temporal shift; a block calls it
    with a unique name for each layer that may be shifted. Otherwise a block must not use other frames, and never
    other videos.
    """

    blocks: nn.ModuleList
    head_blocks: tuple[int, ...]

    def embedding(self, block: int, head: HeadConfig) -> tuple[nn.Module, int]:
        """Return a module that maps a block's last feature to [batch * frames, width], and the width."""
        ...

    def paper_macs(self, crop: int, classes: int) -> tuple[int, ...] | None:
        """Return the one-frame cost of blocks 0..m as the paper counts it; None: the blocks' convolutions."""
        ...


class Head(nn.Module):
    """The embedding of one block's features, and the linear layers of the checkpoints on that block."""

    def __init__(self, embed: nn.Module, width: int, classes: int, names: Sequence[str], dropout: float) -> None:
        super().__init__()
        self.embed = embed
        self.width = width
        self.dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleDict({name: nn.Linear(width, classes) for name in names})


class VideoNetwork(nn.Module):
    """The whole network: every checkpoint's logits from all frames at once. It is the reference of every proof."""

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        self.route = Route(config.grid, config.route)
        self.blocks = backbone.blocks
        self.paper_macs = backbone.paper_macs
        self.head_blocks = backbone.head_blocks
        if len(self.blocks) != config.grid.blocks:
            raise NetworkError(
                f"network {config.network!r} has {len(self.blocks)} blocks, but its grid has {config.grid.blocks}: "
                "they must agree"
            )
        self.heads = nn.ModuleDict()
        for block in config.heads:
            if block not in backbone.head_blocks:
                raise NetworkError(
                    f"network {config.network!r} allows no head on block {block}; expected some of "
                    f"{backbone.head_blocks}"
                )
            embed, width = backbone.embedding(block, config.head)
            names = [self.classifier_name(k) for k, cell in enumerate(config.route, 1) if cell.block == block]
            self.heads[str(block)] = Head(
                embed, width, config.classes, list(dict.fromkeys(names)) or ["shared"], config.head.dropout
            )

    def classifier_name(self, checkpoint: int) -> str:
        """Return the name of the linear layer of a checkpoint (1-based) within its block's head."""
        return "shared" if self.config.head.share_classifier else f"checkpoint{checkpoint}"

    def head(self, block: int) -> Head:
        """Return the head on ``block``."""
        head = self.heads[str(block)]
        assert isinstance(head, Head)
        return head

    def with_route(self, route: Route) -> VideoNetwork:
        """Set this network's route, keeping the heads; return the network.

        Raises:
            NetworkError: If the route is fixed: the network is static, or every checkpoint has its own linear layer.
        """
        if self.config.static and route.cells != self.route.cells:
            raise NetworkError(
                f"route {' '.join(map(str, route.cells))}: this network is static and answers once, at "
                f"{self.route.cells[0]}. Leave out --route."
            )
        if not self.config.head.share_classifier and route.cells != self.route.cells:
            raise NetworkError(
                "this network was trained with one linear layer per checkpoint (share_classifier false): its route "
                f"is {' '.join(map(str, self.route.cells))}. Leave out --route."
            )
        self.route = route
        return self

    def with_last_checkpoint(self) -> VideoNetwork:
        """Leave the route's last checkpoint alone, and its linear layer: the static network; return the network."""
        last = self.route.checkpoints[-1]
        classifiers = self.head(last.cell.block).classifiers
        classifiers[self.classifier_name(1)] = classifiers[self.classifier_name(last.index)]
        self.route = self.route.full
        return self

    def forward(self, frames: Tensor, branch: Branch | None = None) -> list[Tensor]:
        """Return the logits of every checkpoint of the route, each [batch, classes].

        Args:
            frames: preprocessed frames in permuted order, [batch, l, 3, height, width].
            branch: changes gradients in training (gradient equilibrium); None: as they are.
        """
        batch, num_frames = frames.shape[:2]
        size = self.grid.frames_per_set
        border = None if self.grid.border is None else self.grid.border * size
        features: Features = (frames.flatten(0, 1),)
        logits: dict[int, Tensor] = {}
        for block in range(max(self.route.head_blocks) + 1):
            shift = self._shift(block, num_frames, border)
            features = self.blocks[block](features, shift)
            here = [c for c in self.route.checkpoints if c.cell.block == block]
            if not here:
                continue
            head, read = self.head(block), features[-1]
            if branch is not None:
                read, onward = branch(block, read)
                features = (*features[:-1], onward)
            seen = (here[-1].cell.input_set + 1) * size  # frames that the last checkpoint on this block sees
            rows = read.unflatten(0, (batch, num_frames))[:, :seen].flatten(0, 1)
            embeddings = head.embed(rows).unflatten(0, (batch, seen))  # [batch, seen, width]
            for checkpoint in here:
                mean = embeddings[:, : (checkpoint.cell.input_set + 1) * size].mean(dim=1)
                linear = head.classifiers[self.classifier_name(checkpoint.index)]
                logits[checkpoint.index] = linear(head.dropout(mean))
        return [logits[checkpoint.index] for checkpoint in self.route.checkpoints]

    def _shift(self, block: int, frames: int, border: int | None) -> Shift:
        if self.config.static:
            return TwoWayShift(self.config.shift, block, frames)
        return WholeShift(self.config.shift, block, frames, border)


def conv_embedding(channels: int, width: int) -> nn.Module:
    """Return two 3x3 convolutions with stride 2, each with BatchNorm and ReLU, then the global mean."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def linear_embedding() -> nn.Module:
    """Return the global mean."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@torch.no_grad()
def initialise(network: VideoNetwork, seed: int) -> VideoNetwork:
    """Give an untrained network weights that preserve the signal, and return it in eval mode.

    He fan-in for convolutions and linear layers, zero biases, and BatchNorm statistics measured on one batch of
    noise. With PyTorch's defaults every single state of MSDNet-38 could be lost unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
            std = (gain / module.weight[0].numel()) ** 0.5
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * std)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # cumulative mean, here of a single batch
    crop = network.config.preprocessing.crop
    noise = torch.randn(2, network.grid.num_frames, 3, crop, crop, generator=generator)
    # smooth noise, in which neighbouring frames differ as real ones do
    smooth = nn.functional.avg_pool2d(noise.flatten(0, 1), 5, 1, 2).unflatten(0, noise.shape[:2])
    network.train()
    network(smooth / smooth.std())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return network.eval()
