"""What the front door opens: one function a command, and ``load``. Each imports what it needs when it is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runtime.open_model import open_model as load

if TYPE_CHECKING:
    from .exporter.build_engines import Row
    from .grid.bundle import Bundle
    from .grid.manifest import Precision

__all__ = ["build_engines", "doctor", "export", "load", "verify"]

StrPath = str | os.PathLike[str]
Report = Callable[[str], None]


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
    report: Report = lambda _: None,
    warn: Report = lambda _: None,
) -> Bundle:
    """Split a training checkpoint along its route, export every unique subgraph, prove the result, and write it.

    Args:
        training_checkpoint: a .pth or .safetensors file of a layout that dynvid knows.
        bundle: the folder to write.
        network: expected network, such as resnet50.
        layout: expected layout, or auto.
        route: joint, depth, input, full, or cells such as ``1,0 3,2 7,4``; None: the training checkpoint's own.
        shift: whether the online temporal shift acts, where the file does not say.
        frames: sampled frames l of a public layout; None: 16.
        precision: fp16: both precisions; fp32: that one only.
        range_data: LIST whose activations decide what may be fp16.
        report: gets a line about each step.
        warn: gets what a user must know of the training checkpoint, before the export begins.

    Returns:
        The bundle, whose ``manifest.proof`` has the figures of the proof.

    Raises:
        TrainingCheckpointError, RouteError, UsageError: If the training checkpoint cannot be used so.
        IllConditionedError, ProofError, LintError: If no export can be proved; nothing is written then.
        ResourceError, InputRefusedError: If the bundle cannot be written.
    """
    from .exporter.export import export as run_export
    from .exporter.export import read_clips, sha256_of
    from .models.layouts import load_training_checkpoint

    loaded = load_training_checkpoint(
        Path(training_checkpoint), layout=layout, network=network, route=route, shift=shift, num_frames=frames
    )
    for warning in loaded.warnings:
        warn(warning)
    clips = None if range_data is None else read_clips(Path(range_data), loaded.network.config, report)
    return run_export(
        loaded.network,
        Path(bundle),
        source_sha256=sha256_of(Path(training_checkpoint)),
        precisions=("fp32",) if precision == "fp32" else ("fp32", "fp16"),
        range_clips=clips,
        report=report,
    )


def verify(
    bundle: StrPath, training_checkpoint: StrPath | None = None, *, report: Report = lambda _: None
) -> dict[str, Any] | None:
    """Check hashes and structure of a bundle; with its training checkpoint, prove it again and return the figures.

    Args:
        bundle: the folder.
        training_checkpoint: that it was exported from.
        report: gets a line about each step.

    Raises:
        ManifestError, HashError, LintError: If the bundle is not as it was exported.
        ProofError: If it does not compute what the network computes.
    """
    from .exporter.export import prove_again, verify_structure
    from .grid.bundle import Bundle

    opened = Bundle.open(Path(bundle))
    opened.verify()
    verify_structure(opened)
    return None if training_checkpoint is None else prove_again(opened, Path(training_checkpoint), report)


def build_engines(
    bundle: StrPath,
    *,
    backend: str = "tensorrt-rtx",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    targets: Sequence[str] = (),
    max_batch: int = 1,
    only: Sequence[str] | None = None,
    workers: int = 1,
    report: Report = lambda _: None,
) -> list[Row]:
    """Prove and build the engines of a bundle: one a segment of its route, one of the static network, for TensorRT one a subgraph.

    Args:
        bundle: the folder.
        backend: onnxruntime, openvino, tensorrt or tensorrt-rtx.
        precision: of the graphs.
        engines: the folder of the engines; None: ``BUNDLE.engines``.
        targets: of tensorrt-rtx, such as sm89; none: Ampere and later.
        max_batch: most videos in one call, for TensorRT.
        only: names of segments and subgraphs; None: all.
        workers: builds at once.
        report: gets a line about each step, from any thread.

    Returns:
        A row an engine; one that failed has ``error``.

    Raises:
        UsageError, CensusError: As the arguments and the bundle allow.
        EnvironmentFaultError: If this backend's engines cannot be built here at all.
    """
    from .exporter.build_engines import build_engines as run_build
    from .exporter.engine_maker import preparation
    from .exporter.fuse_proof import prove_segments
    from .grid.bundle import Bundle
    from .grid.engines import engines_folder

    opened = Bundle.open(Path(bundle))
    return run_build(
        opened,
        engines_folder(Path(bundle)) if engines is None else Path(engines),
        backend,
        precision,
        targets,
        max_batch,
        workers,
        only,
        prove=lambda: prove_segments(opened, precision, report, preparation(backend)),
        report=report,
    )


def doctor(bundle: StrPath | None = None) -> dict[str, Any]:
    """Return what is installed, which backends really work here, and what to do about the others.

    Args:
        bundle: whose static network is timed on every backend of a CPU; None: four convolutions.

    Raises:
        HashError, BackendError: If the bundle has changed, or a backend that works cannot run it.
    """
    from .grid.bundle import Bundle
    from .runtime.doctor import examine

    return examine(None if bundle is None else Bundle.open(Path(bundle)))
