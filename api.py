"""The Python interface: one function per command, and ``load``. Each imports what it needs when it is called.

What they do is told to the logger ``dynvid``: steps as INFO, counts and details as DEBUG. It is one long file, because
it is the reference of the interface.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .grid.errors import CostTableError, InputRefusedError, ThresholdsError, UsageError
from .grid.packages import packages
from .runtime.open_model import open_model as load

if TYPE_CHECKING:
    from .benchmarks.measure.contestants import Loads
    from .benchmarks.report.report import Report
    from .benchmarks.segment_times import Timing
    from .calibration.calibrate import Calibration
    from .calibration.drift import Drift
    from .calibration.scores.scores import Scores
    from .exporter.engines.build import Row
    from .grid.bundle import Bundle
    from .grid.manifest import Precision
    from .grid.thresholds import Rule, Thresholds
    from .pages.explained.explanation import Explanation, Unexplained
    from .pages.run.figures import RunFigures
    from .runtime.results.merge import Merged
    from .runtime.results.run import Run
    from .runtime.results.summary import Summary
    from .runtime.video.listing import ListedVideo

LOG = logging.getLogger("dynvid")

__all__ = [
    "bench", "build_engines", "calibrate", "classify_on_ray", "data", "doctor", "drift", "explain", "export",
    "export_triton", "load", "merge", "plan", "quantize", "report", "serve", "time", "train", "verify",
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


def data(
    source: StrPath,
    *,
    format: str = "auto",
    videos: StrPath | None = None,
    labels: StrPath | None = None,
    split: int | None = None,
    first_label: int = 0,
    scan: bool = False,
    output: StrPath | None = None,
) -> dict[str, Any]:
    """Read a data set as it lies on disk; return what was found, and write the lists that training reads.

    Args:
        source: annotations of Kinetics, Something-Something, UCF101 or HMDB51, a list, a folder of any of these, or a
            folder of class folders.
        format: kinetics, something-v1, something-v2, ucf101, hmdb51, list or class-folders; auto recognises it.
        videos: folder of the clips; None: the source, or the folder of the file.
        labels: a file of class names in order of number, one a line or a label map; None: the data set's own.
        split: which split of UCF101, HMDB51 or numbered lists; None: that of the file, else 1.
        first_label: number of the first class in a list, 0 or 1.
        scan: open every clip, read its first and last sampled frame, and leave out those that cannot be read.
        output: folder for ``classes.txt``, ``train.csv``, ``validation.csv``, ``test.csv``, ``problems.csv`` and
            ``report.json``.

    Returns:
        What ``dynvid data --json`` prints.

    Raises:
        UsageError: If the arguments do not go together, or the output is a folder of something else.
        ListError, LabelsError: If a list or the labels cannot be used, or no clip is found.
        DecoderFaultError: If no video at all can be decoded here.
        ResourceError: If the output cannot be written.
    """
    from .training.data.report import report_of, require_folder, write_folder
    from .training.data.scan import scan as scan_clips
    from .training.data.source import read_source

    if output is not None:
        require_folder(Path(output))
    LOG.info("reading lists and folders")
    found = read_source(
        Path(source),
        format=format,
        videos=None if videos is None else Path(videos),
        labels=None if labels is None else Path(labels),
        split=split,
        first_label=first_label,
    )
    if scan:
        found = scan_clips(found)
    if output is not None:
        write_folder(found, Path(output))
    return report_of(found)


def train(
    config: StrPath,
    output: StrPath,
    *,
    changes: Sequence[str] = (),
    overfit_one_batch: bool = False,
    report: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Path:
    """Train a network by the paper's recipe (section 4); return the path of the best training checkpoint.

    Args:
        config: a TOML file; docs/guides/train.md describes it.
        output: folder of the run; the same call goes on with an interrupted run.
        changes: over the file, such as ``recipe.batch=64``.
        overfit_one_batch: only try whether the network learns one batch by heart; nothing is written.
        report: called with every line of the log and every row of results.

    Raises:
        UsageError: If the configuration does not fit, or the run was begun with another.
        ListError, LabelsError: If the clips or classes cannot be used.
        TrainingCheckpointError: If the start or the saved state cannot be used.
        VideoError: If too many clips cannot be read, or one is not decoded in time.
        NetworkError: If training diverges, or one batch cannot be learnt.
        ResourceError: If something cannot be written; what was saved before stays.
    """
    with packages("export,cpu"):
        from .training.configuration.read import read_configuration
        from .training.train import train as run_training

    configuration = read_configuration(Path(config), changes)
    return run_training(configuration, Path(output), report, overfit_one_batch=overfit_one_batch)


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

    They are one per segment of its route, one for the static network, and for TensorRT one per subgraph. After INT8
    engines for a CPU the static network is timed on every CPU backend, and a warning says if another one is faster.

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
    from .runtime.backends.registry import ON_CPU

    with packages("export,cpu"):
        import onnx  # noqa: F401

        from .exporter.engines.backend_speed import advise
        from .exporter.engines.build import build_engines as run_build
        from .exporter.proof.segment_equivalence import prove_segments

    opened = Bundle.open(Path(bundle))
    rows = run_build(
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
    if (
        precision == "int8"
        and backend in ON_CPU
        and any((row.subgraph, row.status) == ("full", "built") for row in rows)
    ):
        advise(opened, backend)
    return rows


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
    from .calibration.choosing.request import Request
    from .calibration.choosing.sweep import costs_of
    from .calibration.scores.scores import read_scores
    from .calibration.scores.scoring import kept_scores
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
        opened.require_exits("calibrate")
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
    from .calibration.choosing.request import Request
    from .calibration.choosing.sweep import costs_of
    from .grid.bundle import Bundle

    with packages("export,cpu"):
        from .exporter.int8.quantize import MIN_AGREEMENT, calibrate_int8
    opened = Bundle.open(Path(bundle))
    opened.require_exits("quantize", "INT8 is chosen by how exits agree, so give a bundle of a network with a route")
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
        ThresholdsError, StaleThresholdsError: If the thresholds are not the bundle's, or do not say what is expected, or
            what lies beside the results says that they left by others.
        ResultsError: If the results cannot be read.
        StaleResultsError: If what lies beside the results was changed, or names another bundle.
    """
    from .calibration.drift import check_results
    from .grid.bundle import Bundle
    from .grid.thresholds import read_thresholds

    opened = Bundle.open(Path(bundle))
    opened.require_exits("drift")
    expected = read_thresholds(Path(thresholds), opened.sha256, len(opened.manifest.route_cells))
    return check_results(Path(results), expected, os.fspath(thresholds))


