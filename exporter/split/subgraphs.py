"""The subgraphs of a network: one module per unique block and per unique head, with state as arguments and results.

Cells of a block share weights, so a grid of 8 x 5 cells has five block subgraphs. These modules are only exported and
proved; nothing else calls them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...grid.manifest import Precision
from ...grid.tensors import Dimension, DType, StatePort, TensorSpec
from ...models.network import Features, Head, VideoNetwork
from ...models.shift import Shift, ShiftConfig, StatefulShift, TwoWayShift

TORCH_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
DTYPES: dict[Precision, DType] = {"fp32": "float32", "fp16": "float16"}


@dataclass(frozen=True)
class SubgraphModule:
    """A module ready for export, with the names and shapes of its ports and its compute precision."""

    name: str
    kind: Literal["block", "head"]
    block: int
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StatePort, ...]
    precision: Precision

    @property
    def place(self) -> str:
        """``block3`` or ``head3``, as used for ranges, errors and ``fp32_only``; all heads of a block share one."""
        return f"{self.kind}{self.block}"


class BlockSubgraph(nn.Module):
    """One block over some frames of some videos.

    ``forward(*features, *states)`` returns ``(*features, *states)``. Features are [batch, frames, channels, height,
    width], states [batch, stride, fold, height, width].
    """

    def __init__(
        self,
        module: nn.Module,
        shift: ShiftConfig,
        block: int,
        points: Sequence[str],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        dtype: DType,
    ) -> None:
        super().__init__()
        self.module = module
        self.shift = shift
        self.block = block
        self.points = tuple(points)
        self.num_features = len(inputs)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.boundary: torch.dtype = getattr(torch, outputs[0].dtype)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the block's features and its new states."""
        features, states = tensors[: self.num_features], tensors[self.num_features :]
        frames = features[0].shape[1]
        shift = StatefulShift(self.shift, self.block, frames, dict(zip(self.points, states, strict=True)))
        out = self.features(features, shift)
        return (*out, *(shift.states_out[point] for point in self.points))

    def features(self, features: Features, shift: Shift) -> Features:
        """Return the block's features."""
        rows: Features = self.module(tuple(x.to(self.dtype).flatten(0, 1) for x in features), shift)
        return tuple(x.to(self.boundary).unflatten(0, (-1, shift.frames)) for x in rows)


class StaticBlockSubgraph(BlockSubgraph):
    """One block over all frames of some videos, without states: ``forward(*features)`` returns the features."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the block's features."""
        return self.features(tensors, TwoWayShift(self.shift, self.block, tensors[0].shape[1]))


