"""Export a network to a proved bundle on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..grid.bundle import Bundle, require_target, write_bundle
from ..grid.errors import HashError, LintError
from ..grid.manifest import Stored
from ..grid.storage.files import sha256_of
from ..models.bundled_network import network_of
from ..models.network import NetworkConfig, VideoNetwork
from ..runtime.backends.registry import open_backend
from ..runtime.video.decoder import Decoder
from ..runtime.video.listing import read_list
from .graphs.lint import lint
from .precision import choose
from .proof.clips import proof_clips
from .proof.configuration import require_configuration
from .proof.equivalence import PROOF_CLIPS, prove
from .proof.reference import Reference
from .split.bundle_builder import BundleBuilder
from .split.subgraphs import SubgraphModule, split

LOG = logging.getLogger("dynvid")


def export(
    network: VideoNetwork,
    root: Path,
    *,
    source_sha256: str,
    precisions: Sequence[Stored] = ("fp32", "fp16"),
    range_clips: NDArray[np.float32] | None = None,
    weights: str | None = None,
) -> Bundle:
    """Split ``network`` along its route, export every unique subgraph, prove the result, and write it to ``root``.

    Args:
        network: in eval mode, fp32, with the route to export.
        root: the bundle's folder. An older bundle there is replaced only once the new one is proved.
        source_sha256: of the training checkpoint.
        precisions: fp32, and fp16 unless declined.
        range_clips: preprocessed videos in temporal order, [videos, l, 3, crop, crop]. Their activations decide which
            ranges fit fp16. None: the proof's clips. Errors are always measured on the proof's clips.
        weights: the key of the network's weights in the training checkpoint, if it has several sets.

    Raises:
        IllConditionedError: If fp32 is not enough for the network; found on the first clip.
        LintError, ProofError: If the export is not correct; nothing is written then.
        ResourceError, InputRefusedError: If ``root`` cannot be written.
    """
    require_target(root)
    config = network.config
    clips = proof_clips(PROOF_CLIPS, config.grid.num_frames, config.preprocessing)
    reference, backend = Reference(network, clips), open_backend("onnxruntime")
    draft = BundleBuilder(network, source_sha256, weights)
    reference.logits(1)  # refuse a network that overflows before exporting anything
    draft.add("fp32")
    figures = prove(network, draft.parts, draft.bundle(), backend, reference)
    seen = reference if range_clips is None else Reference(network, range_clips)
    seen.logits()
    draft.ranges = seen.ranges
    if "fp16" in precisions:
        figures["fp32_only"], figures["fp16"] = choose(draft, reference, backend, figures)
    LOG.info("writing")
    bundle = draft.bundle()
    assert bundle.held is not None
    return write_bundle(root, replace(bundle.manifest, proof=figures), bundle.held)


def prove_again(bundle: Bundle, training_checkpoint: Path, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Prove ``bundle`` again against the training checkpoint that it was exported from; return the figures.

    ``labels`` are those that it was exported with, if its training checkpoint has none.

    Raises:
        HashError: If it was exported from another training checkpoint.
        ConfigurationError: If the bundle says something else about its network than the training checkpoint.
        ProofError: If the bundle does not compute what the network computes.
    """
    manifest = bundle.manifest
    found = sha256_of(training_checkpoint)
    if found != manifest.source_sha256:
        raise HashError(
            f"bundle {str(bundle.root)!r} was exported from a training checkpoint with sha256 "
            f"{manifest.source_sha256[:8]}…, but {str(training_checkpoint)!r} has {found[:8]}…: give the original, or "
            "export again"
        )
    network = network_of(manifest, training_checkpoint, labels)
    clips = proof_clips(PROOF_CLIPS, manifest.grid.num_frames, manifest.preprocessing)
    parts: dict[Stored, list[SubgraphModule]] = {
        precision: split(network, precision, manifest.fp32_only)
        for precision in manifest.precisions
        if precision != "int8"
    }
    require_configuration(bundle, network, parts)
    figures = prove(network, parts, bundle, open_backend("onnxruntime"), Reference(network, clips))
    # the choices of the export and of INT8 calibration remain valid
    chosen = {key: value for key, value in manifest.proof.items() if key in ("fp32_only", "int8")}
    return {**figures, **chosen}


def verify_structure(bundle: Bundle) -> None:
    """Check every graph of ``bundle`` as the export did: its operators, and its ports against the manifest.

    Raises:
        LintError: With the subgraph and what was found.
    """
    for subgraph in bundle.manifest.subgraphs:
        for precision, variant in subgraph.variants.items():
            model = onnx.load_model_from_string(bundle.read(variant))
            lint(model, f"{subgraph.name} {precision}", variant.inputs, variant.outputs)
            found = [opset.version for opset in model.opset_import]
            if found != [bundle.manifest.opset]:
                raise LintError(
                    f"{subgraph.name} {precision}: opset {found}, expected {bundle.manifest.opset} as the manifest says"
                )


def read_clips(path: Path, config: NetworkConfig) -> NDArray[np.float32]:
    """Return the videos of the LIST at ``path``, preprocessed, in temporal order, [videos, l, 3, crop, crop].

    Raises:
        ListError, VideoError: If the list or one of its videos cannot be read.
    """
    clips, videos = [], read_list(path)
    with Decoder() as decoder:
        for index, video in enumerate(videos, 1):
            LOG.debug(f"decoding {index}/{len(videos)}")
            with decoder.open(video.path, config.preprocessing, config.grid.num_frames) as source:
                clips.append(source.read(range(config.grid.num_frames)))
    return np.stack(clips)