def explain(
    bundle: StrPath,
    videos: StrPath | Sequence[StrPath | ListedVideo],
    output: StrPath | None = None,
    *,
    thresholds: StrPath | None = None,
    backend: str = "auto",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    threads: int | None = None,
) -> list[Explanation | Unexplained]:
    """Show what each video did on the route: frames looked at, cells computed, confidences, time and multiply-adds.

    Every video runs to the end of the route, so that the picture also shows what leaving early saved. The first one
    runs once before, to warm up.

    Args:
        bundle: the folder.
        videos: a video, or at most 50; a row of ``read_list`` also has a label, so that the page says what was right.
        output: the page (.html) or figure (.svg, .png) to write; None: nothing is written.
        thresholds: T.json; None: every video runs to the end.
        backend: the backend; auto as in ``load``.
        precision: precision to compute in.
        engines: folder of the engines, or none; None: ``BUNDLE.engines``.
        threads: CPU threads to compute with; None: one per core.

    Returns:
        What each video did, in order: ``to_json`` has every figure of the picture, ``answer`` is the run that it shows.
        A video without an answer has only ``error``.

    Raises:
        VideoError, FramesError: If the only video cannot be read, or one changes meanwhile.
        UsageError: If there are no videos or too many, or the output has another ending.
        IntegrityError, BackendError, ResourceError: As ``load`` and ``classify``.
    """
    from .pages.explained.explanation import MOST, explain_videos
    from .runtime.results.unknown_labels import warn_of_unknown
    from .runtime.video.listing import ListedVideo

    given = videos if isinstance(videos, Iterable) and not isinstance(videos, str | os.PathLike) else [videos]
    listed = list[ListedVideo]()
    for video in given:
        if not isinstance(video, str | os.PathLike):
            raise UsageError(f"video {video!r}: expected a path, or a row of a list")
        listed.append(video if isinstance(video, ListedVideo) else ListedVideo(Path(video)))
    if not 1 <= len(listed) <= MOST:
        raise UsageError(f"{len(listed)} videos: expected 1 to {MOST} on a page. 'dynvid report' shows a whole run.")
    if output is not None:
        with packages("pages"):
            from .pages.explained.page import Setting, require_form, write
        require_form(Path(output))
    with load(
        bundle, thresholds=thresholds, backend=backend, precision=precision, engines=engines, threads=threads, batch=1
    ) as model:
        warn_of_unknown([(str(video), video.label) for video in listed], model.bundle.manifest.class_names)
        found = list(explain_videos(model, listed))
        manifest, runs = model.bundle.manifest, model.runs
    if output is not None:
        chosen = None if thresholds is None else os.fspath(thresholds)
        setting = Setting(manifest.network["network"], os.fspath(bundle), runs, chosen, manifest.static)
        write(found, setting, Path(output))
    return found


