"""Choose the convolutions that stay in fp32: as few as keep INT8 within its bounds, the most harmful first.

The bounds are on what users see: accuracy at every checkpoint, or without labels the share of videos that keep their
class; and the share of videos that leave at the same checkpoint. What to leave in fp32 is chosen by a finer figure,
the loss: the error of the logits against PyTorch's when only that cell, or that convolution, is in INT8. Everything
runs on from its own states, so that drift along the chain counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...calibration.choosing.thresholds import exits, geometric_thresholds
from ...calibration.scores.scores import Scores
from ...grid.bundle import Bundle
from ...grid.errors import ProofError
from ...runtime.backends.base import Backend
from ..proof.equivalence import PROOF_Q, SplitLogits, scale_of
from .quantized_variants import Layers, QuantizedVariants

LOG = logging.getLogger("dynvid")

Floats = NDArray[np.float32]

_SHARE = 4
"""Each step returns one in this many of the worst cell's convolutions to fp32, those with the largest loss."""


@dataclass(frozen=True)
class Choice:
    """What stays in fp32, and why.

    Attributes:
        kept: convolutions in fp32, by subgraph.
        cell_loss: of each subgraph when it alone is in INT8.
        layer_loss: of each convolution when it alone is in INT8, for the cells that were examined.
        scores: of the INT8 bundle on all videos.
        drop: at each checkpoint.
        agreement: of the exits, as ``exits_agree``.
    """

    kept: Layers
    cell_loss: Mapping[str, float]
    layer_loss: Mapping[str, Mapping[str, float]]
    scores: Scores
    drop: tuple[float, ...]
    agreement: float


def choose(
    twins: QuantizedVariants,
    clips: Floats,
    reference: Floats,
    backend: Backend,
    plain: Scores,
    score: Callable[[Bundle], Scores],
    max_drop: float,
    min_agreement: float,
) -> Choice:
    """Return the least that must stay in fp32, found by a greedy search from the largest loss to the smallest.

    Args:
        twins: of the bundle.
        clips: for measuring losses, preprocessed, in temporal order, [clips, l, 3, crop, crop].
        reference: the PyTorch network's logits for them, or the fp32 bundle's, [clips, checkpoints, classes].
        backend: for measuring losses.
        plain: scores of the fp32 bundle.
        score: returns the scores of an INT8 bundle on the same videos.
        max_drop: see ``drops``.
        min_agreement: see ``exits_agree``.

    Raises:
        ProofError: If the bounds do not hold even with everything in fp32.
    """
    layers = twins.layers
    kept: dict[str, tuple[str, ...]] = {name: () for name in layers}
    cell_loss: dict[str, float] = {}
    layer_loss: dict[str, dict[str, float]] = {}

    def loss(only: Layers) -> float:
        others = {name: set(found).difference(only.get(name, ())) for name, found in layers.items()}
        return _loss(SplitLogits(twins.bundle(others), backend, "int8", clips).first(len(clips)), reference)

    for name, found in layers.items():
        LOG.info(f"int8: measuring the loss of {name}")
        if found:
            cell_loss[name] = loss({name: found})
    left = dict(cell_loss)
    while True:
        scores = score(twins.bundle(kept))
        drop, agreement = drops(plain, scores), exits_agree(plain, scores)
        if max(drop) <= max_drop and agreement >= min_agreement:
            return Choice(kept, cell_loss, layer_loss, scores, drop, agreement)
        seen = f"int8 drops {max(drop):.4f}, {agreement:.4f} of the exits agree"
        if not left:
            raise ProofError(
                f"{seen} with everything in fp32: expected at most {max_drop} at every checkpoint, and at least "
                f"{min_agreement}; run 'dynvid verify BUNDLE', or export again"
            )
        name = max(left, key=left.__getitem__)
        if name not in layer_loss:
            LOG.info(f"{seen}: examining {name}")
            layer_loss[name] = {layer: loss({name: (layer,)}) for layer in layers[name]}
        still = sorted(set(layers[name]).difference(kept[name]), key=layer_loss[name].__getitem__, reverse=True)
        kept[name] = (*kept[name], *still[: -(-len(layers[name]) // _SHARE)])
        rest = [layer for layer in layers[name] if layer not in kept[name]]
        if rest:
            left[name] = loss({name: rest})
        else:
            del left[name]
        LOG.info(f"{seen}: {len(kept[name])} of {len(layers[name])} convolutions of {name} stay in fp32")


def drops(plain: Scores, found: Scores) -> tuple[float, ...]:
    """Return what INT8 loses at each checkpoint: accuracy, or without labels the share of videos with another class."""
    classes, plain_classes = (common(scores, plain, found).argmax(axis=2) for scores in (found, plain))
    if plain.labels is None:
        return tuple((classes != plain_classes).mean(axis=1).tolist())
    labels = plain.labels[np.isin(plain.videos, found.videos)]
    lost = (plain_classes == labels).mean(axis=1) - (classes == labels).mean(axis=1)
    return tuple(lost.tolist())


def exits_agree(plain: Scores, found: Scores) -> float:
    """Return the share of videos with the same exit as in fp32, at q = 1.2, each with thresholds of its own scores."""
    left, right = exits_of(plain, found)
    return float((left == right).mean())


def exits_of(plain: Scores, found: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each video's exit in fp32 and in INT8, counted from 0."""
    confidences = (common(scores, plain, found).max(axis=2) for scores in (plain, found))
    left, right = (exits(values, geometric_thresholds(values, PROOF_Q)) for values in confidences)
    return left, right


def common(scores: Scores, one: Scores, other: Scores) -> NDArray[np.floating]:
    """Return the probabilities of the videos that have scores in both, [checkpoints, videos, classes]."""
    both = set(one.videos).intersection(other.videos)
    rows = np.array([name in both for name in scores.videos])
    result: NDArray[np.floating] = scores.probabilities[:, rows]
    return result


def _loss(logits: Floats, reference: Floats) -> float:
    """Return the RMS error of the logits at the worst checkpoint, in standard deviations of a video's logits."""
    errors = np.sqrt(((logits - reference) ** 2).mean(axis=(0, 2))) / scale_of(reference)
    return float(errors.max())
