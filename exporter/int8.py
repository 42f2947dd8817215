"""INT8 within a bound: which convolutions stay in fp32, by what each costs along the route, and the proof of what is left.

The bounds are on what users see: accuracy at every checkpoint, or without labels the share of videos that keep their class; and the
share of videos that leave where they left.
What to leave in fp32 is decided by a finer figure, the loss: how far the logits are from PyTorch's when only that cell, or that
convolution, is in INT8 and everything runs on from its own states, so that drift along the chain counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration.range_pass import WatchedExecutor, find_ranges
from ..calibration.scores import Scores
from ..calibration.scoring import score_videos
from ..calibration.thresholds import exits, geometric_thresholds
from ..grid.bundle import Bundle, require_target, write_bundle
from ..grid.errors import ProofError
from ..grid.manifest import Manifest
from ..grid.thresholds import read_thresholds
from ..models.network import VideoNetwork
from ..runtime.backends.base import Backend, open_backend
from ..runtime.decoder import Decoder
from ..runtime.session import Session
from ..runtime.video_list import ListedVideo, read_list
from .bounds import rounded
from .export import network_of
from .proof import PROOF_Q, SIZES, load_programs, prove_subgraphs, scale_of, traced_logits
from .reference import observe
from .sight import drift
from .subgraphs import split
from .twins import Layers, Twins
from .watch import watch

Floats = NDArray[np.float32]
Report = Callable[[str], None]

MAX_DROP = 0.005
"""Of accuracy at any checkpoint, where nothing else is asked for: half a point."""

MIN_AGREEMENT = 0.975
"""Of exits with those of fp32, where nothing else is asked for: on videos other than those chosen on it is a little less."""

LOSS_CLIPS = 8
"""Videos that losses are measured on: the first of the list."""

_SHARE = 4
"""At each step a quarter of the worst cell's convolutions returns to fp32, those of the largest loss."""