def report(
    results: StrPath | Sequence[Mapping[str, Any]],
    output: StrPath | None = None,
    *,
    data: StrPath | None = None,
    bundle: StrPath | None = None,
    thresholds: StrPath | None = None,
) -> RunFigures:
    """Show what became of the videos of a run: exits by class, accuracy by exit, confusion, costs, drift, failures.

    Args:
        results: JSON Lines file of ``classify_list`` or ``dynvid classify -o``, or records as ``on_record`` gets them.
        output: the page (.html) to write, with pictures of the first, the last and the wrong ones; None: nothing.
        data: LIST with labels; where it has one of a video, it goes before that in the results.
        bundle: the folder, to check labels and results against; needed only with ``thresholds``, where nothing beside
            the results says which it was.
        thresholds: T.json that the videos left by, to compare their exits with those at calibration.

    Returns:
        The figures; ``to_json`` has them under the names of ``dynvid report --json``.

    Raises:
        ResultsError: If the results cannot be read.
        ListError: If the list cannot be used.
        ThresholdsError, StaleThresholdsError: If the thresholds are not the bundle's, or do not say what is expected, or
            what lies beside the results says that they left by others.
        UsageError: If the output has another ending, the results are neither a path nor records, or it is not known
            whose thresholds they are.
        StaleResultsError: If what lies beside the results was changed, or names another bundle than the one given, or
            an answer is none of its classes.
        ResourceError: If the page cannot be written.
    """
    from .calibration.drift import compare, tally_of_records
    from .grid.bundle import Bundle
    from .pages.run.figures import RunFigures
    from .pages.run.lines import read_lines, require_classes
    from .pages.run.listed_labels import with_labels
    from .runtime.results.lines import latest, numbered_records
    from .runtime.results.run import run_beside

    if output is not None:
        with packages("pages"):
            from .pages.run.page import require_page, write
        require_page(Path(output))
    path = Path(results) if isinstance(results, str | os.PathLike) else None
    where = "given" if path is None else str(path)
    given = _records(results) if path is None else numbered_records(path)
    records = latest(given, where)
    run = None if path is None else run_beside(path)
    opened = None if bundle is None else Bundle.open(Path(bundle))
    if run is not None and opened is not None:
        run.require_bundle(opened.sha256, where)
    checkpoints = None
    if opened is not None:
        checkpoints = len(opened.manifest.route_cells)
    elif run is not None and run.thresholds is not None:
        checkpoints = len(run.thresholds)
    lines = read_lines(records, where, checkpoints)
    if opened is not None:
        classes = set(map(opened.manifest.label, range(opened.manifest.classes)))
        require_classes(lines, classes, where, str(bundle))
    if data is not None:
        lines = with_labels(lines, Path(data), None if opened is None else opened.manifest.class_names)
    found, without = None, "No thresholds were given to compare with (--thresholds T.json)."
    if thresholds is not None:
        expected = _expected(Path(thresholds), opened, run, where)
        checkpoints = len(expected.thresholds)
        assert expected.expected is not None
        found = compare(expected.expected, tally_of_records(records, where, checkpoints))
    figures = RunFigures(
        lines,
        checkpoints or max((line.checkpoint or 1 for line in lines), default=1),
        found,
        None if run is None else run.shard_videos,
        run is None or run.shard_videos is not None,
        (1, 1) if run is None else run.shard,
    )
    if output is not None:
        ran = "" if run is None else f" · {run.backend}, {run.precision}, bundle {run.bundle_sha256[:8]}…"
        write(figures, f"{path or 'as they were classified'}{ran}", without, Path(output))
    return figures


