"""The Python interface: one function per command, and ``load``. Each imports what it needs when it is called.

What they do is told to the logger ``dynvid``: steps as INFO, counts and details as DEBUG. It is one long file, because
it is the reference of the interface.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .grid.errors import CostTableError, InputRefusedError, UsageError
from .grid.packages import packages
from .runtime.open_model import open_model as load

if TYPE_CHECKING:
    from .benchmarks.measure.contestants import Loads
    from .benchmarks.report.report import Report
    from .benchmarks.segment_times import Timing
    from .calibration.calibrate import Calibration
    from .calibration.drift import Drift
    from .calibration.scores import Scores
    from .exporter.engines.build import Row
    from .grid.bundle import Bundle
    from .grid.manifest import Precision
    from .grid.thresholds import Rule

LOG = logging.getLogger("dynvid")

__all__ = [
    "bench", "build_engines", "calibrate", "doctor", "drift", "export", "load", "plan", "quantize", "time", "train",
    "verify",
]  # fmt: skip

StrPath = str | os.PathLike[str]


def plan(
    source: StrPath,
    *,
    route: str | None = None,
    classes: int | None = None,
    frames: int | None = None,
    head: str | None = None,
) -> dict[str, Any]:
    """Return grid, segments, spans, parameters and cost in GMACs of a network's route; builds nothing.

    Args:
        source: a registered network such as resnet50, or the path of a training checkpoint or bundle.
        route: joint, depth, input, full, or cells such as ``1,0 3,2 7,4``; None: the source's own, joint for a network.
        classes: of a network (default 400), or expected in a training checkpoint.
        frames: sampled frames l of a network or of a public layout (default 16).
        head: conv or linear, for a network (default conv).

    Returns:
        What ``dynvid plan --json`` prints.

    Raises:
        UsageError, RouteError, NetworkError: If these do not go together.
        TrainingCheckpointError, ManifestError: If a file is not one that dynvid knows.
    """
    from .models.source import plan_of

    return plan_of(os.fspath(source), route, classes, frames, head)


def train(config: StrPath, output: StrPath, *, report: Callable[[Mapping[str, Any]], None] = lambda _: None) -> Path:
    """Train a network by the paper's recipe (section 4); return the path of the training checkpoint.

    Args:
        config: a TOML file.
        output: folder of the run; the same call resumes it.
        report: called with each line of the log.

    Raises:
        UsageError: If the configuration does not fit, or the run was started with another.
        ListError, VideoError: If the data cannot be read.
    """
    with packages("export,cpu"):
        from .training.recipe import train as run_training

    return run_training(Path(config), Path(output), report)


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

    Returns:
        The bundle, whose ``manifest.proof`` has the figures of the proof.

    Raises:
        TrainingCheckpointError, RouteError, UsageError: If the training checkpoint cannot be used this way.
        IllConditionedError, ProofError, LintError: If no export can be proved; nothing is written then.
        ResourceError, InputRefusedError: If the bundle cannot be written.
    """
    from .grid.bundle import require_target

    require_target(Path(bundle))  # before the work of minutes
    with packages("export,cpu"):
        from .exporter.export import export as run_export
        from .exporter.export import read_clips, sha256_of
        from .models.labels import read_labels
        from .models.layouts import load_training_checkpoint

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
    from .grid.bundle import Bundle

    with packages("export,cpu"):
        from .exporter.export import prove_again, verify_structure
        from .models.labels import read_labels

    if labels is not None and training_checkpoint is None:
        raise UsageError(f"labels {str(labels)!r} are compared together with the training checkpoint: give that, too")
    opened = Bundle.open(Path(bundle))
    opened.verify()
    verify_structure(opened)
    if training_checkpoint is None:
        return None
    names = None if labels is None else read_labels(Path(labels))
    return prove_again(opened, Path(training_checkpoint), names)


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
) -> list[Row]:
    """Prove and build a bundle's engines.

    They are one per segment of its route, one for the static network, and for TensorRT one per subgraph.

    Args:
        bundle: the folder.
        backend: onnxruntime, openvino, tensorrt or tensorrt-rtx.
        precision: precision to compute in: fp32, fp16 or int8; on OpenVINO also bf16, and int8-bf16, which computes
            in bf16 what INT8 leaves out.
        engines: the folder of the engines; None: ``BUNDLE.engines``.
        targets: for tensorrt-rtx, such as sm89; empty: Ampere and later.
        max_batch: most videos in one call, for TensorRT.
        only: names of segments and subgraphs; None: all.
        workers: number of parallel builds.

    Returns:
        A row per engine; one that failed has ``error``.

    Raises:
        UsageError, CensusError: If the arguments are invalid, or the bundle does not fit.
        EnvironmentFaultError: If this backend's engines cannot be built here at all.
    """
    from .grid.bundle import Bundle
    from .grid.engines.cache import engines_folder

    with packages("export,cpu"):
        import onnx  # noqa: F401

        from .exporter.engines.build import build_engines as run_build
        from .exporter.proof.segment_equivalence import prove_segments

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
        prove=prove_segments,
    )