@dataclass(frozen=True)
class Choice:
    """What stays in fp32, and why.

    Attributes:
        kept: convolutions in fp32, by subgraph.
        cell_loss: of each subgraph alone in INT8.
        layer_loss: of each convolution alone in INT8, of the cells that were looked into.
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
    twins: Twins,
    clips: Floats,
    reference: Floats,
    backend: Backend,
    plain: Scores,
    score: Callable[[Bundle], Scores],
    max_drop: float,
    min_agreement: float,
    report: Report,
) -> Choice:
    """Return the least that has to stay in fp32, as far as going from the worst loss to the least finds it.

    Args:
        twins: of the bundle.
        clips: that the losses are measured on, preprocessed, in temporal order, [clips, l, 3, crop, crop].
        reference: the PyTorch network's logits for them, or the fp32 bundle's, [clips, checkpoints, classes].
        backend: what the losses are measured on.
        plain: scores of the fp32 bundle.
        score: returns the scores of an INT8 bundle on the same videos.
        max_drop: see ``drops``.
        min_agreement: see ``exits_agree``.
        report: gets a line about each step.

    Raises:
        ProofError: If the bounds do not hold even with everything in fp32.
    """
    layers = twins.layers
    kept: dict[str, tuple[str, ...]] = {name: () for name in layers}
    cell_loss: dict[str, float] = {}
    layer_loss: dict[str, dict[str, float]] = {}

    def loss(only: Layers) -> float:
        others = {name: set(found).difference(only.get(name, ())) for name, found in layers.items()}
        return _loss(traced_logits(twins.bundle(others), backend, "int8", clips), reference)

    for name, found in layers.items():
        report(f"int8: loss of {name}")
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
                f"{seen} with everything in fp32: expected at most {max_drop} at every checkpoint, and at least {min_agreement}; run "
                "'dynvid verify BUNDLE', or export again"
            )
        name = max(left, key=left.__getitem__)
        if name not in layer_loss:
            report(f"{seen}: looking into {name}")
            layer_loss[name] = {layer: loss({name: (layer,)}) for layer in layers[name]}
        still = sorted(set(layers[name]).difference(kept[name]), key=layer_loss[name].__getitem__, reverse=True)
        kept[name] = (*kept[name], *still[: -(-len(layers[name]) // _SHARE)])
        rest = [layer for layer in layers[name] if layer not in kept[name]]
        if rest:
            left[name] = loss({name: rest})
        else:
            del left[name]
        report(f"{seen}: {len(kept[name])} of {len(layers[name])} convolutions of {name} stay in fp32")


def calibrate_int8(
    bundle: Bundle,
    training_checkpoint: Path,
    data: Path,
    root: Path,
    keep: Path,
    plain: Scores,
    backend: Backend,
    threads: int | None,
    thresholds: Path | None,
    max_drop: float | None,
    min_agreement: float,
    report: Report,
) -> tuple[Bundle, Scores]:
    """Write ``bundle`` with INT8 twins, proved, to ``root``; return it, and its INT8 set's scores.

    Args:
        bundle: stays as it is.
        training_checkpoint: that it was exported from.
        data: LIST of the videos that ranges, losses and drops are measured on.
        root: folder of the new bundle.
        keep: file that the ranges are read from, if it is there, and else written to.
        plain: scores of ``bundle`` on these videos.
        backend: what runs the bundles; ranges are found on onnxruntime.
        threads: of onnxruntime; None: one a core.
        thresholds: T.json that videos leave by while ranges are found; None: they run to the end.
        max_drop: see ``drops``; None: ``MAX_DROP``.
        min_agreement: see ``exits_agree``.
        report: gets a line about each step.

    Raises:
        TooFewVideosError, RangesError, StaleRangesError, ListError, VideoError: As ``find_ranges``.
        ThresholdsError, StaleThresholdsError: If the thresholds are not the bundle's.
        ProofError: If the bounds do not hold, or INT8 couples videos.
        InputRefusedError, ResourceError: If the bundle cannot be written.
    """
    require_target(root)
    manifest, videos = bundle.manifest, read_list(data)
    chosen = (
        None if thresholds is None else read_thresholds(thresholds, bundle.sha256, len(manifest.route_cells)).thresholds
    )
    network, watched = network_of(manifest, training_checkpoint), watch(bundle)
    with Decoder() as decoder:
        executor = WatchedExecutor(watched.bundle, open_backend("onnxruntime", threads), watched.tensors)
        ranges = find_ranges(executor, watched.tensors, videos, keep, decoder, report, chosen)
        clips = np.stack([_read(decoder, video, manifest) for video in videos[:LOSS_CLIPS]])

        def score(made: Bundle) -> Scores:
            return score_videos(Session(made, backend, precision="int8"), videos, None, decoder, report)

        reference, _ = observe(network, clips, report)
        twins = Twins(bundle, ranges)
        drop = MAX_DROP if max_drop is None else max_drop
        choice = choose(twins, clips, reference, backend, plain, score, drop, min_agreement, report)
    made = twins.bundle(choice.kept)
    report("int8: videos alone and among others")
    proof = figures(choice, twins, plain, rounded(drift(network, made, backend, "int8", clips[0])))
    proof["subgraphs"] = prove_twins(network, made, backend, clips)
    proof["ranges"] = {"data_sha256": ranges.data_sha256, "videos": ranges.videos, "reached": list(ranges.reached)}
    assert made.held is not None
    written = write_bundle(root, replace(made.manifest, proof={**manifest.proof, "int8": proof}), made.held)
    return written, choice.scores


def drops(plain: Scores, found: Scores) -> tuple[float, ...]:
    """Return what INT8 loses at each checkpoint: accuracy, or without labels the share of videos with another class."""
    classes, plain_classes = (_common(scores, plain, found).argmax(axis=2) for scores in (found, plain))
    if plain.labels is None:
        return tuple((classes != plain_classes).mean(axis=1).tolist())
    labels = plain.labels[np.isin(plain.videos, found.videos)]
    lost = (plain_classes == labels).mean(axis=1) - (classes == labels).mean(axis=1)
    return tuple(lost.tolist())


def exits_agree(plain: Scores, found: Scores) -> float:
    """Return the share of videos that leave where they leave in fp32, at q = 1.2, each set by thresholds of its own scores."""
    left, right = _exits(plain, found)
    return float((left == right).mean())


def _exits(plain: Scores, found: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each video leaves in fp32 and in INT8, from 0."""
    confidences = (_common(scores, plain, found).max(axis=2) for scores in (plain, found))
    left, right = (exits(values, geometric_thresholds(values, PROOF_Q)) for values in confidences)
    return left, right


