"""Measure the reference's own rounding: PyTorch's fp32 against its own fp64, on one clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.network import VideoNetwork
from ..split.subgraphs import HeadSubgraph, SubgraphModule, head_name, in_fp64, split
from .tolerances import Rounding, relative

Outputs = dict[str, dict[str, Tensor]]  # by subgraph and port


@torch.no_grad()
def measure_rounding(network: VideoNetwork, clip: NDArray[np.float32]) -> Rounding:
    """Return the difference of fp32 from fp64 at every checkpoint, and in every output of every subgraph.

    In each precision the subgraphs run in a chain over all frames, so that their inputs differ as they do when the
    whole network runs.

    Args:
        network: in eval mode, fp32.
        clip: preprocessed, in temporal order, [l, 3, crop, crop].
    """
    frames, parts = torch.from_numpy(clip[list(network.grid.frame_order)])[None], split(network, "fp32")
    single, single_logits = _chain(parts, frames, network)
    exact, exact_logits = _chain([in_fp64(part) for part in parts], frames.double(), network)
    checkpoints = [_relative(*pair) for pair in zip(single_logits, exact_logits, strict=True)]
    tensors = {
        name: {
            port: _relative(single[name][port], value)
            for port, value in ports.items()
            if port != "probabilities"  # judged against their own logits
        }
        for name, ports in exact.items()
    }
    return Rounding(tuple(checkpoints), tensors)


def _relative(single: Tensor, exact: Tensor) -> float:
    return relative(float((single - exact).abs().max()), float(exact.std()))


def _chain(parts: Sequence[SubgraphModule], frames: Tensor, network: VideoNetwork) -> tuple[Outputs, list[Tensor]]:
    """Return each subgraph's outputs for all frames [1, l, 3, crop, crop], and each checkpoint's logits, [classes]."""
    border = network.grid.border
    cut = frames.shape[1] if border is None else border * network.grid.frames_per_set
    found: Outputs = {}
    features = {"frames": frames}
    for part in parts:
        states = {state.input: state.output for state in part.states}
        pieces: list[dict[str, Tensor]] = []
        for start, stop in ((0, cut), (cut, frames.shape[1])):
            if start == stop:
                continue
            inputs = []
            for spec in part.inputs:
                if spec.name == "frame_weights":
                    inputs.append(torch.full(spec.concrete(1, 1), 1 / frames.shape[1], dtype=frames.dtype))
                elif spec.name not in states:
                    inputs.append(features[spec.name][:, start:stop])
                elif part.kind == "head" and pieces:  # embeddings continue; states restart at the border
                    inputs.append(pieces[-1][states[spec.name]])
                else:
                    inputs.append(torch.zeros(spec.concrete(1, 1), dtype=frames.dtype))
            pieces.append(dict(zip((spec.name for spec in part.outputs), part.module(*inputs), strict=True)))
        found[part.name] = pieces[-1]
        for spec in part.outputs:
            if "frames" in spec.shape:
                found[part.name][spec.name] = torch.cat([p[spec.name] for p in pieces], dim=1)
        features |= found[part.name]
    linear = {part.name: part.module.linear for part in parts if isinstance(part.module, HeadSubgraph)}
    logits = []
    for checkpoint in network.route.checkpoints:
        head, seen = head_name(network, checkpoint.index), (checkpoint.cell.input_set + 1) * network.grid.frames_per_set
        if network.config.static:
            logits.append(found[head]["logits"][0])
            continue
        embeddings = found[head][f"embeddings_out.{checkpoint.cell.block}"]  # of all frames, in permuted order
        logits.append(linear[head](embeddings[0, :seen].mean(dim=0)))
    return found, logits
