"""Add INT8 variants to a bundle beside its fp32 graphs: measure ranges, choose what stays fp32, prove the result."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...calibration.scores.scores import Scores
from ...calibration.scores.scoring import by_content, score_videos
from ...grid.bundle import Bundle, require_target, write_bundle
from ...grid.errors import FramesError, UsageError, VideoError
from ...grid.manifest import Manifest
from ...grid.thresholds import read_thresholds
from ...models.bundled_network import network_of
from ...models.network import VideoNetwork
from ...runtime.backends.base import Backend
from ...runtime.backends.registry import open_backend
from ...runtime.execution.executor import Executor
from ...runtime.session import Session
from ...runtime.video.decoder import Decoder
from ...runtime.video.listing import ListedVideo, read_list
from ..proof.equivalence import PROOF_Q
from ..proof.reference import Reference
from ..proof.sensitivity import drift
from ..proof.subgraph_equivalence import SIZES, load_programs, prove_subgraphs
from ..proof.tolerances import rounded
from ..split.subgraphs import split
from .layer_selection import Choice, choose, common, exits_of
from .quantized_variants import QuantizedVariants
from .range_observers import observe_ranges
from .range_pass import find_ranges, require_videos

LOG = logging.getLogger("dynvid")

Floats = NDArray[np.float32]

MAX_DROP = 0.005
"""Default limit on the loss of accuracy at any checkpoint: half a point."""

MIN_AGREEMENT = 0.975
"""Default share of exits that agree with fp32. On videos not used for the choice it is slightly lower."""

LOSS_CLIPS = 8
"""Number of videos for measuring losses: those with the smallest sha256 that can be read."""


def calibrate_int8(
    bundle: Bundle,
    training_checkpoint: Path,
    data: Path,
    root: Path,
    keep: Path,
    keep_scores: Path | None,
    threads: int | None,
    thresholds: Path | None,
    max_drop: float | None,
    min_agreement: float,
) -> tuple[Bundle, Scores]:
    """Write ``bundle`` with proved INT8 variants to ``root``; return it, and its INT8 set's scores.

    Args:
        bundle: stays unchanged.
        training_checkpoint: the one that it was exported from.
        data: LIST of the videos for measuring ranges, losses and drops.
        root: folder of the new bundle.
        keep: file that the ranges are read from if it exists, and otherwise written to.
        keep_scores: of ``bundle`` on these videos, see ``score_videos``.
        threads: of onnxruntime, which runs both bundles; None: one per core.
        thresholds: T.json that videos leave by while ranges are measured; None: they run to the end.
        max_drop: see ``drops``; None: ``MAX_DROP``.
        min_agreement: see ``exits_agree``.

    Raises:
        UsageError: If ``root`` is the bundle's own folder, or the thresholds have temperatures.
        TooFewVideosError, RangesError, StaleRangesError, ListError: As ``find_ranges``.
        ScoresError, StaleScoresError: As ``score_videos``.
        ThresholdsError, StaleThresholdsError: If the thresholds are not the bundle's.
        ProofError: If the bounds do not hold, or INT8 couples videos.
        InputRefusedError, ResourceError: If the bundle cannot be written.
    """
    if root.resolve() == bundle.root.resolve():
        raise UsageError(f"-o {str(root)!r} is BUNDLE itself, which must not change: give another folder")
    require_target(root)
    manifest, videos = bundle.manifest, read_list(data)
    require_videos(len(videos))
    chosen = _thresholds(thresholds, bundle)
    network, watched = network_of(manifest, training_checkpoint), observe_ranges(bundle)
    backend = open_backend("onnxruntime", threads)
    with Decoder() as decoder:
        plain = score_videos(Session.open(bundle, backend), videos, keep_scores, decoder)
        executor = Executor(watched.bundle, backend)
        ranges = find_ranges(executor, watched.tensors, videos, keep, decoder, chosen)
        clips = _clips(decoder, [video for _, video in sorted(by_content(videos).items())], manifest)

        def score(made: Bundle) -> Scores:
            return score_videos(Session.open(made, backend, precision="int8"), videos, None, decoder)

        reference = Reference(network, clips)
        twins = QuantizedVariants(bundle, ranges)
        drop = MAX_DROP if max_drop is None else max_drop
        choice = choose(twins, clips, reference.logits(), backend, plain, score, drop, min_agreement)
    made = twins.bundle(choice.kept)
    LOG.info("int8: checking videos alone and among others")
    proof = figures(
        choice, twins, plain, rounded(drift(network, made, backend, "int8", clips[0], reference.last_features))
    )
    proof["subgraphs"] = prove_twins(network, made, backend, clips)
    proof["ranges"] = {"data_sha256": ranges.data_sha256, "videos": ranges.videos, "reached": list(ranges.reached)}
    assert made.held is not None
    written = write_bundle(root, replace(made.manifest, proof={**manifest.proof, "int8": proof}), made.held)
    return written, choice.scores


def figures(choice: Choice, twins: QuantizedVariants, plain: Scores, drift: list[float]) -> dict[str, Any]:
    """Return the proof of the INT8 set, as the manifest holds it under ``int8``.

    Exits are compared at q = 1.2, each set with thresholds from its own scores.
    """
    found, fp32 = choice.scores, {name: sorted((*choice.kept[name], *twins.unscaled[name])) for name in twins.layers}
    p32, p8 = (common(scores, plain, found) for scores in (plain, found))
    left, right = exits_of(plain, found)
    result: dict[str, Any] = {
        "videos": p32.shape[1],
        "labels": plain.labels is not None,
        "drop": rounded(choice.drop),
        "agreement": rounded((p32.argmax(axis=2) == p8.argmax(axis=2)).mean(axis=1)),
        "agreement_at_q": {"q": PROOF_Q, "exits": choice.agreement},
        "cell_loss": {name: float(f"{value:.3g}") for name, value in choice.cell_loss.items()},
        "fp32_layers": {name: layers for name, layers in fp32.items() if layers},
        "layers": {name: len(layers) + len(twins.unscaled[name]) for name, layers in twins.layers.items()},
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


def prove_twins(network: VideoNetwork, bundle: Bundle, backend: Backend, clips: Floats) -> dict[str, float]:
    """Return the largest error of each INT8 variant, in standard deviations of the tensor; see ``prove_subgraphs``.

    It has no bound: clipped values count in full, and the cost of INT8 was judged by what users see.

    Raises:
        ProofError: If a video's result depends on the other videos in its call, or on how its frames are split into
            calls.
    """
    modules = split(network, "fp32")
    ordered = clips[:, list(network.grid.frame_order)]
    programs = load_programs(modules, bundle, backend, "int8")
    return prove_subgraphs(modules, modules, programs, backend, ordered, SIZES, "int8", lambda *_: math.inf)


def _thresholds(path: Path | None, bundle: Bundle) -> tuple[float | None, ...] | None:
    if path is None:
        return None
    found = read_thresholds(path, bundle.sha256, len(bundle.manifest.route_cells), "fp32")
    if found.temperatures is not None:
        raise UsageError(
            f"--thresholds {str(path)!r} has temperatures, but ranges are measured without: choose thresholds "
            "without --temperature"
        )
    return found.thresholds


def _clips(decoder: Decoder, videos: Sequence[ListedVideo], manifest: Manifest) -> Floats:
    """Return the first ``LOSS_CLIPS`` readable videos, in temporal order, [clips, l, 3, crop, crop]."""
    found: list[Floats] = []
    for video in videos:
        if len(found) < LOSS_CLIPS:
            with (
                suppress(VideoError, FramesError),
                decoder.open(video.path, manifest.preprocessing, manifest.grid.num_frames) as source,
            ):
                found.append(source.read(range(manifest.grid.num_frames)))
    return np.stack(found)