def figures(choice: Choice, twins: Twins, plain: Scores, drift: list[float] | None) -> dict[str, Any]:
    """Return the proof of the INT8 set, as the manifest holds it under ``int8``.

    Exits are compared at q = 1.2, each set with thresholds of its own scores.
    """
    found = choice.scores
    p32, p8 = (_common(scores, plain, found) for scores in (plain, found))
    left, right = _exits(plain, found)
    result: dict[str, Any] = {
        "videos": p32.shape[1],
        "labels": plain.labels is not None,
        "drop": rounded(choice.drop),
        "agreement": rounded((p32.argmax(axis=2) == p8.argmax(axis=2)).mean(axis=1)),
        "agreement_at_q": {"q": PROOF_Q, "exits": choice.agreement},
        "cell_loss": {name: float(f"{value:.3g}") for name, value in choice.cell_loss.items()},
        "fp32_layers": {name: sorted(layers) for name, layers in choice.kept.items() if layers},
        "layers": {name: len(layers) for name, layers in twins.layers.items()},
        "drift": drift,
    }
    if plain.labels is not None:
        labels = plain.labels[np.isin(plain.videos, found.videos)]
        result["accuracy"] = rounded((p8.argmax(axis=2) == labels).mean(axis=1))
        result["accuracy_fp32"] = rounded((p32.argmax(axis=2) == labels).mean(axis=1))
    if plain.macs is not None:
        result["agreement_at_q"]["mean_gmacs"] = float(plain.macs[right].mean() / 1e9)
        result["agreement_at_q"]["mean_gmacs_fp32"] = float(plain.macs[left].mean() / 1e9)
    return result


def _common(scores: Scores, one: Scores, other: Scores) -> NDArray[np.floating]:
    """Return the probabilities of those videos that have scores in both, [checkpoints, videos, classes]."""
    both = set(one.videos).intersection(other.videos)
    rows = np.array([name in both for name in scores.videos])
    result: NDArray[np.floating] = scores.probabilities[:, rows]
    return result


def _loss(logits: Floats, reference: Floats) -> float:
    """Return the root mean square error of the logits at the worst checkpoint, in standard deviations of a video's logits."""
    errors = np.sqrt(((logits - reference) ** 2).mean(axis=(0, 2))) / scale_of(reference)
    return float(errors.max())


def prove_twins(network: VideoNetwork, bundle: Bundle, backend: Backend, clips: Floats) -> dict[str, float]:
    """Return the largest error of each twin, in standard deviations of the tensor; see ``proof.prove_subgraphs``.

    Raises:
        ProofError: If a video's result depends on those that it shares a call with, or on how its frames are split into calls.
    """
    modules = split(network, "fp32")
    ordered = clips[:, list(network.grid.frame_order)]
    programs = load_programs(modules, bundle, backend, "int8")
    return prove_subgraphs(modules, modules, programs, backend, ordered, SIZES, "int8")


def _read(decoder: Decoder, video: ListedVideo, manifest: Manifest) -> Floats:
    with decoder.open(video.path, manifest.preprocessing, manifest.grid.num_frames) as source:
        return source.read(range(manifest.grid.num_frames))