def _records(results: object) -> list[tuple[int, Mapping[str, Any]]]:
    """Return records that a caller gave, with their numbers."""
    records = list[Mapping[str, Any]]()
    for record in results if isinstance(results, Iterable) else [results]:
        if not isinstance(record, Mapping):
            raise UsageError(
                f"results {record!r}: expected the path of a file of results, or records, which are mappings"
            )
        records.append(record)
    return list(enumerate(records, 1))


def _expected(path: Path, opened: Bundle | None, run: Run | None, results: str) -> Thresholds:
    """Return thresholds that say how videos left at calibration, checked against the bundle and those of a run."""
    from .grid.thresholds import read_thresholds

    if opened is not None:
        opened.require_exits("report --thresholds")
    if run is not None:
        run.require_exits(str(path), results)
    if opened is not None:
        found = read_thresholds(path, opened.sha256, len(opened.manifest.route_cells))
    elif run is not None and run.thresholds is not None:
        found = read_thresholds(path, run.bundle_sha256, len(run.thresholds))
    else:
        raise UsageError(
            f"thresholds {str(path)!r}: nothing beside the results says which bundle they are of: give the bundle, too"
        )
    if run is not None:
        run.require_thresholds(found, str(path), results)
    if found.expected is None:
        raise ThresholdsError(
            f"thresholds {str(path)!r} do not say how videos left at calibration: choose them with 'dynvid calibrate'"
        )
    return found


def classify_on_ray(
    bundle: StrPath,
    videos: StrPath | Sequence[Path | ListedVideo],
    output: StrPath,
    *,
    address: str = "local",
    actors: int | None = None,
    gpus_per_actor: float = 0.0,
    max_failures: float = 0.05,
    trace: bool = False,
    **options: Any,
) -> Summary:
    """Classify the videos of a LIST on a Ray cluster and write parquet files of results.

    Each actor opens the bundle once. The same call goes on where an earlier one stopped or was killed. A video that
    kills its actor gets the status ``damaged`` after three tries alone. ``dynvid.merge`` joins the files.

    Args:
        bundle: a folder that every machine reaches under the same path, as are thresholds, engines and videos.
        videos: as for ``Model.classify_list``.
        output: a folder that every machine reaches.
        address: of the cluster; ``auto``: the one of this machine; ``local``: one is started here for this call.
        actors: how many; None: one per CPU of the cluster, or as many as its GPUs allow.
        gpus_per_actor: share of a GPU that each takes, such as 0.5.
        max_failures: the share of all videos that may fail; 20 always may.
        trace: rows then have ``logits``.
        options: as for ``load``; ``threads`` is 1 unless given.

    Returns:
        The counts over all rows written so far.

    Raises:
        ListError: If the list cannot be used.
        StaleResultsError: If ``output`` holds something else.
        UsageError: If the cluster has too few CPUs or GPUs, or another process writes there.
        MissingPackageError: If Ray is not installed.
        BackendError: If the cluster cannot be reached, or gives up.
        DynvidError: As ``load``, of the machine that opens the bundle.
    """
    from .runtime.video.listing import VideoList, open_list
    from .serving.ray_job import classify_on_ray as run_on_ray

    if isinstance(videos, VideoList):
        rows = videos
    else:
        rows = open_list(videos) if isinstance(videos, str | os.PathLike) else VideoList.of(videos)
    return run_on_ray(
        Path(bundle), rows, Path(output), address=address, actors=actors, gpus_per_actor=gpus_per_actor,
        max_failures=max_failures, trace=trace, options={"threads": 1, **options},
    )  # fmt: skip