class HeadSubgraph(nn.Module):
    """One head: embeds new frames, and answers from the embeddings of all frames seen.

    The end of ``embeddings`` [batch, l, width] holds the frames seen so far, in permuted order; before them are
    zeros. The mean over frames is a product with ``weights`` [batch, 1, l], which are 1/count for frames seen and 0
    otherwise, because a Reduce would sum in a different order at another batch size.
    """

    def __init__(self, head: Head, classifier: nn.Linear, precision: Precision) -> None:
        super().__init__()
        self.embed = copy.deepcopy(head.embed).to(TORCH_DTYPES[precision])
        self.dtype, self.wide = TORCH_DTYPES[precision], torch.float32
        self.linear = classifier

    def forward(self, features: Tensor, embeddings: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [batch, classes], probabilities [batch, classes], embeddings [batch, l, width]."""
        embeddings = torch.cat([embeddings, self.embedded(features)], dim=1)[:, -embeddings.shape[1] :]
        return (*self.answer(embeddings, weights), embeddings)

    def embedded(self, features: Tensor) -> Tensor:
        """Return the embeddings of new frames, [batch, frames, width]."""
        new: Tensor = self.embed(features.to(self.dtype).flatten(0, 1)).unflatten(0, (-1, features.shape[1]))
        return new.to(self.wide)

    def answer(self, embeddings: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, each [batch, classes]."""
        logits = self.linear(torch.matmul(weights, embeddings).squeeze(1))
        return logits, torch.softmax(logits, dim=-1)


class StaticHeadSubgraph(HeadSubgraph):
    """The head of a static network: answers from all frames at once, without a state."""

    def forward(self, features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return logits [batch, classes] and probabilities [batch, classes]."""
        return self.answer(self.embedded(features), weights)


def split(network: VideoNetwork, precision: Precision, fp32_only: Sequence[str] = ()) -> list[SubgraphModule]:
    """Return the subgraphs that the network's route needs, each block followed by its heads.

    In fp16 everything is half precision except the subgraphs ``fp32_only``, and every head's mean, linear layer and
    softmax. A feature is half precision only if both the block that writes it and the one that reads it are.
    BatchNorm is folded in fp32 into the convolution before it, wherever the two are adjacent in a Sequential.
    """
    network = copy.deepcopy(network).eval()
    fold_batchnorm(network)
    last = max(network.route.head_blocks)
    precisions: list[Precision] = ["fp32" if f"block{block}" in fp32_only else precision for block in range(last + 1)]
    crop = network.config.preprocessing.crop
    features: tuple[TensorSpec, ...] = (
        TensorSpec("frames", DTYPES[precisions[0]], ("batch", _frames(network), 3, crop, crop)),
    )
    found: list[SubgraphModule] = []
    for block, own in enumerate(precisions):
        reader = precisions[min(block + 1, last)]
        boundary: DType = "float16" if own == reader == "fp16" else "float32"
        part = _block(network, block, features, own, boundary)
        features = tuple(spec for spec in part.outputs if spec.name.startswith(f"block{block}."))
        found.append(part)
        head_precision: Precision = "fp32" if f"head{block}" in fp32_only else precision
        found += _heads(network, block, features[-1], head_precision)
    return found


def _frames(network: VideoNetwork) -> Dimension:
    return network.grid.num_frames if network.config.static else "frames"


def _block(
    network: VideoNetwork, block: int, inputs: tuple[TensorSpec, ...], precision: Precision, boundary: DType
) -> SubgraphModule:
    module, static, frames = network.blocks[block], network.config.static, _frames(network)
    shift = (TwoWayShift if static else StatefulShift)(network.config.shift, block, 2)
    with torch.no_grad():
        rows = module(tuple(torch.zeros(2, *spec.concrete(1, 1)[2:]) for spec in inputs), shift)
    handed = shift.states_out if isinstance(shift, StatefulShift) else {}
    points, dtype = tuple(handed), DTYPES[precision]
    outputs = tuple(
        TensorSpec(f"block{block}.feature{i}", boundary, ("batch", frames, *x.shape[1:])) for i, x in enumerate(rows)
    )
    states = tuple(StatePort(f"state_in.{point}", f"state_out.{point}") for point in points)
    shapes = [("batch", *x.shape[1:]) for x in handed.values()]
    ports = list(zip(states, shapes, strict=True))
    kind = StaticBlockSubgraph if static else BlockSubgraph
    return SubgraphModule(
        f"block{block}",
        "block",
        block,
        kind(module.to(TORCH_DTYPES[precision]), network.config.shift, block, points, inputs, outputs, dtype),
        inputs + tuple(TensorSpec(port.input, dtype, shape) for port, shape in ports),
        outputs + tuple(TensorSpec(port.output, dtype, shape) for port, shape in ports),
        states,
        precision,
    )


def head_name(network: VideoNetwork, checkpoint: int) -> str:
    """Return the name of the head subgraph that answers at a checkpoint (1-based)."""
    block, name = network.route.cells[checkpoint - 1].block, network.classifier_name(checkpoint)
    return f"head{block}" if name == "shared" else f"head{block}.{name}"


def _heads(network: VideoNetwork, block: int, feature: TensorSpec, precision: Precision) -> list[SubgraphModule]:
    here = [c.index for c in network.route.checkpoints if c.cell.block == block]
    found: dict[str, SubgraphModule] = {}
    for checkpoint in here:
        name = head_name(network, checkpoint)
        head = network.head(block)
        linear = head.classifiers[network.classifier_name(checkpoint)]
        assert isinstance(linear, nn.Linear)
        num_frames, classes = network.grid.num_frames, network.config.classes
        static = network.config.static
        shape: tuple[Dimension, ...] = ("batch", num_frames, head.width)
        states = () if static else (StatePort(f"embeddings_in.{block}", f"embeddings_out.{block}"),)
        found[name] = SubgraphModule(
            name,
            "head",
            block,
            (StaticHeadSubgraph if static else HeadSubgraph)(head, linear, precision),
            (
                feature,
                *(TensorSpec(state.input, "float32", shape) for state in states),
                TensorSpec("frame_weights", "float32", ("batch", 1, num_frames)),
            ),
            (
                TensorSpec("logits", "float32", ("batch", classes)),
                TensorSpec("probabilities", "float32", ("batch", classes)),
                *(TensorSpec(state.output, "float32", shape) for state in states),
            ),
            states,
            precision,
        )
    return list(found.values())


def in_fp64(part: SubgraphModule) -> SubgraphModule:
    """Return an fp32 subgraph whose module computes in fp64 on fp64 tensors, as a reference for fp32."""
    module = copy.deepcopy(part.module).double()
    if isinstance(module, BlockSubgraph):
        module.dtype = module.boundary = torch.float64
    elif isinstance(module, HeadSubgraph):
        module.dtype = module.wide = torch.float64
    return replace(part, module=module)


def fold_batchnorm(module: nn.Module) -> None:
    """Fold, in place, every BatchNorm that follows a convolution in a Sequential into that convolution."""
    for child in module.modules():
        if not isinstance(child, nn.Sequential):
            continue
        parts = list(child.named_children())
        for (name, conv), (after, norm) in pairwise(parts):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(child, name, fuse_conv_bn_eval(conv, norm))
                setattr(child, after, nn.Identity())