def calibrate(
    bundle: StrPath | None = None,
    training_checkpoint: StrPath | None = None,
    *,
    data: StrPath | None = None,
    scores: StrPath | None = None,
    q: float | None = None,
    budget: float | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    rule: Rule | None = None,
    cost: str = "macs",
    cost_table: StrPath | None = None,
    temperature: bool = False,
    split: float = 0.5,
    seed: int = 0,
    precision: Precision | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Calibration:
    """Return thresholds chosen on labelled videos: by q, a budget, a drop of accuracy, or a promise about that drop.

    Args:
        bundle: the folder; None: use only ``scores``.
        training_checkpoint: the one that the bundle was exported from; only checked.
        data: LIST of videos.
        scores: with ``data``: where to keep scores. Without: an .npz with ``probabilities`` [checkpoints, videos,
            classes] and, if known, ``labels`` [videos] and ``macs`` [checkpoints].
        q: ratio of one exit's share to the previous one's (paper, section 4).
        budget: mean cost per video: GMACs, or milliseconds if ``cost`` is ms.
        max_drop: largest loss of accuracy, or of agreement without labels; with ``confidence``, promised with that
            probability. Give at most one of ``q``, ``budget`` and ``max_drop``; without any: the critical point,
            within 0.01.
        confidence: see ``max_drop``.
        rule: geometric (the paper's shares q^k), or optimal (each threshold optimised, where the videos carry it).
            None: geometric with ``q``, otherwise optimal.
        cost: macs or ms: what is saved.
        cost_table: what ``time`` wrote, in the precision of the scores; None: times are measured now.
        temperature: fit one temperature a checkpoint; needs labels.
        split: share of the videos that calibrate; 1: all.
        seed: of the split.
        precision: precision of the scores; None: fp32.
        backend: the backend; auto as in ``load``.
        threads: CPU threads to compute with; None: one per core.

    Returns:
        The calibration; ``save`` writes its T.json, ``report`` is what ``dynvid calibrate --json`` prints.

    Raises:
        UsageError: If the arguments do not go together, or the budget cannot be kept.
        InputRefusedError: If the list, a score or a table cannot be used.
        TooFewVideosError, GuaranteeError: If a promise cannot be given.
        IntegrityError, BackendError: As ``load``.
    """
    from .calibration.calibrate import calibrate as run_calibration
    from .calibration.request import Request
    from .calibration.scores import read_scores
    from .calibration.scoring import kept_scores
    from .calibration.sweep import costs_of
    from .grid.bundle import Bundle

    if data is None and scores is None:
        raise UsageError("calibrate needs BUNDLE and --data LIST, or --scores FILE.npz")
    if bundle is None and (data is not None or cost == "ms"):
        raise UsageError("--data, -o and --cost ms need a BUNDLE: thresholds and times belong to one")
    if cost not in ("macs", "ms"):
        raise UsageError(f"cost {cost!r}: expected 'macs' or 'ms'")
    if rule not in (None, "optimal", "geometric"):
        raise UsageError(f"rule {rule!r}: expected 'optimal' or 'geometric'")
    if cost_table is not None and cost != "ms":
        raise UsageError("--cost-table without --cost ms: add it, since milliseconds are saved only then")
    if data is None and backend != "auto" and (cost != "ms" or cost_table is not None):
        raise UsageError(f"--backend {backend} without --data: leave it out, since nothing is computed")
    if precision is not None and data is None:
        raise UsageError(f"--precision {precision} without --data: leave it out, since scores have their own precision")
    request = Request(
        q, budget, max_drop, confidence, "ms" if cost == "ms" else "gmacs", temperature, split, seed, rule
    )
    if bundle is None:
        assert scores is not None
        opened, found = None, read_scores(Path(scores))
    else:
        opened = Bundle.open(Path(bundle))
        if training_checkpoint is not None:
            _require_source(opened, Path(training_checkpoint))
        if data is None:
            assert scores is not None
            found = kept_scores(Path(scores), opened)
        else:
            keep = None if scores is None else Path(scores)
            found = _scores(opened, Path(data), keep, backend, precision or "fp32", threads)
    scored_in: Precision = found.belongs_to.get("precision", "fp32")
    ms = None
    if opened is not None and cost == "ms":
        ms = _checkpoint_ms(opened, cost_table, backend, scored_in, threads)
    costs = costs_of(found.macs, ms, len(found.probabilities))
    if request.unit not in costs:
        request = replace(request, unit="exits")
    LOG.info("choosing thresholds")
    result = run_calibration(found, costs, request)
    return replace(result, bundle_sha256=None if opened is None else opened.sha256, precision=scored_in)


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
    from .calibration.calibrate import calibrate as run_calibration
    from .calibration.request import Request
    from .calibration.sweep import costs_of
    from .grid.bundle import Bundle

    with packages("export,cpu"):
        from .exporter.int8.quantize import MIN_AGREEMENT, calibrate_int8
    opened = Bundle.open(Path(bundle))
    _require_source(opened, Path(training_checkpoint))
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


def drift(bundle: StrPath, thresholds: StrPath, results: StrPath) -> Drift:
    """Return how much the exits of videos differ from those at calibration.

    Args:
        bundle: the folder.
        thresholds: T.json that the videos left by.
        results: JSON Lines file of ``classify_list`` or ``dynvid classify -o``.

    Raises:
        ThresholdsError, StaleThresholdsError: If the thresholds are not the bundle's, or do not say what is expected.
        ResultsError: If the results cannot be read.
    """
    from .calibration.drift import check_results
    from .grid.bundle import Bundle
    from .grid.thresholds import read_thresholds

    opened = Bundle.open(Path(bundle))
    expected = read_thresholds(Path(thresholds), opened.sha256, len(opened.manifest.route_cells))
    return check_results(Path(results), expected, os.fspath(thresholds))


def time(
    bundle: StrPath,
    *,
    backend: str = "auto",
    engines: StrPath | None = None,
    precision: Precision = "fp32",
    threads: int | None = None,
    rounds: int = 100,
) -> Timing:
    """Return the milliseconds of each segment of the route, and of the static network, for one video on this machine.

    They are medians, interleaved, after a warm-up. Everything runs as ``classify`` runs it: from engines if any were
    built, else from cells.

    Args:
        bundle: the folder.
        backend: the backend; auto as in ``load``.
        engines: folder of the engines; None: ``BUNDLE.engines``.
        precision: precision to compute in.
        threads: CPU threads to compute with; None: one per core.
        rounds: number of measured runs, at least 5.

    Returns:
        The times; ``write`` saves them for ``calibrate`` and ``dynvid simulate``.

    Raises:
        UsageError: If there are too few rounds.
        IntegrityError, BackendError: As ``load``.
    """
    from .benchmarks.measure.timing import measure
    from .grid.bundle import Bundle

    opened, folder = Bundle.open(Path(bundle)), None if engines is None else Path(engines)
    LOG.info("measuring the segments")
    return measure(opened, backend, threads, rounds, precision=precision, engines=folder)


def bench(
    bundle: StrPath,
    output: StrPath,
    training_checkpoint: StrPath | None = None,
    *,
    data: StrPath | None = None,
    clips: int = 48,
    thresholds: StrPath | None = None,
    qs: Sequence[float] = (1.2, 0.7, 1.0, 1.5, 2.0),
    batch: int = 4,
    streams: int = 1,
    backend: str = "auto",
    engines: StrPath | None = None,
    precision: Precision = "fp32",
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float = 60.0,
    stream_seconds: float = 20.0,
    load_videos: int | None = None,
    peers: Sequence[str] = (),
    referee: bool = False,
    referee_seconds: float = 60.0,
    command: str = "dynvid.bench",
) -> Report:
    """Measure latency against average FLOPs, beside the static network, and write the report.

    Args:
        bundle: the folder.
        output: folder of the report: table, JSON, CSV, a page with plots, and a trace.
        training_checkpoint: for the peers torch and torch-compile.
        data: LIST of videos; None: clips of noise.
        clips: number of clips, all in memory.
        thresholds: T.json for the main operating point; None: the first of ``qs``.
        qs: ratios of the exits' shares, one operating point each.
        batch: most videos in one call.
        streams: number of streams that share many videos.
        backend: the backend; auto as in ``load``.
        engines: folder of the engines; None: ``BUNDLE.engines``; on a CPU they are built first.
        precision: precision to compute in.
        threads: CPU threads to compute with; None: one per core.
        rounds: passes over the clips; None: as many as fit in ``seconds``.
        seconds: time for single videos, and for the table t_k(n).
        stream_seconds: time for each run of many videos at once.
        load_videos: number of videos in each run under load; None: as many as fit in ``stream_seconds``.
        peers: openvino, torch, torch-compile: also measure the static network there.
        referee: also let MLPerf LoadGen measure.
        referee_seconds: least time that it measures Offline and Server.
        command: the command line, for the report.

    Raises:
        UsageError: If the arguments do not go together.
        DynvidError: As bundle, engines, backend and videos.
    """
    from .benchmarks.bench import Options
    from .benchmarks.bench import bench as run_bench
    from .benchmarks.measure.clips import random_clips, read_clips
    from .benchmarks.mlperf.subject import Referee
    from .grid.bundle import Bundle
    from .grid.engines.cache import engines_folder
    from .grid.thresholds import read_thresholds
    from .runtime.execution.engine_lookup import fitting_backend

    with packages("bench"):
        from .benchmarks.report.files import LOGS, require_report_folder, write_report
    if backend == "null":
        raise UsageError("backend 'null' computes nothing, so there is nothing to measure: expected onnxruntime")
    if precision not in ("fp32", "fp16") and peers:
        raise UsageError(
            f"--peer {peers[0]} with --precision {precision}: peers run the fp32 network, leave --peer out"
        )
    opened, folder = Bundle.open(Path(bundle)), engines_folder(Path(bundle)) if engines is None else Path(engines)
    manifest, into = opened.manifest, Path(output)
    opened.require(precision)
    chosen = None
    if thresholds is not None:
        chosen = read_thresholds(Path(thresholds), opened.sha256, len(manifest.route_cells), precision)
    require_report_folder(into)
    options = Options(
        tuple(qs), chosen, precision, threads, batch, streams, rounds, seconds, stream_seconds, load_videos,
        tuple(peers), None if training_checkpoint is None else Path(training_checkpoint),
        Referee(into / LOGS, referee_seconds) if referee else None, command,
    )  # fmt: skip
    measured_on = random_clips(manifest, clips) if data is None else read_clips(Path(data), manifest, clips)
    name = fitting_backend(opened, precision, folder) if backend == "auto" else backend
    loads = partial(_loads, opened, name, precision, folder)
    found = run_bench(opened, name, folder, loads, measured_on, options)
    write_report(found, into)
    return found


def doctor(bundle: StrPath | None = None) -> dict[str, Any]:
    """Return what is installed, which backends work here, and what to do about the others.

    Args:
        bundle: its static network is timed on every CPU backend; None: four convolutions.

    Raises:
        HashError, BackendError: If the bundle has changed, or a working backend cannot run it.
    """
    from .grid.bundle import Bundle
    from .runtime.doctor import examine

    return examine(None if bundle is None else Bundle.open(Path(bundle)))


def _loads(bundle: Bundle, backend: str, precision: Precision, folder: Path) -> Loads:
    """Build the engines if that takes no GPU; return the sources of graphs that are not engines.

    Raises:
        DynvidError: If an engine cannot be built.
    """
    import importlib.util

    from .benchmarks.measure.contestants import Loads
    from .runtime.backends.registry import ON_CPU

    if importlib.util.find_spec("onnx") is None:
        return Loads()
    from .exporter.engines.build import build_engines as run_build
    from .exporter.engines.makers import for_openvino, preparation
    from .exporter.graphs.fuse import fuse
    from .exporter.proof.segment_equivalence import prove_segments

    graph = partial(fuse, bundle, precision=precision)
    if backend not in ON_CPU:
        return Loads(graph=graph)
    prepare = preparation(backend)
    rows = run_build(
        bundle,
        folder,
        backend,
        precision,
        prove=prove_segments,
    )
    for row in rows:
        if row.error is not None:
            raise row.error

    return Loads(
        lambda subgraph: for_openvino(bundle.read(subgraph.variant(precision))),
        lambda segment: prepare(graph(segment)),
        graph,
    )


def _scores(
    bundle: Bundle,
    data: Path,
    keep: Path | None,
    backend: str,
    precision: Precision,
    threads: int | None,
) -> Scores:
    """Return the scores of a bundle, run as ``load`` runs it."""
    from .calibration.scoring import score_videos
    from .runtime.execution.capacity import Limits, open_executor
    from .runtime.session import Session
    from .runtime.video.decoder import Decoder
    from .runtime.video.listing import read_list

    videos = read_list(data)
    executor = open_executor(bundle, backend, precision, limits=Limits(batch=1), threads=threads)
    with Decoder() as decoder:
        return score_videos(Session(executor), videos, keep, decoder)


def _checkpoint_ms(
    bundle: Bundle, table: StrPath | None, backend: str, precision: Precision, threads: int | None
) -> list[float]:
    """Return the milliseconds until each checkpoint answers, from a table or measured now."""
    from .benchmarks.segment_times import read_timing

    if table is not None:
        found = read_timing(Path(table), bundle)
        if found.precision != precision:
            raise CostTableError(
                f"cost table {str(table)!r} has times in {found.precision}, but the scores are in {precision}: "
                f"measure with 'dynvid time --precision {precision}'"
            )
        return found.checkpoint_ms()
    return time(bundle.root, backend=backend, precision=precision, threads=threads).checkpoint_ms()


def _require_source(bundle: Bundle, training_checkpoint: Path) -> None:
    """Check that the bundle was exported from this file, so that its proved fp32 subgraphs are the reference."""
    import hashlib

    try:
        with training_checkpoint.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputRefusedError(f"{str(training_checkpoint)!r} cannot be read ({error.strerror})") from None
    if found != bundle.manifest.source_sha256:
        raise InputRefusedError(
            f"{str(training_checkpoint)!r} (sha256 {found[:8]}…) is not what bundle {str(bundle.root)!r} was "
            f"exported from ({bundle.manifest.source_sha256[:8]}…): export it, or give the original"
        )