def merge(parts: Sequence[StrPath], output: StrPath) -> Merged:
    """Join results into one file: the shards of a run, or what ``classify --ray`` wrote; return the counts.

    A video that has several lines is written once. Lines keep the order of the parts. If all parts say which run they
    belong to, the file goes on with ``classify_list`` as if one process had written it, and missing videos are counted.

    Args:
        parts: files of results, JSON Lines or parquet, or folders of them.
        output: the file, JSON Lines or, by its suffix, parquet; only results are replaced.

    Raises:
        ResultsError: If a part cannot be read or is empty, or two lines of a video differ in anything but times.
        StaleResultsError: If the parts are of different runs, or have more videos than their run.
        UsageError: If the output is one of the parts, or something else than results, or has another kind of name.
        ResourceError: If the output cannot be written.
    """
    from .runtime.results.merge import merge as run_merge

    if not isinstance(parts, Sequence) or isinstance(parts, str) or not parts:
        raise UsageError(f"parts {parts!r}: expected a list of files or folders of results")
    return run_merge([Path(part) for part in parts], Path(output))


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
        training_checkpoint: for the peers torch, torch-compile and nncf.
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
        peers: openvino, openvino-bf16, torch, torch-compile: also measure the static network there; nncf: the
            static network without shift, quantised by NNCF.
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
    opened, folder = Bundle.open(Path(bundle)), engines_folder(Path(bundle)) if engines is None else Path(engines)
    manifest, into = opened.manifest, Path(output)
    opened.require_exits("bench", "'dynvid time' measures it")
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


def serve(
    bundle: StrPath,
    *,
    thresholds: StrPath | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    grpc_port: int = 8081,
    name: str = "dynvid",
    backend: str = "auto",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    threads: int | None = None,
    mode: str = "deadline",
    batch: int | None = None,
    streams: int = 1,
    decoders: int = 1,
    decode_timeout_s: float = 30.0,
    max_in_flight_mb: float | None = None,
    max_waiting: int = 32,
    timeout_s: float = 60.0,
    max_body_mb: float = 64.0,
    silent_after_s: float = 10.0,
    stuck_after_s: float = 60.0,
    drain_s: float = 30.0,
    report: Callable[[str], None] = LOG.info,
) -> None:
    """Serve a bundle over HTTP and gRPC until SIGTERM or SIGINT; SIGHUP exchanges it. For the main thread only.

    Args:
        bundle: the folder.
        thresholds: a T.json; None: every video runs to the end.
        host: address to listen on.
        port: of HTTP.
        grpc_port: of gRPC.
        name: of the model in the protocol.
        backend: as for ``load``.
        precision: as for ``load``.
        engines: as for ``load``.
        threads: as for ``load``.
        mode: as for ``load``; only ``deadline`` heeds the timeouts of requests within the model.
        batch: as for ``load``.
        streams: as for ``load``.
        decoders: as for ``load``.
        decode_timeout_s: as for ``load``.
        max_in_flight_mb: as for ``load``.
        max_waiting: how many requests may wait; beyond them, requests are refused.
        timeout_s: how long a request may take that sets no timeout.
        max_body_mb: largest request, in 10^6 bytes.
        silent_after_s: restart the model process if it says nothing for so long.
        stuck_after_s: restart it if it has videos, and answers none for so long.
        drain_s: how long requests that were taken may take after SIGTERM.
        report: called with a line once requests are taken.

    Raises:
        MissingPackageError: If the extra [serve] is not installed.
        DynvidError: As ``load``.
        ResourceError: If a port cannot be used.
    """
    with packages("serve,cpu"):
        from .serving.server.http_guard import Limits
        from .serving.server.run import Options
        from .serving.server.run import serve as run_server

    model = {
        "bundle": os.path.abspath(bundle),
        "thresholds": None if thresholds is None else os.path.abspath(thresholds),
        "backend": backend,
        "precision": precision,
        "engines": engines if engines in (None, "none") else os.path.abspath(engines),
        "threads": threads,
        "mode": mode,
        "batch": batch,
        "streams": streams,
        "decoders": decoders,
        "decode_timeout_s": decode_timeout_s,
        "max_in_flight_mb": max_in_flight_mb,
    }
    options = Options(
        host, port, grpc_port, name, max_waiting, timeout_s, silent_after_s, stuck_after_s, drain_s, Limits(max_body_mb)
    )
    run_server(model, options, report)


