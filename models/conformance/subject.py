"""The network under test of the conformance kit, and the ways in which checks run and compare it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ...grid.errors import NetworkError
from ..network import Backbone, Features, NetworkConfig, VideoNetwork, initialise
from ..registry import build, build_backbone
from ..shift import Shift, ShiftConfig, StatefulShift, WholeShift

AGREES = 1e-9  # float64: two ways to compute a value may differ by this share of the tensor's largest value
OFF = ShiftConfig(enabled=False)


class Subject:
    """The network under test, and what the checks examine. A video is [batch, frames, channels, height, width]."""

    def __init__(self, config: NetworkConfig, seed: int) -> None:
        if config.static:
            raise NetworkError("conformance checks a network along a route, but this one is static: leave static out")
        self.config = config
        self.seed = seed
        self.pieces = (3, 1, 3 + config.shift.stride)  # ragged, and more frames than a state holds
        self.num_frames = sum(self.pieces)

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone alone, to test more heads than the configuration has."""
        return build_backbone(self.config.network, self.config.options)

    def build(self, config: NetworkConfig, seed: int) -> VideoNetwork:
        """Return the network with PyTorch's initial weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(config).eval()

    @cached_property
    def untrained(self) -> VideoNetwork:
        """The network as built, float32."""
        return self.build(self.config, self.seed)

    @cached_property
    def network(self) -> VideoNetwork:
        """The network with weights that preserve the signal, float64."""
        return initialise(copy.deepcopy(self.untrained), self.seed).double()

    def frames(self, batch: int, frames: int) -> Tensor:
        """Return noise, [batch, frames, 3, crop, crop], float64."""
        crop = self.config.preprocessing.crop
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(batch, frames, 3, crop, crop, generator=generator, dtype=torch.float64)

    @cached_property
    def rough(self) -> list[Features]:
        """The input of every block of the untrained network, then the last block's output, without shift, float32."""
        return chain(self.untrained, self.frames(2, 3).float(), OFF)

    @cached_property
    def videos(self) -> list[Features]:
        """The input of every block, then the last block's output: two videos, float64."""
        return chain(self.network, self.frames(2, self.num_frames), self.config.shift)

    def whole(self, block: int, videos: Features) -> Features:
        """Return a block's output for whole videos."""
        return call(self.network.blocks[block], videos, WholeShift(self.config.shift, block, videos[0].shape[1]))

    def stateful(
        self, block: int, videos: Features, states: dict[str, Tensor] | None
    ) -> tuple[Features, dict[str, Tensor]]:
        """Return a block's output for the next frames of some videos, and its new states."""
        shift = StatefulShift(self.config.shift, block, videos[0].shape[1], states)
        return call(self.network.blocks[block], videos, shift), shift.states_out


class Watch(Shift):
    """Shifts nothing; records the name and shape of every call."""

    def __init__(self, block: int, frames: int) -> None:
        super().__init__(OFF, block, frames)
        self.calls: list[tuple[str, tuple[int, ...]]] = []

    def __call__(self, rows: Tensor, point: str) -> Tensor:
        """Return ``rows``."""
        self.calls.append((point, tuple(rows.shape)))
        return rows

    def taken(self, name: str, moving: Tensor) -> Tensor:
        """Return ``moving``; never called."""
        return moving


def call(block: nn.Module, videos: Features, shift: Shift) -> Features:
    """Return a block's features as videos, from copies of the block and of its input."""
    rows = copy.deepcopy(block)(tuple(x.flatten(0, 1).clone() for x in videos), shift)
    return tuple(x.unflatten(0, (-1, shift.frames)) for x in rows)


def chain(network: VideoNetwork, frames: Tensor, config: ShiftConfig) -> list[Features]:
    """Return the input of every block, then the last block's output."""
    videos: list[Features] = [(frames,)]
    for block, module in enumerate(network.blocks):
        videos.append(call(module, videos[-1], WholeShift(config, block, frames.shape[1])))
    return videos


def cut(videos: Features, sizes: int | Sequence[int], dim: int) -> list[Features]:
    """Return pieces of ``sizes`` along frames (dim 1) or videos (dim 0)."""
    return list(zip(*(x.split(sizes, dim) for x in videos), strict=True))


def join(pieces: Sequence[Features], dim: int) -> Features:
    """Reverse ``cut``."""
    return tuple(torch.cat(parts, dim) for parts in zip(*pieces, strict=True))


def gap(left: Tensor, right: Tensor) -> float:
    """Return the largest difference as a share of the largest value; infinite if shapes differ or a value is NaN."""
    if left.shape != right.shape:
        return float("inf")
    difference = float((left - right).abs().max() / right.abs().max().clamp_min(1e-30))
    return difference if difference == difference else float("inf")


def unlike(what: str, got: Features, expected: Features) -> Iterator[str]:
    """Yield a line for each feature that differs from what was expected."""
    if len(got) != len(expected):
        yield f"{what}: {len(got)} features, expected {len(expected)}"
    for i, (left, right) in enumerate(zip(got, expected, strict=False)):
        if not (error := gap(left, right)) <= AGREES:
            yield f"{what}: feature {i} differs by {error:.2g} of its largest value, expected at most {AGREES:g}"
