"""A bundle, from the plan of a network to its export, its proof and its INT8 graphs."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..grid.errors import UsageError
from ..grid.packages import packages
from ..grid.storage.files import StrPath, sha256_of

if TYPE_CHECKING:
    from ..calibration.calibrate import Calibration
    from ..grid.bundle import Bundle

LOG = logging.getLogger("dynvid")


def plan(
    source: StrPath,
    *,
    route: str | None = None,
    classes: int | None = None,
    frames: int | None = None,
    head: str | None = None,
    layout: str = "auto",
    network: str | None = None,
    shift: bool | None = None,
    weights: str | None = None,
    shift_div: int | None = None,
    stride_in_1x1: bool | None = None,
    dilated: int | None = None,
    static: bool = False,
) -> dict[str, Any]:
    """Return grid, segments, spans, parameters and cost in GMACs of a network's route; builds nothing.

    Args:
        source: a registered network such as resnet50, or the path of a training checkpoint or bundle.
        route: joint, depth, input, full, or cells such as ``1,0 3,2 7,4``; None: the source's own, joint for a network.
        classes: of a network (default 400), or expected in a training checkpoint.
        frames: sampled frames l of a network or of a public layout (default 16).
        head: conv or linear, for a network (default conv).
        layout: expected layout of a training checkpoint, or auto.
        network: expected network of a training checkpoint, such as resnet50.
        shift: as for ``export``, as are all below.
        weights: the key of the weights in a file that has several sets.
        shift_div: a shift moves 1/shift_div of the channels, in a public layout.
        stride_in_1x1: whether a public ResNet strides in its 1x1 convolutions.
        dilated: how many last stages of a torchvision ResNet dilate instead of striding.
        static: plan a public layout as the fixed network that it was trained as.

    Returns:
        What ``dynvid plan --json`` prints.

    Raises:
        UsageError, RouteError, NetworkError: If these do not go together.
        TrainingCheckpointError, ManifestError: If a file is not one that dynvid knows.
    """
    from ..models.source import plan_of

    reading = {
        "layout": layout, "network": network, "shift": shift, "weights": weights, "shift_div": shift_div,
        "stride_in_1x1": stride_in_1x1, "dilated": dilated, "static": static,
    }  # fmt: skip
    return plan_of(os.fspath(source), route, classes, frames, head, reading)


def export(
    training_checkpoint: StrPath,
    bundle: StrPath,
    *,
    network: str | None = None,
    layout: str = "auto",
    route: str | None = None,
    shift: bool | None = None,
    frames: int | None = None,
    precision: str = "fp16",
    range_data: StrPath | None = None,
    weights: str | None = None,
    labels: StrPath | None = None,
    shift_div: int | None = None,
    stride_in_1x1: bool | None = None,
    dilated: int | None = None,
    static: bool = False,
) -> Bundle:
    """Split a training checkpoint along its route, export every unique subgraph, prove the result, and write it.

    Args:
        training_checkpoint: a .pth or .safetensors file of a layout that dynvid knows.
        bundle: the folder to write.
        network: expected network, such as resnet50.
        layout: expected layout, or auto.
        route: joint, depth, input, full, or cells such as ``1,0 3,2 7,4``; None: the training checkpoint's own.
        shift: whether to use the online temporal shift, if the file does not say.
        frames: sampled frames l of a public layout; None: 16.
        precision: fp16 exports both precisions, fp32 only that one.
        range_data: LIST of videos whose activations decide what may be fp16.
        weights: the key of the weights in a file that has several sets; None: those that training used.
        labels: a file of class names, one a line or a label map, for a training checkpoint without them.
        shift_div: a shift moves 1/shift_div of the channels, in a public layout; None: 8.
        stride_in_1x1: whether a public ResNet strides in its 1x1 convolutions, as Caffe's; None: not.
        dilated: how many last stages of a torchvision ResNet dilate instead of striding; None: none.
        static: export a public layout as the fixed network that it was trained as: one call of all frames, no exits.

    Returns:
        The bundle, whose ``manifest.proof`` has the figures of the proof.

    Raises:
        TrainingCheckpointError, RouteError, UsageError: If the training checkpoint cannot be used this way.
        IllConditionedError, ProofError, LintError: If no export can be proved; nothing is written then.
        ResourceError, InputRefusedError: If the bundle cannot be written.
    """
    from ..grid.bundle import require_target

    require_target(Path(bundle))  # before the work of minutes
    with packages("export,cpu"):
        from ..exporter.export import export as run_export
        from ..exporter.export import read_clips
        from ..models.labels import read_labels
        from ..models.layouts import load_training_checkpoint

    loaded = load_training_checkpoint(
        Path(training_checkpoint),
        layout=layout,
        network=network,
        route=route,
        shift=shift,
        num_frames=frames,
        weights=weights,
        labels=None if labels is None else read_labels(Path(labels)),
        shift_div=shift_div,
        stride_in_1x1=stride_in_1x1,
        dilated=dilated,
        static=static,
    )
    for line in (*loaded.warnings, *loaded.assumed):
        LOG.warning(line)
    LOG.info(f"recognised {loaded.recognised}, layout {loaded.layout}")
    clips = None if range_data is None else read_clips(Path(range_data), loaded.network.config)
    return run_export(
        loaded.network,
        Path(bundle),
        source_sha256=sha256_of(Path(training_checkpoint)),
        precisions=("fp32",) if precision == "fp32" else ("fp32", "fp16"),
        range_clips=clips,
        weights=loaded.weights,
    )


def verify(
    bundle: StrPath,
    training_checkpoint: StrPath | None = None,
    *,
    labels: StrPath | None = None,
) -> dict[str, Any] | None:
    """Check hashes and structure of a bundle; with its training checkpoint, prove it again and return the figures.

    Args:
        bundle: the folder.
        training_checkpoint: the one that it was exported from.
        labels: the file of class names that it was exported with.

    Raises:
        ManifestError, HashError, LintError: If the bundle has changed since its export.
        ConfigurationError: If it says something else about its network than the training checkpoint does.
        ProofError: If it does not compute what the network computes.
    """
    from ..grid.bundle import Bundle

    with packages("export,cpu"):
        from ..exporter.export import prove_again, verify_structure
        from ..models.labels import read_labels

    if labels is not None and training_checkpoint is None:
        raise UsageError(f"labels {str(labels)!r} are compared together with the training checkpoint: give that, too")
    opened = Bundle.open(Path(bundle))
    opened.verify()
    verify_structure(opened)
    if training_checkpoint is None:
        return None
    names = None if labels is None else read_labels(Path(labels))
    return prove_again(opened, Path(training_checkpoint), names)


def quantize(
    bundle: StrPath,
    training_checkpoint: StrPath,
    data: StrPath,
    *,
    output: StrPath | None = None,
    save_thresholds: StrPath | None = None,
    ranges: StrPath | None = None,
    scores: StrPath | None = None,
    thresholds: StrPath | None = None,
    q: float | None = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    threads: int | None = None,
) -> tuple[Bundle, Calibration]:
    """Write a bundle that also holds proved INT8 graphs; return it, and thresholds that were chosen for INT8.

    Args:
        bundle: the folder of the fp32 bundle, which stays unchanged.
        training_checkpoint: the one that it was exported from.
        data: LIST of videos for measuring ranges, losses and drops; at least 32, better 500.
        output: folder of the new bundle; None: ``BUNDLE.int8``.
        save_thresholds: T.json to write, for ``classify --precision int8``.
        ranges: where to keep ranges; None: ``BUNDLE.ranges.json``.
        scores: where to keep the fp32 scores; None: beside the bundle.
        thresholds: T.json that videos leave by while ranges are measured; None: they run to the end.
        q: for the thresholds; None: the critical point.
        max_drop: largest loss of accuracy of INT8 at any checkpoint, and of the thresholds; None: 0.005, and 0.01 for the thresholds.
        min_agreement: least share of videos with the same exit as in fp32; None: 0.975.
        threads: of onnxruntime; None: one per core.

    Raises:
        UsageError: If ``output`` is the bundle itself, or the thresholds have temperatures.
        InputRefusedError: If it was exported from another training checkpoint, or the list cannot be used.
        ProofError: If the bounds do not hold, or INT8 couples videos.
        ResourceError: If the bundle cannot be written.
    """
    from ..calibration.calibrate import calibrate as run_calibration
    from ..calibration.choosing.request import Request
    from ..calibration.choosing.sweep import costs_of
    from ..grid.bundle import Bundle

    with packages("export,cpu"):
        from ..exporter.int8.quantize import MIN_AGREEMENT, calibrate_int8
    opened = Bundle.open(Path(bundle))
    opened.require_exits("quantize", "INT8 is chosen by how exits agree, so give a bundle of a network with a route")
    opened.require_source(Path(training_checkpoint))
    request = Request(q=q, max_drop=max_drop if q is None else None)
    made, found = calibrate_int8(
        opened, Path(training_checkpoint), Path(data), Path(f"{opened.root}.int8" if output is None else output),
        Path(f"{opened.root}.ranges.json" if ranges is None else ranges), None if scores is None else Path(scores),
        threads, None if thresholds is None else Path(thresholds), max_drop,
        MIN_AGREEMENT if min_agreement is None else min_agreement,
    )  # fmt: skip
    LOG.info("choosing thresholds")
    result = run_calibration(found, costs_of(found.macs, None, len(found.probabilities)), request)
    result = replace(result, bundle_sha256=made.sha256, precision="int8")
    if save_thresholds is not None:
        result.save(save_thresholds)
    return made, result