def export_triton(
    bundle: StrPath,
    repository: StrPath,
    *,
    name: str = "dynvid",
    thresholds: StrPath | None = None,
    backend: str = "auto",
    precision: Precision = "fp32",
    engines: StrPath | None = None,
    threads: int | None = None,
    batch: int = 8,
    queue_delay_ms: float = 2.0,
) -> Path:
    """Write a model repository for Triton's Python backend; return the model's folder in it.

    Bundle, thresholds and engines are copied into it. An earlier export of this name is replaced.

    Args:
        bundle: the folder.
        repository: the folder of models to write to.
        name: of the model.
        thresholds: a T.json; None: every video runs to the end.
        backend: as for ``load``.
        precision: as for ``load``.
        threads: as for ``load``.
        engines: folder of the engines; None: ``BUNDLE.engines``, if it is there.
        batch: most videos in one call.
        queue_delay_ms: how long Triton waits for more requests.

    Raises:
        DynvidError: As ``load``, for a bundle or thresholds that cannot be used.
        UsageError: If the name is not one, or something else is there.
        ResourceError: If the repository cannot be written.
    """
    from .serving.triton.repository import write_model

    return write_model(
        Path(bundle), Path(repository), name, None if thresholds is None else Path(thresholds), backend, precision,
        None if engines is None else Path(engines), threads, batch, queue_delay_ms,
    )  # fmt: skip


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
    from .exporter.engines.makers import preparation
    from .exporter.graphs.fuse import fuse
    from .exporter.graphs.rewrites import rewrite
    from .exporter.graphs.uint8_activations import uint8_activations
    from .exporter.proof.segment_equivalence import prove_segments

    plain, graph = (partial(fuse, bundle, precision=name) for name in ("fp32", precision))
    if backend not in ON_CPU:
        return Loads(graph=plain, unshifted=_unshifted(bundle))
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
        lambda subgraph: rewrite(bundle.read(subgraph.variant(precision)), (uint8_activations,)),
        lambda segment: prepare(graph(segment)),
        plain,
        _unshifted(bundle),
    )


def _unshifted(bundle: Bundle) -> Callable[[Path], bytes]:
    """Return what exports a bundle's static network without shift, from its training checkpoint."""

    def export_it(training_checkpoint: Path) -> bytes:
        from .exporter.split.unshifted import unshifted
        from .models.bundled_network import network_of

        return unshifted(network_of(bundle.manifest, training_checkpoint))

    return export_it


def _scores(
    bundle: Bundle,
    data: Path,
    keep: Path | None,
    backend: str,
    precision: Precision,
    threads: int | None,
) -> Scores:
    """Return the scores of a bundle, run as ``load`` runs it."""
    from .calibration.scores.scoring import score_videos
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
